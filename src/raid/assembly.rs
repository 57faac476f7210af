//! From what was read off the members to the configuration an array starts with. Pure.

use super::{ArrayConfig, BitmapConfig, MemberConfig};
use crate::bdev::BdevId;
use crate::bitmap::state::safer_byte;
use crate::md::{Assembly, BitmapError, BitmapPlan, Candidate, Creation, Slot};

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
}

/// The configuration of an array that has just been created and written to its members.
#[must_use]
pub fn from_creation(
    options: ArrayOptions,
    creation: &Creation,
    bdevs: &[CandidateBdev],
) -> ArrayConfig {
    assert_eq!(bdevs.len(), creation.superblocks.len());
    let members = bdevs.iter().zip(&creation.superblocks).map(|(bdev, superblock)| {
        Some(MemberConfig { bdev: bdev.bdev, unmap: bdev.unmap, superblock: superblock.clone() })
    });
    let chunks = usize::try_from(creation.chunk_count).expect("bounded by BITMAP_CHUNKS_MAX");
    let bitmap = BitmapConfig::Lockless {
        superblock: creation.bitmap.clone(),
        states: vec![creation.initial_state.byte(); chunks],
        stale: false,
        rewrite: false,
    };
    config(options, members.collect(), bitmap)
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
    let member = |slot: &Slot| {
        // A member that was being rebuilt holds old data; it stays out until it is rebuilt anew.
        let Slot::InSync { candidate } = *slot else { return None };
        let mut superblock = candidates[candidate].superblock.clone();
        superblock.roles.clone_from(&assembly.superblock.roles);
        superblock.events = assembly.superblock.events;
        let CandidateBdev { bdev, unmap } = bdevs[candidate];
        Some(MemberConfig { bdev, unmap, superblock })
    };
    let bitmap = match &assembly.bitmap {
        BitmapPlan::None => BitmapConfig::None { resync: assembly.full_resync_needed },
        BitmapPlan::Initialise { superblock, .. } => {
            let mut superblock = superblock.clone();
            let initial = superblock.initialise(&assembly.superblock)?;
            let chunks =
                usize::try_from(superblock.chunk_count()).expect("bounded by BITMAP_CHUNKS_MAX");
            let states = vec![initial.byte(); chunks];
            BitmapConfig::Lockless { superblock, states, stale: false, rewrite: true }
        }
        BitmapPlan::Load { candidate, superblock, stale } => {
            let sources = assembly.slots.iter().filter_map(|slot| match slot {
                Slot::InSync { candidate } => states[*candidate].as_deref(),
                _ => None,
            });
            let own = states[*candidate].as_deref().expect("the source of the plan was read");
            let (states, differ) = merge(own, sources);
            BitmapConfig::Lockless {
                superblock: superblock.clone(),
                states,
                stale: *stale,
                rewrite: assembly.dirty || differ,
            }
        }
    };
    Ok(config(options, assembly.slots.iter().map(member).collect(), bitmap))
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
        members,
        bitmap,
    }
}
