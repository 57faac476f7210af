//! Where everything lies on the members of a new array, and the first superblocks and bitmap head.
//!
//! ```text
//! sector 8            16                16+reserved   +8             data_offset (1 MiB multiple)
//!        │ superblock │ bitmap          │ room for    │ headroom,    │ data …
//!        │            │ (reserved)      │ a log       │ about 0.1 %  │
//! ```
//!
//! mdadm puts its bad-block log 16 sectors behind the superblock, which is inside a lockless
//! bitmap: the first entry destroys states. mdof writes no log at all; the 8 sectors behind the
//! bitmap stay free for one. mdadm always sets 256 sectors aside for the bitmap; mdof sets aside
//! more on members above 127 GiB, so that a chunk stays at 1 MiB. md takes the number from the
//! bitmap head (`llbitmap_read_sb`).

use thiserror::Error;

use super::bitmap_superblock::{BitmapSuperblock, InitialState, chunk_sectors_for};
use super::types::{BadBlockLog, DevFlags, Features, Level, Role, Timestamp};
use super::{MAX_SECTOR, Reshape, Superblock};
use crate::limits::MEMBERS_MAX;

/// Position of a 1.2 superblock.
const SUPER_SECTOR: u64 = 8;
/// From the superblock to the bitmap: the superblock's own 4 KiB.
const BITMAP_OFFSET_SECTORS: i32 = 8;
/// Superblock, the 4 KiB before it, and room for a bad-block log: mdadm's 24 sectors.
const FIXED_SECTORS: u64 = 24;
/// mdadm's space for a lockless bitmap.
pub(super) const BITMAP_SECTORS_MIN: u32 = 256;
/// Space for 2^24 chunks: 1 MiB each up to 16 TiB.
const BITMAP_SECTORS_MAX: u32 = 32_776;
/// The chunk size that the space is chosen for: 1 MiB.
const CHUNK_SECTORS_TARGET: u64 = 2048;
/// Data starts at a multiple of 1 MiB.
const ALIGN_SECTORS: u64 = 2048;
/// Largest headroom: 128 MiB.
const HEADROOM_SECTORS_MAX: u64 = 262_144;
/// Members are used in units of 4 KiB, so that a 4 KiB member can replace a 512 B one.
const SIZE_UNIT_SECTORS: u64 = 8;
/// At least one chunk of data.
const SIZE_SECTORS_MIN: u64 = 128;
/// Role entries, as mdadm writes them.
const MAX_DEV: usize = 128;

const _: () = {
    assert!(MEMBERS_MAX <= MAX_DEV);
    assert!(BITMAP_SECTORS_MAX as u64 * 512 >= (1 << 24) + super::STATES_OFFSET_BYTES);
    assert!(BITMAP_SECTORS_MAX.is_multiple_of(8) && BITMAP_SECTORS_MIN.is_multiple_of(8));
};

/// One member of an array to create.
#[derive(Debug, Clone, Copy)]
pub struct NewMember {
    /// Size of the whole device.
    pub device_sectors: u64,
    /// Its logical block size in bytes.
    pub logical_block_size: u32,
    /// Random identity for it.
    pub device_uuid: [u8; 16],
}

/// A RAID1 array to create with a lockless bitmap.
#[derive(Debug, Clone)]
pub struct NewArray {
    /// Name, at most 32 bytes, without NUL.
    pub name: String,
    /// Random identity.
    pub set_uuid: [u8; 16],
    /// Creation time, passed in.
    pub ctime: Timestamp,
    /// The operator vouches that the members are alike (all zero, for instance).
    pub assume_clean: bool,
    /// One member a slot, slot 0 first.
    pub members: Vec<NewMember>,
}

