//! The reservation of one namespace and what commands do to it.

use zerocopy::{FromZeros, IntoBytes};

use super::command::{AcquireAction, RegisterAction, ReservationCommand};
use super::{HostId, REGISTRANTS_MAX, View};
use crate::wire::nvme::Status;
use crate::wire::nvme::reservation::{RegistrantStatus, ReservationStatus, ReservationType};

/// A registered host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registrant {
    pub(super) host: HostId,
    pub(super) key: u64,
}

/// A reservation that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) rtype: ReservationType,
    /// Who acquired it. Of the "all registrants" types every registrant is a holder.
    pub(super) holder: HostId,
}

/// Registrations and reservation of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reservation {
    /// In the order of registration.
    pub(super) registrants: Vec<Registrant>,
    pub(super) held: Option<Held>,
    pub(super) generation: u32,
    /// Persist Through Power Loss.
    pub(super) persist: bool,
}

/// What a host is told (Base 2.1, figure "Reservation Notification Log Page").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NoticeKind {
    /// Another host took its registration away.
    RegistrationPreempted = 1,
    /// The reservation that let it in was released.
    ReservationReleased = 2,
    /// Another host took the reservation away.
    ReservationPreempted = 3,
}

/// Tell a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Whom.
    pub host: HostId,
    /// What.
    pub kind: NoticeKind,
}

/// What a command brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Status field.
    pub status: Status,
    /// Dword 0.
    pub result: u64,
    /// Something changed: all cores need the new view.
    pub changed: bool,
    /// Whom to tell what.
    pub notices: Vec<Notice>,
}

/// The identifier of a host that has none: two of them are two hosts (Base 2.1, section
/// 5.1.25.1.28), so that it can't say who holds a reservation.
const NO_HOST: HostId = [0; 16];

const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();

/// What a command did, when it succeeded.
type Done = Result<(bool, Vec<Notice>), Status>;

impl Reservation {
    /// Executes a command of `host`. `can_persist`: the namespace has a place where its
    /// reservation outlives a power loss.
    pub fn execute(
        &mut self,
        host: &HostId,
        command: &ReservationCommand,
        can_persist: bool,
    ) -> Outcome {
        let mut result = 0;
        let done = match *command {
            ref command if *host == NO_HOST && command.is_io() => {
                Err(Status::HOST_ID_NOT_INITIALIZED.dnr())
            }
            ReservationCommand::Register { persist: Some(true), .. }
            | ReservationCommand::SetPersist(true)
                if !can_persist =>
            {
                Err(Status::INVALID_FIELD.dnr())
            }
            ReservationCommand::Register { action, ignore_key, persist, current, new } => {
                self.register(host, action, (!ignore_key).then_some(current), new).inspect(|_| {
                    self.persist = persist.unwrap_or(self.persist);
                })
            }
            ReservationCommand::Acquire { action, rtype, current, preempt } => {
                self.check_key(host, current).and_then(|()| match action {
                    AcquireAction::Acquire => self.acquire(host, rtype),
                    AcquireAction::Preempt => self.preempt(host, rtype, preempt),
                })
            }
            ReservationCommand::Release { rtype, current } => {
                self.check_key(host, current).and_then(|()| self.release(host, rtype))
            }
            ReservationCommand::Clear { current } => {
                self.check_key(host, current).map(|()| self.clear(host))
            }
            ReservationCommand::SetPersist(persist) => {
                self.persist = persist;
                Ok((true, Vec::new()))
            }
            ReservationCommand::GetPersist => {
                result = u64::from(self.persist);
                Ok((false, Vec::new()))
            }
            ReservationCommand::Report => Ok((false, Vec::new())),
        };
        match done {
            Ok((changed, notices)) => Outcome { status: Status::SUCCESS, result, changed, notices },
            Err(status) => Outcome { status, result: 0, changed: false, notices: Vec::new() },
        }
    }

    fn find(&self, host: &HostId) -> Option<usize> {
        self.registrants.iter().position(|one| one.host == *host)
    }

    /// The host is registered with this key.
    fn check_key(&self, host: &HostId, key: u64) -> Result<(), Status> {
        let found = self.find(host).filter(|&index| self.registrants[index].key == key);
        found.map(|_| ()).ok_or(CONFLICT)
    }

    fn holds(&self, host: &HostId) -> bool {
        self.held.is_some_and(|held| {
            held.holder == *host || held.rtype.is_all_registrants() && self.find(host).is_some()
        })
    }

    /// `current`: the key that must be registered, if it matters.
    fn register(
        &mut self,
        host: &HostId,
        action: RegisterAction,
        current: Option<u64>,
        new: u64,
    ) -> Done {
        let found = self.find(host);
        let mut notices = Vec::new();
        match (action, found) {
            // Replace whatever the current key is: also where there is none (SCSI's "register and
            // ignore existing key", which cluster software goes by).
            (RegisterAction::Replace, None) if current.is_some() => return Err(CONFLICT),
            (RegisterAction::Register | RegisterAction::Replace, None) => {
                if self.registrants.len() >= REGISTRANTS_MAX {
                    return Err(Status::INTERNAL_ERROR);
                }
                self.registrants.push(Registrant { host: *host, key: new });
            }
            // The same key again is no change.
            (RegisterAction::Register, Some(index)) if self.registrants[index].key == new => {}
            (RegisterAction::Register, Some(_)) | (RegisterAction::Unregister, None) => {
                return Err(CONFLICT);
            }
            (_, Some(index)) if current.is_some_and(|key| key != self.registrants[index].key) => {
                return Err(CONFLICT);
            }
            (RegisterAction::Replace, Some(index)) => self.registrants[index].key = new,
            (RegisterAction::Unregister, Some(index)) => notices = self.unregister(index),
        }
        self.generation = self.generation.wrapping_add(1);
        Ok((true, notices))
    }

