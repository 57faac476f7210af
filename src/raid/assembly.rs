//! From what was read off the members to the configuration an array starts with. Pure.
//!
//! # What becomes of a bitmap
//!
//! Of the members in sync, in the order of their slots:
//!
//! | found                                            | outcome |
//! |--------------------------------------------------|---------|
//! | all copies current and alike                     | loaded: Dirty and Syncing become NeedSync |
//! | current copies that differ                       | of each chunk the more cautious byte |
//! | one stale: older than the superblocks, or marked | the current ones, and what it has in doubt |
//! | one missing, unreadable, damaged or foreign      | the others |
//! | one that is being rebuilt doubts what is Clean   | it is given everything from there on |
//! | current ones with chunks of different sizes      | as if none were usable |
//! | all stale                                        | all but Unwritten become NeedSync, and Unwritten chunks are read, not taken for zeroes |
//! | none usable                                      | refused; `bitmap_lost = "resync"`: a new one, all NeedSync |
//! | Linux md: parity of zeroes that nobody made     | those chunks become Unwritten, Clean ones NeedSync |
//! | a torn unit: bytes that are no states            | those chunks become NeedSync |
//! | never started by the kernel (`FIRST_USE`)        | initialised as the kernel does |
//! | a classic one                                    | refused; `convert_bitmap = true`: see `md::classic` |
//!
//! Wherever the copies were not all alike, or the array was not stopped cleanly, all units are
//! written again and are durable before the array serves; the one with the header comes last, so
//! that a crash on the way leaves what was doubtful doubtful. Control logs what it found.
//!
//! A bitmap on a device of its own has a table of its own, in `md::external`.

use super::owner_bitmap::EVENTS_CLEARED_UNKNOWN;
use super::owner_start::VOLATILE_CHUNK_SIZE_BYTES;
use super::{ArrayConfig, BitmapConfig, Lacks, LogConfig, MemberConfig, MemberSlot, newcomer};
use crate::bdev::BdevId;
use crate::bitmap::state::safer_byte;
use crate::bitmap::{ChunkState, Infection};
use crate::md::{
    Assembly, BitmapError, BitmapFlags, BitmapPlan, BitmapSuperblock, Candidate, Creation,
    ExternalPlan, LevelCreation, Role, SECTOR_BYTES, Slot, Superblock,
};

/// What the operator decides about an array, beside its members.
#[derive(Debug, Clone)]
pub struct ArrayOptions {
    /// Name of the array's bdev.
    pub name: String,
    /// Logical block size in bytes; all members have it.
    pub block_size_bytes: u32,
    /// Core that owns the array.
    pub owner_core: u16,
    /// Seconds between two passes of the daemon.
    pub daemon_sleep_s: u32,
    /// Seconds a chunk must be idle before the daemon may clear it.
    pub barrier_idle_s: u32,
}

/// A candidate as a bdev.
#[derive(Debug, Clone, Copy)]
pub struct CandidateBdev {
    /// The bdev.
    pub bdev: BdevId,
    /// It frees space on unmap and then reads zeroes.
    pub unmap: bool,
    /// It zeroes a range of any length in about the same time.
    pub cheap_zeroes: bool,
}

impl CandidateBdev {
    /// A bdev with this geometry.
    #[must_use]
    pub fn of(bdev: BdevId, geometry: &crate::bdev::Geometry) -> Self {
        Self { bdev, unmap: geometry.unmap, cheap_zeroes: geometry.cheap_zeroes }
    }

    /// A bdev of which nothing but its place is known.
    #[must_use]
    pub fn plain(bdev: BdevId) -> Self {
        Self { bdev, unmap: false, cheap_zeroes: false }
    }
}

/// The configuration of an array that has just been created and written to its members.
#[must_use]
pub fn from_creation(
    options: ArrayOptions,
    creation: &Creation,
    bdevs: &[CandidateBdev],
) -> ArrayConfig {
    let chunks = usize::try_from(creation.chunk_count).expect("bounded by BITMAP_CHUNKS_MAX");
    let bitmap = BitmapConfig::Lockless {
        superblock: creation.bitmap.clone(),
        states: vec![creation.initial_state.byte(); chunks],
        stale: false,
        rewrite: false,
        external: None,
    };
    config(options, created(&creation.superblocks, bdevs), bitmap)
}

