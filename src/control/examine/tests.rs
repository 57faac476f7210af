//! What is printed of members that are known to the last byte, and hostile ones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::control::test_dir::TestDir;
use crate::md::{
    BITMAP_HEAD_BYTES, Creation, Features, Level, NewArray, NewMember, Role, Superblock, Timestamp,
    create,
};

const STYLE: Style = Style { columns: 80, is_coloured: false };
const SECTORS: u64 = 8192;

/// An array of 48 chunks of 64 KiB on members of 4 MiB, always the same.
fn creation(members: u8) -> Creation {
    let member = |tag| NewMember {
        device_sectors: SECTORS,
        logical_block_size: 512,
        device_uuid: [tag; 16],
    };
    create(&NewArray {
        name: "host:r1".to_owned(),
        set_uuid: *b"\xe0\x55\x96\x9a0123456789ab",
        ctime: Timestamp::from_unix(1_763_000_000, 0),
        assume_clean: false,
        members: (1..=members).map(member).collect(),
    })
    .unwrap()
}

struct Bench(TestDir);

impl Bench {
    fn new() -> Self {
        Self(TestDir::new("examine"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a member: the bitmap's head and the first of its states, and the superblock.
    fn member(&self, name: &str, creation: &Creation, superblock: &Superblock, states: &[u8]) {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(SECTORS * 512).unwrap();
        let mut area = creation.bitmap_area();
        area[BITMAP_HEAD_BYTES..][..states.len()].copy_from_slice(states);
        file.write_all_at(&area, creation.bitmap_sector * 512).unwrap();
        let mut bytes = [0; 4096];
        superblock.encode_into(&mut bytes);
        file.write_all_at(&bytes, superblock.super_offset_sectors * 512).unwrap();
    }

    fn examine(&self, names: &[&str]) -> Report {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        examine(&paths)
    }

    /// The text, with the directory's name taken out.
    fn text(&self, names: &[&str]) -> String {
        let directory = format!("{}/", self.0.path().display());
        self.examine(names).to_text(STYLE).replace(&directory, "")
    }
}

/// The part of the text before the members' superblocks.
fn head(text: &str) -> &str {
    text.split("\n\n").next().unwrap()
}

#[test]
fn a_clean_array() {
    let bench = Bench::new();
    let creation = creation(2);
    for (name, superblock) in ["a", "b"].into_iter().zip(&creation.superblocks) {
        bench.member(name, &creation, superblock, &[1; 10]);
    }
    let text = bench.text(&["b", "a"]);
    let expected = "\
Array host:r1  uuid e055969a:30313233:34353637:38396162
  is         raid1 of 2 members, 3 MiB on each, logical blocks of 512 bytes
  made       2025-11-13 02:13:20 UTC
  written    2025-11-13 02:13:20 UTC, events 1
  state      clean
  health     complete: 2 of 2 members are here and in sync
  a start    goes ahead with all members; nothing is in doubt
  slot 0     in sync     a (events 1)
  slot 1     in sync     b (events 1)
  bitmap     lockless, 48 chunks of 64 KiB, as on a
    state                      chunks         size
  . unwritten                      38     2.37 MiB    79.16 %
  - clean                          10      640 KiB    20.83 %
  map: one character is one chunk (64 KiB)
           0 B  ----------......................................

b:
        Version : 1.2
     Array UUID : e055969a:30313233:34353637:38396162
           Name : host:r1
     Raid Level : raid1
   Raid Devices : 2
  Used Dev Size : 6144 sectors (3.00 MiB)
    Data Offset : 2048 sectors
       Features : BITMAP_OFFSET
          State : clean
    Device UUID : 02020202:02020202:02020202:02020202
         Events : 1
    Device Role : active device 1
    Array State : AA
         Bitmap : lockless, 48 chunks of 128 sectors (64.00 KiB), events 1
a:
        Version : 1.2
     Array UUID : e055969a:30313233:34353637:38396162
           Name : host:r1
     Raid Level : raid1
   Raid Devices : 2
  Used Dev Size : 6144 sectors (3.00 MiB)
    Data Offset : 2048 sectors
       Features : BITMAP_OFFSET
          State : clean
    Device UUID : 01010101:01010101:01010101:01010101
         Events : 1
    Device Role : active device 0
    Array State : AA
         Bitmap : lockless, 48 chunks of 128 sectors (64.00 KiB), events 1
";
    assert_eq!(text, expected, "{text}");
}

#[test]
fn a_dirty_array_with_a_stale_and_a_missing_member() {
    let bench = Bench::new();
    let mut creation = creation(3);
    bench.member("b", &creation, &creation.superblocks[1].clone(), &[]);
    creation.bitmap.events = 5;
    let mut superblock = creation.superblocks[0].clone();
    superblock.events = 5;
    superblock.resync_offset_sectors = 0;
    superblock.set_role(1, Role::Spare);
    bench.member("a", &creation, &superblock, &[1, 2, 3, 4, 0, 77]);
    let text = bench.text(&["a", "b"]);
    let expected = "\
Array host:r1  uuid e055969a:30313233:34353637:38396162
  is         raid1 of 3 members, 3 MiB on each, logical blocks of 512 bytes
  made       2025-11-13 02:13:20 UTC
  written    2025-11-13 02:13:20 UTC, events 5
  state      dirty: not stopped cleanly, or in use elsewhere
  health     DEGRADED: 1 of 3 members are here and in sync
  a start    goes ahead with --start-degraded only; 4 chunks are in doubt (256 KiB), \
with no second member to copy them to
  slot 0     in sync     a (events 5)
  slot 1     stale       b (events 1)
                         its superblock is 4 events behind: it left the array and needs a re-add
  slot 2     missing     not among the files given
  bitmap     lockless, 48 chunks of 64 KiB, as on a
    state                      chunks         size
  . unwritten                      43     2.68 MiB    89.58 %
  - clean                           1       64 KiB     2.08 %
  D dirty                           1       64 KiB     2.08 %
  N need_sync                       1       64 KiB     2.08 %
  S syncing                         1       64 KiB     2.08 %
  ? no_state                        1       64 KiB     2.08 %
  map: one character is one chunk (64 KiB)
           0 B  -DNS.?..........................................";
    assert_eq!(head(&text), expected, "{text}");
    let value = bench.examine(&["a", "b"]).to_json();
    let array = &value["arrays"][0];
    assert_eq!(array["members"][1]["health"], "stale");
    assert_eq!(array["missing_slots"], serde_json::json!([2]));
    // Dirty, NeedSync, Syncing, and the byte that is no state.
    assert_eq!(array["plan"]["resync_chunks"], 4);
    assert_eq!(array["plan"]["resync_bytes"], 4 * 65_536);
    assert_eq!(array["bitmap"]["states"]["no_state"]["chunks"], 1);
    assert_eq!(array["bitmap"]["map"]["cells"].as_str().unwrap(), format!("-DNS.?{:.<42}", ""));
}

#[test]
fn copies_that_differ_are_told_and_the_cautious_state_counts() {
    let bench = Bench::new();
    let creation = creation(2);
    bench.member("a", &creation, &creation.superblocks[0], &[1, 1, 1]);
    bench.member("b", &creation, &creation.superblocks[1], &[1, 2, 1]);
    let text = bench.text(&["a", "b"]);
    assert!(text.contains("a differs in 1 chunks; the more cautious state counts"), "{text}");
    assert!(text.contains("1 chunks are in doubt (64 KiB) and resynced"), "{text}");
    assert!(text.contains("  -D-..."), "{text}");
}

#[test]
fn a_stale_bitmap_puts_all_that_was_written_in_doubt() {
    let bench = Bench::new();
    let creation = creation(2);
    for (name, superblock) in ["a", "b"].into_iter().zip(&creation.superblocks) {
        let mut superblock = superblock.clone();
        superblock.events = 9;
        bench.member(name, &creation, &superblock, &[1, 1, 0, 2]);
    }
    let text = bench.text(&["a", "b"]);
    assert!(text.contains("all that was ever written is in doubt: 3 chunks (192 KiB)"), "{text}");
}

#[test]
fn what_mdof_cannot_start_is_shown_all_the_same() {
    let bench = Bench::new();
    let mut creation = creation(2);
    for superblock in &mut creation.superblocks {
        superblock.features |= Features::RESHAPE_ACTIVE;
    }
    bench.member("a", &creation, &creation.superblocks[0], &[5, 6, 7]);
    creation.superblocks[1].events = 9;
    bench.member("b", &creation, &creation.superblocks[1], &[]);
    let text = bench.text(&["a", "b"]);
    assert!(
        text.contains("is refused: array e055969a:") && text.contains("RESHAPE_ACTIVE"),
        "{text}"
    );
    assert!(text.contains("slot 0     stale       a"), "{text}");
    let alone = bench.text(&["a"]);
    assert!(alone.contains("  ns_...") && alone.contains("clean_unwritten"), "{alone}");
}

#[test]
fn two_arrays_and_what_is_none() {
    let bench = Bench::new();
    let one = creation(2);
    let mut other = creation(2);
    other.bitmap.uuid = [9; 16];
    other.superblocks[0].set_uuid = [9; 16];
    bench.member("a", &one, &one.superblocks[0], &[]);
    bench.member("x", &other, &other.superblocks[0], &[]);
    File::create(bench.path("empty")).unwrap();
    let text = bench.text(&["a", "x", "empty", "gone", "."]);
    assert_eq!(text.matches("Array host:r1 ").count(), 2);
    for told in ["empty: no member: it is empty", "gone: UNREADABLE: it does not exist"] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
    assert!(text.contains("UNREADABLE: it is neither a file nor a block device"), "{text}");
    let report = bench.examine(&["a", "x", "empty"]);
    assert!(!report.is_complete() && bench.examine(&["a", "x"]).is_complete());
    assert_eq!(report.to_json()["others"][0]["status"], "no_superblock");
}

#[test]
fn torn_and_cut_members_are_told() {
    let bench = Bench::new();
    let creation = creation(2);
    bench.member("a", &creation, &creation.superblocks[0], &[]);
    let file = File::options().write(true).open(bench.path("a")).unwrap();
    file.write_all_at(&[0x55], 8 * 512 + 200).unwrap();
    let text = bench.text(&["a"]);
    assert!(text.starts_with("a: DAMAGED: md superblock is damaged: its checksum is"), "{text}");
    bench.member("b", &creation, &creation.superblocks[1], &[]);
    let file = File::options().write(true).open(bench.path("b")).unwrap();
    file.set_len(20 * 512).unwrap();
    let text = bench.text(&["b"]);
    assert!(text.contains("the superblock names no usable bitmap position"), "{text}");
    file.set_len(64 * 512).unwrap();
    let text = bench.text(&["b"]);
    assert!(text.contains("slot 1     rejected    b (events 1)"), "{text}");
    assert!(text.contains("it has 64 sectors, its data ends at sector 8192"), "{text}");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let bench = Bench::new();
    let mut creation = creation(2);
    creation.superblocks[0].set_name =
        *b"\x1b[2J\x07evil\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    bench.member("a\x1b[2J", &creation, &creation.superblocks[0], &[]);
    let text = bench.text(&["a\x1b[2J"]);
    assert!(text.contains("evil") && !text.contains('\x1b') && !text.contains('\x07'), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_never_panic(
        length in 0usize..40_000, seed: [u8; 32], place in 0usize..20_000
    ) {
        let bench = Bench::new();
        let mut bytes: Vec<u8> = (0..length).map(|at| seed[at % 32] ^ seed[at / 32 % 32]).collect();
        // Often with the magic numbers where they are looked for, or anywhere.
        for at in [0, 4096, place, 8192] {
            if let Some(magic) = bytes.get_mut(at..at + 8) {
                magic.copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
            }
        }
        std::fs::write(bench.path("x"), &bytes).unwrap();
        let report = bench.examine(&["x", "x"]);
        prop_assert!(!report.is_complete());
        prop_assert!(!report.to_text(STYLE).is_empty());
        prop_assert_eq!(report.to_json()["others"].as_array().map(Vec::len), Some(2));
    }

    /// A superblock with a right checksum and fields that nobody would write.
    #[test]
    fn hostile_fields_never_panic(
        level in prop::sample::select(vec![Level::Raid1, Level::Raid10, Level::Raid0]),
        features in any::<u16>(), sizes in prop::array::uniform4(any::<u64>()),
        shift in prop::array::uniform4(0u32..64), offsets in prop::array::uniform2(any::<i32>()),
        disks in 1u32..129, number: u32, role: u16, events: u64,
        head in prop::collection::vec((0usize..80, any::<u8>()), 0..6),
    ) {
        let bench = Bench::new();
        let mut creation = creation(2);
        let superblock = &mut creation.superblocks[0];
        let size = |index: usize| sizes[index] >> shift[index];
        superblock.level = level;
        superblock.features = if features & 0x8000 != 0 {
            Features::BITMAP_OFFSET
        } else {
            Features::from_bits_truncate(features.into())
        };
        superblock.size_sectors = size(0);
        superblock.resync_offset_sectors = size(1);
        superblock.data_size_sectors = size(2).max(size(0));
        superblock.data_offset_sectors = size(3);
        superblock.bitmap_offset_sectors = offsets[0] >> (shift[0] % 32);
        superblock.bblog.offset_sectors = offsets[1] >> (shift[1] % 32);
        superblock.bblog.size_sectors = role >> 12;
        superblock.raid_disks = disks;
        superblock.dev_number = number >> (shift[2] % 32);
        let slot = Role::Active(role >> (shift[3] % 16));
        superblock.roles[0] = if role < 0xff00 { slot } else { Role::Spare };
        superblock.events = events;
        let superblock = superblock.clone();
        bench.member("a", &creation, &superblock, &[]);
        let file = File::options().write(true).open(bench.path("a")).unwrap();
        for (at, byte) in head {
            file.write_all_at(&[byte], creation.bitmap_sector * 512 + at as u64).unwrap();
        }
        bench.member("b", &creation, &creation.superblocks[1], &[]);
        let report = bench.examine(&["a", "b"]);
        prop_assert!(!report.to_text(STYLE).is_empty());
        prop_assert_eq!(report.to_json()["shape"].as_u64(), Some(1));
    }
}
