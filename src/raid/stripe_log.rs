//! The stripe log of an array with parity: what closes the write hole.
//!
//! A power cut in the middle of a row's write leaves some of its columns new and others old, so
//! parity fits neither; whatever a missing member held there, written just then or years ago,
//! would be recovered wrong. The rule that prevents it:
//!
//! 1. Before the first request of a row's write goes out, all that is to be written, data and
//!    parity, is durable as records ([`crate::md::stripe_log`]) on *w - d + 1* of the *w* members
//!    that may come back after a crash, where *d* are needed to read: whoever is lost, one that is
//!    there has them. Full stripes are no exception: torn ones would spoil all their columns.
//! 2. *w* are all that are not durably absent. So no row is written, or logged, while a member is
//!    out and the others' superblocks do not say so yet: it may come back as equal.
//! 3. In place everything is written durably (FUA), and a row's number counts as done only then. So
//!    what is live in the log is all that may be torn or lost in a volatile cache.
//! 4. The home core of a row gives out numbers with its lock: a row's records are in one ring, in
//!    the order of its writes ([`super::stripe::ring`]).
//! 5. At the start, before anything is served and before the superblocks are touched, live records
//!    are first made as many as rule 1 asks for (of *w* are also those that are not here now and
//!    may be next time, as no superblock says that they are out), then written in place in order. A
//!    crash on the way begins anew. Only then a new run begins, of which the old records are none,
//!    and only when it is durable that who is not there now is out: in its columns the records were
//!    not written.
//! 6. Chunks that were discarded get new parity by zeroing, which no record tells of: before the
//!    first write every ring makes sure that no record of what was there can be live.
//! 7. A member that joins makes *w* larger than it was for earlier records, of which a newer one
//!    might then be lost and an older one of the same row be found: before it is in sync every ring
//!    writes a floor above all of them to as many members as rule 1 asks for now.
//! 8. Where parity comes in doubt for another reason (a write failed on too many members), the
//!    heads of the log say so durably before that row's records count as done.
//!
//! The log costs, for every batch of a row, *w - d + 1* writes of its data and parity with a page
//! of header: `perf/PROMISES.md` has the figures. It is off by option, on levels without parity,
//! and where an array that mdadm made leaves no room before its data.
//!
//! # What could be left out
//!
//! md's partial parity log has the XOR of the data that do *not* change, and for a full stripe
//! nothing. That is not enough here. Say a full stripe is torn and the member with strip m is lost.
//! Each block of the others is old or new, so their XOR with old or with new parity is neither the
//! old nor the new strip m but garbage; md puts up with it, as nobody was promised these data, but
//! a drive never answers with what nobody has written, and a host that reads an LBA after a write
//! that was cut off may count on old or new. Nor do both parities and a checksum of every block
//! help: they tell which blocks are new, but the XOR of the old ones and that of the new ones are
//! each wanted as a whole, and each survivor has only one of its two contents. To change one strip
//! after the other, with a parity for each step, would be enough, and as slow as it sounds. So the
//! new content of a torn full stripe must be in the log, and can be there in fewer bytes:
//!
//! - *Parity need not be in it*: all data are, so it can be made of them. It is only of rows
//!   written in part that parity has to be logged, as what is lost may be a strip that nobody
//!   wrote. That would save a strip of `data + parity` for each copy.
//! - *One copy spread as the row itself* instead of *w - d + 1* whole ones: each member logs its
//!   own strip, data or parity, and of *w* records *d* make the others again. That is the least
//!   possible, as what is lost with *w - d* members must follow from the rest. A full stripe would
//!   be written twice instead of three times (RAID6: four). Records would then count by sets, and
//!   a replay recover before it writes; a batch that touches few strips stays better off with
//!   copies.
//!
//! Neither is built: both change what a record is, on disk and for the replay.

use super::geometry::Parity;
use super::message::SlotMask;
use super::{ArrayConfig, Geometry, MemberPlace, slots};
use crate::bitmap::Vouching;
use crate::limits::IO_SIZE_BYTES_MAX;
use crate::md::stripe_log::{LiveRecord, LogHead, LogLayout, RecordIdentity};

/// The log of an array: what was found of it, and whether it is kept from now on.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// From now on: the run's number and the division; `None`: it is not kept.
    pub kept: Option<LogPlan>,
    /// Why it is not kept, for the operator.
    pub why_off: String,
    /// The log of the last run counts: parity is right but where `replay` is about.
    pub trusted: bool,
    /// The head of the log of the last run, and what is to be written in place first.
    pub replay: Option<(LogHead, Vec<LiveRecord>)>,
}

/// A log to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlan {
    /// Random: no two runs have the same.
    pub run: [u8; 16],
    /// How the room is divided.
    pub layout: LogLayout,
}

/// What owner and channels know of the log.
#[derive(Debug)]
pub struct SharedLog {
    /// How it is divided.
    pub layout: LogLayout,
    /// What its records begin with.
    pub identity: RecordIdentity,
    /// Records of one batch of a row at most.
    pub parts_max: u8,
    /// The heads on the members may say that parity is right everywhere.
    pub(super) vouching: Vouching,
}

