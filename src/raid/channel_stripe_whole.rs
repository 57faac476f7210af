//! Levels with parity: the short way of a request that is a whole row.
//!
//! A row that one request brings as a whole, on members that are all there, leaves nothing to be
//! decided: no column is read, parity follows from the request's own buffer whatever was there
//! before and whether or not it fitted, and each member gets one write. So it needs no survey of
//! columns and no plan, which would cost it a fifth of its time. Everything around it is as ever:
//! the chunk's gate before, the lock of the slice, and from the members' answers on how a row ends.
//!
//! All rows of a turn are prepared first and get their parity one after the other then. A row's
//! data drive all else out of the nearer caches, code as well: what is done between two rows
//! should be little.
//!
//! Not so short is the way of what is to be logged first, of a row of several requests or of
//! zeroes, and of any row while a member is away or is being replaced.

use super::channel::Channel;
use super::channel_stripe_io::offset_bytes;
use super::message::Out;
use super::stripe::compute::Computer;
use super::stripe::plan::{Method, Plan};
use super::stripe::{Kind, RowAt, STRIPE_TAG, StripeState, WholeRow};
use super::{MemberPlace, MemberSlot};
use crate::bdev::{BdevId, BdevIo, Completion, IoOp, Station, Tag};
use crate::reactor::buf::IoBuf;

impl Channel {
    /// The request of a batch that is the whole row, if that may go the short way.
    fn whole_row(&self, index: u32) -> Option<u32> {
        let stripe = &self.stripes.as_ref()?.stripes[index as usize];
        let written = if mutant!(WholeRowForgetsTwin) { !self.twin } else { u64::MAX };
        let all_there = self.writable & written == self.all & !self.twin;
        let is_logged = self.shared.log.is_some() && !mutant!(WholeRowNotLogged);
        if stripe.kind != Kind::Write || !all_there || is_logged {
            return None;
        }
        let op = stripe.batch.sole()?;
        let blocks = self.shared.parity()?.full_stripe_blocks();
        (self.ops[op as usize].range.blocks == blocks).then_some(op)
    }

    /// Begins a batch the short way. `false`: that can't be, and nothing was done.
    pub(super) fn begin_whole_row(&mut self, index: u32, out: &mut Out<'_>) -> bool {
        let Some(op) = self.whole_row(index) else { return false };
        let io = self.ops[op as usize].io();
        let (Some(host), Some(parity)) = (&io.buf, self.shared.parity()) else { return false };
        let stripes = self.stripes.as_mut().expect("a level with parity, on a core");
        let stripe = &mut stripes.stripes[index as usize];
        let at = RowAt::of_row(parity, stripe.slice);
        let (row, hull) = (at.row, at.columns());
        let strip = offset_bytes(hull.blocks, self.shared.block_size_bytes as usize);
        // Without buffers it waits as every other.
        let Some(p) = stripes.pool.get(strip) else { return false };
        let q = row.q().and_then(|_| stripes.pool.get(strip));
        if q.is_some() != row.q().is_some() {
            return false;
        }
        stripes.survey.forget(index);
        stripe.at = Some(at);
        stripe.hull = hull;
        stripe.plan = Plan { method: Method::Reconstruct, reads: 0, parity: row.parity_mask() };
        (stripe.writable, stripe.sent, stripe.failed) = (self.writable, self.writable, 0);
        stripe.pending = u32::from(parity.slots());
        stripe.set_state(StripeState::Writing);
        let (lba, fua, host) = (hull.lba, io.fua, host.clone());
        stripes.whole.rows.push(WholeRow { stripe: index, row, lba, fua, host, p, q });
        if !stripes.whole.are_kept {
            self.write_whole_rows(out);
        }
        true
    }

    /// Makes the parity of the rows that have been begun so, and writes them.
    pub(super) fn write_whole_rows(&mut self, out: &mut Out<'_>) {
        let data_members = self.shared.parity().map_or(0, |parity| parity.data_members());
        let (places, array) = (&self.places[..], self.shared.bdev);
        let blocks = self.shared.slice_blocks();
        let blocks = u32::try_from(blocks).expect("a slice fits a buffer");
        let stripes = self.stripes.as_mut().expect("a level with parity, on a core");
        let kernels = stripes.kernels;
        for mut whole in stripes.whole.rows.drain(..) {
            let WholeRow { row, p, q, host, .. } = &mut whole;
            let (row, strip) = (*row, p.len());
            let q_bytes = q.as_mut().map(IoBuf::as_mut_slice);
            Computer { kernels, row }.generate_whole(host.as_slice(), p.as_mut_slice(), q_bytes);
            let WholeRow { stripe, lba, fua, host, p, q, .. } = whole;
            let mut send = |slot: MemberSlot, buf| {
                let place = places[usize::from(slot)].as_ref().expect("all members take part");
                let io = request(place, (array, stripe, slot), (lba, blocks), fua, buf);
                out.io.submit(place.bdev, io);
            };
            for data in 0..data_members {
                send(row.data_slot(data), host.slice(usize::from(data) * strip, strip));
            }
            send(row.p(), p);
            if let (Some(slot), Some(q)) = (row.q(), q) {
                send(slot, q);
            }
        }
    }
}

/// The write of a strip to its member.
fn request(
    place: &MemberPlace,
    (array, stripe, slot): (BdevId, u32, MemberSlot),
    (column, blocks): (u64, u32),
    fua: bool,
    buf: IoBuf,
) -> BdevIo {
    let (station, object) = (Station::RaidChannel, array.0);
    let tag = Tag { station, part: slot, object, op: STRIPE_TAG | stripe };
    BdevIo {
        op: IoOp::Write,
        fua,
        lba: place.data_lba + column,
        blocks,
        buf: Some(buf),
        completion: Completion::new(tag),
    }
}
