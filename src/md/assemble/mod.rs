//! Which of the members given make the array, and what has to be synced before all are alike.
//!
//! The rules are md's: the freshest superblock decides the roles; a member whose event count is
//! more than one behind is out; the bitmap is read from the first in-sync member. Two are stricter:
//! members that each say that the other failed are refused (both were written to alone), and a
//! bitmap older than the freshest superblock is only used when no in-sync member has a better one.

mod outcome;

pub use outcome::{
    AssembleError, Assembly, BitmapPlan, MissingReason, Rejection, RejectionReason, Replacing, Slot,
};

use super::bitmap_superblock::{BitmapSuperblock, BitmapVersion};
use super::error::BitmapError;
use super::types::{Features, Level, Role};
use super::{Superblock, format_uuid};
use crate::limits::MEMBERS_MAX;

/// Event counts may lie this far apart: an update that reached only some members.
const EVENTS_TOLERANCE: u64 = 1;

/// Features that change where data is or who may write; mdof does not start such arrays yet.
const ARRAY_FEATURES_REFUSED: Features = Features::RESHAPE_ACTIVE
    .union(Features::RESHAPE_BACKWARDS)
    .union(Features::NEW_OFFSET)
    .union(Features::CLUSTERED)
    .union(Features::JOURNAL);

/// The partial parity log is replayed and taken away before the array starts; md has it for raid5.
const PARTIAL_PARITY: Features = Features::PPL.union(Features::MULTIPLE_PPLS);

/// A device that carries a superblock, as read.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Size of the whole device.
    pub device_sectors: u64,
    /// Its superblock.
    pub superblock: Superblock,
    /// Its bitmap head; `None` when the superblock has no [`Features::BITMAP_OFFSET`]. A head that
    /// could not be read from the device is reported by the caller, not here.
    pub bitmap: Option<Result<BitmapSuperblock, BitmapError>>,
}

/// Decides what the candidates make. Pure: it reads and writes nothing.
pub fn assemble(candidates: &[Candidate]) -> Result<Assembly, AssembleError> {
    assemble_as(candidates, false)
}

/// As [`assemble`], for an operator who knows that the bitmap is lost: where no member has one
/// that can be used, a new one takes its place ([`BitmapPlan::Replace`]).
pub fn assemble_lost_bitmap(candidates: &[Candidate]) -> Result<Assembly, AssembleError> {
    assemble_as(candidates, true)
}

fn assemble_as(candidates: &[Candidate], replace: bool) -> Result<Assembly, AssembleError> {
    check_one_array(candidates)?;
    let freshest = freshest(candidates)?;
    let superblock = candidates[freshest].superblock.clone();
    check_supported(&superblock)?;
    check_split_brain(candidates, freshest)?;
    let Filled { slots, replacement, rejected } = fill_slots(candidates, freshest);
    let orphaned = orphaned(candidates, &superblock, &slots);
    let in_sync = |slot: &Slot| match slot {
        Slot::InSync { candidate } => Some(*candidate),
        _ => None,
    };
    let sources: Vec<usize> = slots.iter().filter_map(in_sync).collect();
    if sources.is_empty() {
        let uuid = superblock.set_uuid_text();
        return Err(AssembleError::NoInSyncMember { uuid, reasons: reasons(&slots, &rejected) });
    }
    let bitmap = match plan_bitmap(candidates, &superblock, &sources) {
        Err(AssembleError::Bitmap { uuid, candidate, .. }) if replace => {
            BitmapSuperblock::replacing_lost(&superblock)
                .map(|superblock| BitmapPlan::Replace { superblock })
                .map_err(|error| AssembleError::Bitmap { uuid, candidate, error })
        }
        plan => plan,
    }?;
    let dirty = !superblock.is_clean();
    Ok(Assembly {
        freshest,
        slots,
        replacement,
        orphaned,
        rejected,
        dirty,
        full_resync_needed: dirty
            && bitmap == BitmapPlan::None
            && !matches!(superblock.level, Level::Raid0 | Level::Linear),
        bitmap,
        superblock,
    })
}

