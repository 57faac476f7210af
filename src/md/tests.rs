//! Properties of the superblock and the bitmap head.

use proptest::prelude::*;

use super::*;

/// A valid member 1 of a two-way mirror.
pub(super) fn sample() -> Superblock {
    sample_pair().remove(1)
}

fn sample_pair() -> Vec<Superblock> {
    creation().superblocks
}

/// A two-way mirror of 1 GiB members.
pub(super) fn creation() -> Creation {
    let member = |byte| NewMember {
        device_sectors: 1 << 21,
        logical_block_size: 512,
        device_uuid: [byte; 16],
    };
    create(&NewArray {
        name: "host:sample".to_owned(),
        set_uuid: *b"\xe0\x55\x96\x9a0123456789ab",
        ctime: Timestamp::from_unix(1_763_000_000, 999_999),
        assume_clean: false,
        members: vec![member(1), member(2)],
    })
    .unwrap()
}

fn encoded(superblock: &Superblock) -> Vec<u8> {
    let mut block = vec![0xee; 4096];
    assert_eq!(superblock.encode_into(&mut block), 512);
    block
}

/// Encodes after a change of raw bytes, with a checksum that is right again.
fn forged(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = encoded(&sample());
    change(&mut block);
    let sum = raw::checksum(&block[..512]);
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block
}

#[test]
fn every_flipped_bit_is_refused() {
    let good = encoded(&sample());
    for bit in 0..512 * 8 {
        let mut block = good.clone();
        block[bit / 8] ^= 1 << (bit % 8);
        assert!(Unverified::parse(&block, 8).is_err(), "bit {bit} was flipped unnoticed");
    }
}

#[test]
fn forged_content_is_refused_by_name() {
    use SuperblockError as E;
    let parse = |change: &dyn Fn(&mut [u8])| Unverified::parse(&forged(change), 8).unwrap_err();
    assert!(Unverified::parse(&forged(|_| ()), 8).is_ok());
    let unknown = parse(&|b| b[9] |= 0x60);
    let known = "BITMAP_OFFSET".to_owned();
    assert_eq!(unknown, E::UnknownFeatures { unknown: 0x6000, known });
    assert_eq!(parse(&|b| b[12] = 1), E::Padding { offset: 12 });
    assert_eq!(parse(&|b| b[255] = 1), E::Padding { offset: 228 });
    assert_eq!(parse(&|b| b[72] = 7), E::Level { found: 7 });
    assert_eq!(parse(&|b| b[144] = 0), E::Position { stored: 0, read_from: 8 });
    let field = |field, value| E::Field { field, value };
    assert_eq!(parse(&|b| b[256..258].copy_from_slice(&[0, 0xff])), field("role", 0xff00));
    assert_eq!(parse(&|b| b[136..144].fill(0)), field("data_size", 0));
    assert_eq!(parse(&|b| b[92] = 129), field("raid_disks", 129));
    assert_eq!(parse(&|b| b[128..136].fill(0)), field("data_offset", 0));
    assert_eq!(parse(&|b| b[128..136].fill(0xff)), field("data_offset", u64::MAX));
    assert_eq!(parse(&|b| b[224] = 3), field("logical_block_size", 0x203));
    assert!(matches!(parse(&|b| b[86] = 1), E::Field { field: "size", .. }));
    assert_eq!(parse(&|b| b[200..208].fill(0xff)), field("events", u64::MAX));
}

#[test]
fn frame_errors_are_told_apart() {
    use SuperblockError as E;
    let good = encoded(&sample());
    let short = |have_bytes, need_bytes| Err(E::Truncated { have_bytes, need_bytes });
    assert_eq!(Unverified::parse(&good[..255], 8), short(255, 256));
    assert_eq!(Unverified::parse(&good[..511], 8), short(511, 512));
    assert_eq!(Unverified::parse(&[0; 4096], 8), Err(E::Magic { found: 0 }));
    let mut many = good.clone();
    many[220..224].fill(0xff);
    assert_eq!(Unverified::parse(&many, 8), Err(E::MaxDev { found: u32::MAX }));
    let mut other = good;
    other[4] = 0;
    assert_eq!(Unverified::parse(&other, 8), Err(E::MajorVersion { found: 0 }));
}

#[test]
fn candidates_depend_on_the_size() {
    let at = |sectors| candidate_sectors(sectors).collect::<Vec<_>>();
    assert!(at(0).is_empty());
    assert_eq!(at(8), [0]);
    assert_eq!(at(16), [8, 0]);
    assert_eq!(at(65_536), [8, 0, 65_520]);
    assert_eq!(at(65_543), [8, 0, 65_520]);
}

