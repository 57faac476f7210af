//! Member images, the mdof binary over them, and a host that reads and writes records.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ::mdof::initiator::{Client, ClientOptions, Data, QueuePair};
use ::mdof::md::{SUPERBLOCK_READ_BYTES, Superblock, Unverified, candidate_sectors};
use ::mdof::reactor::buf::BufPool;
use ::mdof::wire::nvme::Sqe;
use serde_json::{Value, json};
use zerocopy::FromZeros;

use crate::mdof::{Mdof, TestDir, free_port, refused};

const NQN: &str = "nqn.2026-01.io.mdof:interop";
const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000aa";
const PIECE_BYTES: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(60);

/// A run of records: first sector, sectors, tag.
pub(crate) type Pattern = (u64, u64, String);

/// A folder of the shared material; says so where it is missing.
pub(crate) fn shared(folder: &str, what: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("MDOF_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    let path = shared.join(folder);
    if path.exists() {
        return Some(path);
    }
    eprintln!("LEFT OUT: {} does not exist, {what}", path.display());
    None
}

/// The record stream of the fixtures: sector `s` is 32 copies of its number and the tag.
pub(crate) fn records(first: u64, sectors: u64, tag: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(sectors * 512).unwrap());
    for sector in first..first + sectors {
        for _ in 0..32 {
            bytes.extend_from_slice(&sector.to_le_bytes());
            bytes.extend_from_slice(tag.as_bytes());
        }
    }
    bytes
}

/// An array on member files of a directory of its own.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) dir: TestDir,
    pub(crate) members: usize,
    /// Members that the configuration names, if not all: the others are found.
    pub(crate) named: Option<usize>,
    block_size_bytes: u64,
    /// Further lines of `[[array]]`.
    pub(crate) keys: String,
    /// Further arguments of the binary.
    pub(crate) arguments: Vec<&'static str>,
    /// This member can be made to fail: `bdev_error_inject_error` takes its name.
    pub(crate) fragile: Option<usize>,
    port: u16,
}

