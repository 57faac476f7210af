//! Members of arrays that come and go, and spares.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Array, Backing, Member, Target, TargetError};
use crate::control::carried::Carried;
use crate::md::{SECTOR_BYTES, Superblock};
use crate::raid::{Command, Joined, MemberSlot, Newcomer, Outcome, Pace};

/// How long a call waits for requests to a removed member to end.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// How often it looks.
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// A member as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its bdev; the array is found through it.
    Bdev(String),
    /// By array and slot: for one that does not exist any more.
    Slot(String, MemberSlot),
    /// By array and the identity in its superblock.
    Uuid(String, Uuid),
}

/// A bdev that takes the place of a member that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// The bdev.
    pub bdev: String,
    /// The array that it is for; `None`: any.
    pub array: Option<String>,
    /// Why the array that wanted it would not have it.
    pub refused: Option<String>,
}

impl Target {
    /// Gives an array a member: a former one comes back, another is new to it. It is being
    /// rebuilt when this returns, or waits for its turn.
    ///
    /// # Errors
    /// Why the array does not take it; nothing has changed then.
    pub fn add_member(
        &mut self,
        array: &str,
        bdev: &str,
        slot: Option<MemberSlot>,
        as_new: bool,
    ) -> Result<Joined, TargetError> {
        let array = self.resolve(array)?;
        let own = Which::Bdev(bdev.to_owned());
        if let Ok((of, at)) = self.find_member(&own)
            && of == array
            && self.member_state(&array, at)? == "faulty"
        {
            self.remove_member(&own)?;
        }
        let bdev = self.free_bdev(bdev)?.geometry.name.clone();
        let joined = self.offer(&array, &bdev, slot, as_new)?;
        self.set_user(&bdev, Some(format!("array {array}")));
        Ok(joined)
    }

    /// As [`Self::add_member`], whoever uses the bdev.
    fn offer(
        &mut self,
        array: &str,
        bdev: &str,
        slot: Option<MemberSlot>,
        as_new: bool,
    ) -> Result<Joined, TargetError> {
        self.release_members(array)?;
        let superblock = self.carried_for(array, bdev, as_new)?;
        let (id, known) = self.array(array)?;
        let wanted = superblock.as_ref().filter(|_| !as_new);
        if slot.is_none() && wanted.is_none() && known.members.iter().all(Option::is_some) {
            let text = format!("array {array} has no empty slot: remove a member first");
            return Err(TargetError::Invalid(text));
        }
        let geometry = &self.bdev(bdev)?.geometry;
        let newcomer = Newcomer {
            bdev: self.bdev(bdev)?.id,
            unmap: geometry.unmap,
            device_sectors: geometry.size_bytes() / SECTOR_BYTES,
            superblock,
            device_uuid: Uuid::new_v4().into_bytes(),
            slot,
            as_new,
        };
        let outcome = self.engine.command(id, Command::Join(Box::new(newcomer)));
        let refused = |error| TargetError::Invalid(format!("array {array}, bdev {bdev}: {error}"));
        let Outcome::Joining(joined) = outcome.map_err(refused)? else {
            unreachable!("a join ends in a slot")
        };
        let uuid = Uuid::from_bytes(joined.device_uuid);
        let member = Member { name: bdev.to_owned(), uuid };
        self.array_mut(array).members[usize::from(joined.slot)] = Some(member);
        Ok(joined)
    }

    /// What a bdev carries of this array. Another's superblock is a reason to refuse, a damaged
    /// one too unless the bdev is to be overwritten.
    fn carried_for(
        &mut self,
        array: &str,
        bdev: &str,
        as_new: bool,
    ) -> Result<Option<Superblock>, TargetError> {
        let (block, uuid) =
            (self.bdev(array)?.geometry.block_size_bytes, self.array(array)?.1.uuid);
        let own_block = self.bdev(bdev)?.geometry.block_size_bytes;
        if own_block != block {
            return Err(TargetError::Invalid(format!(
                "bdev {bdev} has blocks of {own_block} bytes, array {array} of {block}"
            )));
        }
        match self.read_superblock(bdev)? {
            Carried::Nothing => Ok(None),
            Carried::Damaged(_) if as_new => Ok(None),
            Carried::Damaged(error) => Err(TargetError::Io(format!(
                "bdev {bdev}: {error}; it was not touched. as_new = true overwrites it"
            ))),
            Carried::Member(candidate) => {
                let other = Uuid::from_bytes(candidate.superblock.set_uuid);
                if other == uuid {
                    return Ok(Some(candidate.superblock));
                }
                Err(TargetError::Exists(format!(
                    "bdev {bdev} belongs to array {other}; it was not touched"
                )))
            }
        }
    }

