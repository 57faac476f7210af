//! Members that are replaced while they serve: which bdev is whose, from the operator's word to
//! the end.

use std::time::Instant;

use super::members::{DRAIN_LOOK, DRAIN_WAIT, Which};
use super::{Backing, Member, Target, TargetError};
use crate::raid::{ArrayEvent, Command, MemberSlot, Outcome};

/// The bdev of a member that has been replaced, or has failed while it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The slot in which it was.
    pub slot: MemberSlot,
    /// It.
    pub member: Member,
}

/// What replaces members of an array, and what they leave behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replacing {
    /// What is to take a member's place.
    pub newcomer: Option<Member>,
    /// Bdevs of members that were replaced, until they are free.
    pub leaving: Vec<Leaving>,
}

impl Replacing {
    /// Something is to take a member's place, or to be let go.
    fn is_under_way(&self) -> bool {
        self.newcomer.is_some() || !self.leaving.is_empty()
    }
}

impl Target {
    /// Has a bdev, which may be a spare, take the place of a member that serves on until then. The
    /// copy has begun when this returns, or waits for its turn.
    ///
    /// # Errors
    /// Why the array does not do it; nothing has changed then.
    pub fn replace_member(
        &mut self,
        which: &Which,
        bdev: &str,
        as_new: bool,
    ) -> Result<(), TargetError> {
        let (array, slot) = self.find_member(which)?;
        self.release_members(&array)?;
        let bdev = self.resolve(bdev)?;
        let spare = self.spares.iter().position(|spare| spare.bdev == bdev);
        let is_for = |at: usize| self.spares[at].array.as_ref().is_none_or(|of| *of == array);
        match spare {
            Some(at) if !is_for(at) => {
                return Err(TargetError::Busy(format!(
                    "bdev {bdev} is a spare of another array than {array}"
                )));
            }
            Some(_) => {}
            None => drop(self.free_bdev(&bdev)?),
        }
        // What says on a spare that it is one is of no worth any more.
        let newcomer = self.newcomer(&array, &bdev, None, as_new || spare.is_some())?;
        let (id, _) = self.array(&array)?;
        let outcome = self.engine.command(id, Command::Replace(slot, Box::new(newcomer)));
        let refused = |error| TargetError::Invalid(format!("array {array}, bdev {bdev}: {error}"));
        let Outcome::Joining(joined) = outcome.map_err(refused)? else {
            unreachable!("a replacement has a place")
        };
        if let Some(at) = spare {
            self.spares.remove(at);
            self.set_user(&bdev, None);
        }
        let uuid = uuid::Uuid::from_bytes(joined.device_uuid);
        self.array_mut(&array).replacing.newcomer = Some(Member { name: bdev.clone(), uuid });
        self.set_user(&bdev, Some(format!("array {array}")));
        Ok(())
    }

    /// Ends a replacement: the member is what it was, the newcomer is let go.
    pub(super) fn end_replacement(
        &mut self,
        array: &str,
        number: MemberSlot,
    ) -> Result<(), TargetError> {
        self.member_command(array, Command::Remove(number))?;
        let since = Instant::now();
        while self.array_status(array)?.replacement.is_some() {
            if since.elapsed() > DRAIN_WAIT {
                return Err(TargetError::Busy(format!(
                    "what was to replace a member of array {array} is to go, and the requests that \
                     it and the members have are not answered; its bdev is let go when they are"
                )));
            }
            std::thread::sleep(DRAIN_LOOK);
        }
        self.take_events();
        self.release_members(array)
    }

    /// What an event says of bdevs that change their places.
    pub(super) fn note_replaced(&mut self, array: &str, event: &ArrayEvent) {
        let (ArrayEvent::MemberReplaced { slot } | ArrayEvent::ReplacementOrphaned { slot }) =
            *event
        else {
            return;
        };
        let known = self.array_mut(array);
        let Some(newcomer) = known.replacing.newcomer.take() else { return };
        let former = known.members[usize::from(slot)].replace(newcomer);
        known.replacing.leaving.extend(former.map(|member| Leaving { slot, member }));
    }

    /// Bdevs of members that were replaced are free when nothing of theirs is under way.
    pub(super) fn release_replaced(&mut self, array: &str) -> Result<(), TargetError> {
        self.take_events();
        let status = self.array_status(array)?;
        let (_, known) = self.array(array)?;
        let replacement = known.replacing.newcomer.as_ref();
        let own = replacement.and_then(|it| self.bdev(&it.name).ok()).map(|bdev| bdev.id);
        // The event that it has the slot may be on its way.
        let is_member = status.members.iter().any(|(bdev, _)| own.is_some() && *bdev == own);
        let known = self.array_mut(array);
        let mut released = Vec::new();
        if status.replacement.is_none() && !is_member {
            released.extend(known.replacing.newcomer.take());
        }
        let mut leaving = std::mem::take(&mut known.replacing.leaving);
        leaving.retain(|it| {
            let state = status.members.get(usize::from(it.slot)).map(|(_, state)| *state);
            let is_out = matches!(state, Some("in_sync" | "rebuilding"));
            if is_out {
                released.push(it.member.clone());
            }
            !is_out
        });
        self.array_mut(array).replacing.leaving = leaving;
        for member in released {
            self.set_user(&member.name, None);
        }
        Ok(())
    }

    /// Some array has a bdev that is about to be let go, or to take a member's place.
    pub(super) fn replaces_members(&self) -> bool {
        let arrays = self.bdevs.values().filter_map(|bdev| match &bdev.backing {
            Backing::Array(array) => Some(array),
            Backing::Device(_) => None,
        });
        arrays.into_iter().any(|it| it.replacing.is_under_way())
    }

    /// Arrays with bdevs that are about to be let go.
    pub(super) fn release_all_replaced(&mut self) {
        for array in self.array_names() {
            let has_some = self.array(&array).is_ok_and(|(_, it)| it.replacing.is_under_way());
            if has_some {
                // The array may have been stopped meanwhile.
                let _ = self.release_replaced(&array);
            }
        }
    }
}
