//! The superblocks and bitmap heads of an array that takes all of its larger members, as
//! `mdadm --grow --size=max` does. Pure.
//!
//! What is written, in this order, each step durably on all members before the next one: zeroes
//! where the last chunk so far goes on beyond the old end; the states of the new chunks, Unwritten;
//! the bitmap's head; the superblocks. The old blocks stay where they are, and nothing of the new
//! part is served before all that is done. With the head the event count goes up, so a power cut
//! leaves
//!
//! - heads ahead of their superblocks: the array is as large as before, and the bitmap knows more
//!   chunks than it needs;
//! - members of two sizes, the larger of which are one event ahead: the next start finishes the
//!   growth. Those that have all but the superblock are given that by the array itself
//!   ([`take_up`]). mdof once grew arrays that were stopped, member by member; who lacks the bitmap
//!   then, too, is given that first ([`unfinished`]).
//!
//! An array without a bitmap grows while it is stopped, and its new part is resynced.

use thiserror::Error;

use super::assemble::is_left_behind;
use super::bitmap_superblock::{BITMAP_CHUNKS_MAX, STATES_OFFSET_BYTES};
use super::create::SIZE_UNIT_SECTORS;
use super::layout::Raid10Word;
use super::types::{Level, MinorVersion, Role};
use super::{BitmapSuperblock, Candidate, SECTOR_BYTES, Superblock};

/// Sectors of an array at most: 2^63 bytes.
const ARRAY_SECTORS_MAX: u64 = 1 << 54;

/// Why an array does not grow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrowError {
    /// Where blocks lie depends on the members' size.
    #[error(
        "a {level} with this layout does not grow: where its blocks lie depends on the size of its \
         members. Make a larger array and copy"
    )]
    Level {
        /// Name of the level.
        level: &'static str,
    },
    /// A strip that the array has not used so far would lie among those that it has.
    #[error(
        "a raid10 whose last row is not full does not grow: of each member {used_sectors} sectors \
         are used. Make a larger array and copy"
    )]
    Row {
        /// Sectors used of each member.
        used_sectors: u64,
    },
    /// The superblock would have to move.
    #[error(
        "metadata {minor} lies at the end of the members, which a larger one has elsewhere; mdof \
         grows arrays of metadata 1.1 and 1.2"
    )]
    Metadata {
        /// As mdadm calls it.
        minor: &'static str,
    },
    /// The smallest member is as large as before.
    #[error(
        "there is nothing to grow into: of each member {used_sectors} sectors are used, and member \
         {smallest} has {room_sectors} for data. Make all members larger first"
    )]
    NoRoom {
        /// Sectors used of each member.
        used_sectors: u64,
        /// Which has least.
        smallest: usize,
        /// Its sectors.
        room_sectors: u64,
    },
    /// The bitmap's area can't hold more states.
    #[error(
        "its bitmap has room for {room} chunks, and the grown array would have {chunks}: with \
         chunks of {chunk_kib} KiB it grows to {most_gib} GiB of each member at most. Make a new \
         array with larger chunks (chunk_size_kib) and copy"
    )]
    Bitmap {
        /// States that fit.
        room: u64,
        /// States that are needed.
        chunks: u64,
        /// Size of a chunk.
        chunk_kib: u64,
        /// What the room is enough for.
        most_gib: u64,
    },
    /// More than md's arithmetic carries.
    #[error("the array would have more than the 2^63 bytes that fit")]
    TooLarge,
}

/// What is to be written for an array to grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// Sectors used of each member until now, and then.
    pub from_sectors: u64,
    /// See there.
    pub to_sectors: u64,
    /// One a member, in the order given.
    pub superblocks: Vec<Superblock>,
    /// The head of every copy of the bitmap.
    pub bitmap: Option<BitmapSuperblock>,
}

