//! The array superblock: refused, or parsed into values that can be trusted.

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::error::SuperblockError;
use super::raw::{FIXED_BYTES, RawSuperblock, checksum};
use super::types::{BadBlockLog, DevFlags, Features, Level, MinorVersion, Role, Timestamp};
use super::{MAX_SECTOR, format_uuid};

/// md's magic number of a superblock.
pub(crate) const MAGIC: u32 = 0xa92b_4efc;

/// Bytes to read at a candidate sector; no superblock is longer.
pub const SUPERBLOCK_READ_BYTES: usize = 4096;

/// Sectors of a superblock with the largest role table.
pub(crate) const SUPERBLOCK_SECTORS: u64 = 8;

/// Role entries that fit the 4 KiB of a superblock.
pub(crate) const MAX_DEV_LIMIT: u32 = 1920;

/// md refuses a member with less room than this.
const DATA_SECTORS_MIN: u64 = 10;

/// No array gets so far: the count goes up with each start, stop and failure. What adds to it never
/// overflows.
const EVENTS_MAX: u64 = 1 << 62;

/// See [`Superblock::unwritten_reads_zero`].
const ZERO_MARK_MICROSECONDS: u32 = 606_060;

/// See [`Superblock::is_ours`].
const OWN_MARK_MICROSECONDS: u32 = 606_061;

/// See [`Superblock::has_stripe_log`]: alone, and together with that of Unwritten chunks.
const LOG_MARK_MICROSECONDS: [u32; 2] = [606_062, 606_063];

const _: () = assert!(FIXED_BYTES + 2 * MAX_DEV_LIMIT as usize == SUPERBLOCK_READ_BYTES);

/// Bytes that may be a superblock. Only [`Unverified::parse`] leads to a [`Superblock`].
#[derive(Debug)]
pub struct Unverified<'a> {
    bytes: &'a [u8],
    raw: &'a RawSuperblock,
}

impl<'a> Unverified<'a> {
    /// Reads the superblock that was read from `sector` of a member; `bytes` are best
    /// [`SUPERBLOCK_READ_BYTES`] long.
    pub fn parse(bytes: &'a [u8], sector: u64) -> Result<Superblock, SuperblockError> {
        let unverified = Self::frame(bytes)?;
        unverified.check_content(sector)?;
        unverified.trusted()
    }

    /// Magic, version, length and checksum: after this the bytes are what md wrote.
    fn frame(bytes: &'a [u8]) -> Result<Self, SuperblockError> {
        let short = |need_bytes| SuperblockError::Truncated { have_bytes: bytes.len(), need_bytes };
        let (raw, _) = RawSuperblock::ref_from_prefix(bytes).map_err(|_| short(FIXED_BYTES))?;
        if raw.magic.get() != MAGIC {
            return Err(SuperblockError::Magic { found: raw.magic.get() });
        }
        if raw.major_version.get() != 1 {
            return Err(SuperblockError::MajorVersion { found: raw.major_version.get() });
        }
        let max_dev = raw.max_dev.get();
        if max_dev > MAX_DEV_LIMIT {
            return Err(SuperblockError::MaxDev { found: max_dev });
        }
        let length = encoded_bytes(max_dev);
        let bytes = bytes.get(..length).ok_or_else(|| short(length))?;
        let (stored, computed) = (raw.sb_csum.get(), checksum(bytes));
        if stored != computed {
            return Err(SuperblockError::Checksum { stored, computed });
        }
        Ok(Unverified { bytes, raw })
    }

