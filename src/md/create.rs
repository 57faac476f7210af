//! Where everything lies on the members of a new array, and the first superblocks and bitmap head.
//!
//! ```text
//! sector 8            16                16+reserved   +8             data_offset (1 MiB multiple)
//!        │ superblock │ bitmap          │ bad-block   │ headroom,    │ data …
//!        │            │ (reserved)      │ log         │ about 0.1 %  │
//! ```
//!
//! mdadm puts its bad-block log 16 sectors behind the superblock, which is inside a lockless
//! bitmap: the first entry destroys states. mdof puts it into the 8 sectors behind the bitmap.
//! mdadm always sets 256 sectors aside for the bitmap; mdof sets aside
//! more on members above 127 GiB, so that a chunk stays at 1 MiB, and what it takes when the
//! operator asks for a chunk size. md takes the number from the bitmap head (`llbitmap_read_sb`),
//! and any chunk size that is a power of two and whose states fit.

use thiserror::Error;

use super::bad_blocks::BAD_BLOCK_LOG_SECTORS_MAX;
use super::bitmap_superblock::{
    BITMAP_CHUNKS_MAX, BITMAP_HEAD_BYTES, BitmapSuperblock, InitialState, chunk_sectors_for,
};
use super::types::{BadBlockLog, DevFlags, Features, Level, Role, Timestamp};
use super::{MAX_SECTOR, Reshape, SECTOR_BYTES, STATES_OFFSET_BYTES, Superblock};
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
/// Bytes of the largest area that mdof chooses by itself.
pub const BITMAP_AREA_BYTES_MAX: u64 = BITMAP_SECTORS_MAX as u64 * SECTOR_BYTES;
/// The chunk size that the space is chosen for: 1 MiB.
const CHUNK_SECTORS_TARGET: u64 = 2048;
/// Data starts at a multiple of 1 MiB.
const ALIGN_SECTORS: u64 = 2048;
/// Smallest chunk that can be asked for: 4 KiB, one logical block of 4096 bytes.
pub const CHUNK_KIB_MIN: u64 = 4;
/// Largest chunk that can be asked for: 1 GiB.
pub const CHUNK_KIB_MAX: u64 = 1 << 20;
/// Largest headroom: 128 MiB.
const HEADROOM_SECTORS_MAX: u64 = 262_144;
/// Members are used in units of 4 KiB, so that a 4 KiB member can replace a 512 B one.
pub(super) const SIZE_UNIT_SECTORS: u64 = 8;
/// At least one chunk of data.
pub(super) const SIZE_SECTORS_MIN: u64 = 128;
/// Role entries, as mdadm writes them.
const MAX_DEV: usize = 128;

