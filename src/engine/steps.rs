//! Commands that take several requests to a bdev, and the memory they need for it.

use std::collections::VecDeque;

use super::gate::ClosedRange;
use super::gate_home::{HOME, Ticket};
use super::message::{CommandKey, ConnectionKey, Message};
use super::queue::{Executing, IDLE, Role, STEPS};
use super::shard::{Shard, ShardCore};
use crate::bdev::{BdevId, BdevIo, Completion, IoStatus, Station, Tag};
use crate::reactor::buf::{BufPool, IoBuf};
use crate::target::controller::io::{self, IoCommand, IoRequest};
use crate::target::controller::steps::{Job, Next, StepBuf, Steps};
use crate::target::reservation::Access;
use crate::target::tcp::RequestId;
use crate::wire::nvme::{Sqe, Status};

/// A command on its way.
#[derive(Debug)]
struct Running {
    connection: u16,
    /// The command whose place in the table of executing commands counts its requests: of a fused
    /// operation the second.
    id: RequestId,
    /// The first command of a fused operation.
    first: Option<RequestId>,
    bdev: BdevId,
    steps: Steps,
    /// The data the host sent with the (first) command.
    host: Option<IoBuf>,
    /// The data of the second command.
    second: Option<IoBuf>,
    scratch: Option<IoBuf>,
    /// The range that a fused operation has to itself.
    range: Option<Ticket>,
}

/// The core's commands of this kind.
#[derive(Debug)]
pub(super) struct StepTable {
    running: Vec<Running>,
    /// Wait state: commands for which there is no scratch buffer.
    awaiting_scratch: VecDeque<(u16, RequestId)>,
    /// Memory for one such command, so that hosts cannot take all buffers from all of them: each
    /// holds one already, and would wait for the others for ever.
    reserve: BufPool,
}

impl StepTable {
    pub(super) fn new() -> Self {
        Self {
            running: Vec::new(),
            awaiting_scratch: VecDeque::new(),
            reserve: BufPool::on_heap([0, 0, 1, 0]),
        }
    }

    fn find(&self, connection: u16, id: RequestId) -> Option<usize> {
        self.running.iter().position(|one| (one.connection, one.id) == (connection, id))
    }
}

impl Shard {
    /// Starts Compare, Verify or Copy.
    pub(super) fn start_steps(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        let Role::Io(grant) = &conn.role else { unreachable!("the caller has looked") };
        let host = conn.protocol.request_buf(id).cloned();
        let shift = request.block_shift;
        let bytes = |blocks: u32| u64::from(blocks) << shift;
        let steps = match request.command {
            IoCommand::Compare { lba, blocks } => {
                grant.traffic.count_read(bytes(blocks));
                Steps::new(Job::Compare, lba, blocks, shift)
            }
            IoCommand::Verify { lba, blocks } => {
                grant.traffic.count_read(bytes(blocks));
                Steps::new(Job::Verify, lba, blocks, shift)
            }
            IoCommand::Copy { ranges, fua, lba } => {
                let data = host.as_ref().map_or(&[][..], |buf| buf.as_slice());
                let of = (request.namespace_blocks, shift);
                let blocks = match io::copy_ranges(data, ranges, lba, of) {
                    Ok(found) => found.map(|(_, blocks)| blocks).sum(),
                    Err(status) => return self.fail(core, index, id, status),
                };
                grant.traffic.count_write(bytes(blocks));
                Steps::new(Job::Copy { ranges, fua }, lba, blocks, shift)
            }
            other => unreachable!("{other:?} is one request"),
        };
        // From now on it counts as a command at its bdev.
        conn.executing[id.slot()] = Executing { pending: 1, special: STEPS, ..IDLE };
        let bdev = request.bdev;
        let running = Running {
            connection: index,
            id,
            first: None,
            bdev,
            steps,
            host,
            second: None,
            scratch: None,
            range: None,
        };
        self.steps.running.push(running);
        let at = self.steps.running.len() - 1;
        self.begin_steps(core, at);
    }

