use std::time::Duration;

use uuid::Uuid;

use super::delay::{DelayDevice, LatencyKind};
use super::error::{ErrorDevice, ErrorKind, Injection};
use super::malloc::{self, AROUND_CACHES_BYTES_MIN, MallocDevice};
use super::null::NullDevice;
use super::rig::{Rig, store_contract};
use super::*;
use crate::reactor::dma::Backing;

const BLOCKS: u64 = 4096;

fn small_malloc() -> Device {
    Device::Malloc(MallocDevice::new("Malloc0", Uuid::nil(), 512, BLOCKS).unwrap())
}

fn over_malloc(filter: impl FnOnce(&Geometry) -> Device) -> Rig {
    let base = small_malloc();
    let filter = filter(base.geometry());
    assert_eq!(filter.base(), Some(BdevId(0)));
    assert_eq!(filter.geometry().blocks, BLOCKS);
    Rig::new(&[base, filter])
}

#[test]
fn malloc_stores() {
    // Through the caches and around them.
    for (blocks, around) in [(BLOCKS, false), (AROUND_CACHES_BYTES_MIN as u64 / 512, true)] {
        let device = MallocDevice::new("Malloc0", Uuid::nil(), 512, blocks).unwrap();
        assert_eq!(device.is_around_caches(), around);
        let mut rig = Rig::new(&[Device::Malloc(device)]);
        store_contract(&mut rig, 0, blocks);
        rig.finish();
    }
}

/// Hugepages are zeroed by writing: what is given back may be wanted by others, and a range that
/// ends within one would keep what it holds.
#[test]
fn malloc_in_hugepages_stores() {
    let blocks = (4 << 20) / 512;
    let new = |pretend| {
        let mut device = MallocDevice::new("Malloc0", Uuid::nil(), 512, blocks).unwrap();
        if pretend {
            std::sync::Arc::get_mut(&mut device).unwrap().pretend_hugepages();
        }
        device
    };
    let reserved = ReservedHugepages::add(4);
    let real = new(false);
    if real.backing() == Backing::Pages {
        println!("on ordinary pages only: no hugepages are free, nor could be reserved");
    }
    for device in [real, new(true)] {
        let memory = Device::Malloc(device);
        let mut rig = Rig::new(&[memory]);
        store_contract(&mut rig, 0, blocks);
        // From the start of a hugepage into another.
        let data = rig.filled(4096, 9);
        let ends = [4096, blocks - 1000];
        for lba in [ends[0] - 8, ends[0], ends[1] - 8, ends[1]] {
            assert_eq!(rig.io(0, IoOp::Write, lba, 8, Some(&data)), IoStatus::Ok);
        }
        let blocks = u32::try_from(ends[1] - ends[0]).unwrap();
        assert_eq!(rig.io(0, IoOp::Unmap, ends[0], blocks, None), IoStatus::Ok);
        for (lba, zeroed) in
            [(ends[0] - 8, false), (ends[0], true), (ends[1] - 8, true), (ends[1], false)]
        {
            let expected = if zeroed { &[0; 4096] } else { data.as_slice() };
            assert!(rig.read(0, lba, 8) == expected, "block {lba}");
        }
        drop(data);
        rig.finish();
    }
    drop(reserved);
}

/// Adds to the system's hugepages where this is allowed, and takes as many back in the end.
struct ReservedHugepages(usize);

impl ReservedHugepages {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    fn add(count: usize) -> Self {
        let added = Self::change(|now| now + count);
        Self(if added { count } else { 0 })
    }

    fn change(to: impl Fn(usize) -> usize) -> bool {
        let now =
            std::fs::read_to_string(Self::FILE).ok().and_then(|text| text.trim().parse().ok());
        now.is_some_and(|now| std::fs::write(Self::FILE, to(now).to_string()).is_ok())
    }
}

impl Drop for ReservedHugepages {
    fn drop(&mut self) {
        Self::change(|now| now.saturating_sub(self.0));
    }
}