    /// A holder that leaves releases its reservation; of the "all registrants" types the last one.
    fn unregister(&mut self, index: usize) -> Vec<Notice> {
        let gone = self.registrants.remove(index).host;
        let Some(held) = self.held else { return Vec::new() };
        let releases = if held.rtype.is_all_registrants() {
            self.registrants.is_empty()
        } else {
            held.holder == gone
        };
        if !releases {
            return Vec::new();
        }
        self.held = None;
        self.released(held.rtype, &gone)
    }

    /// Registrants that a reservation let in are told that it is gone.
    fn released(&self, rtype: ReservationType, by: &HostId) -> Vec<Notice> {
        if rtype.serves_registrants() {
            self.tell_others(by, NoticeKind::ReservationReleased)
        } else {
            Vec::new()
        }
    }

    fn tell_others(&self, by: &HostId, kind: NoticeKind) -> Vec<Notice> {
        let others = self.registrants.iter().filter(|one| one.host != *by);
        others.map(|one| Notice { host: one.host, kind }).collect()
    }

    fn acquire(&mut self, host: &HostId, rtype: ReservationType) -> Done {
        match self.held {
            None => {
                self.held = Some(Held { rtype, holder: *host });
                Ok((true, Vec::new()))
            }
            Some(held) if self.holds(host) && held.rtype == rtype => Ok((false, Vec::new())),
            Some(_) => Err(CONFLICT),
        }
    }

    fn preempt(&mut self, host: &HostId, rtype: ReservationType, key: u64) -> Done {
        // Whether the reservation itself is taken, and not only registrations.
        let takes = match self.held {
            Some(held) if held.rtype.is_all_registrants() => key == 0,
            Some(held) => {
                let holder = self.find(&held.holder).map(|index| self.registrants[index].key);
                if key == 0 && holder != Some(0) {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                holder == Some(key)
            }
            None if key == 0 => return Err(Status::INVALID_FIELD.dnr()),
            None => false,
        };
        let everybody = takes && self.held.is_some_and(|held| held.rtype.is_all_registrants());
        let preempted = |one: &Registrant| one.host != *host && (everybody || one.key == key);
        let matches = everybody || self.registrants.iter().any(|one| one.key == key);
        if !matches {
            return Err(CONFLICT);
        }
        let mut notices = Vec::new();
        for one in self.registrants.iter().filter(|one| preempted(one)) {
            let kind = NoticeKind::RegistrationPreempted;
            notices.push(Notice { host: one.host, kind });
        }
        let before = self.held;
        let held_before: Vec<HostId> =
            self.registrants.iter().map(|one| one.host).filter(|one| self.holds(one)).collect();
        self.registrants.retain(|one| !preempted(one));
        if takes {
            self.held = Some(Held { rtype, holder: *host });
            for holder in held_before.into_iter().filter(|one| one != host) {
                notices.push(Notice { host: holder, kind: NoticeKind::ReservationPreempted });
            }
            if let Some(before) = before.filter(|before| before.rtype != rtype) {
                notices.extend(self.released(before.rtype, host));
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok((true, notices))
    }

    fn release(&mut self, host: &HostId, rtype: ReservationType) -> Done {
        let Some(held) = self.held else { return Ok((false, Vec::new())) };
        if !self.holds(host) {
            return Ok((false, Vec::new()));
        }
        if held.rtype != rtype {
            return Err(Status::INVALID_FIELD.dnr());
        }
        self.held = None;
        Ok((true, self.released(rtype, host)))
    }

    fn clear(&mut self, host: &HostId) -> (bool, Vec<Notice>) {
        let notices = self.tell_others(host, NoticeKind::ReservationPreempted);
        self.registrants.clear();
        self.held = None;
        self.generation = self.generation.wrapping_add(1);
        (true, notices)
    }

    /// What I/O commands are checked against; `None`: nothing is reserved.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        let held = self.held?;
        let registrants = self.registrants.iter().map(|one| one.host).collect();
        Some(View { rtype: held.rtype, holder: held.holder, registrants })
    }

    /// Persist Through Power Loss.
    #[must_use]
    pub fn persists(&self) -> bool {
        self.persist
    }

    /// The data of Reservation Report in its extended form.
    #[must_use]
    pub fn report(&self) -> Vec<u8> {
        let mut status = ReservationStatus::new_zeroed();
        status.generation.set(self.generation);
        status.rtype = self.held.map_or(0, |held| held.rtype as u8);
        let count = u16::try_from(self.registrants.len()).expect("bounded by REGISTRANTS_MAX");
        status.registrants.set(count);
        status.ptpls = u8::from(self.persist);
        let mut data = status.as_bytes().to_vec();
        for one in &self.registrants {
            let mut entry = RegistrantStatus::new_zeroed();
            entry.cntlid.set(u16::MAX);
            entry.rcsts = u8::from(self.holds(&one.host));
            entry.key.set(one.key);
            entry.hostid = one.host;
            data.extend_from_slice(entry.as_bytes());
        }
        data
    }
}
