//! From a configuration to the machines of an array.

use std::sync::Arc;

use super::bad::{self, BadLists, List};
use super::geometry::{Geometry, Shape};
use super::knobs;
use super::message::SlotMask;
use super::owner::Owner;
use super::owner_bad::BadKeeper;
use super::owner_bitmap::{BitmapKeeper, Copies};
use super::owner_daemon::Daemon;
use super::owner_log::LogKeeper;
use super::owner_members::{Member, MemberState, Rebuild, Recorder};
use super::{
    ArrayConfig, BitmapConfig, CHUNK_SIZE_BYTES_MIN, MemberConfig, MemberPlace, Shared, SharedLog,
};
use crate::bdev::BdevId;
use crate::bitmap::{Advise, ChunkMap, ChunkState, Doubt, ParityFound, state};
use crate::limits::MEMBERS_MAX;
use crate::md::{BitmapFlags, Role, SECTOR_BYTES, Superblock};
use crate::reactor::buf::BufPool;

/// Chunk size of the map that steers the resync of an array without a bitmap.
pub const VOLATILE_CHUNK_SIZE_BYTES: u64 = 1 << 20;

impl ArrayConfig {
    /// The members that have everything.
    #[must_use]
    pub fn in_sync(&self) -> SlotMask {
        self.members_that(|member| member.lacks.is_none())
    }

    /// The members that are written: those in sync, those being rebuilt, and what replaces one.
    #[must_use]
    pub fn writable(&self) -> SlotMask {
        let twin = match self.replacement {
            Some(_) => 1 << self.members.len(),
            None => 0,
        };
        self.members_that(|_| true) | twin
    }

    /// Those that take part, what replaces one included.
    fn all_members(&self) -> impl Iterator<Item = &MemberConfig> {
        let replacement = self.replacement.as_ref().map(|(_, member)| member);
        self.members.iter().flatten().chain(replacement)
    }

    fn all_slots(&self) -> SlotMask {
        (0..self.members.len()).fold(0, |mask, slot| mask | 1 << slot)
    }

    fn members_that(&self, wanted: impl Fn(&MemberConfig) -> bool) -> SlotMask {
        (0u32..).zip(&self.members).fold(0, |mask, (slot, member)| {
            mask | SlotMask::from(member.as_ref().is_some_and(&wanted)) << slot
        })
    }

    fn first_superblock(&self) -> Result<&Superblock, String> {
        let member = self.members.iter().flatten().find(|member| member.lacks.is_none());
        Ok(&member.ok_or_else(|| format!("array {}: no member is present", self.name))?.superblock)
    }
}

/// The part of an array that owner and channels share.
pub(super) fn shared(
    config: &ArrayConfig,
    bdev: BdevId,
    advise: Advise<'_>,
) -> Result<Shared, String> {
    let name = &config.name;
    if config.members.len() > MEMBERS_MAX {
        return Err(format!("array {name}: more than {MEMBERS_MAX} members"));
    }
    let superblock = config.first_superblock()?;
    let block = block_size_bytes(config, superblock)?;
    let sectors_per_block = block / SECTOR_BYTES;
    if superblock.sync_size_sectors() == 0 {
        // Without its members even the size of such an array is unknown.
        check_enough(config, |in_sync| in_sync == config.all_slots())?;
    }
    let geometry = geometry(config, superblock)?;
    check_enough(config, |in_sync| geometry.is_readable(in_sync))?;
    let (blocks, sync_blocks) = (geometry.blocks(), geometry.sync_blocks());
    let chunk_size_bytes = match &config.bitmap {
        BitmapConfig::None { .. } => VOLATILE_CHUNK_SIZE_BYTES,
        BitmapConfig::Lockless { superblock, .. } => {
            u64::from(superblock.chunk_sectors().unwrap_or(0)) * SECTOR_BYTES
        }
    };
    if !chunk_size_bytes.is_power_of_two() || chunk_size_bytes < CHUNK_SIZE_BYTES_MIN {
        return Err(format!("array {name}: mdof does not run chunks of {chunk_size_bytes} bytes"));
    }
    let chunk_shift = (chunk_size_bytes / block).trailing_zeros();
    let place = |slot: usize, member: &MemberConfig| place(name, slot, member, sectors_per_block);
    let members = (0..).zip(&config.members);
    let members =
        members.map(|(slot, member)| member.as_ref().map(|it| place(slot, it)).transpose());
    let replacement = match &config.replacement {
        Some((slot, member)) => Some((*slot, place(usize::from(*slot), member)?)),
        None => None,
    };
    let unwritten_reads_zero = config
        .members
        .iter()
        .flatten()
        .filter(|member| member.lacks.is_none())
        .all(|member| member.superblock.unwritten_reads_zero());
    // An external bitmap that was not named knows by the missing mark that it is out of date.
    let unwritten_reads_zero =
        unwritten_reads_zero && matches!(config.bitmap, BitmapConfig::Lockless { .. });
    let map = map(config, sync_blocks, chunk_shift, advise)?;
    let doubt = doubt(config, &geometry, &map, sync_blocks.div_ceil(1 << chunk_shift))?;
    let log = SharedLog::new(config, &geometry)?;
    let bad = BadLists::new(bad_blocks(config));
    Ok(Shared {
        bdev,
        block_size_bytes: config.block_size_bytes,
        map,
        geometry,
        blocks,
        sync_blocks,
        chunk_shift,
        discards: unwritten_reads_zero,
        members: members.collect::<Result<_, String>>()?,
        replacement,
        unwritten_reads_zero,
        doubt,
        log,
        bad,
    })
}

