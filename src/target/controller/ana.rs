//! The Asymmetric Namespace Access log page (Base 2.1, section 5.1.12.1.13).

use zerocopy::{FromZeros, IntoBytes};

use super::Controller;
use super::log_page::Window;
use crate::target::subsystem::Namespace;
use crate::wire::nvme::log_page::{AnaGroup, AnaHeader};

/// Log Specific Parameter bit 0: Return Groups Only.
pub(super) const GROUPS_ONLY: u8 = 1;

const HEADER_BYTES: u64 = size_of::<AnaHeader>() as u64;
const GROUP_BYTES: u64 = size_of::<AnaGroup>() as u64;

impl Controller {
    /// Groups that have a namespace, ascending, each with its first namespace.
    fn ana_groups(&self) -> impl Iterator<Item = &Namespace> {
        (1..=self.subsystem.max_namespaces())
            .filter_map(|group| self.subsystem.namespaces().find(|one| one.anagrpid == group))
    }

    fn members_of(&self, group: u32) -> impl Iterator<Item = u32> {
        self.subsystem.namespaces().filter(move |one| one.anagrpid == group).map(|one| one.nsid)
    }

    pub(super) fn ana_log_bytes(&self) -> u64 {
        let groups = u64::try_from(self.ana_groups().count()).expect("few groups");
        let members = u64::try_from(self.subsystem.namespaces().count()).expect("few namespaces");
        HEADER_BYTES + groups * GROUP_BYTES + members * 4
    }

    pub(super) fn ana_log(&self, groups_only: bool, window: &mut Window<'_>) {
        let mut header = AnaHeader::new_zeroed();
        header.change_count.set(self.ana_changes);
        header.groups.set(u16::try_from(self.ana_groups().count()).expect("few groups"));
        window.put(0, header.as_bytes());
        let mut at = HEADER_BYTES;
        for first in self.ana_groups() {
            let group = first.anagrpid;
            let members = if groups_only { 0 } else { self.members_of(group).count() };
            let mut descriptor = AnaGroup::new_zeroed();
            descriptor.agid.set(group);
            descriptor.namespaces.set(u32::try_from(members).expect("few namespaces"));
            descriptor.change_count.set(self.ana_changes);
            descriptor.state = first.ana as u8;
            window.put(at, descriptor.as_bytes());
            at += GROUP_BYTES;
            for nsid in self.members_of(group).take(members) {
                window.put(at, &nsid.to_le_bytes());
                at += 4;
            }
        }
    }
}
