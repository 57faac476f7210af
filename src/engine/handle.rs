//! What the control plane sees of the engine: every call blocks until all cores concerned have
//! acted, and returns a plain result. For what takes as long as a device does see
//! [`super::endings`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::auth_worker;
use super::endings::{Endings, IoFault};
use super::kernel_tls;
use super::listen;
use super::message::{Answer, Ask, Message};
use super::report::CoreReport;
use super::shard::Shard;
use super::workload::Workload;
use crate::bdev::{BdevId, Device, Geometry, IoOp, IoStatus};
use crate::limits::{BDEVS_MAX, IO_SIZE_BYTES_MAX};
use crate::observe::counter::CoreCounters;
use crate::raid::{
    self, ArrayConfig, ArrayEvent, ArrayStatus, Command, GrowthWish, Knobs, Outcome,
};
use crate::reactor::buf::CLASS_SIZES_BYTES;
use crate::reactor::dma::prefer_hugepages;
use crate::reactor::idle::IdlePolicy;
use crate::reactor::mesh::{self, Port, RING_MESSAGES};
use crate::reactor::{self, ReactorConfig, StartError};
use crate::target::subsystem::SubsystemTable;
use uuid::Uuid;

/// Events that are kept until they are asked for.
const EVENTS_MAX: usize = 1024;

/// How long a core may take to answer before the operator is told that it has not.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a request of the control plane to a bdev is waited for, if nobody says otherwise.
const IO_PATIENCE: Duration = Duration::from_secs(10);

/// How the engine runs; from the configuration file.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// CPU numbers, one reactor pinned to each.
    pub cores: Vec<usize>,
    /// Never sleep in the kernel (SPDK's behaviour) instead of adaptively.
    pub poll_always: bool,
    /// Buffers of each class per core.
    pub buffer_counts: [usize; CLASS_SIZES_BYTES.len()],
}

/// Why the engine could not do something. Each text is a whole sentence.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A core could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A core refused.
    #[error("{0}")]
    Refused(String),
    /// A request to a bdev failed.
    #[error("{what} failed: {status:?}")]
    Io {
        /// What was tried.
        what: String,
        /// How it ended.
        status: IoStatus,
    },
    /// The table of bdevs is full.
    #[error("there are {BDEVS_MAX} bdevs already, which is the limit")]
    TooManyBdevs,
}

/// What the handle remembers of a bdev.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) geometry: Geometry,
    /// Core that owns it, for an array.
    pub(super) owner_core: Option<usize>,
}

/// The running engine. Owned by the control thread.
#[derive(Debug)]
pub struct EngineHandle {
    pub(super) port: Port<Message>,
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<CoreCounters>>,
    bdevs: Vec<Option<Known>>,
    /// What cores have told that nobody has asked for yet.
    events: VecDeque<(BdevId, ArrayEvent)>,
    /// Programs under way, and what those gave back that are finished.
    programs: usize,
    finished: Vec<Box<dyn std::any::Any + Send>>,
    pub(super) endings: Endings,
    pub(super) io_patience: Duration,
}