const _: () = {
    assert!(MEMBERS_MAX <= MAX_DEV);
    assert!(BITMAP_AREA_BYTES_MAX.is_multiple_of(4096));
    assert!(BITMAP_SECTORS_MAX as u64 * SECTOR_BYTES >= (1 << 24) + STATES_OFFSET_BYTES);
    assert!(1 << 24 <= BITMAP_CHUNKS_MAX);
    // As the error says them.
    assert!(CHUNK_KIB_MIN == 4 && CHUNK_KIB_MAX == 1 << 20);
    // A chunk is stored as a number of sectors in 32 bits.
    assert!(CHUNK_KIB_MAX * 1024 / SECTOR_BYTES <= u32::MAX as u64);
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
    /// A chunk size that no bitmap has.
    #[error(
        "chunks of {bytes} bytes cannot be had: the size is a power of two from 4 KiB to 1 GiB"
    )]
    ChunkSize {
        /// What was asked for.
        bytes: u64,
    },
    /// More chunks than the largest bitmap has.
    #[error(
        "chunks of {kib} KiB are too small for members of this size: they make {chunks} chunks, \
         and a bitmap holds at most {BITMAP_CHUNKS_MAX}; use {fits_kib} KiB or more"
    )]
    TooManyChunks {
        /// What was asked for.
        kib: u64,
        /// Chunks that result.
        chunks: u64,
        /// The smallest that does.
        fits_kib: u64,
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

impl Creation {
    /// The bitmap is to lie elsewhere, at the beginning of a device of its own: the superblocks
    /// know of none, and call the array clean only if its members are alike without it.
    pub fn make_external(&mut self) {
        self.remove_bitmap();
        self.bitmap_sector = 0;
        for superblock in &mut self.superblocks {
            if self.initial_state == InitialState::Unwritten {
                superblock.resync_offset_sectors = 0;
            }
        }
    }

    /// The superblocks are to know of no bitmap.
    pub fn remove_bitmap(&mut self) {
        for superblock in &mut self.superblocks {
            superblock.features.remove(Features::BITMAP_OFFSET);
            superblock.bitmap_offset_sectors = 0;
        }
    }

    /// The bytes of the whole bitmap area, head and states, as they lie on every member.
    #[must_use]
    pub fn bitmap_area(&self) -> Vec<u8> {
        let length = |bytes: u64| usize::try_from(bytes).expect("bounded by BITMAP_CHUNKS_MAX");
        let mut bytes = vec![0; length(self.bitmap_area_sectors * SECTOR_BYTES)];
        let head = bytes.first_chunk_mut::<BITMAP_HEAD_BYTES>().expect("an area has a head");
        self.bitmap.encode_into(head);
        bytes[BITMAP_HEAD_BYTES..][..length(self.chunk_count)].fill(self.initial_state.byte());
        bytes
    }
}

/// Plans a new array with chunks of mdof's choice: at most 1 MiB on members up to 16 TiB. Pure:
/// what is already on the members is the caller's to ask about.
pub fn create(array: &NewArray) -> Result<Creation, CreateError> {
    create_with_chunk(array, None)
}

/// Like [`create`], with chunks of `chunk_bytes` where that is given: a power of two of KiB from
/// [`CHUNK_KIB_MIN`] to [`CHUNK_KIB_MAX`]. Room for their states is set aside.
pub fn create_with_chunk(
    array: &NewArray,
    chunk_bytes: Option<u64>,
) -> Result<Creation, CreateError> {
    let smallest = check_array(array)?;
    let wanted = chunk_bytes.map(chunk_sectors).transpose()?;
    let reserved = match wanted {
        None => bitmap_sectors(smallest),
        Some(chunk) => bitmap_sectors_for(smallest, chunk)?,
    };
    let data_offset = data_offset(smallest, reserved, 0);
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
    Ok(plan_bitmap(array, superblocks, wanted, reserved))
}

/// Makes the bitmap that goes with these superblocks, in the room set aside for it.
pub(super) fn plan_bitmap(
    array: &NewArray,
    mut superblocks: Vec<Superblock>,
    wanted: Option<u32>,
    reserved: u32,
) -> Creation {
    let (data_offset, sync_size) =
        (superblocks[0].data_offset_sectors, superblocks[0].sync_size_sectors());
    let chunk = wanted.or_else(|| chunk_sectors_for(sync_size, reserved));
    let chunk = chunk.expect("the area holds 2^15 states at least");
    let bitmap = BitmapSuperblock::created(&superblocks[0], chunk, reserved);
    for superblock in &mut superblocks {
        superblock.bblog = log_behind(superblock.bitmap_offset_sectors, reserved);
    }
    let bitmap_sector = superblocks[0].bitmap_sector().expect("a bitmap position was just set");
    assert!(bitmap_sector + u64::from(reserved) <= data_offset, "the bitmap ends before the data");
    let states = STATES_OFFSET_BYTES + bitmap.chunk_count();
    assert!(states <= u64::from(reserved) * SECTOR_BYTES, "the states fit their area");
    Creation {
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
    }
}

/// The bad-block log behind a bitmap, in md's size. It is empty, and no feature bit says that there
/// is one.
fn log_behind(bitmap_offset_sectors: i32, reserved: u32) -> BadBlockLog {
    let end = i32::try_from(reserved).ok().and_then(|it| it.checked_add(bitmap_offset_sectors));
    BadBlockLog {
        shift: 0,
        size_sectors: BAD_BLOCK_LOG_SECTORS_MAX,
        offset_sectors: end.expect("the area has some MiB"),
    }
}

/// Checks what does not depend on the level; returns the sectors of the smallest member.
pub(super) fn check_array(array: &NewArray) -> Result<u64, CreateError> {
    let smallest = check_members(&array.members)?;
    if !(1..=32).contains(&array.name.len()) || array.name.contains('\0') {
        return Err(CreateError::Name { name: array.name.clone() });
    }
    Ok(smallest)
}

/// Checks a chunk size that was asked for; returns its sectors.
pub(super) fn chunk_sectors(bytes: u64) -> Result<u32, CreateError> {
    let kib = bytes / 1024;
    let range = CHUNK_KIB_MIN..=CHUNK_KIB_MAX;
    if !bytes.is_power_of_two() || !range.contains(&kib) {
        return Err(CreateError::ChunkSize { bytes });
    }
    Ok(u32::try_from(bytes / SECTOR_BYTES).expect("CHUNK_KIB_MAX fits"))
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
pub(super) fn bitmap_sectors(device_sectors: u64) -> u32 {
    area_sectors(device_sectors.div_ceil(CHUNK_SECTORS_TARGET)).min(BITMAP_SECTORS_MAX)
}

/// Space for the bitmap when chunks are to have this size.
pub(super) fn bitmap_sectors_for(
    device_sectors: u64,
    chunk_sectors: u32,
) -> Result<u32, CreateError> {
    let chunks = device_sectors.div_ceil(u64::from(chunk_sectors));
    if chunks <= BITMAP_CHUNKS_MAX {
        return Ok(area_sectors(chunks));
    }
    let kib = |sectors: u64| sectors * SECTOR_BYTES / 1024;
    let fits = device_sectors.div_ceil(BITMAP_CHUNKS_MAX).next_power_of_two();
    Err(CreateError::TooManyChunks { kib: kib(chunk_sectors.into()), chunks, fits_kib: kib(fits) })
}

/// Sectors that a head and this many states take, at least mdadm's.
fn area_sectors(chunks: u64) -> u32 {
    let sectors = (STATES_OFFSET_BYTES + chunks).div_ceil(SECTOR_BYTES).next_multiple_of(8);
    u32::try_from(sectors).unwrap_or(u32::MAX).max(BITMAP_SECTORS_MIN)
}

/// mdadm's rule: metadata, then headroom of at most 0.1 % of the member but of two strips at least,
/// rounded up to 1 MiB.
pub(super) fn data_offset(device_sectors: u64, bitmap_sectors: u32, strip_sectors: u32) -> u64 {
    let mut headroom = HEADROOM_SECTORS_MAX;
    let strips = 2 * u64::from(strip_sectors);
    while headroom > strips && headroom << 10 > device_sectors {
        headroom >>= 1;
    }
    (FIXED_SECTORS + u64::from(bitmap_sectors) + headroom).next_multiple_of(ALIGN_SECTORS)
}

pub(super) fn superblock(array: &NewArray, slot: usize, size: u64, data_offset: u64) -> Superblock {
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

    /// Members of 2^shift sectors: KiB of a chunk, sectors of the bitmap area, MiB before the data.
    const BY_SIZE: [(u32, u64, u64, u64); 19] = [
        (17, 64, 256, 1),
        (18, 64, 256, 1),
        (19, 64, 256, 1),
        (20, 64, 256, 1),
        (21, 64, 256, 2),
        (22, 64, 256, 3),
        (23, 64, 256, 5),
        (24, 128, 256, 9),
        (25, 256, 256, 17),
        (26, 512, 256, 33),
        (27, 1024, 256, 65),
        (28, 1024, 264, 129),
        (29, 1024, 520, 129),
        (30, 1024, 1032, 129),
        (31, 1024, 2056, 130),
        (32, 1024, 4104, 131),
        (33, 1024, 8200, 133),
        (34, 1024, 16_392, 137),
        (35, 1024, 32_776, 145),
    ];

    #[test]
    fn default_chunks_by_size_are_these() {
        for (shift, chunk_kib, area_sectors, data_mib) in BY_SIZE {
            let creation = create(&new_array(&[1 << shift, 1 << shift])).unwrap();
            let chunk = u64::from(creation.bitmap.chunk_sectors().unwrap()) / 2;
            let data = creation.superblocks[0].data_offset_sectors / 2048;
            let found = (shift, chunk, creation.bitmap_area_sectors, data);
            assert_eq!(found, (shift, chunk_kib, area_sectors, data_mib));
            assert!(chunk <= 1024);
            assert!(creation.superblocks[0].data_offset_sectors.is_multiple_of(2048));
        }
    }

    #[test]
    fn a_chunk_size_that_is_asked_for_gets_its_room() {
        // Sectors of a member, KiB of a chunk, sectors of the area.
        let rows = [
            (1u64 << 21, 64, 256),
            (1 << 21, 4, 520),
            (1 << 31, 64, 32_776),
            (1 << 31, 1 << 20, 256),
            (1 << 33, 64, 131_080),
            (1 << 35, 512, 65_544),
        ];
        for (sectors, kib, area) in rows {
            let array = new_array(&[sectors, sectors]);
            let creation = create_with_chunk(&array, Some(kib * 1024)).unwrap();
            assert_eq!(creation.bitmap.chunk_sectors().map(u64::from), Some(kib * 2));
            assert_eq!(creation.bitmap_area_sectors, area, "{sectors} sectors, {kib} KiB");
            let size = creation.superblocks[0].size_sectors;
            assert_eq!(creation.chunk_count, size.div_ceil(kib * 2));
            // md's check at load: no less than the sectors by the bytes set aside.
            assert!(kib * 2 >= size.div_ceil(area * 512), "md refuses this chunk size");
            let mut head = [0; BITMAP_HEAD_BYTES];
            creation.bitmap.encode_into(&mut head);
            let read = BitmapSuperblock::parse(&head, &creation.superblocks[1]);
            assert_eq!(read.as_ref(), Ok(&creation.bitmap));
        }
    }

    #[test]
    fn chunk_sizes_that_cannot_be_are_refused_by_name() {
        let small = new_array(&[1 << 21, 1 << 21]);
        for bytes in [0, 1, 512, 2048, 3 << 12, (64 << 10) + 1, 2 << 30, u64::MAX] {
            let error = create_with_chunk(&small, Some(bytes)).unwrap_err();
            assert_eq!(error, CreateError::ChunkSize { bytes });
        }
        let large = new_array(&[1 << 35, 1 << 35]);
        let error = create_with_chunk(&large, Some(64 << 10)).unwrap_err();
        let told = CreateError::TooManyChunks { kib: 64, chunks: 1 << 28, fits_kib: 256 };
        assert_eq!(error, told);
        assert!(create_with_chunk(&large, Some(256 << 10)).is_ok());
        // The area would take all of the member.
        let tiny = new_array(&[2176, 2176]);
        assert!(create_with_chunk(&tiny, Some(4096)).is_ok());
    }

    #[test]
    fn the_bitmap_area_is_head_and_states() {
        let mut array = new_array(&[1 << 21, 1 << 21]);
        array.assume_clean = true;
        let creation = create(&array).unwrap();
        let area = creation.bitmap_area();
        assert_eq!(area.len() as u64, creation.bitmap_area_sectors * 512);
        let mut head = [0; BITMAP_HEAD_BYTES];
        creation.bitmap.encode_into(&mut head);
        assert_eq!(area[..BITMAP_HEAD_BYTES], head);
        let clean = area[BITMAP_HEAD_BYTES..].iter().take_while(|&&byte| byte == 1).count();
        assert_eq!(clean as u64, creation.chunk_count);
        assert!(area[BITMAP_HEAD_BYTES + clean..].iter().all(|&byte| byte == 0));
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
