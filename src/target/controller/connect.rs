//! Fabrics Connect (Base 2.1, section 6.3): makes a controller, or gives it an I/O queue.

use std::mem::offset_of;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::async_event::AsyncEvents;
use super::error_log::ErrorLog;
use super::features::FeatureValues;
use super::notices::NoticeLog;
use super::traffic::ControllerTraffic;
use super::{Controller, ControllerState, Traffic, round_kato};
use crate::limits::{
    ADMIN_QUEUE_DEPTH_MAX, CONTROLLERS_PER_CORE_MAX, CORES_MAX, IO_QUEUE_DEPTH_MAX,
    IO_QUEUES_PER_CONTROLLER_MAX, NAMESPACES_MAX,
};
use crate::target::subsystem::{CNTLID_MAX, Nqn, Subsystem, SubsystemTable};
use crate::wire::fabrics::{
    CATTR_DISABLE_SQ_FLOW_CONTROL, CNTLID_DYNAMIC, ConnectCommand, ConnectData, invalid_parameter,
};
use crate::wire::nvme::register::Cc;
use crate::wire::nvme::{Sqe, Status};

pub(super) const IO_QUEUES_MAX: u16 = 128;
const _: () = assert!(IO_QUEUES_MAX as usize == IO_QUEUES_PER_CONTROLLER_MAX);

/// How Connect failed: status and result dword 0 of the completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Status field.
    pub status: Status,
    /// Dword 0: for Connect Invalid Parameters, which field was bad.
    pub result: u32,
}

impl Refusal {
    fn new(status: Status) -> Self {
        Self { status, result: 0 }
    }

    fn in_command(offset: usize) -> Self {
        Self::invalid(false, offset)
    }

    fn in_data(offset: usize) -> Self {
        Self::invalid(true, offset)
    }

    fn invalid(in_data: bool, offset: usize) -> Self {
        let offset = u16::try_from(offset).expect("fields lie within 1024 bytes");
        Self {
            status: Status::CONNECT_INVALID_PARAMETERS,
            result: invalid_parameter(in_data, offset),
        }
    }

    /// The answer to an I/O queue's Connect that names a controller which does not exist.
    #[must_use]
    pub fn unknown_controller() -> Self {
        Self::in_data(offset_of!(ConnectData, cntlid))
    }

    /// The answer to a Connect that names a subsystem which this address does not lead to.
    #[must_use]
    pub fn unknown_subsystem() -> Self {
        Self::in_data(offset_of!(ConnectData, subnqn))
    }

    /// The answer to a host that may not connect in this way.
    #[must_use]
    pub fn invalid_host() -> Self {
        Self::new(Status::CONNECT_INVALID_HOST)
    }

    /// For the log: what was wrong, in the operator's terms.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        const IN_DATA: u32 = 1 << 16;
        let is = |status: Status| self.status.is_same_code(status);
        if is(Status::CONNECT_INVALID_PARAMETERS) {
            let field = usize::try_from(self.result & 0xffff).unwrap_or(usize::MAX);
            return match (self.result & IN_DATA != 0, field) {
                (true, at) if at == offset_of!(ConnectData, subnqn) => {
                    "there is no such subsystem at this address"
                }
                (true, at) if at == offset_of!(ConnectData, cntlid) => {
                    "the controller it asks for is not there, or not any more: hosts make a new one"
                }
                (true, _) => "the host's name or identifier is malformed, or another controller's",
                (false, at) if at == offset_of!(ConnectCommand, qid) => {
                    "the controller was not granted that queue"
                }
                (false, _) => "its queue is too short or too long",
            };
        }
        if is(Status::CONNECT_INVALID_HOST) {
            "this host may not use the subsystem (nvmf_subsystem_add_host), or not in this way"
        } else if is(Status::CONNECT_CONTROLLER_BUSY) {
            "this core has no room for more hosts, or the subsystem no controller id"
        } else if is(Status::COMMAND_SEQUENCE_ERROR) {
            "the controller is not enabled, or has that queue already"
        } else {
            "the command is malformed"
        }
    }

    /// The answer when this core can own no more controllers.
    #[must_use]
    pub fn controller_busy() -> Self {
        Self::new(Status::CONNECT_CONTROLLER_BUSY)
    }
}

/// A Connect command with its data, checked for form. A plain value: for an I/O queue the engine
/// carries it to the core that owns the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Queue: 0 is the admin queue, for [`Controller::connect`]; others are for
    /// [`Controller::attach_io_queue`].
    pub qid: u16,
    /// Entries of the queue, 2 or more.
    pub queue_depth: u32,
    /// The queue works without submission queue flow control: its completions carry SQHD as
    /// FFFFh in the Connect response and the host ignores SQHD after that.
    pub flow_control_disabled: bool,
    /// Keep Alive Timeout in milliseconds; 0: none.
    pub kato_ms: u32,
    /// Controller asked for; FFFFh on the admin queue.
    pub cntlid: u16,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Host name.
    pub hostnqn: Nqn,
    /// Subsystem name.
    pub subnqn: Nqn,
    /// It has come under TLS, which the engine knows.
    pub is_secured: bool,
}

