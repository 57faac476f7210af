//! The daemon: turns idle Dirty chunks Clean without making a writer wait.
//!
//! One pass: every open Dirty chunk is marked aging; then every core passes a quiescent point, so
//! that writes begun before the mark have ended and later ones see it; then the idle time runs;
//! then the members are flushed, because a chunk whose data lie in a volatile cache can still
//! come to differ by a power cut; then the chunks still marked are cleared. A writer takes the
//! mark off in passing.

use super::message::{ArrayTimer, Mail, Out, SlotMask, ToChannel};
use super::owner::{Life, MemberRequest, Owner, OwnerOp};
use super::{MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};

/// Chunks marked in one turn, and chunks cleared, which costs more: about a microsecond. A host
/// request that arrives meanwhile waits for no more than that.
const MARKED_PER_TURN: usize = 512;
const CLEARED_PER_TURN: usize = 128;

/// A long sleep is slept in slices, so that a shorter one that is set meanwhile counts soon.
const SLICE_MS: u64 = 60_000;

/// Where the daemon is in its pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DaemonState {
    /// Waits for the sleep timer.
    Sleeping,
    /// Marks Dirty chunks from this one on.
    Marking { next: usize, marked: usize },
    /// Waits until every core has passed the quiescent point.
    Quiescing { cores_left: u16 },
    /// Waits for the idle time to run.
    Resting,
    /// Waits until the members' volatile caches are on their media.
    Flushing { pending: SlotMask },
    /// Clears chunks still marked from this one on.
    Clearing { next: usize },
    /// Works no more.
    Stopped,
}

impl DaemonState {
    fn allows(self, next: Self) -> bool {
        use DaemonState::{Clearing, Flushing, Marking, Quiescing, Resting, Sleeping, Stopped};
        matches!(
            (self, next),
            (Sleeping, Marking { .. } | Sleeping | Stopped)
                | (Marking { .. }, Marking { .. } | Quiescing { .. } | Sleeping | Stopped)
                | (Quiescing { .. }, Quiescing { .. } | Resting)
                | (Resting, Flushing { .. } | Stopped)
                | (Flushing { .. }, Flushing { .. } | Clearing { .. } | Sleeping | Stopped)
                | (Clearing { .. }, Clearing { .. } | Sleeping | Stopped)
                | (Stopped, Stopped)
        )
    }
}

/// The daemon's part of the owner.
#[derive(Debug)]
pub(super) struct Daemon {
    state: DaemonState,
    sleep_ms: u64,
    /// What is left of the sleep when the timer that is armed has run out.
    sleep_left_ms: u64,
    idle_ms: u64,
    round: u32,
    stop_wanted: bool,
    flush_failed: bool,
}

impl Daemon {
    pub(super) fn new(sleep_s: u32, idle_s: u32) -> Self {
        Self {
            state: DaemonState::Sleeping,
            sleep_ms: u64::from(sleep_s) * 1000,
            sleep_left_ms: 0,
            idle_ms: u64::from(idle_s) * 1000,
            round: 0,
            stop_wanted: false,
            flush_failed: false,
        }
    }

    /// The sleep that is under way and those to come are no longer than this.
    pub(super) fn set_sleep_s(&mut self, sleep_s: u32) {
        self.sleep_ms = u64::from(sleep_s) * 1000;
        if !mutant!(LongSleepRunsOn) {
            self.sleep_left_ms = self.sleep_left_ms.min(self.sleep_ms);
        }
    }

    pub(super) fn set_idle_s(&mut self, idle_s: u32) {
        self.idle_ms = u64::from(idle_s) * 1000;
    }

    pub(super) fn idle_s(&self) -> u32 {
        u32::try_from(self.idle_ms / 1000).expect("it was made of a u32")
    }

    /// The next slice of the sleep.
    fn next_slice_ms(&mut self) -> u64 {
        let slice_ms = self.sleep_left_ms.min(SLICE_MS);
        self.sleep_left_ms -= slice_ms;
        slice_ms
    }

    /// It has chunks to look at.
    pub(super) fn is_walking(&self) -> bool {
        matches!(self.state, DaemonState::Marking { .. } | DaemonState::Clearing { .. })
    }

    /// Members are flushing for it.
    pub(super) fn is_flushing(&self) -> bool {
        matches!(self.state, DaemonState::Flushing { .. })
    }

    /// It has stopped.
    pub(super) fn is_idle(&self) -> bool {
        self.state == DaemonState::Stopped
    }

    /// It is to stop; what it waits for ends first.
    pub(super) fn stop(&mut self) {
        self.stop_wanted = true;
        if !matches!(self.state, DaemonState::Quiescing { .. } | DaemonState::Flushing { .. }) {
            self.set_state(DaemonState::Stopped);
        }
    }

