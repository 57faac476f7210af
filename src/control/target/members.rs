//! Members of arrays that come and go.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Array, Backing, Member, Target, TargetError};
use crate::control::carried::Carried;
use crate::md::{SECTOR_BYTES, Superblock};
use crate::raid::{Command, Joined, MemberSlot, Newcomer, Outcome};

/// How long a call waits for requests to a removed member to end.
pub(super) const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// How often it looks.
pub(super) const DRAIN_LOOK: Duration = Duration::from_millis(2);

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
    ) -> Result<(), TargetError> {
        if self.waiting.contains_key(array) {
            return self.add_to_waiting(array, bdev);
        }
        self.release_all_replaced();
        let array = self.resolve(array)?;
        let own = Which::Bdev(bdev.to_owned());
        if let Ok((of, at)) = self.find_member(&own)
            && of == array
            && self.member_state(&array, at)? == "faulty"
        {
            self.remove_member(&own)?;
        }
        let bdev = self.free_bdev(bdev)?.geometry.name.clone();
        self.offer(&array, &bdev, slot, as_new)?;
        self.set_user(&bdev, Some(format!("array {array}")));
        Ok(())
    }

    /// As [`Self::add_member`], whoever uses the bdev.
    pub(super) fn offer(
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
            let text = format!(
                "array {array} has no empty slot, and does not grow to more members: remove a \
                 member first"
            );
            return Err(TargetError::Invalid(text));
        }
        let newcomer = self.newcomer_with(bdev, superblock, slot, as_new)?;
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

    /// A bdev as it is offered to an array, whoever uses it.
    pub(super) fn newcomer(
        &mut self,
        array: &str,
        bdev: &str,
        slot: Option<MemberSlot>,
        as_new: bool,
    ) -> Result<Newcomer, TargetError> {
        let superblock = self.carried_for(array, bdev, as_new)?;
        self.newcomer_with(bdev, superblock, slot, as_new)
    }

    fn newcomer_with(
        &mut self,
        bdev: &str,
        superblock: Option<Superblock>,
        slot: Option<MemberSlot>,
        as_new: bool,
    ) -> Result<Newcomer, TargetError> {
        let carried = superblock.as_ref().filter(|_| !as_new);
        let listed = carried.map_or(Ok(Vec::new()), |own| self.read_bad_blocks(bdev, own));
        if let Err(error) = &listed {
            tracing::warn!("{error}; what it lacks is not known, so it is given everything");
        }
        let as_new = as_new || listed.is_err();
        let bdev = self.bdev(bdev)?;
        Ok(Newcomer {
            bdev: bdev.id,
            unmap: bdev.geometry.unmap,
            cheap_zeroes: bdev.geometry.cheap_zeroes,
            device_sectors: bdev.geometry.size_bytes() / SECTOR_BYTES,
            superblock,
            device_uuid: Uuid::new_v4().into_bytes(),
            slot,
            as_new,
            bad_blocks: listed.unwrap_or_default(),
        })
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
            // What replaces a member has the number behind the slots.
            let is_replacing = array.replacing.newcomer.as_ref().is_some_and(is_it);
            let at = at.or_else(|| is_replacing.then_some(array.members.len()));
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
        match which {
            Which::Slot(array, slot) if self.waiting.contains_key(array) => {
                return self.give_up(array, *slot);
            }
            Which::Bdev(bdev) if self.is_held(bdev) => {
                self.leave_waiting(bdev);
                return Ok(());
            }
            _ => {}
        }
        self.take_events();
        let (array, slot) = self.find_member(which)?;
        if usize::from(slot) >= self.array(&array)?.1.members.len() {
            return self.end_replacement(&array, slot);
        }
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
    pub(super) fn release_members(&mut self, array: &str) -> Result<(), TargetError> {
        self.release_replaced(array)?;
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

    pub(super) fn array_mut(&mut self, name: &str) -> &mut Array {
        let bdev = self.bdevs.get_mut(name).expect("the caller has resolved the name");
        match &mut bdev.backing {
            Backing::Array(array) => array,
            Backing::Device(_) => panic!("bdev {name} is no array"),
        }
    }

    /// Spares, scheduled checks or members to come are waited for: [`Self::look`] should be called
    /// once a second.
    #[must_use]
    pub fn wants_look(&self) -> bool {
        self.has_schedules()
            || self.spares.iter().any(|spare| spare.refused.is_none())
            || !self.waiting.is_empty()
            || !self.absent.is_empty()
            || self.replaces_members()
            || self.has_growing()
            || self.has_endings()
    }

    /// Does what is due.
    pub fn look(&mut self) {
        self.take_events();
        self.look_at_ends();
        self.release_all_replaced();
        self.look_for_members();
        self.use_spares();
        self.begin_due_checks();
    }
}