fn check_one_array(candidates: &[Candidate]) -> Result<(), AssembleError> {
    let first = &candidates.first().ok_or(AssembleError::NoCandidates)?.superblock;
    match candidates.iter().position(|other| other.superblock.set_uuid != first.set_uuid) {
        None => Ok(()),
        Some(second) => Err(AssembleError::DifferentArrays {
            first: 0,
            first_uuid: first.set_uuid_text(),
            second,
            second_uuid: candidates[second].superblock.set_uuid_text(),
        }),
    }
}

/// The candidate with an active role and the most events; among equals one that is not being
/// rebuilt, then one that no other of them calls failed, then the first: an update that was cut off
/// had reached the one that is called failed, and the others went on without it under that count.
/// One that is being rebuilt has no say against one that is whole and that it calls a member
/// itself: the last whole member can't be thrown out, whatever updates of its superblock fail. Nor
/// has one that the freshest calls failed.
fn freshest(candidates: &[Candidate]) -> Result<usize, AssembleError> {
    let rank = |index: usize| {
        let superblock = &candidates[index].superblock;
        let whole = !superblock.is_rebuilding();
        (superblock.events, whole, !is_left_behind(candidates, index), std::cmp::Reverse(index))
    };
    let is_active =
        |index: &usize| matches!(candidates[*index].superblock.own_role(), Role::Active(_));
    let is_rebuilding = |index: &usize| candidates[*index].superblock.is_rebuilding();
    let active = || (0..candidates.len()).filter(is_active);
    let best = active().max_by_key(|&index| rank(index)).ok_or_else(|| {
        AssembleError::NoActiveMember { uuid: candidates[0].superblock.set_uuid_text() }
    })?;
    let whole = active().filter(|index| !is_rebuilding(index)).max_by_key(|&index| rank(index));
    let latest = &candidates[best].superblock;
    let fresher_agree = |whole: &usize| {
        let own = &candidates[*whole].superblock;
        let counts = |number| matches!(latest.role_of(number), Role::Active(_));
        let fresher = active().map(|index| &candidates[index].superblock);
        let fresher = fresher.filter(|other| counts(other.dev_number));
        fresher.filter(|other| other.events > own.events).all(|other| {
            let is_near = other.events <= own.events + EVENTS_TOLERANCE;
            other.role_of(own.dev_number) == own.own_role()
                && (is_near || is_last_whole(candidates, own, other) || mutant!(AnnouncedTrusted))
        })
    };
    Ok(whole.filter(fresher_agree).unwrap_or(best))
}

/// Whether `other` counts on nobody but `own` and on members that are here and are being rebuilt.
/// If it counts on others, `own` may be a device that was away for long: it is announced to them
/// before its own superblock says that it is being rebuilt.
fn is_last_whole(candidates: &[Candidate], own: &Superblock, other: &Superblock) -> bool {
    let is_here = |number: u32| {
        let mut here = candidates.iter().map(|candidate| &candidate.superblock);
        here.any(|it| it.dev_number == number && it.is_rebuilding())
    };
    let numbers = (0u32..).zip(&other.roles);
    let mut counted = numbers.filter(|(_, role)| matches!(role, Role::Active(_)));
    counted.all(|(number, _)| number == own.dev_number || is_here(number))
}

/// Whether a whole member with the same count calls this one failed, which knows nothing of that.
pub(super) fn is_left_behind(candidates: &[Candidate], index: usize) -> bool {
    let own = &candidates[index].superblock;
    candidates.iter().map(|candidate| &candidate.superblock).any(|other| {
        let role = other.own_role();
        matches!(role, Role::Active(_))
            && !other.is_rebuilding()
            && other.events == own.events
            && other.role_of(own.dev_number) == Role::Faulty
            && own.role_of(other.dev_number) == role
            && !mutant!(CutOffUpdateTrusted)
    })
}

