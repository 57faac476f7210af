//! What the files given make together: arrays, their health, and what a start would do.

use std::collections::BTreeMap;

use super::probe::{Content, Member, Probe};
use crate::bdev::BdevId;
use crate::bitmap::ChunkState;
use crate::bitmap::state::{STATES, on_load, on_load_stale, safer_byte};
use crate::md::{
    self, Assembly, BitmapPlan, BitmapSuperblock, BitmapVersion, Candidate, Rejection,
    RejectionReason, Role, SECTOR_BYTES, Slot, Superblock,
};
use crate::raid::assembly::{ArrayOptions, CandidateBdev, from_assembly};
use crate::raid::{self, BitmapConfig};

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    /// The files, as they were given.
    pub probes: Vec<Probe>,
    /// The arrays whose members are among them, in the order in which they were met.
    pub arrays: Vec<ArrayReport>,
}

/// An array.
#[derive(Debug)]
pub struct ArrayReport {
    /// Superblock that describes the array: the one with the most events.
    pub superblock: Superblock,
    /// Its members among the files, by slot, those without a slot last.
    pub members: Vec<MemberReport>,
    /// Slots for which no file was given.
    pub missing_slots: Vec<u16>,
    /// What a start would do, or why there would be none.
    pub plan: Result<Plan, String>,
    /// The lockless bitmap, where one could be read.
    pub bitmap: Option<BitmapReport>,
}

/// A member of an array.
#[derive(Debug)]
pub struct MemberReport {
    /// Index into [`Report::probes`].
    pub probe: usize,
    /// Slot it has or claims.
    pub slot: Option<u16>,
    /// Whether it takes part.
    pub health: Health,
    /// Why not.
    pub reason: Option<String>,
}

/// Whether a member takes part in its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Has all data.
    InSync,
    /// Its rebuild was not finished.
    Rebuilding,
    /// It is to take the place of a member in sync.
    Replacing,
    /// The array went on without it.
    Stale,
    /// The array has recorded it as failed.
    Faulty,
    /// Waits for a slot.
    Spare,
    /// Holds a write journal.
    Journal,
    /// Another reason keeps it out.
    Rejected,
}

impl Health {
    /// As JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Rebuilding => "rebuilding",
            Self::Replacing => "replacing",
            Self::Stale => "stale",
            Self::Faulty => "faulty",
            Self::Spare => "spare",
            Self::Journal => "journal",
            Self::Rejected => "rejected",
        }
    }
}

/// What a start would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Members in sync.
    pub in_sync: usize,
    /// Slots of the array.
    pub slots: usize,
    /// Where the states of chunks come from.
    pub bitmap: BitmapUse,
    /// Chunks in doubt: they are read from one member, and copied from it to the others.
    pub resync_chunks: u64,
    /// Bytes of array in these chunks; without a bitmap all of it or nothing.
    pub resync_bytes: u64,
}

impl Plan {
    /// Fewer members than slots: it starts when told so.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.in_sync < self.slots
    }
}

/// What a start does with the bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapUse {
    /// There is none.
    None,
    /// It is read from all members in sync.
    Load,
    /// It is older than the superblocks: all that was ever written is in doubt.
    Stale,
    /// It was made but never used.
    Initialise,
}

/// Chunk states of an array as they are on disk.
#[derive(Debug)]
pub struct BitmapReport {
    /// Head.
    pub superblock: BitmapSuperblock,
    /// Index into [`Report::probes`] of the member whose head this is.
    pub probe: usize,
    /// One byte a chunk; of several members' the more cautious.
    pub states: Vec<u8>,
    /// Members whose copy differs from this, and in how many chunks.
    pub differing: Vec<(usize, u64)>,
}

