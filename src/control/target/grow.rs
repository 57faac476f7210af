//! An array takes all of its larger members while hosts use it: what is written, in which order,
//! and why a power cut does no harm, is in `raid::owner_grow` and `md::grow`. One without a bitmap
//! stops for it, so nothing may use it meanwhile.

use std::time::{Duration, Instant};

use super::arrays::ArrayOptions;
use super::members::DRAIN_LOOK;
use super::stop::ANSWER_WAIT;
use super::takeover::{Given, Takeover};
use super::waiting::NewArrayWish;
use super::{Backing, Target, TargetError};
use crate::md::{self, Growth, SECTOR_BYTES, Superblock};
use crate::raid::message::SlotMask;
use crate::raid::{GrowthFailure, slots};

/// Bytes that are zeroed at a time.
const ZERO_STEP_BYTES: u64 = 1 << 20;

/// How long a call waits for a growth to end.
const GROWTH_WAIT: Duration = Duration::from_secs(5);

/// What became of the operator's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Blocks of the array before.
    pub from_blocks: u64,
    /// Those it has now, or will have.
    pub blocks: u64,
    /// It still grows: its status and an event tell how that ends.
    pub is_growing: bool,
}

impl Target {
    /// Grows an array to what its smallest member has room for. One that has not grown after a few
    /// seconds goes on by itself.
    ///
    /// # Errors
    /// Why it did not grow; it runs as before then, or waits for what went wrong to be put right.
    pub fn grow_array(&mut self, name: &str) -> Result<Grown, TargetError> {
        let name = self.resolve(name)?;
        let (_, array) = self.array(&name)?;
        let has_bitmap = array.bitmap;
        let invalid = |text: &str| Err(TargetError::Invalid(format!("array {name}: {text}")));
        if array.external.is_some() {
            return invalid(
                "its bitmap lies elsewhere; only those with the bitmap on the members grow",
            );
        }
        let members: Option<Vec<String>> = array
            .members
            .iter()
            .map(|member| member.as_ref().map(|member| member.name.clone()))
            .collect();
        let before = self.bdev(&name)?.geometry.blocks;
        let status = self.array_status(&name)?;
        let is_whole = status.members.iter().all(|(_, state)| *state == "in_sync");
        let Some(members) = members.filter(|_| is_whole && !status.failed) else {
            return invalid("it grows when all its members are in sync");
        };
        if status.replacement.is_some() {
            return invalid("a member is being replaced: it grows when that is done");
        }
        for member in &members {
            self.rescan_below(member)?;
        }
        let (blocks, is_growing) = match has_bitmap {
            true => self.grow_at_work(&name, &members)?,
            false => (self.grow_at_rest(&name, members)?, false),
        };
        Ok(Grown { from_blocks: before, blocks, is_growing })
    }

    /// Grows an array with a bitmap. It serves meanwhile, and its namespaces become larger. Its
    /// blocks then, and whether that is still to come.
    fn grow_at_work(&mut self, name: &str, members: &[String]) -> Result<(u64, bool), TargetError> {
        let sectors = |member: &String| {
            self.bdev(member).map(|bdev| bdev.geometry.size_bytes() / SECTOR_BYTES)
        };
        let sectors: Vec<u64> = members.iter().map(sectors).collect::<Result<_, _>>()?;
        let id = self.bdev(name)?.id;
        let blocks = self
            .engine
            .grow_array(id, sectors)
            .map_err(|error| TargetError::Invalid(format!("array {name}: {error}")))?;
        self.array_mut(name).grows_to = Some(blocks);
        let since = Instant::now();
        while since.elapsed() < GROWTH_WAIT {
            self.look_at_growth(name)?;
            if self.array(name)?.1.grows_to.is_none() {
                self.take_events();
                return Ok((blocks, false));
            }
            std::thread::sleep(DRAIN_LOOK);
        }
        Ok((blocks, true))
    }

