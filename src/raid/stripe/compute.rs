//! Parity of a row on buffers: the kernels with md's order of the data.

use super::super::geometry::Row;
use super::super::message::SlotMask;
use super::super::{MemberSlot, bit, slots};
use crate::limits::{IO_SIZE_BYTES_MAX, MEMBERS_MAX};
use crate::parity::{Kernels, Strips, Survivors};
use crate::reactor::buf::IoBuf;

/// Stands for members that DDF layouts count in Q though they hold no data.
static ZEROES: [u8; IO_SIZE_BYTES_MAX] = [0; IO_SIZE_BYTES_MAX];

/// Members of most arrays: to make a list of [`MEMBERS_MAX`] strips takes longer than the rest of
/// what is done beside the parity.
const STRIPS_FEW: usize = 8;

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

    /// Makes all parity of the row from its data as the array has them, one strip behind the other.
    pub(in crate::raid) fn generate_whole(&self, data: &[u8], p: &mut [u8], q: Option<&mut [u8]>) {
        if self.row.data_mask().count_ones() as usize + 1 < STRIPS_FEW {
            return self.generate_from::<STRIPS_FEW>(data, p, q);
        }
        self.generate_from::<MEMBERS_MAX>(data, p, q);
    }

    /// The same with room for so many strips.
    fn generate_from<const N: usize>(&self, data: &[u8], p: &mut [u8], q: Option<&mut [u8]>) {
        let mut strips: [&[u8]; N] = [&ZEROES[..p.len()]; N];
        let mut count = 0;
        for (index, strip) in (0..).zip(data.chunks_exact(p.len())) {
            let position = if q.is_some() { self.row.power(index) } else { index };
            strips[usize::from(position)] = strip;
            count = count.max(usize::from(position) + 1);
        }
        match q {
            Some(q) => self.kernels.generate_pq(p, q, &strips[..count]),
            None => self.kernels.xor(p, &strips[..count]),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raid::geometry::{Geometry, Part, Shape};
    use crate::reactor::buf::BufPool;

    /// Rows of these members in any layout: P and Q are the same whether the data come in the
    /// buffer of one request or each strip in one of its own.
    #[test]
    fn a_whole_row_has_the_same_parity_either_way() {
        const LEN: usize = 512;
        let pool = BufPool::on_heap([16, 1, 1, 0]);
        let layouts = |level: i32| (0..=20).map(move |layout| (level, layout));
        let mut rows = 0;
        for (level, layout) in layouts(5).chain(layouts(6)) {
            for raid_disks in [4, 5, 8, 11] {
                let shape = Shape {
                    level,
                    layout,
                    raid_disks,
                    chunk_sectors: 8,
                    size_sectors: 8 * 40,
                    member_sectors: &[],
                    block_size_bytes: 512,
                };
                let Ok(Geometry::Parity(parity)) = Geometry::new(&shape) else { continue };
                for number in 0..u64::from(parity.slots()) {
                    let computer = Computer { kernels: Kernels::detect(), row: parity.row(number) };
                    let data: Vec<u8> = (0..LEN * usize::from(parity.data_members()))
                        .map(|at| u8::try_from((at * 7 + at / LEN * 31) % 251).unwrap())
                        .collect();
                    let mut bufs: Bufs =
                        (0..parity.slots()).map(|_| Some(pool.get(LEN).unwrap())).collect();
                    let host = |slot| match computer.row.part(slot) {
                        Part::Data { index } => Some(&data[usize::from(index) * LEN..][..LEN]),
                        Part::P | Part::Q => None,
                    };
                    computer.generate(&mut bufs, computer.row.parity_mask(), host);
                    let (mut p, mut q) = ([1; LEN], [2; LEN]);
                    let q_wanted = computer.row.q().map(|_| &mut q[..]);
                    computer.generate_whole(&data, &mut p, q_wanted);
                    let made = |slot: u8| bufs[usize::from(slot)].as_ref().unwrap().as_slice();
                    assert_eq!(made(computer.row.p()), p, "{shape:?}");
                    assert!(computer.row.q().is_none_or(|slot| made(slot) == q), "{shape:?}");
                    rows += 1;
                }
            }
        }
        assert!(rows > 400, "{rows} rows");
    }
}