impl BitmapReport {
    /// Bytes a chunk covers.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.superblock.chunk_sectors().map_or(0, |sectors| u64::from(sectors) * SECTOR_BYTES)
    }

    /// Bytes that chunk `index` covers: the last one may be short.
    #[must_use]
    pub fn bytes_of(&self, index: usize) -> u64 {
        let all = self.superblock.sync_size_sectors * SECTOR_BYTES;
        self.chunk_bytes().min(all.saturating_sub(index as u64 * self.chunk_bytes()))
    }

    /// Chunks and bytes by state value; the last entry is of bytes that are no state.
    #[must_use]
    pub fn counts(&self) -> [(u64, u64); STATES + 1] {
        let mut counts = [(0, 0); STATES + 1];
        for (index, &byte) in self.states.iter().enumerate() {
            let (chunks, bytes) = &mut counts[usize::from(byte).min(STATES)];
            *chunks += 1;
            *bytes += self.bytes_of(index);
        }
        counts
    }
}

impl Report {
    /// Puts the files together.
    #[must_use]
    pub fn new(probes: Vec<Probe>) -> Self {
        let mut order = Vec::new();
        let mut groups: BTreeMap<[u8; 16], Vec<usize>> = BTreeMap::new();
        for (index, probe) in probes.iter().enumerate() {
            let Some(member) = probe.member() else { continue };
            let uuid = member.candidate.superblock.set_uuid;
            if !groups.contains_key(&uuid) {
                order.push(uuid);
            }
            groups.entry(uuid).or_default().push(index);
        }
        let arrays = order.iter().map(|uuid| Group::new(&probes, &groups[uuid]).report()).collect();
        Self { probes, arrays }
    }

    /// Every file was readable and a member.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.probes.iter().all(|probe| matches!(probe.content, Content::Member(_)))
    }
}

/// Members of one array.
struct Group<'a> {
    /// Index into the probes, by candidate.
    indices: &'a [usize],
    members: Vec<&'a Member>,
    candidates: Vec<Candidate>,
    paths: Vec<String>,
}

impl<'a> Group<'a> {
    fn new(probes: &'a [Probe], indices: &'a [usize]) -> Self {
        let member = |&index: &usize| probes[index].member().expect("groups hold members");
        let members: Vec<&Member> = indices.iter().map(member).collect();
        let candidates = members.iter().map(|member| member.candidate.clone()).collect();
        let path = |&index: &usize| probes[index].path.display().to_string();
        Self { indices, members, candidates, paths: indices.iter().map(path).collect() }
    }

    fn report(&self) -> ArrayReport {
        let mut candidates = self.candidates.clone();
        md::take_up(&mut candidates);
        let assembly = md::assemble(&candidates);
        let freshest =
            assembly.as_ref().map_or_else(|_| self.freshest(), |assembly| assembly.freshest);
        let superblock = self.candidates[freshest].superblock.clone();
        let judged = |candidate: usize| match &assembly {
            Ok(assembly) => self.placed(assembly, candidate),
            Err(_) => self.judged(candidate, &superblock),
        };
        let mut members: Vec<MemberReport> = (0..self.candidates.len()).map(judged).collect();
        members.sort_by_key(|member| (member.slot.is_none(), member.slot, member.probe));
        let slots = u16::try_from(superblock.raid_disks).unwrap_or(u16::MAX);
        let given = |slot: u16| members.iter().any(|member| member.slot == Some(slot));
        let missing_slots = (0..slots).filter(|&slot| !given(slot)).collect();
        let mut sources = vec![freshest];
        if let Ok(assembly) = &assembly {
            sources = assembly.slots.iter().filter_map(in_sync).collect();
        }
        let plan = assembly.map_err(|error| error.to_string());
        let plan = plan.and_then(|assembly| self.plan(&assembly));
        let plan = plan.map_err(|error| self.numbered(error));
        let bitmap = self.bitmap(&sources);
        ArrayReport { superblock, members, missing_slots, plan, bitmap }
    }

    /// The candidate with the most events, one with an active role before the others.
    fn freshest(&self) -> usize {
        let rank = |index: &usize| {
            let superblock = &self.candidates[*index].superblock;
            let is_active = matches!(superblock.own_role(), Role::Active(_));
            (is_active, superblock.events, std::cmp::Reverse(*index))
        };
        (0..self.candidates.len()).max_by_key(rank).expect("a group has a member")
    }

