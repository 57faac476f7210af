//! The log's headers: golden bytes of Linux, what is written is read back, lies are refused.

use proptest::prelude::*;

use zerocopy::{FromBytes, IntoBytes};

use super::header::{RawHeader, checksum_of};
use super::*;
use crate::md::tests::sample;
use crate::md::{Features, Level, MAX_SECTOR, Superblock};

const GOLDEN: &[u8] = include_bytes!("../../../tests/data/md/feat-raid5-ppl-cut-m0.ppl");

/// The array of the golden header: 3 members, chunks of 64 KiB.
fn superblock() -> Superblock {
    let mut superblock = sample();
    superblock.set_uuid = *b"\x4f\x88\x9d\x66\x40\x12\x3e\x98\xff\xf6\x57\xa1\x96\x18\x46\xb8";
    superblock.level = Level::Raid5;
    superblock.raid_disks = 3;
    superblock.chunk_sectors = 128;
    superblock.size_sectors = 520_192;
    superblock.data_offset_sectors = 4096;
    superblock.data_size_sectors = 520_192;
    superblock.features = Features::MULTIPLE_PPLS;
    superblock.bitmap_offset_sectors = 0x0800_0008;
    superblock.resync_offset_sectors = MAX_SECTOR;
    superblock
}

fn array() -> PplArray {
    PplArray::new(&superblock()).unwrap()
}

fn written(entries: &[PplEntry], generation: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; PPL_HEADER_BYTES];
    let mut writer = PplWriter::new(&mut bytes, &array(), generation).unwrap();
    assert!(entries.iter().all(|entry| writer.push(entry)));
    writer.finish();
    bytes
}

fn entry(data_sector: u64, parity_bytes: u32, data_bytes: u32) -> PplEntry {
    PplEntry { data_sector, parity_bytes, data_bytes, parity_slot: 1, checksum: 7 }
}