#[test]
fn all_three_positions_round_trip() {
    for (sector, version) in [(0, "1.1"), (8, "1.2"), (2_097_136, "1.0")] {
        let mut superblock = sample();
        superblock.super_offset_sectors = sector;
        if version == "1.0" {
            superblock.data_offset_sectors = 0;
            superblock.data_size_sectors = sector - 256;
            superblock.bitmap_offset_sectors = -256;
        }
        let read = Unverified::parse(&encoded(&superblock), sector).unwrap();
        assert_eq!((&read, read.minor_version().name()), (&superblock, version));
        let elsewhere = Unverified::parse(&encoded(&superblock), sector ^ 16);
        assert!(matches!(elsewhere, Err(SuperblockError::Position { .. })));
        // The bitmap lies between superblock and data, on whichever side.
        let mut bitmap = creation().bitmap;
        bitmap.sync_size_sectors = superblock.size_sectors;
        let mut head = [0; BITMAP_HEAD_BYTES];
        bitmap.encode_into(&mut head);
        assert_eq!(BitmapSuperblock::parse(&head, &read), Ok(bitmap), "{version}");
    }
    let mut over = sample();
    over.super_offset_sectors = 65_520;
    let over = Unverified::parse(&encoded(&over), 65_520);
    assert!(matches!(over, Err(SuperblockError::Field { field: "data_size", .. })));
}

#[test]
fn examine_shows_what_matters() {
    let creation = creation();
    let mut superblock = creation.superblocks[0].clone();
    let show = |superblock: &Superblock| {
        Examine { superblock, bitmap: Some(&creation.bitmap) }.to_string()
    };
    let text = show(&superblock);
    assert!(text.contains("Array UUID : e055969a:30313233:34353637:38396162\n"), "{text}");
    assert!(text.contains("Array State : AA\n") && text.contains("State : clean\n"), "{text}");
    assert!(text.contains("16352 chunks of 128 sectors (64.00 KiB), events 1\n"), "{text}");
    superblock.set_role(1, Role::Faulty);
    superblock.events = 9;
    superblock.set_name[0] = 0x1b;
    let text = show(&superblock);
    assert!(text.contains("Array State : A.\n") && text.contains("STALE"), "{text}");
    assert!(!text.contains('\u{1b}'), "control characters stay off the terminal");
}

#[test]
fn bitmap_refusals_are_named() {
    let creation = creation();
    let array = &creation.superblocks[0];
    let parse = |change: &dyn Fn(&mut [u8])| {
        let mut head = [0; BITMAP_HEAD_BYTES];
        creation.bitmap.encode_into(&mut head);
        change(&mut head);
        BitmapSuperblock::parse(&head, array)
    };
    assert_eq!(parse(&|_| ()).as_ref(), Ok(&creation.bitmap));
    assert!(matches!(parse(&|b| b[0] = 0), Err(BitmapError::Magic { .. })));
    assert!(matches!(parse(&|b| b[4] = 5), Err(BitmapError::Version { found: 5, .. })));
    assert!(matches!(parse(&|b| b[8] ^= 1), Err(BitmapError::Uuid { .. })));
    assert!(matches!(parse(&|b| b[52] = 129), Err(BitmapError::ChunkNotPowerOfTwo { .. })));
    assert!(matches!(parse(&|b| b[52] = 0), Err(BitmapError::ChunkNotPowerOfTwo { .. })));
    assert!(matches!(parse(&|b| b[52] = 8), Err(BitmapError::ChunkTooSmall { .. })));
    assert_eq!(parse(&|b| b[56] = 0), Err(BitmapError::DaemonSleep));
    assert!(matches!(parse(&|b| b[40] ^= 8), Err(BitmapError::SyncSize { .. })));
    // One sector a chunk and a reserved space of 2 TiB: the states would be written over data.
    let grabbing = parse(&|b| {
        b[52] = 1;
        b[64..68].fill(0xff);
    });
    assert!(matches!(grabbing, Err(BitmapError::Overlap { other: "data", .. })), "{grabbing:?}");
    let mut moved = array.clone();
    moved.bitmap_offset_sectors = -4;
    let mut head = [0; BITMAP_HEAD_BYTES];
    creation.bitmap.encode_into(&mut head);
    let over = BitmapSuperblock::parse(&head, &moved);
    assert!(matches!(over, Err(BitmapError::Overlap { other: "superblock", .. })), "{over:?}");
    moved.bitmap_offset_sectors = -9;
    assert_eq!(BitmapSuperblock::parse(&head, &moved), Err(BitmapError::NoPosition));
}

