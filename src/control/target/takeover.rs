//! What has to be written before an array of Linux md can run: a lockless bitmap in place of a
//! classic one. Partial parity logs are replayed in [`super::ppl`].

use uuid::Uuid;

use super::arrays::Permit;
use super::{Target, TargetError};
use crate::bitmap::ChunkState;
use crate::control::carried::Carried;
use crate::md::{
    self, AssembleError, Assembly, BadRange, BitmapPlan, BitmapSuperblock, Candidate, Conversion,
    Features, SECTOR_BYTES, SUPERBLOCK_READ_BYTES, Slot, Superblock, parse_bad_blocks,
};

/// What the operator allows at the start of an array that cannot run as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Turn a classic bitmap into a lockless one.
    pub convert_bitmap: bool,
    /// Where no member has a bitmap that can be used: make one, and resync everything.
    pub bitmap_lost_resync: bool,
}

/// The members given, as read.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) names: Vec<String>,
    pub(super) candidates: Vec<Candidate>,
    /// Indexes of those that a growth has left behind, and that have its size now.
    pub(super) taken_up: Vec<usize>,
    /// What their bad-block logs list.
    pub(super) bad_blocks: Vec<Vec<BadRange>>,
}

impl Given {
    fn numbered(&self) -> String {
        let names = self.names.iter().enumerate();
        let numbered: Vec<String> =
            names.map(|(index, name)| format!("{name} (member {index})")).collect();
        numbered.join(", ")
    }

    /// What they make, in the operator's words if they make nothing.
    pub(super) fn assemble(
        &self,
        name: &str,
        takeover: &Takeover,
    ) -> Result<Assembly, TargetError> {
        self.plan(takeover).map_err(|error| self.refusal(name, &error))
    }

    fn plan(&self, takeover: &Takeover) -> Result<Assembly, AssembleError> {
        if takeover.bitmap_lost_resync {
            md::assemble_lost_bitmap(&self.candidates)
        } else {
            md::assemble(&self.candidates)
        }
    }

    fn refusal(&self, name: &str, error: &AssembleError) -> TargetError {
        TargetError::Invalid(format!("array {name} on {}: {error}", self.numbered()))
    }

    /// Which of them are in sync.
    fn in_sync(assembly: &Assembly) -> Vec<usize> {
        let candidate = |slot: &Slot| match slot {
            Slot::InSync { candidate } => Some(*candidate),
            _ => None,
        };
        assembly.slots.iter().filter_map(candidate).collect()
    }
}

impl Target {
    /// Reads those of `members` that carry a superblock.
    pub(super) fn read_members(&mut self, members: &[String]) -> Result<Given, TargetError> {
        let mut given = Given::default();
        for member in members {
            let Carried::Member(candidate) = self.read_superblock(member)? else { continue };
            match self.read_bad_blocks(member, &candidate.superblock) {
                Ok(ranges) => given.bad_blocks.push(ranges),
                Err(error) => {
                    // It may hold anything there, and where is not known.
                    tracing::error!(
                        "{error}; the bdev is left out. If its data are of worth, have Linux read \
                         them; else erase its superblock and add it as a new member"
                    );
                    continue;
                }
            }
            given.candidates.push(*candidate);
            given.names.push(member.clone());
        }
        given.taken_up = md::take_up(&mut given.candidates);
        Ok(given)
    }

    /// Prepares what the array needs; reads the members again where something was written.
    pub(super) fn take_over(
        &mut self,
        name: &str,
        mut given: Given,
        permit: &Permit,
        takeover: &Takeover,
    ) -> Result<Given, TargetError> {
        let start_degraded = permit.any;
        if self.finish_growth(name, &given)? {
            given = self.read_members(&given.names)?;
        }
        for &index in &given.taken_up {
            tracing::warn!(
                "array {name}: it was growing when it was cut off; bdev {} grows now, too",
                given.names[index]
            );
        }
        if let Ok(assembly) = given.plan(takeover)
            && self.replay_ppl(name, &given, &assembly, permit)?
        {
            given = self.read_members(&given.names)?;
        }
        let Err(error @ AssembleError::ClassicBitmap { .. }) = given.plan(takeover) else {
            return Ok(given);
        };
        if !takeover.convert_bitmap {
            return Err(given.refusal(name, &error));
        }
        self.convert_bitmap(name, &given, start_degraded)?;
        self.read_members(&given.names)
    }

