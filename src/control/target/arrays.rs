//! Creating, assembling and stopping arrays.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::external::{BitmapPlace, External};
use super::takeover::{Given, Takeover};
use super::{Array, ArrayShape, Backing, Bdev, Member, Replacing, Target, TargetError, io_error};
use crate::bdev::BdevId;
use crate::control::carried::{Carried, short_name};
use crate::control::level::LevelChoice;
use crate::control::{names, units};
use crate::md::{
    self, Assembly, BitmapPlan, BitmapVersion, Candidate, Creation, Level, LevelCreation, NewArray,
    NewMember, Slot,
};
use crate::raid::assembly::{
    self, CandidateBdev, from_assembly, from_creation, from_plain_creation,
};
use crate::raid::{
    ArrayConfig, ArrayStatus, BARRIER_IDLE_S_DEFAULT, BitmapConfig, DAEMON_SLEEP_S_DEFAULT, Knobs,
    MemberConfig, MemberSlot,
};

/// How an array runs, created or assembled.
#[derive(Debug, Clone, Default)]
pub struct ArrayOptions {
    /// The bitmap's settings; `None`: as its header says, the defaults for a new array.
    pub knobs: Knobs,
    /// Where the bitmap lies, if not on the members.
    pub external: Option<BitmapPlace>,
    /// Levels with parity: do not keep the stripe log.
    pub without_log: bool,
}

/// How a new array is made.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// Identity.
    pub uuid: Uuid,
    /// Level, layout and strip.
    pub level: LevelChoice,
    /// With the lockless bitmap, where the level can have one.
    pub bitmap: bool,
    /// Bytes a bitmap chunk covers; `None` lets mdof choose.
    pub chunk_size_bytes: Option<u64>,
    /// The members are known to be equal.
    pub assume_clean: bool,
}

/// What an array was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartedHow {
    /// Its level.
    pub level: Level,
    /// Slots of the array.
    pub slots: usize,
    /// Members in sync.
    pub in_sync: usize,
    /// It was in use when it was last written: what was in doubt is being resynced.
    pub dirty: bool,
}

/// What an array may start without, of the members that its superblocks count on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permit {
    /// Any of them.
    pub any: bool,
    /// Even if what they held is lost in places: parity after an unclean stop.
    pub force: bool,
    /// The members of these slots.
    pub slots: BTreeSet<MemberSlot>,
}

impl Permit {
    /// Whatever is missing, as long as data are there.
    #[must_use]
    pub fn any() -> Self {
        Self { any: true, ..Self::default() }
    }

    pub(super) fn allows(&self, slot: usize) -> bool {
        self.any || MemberSlot::try_from(slot).is_ok_and(|slot| self.slots.contains(&slot))
    }
}

/// What a set of bdevs carries, all together.
#[derive(Debug, PartialEq, Eq)]
pub enum Members {
    /// No superblock on any.
    Blank,
    /// Superblocks of one array on some or all: its UUID and name, and the bdevs without.
    Array {
        /// The array's identity.
        uuid: Uuid,
        /// The array's name, without mdadm's host part.
        name: String,
        /// Bdevs that carry no superblock.
        without: Vec<String>,
    },
}

impl Target {
    /// Reads what `members` carry; a damaged superblock and two arrays are errors that name them.
    pub fn examine(&mut self, members: &[String]) -> Result<Members, TargetError> {
        let mut first: Option<(String, Uuid, String)> = None;
        let mut without = Vec::new();
        for name in members {
            let candidate = match self.read_superblock(name)? {
                Carried::Nothing => {
                    without.push(name.clone());
                    continue;
                }
                Carried::Damaged(error) => {
                    return Err(TargetError::Io(format!(
                        "bdev {name}: {error}; it was not touched"
                    )));
                }
                Carried::Member(candidate) => candidate,
            };
            let uuid = Uuid::from_bytes(candidate.superblock.set_uuid);
            match &first {
                None => first = Some((name.clone(), uuid, short_name(&candidate.superblock))),
                Some((_, other, _)) if *other == uuid => {}
                Some((other_name, other, _)) => {
                    return Err(TargetError::Exists(format!(
                        "bdev {other_name} belongs to array {other}, bdev {name} to array {uuid}; \
                         nothing was started or written"
                    )));
                }
            }
        }
        Ok(match first {
            None => Members::Blank,
            Some((_, uuid, name)) => Members::Array { uuid, name, without },
        })
    }

