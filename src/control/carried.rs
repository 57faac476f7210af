//! What a device carries of md's metadata, wherever its bytes come from: the engine, or a file.

use std::fmt::Display;

use crate::md::{
    BITMAP_HEAD_BYTES, BitmapError, BitmapSuperblock, Candidate, Features, SUPERBLOCK_READ_BYTES,
    Superblock, SuperblockError, Unverified, candidate_sectors,
};

/// What a device carries.
#[derive(Debug)]
pub enum Carried {
    /// No md superblock anywhere.
    Nothing,
    /// A superblock that can be trusted, and the bitmap's.
    Member(Box<Candidate>),
    /// A superblock that cannot be used, and why.
    Damaged(SuperblockError),
}

/// Looks for a superblock at the places of metadata 1.2, 1.1 and 1.0. `read` returns as many bytes
/// as it is asked for, from a 512-byte sector on.
///
/// # Errors
/// What `read` fails with.
pub fn look<E: Display>(
    device_sectors: u64,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Carried, E> {
    let mut damaged = None;
    for sector in candidate_sectors(device_sectors) {
        let bytes = read(sector, SUPERBLOCK_READ_BYTES)?;
        match Unverified::parse(&bytes, sector) {
            Ok(superblock) => {
                let bitmap = bitmap_head(device_sectors, &superblock, &mut read);
                let candidate = Candidate { device_sectors, superblock, bitmap };
                return Ok(Carried::Member(Box::new(candidate)));
            }
            Err(SuperblockError::Magic { .. }) => {}
            Err(error) => damaged = damaged.or(Some(error)),
        }
    }
    // Version 0.90 lies 64 KiB or more before the end, at a multiple of 64 KiB.
    if let (None, Some(sector)) = (&damaged, (device_sectors & !127).checked_sub(128)) {
        let bytes = read(sector, SUPERBLOCK_READ_BYTES)?;
        if let Err(SuperblockError::MajorVersion { found: 0 }) = Unverified::parse(&bytes, sector) {
            damaged = Some(SuperblockError::Version090);
        }
    }
    Ok(damaged.map_or(Carried::Nothing, Carried::Damaged))
}

/// A head that can't be read is the bitmap's trouble: another member may have one.
fn bitmap_head<E: Display>(
    device_sectors: u64,
    superblock: &Superblock,
    read: &mut impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Option<Result<BitmapSuperblock, BitmapError>> {
    if !superblock.features.contains(Features::BITMAP_OFFSET) {
        return None;
    }
    let fits = |sector: &u64| sector.checked_add(8).is_some_and(|end| end <= device_sectors);
    let Some(sector) = superblock.bitmap_sector().filter(fits) else {
        return Some(Err(BitmapError::NoPosition));
    };
    Some(match read(sector, BITMAP_HEAD_BYTES) {
        Ok(bytes) => BitmapSuperblock::parse(&bytes, superblock),
        Err(error) => Err(BitmapError::Unreadable { reason: error.to_string() }),
    })
}

/// The state bytes of all chunks of a lockless bitmap, as they are on the member that `superblock`
/// and `bitmap` were read from.
///
/// # Errors
/// What `read` fails with.
pub fn states<E>(
    superblock: &Superblock,
    bitmap: &BitmapSuperblock,
    read: impl FnOnce(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let sector = superblock.bitmap_sector().expect("a bitmap was read from there");
    let count = usize::try_from(bitmap.chunk_count()).expect("bounded by BITMAP_CHUNKS_MAX");
    let mut bytes = read(sector, BITMAP_HEAD_BYTES + count)?;
    bytes.drain(..BITMAP_HEAD_BYTES);
    Ok(bytes)
}

/// The array's name; mdadm makes it "host:name".
#[must_use]
pub fn short_name(superblock: &Superblock) -> String {
    let name = superblock.name();
    name.rsplit_once(':').map_or(name.clone(), |(_, short)| short.to_owned())
}
