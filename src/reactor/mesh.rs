//! Messages between cores: a bounded ring per ordered pair of endpoints.
//!
//! Endpoints are the cores, numbered from 0, and one control endpoint (the last number). A sleeper
//! is woken through its eventfd, and only a sleeper, so that busy cores exchange messages without
//! system calls. Why no wake-up is lost: the receiver announces its sleep and then looks into its
//! mailboxes once more; the sender puts its message there and then looks for the announcement.
//! With a full fence between the two steps on both sides, at least one of them sees the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::sync::{
    Arc, AtomicBool, Consumer, Ordering, Producer, PushError, RingBuffer, Wake, fence,
};
use crate::limits::CORES_MAX;

/// Messages a ring of a pair holds unless told otherwise.
pub const RING_MESSAGES: usize = 256;

/// What senders need to know of an endpoint. Alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Endpoint {
    /// The owner is about to sleep, or asleep, and wants an eventfd write.
    sleeping: AtomicBool,
    wake: Wake,
}

/// Builds all ports of a mesh: one for each of `cores`, then the control endpoint's, last.
pub fn mesh<M: Send>(cores: usize, ring_messages: usize) -> io::Result<Vec<Port<M>>> {
    assert!((1..=CORES_MAX).contains(&cores), "a target has 1 to {CORES_MAX} cores");
    let count = cores + 1;
    let mut endpoints = Vec::with_capacity(count);
    for _ in 0..count {
        let wake = Wake::new()?;
        endpoints.push(Endpoint { sleeping: AtomicBool::new(false), wake });
    }
    let endpoints: Arc<[Endpoint]> = endpoints.into();
    let mut ports: Vec<Port<M>> =
        (0..count).map(|own| Port::new(own, count, ring_messages, &endpoints)).collect();
    for from in 0..count {
        for to in (0..count).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(ring_messages);
            ports[from].to[to] = Some(producer);
            ports[to].from[from] = Some(consumer);
        }
    }
    Ok(ports)
}

/// One endpoint's ends of the mesh. Moves into the endpoint's thread.
pub struct Port<M> {
    own: usize,
    endpoints: Arc<[Endpoint]>,
    to: Box<[Option<Producer<M>>]>,
    from: Box<[Option<Consumer<M>>]>,
    /// Messages that met a full ring, by destination.
    backlog: Box<[VecDeque<M>]>,
    backlogged: usize,
    backlogged_ever: u64,
    /// Sender to be asked first: rotates for fairness.
    turn: usize,
}

impl<M> std::fmt::Debug for Port<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Port({} of {}, backlog {})", self.own, self.endpoints.len(), self.backlogged)
    }
}

impl<M: Send> Port<M> {
    fn new(own: usize, count: usize, messages: usize, endpoints: &Arc<[Endpoint]>) -> Self {
        Self {
            own,
            endpoints: endpoints.clone(),
            to: (0..count).map(|_| None).collect(),
            from: (0..count).map(|_| None).collect(),
            backlog: (0..count).map(|_| VecDeque::with_capacity(messages)).collect(),
            backlogged: 0,
            backlogged_ever: 0,
            turn: 0,
        }
    }

    /// This endpoint's number.
    #[must_use]
    pub fn own(&self) -> usize {
        self.own
    }

    /// Number of cores; also the number of the control endpoint.
    #[must_use]
    pub fn control(&self) -> usize {
        self.endpoints.len() - 1
    }

    /// Sends `message` to endpoint `to`; gives it back when the ring is full or when older
    /// messages still wait for room.
    ///
    /// # Panics
    /// If `to` is this endpoint or none.
    pub fn send(&mut self, to: usize, message: M) -> Result<(), M> {
        if self.backlog[to].is_empty() { self.push(to, message) } else { Err(message) }
    }

    /// Sends `message` to endpoint `to`, now or, when the ring is full, as soon as there is room
    /// ([`Self::flush_backlog`], every turn). Order is kept.
    ///
    /// # Panics
    /// If `to` is this endpoint or none.
    pub fn post(&mut self, to: usize, message: M) {
        if let Err(message) = self.send(to, message) {
            self.backlog[to].push_back(message);
            self.backlogged += 1;
            self.backlogged_ever += 1;
        }
    }

