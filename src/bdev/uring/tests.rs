#[path = "device_tests.rs"]
mod device_tests;
#[path = "scripted_tests.rs"]
mod scripted_tests;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::bdev::rig::{Folder, Rig, store_contract, unmount};
use crate::bdev::{Device, DeviceError, IoOp, IoStatus, channel};

const SIZE_BYTES: u64 = 4 << 20;
const BLOCKS: u64 = SIZE_BYTES / 512;

fn options(path: &Path, block_size_bytes: Option<u32>) -> UringOptions {
    UringOptions {
        name: "Uring0".to_owned(),
        path: path.to_owned(),
        block_size_bytes,
        uuid: uuid::Uuid::nil(),
    }
}

fn open(path: &Path, block_size_bytes: Option<u32>) -> Device {
    Device::Uring(UringDevice::open(options(path, block_size_bytes)).unwrap())
}

#[test]
fn a_file_stores() {
    let folder = Folder::new("stores");
    let device = open(&folder.file("disk", SIZE_BYTES), None);
    assert!(device.geometry().volatile_write_cache);
    let mut rig = Rig::new(std::slice::from_ref(&device));
    if device.geometry().block_size_bytes == 512 {
        store_contract(&mut rig, 0, BLOCKS);
    } else {
        println!("left out: the file system of the temporary folder has 4096-byte units");
    }
    rig.finish();
}

/// tmpfs cannot zero ranges in place but has holes, so write zeroes takes the other path.
#[test]
fn a_file_on_tmpfs_stores() {
    let path = Path::new("/dev/shm");
    let is_tmpfs = rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == 0x0102_1994);
    if !is_tmpfs {
        println!("left out: /dev/shm is no tmpfs here");
        return;
    }
    let file = path.join(format!("mdof-test-{}", std::process::id()));
    let probe = std::fs::File::create(&file).unwrap();
    probe.set_len(SIZE_BYTES).unwrap();
    let device = UringDevice::open(options(&file, Some(4096)));
    let mut rig = Rig::new(&[Device::Uring(device.unwrap())]);
    std::fs::remove_file(&file).unwrap();
    for op in [IoOp::WriteZeroes, IoOp::Unmap] {
        let data = rig.filled(128 * 1024, 5);
        for lba in [0, 32, 64] {
            assert_eq!(rig.io(0, IoOp::Write, lba, 32, Some(&data)), IoStatus::Ok);
        }
        rig.start_fua(0, 1, (op, 1, 94), None, true);
        rig.run_until_ended(1);
        assert_eq!(rig.ended.pop(), Some((1, IoStatus::Ok)));
        // All but the first and the last block are a hole: no zeroes were written.
        let used_bytes = rustix::fs::fstat(&probe).unwrap().st_blocks * 512;
        assert_eq!(used_bytes, 2 * 4096, "{op:?}");
        assert_eq!(rig.read(0, 0, 1), data.as_slice()[..4096]);
        for lba in [1, 32, 63] {
            assert_eq!(rig.read(0, lba, 31), [0; 31 * 4096]);
        }
        assert_eq!(rig.read(0, 95, 1), data.as_slice()[31 * 4096..]);
    }
    rig.finish();
}

#[test]
fn what_is_written_with_fua_is_in_the_file() {
    let folder = Folder::new("fua");
    let path = folder.file("disk", SIZE_BYTES);
    let mut rig = Rig::new(&[open(&path, Some(4096))]);
    let data = rig.filled(8192, 5);
    rig.start_fua(0, 1, (IoOp::Write, 3, 2), Some(&data), true);
    rig.start_fua(0, 2, (IoOp::WriteZeroes, 9, 2), None, true);
    rig.start_fua(0, 3, (IoOp::Unmap, 12, 2), None, true);
    rig.run_until_ended(3);
    assert!(rig.ended.iter().all(|(_, status)| status.is_ok()), "{:?}", rig.ended);
    assert_eq!(std::fs::read(&path).unwrap()[3 * 4096..5 * 4096], *data.as_slice());
    assert!(rig.core.ring.fixed_index(data.as_ptr(), data.len()).is_some());
    drop(data);
    rig.finish();
}

#[test]
fn unmap_frees_and_write_zeroes_allocates() {
    let folder = Folder::new("space");
    let path = folder.file("disk", SIZE_BYTES);
    let used = || std::fs::metadata(&path).unwrap().blocks() * 512;
    assert_eq!(used(), 0);
    let mut rig = Rig::new(&[open(&path, Some(4096))]);
    assert_eq!(rig.io(0, IoOp::WriteZeroes, 0, 256, None), IoStatus::Ok);
    assert!(used() >= 1 << 20, "zeroes have no space: {}", used());
    assert_eq!(rig.io(0, IoOp::Unmap, 0, 256, None), IoStatus::Ok);
    assert!(used() < 1 << 20, "the space was not freed: {}", used());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE_BYTES);
    rig.finish();
}