impl Growth {
    /// Where zeroes are to be written on every member before all else: in sectors of its data. The
    /// last chunk so far, which may have been written, covers them from now on.
    #[must_use]
    pub fn zeroes(&self) -> std::ops::Range<u64> {
        let chunk = self.bitmap.as_ref().and_then(BitmapSuperblock::chunk_sectors).unwrap_or(0);
        let chunk = u64::from(chunk);
        let own = &self.superblocks[0];
        let sectors = match (own.level, Raid10Word::new(own.layout)) {
            // Of what the array shows, whose copies may all lie on one member, one strip below
            // the other.
            (Level::Raid10, Some(word)) if chunk > 0 && !mutant!(GrowthCopiesForgotten) => {
                let copies = u64::from(word.near) * u64::from(word.far);
                (chunk + u64::from(own.chunk_sectors)) * copies
            }
            _ => chunk,
        };
        self.from_sectors..self.to_sectors.min(self.from_sectors + sectors)
    }
}

/// Plans the growth of an array with these members, all of which are in sync and stopped cleanly:
/// superblock and sectors of the device. `bitmap` is the head of any of them.
///
/// # Errors
/// Why not, and what can be done.
pub fn plan_growth(
    members: &[(Superblock, u64)],
    bitmap: Option<&BitmapSuperblock>,
) -> Result<Growth, GrowError> {
    let first = &members.first().expect("an array has members").0;
    check_level(first)?;
    let room = |(own, device_sectors): &(Superblock, u64)| {
        device_sectors.saturating_sub(own.data_offset_sectors)
    };
    let rooms = members.iter().map(room).enumerate();
    let (smallest, room_sectors) = rooms.min_by_key(|(_, room)| *room).expect("as above");
    let unit = match first.level {
        Level::Raid1 => SIZE_UNIT_SECTORS,
        _ => u64::from(first.chunk_sectors.max(1)),
    };
    let (from, to) = (first.size_sectors, room_sectors - room_sectors % unit);
    if to <= from {
        return Err(GrowError::NoRoom { used_sectors: from, smallest, room_sectors });
    }
    if to.saturating_mul(members.len() as u64) > ARRAY_SECTORS_MAX {
        return Err(GrowError::TooLarge);
    }
    let sync = Superblock { size_sectors: to, ..first.clone() }.sync_size_sectors();
    let bitmap = bitmap.map(|head| grown_bitmap(head, first, sync, to)).transpose()?;
    let superblock = |(own, device_sectors): &(Superblock, u64)| {
        let mut grown = own.clone();
        grown.size_sectors = to;
        grown.data_size_sectors = device_sectors - own.data_offset_sectors;
        grown.events = first.events + 1;
        if bitmap.is_none() {
            // Nothing but this tells that the members differ in what is new.
            grown.resync_offset_sectors = first.sync_size_sectors();
        }
        grown
    };
    let superblocks = members.iter().map(superblock).collect();
    Ok(Growth { from_sectors: from, to_sectors: to, superblocks, bitmap })
}

fn check_level(own: &Superblock) -> Result<(), GrowError> {
    let keeps_its_blocks = match own.level {
        Level::Raid1 | Level::Raid4 | Level::Raid5 | Level::Raid6 => true,
        Level::Raid10 => {
            Raid10Word::new(own.layout).is_some_and(|word| word.far == 1 || word.offset)
        }
        Level::Raid0 | Level::Linear => false,
    };
    if !keeps_its_blocks {
        return Err(GrowError::Level { level: own.level.name() });
    }
    if let (Level::Raid10, Some(word)) = (own.level, Raid10Word::new(own.layout)) {
        let (near, far) = (u64::from(word.near), u64::from(word.far));
        let strips = own.size_sectors / u64::from(own.chunk_sectors.max(1));
        let is_full = strips.is_multiple_of(far)
            && (strips / far * u64::from(own.raid_disks)).is_multiple_of(near);
        if !is_full {
            return Err(GrowError::Row { used_sectors: own.size_sectors });
        }
    }
    match own.minor_version() {
        MinorVersion::V1_0 => Err(GrowError::Metadata { minor: "1.0" }),
        MinorVersion::V1_1 | MinorVersion::V1_2 => Ok(()),
    }
}