    /// A candidate's part in an array that assembles.
    fn placed(&self, assembly: &Assembly, candidate: usize) -> MemberReport {
        let probe = self.indices[candidate];
        let takes = |slot: &Slot| match *slot {
            Slot::InSync { candidate: by } => (by == candidate).then_some(Health::InSync),
            Slot::Rebuilding { candidate: by, .. } => {
                (by == candidate).then_some(Health::Rebuilding)
            }
            Slot::Missing { .. } => None,
        };
        let place = (0..).zip(&assembly.slots).find_map(|(slot, by)| Some((slot, takes(by)?)));
        if let Some((slot, health)) = place {
            let text = "its rebuild was not finished, so it stays out until it is rebuilt anew";
            let reason = (health == Health::Rebuilding).then(|| text.to_owned());
            return MemberReport { probe, slot: Some(slot), health, reason };
        }
        if let Some(replacing) = assembly.replacement.filter(|it| it.candidate == candidate) {
            let text = "it takes the member's place when it has been given all that the member has";
            let slot = Some(replacing.slot);
            let reason = Some(text.to_owned());
            return MemberReport { probe, slot, health: Health::Replacing, reason };
        }
        let rejected = assembly.rejected.iter().find(|rejection| rejection.candidate == candidate);
        let Rejection { reason, .. } = rejected.expect("who has no slot was rejected");
        let health = match reason {
            RejectionReason::Stale { .. } => Health::Stale,
            RejectionReason::Faulty => Health::Faulty,
            RejectionReason::Spare => Health::Spare,
            RejectionReason::Journal => Health::Journal,
            _ => Health::Rejected,
        };
        let slot = match self.candidates[candidate].superblock.own_role() {
            Role::Active(slot) => Some(slot),
            _ => None,
        };
        let reason = self.named(reason);
        MemberReport { probe, slot, health, reason: Some(reason) }
    }

    /// Reasons name other candidates by number; here they have paths.
    fn named(&self, reason: &RejectionReason) -> String {
        match reason {
            RejectionReason::SlotTaken { slot, by } => {
                format!("slot {slot} is taken by {}", self.paths[*by])
            }
            RejectionReason::DuplicateDevice { uuid, of } => format!(
                "it has the same device uuid {uuid} as {}: a copy, or the same device twice",
                self.paths[*of]
            ),
            other => other.to_string(),
        }
    }

    /// Says which file "member N" is, where a sentence speaks of one.
    fn numbered(&self, text: String) -> String {
        let is_named = |index: &usize| text.contains(&format!("member {index}"));
        let named: Vec<String> = (0..self.paths.len())
            .filter(is_named)
            .map(|index| format!("member {index} is {}", self.paths[index]))
            .collect();
        if named.is_empty() { text } else { format!("{text} ({})", named.join(", ")) }
    }

    /// What can be said of a candidate whose array mdof cannot assemble.
    fn judged(&self, candidate: usize, freshest: &Superblock) -> MemberReport {
        let superblock = &self.candidates[candidate].superblock;
        let behind = freshest.events.saturating_sub(superblock.events);
        let have = self.candidates[candidate].device_sectors;
        let need = superblock.data_offset_sectors + superblock.size_sectors;
        let (health, slot, reason) = match superblock.own_role() {
            Role::Active(slot) if need > have => {
                let text = format!("it has {have} sectors, its data ends at sector {need}");
                (Health::Rejected, Some(slot), Some(text))
            }
            Role::Active(slot) if behind > 1 => {
                let text = format!("its superblock is {behind} events behind the freshest");
                (Health::Stale, Some(slot), Some(text))
            }
            Role::Active(slot) if superblock.is_rebuilding() => {
                (Health::Rebuilding, Some(slot), Some("its rebuild was not finished".to_owned()))
            }
            Role::Active(slot) => (Health::InSync, Some(slot), None),
            Role::Faulty => (Health::Faulty, None, Some("it is marked as failed".to_owned())),
            Role::Spare => (Health::Spare, None, Some("it is a spare".to_owned())),
            Role::Journal => (Health::Journal, None, Some("it is a journal device".to_owned())),
        };
        MemberReport { probe: self.indices[candidate], slot, health, reason }
    }

