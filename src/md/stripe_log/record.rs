//! Records: what is about to be written to one row.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LOG_FRAGMENTS_MAX, LOG_HEAD_BYTES, LogError, VERSION};
use crate::limits::MEMBERS_MAX;

const MAGIC: [u8; 8] = *b"mdofSROW";

/// A fragment on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFragment {
    slot: u8,
    /// Zero.
    reserved: [u8; 3],
    /// First block, from the record's first column on.
    column: U32,
    blocks: U32,
}

/// A record's header on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    magic: [u8; 8],
    version: U32,
    /// CRC-32C of header and payload with this field zero.
    checksum: U32,
    /// md's `set_uuid`.
    set_uuid: [u8; 16],
    /// As in the head.
    run: [u8; 16],
    /// Event count of the superblocks when the run began.
    events: U64,
    /// Number in its ring.
    sequence: U64,
    /// All records of the ring below this one are in place, durably.
    floor: U64,
    /// First column, in blocks from the start of the members' data.
    lba: U64,
    /// Bytes behind the header.
    payload_bytes: U32,
    /// Fragments in use.
    fragment_count: U32,
    ring: U16,
    /// Of a write that takes several records the how-manieth, and how many.
    part: u8,
    parts: u8,
    /// Logical block size.
    block_bytes: U32,
    /// Zero.
    reserved: [u8; 32],
    fragments: [RawFragment; LOG_FRAGMENTS_MAX],
    /// Zero.
    reserved_end: [u8; 8],
}

const _: () = {
    assert!(size_of::<RawFragment>() == 12);
    assert!(size_of::<RawRecord>() == LOG_HEAD_BYTES);
    assert!(offset_of!(RawRecord, checksum) == 12);
    assert!(offset_of!(RawRecord, run) == 32);
    assert!(offset_of!(RawRecord, sequence) == 56);
    assert!(offset_of!(RawRecord, floor) == 64);
    assert!(offset_of!(RawRecord, payload_bytes) == 80);
    assert!(offset_of!(RawRecord, ring) == 88);
    assert!(offset_of!(RawRecord, fragments) == 128);
};

/// What all records of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordIdentity {
    /// The array.
    pub set_uuid: [u8; 16],
    /// The run.
    pub run: [u8; 16],
    /// Event count of the superblocks when the run began.
    pub events: u64,
    /// Logical block size.
    pub block_bytes: u32,
}

/// Blocks of one member that are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The member.
    pub slot: u8,
    /// First block, from the start of the member's data.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
    /// Where they are among the record's bytes.
    pub offset: usize,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its ring.
    pub ring: u16,
    /// Its number.
    pub sequence: u64,
    /// Records of its ring below this one are in place.
    pub floor: u64,
    /// Of a write that takes several records the how-manieth, and how many.
    pub part: u8,
    /// See `part`.
    pub parts: u8,
    /// Bytes of header and payload.
    pub bytes: usize,
    /// What is to be written; nothing if all it has to say is the floor.
    pub fragments: Vec<Fragment>,
}

impl Record {
    /// Reads a record of this array and run from the bytes of a slot. `member_blocks` are those
    /// that the array uses of each member.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(
        bytes: &[u8],
        set_uuid: &[u8; 16],
        run: &[u8; 16],
        member_blocks: u64,
    ) -> Result<Record, LogError> {
        let have_bytes = bytes.len();
        let short = || LogError::Truncated { have_bytes };
        let (raw, _) = RawRecord::read_from_prefix(bytes).map_err(|_| short())?;
        if raw.magic != MAGIC {
            return Err(LogError::Magic);
        }
        // Those of other runs are many, and are none of ours whatever their checksums say.
        if raw.set_uuid != *set_uuid {
            return Err(LogError::Uuid);
        }
        if raw.run != *run {
            return Err(LogError::Run);
        }
        let payload = raw.payload_bytes.get();
        let end = LOG_HEAD_BYTES.checked_add(payload as usize).ok_or_else(short)?;
        let whole = bytes.get(..end).ok_or_else(short)?;
        let (found, expected) = (raw.checksum.get(), checksum_of(&raw, &whole[LOG_HEAD_BYTES..]));
        if found != expected {
            return Err(LogError::Checksum { found, expected });
        }
        if raw.version.get() != VERSION {
            return Err(LogError::Version { found: raw.version.get() });
        }
        let (part, parts) = (raw.part, raw.parts);
        if part >= parts || raw.sequence.get() < u64::from(part) {
            return Err(LogError::Field { field: "part", value: part.into() });
        }
        if raw.floor.get() > raw.sequence.get() {
            return Err(LogError::Field { field: "floor", value: raw.floor.get() });
        }
        Ok(Record {
            ring: raw.ring.get(),
            sequence: raw.sequence.get(),
            floor: raw.floor.get(),
            part,
            parts,
            bytes: end,
            fragments: fragments(&raw, member_blocks)?,
        })
    }
}

