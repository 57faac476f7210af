//! Property Get and Set, and the states that CC and CSTS stand for (Base 2.1, section 3.1.4).

use super::admin::{AdminOutcome, Effect};
use super::connect::IO_QUEUES_MAX;
use super::features::FeatureValues;
use super::{Controller, NamespaceSet};
use crate::limits::IO_QUEUE_DEPTH_MAX;
use crate::wire::fabrics::PropertyCommand;
use crate::wire::nvme::register::{Cap, Cc, VERSION_2_0, csts, offset};
use crate::wire::nvme::{Sqe, Status};

/// CAP.TO and CRTO in 500 ms: 15 s, SPDK's value. We are ready at once.
const READY_TIMEOUT_500MS: u8 = 30;

/// IOSQES and IOCQES: 64 and 16 bytes.
const IOSQES: u32 = 6;
const IOCQES: u32 = 4;

/// CC.CSS values that CAP.CSS allows: NVM command set, all supported command sets.
const CSS_ALLOWED: [u32; 2] = [0b000, 0b110];

/// The controller's state as CSTS shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControllerState {
    /// CC.EN is 0: only Fabrics commands are taken.
    Disabled,
    /// CSTS.RDY: commands are taken, I/O queues may connect.
    Ready,
    /// CSTS.SHST complete: the host has said goodbye; only Fabrics commands are taken.
    ShutDown {
        /// CSTS.RDY, which stays as it was until the next reset.
        ready: bool,
    },
    /// CSTS.CFS: the host enabled a configuration that CAP does not offer; only a reset helps.
    Failed,
}

impl ControllerState {
    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Disabled => {
                matches!(next, Self::Ready | Self::ShutDown { ready: false } | Self::Failed)
            }
            Self::Ready => matches!(next, Self::Disabled | Self::ShutDown { ready: true }),
            Self::ShutDown { .. } | Self::Failed => next == Self::Disabled,
        }
    }
}

impl Controller {
    fn set_state(&mut self, next: ControllerState) {
        assert!(self.state.may_become(next), "controller {:?} -> {next:?}", self.state);
        self.state = next;
    }

    /// Property Get (Base 2.1, section 6.6): the value is the completion's dwords 0 and 1.
    pub(super) fn property_get(&self, sqe: &Sqe) -> Result<AdminOutcome, Status> {
        let command = PropertyCommand::from_sqe(sqe);
        let value = match (command.offset.get(), command.size_bytes()) {
            (offset::CAP, Some(8)) => cap().to_bits(),
            (offset::VS, Some(4)) => u64::from(VERSION_2_0),
            (offset::CC, Some(4)) => u64::from(self.cc.0),
            (offset::CSTS, Some(4)) => u64::from(self.csts()),
            (offset::CRTO, Some(4)) => u64::from(READY_TIMEOUT_500MS),
            _ => return Err(Status::INVALID_FIELD.dnr()),
        };
        Ok(AdminOutcome::success(value))
    }

    /// Property Set (Base 2.1, section 6.7): CC is the only property a host may write.
    pub(super) fn property_set(&mut self, sqe: &Sqe) -> Result<AdminOutcome, Status> {
        let command = PropertyCommand::from_sqe(sqe);
        if command.offset.get() != offset::CC || command.size_bytes() != Some(4) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let value = u32::try_from(command.value.get() & u64::from(u32::MAX)).unwrap_or_default();
        let effect = self.write_cc(Cc(value));
        Ok(AdminOutcome::success(0).with_effect(effect))
    }

    fn csts(&self) -> u32 {
        match self.state {
            ControllerState::Disabled => 0,
            ControllerState::Ready => csts::RDY,
            ControllerState::ShutDown { ready: true } => csts::RDY | csts::SHST_COMPLETE,
            ControllerState::ShutDown { ready: false } => csts::SHST_COMPLETE,
            ControllerState::Failed => csts::CFS,
        }
    }

    fn write_cc(&mut self, cc: Cc) -> Effect {
        let was_enabled = self.cc.en();
        self.cc = cc;
        if was_enabled && !cc.en() {
            return self.reset_by(cc);
        }
        match self.state {
            ControllerState::Disabled => self.leave_disabled(cc),
            ControllerState::Ready if cc.shn() != 0 => {
                self.set_state(ControllerState::ShutDown { ready: true });
                return self.close_queues();
            }
            // It was shut down while EN was 0. Without the notice it is disabled, as before, or
            // starts, if the same write sets EN (Base 2.1, section 3.1.4.6). Otherwise only a reset
            // helps.
            ControllerState::ShutDown { ready: false } if !was_enabled && cc.shn() == 0 => {
                self.set_state(ControllerState::Disabled);
                self.leave_disabled(cc);
            }
            _ => {}
        }
        Effect::None
    }

    /// EN has gone from 1 to 0: a controller reset. If the write has a shutdown notice, both happen
    /// (Base 2.1, section 3.1.4.5), but a controller that was shut down before is reset only.
    fn reset_by(&mut self, cc: Cc) -> Effect {
        let was_shut_down = matches!(self.state, ControllerState::ShutDown { .. });
        self.set_state(ControllerState::Disabled);
        self.reset();
        if cc.shn() != 0 && !was_shut_down {
            self.set_state(ControllerState::ShutDown { ready: false });
        }
        self.close_queues()
    }

    fn leave_disabled(&mut self, cc: Cc) {
        let next = match (cc.shn(), cc.en()) {
            (0, false) => return,
            (0, true) if self.can_enable(cc) => ControllerState::Ready,
            (0, true) => ControllerState::Failed,
            (_, _) => ControllerState::ShutDown { ready: false },
        };
        self.set_state(next);
    }

    fn can_enable(&self, cc: Cc) -> bool {
        // A discovery controller has no I/O queues whose entry sizes could matter.
        let sizes_fit = self.is_discovery() || (cc.iosqes() == IOSQES && cc.iocqes() == IOCQES);
        CSS_ALLOWED.contains(&cc.css()) && cc.mps() == 0 && cc.ams() == 0 && sizes_fit
    }

    fn close_queues(&mut self) -> Effect {
        self.io_queues = 0;
        self.events.abort_held();
        Effect::CloseIoQueues
    }

    /// What a controller reset (Base 2.1, section 3.7.2) forgets.
    fn reset(&mut self) {
        self.features = FeatureValues::default();
        self.io_queues_granted = IO_QUEUES_MAX;
        self.vwc_advertised = false;
        self.changed_namespaces = NamespaceSet::default();
        self.ana_changes = 0;
        self.events.forget();
    }
}

fn cap() -> Cap {
    let mqes = u16::try_from(IO_QUEUE_DEPTH_MAX - 1).expect("proved in limits");
    Cap { mqes, to_500ms: READY_TIMEOUT_500MS }
}
