//! Superblocks and bitmaps as Linux 7.2 and mdadm 4.6 left them on disk.
//!
//! `golden` runs everywhere, on the few sectors kept in `tests/data/md`: `NAME.sb` is the first
//! logical block of a superblock, `NAME.bitmap` the 1024-byte head of its bitmap. `images` reads
//! whole members from `../shared/ondisk/images` (or `$MDOF_SHARED`) and holds every field against
//! the decode that came with them; where the folder does not exist it says so and does nothing.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this is a test")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use mdof::md::{
    AssembleError, BITMAP_HEAD_BYTES, BadRange, BitmapPlan, BitmapSuperblock, BitmapVersion,
    Candidate, Features, MemberState, RejectionReason, Role, Slot, Superblock, Unverified,
    assemble, format_uuid, parse_bad_blocks, state_offset_bytes,
};

#[path = "support/md_images.rs"]
mod support;

use support::{Member, images, with_members};

/// What `llbdump.py` printed of one member: `key=value` words.
type Decode = HashMap<String, String>;

/// The decode of each member from `NAME.txt`; `None` for a member without a 1.x superblock.
fn decodes(text: &str) -> Vec<Option<Decode>> {
    let mut members: Vec<Option<Decode>> = Vec::new();
    for line in text.lines() {
        if line.starts_with(&format!("== m{}.img size", members.len())) {
            members.push(None);
        } else if line.starts_with("#####") && !members.is_empty() {
            break;
        }
        let Some(member) = members.last_mut() else { continue };
        if !line.starts_with("  ") {
            continue;
        }
        let line = line.trim();
        let prefix = match line {
            _ if line.starts_with("v1.") => "array.",
            _ if line.starts_with("data_offset") => "",
            _ if line.starts_with("bitmap@") => "bitmap.",
            _ if line.starts_with("badblocks:") => "badblocks",
            _ if line.starts_with("llbitmap chunks") => "histogram",
            _ => continue,
        };
        let member = member.get_or_insert_default();
        let whole = matches!(prefix, "badblocks" | "histogram").then(|| line.to_owned());
        whole.map(|line| member.insert(prefix.to_owned(), line));
        for (key, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
            member.insert(format!("{prefix}{key}"), value.to_owned());
        }
        if let Some((_, roles)) = line.split_once("roles=") {
            member.insert("roles".to_owned(), roles.to_owned());
        }
    }
    members
}

fn number(decode: &Decode, key: &str) -> u64 {
    let text = &decode[key];
    let hex = text.split('[').next().unwrap().strip_prefix("0x").map(str::to_owned);
    hex.map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(&hex, 16).ok())
        .unwrap_or_else(|| panic!("{key}={text} is no number"))
}

fn check_superblock(superblock: &Superblock, bytes: &[u8], decode: &Decode) {
    let is = |key: &str, found: u64| assert_eq!(found, number(decode, key), "{key}");
    assert_eq!(format_uuid(&superblock.set_uuid).replace(':', ""), decode["array.uuid"]);
    is("array.feature", superblock.features.bits().into());
    assert_eq!(superblock.level.number().to_string(), decode["array.level"]);
    is("array.layout", superblock.layout.into());
    is("array.size", superblock.size_sectors);
    is("size", superblock.bblog.size_sectors.into());
    is("array.chunk", superblock.chunk_sectors.into());
    is("array.raid_disks", superblock.raid_disks.into());
    if !superblock.features.intersects(Features::PPL | Features::MULTIPLE_PPLS) {
        assert_eq!(superblock.bitmap_offset_sectors.to_string(), decode["array.bitmap_offset"]);
    }
    is("data_offset", superblock.data_offset_sectors);
    is("data_size", superblock.data_size_sectors);
    is("recovery_offset", superblock.recovery_offset_sectors);
    is("dev_number", superblock.dev_number.into());
    is("devflags", superblock.devflags.bits().into());
    is("shift", superblock.bblog.shift.into());
    assert_eq!(superblock.bblog.offset_sectors.to_string(), decode["offset"]);
    is("events", superblock.events);
    is("resync_offset", superblock.resync_offset_sectors);
    is("max_dev", superblock.roles.len().try_into().unwrap());
    is("lbs", superblock.logical_block_size.into());
    let roles: Vec<String> = superblock.roles.iter().take(8).map(role_text).collect();
    assert_eq!(format!("[{}]", roles.join(", ")), decode["roles"]);

    let mut again = vec![0xee; 4096];
    let length = superblock.encode_into(&mut again);
    assert_eq!(again[..length], bytes[..length], "decode and encode give the same bytes");
    assert!(again[length..].iter().all(|&byte| byte == 0));
}

