//! The head of the write-intent bitmap, and where the state of a chunk lies behind it.
//!
//! ```text
//! bitmap sector + 0          256             1024 (STATES_OFFSET_BYTES)
//!               │ BitmapRaw  │ 0xff, unused   │ state of chunk 0, 1, 2 … one byte each
//! ```
//!
//! mdadm fills bytes 256 to 1023 with 0xff and the kernel writes them back as it read them. mdof
//! writes 0xff too, so that a head goes through it unchanged; settings that md has no field for
//! lie at their beginning, see [`super::Settings`].

use core::mem::{offset_of, size_of};

use bitflags::bitflags;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::BitmapError;
use super::settings::{SETTINGS_OFFSET_BYTES, Settings};
use super::superblock::SUPERBLOCK_SECTORS;
use super::types::{Features, MinorVersion};
use super::{SECTOR_BYTES, Superblock, format_uuid};

/// "bitm", little-endian.
pub(super) const MAGIC: u32 = 0x6d74_6962;

/// Bytes of the head: header and unused space up to the first state.
pub const BITMAP_HEAD_BYTES: usize = 1024;

/// The state of chunk 0 lies this far behind the start of the bitmap superblock.
pub const STATES_OFFSET_BYTES: u64 = 1024;

/// Chunks that mdof tracks at most: one byte of memory each, so 64 MiB. The kernel has no such
/// bound, but its 128 KiB default area holds 2^17.
pub const BITMAP_CHUNKS_MAX: u64 = 1 << 26;

/// Smallest lockless chunk (64 KiB), where md starts doubling.
const CHUNK_SECTORS_MIN: u32 = 128;

/// Daemon period of a lockless bitmap that the kernel has just initialised.
const DAEMON_SLEEP_S: u32 = 30;

/// mdadm's space for a lockless bitmap.
const RESERVED_SECTORS: u32 = super::create::BITMAP_SECTORS_MIN;

const UNUSED_BYTE: u8 = 0xff;

const _: () = assert!(BITMAP_HEAD_BYTES as u64 == STATES_OFFSET_BYTES);
const _: () = assert!(SETTINGS_OFFSET_BYTES == size_of::<BitmapRaw>());

/// `bitmap_super_t` (md-bitmap.h, "the superblock at the front of the bitmap file").
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BitmapRaw {
    /// "bitm".
    magic: U32,
    /// 4 classic, 5 clustered, 6 lockless; 3 was host-endian.
    version: U32,
    /// The array's `set_uuid`.
    uuid: [u8; 16],
    /// Event count of the superblock update that this head was written with.
    events: U64,
    /// Classic: event count when bits could last be cleared. Lockless: always 0.
    events_cleared: U64,
    /// Sectors covered.
    sync_size: U64,
    /// Flag bits.
    state: U32,
    /// Lockless: sectors. Classic: bytes.
    chunksize: U32,
    /// Seconds.
    daemon_sleep: U32,
    /// Classic only.
    write_behind: U32,
    /// Sectors set aside for head and states.
    sectors_reserved: U32,
    /// Cluster only.
    nodes: U32,
    /// Cluster only.
    cluster_name: [u8; 64],
    /// Zero.
    pad: [u8; 120],
}

const _: () = {
    assert!(size_of::<BitmapRaw>() == 256);
    assert!(offset_of!(BitmapRaw, version) == 4);
    assert!(offset_of!(BitmapRaw, uuid) == 8);
    assert!(offset_of!(BitmapRaw, events) == 24);
    assert!(offset_of!(BitmapRaw, events_cleared) == 32);
    assert!(offset_of!(BitmapRaw, sync_size) == 40);
    assert!(offset_of!(BitmapRaw, state) == 48);
    assert!(offset_of!(BitmapRaw, chunksize) == 52);
    assert!(offset_of!(BitmapRaw, daemon_sleep) == 56);
    assert!(offset_of!(BitmapRaw, write_behind) == 60);
    assert!(offset_of!(BitmapRaw, sectors_reserved) == 64);
    assert!(offset_of!(BitmapRaw, nodes) == 68);
    assert!(offset_of!(BitmapRaw, cluster_name) == 72);
    assert!(offset_of!(BitmapRaw, pad) == 136);
};