/// The same of an array of any level.
#[must_use]
pub fn from_level(
    options: ArrayOptions,
    creation: &LevelCreation,
    bdevs: &[CandidateBdev],
) -> ArrayConfig {
    match creation {
        LevelCreation::Bitmap(creation) => from_creation(options, creation, bdevs),
        LevelCreation::Plain { superblocks } => {
            let resync = !superblocks[0].is_clean();
            from_plain_creation(options, superblocks, bdevs, resync)
        }
    }
}

fn created(superblocks: &[Superblock], bdevs: &[CandidateBdev]) -> Vec<Option<MemberConfig>> {
    assert_eq!(bdevs.len(), superblocks.len());
    let member = |(bdev, superblock): (&CandidateBdev, &Superblock)| {
        let superblock = superblock.clone();
        let CandidateBdev { bdev, unmap, cheap_zeroes } = *bdev;
        let bad_blocks = Vec::new();
        Some(MemberConfig { bdev, unmap, cheap_zeroes, superblock, lacks: None, bad_blocks })
    };
    bdevs.iter().zip(superblocks).map(member).collect()
}

/// The configuration of an array without a bitmap that has just been created. Its members differ,
/// if `resync`.
#[must_use]
pub fn from_plain_creation(
    options: ArrayOptions,
    superblocks: &[Superblock],
    bdevs: &[CandidateBdev],
    resync: bool,
) -> ArrayConfig {
    config(options, created(superblocks, bdevs), BitmapConfig::None { resync })
}

/// The configuration of an array that was assembled. `states` holds, by candidate, the state
/// bytes of every in-sync candidate whose bitmap could be read.
///
/// # Errors
/// When a bitmap that was created but never used does not fit its array.
pub fn from_assembly(
    options: ArrayOptions,
    assembly: &Assembly,
    candidates: &[Candidate],
    bdevs: &[CandidateBdev],
    states: &[Option<Vec<u8>>],
) -> Result<ArrayConfig, BitmapError> {
    let sources: Vec<usize> = assembly.slots.iter().filter_map(in_sync).collect();
    let (mut bitmap, reads_zero) = bitmap_config(assembly, candidates, &sources, states)?;
    let ours = sources.iter().all(|&source| candidates[source].superblock.is_ours());
    if !ours {
        doubt_early_parity(assembly, &mut bitmap);
    }
    if let BitmapConfig::Lockless { superblock, stale, .. } = &mut bitmap
        && (!ours || *stale || !matches!(assembly.bitmap, BitmapPlan::Load { .. }))
    {
        superblock.events_cleared = EVENTS_CLEARED_UNKNOWN;
    }
    let mut members = members(assembly, candidates, bdevs, &mut bitmap, reads_zero);
    let mut replacement = replacement(assembly, candidates, bdevs, &bitmap, reads_zero);
    let all = members.iter_mut().flatten().chain(replacement.as_mut().map(|(_, it)| it));
    for member in all.filter(|_| !mutant!(OwnDoubtsForgotten)) {
        let at = candidates
            .iter()
            .position(|it| it.superblock.device_uuid == member.superblock.device_uuid);
        let own = at.and_then(|at| Some((&candidates[at], states[at].as_deref()?)));
        if let (Some(lacks), Some((candidate, states))) = (member.lacks, own) {
            member.lacks = Some(lacks_as_well(lacks, candidate, states, &bitmap));
        }
    }
    Ok(ArrayConfig { replacement, ..config(options, members, bitmap) })
}

/// What a member that is being rebuilt lacks, in view of its own bitmap. What it does not call
/// Clean and those that are believed do may have been written to it and to others that are not
/// there, as the one that is believed was out and nobody had put that on record yet.
fn lacks_as_well(
    lacks: Lacks,
    candidate: &Candidate,
    states: &[u8],
    bitmap: &BitmapConfig,
) -> Lacks {
    let BitmapConfig::Lockless { superblock, states: believed, .. } = bitmap else { return lacks };
    let is_alike = matches!(&candidate.bitmap, Some(Ok(head))
        if head.chunk_sectors() == superblock.chunk_sectors());
    let clean = ChunkState::Clean as u8;
    let first =
        states.iter().zip(believed).position(|(&own, &other)| other == clean && own != clean);
    match first.filter(|_| is_alike) {
        Some(first) => Lacks::AllFrom(first.min(lacks.all_from())),
        None => lacks,
    }
}