#[test]
fn others_do_not_wait_for_a_long_range_to_be_zeroed() {
    let pieces = 6;
    let piece_blocks = u64::from(malloc::ZERO_PIECE_BYTES) / 512;
    let blocks = pieces * piece_blocks;
    let device = MallocDevice::new("Malloc0", Uuid::nil(), 512, blocks).unwrap();
    for (op, length) in [(IoOp::Unmap, blocks), (IoOp::WriteZeroes, blocks - 1)] {
        let mut rig = Rig::new(&[Device::Malloc(device.clone())]);
        let data = rig.filled(512, 9);
        for lba in [0, blocks - 2] {
            assert_eq!(rig.io(0, IoOp::Write, lba, 1, Some(&data)), IoStatus::Ok);
        }
        let length = u32::try_from(length).unwrap();
        rig.start(0, 1, (op, 0, length), None);
        rig.start(0, 2, (op, 0, length), None);
        rig.start(0, 3, (IoOp::Write, blocks - 1, 1), Some(&data));
        rig.turn();
        assert_eq!(rig.ended, [(3, IoStatus::Ok)], "it waits for no other");
        assert_eq!(rig.channels[0].in_flight(), 2);
        let mut turns = 1;
        while rig.channels[0].in_flight() > 0 {
            let before = rig.core.timers.len();
            assert_eq!(before, 1, "one piece a turn");
            std::thread::sleep(Duration::from_micros(2));
            rig.turn();
            turns += 1;
        }
        assert!(turns > 2 * pieces, "{turns} turns");
        assert_eq!(rig.ended[1..], [(1, IoStatus::Ok), (2, IoStatus::Ok)]);
        rig.ended.clear();
        assert!(rig.core.timers.is_empty());
        for lba in [0, blocks - 2] {
            assert_eq!(rig.read(0, lba, 1), [0; 512]);
        }
        drop(data);
        rig.finish();
    }
}

#[test]
fn malloc_is_shared_by_channels() {
    let device = small_malloc();
    let mut rig = Rig::new(&[device.clone(), device]);
    let data = rig.filled(512, 9);
    assert_eq!(rig.io(0, IoOp::Write, 5, 1, Some(&data)), IoStatus::Ok);
    assert_eq!(rig.read(1, 5, 1), data.as_slice());
}

#[test]
fn impossible_shapes_are_refused() {
    for (block_size, blocks) in [(0, 8), (1024, 8), (512, 0), (4096, u64::MAX), (512, 1 << 60)] {
        let error = MallocDevice::new("m", Uuid::nil(), block_size, blocks).unwrap_err();
        assert!(error.to_string().starts_with("bdev m: "), "{error}");
        assert!(NullDevice::new("n", Uuid::nil(), block_size, blocks, true).is_err());
    }
}

#[test]
fn null_reads_zeroes_unless_told_not_to() {
    let new = |zero_reads| {
        Device::Null(NullDevice::new("n", Uuid::nil(), 512, BLOCKS, zero_reads).unwrap())
    };
    let mut rig = Rig::new(&[new(true), new(false)]);
    let data = rig.filled(512, 1);
    assert_eq!(rig.io(0, IoOp::Write, 0, 1, Some(&data)), IoStatus::Ok);
    assert_eq!(rig.read(0, 0, 1), [0; 512]);
    assert_eq!(rig.read(1, 0, 1), [0xee; 512], "the rig's filling is left");
    assert_eq!(rig.io(0, IoOp::Compare, 0, 1, Some(&data)), IoStatus::CompareMismatch);
    assert_eq!(rig.io(0, IoOp::Unmap, BLOCKS - 1, 2, None), IoStatus::OutOfRange);
}

fn error_rig() -> (Rig, std::sync::Arc<ErrorDevice>) {
    let mut shared = None;
    let rig = over_malloc(|base| {
        let device = ErrorDevice::new("EE_Malloc0", Uuid::nil(), BdevId(0), base);
        shared = Some(device.clone());
        Device::Error(device)
    });
    (rig, shared.unwrap())
}

#[test]
fn filters_store_like_their_base() {
    let (mut rig, _) = error_rig();
    store_contract(&mut rig, 1, BLOCKS);
    rig.finish();
    let mut rig = over_malloc(|base| {
        Device::Delay(DelayDevice::new("d", Uuid::nil(), BdevId(0), base, [0, 0, 300, 300]))
    });
    store_contract(&mut rig, 1, BLOCKS);
    rig.finish();
}

#[test]
fn failures_hit_their_operation_count_and_range() {
    let (mut rig, device) = error_rig();
    let buf = rig.filled(1024, 1);
    let fail = |count, lbas| Injection { kind: ErrorKind::Failure, count, lbas };
    device.inject(Some(IoOp::Write), fail(2, None));
    assert_eq!(rig.io(1, IoOp::Read, 0, 2, Some(&buf)), IoStatus::Ok);
    assert_eq!(rig.io(1, IoOp::Write, 0, 2, Some(&buf)), IoStatus::MediaError);
    assert_eq!(rig.io(1, IoOp::Write, 0, 2, Some(&buf)), IoStatus::MediaError);
    assert_eq!(rig.io(1, IoOp::Write, 0, 2, Some(&buf)), IoStatus::Ok);

    device.inject(Some(IoOp::Read), fail(100, Some((10, 12))));
    for (lba, status) in [
        (8, IoStatus::Ok),
        (9, IoStatus::MediaError),
        (11, IoStatus::MediaError),
        (12, IoStatus::Ok),
    ] {
        assert_eq!(rig.io(1, IoOp::Read, lba, 2, Some(&buf)), status, "lba {lba}");
    }
    device.inject(None, fail(u32::MAX, None));
    for op in [IoOp::Flush, IoOp::Unmap, IoOp::WriteZeroes] {
        assert_eq!(rig.io(1, op, 0, 1, None), IoStatus::MediaError);
    }
    device.clear();
    assert_eq!(rig.io(1, IoOp::Flush, 0, 0, None), IoStatus::Ok);
    drop(buf);
    rig.finish();
}

