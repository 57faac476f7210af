//! Replays the partial parity logs that Linux md left in a RAID5 it was writing to. Sans-IO: who
//! calls reads and writes.
//!
//! Before md changes a row it notes, on the member that has the row's P, the XOR of the data that
//! stay as they are. Whatever was under way when power failed, P is that and the XOR of what lies
//! now where was written: so what a missing member held that was not being written is recovered
//! (raid5-ppl.c). What cannot be helped, there as here: a missing member's own blocks that were
//! being written together with others of their columns. To do it twice changes nothing.

use std::ops::Range;

use super::geometry::{Geometry, Parity, Shape};
use super::{MemberSlot, slot_from};
use crate::md::{
    Assembly, Candidate, Features, PPL_HEADER_BYTES, PplArray, PplEntry, PplPlace, PplSearch,
    PplSpan, SECTOR_BYTES, Slot, ppl_checksum,
};

/// What a replay has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PplReplay {
    /// Entries whose rows have the right parity now.
    pub entries: u64,
    /// Entries whose partial parity was torn: what they are about had not been begun.
    pub torn: u64,
    /// Sectors of parity that were written.
    pub parity_sectors: u64,
    /// Sectors of the array, of a member that is missing, that may hold neither what was there nor
    /// what was being written.
    pub lost: Vec<Range<u64>>,
    /// Logs that cannot be believed: slot of the member, and why.
    pub void: Vec<(MemberSlot, String)>,
}

/// The members' sectors, by index of the candidate.
pub trait PplMembers {
    /// Reads so many sectors.
    ///
    /// # Errors
    /// For the operator.
    fn read(&mut self, candidate: usize, sector: u64, sectors: u64) -> Result<Vec<u8>, String>;

    /// Writes whole sectors, durably.
    ///
    /// # Errors
    /// For the operator.
    fn write(&mut self, candidate: usize, sector: u64, bytes: &[u8]) -> Result<(), String>;
}

/// Whether one of the candidates that take part has a partial parity log.
#[must_use]
pub fn has_ppl(assembly: &Assembly, candidates: &[Candidate]) -> bool {
    seated(assembly).any(|(_, candidate)| is_logged(&candidates[candidate]))
}

/// Slots with a member, and its candidate.
pub fn seated(assembly: &Assembly) -> impl Iterator<Item = (MemberSlot, usize)> + '_ {
    (0u32..).zip(&assembly.slots).filter_map(|(slot, state)| match *state {
        Slot::InSync { candidate } | Slot::Rebuilding { candidate, .. } => {
            Some((slot_from(slot), candidate))
        }
        Slot::Missing { .. } => None,
    })
}

/// Whether its superblock says that it has a partial parity log.
#[must_use]
pub fn is_logged(candidate: &Candidate) -> bool {
    candidate.superblock.features.intersects(Features::PPL | Features::MULTIPLE_PPLS)
}

/// Makes parity right in every row that a log of the assembled array tells of.
///
/// # Errors
/// A member could not be read or written, or the array is none that has such logs. Parity may have
/// been made right in some rows.
pub fn replay_ppl(
    assembly: &Assembly,
    candidates: &[Candidate],
    members: &mut dyn PplMembers,
) -> Result<PplReplay, String> {
    let own = &assembly.superblock;
    let array = PplArray::new(own).map_err(|error| error.to_string())?;
    let shape = Shape {
        level: own.level.number(),
        layout: own.layout,
        raid_disks: own.raid_disks,
        chunk_sectors: own.chunk_sectors,
        size_sectors: own.size_sectors,
        member_sectors: &[],
        // Sectors are counted here, whatever the members' blocks are.
        block_size_bytes: 512,
    };
    let geometry = Geometry::new(&shape).map_err(|error| error.to_string())?;
    let Geometry::Parity(parity) = &geometry else {
        return Err("its level has no parity".to_owned());
    };
    let mut replay =
        Replay { parity, array, assembly, candidates, members, done: PplReplay::default() };
    for (slot, candidate) in seated(assembly) {
        if is_logged(&candidates[candidate]) {
            replay.log(slot, candidate)?;
        }
    }
    Ok(replay.done)
}

struct Replay<'a> {
    parity: &'a Parity,
    array: PplArray,
    assembly: &'a Assembly,
    candidates: &'a [Candidate],
    members: &'a mut dyn PplMembers,
    done: PplReplay,
}

