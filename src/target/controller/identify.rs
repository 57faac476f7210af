//! Identify (Base 2.1, section 5.1.13): answers made from the subsystem when they are asked for.
//!
//! What each CNS gets. Namespaces are neither made nor attached by hosts, so that the allocated
//! ones are those that the host sees; what is not answered belongs to something that Identify
//! Controller says is not there, and gets Invalid Field in Command.
//!
//! | CNS | what | |
//! |---|---|---|
//! | 00h, 11h | namespace | answered |
//! | 01h | controller | answered, by discovery controllers too |
//! | 02h, 10h | namespaces | answered |
//! | 03h | namespace identification descriptors | answered |
//! | 04h | NVM sets | no NVM sets (CTRATT bit 2) |
//! | 05h, 1Bh | namespace, of the NVM command set | answered |
//! | 06h | controller, of the NVM command set | answered |
//! | 07h, 1Ah | namespaces of a command set | answered |
//! | 08h, 1Fh | namespace, of no command set | answered |
//! | 09h, 0Ah | by format | formats can't be chosen (OACS bit 1) |
//! | 12h, 13h | controllers of a namespace, of the subsystem | answered |
//! | 14h, 15h | primary and secondary controllers | no virtualization (OACS bit 7) |
//! | 16h | namespace granularity | no namespace management (OACS bit 3, CTRATT bit 7) |
//! | 17h | UUIDs | no UUID list (CTRATT bit 9) |
//! | 18h | domains | one domain (CTRATT bit 11) |
//! | 19h | endurance groups | none (CTRATT bit 4) |
//! | 1Ch | command sets | answered |
//! | 1Dh, 1Eh | underlying namespaces, ports | nothing is exported by hosts (OACS bit 12) |
//! | 20h | controller state formats | no migration (OACS bit 11) |

use zerocopy::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

use super::admin::{ACL, AdminContext, AdminOutcome};
use super::async_event::AERL;
use super::error_log::ELPE;
use super::io::{
    COMPARE_AND_WRITE_BLOCKS_MAX, COPY_RANGES_MAX, DEALLOCATE_RANGE_BLOCKS_MAX, VERIFY_PAGES_SHIFT,
    WRITE_ZEROES_PAGES_SHIFT, copy_blocks_max, copy_range_blocks_max,
};
use super::{Controller, KEEP_ALIVE_GRANULARITY_MS};
use crate::limits::{IN_CAPSULE_DATA_BYTES, IO_QUEUE_DEPTH_MAX, MDTS};
use crate::target::subsystem::Namespace;
use crate::wire::nvme::feature::async_event;
use crate::wire::nvme::identify::{
    CSI_NVM, IDENTIFY_BYTES, IdentifyController, IdentifyControllerNvm, IdentifyNamespace,
    IdentifyNamespaceIndependent, NSID_BROADCAST, NSID_LIST_MAX, NamespaceDescriptorHeader, cns,
    controller, namespace, nidt,
};
use crate::wire::nvme::register::VERSION_2_0;
use crate::wire::nvme::{Sqe, Status};

/// CNTID that stands for the controller that executes the command.
const CNTID_THIS: u16 = 0xffff;

/// The command capsule in units of 16 bytes: 64-byte entry and in-capsule data.
const IOCCSZ: u32 = 516;
const MAXCMD: u16 = 128;
const KAS: u16 = 10;
/// How long a host waits for a group in transition; there is no such state here.
const ANATT_S: u8 = 10;
/// 0's based.
const ACWU: u16 = 0;
const MSRC: u8 = 127;

const _: () = {
    assert!(IOCCSZ as usize * 16 == size_of::<Sqe>() + IN_CAPSULE_DATA_BYTES);
    assert!(MAXCMD as usize == IO_QUEUE_DEPTH_MAX);
    assert!(ACWU as u32 + 1 == COMPARE_AND_WRITE_BLOCKS_MAX);
    assert!(MSRC as u16 + 1 == COPY_RANGES_MAX);
    assert!(KAS as u32 * 100 == KEEP_ALIVE_GRANULARITY_MS);
};

