//! Get Log Page (Base 2.1, section 5.1.12). A page is written through a [`Window`], the part of it
//! that the host asked for, so that no page is ever built as a whole.

use zerocopy::{FromZeros, IntoBytes};

use super::admin::{AdminContext, AdminOutcome, COMMANDS};
use super::async_event::EventKind;
use super::error_log::ENTRIES_MAX;
use super::features::FEATURES;
use super::identify::padded;
use super::{Controller, NamespaceSet, ana};
use crate::wire::nvme::identify::{CSI_NVM, NSID_BROADCAST, controller};
use crate::wire::nvme::log_page::{
    CHANGED_NAMESPACES_MAX, ERROR_ENTRY_BYTES, EffectsLog, FirmwareSlotLog, GetLogPage,
    ID_LIST_BYTES, SMART_WARNING_RELIABILITY, SmartLog, effects, id_list, lid, smart,
};
use crate::wire::nvme::opcode::nvm;
use crate::wire::nvme::reservation::ReservationNotification;
use crate::wire::nvme::{Sqe, Status};

/// The bytes `offset..offset + out.len()` of a log page.
pub(super) struct Window<'a> {
    offset: u64,
    out: &'a mut [u8],
}

impl<'a> Window<'a> {
    /// A zeroed window.
    pub(super) fn new(offset: u64, out: &'a mut [u8]) -> Self {
        out.fill(0);
        Self { offset, out }
    }

    /// Whether any of `len` bytes at `at` of the page are wanted.
    pub(super) fn wants(&self, at: u64, len: usize) -> bool {
        let end = self.offset.saturating_add(to_u64(self.out.len()));
        at < end && at.saturating_add(to_u64(len)) > self.offset
    }

    /// Writes the wanted part of `bytes`, which lie at `at` of the page.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        if !self.wants(at, bytes.len()) {
            return;
        }
        let skip = to_usize(self.offset.saturating_sub(at));
        let start = to_usize(at.saturating_sub(self.offset));
        for (to, from) in self.out[start..].iter_mut().zip(&bytes[skip..]) {
            *to = *from;
        }
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("usize has at most 64 bits")
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).expect("within a window or a structure")
}

/// SMART's unit of data: a thousand 512-byte units, rounded up.
const DATA_UNIT_BYTES: u64 = 512_000;
const MS_PER_HOUR: u64 = 3_600_000;

/// The log pages of an I/O controller and of a discovery controller.
const IO_PAGES: [u8; 9] = [
    lid::SUPPORTED_LOG_PAGES,
    lid::ERROR_INFORMATION,
    lid::SMART_HEALTH,
    lid::FIRMWARE_SLOT,
    lid::CHANGED_NAMESPACES,
    lid::COMMANDS_SUPPORTED,
    lid::ANA,
    lid::FEATURES_SUPPORTED,
    lid::RESERVATION,
];
const DISCOVERY_PAGES: [u8; 5] = [
    lid::SUPPORTED_LOG_PAGES,
    lid::ERROR_INFORMATION,
    lid::SMART_HEALTH,
    lid::FEATURES_SUPPORTED,
    lid::DISCOVERY,
];