    /// What md checks beyond the checksum, and the ranges that later arithmetic relies on.
    fn check_content(&self, sector: u64) -> Result<(), SuperblockError> {
        let raw = self.raw;
        let field = |field, value| Err(SuperblockError::Field { field, value });
        if raw.super_offset.get() != sector {
            return Err(SuperblockError::Position {
                stored: raw.super_offset.get(),
                read_from: sector,
            });
        }
        let features = Features::from_bits_truncate(raw.feature_map.get());
        let unknown = raw.feature_map.get() & !features.bits();
        if unknown != 0 {
            return Err(SuperblockError::UnknownFeatures { unknown, known: features.names() });
        }
        if raw.pad0.get() != 0 {
            return Err(SuperblockError::Padding { offset: 12 });
        }
        if raw.pad3 != [0; 28] {
            return Err(SuperblockError::Padding { offset: 228 });
        }
        let (data_offset, data_size) = (raw.data_offset.get(), raw.data_size.get());
        if data_size < DATA_SECTORS_MIN {
            return field("data_size", data_size);
        }
        // The end in bytes must fit too: callers multiply by the sector size.
        let end = data_offset.checked_add(data_size).and_then(|end| end.checked_mul(512));
        if end.is_none() {
            return field("data_offset", data_offset);
        }
        if raw.size.get() > data_size {
            return field("size", raw.size.get());
        }
        if MinorVersion::at_sector(sector) == MinorVersion::V1_0 {
            if data_offset < sector && data_offset + data_size > sector {
                return field("data_size", data_size);
            }
        } else if data_offset < sector + SUPERBLOCK_SECTORS {
            return field("data_offset", data_offset);
        }
        if raw.raid_disks.get() == 0 || raw.raid_disks.get() > raw.max_dev.get() {
            return field("raid_disks", u64::from(raw.raid_disks.get()));
        }
        let block = raw.logical_block_size.get();
        if block != 0 && !(block.is_power_of_two() && (512..=65536).contains(&block)) {
            return field("logical_block_size", u64::from(block));
        }
        if raw.events.get() > EVENTS_MAX {
            return field("events", raw.events.get());
        }
        Ok(())
    }

    fn trusted(&self) -> Result<Superblock, SuperblockError> {
        let raw = self.raw;
        let level = raw.level.get();
        let level = Level::from_raw(level).ok_or(SuperblockError::Level { found: level })?;
        let (entries, _) = self.bytes[FIXED_BYTES..].as_chunks::<2>();
        let mut roles = Vec::with_capacity(entries.len());
        for entry in entries {
            let value = u16::from_le_bytes(*entry);
            let role = Role::from_raw(value);
            roles.push(
                role.ok_or(SuperblockError::Field { field: "role", value: u64::from(value) })?,
            );
        }
        Ok(Superblock {
            features: Features::from_bits_truncate(raw.feature_map.get()),
            set_uuid: raw.set_uuid,
            set_name: raw.set_name,
            ctime: Timestamp::from_raw(raw.ctime.get()),
            level,
            layout: raw.layout.get(),
            size_sectors: raw.size.get(),
            chunk_sectors: raw.chunksize.get(),
            raid_disks: raw.raid_disks.get(),
            bitmap_offset_sectors: raw.bitmap_offset.get(),
            reshape: Reshape {
                new_level: raw.new_level.get(),
                position_sectors: raw.reshape_position.get(),
                delta_disks: raw.delta_disks.get(),
                new_layout: raw.new_layout.get(),
                new_chunk_sectors: raw.new_chunk.get(),
                new_offset_sectors: raw.new_offset.get(),
            },
            data_offset_sectors: raw.data_offset.get(),
            data_size_sectors: raw.data_size.get(),
            super_offset_sectors: raw.super_offset.get(),
            recovery_offset_sectors: raw.recovery_offset.get(),
            dev_number: raw.dev_number.get(),
            corrected_reads: raw.cnt_corrected_read.get(),
            device_uuid: raw.device_uuid,
            devflags: DevFlags::from_bits_retain(raw.devflags),
            bblog: BadBlockLog {
                shift: raw.bblog_shift,
                size_sectors: raw.bblog_size.get(),
                offset_sectors: raw.bblog_offset.get(),
            },
            utime: Timestamp::from_raw(raw.utime.get()),
            events: raw.events.get(),
            resync_offset_sectors: raw.resync_offset.get(),
            logical_block_size: raw.logical_block_size.get(),
            roles,
        })
    }
}