    /// Makes an array on members whose content may be lost. The caller has asked what they carry.
    /// `before_writing` is called when nothing but the devices themselves can fail any more.
    pub fn create_array(
        &mut self,
        name: &str,
        members: &[String],
        create: &CreateOptions,
        options: &ArrayOptions,
        before_writing: impl FnOnce() -> Result<(), TargetError>,
    ) -> Result<StartedHow, TargetError> {
        let members = self.check_members(name, members)?;
        self.check_place(&members, options)?;
        let mut new_members = Vec::with_capacity(members.len());
        for member in &members {
            let geometry = &self.bdev(member)?.geometry;
            new_members.push(NewMember {
                device_sectors: geometry.size_bytes() / md::SECTOR_BYTES,
                logical_block_size: geometry.block_size_bytes,
                device_uuid: Uuid::new_v4().into_bytes(),
            });
        }
        let plan = NewArray {
            name: name.to_owned(),
            set_uuid: create.uuid.into_bytes(),
            ctime: units::now(),
            assume_clean: create.assume_clean,
            members: new_members,
        };
        let level = create.level.with_bitmap(create.bitmap, create.chunk_size_bytes);
        let planned = md::create_level(&plan, &level)
            .map_err(|error| TargetError::Invalid(format!("array {name}: {error}")))?;
        let slots = plan.members.len();
        match planned {
            LevelCreation::Bitmap(creation) => {
                self.create_with_bitmap(name, &members, creation, options, before_writing)
            }
            LevelCreation::Plain { superblocks } => {
                if options.external.is_some() {
                    let text = format!("array {name}: it has no bitmap that could lie elsewhere");
                    return Err(TargetError::Invalid(text));
                }
                before_writing()?;
                for (member, superblock) in members.iter().zip(&superblocks) {
                    self.write_superblock(member, superblock)?;
                }
                let (raid, bdevs) =
                    (self.raid_options(name, &members)?, self.candidates(&members)?);
                let resync = !superblocks[0].is_clean();
                self.start(from_plain_creation(raid, &superblocks, &bdevs, resync), None)
            }
        }?;
        Ok(StartedHow { level: create.level.level, slots, in_sync: slots, dirty: false })
    }

    fn create_with_bitmap(
        &mut self,
        name: &str,
        members: &[String],
        mut creation: Creation,
        options: &ArrayOptions,
        before_writing: impl FnOnce() -> Result<(), TargetError>,
    ) -> Result<(), TargetError> {
        let external = match &options.external {
            None => None,
            Some(_) if creation.superblocks[0].level != Level::Raid1 => {
                let text = format!("array {name}: a bitmap that lies elsewhere is for raid1 only");
                return Err(TargetError::Invalid(text));
            }
            Some(place) => {
                creation.make_external();
                Some(self.new_external(name, place, &creation)?)
            }
        };
        let used = external.clone();
        let started = before_writing().and_then(|()| {
            let external = external.as_ref().map(|it| it.bdev.as_str());
            self.write_creation(members, &creation, external)?;
            self.start_created(name, members, &creation, options, used)
        });
        if let (Err(_), Some(external)) = (&started, &external) {
            self.close_external(external);
        }
        started
    }

