//! What cores and the control plane tell each other.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use crate::bdev::{BdevId, Device, IoOp, IoStatus};
use crate::raid::{
    ArrayConfig, ArrayEvent, ArrayStatus, Command, GrowthWish, Knobs, Outcome, Shared, ToChannel,
    ToOwner,
};
use crate::target::auth::GeneratedKey;
use crate::target::controller::{CommandError, ConnectRequest, IoQueueGrant, Refusal};
use crate::target::reservation::{HostId, NoticeKind, View};
use crate::target::subsystem::{NamespaceKey, SubsystemTable};
use crate::target::tcp::RequestId;

use super::concat::{KeyNews, MadeKey};
use super::duplicates::HostClaim;
use super::gate::ClosedRange;
use super::gate_home::Ticket;
use super::report::CoreReport;
use super::reserve::{ReservationAnswer, ReservationAsk};
use super::workload::Workload;

/// A message between two endpoints of the mesh.
#[derive(Debug)]
pub(super) enum Message {
    /// From an array's channel to its owner.
    ToOwner(BdevId, ToOwner),
    /// From an array's owner to its channel on the receiving core.
    ToChannel(BdevId, ToChannel),
    /// From an array's owner: the array has grown, and its channels are to share this.
    Grow(BdevId, Arc<Shared>),
    /// A connection to be served by the receiving core.
    NewConnection(Box<NewConnection>),
    /// An I/O queue's Connect, to the core that owns the controller it names.
    AttachQueue {
        /// The connection, on the sending core.
        connection: ConnectionKey,
        /// What the host asks for.
        request: Box<ConnectRequest>,
    },
    /// The answer.
    QueueAttached {
        /// The connection, on the receiving core.
        connection: ConnectionKey,
        /// The grant, or the completion to send.
        result: Result<Box<IoQueueGrant>, Refusal>,
    },
    /// The connection of an I/O queue is gone; to the controller's core.
    QueueClosed {
        /// Controller.
        cntlid: u16,
        /// Queue.
        qid: u16,
        /// Its connection, on the sending core.
        connection: ConnectionKey,
    },
    /// End all connections of this controller's I/O queues.
    CloseQueues {
        /// Controller.
        cntlid: u16,
    },
    /// A fused operation wants a range to itself; to the home core.
    RangeWanted(Box<(CommandKey, ClosedRange)>),
    /// It has it; from the home core.
    RangeGranted {
        /// The second command of the operation.
        asker: CommandKey,
        /// Names the range.
        ticket: Ticket,
    },
    /// It has ended; to the home core.
    RangeReturned {
        /// Names the range.
        ticket: Ticket,
    },
    /// Let no command pass that changes the range; from the home core.
    CloseRange(Box<(Ticket, ClosedRange)>),
    /// Let them pass again; from the home core.
    OpenRange {
        /// Names the range.
        ticket: Ticket,
    },
    /// No command is at the bdev any more that the gate would not let pass; to the home core.
    GateHolds {
        /// Names the gate.
        ticket: Ticket,
    },
    /// A reservation command; to the home core.
    Reserve(Box<ReservationAsk>),
    /// Its answer; from the home core.
    ReserveAnswered(Box<ReservationAnswer>),
    /// Check commands against this view from now on; from the home core.
    Reserved(Box<ReservationView>),
    /// Tell this host's controllers; from the home core.
    ReservationNotice(Box<(NamespaceKey, HostId, NoticeKind)>),
    /// A host has come that may have a controller at the same listener; to the home core.
    HostClaimed(Box<HostClaim>),
    /// Look for what bars this host, and end it if that is the policy; from the home core.
    HostSought(Box<(Ticket, usize, HostClaim)>),
    /// The answer to the home core.
    HostSeen {
        /// Names the claim.
        ticket: Ticket,
        /// There was something. If it was to be ended, it is gone.
        was_found: bool,
    },
    /// The home core's verdict.
    HostJudged {
        /// Names the claim.
        ticket: Ticket,
        /// The host's admin queue, on the receiving core.
        connection: ConnectionKey,
        /// Nothing is in its way.
        is_free: bool,
    },
    /// The host has its controller, or has not; to the home core.
    HostSettled {
        /// Names the claim.
        ticket: Ticket,
    },
    /// A host's authentication has made a key for TLS.
    KeyMade(Box<MadeKey>),
    /// The host may come with it; to the core that has told of it.
    KeyKnown {
        /// The queue whose host has made it, on the receiving core.
        maker: ConnectionKey,
    },
    /// What has become of such a key.
    KeyNews(Arc<GeneratedKey>, KeyNews),
    /// A command of an I/O queue failed; to the controller's core, for its error log.
    CommandFailed(Box<CommandFailure>),
    /// An Abort command looks for command `cid` of this queue; to the queue's core.
    Abort(Box<AbortWanted>),
    /// The answer, to the core that asked.
    Aborted {
        /// The Abort command.
        asker: CommandKey,
        /// The command was aborted.
        was_aborted: bool,
    },
    /// Name your controllers of this subsystem, or those that a namespace of it is attached to.
    ControllersWanted(Box<(CommandKey, u64, Option<u32>)>),
    /// They are these; to the core that asked.
    ControllersNamed(Box<(CommandKey, Vec<u16>)>),
    /// The control plane asks a core.
    Ask(Box<Ask>),
    /// A core answers the control plane.
    Answer(Box<Answer>),
    /// A core tells the control plane what has happened to an array.
    Event(BdevId, ArrayEvent),
    /// A core tells the control plane that what it was asked to begin has ended.
    Ended(Ended),
}