fn fragments(raw: &RawRecord, member_blocks: u64) -> Result<Vec<Fragment>, LogError> {
    let field = |field, value| LogError::Field { field, value };
    let block = raw.block_bytes.get();
    if !matches!(block, 512 | 4096) {
        return Err(field("block size", block.into()));
    }
    let count = raw.fragment_count.get();
    let used = usize::try_from(count).ok().and_then(|count| raw.fragments.get(..count));
    let used = used.ok_or_else(|| field("number of fragments", count.into()))?;
    let mut offset = LOG_HEAD_BYTES;
    let mut fragments = Vec::with_capacity(used.len());
    for one in used {
        let (slot, blocks) = (one.slot, one.blocks.get());
        if usize::from(slot) >= MEMBERS_MAX {
            return Err(field("member", slot.into()));
        }
        let lba = raw.lba.get().checked_add(one.column.get().into());
        let end = lba.and_then(|lba| lba.checked_add(blocks.into()));
        let (Some(lba), Some(end)) = (lba, end) else {
            return Err(field("block", raw.lba.get()));
        };
        if blocks == 0 || end > member_blocks {
            return Err(field("block", end));
        }
        fragments.push(Fragment { slot, lba, blocks, offset });
        let bytes = usize::try_from(u64::from(blocks) * u64::from(block)).ok();
        let next = bytes.and_then(|bytes| offset.checked_add(bytes));
        offset = next.ok_or_else(|| field("blocks of a fragment", blocks.into()))?;
    }
    if offset - LOG_HEAD_BYTES != raw.payload_bytes.get() as usize {
        return Err(field("payload", raw.payload_bytes.get().into()));
    }
    Ok(fragments)
}

fn checksum_of(raw: &RawRecord, payload: &[u8]) -> u32 {
    let mut raw = *raw;
    raw.checksum = U32::ZERO;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(raw.as_bytes());
    digest.update(payload);
    u32::try_from(digest.finalize()).expect("a CRC of 32 bits")
}

/// Makes a record in the buffer that will be written, without the heap.
#[derive(Debug)]
pub struct RecordWriter<'a> {
    raw: &'a mut RawRecord,
    payload: &'a mut [u8],
    used: usize,
    count: usize,
    block_bytes: usize,
}

impl<'a> RecordWriter<'a> {
    /// A record for the row whose column `lba` is the first that is written; the buffer holds
    /// header and payload.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], identity: &RecordIdentity, lba: u64) -> RecordWriter<'a> {
        let (raw, payload) = RawRecord::mut_from_prefix(buffer).expect("room for a header");
        raw.as_mut_bytes().fill(0);
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        raw.set_uuid = identity.set_uuid;
        raw.run = identity.run;
        raw.events = identity.events.into();
        raw.block_bytes = identity.block_bytes.into();
        raw.lba = lba.into();
        let block_bytes = identity.block_bytes as usize;
        RecordWriter { raw, payload, used: 0, count: 0, block_bytes }
    }

    /// Adds as many of the blocks as there is room for: how many bytes of them.
    pub fn push(&mut self, slot: u8, column: u32, bytes: &[u8]) -> usize {
        if self.count == LOG_FRAGMENTS_MAX {
            return 0;
        }
        let room = (self.payload.len() - self.used) / self.block_bytes;
        let blocks = room.min(bytes.len() / self.block_bytes);
        if blocks == 0 {
            return 0;
        }
        let taken = blocks * self.block_bytes;
        self.payload[self.used..self.used + taken].copy_from_slice(&bytes[..taken]);
        self.raw.fragments[self.count] = RawFragment {
            slot,
            reserved: [0; 3],
            column: column.into(),
            blocks: u32::try_from(blocks).expect("inside a slot").into(),
        };
        self.used += taken;
        self.count += 1;
        taken
    }

    /// Puts in what is known last, and the checksum. Returns the bytes of header and payload.
    pub fn finish(self, ring: u16, sequence: u64, floor: u64, (part, parts): (u8, u8)) -> usize {
        assert!(part < parts && floor <= sequence, "a record that would not be read");
        let raw = self.raw;
        raw.ring = ring.into();
        raw.sequence = sequence.into();
        raw.floor = floor.into();
        raw.part = part;
        raw.parts = parts;
        raw.payload_bytes = u32::try_from(self.used).expect("inside a slot").into();
        raw.fragment_count = u32::try_from(self.count).expect("LOG_FRAGMENTS_MAX").into();
        raw.checksum = checksum_of(raw, &self.payload[..self.used]).into();
        LOG_HEAD_BYTES + self.used
    }
}