impl Replay<'_> {
    /// Replays the log of one member.
    fn log(&mut self, slot: MemberSlot, candidate: usize) -> Result<(), String> {
        let place = match PplPlace::of(&self.candidates[candidate].superblock) {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(()),
            Err(error) => return self.is_void(slot, error.to_string()),
        };
        let mut search = PplSearch::new(place, self.array);
        while let Some(sector) = search.next_sector() {
            let sectors = PPL_HEADER_BYTES as u64 / SECTOR_BYTES;
            match self.members.read(candidate, sector, sectors) {
                Ok(bytes) => search.take(&bytes),
                Err(error) => return self.is_void(slot, error),
            }
        }
        let (at, header) = match search.finish() {
            Ok(found) => found,
            Err(error) => return self.is_void(slot, error.to_string()),
        };
        for (entry, offset) in header.entries.iter().zip(header.parity_offsets()) {
            let span = entry.span(&self.array)?;
            let row = self.parity.strip(span.first_sector).row;
            if entry.parity_slot != u32::from(slot) || self.parity.row(row).p() != slot {
                return self.is_void(slot, "it is about rows of another member".to_owned());
            }
            let sectors = u64::from(entry.parity_bytes) / SECTOR_BYTES;
            let partial = match sectors {
                0 => Vec::new(),
                _ => self.members.read(candidate, at + offset, sectors)?,
            };
            if is_torn(entry, &partial) {
                self.done.torn += 1;
                continue;
            }
            self.entry(slot, &span, &partial)?;
            self.done.entries += 1;
        }
        Ok(())
    }

    fn is_void(&mut self, slot: MemberSlot, why: String) -> Result<(), String> {
        self.done.void.push((slot, why));
        Ok(())
    }

    /// Where a sector of a member's data is, if the member has it.
    fn place(&self, slot: MemberSlot, sector: u64) -> Option<(usize, u64)> {
        let candidate = match self.assembly.slots[usize::from(slot)] {
            Slot::InSync { candidate } => candidate,
            Slot::Rebuilding { candidate, recovery_offset_sectors, .. } => {
                (sector < recovery_offset_sectors).then_some(candidate)?
            }
            Slot::Missing { .. } => return None,
        };
        let data = self.candidates[candidate].superblock.data_offset_sectors;
        Some((candidate, data + sector))
    }

    /// Makes parity right where an entry says that a row was written.
    fn entry(&mut self, slot: MemberSlot, span: &PplSpan, partial: &[u8]) -> Result<(), String> {
        let chunk = self.parity.strip_blocks();
        let mut at = 0;
        while at < span.parity_sectors {
            let first = span.first_sector + u64::from(at);
            let written: Vec<u64> = span.written_at(at).collect();
            // As far as all of these are in one strip each, and written.
            let ends = written.iter().map(|&sector| span.behind_sector - sector);
            let left = [u64::from(span.parity_sectors - at), chunk - first % chunk];
            let count = ends.chain(left).min().expect("there are two at least");
            if !written.is_empty() {
                let bytes =
                    |sectors: u64| usize::try_from(sectors * SECTOR_BYTES).expect("a chunk fits");
                let from = bytes(u64::from(at)).min(partial.len());
                let to = bytes(u64::from(at) + count).min(partial.len());
                let mut sum = partial[from..to].to_vec();
                sum.resize(bytes(count), 0);
                self.columns(slot, first, &written, sum)?;
            }
            at += u32::try_from(count).expect("at most what an entry is about");
        }
        Ok(())
    }

    /// Writes the parity of columns: `sum`, which is that of the data that stayed, and the data
    /// that were written, from each of the sectors `written` on.
    fn columns(
        &mut self,
        slot: MemberSlot,
        first: u64,
        written: &[u64],
        mut sum: Vec<u8>,
    ) -> Result<(), String> {
        let count = sum.len() as u64 / SECTOR_BYTES;
        for &sector in written {
            let strip = self.parity.strip(sector);
            let Some((candidate, at)) = self.place(strip.slot, strip.member_lba) else {
                // Alone in its columns it is what parity says, old or new.
                if written.len() > 1 {
                    self.done.lost.push(sector..sector + count);
                }
                return Ok(());
            };
            let bytes = self.members.read(candidate, at, count)?;
            sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte);
        }
        let column = self.parity.strip(first).member_lba;
        if let Some((candidate, at)) = self.place(slot, column) {
            self.members.write(candidate, at, &sum)?;
            self.done.parity_sectors += count;
        }
        Ok(())
    }
}

fn is_torn(entry: &PplEntry, partial: &[u8]) -> bool {
    !partial.is_empty() && ppl_checksum(partial) != entry.checksum
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
