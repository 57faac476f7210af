//! A moment in which nothing of the host is under way, for what can't be done beside it: a device
//! takes a member's place ([`super::owner_replace`]), the array grows ([`super::owner_grow`]). One
//! of them at a time.
//!
//! Channels are asked twice: when the first round is over nobody begins anything any more, and when
//! the second one is, what they told each other meanwhile has arrived.
//!
//! A member that hangs must not hold up what the host wants of the others. So a pause that has not
//! come about in [`SPELL_MS`] is given up: the host goes on, channels say for whom they waited, and
//! it is tried again after a rest, each one twice as long as the one before. Once it has come about
//! nothing is written before the host goes on.

use super::message::{ArrayTimer, Mail, Out, SlotMask, ToChannel};
use super::owner::{Life, Owner};
use super::owner_bitmap::BitmapKeeper;
use super::{bit, slots};

/// How long a pause may take to come about, and the shortest rest after one that did not.
pub(super) const SPELL_MS: u64 = 1000;

/// The longest rest is of two to the power of so many spells.
const REST_DOUBLINGS_MAX: u32 = 6;

/// The longest rest.
pub(super) const REST_S_MAX: u64 = (SPELL_MS << REST_DOUBLINGS_MAX) / 1000;

/// Whether the host rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PauseState {
    /// It does not.
    Off,
    /// Channels end what they have begun; asked once more if `again`.
    Asking { cores_left: u16, again: bool },
    /// It does.
    On,
    /// It took too long: channels go on, and say for whom they waited.
    Ending { cores_left: u16 },
    /// Is not to be asked for before so many spells are over.
    Resting { spells: u32 },
}

impl PauseState {
    fn allows(self, next: Self) -> bool {
        use PauseState::{Asking, Ending, Off, On, Resting};
        matches!(
            (self, next),
            (Off, Asking { .. })
                | (Asking { .. }, Asking { .. } | On | Ending { .. } | Off)
                | (On, Ending { .. } | Off)
                | (Ending { .. }, Ending { .. } | Resting { .. } | Off)
                | (Resting { .. }, Resting { .. } | Off)
        )
    }
}

/// The pause's part of the owner.
#[derive(Debug)]
pub(super) struct Pauser {
    state: PauseState,
    round: u32,
    /// Timers under way. All take the same time, so the last one armed is the last to run out: it
    /// alone counts.
    armed: u32,
    /// Pauses in a row that were given up.
    given_up: u32,
    /// For whom the last of them waited.
    waited_for: SlotMask,
}

impl Default for Pauser {
    fn default() -> Self {
        Self { state: PauseState::Off, round: 0, armed: 0, given_up: 0, waited_for: 0 }
    }
}

impl Pauser {
    /// Nobody has asked for a pause, and it may be asked for.
    pub(super) fn is_off(&self) -> bool {
        self.state == PauseState::Off
    }

    /// No channel has anything of the host under way.
    pub(super) fn is_on(&self) -> bool {
        self.state == PauseState::On
    }

    /// So many pauses in a row were given up, the last one for good.
    pub(super) fn has_given_up(&self, pauses: u32) -> bool {
        self.given_up >= pauses && matches!(self.state, PauseState::Resting { .. })
    }

    /// The first pause of several was given up.
    pub(super) fn has_given_up_once(&self) -> bool {
        self.given_up == 1
    }

    /// For whom the pause waited that was given up.
    pub(super) fn waited_for(&self) -> SlotMask {
        self.waited_for
    }

    /// Somebody else wants a pause.
    pub(super) fn begin_anew(&mut self) {
        (self.given_up, self.waited_for) = (0, 0);
    }

    fn set_state(&mut self, next: PauseState) {
        assert!(self.state.allows(next), "a pause went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// The host is to rest: the owner begins nothing of its own meanwhile, either.
    pub(super) fn is_pausing(&self) -> bool {
        let is_asked_for = matches!(self.pauser.state, PauseState::Asking { .. } | PauseState::On);
        is_asked_for && self.life() == Life::Running
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
        match self.pauser.state {
            PauseState::Off => {}
            PauseState::Asking { .. } | PauseState::On => {
                self.pauser.set_state(PauseState::Off);
                out.mail.push_back(Mail::Channels(ToChannel::Resume));
            }
            PauseState::Ending { .. } | PauseState::Resting { .. } => {
                self.pauser.set_state(PauseState::Off);
            }
        }
        self.pauser.begin_anew();
    }

    /// [`Self::patience_ticks`] is to be called in a while.
    pub(super) fn wait_a_spell(&mut self, out: &mut Out<'_>) {
        self.pauser.armed += 1;
        out.mail.push_back(Mail::Arm(ArrayTimer::Patience, SPELL_MS));
    }

    /// A spell is over since somebody began to wait.
    pub(super) fn patience_ticks(&mut self, out: &mut Out<'_>) {
        self.pauser.armed -= 1;
        if self.pauser.armed > 0 || self.life() != Life::Running || mutant!(HangsForEver) {
            return;
        }
        match self.pauser.state {
            PauseState::Off | PauseState::Ending { .. } => {
                self.growth_has_waited(out);
                self.record_has_waited(out);
            }
            // What it is for may have begun by now, and ends.
            PauseState::Asking { .. } | PauseState::On => {
                let swap_waits = self.swap_awaits_pause() && !mutant!(SwapHangsForEver);
                if self.growth_awaits_pause() || swap_waits {
                    self.give_up_pause(out);
                }
            }
            PauseState::Resting { spells: 1 } => self.pauser.set_state(PauseState::Off),
            PauseState::Resting { spells } => {
                self.pauser.set_state(PauseState::Resting { spells: spells - 1 });
                self.wait_a_spell(out);
            }
        }
    }

    fn give_up_pause(&mut self, out: &mut Out<'_>) {
        self.pauser.waited_for = self.asked_inside();
        self.pauser.given_up += 1;
        self.pauser.set_state(PauseState::Ending { cores_left: self.cores });
        out.mail.push_back(Mail::Channels(ToChannel::EndPause(self.pauser.round)));
    }

    /// The host's requests of a channel go on, which were waited for at these members.
    pub(super) fn pause_ended(&mut self, round: u32, slots: SlotMask, out: &mut Out<'_>) {
        let PauseState::Ending { cores_left } = self.pauser.state else { return };
        if round != self.pauser.round {
            return;
        }
        self.pauser.waited_for |= slots;
        if cores_left > 1 {
            return self.pauser.set_state(PauseState::Ending { cores_left: cores_left - 1 });
        }
        let spells = 1 << (self.pauser.given_up - 1).min(REST_DOUBLINGS_MAX);
        self.pauser.set_state(PauseState::Resting { spells });
        self.wait_a_spell(out);
        self.swap_has_waited(out);
    }

    /// Members that have requests of the owner.
    pub(super) fn asked_inside(&self) -> SlotMask {
        let asked = slots(self.writable).filter(|&slot| self.has_own_requests_at(slot));
        asked.fold(0, |mask, slot| mask | bit(slot))
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