/// Records that a batch should be able to have, so that sequential streams are not cut up.
const PARTS_WANTED: u64 = 8;

impl SharedLog {
    pub(super) fn new(config: &ArrayConfig, geometry: &Geometry) -> Result<Option<Self>, String> {
        let (Some(plan), Geometry::Parity(parity)) = (config.log.kept, geometry) else {
            return Ok(None);
        };
        let block_bytes = config.block_size_bytes;
        let least = plan.layout.records_for(write_bytes_max(parity, block_bytes), FRAGMENTS_FEW);
        let max = u64::from(plan.layout.records_max());
        let parts_max = least.max(PARTS_WANTED).min(max);
        if least > max {
            return Err(format!(
                "array {}: the stripe log has {} slots of {} bytes for each core, too few for one \
                 write; turn it off",
                config.name, plan.layout.slots, plan.layout.slot_bytes
            ));
        }
        let superblock = config.members.iter().flatten().map(|member| &member.superblock).next();
        let superblock = superblock.expect("an array has members");
        let identity = RecordIdentity {
            set_uuid: superblock.set_uuid,
            run: plan.run,
            events: superblock.events,
            block_bytes,
        };
        Ok(Some(Self {
            layout: plan.layout,
            identity,
            parts_max: u8::try_from(parts_max).unwrap_or(u8::MAX),
            vouching: Vouching::default(),
        }))
    }

    /// The same log, for an array that has grown: it lies before the data, where nothing moves.
    pub(super) fn again(&self) -> Self {
        let vouching = Vouching::default();
        vouching.set(self.vouching.is_on());
        Self { layout: self.layout, identity: self.identity, parts_max: self.parts_max, vouching }
    }

    /// Where a record lies on a member.
    pub(super) fn lba(&self, place: &MemberPlace, ring: u16, sequence: u64) -> u64 {
        record_lba(&self.layout, self.identity.block_bytes, place, ring, sequence)
    }
}

/// Where a record of a log that is divided so lies on a member.
pub(super) fn record_lba(
    layout: &LogLayout,
    block_bytes: u32,
    place: &MemberPlace,
    ring: u16,
    sequence: u64,
) -> u64 {
    let slot = sequence % u64::from(layout.slots);
    let slot = u32::try_from(slot).expect("below the number of slots");
    place.data_lba - layout.slot_before_data_bytes(ring, slot) / u64::from(block_bytes)
}

/// Fragments of one request: far below what a record holds.
const FRAGMENTS_FEW: u64 = 2 * crate::limits::MEMBERS_MAX as u64;

/// Bytes of data and parity that one request to a row makes at most.
pub(super) fn write_bytes_max(parity: &Parity, block_bytes: u32) -> u64 {
    let block = u64::from(block_bytes);
    let slice = super::layout::slice_blocks(parity, block_bytes) * block;
    let data = (IO_SIZE_BYTES_MAX as u64).min(slice * u64::from(parity.data_members()));
    data + slice * parity_count(parity)
}

/// Parity strips of a row.
pub(super) fn parity_count(parity: &Parity) -> u64 {
    u64::from(parity.slots() - parity.data_members())
}

impl LogPlan {
    /// The log of an array with this geometry on members with so much room before their data,
    /// worked on by so many cores; `None` where the room is too small.
    #[must_use]
    pub fn new(
        geometry: &Geometry,
        block_bytes: u32,
        room: crate::md::stripe_log::LogRoom,
        cores: u16,
        run: [u8; 16],
    ) -> Option<Self> {
        let Geometry::Parity(parity) = geometry else { return None };
        let write_bytes = write_bytes_max(parity, block_bytes);
        let layout = LogLayout::choose(room, cores, write_bytes)?;
        Some(Self { run, layout })
    }
}

/// Of the members that are written, those that a record goes to: as many as may fail, and one;
/// which, goes by turns.
pub(super) fn holders(writable: SlotMask, data_members: u8, turn: u64) -> SlotMask {
    let members = u64::from(writable.count_ones());
    let wanted = (members + 1).saturating_sub(data_members.into());
    let wanted = if mutant!(LogOnOneMember) { 1 } else { wanted };
    let first = turn % members.max(1);
    let chosen = (0..).zip(slots(writable)).filter(|&(index, _)| {
        let place: u64 = (index + members - first) % members;
        place < wanted
    });
    chosen.fold(0, |mask, (_, slot)| mask | super::bit(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_to_one_member_more_than_may_fail() {
        for (members, data) in [(2u32, 1u8), (3, 2), (5, 4), (4, 2), (6, 4)] {
            let all: SlotMask = (1 << members) - 1;
            for writable in 0..=all {
                let left = writable.count_ones();
                let may_fail = left.saturating_sub(data.into());
                for turn in 0..8 {
                    let holders = holders(writable, data, turn);
                    assert_eq!(holders & !writable, 0);
                    if left >= u32::from(data) {
                        assert_eq!(holders.count_ones(), may_fail + 1);
                    }
                }
            }
        }
        // All members in turn.
        let every = (0..5).fold(0, |mask, turn| mask | holders(0b10111, 4, turn));
        assert_eq!(every, 0b10111);
    }
}