fn role_text(role: &Role) -> String {
    match role {
        Role::Active(slot) => slot.to_string(),
        Role::Spare => "'0xffff'".to_owned(),
        Role::Faulty => "'0xfffe'".to_owned(),
        Role::Journal => "'0xfffd'".to_owned(),
    }
}

/// Returns whether the bitmap was a lockless one in order.
fn check_bitmap(member: &Member, superblock: &Superblock, decode: &Decode) -> bool {
    let Some(sector) = superblock.bitmap_sector() else {
        assert!(!decode.contains_key("bitmap.version"));
        return false;
    };
    let bytes = member.read(sector * 512, BITMAP_HEAD_BYTES);
    let parsed = BitmapSuperblock::parse(&bytes, superblock);
    let known = matches!(number(decode, "bitmap.version"), 4 | 6);
    if !known || decode["bitmap.uuid_match"] != "True" {
        assert!(parsed.is_err(), "the kernel destroyed this head, mdof must not believe it");
        return false;
    }
    let bitmap = parsed.unwrap();
    let is = |key: &str, found: u64| assert_eq!(found, number(decode, key), "{key}");
    is("bitmap.version", bitmap.version.number().into());
    is("bitmap.events", bitmap.events);
    is("bitmap.events_cleared", bitmap.events_cleared);
    is("bitmap.sync_size", bitmap.sync_size_sectors);
    is("bitmap.state", bitmap.flags.bits().into());
    is("bitmap.chunksize", bitmap.chunk_raw.into());
    is("bitmap.daemon_sleep", bitmap.daemon_sleep_s.into());
    is("bitmap.sectors_reserved", bitmap.sectors_reserved.into());
    if bitmap.version == BitmapVersion::Classic {
        return false;
    }
    let mut again = [0; BITMAP_HEAD_BYTES];
    bitmap.encode_into(&mut again);
    assert_eq!(again[..], bytes[..], "the head goes through unchanged");
    assert_eq!(histogram(member, &bitmap, sector), decode["histogram"]);
    true
}

fn histogram(member: &Member, bitmap: &BitmapSuperblock, sector: u64) -> String {
    const NAMES: [&str; 8] = [
        "Unwritten",
        "Clean",
        "Dirty",
        "NeedSync",
        "Syncing",
        "NeedSyncUnwritten",
        "SyncingUnwritten",
        "CleanUnwritten",
    ];
    let count = bitmap.chunk_count();
    let states = member.read(state_offset_bytes(sector, 0), count.try_into().unwrap());
    let mut counts = BTreeMap::new();
    for state in states {
        *counts.entry(state).or_insert(0) += 1;
    }
    let texts: Vec<String> = counts
        .iter()
        .map(|(&state, count)| format!("{}={count}", NAMES[usize::from(state)]))
        .collect();
    format!("llbitmap chunks={count}: {}", texts.join(", "))
}

