//! Debian's mdadm and mdof's own geometry read the arrays of every level that mdof creates.
//!
//! Without mdadm the test says so; with `MDOF_TEST_REQUIRE=1` it fails then.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this is a test")]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdof::md::{
    Examine, Features, Level, LevelCreation, NewArray, NewLevel, NewLog, NewMember, SECTOR_BYTES,
    Superblock, Timestamp, create_level, layout_name,
};
use mdof::raid::geometry::{Geometry, Shape};

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

const STRIP_BYTES: u64 = 64 << 10;

/// Every layout that mdof creates, with numbers of members that do and do not divide.
fn arrays() -> Vec<(NewLevel, usize)> {
    let layouts: [(Level, &[u32], &[usize]); 7] = [
        (Level::Linear, &[0], &[2, 3]),
        (Level::Raid0, &[1, 2], &[2, 5]),
        (Level::Raid1, &[0], &[2, 4]),
        (Level::Raid4, &[0], &[3]),
        (Level::Raid5, &[0, 1, 2, 3, 4, 5], &[3, 6]),
        (Level::Raid6, &[0, 1, 2, 3, 4, 5], &[4, 7]),
        (Level::Raid10, &[0x102, 0x103, 0x201, 0x301, 0x10201, 0x10301], &[3, 4, 5]),
    ];
    let mut arrays = Vec::new();
    for (level, words, members) in layouts {
        let logs: &[NewLog] = match level {
            Level::Linear | Level::Raid0 => &[NewLog::None],
            _ => &[NewLog::None, NewLog::Bitmap { chunk_bytes: None }],
        };
        for (&layout, &members) in words.iter().flat_map(|w| members.iter().map(move |m| (w, m))) {
            for &log in logs {
                arrays.push((NewLevel { level, layout, strip_bytes: STRIP_BYTES, log }, members));
            }
        }
    }
    arrays
}

/// Members of about 64 MiB, the second larger.
fn new_array(members: usize) -> NewArray {
    let member = |index: usize| NewMember {
        device_sectors: if index == 1 { 163_840 } else { 131_072 },
        logical_block_size: 512,
        device_uuid: [u8::try_from(index).unwrap() + 0x11; 16],
    };
    NewArray {
        name: "storage:levels".to_owned(),
        set_uuid: *b"\xe0\x55\x96\x9a\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c",
        ctime: Timestamp::from_unix(1_763_000_000, 123_456),
        assume_clean: true,
        members: (0..members).map(member).collect(),
    }
}

fn geometry(superblocks: &[Superblock]) -> Geometry {
    let first = &superblocks[0];
    let sizes: Vec<u64> = superblocks.iter().map(|own| own.data_size_sectors).collect();
    Geometry::new(&Shape {
        level: first.level.number(),
        layout: first.layout_word(),
        raid_disks: first.raid_disks,
        chunk_sectors: first.chunk_sectors,
        size_sectors: first.size_sectors,
        member_sectors: &sizes,
        block_size_bytes: first.logical_block_size,
    })
    .unwrap()
}