#[test]
fn a_bitmap_of_mdadm_is_initialised_as_by_the_kernel() {
    let creation = creation();
    let mut bitmap = creation.bitmap.clone();
    bitmap.flags = BitmapFlags::FIRST_USE | BitmapFlags::CLEAN;
    bitmap.chunk_raw = 64 << 20;
    bitmap.daemon_sleep_s = 5;
    assert_eq!((bitmap.chunk_sectors(), bitmap.chunk_count()), (None, 0));
    assert_eq!(bitmap.initialise(&creation.superblocks[0]), Ok(InitialState::Clean));
    assert_eq!(bitmap, creation.bitmap);
}

#[test]
fn chunk_rule_counts_the_head() {
    // 64 KiB chunks: 130,048 states are what 256 sectors hold behind the head.
    assert_eq!(chunk_sectors_for(130_048 * 128, 256), Some(128));
    assert_eq!(chunk_sectors_for(130_048 * 128 + 1, 256), Some(256));
    assert_eq!(chunk_sectors_for(1 << 35, 32_776), Some(2048));
    assert_eq!(chunk_sectors_for(u64::MAX, 256), None);
    assert_eq!(chunk_sectors_for(8, 2), None);
    assert_eq!(state_offset_bytes(16, 3), 16 * 512 + 1024 + 3);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..4200), sector in 0u64..64,
        max_dev in 0u16..2000, framed: bool
    ) {
        let mut bytes = bytes;
        if framed && bytes.len() >= 256 {
            // Past the checksum, so that all later checks see hostile values too.
            bytes[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
            bytes[9..16].fill(0);
            bytes[144..152].copy_from_slice(&sector.to_le_bytes());
            bytes[220..224].copy_from_slice(&u32::from(max_dev).to_le_bytes());
            bytes[228..256].fill(0);
            let length = 256 + 2 * usize::from(max_dev);
            if length <= bytes.len() {
                let sum = raw::checksum(&bytes[..length]);
                bytes[216..220].copy_from_slice(&sum.to_le_bytes());
            }
        }
        if let Ok(superblock) = Unverified::parse(&bytes, sector) {
            let mut again = vec![0; superblock.encoded_bytes()];
            superblock.encode_into(&mut again);
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
        }
    }

    #[test]
    fn hostile_fields_are_refused_or_survive_a_round_trip(
        values in proptest::collection::vec((8usize..256, any::<u8>()), 0..12)
    ) {
        let block = forged(|b| values.iter().for_each(|&(at, value)| b[at] = value));
        if let Ok(superblock) = Unverified::parse(&block, 8) {
            let mut head = [0; BITMAP_HEAD_BYTES];
            creation().bitmap.encode_into(&mut head);
            head[8..24].copy_from_slice(&superblock.set_uuid);
            if let Ok(bitmap) = BitmapSuperblock::parse(&head, &superblock) {
                prop_assert!(bitmap.chunk_count() <= BITMAP_CHUNKS_MAX);
            }
            let _ = Examine { superblock: &superblock, bitmap: None }.to_string();
            let candidate =
                Candidate { device_sectors: 1 << 21, superblock: superblock.clone(), bitmap: None };
            let _ = assemble(&[candidate]);
            let mut again = vec![0; 4096];
            let length = superblock.encode_into(&mut again);
            // A shorter role table may sum up alike: entries of all ones add nothing.
            prop_assert_eq!(&again[..length], &block[..length]);
        }
    }

    #[test]
    fn hostile_bitmap_heads_never_panic(
        changes in proptest::collection::vec((24usize..72, any::<u8>()), 0..16)
    ) {
        let creation = creation();
        let array = &creation.superblocks[0];
        let mut head = [0; BITMAP_HEAD_BYTES];
        creation.bitmap.encode_into(&mut head);
        changes.iter().for_each(|&(at, value)| head[at] = value);
        if let Ok(mut bitmap) = BitmapSuperblock::parse(&head, array) {
            if bitmap.needs_initialising() {
                let _ = bitmap.initialise(array);
            } else {
                let end = 16 * 512 + STATES_OFFSET_BYTES + bitmap.chunk_count();
                prop_assert!(end <= array.data_offset_sectors * 512, "states lie before the data");
                let mut again = [0; BITMAP_HEAD_BYTES];
                bitmap.encode_into(&mut again);
                prop_assert_eq!(again, head);
            }
        }
    }
}
