//! The numbers of a ring's records: what one home core keeps of the stripe log.
//!
//! All rows of a ring have their locks on its core, which gives out numbers together with locks.
//! So a row's records are numbered in the order in which it was written. A slot is used again only
//! when its record is below a floor that a later record has durably on the members: see
//! [`crate::md::stripe_log`].

use std::collections::VecDeque;

use super::super::message::Ticket;

/// One number that was given out and whose slot is not free yet.
#[derive(Debug, Clone, Copy)]
struct Given {
    slice: u64,
    floor: u64,
    /// In place durably, or never to be.
    done: bool,
}

/// What waits until no record of some rows can be live any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Oblivion {
    id: u32,
    /// The floor must come this far.
    until: u64,
}

/// A ring.
#[derive(Debug)]
pub(in crate::raid) struct Ring {
    slots: u64,
    /// The next number.
    next: u64,
    /// All below are done: the floor of the next record.
    low: u64,
    /// The highest floor that is known to be in a durable record: slots below may be used again.
    durable: u64,
    /// From `durable` on.
    given: VecDeque<Given>,
    oblivions: Vec<Oblivion>,
    /// A note that could not be written: it has a slot and is tried again.
    failed_note: Option<u64>,
}

impl Ring {
    /// Of so many slots, for at most so many questions of oblivion at a time.
    pub(in crate::raid) fn new(slots: u32, oblivions_max: usize) -> Self {
        Self {
            slots: slots.into(),
            next: 1,
            low: 1,
            durable: 1,
            given: VecDeque::with_capacity(slots as usize + 1),
            oblivions: Vec::with_capacity(oblivions_max),
            failed_note: None,
        }
    }

    fn at(&mut self, sequence: u64) -> &mut Given {
        let index = usize::try_from(sequence - self.durable).expect("inside the ring");
        &mut self.given[index]
    }

    fn put(&mut self, slice: u64, count: u8) -> Ticket {
        let ticket = Ticket { sequence: self.next, floor: self.low, count };
        for _ in 0..count {
            self.given.push_back(Given { slice, floor: self.low, done: false });
        }
        self.next += u64::from(count);
        ticket
    }

    /// Slots that may be written to now.
    fn room(&self) -> u64 {
        let floor = if mutant!(SlotReusedEarly) { self.low } else { self.durable };
        self.slots - (self.next - floor)
    }

    /// Numbers for so many records of a slice; `None`: later. One slot stays for a note.
    pub(in crate::raid) fn take(&mut self, slice: u64, count: u8) -> Option<Ticket> {
        assert!(u64::from(count) + 2 <= self.slots, "more records than the ring has slots");
        (u64::from(count) < self.room()).then(|| self.put(slice, count))
    }

    /// A number for a record that has nothing but the floor to say, if that is of use: somebody
    /// waits for a slot, or for oblivion, and the floor would help.
    pub(in crate::raid) fn take_note(&mut self, starved: bool) -> Option<Ticket> {
        let helps = |it: &Oblivion| it.until <= self.low;
        // A note that failed holds the floor itself: whoever waits, waits for it.
        let holds = self.failed_note.is_some() && !mutant!(FailedNoteHoldsFloor);
        let helps_starved = starved && (self.low > self.durable || holds);
        let helps_oblivion = self.oblivions.iter().any(|it| helps(it) || holds);
        let is_wanted = helps_starved || helps_oblivion;
        if is_wanted && let Some(sequence) = self.failed_note.take() {
            // What members have of it says an older floor, which is as true.
            let floor = self.low;
            self.at(sequence).floor = floor;
            return Some(Ticket { sequence, floor, count: 1 });
        }
        (is_wanted && self.room() > 0).then(|| self.put(u64::MAX, 1))
    }

    /// A note is durable on the members, or could not be written.
    pub(in crate::raid) fn end_note(&mut self, ticket: Ticket, logged: bool) {
        self.failed_note = (!logged).then_some(ticket.sequence);
        self.end(ticket, logged, logged);
    }

    /// Records are no more under way. `logged`: they are durable on the members. `done`: what
    /// they say is in place durably, or nothing was written in place.
    pub(in crate::raid) fn end(&mut self, ticket: Ticket, logged: bool, done: bool) {
        for sequence in ticket.sequence..ticket.sequence + u64::from(ticket.count) {
            let given = self.at(sequence);
            debug_assert!(!given.done && given.floor == ticket.floor);
            given.done = done;
        }
        let from = usize::try_from(self.low - self.durable).expect("inside the ring");
        let done = self.given.range(from..).take_while(|given| given.done).count();
        self.low += done as u64;
        let floor = if mutant!(SlotReusedEarly) { self.low } else { ticket.floor };
        if logged && floor > self.durable {
            let gone = usize::try_from(floor - self.durable).expect("inside the ring");
            self.given.drain(..gone);
            self.durable = floor;
        }
    }