    /// A command with a FUSE field: the first waits for the second, which follows at once.
    #[cold]
    pub(super) fn execute_fused(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        sqe: &Sqe,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        let Some(first) = conn.fused_first.take() else {
            conn.fused_first = Some(id);
            return;
        };
        let Role::Io(grant) = &conn.role else { unreachable!("the caller has looked") };
        let both = [*conn.protocol.request_sqe(first), *sqe];
        let parsed = io::parse_fused(&both, &grant.subsystem, grant.vwc_advertised);
        let request = match parsed {
            Ok(request) => request,
            Err(statuses) => return self.end_fused(core, index, [first, id], statuses),
        };
        if request.ana.is_blocked() {
            let statuses = [Status::ANA_INACCESSIBLE, Status::FAILED_FUSED];
            return self.end_fused(core, index, [first, id], statuses);
        }
        let IoCommand::Rw { fua, lba, blocks, .. } = request.command else {
            unreachable!("the second of the two is a Write")
        };
        let bytes = u64::from(request.data_len_bytes);
        grant.traffic.count_read(bytes);
        grant.traffic.count_write(bytes);
        let host = conn.protocol.request_buf(first).cloned();
        let second = conn.protocol.request_buf(id).cloned();
        let connection = ConnectionKey { index, generation: conn.generation };
        let steps = Steps::new(Job::CompareAndWrite { fua }, lba, blocks, request.block_shift);
        self.steps.running.push(Running {
            connection: index,
            id,
            first: Some(first),
            bdev: request.bdev,
            steps,
            host,
            second,
            scratch: None,
            range: None,
        });
        let range = ClosedRange { bdev: request.bdev, lba, blocks: blocks.into() };
        let asker = CommandKey { connection, id };
        self.send(core, HOME, Message::RangeWanted(Box::new((asker, range))));
    }

    /// A fused operation has its range to itself.
    pub(super) fn range_granted(
        &mut self,
        core: &mut ShardCore,
        asker: CommandKey,
        ticket: Ticket,
    ) {
        let found = self.steps.find(asker.connection.index, asker.id);
        let at = found.expect("it waits for its range");
        self.steps.running[at].range = Some(ticket);
        match self.fused_conflict(at) {
            // A reservation may have come about meanwhile.
            Some([first, second]) => self.end_steps(core, at, first, 0, second),
            None => self.begin_steps(core, at),
        }
    }

    /// How a fused operation ends that a reservation does not allow.
    fn fused_conflict(&mut self, at: usize) -> Option<[Status; 2]> {
        let Running { connection, bdev, .. } = self.steps.running[at];
        let conn = self.connections.get(connection).expect("it stays until its commands end");
        let Role::Io(grant) = &conn.role else {
            return Some([Status::ABORTED_SQ_DELETION; 2]);
        };
        let conflict = Status::RESERVATION_CONFLICT.dnr();
        if !self.gates.allows(bdev, &grant.hostid, Access::Read) {
            Some([conflict, Status::FAILED_FUSED])
        } else if !self.gates.allows(bdev, &grant.hostid, Access::Write) {
            Some([Status::FAILED_FUSED, conflict])
        } else {
            None
        }
    }

    fn begin_steps(&mut self, core: &mut ShardCore, at: usize) {
        let running = &mut self.steps.running[at];
        let bytes = running.steps.scratch_bytes();
        running.scratch = core.io.pool.get(bytes).or_else(|| self.steps.reserve.get(bytes));
        if running.scratch.is_some() {
            self.next_step(core, at, IoStatus::Ok);
        } else {
            self.steps.awaiting_scratch.push_back((running.connection, running.id));
        }
    }

    /// Buffers may have come back: commands that wait for one begin. Says whether one did.
    pub(super) fn serve_scratch_waiters(&mut self, core: &mut ShardCore) -> bool {
        let waiting = self.steps.awaiting_scratch.len();
        for _ in 0..waiting {
            let Some((index, id)) = self.steps.awaiting_scratch.pop_front() else { break };
            let at = self.steps.find(index, id).expect("it waits");
            self.begin_steps(core, at);
        }
        self.steps.awaiting_scratch.len() < waiting
    }