/// Bytes of a superblock with `max_dev` role entries.
fn encoded_bytes(max_dev: u32) -> usize {
    FIXED_BYTES + 2 * usize::try_from(max_dev).expect("bounded by MAX_DEV_LIMIT")
}

/// The reshape fields; meaningful with [`Features::RESHAPE_ACTIVE`], else kept as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reshape {
    /// Level after the reshape.
    pub new_level: i32,
    /// Array sector reached.
    pub position_sectors: u64,
    /// Change of the number of slots.
    pub delta_disks: i32,
    /// Layout after the reshape.
    pub new_layout: u32,
    /// Chunk after the reshape.
    pub new_chunk_sectors: u32,
    /// Added to the data offset.
    pub new_offset_sectors: i32,
}

/// A superblock whose checksum, position and ranges have been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// `feature_map`.
    pub features: Features,
    /// Identity of the array.
    pub set_uuid: [u8; 16],
    /// Name of the array, NUL padded; see [`Superblock::name`].
    pub set_name: [u8; 32],
    /// Creation time.
    pub ctime: Timestamp,
    /// RAID level.
    pub level: Level,
    /// Layout word, by level.
    pub layout: u32,
    /// Sectors used of each member.
    pub size_sectors: u64,
    /// Stripe chunk, 0 for RAID1.
    pub chunk_sectors: u32,
    /// Slots of the array: at least 1, at most the entries of `roles`.
    pub raid_disks: u32,
    /// From the superblock to the bitmap's, valid with [`Features::BITMAP_OFFSET`]; holds a PPL's
    /// position with [`Features::PPL`].
    pub bitmap_offset_sectors: i32,
    /// Reshape fields.
    pub reshape: Reshape,
    /// First sector of data on this member.
    pub data_offset_sectors: u64,
    /// Sectors usable for data on this member, at least `size_sectors`.
    pub data_size_sectors: u64,
    /// Sector of this superblock.
    pub super_offset_sectors: u64,
    /// Sectors rebuilt, valid with [`Features::RECOVERY_OFFSET`]; a journal device's tail.
    pub recovery_offset_sectors: u64,
    /// Index of this member into `roles`; never changes while it belongs to the array.
    pub dev_number: u32,
    /// Read errors corrected by rewriting.
    pub corrected_reads: u32,
    /// Identity of this member.
    pub device_uuid: [u8; 16],
    /// Flags of this member.
    pub devflags: DevFlags,
    /// Bad-block log of this member.
    pub bblog: BadBlockLog,
    /// Last update.
    pub utime: Timestamp,
    /// Event count.
    pub events: u64,
    /// [`MAX_SECTOR`] when clean; 0 while in use; else the checkpoint of a resync.
    pub resync_offset_sectors: u64,
    /// Logical block size of the array in bytes; 0 when it never ran.
    pub logical_block_size: u32,
    /// Role of each device number; as long as md's `max_dev`.
    pub roles: Vec<Role>,
}

impl Superblock {
    /// Minor version of the format, by position.
    pub fn minor_version(&self) -> MinorVersion {
        MinorVersion::at_sector(self.super_offset_sectors)
    }

    /// Role of device number `dev_number`; a number outside the table is a spare, as in md.
    pub fn role_of(&self, dev_number: u32) -> Role {
        let index = usize::try_from(dev_number).unwrap_or(usize::MAX);
        self.roles.get(index).copied().unwrap_or(Role::Spare)
    }

    /// Role that this member gives itself.
    pub fn own_role(&self) -> Role {
        self.role_of(self.dev_number)
    }

    /// Changes the role of device number `dev_number`, which must be in the table.
    pub fn set_role(&mut self, dev_number: u32, role: Role) {
        let index = usize::try_from(dev_number).expect("u32 fits usize here");
        assert!(index < self.roles.len(), "device number {dev_number} has no role entry");
        self.roles[index] = role;
    }

