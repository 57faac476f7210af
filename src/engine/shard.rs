//! What a core runs: takes events from the reactor and carries work between the stations.

use std::collections::VecDeque;
use std::sync::Arc;

use super::auth_worker::AuthDesk;
use super::channels::{Channels, Slot};
use super::control_port::ControlPort;
use super::controller_list::ControllerLists;
use super::duplicates::Duplicates;
use super::gate::Gates;
use super::gate_home::{GateHome, HOME};
use super::listen::Listeners;
use super::message::{Answer, Ended, Message};
use super::queue::Connections;
use super::reserve::ReservationHome;
use super::socket::STAGING_SIZE_BYTES;
use super::steps::StepTable;
use crate::bdev::{BdevId, BdevIo, IoQueue, IoStatus, Station, Tag};
use crate::raid::Mail;
use crate::reactor::buf::Lender;
use crate::reactor::ring::{KIND_BDEV, KIND_FREE, UserData};
use crate::reactor::timer::TimerTag;
use crate::reactor::{Core, Program};
use crate::target::auth::GeneratedKeys;
use crate::target::subsystem::SubsystemTable;

pub(super) type ShardCore = Core<Message>;

/// Timers of array owners.
pub(super) const KIND_ARRAY: u8 = KIND_FREE;
/// Completions of accept: `object` = the listener.
pub(super) const KIND_ACCEPT: u8 = KIND_FREE + 1;
/// What has arrived for connections: `object` = the connection.
pub(super) const KIND_RECEIVE: u8 = KIND_FREE + 2;
/// Completions of sends: `object` = the connection.
pub(super) const KIND_SEND: u8 = KIND_FREE + 3;
/// The timer that looks after connections once a second.
pub(super) const KIND_HOUSEKEEPING: u8 = KIND_FREE + 4;
/// Completions of cancellations, which interest nobody.
pub(super) const KIND_CANCEL: u8 = KIND_FREE + 5;

/// The timer that looks whether a reservation has been saved.
pub(super) const KIND_SAVER: u8 = KIND_FREE + 6;
/// The timer that looks what the worker of authentications has done.
pub(super) const KIND_AUTH: u8 = KIND_FREE + 7;

/// Requests that may be on their way between stations at a time, before the queue grows.
const QUEUE_CAPACITY: usize = 8192;

/// Requests and completions that are carried in one turn at most, some hundred microseconds' worth.
const STEPS_PER_TURN: usize = 4096;

/// One core of the target.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) channels: Channels,
    pub(super) queue: IoQueue,
    pub(super) mail: VecDeque<Mail>,
    /// Messages of this core to itself.
    own_messages: VecDeque<Message>,
    /// Arrays whose owner has more to do without an event.
    busy_arrays: Vec<BdevId>,
    /// Arrays opened on this core so far.
    pub(super) arrays_opened: u32,
    /// Arrays whose channel goes on when the turn ends.
    pub(super) gathering: Vec<BdevId>,
    pub(super) connections: Connections,
    /// Where connections receive to, one after the other.
    pub(super) staging: Box<[u8]>,
    pub(super) listeners: Listeners,
    pub(super) table: Arc<SubsystemTable>,
    pub(super) control: ControlPort,
    pub(super) gates: Gates,
    /// Used on the home core only.
    pub(super) home: GateHome,
    /// Used on the home core only.
    pub(super) reserve: ReservationHome,
    pub(super) steps: StepTable,
    pub(super) auth: AuthDesk,
    /// Keys for TLS that hosts and the target have made.
    pub(super) generated: GeneratedKeys,
    pub(super) duplicates: Duplicates,
    pub(super) lists: ControllerLists,
    /// The kernel has TLS, and has taken keys whenever it was to.
    pub(super) kernel_tls: bool,
    /// Milliseconds of the reactor's clock at start.
    pub(super) started_ms: u64,
}

impl Shard {
    pub(super) fn new(auth: AuthDesk, kernel_tls: bool) -> Self {
        Self {
            channels: Channels::new(),
            queue: IoQueue::with_capacity(QUEUE_CAPACITY),
            mail: VecDeque::with_capacity(QUEUE_CAPACITY),
            own_messages: VecDeque::with_capacity(QUEUE_CAPACITY),
            busy_arrays: Vec::with_capacity(8),
            arrays_opened: 0,
            gathering: Vec::with_capacity(8),
            connections: Connections::new(),
            staging: vec![0; STAGING_SIZE_BYTES].into_boxed_slice(),
            listeners: Listeners::default(),
            table: Arc::new(SubsystemTable::new()),
            control: ControlPort::default(),
            gates: Gates::new(),
            home: GateHome::default(),
            reserve: ReservationHome::default(),
            steps: StepTable::new(),
            auth,
            generated: GeneratedKeys::default(),
            duplicates: Duplicates::default(),
            lists: ControllerLists::default(),
            kernel_tls,
            started_ms: 0,
        }
    }

