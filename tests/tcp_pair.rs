//! The target's connection and the host's, talking through byte pipes that cut anywhere.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "tests")]

#[path = "support/allocations.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod allocations;

use std::collections::VecDeque;

use mdof::initiator::{Data, HostConfig, HostConnection, HostPhase};
use mdof::reactor::buf::BufPool;
use mdof::target::tcp::{C2hSuccess, Connection, ConnectionConfig, Phase, RequestId};
use mdof::wire::nvme::{Cqe, Sqe, Status};
use mdof::wire::tcp::TransmitVec;
use proptest::prelude::*;
use zerocopy::FromZeros;
use zerocopy::little_endian::U32;

const REGION_BYTES: usize = 128 * 1024;
const WRITE: u8 = 1;
const READ: u8 = 2;

/// Both ends, the pipes between them, and a disk behind the target.
struct Pair {
    host: HostConnection,
    target: Connection,
    host_pool: BufPool,
    target_pool: BufPool,
    to_target: VecDeque<u8>,
    to_host: VecDeque<u8>,
    piece: Vec<u8>,
    out: TransmitVec,
    /// Sizes of pieces, drawn at random.
    cuts: Vec<usize>,
    random: u64,
    executing: VecDeque<(RequestId, Sqe)>,
    disk: Vec<u8>,
    direct: bool,
}

fn bytes_of(out: &TransmitVec, limit: usize, into: &mut VecDeque<u8>) {
    let mut left = limit;
    for segment in out.segments() {
        let len = segment.len.min(left);
        // SAFETY: both ends keep what they offer in place until `transmitted`.
        into.extend(unsafe { std::slice::from_raw_parts(segment.ptr, len) });
        left -= len;
    }
}

impl Pair {
    fn new(host: HostConfig, target: ConnectionConfig, regions: usize, cuts: Vec<usize>) -> Self {
        let mut pair = Self {
            host: HostConnection::new(host),
            target: Connection::new(target),
            host_pool: BufPool::on_heap([0, 0, regions, 0]),
            // Few buffers, so that commands wait for them.
            target_pool: BufPool::on_heap([2, 1, 2, 0]),
            to_target: VecDeque::with_capacity(1 << 20),
            to_host: VecDeque::with_capacity(1 << 20),
            piece: Vec::with_capacity(1 << 20),
            out: TransmitVec::new(),
            cuts,
            random: 0x9e37_79b9_7f4a_7c15,
            executing: VecDeque::with_capacity(1024),
            disk: vec![0; REGION_BYTES * regions],
            direct: false,
        };
        while pair.host.phase() == HostPhase::AwaitIcResp {
            pair.step();
        }
        pair.target.set_queue_depth(host.depth);
        pair
    }

    fn cut(&mut self) -> usize {
        // xorshift64: no step of the pair may always meet the same size.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let count = u64::try_from(self.cuts.len()).unwrap();
        self.cuts[usize::try_from(self.random % count).unwrap()]
    }

    fn step(&mut self) {
        let n = self.host.poll_transmit(&mut self.out).min(self.cut());
        if n > 0 {
            bytes_of(&self.out, n, &mut self.to_target);
            self.host.transmitted(n);
        }
        self.feed_target();
        while let Some(command) = self.target.next_command() {
            self.executing.push_back(command);
        }
        // Completions come late and out of order.
        if self.cut().is_multiple_of(3) {
            self.executing.rotate_left(1.min(self.executing.len()));
        } else if let Some((id, sqe)) = self.executing.pop_front() {
            self.execute(id, &sqe);
        }
        let n = self.target.poll_transmit(&mut self.out);
        if n > 0 {
            let n = n.min(self.cut());
            bytes_of(&self.out, n, &mut self.to_host);
            self.target.transmitted(n);
        }
        let _ = self.target.needs_buffers() && self.target.retry_buffers(&self.target_pool);
        self.feed_host();
        assert_eq!((self.host.error(), self.target.error()), (None, None));
        assert_eq!(self.host.peer_error(), None);
    }

