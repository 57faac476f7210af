//! What an I/O queue has done: counted on the queue's core, read on the controller's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::IO_QUEUES_PER_CONTROLLER_MAX;

/// Counters of one I/O queue. Only the queue's core writes them, so that a count is a load, an
/// addition and a store.
#[derive(Debug, Default)]
pub struct Traffic {
    read_commands: AtomicU64,
    written_commands: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    other_commands: AtomicU64,
    media_errors: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Traffic {
    /// A command that reads `bytes` for the host: Read, Compare, Verify, Copy.
    pub fn count_read(&self, bytes: u64) {
        add(&self.read_commands, 1);
        add(&self.read_bytes, bytes);
    }

    /// A command that writes `bytes` for the host.
    pub fn count_write(&self, bytes: u64) {
        add(&self.written_commands, 1);
        add(&self.written_bytes, bytes);
    }

    /// A command that moves no data.
    pub fn count_other(&self) {
        add(&self.other_commands, 1);
    }

    /// A command that failed because data could not be read or written.
    pub fn count_media_error(&self) {
        add(&self.media_errors, 1);
    }

    fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            read_commands: get(&self.read_commands),
            written_commands: get(&self.written_commands),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            other_commands: get(&self.other_commands),
            media_errors: get(&self.media_errors),
        }
    }
}

/// The counters of several queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) read_commands: u64,
    pub(super) written_commands: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) other_commands: u64,
    pub(super) media_errors: u64,
}

impl Totals {
    fn add(&mut self, more: Self) {
        self.read_commands += more.read_commands;
        self.written_commands += more.written_commands;
        self.read_bytes += more.read_bytes;
        self.written_bytes += more.written_bytes;
        self.other_commands += more.other_commands;
        self.media_errors += more.media_errors;
    }

    /// Commands of any kind.
    pub(super) fn commands(&self) -> u64 {
        self.read_commands + self.written_commands + self.other_commands
    }
}

/// The traffic of a controller: that of its I/O queues, and of those it had before.
#[derive(Debug)]
pub(super) struct ControllerTraffic {
    queues: Box<[Option<Arc<Traffic>>]>,
    past: Totals,
}

impl Default for ControllerTraffic {
    fn default() -> Self {
        Self {
            queues: (0..IO_QUEUES_PER_CONTROLLER_MAX).map(|_| None).collect(),
            past: Totals::default(),
        }
    }
}

impl ControllerTraffic {
    /// Counters for I/O queue `qid`, which is being connected.
    pub(super) fn open(&mut self, qid: u16) -> Arc<Traffic> {
        self.close(qid);
        let traffic = Arc::new(Traffic::default());
        self.queues[usize::from(qid - 1)] = Some(traffic.clone());
        traffic
    }

    /// I/O queue `qid` has ended.
    pub(super) fn close(&mut self, qid: u16) {
        if let Some(ended) = self.queues[usize::from(qid - 1)].take() {
            self.past.add(ended.totals());
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.past;
        for queue in self.queues.iter().flatten() {
            totals.add(queue.totals());
        }
        totals
    }
}