impl Shared {
    /// What owner and channels of the array share when it has grown to what `superblock` says. Its
    /// new chunks are Unwritten; the others are to be taken over ([`Self::take_over`]).
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn grown(
        &self,
        superblock: &Superblock,
        advise: Advise<'_>,
    ) -> Result<Self, String> {
        let slots = usize::from(self.geometry.slots());
        let geometry = geometry_of(superblock, (slots, &[]), self.block_size_bytes)?;
        let (blocks, sync_blocks) = (geometry.blocks(), geometry.sync_blocks());
        let chunks = usize::try_from(sync_blocks.div_ceil(1 << self.chunk_shift))
            .map_err(|_| "it would have too many chunks".to_owned())?;
        let unwritten = (0..chunks).map(|_| ChunkState::Unwritten);
        let doubted = if self.parity().is_some() { chunks } else { 0 };
        Ok(Self {
            bdev: self.bdev,
            block_size_bytes: self.block_size_bytes,
            map: Some(ChunkMap::new_in(advise, unwritten)),
            geometry,
            blocks,
            sync_blocks,
            chunk_shift: self.chunk_shift,
            discards: self.discards,
            members: self.members.clone(),
            replacement: None,
            unwritten_reads_zero: self.unwritten_reads_zero,
            doubt: Doubt::new((0..doubted).map(|_| ParityFound::Right)),
            log: self.log.as_ref().map(SharedLog::again),
            bad: self.bad.clone(),
        })
    }

    /// Takes over what the smaller array knew of its chunks. Nobody uses either meanwhile.
    pub(super) fn take_over(&self, old: &Self) {
        if let (Some(map), Some(old)) = (&self.map, &old.map) {
            map.take_over(old);
        }
        self.doubt.take_over(&old.doubt);
        if let (Some(log), Some(old)) = (&self.log, &old.log) {
            log.vouching.set(old.vouching.is_on());
        }
    }
}

/// What the members have listed as bad, by slot, with what replaces one behind the slots.
fn bad_blocks(config: &ArrayConfig) -> Vec<List> {
    let replacement = config.replacement.as_ref().map(|(_, member)| member);
    let members = config.members.iter().map(Option::as_ref).chain([replacement]);
    let list = |member: &MemberConfig| {
        let data = member.superblock.data_offset_sectors;
        bad::from_log(&member.bad_blocks, data, config.block_size_bytes)
    };
    let lists = members.map(|member| member.map_or_else(List::default, list));
    lists.chain([List::default()]).take(config.members.len() + 1).collect()
}

