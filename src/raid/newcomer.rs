//! A device that is offered to a running array: which slot it fills, and what it has to be given.
//! Pure.
//!
//! A former member comes back as what it was ("re-add") and is given the chunks that are neither
//! Clean nor Unwritten, if nothing else can have changed while it was away. That holds when
//!
//! - its event count is not below the bitmap's `events_cleared`: chunks become Clean only after a
//!   header with the count of the update that made the array complete is durable, so a member
//!   that has never seen that update missed writes which no chunk remembers (md keeps the field
//!   at 0 for the lockless bitmap and takes any former member back: stale data are read then);
//! - it calls every member that is in sync now a member too: otherwise it went on without them,
//!   and holds writes that the array never saw; unless it left since the array was started, and
//!   its event count is still what it was then: so it has not gone on at all;
//! - mdof wrote its superblock last, and the array's: md clears chunks by other rules.
//!
//! A member that left in the middle of a full rebuild has what lies below the offset in its
//! superblock. Everybody else is given all that was ever written.

use super::{Lacks, MemberSlot, slots};
use crate::bdev::BdevId;
use crate::md::{
    self, BadRange, Candidate, Features, MinorVersion, Role, SECTOR_BYTES, Superblock,
};
use crate::raid::message::SlotMask;

/// A device that is offered to an array.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// The device.
    pub bdev: BdevId,
    /// It frees space on unmap and then reads zeroes.
    pub unmap: bool,
    /// It zeroes a range of any length in about the same time.
    pub cheap_zeroes: bool,
    /// Its size.
    pub device_sectors: u64,
    /// What it carries, if that is a superblock of this array; all else is overwritten.
    pub superblock: Option<Superblock>,
    /// The identity that it gets when it joins as a new member.
    pub device_uuid: [u8; 16],
    /// The slot that it is meant for; any empty one if it does not matter.
    pub slot: Option<MemberSlot>,
    /// It is to be given everything, whatever it carries.
    pub as_new: bool,
    /// What the bad-block log lists that it carries.
    pub bad_blocks: Vec<BadRange>,
}

/// The array that it is offered to.
#[derive(Debug)]
pub(super) struct ArrayNow<'a> {
    /// Superblock of a member in sync.
    pub(super) superblock: &'a Superblock,
    pub(super) events: u64,
    /// See the module's documentation; `None`: no former member can be trusted.
    pub(super) events_cleared: Option<u64>,
    /// Sectors of a member that a chunk covers.
    pub(super) chunk_sectors: u64,
    /// Superblocks of the members that take part, and whether they are in sync.
    pub(super) present: &'a [(&'a Superblock, bool)],
    pub(super) empty: SlotMask,
    /// Device numbers of members that are about to join.
    pub(super) reserved: &'a [u32],
    /// Members that left since the start: device uuid and the event count they were left with.
    pub(super) departed: &'a [([u8; 16], u64)],
}

/// How a device joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) slot: MemberSlot,
    pub(super) superblock: Superblock,
    pub(super) lacks: Lacks,
    /// The event count of what the device carries of this array until it is marked, or 0.
    pub(super) carries_events: u64,
}

/// Decides how a device joins.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn plan(array: &ArrayNow<'_>, newcomer: &Newcomer) -> Result<Plan, String> {
    if array.empty == 0 {
        return Err("it has no empty slot".to_owned());
    }
    if let Some(slot) = newcomer.slot
        && !slots(array.empty).any(|empty| empty == slot)
    {
        return Err(format!("slot {slot} is not empty"));
    }
    let plan = match &newcomer.superblock {
        Some(own) if !newcomer.as_new => former(array, newcomer, own),
        _ => fresh(array, newcomer),
    }?;
    Ok(Plan { carries_events: carried_events(array, newcomer), ..plan })
}

fn carried_events(array: &ArrayNow<'_>, newcomer: &Newcomer) -> u64 {
    let own = newcomer.superblock.as_ref().filter(|it| it.set_uuid == array.superblock.set_uuid);
    own.map_or(0, |own| own.events.min(array.events))
}