impl EngineHandle {
    /// Starts the reactors.
    ///
    /// # Errors
    /// A sentence for the operator. Nothing runs then.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        assert!(!config.cores.is_empty(), "a target has at least one core");
        let mut ports = mesh::mesh(config.cores.len(), RING_MESSAGES)
            .map_err(|source| EngineError::Os { what: "creating eventfds".to_owned(), source })?;
        let port = ports.pop().expect("the control endpoint is the last");
        let mut handle = Self {
            port,
            threads: Vec::new(),
            counters: Vec::new(),
            bdevs: (0..BDEVS_MAX).map(|_| None).collect(),
            events: VecDeque::new(),
            programs: 0,
            finished: Vec::new(),
            endings: Endings::default(),
            io_patience: IO_PATIENCE,
        };
        let desks = auth_worker::start(config.cores.len());
        let kernel_tls = kernel_tls::look();
        for ((&cpu, port), desk) in config.cores.iter().zip(ports).zip(desks) {
            let reactor = ReactorConfig {
                cpu: Some(cpu),
                idle: IdlePolicy { poll_always: config.poll_always, ..IdlePolicy::default() },
                buffer_counts: config.buffer_counts,
            };
            let counters = Arc::new(CoreCounters::default());
            match reactor::spawn(reactor, port, counters.clone(), move |_| {
                Shard::new(desk, kernel_tls)
            }) {
                Ok(thread) => handle.threads.push(thread),
                Err(error) => {
                    handle.exit();
                    return Err(error.into());
                }
            }
            handle.counters.push(counters);
        }
        Ok(handle)
    }

    /// Number of cores.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.threads.len()
    }

    /// What each core has done.
    #[must_use]
    pub fn counters(&self) -> &[Arc<CoreCounters>] {
        &self.counters
    }

    pub(super) fn ask(&mut self, core: usize, ask: Ask) {
        self.port.post(core, Message::Ask(Box::new(ask)));
    }

    /// The next answer of a core. A core that takes long is reported, and waited for.
    fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.answer_in(PATIENCE) {
                return answer;
            }
            // A panic on a reactor aborts the process, so the thread is there.
            tracing::warn!(
                "a core has not answered for {} s: a bdev may be stuck. Waiting on",
                PATIENCE.as_secs()
            );
        }
    }

    /// The next answer of a core, if there is one in this time. Programs end at any time.
    pub(super) fn answer_in(&mut self, patience: Duration) -> Option<Answer> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (from, message) = self.port.receive_blocking(left)?;
            if let Some(answer) = self.sort(from, message) {
                return Some(answer);
            }
        }
    }

    /// Keeps what is told without being asked for; what is left answers a question.
    pub(super) fn sort(&mut self, from: usize, message: Message) -> Option<Answer> {
        match message {
            Message::Event(bdev, event) => self.note(bdev, event),
            Message::Ended(ended) => self.endings.note(ended),
            Message::Answer(answer) => match *answer {
                Answer::Finished(result) => self.finished.push(result),
                answer => return Some(answer),
            },
            message => unreachable!("core {from} sent {message:?} to the control plane"),
        }
        None
    }

    /// Keeps an event until it is asked for; of too many the last ones.
    fn note(&mut self, bdev: BdevId, event: ArrayEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((bdev, event));
    }

    /// What has happened to arrays since the last call, oldest first.
    pub fn take_events(&mut self) -> Vec<(BdevId, ArrayEvent)> {
        self.take_told();
        self.events.drain(..).collect()
    }

    pub(super) fn ask_one(&mut self, core: usize, ask: Ask) -> Answer {
        self.ask(core, ask);
        self.answer()
    }

    /// Asks every core the same and waits for all; the first failure counts.
    pub(super) fn ask_all(&mut self, mut make: impl FnMut() -> Ask) -> Result<(), EngineError> {
        for core in 0..self.cores() {
            self.ask(core, make());
        }
        let mut result = Ok(());
        for _ in 0..self.cores() {
            match self.answer() {
                Answer::Done => {}
                Answer::Failed(text) => result = Err(EngineError::Refused(text)),
                answer => unreachable!("{answer:?} answers nothing that all cores are asked"),
            }
        }
        result
    }

    fn new_bdev(&mut self, known: Known) -> Result<BdevId, EngineError> {
        let free = self.bdevs.iter().position(Option::is_none);
        let index = free.ok_or(EngineError::TooManyBdevs)?;
        self.bdevs[index] = Some(known);
        Ok(BdevId(u16::try_from(index).expect("bounded by BDEVS_MAX")))
    }

    pub(super) fn known(&self, bdev: BdevId) -> Option<&Known> {
        self.bdevs[usize::from(bdev.0)].as_ref()
    }

    /// Opens a channel of `device` on every core.
    ///
    /// # Errors
    /// If a core can't open it, or there are too many bdevs.
    pub fn add_bdev(&mut self, device: Device) -> Result<BdevId, EngineError> {
        let bdev =
            self.new_bdev(Known { geometry: device.geometry().clone(), owner_core: None })?;
        if let Err(error) = self.ask_all(|| Ask::OpenDevice(bdev, device.clone())) {
            self.remove_bdev(bdev);
            return Err(error);
        }
        Ok(bdev)
    }

    pub(super) fn forget_bdev(&mut self, bdev: BdevId) {
        self.bdevs[usize::from(bdev.0)] = None;
    }

    /// How long a request of the control plane to a bdev is waited for.
    pub fn set_io_patience(&mut self, patience: Duration) {
        self.io_patience = patience;
    }

    /// Reads blocks through the bdev's channel on the first core (control-plane use only).
    ///
    /// # Errors
    /// If the bdev fails the read, or does not answer.
    pub fn read(&mut self, bdev: BdevId, lba: u64, blocks: u32) -> Result<Vec<u8>, IoFault> {
        let gone = IoFault::Status(IoStatus::Removed);
        let block = self.known(bdev).ok_or(gone)?.geometry.block_size_bytes;
        let per_request = u32::try_from(IO_SIZE_BYTES_MAX).expect("a small constant") / block;
        let mut data = Vec::with_capacity(blocks as usize * block as usize);
        let mut done = 0;
        while done < blocks {
            let piece = (blocks - done).min(per_request);
            let room = vec![0; piece as usize * block as usize];
            data.extend(self.io(bdev, (IoOp::Read, lba + u64::from(done), piece), &room)?);
            done += piece;
        }
        Ok(data)
    }

    /// Writes blocks durably (FUA) through the bdev's channel on the first core.
    ///
    /// # Errors
    /// If the bdev fails the write, or does not answer: it may do it at any time then.
    ///
    /// # Panics
    /// If the data are not whole blocks.
    pub fn write(&mut self, bdev: BdevId, lba: u64, data: &[u8]) -> Result<(), IoFault> {
        let known = self.known(bdev).ok_or(IoFault::Status(IoStatus::Removed))?;
        let block = known.geometry.block_size_bytes as usize;
        assert!(data.len().is_multiple_of(block), "data must be whole blocks");
        let mut lba = lba;
        for piece in data.chunks(IO_SIZE_BYTES_MAX) {
            let blocks = u32::try_from(piece.len() / block).expect("a piece fits a buffer");
            self.io(bdev, (IoOp::Write, lba, blocks), piece)?;
            lba += u64::from(blocks);
        }
        Ok(())
    }

    /// Starts an assembled or newly created array; its owner and channels go to the cores. When
    /// this returns the members durably say that the array is in use.
    ///
    /// # Errors
    /// A sentence for the operator; nothing of the array is left on the cores then.
    pub fn start_array(&mut self, config: ArrayConfig) -> Result<BdevId, EngineError> {
        let owner = usize::from(config.owner_core);
        assert!(owner < self.cores(), "the owner is one of the cores");
        let geometry = self.array_geometry(&config);
        let bdev = self.new_bdev(Known { geometry, owner_core: Some(owner) })?;
        let shared = match raid::prepare_in(&config, bdev, &prefer_hugepages) {
            Ok(shared) => shared,
            Err(text) => {
                self.bdevs[usize::from(bdev.0)] = None;
                return Err(EngineError::Refused(text));
            }
        };
        let known = self.bdevs[usize::from(bdev.0)].as_mut().expect("just made");
        known.geometry.blocks = shared.blocks;
        // A row where there are strips: a write of all of it reads nothing.
        let row = shared.geometry.full_stripe_blocks().unwrap_or(0);
        known.geometry.optimal_io_blocks = u32::try_from(row).unwrap_or(0);
        known.geometry.io_boundary_blocks = known.geometry.optimal_io_blocks;
        if let raid::geometry::Geometry::Parity(_) = shared.geometry {
            // Less than a strip reads before it writes, and md says the same (io_min).
            let strip = shared.geometry.strip_blocks().unwrap_or(0);
            known.geometry.write_unit_blocks = u32::try_from(strip).unwrap_or(0);
        }
        let config = Arc::new(config);
        let (c, s) = (config.clone(), shared.clone());
        let opened = self.ask_all(|| Ask::OpenArray { bdev, config: c.clone(), shared: s.clone() });
        if opened.is_err() {
            self.remove_bdev(bdev);
        }
        opened?;
        let name = config.name.clone();
        let error = match self.ask_one(owner, Ask::StartArray { bdev, config, shared }) {
            Answer::Array(Ok(())) => return Ok(bdev),
            Answer::Array(Err(status)) => {
                let what = format!("array {name}: writing its metadata to the members");
                EngineError::Io { what, status }
            }
            Answer::Failed(text) => EngineError::Refused(text),
            answer => unreachable!("{answer:?} does not answer the start of an array"),
        };
        self.remove_bdev(bdev);
        Err(error)
    }

    fn array_geometry(&self, config: &ArrayConfig) -> Geometry {
        let first = config.members.iter().flatten().next();
        let uuid = first.map_or(Uuid::nil(), |one| Uuid::from_bytes(one.superblock.set_uuid));
        let mut geometry = Geometry {
            name: config.name.clone(),
            product_name: "Raid Volume",
            uuid,
            block_size_bytes: config.block_size_bytes,
            blocks: 0,
            optimal_io_blocks: 0,
            io_boundary_blocks: 0,
            write_unit_blocks: 0,
            unmap_unit_blocks: 0,
            volatile_write_cache: false,
            // With a bitmap the array knows by itself what reads as zeroes; without, members that
            // can't free space are written with zeroes.
            unmap: matches!(config.bitmap, raid::BitmapConfig::Lockless { .. }),
            cheap_zeroes: false,
        };
        for member in config.members.iter().flatten() {
            let Some(Known { geometry: known, .. }) = self.known(member.bdev) else { continue };
            geometry.volatile_write_cache |= known.volatile_write_cache;
            geometry.unmap |= known.unmap;
        }
        geometry
    }

    /// State of an array as its owner sees it now.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn array_status(&mut self, bdev: BdevId) -> Result<ArrayStatus, IoStatus> {
        let owner = self.known(bdev).and_then(|known| known.owner_core);
        match self.ask_one(owner.ok_or(IoStatus::Removed)?, Ask::ArrayStatus(bdev)) {
            Answer::Status(status) => Ok(*status),
            Answer::Failed(_) => Err(IoStatus::Removed),
            answer => unreachable!("{answer:?} does not answer the state of an array"),
        }
    }

    /// Sets what can be set of a running array's bitmap.
    ///
    /// # Errors
    /// If there is no such array, it has no bitmap, or a value is out of bounds.
    pub fn set_knobs(&mut self, bdev: BdevId, knobs: Knobs) -> Result<(), EngineError> {
        let gone = || EngineError::Refused("the array is not there".to_owned());
        let owner = self.known(bdev).and_then(|known| known.owner_core).ok_or_else(gone)?;
        match self.ask_one(owner, Ask::SetKnobs(bdev, knobs)) {
            Answer::Done => Ok(()),
            Answer::Failed(text) => Err(EngineError::Refused(text)),
            answer => unreachable!("{answer:?} does not answer new settings"),
        }
    }

    /// Has an array do something about its members.
    ///
    /// # Errors
    /// If there is no such array, or it refuses.
    pub fn command(&mut self, bdev: BdevId, command: Command) -> Result<Outcome, EngineError> {
        let gone = || EngineError::Refused("the array is not there".to_owned());
        let owner = self.known(bdev).and_then(|known| known.owner_core).ok_or_else(gone)?;
        match self.ask_one(owner, Ask::Command(bdev, command)) {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Failed(text) => Err(EngineError::Refused(text)),
            answer => unreachable!("{answer:?} does not answer a command"),
        }
    }

    /// Has an array take all of its members, which are so large now, in sectors by slot. It serves
    /// meanwhile. Returns the blocks that it will have when its status says that it does not grow
    /// any more; [`Self::set_blocks`] is for then.
    ///
    /// # Errors
    /// If there is no such array, or it refuses.
    pub fn grow_array(
        &mut self,
        bdev: BdevId,
        device_sectors: Vec<u64>,
    ) -> Result<u64, EngineError> {
        let gone = || EngineError::Refused("the array is not there".to_owned());
        let owner = self.known(bdev).and_then(|known| known.owner_core).ok_or_else(gone)?;
        let wish = GrowthWish { device_sectors, advise: prefer_hugepages };
        match self.ask_one(owner, Ask::GrowArray(bdev, wish)) {
            Answer::Grows(result) => result.map_err(EngineError::Refused),
            answer => unreachable!("{answer:?} does not answer a growth"),
        }
    }

    /// The bdev is as large as `device` says from now on, on every core.
    pub fn resize_bdev(&mut self, bdev: BdevId, device: &Device) {
        self.ask_all(|| Ask::ResizeDevice(bdev, device.clone())).expect("a size is never refused");
        self.set_blocks(bdev, device.geometry().blocks);
    }

    /// The bdev is so large from now on: an array that has grown, or a filter whose base has
    /// another size.
    pub fn set_blocks(&mut self, bdev: BdevId, blocks: u64) {
        if let Some(known) = self.bdevs[usize::from(bdev.0)].as_mut() {
            known.geometry.blocks = blocks;
        }
    }

    /// Fixed properties of a bdev.
    #[must_use]
    pub fn geometry(&self, bdev: BdevId) -> Option<&Geometry> {
        self.bdevs[usize::from(bdev.0)].as_ref().map(|known| &known.geometry)
    }

    /// Gives every core the new table of subsystems, hosts and namespaces; connected controllers
    /// learn of changed namespaces.
    pub fn publish(&mut self, table: Arc<SubsystemTable>) {
        self.ask_all(|| Ask::Publish(table.clone())).expect("a table is never refused");
    }

    /// Listens for NVMe/TCP connections.
    ///
    /// # Errors
    /// The kernel's, such as "address in use".
    pub fn listen(&mut self, address: SocketAddr) -> std::io::Result<()> {
        let listener = listen::bind(address)?;
        match self.ask_one(0, Ask::Listen(listener, address)) {
            Answer::Done => Ok(()),
            answer => unreachable!("{answer:?} does not answer a listen"),
        }
    }

    /// Stops listening; connections that exist stay.
    pub fn unlisten(&mut self, address: SocketAddr) {
        let answer = self.ask_one(0, Ask::Unlisten(address));
        assert!(matches!(answer, Answer::Done), "{answer:?} does not answer an unlisten");
    }

    /// What each core tells of its connections and controllers.
    pub fn reports(&mut self) -> Vec<CoreReport> {
        let cores = self.cores();
        let report = |core| match self.ask_one(core, Ask::Report) {
            Answer::Report(report) => *report,
            answer => unreachable!("{answer:?} is no report"),
        };
        (0..cores).map(report).collect()
    }

    /// Runs programs, each on its core, until all are finished; returns what each gave back, in
    /// the order in which they finished.
    pub fn run_workloads(
        &mut self,
        workloads: Vec<(usize, Box<dyn Workload>)>,
    ) -> Vec<Box<dyn std::any::Any + Send>> {
        self.begin_workloads(workloads);
        self.end_workloads()
    }

    /// Begins to run programs, each on its core and one a core at a time.
    pub fn begin_workloads(&mut self, workloads: Vec<(usize, Box<dyn Workload>)>) {
        self.programs += workloads.len();
        for (core, workload) in workloads {
            self.ask(core, Ask::Run(workload));
        }
    }

    /// Waits until all programs are finished; returns what each gave back.
    pub fn end_workloads(&mut self) -> Vec<Box<dyn std::any::Any + Send>> {
        while self.finished.len() < self.programs {
            if let Some((from, message)) = self.port.receive_blocking(PATIENCE) {
                let answer = self.sort(from, message);
                assert!(answer.is_none(), "{answer:?} does not end a program");
            }
        }
        self.programs = 0;
        std::mem::take(&mut self.finished)
    }

    /// Ends all connections and joins the reactors. Arrays are to be stopped before.
    pub fn stop(mut self) {
        self.close_connections();
        self.exit();
    }

    fn exit(&mut self) {
        for core in 0..self.threads.len() {
            let answer = self.ask_one(core, Ask::Exit);
            assert!(matches!(answer, Answer::Done), "{answer:?} does not answer an exit");
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("a reactor does not panic");
        }
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
