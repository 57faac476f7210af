//! What takes as long as a device does: an array stops, a bdev is closed, connections end, a
//! request of the control plane is executed. A device may hang, and nothing else could be said to
//! the target while somebody waited for it. So a core is asked to begin, and tells when it has
//! ended; whoever waits says for how long, and may come back later.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::handle::{EngineHandle, PATIENCE};
use super::message::{Answer, Ask, Ended, Message};
use crate::bdev::{BdevId, IoOp, IoStatus};

/// How a request of the control plane to a bdev has not succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IoFault {
    /// It has ended so.
    #[error("{0:?}")]
    Status(IoStatus),
    /// It has not ended in time, or one before it. It may have its effect at any time.
    #[error("no answer")]
    NoAnswer,
}

/// What cores have told to have ended, and what is yet to.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// Arrays that have stopped, which nobody has asked about since.
    stopped: Vec<(BdevId, Result<(), IoStatus>)>,
    /// Bdevs that are being closed, and the cores that have not done it.
    closing: Vec<(BdevId, usize)>,
    /// Cores that still have connections, of those told to end them.
    with_connections: usize,
    /// The bdev of each request that is waited for no longer and has not ended.
    late: Vec<BdevId>,
}

impl Endings {
    pub(super) fn note(&mut self, ended: Ended) {
        match ended {
            Ended::Array(bdev, result) => self.stopped.push((bdev, result)),
            Ended::Bdev(bdev) => {
                for (_, cores) in self.closing.iter_mut().filter(|(own, _)| *own == bdev) {
                    *cores -= 1;
                }
            }
            Ended::Connections => self.with_connections -= 1,
            Ended::Io(bdev) => {
                if let Some(at) = self.late.iter().position(|own| *own == bdev) {
                    self.late.swap_remove(at);
                }
            }
        }
    }

    fn is_closed(&self, bdev: BdevId) -> bool {
        self.closing.iter().all(|(own, cores)| *own != bdev || *cores == 0)
    }
}