/// The configuration of an assembled array whose bitmap is on the device `external`, where `plan`
/// was made of its head. `states` holds what a plan to load or convert it needs: the state of each
/// chunk.
#[must_use]
pub fn from_external(
    options: ArrayOptions,
    assembly: &Assembly,
    candidates: &[Candidate],
    bdevs: &[CandidateBdev],
    external: BdevId,
    plan: &ExternalPlan,
    states: Option<Vec<u8>>,
) -> ArrayConfig {
    let (superblock, state) = match plan {
        ExternalPlan::Load { superblock } | ExternalPlan::Convert { superblock, .. } => {
            (superblock, None)
        }
        ExternalPlan::Fresh { superblock } => (superblock, Some(ChunkState::Clean)),
        ExternalPlan::Stale { superblock, .. } | ExternalPlan::Replace { superblock } => {
            (superblock, Some(ChunkState::NeedSync))
        }
    };
    let chunks = usize::try_from(superblock.chunk_count()).expect("bounded by BITMAP_CHUNKS_MAX");
    let states = match state {
        None => states.expect("the plan needs the states"),
        Some(state) => vec![state as u8; chunks],
    };
    let mut superblock = superblock.clone();
    if !matches!(plan, ExternalPlan::Load { .. }) {
        superblock.events_cleared = EVENTS_CLEARED_UNKNOWN;
        // Power may go while it is written: until all of it is, it says that it is out of date.
        if !mutant!(ExternalVouchedEarly) {
            superblock.flags |= BitmapFlags::STALE;
        }
    }
    let mut bitmap = BitmapConfig::Lockless {
        superblock,
        states,
        stale: false,
        rewrite: assembly.dirty || !matches!(plan, ExternalPlan::Load { .. }),
        external: Some(external),
    };
    // A bitmap that is loaded has the mark behind it, the others call no chunk Unwritten.
    let members = members(assembly, candidates, bdevs, &mut bitmap, Some(true));
    let replacement = replacement(assembly, candidates, bdevs, &bitmap, Some(true));
    ArrayConfig { replacement, ..config(options, members, bitmap) }
}

/// The members that take part, by slot.
fn members(
    assembly: &Assembly,
    candidates: &[Candidate],
    bdevs: &[CandidateBdev],
    bitmap: &mut BitmapConfig,
    unwritten_reads_zero: Option<bool>,
) -> Vec<Option<MemberConfig>> {
    let array = &assembly.superblock;
    let is_rebuilding = |slot: &Slot| matches!(slot, Slot::Rebuilding { .. });
    if let BitmapConfig::Lockless { rewrite, .. } = bitmap {
        // The copy of one that is being rebuilt may be behind.
        *rewrite |= assembly.slots.iter().any(is_rebuilding) || assembly.replacement.is_some();
    }
    let lacks = |own: &Superblock| lacks(bitmap, own);
    let member = |slot: &Slot| {
        let (candidate, lacks) = match *slot {
            Slot::InSync { candidate } => (candidate, None),
            Slot::Rebuilding { candidate, .. } => {
                (candidate, Some(lacks(&candidates[candidate].superblock)))
            }
            Slot::Missing { .. } => return None,
        };
        Some(member(array, candidates, bdevs, (candidate, lacks), unwritten_reads_zero))
    };
    assembly.slots.iter().map(member).collect()
}

/// What replaces a member, with what it has to be given yet.
fn replacement(
    assembly: &Assembly,
    candidates: &[Candidate],
    bdevs: &[CandidateBdev],
    bitmap: &BitmapConfig,
    unwritten_reads_zero: Option<bool>,
) -> Option<(MemberSlot, MemberConfig)> {
    let replacing = assembly.replacement?;
    let own = &candidates[replacing.candidate].superblock;
    let lacks = match own.is_rebuilding() {
        true => lacks(bitmap, own),
        // It is whole, but what was being written is copied all the same.
        false if own.is_ours() => Lacks::AllFrom(usize::MAX),
        false => Lacks::AllFrom(0),
    };
    let chosen = (replacing.candidate, Some(lacks));
    let config = member(&assembly.superblock, candidates, bdevs, chosen, unwritten_reads_zero);
    Some((MemberSlot::try_from(replacing.slot).ok()?, config))
}

fn member(
    array: &Superblock,
    candidates: &[Candidate],
    bdevs: &[CandidateBdev],
    (candidate, lacks): (usize, Option<Lacks>),
    unwritten_reads_zero: Option<bool>,
) -> MemberConfig {
    let mut superblock = candidates[candidate].superblock.clone();
    superblock.roles.clone_from(&array.roles);
    // One event behind it may not know yet where the bitmap is.
    superblock.bitmap_offset_sectors = array.bitmap_offset_sectors;
    if let Some(reads_zero) = unwritten_reads_zero {
        superblock.updated_at(superblock.utime.seconds(), reads_zero);
    }
    let CandidateBdev { bdev, unmap, cheap_zeroes } = bdevs[candidate];
    MemberConfig { bdev, unmap, cheap_zeroes, superblock, lacks, bad_blocks: Vec::new() }
}