impl Controller {
    pub(super) fn identify(
        &mut self,
        _context: &AdminContext<'_>,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        let page = data.get_mut(..IDENTIFY_BYTES).ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        page.fill(0);
        let nsid = sqe.nsid.get();
        let nvm_only = || match sqe.identify_csi() {
            CSI_NVM => Ok(()),
            _ => Err(Status::INVALID_FIELD.dnr()),
        };
        match sqe.identify_cns() {
            cns::CONTROLLER => self.identify_controller(page),
            // A discovery controller has no namespaces to tell of.
            _ if self.is_discovery() => return Err(Status::INVALID_FIELD.dnr()),
            // Every namespace that exists is attached.
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => {
                self.fill_from(nsid, page, fill_namespace)?;
            }
            cns::INDEPENDENT_NAMESPACE | cns::INDEPENDENT_ALLOCATED_NAMESPACE => {
                self.fill_from(nsid, page, fill_independent)?;
            }
            cns::ACTIVE_NAMESPACES | cns::ALLOCATED_NAMESPACES => {
                self.active_namespaces(nsid, page)?
            }
            cns::NAMESPACE_DESCRIPTORS => {
                let namespace =
                    self.subsystem.namespace(nsid).ok_or(Status::INVALID_NAMESPACE.dnr())?;
                fill_descriptors(namespace, page);
            }
            cns::COMMAND_SET_NAMESPACE | cns::COMMAND_SET_ALLOCATED_NAMESPACE => {
                nvm_only()?;
                // All zero: no protection information, no extended formats.
                self.fill_from(nsid, page, |_, _| ())?;
            }
            cns::COMMAND_SET_CONTROLLER => {
                nvm_only()?;
                fill_nvm_controller(page);
            }
            cns::COMMAND_SET_ACTIVE_NAMESPACES | cns::COMMAND_SET_ALLOCATED_NAMESPACES => {
                nvm_only()?;
                self.active_namespaces(nsid, page)?;
            }
            cns::ATTACHED_CONTROLLERS => {
                if nsid == NSID_BROADCAST {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                self.check_nsid(nsid)?;
                let from = sqe.identify_cntid();
                return Ok(AdminOutcome::ControllerList { nsid: Some(nsid), from });
            }
            cns::CONTROLLERS => {
                return Ok(AdminOutcome::ControllerList { nsid: None, from: sqe.identify_cntid() });
            }
            cns::COMMAND_SETS => {
                let cntid = sqe.identify_cntid();
                if cntid != CNTID_THIS && cntid != self.cntlid {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                // Vector 0 is the only combination: bit CSI_NVM.
                page[0] = 1 << CSI_NVM;
            }
            // What the module's text has as not there, and what nobody knows.
            _ => return Err(Status::INVALID_FIELD.dnr()),
        }
        Ok(AdminOutcome::data(IDENTIFY_BYTES))
    }

    /// Fills the page for an active namespace, leaves it zero for an inactive one, and refuses an
    /// NSID that no namespace can have.
    fn fill_from(
        &self,
        nsid: u32,
        page: &mut [u8],
        fill: fn(&Namespace, &mut [u8]),
    ) -> Result<(), Status> {
        self.check_nsid(nsid)?;
        if let Some(namespace) = self.subsystem.namespace(nsid) {
            // Without ANA there are no groups.
            let anagrpid = if self.subsystem.ana_reporting() { namespace.anagrpid } else { 0 };
            fill(&Namespace { anagrpid, ..*namespace }, page);
        }
        Ok(())
    }

    /// Refuses what no namespace can have.
    fn check_nsid(&self, nsid: u32) -> Result<(), Status> {
        let valid = 1..=self.subsystem.max_namespaces();
        if valid.contains(&nsid) { Ok(()) } else { Err(Status::INVALID_NAMESPACE.dnr()) }
    }

    /// The namespaces above `after`, ascending.
    fn active_namespaces(&self, after: u32, page: &mut [u8]) -> Result<(), Status> {
        // FFFFFFFEh and FFFFFFFFh are no NSIDs to start from (Base 2.1, section 5.1.13.2.2).
        if after >= NSID_BROADCAST - 1 {
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        let above = self.subsystem.namespaces().filter(|namespace| namespace.nsid > after);
        for (namespace, entry) in above.take(NSID_LIST_MAX).zip(page.chunks_exact_mut(4)) {
            entry.copy_from_slice(&namespace.nsid.to_le_bytes());
        }
        Ok(())
    }

    fn identify_controller(&mut self, page: &mut [u8]) {
        let mut answer = IdentifyController::new_zeroed();
        let subsystem = &self.subsystem;
        answer.sn = padded(subsystem.serial());
        answer.mn = padded(subsystem.model());
        answer.fr = padded(env!("CARGO_PKG_VERSION"));
        answer.mdts = MDTS;
        answer.cntlid.set(self.cntlid);
        answer.ver.set(VERSION_2_0);
        answer.ctratt.set(controller::CTRATT_HOST_ID_128 | controller::CTRATT_TBKAS);
        answer.aerl = AERL;
        answer.elpe = ELPE;
        answer.frmw = controller::FRMW_ONE_READ_ONLY_SLOT;
        answer.kas.set(KAS);
        answer.maxcmd.set(MAXCMD);
        answer.sgls.set(controller::SGLS_FABRICS);
        answer.subnqn = subsystem.nqn().to_field();
        answer.ioccsz.set(IOCCSZ);
        answer.iorcsz.set(1);
        answer.msdbd = 1;
        answer.lpa = controller::LPA_EXTENDED_DATA;
        if self.is_discovery() {
            answer.cntrltype = controller::CNTRLTYPE_DISCOVERY;
            answer.dctype = controller::DCTYPE_DIRECT;
            answer.oaes.set(async_event::DISCOVERY_LOG);
        } else {
            self.identify_io_controller(&mut answer);
        }
        page.copy_from_slice(answer.as_bytes());
    }

    /// The fields that only a controller with namespaces has.
    fn identify_io_controller(&mut self, answer: &mut IdentifyController) {
        let cache = self.has_volatile_write_cache();
        // From here on the host knows that it has to flush, or that it need not.
        self.vwc_advertised = cache;
        answer.rab = 6;
        answer.cmic = controller::CMIC_MULTI_PORT_CONTROLLER;
        answer.oaes.set(async_event::NAMESPACE_ATTRIBUTE);
        if self.subsystem.ana_reporting() {
            let groups = self.subsystem.max_namespaces();
            answer.cmic |= controller::CMIC_ANA_REPORTING;
            answer.oaes.set(async_event::NAMESPACE_ATTRIBUTE | async_event::ANA_CHANGE);
            answer.anatt = ANATT_S;
            answer.anacap = controller::ANACAP_THREE_STATES;
            answer.anagrpmax.set(groups);
            answer.nanagrpid.set(groups);
        }
        answer.cntrltype = controller::CNTRLTYPE_IO;
        answer.ctratt.set(answer.ctratt.get() | controller::CTRATT_RHII);
        answer.acl = ACL;
        answer.lpa |= controller::LPA_EFFECTS;
        answer.sqes = 0x66;
        answer.cqes = 0x44;
        answer.nn.set(self.subsystem.max_namespaces());
        answer.mnan.set(self.subsystem.max_namespaces());
        answer.oncs.set(self.oncs());
        answer.fuses.set(controller::FUSES_COMPARE_AND_WRITE);
        answer.acwu.set(ACWU);
        answer.cdfs.set(controller::CDFS_FORMAT_0);
        answer.vwc =
            controller::VWC_NO_BROADCAST_FLUSH | if cache { controller::VWC_PRESENT } else { 0 };
    }

    /// A namespace has a cache that a flush must empty.
    pub(super) fn has_volatile_write_cache(&self) -> bool {
        self.subsystem.namespaces().any(|namespace| namespace.volatile_write_cache)
    }

    pub(super) fn oncs(&self) -> u16 {
        let deallocates = self.subsystem.namespaces().any(|namespace| namespace.unmap);
        let mut oncs = controller::ONCS_COMPARE
            | controller::ONCS_WRITE_ZEROES
            | controller::ONCS_FEATURE_SELECT
            | controller::ONCS_VERIFY
            | controller::ONCS_RESERVATIONS
            | controller::ONCS_COPY;
        if deallocates {
            oncs |= controller::ONCS_DATASET_MANAGEMENT;
        }
        oncs
    }
}

/// ASCII text in a space padded field, cut at its end.
pub(super) fn padded<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut field = [b' '; LEN];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    field
}

fn fill_namespace(namespace: &Namespace, page: &mut [u8]) {
    let mut answer = IdentifyNamespace::new_zeroed();
    answer.nsze.set(namespace.blocks);
    answer.ncap.set(namespace.blocks);
    answer.nuse.set(namespace.blocks);
    answer.nmic = namespace::NMIC_SHARED;
    answer.rescap = reservation_capabilities(namespace);
    answer.anagrpid.set(namespace.anagrpid);
    if namespace.unmap {
        answer.dlfeat = namespace::DLFEAT_ZEROES_DEAC;
    }
    let bytes = u128::from(namespace.blocks) << namespace.block_shift;
    answer.nvmcap = bytes.to_le_bytes();
    fill_preferences(namespace, &mut answer);
    answer.mssrl.set(copy_range_blocks_max(namespace.block_shift));
    answer.mcl.set(copy_blocks_max(namespace.block_shift));
    answer.msrc = MSRC;
    answer.nguid = namespace.nguid;
    answer.eui64 = namespace.eui64;
    answer.lbaf[0].lbads = namespace.block_shift;
    page.copy_from_slice(answer.as_bytes());
}

/// What the bdev likes best. A host takes the write granularity for its physical block size, so it
/// is one block unless smaller writes have to read first.
fn fill_preferences(namespace: &Namespace, answer: &mut IdentifyNamespace) {
    let zero_based = |blocks: u32| u16::try_from(blocks.saturating_sub(1)).unwrap_or(0);
    let write = zero_based(namespace.write_unit_blocks);
    let unmap = zero_based(namespace.unmap_unit_blocks);
    let optimal = u16::try_from(namespace.optimal_io_blocks.saturating_sub(1)).unwrap_or(u16::MAX);
    if write != 0 || unmap != 0 || optimal != 0 {
        answer.nsfeat = namespace::NSFEAT_OPTIMAL_PERFORMANCE;
        // NPWG, NPWA, NPDG, NPDA.
        answer.preferred = [write, write, unmap, unmap].map(U16::new);
        answer.nows.set(optimal);
    }
    // A boundary that 16 bits cannot hold is no boundary for commands of MDTS.
    answer.noiob.set(u16::try_from(namespace.io_boundary_blocks).unwrap_or(0));
}

fn reservation_capabilities(namespace: &Namespace) -> u8 {
    let persist = if namespace.persistent_reservations { namespace::RESCAP_PERSIST } else { 0 };
    namespace::RESCAP_ALL_TYPES | persist
}

fn fill_independent(namespace: &Namespace, page: &mut [u8]) {
    let mut answer = IdentifyNamespaceIndependent::new_zeroed();
    if !namespace.volatile_write_cache {
        answer.nsfeat = namespace::NSFEAT_NO_VOLATILE_WRITE_CACHE;
    }
    answer.nmic = namespace::NMIC_SHARED;
    answer.rescap = reservation_capabilities(namespace);
    answer.anagrpid.set(namespace.anagrpid);
    answer.nstat = namespace::NSTAT_READY;
    page.copy_from_slice(answer.as_bytes());
}

fn fill_nvm_controller(page: &mut [u8]) {
    let mut answer = IdentifyControllerNvm::new_zeroed();
    answer.vsl = VERIFY_PAGES_SHIFT;
    answer.wzsl = WRITE_ZEROES_PAGES_SHIFT;
    answer.dmrsl.set(DEALLOCATE_RANGE_BLOCKS_MAX);
    page.copy_from_slice(answer.as_bytes());
}

fn fill_descriptors(namespace: &Namespace, page: &mut [u8]) {
    let mut at = 0;
    let mut add = |nidt: u8, id: &[u8]| {
        let nidl = u8::try_from(id.len()).expect("ids have 16 bytes at most");
        let header = NamespaceDescriptorHeader { nidt, nidl, reserved2: [0; 2] };
        let size = size_of_val(&header);
        page[at..at + size].copy_from_slice(header.as_bytes());
        page[at + size..at + size + id.len()].copy_from_slice(id);
        at += size + id.len();
    };
    if namespace.eui64 != [0; 8] {
        add(nidt::EUI64, &namespace.eui64);
    }
    if namespace.nguid != [0; 16] {
        add(nidt::NGUID, &namespace.nguid);
    }
    if !namespace.uuid.is_nil() {
        add(nidt::UUID, namespace.uuid.as_bytes());
    }
    add(nidt::CSI, &[CSI_NVM]);
}