/// Where a member's data lie.
fn place(
    name: &str,
    slot: usize,
    member: &MemberConfig,
    sectors_per_block: u64,
) -> Result<MemberPlace, String> {
    let offset = member.superblock.data_offset_sectors;
    if !offset.is_multiple_of(sectors_per_block)
        || !member.superblock.super_offset_sectors.is_multiple_of(sectors_per_block)
    {
        return Err(format!("array {name}: member {slot} is not aligned to its blocks"));
    }
    let data_lba = offset / sectors_per_block;
    let MemberConfig { bdev, unmap, cheap_zeroes, .. } = *member;
    Ok(MemberPlace { bdev, data_lba, unmap, cheap_zeroes })
}

/// The size of the members' blocks, which must be that of the array's.
fn block_size_bytes(config: &ArrayConfig, superblock: &Superblock) -> Result<u64, String> {
    let (name, block) = (&config.name, u64::from(config.block_size_bytes));
    if !matches!(block, 512 | 4096) {
        return Err(format!("array {name}: block size {block} is neither 512 nor 4096"));
    }
    let array_block = u64::from(superblock.logical_block_size);
    // 0: made by an older kernel, or never started.
    if array_block != 0 && array_block != block {
        return Err(format!(
            "array {name} has logical blocks of {array_block} bytes, its member bdevs have blocks \
             of {block}; set block_size_bytes = {array_block} for them"
        ));
    }
    Ok(block)
}

/// Where parity may not fit the data: in chunks that are NeedSync for another reason than a member
/// that was away. After a clean stop, or if a stripe log tells what was being written, that is
/// where Linux md has not built parity yet: it was then made column by column as data were written.
fn doubt(
    config: &ArrayConfig,
    geometry: &Geometry,
    map: &Option<ChunkMap>,
    chunks: u64,
) -> Result<Doubt, String> {
    if matches!(geometry, Geometry::Copies(_)) {
        return Ok(Doubt::default());
    }
    let members = || config.members.iter().flatten();
    let was_stopped = members().all(|it| it.superblock.resync_offset_sectors == u64::MAX);
    let is_own = members().all(|it| it.superblock.unwritten_reads_zero());
    let is_degraded = config.members.iter().any(Option::is_none);
    let is_stale = matches!(&config.bitmap, BitmapConfig::Lockless { stale: true, .. });
    let is_trusted = !is_stale && (was_stopped || config.log.trusted);
    let found = match (is_trusted || mutant!(CrashLeavesNoDoubt), is_own) {
        (true, true) => ParityFound::Right,
        (true, false) => ParityFound::Unbuilt,
        (false, _) => ParityFound::Torn,
    };
    let chunks = usize::try_from(chunks).expect("there is a byte for each");
    let of_chunk = |chunk| match map.as_ref().map(|map| map.state(chunk)) {
        Some(ChunkState::NeedSync) => found,
        _ => ParityFound::Right,
    };
    let doubt = Doubt::new((0..chunks).map(of_chunk));
    if config.accepts_loss {
        doubt.accept();
    }
    let count = doubt.torn_count();
    if is_degraded && count > 0 && !config.force {
        let name = &config.name;
        return Err(format!(
            "array {name}: a member is missing and the array was not stopped cleanly, and no \
             stripe log tells what was being written: in {count} chunks parity may not fit the \
             data, and what the missing member held there can't be recovered. Bring the member \
             back; or start with force: reads of what is lost fail then, and a rebuild takes what \
             parity says for it"
        ));
    }
    Ok(doubt)
}

/// Refuses to start what could not read all of its data.
fn check_enough(
    config: &ArrayConfig,
    is_readable: impl Fn(SlotMask) -> bool,
) -> Result<(), String> {
    let in_sync = config.in_sync();
    if is_readable(in_sync) {
        return Ok(());
    }
    let missing: Vec<String> =
        super::slots(config.all_slots() & !in_sync).map(|slot| slot.to_string()).collect();
    Err(format!(
        "array {} cannot start: nothing that is there has what the members of slots {} hold; find \
         one of them that was in use to the last",
        config.name,
        missing.join(", ")
    ))
}