/// A device with more events than the array was used without it.
fn check_not_ahead(array: &ArrayNow<'_>, own: &Superblock) -> Result<(), String> {
    if own.events > array.events {
        return Err(format!(
            "it is {} events ahead: it was used without this array and may hold the newer data. \
             Erase its superblock if they are of no worth",
            own.events - array.events
        ));
    }
    Ok(())
}

fn former(array: &ArrayNow<'_>, newcomer: &Newcomer, own: &Superblock) -> Result<Plan, String> {
    check_not_ahead(array, own)?;
    if array.present.iter().any(|(other, _)| other.device_uuid == own.device_uuid) {
        return Err("a member with its device uuid takes part already: it is a copy".to_owned());
    }
    let slot = match own.own_role() {
        Role::Active(role) => slots(array.empty).find(|&slot| u16::from(slot) == role),
        _ => None,
    };
    let number_is_free = !matches!(array.superblock.role_of(own.dev_number), Role::Active(_))
        && (!array.reserved.contains(&own.dev_number) || mutant!(NumberGivenTwice))
        && usize::try_from(own.dev_number).is_ok_and(|at| at < array.superblock.roles.len());
    let candidate = Candidate {
        device_sectors: newcomer.device_sectors,
        superblock: own.clone(),
        bitmap: None,
    };
    let fits = md::check_member(array.superblock, &candidate).is_ok();
    let Some(slot) = slot.filter(|_| number_is_free && fits) else {
        return fresh(array, newcomer);
    };
    if newcomer.slot.is_some_and(|wanted| wanted != slot) {
        return fresh(array, newcomer);
    }
    let mut superblock = own.clone();
    // A partial parity log of Linux, which would be in the bitmap's place, was taken away.
    superblock.features.remove(Features::PPL | Features::MULTIPLE_PPLS);
    superblock.bitmap_offset_sectors = array.superblock.bitmap_offset_sectors;
    let lacks = lacks(array, own);
    let superblock = common(array, superblock);
    Ok(Plan { slot, superblock, lacks, carries_events: 0 })
}

/// What a former member has to be given.
fn lacks(array: &ArrayNow<'_>, own: &Superblock) -> Lacks {
    let knows = |(other, in_sync): &(&Superblock, bool)| {
        !in_sync || own.role_of(other.dev_number) == other.own_role()
    };
    let is_recent = array.events_cleared.is_some_and(|cleared| own.events >= cleared)
        || mutant!(TooOldTakenForRecent);
    // One that left this very array, and was not used since, holds nothing of its own, whomever it
    // saw leave before it.
    let has_waited = array.departed.contains(&(own.device_uuid, own.events))
        || mutant!(DepartedTrusted)
            && array.departed.iter().any(|(uuid, _)| *uuid == own.device_uuid);
    if !is_recent || !own.is_ours() || !has_waited && !array.present.iter().all(knows) {
        return Lacks::AllFrom(0);
    }
    recovering(own, array.chunk_sectors)
}

/// What a member says that it lacks.
pub(super) fn recovering(own: &Superblock, chunk_sectors: u64) -> Lacks {
    let in_full = own.features.contains(Features::RECOVERY_OFFSET)
        && !own.features.contains(Features::RECOVERY_BITMAP);
    if !in_full {
        return Lacks::Changed;
    }
    if !counts_chunks(own) {
        return Lacks::AllFrom(0);
    }
    let chunk = own.recovery_offset_sectors.checked_div(chunk_sectors).unwrap_or(0);
    Lacks::AllFrom(usize::try_from(chunk).unwrap_or(0))
}

/// Whether what a member says of its rebuild counts chunks of the bitmap: md counts sectors of the
/// member, and a RAID10's bitmap is one of the array's blocks.
pub(super) fn counts_chunks(own: &Superblock) -> bool {
    own.level != md::Level::Raid10
}

