//! Arrays that cannot start yet: they hold the bdevs of theirs that are here, and start when the
//! rest has come, when the operator says so, or when their policy does.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use uuid::Uuid;

use super::arrays::{ArrayOptions, CreateOptions, Members, Permit, StartedHow};
use super::bdevs::BdevSpec;
use super::takeover::Takeover;
use super::{ArrayShape, Backing, NewNamespace, Target, TargetError};
use crate::control::carried::{Carried, short_name};
use crate::control::level::LevelChoice;
use crate::control::names;
use crate::control::policy::DegradedStart;
use crate::limits::MEMBERS_MAX;
use crate::md::{Features, Level, Role, Superblock};
use crate::raid::{Command, MemberSlot};

/// An array that is wanted.
#[derive(Debug, Clone)]
pub struct NewArrayWish {
    /// Names of its members in slot order; they need not exist. Empty: whatever carries `uuid`.
    pub members: Vec<String>,
    /// Its identity, where it is known.
    pub uuid: Option<Uuid>,
    /// Level, layout and strip as the operator has said; `None`: whatever its members carry.
    pub level: Option<LevelChoice>,
    /// How it is made, if all its members turn out to be blank.
    pub create: Option<CreateOptions>,
    /// How it runs.
    pub options: ArrayOptions,
    /// What may be done to members of Linux md.
    pub takeover: Takeover,
    /// When it starts without members that it counts on.
    pub policy: DegradedStart,
}

/// An array that waits for members.
#[derive(Debug)]
pub struct Waiting {
    /// What is wanted.
    pub wish: NewArrayWish,
    /// Bdevs that are held for it.
    pub found: Vec<String>,
    /// What the superblocks of those say: slots and shape.
    pub seen: Option<(usize, ArrayShape)>,
    /// Why it does not start.
    pub why: String,
    /// Slots whose members will never come, as the operator says.
    given_up: BTreeSet<MemberSlot>,
    since: Instant,
    /// The policy has been acted on, in vain, with the members that are here.
    is_tried: bool,
    /// The operator has forced it in vain.
    is_forced: bool,
    /// It has not started as a bdev of it gave no answer.
    is_late: bool,
    namespaces: Vec<Deferred>,
}

/// A namespace that an array gets when it starts.
#[derive(Debug, Clone)]
struct Deferred {
    nqn: String,
    nsid: u32,
    uuid: Option<Uuid>,
    nguid: Option<[u8; 16]>,
    eui64: Option<[u8; 8]>,
    anagrpid: Option<u32>,
    hidden: bool,
    reservation_file: Option<String>,
}

impl Deferred {
    fn as_new<'a>(&'a self, array: &'a str) -> NewNamespace<'a> {
        NewNamespace {
            bdev: array,
            nsid: Some(self.nsid),
            uuid: self.uuid,
            nguid: self.nguid,
            eui64: self.eui64,
            anagrpid: self.anagrpid,
            hidden: self.hidden,
            reservation_file: self.reservation_file.as_deref(),
        }
    }
}

/// A bdev of the configuration whose file or device is not there.
#[derive(Debug, Clone)]
pub struct AbsentBdev {
    /// Its name.
    pub name: String,
    /// Its UUID, if it is given one.
    pub uuid: Option<Uuid>,
    /// What it is.
    pub spec: BdevSpec,
}

/// Who uses a bdev that is held for an array.
fn user(array: &str) -> String {
    format!("array {array}, which waits for members")
}

impl Waiting {
    fn new(wish: NewArrayWish) -> Self {
        Self {
            wish,
            found: Vec::new(),
            seen: None,
            why: String::new(),
            given_up: BTreeSet::new(),
            since: Instant::now(),
            is_tried: false,
            is_forced: false,
            is_late: false,
            namespaces: Vec::new(),
        }
    }

    /// Why it does not start, and which of its bdevs are not there.
    fn text(&self) -> String {
        match self.missing().as_slice() {
            [] => self.why.clone(),
            missing => format!("{}; not there: {}", self.why, names::list(missing)),
        }
    }

    fn missing(&self) -> Vec<String> {
        let is_missing = |name: &&String| !self.found.contains(name);
        self.wish.members.iter().filter(is_missing).cloned().collect()
    }
}