#[test]
fn every_image_reads_as_decoded_and_encodes_to_the_same_bytes() {
    let Some(images) = images() else { return };
    let (mut superblocks, mut bitmaps) = (0, 0);
    let mut names: Vec<String> = fs::read_dir(&images)
        .unwrap()
        .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".tar.xz")?.to_owned()))
        .collect();
    names.sort();
    for name in names {
        let text = fs::read_to_string(images.join(format!("{name}.txt"))).unwrap();
        with_members(&images, &name, |members| {
            let decodes = decodes(&text);
            assert_eq!(members.len(), decodes.len(), "{name}");
            for (index, (member, decode)) in members.iter().zip(&decodes).enumerate() {
                eprintln!("{name} member {index}");
                let found = member.superblock();
                assert_eq!(found.is_some(), decode.is_some());
                let (Some((superblock, bytes)), Some(decode)) = (found, decode) else { continue };
                check_superblock(&superblock, &bytes, decode);
                superblocks += 1;
                bitmaps += u32::from(check_bitmap(member, &superblock, decode));
            }
        });
    }
    assert!(superblocks > 200 && bitmaps > 90, "{superblocks} superblocks, {bitmaps} bitmaps");
}

#[test]
fn images_assemble_as_md_assembles_them() {
    let Some(images) = images() else { return };
    let plan = |name: &str| {
        with_members(&images, name, |members| {
            assemble(&members.iter().map(Member::candidate).collect::<Vec<_>>())
        })
    };
    let both = [Slot::InSync { candidate: 0 }, Slot::InSync { candidate: 1 }];
    for (name, dirty) in
        [("raid1-fresh", false), ("raid1-dirtycut", true), ("raid1-4kn-fresh", false)]
    {
        let assembly = plan(name).unwrap();
        assert_eq!((&assembly.slots[..], assembly.dirty), (&both[..], dirty), "{name}");
        assert!(matches!(assembly.bitmap, BitmapPlan::Load { candidate: 0, stale: false, .. }));
    }
    let degraded = plan("raid1-degraded").unwrap();
    assert_eq!(degraded.slots[0], both[0]);
    assert_eq!(degraded.rejected[0].reason, RejectionReason::Stale { behind: 5 });
    let cut = plan("raid1-none-cut").unwrap();
    assert!(cut.full_resync_needed && cut.bitmap == BitmapPlan::None);
    assert!(plan("raid1-internal-dirtycut").unwrap_err().to_string().contains("classic bitmap"));
    assert!(matches!(plan("raid1-4kn-dirtycut"), Err(AssembleError::Bitmap { .. })));
    let reshape = plan("feat-raid5-reshape-half").unwrap_err().to_string();
    assert!(reshape.contains("RESHAPE_ACTIVE|NEW_OFFSET"), "{reshape}");
    let replace = with_members(&images, "feat-raid1-replace-half", |members| {
        let mut candidates: Vec<_> = members.iter().map(Member::candidate).collect();
        assert!(matches!(assemble(&candidates), Err(AssembleError::ClassicBitmap { .. })));
        for candidate in &mut candidates {
            candidate.superblock.features.remove(Features::BITMAP_OFFSET);
        }
        assemble(&candidates).unwrap()
    });
    assert_eq!(replace.in_sync_count(), 2, "the original still holds its slot");
    let half = replace.replacement.expect("what replaces it goes on");
    let is_replacement = with_members(&images, "feat-raid1-replace-half", |members| {
        members[half.candidate].superblock().unwrap().0.features.contains(Features::REPLACEMENT)
    });
    assert!(is_replacement && replace.rejected.is_empty());
    let mixed: Vec<Candidate> = ["raid1-fresh", "raid1-assume"]
        .iter()
        .map(|name| with_members(&images, name, |members| members[0].candidate()))
        .collect();
    assert!(matches!(assemble(&mixed), Err(AssembleError::DifferentArrays { .. })));
}

