//! From what lies on the members to what an array starts with of its stripe log. Pure: who calls
//! reads.

use super::{ArrayConfig, Geometry, LogConfig, LogPlan};
use crate::md::stripe_log::{LOG_HEAD_BYTES, LogHead, LogRoom, LogSearch, LogVoid, trusted_head};
use crate::md::{Assembly, BitmapSuperblock, Candidate, Level, SECTOR_BYTES, Slot};

/// Sectors of a head.
const HEAD_SECTORS: u64 = LOG_HEAD_BYTES as u64 / SECTOR_BYTES;

/// Whether arrays of this level have a stripe log.
#[must_use]
pub fn has_log(level: Level) -> bool {
    parity_strips(level) > 0
}

fn parity_strips(level: Level) -> usize {
    match level {
        Level::Raid4 | Level::Raid5 => 1,
        Level::Raid6 => 2,
        Level::Linear | Level::Raid0 | Level::Raid1 | Level::Raid10 => 0,
    }
}

/// Reads the stripe log of an assembled array by `read`, which is given the index of a candidate,
/// the first sector and their number. Takes memory for all of a member's log, at most 32 MiB.
///
/// # Errors
/// Why no log says what was being written.
pub fn find_log(
    assembly: &Assembly,
    candidates: &[Candidate],
    block_size_bytes: u32,
    mut read: impl FnMut(usize, u64, u64) -> Result<Vec<u8>, String>,
) -> Result<LogConfig, LogVoid> {
    let in_sync = || (0u8..).zip(&assembly.slots).filter_map(in_sync_slot);
    let newest = in_sync().map(|(_, at)| &candidates[at].superblock).max_by_key(|it| it.events);
    let newest = newest.ok_or(LogVoid::NotKept)?;
    let heads: Vec<Result<LogHead, _>> = in_sync()
        .map(|(_, at)| {
            let own = &candidates[at].superblock;
            let first = own.data_offset_sectors.saturating_sub(HEAD_SECTORS);
            let bytes = read(at, first, HEAD_SECTORS)
                .map_err(|reason| crate::md::stripe_log::LogError::Unreadable { reason })?;
            LogHead::parse(&bytes, &own.set_uuid)
        })
        .collect();
    let head = trusted_head(newest, heads.iter())?;
    if head.idle {
        return Ok(LogConfig { trusted: true, ..LogConfig::default() });
    }
    let sectors_per_block = u64::from(block_size_bytes) / SECTOR_BYTES;
    let mut search = LogSearch::new(head, newest.size_sectors / sectors_per_block);
    let mut unreadable = 0;
    for (slot, at) in in_sync() {
        let place = search.slots_at(candidates[at].superblock.data_offset_sectors);
        match place.ok_or(()).and_then(|(first, count)| read(at, first, count).map_err(drop)) {
            Ok(bytes) => search.take(slot, &bytes),
            Err(()) => unreadable += 1,
        }
    }
    // One of those that a record went to must have been read.
    let missing = assembly.slots.len() - in_sync().count();
    if unreadable + missing > parity_strips(newest.level) {
        return Err(LogVoid::TooFew { unreadable, missing });
    }
    let replay = Some((head, search.finish()));
    Ok(LogConfig { trusted: true, replay, ..LogConfig::default() })
}

fn in_sync_slot((slot, state): (u8, &Slot)) -> Option<(u8, usize)> {
    match *state {
        Slot::InSync { candidate } => Some((slot, candidate)),
        _ => None,
    }
}

/// Plans the stripe log that is kept from now on: the members in `config` all have room for it, or
/// the reason why there is none is noted. `run` is random.
pub fn plan_log(
    config: &mut ArrayConfig,
    bitmap: Option<&BitmapSuperblock>,
    cores: u16,
    run: [u8; 16],
) {
    let replacement = config.replacement.as_ref().map(|(_, member)| member);
    let own = || config.members.iter().flatten().chain(replacement);
    let members = || own().map(|member| &member.superblock);
    let Some(first) = members().next().filter(|it| has_log(it.level)) else {
        return;
    };
    let bytes = members().map(|own| LogRoom::of(own, bitmap).bytes).min().unwrap_or(0);
    let shape = super::geometry::Shape {
        level: first.level.number(),
        layout: first.layout,
        raid_disks: u32::try_from(config.members.len()).unwrap_or(u32::MAX),
        chunk_sectors: first.chunk_sectors,
        size_sectors: first.size_sectors,
        member_sectors: &[],
        block_size_bytes: config.block_size_bytes,
    };
    // What can't be an array is refused elsewhere, with a better reason.
    let Ok(geometry) = Geometry::new(&shape) else { return };
    let room = LogRoom { bytes };
    config.log.kept = LogPlan::new(&geometry, config.block_size_bytes, room, cores, run);
    if config.log.kept.is_none() {
        config.log.why_off = format!(
            "its members have {} KiB free between the metadata and the data, too little for one",
            bytes / 1024
        );
    }
}
