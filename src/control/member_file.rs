//! The files and block devices under an array: what is on them, and how a new one is made.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, SeekFrom, renameat_with, seek, statvfs};
use rustix::io::Errno;

/// Free space a file system must have for the metadata of one new member.
pub const METADATA_ROOM_BYTES: u64 = 8 << 20;
/// How much of each end of a block device must be zero for it to count as blank: every partition
/// table, file system and RAID superblock lies there.
const DEVICE_ENDS_BYTES: u64 = 16 << 20;
/// Bytes looked at in one read.
const PIECE_BYTES: usize = 1 << 20;

/// What is found under a member's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// Only zeroes: nothing is lost by writing to it.
    Blank,
    /// Something.
    Data,
}

/// A member file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemberFileError {
    /// Neither file nor block device.
    #[error("{0} is neither a file nor a block device")]
    WrongType(PathBuf),
    /// The file system has no room for metadata.
    #[error(
        "the file system of {path} is full: {free_mib} MiB are free, a new member needs \
         {needed_mib} MiB at once; nothing was written"
    )]
    Full {
        /// The file that was to be made.
        path: PathBuf,
        /// Free space.
        free_mib: u64,
        /// Space a member needs at once.
        needed_mib: u64,
    },
    /// The system refused.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn fault(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> MemberFileError {
    move |source| MemberFileError::Io { doing, path: path.to_owned(), source }
}

/// Looks at `path` without changing anything.
pub fn inspect(path: &Path) -> Result<Found, MemberFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(fault("open", path)(error)),
    };
    let kind = file.metadata().map_err(fault("examine", path))?.file_type();
    let blank = if kind.is_file() {
        is_blank_file(&file)
    } else if kind.is_block_device() {
        is_blank_device(&file)
    } else {
        return Err(MemberFileError::WrongType(path.to_owned()));
    };
    match blank {
        Ok(true) => Ok(Found::Blank),
        Ok(false) => Ok(Found::Data),
        Err(error) => Err(fault("read", path)(error)),
    }
}

/// Looks at the allocated parts of a file; holes are zero without a look.
fn is_blank_file(file: &File) -> io::Result<bool> {
    let mut offset = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        if !is_zero(file, start, end)? {
            return Ok(false);
        }
        offset = end;
    }
}

fn is_blank_device(file: &File) -> io::Result<bool> {
    let size = seek(file, SeekFrom::End(0))?;
    let head = size.min(DEVICE_ENDS_BYTES);
    Ok(is_zero(file, 0, head)? && is_zero(file, head.max(size.saturating_sub(head)), size)?)
}

fn is_zero(file: &File, mut start: u64, end: u64) -> io::Result<bool> {
    let mut piece = vec![0; PIECE_BYTES];
    while start < end {
        let length = usize::try_from(end - start).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let count = file.read_at(&mut piece[..length], start)?;
        if count == 0 {
            break;
        }
        if piece[..count].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        start += count as u64;
    }
    Ok(true)
}

/// Refuses when the file system of `path` has no room for `members` new members' metadata.
pub fn check_room(path: &Path, members: u64) -> Result<(), MemberFileError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let found = statvfs(parent).map_err(|errno| fault("examine", parent)(errno.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let needed = METADATA_ROOM_BYTES * members;
    if free < needed {
        let (free_mib, needed_mib) = (free >> 20, needed >> 20);
        return Err(MemberFileError::Full { path: path.to_owned(), free_mib, needed_mib });
    }
    Ok(())
}

/// Makes a sparse file of `bytes` at `path`, where nothing is yet. After a crash it is there with
/// its full size, or not at all.
pub fn create_sparse(path: &Path, bytes: u64) -> Result<(), MemberFileError> {
    let doing = fault("create", path);
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let create = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        file.set_len(bytes)?;
        file.sync_all()?;
        renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    create().map_err(|error| {
        let _ = std::fs::remove_file(&new);
        doing(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_dir::TestDir;

    #[test]
    fn new_file_is_blank_and_sparse() {
        let dir = TestDir::new("member");
        let path = dir.path().join("m.img");
        assert_eq!(inspect(&path).unwrap(), Found::Missing);
        check_room(&path, 1).unwrap();
        create_sparse(&path, 64 << 20).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 << 20);
        assert_eq!(inspect(&path).unwrap(), Found::Blank);
        assert!(create_sparse(&path, 1).is_err(), "a second creation must not replace it");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 << 20);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn a_single_byte_is_data() {
        let dir = TestDir::new("member-data");
        let path = dir.path().join("m.img");
        create_sparse(&path, 64 << 20).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 8192], 4096).unwrap();
        assert_eq!(inspect(&path).unwrap(), Found::Blank);
        file.write_all_at(&[1], 40 << 20).unwrap();
        assert_eq!(inspect(&path).unwrap(), Found::Data);
    }

    #[test]
    fn directories_are_refused() {
        let dir = TestDir::new("member-dir");
        assert!(matches!(inspect(dir.path()), Err(MemberFileError::WrongType(_))));
    }

    #[test]
    fn a_full_file_system_is_reported_before_anything_is_written() {
        let dir = TestDir::new("member-full");
        let path = dir.path().join("m.img");
        let text = check_room(&path, 1 << 40).unwrap_err().to_string();
        assert!(text.contains("is full") && text.contains("nothing was written"), "{text}");
        assert!(!path.exists());
    }
}