fn check_supported(superblock: &Superblock) -> Result<(), AssembleError> {
    let uuid = superblock.set_uuid_text();
    let mut refused = superblock.features & ARRAY_FEATURES_REFUSED;
    if superblock.level != Level::Raid5 {
        refused |= superblock.features & PARTIAL_PARITY;
    }
    if !refused.is_empty() {
        return Err(AssembleError::UnsupportedFeatures { uuid, features: refused.names() });
    }
    superblock
        .check_layout()
        .map_err(|error| AssembleError::Layout { uuid: uuid.clone(), error })?;
    let slots = superblock.raid_disks;
    if usize::try_from(slots).map_or(true, |slots| slots > MEMBERS_MAX) {
        return Err(AssembleError::TooManySlots { uuid, slots });
    }
    Ok(())
}

/// A member that holds the freshest for failed went on without it; so did the freshest. Unless one
/// that is current was with both: then the freshest was away for a while, and came back. Or the
/// freshest counts on the member and has seen more: it was taken back since, and the member has not
/// heard of that yet. Had the member gone on without it, it would not be behind.
fn check_split_brain(candidates: &[Candidate], freshest: usize) -> Result<(), AssembleError> {
    let Superblock { dev_number, events, .. } = candidates[freshest].superblock;
    for (other, candidate) in candidates.iter().enumerate() {
        let superblock = &candidate.superblock;
        if !matches!(superblock.own_role(), Role::Active(_)) {
            continue;
        }
        let was_with_both = |third: &Candidate| {
            let third = &third.superblock;
            let role = third.own_role();
            matches!(role, Role::Active(_))
                && !third.is_rebuilding()
                && third.events + EVENTS_TOLERANCE >= events
                && candidates[freshest].superblock.role_of(third.dev_number) == role
                && superblock.role_of(third.dev_number) == role
        };
        let others = candidates.iter().enumerate().filter(|(index, _)| *index != other);
        if others.map(|(_, candidate)| candidate).any(was_with_both) {
            continue;
        }
        let behind = events.saturating_sub(superblock.events);
        let theirs = superblock.role_of(dev_number);
        let counts = candidates[freshest].superblock.role_of(superblock.dev_number);
        if behind > 0 && counts == superblock.own_role() && !mutant!(TakenBackIsApart) {
            continue;
        }
        // A spare entry may also be a number that was not given out yet; only with an equal count
        // must both know each other.
        if theirs == Role::Faulty || (events == superblock.events && theirs == Role::Spare) {
            return Err(AssembleError::SplitBrain { freshest, other, behind });
        }
    }
    Ok(())
}

/// Who is what.
struct Filled {
    slots: Vec<Slot>,
    replacement: Option<Replacing>,
    rejected: Vec<Rejection>,
}

fn is_replacement(candidate: &Candidate) -> bool {
    candidate.superblock.features.contains(Features::REPLACEMENT)
}

/// Slots with an unfinished replacement alone, though the array counts on the member itself.
fn orphaned(candidates: &[Candidate], array: &Superblock, slots: &[Slot]) -> Vec<usize> {
    let is_orphaned = |&at: &usize| {
        let Slot::Rebuilding { candidate, .. } = slots[at] else { return false };
        let own = candidates[candidate].superblock.dev_number;
        let numbers = (0u32..).zip(&array.roles);
        let mut others = numbers.filter(|(number, _)| *number != own);
        let is_there = |role: &Role| matches!(role, Role::Active(slot) if usize::from(*slot) == at);
        is_replacement(&candidates[candidate]) && others.any(|(_, role)| is_there(role))
    };
    (0..slots.len()).filter(is_orphaned).collect()
}