/// `mdadm --examine` of one member as "name" to "value".
fn examine(
    mdadm: &Path,
    superblock: &Superblock,
    created: &LevelCreation,
) -> HashMap<String, String> {
    let name = format!("mdadm-levels-{}.img", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file = File::options().create(true).truncate(true).write(true).open(&path).unwrap();
    let end = superblock.data_offset_sectors + superblock.data_size_sectors;
    file.set_len(end * SECTOR_BYTES).unwrap();
    if let LevelCreation::Bitmap(creation) = created {
        file.write_all_at(&creation.bitmap_area(), creation.bitmap_sector * SECTOR_BYTES).unwrap();
    }
    let mut block = [0; 512];
    superblock.encode_into(&mut block);
    file.write_all_at(&block, superblock.super_offset_sectors * SECTOR_BYTES).unwrap();
    let output = Command::new(mdadm).arg("--examine").arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdadm refused a {:?}: {errors}", superblock.level);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields = text.lines().filter_map(|line| line.split_once(" : "));
    fields.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

fn compare(shown: &HashMap<String, String>, own: &Superblock, geometry: &Geometry) {
    let field = |name: &str| shown.get(name).map(String::as_str);
    assert!(shown["Checksum"].ends_with("- correct"), "{}", shown["Checksum"]);
    assert_eq!(field("Raid Level"), Some(own.level.name()));
    assert_eq!(shown["Raid Devices"], own.raid_disks.to_string());
    assert_eq!(shown["Data Offset"], format!("{} sectors", own.data_offset_sectors));
    let layout = layout_name(own.level, own.layout);
    assert_eq!(field("Layout"), layout.as_deref(), "{own:?}");
    let strips = own.chunk_sectors > 0;
    assert_eq!(field("Chunk Size"), strips.then_some("64K"));
    let examined = Examine { superblock: own, bitmap: None }.to_string();
    assert!(layout.is_none_or(|name| examined.contains(&format!("Layout : {name}\n"))));
    if !matches!(own.level, Level::Linear | Level::Raid0) {
        let kib = geometry.blocks() / 2;
        let size = &shown["Array Size"];
        assert!(size.starts_with(&format!("{kib} KiB")), "{size}, not {kib} KiB: {own:?}");
    }
    let has = |feature| own.features.contains(feature);
    let ppl = has(Features::MULTIPLE_PPLS);
    let log = ppl.then_some("2048 sectors at offset 8 sectors from superblock");
    assert_eq!(field("PPL"), log, "{shown:?}");
    let map = has(Features::BITMAP_OFFSET).then_some("8 sectors from superblock");
    assert_eq!(field("Internal Bitmap"), map);
    assert_eq!(field("State"), Some("clean"));
    assert!(
        shown["Array State"].starts_with(&"A".repeat(usize::try_from(own.raid_disks).unwrap()))
    );
}

#[test]
fn mdadm_and_the_geometry_read_every_level() {
    let mdadm = mdadm();
    for (new, members) in arrays() {
        eprintln!("{new:?} of {members}");
        let created = create_level(&new_array(members), &new).unwrap();
        let superblocks = created.superblocks();
        let geometry = geometry(superblocks);
        assert_eq!(geometry.sync_blocks(), superblocks[0].sync_size_sectors());
        if let LevelCreation::Bitmap(creation) = &created {
            assert_eq!(creation.bitmap.sync_size_sectors, geometry.sync_blocks());
        }
        for (slot, own) in (0u8..).zip(superblocks) {
            assert!(geometry.member_blocks(slot) <= own.data_size_sectors);
        }
        let last = superblocks.last().unwrap();
        if let Some(mdadm) = &mdadm {
            compare(&examine(mdadm, last, &created), last, &geometry);
        }
    }
}

/// What md's metadata side lets through is what the geometry knows, word by word.
#[test]
fn metadata_and_geometry_know_the_same_layouts() {
    for (level, disks) in [(Level::Raid5, 5), (Level::Raid6, 6), (Level::Raid10, 6)] {
        let new = NewLevel { strip_bytes: STRIP_BYTES, ..NewLevel::new(level) };
        let mut own = create_level(&new_array(disks), &new).unwrap().superblocks()[0].clone();
        for layout in (0..0x400).chain((0..0x9_0000).step_by(0x101)).chain([u32::MAX, 0x0100_0102])
        {
            own.layout = layout;
            let shape = Shape {
                level: level.number(),
                layout,
                raid_disks: own.raid_disks,
                chunk_sectors: own.chunk_sectors,
                size_sectors: own.size_sectors,
                member_sectors: &[],
                block_size_bytes: 512,
            };
            let (metadata, geometry) = (own.check_layout(), Geometry::new(&shape));
            match (metadata, &geometry) {
                (Ok(()), Ok(geometry)) => {
                    assert_eq!(geometry.sync_blocks(), own.sync_size_sectors(), "{layout:#x}");
                }
                // The geometry also looks whether copies come to lie on each other.
                (Ok(()), Err(error)) => {
                    assert!(level == Level::Raid10, "{layout:#x}: {error}");
                    let text = error.to_string();
                    assert!(text.contains("overwrite") || text.contains("two blocks"), "{text}");
                }
                (Err(error), geometry) => assert!(geometry.is_err(), "{layout:#x}: {error}"),
            }
        }
    }
}