bitflags! {
    /// Flag bits of a bitmap head (md-bitmap.h, `enum bitmap_state`). Unknown bits are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct BitmapFlags: u32 {
        /// The states are out of date.
        const STALE = 1 << 1;
        /// A write of the bitmap failed.
        const WRITE_ERROR = 1 << 2;
        /// Created by mdadm, chunk size and states not yet set.
        const FIRST_USE = 1 << 3;
        /// With `FIRST_USE`: the operator vouched that the members are alike.
        const CLEAN = 1 << 4;
        /// The daemon of the kernel was late.
        const DAEMON_BUSY = 1 << 5;
        /// Never on disk.
        const SHUTDOWN = 1 << 6;
        /// Version 3 only.
        const HOSTENDIAN = 1 << 15;
        // Others are written back as found.
        const _ = !0;
    }
}

/// Kind of bitmap, by its version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapVersion {
    /// Version 4: one bit a chunk.
    Classic,
    /// Version 6: one state byte a chunk.
    Lockless,
}

impl BitmapVersion {
    /// The number on disk.
    pub fn number(self) -> u32 {
        match self {
            BitmapVersion::Classic => 4,
            BitmapVersion::Lockless => 6,
        }
    }
}

/// State that every chunk of a bitmap gets which was created but never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialState {
    /// Never written: members may differ, nothing of worth is there.
    Unwritten,
    /// The operator vouched that the members are alike (`--assume-clean`).
    Clean,
}

impl InitialState {
    /// The byte on disk.
    pub fn byte(self) -> u8 {
        match self {
            InitialState::Unwritten => 0,
            InitialState::Clean => 1,
        }
    }
}

/// The head of a bitmap, verified against the superblock of its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapSuperblock {
    /// Classic or lockless.
    pub version: BitmapVersion,
    /// The array's uuid.
    pub uuid: [u8; 16],
    /// Event count of the superblock update that this head was written with.
    pub events: u64,
    /// Classic: event count when bits could last be cleared. md never raises it for lockless.
    pub events_cleared: u64,
    /// Sectors that the chunks cover.
    pub sync_size_sectors: u64,
    /// Flags.
    pub flags: BitmapFlags,
    /// As on disk: sectors for lockless (meaningless with `FIRST_USE`), bytes for classic.
    /// Prefer [`BitmapSuperblock::chunk_sectors`].
    pub chunk_raw: u32,
    /// Seconds between two passes of the daemon, at least 1.
    pub daemon_sleep_s: u32,
    /// Classic only.
    pub write_behind: u32,
    /// Sectors set aside for head and states.
    pub sectors_reserved: u32,
    /// Cluster only.
    pub nodes: u32,
    /// Cluster only.
    pub cluster_name: [u8; 64],
    /// What mdof keeps behind md's header.
    pub settings: Option<Settings>,
}

impl BitmapSuperblock {
    /// Reads the head that lies at [`Superblock::bitmap_sector`] of the member that `array` was
    /// read from, and holds it against that superblock.
    pub fn parse(bytes: &[u8], array: &Superblock) -> Result<BitmapSuperblock, BitmapError> {
        let head = Self::decode(bytes, array)?;
        head.check_all(array)?;
        Ok(head)
    }

    /// Reads the head of a bitmap of `array` that lies at the beginning of a device of its own.
    pub fn parse_external(
        bytes: &[u8],
        array: &Superblock,
        device_bytes: u64,
    ) -> Result<BitmapSuperblock, BitmapError> {
        let head = Self::decode(bytes, array)?;
        let sectors = head.check(array)?;
        let have_sectors = device_bytes / SECTOR_BYTES;
        // The bits of a classic one that are not there are in doubt.
        if head.version == BitmapVersion::Lockless && sectors > have_sectors {
            return Err(BitmapError::ChunkTooSmall {
                chunk_sectors: head.chunk_raw,
                chunks: head.chunk_count(),
                sectors_reserved: u32::try_from(have_sectors).unwrap_or(u32::MAX),
            });
        }
        Ok(head)
    }