impl EngineHandle {
    /// Waits until something has ended; says whether it has.
    fn wait_for(&mut self, patience: Duration, has_ended: impl Fn(&Endings) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        self.take_told();
        while !has_ended(&self.endings) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some((from, message)) = self.port.receive_blocking(left) else {
                return has_ended(&self.endings);
            };
            self.take_unasked(from, message);
        }
        true
    }

    /// The same for as long as it takes.
    fn wait_long_for(&mut self, what: &str, has_ended: impl Fn(&Endings) -> bool) {
        while !self.wait_for(PATIENCE, &has_ended) {
            let waited = PATIENCE.as_secs();
            tracing::warn!("{what} for more than {waited} s: a bdev may be stuck. Waiting on");
        }
    }

    /// Takes what cores have told without being asked.
    pub(super) fn take_told(&mut self) {
        while let Some((from, message)) = self.port.receive() {
            self.take_unasked(from, message);
        }
    }

    fn take_unasked(&mut self, from: usize, message: Message) {
        let answer = self.sort(from, message);
        assert!(answer.is_none(), "core {from} sent {answer:?} and nobody had asked");
    }

    /// Begins to stop an array cleanly: in-flight requests end, bitmap and superblocks say "clean".
    /// It takes no requests any more.
    ///
    /// # Panics
    /// If it is no array.
    pub fn begin_stop(&mut self, bdev: BdevId) {
        let known = self.known(bdev).expect("an array that is to stop is there");
        let owner = known.owner_core.expect("only arrays are stopped");
        let answer = self.ask_one(owner, Ask::StopArray(bdev));
        assert!(matches!(answer, Answer::Done), "{answer:?} does not answer the stop of an array");
    }

    /// Whether an array that was told to stop has stopped in that time. Then its channels are
    /// closed: it is gone. `Err`: the members could not be told that it is clean, and the next
    /// start will resync.
    pub fn stopped_in(&mut self, bdev: BdevId, patience: Duration) -> Option<Result<(), IoStatus>> {
        let is_it = |(own, _): &(BdevId, _)| *own == bdev;
        self.wait_for(patience, |endings| endings.stopped.iter().any(is_it));
        let at = self.endings.stopped.iter().position(is_it)?;
        let (_, result) = self.endings.stopped.swap_remove(at);
        self.remove_bdev(bdev);
        Some(result)
    }

    /// Stops an array, however long that takes.
    ///
    /// # Errors
    /// As [`Self::stopped_in`].
    pub fn stop_array(&mut self, bdev: BdevId) -> Result<(), IoStatus> {
        self.known(bdev).ok_or(IoStatus::Removed)?;
        self.begin_stop(bdev);
        let has_stopped = |endings: &Endings| endings.stopped.iter().any(|(own, _)| *own == bdev);
        self.wait_long_for("an array has been stopping", has_stopped);
        self.stopped_in(bdev, Duration::ZERO).expect("it has stopped")
    }

    /// Requests that the bdev has and has not ended.
    pub fn in_flight(&mut self, bdev: BdevId) -> usize {
        let cores = self.cores();
        let on = |core| match self.ask_one(core, Ask::InFlight(bdev)) {
            Answer::InFlight(requests) => requests,
            answer => unreachable!("{answer:?} is no number of requests"),
        };
        (0..cores).map(on).sum()
    }

    /// Begins to close the bdev's channels. No array, filter or namespace may use it any more. An
    /// array is to be stopped first.
    pub fn begin_removal(&mut self, bdev: BdevId) {
        self.endings.closing.push((bdev, self.cores()));
        self.ask_all(|| Ask::CloseBdev(bdev)).expect("closing is never refused");
    }

    /// Whether the channels of a bdev that is being removed are closed in that time, as its
    /// requests have ended. It is gone then.
    pub fn removed_in(&mut self, bdev: BdevId, patience: Duration) -> bool {
        let is_gone = self.wait_for(patience, |endings| endings.is_closed(bdev));
        if is_gone {
            self.endings.closing.retain(|(own, _)| *own != bdev);
            self.forget_bdev(bdev);
        }
        is_gone
    }

    /// Removes a bdev, however long its requests take.
    pub fn remove_bdev(&mut self, bdev: BdevId) {
        self.begin_removal(bdev);
        self.wait_long_for("a bdev has been closing", |endings| endings.is_closed(bdev));
        assert!(self.removed_in(bdev, Duration::ZERO), "its channels are closed");
    }

    /// Ends all connections, and waits that long for those whose commands have not ended; says
    /// whether they are gone.
    pub fn close_connections_in(&mut self, patience: Duration) -> bool {
        if self.endings.with_connections == 0 {
            self.endings.with_connections = self.cores();
            self.ask_all(|| Ask::CloseConnections).expect("closing is never refused");
        }
        self.wait_for(patience, |endings| endings.with_connections == 0)
    }

    /// Ends all connections.
    pub fn close_connections(&mut self) {
        self.close_connections_in(Duration::ZERO);
        let are_gone = |endings: &Endings| endings.with_connections == 0;
        self.wait_long_for("connections have been ending", are_gone);
    }

    /// The bdev has a request of the control plane that it has not ended in time, and may yet.
    #[must_use]
    pub fn is_late(&self, bdev: BdevId) -> bool {
        self.endings.late.contains(&bdev)
    }

    /// Some bdev has, or is closing: memory of this process may be in use by a device.
    #[must_use]
    pub fn has_late(&self) -> bool {
        !self.endings.late.is_empty() || !self.endings.closing.is_empty()
    }

    /// Executes a request, and waits that long for its end, and for that of earlier ones that were
    /// late. What does not end is waited for no longer; the bdev can't be removed before.
    fn io_in(
        &mut self,
        bdev: BdevId,
        (op, lba, blocks): (IoOp, u64, u32),
        data: &[u8],
        patience: Duration,
    ) -> Result<Vec<u8>, IoFault> {
        let deadline = Instant::now() + patience;
        if !self.wait_for(patience, |endings| !endings.late.contains(&bdev)) {
            return Err(IoFault::NoAnswer);
        }
        loop {
            self.ask(0, Ask::Io { bdev, op, lba, blocks, data: data.to_vec() });
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = match self.answer_in(left) {
                Some(answer) => answer,
                None => match self.ask_one(0, Ask::ForgetIo) {
                    Answer::Failed(_) => {
                        self.endings.late.push(bdev);
                        return Err(IoFault::NoAnswer);
                    }
                    // At the last moment.
                    answer => answer,
                },
            };
            match answer {
                // All buffers are in use by hosts for the moment.
                Answer::Io(Err(IoStatus::Aborted)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Answer::Io(result) => return result.map_err(IoFault::Status),
                answer => unreachable!("{answer:?} does not answer a request"),
            }
        }
    }

    pub(super) fn io(
        &mut self,
        bdev: BdevId,
        request: (IoOp, u64, u32),
        data: &[u8],
    ) -> Result<Vec<u8>, IoFault> {
        self.io_in(bdev, request, data, self.io_patience)
    }

    /// Whether the bdev ends a read and a flush in this time each, however.
    pub fn answers_in(&mut self, bdev: BdevId, patience: Duration) -> bool {
        let Some(known) = self.known(bdev) else { return false };
        let block = vec![0; known.geometry.block_size_bytes as usize];
        [((IoOp::Read, 0, 1), &block[..]), ((IoOp::Flush, 0, 0), &[])].into_iter().all(
            |(request, data)| self.io_in(bdev, request, data, patience) != Err(IoFault::NoAnswer),
        )
    }
}