    /// Looks whether an array has grown that was about to.
    ///
    /// # Errors
    /// If it has not and will not.
    fn look_at_growth(&mut self, name: &str) -> Result<(), TargetError> {
        let Some(blocks) = self.array(name)?.1.grows_to else { return Ok(()) };
        let Some(growth) = self.array_status(name)?.growth else {
            self.array_mut(name).grows_to = None;
            self.take_blocks(name, blocks);
            return Ok(());
        };
        let Some(why) = growth.failure else { return Ok(()) };
        self.array_mut(name).grows_to = None;
        let waited_for = self.names_of_members(name, growth.waits_for)?;
        let waited_for = match waited_for.is_empty() {
            true => String::new(),
            false => format!("; it was waited for {}", waited_for.join(", ")),
        };
        let text = format!("array {name} has not grown: {why}{waited_for}");
        Err(match why {
            GrowthFailure::NoAnswer | GrowthFailure::NoPause => TargetError::Busy(text),
            _ => TargetError::Io(text),
        })
    }

    /// Names of the members in a set.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn names_of_members(
        &self,
        array: &str,
        members: SlotMask,
    ) -> Result<Vec<String>, TargetError> {
        let (_, array) = self.array(array)?;
        // What replaces a member has the number behind the slots.
        let of_slot = |slot| match array.members.get(usize::from(slot)) {
            Some(member) => member.as_ref(),
            None => array.replacing.newcomer.as_ref(),
        };
        Ok(slots(members).filter_map(of_slot).map(|member| member.name.clone()).collect())
    }

    /// Arrays that were about to grow when somebody looked last.
    fn growing(&self) -> impl Iterator<Item = &str> {
        self.bdevs.iter().filter_map(|(name, bdev)| match &bdev.backing {
            Backing::Array(array) => array.grows_to.map(|_| name.as_str()),
            Backing::Device(_) => None,
        })
    }

    /// Whether there are any.
    pub(super) fn has_growing(&self) -> bool {
        self.growing().next().is_some()
    }

    /// Looks after all of them. Why one has not grown is told by an event.
    pub(super) fn look_at_growths(&mut self) {
        let names: Vec<String> = self.growing().map(str::to_owned).collect();
        for name in names {
            let _ = self.look_at_growth(&name);
        }
    }

    /// Grows an array without a bitmap: it stops, and its new part is resynced.
    fn grow_at_rest(&mut self, name: &str, members: Vec<String>) -> Result<u64, TargetError> {
        let (_, array) = self.array(name)?;
        let (uuid, is_found) = (array.uuid, array.is_found);
        let without_log = array.stripe_log == Some(Err(super::stripe_log::TURNED_OFF.to_owned()));
        let before = self.bdev(name)?.geometry.blocks;
        self.check_answers(name, &members)?;
        let (_, of_all) = self.superblocks_of(&members)?;
        if of_all.len() == members.len() {
            md::plan_growth(&of_all, None)
                .map_err(|error| TargetError::Invalid(format!("array {name}: {error}")))?;
        }
        if let Some(user) = &self.bdev(name)?.user {
            return Err(TargetError::Busy(format!(
                "array {name} is in use by {user}, and without a bitmap it stops while it grows: \
                 take it away first (nvmf_subsystem_remove_ns), and give it back with the larger \
                 size afterwards (nvmf_subsystem_add_ns)"
            )));
        }
        let wish = NewArrayWish {
            members: members.clone(),
            uuid: Some(uuid),
            level: None,
            create: None,
            options: ArrayOptions { without_log, ..ArrayOptions::default() },
            takeover: Takeover::default(),
            policy: self.settings_of(name).start_degraded.unwrap_or_default(),
        };
        let stopped = self.stop_for_a_while(name, &wish);
        if self.stopping(name).is_some() {
            return stopped.map(|()| before);
        }
        let grown = stopped.and_then(|()| self.grow_stopped(name, &members));
        self.start_again(name, wish, is_found)?;
        let growth = grown?;
        let after = self.bdev(name)?.geometry.blocks;
        tracing::info!(
            "array {name} has grown from {before} to {after} blocks: of each member {} sectors are \
             used, {} before",
            growth.to_sectors,
            growth.from_sectors
        );
        Ok(after)
    }

    /// It stops, and its members are asked for their superblocks: that would wait for one that
    /// hangs. So they are asked for an answer before.
    fn check_answers(&mut self, name: &str, members: &[String]) -> Result<(), TargetError> {
        let Some(hangs) = self.first_without_answer(members)? else { return Ok(()) };
        Err(TargetError::Busy(format!(
            "array {name}: bdev {hangs} has not answered for {} s. Without a bitmap the array \
             stops while it grows, and that would wait for the bdev. Nothing was changed: grow it \
             when the bdev answers, or has been replaced",
            ANSWER_WAIT.as_secs()
        )))
    }

    /// The members that carry superblocks, these, and how large each device is.
    fn superblocks_of(
        &mut self,
        members: &[String],
    ) -> Result<(Given, Vec<(Superblock, u64)>), TargetError> {
        let given = self.read_members(members)?;
        let own = |it: &md::Candidate| (it.superblock.clone(), it.device_sectors);
        let of_all = given.candidates.iter().map(own).collect();
        Ok((given, of_all))
    }

    /// The array is stopped: looks how large its members are now, and writes what it needs.
    fn grow_stopped(&mut self, name: &str, members: &[String]) -> Result<Growth, TargetError> {
        let (given, of_all) = self.superblocks_of(members)?;
        let refused = |text: String| TargetError::Invalid(format!("array {name}: {text}"));
        let (first, _) = of_all.first().ok_or_else(|| refused("no member is left".to_owned()))?;
        let is_at_rest = |(own, _): &(Superblock, u64)| {
            own.is_clean() && own.events == first.events && own.size_sectors == first.size_sectors
        };
        if of_all.len() != members.len() || !of_all.iter().all(is_at_rest) {
            return Err(refused("it could not be brought to rest: try again later".to_owned()));
        }
        let growth = md::plan_growth(&of_all, None).map_err(|error| refused(error.to_string()))?;
        for (member, own) in given.names.iter().zip(&growth.superblocks) {
            self.write_superblock(member, own)?;
        }
        Ok(growth)
    }

    /// Power was cut while an array grew that was stopped: gives the members that have not grown
    /// what those that have say. Returns whether there were any.
    pub(super) fn finish_growth(&mut self, name: &str, given: &Given) -> Result<bool, TargetError> {
        let Some(left) = md::unfinished(&given.candidates) else { return Ok(false) };
        let grown = &given.candidates[left.grown];
        let mut bitmap = None;
        if grown.superblock.bitmap_sector().is_some() {
            // Without it the assembly says what is wrong.
            let Some(Ok(head)) = &grown.bitmap else { return Ok(false) };
            let states = self.read_states(&given.names[left.grown], &grown.superblock, head)?;
            bitmap = Some((head.clone(), states));
        }
        for (index, own) in &left.behind {
            let member = &given.names[*index];
            let from = given.candidates[*index].superblock.size_sectors;
            if let Some((head, states)) = &bitmap {
                let chunk = u64::from(head.chunk_sectors().unwrap_or(0));
                self.zero_data(member, own, from..own.size_sectors.min(from + chunk))?;
                self.write_bitmap(member, own, head, states.iter().copied())?;
            }
            self.write_superblock(member, own)?;
            tracing::warn!(
                "array {name}: it was growing when it was cut off; bdev {member} has grown now, too"
            );
        }
        Ok(true)
    }

    fn zero_data(
        &mut self,
        member: &str,
        own: &Superblock,
        sectors: std::ops::Range<u64>,
    ) -> Result<(), TargetError> {
        let data = own.data_offset_sectors;
        let (mut at, end) =
            ((data + sectors.start) * SECTOR_BYTES, (data + sectors.end) * SECTOR_BYTES);
        while at < end {
            let step = (end - at).min(ZERO_STEP_BYTES);
            self.write_bytes(member, at, &vec![0; usize::try_from(step).expect("1 MiB at most")])?;
            at += step;
        }
        Ok(())
    }
}
