//! Fused operations (Base 2.1, section 3.4.2): two commands that follow each other in the queue.
//!
//! Their data may arrive in any order. Neither becomes ready before both can execute; then the
//! first is handed out directly in front of the second. Where one is refused, so is the other.
//!
//! Neither keeps a buffer while the other waits for one: many such pairs could keep all buffers
//! from each other for ever. Both get theirs at once, or the pair is refused and the host told to
//! try again.

use super::conn::Connection;
use super::request::{Recall, Request, RequestId, RequestState, Transfer};
use crate::limits::FUSED_DATA_BYTES_MAX;
use crate::wire::nvme::{Sqe, Status};

/// FUSE, bits 1:0 of byte 1.
pub(super) const FUSE_MASK: u8 = 3;
const FUSE_FIRST: u8 = 1;
const FUSE_SECOND: u8 = 2;

/// What the next command of the queue must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FusedNext {
    /// Any that is not a second one.
    #[default]
    Any,
    /// The second of the command in this slot.
    SecondOf(u16),
    /// The second of a command that was refused.
    SecondOfRefused,
}

/// A command's part in a fused operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fused {
    /// None.
    #[default]
    No,
    /// The first; its second has not come yet.
    Alone,
    /// The first of the command in this slot.
    First(u16),
    /// The second of the command in this slot.
    Second(u16),
}

