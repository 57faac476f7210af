//! md's metadata through the engine: plain reads and writes of a member's blocks.

use super::{Target, TargetError, io_fault};
use crate::bdev::BdevId;
use crate::control::carried::{self, Carried};
use crate::md::{
    BITMAP_HEAD_BYTES, BitmapSuperblock, CLASSIC_BITS_OFFSET_BYTES, Creation, SECTOR_BYTES,
    SUPERBLOCK_READ_BYTES, Superblock, classic_bits_bytes,
};

impl Target {
    /// Reads whole bytes from a member; offset and length are multiples of 4096 or the block size.
    pub(super) fn read_bytes(
        &mut self,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, TargetError> {
        let (id, block) = self.member(name)?;
        let blocks = u32::try_from(length as u64 / block)
            .map_err(|_| TargetError::Invalid(format!("the bitmap of bdev {name} is too large")))?;
        let bytes = self
            .engine
            .read(id, offset / block, blocks)
            .map_err(|fault| io_fault(&format!("reading metadata of bdev {name}"), fault))?;
        assert_eq!(bytes.len(), length, "a read returns what was asked for");
        Ok(bytes)
    }

    /// Writes whole blocks to a member, durably.
    pub(super) fn write_bytes(
        &mut self,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), TargetError> {
        let (id, block) = self.member(name)?;
        self.engine
            .write(id, offset / block, bytes)
            .map_err(|fault| io_fault(&format!("writing metadata of bdev {name}"), fault))
    }

    /// Place in the engine and block size.
    fn member(&self, name: &str) -> Result<(BdevId, u64), TargetError> {
        let bdev = self.bdev(name)?;
        Ok((bdev.id, u64::from(bdev.geometry.block_size_bytes)))
    }

    /// Looks for a superblock on a bdev.
    pub(super) fn read_superblock(&mut self, name: &str) -> Result<Carried, TargetError> {
        let device_sectors = self.bdev(name)?.geometry.size_bytes() / SECTOR_BYTES;
        carried::look(device_sectors, |sector, length| self.read_sectors(name, sector, length))
    }

    /// Reads `length` bytes from a 512-byte sector of a member whose blocks may be larger.
    pub(super) fn read_sectors(
        &mut self,
        name: &str,
        sector: u64,
        length: usize,
    ) -> Result<Vec<u8>, TargetError> {
        let (_, block) = self.member(name)?;
        let offset = sector * SECTOR_BYTES;
        let start = offset / block * block;
        let end = (offset + length as u64).next_multiple_of(block);
        let whole = usize::try_from(end - start)
            .map_err(|_| TargetError::Invalid(format!("the bitmap of bdev {name} is too large")))?;
        let mut bytes = self.read_bytes(name, start, whole)?;
        bytes.drain(..usize::try_from(offset - start).expect("less than a block"));
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The state bytes of all chunks, as they are on the member.
    pub(super) fn read_states(
        &mut self,
        name: &str,
        superblock: &Superblock,
        bitmap: &BitmapSuperblock,
    ) -> Result<Vec<u8>, TargetError> {
        carried::states(superblock, bitmap, |sector, length| {
            self.read_sectors(name, sector, length)
        })
    }

    /// The bits of a classic bitmap, as they are on the member.
    pub(super) fn read_classic_bits(
        &mut self,
        name: &str,
        superblock: &Superblock,
        head: &BitmapSuperblock,
    ) -> Result<Vec<u8>, TargetError> {
        let sector = superblock.bitmap_sector().expect("a bitmap was read from there");
        let size_sectors = self.bdev(name)?.geometry.size_bytes() / SECTOR_BYTES;
        let bytes = CLASSIC_BITS_OFFSET_BYTES + classic_bits_bytes(head);
        if bytes > (size_sectors - sector) * SECTOR_BYTES {
            let text = format!("the bitmap of bdev {name} is larger than the device");
            return Err(TargetError::Invalid(text));
        }
        let head_bytes = usize::try_from(CLASSIC_BITS_OFFSET_BYTES).expect("a small constant");
        let bytes = usize::try_from(bytes).expect("smaller than a device");
        let mut read = self.read_sectors(name, sector, bytes)?;
        read.drain(..head_bytes);
        Ok(read)
    }

    /// Writes a whole lockless bitmap to the place that `superblock` names: the states given, and
    /// Unwritten for all further chunks.
    pub(super) fn write_bitmap(
        &mut self,
        name: &str,
        superblock: &Superblock,
        head: &BitmapSuperblock,
        states: impl Iterator<Item = u8>,
    ) -> Result<(), TargetError> {
        let area = usize::try_from(u64::from(head.sectors_reserved) * SECTOR_BYTES)
            .expect("bounded by the plan");
        let mut bytes = vec![0; area];
        let space = bytes.first_chunk_mut::<BITMAP_HEAD_BYTES>().expect("an area has a head");
        head.encode_into(space);
        bytes[BITMAP_HEAD_BYTES..].iter_mut().zip(states).for_each(|(byte, state)| *byte = state);
        let sector = superblock.bitmap_sector().expect("the plan gave it a position");
        self.write_bytes(name, sector * SECTOR_BYTES, &bytes)
    }

    /// Writes one superblock to its place.
    pub(super) fn write_superblock(
        &mut self,
        name: &str,
        superblock: &Superblock,
    ) -> Result<(), TargetError> {
        let mut bytes = vec![0; SUPERBLOCK_READ_BYTES];
        superblock.encode_into(&mut bytes);
        self.write_bytes(name, superblock.super_offset_sectors * SECTOR_BYTES, &bytes)
    }

    /// Writes a new array's metadata: the whole bitmap area, on the bdev `external` or on all
    /// members, before the first superblock makes one of them a member.
    pub(super) fn write_creation(
        &mut self,
        members: &[String],
        creation: &Creation,
        external: Option<&str>,
    ) -> Result<(), TargetError> {
        if let Some(name) = external {
            self.write_bytes(name, 0, &creation.bitmap_area())?;
        } else {
            let bytes = creation.bitmap_area();
            for name in members {
                self.write_bytes(name, creation.bitmap_sector * SECTOR_BYTES, &bytes)?;
            }
        }
        for (name, superblock) in members.iter().zip(&creation.superblocks) {
            self.write_superblock(name, superblock)?;
        }
        Ok(())
    }

    /// Overwrites the head of an external bitmap that is to be none any more.
    pub(super) fn erase_head(&mut self, name: &str) -> Result<(), TargetError> {
        self.write_bytes(name, 0, &[0; SUPERBLOCK_READ_BYTES])
    }

    /// Overwrites the superblock of a member that is to be none any more.
    pub(super) fn erase_superblock(&mut self, name: &str) -> Result<(), TargetError> {
        if let Carried::Member(candidate) = self.read_superblock(name)? {
            let offset = candidate.superblock.super_offset_sectors * SECTOR_BYTES;
            self.write_bytes(name, offset, &[0; SUPERBLOCK_READ_BYTES])?;
        }
        Ok(())
    }
}
