use proptest::prelude::*;

use super::*;
use crate::md::{NewArray, NewMember, Superblock, Timestamp, create};

const UUID: [u8; 16] = [7; 16];
const RUN: [u8; 16] = [9; 16];
const LAYOUT: LogLayout = LogLayout { rings: 2, slots: 6, slot_bytes: 8 << 10 };
const IDENTITY: RecordIdentity =
    RecordIdentity { set_uuid: UUID, run: RUN, events: 17, block_bytes: 512 };
const HEAD: LogHead =
    LogHead { set_uuid: UUID, run: RUN, events: 18, vouches: true, idle: false, layout: LAYOUT };

/// One fragment of a block full of `fill`.
fn record(ring: u16, sequence: u64, floor: u64, parts: (u8, u8), fill: u8) -> Vec<u8> {
    let mut buf = vec![0xaa; LOG_HEAD_BYTES + 512];
    let mut writer = RecordWriter::new(&mut buf, &IDENTITY, 40);
    assert_eq!(writer.push(1, 2, &[fill; 512]), 512);
    assert_eq!(writer.push(1, 3, &[fill; 512]), 0, "it is full");
    assert_eq!(writer.finish(ring, sequence, floor, parts), buf.len());
    buf
}

fn note(ring: u16, sequence: u64, floor: u64) -> Vec<u8> {
    let mut buf = vec![0; LOG_HEAD_BYTES];
    RecordWriter::new(&mut buf, &IDENTITY, 0).finish(ring, sequence, floor, (0, 1));
    buf
}

/// The slots of one member, all noise.
struct Area(Vec<u8>);

impl Area {
    fn new() -> Area {
        Area(vec![0x5a; usize::try_from(LAYOUT.area_bytes()).unwrap() - LOG_HEAD_BYTES])
    }