    /// Sets the time of the update that is about to be written, and in it whether chunks that the
    /// bitmap calls Unwritten read as zeroes ([`Superblock::unwritten_reads_zero`]).
    pub fn updated_at(&mut self, now_s: u64, unwritten_reads_zero: bool) {
        let mark =
            if unwritten_reads_zero { ZERO_MARK_MICROSECONDS } else { OWN_MARK_MICROSECONDS };
        self.utime_from(now_s, mark);
    }

    /// Sets the time of the last update.
    pub fn utime_from(&mut self, now_s: u64, microseconds: u32) {
        self.utime = Timestamp::from_unix(now_s, microseconds);
    }

    /// Whether mdof wrote this superblock last and kept its rule that a chunk called Unwritten
    /// holds nothing. The kernel calls chunks Unwritten that hold data (a discard which covers a
    /// part of its last chunk), so after it has run an array, what the members hold there counts.
    ///
    /// The mark lies where nobody looks and where every update by the kernel wipes it: in the
    /// microseconds of the update time, which the kernel always writes as 0 and never reads.
    pub fn unwritten_reads_zero(&self) -> bool {
        let microseconds = self.utime.microseconds();
        [ZERO_MARK_MICROSECONDS, LOG_MARK_MICROSECONDS[1]].map(u64::from).contains(&microseconds)
    }

    /// Notes in the update that is about to be written that mdof's stripe log is kept: after
    /// [`Superblock::updated_at`].
    pub fn mark_stripe_log(&mut self) {
        let both = usize::from(self.unwritten_reads_zero());
        self.utime_from(self.utime.seconds(), LOG_MARK_MICROSECONDS[both]);
    }

    /// Whether mdof wrote this superblock last and kept its stripe log ([`super::stripe_log`]) as
    /// it did. The mark is where the other one is, for the same reasons.
    pub fn has_stripe_log(&self) -> bool {
        LOG_MARK_MICROSECONDS.map(u64::from).contains(&self.utime.microseconds())
    }

    /// Whether mdof wrote this superblock last, so that what it keeps in the bitmap's header for
    /// itself is of today. The mark lies where that of [`Superblock::unwritten_reads_zero`] does.
    pub fn is_ours(&self) -> bool {
        self.unwritten_reads_zero()
            || self.has_stripe_log()
            || self.utime.microseconds() == u64::from(OWN_MARK_MICROSECONDS)
    }

    /// The array was stopped (or idle) with its members alike.
    pub fn is_clean(&self) -> bool {
        self.resync_offset_sectors == MAX_SECTOR
    }

    /// The member has yet to be given something. Linux md also notes one that it takes out of use
    /// for a moment, to build parity lazily, as being rebuilt, but as past the last sector: what
    /// is missing there the bitmap knows.
    pub fn is_rebuilding(&self) -> bool {
        self.features.contains(Features::RECOVERY_OFFSET)
            && self.recovery_offset_sectors != MAX_SECTOR
    }

    /// Sector of the bitmap superblock, if the array has an internal bitmap whose position makes
    /// sense on this member.
    pub fn bitmap_sector(&self) -> Option<u64> {
        if !self.features.contains(Features::BITMAP_OFFSET) || self.bitmap_offset_sectors == 0 {
            return None;
        }
        self.super_offset_sectors.checked_add_signed(i64::from(self.bitmap_offset_sectors))
    }

    /// Name of the array up to the first NUL, with `?` for what is not UTF-8.
    pub fn name(&self) -> String {
        let end = self.set_name.iter().position(|&byte| byte == 0).unwrap_or(self.set_name.len());
        String::from_utf8_lossy(&self.set_name[..end]).replace('\u{fffd}', "?")
    }

    /// The array's uuid as mdadm prints it.
    pub fn set_uuid_text(&self) -> String {
        format_uuid(&self.set_uuid)
    }