/// What a member that was being rebuilt has to be given yet.
fn lacks(bitmap: &BitmapConfig, own: &Superblock) -> Lacks {
    match bitmap {
        BitmapConfig::None { .. } => {
            let chunk = own.recovery_offset_sectors.saturating_mul(SECTOR_BYTES)
                / VOLATILE_CHUNK_SIZE_BYTES;
            Lacks::AllFrom(usize::try_from(chunk).unwrap_or(0))
        }
        BitmapConfig::Lockless { superblock, .. }
            if superblock.events_cleared != EVENTS_CLEARED_UNKNOWN && own.is_ours() =>
        {
            newcomer::recovering(own, superblock.chunk_sectors().unwrap_or(0).into())
        }
        // Linux md clears chunks, and calls them Unwritten, by other rules.
        BitmapConfig::Lockless { .. } => Lacks::AllFrom(0),
    }
}

fn in_sync(slot: &Slot) -> Option<usize> {
    match *slot {
        Slot::InSync { candidate } => Some(candidate),
        _ => None,
    }
}

/// How the array remembers, and whether its Unwritten chunks are known to hold nothing; `None`:
/// the superblocks say it.
fn bitmap_config(
    assembly: &Assembly,
    candidates: &[Candidate],
    sources: &[usize],
    states: &[Option<Vec<u8>>],
) -> Result<(BitmapConfig, Option<bool>), BitmapError> {
    let filled = |superblock: BitmapSuperblock, state: u8| {
        let chunks =
            usize::try_from(superblock.chunk_count()).expect("bounded by BITMAP_CHUNKS_MAX");
        let states = vec![state; chunks];
        let (stale, rewrite) = (false, true);
        BitmapConfig::Lockless { superblock, states, stale, rewrite, external: None }
    };
    Ok(match &assembly.bitmap {
        BitmapPlan::None => (BitmapConfig::None { resync: assembly.full_resync_needed }, None),
        BitmapPlan::Initialise { superblock, .. } => {
            let mut superblock = superblock.clone();
            let initial = superblock.initialise(&assembly.superblock)?;
            (filled(superblock, initial.byte()), Some(true))
        }
        BitmapPlan::Replace { superblock } => {
            (filled(superblock.clone(), ChunkState::NeedSync as u8), Some(true))
        }
        BitmapPlan::Load { superblock, stale, .. } => {
            let chunks = superblock.chunk_sectors();
            let mut superblock = superblock.clone();
            // A growth that was cut off leaves heads of more chunks than the array has.
            superblock.sync_size_sectors = assembly.superblock.sync_size_sectors();
            let count =
                usize::try_from(superblock.chunk_count()).expect("bounded by BITMAP_CHUNKS_MAX");
            // Copies in other units (a conversion or a damaged head) can't be compared.
            let usable = |&candidate: &usize| match &candidates[candidate].bitmap {
                Some(Ok(head)) if head.chunk_sectors() == chunks => {
                    states[candidate].as_deref()?.get(..count)
                }
                _ => None,
            };
            let copies: Vec<&[u8]> = sources.iter().filter_map(usable).collect();
            let Some((own, others)) = copies.split_first() else {
                let reason = "no member could read the states of the chunks".to_owned();
                return Err(BitmapError::Unreadable { reason });
            };
            let (states, differ) = merge(own, others.iter().copied());
            let incomplete = copies.len() < sources.len();
            let config = BitmapConfig::Lockless {
                superblock,
                states,
                stale: *stale,
                rewrite: assembly.dirty || differ || incomplete,
                external: None,
            };
            // What an old bitmap calls Unwritten may have been written since.
            (config, stale.then_some(false))
        }
    })
}