/// Decides how a device comes to replace a member; `twin` is the number that it has meanwhile.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn plan_replacement(
    array: &ArrayNow<'_>,
    newcomer: &Newcomer,
    twin: MemberSlot,
) -> Result<Plan, String> {
    if let Some(own) = newcomer.superblock.as_ref().filter(|_| !newcomer.as_new) {
        check_not_ahead(array, own)?;
    }
    let plan = fresh(array, &Newcomer { slot: Some(twin), ..newcomer.clone() })?;
    Ok(Plan { carries_events: carried_events(array, newcomer), ..plan })
}

/// A device joins as a new member.
fn fresh(array: &ArrayNow<'_>, newcomer: &Newcomer) -> Result<Plan, String> {
    let wanted = newcomer.slot.or_else(|| super::lowest(array.empty));
    let slot = wanted.expect("a slot is empty");
    let mut superblock = array.superblock.clone();
    superblock.device_uuid = newcomer.device_uuid;
    superblock.dev_number = free_number(array)?;
    superblock.corrected_reads = 0;
    superblock.devflags = md::DevFlags::empty();
    superblock.features.remove(Features::BAD_BLOCKS);
    place_superblock(&mut superblock, newcomer.device_sectors)?;
    let superblock = common(array, superblock);
    Ok(Plan { slot, superblock, lacks: Lacks::AllFrom(0), carries_events: 0 })
}

/// The superblock of a device that waits to become a member: its own word is that it is a spare,
/// as md's is. `taken` are the device numbers of members and spares; the highest free one is its,
/// so that members that join later, which take the lowest, never have the same.
///
/// # Errors
/// A sentence for the operator.
pub fn spare_superblock(
    array: &Superblock,
    taken: &[u32],
    device_sectors: u64,
    device_uuid: [u8; 16],
) -> Result<Superblock, String> {
    let mut superblock = array.clone();
    let numbers = 0..u32::try_from(array.roles.len()).expect("md's table is short");
    let is_free = |&at: &u32| array.role_of(at) == Role::Spare && !taken.contains(&at);
    superblock.dev_number = numbers
        .rev()
        .find(is_free)
        .ok_or_else(|| "the array's superblock has no number left for it".to_owned())?;
    superblock.device_uuid = device_uuid;
    superblock.corrected_reads = 0;
    superblock.devflags = md::DevFlags::empty();
    superblock.recovery_offset_sectors = 0;
    let of_a_member = Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP | Features::BAD_BLOCKS;
    superblock.features.remove(of_a_member);
    place_superblock(&mut superblock, device_sectors)?;
    Ok(superblock)
}

/// Where superblock and data lie on a device of this size.
fn place_superblock(superblock: &mut Superblock, device_sectors: u64) -> Result<(), String> {
    let too_small = |need: u64| {
        let (have, need) = (device_sectors * SECTOR_BYTES, need.saturating_mul(SECTOR_BYTES));
        Err(format!("it is too small: it has {have} bytes, the array needs {need} of a member"))
    };
    let end = superblock.data_offset_sectors + superblock.size_sectors;
    if superblock.minor_version() != MinorVersion::V1_0 {
        superblock.data_size_sectors =
            device_sectors.saturating_sub(superblock.data_offset_sectors);
        return if end > device_sectors { too_small(end) } else { Ok(()) };
    }
    // md 1.0: the superblock lies near the end, the bitmap before it, and the data before both.
    let sector = device_sectors.saturating_sub(16) & !7;
    let first = sector.saturating_add_signed(superblock.bitmap_offset_sectors.min(0).into());
    if end > first {
        return too_small(end + (device_sectors - first));
    }
    superblock.super_offset_sectors = sector;
    superblock.data_size_sectors = first - superblock.data_offset_sectors;
    Ok(())
}

/// A device number that was never given out. When there is none, one whose member has failed.
fn free_number(array: &ArrayNow<'_>) -> Result<u32, String> {
    let numbers = 0..u32::try_from(array.superblock.roles.len()).expect("md's table is short");
    let taken = |number: u32| {
        array.present.iter().any(|(other, _)| other.dev_number == number)
            || array.reserved.contains(&number)
    };
    let free =
        |role| numbers.clone().find(|&at| array.superblock.role_of(at) == role && !taken(at));
    let number = free(Role::Spare).or_else(|| free(Role::Faulty));
    number.ok_or_else(|| "the array's superblock has no number left for it".to_owned())
}

