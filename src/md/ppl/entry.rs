//! Entries of the log: which part of which row was about to be written.

use super::{PAGE_SECTORS, PplError, SECTOR_BYTES_U32, ppl_checksum};
use crate::md::{Level, Superblock};

/// What a log must agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PplArray {
    /// CRC-32C of the array's uuid.
    pub(super) signature: u32,
    raid_disks: u32,
    chunk_sectors: u32,
    array_sectors: u64,
}

impl PplArray {
    /// Of the array that this member belongs to.
    ///
    /// # Errors
    /// If it can have no such log.
    pub fn new(superblock: &Superblock) -> Result<PplArray, PplError> {
        let Superblock { level, raid_disks, chunk_sectors, size_sectors, .. } = *superblock;
        let refused =
            PplError::Array { level: level.number(), raid_disks, chunk_sectors, size_sectors };
        // A chunk of 32 bits in bytes, as entries count them.
        let is_chunk = (PAGE_SECTORS..1 << 21).contains(&chunk_sectors);
        if level != Level::Raid5 || raid_disks < 2 || !is_chunk {
            return Err(refused);
        }
        let rows = size_sectors / u64::from(chunk_sectors);
        let array_sectors = rows
            .checked_mul(u64::from(chunk_sectors))
            .and_then(|sectors| sectors.checked_mul(u64::from(raid_disks - 1)));
        Ok(PplArray {
            signature: ppl_checksum(&superblock.set_uuid),
            raid_disks,
            chunk_sectors,
            array_sectors: array_sectors.filter(|&sectors| sectors > 0).ok_or(refused)?,
        })
    }

    fn data_members(&self) -> u32 {
        self.raid_disks - 1
    }
}

/// A write to one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PplEntry {
    /// First sector of the array that is written.
    pub data_sector: u64,
    /// Bytes of partial parity, 0 if every data strip is written.
    pub parity_bytes: u32,
    /// Bytes written, of all strips.
    pub data_bytes: u32,
    /// Slot of the member with P. The caller must check that it is that of the row, and the member
    /// the one that has the log.
    pub parity_slot: u32,
    /// CRC-32C of the partial parity ([`ppl_checksum`]). An entry with other bytes was torn and
    /// does not count: its row had not been written yet.
    pub checksum: u32,
}

/// Which part of a row an entry says was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PplSpan {
    /// First sector of the array.
    pub first_sector: u64,
    /// The sector behind the last one.
    pub behind_sector: u64,
    /// Sectors of P that must be computed again, from where the first sector lies on in the strip;
    /// with md's widest entries around the end of the strip.
    pub parity_sectors: u32,
    strips: u32,
    chunk_sectors: u32,
}

impl PplSpan {
    /// Sectors of the array that were written and lie `offset_sectors` behind the first one in
    /// their strips; the XOR of them and of the partial parity there is P. None: P stays.
    pub fn written_at(&self, offset_sectors: u32) -> impl Iterator<Item = u64> {
        let (first, behind, chunk) = (self.first_sector, self.behind_sector, self.chunk_sectors);
        let strips = 0..u64::from(self.strips);
        strips
            .map(move |strip| first + u64::from(offset_sectors) + strip * u64::from(chunk))
            .filter(move |&sector| sector < behind)
    }
}

impl PplEntry {
    /// What of the row it concerns (raid5-ppl.c, `ppl_recover_entry`).
    ///
    /// # Errors
    /// Why no write of this array can be meant.
    pub fn span(&self, array: &PplArray) -> Result<PplSpan, &'static str> {
        let sector_bytes = SECTOR_BYTES_U32;
        if !self.parity_bytes.is_multiple_of(sector_bytes)
            || !self.data_bytes.is_multiple_of(sector_bytes)
        {
            return Err("its sizes are no whole sectors");
        }
        if self.data_bytes == 0 {
            return Err("it writes nothing");
        }
        if self.parity_slot >= array.raid_disks {
            return Err("its parity is on a member that the array does not have");
        }
        let (parity, data) = (self.parity_bytes / sector_bytes, self.data_bytes / sector_bytes);
        let (chunk, all) = (array.chunk_sectors, array.data_members());
        let (strips, parity_sectors, length) = match parity {
            0 if !data.is_multiple_of(all) => return Err("its strips are of unequal length"),
            0 => (all, data / all, u64::from(all - 1) * u64::from(chunk) + u64::from(data / all)),
            _ if parity > chunk => return Err("its partial parity is longer than a chunk"),
            _ if parity == chunk => (all, chunk, u64::from(data)),
            _ if !data.is_multiple_of(parity) => return Err("its strips are of unequal length"),
            _ => {
                let strips = data / parity;
                let length = u64::from(strips - 1) * u64::from(chunk) + u64::from(parity);
                (strips, parity, length)
            }
        };
        let behind = self.data_sector.checked_add(length).filter(|&end| end <= array.array_sectors);
        let behind_sector = behind.ok_or("it reaches beyond the end of the array")?;
        let row_sectors = u64::from(chunk) * u64::from(all);
        if self.data_sector / row_sectors != (behind_sector - 1) / row_sectors {
            return Err("it reaches beyond the end of a row");
        }
        // Where strips are cut by one length they must not wrap to the next one.
        let offset = self.data_sector % u64::from(chunk);
        if parity < chunk && offset + u64::from(parity_sectors) > u64::from(chunk) {
            return Err("it reaches beyond the end of a chunk");
        }
        let first_sector = self.data_sector;
        Ok(PplSpan { first_sector, behind_sector, parity_sectors, strips, chunk_sectors: chunk })
    }
}