#[test]
fn members_of_images_say_what_they_are() {
    let Some(images) = images() else { return };
    let states = |name: &str| -> Vec<MemberState> {
        with_members(&images, name, |members| {
            members.iter().map(|m| m.superblock().unwrap().0.member_state()).collect()
        })
    };
    let in_sync = |slot| MemberState::InSync { slot };
    let replace = states("feat-raid1-replace-half");
    assert_eq!(replace[..2], [in_sync(0), in_sync(1)]);
    assert!(
        matches!(replace[2], MemberState::Replacing { slot: 0, done_sectors } if done_sectors > 0),
        "{replace:?}"
    );
    let again = states("raid5-readdhalf");
    let is_guided =
        |s: &MemberState| matches!(s, MemberState::Rebuilding { bitmap_guided: true, .. });
    assert_eq!(again.iter().filter(|state| is_guided(state)).count(), 1, "{again:?}");
    let lazy = states("raid5-lazystop");
    assert_eq!(lazy, [in_sync(0), in_sync(1), MemberState::ParityPending { slot: 2 }]);
    let journal = states("feat-raid5-journal-cut");
    assert_eq!(journal[3], MemberState::Journal { tail_sectors: 8 });
    assert!(journal[..3].iter().all(|s| !matches!(s, MemberState::Journal { .. })), "{journal:?}");
}

#[test]
fn the_bad_block_log_of_an_image_is_read() {
    let Some(images) = images() else { return };
    with_members(&images, "feat-raid1-badblocks", |members| {
        let (superblock, _) = members[0].superblock().unwrap();
        assert!(superblock.features.contains(Features::BAD_BLOCKS));
        let offset = i64::from(superblock.bblog.offset_sectors);
        let sector = superblock.super_offset_sectors.checked_add_signed(offset).unwrap();
        let ranges = parse_bad_blocks(&members[0].read(sector * 512, 4096), &superblock).unwrap();
        let text = fs::read_to_string(images.join("feat-raid1-badblocks.txt")).unwrap();
        let pairs = |r: &BadRange| format!("({}, {})", r.start_sector, r.sectors);
        let listed = ranges.iter().map(pairs).collect::<Vec<_>>().join(", ");
        assert!(text.contains(&format!("badblocks: [{listed}]")), "{listed}");
        assert!(!ranges.is_empty());
    });
}

#[test]
fn golden_sectors_go_through_unchanged() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/md"));
    // Fixture and member, sector, level, own role, events, feature bits, chunks.
    let golden = [
        ("raid1-dirtycut-m0", 8, 1, Role::Active(0), 3, 0x1, 4080),
        ("raid1-degraded-m0", 8, 1, Role::Active(0), 8, 0x1, 4080),
        ("raid1-degraded-m1", 8, 1, Role::Active(1), 3, 0x1, 4080),
        ("raid1-4kn-fresh-m1", 8, 1, Role::Active(1), 2, 0x1, 4080),
        ("raid10-fresh-m3", 8, 10, Role::Active(3), 3, 0x1, 8128),
        ("layout-raid1-meta10-m0", 65_520, 1, Role::Active(0), 2, 0, 0),
        ("feat-raid5-journal-cut-m3", 8, 5, Role::Journal, 21, 0x200, 0),
    ];
    for (name, sector, level, role, events, features, chunks) in golden {
        let bytes = fs::read(folder.join(format!("{name}.sb"))).unwrap();
        let superblock = Unverified::parse(&bytes, sector).unwrap();
        let mut again = vec![0xee; bytes.len()];
        superblock.encode_into(&mut again);
        assert_eq!(again, bytes, "{name}");
        let found = (superblock.level.number(), superblock.own_role(), superblock.features.bits());
        assert_eq!(found, (level, role, features), "{name}");
        assert_eq!(superblock.events, events, "{name}");
        if chunks > 0 {
            let bytes = fs::read(folder.join(format!("{name}.bitmap"))).unwrap();
            let bitmap = BitmapSuperblock::parse(&bytes, &superblock).unwrap();
            assert_eq!((bitmap.chunk_count(), bitmap.events), (chunks, events), "{name}");
            let mut again = [0; BITMAP_HEAD_BYTES];
            bitmap.encode_into(&mut again);
            assert_eq!(again[..], bytes[..], "{name}");
        }
    }
}
