//! Reads on many queues from one polling thread.

use std::time::{Duration, Instant};

use mdof::initiator::QueuePair;
use mdof::reactor::buf::{BufPool, IoBuf};

use super::served::BLOCKS;

/// Queues, each with `depth` reads in flight.
pub(crate) struct Lanes<'a> {
    queues: &'a mut [QueuePair],
    depth: u16,
    bufs: Vec<IoBuf>,
    random: u64,
    /// When each read began, by its tag; its time is taken if this is so.
    began: Vec<Instant>,
    times: Option<Vec<u64>>,
    in_flight: usize,
}

impl<'a> Lanes<'a> {
    pub(crate) fn new(queues: &'a mut [QueuePair], depth: u16) -> Self {
        let all = queues.len() * usize::from(depth);
        let pool = BufPool::on_heap([all, 0, 0, 0]);
        let bufs = (0..all).map(|_| pool.get(4096).expect("one each")).collect();
        let began = vec![Instant::now(); all];
        Self { queues, depth, bufs, random: 1, began, times: None, in_flight: 0 }
    }

    /// From now on the time of each read is taken.
    pub(crate) fn time_each(&mut self) {
        self.times = Some(Vec::with_capacity(1 << 22));
    }

    fn submit(&mut self, lane: usize, tag: u64, buf: IoBuf) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.began[usize::try_from(tag).expect("a tag is an index")] = Instant::now();
        self.queues[lane].submit_read(1, (self.random >> 20) % BLOCKS, 1, buf, tag);
        self.in_flight += 1;
    }

    /// Takes what has ended on a queue, and sends as many again if `go_on`.
    fn turn(&mut self, lane: usize, go_on: bool) -> u64 {
        self.queues[lane].poll().expect("the target serves");
        let mut ended = 0;
        while let Some(done) = self.queues[lane].next_completion() {
            assert!(done.status().is_success(), "a read failed with {:?}", done.status());
            ended += 1;
            self.in_flight -= 1;
            if let Some(times) = &mut self.times {
                let index = usize::try_from(done.tag).expect("a tag is an index");
                let ns = self.began[index].elapsed().as_nanos();
                times.push(u64::try_from(ns).unwrap_or(u64::MAX));
            }
            let buf = done.buf.expect("a read has one");
            if go_on {
                self.submit(lane, done.tag, buf);
            } else {
                self.bufs.push(buf);
            }
        }
        ended
    }

    fn submit_all(&mut self) {
        let depth = usize::from(self.depth);
        for lane in 0..self.queues.len() {
            for slot in 0..depth {
                let Some(buf) = self.bufs.pop() else { break };
                self.submit(lane, (lane * depth + slot) as u64, buf);
            }
        }
    }

    /// Reads for so long; how many ended.
    pub(crate) fn run(&mut self, time: Duration) -> u64 {
        self.submit_all();
        let since = Instant::now();
        let mut ended = 0;
        while since.elapsed() < time {
            for lane in 0..self.queues.len() {
                ended += self.turn(lane, true);
            }
        }
        ended
    }

    /// Reads for so long; between reads something is done, as often as `every`.
    pub(crate) fn run_beside(&mut self, time: Duration, every: Duration, act: &mut dyn FnMut()) {
        let since = Instant::now();
        while since.elapsed() < time {
            self.drain();
            act();
            self.run(every);
        }
    }

    /// Waits for what is in flight.
    pub(crate) fn drain(&mut self) {
        while self.in_flight > 0 {
            for lane in 0..self.queues.len() {
                self.turn(lane, false);
            }
        }
    }

    pub(crate) fn p99_us(&mut self) -> f64 {
        let mut times = self.times.take().expect("it was asked for");
        times.sort_unstable();
        times[times.len() * 99 / 100] as f64 / 1000.0
    }
}
