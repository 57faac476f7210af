//! Reading one file or block device, without changing it and without a lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, SeekFrom, flock, seek};
use rustix::io::Errno;

use crate::control::carried::{self, Carried};
use crate::md::{
    BadRange, BitmapVersion, Candidate, Features, SECTOR_BYTES, SuperblockError, parse_bad_blocks,
};

/// A superblock that is being written just now reads as damaged; it is read again so often.
const TRIES: u32 = 4;
const RETRY: Duration = Duration::from_millis(20);

/// A file or block device as found.
#[derive(Debug)]
pub struct Probe {
    /// As it was given.
    pub path: PathBuf,
    /// What is on it.
    pub content: Content,
}

/// What is on a file or block device.
#[derive(Debug)]
pub enum Content {
    /// A superblock that can be trusted.
    Member(Box<Member>),
    /// No superblock of version 1.0, 1.1 or 1.2: why it was not taken for one.
    NoSuperblock(String),
    /// A superblock that cannot be used: why.
    Damaged(String),
    /// It could not be read: why.
    Unreadable(String),
}

/// A member, with what lies beside its superblock.
#[derive(Debug)]
pub struct Member {
    /// Superblock and bitmap head.
    pub candidate: Candidate,
    /// State bytes of a lockless bitmap that has been initialised, or why they cannot be read.
    pub states: Option<Result<Vec<u8>, String>>,
    /// Bad blocks that the member has recorded, or why the log cannot be read.
    pub bad_blocks: Result<Vec<BadRange>, String>,
    /// A running target holds it.
    pub is_locked: bool,
}

impl Probe {
    /// The member, if it is one.
    #[must_use]
    pub fn member(&self) -> Option<&Member> {
        match &self.content {
            Content::Member(member) => Some(member),
            _ => None,
        }
    }
}

/// Reads what is on `path`.
#[must_use]
pub fn probe(path: &Path) -> Probe {
    let content = Medium::open(path).map_or_else(
        |error| Content::Unreadable(sentence(&error)),
        |medium| medium.content().unwrap_or_else(Content::Unreadable),
    );
    Probe { path: path.to_owned(), content }
}

fn sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be read by this user".to_owned(),
        // Said here, not by the system.
        io::ErrorKind::Other => error.to_string(),
        _ => format!("it cannot be read: {error}"),
    }
}

/// An open file or block device.
struct Medium {
    file: File,
    size_bytes: u64,
}

impl Medium {
    fn open(path: &Path) -> io::Result<Self> {
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("it is neither a file nor a block device"));
        }
        // Not to wait for a pipe that took the place of the file meanwhile.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("open flags are an int");
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let size_bytes = seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, size_bytes })
    }

    /// Bytes from a sector on; an error says what was asked for.
    fn read(&self, sector: u64, length: usize) -> Result<Vec<u8>, String> {
        let offset = sector.saturating_mul(SECTOR_BYTES);
        let end = offset.saturating_add(length as u64);
        if end > self.size_bytes {
            let size = self.size_bytes;
            return Err(format!("it ends at byte {size}, its metadata at byte {end}"));
        }
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| format!("{length} bytes at byte {offset} cannot be read: {error}"))?;
        Ok(bytes)
    }

    fn content(&self) -> Result<Content, String> {
        let sectors = self.size_bytes / SECTOR_BYTES;
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match carried::look(sectors, |sector, length| self.read(sector, length))? {
                Carried::Damaged(SuperblockError::Checksum { .. }) if tries > 0 => {
                    std::thread::sleep(RETRY);
                }
                Carried::Damaged(error) => return Ok(Content::Damaged(error.to_string())),
                Carried::Nothing => return Ok(Content::NoSuperblock(self.nothing())),
                Carried::Member(candidate) => {
                    return Ok(Content::Member(Box::new(self.member(*candidate))));
                }
            }
        }
    }

    /// Why there is no superblock of version 1.
    fn nothing(&self) -> String {
        match self.size_bytes {
            0 => "it is empty".to_owned(),
            _ => "no md superblock of version 1.0, 1.1 or 1.2 is on it".to_owned(),
        }
    }

    fn member(&self, candidate: Candidate) -> Member {
        let superblock = &candidate.superblock;
        let states = match &candidate.bitmap {
            Some(Ok(bitmap))
                if bitmap.version == BitmapVersion::Lockless && !bitmap.needs_initialising() =>
            {
                Some(carried::states(superblock, bitmap, |sector, length| {
                    self.read(sector, length)
                }))
            }
            _ => None,
        };
        let bad_blocks = self.bad_blocks(&candidate);
        Member { states, bad_blocks, is_locked: self.is_locked(), candidate }
    }

    fn bad_blocks(&self, candidate: &Candidate) -> Result<Vec<BadRange>, String> {
        let superblock = &candidate.superblock;
        if !superblock.features.contains(Features::BAD_BLOCKS) {
            return Ok(Vec::new());
        }
        let offset = i64::from(superblock.bblog.offset_sectors);
        let sector = superblock
            .super_offset_sectors
            .checked_add_signed(offset)
            .ok_or("the bad-block log lies before the member's start")?;
        let length = usize::from(superblock.bblog.size_sectors) * 512;
        let bytes = self.read(sector, length)?;
        parse_bad_blocks(&bytes, superblock).map_err(|error| error.to_string())
    }

    /// mdof holds an exclusive lock on each member while it runs.
    fn is_locked(&self) -> bool {
        match flock(&self.file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = flock(&self.file, FlockOperation::Unlock);
                false
            }
            Err(errno) => errno == Errno::WOULDBLOCK,
        }
    }
}