fn fill_slots(candidates: &[Candidate], freshest: usize) -> Filled {
    let count = usize::try_from(candidates[freshest].superblock.raid_disks).expect("checked");
    let mut slots = vec![Slot::Missing { reason: MissingReason::NotGiven }; count];
    let (mut replacement, mut rejected) = (None, Vec::new());
    // The freshest first, so that a doubtful twin never takes its slot.
    let others = (0..candidates.len()).filter(|&index| index != freshest);
    let mut order: Vec<usize> = std::iter::once(freshest).chain(others).collect();
    order[1..].sort_by_key(|&index| std::cmp::Reverse(candidates[index].superblock.events));
    // What replaces a member comes after those.
    order.sort_by_key(|&index| is_replacement(&candidates[index]));
    for (position, &index) in order.iter().enumerate() {
        let seated = &order[..position];
        let chairs = (&mut slots[..], &mut replacement);
        if let Err((slot, reason)) = seat(candidates, freshest, seated, index, chairs) {
            rejected.push(Rejection { candidate: index, reason });
            let slot = slot.and_then(|slot| slots.get_mut(usize::from(slot)));
            if let Some(Slot::Missing { reason: missing @ MissingReason::NotGiven }) = slot {
                *missing = MissingReason::Rejected(index);
            }
        }
    }
    rejected.sort_by_key(|rejection| rejection.candidate);
    Filled { slots, replacement, rejected }
}

/// Gives the candidate its slot, or says why not and which slot it would have had.
fn seat(
    candidates: &[Candidate],
    freshest: usize,
    seated: &[usize],
    index: usize,
    (slots, replacement): (&mut [Slot], &mut Option<Replacing>),
) -> Result<(), (Option<u16>, RejectionReason)> {
    let array = &candidates[freshest].superblock;
    let own = &candidates[index].superblock;
    // Its own word first: what waits or failed when it was last written has no data to offer,
    // even if the others went on to give it a role that never reached it.
    let wanted = match own.own_role() {
        Role::Active(slot) => slot,
        Role::Faulty => return Err((None, RejectionReason::Faulty)),
        Role::Spare => return Err((None, RejectionReason::Spare)),
        Role::Journal => return Err((None, RejectionReason::Journal)),
    };
    let no = |reason| Err((Some(wanted), reason));
    let twin = seated.iter().find(|&&other| {
        let other = &candidates[other].superblock;
        other.device_uuid == own.device_uuid
    });
    if let Some(&of) = twin {
        let uuid = format_uuid(&own.device_uuid);
        return no(RejectionReason::DuplicateDevice { uuid, of });
    }
    let behind = array.events.saturating_sub(own.events);
    if behind > EVENTS_TOLERANCE && !mutant!(StaleMemberAccepted) {
        return no(RejectionReason::Stale { behind });
    }
    let slot = match array.role_of(own.dev_number) {
        Role::Active(slot) => slot,
        Role::Faulty | Role::Spare if mutant!(StaleMemberAccepted) => wanted,
        Role::Faulty => return no(RejectionReason::Faulty),
        Role::Spare => return no(RejectionReason::Spare),
        Role::Journal => return no(RejectionReason::Journal),
    };
    check_member(array, &candidates[index]).map_err(|reason| (Some(slot), reason))?;
    let place = usize::from(slot);
    match slots.get(place) {
        None => no(RejectionReason::NoSuchSlot { slot, slots: array.raid_disks }),
        Some(Slot::InSync { .. })
            if is_replacement(&candidates[index]) && replacement.is_none() =>
        {
            *replacement = Some(Replacing { slot, candidate: index });
            Ok(())
        }
        Some(Slot::InSync { candidate: by } | Slot::Rebuilding { candidate: by, .. }) => {
            no(RejectionReason::SlotTaken { slot, by: *by })
        }
        Some(Slot::Missing { .. }) => {
            slots[place] = filled(own, index);
            Ok(())
        }
    }
}

fn filled(own: &Superblock, candidate: usize) -> Slot {
    if own.is_rebuilding() {
        Slot::Rebuilding {
            candidate,
            recovery_offset_sectors: own.recovery_offset_sectors,
            bitmap_guided: own.features.contains(Features::RECOVERY_BITMAP),
        }
    } else {
        Slot::InSync { candidate }
    }
}

