//! Positions as mdadm and the kernel left them in the reference images, and what is refused.

use super::*;
use crate::md::{BITMAP_HEAD_BYTES, BitmapSuperblock, NewMember, Timestamp, Unverified};

fn array(members: usize, device_sectors: u64) -> NewArray {
    let member = |index: usize| NewMember {
        device_sectors,
        logical_block_size: 512,
        device_uuid: [u8::try_from(index).unwrap() + 1; 16],
    };
    NewArray {
        name: "host:levels".to_owned(),
        set_uuid: [0xa5; 16],
        ctime: Timestamp::from_unix(1_763_000_000, 5),
        assume_clean: false,
        members: (0..members).map(member).collect(),
    }
}

fn with_strips(level: Level, layout: u32, strip_kib: u64, log: NewLog) -> NewLevel {
    NewLevel { level, layout, strip_bytes: strip_kib << 10, log }
}

/// The images: data offset and used size by member size, level and strip.
#[test]
fn data_lies_where_mdadm_puts_it() {
    let none = NewLog::None;
    let map = NewLog::Bitmap { chunk_bytes: None };
    for (new, members, device, offset, size, sync) in [
        // layout-*
        (with_strips(Level::Raid5, 2, 64, none), 4, 65_536, 2048, 63_488, 63_488),
        (with_strips(Level::Raid6, 1, 64, none), 5, 65_536, 2048, 63_488, 63_488),
        (with_strips(Level::Raid4, 0, 64, none), 3, 65_536, 2048, 63_488, 63_488),
        (with_strips(Level::Raid10, 0x102, 64, none), 3, 65_536, 2048, 63_488, 95_232),
        (with_strips(Level::Raid10, 0x10201, 64, none), 4, 65_536, 2048, 63_488, 126_976),
        (with_strips(Level::Raid0, 1, 64, none), 3, 65_536, 2048, 0, 0),
        // raid10-fresh, raid5-fresh, raid6-fresh
        (with_strips(Level::Raid10, 0x102, 512, map), 4, 524_288, 4096, 520_192, 1_040_384),
        (with_strips(Level::Raid5, 2, 64, map), 3, 524_288, 2048, 522_240, 522_240),
        (with_strips(Level::Raid6, 2, 64, map), 4, 524_288, 2048, 522_240, 522_240),
    ] {
        let creation = create_level(&array(members, device), &new).unwrap();
        for superblock in creation.superblocks() {
            assert_eq!(superblock.data_offset_sectors, offset, "{new:?}");
            assert_eq!(superblock.size_sectors, size, "{new:?}");
            assert_eq!(superblock.sync_size_sectors(), sync, "{new:?}");
            assert_eq!(superblock.data_size_sectors, device - offset, "{new:?}");
        }
    }
}

#[test]
fn the_bitmap_covers_what_the_level_syncs() {
    for (level, members) in
        [(Level::Raid1, 2), (Level::Raid4, 3), (Level::Raid5, 3), (Level::Raid6, 5)]
    {
        let created = create_level(&array(members, 1 << 21), &NewLevel::new(level)).unwrap();
        let LevelCreation::Bitmap(creation) = &created else { panic!("no bitmap") };
        let own = &creation.superblocks[0];
        assert_eq!(creation.bitmap.sync_size_sectors, own.size_sectors);
    }
    for (layout, device) in [(0x102, 1u64 << 21), (0x201, 1 << 34), (0x10301, 1 << 34)] {
        let new = NewLevel { layout, ..NewLevel::new(Level::Raid10) };
        let created = create_level(&array(5, device), &new).unwrap();
        let LevelCreation::Bitmap(creation) = &created else { panic!("no bitmap") };
        let own = &creation.superblocks[4];
        assert_eq!(creation.bitmap.sync_size_sectors, own.sync_size_sectors());
        assert!(own.sync_size_sectors() > own.size_sectors);
        assert!(creation.bitmap.chunk_sectors().unwrap() <= 4096, "{layout:#x}");
        let mut head = [0; BITMAP_HEAD_BYTES];
        creation.bitmap.encode_into(&mut head);
        assert_eq!(BitmapSuperblock::parse(&head, own).as_ref(), Ok(&creation.bitmap));
        // One that covers a member only, as for other levels, is not this array's.
        head[40..48].copy_from_slice(&own.size_sectors.to_le_bytes());
        assert!(BitmapSuperblock::parse(&head, own).is_err());
    }
}