    fn states(&self, candidate: usize) -> Option<&'a [u8]> {
        match &self.members[candidate].states {
            Some(Ok(states)) => Some(states),
            _ => None,
        }
    }

    /// Goes the way that a start goes, up to the point where it would touch anything.
    fn plan(&self, assembly: &Assembly) -> Result<Plan, String> {
        let superblock = &assembly.superblock;
        let block_size_bytes = match superblock.logical_block_size {
            0 => 512,
            bytes => bytes,
        };
        let options = ArrayOptions {
            name: superblock.name(),
            block_size_bytes,
            owner_core: 0,
            daemon_sleep_s: 1,
            barrier_idle_s: 1,
        };
        let bdevs = vec![CandidateBdev::plain(BdevId(0)); self.candidates.len()];
        let states: Vec<Option<Vec<u8>>> = (0..self.candidates.len())
            .map(|candidate| self.states(candidate).map(<[u8]>::to_vec))
            .collect();
        let config = from_assembly(options, assembly, &self.candidates, &bdevs, &states)
            .map_err(|error| error.to_string())?;
        raid::prepare(&config, BdevId(0))?;
        let (bitmap, resync_chunks, resync_bytes) = match &config.bitmap {
            BitmapConfig::None { resync } => {
                let bytes = superblock.size_sectors.saturating_mul(SECTOR_BYTES);
                (BitmapUse::None, 0, if *resync { bytes } else { 0 })
            }
            BitmapConfig::Lockless { superblock, states, stale, .. } => {
                let (chunks, bytes) = in_doubt(superblock, states, *stale);
                let bitmap = match assembly.bitmap {
                    BitmapPlan::Initialise { .. } => BitmapUse::Initialise,
                    _ if *stale => BitmapUse::Stale,
                    _ => BitmapUse::Load,
                };
                (bitmap, chunks, bytes)
            }
        };
        let (in_sync, slots) = (assembly.in_sync_count(), assembly.slots.len());
        Ok(Plan { in_sync, slots, bitmap, resync_chunks, resync_bytes })
    }

    /// The states of the first of `sources` that has some, made more cautious by the others'.
    fn bitmap(&self, sources: &[usize]) -> Option<BitmapReport> {
        let readable = |&source: &usize| self.states(source).map(|states| (source, states));
        let (first, states) = sources.iter().find_map(readable)?;
        let mut states = states.to_vec();
        for (_, others) in sources.iter().filter_map(readable) {
            for (byte, &other) in states.iter_mut().zip(others) {
                *byte = safer_byte(*byte, other);
            }
        }
        let mut differing = Vec::new();
        for (source, copy) in sources.iter().filter_map(readable) {
            let differ = copy.iter().zip(&states).filter(|(a, b)| a != b).count();
            if differ > 0 {
                differing.push((self.indices[source], differ as u64));
            }
        }
        let Some(Ok(superblock)) = self.candidates[first].bitmap.clone() else { return None };
        assert!(superblock.version == BitmapVersion::Lockless, "only these have states");
        Some(BitmapReport { superblock, probe: self.indices[first], states, differing })
    }
}

fn in_sync(slot: &Slot) -> Option<usize> {
    match slot {
        Slot::InSync { candidate } => Some(*candidate),
        _ => None,
    }
}

/// Chunks and bytes that a start finds in doubt.
fn in_doubt(superblock: &BitmapSuperblock, states: &[u8], stale: bool) -> (u64, u64) {
    let load = if stale { on_load_stale } else { on_load };
    let chunk = u64::from(superblock.chunk_sectors().unwrap_or(0));
    let (mut chunks, mut sectors) = (0, 0);
    for (index, &byte) in (0u64..).zip(states) {
        if load(byte) == ChunkState::NeedSync {
            chunks += 1;
            sectors += chunk.min(superblock.sync_size_sectors.saturating_sub(index * chunk));
        }
    }
    (chunks, sectors * SECTOR_BYTES)
}
