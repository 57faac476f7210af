//! Debian's mdadm reads what mdof creates: `mdadm --examine` on a sparse file, field by field.
//!
//! Without mdadm the test says so; with `MDOF_TEST_REQUIRE=1` it fails then.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this is a test")]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdof::md::{
    BITMAP_HEAD_BYTES, BitmapSuperblock, BitmapVersion, Creation, NewArray, NewMember, Role,
    Superblock, Timestamp, create, format_uuid,
};

fn mdadm() -> Option<PathBuf> {
    let found = ["/usr/sbin/mdadm", "/sbin/mdadm", "/usr/bin/mdadm"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    if found.is_none() {
        let required = std::env::var_os("MDOF_TEST_REQUIRE").is_some_and(|value| value == "1");
        assert!(!required, "mdadm is not installed and MDOF_TEST_REQUIRE=1: apt install mdadm");
        eprintln!("LEFT OUT: mdadm is not installed; nothing was compared with it");
    }
    found
}

fn new_array(device_sectors: u64) -> Creation {
    let member =
        |byte: u8| NewMember { device_sectors, logical_block_size: 512, device_uuid: [byte; 16] };
    create(&NewArray {
        name: "storage:demo".to_owned(),
        set_uuid: *b"\xe0\x55\x96\x9a\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c",
        ctime: Timestamp::from_unix(1_763_000_000, 123_456),
        assume_clean: false,
        members: vec![member(0x11), member(0x22), member(0x33)],
    })
    .unwrap()
}

/// Writes one member as mdof does and returns its path.
fn write_member(creation: &Creation, superblock: &Superblock, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("mdadm-{}-{name}.img", std::process::id()));
    let file = File::options().create(true).truncate(true).write(true).open(&path).unwrap();
    let end = superblock.data_offset_sectors + superblock.data_size_sectors;
    file.set_len(end * 512).unwrap();
    let mut head = [0; BITMAP_HEAD_BYTES];
    creation.bitmap.encode_into(&mut head);
    file.write_all_at(&head, creation.bitmap_sector * 512).unwrap();
    let mut block = [0; 512];
    superblock.encode_into(&mut block);
    file.write_all_at(&block, superblock.super_offset_sectors * 512).unwrap();
    path
}

