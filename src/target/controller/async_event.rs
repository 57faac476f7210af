//! Asynchronous event requests (Base 2.1, section 5.1.2): held until there is news.
//!
//! Each kind of news is told once, and is then masked until the host has read the log page that
//! belongs to it without retaining the event.

use crate::wire::nvme::feature::async_event;
use crate::wire::nvme::log_page::lid;

/// Requests that may be outstanding: AERL + 1.
pub(super) const HELD_MAX: usize = 4;

/// Identify's AERL, 0's based.
pub(super) const AERL: u8 = 3;
const _: () = assert!(AERL as usize + 1 == HELD_MAX);

/// What a host can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum EventKind {
    /// What is behind a namespace has lost redundancy.
    Health,
    /// Namespaces came, went or changed.
    NamespaceAttribute,
    /// A namespace is reached by this path in another way than before.
    AnaChange,
    /// The reservation notification log has a page.
    Reservation,
    /// The discovery log page changed.
    DiscoveryLog,
}

impl EventKind {
    const ALL: [Self; 5] = [
        Self::Health,
        Self::NamespaceAttribute,
        Self::AnaChange,
        Self::Reservation,
        Self::DiscoveryLog,
    ];

    /// The event whose log page is `lid`.
    pub(super) fn of_log(lid: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.log() == lid)
    }

    /// The log page that tells more, and that clears the event when it is read.
    fn log(self) -> u8 {
        match self {
            Self::Health => lid::SMART_HEALTH,
            Self::NamespaceAttribute => lid::CHANGED_NAMESPACES,
            Self::AnaChange => lid::ANA,
            Self::Reservation => lid::RESERVATION,
            Self::DiscoveryLog => lid::DISCOVERY,
        }
    }

    /// The bit of Asynchronous Event Configuration with which a host asks for it; 0: it has none
    /// and is masked by a feature of its own.
    pub(super) fn config_bit(self) -> u32 {
        match self {
            Self::Health => async_event::SMART_RELIABILITY,
            Self::NamespaceAttribute => async_event::NAMESPACE_ATTRIBUTE,
            Self::AnaChange => async_event::ANA_CHANGE,
            Self::Reservation => 0,
            Self::DiscoveryLog => async_event::DISCOVERY_LOG,
        }
    }

    /// Dword 0 (Base 2.1, section 5.1.2.1): type in bits 2:0, information in bits 15:8, log page
    /// in bits 23:16.
    pub(super) fn result(self) -> u64 {
        const HEALTH: u64 = 1;
        const NOTICE: u64 = 2;
        const IO_COMMAND_SET: u64 = 6;
        let (event_type, information) = match self {
            Self::Health => (HEALTH, 0x00),
            Self::NamespaceAttribute => (NOTICE, 0x00),
            Self::AnaChange => (NOTICE, 0x03),
            Self::Reservation => (IO_COMMAND_SET, 0x00),
            Self::DiscoveryLog => (NOTICE, 0xf0),
        };
        event_type | information << 8 | u64::from(self.log()) << 16
    }
}

/// Whether the host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum EventState {
    /// No news since the host read the log page.
    #[default]
    Idle,
    /// News, no request to tell it with yet.
    Pending,
    /// Told; more news is not told before the host has read the log page.
    Reported,
}

impl EventState {
    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Idle => next == Self::Pending,
            Self::Pending => matches!(next, Self::Reported | Self::Idle),
            Self::Reported => next == Self::Idle,
        }
    }
}

/// The held requests, oldest first, and the news.
#[derive(Debug, Default)]
pub(super) struct AsyncEvents {
    held: [u16; HELD_MAX],
    held_count: usize,
    /// Held requests to be completed as aborted, from the front.
    abort_count: usize,
    states: [EventState; EventKind::ALL.len()],
}

impl AsyncEvents {
    fn set_state(&mut self, kind: EventKind, next: EventState) {
        let state = &mut self.states[kind as usize];
        assert!(state.may_become(next), "event {kind:?} {state:?} -> {next:?}");
        *state = next;
    }

    /// Holds request `cid`; false: too many.
    pub(super) fn hold(&mut self, cid: u16) -> bool {
        if self.held_count == HELD_MAX {
            return false;
        }
        self.held[self.held_count] = cid;
        self.held_count += 1;
        true
    }

    /// Holds no request any more.
    pub(super) fn give_up(&mut self) {
        (self.held_count, self.abort_count) = (0, 0);
    }

    /// There is news.
    pub(super) fn occurred(&mut self, kind: EventKind) {
        if self.states[kind as usize] == EventState::Idle {
            self.set_state(kind, EventState::Pending);
        }
    }

    /// The host has read the log page that tells the news, without retaining the event.
    pub(super) fn cleared(&mut self, kind: EventKind) {
        if self.states[kind as usize] != EventState::Idle {
            self.set_state(kind, EventState::Idle);
        }
    }

    /// A request with which to tell news now, and the news.
    pub(super) fn report(&mut self) -> Option<(u16, EventKind)> {
        let pending = |kind: &EventKind| self.states[*kind as usize] == EventState::Pending;
        let kind = EventKind::ALL.into_iter().find(pending)?;
        let cid = self.take_oldest()?;
        self.set_state(kind, EventState::Reported);
        Some((cid, kind))
    }

    /// All requests held now must end.
    pub(super) fn abort_held(&mut self) {
        self.abort_count = self.held_count;
    }

    /// The held request `cid` must end; false: it is not held.
    pub(super) fn abort(&mut self, cid: u16) -> bool {
        let Some(at) = self.held[..self.held_count].iter().position(|&held| held == cid) else {
            return false;
        };
        if at >= self.abort_count {
            self.held[self.abort_count..=at].rotate_right(1);
            self.abort_count += 1;
        }
        true
    }

    /// A request that must end as aborted.
    pub(super) fn next_aborted(&mut self) -> Option<u16> {
        self.abort_count = self.abort_count.checked_sub(1)?;
        self.take_oldest()
    }

    /// Forgets the news.
    pub(super) fn forget(&mut self) {
        self.states = [EventState::Idle; EventKind::ALL.len()];
    }

    fn take_oldest(&mut self) -> Option<u16> {
        let cid = *self.held[..self.held_count].first()?;
        self.held.copy_within(1.., 0);
        self.held_count -= 1;
        Some(cid)
    }
}