fn grown_bitmap(
    head: &BitmapSuperblock,
    array: &Superblock,
    sync_sectors: u64,
    member_sectors: u64,
) -> Result<BitmapSuperblock, GrowError> {
    let grown = BitmapSuperblock {
        sync_size_sectors: sync_sectors,
        events: array.events + 1,
        ..head.clone()
    };
    let area = u64::from(head.sectors_reserved) * SECTOR_BYTES;
    let room = area.saturating_sub(STATES_OFFSET_BYTES).min(BITMAP_CHUNKS_MAX);
    let (chunks, chunk) = (grown.chunk_count(), u64::from(head.chunk_sectors().unwrap_or(0)));
    if chunks > room {
        // As much of each member as the states are enough for.
        let most = u128::from(room) * u128::from(chunk) * u128::from(member_sectors)
            / u128::from(sync_sectors.max(1));
        let most_gib = u64::try_from(most >> 21).unwrap_or(u64::MAX);
        return Err(GrowError::Bitmap { room, chunks, chunk_kib: chunk / 2, most_gib });
    }
    Ok(grown)
}

/// A growth that power cut off: the candidate that has grown, and those that are to be given what
/// it says, each with the superblock that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Index of a candidate that has grown.
    pub grown: usize,
    /// Indexes of those that have not, and their new superblocks.
    pub behind: Vec<(usize, Superblock)>,
}

/// Whether these candidates are members of an array that was growing while it was stopped, and some
/// have not even the bitmap of the larger one. Those that do not agree in all but their size are
/// left to the assembly.
#[must_use]
pub fn unfinished(candidates: &[Candidate]) -> Option<Unfinished> {
    let grown = freshest(candidates)?;
    let array = &candidates[grown].superblock;
    let lacks_all = |candidate: &Candidate| {
        candidate.superblock.is_clean()
            && is_behind(array, candidate)
            && !has_grown_bitmap(array, candidate)
    };
    let behind: Vec<(usize, Superblock)> = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| lacks_all(candidate))
        .map(|(at, candidate)| {
            let mut superblock = grown_like(array, candidate);
            superblock.events = array.events;
            superblock.resync_offset_sectors = array.resync_offset_sectors;
            (at, superblock)
        })
        .collect();
    (!behind.is_empty()).then_some(Unfinished { grown, behind })
}

/// Gives the candidates that a growth has left behind with their old superblocks the new size, so
/// that an assembly takes them for what they are: one event behind. The array writes their
/// superblocks when it starts. Which they are.
pub fn take_up(candidates: &mut [Candidate]) -> Vec<usize> {
    let Some(grown) = freshest(candidates).filter(|_| !mutant!(GrowthNotTakenUp)) else {
        return Vec::new();
    };
    let array = candidates[grown].superblock.clone();
    let is_left = |&at: &usize| {
        is_behind(&array, &candidates[at]) && has_grown_bitmap(&array, &candidates[at])
    };
    let left: Vec<usize> = (0..candidates.len()).filter(is_left).collect();
    for &at in &left {
        candidates[at].superblock = grown_like(&array, &candidates[at]);
    }
    left
}

fn is_active(own: &Superblock) -> bool {
    matches!(own.own_role(), Role::Active(_))
}

/// Of those with the most events the largest, if the others have not gone on without it.
fn freshest(candidates: &[Candidate]) -> Option<usize> {
    let active = (0..candidates.len()).filter(|&at| is_active(&candidates[at].superblock));
    active.max_by_key(|&at| {
        let own = &candidates[at].superblock;
        let is_current = !is_left_behind(candidates, at);
        (own.events, is_current, own.size_sectors, std::cmp::Reverse(at))
    })
}