#[test]
fn many_requests_and_compares_at_once_all_end() {
    let folder = Folder::new("many");
    let mut rig = Rig::new(&[open(&folder.file("disk", SIZE_BYTES), Some(4096))]);
    let data = rig.filled(4096, 5);
    let count = u32::try_from(channel::OPS_PER_CHANNEL).unwrap() + 500;
    for op in 0..count {
        rig.start(0, op, (IoOp::Write, u64::from(op) % 1024, 1), Some(&data));
    }
    rig.run_until_ended(count as usize);
    for op in count..count + 100 {
        rig.start(0, op, (IoOp::Compare, u64::from(op) % 1024, 1), Some(&data));
    }
    rig.run_until_ended(count as usize + 100);
    let mut ops: Vec<u32> = rig.ended.iter().map(|&(op, _)| op).collect();
    ops.sort_unstable();
    assert!(ops.into_iter().eq(0..count + 100), "each ended once");
    assert!(rig.ended.iter().all(|(_, status)| status.is_ok()));
    drop(data);
    rig.finish();
}

#[test]
fn a_file_truncated_below_us_is_a_media_error() {
    let folder = Folder::new("truncated");
    let path = folder.file("disk", SIZE_BYTES);
    let mut rig = Rig::new(&[open(&path, Some(4096))]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    let buf = rig.filled(8192, 0);
    assert_eq!(rig.io(0, IoOp::Read, 5, 2, Some(&buf)), IoStatus::MediaError);
    // The first block is there, the second is not: a short read, then nothing.
    assert_eq!(rig.io(0, IoOp::Read, 1, 2, Some(&buf)), IoStatus::MediaError);
    drop(buf);
    rig.finish();
}

#[test]
fn a_full_file_system_is_no_space() {
    let folder = Folder::new("full");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "mdof-test"])
        .arg(&folder.0)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        println!("left out: mounting a small tmpfs needs root");
        return;
    }
    let path = folder.file("disk", SIZE_BYTES);
    let mut rig = Rig::new(&[open(&path, Some(4096))]);
    let data = rig.filled(128 * 1024, 1);
    let statuses: Vec<IoStatus> =
        (0..16).map(|n| rig.io(0, IoOp::Write, n * 32, 32, Some(&data))).collect();
    // Nor does it need room to zero what has none.
    let zeroes = rig.io(0, IoOp::WriteZeroes, 768, 256, None);
    let first = rig.read(0, 0, 32);
    let good = first == data.as_slice();
    drop(data);
    rig.finish();
    unmount(&folder.0);
    assert_eq!(statuses[0], IoStatus::Ok);
    assert_eq!(statuses[15], IoStatus::NoSpace);
    assert_eq!(zeroes, IoStatus::Ok);
    assert!(good, "what was stored is still there");
}

#[test]
fn opening_says_what_is_wrong() {
    let folder = Folder::new("errors");
    let failure = |path: &Path, block_size| {
        let error = UringDevice::open(options(path, block_size)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("Uring0"), "{text}");
        error
    };
    let missing = failure(&folder.0.join("missing"), None);
    assert!(matches!(missing, DeviceError::NotFound { .. }), "{missing}");
    let directory = failure(&folder.0, None);
    assert!(matches!(directory, DeviceError::WrongKind { kind: "directory", .. }), "{directory}");
    let device = failure(Path::new("/dev/null"), None);
    assert!(matches!(device, DeviceError::WrongKind { .. }), "{device}");
    let empty = failure(&folder.file("empty", 0), None);
    assert!(matches!(empty, DeviceError::Empty { .. }), "{empty}");
    let partial = failure(&folder.file("partial", 4096 + 512), Some(4096));
    assert!(matches!(partial, DeviceError::Partial { size_bytes: 4608, .. }), "{partial}");
    let blocks = failure(&folder.file("blocks", SIZE_BYTES), Some(1000));
    assert!(matches!(blocks, DeviceError::BlockSize { .. }), "{blocks}");
}

#[test]
fn a_member_is_opened_once_only() {
    let folder = Folder::new("lock");
    let path = folder.file("disk", SIZE_BYTES);
    let first = UringDevice::open(options(&path, None)).unwrap();
    let second = UringDevice::open(options(&path, None)).unwrap_err();
    assert!(matches!(second, DeviceError::InUse { .. }), "{second}");
    drop(first);
    UringDevice::open(options(&path, None)).unwrap();
}
