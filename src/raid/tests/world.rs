//! A deterministic world for one array: members, messages and completions in random (but per
//! sender ordered) order, a clock, power cuts at any step.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::{BAD_LOG_BYTE, BITMAP_BYTE, Disk, META_BYTES, Places, STATES_BYTE, SUPER_BYTE};
use super::host::Host;
use super::oracle::Watch;
use super::rng::Rng;
use super::trace::{self, Event};
use crate::bdev::{BdevId, BdevIo, IoQueue, IoStatus};
use crate::bitmap::{ChunkState, Infection};
use crate::md;
use crate::md::stripe_log::LogLayout;
use crate::raid;
use crate::raid::Geometry;
use crate::raid::assembly::{self, ArrayOptions, CandidateBdev};
use crate::raid::message::{ArrayTimer, SlotMask};
use crate::raid::{ArrayConfig, BitmapConfig, Channel, Mail, Owner, Shared, ToChannel, ToOwner};
use crate::reactor::buf::BufPool;

/// What kind of array it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) members: usize,
    pub(super) cores: u16,
    pub(super) block: usize,
    pub(super) chunk_blocks: usize,
    pub(super) blocks: usize,
    /// The members are alike from the start, full of zeroes.
    pub(super) assume_clean: bool,
    pub(super) unmap: bool,
    /// Members zero a range of any length in about the same time.
    pub(super) cheap_zeroes: bool,
    /// md's layout word and the blocks of a strip; `None` is a mirror.
    pub(super) raid10: Option<(u32, usize)>,
    /// Level with parity, md's layout word and the blocks of a strip.
    pub(super) parity: Option<(i32, u32, usize)>,
    /// The bitmap is on a device of its own.
    pub(super) external: bool,
    /// The policy that each start begins with.
    pub(super) infection: Infection,
    /// Levels with parity: how the stripe log is divided.
    pub(super) log: Option<LogLayout>,
}

impl Shape {
    /// Two members, two cores, 40 chunks of eight 512-byte blocks.
    pub(super) const SMALL: Self = Self {
        members: 2,
        cores: 2,
        block: 512,
        chunk_blocks: 8,
        blocks: 320,
        assume_clean: false,
        unmap: true,
        cheap_zeroes: false,
        raid10: None,
        parity: None,
        external: false,
        infection: Infection::Adaptive,
        log: None,
    };

    /// The array's geometry; but of a mirror about as large as `blocks` says.
    pub(super) fn geometry(&self) -> Geometry {
        let sectors_per_block = self.block / 512;
        let (level, layout, strip) = match (self.raid10, self.parity) {
            (Some((layout, strip)), _) => (10, layout, strip),
            (None, Some(parity)) => parity,
            (None, None) => (1, 0, 1),
        };
        let copies = usize::try_from((layout & 0xff).max(1) * (layout >> 8 & 0xff).max(1)).unwrap();
        let member_blocks = match self.raid10 {
            Some(_) => {
                (self.blocks * copies).div_ceil(self.members).next_multiple_of(strip * copies)
            }
            None if self.parity.is_some() => {
                let data = self.members - if level == 6 { 2 } else { 1 };
                self.blocks.div_ceil(data).next_multiple_of(strip)
            }
            None => self.blocks,
        };
        Geometry::new(&raid::geometry::Shape {
            level,
            layout,
            raid_disks: u32::try_from(self.members).unwrap(),
            chunk_sectors: u32::try_from(strip * sectors_per_block).unwrap(),
            size_sectors: (member_blocks * sectors_per_block) as u64,
            member_sectors: &[],
            block_size_bytes: u32::try_from(self.block).unwrap(),
        })
        .unwrap()
    }

    /// Bytes of a member before its data that are simulated.
    fn meta_bytes(&self) -> usize {
        META_BYTES + self.log.map_or(0, |log| usize::try_from(log.area_bytes()).unwrap())
    }

    /// The same shape with the size that the array really has.
    pub(super) fn exact(self) -> Self {
        Self { blocks: usize::try_from(self.geometry().blocks()).unwrap(), ..self }
    }
}

/// How often what goes wrong: one in so many requests, 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A single request fails.
    pub(super) error: usize,
    /// A single read fails.
    pub(super) read_error: usize,
    /// A single request for metadata fails.
    pub(super) metadata_error: usize,
    /// A member dies until the next power cycle.
    pub(super) death: usize,
    /// A host write fails on every member, though each may have done a part.
    pub(super) lost: usize,
    /// One step of work in so many, a block of a member can't be written any more, or can again.
    pub(super) stubborn: usize,
}