    /// Puts a lockless bitmap in place of the classic one. The order is argued in `md::classic`.
    fn convert_bitmap(
        &mut self,
        name: &str,
        given: &Given,
        start_degraded: bool,
    ) -> Result<(), TargetError> {
        let refused = |text: String| TargetError::Invalid(format!("array {name}: {text}"));
        // Who takes part does not depend on the bitmap, so it is decided without.
        let mut without = given.clone();
        for candidate in &mut without.candidates {
            candidate.superblock.features.remove(Features::BITMAP_OFFSET);
        }
        let assembly = without.assemble(name, &Takeover::default())?;
        if assembly.is_degraded() && !start_degraded {
            return Err(refused(super::arrays::degraded_text(name, &assembly, &given.names)));
        }
        let array = &given.candidates[assembly.freshest].superblock;
        let mut members: Vec<(usize, &Superblock, &BitmapSuperblock)> = Vec::new();
        for index in Given::in_sync(&assembly) {
            let candidate = &given.candidates[index];
            match &candidate.bitmap {
                Some(Ok(head)) => members.push((index, &candidate.superblock, head)),
                Some(Err(error)) => {
                    let member = &given.names[index];
                    return Err(refused(format!("the bitmap of bdev {member}: {error}")));
                }
                None => unreachable!("who has no bitmap takes no part in an array with one"),
            }
        }
        let pairs: Vec<_> = members.iter().map(|&(_, own, head)| (own, head)).collect();
        let plan = Conversion::plan(array, &pairs).map_err(|error| refused(error.to_string()))?;
        let chunks = usize::try_from(plan.bitmap.chunk_count()).expect("a small bitmap");
        let mut in_doubt = vec![false; chunks];
        for &(index, own, head) in &members {
            let stale = head.is_stale(array.events);
            let bits = self.read_classic_bits(&given.names[index], own, head)?;
            md::mark_in_doubt(&mut in_doubt, &plan.bitmap, head, &bits, stale);
        }
        let now_s = crate::control::units::now().seconds();
        let new: Vec<(usize, Superblock)> = members
            .iter()
            .map(|&(index, own, _)| (index, plan.superblock(array, own, now_s)))
            .collect();
        for (index, superblock) in &new {
            let member = &given.names[*index];
            let states = in_doubt.iter().map(|&doubt| match doubt {
                true => ChunkState::NeedSync as u8,
                false => ChunkState::Clean as u8,
            });
            self.write_bitmap(member, superblock, &plan.bitmap, states)?;
        }
        for (index, superblock) in &new {
            self.write_superblock(&given.names[*index], superblock)?;
        }
        let doubtful = in_doubt.iter().filter(|&&doubt| doubt).count();
        tracing::info!(
            "array {name}: its classic bitmap was turned into a lockless one of {chunks} chunks, \
             {doubtful} of which are resynced now"
        );
        Ok(())
    }

    /// What a member's bad-block log lists.
    pub(super) fn read_bad_blocks(
        &mut self,
        name: &str,
        own: &Superblock,
    ) -> Result<Vec<BadRange>, TargetError> {
        if !own.features.contains(Features::BAD_BLOCKS) {
            return Ok(Vec::new());
        }
        let invalid = |text: String| TargetError::Invalid(format!("bdev {name}: {text}"));
        let sector = own.super_offset_sectors.checked_add_signed(own.bblog.offset_sectors.into());
        let end = self.bdev(name)?.geometry.size_bytes() / SECTOR_BYTES;
        let fits = |sector: &u64| sector.checked_add(8).is_some_and(|log_end| log_end <= end);
        let Some(sector) = sector.filter(fits) else {
            return Err(invalid("the bad-block log lies outside of the device".to_owned()));
        };
        let bytes = self.read_sectors(name, sector, SUPERBLOCK_READ_BYTES)?;
        parse_bad_blocks(&bytes, own).map_err(|error| invalid(error.to_string()))
    }

    /// Tells the operator what became of the members' bitmaps.
    pub(super) fn report_bitmaps(name: &str, given: &Given, assembly: &Assembly) {
        let uuid = Uuid::from_bytes(assembly.superblock.set_uuid);
        for index in Given::in_sync(assembly) {
            let (BitmapPlan::Load { superblock, stale: false, .. }, Some(head)) =
                (&assembly.bitmap, &given.candidates[index].bitmap)
            else {
                continue;
            };
            let why = match head {
                Err(error) => error.to_string(),
                Ok(own) if own.chunk_sectors() != superblock.chunk_sectors() => {
                    "it counts in other chunks".to_owned()
                }
                Ok(_) => continue,
            };
            let member = &given.names[index];
            tracing::warn!(
                "array {name} ({uuid}): the bitmap on bdev {member} is not used and is written \
                 anew from the other members': {why}"
            );
        }
        for index in Given::in_sync(assembly) {
            let (BitmapPlan::Load { stale: false, .. }, Some(Ok(own))) =
                (&assembly.bitmap, &given.candidates[index].bitmap)
            else {
                continue;
            };
            if own.is_stale(assembly.superblock.events) {
                let member = &given.names[index];
                tracing::warn!(
                    "array {name} ({uuid}): the bitmap on bdev {member} is older than the \
                     superblocks; what it has in doubt is resynced, and it is written anew"
                );
            }
        }
        match &assembly.bitmap {
            BitmapPlan::Load { stale: true, .. } => tracing::warn!(
                "array {name} ({uuid}): no member has a bitmap as new as its superblocks; all \
                 chunks ever written are resynced"
            ),
            BitmapPlan::Replace { .. } => tracing::warn!(
                "array {name} ({uuid}): its bitmap is lost and a new one is made, as bitmap_lost \
                 says; all chunks are resynced"
            ),
            BitmapPlan::None if assembly.full_resync_needed => tracing::warn!(
                "array {name} ({uuid}): it has no bitmap and was not stopped cleanly; all of it \
                 is resynced"
            ),
            _ => {}
        }
    }
}