    /// The fields of a head of this array's, not held against anything else.
    fn decode(bytes: &[u8], array: &Superblock) -> Result<BitmapSuperblock, BitmapError> {
        let (raw, _) = BitmapRaw::ref_from_prefix(bytes)
            .map_err(|_| BitmapError::Truncated { have_bytes: bytes.len() })?;
        if raw.magic.get() != MAGIC {
            return Err(BitmapError::Magic { found: raw.magic.get() });
        }
        let refused = |found, name| Err(BitmapError::Version { found, name });
        let version = match raw.version.get() {
            4 => BitmapVersion::Classic,
            6 => BitmapVersion::Lockless,
            3 => return refused(3, "classic, host-endian"),
            5 => return refused(5, "clustered"),
            found => return refused(found, "unknown"),
        };
        if raw.uuid != array.set_uuid {
            return Err(BitmapError::Uuid {
                found: format_uuid(&raw.uuid),
                expected: array.set_uuid_text(),
            });
        }
        Ok(BitmapSuperblock {
            version,
            uuid: raw.uuid,
            events: raw.events.get(),
            events_cleared: raw.events_cleared.get(),
            sync_size_sectors: raw.sync_size.get(),
            flags: BitmapFlags::from_bits_retain(raw.state.get()),
            chunk_raw: raw.chunksize.get(),
            daemon_sleep_s: raw.daemon_sleep.get(),
            write_behind: raw.write_behind.get(),
            sectors_reserved: raw.sectors_reserved.get(),
            nodes: raw.nodes.get(),
            cluster_name: raw.cluster_name,
            settings: Settings::parse(bytes),
        })
    }

    /// The checks that md makes at load, and the ranges that mdof's arithmetic relies on. Returns
    /// the sectors from the head on that belong to the bitmap.
    fn check(&self, array: &Superblock) -> Result<u64, BitmapError> {
        if self.daemon_sleep_s == 0 {
            return Err(BitmapError::DaemonSleep);
        }
        if self.version == BitmapVersion::Classic || self.needs_initialising() {
            if self.version == BitmapVersion::Classic && !self.chunk_raw.is_power_of_two() {
                return Err(BitmapError::ChunkNotPowerOfTwo { found: self.chunk_raw });
            }
            return Ok(u64::from(self.sectors_reserved));
        }
        if !self.chunk_raw.is_power_of_two() {
            return Err(BitmapError::ChunkNotPowerOfTwo { found: self.chunk_raw });
        }
        let expected_sectors = array.sync_size_sectors();
        // A growth writes the heads first: one that is ahead of its superblock has the states of
        // all that the array has, and those of the chunks that it was about to have.
        let is_growing = self.sync_size_sectors > expected_sectors && self.events > array.events;
        let fits =
            self.sync_size_sectors == expected_sectors || is_growing || mutant!(BitmapTooSmall);
        if !fits {
            let found_sectors = self.sync_size_sectors;
            return Err(BitmapError::SyncSize { found_sectors, expected_sectors });
        }
        let chunks = self.sync_size_sectors.div_ceil(u64::from(self.chunk_raw));
        if chunks > BITMAP_CHUNKS_MAX {
            return Err(BitmapError::TooManyChunks { chunks });
        }
        // md forgets the head here, so that the last states may lie up to 1 KiB behind the space
        // set aside. Such a bitmap is read; what counts is that the states are not elsewhere's.
        if chunks > u64::from(self.sectors_reserved) * SECTOR_BYTES {
            return Err(BitmapError::ChunkTooSmall {
                chunk_sectors: self.chunk_raw,
                chunks,
                sectors_reserved: self.sectors_reserved,
            });
        }
        Ok((STATES_OFFSET_BYTES + chunks).div_ceil(SECTOR_BYTES))
    }

    fn check_all(&self, array: &Superblock) -> Result<(), BitmapError> {
        self.check_position(array, self.check(array)?)
    }

