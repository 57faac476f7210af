//! Block devices and odd file systems. They need root, and say when they were left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{UringDevice, UringOptions};
use crate::bdev::rig::{Folder, Rig, store_contract, unmount};
use crate::bdev::{Device, DeviceError, IoOp, IoStatus};

const SIZE_BYTES: u64 = 4 << 20;

/// Output of a command that may not be permitted here.
fn tried(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    if !output.status.success() {
        println!("left out: `{program} {}` is not possible here", args.join(" "));
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

struct Loop {
    device: PathBuf,
    _folder: Folder,
}

impl Loop {
    fn new(sector: &str) -> Option<Self> {
        let folder = Folder::new(&format!("loop{sector}"));
        let file = folder.file("disk", SIZE_BYTES);
        let device = tried("losetup", &["-f", "--show", "-b", sector, file.to_str().unwrap()])?;
        Some(Self { device: PathBuf::from(device), _folder: folder })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("-d").arg(&self.device).status());
    }
}

fn open(path: &Path, block_size_bytes: Option<u32>) -> Result<Device, DeviceError> {
    let name = "Uring0".to_owned();
    let path = path.to_owned();
    let options = UringOptions { name, path, block_size_bytes, uuid: uuid::Uuid::nil() };
    UringDevice::open(options).map(Device::Uring)
}

#[test]
fn a_block_device_stores() {
    let Some(device) = Loop::new("512") else { return };
    let bdev = open(&device.device, None).unwrap();
    assert_eq!(bdev.geometry().block_size_bytes, 512);
    assert_eq!(bdev.geometry().size_bytes(), SIZE_BYTES);
    assert!(matches!(open(&device.device, None), Err(DeviceError::InUse { .. })));
    let mut rig = Rig::new(&[bdev]);
    store_contract(&mut rig, 0, SIZE_BYTES / 512);
    rig.finish();
}

#[test]
fn a_device_of_large_sectors_refuses_small_blocks() {
    let Some(device) = Loop::new("4096") else { return };
    let error = open(&device.device, Some(512)).unwrap_err();
    assert!(matches!(error, DeviceError::Alignment { needed_bytes: 4096, .. }), "{error}");
    assert!(error.to_string().contains("block_size 4096"), "{error}");
    assert_eq!(open(&device.device, None).unwrap().geometry().block_size_bytes, 4096);
    assert_eq!(open(&device.device, Some(4096)).unwrap().geometry().block_size_bytes, 4096);
}

#[test]
fn a_mounted_device_is_not_opened() {
    let Some(device) = Loop::new("512") else { return };
    let folder = Folder::new("mounted");
    let (path, at) = (device.device.to_str().unwrap(), folder.0.to_str().unwrap());
    if tried("mkfs.ext4", &["-q", path]).is_none() || tried("mount", &[path, at]).is_none() {
        return;
    }
    let result = open(&device.device, None);
    unmount(&folder.0);
    assert!(matches!(result, Err(DeviceError::InUse { .. })), "{result:?}");
}

/// ramfs knows neither direct I/O nor holes nor zeroed ranges.
#[test]
fn a_file_without_direct_io_stores_through_the_page_cache() {
    let folder = Folder::new("ramfs");
    let at = folder.0.to_str().unwrap();
    if tried("mount", &["-t", "ramfs", "mdof-test", at]).is_none() {
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let bdev = open(&folder.file("disk", SIZE_BYTES), None).unwrap();
        let Device::Uring(device) = &bdev else { panic!("opened as uring") };
        assert!(!device.is_direct());
        assert_eq!(bdev.geometry().block_size_bytes, 512);
        let mut rig = Rig::new(&[bdev]);
        store_contract(&mut rig, 0, SIZE_BYTES / 512);
        let data = rig.filled(512, 8);
        rig.start_fua(0, 1, (IoOp::Write, 1, 1), Some(&data), true);
        rig.run_until_ended(1);
        assert_eq!(rig.ended, [(1, IoStatus::Ok)]);
        drop(data);
        rig.finish();
    });
    unmount(&folder.0);
    result.unwrap();
}