    /// Bytes that md defines; what is written is rounded up to the logical block size.
    pub fn encoded_bytes(&self) -> usize {
        FIXED_BYTES + 2 * self.roles.len()
    }

    /// Writes the superblock with its checksum to the start of `out` and zeroes the rest of `out`
    /// (one or more logical blocks). Returns the bytes that md defines. Allocates nothing.
    pub fn encode_into(&self, out: &mut [u8]) -> usize {
        let length = self.encoded_bytes();
        assert!(length <= SUPERBLOCK_READ_BYTES, "{} roles do not fit", self.roles.len());
        assert!(out.len() >= length, "{} bytes do not hold a superblock", out.len());
        let (head, rest) = out.split_at_mut(length);
        rest.fill(0);
        let (fixed, table) = head.split_at_mut(FIXED_BYTES);
        fixed.copy_from_slice(self.raw().as_bytes());
        let (entries, _) = table.as_chunks_mut::<2>();
        for (entry, role) in entries.iter_mut().zip(&self.roles) {
            *entry = role.to_raw().to_le_bytes();
        }
        let sum = U32::new(checksum(head));
        let (raw, _) = RawSuperblock::mut_from_prefix(head).expect("head holds the fixed part");
        raw.sb_csum = sum;
        length
    }

    /// The fixed part with the checksum still zero.
    fn raw(&self) -> RawSuperblock {
        RawSuperblock {
            magic: U32::new(MAGIC),
            major_version: U32::new(1),
            feature_map: U32::new(self.features.bits()),
            pad0: U32::new(0),
            set_uuid: self.set_uuid,
            set_name: self.set_name,
            ctime: U64::new(self.ctime.to_raw()),
            level: I32::new(self.level.number()),
            layout: U32::new(self.layout),
            size: U64::new(self.size_sectors),
            chunksize: U32::new(self.chunk_sectors),
            raid_disks: U32::new(self.raid_disks),
            bitmap_offset: I32::new(self.bitmap_offset_sectors),
            new_level: I32::new(self.reshape.new_level),
            reshape_position: U64::new(self.reshape.position_sectors),
            delta_disks: I32::new(self.reshape.delta_disks),
            new_layout: U32::new(self.reshape.new_layout),
            new_chunk: U32::new(self.reshape.new_chunk_sectors),
            new_offset: I32::new(self.reshape.new_offset_sectors),
            data_offset: U64::new(self.data_offset_sectors),
            data_size: U64::new(self.data_size_sectors),
            super_offset: U64::new(self.super_offset_sectors),
            recovery_offset: U64::new(self.recovery_offset_sectors),
            dev_number: U32::new(self.dev_number),
            cnt_corrected_read: U32::new(self.corrected_reads),
            device_uuid: self.device_uuid,
            devflags: self.devflags.bits(),
            bblog_shift: self.bblog.shift,
            bblog_size: U16::new(self.bblog.size_sectors),
            bblog_offset: I32::new(self.bblog.offset_sectors),
            utime: U64::new(self.utime.to_raw()),
            events: U64::new(self.events),
            resync_offset: U64::new(self.resync_offset_sectors),
            sb_csum: U32::new(0),
            max_dev: U32::new(u32::try_from(self.roles.len()).expect("at most MAX_DEV_LIMIT")),
            logical_block_size: U32::new(self.logical_block_size),
            pad3: [0; 28],
        }
    }
}

/// Sectors where a superblock may lie on a member of this size, in the order to try: 1.2, 1.1, 1.0.
pub fn candidate_sectors(device_sectors: u64) -> impl Iterator<Item = u64> {
    let end = device_sectors.checked_sub(16).map(|sector| sector & !7);
    [Some(8), Some(0), end.filter(|&sector| sector > 8)].into_iter().flatten().filter(
        // md reads 4 KiB at each of them.
        move |sector| sector + SUPERBLOCK_SECTORS <= device_sectors,
    )
}