    /// Sends a message to a core, this one included.
    pub(super) fn send(&mut self, core: &mut ShardCore, to: usize, message: Message) {
        if to == core.index() {
            self.own_messages.push_back(message);
        } else {
            core.port.post(to, message);
        }
    }

    /// Answers the control plane.
    pub(super) fn answer(&mut self, core: &mut ShardCore, answer: Answer) {
        let control = core.port.control();
        core.port.post(control, Message::Answer(Box::new(answer)));
    }

    /// Tells the control plane that something has ended which it does not wait for.
    pub(super) fn ended(&mut self, core: &mut ShardCore, ended: Ended) {
        let control = core.port.control();
        core.port.post(control, Message::Ended(ended));
    }

    /// Remembers whether the owner of an array has more to do without an event.
    pub(super) fn note_busy(&mut self, bdev: BdevId, busy: bool) {
        let known = self.busy_arrays.iter().position(|&one| one == bdev);
        match (known, busy) {
            (None, true) => self.busy_arrays.push(bdev),
            (Some(index), false) => {
                self.busy_arrays.swap_remove(index);
            }
            _ => {}
        }
    }

    /// Carries work between the stations until none is left, or for as long as a turn may take: a
    /// program on bdevs that end requests at once never runs out of it, and messages, timers and
    /// sockets must have their turn. Says whether there was any.
    pub(super) fn drain(&mut self, core: &mut ShardCore) -> bool {
        let mut worked = false;
        for _ in 0..STEPS_PER_TURN {
            if let Some((bdev, io)) = self.queue.next_submit() {
                self.submit(core, bdev, io);
            } else if let Some((tag, status)) = self.queue.next_done() {
                self.done(core, tag, status);
            } else if let Some(message) = self.own_messages.pop_front() {
                let own = core.index();
                self.take_message(core, own, message);
            } else {
                return worked;
            }
            worked = true;
        }
        for _ in 0..self.own_messages.len() {
            let Some(message) = self.own_messages.pop_front() else { break };
            let own = core.index();
            self.take_message(core, own, message);
        }
        worked
    }

    fn submit(&mut self, core: &mut ShardCore, bdev: BdevId, io: BdevIo) {
        match self.channels.get(bdev) {
            Some(Slot::Device(channel)) => channel.submit(io, &mut core.io, &mut self.queue),
            Some(Slot::Array(_)) => self.submit_to_array(core, bdev, io),
            None => io.complete(IoStatus::Removed, &mut self.queue),
        }
    }

    fn done(&mut self, core: &mut ShardCore, tag: Tag, status: IoStatus) {
        match tag.station {
            Station::Target => self.command_done(core, tag, status),
            Station::RaidChannel => self.array_member_done(core, tag, status),
            Station::RaidOwner => self.array_owner_done(core, tag, status),
            Station::Filter => {
                let channel = self.channels.device(BdevId(tag.object));
                let channel = channel.expect("a filter was closed with requests in flight");
                channel.io_done(tag.op, status, &mut core.io, &mut self.queue);
            }
            Station::Control => self.control_io_done(core, tag, status),
            Station::App => self.workload_done(core, tag, status),
        }
    }