impl Faults {
    pub(super) fn any(&self) -> bool {
        let single = self.error + self.read_error + self.metadata_error;
        single + self.death + self.lost + self.stubborn > 0
    }
}

/// A request that a member has and has not answered.
pub(super) struct Flight {
    pub(super) core: usize,
    pub(super) disk: usize,
    pub(super) io: BdevIo,
    pub(super) sent_at: u64,
}

/// The machines of the array while it runs.
pub(super) struct Running {
    pub(super) owner: Owner,
    pub(super) channels: Vec<Channel>,
    pub(super) shared: Arc<Shared>,
    pub(super) to_owner: Vec<VecDeque<ToOwner>>,
    pub(super) to_channel: Vec<VecDeque<ToChannel>>,
    /// From channel to channel: all of the first one's, then of the second's.
    pub(super) to_peer: Vec<VecDeque<ToChannel>>,
    /// When they are due.
    pub(super) timers: Vec<(u64, ArrayTimer)>,
    pub(super) in_flight: Vec<Flight>,
    pub(super) started: bool,
    pub(super) start_failed: bool,
    pub(super) stopped: bool,
    /// Stopped well, that is.
    pub(super) stopped_ok: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) shape: Shape,
    pub(super) geometry: Geometry,
    pub(super) faults: Faults,
    pub(super) disks: Vec<Disk>,
    /// The external bitmap's, which follows the members' in number.
    pub(super) external: Option<Disk>,
    pub(super) host: Host,
    pub(super) watch: Watch,
    pub(super) running: Option<Running>,
    pub(super) pool: BufPool,
    /// One a core; the owner runs on core 0.
    pub(super) io: Vec<IoQueue>,
    pub(super) mail: VecDeque<Mail>,
    pub(super) now_ms: u64,
    /// Member-visible events so far.
    pub(super) events: u64,
    pub(super) cuts: u64,
    /// A member failed a request in this round.
    pub(super) fault_seen: bool,
    /// The host write that fails on every member: core, channel's operation, answers to come.
    pub(super) doomed: Option<(usize, u32, u32)>,
    pub(super) split_brains: u64,
    /// It was started with a member missing and parity in doubt: some reads may fail.
    pub(super) is_doubtful: bool,
    /// Members that the operator gives to the next assembly.
    pub(super) present: Vec<bool>,
    /// Members that were in sync when the array served with a stripe log.
    pub(super) log_served: SlotMask,
    /// What members hold is looked at when the log has been written in place.
    pub(super) looks_later: bool,
    /// By slot: a device that was a member once, and whether it has missed something.
    pub(super) shelf: Vec<Option<(Disk, bool)>>,
    /// Devices made so far.
    pub(super) devices: u8,
    pub(super) twins: super::replace::Twins,
    pub(super) growths: super::grow::Growths,
    /// Members that do not answer.
    pub(super) hung: SlotMask,
    /// The next assembly is given what was to replace a member.
    pub(super) gives_twin: bool,
    /// Slots of which it was on record that they were out when the power went.
    pub(super) known_out: SlotMask,
}

/// What simulated members hold before the array's first life: nobody's business.
pub(super) fn noise(rng: &mut Rng) -> u64 {
    1 << 62 | rng.next() >> 2
}

fn bdevs(shape: &Shape) -> Vec<CandidateBdev> {
    (0..shape.members)
        .map(|slot| CandidateBdev {
            bdev: BdevId(u16::try_from(slot).unwrap()),
            unmap: shape.unmap,
            cheap_zeroes: shape.cheap_zeroes,
        })
        .collect()
}

/// Why nothing was assembled.
#[derive(Debug)]
pub(super) enum Refused {
    Members(md::AssembleError),
    /// The external bitmap went on with other members.
    Ahead,
}

fn external_bdev(shape: &Shape) -> BdevId {
    BdevId(u16::try_from(shape.members).unwrap())
}

/// The head and the first states.
fn put_bitmap(creation: &md::Creation, area: &mut [u8]) {
    creation.bitmap.encode_into(area.first_chunk_mut().unwrap());
    let chunks = usize::try_from(creation.chunk_count).unwrap();
    area[md::BITMAP_HEAD_BYTES..][..chunks].fill(creation.initial_state.byte());
}