    fn start_created(
        &mut self,
        name: &str,
        members: &[String],
        creation: &Creation,
        options: &ArrayOptions,
        external: Option<External>,
    ) -> Result<(), TargetError> {
        let mut config =
            from_creation(self.raid_options(name, members)?, creation, &self.candidates(members)?);
        set_knobs(&mut config, options.knobs);
        if let (BitmapConfig::Lockless { external: place, .. }, Some(external)) =
            (&mut config.bitmap, &external)
        {
            *place = Some(self.bdev(&external.bdev)?.id);
        }
        self.keep_log(&mut config, options);
        self.start(config, external)
    }

    /// Starts an array from the superblocks of those of `members` that carry one.
    pub fn assemble_array(
        &mut self,
        name: &str,
        members: &[String],
        permit: &Permit,
        options: &ArrayOptions,
        takeover: &Takeover,
    ) -> Result<StartedHow, TargetError> {
        let members = self.check_members(name, members)?;
        self.check_place(&members, options)?;
        let given = self.read_members(&members)?;
        let given = self.take_over(name, given, permit, takeover)?;
        let assembly = given.assemble(name, takeover)?;
        let Given { names, candidates, .. } = &given;
        let mut how = StartedHow {
            level: assembly.superblock.level,
            slots: assembly.slots.len(),
            in_sync: assembly.in_sync_count(),
            dirty: assembly.dirty,
        };
        let expected = assembly.expected_slots();
        if !expected.iter().all(|&slot| permit.allows(slot)) {
            return Err(TargetError::Lacking(lacking_text(&assembly, names, &expected)));
        }
        let raid_options = self.raid_options(name, names)?;
        let (mut config, external) = if let Some(place) = &options.external {
            let (config, external, in_doubt) =
                self.assemble_external(raid_options, &given, &assembly, place, takeover)?;
            how.dirty = in_doubt;
            (config, Some(external))
        } else {
            Self::report_bitmaps(name, &given, &assembly);
            let states = self.read_all_states(name, &given, &assembly);
            let bdevs = self.candidates(names)?;
            let config = from_assembly(raid_options, &assembly, candidates, &bdevs, &states)
                .map_err(|error| TargetError::Invalid(format!("array {name}: {error}")))?;
            (config, None)
        };
        self.list_bad_blocks(&mut config, &given);
        if let BitmapConfig::Lockless { superblock, .. } = &config.bitmap {
            // Set at run time before, or by the kernel.
            let kept = Knobs::kept(superblock);
            set_knobs(&mut config, options.knobs.or(kept));
        }
        self.find_log(&mut config, &assembly, &given);
        self.keep_log(&mut config, options);
        config.force = permit.force;
        config.accepts_loss = permit.force;
        let started = self.start(config, external.clone());
        if let (Err(_), Some(external)) = (&started, &external) {
            self.close_external(external);
        }
        if assembly.lacks_members() {
            // It may be enough when they come.
            started.map_err(|error| TargetError::Lacking(error.to_string()))?;
        } else {
            started?;
        }
        let slot = |slot| MemberSlot::try_from(slot).expect("few slots");
        self.array_mut(name).awaited = expected.into_iter().map(slot).collect();
        Ok(how)
    }

    /// The members' bad-block logs go into the configuration.
    fn list_bad_blocks(&self, config: &mut ArrayConfig, given: &Given) {
        let name = config.name.clone();
        let replacement = config.replacement.as_mut().map(|(_, member)| member);
        for member in config.members.iter_mut().flatten().chain(replacement) {
            let bdev = self.name_of(member.bdev).expect("members were looked up by name");
            let at = given.names.iter().position(|own| own == bdev).expect("it was given");
            member.bad_blocks.clone_from(&given.bad_blocks[at]);
            let sectors: u64 = member.bad_blocks.iter().map(|range| range.sectors).sum();
            if sectors > 0 {
                tracing::warn!(
                    "array {name}: the bad-block log of bdev {bdev} lists {sectors} sectors; they \
                     are read from the other members. Replace the bdev if there are ever more"
                );
            }
        }
    }

