//! Parity of a row on buffers: the kernels with md's order of the data.

use super::super::geometry::Row;
use super::super::message::SlotMask;
use super::super::{MemberSlot, bit, slots};
use crate::limits::{IO_SIZE_BYTES_MAX, MEMBERS_MAX};
use crate::parity::{Kernels, Strips, Survivors};
use crate::reactor::buf::IoBuf;

/// Stands for members that DDF layouts count in Q though they hold no data.
static ZEROES: [u8; IO_SIZE_BYTES_MAX] = [0; IO_SIZE_BYTES_MAX];

/// Buffers of a row, by slot.
pub(in crate::raid) type Bufs = Box<[Option<IoBuf>]>;

/// A row and what computes on it.
#[derive(Debug, Clone, Copy)]
pub(in crate::raid) struct Computer {
    pub(in crate::raid) kernels: Kernels,
    pub(in crate::raid) row: Row,
}

/// What is changed of the parity: buffers taken out of a row's.
struct Parity {
    p: Option<IoBuf>,
    q: Option<IoBuf>,
}

impl Computer {
    /// Where the data strip of a slot stands among the kernels' strips.
    fn position(&self, slot: MemberSlot) -> usize {
        let super::super::geometry::Part::Data { index } = self.row.part(slot) else {
            unreachable!("slot {slot} holds no data of the row")
        };
        usize::from(if self.row.q().is_some() { self.row.power(index) } else { index })
    }

    /// The row's data in the kernels' order, `None` where `content` has none.
    fn arrange<'a>(
        &self,
        len: usize,
        content: impl Fn(MemberSlot) -> Option<&'a [u8]>,
    ) -> Survivors<'a> {
        let mut strips: [Option<&[u8]>; MEMBERS_MAX] = [Some(&ZEROES[..len]); MEMBERS_MAX];
        let mut count = 0;
        for slot in slots(self.row.data_mask()) {
            let position = self.position(slot);
            strips[position] = content(slot);
            count = count.max(position + 1);
        }
        strips[..count].iter().copied().collect()
    }

    fn take(&self, bufs: &mut Bufs, parity: SlotMask) -> Parity {
        let mut take = |slot: MemberSlot| {
            (parity & bit(slot) != 0).then(|| bufs[usize::from(slot)].take().expect("a buffer"))
        };
        Parity { p: take(self.row.p()), q: self.row.q().and_then(take) }
    }

    fn put_back(&self, bufs: &mut Bufs, parity: Parity) {
        if let Some(p) = parity.p {
            bufs[usize::from(self.row.p())] = Some(p);
        }
        if let (Some(slot), Some(q)) = (self.row.q(), parity.q) {
            bufs[usize::from(slot)] = Some(q);
        }
    }

    /// Makes the parity of `parity` from all data of the row: `host` knows of some where they are,
    /// the rest is in `bufs`.
    pub(in crate::raid) fn generate<'a>(
        &self,
        bufs: &mut Bufs,
        parity: SlotMask,
        host: impl Fn(MemberSlot) -> Option<&'a [u8]>,
    ) {
        let Parity { mut p, mut q } = self.take(bufs, parity);
        let len = p.as_ref().or(q.as_ref()).map_or(0, IoBuf::len);
        {
            let inner: &Bufs = bufs;
            let content = |slot: MemberSlot| match host(slot) {
                Some(bytes) => Some(bytes),
                None => inner[usize::from(slot)].as_ref().map(IoBuf::as_slice),
            };
            let all = "all data are there";
            let mut strips: [&[u8]; MEMBERS_MAX] = [&[]; MEMBERS_MAX];
            let mut count = 0;
            // P is the same in any order, and does not count members without data.
            if q.is_none() {
                for slot in slots(self.row.data_mask()) {
                    strips[count] = content(slot).expect(all);
                    count += 1;
                }
            } else {
                let arranged = self.arrange(len, content);
                count = arranged.len();
                for (to, from) in strips.iter_mut().zip(arranged.iter()) {
                    *to = from.expect(all);
                }
            }
            let strips = &strips[..count];
            match (&mut p, &mut q) {
                (Some(p), Some(q)) => {
                    self.kernels.generate_pq(p.as_mut_slice(), q.as_mut_slice(), strips);
                }
                (Some(p), None) => self.kernels.xor(p.as_mut_slice(), strips),
                (None, Some(q)) => self.kernels.generate_q(q.as_mut_slice(), strips),
                (None, None) => {}
            }
        }
        self.put_back(bufs, Parity { p, q });
    }

    /// Changes the old parity in `bufs` by what the data of `slot` change: the XOR of what the
    /// buffer of `slot` holds and of `other`, if it is given.
    pub(in crate::raid) fn update(
        &self,
        bufs: &mut Bufs,
        parity: SlotMask,
        slot: MemberSlot,
        other: Option<&[u8]>,
    ) {
        let Parity { mut p, mut q } = self.take(bufs, parity);
        let own = bufs[usize::from(slot)].as_ref().expect("the old data were read").as_slice();
        let change: Strips<'_> = std::iter::once(own).chain(other).collect();
        let position = self.position(slot);
        match (&mut p, &mut q) {
            (Some(p), Some(q)) => {
                let (p, q) = (p.as_mut_slice(), q.as_mut_slice());
                self.kernels.update_pq(p, q, position, &change);
            }
            (Some(p), None) => self.kernels.xor_into(p.as_mut_slice(), &change),
            (None, Some(q)) => self.kernels.update_q(q.as_mut_slice(), position, &change),
            (None, None) => {}
        }
        self.put_back(bufs, Parity { p, q });
    }

    /// Fills the buffers of the data that were not read from those in `reads`, which has as much
    /// parity as is needed.
    pub(in crate::raid) fn recover(&self, bufs: &mut Bufs, reads: SlotMask) {
        let lost = self.row.data_mask() & !reads;
        // In the kernels' order.
        let mut order = [0; 2];
        let mut count = 0;
        for slot in slots(lost) {
            order[count] = slot;
            count += 1;
        }
        if count == 2 && self.position(order[0]) > self.position(order[1]) {
            order.swap(0, 1);
        }
        let mut out = [None, None];
        for (buf, slot) in out.iter_mut().zip(&order[..count]) {
            *buf = bufs[usize::from(*slot)].take();
        }
        let read = |slot: MemberSlot| {
            let buf = bufs[usize::from(slot)].as_ref().filter(|_| reads & bit(slot) != 0);
            buf.map(IoBuf::as_slice)
        };
        let len = out[0].as_ref().map_or(0, IoBuf::len);
        let strips = self.arrange(len, read);
        let (p, q) = (read(self.row.p()), self.row.q().and_then(read));
        let done = match &mut out {
            [Some(x), Some(y)] => {
                let mut lost = [x.as_mut_slice(), y.as_mut_slice()];
                self.kernels.recover(&strips, p, q, &mut lost)
            }
            [Some(x), None] => self.kernels.recover(&strips, p, q, &mut [x.as_mut_slice()]),
            _ => Ok(()),
        };
        done.expect("the plan reads enough");
        for (buf, slot) in out.into_iter().zip(&order[..count]) {
            bufs[usize::from(*slot)] = buf;
        }
    }
}