impl Connection {
    /// The command in `slot` has a FUSE field, or the one before it had: finds its partner.
    #[cold]
    pub(super) fn link_fused(
        &mut self,
        slot: u16,
        sqe: &Sqe,
        plan: Result<(Transfer, u32), Status>,
    ) -> Result<(Transfer, u32), Status> {
        let before = std::mem::take(&mut self.fused_next);
        let fuse = sqe.flags & FUSE_MASK;
        // What can't execute need not have a buffer.
        let plan = plan.and_then(|plan| match plan {
            (_, bytes) if fuse != 0 && bytes as usize > FUSED_DATA_BYTES_MAX => {
                Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr())
            }
            plan => Ok(plan),
        });
        match (before, fuse) {
            (FusedNext::SecondOf(first), FUSE_SECOND) => {
                if plan.is_ok() {
                    self.request_at(first).fused = Fused::First(slot);
                    self.request_at(slot).fused = Fused::Second(first);
                } else {
                    self.withdraw_partner(first, Status::FAILED_FUSED);
                }
                return plan;
            }
            (FusedNext::SecondOfRefused, FUSE_SECOND) => {
                return plan.and(Err(Status::FAILED_FUSED));
            }
            (FusedNext::SecondOf(first), _) => {
                self.withdraw_partner(first, Status::MISSING_FUSED);
            }
            _ => {}
        }
        match (fuse, plan) {
            (FUSE_FIRST, Ok(_)) => {
                self.request_at(slot).fused = Fused::Alone;
                self.fused_next = FusedNext::SecondOf(slot);
            }
            (FUSE_FIRST, Err(_)) => self.fused_next = FusedNext::SecondOfRefused,
            (FUSE_SECOND, Ok(_)) => return Err(Status::MISSING_FUSED),
            (FUSE_MASK, Ok(_)) => return Err(Status::INVALID_FIELD.dnr()),
            _ => {}
        }
        plan
    }

    /// The first of the fused operation whose second command is in `slot`.
    pub(super) fn first_of(&self, slot: u16) -> Option<&Request> {
        match self.request(slot).fused {
            Fused::Second(first) => Some(self.request(first)),
            Fused::No | Fused::Alone | Fused::First(_) => None,
        }
    }

    /// Refuses the fused operation whose second command is in `slot` and has just come. The host
    /// tries it again.
    #[cold]
    pub(super) fn give_up_pair(&mut self, slot: u16, payload_bytes: u32) {
        let request = self.request_at(slot);
        (request.transfer, request.data_bytes) = (Transfer::None, 0);
        request.error = Some(Status::COMMAND_INTERRUPTED);
        if let Fused::Second(first) = std::mem::take(&mut request.fused) {
            self.withdraw_partner(first, Status::FAILED_FUSED);
        }
        self.refuse_capsule(slot, Status::COMMAND_INTERRUPTED, payload_bytes);
    }

    /// The second of the fused operation whose first command is in `slot`, if it also waits for a
    /// buffer.
    pub(super) fn waiting_second(&self, slot: u16) -> Option<u16> {
        match self.request(slot).fused {
            Fused::First(second) if self.request(second).state == RequestState::NeedBuffer => {
                Some(second)
            }
            _ => None,
        }
    }

    /// The command in `slot`, one of a fused operation, could execute now.
    #[cold]
    pub(super) fn fused_ready(&mut self, slot: u16) {
        self.set_state(slot, RequestState::Ready);
        let (first, second) = match self.request(slot).fused {
            Fused::First(second) => (slot, second),
            Fused::Second(first) => (first, slot),
            Fused::Alone => return,
            Fused::No => unreachable!("the caller has looked"),
        };
        let both = [first, second].map(|one| self.request(one).state == RequestState::Ready);
        if both == [true; 2] {
            self.ready.push_back(first);
            self.ready.push_back(second);
        }
    }

    /// The first of a fused operation has all it needs but the second, and keeps its buffer.
    pub(super) fn awaits_second(&self) -> bool {
        match self.fused_next {
            FusedNext::SecondOf(first) => self.request(first).state == RequestState::Ready,
            FusedNext::Any | FusedNext::SecondOfRefused => false,
        }
    }

    /// The command in `slot`, one of a fused operation, was refused: so is its partner.
    #[cold]
    pub(super) fn fused_refused(&mut self, slot: u16) {
        match std::mem::take(&mut self.request_at(slot).fused) {
            Fused::Alone if self.fused_next == FusedNext::SecondOf(slot) => {
                self.fused_next = FusedNext::SecondOfRefused;
            }
            Fused::First(partner) | Fused::Second(partner) => {
                self.withdraw_partner(partner, Status::FAILED_FUSED);
            }
            Fused::Alone | Fused::No => {}
        }
    }

    /// The command in `slot` has lost its partner, whose slot may soon be another command's.
    fn withdraw_partner(&mut self, slot: u16, status: Status) {
        self.request_at(slot).fused = Fused::No;
        self.withdraw(slot, status);
    }

    /// Ends the command in `slot` with `status`, if it has not begun to execute.
    pub(super) fn withdraw(&mut self, slot: u16, status: Status) -> Recall {
        let request = self.request(slot);
        match request.state {
            RequestState::NeedBuffer if request.transfer != Transfer::InCapsule => {
                self.waiting.retain(|&waiting| waiting != slot);
                self.refuse(slot, status);
                Recall::Aborted
            }
            RequestState::Ready => {
                self.ready.retain(|&ready| ready != slot);
                self.return_buffer(slot);
                self.refuse(slot, status);
                Recall::Aborted
            }
            // The host sends the data in any case; somebody has to take it.
            RequestState::NeedBuffer
            | RequestState::AwaitCapsuleData
            | RequestState::AwaitH2cData => {
                let error = &mut self.request_at(slot).error;
                *error = error.or(Some(status));
                Recall::Later
            }
            RequestState::Executing => {
                Recall::Executing(RequestId { slot, generation: request.generation })
            }
            RequestState::Free
            | RequestState::Refused
            | RequestState::TransferringC2h
            | RequestState::Responding => Recall::Gone,
        }
    }

    /// Aborts the command with `cid`, if it has not begun to execute (Base 2.1, section 5.1.1).
    pub fn recall(&mut self, cid: u16) -> Recall {
        let found = self.requests.iter().position(|request| {
            request.state != RequestState::Free && request.owns_cid && request.cid() == cid
        });
        let Some(slot) = found else { return Recall::Gone };
        self.withdraw(u16::try_from(slot).expect("slots fit u16"), Status::ABORT_REQUESTED)
    }

    /// The commands that execute, with their ids.
    pub fn executing_commands(&self) -> impl Iterator<Item = (RequestId, &Sqe)> {
        self.requests.iter().zip(0..).filter_map(|(request, slot)| {
            let id = RequestId { slot, generation: request.generation };
            (request.state == RequestState::Executing).then_some((id, &request.sqe))
        })
    }
}