    fn next_step(&mut self, core: &mut ShardCore, at: usize, last: IoStatus) {
        let running = &mut self.steps.running[at];
        let host = running.host.as_ref().map_or(&[][..], |buf| buf.as_slice());
        let scratch = running.scratch.as_ref().map_or(&[][..], |buf| buf.as_slice());
        match running.steps.next(last, host, scratch) {
            Next::Io { op, fua, lba, blocks, buf } => {
                let (index, id) = (running.connection, running.id);
                let source = match buf {
                    StepBuf::Scratch => running.scratch.as_ref(),
                    StepBuf::Second => running.second.as_ref(),
                };
                let len = usize::try_from(blocks).expect("a piece fits a buffer")
                    << running.steps.block_shift();
                let buf = Some(source.expect("it has its memory").slice(0, len));
                let bdev = running.bdev;
                let conn = self.connections.get(index).expect("it stays until its commands end");
                let executing = &mut conn.executing[id.slot()];
                let special = executing.special | STEPS;
                *executing = Executing { pending: 1, op, special, ..IDLE };
                let tag = Tag { station: Station::Target, part: 0, object: index, op: id.to_u32() };
                let completion = Completion::new(tag);
                self.queue.submit(bdev, BdevIo { op, fua, lba, blocks, buf, completion });
            }
            Next::End { status, result, second } => {
                self.end_steps(core, at, status, result, second);
            }
        }
    }

    /// The request of a command of this kind has ended. `special` are the marks of the command.
    pub(super) fn step_done(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        done: Executing,
    ) {
        let at = self.steps.find(index, id).expect("its request has just ended");
        let conn = self.connections.get(index).expect("it stays until its commands end");
        // Until it has ended, who watches it goes on watching.
        conn.executing[id.slot()].special = done.special;
        self.next_step(core, at, done.status);
    }

    fn end_steps(
        &mut self,
        core: &mut ShardCore,
        at: usize,
        status: Status,
        result: u64,
        second: Status,
    ) {
        let ended = self.steps.running.swap_remove(at);
        let (index, id) = (ended.connection, ended.id);
        drop((ended.scratch, ended.host, ended.second));
        let conn = self.connections.get(index).expect("it stays until its commands end");
        let marks = std::mem::replace(&mut conn.executing[id.slot()], IDLE);
        match ended.first {
            Some(first) => self.end_fused(core, index, [first, id], [status, second]),
            None if status.is_success() => self.complete_io(index, id, status, 0, 0),
            None => self.fail_with(core, index, id, status, result),
        }
        if let Some(ticket) = ended.range {
            self.send(core, HOME, Message::RangeReturned { ticket });
        }
        if marks.special & super::queue::WATCHED != 0 {
            self.watched_ended(core);
        }
        self.drop_if_drained(core, index);
    }

    fn end_fused(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        ids: [RequestId; 2],
        statuses: [Status; 2],
    ) {
        for (id, status) in ids.into_iter().zip(statuses) {
            if status.is_success() {
                self.complete_io(index, id, status, 0, 0);
            } else {
                self.fail(core, index, id, status);
            }
        }
    }

    /// Takes back a command that waits for memory; false: it does not.
    pub(super) fn recall_steps(&mut self, index: u16, id: RequestId) -> bool {
        let before = self.steps.awaiting_scratch.len();
        let waits =
            |&(connection, waiting): &(u16, RequestId)| (connection, waiting) == (index, id);
        let found = self.steps.find(index, id);
        let Some(at) = found.filter(|&at| self.steps.running[at].first.is_none()) else {
            return false;
        };
        self.steps.awaiting_scratch.retain(|one| !waits(one));
        if self.steps.awaiting_scratch.len() == before {
            return false;
        }
        self.steps.running.swap_remove(at);
        true
    }
}