    fn set_state(&mut self, next: DaemonState) {
        assert!(self.state.allows(next), "the daemon went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// Arms the sleep timer, if there is anything to clear at all.
    pub(super) fn arm_daemon(&mut self, out: &mut Out<'_>) {
        if self.bitmap.is_some() {
            self.daemon.sleep_left_ms = self.daemon.sleep_ms;
            let slice_ms = self.daemon.next_slice_ms();
            out.mail.push_back(Mail::Arm(ArrayTimer::DaemonSleep, slice_ms));
        }
    }

    /// The sleep timer has run out.
    pub(super) fn daemon_wakes(&mut self, out: &mut Out<'_>) {
        if self.daemon.state != DaemonState::Sleeping || self.life() != Life::Running {
            return;
        }
        if self.daemon.sleep_left_ms > 0 {
            let slice_ms = self.daemon.next_slice_ms();
            return out.mail.push_back(Mail::Arm(ArrayTimer::DaemonSleep, slice_ms));
        }
        if self.is_degraded() && !mutant!(ClearWhileDegraded) || self.failed {
            // What is Dirty is what an absent member must get: nothing may be cleared.
            return self.arm_daemon(out);
        }
        self.daemon.set_state(DaemonState::Marking { next: 0, marked: 0 });
    }

    /// A channel has passed the quiescent point.
    pub(super) fn quiesced(&mut self, round: u32, out: &mut Out<'_>) {
        let DaemonState::Quiescing { cores_left } = self.daemon.state else {
            panic!("a core quiesced although nobody asked");
        };
        assert_eq!(round, self.daemon.round);
        if cores_left > 1 {
            let cores_left = cores_left - 1;
            return self.daemon.set_state(DaemonState::Quiescing { cores_left });
        }
        self.daemon.set_state(DaemonState::Resting);
        if self.daemon.stop_wanted {
            return self.daemon.set_state(DaemonState::Stopped);
        }
        out.mail.push_back(Mail::Arm(ArrayTimer::BarrierIdle, self.daemon.idle_ms));
    }

    /// The idle time is over. What replaces a member may have failed: as long as that is not on
    /// record it would be taken for one that has flushed.
    pub(super) fn daemon_rested(&mut self, out: &mut Out<'_>) {
        let is_resting = self.daemon.state == DaemonState::Resting;
        if is_resting && !self.absences_are_recorded() && !mutant!(FlushedWithoutTwin) {
            out.mail.push_back(Mail::Arm(ArrayTimer::BarrierIdle, self.daemon.idle_ms));
        } else if is_resting && mutant!(ClearWithoutFlush) {
            self.daemon.set_state(DaemonState::Flushing { pending: 0 });
            self.daemon.set_state(DaemonState::Clearing { next: 0 });
        } else if is_resting {
            self.daemon.set_state(DaemonState::Flushing { pending: self.writable });
            self.flush_members(out);
        }
    }

    /// Asks every member to bring its volatile cache to its medium.
    pub(super) fn flush_members(&mut self, out: &mut Out<'_>) {
        for slot in slots(self.writable) {
            let request = MemberRequest { op: IoOp::Flush, lba: 0, blocks: 0, buf: None };
            self.send(slot, OwnerOp::Flush, request, out);
        }
    }

    /// A member has flushed, or has not: then its cache can't be trusted, and it is out.
    pub(super) fn flush_answered(&mut self, slot: MemberSlot, status: IoStatus, out: &mut Out<'_>) {
        if !status.is_ok() {
            self.fail_member(slot, out);
        }
        if self.life() == Life::Flushing {
            return self.stop_flush_answered(slot, status);
        }
        let DaemonState::Flushing { pending } = self.daemon.state else {
            panic!("a member flushed although nobody asked");
        };
        let pending = pending & !bit(slot);
        self.daemon.set_state(DaemonState::Flushing { pending });
        if !status.is_ok() {
            self.daemon.flush_failed = true;
        }
        if pending > 0 {
            return;
        }
        let failed = std::mem::take(&mut self.daemon.flush_failed);
        if self.daemon.stop_wanted {
            self.daemon.set_state(DaemonState::Stopped);
        } else if failed {
            self.daemon.set_state(DaemonState::Sleeping);
            self.arm_daemon(out);
        } else {
            self.daemon.set_state(DaemonState::Clearing { next: 0 });
        }
    }

    /// Looks at the next chunks of a pass.
    pub(super) fn poll_daemon(&mut self, out: &mut Out<'_>) {
        match self.daemon.state {
            DaemonState::Marking { next, marked } => self.mark_some(next, marked, out),
            DaemonState::Clearing { next } => self.clear_some(next, out),
            _ => {}
        }
    }

    fn mark_some(&mut self, next: usize, mut marked: usize, out: &mut Out<'_>) {
        let map = self.shared.map.as_ref().expect("the daemon has a map");
        let end = map.len().min(next + MARKED_PER_TURN);
        for chunk in next..end {
            marked += usize::from(map.age(chunk));
        }
        if end < map.len() {
            return self.daemon.set_state(DaemonState::Marking { next: end, marked });
        }
        if marked == 0 {
            self.daemon.set_state(DaemonState::Sleeping);
            return self.arm_daemon(out);
        }
        self.daemon.round += 1;
        if mutant!(ClearWithoutQuiescence) {
            self.daemon.set_state(DaemonState::Quiescing { cores_left: 1 });
            return self.quiesced(self.daemon.round, out);
        }
        self.daemon.set_state(DaemonState::Quiescing { cores_left: self.cores });
        out.mail.push_back(Mail::Channels(ToChannel::Quiesce(self.daemon.round)));
    }

    fn clear_some(&mut self, next: usize, out: &mut Out<'_>) {
        let degraded = self.is_degraded() && !mutant!(ClearWhileDegraded);
        let map = self.shared.map.as_ref().expect("the daemon has a map");
        let bitmap = self.bitmap.as_mut().expect("the daemon has a bitmap");
        let end = map.len().min(next + CLEARED_PER_TURN);
        for chunk in next..end {
            if !degraded && map.clear_if_aging(chunk) {
                bitmap.mark_lazy(chunk);
            }
        }
        if end < map.len() {
            return self.daemon.set_state(DaemonState::Clearing { next: end });
        }
        self.daemon.set_state(DaemonState::Sleeping);
        self.arm_daemon(out);
    }
}