    fn take_message(&mut self, core: &mut ShardCore, from: usize, message: Message) {
        // It may be that a bdev goes, or that another core is told that nobody reads from it.
        core.io.pool.end_loans(Lender::Bdev);
        match message {
            Message::ToOwner(bdev, message) => {
                let from = u16::try_from(from).expect("bounded by CORES_MAX");
                self.owner_message(core, from, bdev, message);
            }
            Message::ToChannel(bdev, message) => self.channel_message(core, bdev, message),
            Message::Grow(bdev, shared) => self.grow_channel(core, bdev, shared),
            Message::NewConnection(new) => self.open_connection(core, *new),
            Message::AttachQueue { connection, request } => {
                self.attach_queue(core, from, connection, request);
            }
            Message::QueueAttached { connection, result } => {
                self.queue_attached(core, connection, result);
            }
            Message::QueueClosed { cntlid, qid, connection } => {
                self.queue_closed(core, (from, connection), cntlid, qid);
            }
            Message::CloseQueues { cntlid } => self.close_queues_of(core, cntlid),
            Message::RangeWanted(wanted) => {
                let (asker, range) = *wanted;
                self.range_wanted(core, from, asker, range);
            }
            Message::RangeGranted { asker, ticket } => self.range_granted(core, asker, ticket),
            Message::RangeReturned { ticket } => self.range_returned(core, ticket),
            Message::CloseRange(closed) => self.close_range(core, closed.0, closed.1),
            Message::OpenRange { ticket } => self.open_range(core, ticket),
            Message::GateHolds { ticket } => self.gate_holds(core, ticket),
            Message::Reserve(ask) => self.reservation_asked(core, from, *ask),
            Message::ReserveAnswered(answer) => self.reservation_answered(core, &answer),
            Message::Reserved(view) => self.reservation_changed(core, *view),
            Message::ReservationNotice(notice) => {
                let (namespace, host, kind) = *notice;
                self.reservation_noticed(namespace, &host, kind);
            }
            Message::HostClaimed(claim) => self.host_claimed(core, from, *claim),
            Message::HostSought(sought) => {
                let (ticket, from, claim) = *sought;
                self.host_sought(core, ticket, from, claim);
            }
            Message::HostSeen { ticket, was_found } => self.host_seen(core, ticket, was_found),
            Message::HostJudged { ticket, connection, is_free } => {
                self.host_judged(core, connection, is_free);
                self.send(core, HOME, Message::HostSettled { ticket });
            }
            Message::HostSettled { ticket } => self.host_settled(core, ticket),
            Message::KeyMade(made) => self.key_made(core, from, *made),
            Message::KeyKnown { maker } => self.key_known(core, maker),
            Message::KeyNews(key, news) => self.key_news(key, news),
            Message::CommandFailed(failure) => self.command_failed(core, &failure),
            Message::Abort(wanted) => self.abort_asked(core, from, &wanted),
            Message::Aborted { asker, was_aborted } => {
                self.abort_answered(core, asker, was_aborted);
            }
            Message::ControllersWanted(wanted) => {
                let (asker, uid, nsid) = *wanted;
                self.controllers_wanted(core, from, asker, uid, nsid);
            }
            Message::ControllersNamed(named) => {
                let (asker, cntlids) = *named;
                self.controllers_named(core, asker, &cntlids);
            }
            Message::Ask(ask) => self.asked(core, *ask),
            Message::Answer(_) | Message::Event(..) | Message::Ended(_) => {
                unreachable!("only the control plane is told")
            }
        }
    }

    /// Lets owners that have more to do without an event go on.
    fn poll_arrays(&mut self, core: &mut ShardCore) -> bool {
        let mut index = 0;
        let busy = !self.busy_arrays.is_empty();
        while let Some(&bdev) = self.busy_arrays.get(index) {
            if !self.on_owner(core, bdev, |owner, out| owner.poll(out)) {
                self.note_busy(bdev, false);
            } else if self.busy_arrays.get(index) == Some(&bdev) {
                index += 1;
            }
        }
        busy
    }
}

impl Program for Shard {
    type Message = Message;

    fn on_start(&mut self, core: &mut ShardCore) {
        self.started_ms = core.io.now_ms();
        self.arm_housekeeping(core);
    }

    fn on_message(&mut self, core: &mut ShardCore, from: usize, message: Message) {
        self.take_message(core, from, message);
        self.drain(core);
    }

    fn on_completion(&mut self, core: &mut ShardCore, data: UserData, res: i32, flags: u32) {
        match data.kind {
            KIND_BDEV => {
                let channel = self.channels.device(BdevId(data.object));
                let channel = channel.expect("a bdev was closed with requests in flight");
                channel.ring_done(data.op, res, &mut core.io, &mut self.queue);
            }
            KIND_RECEIVE => self.arrived(core, data.object, res, flags),
            KIND_SEND => self.sent(core, data.object, res),
            KIND_ACCEPT => self.accepted(core, data, res, flags),
            KIND_CANCEL => {}
            kind => unreachable!("no ring entry is of kind {kind}"),
        }
    }

    fn on_timer(&mut self, core: &mut ShardCore, tag: TimerTag) {
        match tag.kind {
            KIND_BDEV => {
                if let Some(channel) = self.channels.device(BdevId(tag.object)) {
                    channel.timer(tag.op, &mut core.io, &mut self.queue);
                }
            }
            KIND_ARRAY => self.array_timer(core, tag),
            KIND_HOUSEKEEPING => self.housekeeping(core),
            KIND_SAVER => self.look_at_saver(core),
            KIND_AUTH => self.look_at_auth(core),
            kind => unreachable!("no timer is of kind {kind}"),
        }
    }

    fn on_turn(&mut self, core: &mut ShardCore) -> bool {
        // Those that wait for a buffer go before those that come now.
        let mut worked = self.serve_buffer_waiters(core);
        worked |= self.receive_arrivals(core);
        worked |= self.poll_arrays(core);
        worked |= self.drain(core);
        worked |= self.end_turn_of_arrays(core);
        worked |= self.drain(core);
        worked |= self.serve_scratch_waiters(core);
        self.answer_seekers(core);
        // Buffers that came back are given out in the next turn: there must be one.
        worked |= self.drain(core);
        self.send_responses(core);
        core.io.pool.end_loans(Lender::Bdev);
        self.tell_ended(core);
        worked
    }
}
