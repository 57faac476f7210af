//! Test rig: a core without a reactor, with channels that it routes for as the engine does.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::reactor::buf::{BufPool, IoBuf};
use crate::reactor::ring::KIND_BDEV;
use crate::reactor::{CoreIo, clock};

pub(super) struct Rig {
    pub(super) core: CoreIo,
    pub(super) out: IoQueue,
    pub(super) channels: Vec<Channel>,
    /// Ended requests of the test: op of the tag, status.
    pub(super) ended: Vec<(u32, IoStatus)>,
}

impl Rig {
    pub(super) fn new(devices: &[Device]) -> Self {
        let pool = BufPool::on_heap([256, 16, 16, 0]);
        let mut core = CoreIo::new(pool).unwrap();
        core.ring.register_arena(&pool).unwrap();
        let channels = devices
            .iter()
            .enumerate()
            .map(|(n, device)| {
                device.open_channel(BdevId(u16::try_from(n).unwrap()), &core).unwrap()
            })
            .collect();
        Self { core, out: IoQueue::with_capacity(64), channels, ended: Vec::new() }
    }

    pub(super) fn start(&mut self, bdev: u16, op: u32, io: (IoOp, u64, u32), buf: Option<&IoBuf>) {
        self.start_fua(bdev, op, io, buf, false);
    }

    pub(super) fn start_fua(
        &mut self,
        bdev: u16,
        op: u32,
        (kind, lba, blocks): (IoOp, u64, u32),
        buf: Option<&IoBuf>,
        fua: bool,
    ) {
        let tag = Tag { station: Station::App, part: 0, object: 0, op };
        let completion = Completion::new(tag);
        let io = BdevIo { op: kind, fua, lba, blocks, buf: buf.cloned(), completion };
        self.out.submit(BdevId(bdev), io);
    }

    /// Delivers what is there, as one turn of the engine does.
    pub(super) fn turn(&mut self) {
        self.core.now_ns = clock::now_ns();
        while let Some(done) = self.core.ring.next_done() {
            assert_eq!(done.data.kind, KIND_BDEV);
            let channel = &mut self.channels[usize::from(done.data.object)];
            channel.ring_done(done.data.op, done.res, &mut self.core, &mut self.out);
        }
        while let Some(tag) = self.core.timers.expire(self.core.now_us()) {
            let channel = &mut self.channels[usize::from(tag.object)];
            channel.timer(tag.op, &mut self.core, &mut self.out);
        }
        while !self.out.is_empty() {
            if let Some((bdev, io)) = self.out.next_submit() {
                let channel = &mut self.channels[usize::from(bdev.0)];
                channel.submit(io, &mut self.core, &mut self.out);
            }
            let Some((tag, status)) = self.out.next_done() else { continue };
            match tag.station {
                Station::Filter => self.channels[usize::from(tag.object)].io_done(
                    tag.op,
                    status,
                    &mut self.core,
                    &mut self.out,
                ),
                _ => self.ended.push((tag.op, status)),
            }
        }
        self.core.ring.submit();
    }

    pub(super) fn run_until_ended(&mut self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.ended.len() < count {
            self.turn();
            assert!(Instant::now() < deadline, "{} of {count} requests ended", self.ended.len());
            if self.ended.len() < count {
                self.core.ring.submit_and_wait(Some(Duration::from_millis(1)));
            }
        }
    }

    /// Executes one request.
    pub(super) fn io(
        &mut self,
        bdev: u16,
        kind: IoOp,
        lba: u64,
        blocks: u32,
        buf: Option<&IoBuf>,
    ) -> IoStatus {
        assert!(self.ended.is_empty());
        self.start(bdev, 0, (kind, lba, blocks), buf);
        self.run_until_ended(1);
        self.ended.pop().unwrap().1
    }

    pub(super) fn filled(&self, len_bytes: usize, seed: u8) -> IoBuf {
        let mut buf = self.core.pool.get(len_bytes).unwrap();
        for (byte, n) in buf.as_mut_slice().iter_mut().zip(0u32..) {
            *byte = (n % 251) as u8 ^ seed;
        }
        buf
    }

    /// Reads and gives the bytes.
    pub(super) fn read(&mut self, bdev: u16, lba: u64, blocks: u32) -> Vec<u8> {
        let block = match &self.channels[usize::from(bdev)] {
            Channel::Uring(channel) => channel.block_size_bytes(),
            _ => 512,
        };
        let mut buf = self.core.pool.get((blocks * block) as usize).unwrap();
        buf.as_mut_slice().fill(0xee);
        assert_eq!(self.io(bdev, IoOp::Read, lba, blocks, Some(&buf)), IoStatus::Ok);
        buf.as_slice().to_vec()
    }

