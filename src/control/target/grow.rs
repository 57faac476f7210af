//! An array takes all of its larger members. It stops for it, and so nothing may use it meanwhile:
//! what is written, in which order, and why a power cut does no harm, is in `md::grow`.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use super::arrays::ArrayOptions;
use super::bdevs::BdevSpec;
use super::takeover::{Given, Takeover};
use super::waiting::NewArrayWish;
use super::{Backing, Target, TargetError};
use crate::bdev::Device;
use crate::bitmap::state::safer_byte;
use crate::md::{self, BITMAP_HEAD_BYTES, BitmapSuperblock, Growth, SECTOR_BYTES, Superblock};

/// Bytes that are zeroed at a time.
const ZERO_STEP_BYTES: u64 = 1 << 20;

impl Target {
    /// Grows an array to what its smallest member has room for: how many blocks it had, and has.
    ///
    /// # Errors
    /// Why it did not grow; it runs as before then, or waits for what went wrong to be put right.
    pub fn grow_array(&mut self, name: &str) -> Result<(u64, u64), TargetError> {
        let name = self.resolve(name)?;
        let (_, array) = self.array(&name)?;
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
        let (uuid, is_found) = (array.uuid, array.is_found);
        let without_log = array.stripe_log == Some(Err(super::stripe_log::TURNED_OFF.to_owned()));
        let before = self.bdev(&name)?.geometry.blocks;
        if let Some(user) = &self.bdev(&name)?.user {
            return Err(TargetError::Busy(format!(
                "array {name} is in use by {user}, and it stops while it grows: take it away first \
                 (nvmf_subsystem_remove_ns), and give it back with the larger size afterwards \
                 (nvmf_subsystem_add_ns)"
            )));
        }
        let status = self.array_status(&name)?;
        let is_whole = status.members.iter().all(|(_, state)| *state == "in_sync");
        let Some(members) = members.filter(|_| is_whole && !status.failed) else {
            return invalid("it grows when all its members are in sync");
        };
        if status.replacement.is_some() {
            return invalid("a member is being replaced: it grows when that is done");
        }
        let spares = self.spares.iter().filter(|it| it.array.as_ref() == Some(&name));
        let spares: Vec<String> = spares.map(|spare| spare.bdev.clone()).collect();
        self.delete_array(&name, false)?;
        let grown = self.grow_stopped(&name, &members);
        let wish = NewArrayWish {
            members,
            uuid: Some(uuid),
            level: None,
            create: None,
            options: ArrayOptions { without_log, ..ArrayOptions::default() },
            takeover: Takeover::default(),
            policy: self.settings_of(&name).start_degraded.unwrap_or_default(),
        };
        let started = self.start_or_wait(&name, wish)?;
        if started.is_none() {
            return Err(TargetError::Lacking(self.waits_for(&name)));
        }
        self.array_mut(&name).is_found = is_found;
        if !spares.is_empty() {
            self.find_spares();
        }
        let growth = grown?;
        let after = self.bdev(&name)?.geometry.blocks;
        tracing::info!(
            "array {name} has grown from {before} to {after} blocks: of each member {} sectors are \
             used, {} before",
            growth.to_sectors,
            growth.from_sectors
        );
        Ok((before, after))
    }

    /// The array is stopped: looks how large its members are now, and writes what it needs.
    fn grow_stopped(&mut self, name: &str, members: &[String]) -> Result<Growth, TargetError> {
        for member in members {
            self.reopen_larger(member)?;
        }
        let given = self.read_members(members)?;
        let refused = |text: String| TargetError::Invalid(format!("array {name}: {text}"));
        let of_all: Vec<(Superblock, u64)> =
            given.candidates.iter().map(|it| (it.superblock.clone(), it.device_sectors)).collect();
        let (first, _) = of_all.first().ok_or_else(|| refused("no member is left".to_owned()))?;
        let is_at_rest = |(own, _): &(Superblock, u64)| {
            own.is_clean() && own.events == first.events && own.size_sectors == first.size_sectors
        };
        if of_all.len() != members.len() || !of_all.iter().all(is_at_rest) {
            return Err(refused("it could not be brought to rest: try again later".to_owned()));
        }
        let mut states = Vec::new();
        let mut head: Option<BitmapSuperblock> = None;
        if first.bitmap_sector().is_some() {
            for (member, candidate) in given.names.iter().zip(&given.candidates) {
                let Some(Ok(own)) = &candidate.bitmap else {
                    return Err(refused(format!("the bitmap of bdev {member} can't be read")));
                };
                let read = self.read_states(member, &candidate.superblock, own)?;
                merge(&mut states, &read);
                head = Some(own.clone());
            }
        }
        let growth =
            md::plan_growth(&of_all, head.as_ref()).map_err(|error| refused(error.to_string()))?;
        for (member, own) in given.names.iter().zip(&growth.superblocks) {
            self.zero_data(member, own, growth.zeroes())?;
        }
        for (member, own) in given.names.iter().zip(&growth.superblocks) {
            if let Some(head) = &growth.bitmap {
                self.write_bitmap(member, own, head, &states)?;
            }
            self.write_superblock(member, own)?;
        }
        Ok(growth)
    }

    /// Power was cut while an array grew: gives the members that have not grown what those that
    /// have say. Returns whether there were any.
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
                self.write_bitmap(member, own, head, states)?;
            }
            self.write_superblock(member, own)?;
            tracing::warn!(
                "array {name}: it was growing when it was cut off; bdev {member} has grown now, too"
            );
        }
        Ok(true)
    }

    /// Opens a file or device again if it is larger than it was.
    fn reopen_larger(&mut self, name: &str) -> Result<(), TargetError> {
        let bdev = self.bdev(name)?;
        let Backing::Device(Device::Uring(device)) = &bdev.backing else { return Ok(()) };
        let size = File::open(device.path()).and_then(|mut file| file.seek(SeekFrom::End(0)));
        let size = size.map_err(|error| TargetError::Io(format!("bdev {name}: {error}")))?;
        if size <= bdev.geometry.size_bytes() {
            return Ok(());
        }
        let spec = BdevSpec::Uring {
            path: device.path().to_owned(),
            block_size_bytes: Some(bdev.geometry.block_size_bytes),
        };
        let uuid = bdev.geometry.uuid;
        self.delete_bdev(name, "uring", |device| matches!(device, Device::Uring(_)))?;
        self.make_bdev(name, Some(uuid), &spec)
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

    /// Writes a whole lockless bitmap: the states given, and Unwritten for all further chunks.
    fn write_bitmap(
        &mut self,
        member: &str,
        own: &Superblock,
        head: &BitmapSuperblock,
        states: &[u8],
    ) -> Result<(), TargetError> {
        let area = usize::try_from(u64::from(head.sectors_reserved) * SECTOR_BYTES)
            .expect("bounded by the plan");
        let mut bytes = vec![0; area];
        let space = bytes.first_chunk_mut::<BITMAP_HEAD_BYTES>().expect("an area has a head");
        head.encode_into(space);
        bytes[BITMAP_HEAD_BYTES..][..states.len()].copy_from_slice(states);
        let sector = own.bitmap_sector().expect("it has a bitmap");
        self.write_bytes(member, sector * SECTOR_BYTES, &bytes)
    }
}

/// Of each chunk the more cautious state.
fn merge(states: &mut Vec<u8>, read: &[u8]) {
    if states.is_empty() {
        states.extend_from_slice(read);
    }
    states.iter_mut().zip(read).for_each(|(state, &other)| *state = safer_byte(*state, other));
}
