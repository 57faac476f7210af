//! Arrays of Linux md with a partial parity log: the log is replayed, then taken away. mdof closes
//! the write hole by a log of its own ([`crate::raid::SharedLog`]).
//!
//! In this order, so that a power cut at any point begins anew: parity, durably, of all rows that a
//! log tells of; then, member by member, the superblock without the log. Nothing is served before
//! the last of them; where some have their log still, it is replayed again, which changes nothing.

use super::arrays::Permit;
use super::takeover::Given;
use super::{Target, TargetError};
use crate::md::{Assembly, Features, MAX_SECTOR, SECTOR_BYTES, Superblock};
use crate::raid::ppl_replay::{PplMembers, PplReplay, has_ppl, is_logged, replay_ppl, seated};

/// Reads and writes of members whose blocks may be larger than a sector.
struct Members<'a> {
    target: &'a mut Target,
    names: &'a [String],
}

impl PplMembers for Members<'_> {
    fn read(&mut self, candidate: usize, sector: u64, sectors: u64) -> Result<Vec<u8>, String> {
        let length = usize::try_from(sectors * SECTOR_BYTES).map_err(|it| it.to_string())?;
        let name = &self.names[candidate];
        self.target.read_sectors(name, sector, length).map_err(|error| error.to_string())
    }

    fn write(&mut self, candidate: usize, sector: u64, bytes: &[u8]) -> Result<(), String> {
        let name = &self.names[candidate];
        self.target.write_sectors(name, sector, bytes).map_err(|error| error.to_string())
    }
}

impl Target {
    /// Replays and removes the partial parity logs of an array that may start as it is. Returns
    /// whether it had any.
    pub(super) fn replay_ppl(
        &mut self,
        name: &str,
        given: &Given,
        assembly: &Assembly,
        permit: &Permit,
    ) -> Result<bool, TargetError> {
        let may_start = assembly.expected_slots().iter().all(|&slot| permit.allows(slot));
        if !has_ppl(assembly, &given.candidates) || !may_start {
            return Ok(false);
        }
        let refused = |text: String| TargetError::Invalid(format!("array {name}: {text}"));
        let own = |candidate: usize| &given.candidates[candidate].superblock;
        let is_dirty = seated(assembly).any(|(_, candidate)| !own(candidate).is_clean());
        let mut replay = PplReplay::default();
        if is_dirty {
            let mut members = Members { target: self, names: &given.names };
            replay = replay_ppl(assembly, &given.candidates, &mut members).map_err(|error| {
                refused(format!("its partial parity log was not replayed: {error}"))
            })?;
            check_complete(name, given, assembly, permit, &replay)?;
        }
        let is_right = is_parity_right(given, assembly, &replay);
        for (_, candidate) in seated(assembly) {
            if is_logged(&given.candidates[candidate]) {
                let superblock = without_log(own(candidate), is_right);
                self.write_superblock(&given.names[candidate], &superblock)?;
            }
        }
        tell(name, is_dirty, is_right, &replay);
        Ok(true)
    }

    /// Writes whole sectors to a member whose blocks may be larger, durably.
    fn write_sectors(&mut self, name: &str, sector: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let block = u64::from(self.bdev(name)?.geometry.block_size_bytes);
        let offset = sector * SECTOR_BYTES;
        let start = offset / block * block;
        let end = (offset + bytes.len() as u64).next_multiple_of(block);
        let mut whole = bytes.to_vec();
        if (start, end) != (offset, offset + bytes.len() as u64) {
            let length = usize::try_from(end - start).expect("little more than was given");
            whole = self.read_bytes(name, start, length)?;
            let at = usize::try_from(offset - start).expect("less than a block");
            whole[at..at + bytes.len()].copy_from_slice(bytes);
        }
        self.write_bytes(name, start, &whole)
    }
}

/// A log that can't be believed is no harm while all members are there: all parity is made anew.
fn check_complete(
    name: &str,
    given: &Given,
    assembly: &Assembly,
    permit: &Permit,
    replay: &PplReplay,
) -> Result<(), TargetError> {
    let Some((slot, why)) = replay.void.first() else { return Ok(()) };
    let at = seated(assembly).find(|(at, _)| at == slot);
    let member = at.map_or("?", |(_, candidate)| &given.names[candidate]);
    if assembly.is_degraded() && !permit.force {
        return Err(TargetError::Lacking(format!(
            "array {name}: a member is missing, the array was not stopped cleanly, and the partial \
             parity log of bdev {member} does not tell what was being written: {why}. What the \
             missing member held in such rows can't be recovered. Bring the member back; or start \
             with force: reads of what is lost fail then, and a rebuild takes what parity says"
        )));
    }
    tracing::warn!(
        "array {name}: the partial parity log of bdev {member} is not used: {why}; parity of the \
         whole array is in doubt"
    );
    Ok(())
}

/// Whether the array needs no resync, by the kernel's rule: there were entries, and all counted. A
/// degraded array has nothing but its parity; with all logs read it is right. Not so if a member
/// that has lost its log already says otherwise.
fn is_parity_right(given: &Given, assembly: &Assembly, replay: &PplReplay) -> bool {
    let is_doubted = seated(assembly).any(|(_, candidate)| {
        let candidate = &given.candidates[candidate];
        !is_logged(candidate) && !candidate.superblock.is_clean()
    });
    let is_told = assembly.is_degraded() || replay.entries > 0 && replay.torn == 0;
    replay.void.is_empty() && !is_doubted && is_told
}

fn without_log(own: &Superblock, is_right: bool) -> Superblock {
    let mut superblock = own.clone();
    superblock.features.remove(Features::PPL | Features::MULTIPLE_PPLS);
    superblock.bitmap_offset_sectors = 0;
    // Any other value is how far a resync had come.
    if is_right && superblock.resync_offset_sectors == 0 {
        superblock.resync_offset_sectors = MAX_SECTOR;
    }
    superblock
}

fn tell(name: &str, is_dirty: bool, is_right: bool, replay: &PplReplay) {
    let then = match (is_dirty, is_right) {
        (false, _) => "it was stopped cleanly",
        (true, true) => "parity fits the data",
        (true, false) => "all parity is made anew",
    };
    tracing::warn!(
        "array {name}: the partial parity log of Linux md was replayed and taken away: {} entries, \
         {} torn ones, {} sectors of parity; {then}. Linux can start the array as before, without \
         that log",
        replay.entries,
        replay.torn,
        replay.parity_sectors
    );
    let sectors: u64 = replay.lost.iter().map(|range| range.end - range.start).sum();
    if let Some(first) = replay.lost.first() {
        tracing::error!(
            "array {name}: {sectors} sectors of the missing member were being written when power \
             failed, the first of them at sector {} of the array: they may hold neither the old \
             nor the new data, which no partial parity log can help. Check the file systems",
            first.start
        );
    }
}