/// Why an array cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CreateError {
    /// Too few or too many members.
    #[error("a RAID1 array takes 2 to {MEMBERS_MAX} members, {given} were given")]
    MemberCount {
        /// Members given.
        given: usize,
    },
    /// A member without room.
    #[error(
        "member {index} is too small: it has {have_sectors} sectors of 512 bytes, \
         {need_sectors} are needed for metadata and the smallest array"
    )]
    MemberTooSmall {
        /// Which member.
        index: usize,
        /// Its size.
        have_sectors: u64,
        /// What would do.
        need_sectors: u64,
    },
    /// A member larger than sector arithmetic carries.
    #[error("member {index} claims {sectors} sectors; mdof handles up to 2^54")]
    MemberTooLarge {
        /// Which member.
        index: usize,
        /// Its size.
        sectors: u64,
    },
    /// Logical block sizes differ.
    #[error(
        "member 0 has logical blocks of {first} bytes, member {index} of {other}: \
         give members with equal blocks"
    )]
    MixedBlockSizes {
        /// Of member 0.
        first: u32,
        /// Which member differs.
        index: usize,
        /// Of that one.
        other: u32,
    },
    /// A logical block size md cannot have on 1.2 metadata.
    #[error("logical blocks of {found} bytes are not supported; use 512 or 4096")]
    BlockSize {
        /// What was given.
        found: u32,
    },
    /// Two members with one identity.
    #[error("members {first} and {second} were given the same device uuid")]
    DuplicateUuid {
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A name md cannot hold.
    #[error("the array name {name:?} does not fit: 1 to 32 bytes, no NUL")]
    Name {
        /// The name.
        name: String,
    },
}

/// All that has to be written to the members of a new array: on each its superblock, and on each
/// the same bitmap head and `chunk_count` states of `initial_state`. Write the bitmap first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// One a member, in slot order.
    pub superblocks: Vec<Superblock>,
    /// The same on all members.
    pub bitmap: BitmapSuperblock,
    /// State of every chunk.
    pub initial_state: InitialState,
    /// States behind the head.
    pub chunk_count: u64,
    /// Sector of the bitmap head, the same on all members.
    pub bitmap_sector: u64,
    /// Sectors set aside for head and states.
    pub bitmap_area_sectors: u64,
}

/// Plans a new array. Pure: what is already on the members is the caller's to ask about.
pub fn create(array: &NewArray) -> Result<Creation, CreateError> {
    let smallest = check_members(&array.members)?;
    if !(1..=32).contains(&array.name.len()) || array.name.contains('\0') {
        return Err(CreateError::Name { name: array.name.clone() });
    }
    let reserved = bitmap_sectors(smallest);
    let data_offset = data_offset(smallest, reserved);
    for (index, member) in array.members.iter().enumerate() {
        let need_sectors = data_offset + SIZE_SECTORS_MIN;
        if member.device_sectors < need_sectors {
            let have_sectors = member.device_sectors;
            return Err(CreateError::MemberTooSmall { index, have_sectors, need_sectors });
        }
    }
    let size = (smallest - data_offset) & !(SIZE_UNIT_SECTORS - 1);
    let superblocks: Vec<_> =
        (0..array.members.len()).map(|slot| superblock(array, slot, size, data_offset)).collect();
    let chunk = chunk_sectors_for(size, reserved).expect("the area holds 2^15 states at least");
    let bitmap = BitmapSuperblock::created(&superblocks[0], chunk, reserved);
    let bitmap_sector = superblocks[0].bitmap_sector().expect("a bitmap position was just set");
    assert!(bitmap_sector + u64::from(reserved) <= data_offset, "the bitmap ends before the data");
    Ok(Creation {
        initial_state: if array.assume_clean {
            InitialState::Clean
        } else {
            InitialState::Unwritten
        },
        chunk_count: bitmap.chunk_count(),
        bitmap_area_sectors: u64::from(reserved),
        bitmap_sector,
        bitmap,
        superblocks,
    })
}