    /// Somebody wants to know when none of the records so far counts, whatever members are lost
    /// then: when a floor above them is where records go now. At once, or by [`Self::forgotten`].
    pub(in crate::raid) fn forget_all(&mut self, id: u32) -> bool {
        if self.next == 1 {
            return true;
        }
        self.oblivions.push(Oblivion { id, until: self.next });
        false
    }

    /// Somebody wants to know when no record of these slices can be live: at once, or by
    /// [`Self::forgotten`].
    pub(in crate::raid) fn forget(&mut self, id: u32, slices: std::ops::Range<u64>) -> bool {
        let last = self.given.iter().rposition(|given| slices.contains(&given.slice));
        let Some(last) = last.filter(|_| !mutant!(ZeroedUnderLog)) else { return true };
        self.oblivions.push(Oblivion { id, until: self.durable + last as u64 + 1 });
        false
    }

    /// One who waited for oblivion and has it now.
    pub(in crate::raid) fn forgotten(&mut self) -> Option<u32> {
        let at = self.oblivions.iter().position(|it| it.until <= self.durable)?;
        Some(self.oblivions.swap_remove(at).id)
    }

    /// One who waits in vain: nothing can be logged any more.
    pub(in crate::raid) fn refused(&mut self) -> Option<u32> {
        self.oblivions.pop().map(|it| it.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_is_free_when_a_later_record_says_so() {
        let mut ring = Ring::new(4, 1);
        let tickets: Vec<Ticket> = (0..3).map(|row| ring.take(row, 1).unwrap()).collect();
        assert!(tickets.iter().all(|ticket| ticket.floor == 1));
        assert_eq!(ring.take(3, 1), None, "the last slot is a note's");
        assert_eq!(ring.take_note(true), None, "it would say nothing new");
        for ticket in tickets {
            ring.end(ticket, true, true);
        }
        // All are in place, and no record says so.
        assert_eq!(ring.take(3, 1), None);
        assert_eq!(ring.take_note(false), None);
        let note = ring.take_note(true).unwrap();
        assert_eq!((note.sequence, note.floor), (4, 4));
        ring.end(note, true, true);
        assert_eq!(ring.take(3, 2).map(|it| (it.sequence, it.floor)), Some((5, 5)));
    }

    #[test]
    fn a_note_that_failed_is_tried_again_in_its_slot() {
        let mut ring = Ring::new(3, 1);
        let tickets = [0, 1].map(|row| ring.take(row, 1).unwrap());
        for ticket in tickets {
            ring.end(ticket, true, true);
        }
        assert_eq!(ring.take(2, 1).map(|it| it.floor), None);
        for _ in 0..5 {
            let note = ring.take_note(true).unwrap();
            assert_eq!((note.sequence, note.floor), (3, 3));
            ring.end_note(note, false);
            assert_eq!(ring.take(2, 1), None);
        }
        let note = ring.take_note(true).unwrap();
        ring.end_note(note, true);
        assert_eq!(ring.take(2, 1).map(|it| it.floor), Some(4));
    }

    #[test]
    fn a_note_that_failed_holds_nobody_up() {
        let mut ring = Ring::new(8, 1);
        let first = ring.take(0, 1).unwrap();
        ring.end(first, true, true);
        assert!(!ring.forget(1, 0..1));
        let note = ring.take_note(false).unwrap();
        assert_eq!(note.sequence, 2);
        ring.end_note(note, false);
        assert_eq!(ring.refused(), Some(1));
        // Later records are above it; who waits for them waits for the note first.
        let second = ring.take(5, 1).unwrap();
        ring.end(second, true, true);
        assert!(!ring.forget(2, 5..6));
        let again = ring.take_note(false).unwrap();
        assert_eq!(again.sequence, 2);
        ring.end_note(again, true);
        let note = ring.take_note(false).unwrap();
        assert_eq!((note.sequence, note.floor), (4, 4));
        ring.end_note(note, true);
        assert_eq!(ring.forgotten(), Some(2));
    }

    #[test]
    fn what_is_not_done_holds_the_floor() {
        let mut ring = Ring::new(8, 1);
        let (first, second) = (ring.take(1, 1).unwrap(), ring.take(2, 2).unwrap());
        ring.end(second, true, true);
        assert_eq!(ring.take(3, 1).unwrap().floor, 1);
        ring.end(first, true, false);
        assert_eq!(ring.take(4, 1).unwrap().floor, 1, "its row is spoilt");
    }

    #[test]
    fn oblivion_waits_for_a_durable_floor() {
        let mut ring = Ring::new(8, 2);
        assert!(ring.forget(7, 0..10), "no record at all");
        let (one, other) = (ring.take(5, 1).unwrap(), ring.take(11, 1).unwrap());
        assert!(ring.forget(7, 6..10));
        assert!(!ring.forget(7, 0..10));
        assert_eq!(ring.take_note(false), None);
        ring.end(one, true, true);
        assert_eq!(ring.forgotten(), None);
        let note = ring.take_note(false).unwrap();
        assert_eq!(note.floor, 2);
        ring.end(note, true, true);
        assert_eq!(ring.forgotten(), Some(7));
        assert_eq!(ring.forgotten(), None);
        ring.end(other, true, true);
        assert!(ring.forget(8, 0..10));
    }

    #[test]
    fn all_is_forgotten_by_a_floor_that_is_written_anew() {
        let mut ring = Ring::new(8, 2);
        assert!(ring.forget_all(1));
        for row in 0..2 {
            let ticket = ring.take(row, 1).unwrap();
            ring.end(ticket, true, true);
        }
        assert!(!ring.forget_all(2));
        assert_eq!(ring.forgotten(), None);
        let note = ring.take_note(false).unwrap();
        assert_eq!((note.sequence, note.floor), (3, 3));
        ring.end_note(note, true);
        assert_eq!(ring.forgotten(), Some(2));
        // Again: the floor may be on fewer members than are to have it by now.
        assert!(!ring.forget_all(3));
        assert_eq!(ring.take_note(false).map(|note| note.floor), Some(4));
    }

    /// Members that keep what was written to them last, slot by slot.
    #[derive(Default)]
    struct Log(std::collections::BTreeMap<u64, (u64, u64, u64)>);

    proptest! {
        /// Rows are written in turn; at any moment the power may go, with all that is under way
        /// torn or not. What the log then says must end with each row's last finished write.
        #[test]
        fn nothing_old_is_written_over_what_is_newer(
            choices in proptest::collection::vec((0u8..4, 0u64..3, any::<bool>()), 1..120),
        ) {
            const SLOTS: u32 = 5;
            let mut ring = Ring::new(SLOTS, 1);
            let mut log = Log::default();
            // By row: the number of the last finished write; under way: row and ticket.
            let mut rows = [0u64; 3];
            let mut under_way: Vec<(u64, Ticket)> = Vec::new();
            for (what, row, yes) in choices {
                let at = under_way.iter().position(|(other, _)| *other == row);
                match (what, at) {
                    (0 | 1, None) => {
                        if let Some(ticket) = ring.take(row, 1) {
                            under_way.push((row, ticket));
                        } else if let Some(note) = ring.take_note(true) {
                            let slot = note.sequence % u64::from(SLOTS);
                            log.0.insert(slot, (note.sequence, note.floor, u64::MAX));
                            ring.end(note, true, true);
                        }
                    }
                    (2, Some(at)) => {
                        let (row, ticket) = under_way.swap_remove(at);
                        let slot = ticket.sequence % u64::from(SLOTS);
                        log.0.insert(slot, (ticket.sequence, ticket.floor, row));
                        rows[usize::try_from(row).unwrap()] = ticket.sequence;
                        ring.end(ticket, true, true);
                    }
                    (3, _) => {
                        // A cut: everything under way tears its slot, or has not come to it.
                        let mut found = log.0.clone();
                        if yes {
                            for (_, ticket) in &under_way {
                                found.remove(&(ticket.sequence % u64::from(SLOTS)));
                            }
                        }
                        let floor = found.values().map(|it| it.1).max().unwrap_or(0);
                        let mut live: Vec<_> =
                            found.values().filter(|it| it.0 >= floor && it.2 != u64::MAX).collect();
                        live.sort();
                        for row in 0..3 {
                            let last = live.iter().rev().find(|it| it.2 == row);
                            let newest = rows[usize::try_from(row).unwrap()];
                            prop_assert!(last.is_none_or(|it| it.0 == newest), "row {row}");
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