/// Where the array's blocks lie. A member that is missing counts with what the array uses of it.
fn geometry(config: &ArrayConfig, superblock: &Superblock) -> Result<Geometry, String> {
    let member_sectors: Vec<u64> = config
        .members
        .iter()
        .map(|member| member.as_ref().map_or(0, |member| member.superblock.data_size_sectors))
        .collect();
    let slots = (config.members.len(), &member_sectors[..]);
    geometry_of(superblock, slots, config.block_size_bytes)
        .map_err(|error| format!("array {}: {error}", config.name))
}

/// The same of so many slots, and what each member has where the level uses all of it.
fn geometry_of(
    superblock: &Superblock,
    (slots, member_sectors): (usize, &[u64]),
    block_size_bytes: u32,
) -> Result<Geometry, String> {
    Geometry::new(&Shape {
        level: superblock.level.number(),
        layout: superblock.layout_word(),
        raid_disks: u32::try_from(slots).expect("bounded by MEMBERS_MAX"),
        chunk_sectors: superblock.chunk_sectors,
        size_sectors: superblock.size_sectors,
        member_sectors,
        block_size_bytes,
    })
    .map_err(|error| error.to_string())
}

fn map(
    config: &ArrayConfig,
    blocks: u64,
    chunk_shift: u32,
    advise: Advise<'_>,
) -> Result<Option<ChunkMap>, String> {
    let chunks = usize::try_from(blocks.div_ceil(1 << chunk_shift))
        .map_err(|_| format!("array {}: too many chunks", config.name))?;
    match &config.bitmap {
        BitmapConfig::None { resync: false } => Ok(None),
        BitmapConfig::None { resync: true } => {
            Ok(Some(ChunkMap::new_in(advise, (0..chunks).map(|_| ChunkState::NeedSync))))
        }
        BitmapConfig::Lockless { states, stale, .. } => {
            if states.len() != chunks {
                let name = &config.name;
                let found = states.len();
                return Err(format!("array {name}: {found} chunk states for {chunks} chunks"));
            }
            if mutant!(DirtyCountsAsClean) {
                let trusted = states.iter().map(|&byte| if byte == 2 { 1 } else { byte });
                return Ok(Some(ChunkMap::new(
                    trusted.collect::<Vec<_>>().into_iter().map(state::on_load),
                )));
            }
            let load = if *stale { state::on_load_stale } else { state::on_load };
            Ok(Some(ChunkMap::new_in(advise, states.iter().map(|&byte| load(byte)))))
        }
    }
}

impl Owner {
    /// The owner of the array that `shared` was prepared for.
    ///
    /// # Errors
    /// A sentence for the operator, when the core has no buffers left for its metadata.
    pub fn from_config(
        config: &ArrayConfig,
        shared: Arc<Shared>,
        cores: u16,
        pool: BufPool,
    ) -> Result<Self, String> {
        let no_buffers =
            || format!("array {}: no buffers left for its metadata on its core", config.name);
        let events = config.first_superblock()?.events;
        let events = config
            .all_members()
            .fold(events, |events, member| events.max(member.superblock.events));
        // A header from further ahead takes the place of one that other members went on with.
        let events_of_members = events;
        let events = match &config.bitmap {
            BitmapConfig::Lockless { superblock, external: Some(_), .. }
                if superblock.events > events + 1 =>
            {
                superblock.events + 1
            }
            _ => events,
        };
        let slots = shared.places_len();
        let block = config.block_size_bytes as usize;
        let recorder = Recorder::new(events, slots, cores, &pool).ok_or_else(no_buffers)?;
        let bitmap = match &config.bitmap {
            BitmapConfig::None { .. } => None,
            BitmapConfig::Lockless { superblock, states, stale, rewrite, external } => {
                let copies = match external {
                    Some(bdev) => Copies::External(*bdev),
                    None => Copies::Members(bitmap_lbas(config, slots)?),
                };
                let mut header = superblock.clone();
                header.daemon_sleep_s = config.daemon_sleep_s;
                header.settings = knobs::settings(config.barrier_idle_s, config.infection);
                let chunk_size_bytes = u64::from(config.block_size_bytes) << shared.chunk_shift;
                let chunks = (states.len(), chunk_size_bytes);
                let mut keeper = BitmapKeeper::new(header, chunks, block, copies, cores, &pool)
                    .ok_or_else(no_buffers)?;
                keeper.set_infection(config.infection);
                if (*stale || *rewrite) && !mutant!(NoRewriteAfterCrash) {
                    keeper.rewrite_all(*stale || superblock.flags.contains(BitmapFlags::STALE));
                }
                Some(keeper)
            }
        };
        let daemon = Daemon::new(config.daemon_sleep_s, config.barrier_idle_s);
        let log = LogKeeper::new(config, &shared, &pool).ok_or_else(no_buffers)?;
        let bad_keeper = BadKeeper::new(&pool).ok_or_else(no_buffers)?;
        let metadata = (bitmap, log, bad_keeper);
        let members = members(config, slots);
        let mut owner = Self::new(shared, pool, cores, members, metadata, daemon, recorder);
        let is_behind = events == events_of_members && is_behind(config, events);
        if is_behind && !mutant!(UpdateNotFinished) {
            owner.recorder.finish_earlier();
        } else {
            owner.note_absent();
        }
        Ok(owner)
    }