impl Target {
    /// Arrays that wait for members, by name.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, &Waiting)> {
        self.waiting.iter().map(|(name, waiting)| (name.as_str(), waiting))
    }

    /// An array that nobody named: it was found on its members, and will be again.
    #[must_use]
    pub fn is_found(&self, name: &str) -> bool {
        let waits = self.waiting.get(name).is_some_and(|it| it.wish.members.is_empty());
        waits || self.array(name).is_ok_and(|(_, array)| array.is_found)
    }

    /// What an array waits for, and what the operator can do.
    #[must_use]
    pub fn waits_for(&self, name: &str) -> String {
        self.waiting
            .get(name)
            .map_or(String::new(), |waiting| format!("{}{}", waiting.text(), advice(name, waiting)))
    }

    /// From now on new bdevs are looked at for arrays, if `all`, or for those that wait; so are
    /// those that are there already. Arrays that may start without missing members do.
    pub fn scan(&mut self, all: bool) {
        self.auto_assemble = all;
        let free = self.free_devices();
        for name in free {
            self.bdev_appeared(&name);
        }
        let at_once = |(name, waiting): (&String, &Waiting)| {
            (waiting.wish.policy == DegradedStart::Start).then(|| name.clone())
        };
        let names: Vec<String> = self.waiting.iter().filter_map(at_once).collect();
        for name in names {
            let _ = self.try_start(&name, true);
        }
    }

    /// Bdevs that are made when their files or devices are there.
    pub fn absent(&self) -> impl Iterator<Item = &AbsentBdev> {
        self.absent.iter()
    }

    /// A bdev is to be made when its file or device is there.
    #[must_use]
    pub fn is_awaited(&self, bdev: &str) -> bool {
        self.absent.iter().any(|absent| absent.name == bdev)
    }

    /// Namespaces of a subsystem that arrays get when they start: array and namespace id.
    pub fn deferred_namespaces(&self, nqn: &str) -> impl Iterator<Item = NewNamespace<'_>> {
        let of = move |it: &&Deferred| it.nqn == nqn;
        self.waiting.iter().flat_map(move |(name, waiting)| {
            waiting.namespaces.iter().filter(of).map(move |it| it.as_new(name))
        })
    }

    /// New bdevs are looked at for arrays that they belong to.
    #[must_use]
    pub fn auto_assemble(&self) -> bool {
        self.auto_assemble
    }

    /// New bdevs are looked at for arrays that they belong to, or not.
    pub fn set_auto_assemble(&mut self, on: bool) {
        self.auto_assemble = on;
    }

    /// Bdevs to be made when their files or devices are there, in this order.
    pub fn await_bdevs(&mut self, absent: Vec<AbsentBdev>) {
        self.absent.extend(absent);
    }

    /// Starts an array, or lets it wait for the members that it lacks (`None`).
    ///
    /// # Errors
    /// If it can't be an array, whoever comes.
    pub fn start_or_wait(
        &mut self,
        name: &str,
        wish: NewArrayWish,
    ) -> Result<Option<StartedHow>, TargetError> {
        if self.waiting.get(name).is_some_and(|other| other.wish.members.is_empty()) {
            // It was found by itself; this says more about it.
            self.forget_waiting(name);
        }
        self.check_new_name(name)?;
        names::check_array_name(name).map_err(TargetError::Invalid)?;
        let mut waiting = Waiting::new(wish);
        for member in waiting.wish.members.clone() {
            if waiting.wish.members.iter().filter(|other| **other == member).count() > 1 {
                return Err(TargetError::Invalid(format!("bdev {member} is given twice")));
            }
            match self.bdev(&member) {
                Ok(bdev) => {
                    let own = bdev.geometry.name.clone();
                    self.free_bdev(&own)?;
                    waiting.found.push(own);
                }
                Err(_) => names::check_bdev_name(&member).map_err(TargetError::Invalid)?,
            }
        }
        if let Some(uuid) = waiting.wish.uuid {
            // A spare may have taken the place of a member that is named.
            let others = self.members_of(uuid, &waiting.found);
            waiting.found.extend(others);
        }
        let found = waiting.found.clone();
        let at_once = waiting.wish.policy == DegradedStart::Start;
        self.waiting.insert(name.to_owned(), waiting);
        for bdev in &found {
            self.set_user(bdev, Some(user(name)));
            self.see(name, bdev);
        }
        match self.try_start(name, at_once) {
            Ok(how) => Ok(Some(how)),
            Err(TargetError::Lacking(_)) => Ok(None),
            Err(error) => {
                self.forget_waiting(name);
                Err(error)
            }
        }
    }

    /// Free bdevs beside `known` that carry an active member of an array.
    fn members_of(&mut self, uuid: Uuid, known: &[String]) -> Vec<String> {
        let mut free = self.free_devices();
        free.retain(|bdev| {
            let is_it = |superblock: &Superblock| {
                superblock.set_uuid == uuid.into_bytes()
                    && matches!(superblock.own_role(), Role::Active(_))
            };
            !known.contains(bdev)
                && matches!(self.read_superblock(bdev), Ok(Carried::Member(candidate))
                    if is_it(&candidate.superblock))
        });
        free
    }

    /// Bdevs that nobody uses and that are no arrays.
    pub(super) fn free_devices(&self) -> Vec<String> {
        let is_free = |bdev: &super::Bdev| {
            let is_late = self.engine.is_late(bdev.id);
            !is_late && bdev.user.is_none() && matches!(bdev.backing, Backing::Device(_))
        };
        let free = self.bdevs.iter().filter(|(_, bdev)| is_free(bdev));
        free.map(|(name, _)| name.clone()).collect()
    }

    /// Starts an array that waits, if it may; `any`: whatever members are missing.
    fn try_start(&mut self, name: &str, any: bool) -> Result<StartedHow, TargetError> {
        self.try_start_with(name, any, false)
    }

    fn try_start_with(
        &mut self,
        name: &str,
        any: bool,
        force: bool,
    ) -> Result<StartedHow, TargetError> {
        let mut waiting = self.waiting.remove(name).expect("the caller has seen it");
        for bdev in &waiting.found {
            self.set_user(bdev, None);
        }
        let permit = Permit { any, force, slots: waiting.given_up.clone() };
        match self.start_with(name, &waiting, &permit) {
            Ok(how) => {
                if how.in_sync < how.slots && any {
                    tracing::warn!(
                        "array {name} was started with {} of {} members in sync, without those \
                         that it counted on: {}",
                        how.in_sync,
                        how.slots,
                        waiting.why
                    );
                }
                self.array_mut(name).is_found = waiting.wish.members.is_empty();
                self.add_deferred(name, &waiting.namespaces);
                if self.auto_assemble {
                    self.find_spares();
                }
                Ok(how)
            }
            Err(error) => {
                for bdev in &waiting.found {
                    self.set_user(bdev, Some(user(name)));
                }
                let is_late =
                    |bdev: &String| self.bdev(bdev).is_ok_and(|it| self.engine.is_late(it.id));
                waiting.is_late = waiting.found.iter().any(is_late);
                waiting.is_tried |= any;
                waiting.is_forced |= force;
                let why = error.to_string();
                if why != waiting.why {
                    waiting.why = why;
                    let (text, advice) = (waiting.text(), advice(name, &waiting));
                    tracing::warn!("array {name} is not started: {text}{advice}");
                }
                self.waiting.insert(name.to_owned(), waiting);
                Err(error)
            }
        }
    }

    fn start_with(
        &mut self,
        name: &str,
        waiting: &Waiting,
        permit: &Permit,
    ) -> Result<StartedHow, TargetError> {
        let wish = &waiting.wish;
        let missing = waiting.missing();
        if waiting.found.is_empty() {
            let text = format!("none of its members is there: {}", names::list(&missing));
            return Err(TargetError::Lacking(text));
        }
        let invalid = |text: String| Err(TargetError::Invalid(format!("array {name}: {text}")));
        match self.examine(&waiting.found)? {
            Members::Blank => {
                let Some(create) = &wish.create else {
                    let found = names::list(&waiting.found);
                    return invalid(format!("{found} carry no superblock"));
                };
                if !missing.is_empty() {
                    let missing = names::list(&missing);
                    let text =
                        format!("it is made when all its members are there; missing: {missing}");
                    return Err(TargetError::Lacking(text));
                }
                self.create_array(name, &wish.members, create, &wish.options, || Ok(()))
            }
            Members::Array { uuid, name: carried, without } => {
                if wish.uuid.is_some_and(|wanted| wanted != uuid) {
                    return invalid(format!("its members carry array {carried} ({uuid})"));
                }
                if !without.is_empty() {
                    let without = names::list(&without);
                    return invalid(format!("{without} carry no superblock, others do"));
                }
                if let (Some(level), Some((_, shape))) = (wish.level, &waiting.seen)
                    && let Err(text) = level.check_carried(shape)
                {
                    return invalid(format!(
                        "{text}; nothing was started or written. Say what they carry, or give \
                         other members"
                    ));
                }
                let Waiting { found, .. } = waiting;
                self.assemble_array(name, found, permit, &wish.options, &wish.takeover)
            }
        }
    }

    /// The operator has an array start, with `force` whatever members are missing. To one that runs
    /// and has rows with torn parity `force` says that their loss is accepted.
    ///
    /// # Errors
    /// Why it still waits.
    pub fn start_waiting(&mut self, name: &str, force: bool) -> Result<(), TargetError> {
        if !self.waiting.contains_key(name) {
            self.array(name)?;
            if force {
                return self.member_command(name, Command::AcceptLoss).map(drop);
            }
            return Err(TargetError::Exists(format!("array {name} runs already")));
        }
        self.try_start_with(name, force, force).map(drop)
    }

    /// The operator says that the member of a slot will never come.
    pub(super) fn give_up(&mut self, name: &str, slot: MemberSlot) -> Result<(), TargetError> {
        let waiting = self.waiting.get_mut(name).expect("the caller has seen it");
        waiting.given_up.insert(slot);
        match self.try_start(name, false) {
            Ok(_) | Err(TargetError::Lacking(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives an array that waits a bdev.
    pub(super) fn add_to_waiting(&mut self, name: &str, bdev: &str) -> Result<(), TargetError> {
        let own = self.free_bdev(bdev)?.geometry.name.clone();
        let carried = self.read_superblock(&own)?;
        let waiting = self.waiting.get_mut(name).expect("the caller has seen it");
        let wish = &mut waiting.wish;
        let refused =
            |why: String| Err(TargetError::Invalid(format!("array {name}, bdev {bdev}: {why}")));
        match carried {
            Carried::Damaged(error) => return refused(format!("{error}; it was not touched")),
            Carried::Member(candidate) => {
                let uuid = Uuid::from_bytes(candidate.superblock.set_uuid);
                if wish.uuid.is_some_and(|wanted| wanted != uuid) {
                    return refused(format!("it belongs to array {uuid}"));
                }
            }
            Carried::Nothing if wish.create.is_none() => {
                return refused("it carries no superblock".to_owned());
            }
            Carried::Nothing => {}
        }
        if !wish.members.is_empty() && !wish.members.contains(&own) {
            let missing = |name: &&mut String| !waiting.found.contains(name);
            let Some(place) = wish.members.iter_mut().find(missing) else {
                return refused("it has no empty slot".to_owned());
            };
            place.clone_from(&own);
        }
        self.hold(name, &own);
        Ok(())
    }

    /// Holds a bdev for an array that waits, which may start then.
    fn hold(&mut self, name: &str, bdev: &str) {
        self.set_user(bdev, Some(user(name)));
        self.see(name, bdev);
        let waiting = self.waiting.get_mut(name).expect("the caller has seen it");
        waiting.found.push(bdev.to_owned());
        let members = &waiting.wish.members;
        let place = |bdev: &String| members.iter().position(|member| member == bdev);
        waiting.found.sort_by_key(place);
        waiting.is_tried = false;
        waiting.is_forced = false;
        if self.try_start(name, false).is_ok() {
            tracing::info!("array {name} has started: bdev {bdev} was the last that it waited for");
        }
    }

    /// Notes what a member's superblock says of its array.
    fn see(&mut self, name: &str, bdev: &str) {
        let Ok(Carried::Member(candidate)) = self.read_superblock(bdev) else { return };
        let superblock = &candidate.superblock;
        let slots = usize::try_from(superblock.raid_disks).unwrap_or(usize::MAX).min(MEMBERS_MAX);
        let waiting = self.waiting.get_mut(name).expect("the caller has seen it");
        waiting.seen = Some((slots, ArrayShape::of(superblock)));
    }

    /// A bdev is held for an array that waits.
    pub(super) fn is_held(&self, bdev: &str) -> bool {
        self.waiting.values().any(|waiting| waiting.found.iter().any(|it| it == bdev))
    }

    /// A bdev goes: the array that it was held for goes on waiting.
    pub(super) fn leave_waiting(&mut self, bdev: &str) {
        let holds = |(_, waiting): &(&String, &Waiting)| waiting.found.iter().any(|it| it == bdev);
        let Some(name) = self.waiting.iter().find(holds).map(|(name, _)| name.clone()) else {
            return;
        };
        self.set_user(bdev, None);
        let waiting = self.waiting.get_mut(&name).expect("just found");
        waiting.found.retain(|it| it != bdev);
        waiting.is_tried = false;
        waiting.is_forced = false;
        if waiting.found.is_empty() && waiting.wish.members.is_empty() {
            self.waiting.remove(&name);
        }
    }

    /// An array is not waited for any more. Returns the bdevs that were held for it.
    pub(super) fn forget_waiting(&mut self, name: &str) -> Vec<String> {
        let Some(waiting) = self.waiting.remove(name) else { return Vec::new() };
        for bdev in &waiting.found {
            self.set_user(bdev, None);
        }
        waiting.found
    }

    /// An array is not waited for; returns why it did not start.
    pub fn give_up_waiting(&mut self, name: &str) -> String {
        let why = self.waiting.get(name).map_or(String::new(), |waiting| {
            let Waiting { why, .. } = waiting;
            format!(
                "array {name}: {why}; it was not started. start_degraded: \"start\" starts it with \
                 those it has, \"refuse\" or \"wait:SECONDS\" lets it wait for the others"
            )
        });
        self.forget_waiting(name);
        why
    }

    /// Makes bdevs whose files have come, and starts arrays that have waited long enough.
    pub(super) fn look_for_members(&mut self) {
        let mut come = Vec::new();
        for absent in std::mem::take(&mut self.absent) {
            match self.make_absent(&absent) {
                Some(true) => come.push(absent.name),
                Some(false) => {}
                None => self.absent.push(absent),
            }
        }
        for name in come {
            if self.free_bdev(&name).is_ok() {
                self.bdev_appeared(&name);
            }
        }
        let names: Vec<String> = self.waiting.keys().cloned().collect();
        for name in names {
            if self.was_late(&name) {
                let _ = self.try_start(&name, false);
            }
        }
        let may = |(name, waiting): (&String, &Waiting)| {
            let may = waiting.wish.policy.allows_after(waiting.since.elapsed());
            (may && !waiting.is_tried && !waiting.found.is_empty()).then(|| name.clone())
        };
        let names: Vec<String> = self.waiting.iter().filter_map(may).collect();
        for name in names {
            let _ = self.try_start(&name, true);
        }
    }

    /// An array has not started as a bdev gave no answer, and none is waited for any more.
    fn was_late(&self, name: &str) -> bool {
        let waiting = &self.waiting[name];
        let is_late = |bdev: &String| self.bdev(bdev).is_ok_and(|it| self.engine.is_late(it.id));
        waiting.is_late && !waiting.found.iter().any(is_late)
    }

    /// Whether the bdev was made; `None`: not yet.
    fn make_absent(&mut self, absent: &AbsentBdev) -> Option<bool> {
        let has_base = absent.spec.base().is_none_or(|base| self.free_bdev(base).is_ok());
        if !has_base || !absent.spec.path().is_none_or(is_there) {
            return None;
        }
        match self.make_bdev(&absent.name, absent.uuid, &absent.spec) {
            Ok(()) => {
                tracing::info!("bdev {} is there now", absent.name);
                Some(true)
            }
            Err(TargetError::Busy(_)) => None,
            Err(error) => {
                tracing::error!("bdev {} was waited for, but: {error}", absent.name);
                Some(false)
            }
        }
    }

    /// Looks at a new bdev: it may be what an array waits for, a member that was missed, or the
    /// first of an array that nobody has named.
    pub(super) fn bdev_appeared(&mut self, bdev: &str) {
        let names_it = |(_, waiting): &(&String, &Waiting)| {
            waiting.wish.members.iter().any(|member| member == bdev)
        };
        let wanted = self.waiting.iter().find(names_it).map(|(name, _)| name.clone());
        if wanted.is_none() && !self.auto_assemble {
            return;
        }
        let carried = match self.read_superblock(bdev) {
            Ok(carried) => carried,
            Err(error) => return tracing::warn!("bdev {bdev} could not be looked at: {error}"),
        };
        if let Some(name) = wanted {
            if let Err(error) = self.add_to_waiting(&name, bdev) {
                tracing::warn!("{error}");
            }
            return;
        }
        match carried {
            Carried::Nothing => {}
            Carried::Damaged(error) => tracing::warn!("bdev {bdev}: {error}; it was not touched"),
            Carried::Member(candidate) => self.member_appeared(bdev, &candidate.superblock),
        }
    }

    /// As for a new bdev, though nobody may have asked for that.
    ///
    /// # Errors
    /// If it is in use.
    pub fn examine_bdev(&mut self, bdev: &str) -> Result<(), TargetError> {
        let own = self.free_bdev(bdev)?.geometry.name.clone();
        let auto = std::mem::replace(&mut self.auto_assemble, true);
        self.bdev_appeared(&own);
        self.auto_assemble = auto;
        Ok(())
    }

    fn member_appeared(&mut self, bdev: &str, superblock: &Superblock) {
        if superblock.own_role() == Role::Spare {
            return self.spare_appeared(bdev, superblock);
        }
        let uuid = Uuid::from_bytes(superblock.set_uuid);
        let waits = |(_, waiting): &(&String, &Waiting)| waiting.wish.uuid == Some(uuid);
        if let Some(name) = self.waiting.iter().find(waits).map(|(name, _)| name.clone()) {
            return self.hold(&name, bdev);
        }
        let is_it =
            |it: &super::Bdev| matches!(&it.backing, Backing::Array(array) if array.uuid == uuid);
        if let Some(name) =
            self.bdevs.iter().find(|(_, it)| is_it(it)).map(|(name, _)| name.clone())
        {
            return self.member_came_back(&name, bdev, superblock);
        }
        let name = short_name(superblock);
        if let Some(why) = self.not_by_itself(&name, superblock) {
            tracing::info!(
                "bdev {bdev} carries array {name} ({uuid}), which is not started: {why}"
            );
            return;
        }
        let policy = self.settings_of(&name).start_degraded.unwrap_or_default();
        let wish = NewArrayWish {
            members: Vec::new(),
            uuid: Some(uuid),
            level: None,
            create: None,
            options: ArrayOptions::default(),
            takeover: Takeover::default(),
            policy,
        };
        tracing::info!("bdev {bdev} carries array {name} ({uuid})");
        self.waiting.insert(name.clone(), Waiting::new(wish));
        self.hold(&name, bdev);
    }

    /// Why an array that was found is not started before somebody names it.
    fn not_by_itself(&self, name: &str, superblock: &Superblock) -> Option<String> {
        if !superblock.is_ours() {
            return Some("Linux md wrote it last; bdev_raid_create takes it over".to_owned());
        }
        if matches!(superblock.own_role(), Role::Faulty | Role::Spare | Role::Journal) {
            return Some("it is no active member".to_owned());
        }
        if !matches!(superblock.level, Level::Linear | Level::Raid0)
            && !superblock.features.contains(Features::BITMAP_OFFSET)
        {
            let text = "its bitmap is not on its members, or it has none; bdev_raid_create with \
                        bitmap_file, bitmap_bdev or neither starts it";
            return Some(text.to_owned());
        }
        self.check_new_name(name)
            .and_then(|()| names::check_array_name(name).map_err(TargetError::Invalid))
            .err()
            .map(|error| error.to_string())
    }

    /// A member of an array that runs is there again.
    fn member_came_back(&mut self, array: &str, bdev: &str, superblock: &Superblock) {
        let slot = match superblock.own_role() {
            Role::Active(slot) => MemberSlot::try_from(slot).ok(),
            _ => None,
        };
        let (_, known) = self.array(array).expect("just found");
        let Some(slot) = slot.filter(|slot| known.awaited.contains(slot)) else {
            tracing::info!(
                "bdev {bdev} carries array {array}, which runs without it: bdev_raid_add_base_bdev \
                 takes it back"
            );
            return;
        };
        match self.offer(array, bdev, Some(slot), false) {
            Ok(_) => {
                tracing::info!("array {array}: bdev {bdev}, the member of slot {slot}, is back");
                self.set_user(bdev, Some(format!("array {array}")));
                self.array_mut(array).awaited.retain(|other| *other != slot);
            }
            Err(error) => tracing::error!("bdev {bdev} was not taken back: {error}"),
        }
    }

    /// Remembers a namespace for an array that waits; `None` if there is no such array.
    pub(super) fn defer_namespace(
        &mut self,
        nqn: &str,
        new: &NewNamespace<'_>,
    ) -> Option<Result<u32, TargetError>> {
        let waiting = self.waiting.get(new.bdev)?;
        if !waiting.namespaces.is_empty() {
            let text = format!("array {} has a namespace already", new.bdev);
            return Some(Err(TargetError::Busy(text)));
        }
        let subsystem = match self.subsystem(nqn) {
            Ok(subsystem) => subsystem,
            Err(error) => return Some(Err(error)),
        };
        let is_taken = |nsid: u32| {
            let deferred = self.waiting.values().flat_map(|waiting| &waiting.namespaces);
            subsystem.namespace(nsid).is_some()
                || deferred.into_iter().any(|other| other.nqn == nqn && other.nsid == nsid)
        };
        let nsid = match new.nsid {
            Some(nsid) => (1..=subsystem.max_namespaces()).contains(&nsid).then_some(nsid),
            None => (1..=subsystem.max_namespaces()).find(|&nsid| !is_taken(nsid)),
        };
        let Some(nsid) = nsid.filter(|&nsid| !is_taken(nsid)) else {
            let text = format!("subsystem {nqn} has no such namespace id free");
            return Some(Err(TargetError::Invalid(text)));
        };
        let deferred = Deferred {
            nqn: nqn.to_owned(),
            nsid,
            uuid: new.uuid,
            nguid: new.nguid,
            eui64: new.eui64,
            anagrpid: new.anagrpid,
            hidden: new.hidden,
            reservation_file: new.reservation_file.map(str::to_owned),
        };
        let waiting = self.waiting.get_mut(new.bdev).expect("just seen");
        waiting.namespaces.push(deferred);
        Some(Ok(nsid))
    }

    /// Forgets the deferred namespaces of a subsystem, all or one; whether there was one.
    pub(super) fn forget_deferred(&mut self, nqn: &str, nsid: Option<u32>) -> bool {
        let mut any = false;
        for waiting in self.waiting.values_mut() {
            let before = waiting.namespaces.len();
            let is_it = |it: &Deferred| it.nqn == nqn && nsid.is_none_or(|nsid| nsid == it.nsid);
            waiting.namespaces.retain(|it| !is_it(it));
            any |= waiting.namespaces.len() != before;
        }
        any
    }

    fn add_deferred(&mut self, array: &str, namespaces: &[Deferred]) {
        for it in namespaces {
            let new = it.as_new(array);
            if let Err(error) = self.add_namespace(&it.nqn, new) {
                tracing::error!("array {array} has started, but its namespace: {error}");
            }
        }
    }
}

/// What the operator can do about an array that waits.
fn advice(name: &str, waiting: &Waiting) -> String {
    if waiting.wish.create.is_some() && waiting.seen.is_none() {
        return String::new();
    }
    if waiting.is_forced {
        return ". Without more of its members it can't be started: bring them back".to_owned();
    }
    let force = format!(
        "bring the member back and it starts, or start it without: mdof rpc bdev_raid_start \
         '{{\"name\": \"{name}\", \"force\": true}}'"
    );
    match waiting.wish.policy {
        DegradedStart::WaitS(seconds) => {
            format!("; it starts without after {seconds} s. Earlier: {force}")
        }
        DegradedStart::Refuse | DegradedStart::Start => {
            format!(
                ". A member that is missing may hold newer data, so mdof does not start without \
                 it by itself: {force}"
            )
        }
    }
}

/// A file or device that has a size.
fn is_there(path: &Path) -> bool {
    use std::io::Seek;
    let size = std::fs::File::open(path).and_then(|mut file| file.seek(std::io::SeekFrom::End(0)));
    size.is_ok_and(|size| size > 0)
}