    fn feed_target(&mut self) {
        if !self.target.wants_bytes() {
            return;
        }
        let limit = self.cut().min(self.to_target.len());
        self.direct = !self.direct;
        if self.direct
            && let Some(region) = self.target.direct_target()
        {
            let n = limit.min(region.len());
            region[..n].iter_mut().for_each(|byte| *byte = self.to_target.pop_front().unwrap());
            self.target.handle_direct(n);
            return;
        }
        self.piece.clear();
        self.piece.extend(self.to_target.iter().take(limit));
        let taken = self.target.handle_bytes(&self.piece, &self.target_pool);
        self.to_target.drain(..taken);
    }

    fn feed_host(&mut self) {
        let limit = self.cut().min(self.to_host.len());
        if self.direct
            && let Some(region) = self.host.direct_target()
        {
            let n = limit.min(region.len());
            region[..n].iter_mut().for_each(|byte| *byte = self.to_host.pop_front().unwrap());
            self.host.handle_direct(n);
            return;
        }
        self.piece.clear();
        self.piece.extend(self.to_host.drain(..limit));
        self.host.handle_bytes(&self.piece);
    }

    fn execute(&mut self, id: RequestId, sqe: &Sqe) {
        let at = sqe.cdw10.get() as usize * REGION_BYTES;
        let mut data_bytes = 0;
        match sqe.opcode {
            WRITE => {
                let data = self.target.request_buf(id).expect("a write has data").as_slice();
                self.disk[at..at + data.len()].copy_from_slice(data);
            }
            READ => {
                let data = self.target.request_data_mut(id).expect("a read has a buffer");
                data.copy_from_slice(&self.disk[at..at + data.len()]);
                data_bytes = sqe.sgl_length.get();
            }
            _ => assert!(self.target.request_buf(id).is_none()),
        }
        self.target.complete(id, Cqe::new(0, Status::SUCCESS, 0), data_bytes);
    }

    /// One command for each of `sizes`, all in flight together, each in its region; a size of 0 is
    /// a command without data. Reads are checked against `fill`.
    fn run(&mut self, opcode: u8, sizes: &[usize], fill: u8) {
        let mut submitted = 0;
        let mut done = 0;
        let mut steps = 0u32;
        while done < sizes.len() {
            while submitted < sizes.len() && self.host.can_submit() {
                self.submit(opcode, submitted, sizes[submitted], fill);
                submitted += 1;
            }
            self.step();
            while let Some(completion) = self.host.next_completion() {
                assert!(completion.status().is_success(), "{:?}", completion.status());
                let region = usize::try_from(completion.tag).unwrap();
                if let Some(buf) = completion.buf {
                    assert_eq!(buf.len(), sizes[region]);
                    let want = |i: usize| pattern(region, i, fill);
                    assert!(buf.as_slice().iter().enumerate().all(|(i, byte)| *byte == want(i)));
                }
                done += 1;
            }
            steps += 1;
            assert!(steps < 1_000_000, "stuck: {:?}", self.target);
        }
    }

    fn submit(&mut self, opcode: u8, region: usize, size: usize, fill: u8) {
        let mut sqe = Sqe::new_zeroed();
        sqe.opcode = if size == 0 { 0 } else { opcode };
        sqe.cdw10 = U32::new(u32::try_from(region).unwrap());
        let data = if size == 0 {
            Data::None
        } else {
            let mut buf = self.host_pool.get(size).expect("one buffer a region");
            let bytes = buf.as_mut_slice();
            match opcode {
                WRITE => {
                    let fill = |(i, byte): (usize, &mut u8)| *byte = pattern(region, i, fill);
                    bytes.iter_mut().enumerate().for_each(fill);
                    Data::ToController(buf)
                }
                _ => {
                    bytes.fill(!fill);
                    Data::ToHost(buf)
                }
            }
        };
        self.host.submit(sqe, data, u64::try_from(region).unwrap());
    }
}