/// What may take as long as a device does, so that the control plane is told of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// An array has stopped, nothing of it is in flight: whether its members say that it is clean.
    Array(BdevId, Result<(), IoStatus>),
    /// The core's channel of a bdev is closed.
    Bdev(BdevId),
    /// The core has no connections any more.
    Connections,
    /// A request of the control plane to a bdev, which is waited for no longer.
    Io(BdevId),
}

/// A connection of a core, and the use of its slot that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionKey {
    /// Slot.
    pub(super) index: u16,
    /// How often the slot was used before.
    pub(super) generation: u32,
}

/// Messages fill the rings between cores: what is large goes in a box. The largest is a row's lock
/// with its numbers of the stripe log, which is part of every write and must not be allocated.
const _: () = assert!(size_of::<Message>() <= 48);

/// A command of an I/O queue that failed.
#[derive(Debug)]
pub(super) struct CommandFailure {
    /// Controller.
    pub(super) cntlid: u16,
    /// The command and its status.
    pub(super) error: CommandError,
    /// Failures before it that were not told.
    pub(super) skipped: u64,
}

/// What a namespace's commands are checked against.
#[derive(Debug)]
pub(super) struct ReservationView {
    /// Names the change.
    pub(super) ticket: Ticket,
    pub(super) namespace: NamespaceKey,
    pub(super) bdev: BdevId,
    /// What is held, if something is.
    pub(super) view: Option<Arc<View>>,
}

/// A command that executes on a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandKey {
    /// Its connection.
    pub(super) connection: ConnectionKey,
    /// The command.
    pub(super) id: RequestId,
}

/// What an Abort command looks for.
#[derive(Debug)]
pub(super) struct AbortWanted {
    /// The Abort command, on the sending core.
    pub(super) asker: CommandKey,
    /// The connection of the queue, on the receiving core.
    pub(super) queue: ConnectionKey,
    /// Controller.
    pub(super) cntlid: u16,
    /// Queue.
    pub(super) qid: u16,
    /// Command.
    pub(super) cid: u16,
}