    /// The chunk states of every member whose bitmap can be read: in sync, or being rebuilt.
    fn read_all_states(
        &mut self,
        name: &str,
        given: &Given,
        assembly: &Assembly,
    ) -> Vec<Option<Vec<u8>>> {
        let mut states = vec![None; given.candidates.len()];
        let in_slots = assembly.slots.iter().filter_map(|slot| match *slot {
            Slot::InSync { candidate } | Slot::Rebuilding { candidate, .. } => Some(candidate),
            Slot::Missing { .. } => None,
        });
        let replacement = assembly.replacement.map(|replacing| replacing.candidate);
        for candidate in in_slots.chain(replacement) {
            let Candidate { superblock, bitmap, .. } = &given.candidates[candidate];
            let (BitmapPlan::Load { .. }, Some(Ok(bitmap))) = (&assembly.bitmap, bitmap) else {
                continue;
            };
            if bitmap.version != BitmapVersion::Lockless || bitmap.needs_initialising() {
                continue;
            }
            match self.read_states(&given.names[candidate], superblock, bitmap) {
                Ok(read) => states[candidate] = Some(read),
                Err(error) => tracing::warn!(
                    "array {name}: {error}; the bitmaps of the other members are used"
                ),
            }
        }
        states
    }

    fn raid_options(
        &self,
        name: &str,
        members: &[String],
    ) -> Result<assembly::ArrayOptions, TargetError> {
        let first = members.first().expect("an array starts with members");
        Ok(assembly::ArrayOptions {
            name: name.to_owned(),
            block_size_bytes: self.bdev(first)?.geometry.block_size_bytes,
            owner_core: 0,
            daemon_sleep_s: DAEMON_SLEEP_S_DEFAULT,
            barrier_idle_s: BARRIER_IDLE_S_DEFAULT,
        })
    }

    pub(super) fn candidates(&self, members: &[String]) -> Result<Vec<CandidateBdev>, TargetError> {
        let candidate = |name: &String| {
            let bdev = self.bdev(name)?;
            Ok(CandidateBdev::of(bdev.id, &bdev.geometry))
        };
        members.iter().map(candidate).collect()
    }

    /// Refuses a bad array name and members that are unknown, named twice or in use.
    fn check_members(&self, name: &str, members: &[String]) -> Result<Vec<String>, TargetError> {
        self.check_new_name(name)?;
        names::check_array_name(name).map_err(TargetError::Invalid)?;
        let mut resolved: Vec<String> = Vec::with_capacity(members.len());
        for member in members {
            let own = self.free_bdev(member)?.geometry.name.clone();
            if resolved.contains(&own) {
                return Err(TargetError::Invalid(format!("bdev {own} is given twice")));
            }
            resolved.push(own);
        }
        Ok(resolved)
    }

    /// Refuses a member as the place of the bitmap.
    fn check_place(&self, members: &[String], options: &ArrayOptions) -> Result<(), TargetError> {
        let Some(BitmapPlace::Bdev(name)) = &options.external else { return Ok(()) };
        let own = &self.free_bdev(name)?.geometry.name;
        if members.contains(own) {
            let text = format!("bdev {own} is a member: its bitmap takes a bdev of its own");
            return Err(TargetError::Invalid(text));
        }
        Ok(())
    }