impl Controller {
    fn log_pages(&self) -> &'static [u8] {
        if self.is_discovery() { &DISCOVERY_PAGES } else { &IO_PAGES }
    }

    pub(super) fn get_log_page(
        &mut self,
        context: &AdminContext<'_>,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        let command = GetLogPage::parse(sqe);
        let has_ana = self.subsystem.ana_reporting();
        if !self.log_pages().contains(&command.lid) || command.lid == lid::ANA && !has_ana {
            return Err(Status::INVALID_LOG_PAGE.dnr());
        }
        if command.offset_is_index || !command.offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        // The engine's buffer is as long as the host's, or as the largest transfer: what does
        // not fit was asked for wrongly.
        let len = usize::try_from(command.len_bytes)
            .ok()
            .filter(|&len| len <= crate::limits::TRANSFER_SIZE_BYTES_MAX)
            .ok_or(Status::INVALID_FIELD.dnr())?;
        let out = data.get_mut(..len).ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        if command.offset > self.log_page_bytes(context, command.lid) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let mut window = Window::new(command.offset, out);
        match command.lid {
            lid::SUPPORTED_LOG_PAGES => self.supported_log_pages(&mut window),
            lid::ERROR_INFORMATION => self.errors.fill(&mut window),
            lid::SMART_HEALTH => self.smart(sqe.nsid.get(), context.up_ms, &mut window)?,
            lid::FIRMWARE_SLOT => firmware_slot(&mut window),
            lid::CHANGED_NAMESPACES => {
                changed_namespaces(&self.changed_namespaces, &mut window);
                if !command.retain_event {
                    self.changed_namespaces = NamespaceSet::default();
                }
            }
            lid::ANA => self.ana_log(command.lsp & ana::GROUPS_ONLY != 0, &mut window),
            lid::RESERVATION => self.notices.fill(&mut window),
            lid::COMMANDS_SUPPORTED if command.csi == CSI_NVM => self.effects(&mut window),
            lid::COMMANDS_SUPPORTED => return Err(Status::INVALID_FIELD.dnr()),
            lid::FEATURES_SUPPORTED => self.supported_features(&mut window),
            lid::DISCOVERY => self.discovery_log(context.table, &mut window),
            lid => unreachable!("log page {lid:#x} is in the list, but nobody makes it"),
        }
        if let Some(kind) = EventKind::of_log(command.lid)
            && !command.retain_event
        {
            self.events.cleared(kind);
            if kind == EventKind::Reservation && self.notices.take_oldest() {
                // There is another page, of which the host does not know.
                self.events.occurred(kind);
            }
        }
        Ok(AdminOutcome::data(len))
    }

    fn log_page_bytes(&self, context: &AdminContext<'_>, lid: u8) -> u64 {
        to_u64(match lid {
            lid::SUPPORTED_LOG_PAGES | lid::FEATURES_SUPPORTED => ID_LIST_BYTES,
            lid::ERROR_INFORMATION => ENTRIES_MAX * ERROR_ENTRY_BYTES,
            lid::SMART_HEALTH => size_of::<SmartLog>(),
            lid::FIRMWARE_SLOT => size_of::<FirmwareSlotLog>(),
            lid::CHANGED_NAMESPACES => CHANGED_NAMESPACES_MAX * 4,
            lid::COMMANDS_SUPPORTED => size_of::<EffectsLog>(),
            lid::RESERVATION => size_of::<ReservationNotification>(),
            lid::ANA => return self.ana_log_bytes(),
            _ => return self.discovery_log_bytes(context.table),
        })
    }

    fn supported_log_pages(&self, window: &mut Window<'_>) {
        let has_ana = self.subsystem.ana_reporting();
        for &lid in self.log_pages().iter().filter(|&&lid| lid != lid::ANA || has_ana) {
            window.put(u64::from(lid) * 4, &id_list::SUPPORTED.to_le_bytes());
        }
    }

    fn supported_features(&self, window: &mut Window<'_>) {
        for feature in FEATURES.iter().filter(|known| known.discovery || !self.is_discovery()) {
            let scope = if feature.namespace_specific {
                id_list::SCOPE_NAMESPACE
            } else {
                id_list::SCOPE_CONTROLLER
            };
            let dword = id_list::SUPPORTED | scope;
            window.put(u64::from(feature.fid) * 4, &dword.to_le_bytes());
        }
    }

    fn effects(&self, window: &mut Window<'_>) {
        let mut log = EffectsLog::new_zeroed();
        for command in &COMMANDS {
            log.acs[usize::from(command.opcode)].set(effects::CSUPP);
        }
        let writes = effects::CSUPP | effects::LBCC;
        log.iocs[usize::from(nvm::FLUSH)].set(effects::CSUPP);
        log.iocs[usize::from(nvm::WRITE)].set(writes);
        log.iocs[usize::from(nvm::READ)].set(effects::CSUPP);
        log.iocs[usize::from(nvm::WRITE_ZEROES)].set(writes);
        if self.oncs() & controller::ONCS_DATASET_MANAGEMENT != 0 {
            log.iocs[usize::from(nvm::DATASET_MANAGEMENT)].set(writes);
        }
        log.iocs[usize::from(nvm::COMPARE)].set(effects::CSUPP);
        log.iocs[usize::from(nvm::VERIFY)].set(effects::CSUPP);
        log.iocs[usize::from(nvm::COPY)].set(writes);
        for opcode in [
            nvm::RESERVATION_REGISTER,
            nvm::RESERVATION_REPORT,
            nvm::RESERVATION_ACQUIRE,
            nvm::RESERVATION_RELEASE,
        ] {
            log.iocs[usize::from(opcode)].set(effects::CSUPP);
        }
        window.put(0, log.as_bytes());
    }

    /// A target has no flash to wear: what is not measured reads zero.
    fn smart(&self, nsid: u32, up_ms: u64, window: &mut Window<'_>) -> Result<(), Status> {
        // LPA bit 0 is zero: there is one log for the controller, none for a namespace.
        if nsid != 0 && nsid != NSID_BROADCAST {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let traffic = self.traffic.totals();
        let mut log = SmartLog::new_zeroed();
        if self.is_degraded() {
            log.critical_warning = SMART_WARNING_RELIABILITY;
        }
        log.available_spare = 100;
        for (counter, value) in [
            (smart::DATA_UNITS_READ, traffic.read_bytes.div_ceil(DATA_UNIT_BYTES)),
            (smart::DATA_UNITS_WRITTEN, traffic.written_bytes.div_ceil(DATA_UNIT_BYTES)),
            (smart::HOST_READ_COMMANDS, traffic.read_commands),
            (smart::HOST_WRITE_COMMANDS, traffic.written_commands),
            (smart::POWER_CYCLES, 1),
            (smart::POWER_ON_HOURS, up_ms / MS_PER_HOUR),
            (smart::MEDIA_ERRORS, traffic.media_errors),
            (smart::ERROR_LOG_ENTRIES, self.errors.count()),
        ] {
            log.counters[counter] = u128::from(value).to_le_bytes();
        }
        window.put(0, log.as_bytes());
        Ok(())
    }
}

fn firmware_slot(window: &mut Window<'_>) {
    let mut log = FirmwareSlotLog::new_zeroed();
    log.afi = 1;
    log.frs[0] = padded(env!("CARGO_PKG_VERSION"));
    window.put(0, log.as_bytes());
}

fn changed_namespaces(changed: &NamespaceSet, window: &mut Window<'_>) {
    let mut at = 0;
    for (nsid, index) in (1_u32..).zip(0..changed.len() * 64) {
        if changed[index / 64] >> (index % 64) & 1 != 0 {
            window.put(at, &nsid.to_le_bytes());
            at += 4;
        }
    }
}
