//! A moment in which nothing of the host is under way, for what can't be done beside it: a device
//! takes a member's place ([`super::owner_replace`]), the array grows ([`super::owner_grow`]). One
//! of them at a time.
//!
//! Channels are asked twice: when the first round is over nobody begins anything any more, and when
//! the second one is, what they told each other meanwhile has arrived.

use super::message::{Mail, Out, ToChannel};
use super::owner::{Life, Owner};
use super::owner_bitmap::BitmapKeeper;

/// Whether the host rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PauseState {
    /// It does not.
    Off,
    /// Channels end what they have begun; asked once more if `again`.
    Asking { cores_left: u16, again: bool },
    /// It does.
    On,
}

impl PauseState {
    fn allows(self, next: Self) -> bool {
        use PauseState::{Asking, Off, On};
        matches!(
            (self, next),
            (Off, Asking { .. }) | (Asking { .. }, Asking { .. } | On | Off) | (On, Off)
        )
    }
}

/// The pause's part of the owner.
#[derive(Debug)]
pub(super) struct Pauser {
    state: PauseState,
    round: u32,
}

impl Default for Pauser {
    fn default() -> Self {
        Self { state: PauseState::Off, round: 0 }
    }
}

impl Pauser {
    /// Nobody has asked for a pause.
    pub(super) fn is_off(&self) -> bool {
        self.state == PauseState::Off
    }

    /// No channel has anything of the host under way.
    pub(super) fn is_on(&self) -> bool {
        self.state == PauseState::On
    }

    fn set_state(&mut self, next: PauseState) {
        assert!(self.state.allows(next), "a pause went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// The host is to rest: the owner begins nothing of its own meanwhile, either.
    pub(super) fn is_pausing(&self) -> bool {
        !self.pauser.is_off() && self.life() == Life::Running
    }

    /// Has the host rest.
    pub(super) fn pause(&mut self, out: &mut Out<'_>) {
        self.ask_for_pause(true, out);
    }

    fn ask_for_pause(&mut self, again: bool, out: &mut Out<'_>) {
        self.pauser.round += 1;
        self.pauser.set_state(PauseState::Asking { cores_left: self.cores, again });
        out.mail.push_back(Mail::Channels(ToChannel::Pause(self.pauser.round)));
    }

    /// A channel has nothing of the host under way.
    pub(super) fn paused(&mut self, round: u32, out: &mut Out<'_>) {
        let PauseState::Asking { cores_left, again } = self.pauser.state else { return };
        if round != self.pauser.round {
            return;
        }
        match (cores_left, again) {
            (1, true) => self.ask_for_pause(false, out),
            (1, false) => self.pauser.set_state(PauseState::On),
            (more, _) => {
                self.pauser.set_state(PauseState::Asking { cores_left: more - 1, again });
            }
        }
    }

    /// The host goes on, if it was to rest.
    pub(super) fn resume(&mut self, out: &mut Out<'_>) {
        if !self.pauser.is_off() {
            self.pauser.set_state(PauseState::Off);
            out.mail.push_back(Mail::Channels(ToChannel::Resume));
        }
    }

    /// Nothing of the owner's is under way that is about the host's data, and all it knows is on
    /// record.
    pub(super) fn is_quiet_inside(&self) -> bool {
        self.walker.is_idle()
            && self.discarder.is_idle()
            && self.recorder.is_durable()
            && self.absences_are_recorded()
            && self.log.heads_are_written()
            && self.bad_keeper.is_idle()
            && self.bitmap.as_ref().is_none_or(BitmapKeeper::is_quiet)
    }
}