    fn start(
        &mut self,
        config: ArrayConfig,
        external: Option<External>,
    ) -> Result<(), TargetError> {
        let name = config.name.clone();
        let any = config.members.iter().flatten().next().expect("an array starts with members");
        let uuid = Uuid::from_bytes(any.superblock.set_uuid);
        let data_offset_bytes = any.superblock.data_offset_sectors * md::SECTOR_BYTES;
        let data_offset_blocks = data_offset_bytes / u64::from(config.block_size_bytes);
        let bitmap = matches!(config.bitmap, BitmapConfig::Lockless { .. });
        let shape = ArrayShape::of(&any.superblock);
        let member = |member: &MemberConfig| Member {
            name: self.name_of(member.bdev).expect("members were looked up by name").to_owned(),
            uuid: Uuid::from_bytes(member.superblock.device_uuid),
        };
        let members: Vec<Option<Member>> =
            config.members.iter().map(|slot| slot.as_ref().map(member)).collect();
        let newcomer = config.replacement.as_ref().map(|(_, it)| member(it));
        let stripe_log = super::stripe_log::state(&config);
        self.check_members_take_writes(&config)?;
        let id = self.engine.start_array(config)?;
        let geometry = self.engine.geometry(id).expect("a started array has a geometry").clone();
        for member in members.iter().flatten().chain(&newcomer) {
            self.set_user(&member.name, Some(format!("array {name}")));
        }
        if let Some(external) = &external {
            self.set_user(&external.bdev, Some(format!("array {name}, as its bitmap")));
        }
        let array = Array {
            uuid,
            shape,
            members,
            replacing: Box::new(Replacing { newcomer, leaving: Vec::new() }),
            data_offset_blocks,
            bitmap,
            external,
            stripe_log,
            awaited: Vec::new(),
            resync_began_s: 0,
            scrub_began_s: 0,
            is_degraded: false,
            grows_to: None,
            is_found: false,
        };
        let bdev = Bdev { id, geometry, backing: Backing::Array(array), user: None };
        self.bdevs.insert(name.clone(), bdev);
        self.notices.add("bdev_register", &name, None, String::new());
        self.apply_settings(&name);
        Ok(())
    }

    /// The array called `name`: its place in the engine and what control remembers.
    pub fn array(&self, name: &str) -> Result<(BdevId, &Array), TargetError> {
        let bdev = self.bdev(name)?;
        match &bdev.backing {
            Backing::Array(array) => Ok((bdev.id, array)),
            Backing::Device(_) => Err(TargetError::NotFound(format!("bdev {name} is no array"))),
        }
    }

    /// The array's state now.
    pub fn array_status(&mut self, name: &str) -> Result<ArrayStatus, TargetError> {
        let (id, _) = self.array(name)?;
        self.engine
            .array_status(id)
            .map_err(|status| io_error(&format!("asking array {name} for its state"), status))
    }

    /// Sets what can be set of a running array's bitmap.
    pub fn set_bitmap(&mut self, name: &str, knobs: Knobs) -> Result<(), TargetError> {
        let (id, _) = self.array(name)?;
        let set = self.engine.set_knobs(id, knobs);
        set.map_err(|error| TargetError::Invalid(format!("array {name}: {error}")))
    }
}

/// Sets what is given of the bitmap's settings.
fn set_knobs(config: &mut ArrayConfig, knobs: Knobs) {
    config.daemon_sleep_s = knobs.daemon_sleep_s.unwrap_or(config.daemon_sleep_s);
    config.barrier_idle_s = knobs.barrier_idle_s.unwrap_or(config.barrier_idle_s);
    config.infection = knobs.infection.unwrap_or(config.infection);
}

/// Why an array was not started whose superblocks count on members that are not here.
fn lacking_text(assembly: &Assembly, names: &[String], expected: &[usize]) -> String {
    let slots: Vec<String> = expected.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{} of {} members are in sync, and its superblocks count on the member of slot {} as well",
        assembly.in_sync_count(),
        assembly.slots.len(),
        slots.join(" and ")
    );
    for rejection in &assembly.rejected {
        text += &format!("; bdev {}: {}", names[rejection.candidate], rejection.reason);
    }
    text
}

/// Why an array with members missing was not started.
pub(super) fn degraded_text(name: &str, assembly: &Assembly, names: &[String]) -> String {
    let mut text = format!(
        "array {name} has {} of {} members in sync",
        assembly.in_sync_count(),
        assembly.slots.len()
    );
    for rejection in &assembly.rejected {
        text += &format!("; bdev {}: {}", names[rejection.candidate], rejection.reason);
    }
    text + "; it was not started, add --start-degraded to start it with those it has"
}
