//! Data that is not copied when it could be: what hosts read and write is right all the same.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof_process;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mdof::initiator::{Client, ClientOptions, HostCompletion, QueuePair};
use mdof::reactor::buf::BufPool;
use mdof_process::{Mdof, TestDir, free_port};
use serde_json::{Value, json};

const NQN: &str = "nqn.2026-01.io.mdof:loans";
const HOST_NQN: &str = "nqn.2026-01.io.mdof:host";
const LIMIT: Duration = Duration::from_secs(50);
const BLOCK_BYTES: usize = 512;
const LARGE_BYTES: usize = 128 << 10;
const LARGE_BLOCKS: u16 = 256;

/// Namespaces 1 to 6: memory, memory behind a delay, a mirror, parity, a file, nothing. The array
/// of parity has chunks of 16 KiB, so that large requests are cut.
const BDEVS: &str = r#"
[target]
cores = CORES
[[bdev]]
name = "m0"
kind = "malloc"
size_mib = 16
[[bdev]]
name = "m1"
kind = "malloc"
size_mib = 16
[[bdev]]
name = "late"
kind = "delay"
base = "m1"
avg_read_us = 300
p99_read_us = 900
avg_write_us = 300
p99_write_us = 900
[[bdev]]
name = "a0"
kind = "malloc"
size_mib = 20
[[bdev]]
name = "a1"
kind = "malloc"
size_mib = 20
[[bdev]]
name = "p0"
kind = "malloc"
size_mib = 20
[[bdev]]
name = "p1"
kind = "malloc"
size_mib = 20
[[bdev]]
name = "p2"
kind = "malloc"
size_mib = 20
[[bdev]]
name = "file"
kind = "uring"
path = "FILE"
create = true
size_mib = 16
[[bdev]]
name = "null"
kind = "null"
size_mib = 16
[[array]]
name = "mirror"
level = 1
members = ["a0", "a1"]
[[array]]
name = "parity"
level = 5
chunk_size_kib = 16
members = ["p0", "p1", "p2"]
[[subsystem]]
nqn = "nqn.2026-01.io.mdof:loans"
allow_any_host = true
listen = ["127.0.0.1:PORT"]
namespaces = [
    { bdev = "m0", nsid = 1 }, { bdev = "late", nsid = 2 }, { bdev = "mirror", nsid = 3 },
    { bdev = "parity", nsid = 4 }, { bdev = "file", nsid = 5 }, { bdev = "null", nsid = 6 },
]
"#;

struct Rig {
    mdof: Mdof,
    address: SocketAddr,
    _dir: TestDir,
}

impl Rig {
    fn start(name: &str) -> Self {
        let dir = TestDir::new(&format!("loans-{name}"));
        let port = free_port();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let text = BDEVS
            .replace("CORES", if cores < 2 { "[0]" } else { "[0, 1]" })
            .replace("FILE", dir.file("file.img").to_str().unwrap())
            .replace("PORT", &port.to_string());
        let config = dir.config(&text);
        let mdof = Mdof::start(&dir, &config, &[]);
        Self { mdof, address: SocketAddr::from(([127, 0, 0, 1], port)), _dir: dir }
    }

    fn host(&self, digests: bool, depth: u16, pool: BufPool) -> (Client, QueuePair) {
        let options = ClientOptions {
            limit: LIMIT,
            header_digest: digests,
            data_digest: digests,
            ..ClientOptions::new(self.address, NQN, HOST_NQN)
        };
        let mut client = Client::connect(options, pool).unwrap();
        assert_eq!(client.request_queues(1).unwrap(), 1);
        let queue = client.open_io_queue(1, depth).unwrap();
        (client, queue)
    }

    fn rpc(&self, method: &str, params: &Value) -> Value {
        self.mdof.rpc(method, params).unwrap()
    }

    /// Bytes of buffers that commands hold.
    fn held_bytes(&self) -> u64 {
        let stats = self.rpc("nvmf_get_stats", &json!({}));
        let groups = stats["poll_groups"].as_array().unwrap();
        groups.iter().map(|group| group["transports"][0]["buffer_bytes"].as_u64().unwrap()).sum()
    }
}

fn ok(queue: &mut QueuePair, what: &'static str) -> HostCompletion {
    let done = queue.wait(what, LIMIT).unwrap();
    assert!(done.status().is_success(), "{what}: {:?}", done.status());
    done
}