/// What must hold for a member besides its role and events.
///
/// # Errors
/// What does not.
pub fn check_member(array: &Superblock, candidate: &Candidate) -> Result<(), RejectionReason> {
    let own = &candidate.superblock;
    let field = |field| Err(RejectionReason::Geometry { field });
    if own.level != array.level {
        return field("level");
    }
    if own.layout != array.layout {
        return field("layout");
    }
    if own.raid_disks != array.raid_disks {
        return field("raid_disks");
    }
    if own.size_sectors != array.size_sectors {
        return field("size");
    }
    if own.chunk_sectors != array.chunk_sectors {
        return field("chunksize");
    }
    let bitmap = |superblock: &Superblock| superblock.features.contains(Features::BITMAP_OFFSET);
    if bitmap(own) != bitmap(array) {
        return field("bitmap");
    }
    let mut refused = own.features & ARRAY_FEATURES_REFUSED;
    if own.features.intersects(PARTIAL_PARITY) {
        // The replay of the partial parity log believes what it reads.
        refused |= own.features & Features::BAD_BLOCKS;
    }
    if !refused.is_empty() {
        return Err(RejectionReason::UnsupportedFeatures { features: refused.names() });
    }
    let need_sectors = (own.data_offset_sectors + own.size_sectors)
        .max(own.super_offset_sectors.saturating_add(8));
    if need_sectors > candidate.device_sectors {
        let have_sectors = candidate.device_sectors;
        return Err(RejectionReason::DeviceTooSmall { have_sectors, need_sectors });
    }
    Ok(())
}

fn plan_bitmap(
    candidates: &[Candidate],
    array: &Superblock,
    sources: &[usize],
) -> Result<BitmapPlan, AssembleError> {
    let uuid = array.set_uuid_text();
    if !array.features.contains(Features::BITMAP_OFFSET) {
        return Ok(BitmapPlan::None);
    }
    let mut refused = None;
    let mut readable = Vec::new();
    for &candidate in sources {
        match &candidates[candidate].bitmap {
            Some(Ok(bitmap)) => readable.push((candidate, bitmap)),
            Some(Err(error)) => refused = refused.or(Some((candidate, error.clone()))),
            None => refused = refused.or(Some((candidate, BitmapError::NoPosition))),
        }
    }
    let current = |(_, bitmap): &&(usize, &BitmapSuperblock)| !bitmap.is_stale(array.events);
    let fresh = readable.iter().find(current);
    if let Some(&(first, bitmap)) = fresh {
        // One of them is damaged in a way that no check sees, and which one cannot be told.
        let chunks = bitmap.chunk_sectors();
        let other = readable.iter().filter(current).find(|(_, b)| b.chunk_sectors() != chunks);
        if let Some(&(candidate, _)) = other {
            let error = BitmapError::Disagree { other: first };
            return Err(AssembleError::Bitmap { uuid, candidate, error });
        }
    }
    let Some(&(candidate, bitmap)) = fresh.or(readable.first()) else {
        let (candidate, error) = refused.expect("each source is readable or refused");
        return Err(AssembleError::Bitmap { uuid, candidate, error });
    };
    if bitmap.version == BitmapVersion::Classic {
        return Err(AssembleError::ClassicBitmap { uuid });
    }
    let superblock = bitmap.clone();
    if superblock.needs_initialising() {
        return Ok(BitmapPlan::Initialise { candidate, superblock });
    }
    let stale = superblock.is_stale(array.events);
    Ok(BitmapPlan::Load { candidate, superblock, stale })
}

/// One line of what became of all candidates, for the error that nobody is in sync.
fn reasons(slots: &[Slot], rejected: &[Rejection]) -> String {
    let mut lines: Vec<String> = rejected
        .iter()
        .map(|rejection| format!("member {}: {}", rejection.candidate, rejection.reason))
        .collect();
    for slot in slots {
        if let Slot::Rebuilding { candidate, .. } = slot {
            lines.push(format!("member {candidate}: its rebuild is not finished"));
        }
    }
    lines.join("; ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