impl Rig {
    /// No files yet.
    pub(crate) fn new(name: &str, members: usize, block_size_bytes: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            dir: TestDir::new(&format!("interop-{number}-{name}")),
            members,
            named: None,
            block_size_bytes,
            keys: String::new(),
            arguments: Vec::new(),
            fragile: None,
            port: free_port(),
        }
    }

    /// With the members of a fixture.
    pub(crate) fn unpack(images: &Path, name: &str, block_size_bytes: u64) -> Self {
        let mut rig = Self::new(name, 0, block_size_bytes);
        let archive = images.join(format!("{name}.tar.xz"));
        let mut tar = Command::new("tar");
        let status = tar.arg("xJf").arg(archive).arg("-C").arg(&rig.dir.0).status().unwrap();
        assert!(status.success(), "tar could not unpack {name}");
        rig.members = (0..).take_while(|&index| rig.member(index).exists()).count();
        assert!(rig.members >= 2);
        rig
    }

    pub(crate) fn member(&self, index: usize) -> PathBuf {
        self.dir.file(&format!("m{index}.img"))
    }

    pub(crate) fn block_size_bytes(&self) -> u64 {
        self.block_size_bytes
    }

    pub(crate) fn members(&self) -> Vec<PathBuf> {
        (0..self.members).map(|index| self.member(index)).collect()
    }

    fn config(&self) -> PathBuf {
        let mut text = String::new();
        for index in 0..self.members {
            let name = if self.fragile == Some(index) { 'b' } else { 'm' };
            text += &format!(
                "[[bdev]]\nname = \"{name}{index}\"\nkind = \"uring\"\n\
                 path = \"m{index}.img\"\nblock_size_bytes = {}\n",
                self.block_size_bytes
            );
            if self.fragile == Some(index) {
                let base = format!("base = \"b{index}\"\n");
                text += &format!("[[bdev]]\nname = \"m{index}\"\nkind = \"error\"\n{base}");
            }
        }
        let named = self.named.unwrap_or(self.members);
        let names: Vec<String> = (0..named).map(|index| format!("\"m{index}\"")).collect();
        let (names, keys, port) = (names.join(", "), &self.keys, self.port);
        let level = self.level();
        self.dir.config(&format!(
            "{text}[[array]]\nname = \"r\"\nlevel = \"{level}\"\nmembers = [{names}]\n{keys}\n\
             [[subsystem]]\nnqn = \"{NQN}\"\nallow_any_host = true\n\
             namespaces = [{{ bdev = \"r\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{port}\"]\n"
        ))
    }

    /// What its members say; a mirror where there are none yet.
    fn level(&self) -> &'static str {
        let exists = |path: &&PathBuf| path.exists();
        let members = self.members();
        let own = members.iter().find(exists).and_then(|path| try_superblock(path));
        own.map_or("raid1", |own| own.level.name())
    }

    pub(crate) fn start(&self) -> Running {
        let mdof = Mdof::start(&self.dir, &self.config(), &self.arguments);
        Running { mdof, port: self.port, block_size_bytes: self.block_size_bytes }
    }

    /// A start that is refused, in its one sentence.
    pub(crate) fn refused(&self) -> String {
        refused(&self.dir, &self.config(), &self.arguments)
    }

    /// A start in which the array waits for members: what the banner says of it.
    pub(crate) fn waits(&self) -> String {
        let running = self.start();
        let banner = running.mdof.banner.clone();
        assert!(banner.contains("array r NOT STARTED, it waits for members"), "{banner}");
        running.stop();
        banner
    }

    /// The bytes of a member's data.
    pub(crate) fn data(&self, index: usize, first: u64, sectors: u64) -> Vec<u8> {
        let offset = superblock(&self.member(index)).data_offset_sectors + first;
        let mut bytes = vec![0; usize::try_from(sectors * 512).unwrap()];
        File::open(self.member(index)).unwrap().read_exact_at(&mut bytes, offset * 512).unwrap();
        bytes
    }

    /// Changes bytes of a member.
    pub(crate) fn poke(&self, index: usize, offset_bytes: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.member(index)).unwrap();
        file.write_all_at(bytes, offset_bytes).unwrap();
    }

    /// Writes a member's superblock.
    pub(crate) fn put_superblock(&self, index: usize, superblock: &Superblock) {
        let mut bytes = [0; SUPERBLOCK_READ_BYTES];
        superblock.encode_into(&mut bytes);
        self.poke(index, superblock.super_offset_sectors * 512, &bytes);
    }

    /// Debian's mdadm finds nothing wrong with the superblocks of these members.
    pub(crate) fn examine(&self, members: std::ops::Range<usize>) {
        let Some(mdadm) = ["/usr/sbin/mdadm", "/sbin/mdadm"].iter().find(|p| Path::new(p).exists())
        else {
            eprintln!("LEFT OUT: mdadm is not installed, members were not examined by it");
            return;
        };
        for index in members {
            let output =
                Command::new(mdadm).arg("--examine").arg(self.member(index)).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}");
            assert!(text.contains("- correct") && text.contains("Active device"), "{text}");
        }
    }
}

/// The superblock of a member file.
pub(crate) fn superblock(path: &Path) -> Superblock {
    try_superblock(path).unwrap_or_else(|| panic!("{} has no superblock", path.display()))
}

fn try_superblock(path: &Path) -> Option<Superblock> {
    let file = File::open(path).unwrap();
    let sectors = file.metadata().unwrap().len() / 512;
    candidate_sectors(sectors).find_map(|sector| {
        let mut bytes = [0; SUPERBLOCK_READ_BYTES];
        file.read_exact_at(&mut bytes, sector * 512).unwrap();
        Unverified::parse(&bytes, sector).ok()
    })
}

/// A started array.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) mdof: Mdof,
    port: u16,
    block_size_bytes: u64,
}

impl Running {
    /// A host's queue to the array.
    pub(crate) fn host(&self) -> Host {
        let address = format!("127.0.0.1:{}", self.port).parse().unwrap();
        let pool = BufPool::on_heap([16, 16, 8, 0]);
        let mut client = Client::connect(ClientOptions::new(address, NQN, HOST_NQN), pool).unwrap();
        let space = client.identify_namespace(1).unwrap();
        assert_eq!(u64::from(space.block_size_bytes), self.block_size_bytes);
        assert_eq!(client.request_queues(1).unwrap(), 1);
        let queue = client.open_io_queue(1, 32).unwrap();
        Host { client, queue, pool, block: self.block_size_bytes }
    }

