//! Get and Set Features (Base 2.1, sections 5.1.11 and 5.1.25; NVM 1.1, section 4.1.3).

use super::Controller;
use super::admin::{AdminContext, AdminOutcome};
use super::async_event::EventKind;
use super::connect::IO_QUEUES_MAX;
use crate::bdev::BdevId;
use crate::limits::NAMESPACES_MAX;
use crate::target::reservation::{NoticeKind, ReservationCommand};
use crate::wire::nvme::feature::{Select, async_event, capability, fid, host_behavior};
use crate::wire::nvme::identify::NSID_BROADCAST;
use crate::wire::nvme::{Sqe, Status};

/// A supported feature.
#[derive(Debug)]
pub(super) struct Feature {
    pub(super) fid: u8,
    /// Dword 0 after a reset. The three whose value is kept elsewhere say 0.
    default: u32,
    changeable: bool,
    pub(super) namespace_specific: bool,
    /// Discovery controllers have it too.
    pub(super) discovery: bool,
}

const fn feature(fid: u8, default: u32) -> Feature {
    Feature { fid, default, changeable: true, namespace_specific: false, discovery: false }
}

/// Temperature Threshold keeps both composite thresholds in kelvins: over in bits 15:0, under in
/// bits 31:16.
const TEMPERATURE_DEFAULT: u32 = 0x0000_ffff;

/// Every supported feature; Feature Identifiers Supported and Effects is made from it.
pub(super) const FEATURES: [Feature; 13] = [
    feature(fid::ARBITRATION, 6),
    feature(fid::POWER_MANAGEMENT, 0),
    feature(fid::TEMPERATURE_THRESHOLD, TEMPERATURE_DEFAULT),
    Feature { namespace_specific: true, ..feature(fid::ERROR_RECOVERY, 0) },
    Feature { changeable: false, ..feature(fid::VOLATILE_WRITE_CACHE, 1) },
    feature(fid::NUMBER_OF_QUEUES, 0),
    feature(fid::WRITE_ATOMICITY_NORMAL, 0),
    Feature { discovery: true, ..feature(fid::ASYNC_EVENT_CONFIG, 0) },
    Feature { discovery: true, ..feature(fid::KEEP_ALIVE_TIMER, 0) },
    feature(fid::HOST_BEHAVIOR, 0),
    Feature { changeable: false, ..feature(fid::HOST_IDENTIFIER, 0) },
    Feature { namespace_specific: true, ..feature(fid::RESERVATION_MASK, 0) },
    Feature { namespace_specific: true, ..feature(fid::RESERVATION_PERSISTENCE, 0) },
];

/// The values in effect.
#[derive(Debug)]
pub(super) struct FeatureValues {
    /// Dword 0, in the order of [`FEATURES`].
    dwords: [u32; FEATURES.len()],
    /// Error Recovery's time limit (TLER) of each namespace; index: NSID - 1.
    time_limits: [u16; NAMESPACES_MAX],
    /// Reservation Notification Mask of each namespace, bits 3:1.
    notice_masks: [u8; NAMESPACES_MAX],
    /// Host Behavior Support as far as the host may set it.
    host_behavior: [u8; host_behavior::FLAG_BYTES],
}

impl Default for FeatureValues {
    fn default() -> Self {
        let mut values = [0; FEATURES.len()];
        for (value, feature) in values.iter_mut().zip(&FEATURES) {
            *value = feature.default;
        }
        Self {
            dwords: values,
            time_limits: [0; NAMESPACES_MAX],
            notice_masks: [0; NAMESPACES_MAX],
            host_behavior: [0; host_behavior::FLAG_BYTES],
        }
    }
}

impl FeatureValues {
    /// Whether the host does not want to hear of this.
    pub(super) fn masks(&self, nsid: u32, kind: NoticeKind) -> bool {
        index_of(nsid).is_ok_and(|index| self.notice_masks[index] >> kind as u8 & 1 != 0)
    }

    /// Which events the host wants to hear of.
    pub(super) fn async_event_config(&self) -> u32 {
        FEATURES
            .iter()
            .position(|feature| feature.fid == fid::ASYNC_EVENT_CONFIG)
            .map_or(0, |index| self.dwords[index])
    }
}