    fn push(&mut self, to: usize, message: M) -> Result<(), M> {
        let ring = self.to[to].as_mut().expect("an endpoint sends to others only");
        // The ring's release store of its tail publishes the message.
        if let Err(PushError::Full(message)) = ring.push(message) {
            return Err(message);
        }
        let endpoint = &self.endpoints[to];
        // Pairs with the fence in `prepare_sleep`: either that endpoint's sweep after its fence
        // sees the message, or the load below sees its flag.
        fence(Ordering::SeqCst);
        // Relaxed load: ordered by the fence. The swap lets one of many senders write; it needs
        // no order of its own, as the eventfd carries no data.
        if endpoint.sleeping.load(Ordering::Relaxed)
            && endpoint.sleeping.swap(false, Ordering::Relaxed)
        {
            endpoint.wake.wake();
        }
        Ok(())
    }

    /// Retries messages that met a full ring. Returns whether one was sent.
    pub fn flush_backlog(&mut self) -> bool {
        if self.backlogged == 0 {
            return false;
        }
        let before = self.backlogged;
        for to in 0..self.backlog.len() {
            while let Some(message) = self.backlog[to].pop_front() {
                if let Err(message) = self.push(to, message) {
                    self.backlog[to].push_front(message);
                    break;
                }
                self.backlogged -= 1;
            }
        }
        self.backlogged < before
    }

    /// Messages that wait for room in a full ring.
    #[must_use]
    pub fn backlogged(&self) -> usize {
        self.backlogged
    }

    /// Messages that ever had to wait for room.
    #[must_use]
    pub fn backlogged_ever(&self) -> u64 {
        self.backlogged_ever
    }

    /// The next message and its sender. Senders take turns; one sender's messages keep their
    /// order.
    pub fn receive(&mut self) -> Option<(usize, M)> {
        let count = self.from.len();
        for step in 0..count {
            let from = (self.turn + step) % count;
            // The ring's acquire load of its tail pairs with the sender's release store.
            if let Some(message) = self.from[from].as_mut().and_then(|ring| ring.pop().ok()) {
                self.turn = (from + 1) % count;
                return Some((from, message));
            }
        }
        None
    }

    /// Announces sleep. `false`: a message is there already, do not sleep (the announcement is
    /// withdrawn). `true`: any message sent from now on makes [`Self::wake_fd`] readable.
    #[must_use]
    pub fn prepare_sleep(&mut self) -> bool {
        // Relaxed store: ordered before the sweep by the fence.
        self.endpoints[self.own].sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence in `push`.
        fence(Ordering::SeqCst);
        let empty = self.from.iter().flatten().all(Consumer::is_empty);
        if !empty {
            self.end_sleep();
        }
        empty
    }

    /// Withdraws the announcement after waking.
    pub fn end_sleep(&mut self) {
        // Relaxed: a sender that still sees `true` writes the eventfd once in vain.
        self.endpoints[self.own].sleeping.store(false, Ordering::Relaxed);
    }

    /// Becomes readable (8 bytes) when the endpoint is to wake. Reads of it block.
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.endpoints[self.own].wake.raw_fd()
    }

    /// Waits for a message: for endpoints that are ordinary blocking threads (control). `None`:
    /// the time is over.
    pub fn receive_blocking(&mut self, timeout: Duration) -> Option<(usize, M)> {
        /// How often a full ring is looked at while messages wait for room in it.
        const BACKLOG_RETRY: Duration = Duration::from_millis(1);
        let deadline = Instant::now() + timeout;
        loop {
            self.flush_backlog();
            if let Some(received) = self.receive() {
                return Some(received);
            }
            let mut left = deadline.checked_duration_since(Instant::now())?;
            if self.backlogged > 0 {
                left = left.min(BACKLOG_RETRY);
            }
            if self.prepare_sleep() {
                self.wait_woken(left);
            }
        }
    }

    /// Sleeps after [`Self::prepare_sleep`] until woken, at most so long.
    pub fn wait_woken(&mut self, timeout: Duration) {
        self.endpoints[self.own].wake.wait(timeout);
        self.end_sleep();
    }
}

