//! The header on disk.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    HEADER_SECTORS, PPL_ENTRIES_MAX, PPL_HEADER_BYTES, PplArray, PplEntry, PplError, ppl_checksum,
};
use crate::md::SECTOR_BYTES;

/// `struct ppl_header_entry` (md_p.h).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    /// First sector of the array that is written.
    data_sector: U64,
    /// Bytes of partial parity.
    pp_size: U32,
    /// Bytes written.
    data_size: U32,
    /// Slot of the member with the row's P.
    parity_disk: U32,
    /// CRC-32C of the partial parity.
    checksum: U32,
}

/// `struct ppl_header` (md_p.h) and the rest of its page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    /// All ones.
    reserved: [u8; 512],
    /// CRC-32C of the array's uuid.
    signature: U32,
    /// Zero.
    padding: U32,
    /// Ascends over all logs of the array.
    generation: U64,
    /// Entries in use.
    pub(super) entries_count: U32,
    /// CRC-32C of the header with this field zero.
    pub(super) checksum: U32,
    /// Those behind the last in use are zero.
    entries: [RawEntry; PPL_ENTRIES_MAX],
    /// Zero.
    reserved_end: [u8; 8],
}

const _: () = {
    assert!(size_of::<RawEntry>() == 24);
    assert!(size_of::<RawHeader>() == PPL_HEADER_BYTES);
    assert!(offset_of!(RawHeader, signature) == 512);
    assert!(offset_of!(RawHeader, generation) == 520);
    assert!(offset_of!(RawHeader, checksum) == 532);
    assert!(offset_of!(RawHeader, entries) == 536);
};

/// A header whose checksum, signature and entries are in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PplHeader {
    /// Ascends over all logs of the array.
    pub generation: u64,
    /// What was about to be written, at most [`PPL_ENTRIES_MAX`].
    pub entries: Vec<PplEntry>,
}

impl PplHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// Why it is none of this array.
    pub fn parse(bytes: &[u8], array: &PplArray) -> Result<PplHeader, PplError> {
        let have_bytes = bytes.len();
        let Ok((raw, _)) = RawHeader::read_from_prefix(bytes) else {
            return Err(PplError::Truncated { have_bytes });
        };
        let (found, expected) = (raw.checksum.get(), checksum_of(&raw));
        if found != expected {
            return Err(PplError::Checksum { found, expected });
        }
        let (found, expected) = (raw.signature.get(), array.signature);
        if found != expected {
            return Err(PplError::Signature { found, expected });
        }
        let found = raw.entries_count.get();
        let count = usize::try_from(found).ok().filter(|&count| count <= PPL_ENTRIES_MAX);
        let count = count.ok_or(PplError::EntryCount { found })?;
        let mut entries = Vec::with_capacity(count);
        for (index, raw) in raw.entries[..count].iter().enumerate() {
            let entry = PplEntry {
                data_sector: raw.data_sector.get(),
                parity_bytes: raw.pp_size.get(),
                data_bytes: raw.data_size.get(),
                parity_slot: raw.parity_disk.get(),
                checksum: raw.checksum.get(),
            };
            entry.span(array).map_err(|why| PplError::Entry { index, why })?;
            entries.push(entry);
        }
        Ok(PplHeader { generation: raw.generation.get(), entries })
    }

    /// Sectors of the header and the partial parity behind it.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        let parity: u64 = self.entries.iter().map(|entry| u64::from(entry.parity_bytes)).sum();
        u64::from(HEADER_SECTORS) + parity / SECTOR_BYTES
    }

    /// Where the partial parity of each entry is, in sectors from the header on.
    pub fn parity_offsets(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().scan(u64::from(HEADER_SECTORS), |next, entry| {
            let at = *next;
            *next += u64::from(entry.parity_bytes) / SECTOR_BYTES;
            Some(at)
        })
    }
}

pub(super) fn checksum_of(raw: &RawHeader) -> u32 {
    let mut raw = *raw;
    raw.checksum = U32::ZERO;
    ppl_checksum(raw.as_bytes())
}

/// Makes a header in the buffer that will be written, without the heap.
#[derive(Debug)]
pub struct PplWriter<'a> {
    raw: &'a mut RawHeader,
    count: usize,
}

impl<'a> PplWriter<'a> {
    /// A header without entries yet; `None` if the buffer has fewer than [`PPL_HEADER_BYTES`].
    #[must_use]
    pub fn new(buffer: &'a mut [u8], array: &PplArray, generation: u64) -> Option<PplWriter<'a>> {
        let (raw, _) = RawHeader::mut_from_prefix(buffer).ok()?;
        raw.as_mut_bytes().fill(0);
        raw.reserved.fill(0xff);
        raw.signature = array.signature.into();
        raw.generation = generation.into();
        Some(PplWriter { raw, count: 0 })
    }

    /// Adds an entry, whose partial parity goes behind that of those before. False: it is full.
    #[must_use]
    pub fn push(&mut self, entry: &PplEntry) -> bool {
        let Some(raw) = self.raw.entries.get_mut(self.count) else { return false };
        *raw = RawEntry {
            data_sector: entry.data_sector.into(),
            pp_size: entry.parity_bytes.into(),
            data_size: entry.data_bytes.into(),
            parity_disk: entry.parity_slot.into(),
            checksum: entry.checksum.into(),
        };
        self.count += 1;
        true
    }

    /// Puts the number of entries and the checksum in.
    pub fn finish(self) {
        self.raw.entries_count = u32::try_from(self.count).expect("at most 148").into();
        self.raw.checksum = checksum_of(self.raw).into();
    }
}