/// `mdadm --examine` as "name" to "value".
fn examine(mdadm: &Path, path: &Path) -> HashMap<String, String> {
    let output = Command::new(mdadm).arg("--examine").arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdadm refused {}: {errors}", path.display());
    eprintln!("{text}");
    let fields = text.lines().filter_map(|line| line.split_once(" : "));
    fields.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

fn compare(mdadm: &Path, creation: &Creation, superblock: &Superblock, name: &str) {
    let path = write_member(creation, superblock, name);
    let shown = examine(mdadm, &path);
    std::fs::remove_file(&path).unwrap();
    let is = |field: &str, expected: &str| {
        let found = shown.get(field).unwrap_or_else(|| panic!("mdadm shows no {field}: {shown:?}"));
        assert_eq!(found, expected, "{field}");
    };
    let starts = |field: &str, expected: String| {
        assert!(shown[field].starts_with(&expected), "{field}: {} not {expected}", shown[field]);
    };
    is("Magic", "a92b4efc");
    is("Version", "1.2");
    is("Feature Map", "0x1");
    is("Array UUID", &format_uuid(&superblock.set_uuid));
    is("Device UUID", &format_uuid(&superblock.device_uuid));
    starts("Name", "storage:demo".to_owned());
    is("Raid Level", "raid1");
    is("Raid Devices", "3");
    is("Data Offset", &format!("{} sectors", superblock.data_offset_sectors));
    is("Super Offset", "8 sectors");
    is("Internal Bitmap", "8 sectors from superblock");
    is("Events", &superblock.events.to_string());
    is("State", if superblock.is_clean() { "clean" } else { "active" });
    starts("Avail Dev Size", format!("{} sectors", superblock.data_size_sectors));
    starts("Array Size", format!("{} KiB", superblock.size_sectors / 2));
    assert!(shown["Checksum"].ends_with("- correct"), "{}", shown["Checksum"]);
    let Role::Active(slot) = superblock.own_role() else { panic!("an active member") };
    is("Device Role", &format!("Active device {slot}"));
    let state = if superblock.role_of(1) == Role::Faulty { "A.A" } else { "AAA" };
    starts("Array State", state.to_owned());
    // Behind the bitmap, not inside it; mdadm adds whether something is listed.
    let log = superblock.bblog.offset_sectors;
    starts("Bad Block Log", format!("512 entries available at offset {log} sectors"));
}

#[test]
fn mdadm_examines_created_members() {
    let Some(mdadm) = mdadm() else { return };
    // 1 GiB as in the demo, and 2 TiB, where mdof sets aside more than mdadm for the bitmap.
    for device_sectors in [1 << 21, 1 << 32] {
        let creation = new_array(device_sectors);
        for (slot, superblock) in creation.superblocks.iter().enumerate() {
            compare(&mdadm, &creation, superblock, &format!("{device_sectors}-{slot}"));
        }
    }
}

#[test]
fn mdadm_examines_an_active_array_with_a_failed_member() {
    let Some(mdadm) = mdadm() else { return };
    let creation = new_array(1 << 21);
    let mut superblock = creation.superblocks[2].clone();
    superblock.set_role(1, Role::Faulty);
    superblock.events = 0x1_0000_0007;
    superblock.resync_offset_sectors = 0;
    superblock.utime_from(1_763_000_900, 1);
    compare(&mdadm, &creation, &superblock, "failed");
}

#[test]
fn mdadm_sees_a_flipped_bit() {
    let Some(mdadm) = mdadm() else { return };
    let creation = new_array(1 << 21);
    let path = write_member(&creation, &creation.superblocks[0], "flipped");
    let file = File::options().write(true).open(&path).unwrap();
    // The event count: a damaged one could make a stale member the freshest.
    file.write_all_at(&[0x40], 8 * 512 + 201).unwrap();
    let output = Command::new(mdadm).arg("--examine").arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("- correct"), "the comparison above can fail: {text}");
}

/// With the bitmap elsewhere a member is one of an array without, which a start has to resync.
#[test]
fn mdadm_examines_members_whose_bitmap_is_elsewhere() {
    let Some(mdadm) = mdadm() else { return };
    let mut creation = new_array(1 << 21);
    creation.make_external();
    let path = write_member(&creation, &creation.superblocks[0], "external");
    let shown = examine(&mdadm, &path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(shown["Feature Map"], "0x0");
    assert_eq!(shown["State"], "active");
    assert!(!shown.contains_key("Internal Bitmap"), "{shown:?}");
    assert!(shown["Checksum"].ends_with("- correct"), "{}", shown["Checksum"]);
}

/// What mdof takes for a file bitmap of mdadm is one to mdadm: bits from byte 256 on.
#[test]
fn mdadm_examines_a_classic_bitmap_in_a_file() {
    let Some(mdadm) = mdadm() else { return };
    let creation = new_array(1 << 21);
    let mut head = creation.bitmap.clone();
    head.version = BitmapVersion::Classic;
    head.chunk_raw = 64 << 20;
    head.events = 77;
    let mut bytes = [0; BITMAP_HEAD_BYTES];
    head.encode_into(&mut bytes);
    bytes[256..].fill(0);
    bytes[256] = 0b101;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("mdadm-{}-file.bitmap", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new(mdadm).arg("--examine-bitmap").arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["Version : 4", "Events : 77", "Chunksize : 64 MB", "16 bits (chunks), 2 dirty"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let own = &creation.superblocks[0];
    let found = BitmapSuperblock::parse_external(&bytes, own, bytes.len() as u64).unwrap();
    assert_eq!((found.version, found.chunk_count()), (BitmapVersion::Classic, 16));
}
