//! Takes a command back that has not begun to execute (Base 2.1, section 5.1.1).

use super::conn::Connection;
use super::request::{Recall, RequestId, RequestState, Transfer};
use crate::wire::nvme::Status;

impl Connection {
    /// Aborts the command with `cid`, if it has not begun to execute.
    pub fn recall(&mut self, cid: u16) -> Recall {
        let found = self.requests.iter().position(|request| {
            request.state != RequestState::Free && request.owns_cid && request.cid() == cid
        });
        let Some(slot) = found else { return Recall::Gone };
        let slot = u16::try_from(slot).expect("slots fit u16");
        let request = self.request(slot);
        match request.state {
            RequestState::NeedBuffer if request.transfer != Transfer::InCapsule => {
                self.waiting.retain(|&waiting| waiting != slot);
                self.refuse(slot, Status::ABORT_REQUESTED);
                Recall::Aborted
            }
            RequestState::Ready => {
                self.ready.retain(|&ready| ready != slot);
                self.request_at(slot).buf = None;
                self.refuse(slot, Status::ABORT_REQUESTED);
                Recall::Aborted
            }
            // The host sends the data in any case; somebody has to take it.
            RequestState::NeedBuffer
            | RequestState::AwaitCapsuleData
            | RequestState::AwaitH2cData => {
                let error = &mut self.request_at(slot).error;
                *error = error.or(Some(Status::ABORT_REQUESTED));
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
}