const INVALID: Status = Status::INVALID_FIELD.dnr();

impl Controller {
    fn find_feature(&self, sqe: &Sqe) -> Result<usize, Status> {
        FEATURES
            .iter()
            .position(|feature| feature.fid == sqe.feature_id())
            .filter(|&index| FEATURES[index].discovery || !self.is_discovery())
            .ok_or(INVALID)
    }

    fn check_feature_nsid(&self, feature: &Feature, nsid: u32) -> Result<(), Status> {
        if nsid == 0 || nsid == NSID_BROADCAST {
            return Ok(());
        }
        if self.subsystem.namespace(nsid).is_none() {
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        if feature.namespace_specific {
            Ok(())
        } else {
            Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr())
        }
    }

    pub(super) fn set_features(
        &mut self,
        context: &AdminContext<'_>,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        let index = self.find_feature(sqe)?;
        self.check_feature_nsid(&FEATURES[index], sqe.nsid.get())?;
        if sqe.feature_save() {
            return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
        }
        let value = sqe.cdw11.get();
        let keep = |allowed: bool| if allowed { Ok(value) } else { Err(INVALID) };
        let new = match FEATURES[index].fid {
            // Weights and the burst are hints to an arbiter that serves queues in turn.
            fid::ARBITRATION => value,
            // The only power state, no workload hint but those of the field.
            fid::POWER_MANAGEMENT => keep(value & 0x1f == 0)?,
            fid::TEMPERATURE_THRESHOLD => merge_temperature(self.features.dwords[index], value)?,
            // Deallocated blocks read as zeroes: no error for them (DULBE, bit 16).
            fid::ERROR_RECOVERY if value >> 16 & 1 != 0 => return Err(INVALID),
            fid::ERROR_RECOVERY => self.set_time_limit(sqe.nsid.get(), value)?,
            fid::RESERVATION_MASK => self.set_notice_mask(sqe.nsid.get(), value)?,
            fid::RESERVATION_PERSISTENCE if sqe.nsid.get() == NSID_BROADCAST => {
                return self.persist_all(value & 1 != 0);
            }
            fid::RESERVATION_PERSISTENCE => {
                return self.persistence(sqe, ReservationCommand::SetPersist(value & 1 != 0));
            }
            fid::HOST_BEHAVIOR => self.set_host_behavior(data)?,
            fid::WRITE_ATOMICITY_NORMAL => value & 1,
            fid::ASYNC_EVENT_CONFIG => {
                let wanted = value & !self.features.dwords[index];
                if wanted & async_event::SMART_RELIABILITY != 0 && self.is_degraded() {
                    // It has come about before the host asked for it.
                    self.events.occurred(EventKind::Health);
                }
                value
            }
            // Writing through is offered command by command, with FUA.
            fid::VOLATILE_WRITE_CACHE if !self.has_volatile_write_cache() => return Err(INVALID),
            fid::VOLATILE_WRITE_CACHE if value & 1 == 1 => 1,
            fid::VOLATILE_WRITE_CACHE => return Err(Status::FEATURE_NOT_CHANGEABLE.dnr()),
            // Connect has set it (Base 2.1, section 5.1.25.1.28).
            fid::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            fid::KEEP_ALIVE_TIMER => {
                self.set_kato(value, context.now_ms);
                0
            }
            fid::NUMBER_OF_QUEUES => {
                self.grant_queues(value)?;
                return Ok(AdminOutcome::success(u64::from(self.queues_result())));
            }
            _ => return Err(INVALID),
        };
        self.features.dwords[index] = new;
        Ok(AdminOutcome::success(0))
    }

    /// TLER, bits 15:0: a hint, for every command ends in bounded time.
    fn set_time_limit(&mut self, nsid: u32, value: u32) -> Result<u32, Status> {
        let [low, high, ..] = value.to_le_bytes();
        let limit = u16::from_le_bytes([low, high]);
        if nsid == NSID_BROADCAST {
            self.features.time_limits.fill(limit);
        } else {
            *self.time_limit(nsid)? = limit;
        }
        Ok(0)
    }

    fn time_limit(&mut self, nsid: u32) -> Result<&mut u16, Status> {
        Ok(&mut self.features.time_limits[index_of(nsid)?])
    }