/// A creation of the shipped code, cut down to the size of the simulated members.
pub(super) fn creation(shape: &Shape) -> md::Creation {
    let sectors_per_block = shape.block / 512;
    let mut creation = md::create(&md::NewArray {
        name: "sim".to_owned(),
        set_uuid: [7; 16],
        ctime: md::Timestamp::from_unix(1, 0),
        assume_clean: shape.assume_clean,
        members: (0..shape.members)
            .map(|slot| md::NewMember {
                device_sectors: 1 << 16,
                logical_block_size: u32::try_from(shape.block).unwrap(),
                device_uuid: [u8::try_from(slot + 1).unwrap(); 16],
            })
            .collect(),
    })
    .unwrap();
    let geometry = shape.geometry();
    for superblock in &mut creation.superblocks {
        superblock.size_sectors = geometry.member_blocks(0) * sectors_per_block as u64;
        superblock.bblog.offset_sectors =
            i32::try_from((BAD_LOG_BYTE - SUPER_BYTE) / 512).expect("a small number");
        if shape.log.is_some() {
            superblock.data_offset_sectors = shape.meta_bytes() as u64 / 512;
            superblock.data_size_sectors = (1 << 16) - superblock.data_offset_sectors;
        }
        if let Some((layout, strip)) = shape.raid10 {
            superblock.level = md::Level::Raid10;
            superblock.layout = layout;
            superblock.chunk_sectors = u32::try_from(strip * sectors_per_block).unwrap();
        }
        if let Some((level, layout, strip)) = shape.parity {
            superblock.level = match level {
                4 => md::Level::Raid4,
                5 => md::Level::Raid5,
                _ => md::Level::Raid6,
            };
            superblock.layout = layout;
            superblock.chunk_sectors = u32::try_from(strip * sectors_per_block).unwrap();
        }
    }
    creation.bitmap.sync_size_sectors = geometry.sync_blocks() * sectors_per_block as u64;
    creation.bitmap.chunk_raw = u32::try_from(shape.chunk_blocks * sectors_per_block).unwrap();
    // What is simulated of it; the bad-block log is behind.
    creation.bitmap.sectors_reserved = u32::try_from((BAD_LOG_BYTE - BITMAP_BYTE) / 512).unwrap();
    creation.chunk_count = creation.bitmap.chunk_count();
    assert_eq!(creation.bitmap_sector * 512, BITMAP_BYTE as u64);
    if shape.external {
        creation.make_external();
    }
    creation
}

impl World {
    /// A created array on members full of noise, starting.
    pub(super) fn create(seed: u64, shape: Shape, pool: BufPool) -> Self {
        let mut rng = Rng(seed);
        let shape = shape.exact();
        let geometry = shape.geometry();
        let creation = creation(&shape);
        let disks = creation.superblocks.iter().enumerate().map(|(slot, superblock)| {
            let mut meta = vec![0xee; shape.meta_bytes()];
            superblock.encode_into(&mut meta[SUPER_BYTE..BITMAP_BYTE]);
            if !shape.external {
                put_bitmap(&creation, &mut meta[BITMAP_BYTE..]);
            }
            let data_byte = usize::try_from(superblock.data_offset_sectors).unwrap() * 512;
            let data_lba = data_byte / shape.block;
            let fill = || if shape.assume_clean { 0 } else { noise(&mut rng) };
            Disk::new(shape.block, data_lba, meta, Places::new(&geometry, slot), fill)
        });
        let disks: Vec<Disk> = disks.collect();
        let external = shape.external.then(|| {
            let mut meta = vec![0xee; META_BYTES];
            put_bitmap(&creation, &mut meta);
            Disk::external(shape.block, meta)
        });
        let mut config = assembly::from_creation(options(&shape), &creation, &bdevs(&shape));
        if let BitmapConfig::Lockless { external, .. } = &mut config.bitmap {
            *external = shape.external.then(|| external_bdev(&shape));
        }
        let chunks = usize::try_from(creation.chunk_count).unwrap();
        config.log = super::log::kept(&shape, &mut rng);
        trace::note(Event::Created {
            members: shape.members,
            cores: shape.cores,
            block: shape.block,
            chunk_blocks: shape.chunk_blocks,
            blocks: shape.blocks,
            infection: shape.infection,
        });
        let mut world = Self {
            rng,
            faults: Faults::default(),
            disks,
            external,
            host: Host::new(shape.blocks, shape.block, shape.chunk_blocks),
            watch: Watch::new(shape.members, chunks),
            running: None,
            pool,
            io: (0..shape.cores).map(|_| IoQueue::with_capacity(64)).collect(),
            mail: VecDeque::new(),
            now_ms: 0,
            events: 0,
            cuts: 0,
            fault_seen: false,
            doomed: None,
            split_brains: 0,
            is_doubtful: false,
            present: vec![true; shape.members],
            log_served: 0,
            looks_later: false,
            shelf: (0..shape.members).map(|_| None).collect(),
            devices: u8::try_from(shape.members).unwrap(),
            twins: super::replace::Twins::default(),
            growths: super::grow::Growths::of(shape.members),
            hung: 0,
            gives_twin: false,
            known_out: 0,
            shape,
            geometry,
        };
        world.start(config);
        world
    }