    /// The array and slot of a member.
    ///
    /// # Errors
    /// If there is none.
    pub fn find_member(&self, which: &Which) -> Result<(String, MemberSlot), TargetError> {
        let slot_of = |array: &Array, is_it: &dyn Fn(&Member) -> bool| {
            let at = array.members.iter().position(|it| it.as_ref().is_some_and(is_it));
            at.map(|slot| MemberSlot::try_from(slot).expect("few slots"))
        };
        match which {
            Which::Slot(array, slot) => Ok((self.resolve(array)?, *slot)),
            Which::Uuid(array, uuid) => {
                let (_, known) = self.array(array)?;
                let slot = slot_of(known, &|member| member.uuid == *uuid);
                let none = || TargetError::NotFound(format!("array {array} has no member {uuid}"));
                Ok((self.resolve(array)?, slot.ok_or_else(none)?))
            }
            Which::Bdev(name) => {
                let own = self.resolve(name)?;
                let found = self.bdevs.iter().find_map(|(array, bdev)| match &bdev.backing {
                    Backing::Array(known) => slot_of(known, &|member| member.name == own)
                        .map(|slot| (array.clone(), slot)),
                    Backing::Device(_) => None,
                });
                found.ok_or_else(|| {
                    TargetError::NotFound(format!("bdev {name} is no member of an array"))
                })
            }
        }
    }

    /// Throws a member out, as if it had failed.
    ///
    /// # Errors
    /// Why it stays.
    pub fn fail_member(&mut self, which: &Which) -> Result<(), TargetError> {
        let (array, slot) = self.find_member(which)?;
        self.member_command(&array, Command::Fail(slot)).map(drop)
    }

    /// Throws a member out and lets its bdev go. One that has failed, or is not there any more, is
    /// only let go.
    ///
    /// # Errors
    /// Why it stays; or that requests to it do not end.
    pub fn remove_member(&mut self, which: &Which) -> Result<(), TargetError> {
        let (array, slot) = self.find_member(which)?;
        self.member_command(&array, Command::Remove(slot))?;
        let since = Instant::now();
        while self.member_state(&array, slot)? != "missing" {
            if since.elapsed() > DRAIN_WAIT {
                return Err(TargetError::Busy(format!(
                    "member {slot} of array {array} is out, but its device does not answer the \
                     requests that it has; its bdev is let go when it does"
                )));
            }
            std::thread::sleep(DRAIN_LOOK);
        }
        self.release_members(&array)
    }

    pub(super) fn member_command(
        &mut self,
        array: &str,
        command: Command,
    ) -> Result<Outcome, TargetError> {
        let (id, _) = self.array(array)?;
        let outcome = self.engine.command(id, command);
        outcome.map_err(|error| TargetError::Invalid(format!("array {array}: {error}")))
    }