/// Writes a large extent full of one byte.
fn fill(queue: &mut QueuePair, nsid: u32, extent: u64, byte: u8, pool: BufPool) {
    let mut buf = pool.get(LARGE_BYTES).unwrap();
    buf.as_mut_slice().fill(byte);
    queue.submit_write(nsid, extent * u64::from(LARGE_BLOCKS), LARGE_BLOCKS, buf, 0);
    ok(queue, "filling an extent");
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Each of `LANES` requests in flight has an area of its own and is followed by another there;
/// what is read is what was written last.
fn writes_and_reads(queue: &mut QueuePair, nsid: u32, pool: BufPool, keeps: bool) {
    const LANES: usize = 12;
    const AREA_BYTES: usize = LARGE_BYTES * 10;
    const ROUNDS: usize = 40;
    let mut numbers = Numbers(u64::from(nsid));
    let mut model = vec![vec![0u8; AREA_BYTES]; LANES];
    let mut busy: Vec<Option<(bool, usize)>> = vec![None; LANES];
    let mut left = LANES * ROUNDS;
    while left > 0 || busy.iter().any(Option::is_some) {
        for lane in (0..LANES).filter(|&lane| busy[lane].is_none()).collect::<Vec<_>>() {
            if left == 0 {
                break;
            }
            left -= 1;
            // Small ones come in their capsule, up to 8 KiB; others are asked for.
            let blocks = [1, 2, 8, 16, 17, 100, 256, 257, 1000, 2048][numbers.below(10)];
            let at = numbers.below(AREA_BYTES / BLOCK_BYTES - blocks);
            let lba = (lane * AREA_BYTES / BLOCK_BYTES + at) as u64;
            let (at, len) = (at * BLOCK_BYTES, blocks * BLOCK_BYTES);
            let mut buf = pool.get(len).unwrap();
            let blocks = u16::try_from(blocks).unwrap();
            let writes = numbers.below(2) == 0;
            if writes {
                let seed = numbers.below(256);
                for (index, byte) in buf.as_mut_slice().iter_mut().enumerate() {
                    *byte = u8::try_from((index / 7 + seed) % 256).unwrap();
                }
                if keeps {
                    model[lane][at..at + len].copy_from_slice(buf.as_slice());
                }
                queue.submit_write(nsid, lba, blocks, buf, lane as u64);
            } else {
                buf.as_mut_slice().fill(0xee);
                queue.submit_read(nsid, lba, blocks, buf, lane as u64);
            }
            busy[lane] = Some((writes, at));
        }
        let done = ok(queue, "a request");
        let lane = usize::try_from(done.tag).unwrap();
        let (writes, at) = busy[lane].take().unwrap();
        if !writes {
            let buf = done.buf.unwrap();
            let is_right = buf.as_slice() == &model[lane][at..at + buf.len()];
            assert!(is_right, "namespace {nsid}, area {lane}: {} bytes at {at}", buf.len());
        }
    }
}

#[test]
fn what_was_written_is_read_from_every_kind_of_bdev() {
    let rig = Rig::start("kinds");
    let pool = BufPool::on_heap([16, 16, 16, 16]);
    for digests in [false, true] {
        let (_client, mut queue) = rig.host(digests, 64, pool);
        for nsid in 1..=6 {
            // What the other connection has left.
            for extent in 0..120 {
                fill(&mut queue, nsid, extent, 0, pool);
            }
            writes_and_reads(&mut queue, nsid, pool, nsid != 6);
        }
    }
}

/// A host that does not take what it has read: meanwhile others write there, and the bdev goes.
fn a_host_is_slow(name: &str, nsid: u32, bdevs: &[(&str, &str)]) {
    const OLD: u8 = 0x11;
    const NEW: u8 = 0x22;
    const EXTENTS: u64 = 64;
    let rig = Rig::start(name);
    let pool = BufPool::on_heap([8, 8, 80, 0]);
    let (_writer, mut writes) = rig.host(false, 16, pool);
    for extent in 0..EXTENTS {
        fill(&mut writes, nsid, extent, OLD, pool);
    }
    let (_reader, mut reads) = rig.host(false, 128, pool);
    for extent in 0..EXTENTS {
        let buf = pool.get(LARGE_BYTES).unwrap();
        let lba = extent * u64::from(LARGE_BLOCKS);
        reads.submit_read(nsid, lba, LARGE_BLOCKS, buf, extent);
    }
    // The commands leave, and hardly anything is taken.
    reads.poll().unwrap();
    let since = Instant::now();
    while rig.held_bytes() == 0 {
        assert!(since.elapsed() < LIMIT, "the socket takes everything");
    }
    for extent in 0..EXTENTS {
        fill(&mut writes, nsid, extent, NEW, pool);
    }
    rig.rpc("nvmf_subsystem_remove_ns", &json!({ "nqn": NQN, "nsid": nsid }));
    for (method, bdev) in bdevs {
        rig.rpc(method, &json!({ "name": bdev }));
    }
    let mut read = 0;
    for _ in 0..EXTENTS {
        let done = reads.wait("what was read", LIMIT).unwrap();
        if !done.status().is_success() {
            // It waited for a buffer until its namespace was gone.
            continue;
        }
        read += 1;
        for block in done.buf.unwrap().as_slice().chunks(BLOCK_BYTES) {
            let byte = block[0];
            assert!(byte == OLD || byte == NEW, "{byte:x} was never written");
            assert!(block.iter().all(|&other| other == byte), "a block is of two writes");
        }
    }
    assert!(read > 0, "nothing was read");
}

#[test]
fn what_a_slow_host_has_read_of_memory_outlives_it() {
    a_host_is_slow("memory", 1, &[("bdev_malloc_delete", "m0")]);
}

#[test]
fn what_a_slow_host_has_read_of_a_mirror_outlives_its_members() {
    let gone = [
        ("bdev_raid_delete", "mirror"),
        ("bdev_malloc_delete", "a0"),
        ("bdev_malloc_delete", "a1"),
    ];
    a_host_is_slow("mirror", 3, &gone);
}