    /// Starts what was made of the members.
    pub(super) fn start_of(&mut self, config: ArrayConfig) {
        self.start(config);
    }

    fn start(&mut self, config: ArrayConfig) {
        let config = &ArrayConfig { infection: self.shape.infection, ..config };
        let shared = crate::raid::prepare(config, BdevId(100)).unwrap();
        let cores = self.shape.cores;
        let owner = Owner::from_config(config, shared.clone(), cores, self.pool).unwrap();
        let channels = (0..cores).map(|core| {
            let channel = Channel::new(shared.clone(), config.in_sync(), config.writable());
            channel.on_core(core, cores, self.pool).unwrap()
        });
        self.is_doubtful |=
            shared.doubt.count() > 0 && config.in_sync() != shared.geometry.all_slots();
        let cores = usize::from(cores);
        self.running = Some(Running {
            owner,
            channels: channels.collect(),
            shared,
            to_owner: vec![VecDeque::new(); cores],
            to_channel: vec![VecDeque::new(); cores],
            to_peer: vec![VecDeque::new(); cores * cores],
            timers: Vec::new(),
            in_flight: Vec::new(),
            started: false,
            start_failed: false,
            stopped: false,
            stopped_ok: false,
        });
        self.watch.joined = false;
        let map = self.running.as_ref().unwrap().shared.map.as_ref();
        if map.is_some_and(|map| map.histogram()[3] > 0) || config.log.replay.is_some() {
            // What the crash left open is decided here, without those who are out.
            self.watch.promised_without(config.in_sync());
        }
        self.looks_later = config.log.replay.is_some();
        if !self.looks_later {
            self.check_assembled(config.in_sync());
        }
        self.on_owner(|owner, out| owner.start(out));
    }

    /// Reads the members' metadata as control does, and starts what it finds. If the members say
    /// that they were used apart, the operator decides for one that has everything.
    pub(super) fn assemble(&mut self) -> md::Assembly {
        let present: Vec<usize> = (0..self.disks.len())
            .filter(|&slot| self.present[slot] && self.superblock(slot).is_some())
            .collect();
        self.renumber();
        self.gives_twin = true;
        let result = self.assemble_from(&present);
        self.gives_twin = false;
        match result {
            Ok(assembly) => assembly,
            Err(Refused::Members(md::AssembleError::SplitBrain { .. })) => {
                self.split_brains += 1;
                let mut chosen: Vec<usize> =
                    present.into_iter().filter(|&slot| self.has_all(slot)).collect();
                // The freshest first: of what lies in the cache of one that is out nobody knows.
                let events = |&slot: &usize| self.superblock(slot).map(|own| own.events);
                chosen.sort_by_key(|slot| std::cmp::Reverse(events(slot)));
                if !self.is_mirror() {
                    return self.assemble_some(&chosen);
                }
                // Of a mirror any one will do.
                let mut tried = chosen.iter().map(|&slot| self.assemble_from(&[slot]));
                let mut started = tried.find_map(Result::ok);
                if started.is_none() {
                    // What was given the place of one of them went on, and the bitmap with it.
                    self.gives_twin = true;
                    let mut tried = chosen.iter().map(|&slot| self.assemble_from(&[slot]));
                    started = tried.find_map(Result::ok);
                    self.gives_twin = false;
                }
                // The only one in sync may have been left out, and a member that the operator
                // failed before it missed anything is refused, because the bitmap is ahead of it.
                if started.is_none() && self.present.contains(&false) {
                    self.present.fill(true);
                    return self.assemble();
                }
                started.expect("somebody has everything")
            }
            // The one that has everything was left out: a member that the operator failed may have
            // missed nothing, but the others say that it did.
            Err(Refused::Members(md::AssembleError::NoInSyncMember { .. }))
                if self.present.contains(&false) =>
            {
                self.present.fill(true);
                self.assemble()
            }
            Err(Refused::Ahead) if present.len() < self.disks.len() => {
                self.present.fill(true);
                self.assemble()
            }
            Err(error) => super::oracle::violated(2, &format!("no assembly: {error:?}")),
        }
    }

