//! Where the log is, which of its headers counts and where the next one goes.

use super::{
    HEADER_SECTORS, PAGE_SECTORS, PPL_HEADER_BYTES, PPL_SPACE_BYTES, PplArray, PplError, PplHeader,
    SECTOR_BYTES_U32,
};
use crate::md::{Features, SECTOR_BYTES, Superblock};

/// Where a member has its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PplPlace {
    /// First sector of the member.
    pub sector: u64,
    /// Sectors of the log.
    pub sectors: u16,
}

impl PplPlace {
    /// As the superblock says, `None` if the array has no log.
    ///
    /// # Errors
    /// If it can be nowhere there.
    pub fn of(superblock: &Superblock) -> Result<Option<PplPlace>, PplError> {
        if !superblock.features.intersects(Features::PPL | Features::MULTIPLE_PPLS) {
            return Ok(None);
        }
        // md_p.h has two fields in place of the bitmap's offset.
        let [a, b, c, d] = superblock.bitmap_offset_sectors.to_le_bytes();
        let (offset, sectors) = (i16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let refused = PplError::Place { offset, sectors };
        let at = superblock.super_offset_sectors;
        let sector = at.checked_add_signed(offset.into()).ok_or(refused)?;
        let end = sector.checked_add(sectors.into()).ok_or(refused)?;
        let data = superblock.data_offset_sectors;
        let data_end = data.checked_add(superblock.data_size_sectors).ok_or(refused)?;
        // The superblock has 4096 bytes at most.
        let is_clear = (end <= data || sector >= data_end) && (end <= at || sector >= at + 8);
        if u32::from(sectors) < HEADER_SECTORS + PAGE_SECTORS || !is_clear {
            return Err(refused);
        }
        Ok(Some(PplPlace { sector, sectors }))
    }

    /// There is room for two of the largest, so that the log is a ring.
    #[must_use]
    pub fn is_ring(&self) -> bool {
        let one = u64::from(PPL_SPACE_BYTES) + PPL_HEADER_BYTES as u64;
        u64::from(self.sectors) * SECTOR_BYTES >= 2 * one
    }

    /// Partial parity that one header can describe.
    #[must_use]
    pub fn space_bytes(&self) -> u32 {
        let all = (u32::from(self.sectors) - HEADER_SECTORS) * SECTOR_BYTES_U32;
        if self.is_ring() { PPL_SPACE_BYTES } else { all }
    }
}

/// Finds the header that counts: the caller reads where it is told to and hands in what it read.
#[derive(Debug, Clone)]
pub struct PplSearch {
    place: PplPlace,
    array: PplArray,
    /// Sectors from the start of the log; `None`: it has ended.
    next: Option<u64>,
    newest: Result<(u64, PplHeader), PplError>,
}

impl PplSearch {
    /// Nothing read yet.
    #[must_use]
    pub fn new(place: PplPlace, array: PplArray) -> PplSearch {
        let newest = Err(PplError::Truncated { have_bytes: 0 });
        PplSearch { place, array, next: Some(0), newest }
    }

    /// The sector of the member where [`PPL_HEADER_BYTES`] are to be read; `None` at the end.
    #[must_use]
    pub fn next_sector(&self) -> Option<u64> {
        self.next.map(|offset| self.place.sector + offset)
    }

    /// Takes what was read there. The first that is no header, or an older one, ends the search.
    pub fn take(&mut self, bytes: &[u8]) {
        let Some(offset) = self.next.take() else { return };
        let header = match PplHeader::parse(bytes, &self.array) {
            Ok(header) => header,
            Err(error) => {
                if offset == 0 {
                    self.newest = Err(error);
                }
                return;
            }
        };
        let sectors = u64::from(self.place.sectors);
        let end = offset + header.sectors();
        if end > sectors {
            if offset == 0 {
                let why = "its partial parity is longer than the log";
                self.newest = Err(PplError::Entry { index: header.entries.len() - 1, why });
            }
            return;
        }
        if let Ok((_, newest)) = &self.newest
            && newest.generation > header.generation
        {
            return;
        }
        self.newest = Ok((self.place.sector + offset, header));
        let has_room = end + u64::from(HEADER_SECTORS) < sectors;
        self.next = (self.place.is_ring() && has_room).then_some(end);
    }

    /// The newest header with the sector of the member it is at.
    ///
    /// # Errors
    /// Why there is none: no row is known that was being written, so every one is in doubt.
    pub fn finish(self) -> Result<(u64, PplHeader), PplError> {
        self.newest
    }
}

/// Where Linux puts the next header.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PplRing {
    place: PplPlace,
    next: u64,
}

#[cfg(test)]
impl PplRing {
    /// A log that begins anew: an empty header must be at its start, and zeroes behind it.
    pub(crate) fn new(place: PplPlace) -> PplRing {
        PplRing { place, next: 0 }
    }

    /// The sector of the member for a header with so much partial parity, of which there is at most
    /// [`PplPlace::space_bytes`].
    pub(crate) fn take(&mut self, parity_bytes: u32) -> u64 {
        assert!(parity_bytes <= self.place.space_bytes(), "more than the log can take");
        let need = u64::from(HEADER_SECTORS) + u64::from(parity_bytes).div_ceil(SECTOR_BYTES);
        // Who searches does not look for a header in the very last sectors.
        let left = u64::from(self.place.sectors) - self.next;
        if left < need || left == u64::from(HEADER_SECTORS) {
            self.next = 0;
        }
        let at = self.next;
        if self.place.is_ring() {
            self.next += need;
        }
        self.place.sector + at
    }
}