#[test]
fn every_level_reads_back_as_it_was_made() {
    let log = |level| match level {
        Level::Raid5 => vec![NewLog::None, NewLog::Bitmap { chunk_bytes: Some(1 << 20) }],
        Level::Raid0 | Level::Linear => vec![NewLog::None],
        _ => vec![NewLog::None, NewLog::Bitmap { chunk_bytes: None }],
    };
    for level in [
        Level::Linear,
        Level::Raid0,
        Level::Raid1,
        Level::Raid4,
        Level::Raid5,
        Level::Raid6,
        Level::Raid10,
    ] {
        for log in log(level) {
            let new = NewLevel { log, ..NewLevel::new(level) };
            let created = create_level(&array(4, 1 << 21), &new).unwrap();
            for superblock in created.superblocks() {
                let mut block = [0; 4096];
                superblock.encode_into(&mut block);
                assert_eq!(&Unverified::parse(&block, 8).unwrap(), superblock);
                assert_eq!(superblock.check_layout(), Ok(()));
                let has_map = superblock.features.contains(Features::BITMAP_OFFSET);
                assert_eq!(has_map, matches!(created, LevelCreation::Bitmap(_)), "{new:?}");
                assert_eq!(superblock.unwritten_reads_zero(), has_map, "{new:?}");
                let is_clean = has_map || matches!(level, Level::Raid0 | Level::Linear);
                assert_eq!(superblock.is_clean(), is_clean, "{new:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    let text = |members: usize, new: NewLevel| {
        create_level(&array(members, 1 << 21), &new).unwrap_err().to_string()
    };
    let of = NewLevel::new;
    assert!(text(3, of(Level::Raid6)).starts_with("a raid6 of this layout takes 4 to 64 members"));
    assert!(text(1, of(Level::Raid5)).contains("takes 2 to 64"));
    assert!(text(65, of(Level::Raid0)).contains("65 were given"));
    let three = NewLevel { layout: 0x103, ..of(Level::Raid10) };
    assert!(text(2, three).contains("takes 3 to 64"));
    for (level, layout) in [
        (Level::Raid5, 6),
        (Level::Raid6, 8),
        (Level::Raid6, 18),
        (Level::Raid10, 0x202),
        (Level::Raid10, 0x40201),
        (Level::Raid10, 0x101),
        (Level::Raid0, 0),
    ] {
        let refused = text(4, NewLevel { layout, ..of(level) });
        assert!(refused.contains(&format!("cannot have the layout {layout:#x}")), "{refused}");
    }
    let strip = |strip_bytes| text(3, NewLevel { strip_bytes, ..of(Level::Raid5) });
    assert!(strip(0).contains("4 KiB to 1 GiB") && strip(96 << 10).contains("98304"));
    let map = NewLog::Bitmap { chunk_bytes: None };
    let logged = |level, log| text(4, NewLevel { log, ..of(level) });
    assert_eq!(logged(Level::Raid0, map), "a raid0 has no use for a bitmap");
    let tiny = create_level(&array(3, 4096), &NewLevel::new(Level::Raid5)).unwrap_err();
    assert!(tiny.to_string().starts_with("member 0 is too small"), "{tiny}");
    let huge = create_level(&array(64, 1 << 53), &NewLevel::new(Level::Raid5)).unwrap_err();
    assert!(huge.to_string().contains("2^63 bytes"), "{huge}");
}