impl ConnectRequest {
    /// Reads a Connect command and its 1024 bytes of data.
    ///
    /// # Errors
    /// The completion to send. The connection has no queue then and must end.
    pub fn parse(sqe: &Sqe, data: &[u8]) -> Result<Self, Refusal> {
        let command = ConnectCommand::from_sqe(sqe);
        if command.recfmt.get() != 0 {
            return Err(Refusal::new(Status::CONNECT_INCOMPATIBLE_FORMAT.dnr()));
        }
        let data = ConnectData::ref_from_bytes(data)
            .map_err(|_| Refusal::new(Status::DATA_SGL_LENGTH_INVALID.dnr()))?;
        let qid = command.qid.get();
        let depth_max = if qid == 0 { ADMIN_QUEUE_DEPTH_MAX } else { IO_QUEUE_DEPTH_MAX };
        let queue_depth = u32::from(command.sqsize.get()) + 1;
        let fits = usize::try_from(queue_depth).is_ok_and(|depth| (2..=depth_max).contains(&depth));
        if !fits {
            return Err(Refusal::in_command(offset_of!(ConnectCommand, sqsize)));
        }
        let subnqn = Nqn::from_field(&data.subnqn)
            .map_err(|_| Refusal::in_data(offset_of!(ConnectData, subnqn)))?;
        let hostnqn = Nqn::from_host_field(&data.hostnqn)
            .map_err(|_| Refusal::in_data(offset_of!(ConnectData, hostnqn)))?;
        let cntlid = data.cntlid.get();
        // Only the dynamic controller model: the target chooses.
        if qid == 0 && cntlid != CNTLID_DYNAMIC {
            return Err(Refusal::in_data(offset_of!(ConnectData, cntlid)));
        }
        Ok(Self {
            qid,
            queue_depth,
            flow_control_disabled: command.cattr & CATTR_DISABLE_SQ_FLOW_CONTROL != 0,
            kato_ms: command.kato_ms.get(),
            cntlid,
            hostid: data.hostid,
            hostnqn,
            subnqn,
            is_secured: false,
        })
    }
}

/// Where a controller lives: slot `index` of `core`, on a target of `cores`.
///
/// The ids of neighbouring cores lie side by side, and each slot has one in every `cores *
/// CONTROLLERS_PER_CORE_MAX` of them: so each core has its part of whatever range a subsystem is
/// given. Targets that serve one subsystem together are given ranges that do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerPlace {
    /// The core.
    pub core: usize,
    /// Cores of the target.
    pub cores: usize,
    /// The slot.
    pub index: usize,
}

impl ControllerPlace {
    /// The lowest id of the range that the controller here can have; `None`: it has none for it.
    #[must_use]
    pub fn cntlid_in(&self, range: &RangeInclusive<u16>) -> Option<u16> {
        let Self { core, cores, index } = *self;
        assert!(cores <= CORES_MAX && core < cores, "no such core");
        assert!(index < CONTROLLERS_PER_CORE_MAX, "no such controller slot");
        let lowest = index * cores + core + 1;
        let step = cores * CONTROLLERS_PER_CORE_MAX;
        let steps = usize::from(*range.start()).saturating_sub(lowest).div_ceil(step);
        let cntlid = u16::try_from(lowest + steps * step).ok()?;
        range.contains(&cntlid).then_some(cntlid)
    }

    /// Where controller `cntlid` lives, if there is one; `None`: no controller has this id.
    /// Others have lived there, and may: who finds one looks at its id.
    #[must_use]
    pub fn of(cntlid: u16, cores: usize) -> Option<Self> {
        let number = usize::from(cntlid).checked_sub(1)?;
        let index = number / cores % CONTROLLERS_PER_CORE_MAX;
        (cntlid <= CNTLID_MAX).then_some(Self { core: number % cores, cores, index })
    }
}

/// What [`Controller::connect`] must know besides the request.
#[derive(Debug, Clone, Copy)]
pub struct ConnectContext<'a> {
    /// The published table.
    pub table: &'a SubsystemTable,
    /// The id of the new controller, see [`ControllerPlace`].
    pub cntlid: u16,
    /// The local end of the connection.
    pub local_address: SocketAddr,
    /// Milliseconds of the reactor's clock.
    pub now_ms: u64,
}