    fn bitmap(&self) -> Value {
        self.mdof.rpc("bdev_raid_get_bitmap", &json!({ "name": "r" })).unwrap()
    }

    /// Chunks Unwritten, Clean, and in doubt or copied since the start.
    pub(crate) fn counts(&self) -> [u64; 3] {
        let bitmap = self.bitmap();
        let count = |state: &str| bitmap["states"][state].as_u64().unwrap();
        let doubtful = count("need_sync") + count("syncing") + count("dirty");
        [count("unwritten"), count("clean"), doubtful]
    }

    /// As [`Self::counts`], and chunks whose parity was made before there were data.
    pub(crate) fn all_counts(&self) -> [u64; 4] {
        let [unwritten, clean, doubtful] = self.counts();
        let early = self.bitmap()["states"]["clean_unwritten"].as_u64().unwrap();
        [unwritten, clean, doubtful, early]
    }

    /// What `bdev_raid_get_bdevs` says.
    pub(crate) fn describe(&self) -> Value {
        let arrays = self.mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap();
        arrays[0].clone()
    }

    /// Waits until every member is in sync.
    pub(crate) fn wait_for_rebuild(&self) {
        let end = Instant::now() + LIMIT;
        loop {
            let own = self.describe();
            let members = own["base_bdevs_list"].as_array().unwrap();
            if members.iter().all(|member| member["state"] == "in_sync") {
                return;
            }
            assert!(Instant::now() < end, "the rebuild does not end: {own}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until nothing is being replaced.
    pub(crate) fn wait_for_replacement(&self) {
        let end = Instant::now() + LIMIT;
        while let Some(own) = Some(self.describe()).filter(|it| !it["replacement"].is_null()) {
            assert!(Instant::now() < end, "the replacement does not end: {own}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Chunks that resync has not copied yet; none without a bitmap and a resync.
    pub(crate) fn in_doubt(&self) -> u64 {
        let array = self.mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap();
        if array[0]["bitmap"] == "none" {
            return u64::from(array[0].get("process").is_some());
        }
        let bitmap = self.bitmap();
        let count = |state: &str| bitmap["states"][state].as_u64().unwrap();
        count("need_sync") + count("syncing")
    }

    pub(crate) fn wait_for_resync(&self) {
        let end = Instant::now() + LIMIT;
        while self.in_doubt() > 0 {
            assert!(Instant::now() < end, "the resync does not end: {}", self.bitmap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it cleanly; returns what it logged.
    pub(crate) fn stop(self) -> String {
        self.mdof.signal("TERM");
        let (text, code) = self.mdof.wait();
        assert_eq!(code, Some(0), "{text}");
        text
    }

    pub(crate) fn kill(self) {
        self.mdof.signal("KILL");
        assert_eq!(self.mdof.wait().1, None);
    }
}

/// An NVMe host with one queue.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its admin queue, which keeps the controller alive.
    client: Client,
    queue: QueuePair,
    pool: BufPool,
    block: u64,
}

impl Host {
    /// Reads whole sectors, in blocks that hold them.
    pub(crate) fn read(&mut self, first: u64, sectors: u64) -> Vec<u8> {
        let (start, end) = (first * 512, (first + sectors) * 512);
        let mut at = start / self.block * self.block;
        let mut bytes = Vec::new();
        while at < end {
            let length = (end.next_multiple_of(self.block) - at).min(PIECE_BYTES);
            let buf = self.pool.get(usize::try_from(length).unwrap()).unwrap();
            let blocks = u16::try_from(length / self.block).unwrap();
            self.queue.submit_read(1, at / self.block, blocks, buf, 0);
            let done = self.queue.wait("a read", LIMIT).unwrap();
            assert!(done.status().is_success(), "read at byte {at}: {:?}", done.status());
            bytes.extend_from_slice(done.buf.unwrap().as_slice());
            at += length;
        }
        let skip = usize::try_from(start % self.block).unwrap();
        bytes[skip..skip + usize::try_from(sectors * 512).unwrap()].to_vec()
    }

    /// Whether the block that begins at the sector can be read.
    pub(crate) fn can_read(&mut self, first: u64) -> bool {
        self.can_read_of(1, first * 512 / self.block)
    }

    /// Whether a block of a namespace can be read, which has blocks of the size of the array's.
    pub(crate) fn can_read_of(&mut self, nsid: u32, lba: u64) -> bool {
        let buf = self.pool.get(usize::try_from(self.block).unwrap()).unwrap();
        self.queue.submit_read(nsid, lba, 1, buf, 0);
        self.queue.wait("a read", LIMIT).unwrap().status().is_success()
    }

    /// Queues a write of records of whole blocks; its completion is to be waited for.
    pub(crate) fn begin_write(&mut self, first: u64, sectors: u64, tag: &str) {
        let bytes = records(first, sectors, tag);
        assert!((first * 512).is_multiple_of(self.block));
        assert!((bytes.len() as u64).is_multiple_of(self.block));
        let mut buf = self.pool.get(bytes.len()).unwrap();
        buf.as_mut_slice().copy_from_slice(&bytes);
        let blocks = u16::try_from(bytes.len() as u64 / self.block).unwrap();
        self.queue.submit_write(1, first * 512 / self.block, blocks, buf, first);
    }

    /// Writes records and waits until they are durable as far as a write is.
    pub(crate) fn write(&mut self, first: u64, sectors: u64, tag: &str) {
        let step = PIECE_BYTES / 512;
        for at in (first..first + sectors).step_by(usize::try_from(step).unwrap()) {
            self.begin_write(at, step.min(first + sectors - at), tag);
            let done = self.queue.wait("a write", LIMIT).unwrap();
            assert!(done.status().is_success(), "write at sector {at}: {:?}", done.status());
        }
    }

    /// Sends what is queued and waits for some of it; the rest is on its way.
    pub(crate) fn push(&mut self, completions: usize) {
        for _ in 0..completions {
            assert!(self.queue.wait("a write", LIMIT).unwrap().status().is_success());
        }
    }

    /// Asks to be told when namespaces change.
    pub(crate) fn ask_for_changes(&mut self) {
        let mut feature = Sqe::new_zeroed();
        feature.opcode = 0x09;
        feature.cdw10.set(0x0b);
        feature.cdw11.set(1 << 8);
        self.client.admin_command("Set Features", feature, Data::None).unwrap();
        let mut event = Sqe::new_zeroed();
        event.opcode = 0x0c;
        self.client.admin().submit(event, Data::None, 2);
    }

    /// The target says that namespaces have changed: how many blocks Identify says of one now.
    pub(crate) fn wait_for_change(&mut self, nsid: u32) -> u64 {
        let told = self.client.admin().wait("the event", LIMIT).unwrap();
        // A notice, of namespace attributes; the changed namespaces are in log page 4.
        assert_eq!((told.tag, told.cqe.result.get()), (2, 0x04_0002));
        let mut log = Sqe::new_zeroed();
        log.opcode = 0x02;
        log.cdw10.set(0x04 | 1023 << 16);
        let changed = self.client.admin_read("Get Log Page", log, 4096).unwrap();
        assert_eq!(changed[..8], [&nsid.to_le_bytes()[..], &[0; 4]].concat());
        self.client.identify_namespace(nsid).unwrap().blocks
    }

    /// Whether 4 KiB can be written.
    pub(crate) fn can_write(&mut self, first: u64) -> bool {
        self.begin_write(first, 8, "VMHGEN03");
        self.queue.wait("a write", LIMIT).unwrap().status().is_success()
    }

    /// Every pattern reads as it should.
    pub(crate) fn verify(&mut self, patterns: &[Pattern]) {
        for (first, sectors, tag) in patterns {
            let found = self.read(*first, *sectors);
            let wanted = records(*first, *sectors, tag);
            if let Some(at) = (0..wanted.len()).find(|&at| wanted[at] != found[at]) {
                panic!("{tag} at {first}+{sectors}: sector {} differs", first + at as u64 / 512);
            }
        }
    }
}