    fn member_state(&mut self, array: &str, slot: MemberSlot) -> Result<&'static str, TargetError> {
        let status = self.array_status(array)?;
        Ok(status.members.get(usize::from(slot)).map_or("missing", |(_, state)| *state))
    }

    /// Bdevs of slots that are empty by now have no user any more.
    fn release_members(&mut self, array: &str) -> Result<(), TargetError> {
        let status = self.array_status(array)?;
        let mut released = Vec::new();
        let known = self.array_mut(array);
        for (member, (_, state)) in known.members.iter_mut().zip(&status.members) {
            if *state == "missing" {
                released.extend(member.take());
            }
        }
        for member in released {
            self.set_user(&member.name, None);
        }
        Ok(())
    }

    fn array_mut(&mut self, name: &str) -> &mut Array {
        let bdev = self.bdevs.get_mut(name).expect("the caller has resolved the name");
        match &mut bdev.backing {
            Backing::Array(array) => array,
            Backing::Device(_) => panic!("bdev {name} is no array"),
        }
    }

    /// Sets how fast an array copies.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn set_pace(&mut self, array: &str, pace: Pace) -> Result<(), TargetError> {
        self.member_command(array, Command::SetPace(pace)).map(drop)
    }

    /// A bdev that takes the place of a member that fails: of one array, or of any.
    ///
    /// # Errors
    /// If it is in use or carries a superblock.
    pub fn add_spare(&mut self, bdev: &str, array: Option<&str>) -> Result<(), TargetError> {
        let bdev = self.free_bdev(bdev)?.geometry.name.clone();
        let array = match array {
            Some(array) => {
                self.array(array)?;
                Some(self.resolve(array)?)
            }
            None => None,
        };
        if !matches!(self.read_superblock(&bdev)?, Carried::Nothing) {
            return Err(TargetError::Exists(format!(
                "bdev {bdev} carries a superblock: erase it first, or add it as a member"
            )));
        }
        let user = match &array {
            Some(array) => format!("array {array}, as a spare"),
            None => "all arrays, as a spare".to_owned(),
        };
        self.set_user(&bdev, Some(user));
        self.spares.push(Spare { bdev, array, refused: None });
        self.use_spares();
        Ok(())
    }

    /// A spare is none any more.
    ///
    /// # Errors
    /// If it is none.
    pub fn remove_spare(&mut self, bdev: &str) -> Result<(), TargetError> {
        let own = self.resolve(bdev)?;
        let at = self.spares.iter().position(|spare| spare.bdev == own);
        let at = at.ok_or_else(|| TargetError::NotFound(format!("bdev {bdev} is no spare")))?;
        self.spares.remove(at);
        self.set_user(&own, None);
        Ok(())
    }

    /// An array is no more: what was a spare of it is free.
    pub(super) fn forget_spares_of(&mut self, array: &str) {
        self.forget_schedule_of(array);
        let is_of = |spare: &mut Spare| spare.array.as_deref() == Some(array);
        let freed: Vec<Spare> = self.spares.extract_if(.., is_of).collect();
        for spare in freed {
            self.set_user(&spare.bdev, None);
        }
    }

    /// All spares.
    #[must_use]
    pub fn spares(&self) -> &[Spare] {
        &self.spares
    }

    /// Spares or scheduled checks wait: [`Self::look`] should be called once a second.
    #[must_use]
    pub fn wants_look(&self) -> bool {
        self.has_schedules() || self.spares.iter().any(|spare| spare.refused.is_none())
    }

    /// Does what is due.
    pub fn look(&mut self) {
        self.use_spares();
        self.begin_due_checks(Instant::now());
    }

    /// Puts spares into the slots of members that have failed or are missing.
    fn use_spares(&mut self) {
        if self.spares.iter().all(|spare| spare.refused.is_some()) {
            return;
        }
        let is_array = |bdev: &super::Bdev| matches!(bdev.backing, Backing::Array(_));
        let names: Vec<String> = self
            .bdevs
            .iter()
            .filter(|(_, bdev)| is_array(bdev))
            .map(|(name, _)| name.clone())
            .collect();
        for array in names {
            self.use_spares_for(&array);
        }
    }

    fn use_spares_for(&mut self, array: &str) {
        let Ok(status) = self.array_status(array) else { return };
        for (slot, (_, state)) in (0..).zip(&status.members) {
            if !matches!(*state, "faulty" | "missing") {
                continue;
            }
            let fits = |spare: &Spare, own: bool| {
                let is_for = spare.array.as_deref().map_or(!own, |name| own && name == array);
                is_for && spare.refused.is_none()
            };
            let own = self.spares.iter().position(|spare| fits(spare, true));
            let Some(at) = own.or_else(|| self.spares.iter().position(|spare| fits(spare, false)))
            else {
                return;
            };
            if *state == "faulty" {
                // Its slot is empty when what it has has ended; the spare follows then.
                let _ = self.member_command(array, Command::Remove(slot));
                continue;
            }
            self.use_spare(array, slot, at);
        }
    }

    fn use_spare(&mut self, array: &str, slot: MemberSlot, at: usize) {
        let bdev = self.spares[at].bdev.clone();
        match self.offer(array, &bdev, Some(slot), false) {
            Ok(_) => {
                tracing::warn!("array {array}: spare {bdev} takes slot {slot} and is rebuilt");
                self.spares.remove(at);
                self.set_user(&bdev, None);
                self.set_user(&bdev, Some(format!("array {array}")));
            }
            Err(error) => {
                tracing::error!("array {array}: spare {bdev} can't be used: {error}");
                self.spares[at].refused = Some(error.to_string());
            }
        }
    }
}