    fn set_notice_mask(&mut self, nsid: u32, value: u32) -> Result<u32, Status> {
        let [mask, ..] = (value & NOTICE_MASK_BITS).to_le_bytes();
        if nsid == NSID_BROADCAST {
            self.features.notice_masks.fill(mask);
        } else {
            self.features.notice_masks[index_of(nsid)?] = mask;
        }
        Ok(0)
    }

    /// The reservation is kept elsewhere.
    fn persistence(&self, sqe: &Sqe, command: ReservationCommand) -> Result<AdminOutcome, Status> {
        let nsid = sqe.nsid.get();
        let found = self.subsystem.namespace(nsid);
        let namespace = found.ok_or(Status::INVALID_NAMESPACE.dnr())?;
        Ok(AdminOutcome::Reservation { nsid, bdev: namespace.bdev, command })
    }

    /// The namespaces whose reservations can persist, and the bdevs behind them.
    pub fn persistable(&self) -> impl Iterator<Item = (u32, BdevId)> + '_ {
        let can_persist = self.subsystem.namespaces().filter(|one| one.persistent_reservations);
        can_persist.map(|namespace| (namespace.nsid, namespace.bdev))
    }

    /// Of all namespaces those are meant that can (Base 2.1, section 5.1.25.1.30). A host that
    /// wants what none of them can is not told that it has it.
    fn persist_all(&self, persist: bool) -> Result<AdminOutcome, Status> {
        match (self.persistable().next(), persist) {
            (Some(_), _) => Ok(AdminOutcome::PersistAll(persist)),
            (None, true) => Err(INVALID),
            (None, false) => Ok(AdminOutcome::success(0)),
        }
    }

    /// The host may say what it can; what it cannot have is an error (Base 2.1, section
    /// 5.1.25.1.14): the Copy descriptor formats that are not supported.
    fn set_host_behavior(&mut self, data: &[u8]) -> Result<u32, Status> {
        let said = data.get(..host_behavior::BYTES).ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        let (flags, rest) = said.split_at(host_behavior::FLAG_BYTES);
        if flags.iter().any(|&flag| flag > 1) || rest.iter().any(|&byte| byte != 0) {
            return Err(INVALID);
        }
        self.features.host_behavior.copy_from_slice(flags);
        Ok(0)
    }

    /// Dword 11: submission queues in bits 15:0, completion queues in bits 31:16, both 0's based.
    /// A Fabrics queue is a pair of both.
    fn grant_queues(&mut self, value: u32) -> Result<(), Status> {
        let [sq_low, sq_high, cq_low, cq_high] = value.to_le_bytes();
        let submission = u16::from_le_bytes([sq_low, sq_high]);
        let completion = u16::from_le_bytes([cq_low, cq_high]);
        if submission == u16::MAX || completion == u16::MAX {
            return Err(INVALID);
        }
        if self.io_queues != 0 {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        self.io_queues_granted = (submission.min(completion) + 1).min(IO_QUEUES_MAX);
        Ok(())
    }

    fn queues_result(&self) -> u32 {
        let zero_based = u32::from(self.io_queues_granted) - 1;
        zero_based << 16 | zero_based
    }

    pub(super) fn get_features(
        &mut self,
        _context: &AdminContext<'_>,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        let index = self.find_feature(sqe)?;
        let feature = &FEATURES[index];
        // What is the same for all namespaces is told whichever is named: tools name that of the
        // device they were given. A capability belongs to no namespace either.
        if feature.namespace_specific {
            self.check_feature_nsid(feature, sqe.nsid.get())?;
        }
        let select = sqe.feature_select().ok_or(INVALID)?;
        if feature.fid == fid::VOLATILE_WRITE_CACHE && !self.has_volatile_write_cache() {
            return Err(INVALID);
        }
        match select {
            Select::SupportedCapabilities => {
                let mut bits = 0;
                if feature.changeable {
                    bits |= capability::CHANGEABLE;
                }
                if feature.namespace_specific {
                    bits |= capability::NAMESPACE_SPECIFIC;
                }
                Ok(AdminOutcome::success(u64::from(bits)))
            }
            // Nothing can be saved, so the saved value is the default.
            Select::Default | Select::Saved => default_value(feature, sqe.cdw11.get(), data),
            Select::Current => self.current_value(index, sqe, data),
        }
    }

    fn current_value(
        &mut self,
        index: usize,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        let (nsid, selector) = (sqe.nsid.get(), sqe.cdw11.get());
        let value = match FEATURES[index].fid {
            fid::TEMPERATURE_THRESHOLD => {
                select_temperature(self.features.dwords[index], selector)?
            }
            fid::NUMBER_OF_QUEUES => self.queues_result(),
            fid::KEEP_ALIVE_TIMER => self.kato_ms,
            fid::HOST_IDENTIFIER => {
                return answer_data(data, &wide_host_id(selector, self.hostid)?);
            }
            fid::HOST_BEHAVIOR => {
                let mut said = [0; host_behavior::BYTES];
                said[..host_behavior::FLAG_BYTES].copy_from_slice(&self.features.host_behavior);
                return answer_data(data, &said);
            }
            // Of these two there is no value for all namespaces, and that is this status.
            fid::RESERVATION_MASK | fid::RESERVATION_PERSISTENCE if nsid == NSID_BROADCAST => {
                return Err(INVALID);
            }
            fid::RESERVATION_MASK => u32::from(self.features.notice_masks[index_of(nsid)?]),
            fid::RESERVATION_PERSISTENCE => {
                return self.persistence(sqe, ReservationCommand::GetPersist);
            }
            fid::ERROR_RECOVERY => u32::from(*self.time_limit(nsid)?),
            _ => self.features.dwords[index],
        };
        Ok(AdminOutcome::success(u64::from(value)))
    }
}

