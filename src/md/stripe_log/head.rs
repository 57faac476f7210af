//! The head: which run of the array the records are of.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LogError, LogLayout, VERSION, checksum};

/// Bytes that say something, the first of the head's 4096: one sector, which no power cut tears.
const FIXED_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"mdofSLOG";

/// Parity fits the data in every row but those that live records are about.
const VOUCHES: u32 = 1;
/// No record is live: the array was stopped.
const IDLE: u32 = 2;

/// The head on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    /// CRC-32C of the sector with this field zero.
    checksum: U32,
    /// md's `set_uuid`.
    set_uuid: [u8; 16],
    /// Random, of each start of the array.
    run: [u8; 16],
    /// Event count of the superblocks that are written after this head.
    events: U64,
    /// [`VOUCHES`], [`IDLE`].
    flags: U32,
    /// Bytes of a slot.
    slot_bytes: U32,
    /// Slots of a ring.
    slots: U32,
    rings: U16,
    /// Zero.
    reserved: [u8; 442],
}

const _: () = {
    assert!(size_of::<RawHead>() == FIXED_BYTES);
    assert!(offset_of!(RawHead, checksum) == 12);
    assert!(offset_of!(RawHead, run) == 32);
    assert!(offset_of!(RawHead, events) == 48);
    assert!(offset_of!(RawHead, rings) == 68);
};

/// The head of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// The array.
    pub set_uuid: [u8; 16],
    /// The run: records with another one are nothing.
    pub run: [u8; 16],
    /// Event count of the superblocks that were about to be written.
    pub events: u64,
    /// Parity fits the data in every row but those that live records are about.
    pub vouches: bool,
    /// No record is live.
    pub idle: bool,
    /// How the log is divided.
    pub layout: LogLayout,
}

impl LogHead {
    /// Reads a head of this array.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(bytes: &[u8], set_uuid: &[u8; 16]) -> Result<LogHead, LogError> {
        let have_bytes = bytes.len();
        let Ok((raw, _)) = RawHead::read_from_prefix(bytes) else {
            return Err(LogError::Truncated { have_bytes });
        };
        if raw.magic != MAGIC {
            return Err(LogError::Magic);
        }
        let (found, expected) = (raw.checksum.get(), checksum_of(raw));
        if found != expected {
            return Err(LogError::Checksum { found, expected });
        }
        if raw.version.get() != VERSION {
            return Err(LogError::Version { found: raw.version.get() });
        }
        if raw.set_uuid != *set_uuid {
            return Err(LogError::Uuid);
        }
        let flags = raw.flags.get();
        if flags & !(VOUCHES | IDLE) != 0 {
            return Err(LogError::Field { field: "flags", value: flags.into() });
        }
        let layout = LogLayout {
            rings: raw.rings.get(),
            slots: raw.slots.get(),
            slot_bytes: raw.slot_bytes.get(),
        };
        layout.check()?;
        Ok(LogHead {
            set_uuid: raw.set_uuid,
            run: raw.run,
            events: raw.events.get(),
            vouches: flags & VOUCHES != 0,
            idle: flags & IDLE != 0,
            layout,
        })
    }

    /// Writes the head to the start of `out` and zeroes the rest.
    pub fn encode_into(&self, out: &mut [u8]) {
        let flags = if self.vouches { VOUCHES } else { 0 } | if self.idle { IDLE } else { 0 };
        let mut raw = RawHead {
            magic: MAGIC,
            version: VERSION.into(),
            checksum: U32::ZERO,
            set_uuid: self.set_uuid,
            run: self.run,
            events: self.events.into(),
            flags: flags.into(),
            slot_bytes: self.layout.slot_bytes.into(),
            slots: self.layout.slots.into(),
            rings: self.layout.rings.into(),
            reserved: [0; 442],
        };
        raw.checksum = checksum_of(raw).into();
        let (fixed, rest) = out.split_at_mut(FIXED_BYTES);
        fixed.copy_from_slice(raw.as_bytes());
        rest.fill(0);
    }
}

fn checksum_of(mut raw: RawHead) -> u32 {
    raw.checksum = U32::ZERO;
    checksum(raw.as_bytes())
}