/// The member is one event behind the array, and nothing but its size is another.
fn is_behind(array: &Superblock, candidate: &Candidate) -> bool {
    let own = &candidate.superblock;
    own.set_uuid == array.set_uuid
        && own.events + 1 == array.events
        && own.size_sectors < array.size_sectors
        && is_active(own)
        && array.role_of(own.dev_number) == own.own_role()
        && own.role_of(array.dev_number) == array.own_role()
        && (own.level, own.layout, own.raid_disks, own.chunk_sectors)
            == (array.level, array.layout, array.raid_disks, array.chunk_sectors)
        && own.data_offset_sectors + array.size_sectors <= candidate.device_sectors
}

/// Its bitmap knows all chunks of the larger array.
fn has_grown_bitmap(array: &Superblock, candidate: &Candidate) -> bool {
    let head = candidate.bitmap.as_ref().and_then(|head| head.as_ref().ok());
    head.is_some_and(|head| head.sync_size_sectors == array.sync_size_sectors())
}

/// Its superblock with the array's size.
fn grown_like(array: &Superblock, candidate: &Candidate) -> Superblock {
    let own = &candidate.superblock;
    Superblock {
        size_sectors: array.size_sectors,
        data_size_sectors: candidate.device_sectors - own.data_offset_sectors,
        ..own.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::md::{
        LevelCreation, NewArray, NewLevel, NewLog, NewMember, Timestamp, assemble, create_level,
    };

    const MIB: u64 = 2048;

    fn array(
        level: Level,
        layout: u32,
        log: NewLog,
    ) -> (Vec<Superblock>, Option<BitmapSuperblock>) {
        let member = |tag| NewMember {
            device_sectors: 64 * MIB,
            logical_block_size: 512,
            device_uuid: [tag; 16],
        };
        let array = NewArray {
            name: "r".to_owned(),
            set_uuid: [9; 16],
            ctime: Timestamp::from_unix(1, 0),
            assume_clean: true,
            members: (1..=4).map(member).collect(),
        };
        let new = NewLevel { layout, log, strip_bytes: 64 << 10, ..NewLevel::new(level) };
        let creation = create_level(&array, &new).unwrap();
        let bitmap = match &creation {
            LevelCreation::Bitmap(creation) => Some(creation.bitmap.clone()),
            LevelCreation::Plain { .. } => None,
        };
        (creation.superblocks().to_vec(), bitmap)
    }

    fn with_bitmap(level: Level, layout: u32) -> (Vec<Superblock>, Option<BitmapSuperblock>) {
        array(level, layout, NewLog::Bitmap { chunk_bytes: Some(64 << 10) })
    }

    fn on(devices: &[u64], members: &[Superblock]) -> Vec<(Superblock, u64)> {
        members.iter().cloned().zip(devices.iter().map(|mib| mib * MIB)).collect()
    }

    #[test]
    fn the_smallest_member_decides() {
        for (level, layout) in
            [(Level::Raid1, 0), (Level::Raid5, 2), (Level::Raid6, 2), (Level::Raid10, 0x102)]
        {
            let (members, bitmap) = with_bitmap(level, layout);
            let growth =
                plan_growth(&on(&[256, 128, 200, 128], &members), bitmap.as_ref()).unwrap();
            let offset = members[0].data_offset_sectors;
            assert_eq!(growth.from_sectors, members[0].size_sectors);
            assert_eq!(growth.to_sectors, 128 * MIB - offset, "{level:?}");
            let head = growth.bitmap.as_ref().unwrap();
            let grown = &growth.superblocks[0];
            assert_eq!(head.sync_size_sectors, grown.sync_size_sectors());
            assert_eq!((head.events, grown.events), (members[0].events + 1, members[0].events + 1));
            assert_eq!(grown.data_size_sectors, 256 * MIB - offset);
            assert!(grown.is_clean());
            let zeroes = growth.zeroes();
            // Strips of 64 KiB as well, two copies.
            let sectors = if level == Level::Raid10 { 512 } else { 128 };
            assert_eq!((zeroes.start, zeroes.end - zeroes.start), (growth.from_sectors, sectors));
            // Parsed by its own rules.
            let mut bytes = [0; crate::md::BITMAP_HEAD_BYTES];
            head.encode_into(&mut bytes);
            assert_eq!(&BitmapSuperblock::parse(&bytes, grown).unwrap(), head);
        }
    }

    #[test]
    fn without_a_bitmap_the_new_part_is_to_be_resynced() {
        let (members, _) = array(Level::Raid1, 0, NewLog::None);
        let growth = plan_growth(&on(&[128; 4], &members), None).unwrap();
        assert!(growth.superblocks.iter().all(|own| !own.is_clean()));
        assert_eq!(growth.superblocks[0].resync_offset_sectors, growth.from_sectors);
        assert!(growth.zeroes().is_empty());
    }

    #[test]
    fn what_cannot_grow_says_why() {
        let refused = |(members, bitmap): (Vec<Superblock>, Option<BitmapSuperblock>), mib: u64| {
            plan_growth(&on(&[mib; 4], &members), bitmap.as_ref()).unwrap_err().to_string()
        };
        let (mut odd, bitmap) = with_bitmap(Level::Raid10, 0x103);
        odd.iter_mut().for_each(|own| own.size_sectors = 100 * 128);
        assert!(refused((odd, bitmap), 128).contains("last row is not full"));
        let text = refused(with_bitmap(Level::Raid10, 0x201), 128);
        assert!(text.contains("raid10") && text.contains("does not grow"), "{text}");
        assert!(refused(array(Level::Raid0, 1, NewLog::None), 128).contains("raid0"));
        assert!(refused(with_bitmap(Level::Raid1, 0), 64).contains("nothing to grow into"));
        let text = refused(with_bitmap(Level::Raid1, 0), 1 << 20);
        assert!(text.contains("room for") && text.contains("chunk_size_kib"), "{text}");
        let (mut members, bitmap) = with_bitmap(Level::Raid1, 0);
        members.iter_mut().for_each(|own| own.super_offset_sectors = 120_000);
        assert!(refused((members, bitmap), 128).contains("metadata 1.0"));
    }

    /// Power fails after each of the superblocks.
    #[test]
    fn a_growth_that_was_cut_off_is_found() {
        let (members, bitmap) = with_bitmap(Level::Raid5, 2);
        let growth = plan_growth(&on(&[128; 4], &members), bitmap.as_ref()).unwrap();
        for done in 0..=4 {
            let own = |at: usize| match at < done {
                true => (growth.superblocks[at].clone(), growth.bitmap.clone()),
                false => (members[at].clone(), bitmap.clone()),
            };
            let candidate = |at: usize| Candidate {
                device_sectors: 128 * MIB,
                superblock: own(at).0,
                bitmap: own(at).1.map(Ok),
            };
            let mut candidates: Vec<Candidate> = (0..4).map(candidate).collect();
            let Some(left) = unfinished(&candidates) else {
                assert!(done == 0 || done == 4);
                assert_eq!(assemble(&candidates).unwrap().in_sync_count(), 4);
                continue;
            };
            assert_eq!((left.grown, left.behind.len()), (0, 4 - done));
            for (at, superblock) in left.behind {
                assert_eq!(superblock, growth.superblocks[at]);
                candidates[at].superblock = superblock;
                candidates[at].bitmap = growth.bitmap.clone().map(Ok);
            }
            assert_eq!(unfinished(&candidates), None);
            assert_eq!(assemble(&candidates).unwrap().in_sync_count(), 4);
        }
        // One that was away for longer, or is too small, is not taken along.
        let mut stale = members[3].clone();
        stale.events -= 1;
        for (superblock, device_sectors) in [(stale, 128 * MIB), (members[3].clone(), 64 * MIB)] {
            let grown = Candidate {
                device_sectors: 128 * MIB,
                superblock: growth.superblocks[0].clone(),
                bitmap: None,
            };
            let other = Candidate { device_sectors, superblock, bitmap: None };
            assert_eq!(unfinished(&[grown, other]), None);
        }
    }
}