    /// All channels are empty, all buffers back.
    pub(super) fn finish(self) {
        for channel in &self.channels {
            assert_eq!(channel.in_flight(), 0);
        }
        assert_eq!(self.core.pool.free_counts(), [256, 16, 16, 0], "a buffer was kept");
    }
}

/// A folder that is removed with the value.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!(
            "mdof-bdev-{name}-{}-{}",
            std::process::id(),
            clock::now_ns()
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self, name: &str, size_bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        std::fs::File::create(&path).unwrap().set_len(size_bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Unmounts what a test has mounted. Another test's child process may hold our descriptors open
/// between its fork and its exec, so a busy mount gets a second chance.
pub(super) fn unmount(path: &std::path::Path) {
    for _ in 0..100 {
        let output = std::process::Command::new("umount").arg(path).output().unwrap();
        if output.status.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{} stays mounted", path.display());
}

/// What every bdev that stores data must do, on a bdev of at least 2048 blocks of 512 bytes.
pub(super) fn store_contract(rig: &mut Rig, bdev: u16, blocks: u64) {
    let data = rig.filled(4096, 1);
    assert_eq!(rig.read(bdev, 8, 8), [0; 4096], "new bdevs are zeroed");
    assert_eq!(rig.io(bdev, IoOp::Write, 8, 8, Some(&data)), IoStatus::Ok);
    assert_eq!(rig.read(bdev, 8, 8), data.as_slice());
    assert_eq!(rig.read(bdev, 16, 1), [0; 512], "a write kept to its range");
    assert_eq!(rig.read(bdev, 7, 1), [0; 512], "a write kept to its range");
    assert_eq!(rig.io(bdev, IoOp::Compare, 8, 8, Some(&data)), IoStatus::Ok);
    assert_eq!(rig.io(bdev, IoOp::Compare, 9, 8, Some(&data)), IoStatus::CompareMismatch);
    assert_eq!(rig.io(bdev, IoOp::Flush, 0, 0, None), IoStatus::Ok);

    // Buffers that lie anywhere in memory, as data behind a capsule's header do.
    let whole = rig.filled(4096, 2);
    let odd = whole.slice(72, 1024);
    assert_eq!(rig.io(bdev, IoOp::Write, 20, 2, Some(&odd)), IoStatus::Ok);
    assert_eq!(rig.read(bdev, 20, 2), odd.as_slice());
    let target = rig.core.pool.get(4096).unwrap();
    let odd_target = target.slice(100, 1024);
    drop(target);
    assert_eq!(rig.io(bdev, IoOp::Read, 20, 2, Some(&odd_target)), IoStatus::Ok);
    assert_eq!(odd_target.as_slice(), odd.as_slice());

    for (op, lba, count) in [(IoOp::WriteZeroes, 10, 1), (IoOp::Unmap, 13, 2)] {
        assert_eq!(rig.io(bdev, op, lba, count, None), IoStatus::Ok);
    }
    let mut expected = data.as_slice().to_vec();
    expected[1024..1536].fill(0);
    expected[2560..3584].fill(0);
    assert_eq!(rig.read(bdev, 8, 8), expected, "zeroed ranges, and only those");

    // Long ranges whose edges lie inside pages.
    let large = rig.filled(128 * 1024, 3);
    for lba in [512, 768, 1024] {
        assert_eq!(rig.io(bdev, IoOp::Write, lba, 256, Some(&large)), IoStatus::Ok);
    }
    assert_eq!(rig.io(bdev, IoOp::WriteZeroes, 513, 700, None), IoStatus::Ok);
    let block = |n: u64| {
        let start = usize::try_from(n % 256 * 512).unwrap();
        large.as_slice()[start..start + 512].to_vec()
    };
    assert_eq!(rig.read(bdev, 512, 1), block(512));
    assert_eq!(rig.read(bdev, 513, 1), [0; 512]);
    assert_eq!(rig.read(bdev, 800, 256), [0; 128 * 1024]);
    assert_eq!(rig.read(bdev, 1212, 1), [0; 512]);
    assert_eq!(rig.read(bdev, 1213, 1), block(1213));

    let one = rig.filled(512, 4);
    assert_eq!(rig.io(bdev, IoOp::Write, blocks - 1, 1, Some(&one)), IoStatus::Ok);
    for lba in [blocks, u64::MAX] {
        assert_eq!(rig.io(bdev, IoOp::Write, lba, 1, Some(&one)), IoStatus::OutOfRange);
    }
    assert_eq!(rig.io(bdev, IoOp::Unmap, 1, u32::MAX, None), IoStatus::OutOfRange);
    assert_eq!(rig.read(bdev, blocks - 1, 1), one.as_slice());
}
