//! The Reservation Notification log (Base 2.1, section 5.1.12.1.32): a page a notice, oldest first.

use zerocopy::{FromZeros, IntoBytes};

use super::log_page::Window;
use crate::target::reservation::NoticeKind;
use crate::wire::nvme::reservation::ReservationNotification;

/// Pages that are kept. Of more only the number is known.
const PAGES_MAX: usize = 64;

/// The log of one controller.
#[derive(Debug, Default)]
pub(super) struct NoticeLog {
    pages: Vec<(u32, NoticeKind)>,
    /// Notices so far: the number of the newest page. 0 is skipped when it wraps.
    count: u64,
}

impl NoticeLog {
    /// Keeps a notice; false: there is no room.
    pub(super) fn add(&mut self, nsid: u32, kind: NoticeKind) -> bool {
        if self.pages.len() >= PAGES_MAX {
            return false;
        }
        self.count += 1;
        self.pages.push((nsid, kind));
        true
    }

    /// The page that a host reads now: the oldest, or one that says that there is none.
    pub(super) fn fill(&self, window: &mut Window<'_>) {
        let mut page = ReservationNotification::new_zeroed();
        if let Some(&(nsid, kind)) = self.pages.first() {
            let behind = self.pages.len() - 1;
            page.count.set(self.count - u64::try_from(behind).expect("few pages"));
            page.kind = kind as u8;
            page.available = u8::try_from(behind).expect("few pages");
            page.nsid.set(nsid);
        }
        window.put(0, page.as_bytes());
    }

    /// The host has read the oldest page; says whether there is another.
    pub(super) fn take_oldest(&mut self) -> bool {
        if !self.pages.is_empty() {
            self.pages.remove(0);
        }
        !self.pages.is_empty()
    }
}