    /// Of members with everything as many as agree: two that may be missing may have been used
    /// alone, one after the other.
    fn assemble_some(&mut self, chosen: &[usize]) -> md::Assembly {
        let slots_of = |mask: &u64| {
            chosen.iter().copied().filter(|&slot| mask & 1 << slot != 0).collect::<Vec<usize>>()
        };
        let all = chosen.iter().fold(0u64, |mask, slot| mask | 1 << slot);
        let mut subsets: Vec<u64> =
            (1..=all).filter(|mask| mask & !all == 0 && self.geometry.is_readable(*mask)).collect();
        subsets.sort_by_key(|mask| std::cmp::Reverse(mask.count_ones()));
        // What has just replaced one of them may be what the others count on.
        let tries = subsets.iter().flat_map(|mask| [(mask, true), (mask, false)]);
        let mut tried = tries.map(|(mask, gives_twin)| {
            self.gives_twin = gives_twin;
            self.assemble_from(&slots_of(mask))
        });
        let started = tried.find_map(Result::ok);
        self.gives_twin = false;
        // Those that agree may be too few without one that was left out.
        if started.is_none() && self.present.contains(&false) {
            self.present.fill(true);
            return self.assemble();
        }
        started.expect("they have everything")
    }

    /// What those that are given to the next assembly make, as it stands.
    pub(super) fn config_of_present(&mut self) -> ArrayConfig {
        let present: Vec<usize> =
            (0..self.disks.len()).filter(|&slot| self.present[slot]).collect();
        self.read_members(&present).unwrap().1
    }

    fn read_members(&mut self, present: &[usize]) -> Result<(md::Assembly, ArrayConfig), Refused> {
        let mut states = Vec::new();
        let twin = if self.gives_twin { self.twin_candidate() } else { None };
        let given: Vec<usize> = present.iter().copied().chain(twin.map(|(_, at)| at)).collect();
        let mut candidates: Vec<md::Candidate> = given
            .iter()
            .map(|&at| {
                let meta = &self.disk(at).live_meta;
                let superblock = md::Unverified::parse(&meta[SUPER_BYTE..BITMAP_BYTE], 8).unwrap();
                let bitmap = (!self.shape.external)
                    .then(|| md::BitmapSuperblock::parse(&meta[BITMAP_BYTE..], &superblock));
                states.push(bitmap.as_ref().and_then(|head| head.as_ref().ok()).map(|head| {
                    let chunks = usize::try_from(head.chunk_count()).unwrap();
                    meta[STATES_BYTE..STATES_BYTE + chunks].to_vec()
                }));
                md::Candidate { device_sectors: 1 << 16, superblock, bitmap }
            })
            .collect();
        md::take_up(&mut candidates);
        let assembly = md::assemble(&candidates).map_err(Refused::Members)?;
        self.check_size(&assembly);
        let all = bdevs(&self.shape);
        let twin = twin.map(|(bdev, _)| CandidateBdev { bdev, ..bdevs(&self.shape)[0] });
        let bdevs: Vec<_> = present.iter().map(|&slot| all[slot]).chain(twin).collect();
        let options = options(&self.shape);
        let config = if self.shape.external {
            self.config_external(options, &assembly, &candidates, &bdevs)?
        } else {
            self.check_plan(&assembly);
            assembly::from_assembly(options, &assembly, &candidates, &bdevs, &states).unwrap()
        };
        let mut config = config;
        let bdev_of = |at: usize| bdevs[at].bdev;
        let replacement = config.replacement.as_mut().map(|(_, member)| member);
        for member in config.members.iter_mut().flatten().chain(replacement) {
            let at = (0..given.len()).find(|&at| bdev_of(at) == member.bdev).unwrap();
            member.bad_blocks = self.disk(given[at]).bad_blocks();
        }
        let log = self.find_log(&assembly, &candidates, &given);
        Ok((assembly, ArrayConfig { log, ..config }))
    }