/// Returns the sectors of the smallest member.
fn check_members(members: &[NewMember]) -> Result<u64, CreateError> {
    if !(2..=MEMBERS_MAX).contains(&members.len()) {
        return Err(CreateError::MemberCount { given: members.len() });
    }
    let first = members[0].logical_block_size;
    if first != 512 && first != 4096 {
        return Err(CreateError::BlockSize { found: first });
    }
    for (index, member) in members.iter().enumerate() {
        if member.device_sectors > 1 << 54 {
            return Err(CreateError::MemberTooLarge { index, sectors: member.device_sectors });
        }
        if member.logical_block_size != first {
            let other = member.logical_block_size;
            return Err(CreateError::MixedBlockSizes { first, index, other });
        }
        let twin = members[..index].iter().position(|m| m.device_uuid == member.device_uuid);
        if let Some(twin) = twin {
            return Err(CreateError::DuplicateUuid { first: twin, second: index });
        }
    }
    Ok(members.iter().map(|member| member.device_sectors).min().expect("two members at least"))
}

/// Space for the bitmap of members of this size: mdadm's, or what 1 MiB chunks take.
fn bitmap_sectors(device_sectors: u64) -> u32 {
    let chunks = device_sectors.div_ceil(CHUNK_SECTORS_TARGET);
    let sectors = (super::STATES_OFFSET_BYTES + chunks).div_ceil(super::SECTOR_BYTES);
    u32::try_from(sectors.next_multiple_of(8))
        .unwrap_or(BITMAP_SECTORS_MAX)
        .clamp(BITMAP_SECTORS_MIN, BITMAP_SECTORS_MAX)
}

/// mdadm's rule: metadata, then headroom of at most 0.1 % of the member, rounded up to 1 MiB.
fn data_offset(device_sectors: u64, bitmap_sectors: u32) -> u64 {
    let mut headroom = HEADROOM_SECTORS_MAX;
    while headroom > 0 && headroom << 10 > device_sectors {
        headroom >>= 1;
    }
    (FIXED_SECTORS + u64::from(bitmap_sectors) + headroom).next_multiple_of(ALIGN_SECTORS)
}

