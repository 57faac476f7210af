//! What the logs of an array's members say together.

use std::collections::BTreeMap;

use super::{Fragment, LogError, LogHead, LogVoid, Record};
use crate::md::{SECTOR_BYTES, Superblock};

/// The head that counts, of those of the members in sync. `newest` is a superblock of the highest
/// event count, as it was read.
///
/// # Errors
/// Why no log counts: parity may then not fit where writes were under way.
pub fn trusted_head<'a>(
    newest: &Superblock,
    heads: impl Iterator<Item = &'a Result<LogHead, LogError>>,
) -> Result<LogHead, LogVoid> {
    let ignores_others = mutant!(LogIgnoresEvents);
    if !newest.has_stripe_log() && !ignores_others {
        return Err(LogVoid::NotKept);
    }
    let mut reason = String::new();
    let mut found: Option<LogHead> = None;
    for head in heads {
        match head {
            Ok(head) if found.is_none_or(|other| other.events < head.events) => found = Some(*head),
            Ok(_) => {}
            Err(error) => reason = error.to_string(),
        }
    }
    let head = found.ok_or(LogVoid::NoHead { reason })?;
    if head.events < newest.events && !ignores_others {
        return Err(LogVoid::Older { found: head.events, events: newest.events });
    }
    if head.vouches || ignores_others { Ok(head) } else { Err(LogVoid::Doubtful) }
}

/// A record that may not be in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRecord {
    /// Its ring.
    pub ring: u16,
    /// Its number there.
    pub sequence: u64,
    /// Header and payload as they lie in the slot.
    pub bytes: Vec<u8>,
    /// The members that have it, a bit each.
    pub holders: u64,
    /// What is to be written where.
    pub fragments: Vec<Fragment>,
}

/// Looks through the logs of the members: the caller reads where it is told to and hands in what
/// it read.
#[derive(Debug)]
pub struct LogSearch {
    head: LogHead,
    member_blocks: u64,
    /// By ring and number.
    records: BTreeMap<(u16, u64), (Record, LiveRecord)>,
    /// By ring.
    floors: BTreeMap<u16, u64>,
}

impl LogSearch {
    /// Nothing read yet. `member_blocks` are those that the array uses of each member.
    #[must_use]
    pub fn new(head: LogHead, member_blocks: u64) -> LogSearch {
        LogSearch { head, member_blocks, records: BTreeMap::new(), floors: BTreeMap::new() }
    }

    /// First sector and sectors of the slots of a member whose data begin at that sector; `None`
    /// if they can't be there.
    #[must_use]
    pub fn slots_at(&self, data_offset_sectors: u64) -> Option<(u64, u64)> {
        let head = super::LOG_HEAD_BYTES as u64 / SECTOR_BYTES;
        let all = self.head.layout.area_bytes() / SECTOR_BYTES;
        Some((data_offset_sectors.checked_sub(all)?, all - head))
    }

    /// Takes what a member has there. What is no record is passed over: a torn one was not yet
    /// being written in place.
    pub fn take(&mut self, slot: u8, area: &[u8]) {
        let layout = self.head.layout;
        let size = layout.slot_bytes as usize;
        for ring in 0..layout.rings {
            for index in 0..layout.slots {
                let back = layout.slot_before_data_bytes(ring, index);
                let back = usize::try_from(back).expect("inside the area") - super::LOG_HEAD_BYTES;
                let Some(at) = area.len().checked_sub(back) else { continue };
                self.take_slot(slot, (ring, index), &area[at..at + size]);
            }
        }
    }

    fn take_slot(&mut self, slot: u8, (ring, index): (u16, u32), bytes: &[u8]) {
        let LogHead { set_uuid, run, layout, .. } = &self.head;
        let Ok(record) = Record::parse(bytes, set_uuid, run, self.member_blocks) else { return };
        if record.ring != ring || record.sequence % u64::from(layout.slots) != u64::from(index) {
            return;
        }
        let floor = self.floors.entry(ring).or_default();
        *floor = record.floor.max(*floor);
        let key = (ring, record.sequence);
        let (_, live) = self.records.entry(key).or_insert_with(|| {
            let live = LiveRecord {
                ring,
                sequence: record.sequence,
                bytes: bytes[..record.bytes].to_vec(),
                holders: 0,
                fragments: record.fragments.clone(),
            };
            (record, live)
        });
        live.holders |= 1 << slot;
    }

    /// The records that are to be written in place, in the order in which that is to be done.
    #[must_use]
    pub fn finish(self) -> Vec<LiveRecord> {
        let is_whole = |key: &(u16, u64), record: &Record| {
            let (ring, first) = (key.0, key.1 - u64::from(record.part));
            (0..record.parts).all(|part| {
                let other = self.records.get(&(ring, first + u64::from(part)));
                other.is_some_and(|(it, _)| (it.part, it.parts) == (part, record.parts))
            })
        };
        let is_live = |key: &(u16, u64), record: &Record| {
            let floor = self.floors.get(&key.0).copied().unwrap_or(0);
            let is_above = key.1 >= floor || mutant!(ReplayIgnoresFloor);
            is_above && !record.fragments.is_empty() && is_whole(key, record)
        };
        let live = self.records.iter().filter(|(key, (record, _))| is_live(key, record));
        live.map(|(_, (_, live))| live.clone()).collect()
    }
}