    /// `sectors` from the head on must not be the superblock's or the data's.
    fn check_position(&self, array: &Superblock, sectors: u64) -> Result<(), BitmapError> {
        let start = array.bitmap_sector().ok_or(BitmapError::NoPosition)?;
        let end = start.checked_add(sectors.max(2)).ok_or(BitmapError::NoPosition)?;
        let overlaps = |other_start: u64, sectors: u64| {
            start < other_start.saturating_add(sectors) && other_start < end
        };
        let overlap = |other| Err(BitmapError::Overlap { start, end, other });
        // 1.0: mdadm may let the reserved space run up to the superblock, never into it.
        if overlaps(array.super_offset_sectors, SUPERBLOCK_SECTORS) {
            return overlap("superblock");
        }
        let data_sectors = if array.minor_version() == MinorVersion::V1_0 {
            array.size_sectors
        } else {
            array.data_size_sectors
        };
        if overlaps(array.data_offset_sectors, data_sectors) {
            return overlap("data");
        }
        // mdadm's default log lies inside a lockless bitmap; while it is empty nobody writes it.
        let log = array.super_offset_sectors.checked_add_signed(array.bblog.offset_sectors.into());
        if array.features.contains(Features::BAD_BLOCKS)
            && !mutant!(BadBlockLogInBitmap)
            && array.bblog.offset_sectors != 0
            && log.is_some_and(|log| overlaps(log, u64::from(array.bblog.size_sectors)))
        {
            return overlap("bad-block log");
        }
        Ok(())
    }

    /// Created by mdadm and never started: call [`BitmapSuperblock::initialise`], write all states,
    /// then the head.
    pub fn needs_initialising(&self) -> bool {
        self.version == BitmapVersion::Lockless && self.flags.contains(BitmapFlags::FIRST_USE)
    }

    /// Chooses the chunk size for an array that was created but never started, as the kernel does
    /// at first start, and returns the state that every chunk gets.
    pub fn initialise(&mut self, array: &Superblock) -> Result<InitialState, BitmapError> {
        assert!(self.needs_initialising(), "the states of this bitmap hold knowledge");
        let chunk = chunk_sectors_for(array.sync_size_sectors(), self.sectors_reserved).ok_or(
            BitmapError::ChunkTooSmall {
                chunk_sectors: CHUNK_SECTORS_MIN,
                chunks: array.sync_size_sectors().div_ceil(u64::from(CHUNK_SECTORS_MIN)),
                sectors_reserved: self.sectors_reserved,
            },
        )?;
        let state = if self.flags.contains(BitmapFlags::CLEAN) {
            InitialState::Clean
        } else {
            InitialState::Unwritten
        };
        self.flags.remove(BitmapFlags::FIRST_USE | BitmapFlags::CLEAN);
        self.chunk_raw = chunk;
        self.daemon_sleep_s = DAEMON_SLEEP_S;
        self.sync_size_sectors = array.sync_size_sectors();
        self.check_all(array)?;
        Ok(state)
    }

    /// A head in place of one that is lost, for the room that is left on the member of `array`:
    /// mdadm's 256 sectors or what is free up to the data, if that is less.
    pub(super) fn replacing_lost(array: &Superblock) -> Result<Self, BitmapError> {
        let start = array.bitmap_sector().ok_or(BitmapError::NoPosition)?;
        let limit = if start < array.super_offset_sectors {
            array.super_offset_sectors
        } else {
            array.data_offset_sectors.max(start)
        };
        let log = array.super_offset_sectors.checked_add_signed(array.bblog.offset_sectors.into());
        let log = log.filter(|&log| {
            array.features.contains(Features::BAD_BLOCKS) && (start..limit).contains(&log)
        });
        let room = log.unwrap_or(limit) - start;
        let reserved = u32::try_from(room).unwrap_or(u32::MAX).min(RESERVED_SECTORS);
        let chunk = chunk_sectors_for(array.sync_size_sectors(), reserved).ok_or(
            BitmapError::ChunkTooSmall {
                chunk_sectors: CHUNK_SECTORS_MIN,
                chunks: array.sync_size_sectors().div_ceil(u64::from(CHUNK_SECTORS_MIN)),
                sectors_reserved: reserved,
            },
        )?;
        let head = Self::created(array, chunk, reserved);
        head.check_all(array)?;
        Ok(head)
    }