    /// Those that are missing have failed as far as the superblocks of the others will tell. md
    /// calls them spares, which a number not given out yet is as well: then two halves that were
    /// each started alone, one of them twice, can't be told from an array and a member that left
    /// it, and what the lesser half acknowledged is lost without a word.
    pub(super) fn note_absent(&mut self) {
        if mutant!(AbsenceAtStartForgotten) {
            return;
        }
        let superblocks = || self.members.iter().filter_map(|member| member.superblock.as_ref());
        let present: Vec<u32> = superblocks().map(|superblock| superblock.dev_number).collect();
        for superblock in self.members.iter_mut().filter_map(|it| it.superblock.as_mut()) {
            let numbers = u32::try_from(superblock.roles.len()).expect("md's table is short");
            for number in (0..numbers).filter(|number| !present.contains(number)) {
                if matches!(superblock.role_of(number), Role::Active(_)) {
                    superblock.set_role(number, Role::Faulty);
                    // If no slot misses it, another device has its place.
                    self.recorder.lets_go();
                }
            }
        }
    }
}

/// Block of each member where its bitmap begins.
fn bitmap_lbas(config: &ArrayConfig, slots: usize) -> Result<Vec<u64>, String> {
    let sectors_per_block = u64::from(config.block_size_bytes) / SECTOR_BYTES;
    let lba = |slot: usize, superblock: &Superblock| {
        let sector = superblock.bitmap_sector().filter(|sector| sector % sectors_per_block == 0);
        sector.map(|sector| sector / sectors_per_block).ok_or_else(|| {
            let name = &config.name;
            format!("array {name}: the bitmap of member {slot} is not at a block boundary")
        })
    };
    let members = config.members.iter().map(Option::as_ref);
    let members = members.chain(std::iter::once(config.replacement.as_ref().map(|(_, it)| it)));
    members
        .take(slots)
        .enumerate()
        .map(|(slot, member)| member.map_or(Ok(0), |m| lba(slot, &m.superblock)))
        .collect()
}

/// The last update of the superblocks has not reached every member. With an external bitmap its
/// header would otherwise run ahead of members that no update reaches: one that is being rebuilt
/// got the last, and the header the next.
fn is_behind(config: &ArrayConfig, events: u64) -> bool {
    let is_external =
        matches!(&config.bitmap, BitmapConfig::Lockless { external, .. } if external.is_some());
    let is_behind = config.members.iter().flatten().any(|it| it.superblock.events < events);
    is_behind && !(is_external && mutant!(ExternalUpdateNotFinished))
}

/// The members' state at the start.
fn members(config: &ArrayConfig, slots: usize) -> Vec<Member> {
    let members = config.members.iter().map(Option::as_ref);
    let members = members.chain(std::iter::once(config.replacement.as_ref().map(|(_, it)| it)));
    let members = members.take(slots).map(|member| {
        let Some(member) = member else {
            return Member::new(MemberState::Missing, None);
        };
        let superblock = Some(member.superblock.clone());
        let Some(lacks) = member.lacks else {
            return Member::new(MemberState::InSync, superblock);
        };
        let rebuild = Some(Rebuild::resumed(lacks));
        Member { rebuild, ..Member::new(MemberState::Rebuilding, superblock) }
    });
    members.collect()
}