/// A connection whose TCP handshake is done.
#[derive(Debug)]
pub(super) struct NewConnection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// What the control plane asks of one core. Each is answered once.
pub(super) enum Ask {
    /// Open a channel.
    OpenDevice(BdevId, Device),
    /// Open an array's channel, and on its owner's core make its owner and start it.
    OpenArray { bdev: BdevId, config: Arc<ArrayConfig>, shared: Arc<Shared> },
    /// Make the array's owner and start it: answered when the array serves.
    StartArray { bdev: BdevId, config: Arc<ArrayConfig>, shared: Arc<Shared> },
    /// To the owner's core: stop the array. [`Ended::Array`] follows.
    StopArray(BdevId),
    /// How many requests has the bdev that have not ended?
    InFlight(BdevId),
    /// Close the channel when its requests have ended: [`Ended::Bdev`] follows.
    CloseBdev(BdevId),
    /// Execute a request of the control plane.
    Io { bdev: BdevId, op: IoOp, lba: u64, blocks: u32, data: Vec<u8> },
    /// Wait no longer for the request of the control plane: answered by `Failed`, and not at all if
    /// that has been answered. [`Ended::Io`] follows when it ends.
    ForgetIo,
    /// To the owner's core.
    ArrayStatus(BdevId),
    /// To the owner's core: new settings of the bitmap.
    SetKnobs(BdevId, Knobs),
    /// To the owner's core.
    Command(BdevId, Command),
    /// To the owner's core: have the array take all of its members.
    GrowArray(BdevId, GrowthWish),
    /// The bdev is as large as this one says from now on; all else about it stays.
    ResizeDevice(BdevId, Device),
    /// Use this table from now on.
    Publish(Arc<SubsystemTable>),
    /// Accept connections.
    Listen(TcpListener, SocketAddr),
    /// Accept no more connections there.
    Unlisten(SocketAddr),
    /// End all connections: [`Ended::Connections`] follows when they are gone.
    CloseConnections,
    /// Run a program; answered when it is finished.
    Run(Box<dyn Workload>),
    /// Tell of connections and controllers.
    Report,
    /// End the loop.
    Exit,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OpenDevice(..) => "OpenDevice",
            Self::OpenArray { .. } => "OpenArray",
            Self::StartArray { .. } => "StartArray",
            Self::StopArray(..) => "StopArray",
            Self::InFlight(..) => "InFlight",
            Self::CloseBdev(..) => "CloseBdev",
            Self::Io { .. } => "Io",
            Self::ForgetIo => "ForgetIo",
            Self::ArrayStatus(..) => "ArrayStatus",
            Self::SetKnobs(..) => "SetKnobs",
            Self::Command(..) => "Command",
            Self::GrowArray(..) => "GrowArray",
            Self::ResizeDevice(..) => "ResizeDevice",
            Self::Publish(..) => "Publish",
            Self::Listen(..) => "Listen",
            Self::Unlisten(..) => "Unlisten",
            Self::CloseConnections => "CloseConnections",
            Self::Run(..) => "Run",
            Self::Report => "Report",
            Self::Exit => "Exit",
        })
    }
}

/// What a core answers.
pub(super) enum Answer {
    /// Done.
    Done,
    /// It could not be done; a sentence for the operator.
    Failed(String),
    /// A request has ended; for a read with its data.
    Io(Result<Vec<u8>, IoStatus>),
    /// An array has been started, or not.
    Array(Result<(), IoStatus>),
    /// Requests of the core to a bdev.
    InFlight(usize),
    /// Blocks that an array will have, which has begun to grow; or why it has not.
    Grows(Result<u64, String>),
    /// State of an array.
    Status(Box<ArrayStatus>),
    /// What became of a command to an array.
    Outcome(Outcome),
    /// A program is finished.
    Finished(Box<dyn std::any::Any + Send>),
    /// Connections and controllers of the core.
    Report(Box<CoreReport>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("Done"),
            Self::Failed(text) => write!(f, "Failed({text})"),
            Self::Io(result) => write!(f, "Io({:?})", result.as_ref().map(Vec::len)),
            Self::Array(result) => write!(f, "Array({result:?})"),
            Self::InFlight(requests) => write!(f, "InFlight({requests})"),
            Self::Grows(result) => write!(f, "Grows({result:?})"),
            Self::Status(status) => write!(f, "Status({status:?})"),
            Self::Outcome(outcome) => write!(f, "Outcome({outcome:?})"),
            Self::Finished(_) => f.write_str("Finished"),
            Self::Report(report) => write!(f, "Report({} queues)", report.queues.len()),
        }
    }
}