fn superblock(array: &NewArray, slot: usize, size: u64, data_offset: u64) -> Superblock {
    let member = &array.members[slot];
    let mut roles = vec![Role::Spare; MAX_DEV];
    for (index, role) in roles.iter_mut().take(array.members.len()).enumerate() {
        *role = Role::Active(u16::try_from(index).expect("at most MEMBERS_MAX"));
    }
    let mut set_name = [0; 32];
    set_name[..array.name.len()].copy_from_slice(array.name.as_bytes());
    let mut superblock = Superblock {
        features: Features::BITMAP_OFFSET,
        set_uuid: array.set_uuid,
        set_name,
        ctime: array.ctime,
        level: Level::Raid1,
        layout: 0,
        size_sectors: size,
        chunk_sectors: 0,
        raid_disks: u32::try_from(array.members.len()).expect("at most MEMBERS_MAX"),
        bitmap_offset_sectors: BITMAP_OFFSET_SECTORS,
        reshape: Reshape::default(),
        data_offset_sectors: data_offset,
        data_size_sectors: member.device_sectors - data_offset,
        super_offset_sectors: SUPER_SECTOR,
        recovery_offset_sectors: 0,
        dev_number: u32::try_from(slot).expect("at most MEMBERS_MAX"),
        corrected_reads: 0,
        device_uuid: member.device_uuid,
        devflags: DevFlags::empty(),
        bblog: BadBlockLog::default(),
        utime: array.ctime,
        // As after a first clean start and stop: the states are initialised, nothing is dirty.
        events: 1,
        resync_offset_sectors: MAX_SECTOR,
        logical_block_size: member.logical_block_size,
        roles,
    };
    superblock.updated_at(array.ctime.seconds(), true);
    superblock
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::md::Unverified;

    pub(super) fn new_array(sizes: &[u64]) -> NewArray {
        let member = |(index, &device_sectors): (usize, &u64)| NewMember {
            device_sectors,
            logical_block_size: 512,
            device_uuid: [u8::try_from(index).unwrap() + 1; 16],
        };
        NewArray {
            name: "host:demo".to_owned(),
            set_uuid: [0xa5; 16],
            ctime: Timestamp::from_unix(1_700_000_000, 5),
            assume_clean: false,
            members: sizes.iter().enumerate().map(member).collect(),
        }
    }

    #[test]
    fn places_data_where_mdadm_does() {
        // 256 MiB members of the images: 2048. mdadm 4.6 on 1 GiB: 2 MiB.
        for (size, expected) in [(524_288, 2048), (2_097_152, 4096), (1 << 35, 296_960)] {
            let creation = create(&new_array(&[size, size])).unwrap();
            assert_eq!(creation.superblocks[0].data_offset_sectors, expected, "{size} sectors");
        }
        let creation = create(&new_array(&[524_288, 524_288])).unwrap();
        assert_eq!(creation.superblocks[1].size_sectors, 522_240);
        assert_eq!((creation.chunk_count, creation.bitmap_area_sectors), (4080, 256));
    }

    #[test]
    fn chunks_stay_at_one_mib_up_to_16_tib() {
        for shift in 22..=35 {
            for size in [(1u64 << shift) - 1, 1 << shift, (3 << shift) / 4] {
                let creation = create(&new_array(&[size, size])).unwrap();
                let chunk = creation.bitmap.chunk_sectors().unwrap();
                assert!(chunk <= 2048, "{size} sectors: chunk {chunk}");
            }
        }
        let creation = create(&new_array(&[1 << 36, 1 << 36])).unwrap();
        assert_eq!(creation.bitmap.chunk_sectors(), Some(4096));
    }

    #[test]
    fn refuses_by_name() {
        use CreateError as E;
        let too_small = create(&new_array(&[1 << 20, 2175])).unwrap_err();
        let need_sectors = 2176;
        assert_eq!(too_small, E::MemberTooSmall { index: 1, have_sectors: 2175, need_sectors });
        assert!(create(&new_array(&[2176, 2176])).is_ok());
        assert_eq!(create(&new_array(&[4096])), Err(E::MemberCount { given: 1 }));
        let mut mixed = new_array(&[1 << 20, 1 << 20]);
        mixed.members[1].logical_block_size = 4096;
        let error = E::MixedBlockSizes { first: 512, index: 1, other: 4096 };
        assert_eq!(create(&mixed), Err(error));
        let mut twins = new_array(&[1 << 20, 1 << 20]);
        twins.members[1].device_uuid = twins.members[0].device_uuid;
        assert_eq!(create(&twins), Err(E::DuplicateUuid { first: 0, second: 1 }));
        let mut long = new_array(&[1 << 20, 1 << 20]);
        long.name = "x".repeat(33);
        assert!(matches!(create(&long), Err(E::Name { .. })));
    }

    proptest! {
        #[test]
        fn what_is_created_is_read_back(
            sizes in proptest::collection::vec(2176u64..1 << 40, 2..6), four_k: bool
        ) {
            let mut array = new_array(&sizes);
            for member in &mut array.members {
                member.logical_block_size = if four_k { 4096 } else { 512 };
            }
            let Ok(creation) = create(&array) else {
                // Only a mix of sizes so far apart that the smallest has no room.
                return Err(TestCaseError::fail("2176 sectors are enough"));
            };
            let mut head = [0; 1024];
            creation.bitmap.encode_into(&mut head);
            for superblock in &creation.superblocks {
                let mut block = [0xee; 4096];
                superblock.encode_into(&mut block);
                let read = Unverified::parse(&block, 8);
                prop_assert_eq!(read.as_ref(), Ok(superblock));
                let bitmap = BitmapSuperblock::parse(&head, superblock);
                prop_assert_eq!(bitmap.as_ref(), Ok(&creation.bitmap));
                let area = creation.bitmap_area_sectors * 512;
                prop_assert!(super::super::STATES_OFFSET_BYTES + creation.chunk_count <= area);
            }
        }
    }
}