    pub(super) fn assemble_from(&mut self, present: &[usize]) -> Result<md::Assembly, Refused> {
        let (assembly, mut config) = self.read_members(present)?;
        self.note_listed();
        config.force = true;
        if !self.geometry.is_readable(config.in_sync()) {
            assert!(raid::prepare(&config, BdevId(100)).is_err(), "data are missing");
            let may_be_member = |slot: &usize| self.superblock(*slot).is_some();
            let all: Vec<usize> = (0..self.disks.len()).filter(may_be_member).collect();
            if present.len() == all.len() {
                // A member that the array can't do without failed two updates of its superblock in
                // a row: as in md, the operator has to decide. This life is over.
                assert!(self.faults.any(), "too many members are out");
                return Ok(assembly);
            }
            return self.assemble_from(&all);
        }
        let in_sync = config.in_sync();
        let twin = has_candidate(&assembly, present.len()).then_some(present.len());
        self.twin_assembled(&assembly, twin);
        self.start(config);
        let running = self.running.as_ref().unwrap();
        let need_sync = running.shared.map.as_ref().unwrap().histogram()[3];
        trace::note(Event::Assembled {
            present: present.iter().fold(0, |mask, slot| mask | 1 << slot),
            in_sync,
            dirty: assembly.dirty,
            need_sync: usize::try_from(need_sync).unwrap(),
        });
        Ok(assembly)
    }

    /// As control does, with the head and the states of the device that holds the bitmap.
    fn config_external(
        &mut self,
        options: ArrayOptions,
        assembly: &md::Assembly,
        candidates: &[md::Candidate],
        bdevs: &[CandidateBdev],
    ) -> Result<ArrayConfig, Refused> {
        let meta = &self.external.as_ref().expect("it has one").live_meta;
        let bytes = META_BYTES as u64;
        let head = md::BitmapSuperblock::parse_external(meta, &assembly.superblock, bytes);
        let head = md::ExternalHead::Found(head.expect("nobody damages a head"));
        let permits = md::ExternalPermits::default();
        let plan = match md::ExternalPlan::new(assembly, &head, bytes, permits) {
            Ok(plan) => plan,
            Err(md::ExternalError::Ahead { .. }) => return Err(Refused::Ahead),
            Err(error) => panic!("{error}"),
        };
        let states = match &plan {
            md::ExternalPlan::Load { .. } => {
                meta[md::BITMAP_HEAD_BYTES..][..self.watch.chunks].to_vec()
            }
            md::ExternalPlan::Stale { .. } if self.watch.may_be_stale => {
                // The new one would have chunks of another size, for which the world is too small.
                vec![ChunkState::NeedSync as u8; self.watch.chunks]
            }
            plan => super::oracle::violated(6, &format!("the bitmap is of no use: {plan:?}")),
        };
        let bdev = external_bdev(&self.shape);
        let md::ExternalHead::Found(found) = head else { unreachable!() };
        let is_stale = matches!(plan, md::ExternalPlan::Stale { .. });
        let (events, superblock) = (assembly.superblock.events, found);
        let plan = if is_stale {
            let superblock = md::BitmapSuperblock { events, ..superblock };
            md::ExternalPlan::Convert { classic: superblock.clone(), superblock, stale: true }
        } else {
            plan
        };
        let states = Some(states);
        Ok(assembly::from_external(options, assembly, candidates, bdevs, bdev, &plan, states))
    }

    /// A member's disk, or behind them that of the external bitmap.
    pub(super) fn disk(&self, at: usize) -> &Disk {
        self.some_disk(at).expect("there is such a disk")
    }

    pub(super) fn disk_mut(&mut self, at: usize) -> &mut Disk {
        self.some_disk_mut(at).expect("there is such a disk")
    }

    /// The byte of a chunk on the medium that counts for a member.
    pub(super) fn state_byte(&self, slot: usize, chunk: usize) -> u8 {
        self.external.as_ref().unwrap_or_else(|| self.disk(slot)).state_byte(chunk)
    }