#[test]
fn the_header_of_linux_is_read_and_written_again() {
    let header = PplHeader::parse(GOLDEN, &array()).unwrap();
    assert_eq!(header.generation, 8);
    let [only] = header.entries[..] else { panic!("{header:?}") };
    assert_eq!((only.data_sector, only.parity_slot), (512, 0));
    assert_eq!((only.parity_bytes, only.data_bytes), (32 << 10, 32 << 10));
    assert_eq!(only.checksum, ppl_checksum(&[0; 32 << 10]), "the other strip was empty");
    assert_eq!(written(&header.entries, 8), GOLDEN);
    assert_eq!((header.sectors(), header.parity_offsets().next()), (72, Some(8)));
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = GOLDEN.to_vec();
    for bit in 0..PPL_HEADER_BYTES * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = PplHeader::parse(&bytes, &array()).unwrap_err();
        assert!(matches!(refused, PplError::Checksum { .. }), "bit {bit}: {refused}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let refused = PplHeader::parse(&GOLDEN[..4095], &array()).unwrap_err();
    assert_eq!(refused, PplError::Truncated { have_bytes: 4095 });
    let other = Superblock { set_uuid: [1; 16], ..superblock() };
    let other = PplArray::new(&other).unwrap();
    assert!(matches!(PplHeader::parse(GOLDEN, &other), Err(PplError::Signature { .. })));
}

#[test]
fn spans_are_those_of_md() {
    let at = |entry: PplEntry, offset| {
        entry.span(&array()).unwrap().written_at(offset).collect::<Vec<_>>()
    };
    // One strip, both by the same sectors, all of them, and the two that only others make.
    let one = entry(256 + 8, 4096, 4096);
    assert_eq!((at(one, 0), at(one, 7)), (vec![264], vec![271]));
    let both = entry(256 + 8, 4096, 8192);
    assert_eq!((at(both, 0), at(both, 7)), (vec![264, 392], vec![271, 399]));
    let full = entry(256, 0, 128 << 10);
    assert_eq!((at(full, 0), at(full, 127)), (vec![256, 384], vec![383, 511]));
    assert_eq!(full.span(&array()).unwrap().parity_sectors, 128);
    // From sector 64 of the first strip to sector 96 of the second.
    let wide = entry(256 + 64, 64 << 10, (64 + 96) * 512);
    assert_eq!(at(wide, 0), [320, 448]);
    assert_eq!(at(wide, 40), [360], "the end of the second strip is not written");
    assert_eq!(at(wide, 64), [384], "the start of the second strip alone");
}

#[test]
fn impossible_entries_are_refused_with_a_reason() {
    let last = 520_192 * 2 - 256;
    let refused = [
        (entry(0, 100, 512), "no whole sectors"),
        (entry(0, 512, 0), "writes nothing"),
        (PplEntry { parity_slot: 3, ..entry(0, 512, 512) }, "member that the array"),
        (entry(0, 0, 512 * 3), "unequal"),
        (entry(0, 1024, 1536), "unequal"),
        (entry(0, 65 << 10, 65 << 10), "longer than a chunk"),
        (entry(last + 128, 512, 1024), "beyond the end of the array"),
        (entry(u64::MAX, 512, 512), "beyond the end of the array"),
        (entry(128, 512, 1024), "beyond the end of a row"),
        (entry(0, 512, u32::MAX - 511), "beyond the end of"),
        (entry(127, 1024, 1024), "beyond the end of a chunk"),
    ];
    assert!(entry(last, 512, 1024).span(&array()).is_ok());
    let good = entry(0, 512, 512);
    for (entry, why) in refused {
        let bytes = written(&[good, entry], 1);
        let error = PplHeader::parse(&bytes, &array()).unwrap_err();
        assert!(matches!(error, PplError::Entry { index: 1, .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}, not {why}");
    }
    let mut raw = RawHeader::read_from_bytes(GOLDEN).unwrap();
    raw.entries_count = 149.into();
    raw.checksum = checksum_of(&raw).into();
    let error = PplHeader::parse(raw.as_bytes(), &array()).unwrap_err();
    assert_eq!(error, PplError::EntryCount { found: 149 });
    let mut bytes = vec![0; PPL_HEADER_BYTES];
    assert!(PplWriter::new(&mut bytes[1..], &array(), 1).is_none());
    let mut writer = PplWriter::new(&mut bytes, &array(), 1).unwrap();
    let one = entry(0, 512, 512);
    assert!((0..PPL_ENTRIES_MAX).all(|_| writer.push(&one)) && !writer.push(&one));
}

#[test]
fn the_place_is_where_the_superblock_says_or_nowhere() {
    let place = PplPlace::of(&superblock()).unwrap().unwrap();
    assert_eq!(place, PplPlace { sector: 16, sectors: 2048 });
    assert!(place.is_ring() && place.space_bytes() == PPL_SPACE_BYTES);
    let small = PplPlace { sectors: 264 * 2 - 1, ..place };
    assert!(!small.is_ring() && small.space_bytes() == (264 * 2 - 9) * 512);
    let with = |offset: i16, sectors: u16| {
        let word = u32::from(sectors) << 16 | u32::from(offset.cast_unsigned());
        let bitmap_offset_sectors = word.cast_signed();
        PplPlace::of(&Superblock { bitmap_offset_sectors, ..superblock() })
    };
    assert!(with(8, 16).is_ok() && with(8, 4080).is_ok());
    for (offset, sectors) in [(8, 15), (8, 4081), (7, 16), (-9, 16), (-8, 16), (5000, 16)] {
        assert_eq!(with(offset, sectors), Err(PplError::Place { offset, sectors }));
    }
    let none = Superblock { features: Features::empty(), ..superblock() };
    assert_eq!(PplPlace::of(&none), Ok(None));
    for level in [Level::Raid1, Level::Raid6] {
        assert!(PplArray::new(&Superblock { level, ..superblock() }).is_err());
    }
    let sizes = [(0, 3), (u32::MAX, 3), (128, 1), (128, 0)];
    for (chunk_sectors, raid_disks) in sizes {
        let bad = Superblock { chunk_sectors, raid_disks, ..superblock() };
        assert!(PplArray::new(&bad).is_err(), "{chunk_sectors} {raid_disks}");
    }
    let huge = Superblock { size_sectors: u64::MAX, ..superblock() };
    assert!(PplArray::new(&huge).is_err());
}

/// A log in memory.
struct Log {
    place: PplPlace,
    bytes: Vec<u8>,
}

impl Log {
    fn new(sectors: u16) -> Log {
        let place = PplPlace { sector: 100, sectors };
        let mut log = Log { place, bytes: vec![0; usize::from(sectors) * 512] };
        log.put(100, &written(&[], 0));
        log
    }

    fn put(&mut self, sector: u64, bytes: &[u8]) {
        let at = usize::try_from(sector - self.place.sector).unwrap() * 512;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn search(&self) -> Result<(u64, PplHeader), PplError> {
        let mut search = PplSearch::new(self.place, array());
        while let Some(sector) = search.next_sector() {
            let at = usize::try_from(sector - self.place.sector).unwrap() * 512;
            search.take(&self.bytes[at..at + PPL_HEADER_BYTES]);
        }
        search.finish()
    }
}

proptest! {
    #[test]
    fn the_last_header_written_is_found(
        sectors in prop_oneof![Just(300u16), 528..2048u16],
        writes in prop::collection::vec(prop::collection::vec(1..=128u32, 0..=2), 1..40),
    ) {
        let mut log = Log::new(sectors);
        let mut ring = PplRing::new(log.place);
        for (generation, lengths) in (1..).zip(&writes) {
            let entries: Vec<_> = lengths
                .iter()
                .map(|&length| entry(256, length * 512, length * 512))
                .collect();
            let parity_bytes = entries.iter().map(|entry| entry.parity_bytes).sum();
            let sector = ring.take(parity_bytes);
            log.put(sector, &written(&entries, generation));
            log.put(sector + 8, &vec![0xaa; usize::try_from(parity_bytes).unwrap()]);
            let (found_at, found) = log.search().unwrap();
            prop_assert_eq!((found_at, found.generation), (sector, generation));
            prop_assert_eq!(found.entries, entries);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_make_sense(
        raw_entries in prop::collection::vec(any::<(u64, u32, u32, u32)>(), 0..4),
        small in any::<bool>(),
    ) {
        let entries: Vec<PplEntry> = raw_entries
            .into_iter()
            .map(|(at, parity, data, slot)| match small {
                true => PplEntry {
                    parity_slot: slot % 4,
                    ..entry(at % 600, parity % 130 * 512, data % 260 * 512)
                },
                false => PplEntry { parity_slot: slot, ..entry(at, parity, data) },
            })
            .collect();
        match PplHeader::parse(&written(&entries, 3), &array()) {
            Err(error) => {
                let is_entry = matches!(error, PplError::Entry { .. });
                prop_assert!(is_entry, "{}", error);
            }
            Ok(header) => {
                prop_assert_eq!(&header.entries, &entries);
                for span in entries.iter().map(|entry| entry.span(&array()).unwrap()) {
                    let row = span.first_sector / 256;
                    prop_assert!(span.parity_sectors <= 128);
                    let all = (0..span.parity_sectors).flat_map(|at| span.written_at(at));
                    for sector in all {
                        prop_assert_eq!(sector / 256, row);
                    }
                }
            }
        }
    }
}

/// Who searches does not look for a header in the last eight sectors.
#[test]
fn a_header_that_would_just_fit_goes_to_the_start() {
    let mut log = Log::new(2 * (8 + 256) + 8);
    let mut ring = PplRing::new(log.place);
    for (generation, strips, wanted) in [(1, 2, 100), (2, 2, 100 + 264), (3, 0, 100)] {
        let entries = vec![entry(256, 128 * 512, 128 * 512); strips];
        let sector = ring.take(u32::try_from(strips).unwrap() * 128 * 512);
        log.put(sector, &written(&entries, generation));
        assert_eq!((sector, log.search().unwrap().0), (wanted, wanted));
    }
}

#[test]
fn a_torn_or_missing_header_ends_the_search() {
    let mut log = Log::new(2048);
    assert_eq!(log.search().unwrap(), (100, PplHeader { generation: 0, entries: Vec::new() }));
    log.put(108, &written(&[entry(0, 512, 512)], 5));
    assert_eq!(log.search().unwrap().0, 108);
    log.put(108 + 9, &written(&[], 4));
    assert_eq!(log.search().unwrap().0, 108, "an older one");
    log.put(108, &[0xbb; 512]);
    assert_eq!(log.search().unwrap().0, 100, "torn");
    log.put(100, &[0xbb; 512]);
    assert!(matches!(log.search(), Err(PplError::Checksum { .. })));
    let mut short = Log::new(16);
    short.put(100, &written(&[entry(0, 512 * 9, 512 * 9)], 5));
    assert!(matches!(short.search(), Err(PplError::Entry { index: 0, .. })));
}
