//! The discovery log page (Base 2.1, section 5.1.12.3.1): one record for each address of each
//! subsystem that the host may use.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use zerocopy::{FromZeros, IntoBytes};

use super::Controller;
use super::log_page::Window;
use crate::limits::ADMIN_QUEUE_DEPTH_MAX;
use crate::target::subsystem::{Nqn, Subsystem, SubsystemKind, SubsystemTable};
use crate::wire::fabrics::CNTLID_DYNAMIC;
use crate::wire::nvme::log_page::{DiscoveryEntry, DiscoveryHeader};

const HEADER_BYTES: u64 = size_of::<DiscoveryHeader>() as u64;
const ENTRY_BYTES: u64 = size_of::<DiscoveryEntry>() as u64;
const ASQSZ: u16 = 128;
const _: () = assert!(ASQSZ as usize == ADMIN_QUEUE_DEPTH_MAX);

impl Controller {
    /// Addresses and subsystems of the log, with the listener's number within its subsystem.
    fn records<'a>(
        &'a self,
        table: &'a SubsystemTable,
    ) -> impl Iterator<Item = (&'a Subsystem, u16, SocketAddr)> {
        table.subsystems().iter().filter(|subsystem| subsystem.allows(&self.hostnqn)).flat_map(
            |subsystem| {
                (1..).zip(subsystem.listeners()).map(|(port, at)| (subsystem.as_ref(), port, *at))
            },
        )
    }

    fn record_count(&self, table: &SubsystemTable) -> u64 {
        let records = self.records(table).count() + table.referrals().len();
        u64::try_from(records).expect("usize has at most 64 bits")
    }

    pub(super) fn discovery_log_bytes(&self, table: &SubsystemTable) -> u64 {
        HEADER_BYTES + self.record_count(table) * ENTRY_BYTES
    }

    pub(super) fn discovery_log(&self, table: &SubsystemTable, window: &mut Window<'_>) {
        let mut header = DiscoveryHeader::new_zeroed();
        header.genctr.set(table.generation());
        header.numrec.set(self.record_count(table));
        window.put(0, header.as_bytes());
        let mut at = HEADER_BYTES;
        for (subsystem, port, address) in self.records(table) {
            if window.wants(at, size_of::<DiscoveryEntry>()) {
                let is_secure = subsystem.is_secure(address);
                let address = reachable(address, self.local_address);
                let mut entry = entry(port, address, subsystem.nqn());
                let keys = subsystem.keys_of(&self.hostnqn);
                if is_secure {
                    entry.treq = DiscoveryEntry::TREQ_SECURE_CHANNEL_NO_FLOW_CONTROL;
                    entry.tsas[0] = DiscoveryEntry::SECTYPE_TLS_1_3;
                } else if keys.is_some_and(|keys| keys.must_concatenate()) {
                    // It comes in the clear first, then under TLS. A host that may do without is
                    // told nothing: it would take this for a demand.
                    entry.treq = DiscoveryEntry::TREQ_SECURE_CHANNEL_POSSIBLE_NO_FLOW_CONTROL;
                    entry.tsas[0] = DiscoveryEntry::SECTYPE_TLS_1_3;
                }
                match subsystem.kind() {
                    SubsystemKind::Nvm => entry.subtype = DiscoveryEntry::SUBTYPE_NVM,
                    SubsystemKind::Discovery => {
                        entry.subtype = DiscoveryEntry::SUBTYPE_CURRENT_DISCOVERY;
                        entry.eflags.set(DiscoveryEntry::EFLAGS_EPCSD);
                    }
                }
                window.put(at, entry.as_bytes());
            }
            at += ENTRY_BYTES;
        }
        for referral in table.referrals() {
            if window.wants(at, size_of::<DiscoveryEntry>()) {
                let mut entry = entry(0, referral.address, &referral.subnqn);
                entry.subtype = DiscoveryEntry::SUBTYPE_REFERRAL;
                window.put(at, entry.as_bytes());
            }
            at += ENTRY_BYTES;
        }
    }
}

/// A host cannot connect to a wildcard: it is told the address at which it reached us, if that is
/// of the same family.
fn reachable(listener: SocketAddr, local: SocketAddr) -> SocketAddr {
    let local_ip = local.ip().to_canonical();
    if listener.ip().is_unspecified() && (listener.is_ipv6() || local_ip.is_ipv4()) {
        SocketAddr::new(local_ip, listener.port())
    } else {
        listener
    }
}

/// A record without its subsystem type.
fn entry(port: u16, address: SocketAddr, subnqn: &Nqn) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = DiscoveryEntry::TRTYPE_TCP;
    entry.adrfam = match address.ip() {
        IpAddr::V4(_) => DiscoveryEntry::ADRFAM_IPV4,
        IpAddr::V6(_) => DiscoveryEntry::ADRFAM_IPV6,
    };
    entry.treq = DiscoveryEntry::TREQ_UNSPECIFIED_NO_FLOW_CONTROL;
    entry.portid.set(port);
    entry.cntlid.set(CNTLID_DYNAMIC);
    entry.asqsz.set(ASQSZ);
    entry.subnqn = subnqn.to_field();
    Padded::fill(&mut entry.trsvcid, format_args!("{}", address.port()));
    Padded::fill(&mut entry.traddr, format_args!("{}", address.ip()));
    entry
}

/// Text in a space padded field, without an allocation.
struct Padded<'a>(&'a mut [u8]);

impl<'a> Padded<'a> {
    fn fill(field: &'a mut [u8], text: fmt::Arguments<'_>) {
        field.fill(b' ');
        Self(field).write_fmt(text).expect("addresses are shorter than their fields");
    }
}

impl Write for Padded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let (head, tail) =
            std::mem::take(&mut self.0).split_at_mut_checked(text.len()).ok_or(fmt::Error)?;
        head.copy_from_slice(text.as_bytes());
        self.0 = tail;
        Ok(())
    }
}
