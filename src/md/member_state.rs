//! What a member's own superblock says that it is to the array.

use super::types::{Features, Level, Role};
use super::{MAX_SECTOR, Superblock};

/// The part of a member, with how far it got. What the other members say may overrule it: see
/// [`super::assemble`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Has all data of its slot, but what the bitmap doubts.
    InSync {
        /// Its slot.
        slot: u16,
    },
    /// Is being rebuilt.
    Rebuilding {
        /// Its slot.
        slot: u16,
        /// Member sectors that are done.
        done_sectors: u64,
        /// The bitmap tells what was missed, so that a restart may go on with it; otherwise all
        /// that was ever written is missing behind `done_sectors`.
        bitmap_guided: bool,
    },
    /// Is being filled to take the place of the member in the same slot, which serves on.
    Replacing {
        /// The slot of both.
        slot: u16,
        /// Member sectors that are done.
        done_sectors: u64,
    },
    /// raid4/5/6: chosen by the kernel to have the parity of chunks built that were never synced.
    /// All that the bitmap does not doubt is in order. (The kernel marks it as being rebuilt with
    /// all sectors done, and after a crash takes it for in sync without looking at the bitmap.)
    ParityPending {
        /// Its slot.
        slot: u16,
    },
    /// Waits to fill a slot.
    Spare,
    /// Failed.
    Faulty,
    /// Holds the write journal.
    Journal {
        /// Where the log begins, in sectors from the start of its data area.
        tail_sectors: u64,
    },
}

impl Superblock {
    /// What this member says that it is.
    #[must_use]
    pub fn member_state(&self) -> MemberState {
        let slot = match self.own_role() {
            Role::Active(slot) => slot,
            Role::Spare => return MemberState::Spare,
            Role::Faulty => return MemberState::Faulty,
            Role::Journal => {
                return MemberState::Journal { tail_sectors: self.recovery_offset_sectors };
            }
        };
        let has = |feature| self.features.contains(feature);
        let done_sectors = self.recovery_offset_sectors;
        let is_parity = matches!(self.level, Level::Raid4 | Level::Raid5 | Level::Raid6);
        if has(Features::REPLACEMENT) {
            // A replacement that does not say how far it is, is whole.
            let whole = if has(Features::RECOVERY_OFFSET) { done_sectors } else { MAX_SECTOR };
            MemberState::Replacing { slot, done_sectors: whole }
        } else if !has(Features::RECOVERY_OFFSET) {
            MemberState::InSync { slot }
        } else if is_parity && done_sectors == MAX_SECTOR {
            MemberState::ParityPending { slot }
        } else {
            let bitmap_guided = has(Features::RECOVERY_BITMAP);
            MemberState::Rebuilding { slot, done_sectors, bitmap_guided }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::md::tests::sample;

    #[test]
    fn features_and_roles_make_the_state() {
        let with = |level, features, recovery_offset_sectors, role| {
            let mut superblock = Superblock { level, recovery_offset_sectors, ..sample() };
            superblock.features |= features;
            superblock.set_role(superblock.dev_number, role);
            superblock.member_state()
        };
        let (here, none) = (Role::Active(1), Features::empty());
        let rebuilding = Features::RECOVERY_OFFSET;
        assert_eq!(with(Level::Raid1, none, 77, here), MemberState::InSync { slot: 1 });
        let state = with(Level::Raid1, rebuilding, 77, here);
        let expected = MemberState::Rebuilding { slot: 1, done_sectors: 77, bitmap_guided: false };
        assert_eq!(state, expected);
        let guided = rebuilding | Features::RECOVERY_BITMAP;
        let expected = MemberState::Rebuilding { slot: 1, done_sectors: 0, bitmap_guided: true };
        assert_eq!(with(Level::Raid5, guided, 0, here), expected);
        let pending = MemberState::ParityPending { slot: 1 };
        assert_eq!(with(Level::Raid5, rebuilding, MAX_SECTOR, here), pending);
        let replacing = rebuilding | Features::REPLACEMENT;
        let expected = MemberState::Replacing { slot: 1, done_sectors: 5 };
        assert_eq!(with(Level::Raid1, replacing, 5, here), expected);
        let whole = MemberState::Replacing { slot: 1, done_sectors: MAX_SECTOR };
        assert_eq!(with(Level::Raid1, Features::REPLACEMENT, 5, here), whole);
        assert_eq!(with(Level::Raid1, rebuilding, 5, Role::Spare), MemberState::Spare);
        assert_eq!(with(Level::Raid1, none, 0, Role::Faulty), MemberState::Faulty);
        let journal = MemberState::Journal { tail_sectors: 8 };
        assert_eq!(with(Level::Raid5, none, 8, Role::Journal), journal);
    }
}