#[test]
fn held_back_requests_go_on_when_told() {
    let (mut rig, device) = error_rig();
    let buf = rig.filled(512, 7);
    device.inject(Some(IoOp::Write), Injection { kind: ErrorKind::Pending, count: 1, lbas: None });
    rig.start(1, 1, (IoOp::Write, 3, 1), Some(&buf));
    rig.turn();
    std::thread::sleep(Duration::from_millis(30));
    rig.turn();
    assert_eq!((rig.ended.len(), rig.channels[1].in_flight()), (0, 1));
    device.resume_pending();
    rig.run_until_ended(1);
    assert_eq!(rig.ended.pop(), Some((1, IoStatus::Ok)));
    assert_eq!(rig.read(1, 3, 1), buf.as_slice());

    device.inject(None, Injection { kind: ErrorKind::Pending, count: 1, lbas: None });
    rig.start(1, 2, (IoOp::Write, 4, 1), Some(&buf));
    rig.turn();
    assert_eq!(rig.channels[1].in_flight(), 1);
    rig.channels[1].close(&mut rig.out);
    rig.run_until_ended(1);
    assert_eq!(rig.ended.pop(), Some((2, IoStatus::Aborted)));
    drop(buf);
    rig.finish();
}

#[test]
fn delays_last_at_least_as_long_as_asked() {
    let mut shared = None;
    let mut rig = over_malloc(|base| {
        let device = DelayDevice::new("d", Uuid::nil(), BdevId(0), base, [20_000, 0, 0, 0]);
        shared = Some(device.clone());
        Device::Delay(device)
    });
    let device = shared.unwrap();
    let buf = rig.filled(512, 7);
    rig.core.now_ns = crate::reactor::clock::now_ns();
    let start_us = rig.core.now_us();
    rig.start(1, 1, (IoOp::Read, 3, 1), Some(&buf));
    rig.start(1, 2, (IoOp::Write, 3, 1), Some(&buf));
    rig.run_until_ended(1);
    assert_eq!(rig.ended, [(2, IoStatus::Ok)], "the write does not wait for the read");
    rig.run_until_ended(2);
    assert!(rig.core.now_us() - start_us >= 20_000);
    rig.ended.clear();

    device.update_latency(LatencyKind::AverageRead, 0);
    device.update_latency(LatencyKind::P99Read, 10_000_000);
    assert_eq!(device.latencies_us(), [0, 10_000_000, 0, 0]);
    for op in 1..100 {
        rig.start(1, op, (IoOp::Read, 0, 1), Some(&buf));
    }
    rig.run_until_ended(98);
    std::thread::sleep(Duration::from_millis(5));
    rig.turn();
    assert_eq!(rig.ended.len(), 98, "one read in a hundred takes long");
    // The rig ends with a request in flight, which is what the linear completion is for.
    while let Some(tag) = rig.core.timers.expire(u64::MAX) {
        rig.channels[1].timer(tag.op, &mut rig.core, &mut rig.out);
    }
    rig.run_until_ended(99);
    drop(buf);
    rig.finish();
}

#[test]
fn more_requests_than_ops_wait_and_all_end() {
    let mut rig = over_malloc(|base| {
        Device::Delay(DelayDevice::new("d", Uuid::nil(), BdevId(0), base, [1000; 4]))
    });
    let count = 3 * channel::OPS_PER_CHANNEL;
    for op in 0..u32::try_from(count).unwrap() {
        rig.start(1, op, (IoOp::Flush, 0, 0), None);
    }
    rig.turn();
    assert_eq!(rig.channels[1].in_flight(), count);
    rig.run_until_ended(count);
    let mut ops: Vec<u32> = rig.ended.iter().map(|&(op, _)| op).collect();
    ops.sort_unstable();
    assert!(ops.into_iter().eq(0..u32::try_from(count).unwrap()), "each ended once");
    rig.finish();
}