/// Byte `i` of a region, different for neighbours, regions and fills.
fn pattern(region: usize, i: usize, fill: u8) -> u8 {
    let mixed = i.wrapping_mul(31) ^ i >> 8 ^ region.wrapping_mul(77);
    mixed.to_le_bytes()[0] ^ fill
}

fn host_config(header_digest: bool, data_digest: bool, hpda: u8, depth: u16) -> HostConfig {
    HostConfig { header_digest, data_digest, hpda, depth, in_capsule_data_bytes: 8192 }
}

fn size() -> impl Strategy<Value = usize> {
    let small = prop_oneof![Just(0), 1usize..600, Just(4096), Just(8192)];
    prop_oneof![4 => small, 1 => 8193usize..20_000, 1 => Just(REGION_BYTES)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_written_is_read_back(
        digests in any::<(bool, bool)>(),
        alignments in (0u8..32, 0u8..32),
        success in prop::sample::select(vec![
            C2hSuccess::Never, C2hSuccess::WithoutFlowControl, C2hSuccess::Always,
        ]),
        flow_control_disabled: bool,
        max_h2c_data_bytes in prop::sample::select(vec![4096u32, 10_000, 131_072]),
        depth in 1u16..20,
        sizes in prop::collection::vec(size(), 1..12),
        cuts in prop::collection::vec(
            prop_oneof![1usize..100, 100usize..5000, 5000usize..200_000], 1..30),
    ) {
        let target = ConnectionConfig {
            cpda: alignments.0, max_h2c_data_bytes, c2h_success: success,
            ..ConnectionConfig::default()
        };
        let host = host_config(digests.0, digests.1, alignments.1, depth);
        // Not only tiny pieces, and one that is no multiple of three, or nothing would complete.
        let mut cuts = cuts;
        cuts.extend([4000, 50_000, 100_001]);
        let mut pair = Pair::new(host, target, sizes.len(), cuts);
        prop_assert_eq!(pair.target.digests(), digests);
        pair.target.set_flow_control_disabled(flow_control_disabled);
        for fill in [0x11, 0xee] {
            pair.run(WRITE, &sizes, fill);
            pair.run(READ, &sizes, fill);
        }
        prop_assert_eq!(pair.host.in_flight(), 0);
        // The host has every response; the reports that they left may lag behind.
        while !pair.to_host.is_empty() || pair.target.wants_transmit() {
            pair.step();
        }
        prop_assert_eq!(pair.target.phase(), Phase::Established);
        pair.target.abort();
        prop_assert!(pair.target.is_drained());
        prop_assert_eq!(pair.target_pool.free_counts(), [2, 1, 2, 0]);
    }
}

#[test]
fn a_target_without_digests_declines_them() {
    let target = ConnectionConfig {
        header_digest: false,
        data_digest: false,
        ..ConnectionConfig::default()
    };
    let pair = Pair::new(host_config(true, true, 0, 4), target, 1, vec![1000]);
    assert_eq!(pair.host.digests(), (false, false));
    assert_eq!(pair.target.digests(), (false, false));
}

#[test]
fn neither_end_allocates_per_command() {
    for digests in [false, true] {
        let host = host_config(digests, digests, 0, 8);
        let cuts = vec![200_000, 1_000, 70_000];
        let mut pair = Pair::new(host, ConnectionConfig::default(), 12, cuts);
        let sizes = [0, 512, 4096, 8192, 8193, 65_536, REGION_BYTES, 4096, 4096, 4096, 1, 2];
        let mut both = |fill| {
            pair.run(WRITE, &sizes, fill);
            pair.run(READ, &sizes, fill);
        };
        both(1);
        let allocations = allocations::of_thread(|| (2..20).for_each(&mut both));
        assert_eq!(allocations, 0, "digests: {digests}");
    }
    let one = || drop(std::hint::black_box(vec![1u8]));
    assert_eq!(allocations::of_thread(one), 1, "the counter counts");
    assert!(allocations::of_process(one) >= 1);
}
