//! One command between its capsule and its response.

use zerocopy::FromZeros;

use super::conn_fused::Fused;
use crate::reactor::buf::IoBuf;
use crate::wire::nvme::{Sqe, Status};

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestState {
    /// The slot waits for a command capsule.
    Free,
    /// The command's data needs a buffer and the pool had none.
    NeedBuffer,
    /// In-capsule data is being received into the buffer.
    AwaitCapsuleData,
    /// The command is invalid and is answered once its in-capsule data has been thrown away.
    Refused,
    /// An R2T is queued or sent, and H2CData is being received into the buffer.
    AwaitH2cData,
    /// The command and all its data are here; the controller has not taken it yet.
    Ready,
    /// The controller or a bdev works on it and owes a completion.
    Executing,
    /// C2HData, and the response unless SUCCESS stands for it, is queued or being sent.
    TransferringC2h,
    /// A response without data is queued or being sent.
    Responding,
}

impl RequestState {
    /// Number of states.
    pub const COUNT: usize = Self::Responding as usize + 1;

    /// Whether a command may go from this state to `next`.
    pub(super) const fn leads_to(self, next: Self) -> bool {
        use RequestState as S;
        match self {
            S::Free => !matches!(next, S::Free | S::Executing | S::TransferringC2h),
            S::NeedBuffer => !matches!(next, S::NeedBuffer | S::Refused | S::Executing),
            S::AwaitCapsuleData | S::AwaitH2cData => {
                matches!(next, S::Ready | S::Responding | S::Free)
            }
            S::Refused => matches!(next, S::Responding | S::Free),
            S::Ready => matches!(next, S::Executing | S::Responding | S::Free),
            S::Executing => matches!(next, S::TransferringC2h | S::Responding | S::Free),
            S::TransferringC2h | S::Responding => matches!(next, S::Free),
        }
    }
}

/// Names a command while it is in flight: the slot, and how often the slot was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    pub(super) slot: u16,
    pub(super) generation: u16,
}

impl RequestId {
    /// The slot: below the queue's depth, for tables beside the connection.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// Both parts in one number, for tags.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        (self.generation as u32) << 16 | self.slot as u32
    }

    /// The id that [`RequestId::to_u32`] made a number of.
    #[must_use]
    pub const fn from_u32(value: u32) -> Self {
        let [a, b, c, d] = value.to_le_bytes();
        Self { slot: u16::from_le_bytes([a, b]), generation: u16::from_le_bytes([c, d]) }
    }
}

/// What Abort finds of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// It was aborted: its completion is queued.
    Aborted,
    /// Its data is on the way. It ends as aborted when that is here.
    Later,
    /// The controller works on it.
    Executing(RequestId),
    /// There is no such command, or it has ended.
    Gone,
}

/// How a command's data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// No data.
    None,
    /// Host to controller, in the capsule.
    InCapsule,
    /// Host to controller, asked for by R2T.
    ByR2t,
    /// Controller to host.
    ToHost,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) state: RequestState,
    pub(super) generation: u16,
    pub(super) transfer: Transfer,
    /// The slot's entry in the set of CIDs in flight is this command's.
    pub(super) owns_cid: bool,
    /// Its CID was that of an Asynchronous Event Request: the host has given those up.
    pub(super) replaces_events: bool,
    pub(super) sqe: Sqe,
    pub(super) buf: Option<IoBuf>,
    /// Data of the command in bytes, from its SGL.
    pub(super) data_bytes: u32,
    /// H2C data bytes received so far.
    pub(super) received_bytes: u32,
    /// What the transport already found wrong with the command.
    pub(super) error: Option<Status>,
    /// Its part in a fused operation.
    pub(super) fused: Fused,
}

impl Request {
    pub(super) fn new() -> Self {
        Self {
            state: RequestState::Free,
            generation: 0,
            transfer: Transfer::None,
            owns_cid: false,
            replaces_events: false,
            sqe: Sqe::new_zeroed(),
            buf: None,
            data_bytes: 0,
            received_bytes: 0,
            error: None,
            fused: Fused::No,
        }
    }

    pub(super) fn cid(&self) -> u16 {
        self.sqe.cid.get()
    }
}

/// The CIDs in flight of one queue: one bit for each of the 65536.
#[derive(Debug)]
pub(super) struct CidSet(Box<[u64; 1024]>);

impl CidSet {
    /// What it takes beside itself.
    pub(super) const HEAP_BYTES: usize = size_of::<[u64; 1024]>();

    pub(super) fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    /// `false`: `cid` is in flight already.
    pub(super) fn insert(&mut self, cid: u16) -> bool {
        let word = &mut self.0[usize::from(cid >> 6)];
        let bit = 1 << (cid & 63);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn remove(&mut self, cid: u16) {
        self.0[usize::from(cid >> 6)] &= !(1 << (cid & 63));
    }
}