/// Linux md zeroes the members of a new array of parity where they do that cheaply, and calls all
/// of its parity right. But the member that mdadm adds last to a new raid5 is a spare until it has
/// been rebuilt, so it is not zeroed, and then the rebuild passes over every chunk. Such a member
/// is known by its number, which is beyond the slots.
fn doubt_early_parity(assembly: &Assembly, bitmap: &mut BitmapConfig) {
    let BitmapConfig::Lockless { states, rewrite, .. } = bitmap else { return };
    let array = &assembly.superblock;
    let joined_later = |(number, role): (usize, &Role)| {
        matches!(role, Role::Active(_)) && number >= assembly.slots.len()
    };
    if !states.contains(&(ChunkState::CleanUnwritten as u8))
        || !array.roles.iter().enumerate().any(joined_later)
    {
        return;
    }
    for state in states.iter_mut() {
        *state = match ChunkState::from_byte(*state) {
            Some(ChunkState::CleanUnwritten) => ChunkState::Unwritten as u8,
            Some(ChunkState::Clean) => ChunkState::NeedSync as u8,
            _ => *state,
        };
    }
    *rewrite = true;
}

/// Of several copies of the states the more cautious byte for each chunk, and whether they differ.
fn merge<'a>(own: &[u8], copies: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    if mutant!(NoUnionOfBitmaps) {
        return (own.to_vec(), true);
    }
    let mut merged = own.to_vec();
    let mut differ = false;
    for copy in copies {
        differ |= copy != own;
        for (byte, &other) in merged.iter_mut().zip(copy) {
            *byte = safer_byte(*byte, other);
        }
    }
    (merged, differ)
}

fn config(
    options: ArrayOptions,
    members: Vec<Option<MemberConfig>>,
    bitmap: BitmapConfig,
) -> ArrayConfig {
    ArrayConfig {
        name: options.name,
        block_size_bytes: options.block_size_bytes,
        owner_core: options.owner_core,
        daemon_sleep_s: options.daemon_sleep_s,
        barrier_idle_s: options.barrier_idle_s,
        infection: Infection::default(),
        members,
        replacement: None,
        bitmap,
        force: false,
        accepts_loss: false,
        log: LogConfig::default(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::md::{
        Level, LevelCreation, NewArray, NewLevel, NewLog, NewMember, Timestamp, assemble,
        create_level,
    };

    /// A raid5 with these states; the last member has this number.
    fn loaded(last_number: u32, by_linux: bool) -> Vec<u8> {
        let member = |tag| NewMember {
            device_sectors: 8192,
            logical_block_size: 512,
            device_uuid: [tag; 16],
        };
        let array = NewArray {
            name: "r".to_owned(),
            set_uuid: [9; 16],
            ctime: Timestamp::from_unix(1, 0),
            assume_clean: false,
            members: vec![member(1), member(2), member(3)],
        };
        let log = NewLog::Bitmap { chunk_bytes: None };
        let new = NewLevel { strip_bytes: 65_536, log, ..NewLevel::new(Level::Raid5) };
        let LevelCreation::Bitmap(creation) = create_level(&array, &new).unwrap() else {
            unreachable!()
        };
        let number = |slot| if slot == 2 { last_number } else { slot };
        let candidates: Vec<Candidate> = (0..3)
            .zip(&creation.superblocks)
            .map(|(slot, superblock)| {
                let mut superblock = superblock.clone();
                superblock.set_role(2, Role::Spare);
                superblock.set_role(last_number, Role::Active(2));
                superblock.dev_number = number(slot);
                if by_linux {
                    superblock.utime = Timestamp::from_unix(5, 1);
                }
                let bitmap = Some(Ok(creation.bitmap.clone()));
                Candidate { device_sectors: 8192, superblock, bitmap }
            })
            .collect();
        let assembly = assemble(&candidates).unwrap();
        let bdevs = [1, 2, 3].map(|id| CandidateBdev::plain(BdevId(id)));
        let count = usize::try_from(creation.bitmap.chunk_count()).unwrap();
        let mut states = vec![0, 1, 2, 3, 7];
        states.resize(count, 0);
        let states = vec![Some(states); 3];
        let options = ArrayOptions {
            name: "r".to_owned(),
            block_size_bytes: 512,
            owner_core: 0,
            daemon_sleep_s: 30,
            barrier_idle_s: 5,
        };
        let config = from_assembly(options, &assembly, &candidates, &bdevs, &states).unwrap();
        match config.bitmap {
            BitmapConfig::Lockless { states, .. } => states[..5].to_vec(),
            BitmapConfig::None { .. } => unreachable!(),
        }
    }

    /// Defect 4 of the kernel's bitmap.
    #[test]
    fn parity_that_a_spare_never_got_is_doubted() {
        assert_eq!(loaded(3, true), [0, 3, 2, 3, 0]);
        assert_eq!(loaded(2, true), [0, 1, 2, 3, 7], "all members were there from the start");
        assert_eq!(loaded(3, false), [0, 1, 2, 3, 7], "mdof zeroes every member or none");
    }
}
