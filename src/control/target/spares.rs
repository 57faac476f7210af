//! Bdevs that take the place of members that fail. A spare of one array carries a superblock of
//! it that says so, as md's do, and is found again by it; one of all arrays is named by the
//! configuration.

use uuid::Uuid;

use super::{Backing, Target, TargetError};
use crate::control::carried::Carried;
use crate::md::{Role, SECTOR_BYTES, SUPERBLOCK_READ_BYTES, Superblock};
use crate::raid::{self, Command, MemberSlot};

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
    /// A bdev that takes the place of a member that fails: of one array, or of any. The first is
    /// written on it.
    ///
    /// # Errors
    /// If it is in use, too small, or carries a superblock of something else.
    pub fn add_spare(&mut self, bdev: &str, array: Option<&str>) -> Result<(), TargetError> {
        let bdev = self.free_bdev(bdev)?.geometry.name.clone();
        let array = match array {
            Some(array) => {
                self.array(array)?;
                Some(self.resolve(array)?)
            }
            None => None,
        };
        let carried = self.read_superblock(&bdev)?;
        let is_marked = match (&carried, &array) {
            (Carried::Nothing, _) => false,
            (Carried::Member(candidate), Some(array)) => {
                self.is_spare_of(array, &candidate.superblock)
            }
            _ => false,
        };
        if !is_marked && !matches!(carried, Carried::Nothing) {
            return Err(TargetError::Exists(format!(
                "bdev {bdev} carries a superblock: erase it first, or add it as a member"
            )));
        }
        if let (Some(array), false) = (&array, is_marked) {
            self.mark_spare(array, &bdev)?;
        }
        self.enter_spare(bdev, array);
        Ok(())
    }

    fn enter_spare(&mut self, bdev: String, array: Option<String>) {
        let user = match &array {
            Some(array) => format!("array {array}, as a spare"),
            None => "all arrays, as a spare".to_owned(),
        };
        self.set_user(&bdev, Some(user));
        self.spares.push(Spare { bdev, array, refused: None });
        self.use_spares();
    }

    fn is_spare_of(&self, array: &str, superblock: &Superblock) -> bool {
        let uuid = Uuid::from_bytes(superblock.set_uuid);
        superblock.own_role() == Role::Spare
            && self.array(array).is_ok_and(|(_, known)| known.uuid == uuid)
    }

    /// Writes a spare's superblock.
    fn mark_spare(&mut self, array: &str, bdev: &str) -> Result<(), TargetError> {
        let refused = |why: String| {
            TargetError::Invalid(format!("bdev {bdev} can't be a spare of array {array}: {why}"))
        };
        let (_, known) = self.array(array)?;
        let members: Vec<String> =
            known.members.iter().flatten().map(|member| member.name.clone()).collect();
        let (block, own) =
            (self.bdev(array)?.geometry.block_size_bytes, &self.bdev(bdev)?.geometry);
        if own.block_size_bytes != block {
            let own = own.block_size_bytes;
            return Err(refused(format!("its blocks have {own} bytes, the array's {block}")));
        }
        let device_sectors = own.size_bytes() / SECTOR_BYTES;
        let spares: Vec<String> = self.spares.iter().map(|spare| spare.bdev.clone()).collect();
        let mut newest: Option<Superblock> = None;
        let mut numbers = Vec::new();
        for (name, is_member) in
            members.iter().map(|name| (name, true)).chain(spares.iter().map(|name| (name, false)))
        {
            let Carried::Member(candidate) = self.read_superblock(name)? else { continue };
            numbers.push(candidate.superblock.dev_number);
            let is_newer = newest.as_ref().is_none_or(|it| it.events < candidate.superblock.events);
            if is_member && is_newer {
                newest = Some(candidate.superblock);
            }
        }
        let Some(newest) = newest else {
            return Err(refused("no member's superblock could be read".to_owned()));
        };
        let device_uuid = Uuid::new_v4().into_bytes();
        let superblock =
            raid::newcomer::spare_superblock(&newest, &numbers, device_sectors, device_uuid)
                .map_err(refused)?;
        // As on members: mdadm takes a superblock without its bitmap's head for a damaged one.
        if let (Some(from), Some(to), Some(member)) =
            (newest.bitmap_sector(), superblock.bitmap_sector(), members.first())
        {
            let head = self.read_sectors(member, from, SUPERBLOCK_READ_BYTES)?;
            self.write_bytes(bdev, to * SECTOR_BYTES, &head)?;
        }
        self.write_superblock(bdev, &superblock)
    }

    /// A bdev with the superblock of a spare: it is one again, if its array runs.
    pub(super) fn spare_appeared(&mut self, bdev: &str, superblock: &Superblock) {
        let arrays = self.array_names();
        let Some(array) = arrays.into_iter().find(|name| self.is_spare_of(name, superblock)) else {
            return;
        };
        tracing::info!("array {array}: bdev {bdev} is a spare of it");
        self.enter_spare(bdev.to_owned(), Some(array));
    }

    /// An array has started: free bdevs may be spares of it.
    pub(super) fn find_spares(&mut self) {
        let free = self.free_devices();
        for bdev in free {
            if let Ok(Carried::Member(candidate)) = self.read_superblock(&bdev)
                && candidate.superblock.own_role() == Role::Spare
            {
                self.spare_appeared(&bdev, &candidate.superblock);
            }
        }
    }

    /// A spare is none any more; what says so on it is erased.
    ///
    /// # Errors
    /// If it is none, or can't be written.
    pub fn remove_spare(&mut self, bdev: &str) -> Result<(), TargetError> {
        let own = self.resolve(bdev)?;
        let at = self.spares.iter().position(|spare| spare.bdev == own);
        let at = at.ok_or_else(|| TargetError::NotFound(format!("bdev {bdev} is no spare")))?;
        if self.spares[at].array.is_some() {
            self.erase_superblock(&own)?;
        }
        self.spares.remove(at);
        self.set_user(&own, None);
        Ok(())
    }

    /// An array is no more: what was a spare of it is free. Returns these bdevs.
    pub(super) fn forget_spares_of(&mut self, array: &str) -> Vec<String> {
        let is_of = |spare: &mut Spare| spare.array.as_deref() == Some(array);
        let freed: Vec<Spare> = self.spares.extract_if(.., is_of).collect();
        for spare in &freed {
            self.set_user(&spare.bdev, None);
        }
        freed.into_iter().map(|spare| spare.bdev).collect()
    }

    /// All spares.
    #[must_use]
    pub fn spares(&self) -> &[Spare] {
        &self.spares
    }

    /// Puts spares into the slots of members that have failed or are missing.
    pub(super) fn use_spares(&mut self) {
        if self.spares.iter().all(|spare| spare.refused.is_some()) {
            return;
        }
        for array in self.array_names() {
            if self.stopping(&array).is_none() {
                self.use_spares_for(&array);
            }
        }
    }

    /// Names of all arrays that run.
    pub(super) fn array_names(&self) -> Vec<String> {
        let is_array = |bdev: &super::Bdev| matches!(bdev.backing, Backing::Array(_));
        let arrays = self.bdevs.iter().filter(|(_, bdev)| is_array(bdev));
        arrays.map(|(name, _)| name.clone()).collect()
    }

    fn use_spares_for(&mut self, array: &str) {
        let Ok(status) = self.array_status(array) else { return };
        if status.replacement.is_some() {
            // A slot that has lost its member may be about to get what was to replace it.
            return;
        }
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
        match self.offer(array, &bdev, Some(slot), true) {
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
