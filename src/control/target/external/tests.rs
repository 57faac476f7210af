//! External bitmaps on real files, through the engine.

use std::fs;

use uuid::Uuid;

use super::super::{Backing, BdevSpec, CreateOptions, StartedHow};
use super::*;
use crate::bdev::Device;
use crate::bdev::error::{ErrorKind, Injection};
use crate::control::level::LevelChoice;
use crate::control::target::{ArrayOptions as Options, Permit};
use crate::control::test_dir::TestDir;
use crate::engine::handle::{EngineConfig, EngineHandle};
use crate::raid::ArrayStatus;
use crate::reactor::buf::CLASS_COUNTS;

const MEMBER_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: u64 = 64 << 10;
const CLEAN: usize = ChunkState::Clean as usize;
const NEED_SYNC: usize = ChunkState::NeedSync as usize;

/// A target over the files of a directory.
struct Bench {
    target: Target,
    dir: PathBuf,
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let cores = vec![crate::control::cores::usable()[0]];
        let config =
            EngineConfig { cores: cores.clone(), poll_always: false, buffer_counts: CLASS_COUNTS };
        let mut target = Target::new(EngineHandle::start(config).unwrap(), cores);
        for name in ["a", "b"] {
            let path = dir.join(name);
            if !path.exists() {
                member_file::create_sparse(&path, MEMBER_BYTES).unwrap();
            }
            let spec = BdevSpec::Uring { path, block_size_bytes: Some(512) };
            target.create_bdev(name, None, &spec).unwrap();
        }
        Self { target, dir: dir.to_owned() }
    }

    fn file(&self, name: &str) -> Option<BitmapPlace> {
        Some(BitmapPlace::File(self.dir.join(name)))
    }

    fn create(
        &mut self,
        external: Option<BitmapPlace>,
        assume_clean: bool,
    ) -> Result<StartedHow, String> {
        let create = CreateOptions {
            level: LevelChoice::default(),
            uuid: Uuid::from_u128(5),
            bitmap: true,
            chunk_size_bytes: Some(CHUNK_BYTES),
            assume_clean,
        };
        let members = ["a".to_owned(), "b".to_owned()];
        let options = Options { external, ..Options::default() };
        self.target
            .create_array("r", &members, &create, &options, || Ok(()))
            .map_err(|error| error.to_string())
    }

    fn assemble_from(
        &mut self,
        members: &[&str],
        external: Option<BitmapPlace>,
        takeover: Takeover,
    ) -> Result<StartedHow, String> {
        let members: Vec<String> = members.iter().map(|&name| name.to_owned()).collect();
        let options = Options { external, ..Options::default() };
        self.target
            .assemble_array("r", &members, &Permit::any(), &options, &takeover)
            .map_err(|error| error.to_string())
    }

    fn assemble(&mut self, external: Option<BitmapPlace>) -> Result<StartedHow, String> {
        self.assemble_from(&["a", "b"], external, Takeover::default())
    }

    fn write(&mut self, lba: u64, byte: u8) -> Result<(), crate::engine::IoFault> {
        let (id, _) = self.target.array("r").unwrap();
        self.target.engine().write(id, lba, &[byte; 4096])
    }

    fn reads(&mut self, lba: u64, byte: u8) -> bool {
        let (id, _) = self.target.array("r").unwrap();
        self.target.engine().read(id, lba, 8).unwrap() == [byte; 4096]
    }

    fn status(&mut self) -> ArrayStatus {
        self.target.array_status("r").unwrap()
    }

    /// Waits for the end of the resync; returns the states then.
    fn synced(&mut self) -> [u64; 8] {
        for _ in 0..600 {
            let status = self.status();
            if status.histogram[NEED_SYNC] + status.histogram[NEED_SYNC + 1] == 0 {
                return status.histogram;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the resync does not end: {:?}", self.status());
    }

    fn stop(&mut self) {
        self.target.delete_array("r", false).unwrap();
    }

    /// What a power cut would leave now, in a directory of its own.
    fn image(&self, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for name in ["a", "b", "map"] {
            if self.dir.join(name).exists() {
                fs::copy(self.dir.join(name), to.join(name)).unwrap();
            }
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap()
    }

    /// Their data are the same, all of them.
    fn members_are_alike(&self) -> bool {
        let data = |name: &str| {
            let bytes = self.bytes(name);
            let own = md::Unverified::parse(&bytes[4096..8192], 8).unwrap();
            bytes[to_usize(own.data_offset_sectors * SECTOR_BYTES)..].to_vec()
        };
        data("a") == data("b")
    }

    /// Changes bytes of the bitmap's file.
    fn patch(&self, at: usize, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.dir.join("map")).unwrap();
        file.write_all_at(bytes, at as u64).unwrap();
    }
}

#[test]
fn stopped_and_found_again() {
    let dir = TestDir::new("ext-again");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    bench.create(map.clone(), false).unwrap();
    bench.write(0, 7).unwrap();
    bench.write(1000, 8).unwrap();
    let text = bench.target.delete_bdev("r-bitmap", "uring", |_| true).unwrap_err().to_string();
    assert!(text.contains("in use by array r, as its bitmap"), "{text}");
    bench.stop();
    assert!(bench.target.bdev("r-bitmap").is_err(), "the file is closed with its array");
    let states = bench.bytes("map");
    assert_eq!(&states[..4], b"bitm");
    assert_eq!(states[1024..][..8], [1, 0, 0, 0, 0, 0, 0, 1]);
    // md sees an array without a bitmap, and one that is to be resynced.
    let superblock = md::Unverified::parse(&bench.bytes("a")[4096..8192], 8).unwrap();
    assert!(superblock.bitmap_sector().is_none() && !superblock.is_clean());
    let how = bench.assemble(map.clone()).unwrap();
    assert!(!how.dirty, "nothing was in doubt");
    assert_eq!(bench.status().histogram[CLEAN], 2);
    assert!(bench.reads(0, 7) && bench.reads(1000, 8) && bench.reads(5000, 0));
    let erase = bench.target.delete_array("r", true);
    erase.unwrap();
    assert!(bench.bytes("map")[..1024].iter().all(|&byte| byte == 0));
    bench.create(map.clone(), false).unwrap();
    bench.stop();
    // A creation that a crash interrupted finds its own bitmap, and goes on.
    bench.create(map, false).unwrap();
    bench.target.stop().unwrap();
}

#[test]
fn after_a_power_cut_what_is_marked_is_resynced() {
    let dir = TestDir::new("ext-cut");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    bench.create(map, false).unwrap();
    bench.write(128 * 3, 7).unwrap();
    bench.write(128 * 9, 8).unwrap();
    let image = dir.path().join("image");
    bench.write(128 * 11, 9).unwrap();
    bench.image(&image);
    bench.target.stop().unwrap();
    let mut cut = Bench::new(&image);
    let map = cut.file("map");
    let how = cut.assemble(map).unwrap();
    assert!(how.dirty);
    let states = cut.synced();
    assert_eq!(states[..4].iter().sum::<u64>(), cut.status().histogram.iter().sum::<u64>());
    assert!(states[0] > 100, "what was never written is not copied: {states:?}");
    assert!(cut.reads(128 * 3, 7) && cut.reads(128 * 9, 8) && cut.reads(128 * 11, 9));
    cut.target.stop().unwrap();
}

#[test]
fn a_start_without_it_resyncs_and_makes_it_stale() {
    let dir = TestDir::new("ext-unnamed");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    bench.create(map.clone(), false).unwrap();
    bench.write(0, 7).unwrap();
    bench.stop();
    let file = OpenOptions::new().write(true).open(dir.path().join("b")).unwrap();
    file.write_all_at(b"noise where nobody wrote", 40 << 20).unwrap();
    assert!(!bench.members_are_alike());
    let how = bench.assemble(None).unwrap();
    assert!(how.dirty, "chunks never written differ, and nobody knows which they are");
    bench.write(128 * 20, 9).unwrap();
    bench.synced();
    bench.stop();
    assert!(bench.members_are_alike());
    let how = bench.assemble(map).unwrap();
    assert_eq!(how.in_sync, 2);
    // What nobody told the bitmap of.
    let states = bench.synced();
    assert_eq!(states[0], 0, "an old bitmap's Unwritten is not believed: {states:?}");
    assert!(bench.reads(0, 7) && bench.reads(128 * 20, 9));
    bench.stop();
    bench.target.stop().unwrap();
}

#[test]
fn gone_damaged_and_foreign_ones_are_refused() {
    let dir = TestDir::new("ext-lost");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    bench.create(map.clone(), false).unwrap();
    bench.write(0, 7).unwrap();
    bench.stop();
    let good = bench.bytes("map");
    let members = (bench.bytes("a"), bench.bytes("b"));
    let mut refused = |part: &str, place: Option<BitmapPlace>| {
        let text = bench.assemble(place).unwrap_err();
        assert!(text.contains(part) && text.contains("nothing was started"), "{text}");
    };
    refused("nothing is there", Some(BitmapPlace::File(dir.path().join("gone"))));
    assert!(!dir.path().join("gone").exists(), "it is not made without a word");
    bench.patch(8, &[0xab]);
    let text = bench.assemble(map.clone()).unwrap_err();
    assert!(text.contains("belongs to array") && text.contains("not touched"), "{text}");
    bench.patch(0, &good[..16]);
    bench.patch(0, b"torn");
    let text = bench.assemble(map.clone()).unwrap_err();
    assert!(text.contains("no bitmap superblock") && text.contains("bitmap_lost"), "{text}");
    // More events than the members have: others went on.
    bench.patch(0, &good[..512]);
    bench.patch(24, &u64::to_le_bytes(1000));
    let text = bench.assemble(map.clone()).unwrap_err();
    assert!(text.contains("went on without these"), "{text}");
    assert_eq!((bench.bytes("a"), bench.bytes("b")), members, "nothing was written");
    let lost = Takeover { bitmap_lost_resync: true, ..Takeover::default() };
    let how = bench.assemble_from(&["a", "b"], map, lost).unwrap();
    assert!(how.dirty && bench.status().events > 1000);
    assert_eq!(bench.synced()[0], 0);
    assert!(bench.reads(0, 7));
    bench.stop();
    bench.target.stop().unwrap();
}

#[test]
fn a_member_that_was_left_behind_is_not_started_alone() {
    let dir = TestDir::new("ext-behind");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    bench.create(map.clone(), false).unwrap();
    bench.stop();
    bench.assemble_from(&["a"], map.clone(), Takeover::default()).unwrap();
    bench.write(0, 7).unwrap();
    bench.stop();
    let text = bench.assemble_from(&["b"], map.clone(), Takeover::default()).unwrap_err();
    assert!(text.contains("went on without these"), "{text}");
    bench.assemble_from(&["a"], map, Takeover::default()).unwrap();
    assert_eq!(bench.status().histogram[NEED_SYNC], 1, "b lacks it");
    bench.target.stop().unwrap();
}

#[test]
fn an_array_gets_its_first_one() {
    let dir = TestDir::new("ext-first");
    let mut bench = Bench::new(dir.path());
    let plain = CreateOptions {
        level: LevelChoice::default(),
        uuid: Uuid::from_u128(5),
        bitmap: false,
        chunk_size_bytes: None,
        assume_clean: true,
    };
    let members = ["a".to_owned(), "b".to_owned()];
    bench.target.create_array("r", &members, &plain, &Options::default(), || Ok(())).unwrap();
    bench.write(0, 7).unwrap();
    bench.stop();
    let map = bench.file("map");
    let how = bench.assemble(map.clone()).unwrap();
    assert!(!how.dirty, "a clean array has nothing to resync");
    let histogram = bench.status().histogram;
    assert_eq!(histogram.iter().sum::<u64>(), histogram[CLEAN]);
    bench.write(128, 8).unwrap();
    bench.stop();
    assert!(!bench.assemble(map).unwrap().dirty);
    assert!(bench.reads(0, 7) && bench.reads(128, 8));
    bench.target.stop().unwrap();
}

#[test]
fn a_classic_one_is_converted() {
    let dir = TestDir::new("ext-classic");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    bench.create(map.clone(), true).unwrap();
    bench.write(0, 7).unwrap();
    bench.stop();
    // As mdadm --bitmap=FILE makes it: version 4, chunks in bytes, bits from byte 256 on, and a
    // length that is no whole number of blocks.
    let mut head = bench.bytes("map")[..256].to_vec();
    head[4..8].copy_from_slice(&4u32.to_le_bytes());
    head[52..56].copy_from_slice(&(8 * u32::try_from(CHUNK_BYTES).unwrap()).to_le_bytes());
    head.extend([0b0000_0101]);
    head.resize(256 + 20, 0);
    fs::write(dir.path().join("map"), &head).unwrap();
    let text = bench.assemble(map.clone()).unwrap_err();
    assert!(text.contains("classic") && text.contains("convert_bitmap = true"), "{text}");
    assert_eq!(bench.bytes("map"), head);
    // One that lacks some of its bits knows nothing of what they stood for.
    let whole = (bench.bytes("a"), bench.bytes("b"));
    fs::write(dir.path().join("map"), &head[..264]).unwrap();
    let convert = Takeover { convert_bitmap: true, ..Takeover::default() };
    bench.assemble_from(&["a", "b"], map.clone(), convert).unwrap();
    assert_eq!(bench.bytes("map")[4], 6);
    assert_eq!(bench.synced()[0], 0);
    bench.stop();
    fs::write(dir.path().join("a"), whole.0).unwrap();
    fs::write(dir.path().join("b"), whole.1).unwrap();
    fs::write(dir.path().join("map"), &head).unwrap();
    let convert = Takeover { convert_bitmap: true, ..Takeover::default() };
    bench.assemble_from(&["a", "b"], map.clone(), convert).unwrap();
    let histogram = bench.status().histogram;
    assert!(histogram[CLEAN] > 900 && histogram[0] == 0, "{histogram:?}");
    bench.synced();
    bench.stop();
    let states = bench.bytes("map");
    assert_eq!(states[4], 6, "it is a lockless one now");
    assert!(bench.reads_after(map, 0, 7));
    bench.target.stop().unwrap();
}

impl Bench {
    fn reads_after(&mut self, map: Option<BitmapPlace>, lba: u64, byte: u8) -> bool {
        assert!(!self.assemble(map).unwrap().dirty);
        self.reads(lba, byte)
    }
}

#[test]
fn a_place_that_holds_something_is_not_taken() {
    let dir = TestDir::new("ext-taken");
    let mut bench = Bench::new(dir.path());
    let map = bench.file("map");
    member_file::create_sparse(&dir.path().join("map"), FILE_BYTES).unwrap();
    bench.patch(1500, b"a letter to my aunt");
    let text = bench.create(map, false).unwrap_err();
    assert!(text.contains("holds data") && text.contains("nothing was written"), "{text}");
    assert!(bench.target.bdev("r-bitmap").is_err());
    let small = BdevSpec::Malloc { block_size_bytes: 512, blocks: 2 };
    bench.target.create_bdev("small", None, &small).unwrap();
    let text = bench.create(Some(BitmapPlace::Bdev("small".to_owned())), false).unwrap_err();
    assert!(text.contains("has 1024 bytes, its bitmap takes"), "{text}");
    let large = BdevSpec::Malloc { block_size_bytes: 4096, blocks: 256 };
    bench.target.create_bdev("large", None, &large).unwrap();
    let text = bench.create(Some(BitmapPlace::Bdev("large".to_owned())), false).unwrap_err();
    assert!(text.contains("set block_size_bytes = 512"), "{text}");
    let text = bench.create(Some(BitmapPlace::Bdev("a".to_owned())), false).unwrap_err();
    assert!(text.contains("bdev a is a member"), "{text}");
    bench.target.stop().unwrap();
}

#[test]
fn without_its_bitmap_an_array_refuses_writes_and_serves_reads() {
    let dir = TestDir::new("ext-fails");
    let mut bench = Bench::new(dir.path());
    let memory = BdevSpec::Malloc { block_size_bytes: 512, blocks: 4096 };
    bench.target.create_bdev("memory", None, &memory).unwrap();
    let faulty = BdevSpec::Error { base: "memory".to_owned() };
    bench.target.create_bdev("faulty", None, &faulty).unwrap();
    bench.create(Some(BitmapPlace::Bdev("faulty".to_owned())), false).unwrap();
    bench.write(0, 7).unwrap();
    let Backing::Device(Device::Error(device)) = &bench.target.bdev("faulty").unwrap().backing
    else {
        panic!("it was just made");
    };
    let failure = Injection { kind: ErrorKind::Failure, count: u32::MAX, lbas: None };
    device.inject(Some(crate::bdev::IoOp::Write), failure);
    assert!(bench.write(128 * 50, 8).is_err(), "its chunk cannot be marked");
    assert!(bench.write(0, 9).is_err());
    assert!(bench.status().failed);
    assert!(bench.reads(0, 7) && bench.reads(128 * 50, 0));
    assert!(bench.target.delete_array("r", false).is_err(), "it was not stopped cleanly");
    bench.target.stop().unwrap();
}
