//! What an operator can have a running array do about its members.

use super::message::Out;
use super::newcomer::Newcomer;
use super::owner::Owner;
use super::owner_join::Joined;
use super::{ErrorPolicy, MemberSlot, Pace, ScrubAction};

/// What the array is to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Take this device as a member.
    Join(Box<Newcomer>),
    /// Have this device take the place of the slot's member, which serves on until then.
    Replace(MemberSlot, Box<Newcomer>),
    /// Throw this member out.
    Fail(MemberSlot),
    /// Throw it out and let its device go.
    Remove(MemberSlot),
    /// Copy at this pace from now on.
    SetPace(Pace),
    /// Put up with so many errors.
    SetErrorPolicy(ErrorPolicy),
    /// Go on without what torn rows of a level with parity have lost.
    AcceptLoss,
    /// Compare the members, or end that.
    Scrub(ScrubAction),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or under way.
    Done,
    /// The device is on its way into a slot.
    Joining(Joined),
}

impl Owner {
    /// Does what the operator says, or begins to: events and the status tell how it goes on.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn execute(&mut self, command: &Command, out: &mut Out<'_>) -> Result<Outcome, String> {
        match command {
            Command::Join(newcomer) => {
                return self.join(newcomer, out).map(Outcome::Joining);
            }
            Command::Replace(slot, newcomer) => {
                return self.replace(*slot, newcomer, out).map(Outcome::Joining);
            }
            Command::Fail(slot) => self.fail(*slot, out)?,
            Command::Remove(slot) => self.remove(*slot, out)?,
            Command::SetPace(pace) => self.set_pace(*pace, out),
            Command::SetErrorPolicy(policy) => self.set_error_policy(*policy, out),
            Command::AcceptLoss => self.accept_loss(out)?,
            Command::Scrub(action) => self.scrub(*action, out)?,
        }
        Ok(Outcome::Done)
    }
}
