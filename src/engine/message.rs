//! What cores and the control plane tell each other.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use crate::bdev::{BdevId, Device, IoOp, IoStatus};
use crate::raid::{ArrayConfig, ArrayStatus, Command, Knobs, Outcome, Shared, ToChannel, ToOwner};
use crate::target::controller::{ConnectRequest, IoQueueGrant, Refusal};
use crate::target::subsystem::SubsystemTable;

use super::workload::Workload;

/// A message between two endpoints of the mesh.
#[derive(Debug)]
pub(super) enum Message {
    /// From an array's channel to its owner.
    ToOwner(BdevId, ToOwner),
    /// From an array's owner to its channel on the receiving core.
    ToChannel(BdevId, ToChannel),
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
    },
    /// End all connections of this controller's I/O queues.
    CloseQueues {
        /// Controller.
        cntlid: u16,
    },
    /// The control plane asks a core.
    Ask(Box<Ask>),
    /// A core answers the control plane.
    Answer(Box<Answer>),
}

/// A connection of a core, and the use of its slot that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionKey {
    /// Slot.
    pub(super) index: u16,
    /// How often the slot was used before.
    pub(super) generation: u32,
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
    /// To the owner's core: stop the array, answered when nothing of it is in flight.
    StopArray(BdevId),
    /// Close the channel when its requests have ended.
    CloseBdev(BdevId),
    /// Execute a request of the control plane.
    Io { bdev: BdevId, op: IoOp, lba: u64, blocks: u32, data: Vec<u8> },
    /// To the owner's core.
    ArrayStatus(BdevId),
    /// To the owner's core: new settings of the bitmap.
    SetKnobs(BdevId, Knobs),
    /// To the owner's core.
    Command(BdevId, Command),
    /// Use this table from now on.
    Publish(Arc<SubsystemTable>),
    /// Accept connections.
    Listen(TcpListener, SocketAddr),
    /// Accept no more connections there.
    Unlisten(SocketAddr),
    /// End all connections; answered when they are gone.
    CloseConnections,
    /// Run a program; answered when it is finished.
    Run(Box<dyn Workload>),
    /// Connections of this core by role.
    Connections,
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
            Self::CloseBdev(..) => "CloseBdev",
            Self::Io { .. } => "Io",
            Self::ArrayStatus(..) => "ArrayStatus",
            Self::SetKnobs(..) => "SetKnobs",
            Self::Command(..) => "Command",
            Self::Publish(..) => "Publish",
            Self::Listen(..) => "Listen",
            Self::Unlisten(..) => "Unlisten",
            Self::CloseConnections => "CloseConnections",
            Self::Run(..) => "Run",
            Self::Connections => "Connections",
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
    /// An array has been started or stopped, or not.
    Array(Result<(), IoStatus>),
    /// State of an array.
    Status(Box<ArrayStatus>),
    /// What became of a command to an array.
    Outcome(Outcome),
    /// A program is finished.
    Finished(Box<dyn std::any::Any + Send>),
    /// Connections of the core: (all, with an I/O queue).
    Connections(usize, usize),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("Done"),
            Self::Failed(text) => write!(f, "Failed({text})"),
            Self::Io(result) => write!(f, "Io({:?})", result.as_ref().map(Vec::len)),
            Self::Array(result) => write!(f, "Array({result:?})"),
            Self::Status(status) => write!(f, "Status({status:?})"),
            Self::Outcome(outcome) => write!(f, "Outcome({outcome:?})"),
            Self::Finished(_) => f.write_str("Finished"),
            Self::Connections(all, queues) => write!(f, "Connections({all}, {queues})"),
        }
    }
}