/// What an I/O queue needs on its own core, and its Connect's answer.
#[derive(Debug, Clone)]
pub struct IoQueueGrant {
    /// Controller; dword 0 of the Connect response.
    pub cntlid: u16,
    /// Queue.
    pub qid: u16,
    /// Namespaces to serve. After a publication the queue takes the newer one by
    /// [`Subsystem::uid`], and ends if there is none.
    pub subsystem: Arc<Subsystem>,
    /// Entries of the queue.
    pub queue_depth: u32,
    /// See [`ConnectRequest::flow_control_disabled`].
    pub flow_control_disabled: bool,
    /// For [`super::io::parse`]: the host knows that it must flush.
    pub vwc_advertised: bool,
    /// Host name, for [`Subsystem::seen_by`].
    pub hostnqn: Nqn,
    /// Host identifier, which reservations go by.
    pub hostid: [u8; 16],
    /// What the queue counts.
    pub traffic: Arc<Traffic>,
}

/// Finds the subsystem that the request may use.
fn admit<'a>(
    request: &ConnectRequest,
    table: &'a SubsystemTable,
    local_address: SocketAddr,
) -> Result<&'a Arc<Subsystem>, Refusal> {
    // An address that is not the subsystem's own must not tell that the subsystem exists.
    let found = table.find(&request.subnqn).filter(|found| table.leads_to(local_address, found));
    let subsystem = found.ok_or_else(Refusal::unknown_subsystem)?;
    if subsystem.allows(&request.hostnqn) {
        Ok(subsystem)
    } else {
        Err(Refusal::new(Status::CONNECT_INVALID_HOST))
    }
}

impl Controller {
    /// Makes the controller that an admin queue's Connect asks for. The Connect response carries
    /// its id in dword 0.
    ///
    /// # Errors
    /// The completion to send.
    ///
    /// # Panics
    /// If the request is an I/O queue's.
    pub fn connect(
        request: &ConnectRequest,
        context: &ConnectContext<'_>,
    ) -> Result<Self, Refusal> {
        assert!(request.qid == 0, "an I/O queue belongs to an existing controller");
        let subsystem = admit(request, context.table, context.local_address)?;
        if !subsystem.cntlid_range().contains(&context.cntlid) {
            return Err(Refusal::controller_busy());
        }
        Ok(Self {
            cntlid: context.cntlid,
            subsystem: subsystem.seen_by(&request.hostnqn, context.local_address),
            hostnqn: request.hostnqn,
            hostid: request.hostid,
            local_address: context.local_address,
            state: ControllerState::Disabled,
            cc: Cc::default(),
            kato_ms: round_kato(request.kato_ms),
            keep_alive_from_ms: context.now_ms,
            features: FeatureValues::default(),
            io_queues_granted: IO_QUEUES_MAX,
            io_queues: 0,
            vwc_advertised: false,
            events: AsyncEvents::default(),
            aborts: 0,
            traffic: ControllerTraffic::default(),
            errors: ErrorLog::default(),
            notices: NoticeLog::default(),
            commands_seen: 0,
            changed_namespaces: [0; NAMESPACES_MAX / 64],
            ana_changes: 0,
            generation: context.table.generation(),
        })
    }

    /// Gives the host the I/O queue that its Connect asks for.
    ///
    /// # Errors
    /// The completion to send.
    pub fn attach_io_queue(&mut self, request: &ConnectRequest) -> Result<IoQueueGrant, Refusal> {
        if request.cntlid != self.cntlid {
            return Err(Refusal::unknown_controller());
        }
        if request.subnqn != *self.subsystem.nqn() {
            return Err(Refusal::in_data(offset_of!(ConnectData, subnqn)));
        }
        if request.hostnqn != self.hostnqn {
            return Err(Refusal::in_data(offset_of!(ConnectData, hostnqn)));
        }
        if request.hostid != self.hostid {
            return Err(Refusal::in_data(offset_of!(ConnectData, hostid)));
        }
        if self.state != ControllerState::Ready {
            return Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR));
        }
        let allowed = 1..=self.io_queues_granted;
        if self.is_discovery() || !allowed.contains(&request.qid) {
            return Err(Refusal::in_command(offset_of!(ConnectCommand, qid)));
        }
        let bit = 1 << (request.qid - 1);
        if self.io_queues & bit != 0 {
            return Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR));
        }
        self.io_queues |= bit;
        Ok(IoQueueGrant {
            cntlid: self.cntlid,
            qid: request.qid,
            subsystem: Arc::clone(&self.subsystem),
            queue_depth: request.queue_depth,
            flow_control_disabled: request.flow_control_disabled,
            vwc_advertised: self.vwc_advertised,
            hostnqn: self.hostnqn,
            hostid: self.hostid,
            traffic: self.traffic.open(request.qid),
        })
    }

    /// The connection of I/O queue `qid` has ended. A queue that a controller reset closed before
    /// may be reported again.
    pub fn detach_io_queue(&mut self, qid: u16) {
        if (1..=IO_QUEUES_MAX).contains(&qid) {
            self.io_queues &= !(1 << (qid - 1));
            self.traffic.close(qid);
        }
    }
}