fn default_value(
    feature: &Feature,
    selector: u32,
    data: &mut [u8],
) -> Result<AdminOutcome, Status> {
    let value = match feature.fid {
        fid::TEMPERATURE_THRESHOLD => select_temperature(feature.default, selector)?,
        fid::NUMBER_OF_QUEUES => {
            let zero_based = u32::from(IO_QUEUES_MAX) - 1;
            zero_based << 16 | zero_based
        }
        fid::HOST_IDENTIFIER => return answer_data(data, &wide_host_id(selector, [0; 16])?),
        fid::HOST_BEHAVIOR => return answer_data(data, &[0; host_behavior::BYTES]),
        _ => feature.default,
    };
    Ok(AdminOutcome::success(u64::from(value)))
}

/// A feature whose value is data.
fn answer_data(data: &mut [u8], value: &[u8]) -> Result<AdminOutcome, Status> {
    let to = data.get_mut(..value.len()).ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
    to.copy_from_slice(value);
    Ok(AdminOutcome::data(value.len()))
}

/// Fabrics has the 128-bit identifier only (EXHID, bit 0).
fn wide_host_id(selector: u32, id: [u8; 16]) -> Result<[u8; 16], Status> {
    if selector & 1 == 0 { Err(INVALID) } else { Ok(id) }
}

/// Bits of Reservation Notification Mask: bit `n` masks the notice of type `n`.
const NOTICE_MASK_BITS: u32 = 0b1110;

fn index_of(nsid: u32) -> Result<usize, Status> {
    let index = usize::try_from(nsid.wrapping_sub(1)).ok();
    index.filter(|&index| index < NAMESPACES_MAX).ok_or(Status::INVALID_NAMESPACE.dnr())
}

/// Which composite threshold dword 11 means: THSEL in bits 21:20 (0 over, 1 under); TMPSEL in
/// bits 19:16 must name the composite temperature, the only one there is.
fn temperature_shift(dword: u32) -> Result<u32, Status> {
    match (dword >> 20 & 3, dword >> 16 & 0xf) {
        (0, 0) => Ok(0),
        (1, 0) => Ok(16),
        _ => Err(INVALID),
    }
}

fn merge_temperature(kept: u32, dword: u32) -> Result<u32, Status> {
    let shift = temperature_shift(dword)?;
    Ok(kept & !(0xffff << shift) | (dword & 0xffff) << shift)
}

fn select_temperature(kept: u32, dword: u32) -> Result<u32, Status> {
    Ok(kept >> temperature_shift(dword)? & 0xffff)
}