/// What all members' superblocks say alike.
fn common(array: &ArrayNow<'_>, mut superblock: Superblock) -> Superblock {
    superblock.roles.clone_from(&array.superblock.roles);
    superblock.set_name = array.superblock.set_name;
    superblock.logical_block_size = array.superblock.logical_block_size;
    superblock
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::md::{Creation, NewArray, NewMember, Timestamp};

    fn creation() -> Creation {
        let member = |byte| NewMember {
            device_sectors: 1 << 21,
            logical_block_size: 512,
            device_uuid: [byte; 16],
        };
        md::create(&NewArray {
            name: "sample".to_owned(),
            set_uuid: [9; 16],
            ctime: Timestamp::from_unix(1, 0),
            assume_clean: false,
            members: vec![member(1), member(2)],
        })
        .unwrap()
    }

    /// Two members; the second is away since event 10, recorded in event 11; now it is 20.
    struct Scene {
        first: Superblock,
        own: Superblock,
        cleared: Option<u64>,
        departed: Vec<([u8; 16], u64)>,
        reserved: Vec<u32>,
    }

    impl Scene {
        fn new() -> Self {
            let creation = creation();
            let [mut first, mut own] = creation.superblocks.try_into().unwrap();
            own.events = 10;
            own.updated_at(5, true);
            first.events = 20;
            first.set_role(own.dev_number, Role::Faulty);
            Self { first, own, cleared: Some(3), departed: Vec::new(), reserved: Vec::new() }
        }

        fn plan(&self, change: impl FnOnce(&mut Newcomer)) -> Result<Plan, String> {
            let mut newcomer = Newcomer {
                bdev: BdevId(1),
                unmap: false,
                cheap_zeroes: false,
                device_sectors: 1 << 21,
                superblock: Some(self.own.clone()),
                device_uuid: [0x77; 16],
                slot: None,
                as_new: false,
                bad_blocks: Vec::new(),
            };
            change(&mut newcomer);
            let array = ArrayNow {
                superblock: &self.first,
                events: 20,
                events_cleared: self.cleared,
                chunk_sectors: 128,
                present: &[(&self.first, true)],
                empty: 0b10,
                reserved: &self.reserved,
                departed: &self.departed,
            };
            plan(&array, &newcomer)
        }
    }

    #[test]
    fn a_recent_member_is_given_what_changed() {
        let scene = Scene::new();
        let plan = scene.plan(|_| {}).unwrap();
        assert_eq!((plan.slot, plan.lacks), (1, Lacks::Changed));
        assert_eq!(plan.superblock.device_uuid, scene.own.device_uuid);
        assert_eq!(plan.superblock.dev_number, scene.own.dev_number);
        assert_eq!(scene.plan(|it| it.as_new = true).unwrap().lacks, Lacks::AllFrom(0));
    }

    /// Defect 3 of md.
    #[test]
    fn defect_3_a_member_older_than_events_cleared_is_given_everything() {
        let mut scene = Scene::new();
        for (cleared, lacks) in
            [(Some(10), Lacks::Changed), (Some(11), Lacks::AllFrom(0)), (None, Lacks::AllFrom(0))]
        {
            scene.cleared = cleared;
            assert_eq!(scene.plan(|_| {}).unwrap().lacks, lacks, "{cleared:?}");
        }
    }

    #[test]
    fn a_member_that_went_on_alone_or_under_md_is_given_everything() {
        for role in [Role::Faulty, Role::Spare] {
            let mut scene = Scene::new();
            scene.own.set_role(scene.first.dev_number, role);
            assert_eq!(scene.plan(|_| {}).unwrap().lacks, Lacks::AllFrom(0));
        }
        let mut scene = Scene::new();
        scene.own.set_role(scene.first.dev_number, Role::Faulty);
        scene.departed = vec![(scene.own.device_uuid, 10)];
        assert_eq!(scene.plan(|_| {}).unwrap().lacks, Lacks::Changed, "it has only waited");
        scene.departed = vec![(scene.own.device_uuid, 9), (scene.first.device_uuid, 10)];
        assert_eq!(scene.plan(|_| {}).unwrap().lacks, Lacks::AllFrom(0), "it was used since");
        let mut scene = Scene::new();
        scene.own.utime_from(5, 0);
        assert_eq!(scene.plan(|_| {}).unwrap().lacks, Lacks::AllFrom(0));
        scene.own.events = 21;
        let text = scene.plan(|_| {}).unwrap_err();
        assert!(text.contains("1 events ahead"), "{text}");
    }

    #[test]
    fn an_unfinished_rebuild_goes_on_where_it_was() {
        let mut scene = Scene::new();
        scene.own.features |= Features::RECOVERY_OFFSET;
        scene.own.recovery_offset_sectors = 5 * 128 + 3;
        assert_eq!(scene.plan(|_| {}).unwrap().lacks, Lacks::AllFrom(5));
        scene.own.features |= Features::RECOVERY_BITMAP;
        assert_eq!(scene.plan(|_| {}).unwrap().lacks, Lacks::Changed);
    }

    #[test]
    fn a_blank_device_gets_a_number_of_its_own() {
        let scene = Scene::new();
        let plan = scene.plan(|it| it.superblock = None).unwrap();
        assert_eq!((plan.slot, plan.lacks), (1, Lacks::AllFrom(0)));
        assert_eq!(plan.superblock.device_uuid, [0x77; 16]);
        assert_eq!(plan.superblock.dev_number, 2, "0 takes part, 1 has failed");
        assert_eq!(plan.superblock.data_offset_sectors, scene.first.data_offset_sectors);
        let text = scene.plan(|it| {
            it.superblock = None;
            it.device_sectors = 4096;
        });
        assert!(text.unwrap_err().contains("too small"));
        let text = scene.plan(|it| it.slot = Some(0)).unwrap_err();
        assert_eq!(text, "slot 0 is not empty");
    }

    #[test]
    fn a_spare_says_that_it_is_one_and_keeps_out_of_the_way() {
        let scene = Scene::new();
        let spare = spare_superblock(&scene.first, &[0, 1, 127], 1 << 21, [0x55; 16]).unwrap();
        assert_eq!((spare.own_role(), spare.device_uuid), (Role::Spare, [0x55; 16]));
        let last = u32::try_from(scene.first.roles.len()).unwrap() - 1;
        assert!(spare.dev_number == last || last == 127 && spare.dev_number == 126);
        assert_eq!(spare.set_uuid, scene.first.set_uuid);
        // It joins as a new member, under another number.
        let plan = scene.plan(|it| it.superblock = Some(spare.clone())).unwrap();
        assert_eq!(plan.lacks, Lacks::AllFrom(0));
        assert_eq!(plan.superblock.dev_number, 2);
        assert!(spare_superblock(&scene.first, &[], 4096, [1; 16]).unwrap_err().contains("small"));
    }

    #[test]
    fn a_member_whose_slot_is_taken_joins_as_a_new_one() {
        let mut scene = Scene::new();
        let number = scene.own.dev_number;
        scene.own.set_role(number, Role::Active(0));
        let plan = scene.plan(|_| {}).unwrap();
        assert_eq!((plan.slot, plan.lacks), (1, Lacks::AllFrom(0)));
        assert_ne!(plan.superblock.dev_number, number);
    }

    #[test]
    pub(in crate::raid) fn a_number_on_its_way_to_another_is_not_given_again() {
        let mut scene = Scene::new();
        let number = scene.own.dev_number;
        scene.reserved.push(number);
        let plan = scene.plan(|_| {}).unwrap();
        assert_ne!(plan.superblock.dev_number, number);
        assert_eq!(plan.lacks, Lacks::AllFrom(0));
    }
}