#[cfg(not(feature = "loom"))]
#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::super::wake::WAKE;
    use super::*;

    #[test]
    fn full_ring_gives_back_and_post_keeps_order() {
        let mut ports = mesh::<u32>(1, 2).unwrap();
        let mut control = ports.pop().unwrap();
        let mut core = ports.pop().unwrap();
        assert_eq!((core.own(), core.control(), control.own()), (0, 1, 1));
        control.post(0, 1);
        control.post(0, 2);
        assert_eq!(control.send(0, 9), Err(9));
        control.post(0, 3);
        control.post(0, 4);
        assert_eq!((control.backlogged(), control.backlogged_ever()), (2, 2));
        assert!(!control.flush_backlog());
        assert_eq!(core.receive(), Some((1, 1)));
        // Room is there, but 3 was first.
        assert_eq!(control.send(0, 9), Err(9));
        assert!(control.flush_backlog());
        let rest: Vec<u32> = std::iter::from_fn(|| {
            control.flush_backlog();
            core.receive().map(|(_, message)| message)
        })
        .collect();
        assert_eq!(rest, [2, 3, 4]);
        assert_eq!(control.backlogged(), 0);
    }

    #[test]
    fn senders_take_turns() {
        let mut ports = mesh::<u32>(2, 8).unwrap();
        let (rest, last) = ports.split_at_mut(2);
        for n in 0..3 {
            rest[1].post(0, n);
            last[0].post(0, 10 + n);
        }
        let order: Vec<(usize, u32)> = std::iter::from_fn(|| rest[0].receive()).collect();
        assert_eq!(order, [(1, 0), (2, 10), (1, 1), (2, 11), (1, 2), (2, 12)]);
    }

    #[test]
    fn only_a_sleeper_is_woken() {
        let mut ports = mesh::<u32>(1, 8).unwrap();
        let mut control = ports.pop().unwrap();
        let mut core = ports.pop().unwrap();
        let readable = |port: &Port<u32>| {
            let mut fds = [PollFd::new(&port.endpoints[port.own].wake, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        control.post(0, 1);
        assert!(!readable(&core), "a busy core was woken");
        assert!(!core.prepare_sleep(), "a message waits, no sleep");
        assert!(core.receive().is_some());
        assert!(core.prepare_sleep());
        control.post(0, 2);
        control.post(0, 3);
        assert!(readable(&core));
        let mut count = [0u8; 8];
        rustix::io::read(&core.endpoints[0].wake, &mut count).unwrap();
        assert_eq!(count, WAKE, "one wake-up is enough");
    }

    /// Two blocking endpoints play ping-pong and stream in both directions; each sleeps whenever
    /// it has nothing to do. A lost wake-up shows as a time-out.
    #[test]
    fn no_wake_up_is_lost_between_two_sleepers() {
        const ROUNDS: u64 = 20_000;
        let mut ports = mesh::<u64>(1, 4).unwrap();
        let mut control = ports.pop().unwrap();
        let mut core = ports.pop().unwrap();
        let far = std::thread::spawn(move || {
            for expected in 0..ROUNDS {
                let got = core.receive_blocking(Duration::from_secs(20));
                assert_eq!(got, Some((1, expected)), "lost or out of order");
                core.post(1, expected);
                // Bursts, so that the ring runs full now and then.
                if expected % 64 == 0 {
                    (0..9).for_each(|_| core.post(1, u64::MAX));
                }
            }
            while core.backlogged() > 0 {
                core.flush_backlog();
                std::thread::yield_now();
            }
        });
        let (mut answered, mut extra) = (0, 0);
        for n in 0..ROUNDS {
            control.post(0, n);
            while n + 1 - answered > n % 7 {
                let got = control.receive_blocking(Duration::from_secs(20));
                match got.expect("a wake-up was lost") {
                    (0, u64::MAX) => extra += 1,
                    (0, message) => {
                        assert_eq!(message, answered);
                        answered += 1;
                    }
                    other => panic!("from nowhere: {other:?}"),
                }
            }
        }
        while answered < ROUNDS || extra < ROUNDS.div_ceil(64) * 9 {
            match control.receive_blocking(Duration::from_secs(20)).expect("lost").1 {
                u64::MAX => extra += 1,
                _ => answered += 1,
            }
        }
        far.join().unwrap();
    }
}