    fn put(&mut self, ring: u16, sequence: u64, bytes: &[u8]) {
        let slot = u32::try_from(sequence % u64::from(LAYOUT.slots)).unwrap();
        let back = usize::try_from(LAYOUT.slot_before_data_bytes(ring, slot)).unwrap();
        let at = self.0.len() + LOG_HEAD_BYTES - back;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn found(areas: &[&Area]) -> Vec<(u16, u64, u64)> {
    let mut search = LogSearch::new(HEAD, 1 << 20);
    for (slot, area) in (0..).zip(areas) {
        search.take(slot, &area.0);
    }
    search.finish().iter().map(|it| (it.ring, it.sequence, it.holders)).collect()
}

/// The bytes on disk, field by field: they do not change without a new version.
#[test]
fn golden_head() {
    let mut bytes = vec![0xff; 4096];
    HEAD.encode_into(&mut bytes);
    assert_eq!(bytes[..8], *b"mdofSLOG");
    assert_eq!(bytes[8..12], [1, 0, 0, 0]);
    assert_eq!(bytes[16..32], UUID);
    assert_eq!(bytes[32..48], RUN);
    assert_eq!(bytes[48..56], [18, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[56..60], [1, 0, 0, 0], "it vouches");
    assert_eq!(bytes[60..70], [0, 0x20, 0, 0, 6, 0, 0, 0, 2, 0]);
    assert!(bytes[70..].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[12..16], [0x27, 0x77, 0x71, 0xed], "CRC-32C");
    assert_eq!(LogHead::parse(&bytes, &UUID), Ok(HEAD));
    assert_eq!(LogHead::parse(&bytes, &[1; 16]), Err(LogError::Uuid));
}

#[test]
fn golden_record() {
    let bytes = record(1, 0x0102, 0x0100, (1, 3), 0xcc);
    assert_eq!(bytes[..8], *b"mdofSROW");
    assert_eq!(bytes[8..12], [1, 0, 0, 0]);
    assert_eq!(bytes[16..32], UUID);
    assert_eq!(bytes[32..48], RUN);
    assert_eq!(bytes[48..56], [17, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[56..64], [2, 1, 0, 0, 0, 0, 0, 0], "number");
    assert_eq!(bytes[64..72], [0, 1, 0, 0, 0, 0, 0, 0], "floor");
    assert_eq!(bytes[72..80], [40, 0, 0, 0, 0, 0, 0, 0], "first column");
    assert_eq!(bytes[80..92], [0, 2, 0, 0, 1, 0, 0, 0, 1, 0, 1, 3]);
    assert_eq!(bytes[92..96], [0, 2, 0, 0], "block");
    assert_eq!(bytes[128..140], [1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0], "fragment");
    assert!(bytes[140..4096].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[12..16], [0x39, 0xdc, 0xf3, 0x87], "CRC-32C");
    let parsed = Record::parse(&bytes, &UUID, &RUN, 100).unwrap();
    assert_eq!((parsed.sequence, parsed.floor, parsed.part, parsed.parts), (0x102, 0x100, 1, 3));
    assert_eq!(parsed.fragments, [Fragment { slot: 1, lba: 42, blocks: 1, offset: 4096 }]);
    assert_eq!(Record::parse(&bytes, &UUID, &[0; 16], 100), Err(LogError::Run));
    assert!(Record::parse(&bytes, &UUID, &RUN, 42).is_err(), "behind the members' end");
}

#[test]
fn a_torn_record_is_none() {
    let whole = record(0, 1, 1, (0, 1), 0xcc);
    for sector in 0..whole.len() / 512 {
        let mut torn = whole.clone();
        torn[sector * 512..(sector + 1) * 512].fill(0x11);
        let is_unused = (1..8).contains(&sector);
        let parsed = Record::parse(&torn, &UUID, &RUN, 100);
        assert!(parsed.is_err(), "sector {sector} ({is_unused}) is not missed");
    }
    assert!(matches!(
        Record::parse(&whole[..4600], &UUID, &RUN, 100),
        Err(LogError::Truncated { have_bytes: 4600 })
    ));
}

#[test]
fn what_is_live_is_found_in_order_with_its_holders() {
    let (mut one, mut two) = (Area::new(), Area::new());
    assert_eq!(found(&[&one, &two]), []);
    one.put(0, 1, &record(0, 1, 1, (0, 1), 1));
    one.put(0, 2, &record(0, 2, 1, (0, 1), 2));
    two.put(0, 2, &record(0, 2, 1, (0, 1), 2));
    two.put(1, 9, &record(1, 9, 9, (0, 1), 3));
    assert_eq!(found(&[&one, &two]), [(0, 1, 1), (0, 2, 3), (1, 9, 2)]);
    // A higher floor, on one member only: what is below is in place.
    two.put(0, 3, &record(0, 3, 2, (0, 1), 4));
    assert_eq!(found(&[&one, &two]), [(0, 2, 3), (0, 3, 2), (1, 9, 2)]);
    // And one that says nothing else.
    one.put(0, 4, &note(0, 4, 4));
    assert_eq!(found(&[&one, &two]), [(1, 9, 2)]);
    // In another place than its own nothing counts.
    one.put(1, 0, &record(1, 13, 13, (0, 1), 4));
    one.put(1, 1, &record(0, 13, 13, (0, 1), 4));
    assert_eq!(found(&[&one, &two]), [(1, 9, 2)]);
}

#[test]
fn of_the_records_of_one_write_all_count_or_none() {
    let mut area = Area::new();
    for part in [0, 2] {
        area.put(0, 5 + u64::from(part), &record(0, 5 + u64::from(part), 5, (part, 3), 1));
    }
    assert_eq!(found(&[&area]), []);
    let mut other = Area::new();
    other.put(0, 6, &record(0, 6, 5, (1, 3), 1));
    assert_eq!(found(&[&area, &other]), [(0, 5, 1), (0, 6, 2), (0, 7, 1)]);
}

fn superblock(data_offset: u64) -> (Superblock, crate::md::BitmapSuperblock) {
    let member = |tag: u8| NewMember {
        device_sectors: 1 << 22,
        logical_block_size: 512,
        device_uuid: [tag; 16],
    };
    let creation = create(&NewArray {
        name: "log".to_owned(),
        set_uuid: UUID,
        ctime: Timestamp::from_unix(1, 0),
        assume_clean: false,
        members: vec![member(1), member(2)],
    })
    .unwrap();
    let mut own = creation.superblocks[0].clone();
    own.data_offset_sectors = data_offset;
    own.updated_at(5, false);
    (own, creation.bitmap)
}

#[test]
fn only_the_log_of_the_last_run_counts() {
    let (mut own, _) = superblock(4096);
    own.events = 18;
    let trusted =
        |own: &Superblock, heads: &[Result<LogHead, LogError>]| trusted_head(own, heads.iter());
    assert_eq!(trusted(&own, &[Ok(HEAD)]), Err(LogVoid::NotKept));
    own.mark_stripe_log();
    assert!(own.has_stripe_log() && !own.unwritten_reads_zero());
    assert_eq!(trusted(&own, &[Ok(HEAD)]), Ok(HEAD));
    let older = LogHead { events: 17, run: [1; 16], ..HEAD };
    assert_eq!(trusted(&own, &[Ok(older), Ok(HEAD), Err(LogError::Magic)]), Ok(HEAD));
    assert_eq!(trusted(&own, &[Ok(older)]), Err(LogVoid::Older { found: 17, events: 18 }));
    assert!(matches!(trusted(&own, &[Err(LogError::Magic)]), Err(LogVoid::NoHead { .. })));
    let doubtful = LogHead { vouches: false, ..HEAD };
    assert_eq!(trusted(&own, &[Ok(doubtful)]), Err(LogVoid::Doubtful));
    // Both marks stand side by side, and md's update wipes them.
    own.updated_at(6, true);
    assert!(!own.has_stripe_log());
    own.mark_stripe_log();
    assert!(own.has_stripe_log() && own.unwritten_reads_zero());
    own.utime_from(7, 0);
    assert!(!own.has_stripe_log() && !own.unwritten_reads_zero());
}

#[test]
fn the_room_is_what_nobody_else_uses() {
    let (own, bitmap) = superblock(4096);
    // Superblock, bitmap of 264 sectors behind it or more, room for a bad-block log.
    let used = 16 + u64::from(bitmap.sectors_reserved) + 8;
    let expected = (4096 - used) * 512 / 4096 * 4096;
    assert_eq!(LogRoom::of(&own, Some(&bitmap)).bytes, expected);
    assert_eq!(LogRoom::of(&own, None).bytes, 0, "a bitmap of unknown size");
    let mut own = own;
    own.features.remove(crate::md::Features::BITMAP_OFFSET);
    own.bblog = crate::md::BadBlockLog::default();
    assert_eq!(LogRoom::of(&own, None).bytes, (4096 - 16) * 512);
    own.bblog = crate::md::BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: 4000 };
    assert_eq!(LogRoom::of(&own, None).bytes, (4096 - 4016) * 512);
    own.data_offset_sectors = 4095;
    assert_eq!(LogRoom::of(&own, None).bytes, 0, "not at a page");
}

#[test]
fn the_room_is_divided_so_that_every_core_has_a_ring_where_it_can() {
    let choose = |bytes, cores| LogLayout::choose(LogRoom { bytes }, cores, 384 << 10);
    let of = |rings, slots, slot_bytes| Some(LogLayout { rings, slots, slot_bytes });
    assert_eq!(choose(128 << 20, 2), of(2, 127, 128 << 10));
    assert_eq!(choose(128 << 20, 8), of(8, 63, 64 << 10));
    assert_eq!(choose(0, 1), None);
    assert_eq!(choose(64 << 10, 1), None);
    let small = choose(880 << 10, 2).unwrap();
    assert!(small.area_bytes() <= 880 << 10 && small.rings >= 1, "{small:?}");
}

proptest! {
    #[test]
    fn a_layout_fits_its_room_and_holds_the_largest_write(
        bytes in 0u64..64 << 20, cores in 1u16..64, write in 4096u64..640 << 10,
    ) {
        if let Some(layout) = LogLayout::choose(LogRoom { bytes }, cores, write) {
            prop_assert!(layout.area_bytes() <= bytes);
            prop_assert!(layout.check().is_ok());
            prop_assert!(layout.rings <= cores);
            prop_assert!(layout.records_for(write, 4) <= u64::from(layout.records_max()));
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_and_no_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        at in 0usize..140, value in any::<u64>(),
    ) {
        let _ = LogHead::parse(&noise, &UUID);
        let _ = Record::parse(&noise, &UUID, &RUN, 1 << 20);
        // Also with a checksum that is right.
        let mut bytes = record(0, 1, 1, (0, 1), 1);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes[12..16].fill(0);
        let sum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        let mut area = Area::new();
        area.put(0, 1, &bytes);
        let mut search = LogSearch::new(HEAD, 1 << 20);
        search.take(0, &area.0);
        let _ = search.finish();
        let mut head = vec![0; 512];
        HEAD.encode_into(&mut head);
        head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        head[12..16].fill(0);
        let sum = checksum(&head);
        head[12..16].copy_from_slice(&sum.to_le_bytes());
        if let Ok(head) = LogHead::parse(&head, &UUID) {
            prop_assert!(head.layout.check().is_ok());
            let mut search = LogSearch::new(head, 1 << 20);
            let _ = search.slots_at(value % 100_000);
            search.take(0, &noise);
        }
    }

    #[test]
    fn what_is_pushed_is_what_is_parsed(
        pieces in proptest::collection::vec((0u8..64, 0u32..100, 1usize..6), 1..400),
    ) {
        let mut buf = vec![0; LOG_SLOT_BYTES_MAX as usize];
        let mut writer = RecordWriter::new(&mut buf, &IDENTITY, 7);
        let mut expected = Vec::new();
        for (slot, column, blocks) in pieces {
            let bytes = vec![slot; blocks * 512];
            let taken = writer.push(slot, column, &bytes);
            if taken > 0 {
                expected.push((slot, 7 + u64::from(column), taken));
            }
            if taken < bytes.len() {
                break;
            }
        }
        let bytes = writer.finish(3, 5, 4, (0, 1));
        let record = Record::parse(&buf, &UUID, &RUN, 1000).unwrap();
        prop_assert_eq!(record.bytes, bytes);
        let got: Vec<_> = record
            .fragments
            .iter()
            .map(|it| (it.slot, it.lba, it.blocks as usize * 512))
            .collect();
        for fragment in &record.fragments {
            let bytes = &buf[fragment.offset..][..fragment.blocks as usize * 512];
            prop_assert!(bytes.iter().all(|&byte| byte == fragment.slot));
        }
        prop_assert_eq!(got, expected);
    }
}
