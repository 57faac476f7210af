//! Images of members that Linux and mdadm made, from `../shared/ondisk/images` or `$MDOF_SHARED`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdof::md::{
    BITMAP_HEAD_BYTES, BitmapSuperblock, Candidate, SUPERBLOCK_READ_BYTES, Superblock,
    SuperblockError, Unverified, candidate_sectors,
};

/// A member's image.
pub(crate) struct Member {
    file: File,
    /// Its size.
    pub(crate) sectors: u64,
}

impl Member {
    fn open(path: &Path) -> Member {
        let file = File::open(path).unwrap();
        let sectors = file.metadata().unwrap().len() / 512;
        Member { file, sectors }
    }

    /// Bytes of it.
    pub(crate) fn read(&self, offset_bytes: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset_bytes).unwrap();
        bytes
    }

    /// Its superblock with the bytes it came from, if it has one of version 1.
    pub(crate) fn superblock(&self) -> Option<(Superblock, Vec<u8>)> {
        candidate_sectors(self.sectors).find_map(|sector| {
            let bytes = self.read(sector * 512, SUPERBLOCK_READ_BYTES);
            match Unverified::parse(&bytes, sector) {
                Ok(superblock) => Some((superblock, bytes)),
                Err(SuperblockError::Magic { .. }) => None,
                Err(other) => panic!("sector {sector}: {other}"),
            }
        })
    }

    /// What assembly wants to know of it.
    pub(crate) fn candidate(&self) -> Candidate {
        let (superblock, _) = self.superblock().expect("a superblock");
        let bitmap = superblock.bitmap_sector().map(|sector| {
            BitmapSuperblock::parse(&self.read(sector * 512, BITMAP_HEAD_BYTES), &superblock)
        });
        Candidate { device_sectors: self.sectors, superblock, bitmap }
    }
}

/// Where the images are; says so if they are not there.
pub(crate) fn images() -> Option<PathBuf> {
    let shared = std::env::var_os("MDOF_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    let images = shared.join("ondisk/images");
    if images.is_dir() {
        return Some(images);
    }
    eprintln!("LEFT OUT: {} does not exist, md images were not read", images.display());
    None
}

/// Unpacks one fixture, hands its members over and removes them again.
pub(crate) fn with_members<T>(images: &Path, name: &str, body: impl FnOnce(&[Member]) -> T) -> T {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "md-{}-{:?}-{name}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::create_dir_all(&folder).unwrap();
    let archive = images.join(format!("{name}.tar.xz"));
    let status = Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(&folder).status();
    assert!(status.unwrap().success(), "tar could not unpack {name}");
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let members: Vec<_> = paths.iter().map(|path| Member::open(path)).collect();
    let result = body(&members);
    fs::remove_dir_all(&folder).unwrap();
    result
}