    /// Cuts the power: caches lose what they like, requests in flight did or did not happen.
    pub(super) fn cut_power(&mut self) {
        trace::note(Event::Cut);
        self.cuts += 1;
        self.hung = 0;
        self.doomed = None;
        if let Some(mut running) = self.running.take() {
            self.known_out = running.channels.iter().fold(0, |all, it| all | it.recorded);
            for Flight { core, disk, io, .. } in running.in_flight.drain(..) {
                if self.rng.one_in(2) {
                    let (events, mut rng) = (self.events, Rng(self.rng.0));
                    self.disk_mut(disk).execute_torn(&io, events, &mut rng);
                    self.rng = rng;
                }
                io.complete(IoStatus::Aborted, &mut self.io[core]);
            }
            for channel in &mut running.channels {
                channel.abandon(&mut self.io[0]);
            }
        }
        for disk in self.disks.iter_mut().chain(&mut self.external).chain(&mut self.twins.disk) {
            disk.cut(&mut self.rng);
        }
        for io in &mut self.io {
            while io.next_done().is_some() {}
            assert!(io.is_empty());
        }
        self.mail.clear();
        self.host.power_cut();
        self.watch.power_cut();
    }

    /// After a clean stop: the array is gone, the members stay powered.
    pub(super) fn forget_stopped(&mut self) {
        let running = self.running.take().expect("nothing runs");
        assert!(running.stopped && running.in_flight.is_empty());
        trace::note(Event::Stopped);
        if running.stopped_ok {
            self.host.stopped();
            self.watch.promised_without(running.owner.in_sync);
        }
        for disk in self.disks.iter_mut().chain(&mut self.external).chain(&mut self.twins.disk) {
            disk.dead = false;
        }
        self.host.power_cut();
        self.watch.power_cut();
    }

    /// The members that the owner writes.
    pub(super) fn writable(&self) -> SlotMask {
        self.written() & self.geometry.all_slots()
    }

    /// Those, and what replaces one.
    pub(super) fn written(&self) -> SlotMask {
        self.running.as_ref().map_or(0, |running| running.owner.writable)
    }

    /// The members that the owner uses.
    pub(super) fn in_sync(&self) -> SlotMask {
        self.running.as_ref().map_or(0, |running| running.owner.in_sync)
    }

    /// Whether the member can be left alone.
    pub(super) fn has_all(&self, slot: usize) -> bool {
        self.watch.has_all(slot) && !self.growths.small[slot]
    }

    fn is_mirror(&self) -> bool {
        self.shape.raid10.is_none() && self.shape.parity.is_none()
    }

    /// The chunk of a block of the sync space.
    pub(super) fn chunk_of(&self, lba: usize) -> usize {
        lba / self.shape.chunk_blocks
    }

    /// The blocks of a chunk, in the sync space.
    pub(super) fn blocks_of(&self, chunk: usize) -> std::ops::Range<usize> {
        let first = chunk * self.shape.chunk_blocks;
        let blocks = usize::try_from(self.geometry.sync_blocks()).unwrap();
        first..(first + self.shape.chunk_blocks).min(blocks)
    }

    /// The run of array blocks with this one that can be discarded.
    pub(super) fn discardable(&self, lba: usize) -> std::ops::Range<usize> {
        let (strip, data) = match &self.geometry {
            Geometry::Copies(_) => (1, 1),
            Geometry::Parity(parity) => (parity.strip_blocks(), parity.data_members()),
        };
        let strip = usize::try_from(strip).unwrap();
        let unit = self.shape.chunk_blocks.max(strip) * usize::from(data);
        let first = lba / unit * unit;
        first..(first + unit).min(self.shape.blocks)
    }

    /// Blocks of the array that lie in a chunk, or with parity mostly.
    pub(super) fn array_blocks_of(&self, chunk: usize) -> std::ops::Range<usize> {
        let range = self.blocks_of(chunk);
        let data = self.shape.blocks / usize::try_from(self.geometry.sync_blocks()).unwrap();
        range.start * data..range.end * data
    }
}

/// Whether the assembly was given so many candidates and one more.
fn has_candidate(assembly: &md::Assembly, candidate: usize) -> bool {
    let in_slot = assembly.slots.iter().any(|slot| match *slot {
        md::Slot::InSync { candidate: by } | md::Slot::Rebuilding { candidate: by, .. } => {
            by == candidate
        }
        md::Slot::Missing { .. } => false,
    });
    in_slot || assembly.replacement.is_some_and(|it| it.candidate == candidate)
}

fn options(shape: &Shape) -> ArrayOptions {
    ArrayOptions {
        name: "sim".to_owned(),
        block_size_bytes: u32::try_from(shape.block).unwrap(),
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    }
}
