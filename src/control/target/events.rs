//! What has happened, for those who ask later: a ring of the last events, as SPDK's notifications.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Backing, Target};
use crate::raid::{ArrayEvent, MemberSlot};

/// Events that are remembered. Who asks less often than that many happen misses the oldest, and
/// sees it by the numbers.
pub const EVENTS_MAX: usize = 1024;

/// Kinds of events by name.
pub const EVENT_TYPES: [&str; 23] = [
    "bdev_register",
    "bdev_unregister",
    "raid_started",
    "raid_stopped",
    "raid_degraded",
    "raid_whole",
    "raid_metadata_lost",
    "raid_member_failed",
    "raid_member_removed",
    "raid_member_joined",
    "raid_rebuild_started",
    "raid_rebuild_done",
    "raid_replacement_started",
    "raid_replacement_failed",
    "raid_replacement_orphaned",
    "raid_replacement_waits",
    "raid_member_replaced",
    "raid_resync_started",
    "raid_resync_done",
    "raid_scrub_started",
    "raid_scrub_done",
    "raid_grown",
    "raid_growth_failed",
];

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Number, counted from 0 at the start of the target.
    pub id: u64,
    /// One of [`EVENT_TYPES`].
    pub kind: &'static str,
    /// Name of the bdev or array.
    pub subject: String,
    /// The slot that it is about.
    pub slot: Option<MemberSlot>,
    /// One sentence, as in the log.
    pub text: String,
    /// When, in seconds since 1970.
    pub time_s: u64,
}

/// The last events.
#[derive(Debug, Default)]
pub(super) struct Notices {
    ring: VecDeque<Notice>,
    next: u64,
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

impl Notices {
    pub(super) fn add(
        &mut self,
        kind: &'static str,
        subject: &str,
        slot: Option<MemberSlot>,
        text: String,
    ) {
        debug_assert!(EVENT_TYPES.contains(&kind), "{kind} is not listed");
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        let time_s = now_s();
        let (id, subject) = (self.next, subject.to_owned());
        self.ring.push_back(Notice { id, kind, subject, slot, text, time_s });
        self.next += 1;
    }
}

/// The kind of an event, if hosts of notifications want it, and its slot.
fn kind(event: &ArrayEvent) -> Option<(&'static str, Option<MemberSlot>)> {
    Some(match *event {
        ArrayEvent::Started { .. } => ("raid_started", None),
        ArrayEvent::Stopped { .. } => ("raid_stopped", None),
        ArrayEvent::MetadataLost => ("raid_metadata_lost", None),
        ArrayEvent::MemberFailed { slot, .. } => ("raid_member_failed", Some(slot)),
        ArrayEvent::MemberRemoved { slot } => ("raid_member_removed", Some(slot)),
        ArrayEvent::MemberJoined { slot, .. } => ("raid_member_joined", Some(slot)),
        ArrayEvent::RebuildStarted { slot, .. } => ("raid_rebuild_started", Some(slot)),
        ArrayEvent::RebuildDone { slot, .. } => ("raid_rebuild_done", Some(slot)),
        ArrayEvent::ReplacementStarted { slot, .. } => ("raid_replacement_started", Some(slot)),
        ArrayEvent::ReplacementFailed { slot } => ("raid_replacement_failed", Some(slot)),
        ArrayEvent::ReplacementOrphaned { slot } => ("raid_replacement_orphaned", Some(slot)),
        ArrayEvent::ReplacementWaits { slot, .. } => ("raid_replacement_waits", Some(slot)),
        ArrayEvent::MemberReplaced { slot } => ("raid_member_replaced", Some(slot)),
        ArrayEvent::ResyncStarted { .. } => ("raid_resync_started", None),
        ArrayEvent::ResyncDone { .. } => ("raid_resync_done", None),
        ArrayEvent::ScrubStarted { .. } => ("raid_scrub_started", None),
        ArrayEvent::ScrubDone { .. } => ("raid_scrub_done", None),
        ArrayEvent::Grown { .. } => ("raid_grown", None),
        ArrayEvent::GrowthFailed { .. } => ("raid_growth_failed", None),
        _ => return None,
    })
}

impl Target {
    /// Up to `max` of the remembered events from number `id` on, oldest first.
    pub fn notices(&mut self, id: u64, max: usize) -> Vec<Notice> {
        self.take_events();
        self.notices.ring.iter().filter(|notice| notice.id >= id).take(max).cloned().collect()
    }

    /// Takes over what the cores have to tell.
    pub fn take_events(&mut self) {
        for (bdev, event) in self.engine.take_events() {
            // A stopped array is gone here; its name was noted when it was stopped.
            let Some(name) = self.name_of(bdev).map(str::to_owned) else { continue };
            if let Some((kind, slot)) = kind(&event) {
                self.notices.add(kind, &name, slot, event.to_string());
            }
            self.note_replaced(&name, &event);
            self.note_health(&name, &event);
        }
        self.look_at_growths();
    }

    /// Tells when an array loses its redundancy and when it has it again.
    fn note_health(&mut self, name: &str, event: &ArrayEvent) {
        let lost = match *event {
            ArrayEvent::Started { in_sync, slots, .. } => (in_sync < slots).then_some(true),
            ArrayEvent::MemberFailed { .. } => Some(true),
            ArrayEvent::RebuildDone { .. } => {
                let status = self.array_status(name);
                let is_whole = |(_, state): &(_, &str)| *state == "in_sync";
                status.is_ok_and(|it| it.members.iter().all(is_whole)).then_some(false)
            }
            _ => None,
        };
        let Some(Backing::Array(array)) = self.bdevs.get_mut(name).map(|bdev| &mut bdev.backing)
        else {
            return;
        };
        match event {
            ArrayEvent::ResyncStarted { .. } => array.resync_began_s = now_s(),
            ArrayEvent::ScrubStarted { .. } => array.scrub_began_s = now_s(),
            _ => {}
        }
        let news = lost.filter(|lost| *lost != array.is_degraded);
        match lost {
            Some(true) if !array.is_degraded => {
                array.is_degraded = true;
                let text = "members are missing: data are less safe until they are replaced";
                self.notices.add("raid_degraded", name, None, text.to_owned());
            }
            Some(false) if array.is_degraded => {
                array.is_degraded = false;
                let text = "all members are in sync again";
                self.notices.add("raid_whole", name, None, text.to_owned());
            }
            _ => {}
        }
        if let Some(degraded) = news {
            self.show_health(name, degraded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_numbers_tell() {
        let mut notices = Notices::default();
        for number in 0..EVENTS_MAX + 3 {
            notices.add("raid_degraded", &format!("r{number}"), None, String::new());
        }
        assert_eq!(notices.ring.len(), EVENTS_MAX);
        let (first, last) = (&notices.ring[0], &notices.ring[EVENTS_MAX - 1]);
        assert_eq!((first.id, first.subject.as_str()), (3, "r3"));
        assert_eq!(last.id, u64::try_from(EVENTS_MAX).unwrap() + 2);
    }
}
