//! Asynchronous event requests (Base 2.1, section 5.1.2): held until there is news.
//!
//! A controller has one kind of news: an I/O controller that namespaces changed, a discovery
//! controller that its log page changed.

/// Requests that may be outstanding: AERL + 1.
pub(super) const HELD_MAX: usize = 4;

/// Identify's AERL, 0's based.
pub(super) const AERL: u8 = 3;
const _: () = assert!(AERL as usize + 1 == HELD_MAX);

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
    state: EventState,
}

impl AsyncEvents {
    fn set_state(&mut self, next: EventState) {
        assert!(self.state.may_become(next), "event {:?} -> {next:?}", self.state);
        self.state = next;
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

    /// There is news.
    pub(super) fn occurred(&mut self) {
        if self.state == EventState::Idle {
            self.set_state(EventState::Pending);
        }
    }

    /// The host has read the log page that tells the news, without retaining the event.
    pub(super) fn cleared(&mut self) {
        if self.state != EventState::Idle {
            self.set_state(EventState::Idle);
        }
    }

    /// A request with which to tell the news now.
    pub(super) fn report(&mut self) -> Option<u16> {
        if self.state != EventState::Pending {
            return None;
        }
        let cid = self.take_oldest()?;
        self.set_state(EventState::Reported);
        Some(cid)
    }

    /// All requests held now must end.
    pub(super) fn abort_held(&mut self) {
        self.abort_count = self.held_count;
    }

    /// A request that must end as aborted.
    pub(super) fn next_aborted(&mut self) -> Option<u16> {
        self.abort_count = self.abort_count.checked_sub(1)?;
        self.take_oldest()
    }

    /// Forgets the news.
    pub(super) fn forget(&mut self) {
        self.cleared();
    }

    fn take_oldest(&mut self) -> Option<u16> {
        let cid = *self.held[..self.held_count].first()?;
        self.held.copy_within(1.., 0);
        self.held_count -= 1;
        Some(cid)
    }
}