    /// A head for a new array whose chunk size is settled.
    pub(super) fn created(array: &Superblock, chunk_sectors: u32, sectors_reserved: u32) -> Self {
        BitmapSuperblock {
            version: BitmapVersion::Lockless,
            uuid: array.set_uuid,
            events: array.events,
            events_cleared: 0,
            sync_size_sectors: array.sync_size_sectors(),
            flags: BitmapFlags::empty(),
            chunk_raw: chunk_sectors,
            daemon_sleep_s: DAEMON_SLEEP_S,
            write_behind: 0,
            sectors_reserved,
            nodes: 0,
            cluster_name: [0; 64],
            settings: None,
        }
    }

    /// Sectors of a chunk; `None` before the bitmap is initialised.
    pub fn chunk_sectors(&self) -> Option<u32> {
        match self.version {
            BitmapVersion::Classic => Some((self.chunk_raw / 512).max(1)),
            BitmapVersion::Lockless if self.needs_initialising() => None,
            BitmapVersion::Lockless => Some(self.chunk_raw),
        }
    }

    /// Chunks of an initialised bitmap, 0 before that.
    pub fn chunk_count(&self) -> u64 {
        self.chunk_sectors().map_or(0, |chunk| self.sync_size_sectors.div_ceil(u64::from(chunk)))
    }

    /// The states cannot be believed: older than the superblocks, or marked so.
    pub fn is_stale(&self, array_events: u64) -> bool {
        self.events < array_events
            || self.flags.intersects(BitmapFlags::STALE | BitmapFlags::WRITE_ERROR)
    }

    /// Writes the head: the header, then 0xff up to the first state. Allocates nothing.
    pub fn encode_into(&self, out: &mut [u8; BITMAP_HEAD_BYTES]) {
        let raw = BitmapRaw {
            magic: U32::new(MAGIC),
            version: U32::new(self.version.number()),
            uuid: self.uuid,
            events: U64::new(self.events),
            events_cleared: U64::new(self.events_cleared),
            sync_size: U64::new(self.sync_size_sectors),
            state: U32::new(self.flags.bits()),
            chunksize: U32::new(self.chunk_raw),
            daemon_sleep: U32::new(self.daemon_sleep_s),
            write_behind: U32::new(self.write_behind),
            sectors_reserved: U32::new(self.sectors_reserved),
            nodes: U32::new(self.nodes),
            cluster_name: self.cluster_name,
            pad: [0; 120],
        };
        let (header, unused) = out.split_at_mut(size_of::<BitmapRaw>());
        header.copy_from_slice(raw.as_bytes());
        unused.fill(UNUSED_BYTE);
        if let Some(settings) = self.settings {
            settings.encode_into(unused);
        }
    }
}

/// Byte offset of the state of `chunk` from the start of the member.
pub fn state_offset_bytes(bitmap_sector: u64, chunk: u64) -> u64 {
    assert!(chunk < BITMAP_CHUNKS_MAX, "chunk {chunk} is none of this bitmap");
    bitmap_sector * SECTOR_BYTES + STATES_OFFSET_BYTES + chunk
}

/// The chunk size of a lockless bitmap: the smallest power of two from 64 KiB on whose states fit
/// behind the head. md's own rule forgets the head, and with between 130,049 and 131,072 chunks
/// lets the last states lie behind the space set aside; for these sizes mdof doubles once more.
pub fn chunk_sectors_for(sync_size_sectors: u64, sectors_reserved: u32) -> Option<u32> {
    let head = if mutant!(HeaderTakesNoSpace) { 0 } else { STATES_OFFSET_BYTES };
    let space = (u64::from(sectors_reserved) * SECTOR_BYTES).checked_sub(head)?;
    let space = space.min(BITMAP_CHUNKS_MAX);
    let mut chunk_sectors = CHUNK_SECTORS_MIN;
    while sync_size_sectors.div_ceil(u64::from(chunk_sectors)) > space {
        chunk_sectors = chunk_sectors.checked_mul(2)?;
    }
    Some(chunk_sectors)
}
