//! A job on bdevs of this process: the engine without network.

pub(crate) mod setup;
mod workload;

use std::path::Path;

use mdof::bdev::BdevId;
use mdof::bitmap::ChunkState;
use mdof::control::config::Config;
use mdof::control::state_dir::StateDir;
use mdof::control::target::Target;
use mdof::control::{run, startup};
use mdof::engine::workload::Workload;
use mdof::engine::{EngineConfig, EngineError, EngineHandle};
use mdof::limits::{IO_SIZE_BYTES_MAX, PAGE_SIZE_BYTES};
use mdof::raid::ArrayStatus;
use mdof::reactor::buf::{CLASS_COUNTS, CLASS_SIZES_BYTES};
use mdof::reactor::clock;

use crate::cpu;
use crate::job::{Job, PerfError};
use crate::place::Stack;
use crate::stats::Tally;
use workload::{Fill, FillResult, LoadResult, LoadWorkload};

impl From<EngineError> for PerfError {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}

/// Requests in flight while chunks are written for the first time.
const FILL_DEPTH: u32 = 32;

/// A running engine and what was built in it.
#[derive(Debug)]
pub(crate) struct Host {
    home: Home,
    arrays: Vec<BdevId>,
    names: u32,
}

/// Who built it.
#[derive(Debug)]
enum Home {
    /// This program, for the measurement only.
    Bare(Box<EngineHandle>),
    /// The control plane, from a configuration file.
    Target(Box<Target>),
}

impl Host {
    /// An engine on `cores` (empty: the last one this process may use), with buffers for `job`.
    pub(crate) fn start(cores: &[usize], job: &Job) -> Result<Self, PerfError> {
        let engine = start_engine(cores, job)?;
        Ok(Self { home: Home::Bare(Box::new(engine)), arrays: Vec::new(), names: 0 })
    }

    /// What the target would have with this configuration, but for the network; and the bdev
    /// called `name`.
    pub(crate) fn configured(
        path: &Path,
        name: &str,
        cores: &[usize],
        job: &Job,
    ) -> Result<(Self, BdevId), PerfError> {
        let text = |error: &dyn std::fmt::Display| PerfError(error.to_string());
        let mut config = Config::load(path).map_err(|error| text(&error))?;
        config.subsystems.clear();
        let state = run::state_dir_path(None, config.target.state_dir.as_deref());
        let state = StateDir::open(&state).map_err(|error| text(&error))?;
        let cores = match (cores, &config.target.cores) {
            ([], Some(cores)) => cores.clone(),
            (cores, _) => cores_or_last(cores),
        };
        let mut target = Box::new(Target::new(start_engine(&cores, job)?, cores));
        let made = startup::apply(&mut target, &config, &state, None)
            .map_err(|error| text(&error))
            .and_then(|_| target.bdev(name).map(|bdev| bdev.id).map_err(|error| text(&error)));
        match made {
            Ok(bdev) => {
                Ok((Self { home: Home::Target(target), arrays: Vec::new(), names: 0 }, bdev))
            }
            Err(error) => {
                // The first error counts.
                let _ = target.stop();
                Err(error)
            }
        }
    }

    /// The engine, to build in it what has no text.
    pub(crate) fn engine(&mut self) -> &mut EngineHandle {
        match &mut self.home {
            Home::Bare(engine) => engine,
            Home::Target(target) => target.engine(),
        }
    }

    /// Builds `stack`. With `steady` an array's daemon does not wake: what is Dirty stays so.
    pub(crate) fn build(&mut self, stack: &Stack, steady: bool) -> Result<BdevId, PerfError> {
        self.names += 1;
        let prefix = format!("s{}", self.names);
        match stack {
            Stack::Bdev(leaf) => setup::add_leaf(self.engine(), &prefix, leaf),
            Stack::Raid { level, strip_size_bytes, members, bitmap } => {
                let plan = setup::ArrayPlan {
                    level: *level,
                    strip_size_bytes: *strip_size_bytes,
                    assume_clean: !bitmap,
                    ..setup::ArrayPlan::new(*bitmap)
                };
                let plan = if steady { plan.steady() } else { plan };
                let array = setup::add_with_members(self.engine(), &prefix, members, &plan)?;
                self.arrays.push(array);
                Ok(array)
            }
        }
    }

    /// Writes to every chunk of an array with a bitmap, so that all are Dirty, durably: a write
    /// ends only when that is so. Other bdevs are left as they are.
    pub(crate) fn dirty_all(&mut self, bdev: BdevId) -> Result<(), PerfError> {
        if !self.arrays.contains(&bdev) {
            return Ok(());
        }
        match self.status(bdev)?.chunk_size_bytes {
            0 => Ok(()),
            chunk_size_bytes => self.dirty_every(bdev, chunk_size_bytes),
        }
    }

    /// Writes a block to every page of a bdev.
    pub(crate) fn touch_all(&mut self, bdev: BdevId) -> Result<(), PerfError> {
        self.write_every(bdev, PAGE_SIZE_BYTES as u64)
    }

    fn write_every(&mut self, bdev: BdevId, stride_bytes: u64) -> Result<(), PerfError> {
        let geometry = self.engine().geometry(bdev).expect("it was built here");
        let (blocks, block_size_bytes) = (geometry.blocks, geometry.block_size_bytes);
        let stride = stride_bytes / u64::from(block_size_bytes);
        let fill = Fill::new(bdev, block_size_bytes, blocks, stride, FILL_DEPTH);
        for result in self.engine().run_workloads(vec![(0, Box::new(fill))]) {
            let FillResult(result) = *result.downcast().expect("what Fill gives back");
            result?;
        }
        Ok(())
    }

    /// Writes once every so many bytes to an array, and checks that this has made all Dirty.
    pub(crate) fn dirty_every(&mut self, bdev: BdevId, stride_bytes: u64) -> Result<(), PerfError> {
        self.write_every(bdev, stride_bytes)?;
        let histogram = self.status(bdev)?.histogram;
        let dirty = histogram[ChunkState::Dirty as usize];
        let all: u64 = histogram.iter().sum();
        if dirty != all {
            return Err(PerfError(format!(
                "only {dirty} of {all} chunks are Dirty after every one was written (states \
                 {histogram:?}); the comparison would mean nothing"
            )));
        }
        Ok(())
    }

    /// How an array is now.
    pub(crate) fn status(&mut self, array: BdevId) -> Result<ArrayStatus, PerfError> {
        self.engine()
            .array_status(array)
            .map_err(|status| PerfError(format!("the array does not say how it is: {status:?}")))
    }

    /// Measures `job` on a bdev, from every core at once: a tally for each.
    pub(crate) fn run(&mut self, bdev: BdevId, job: &Job) -> Result<Vec<Tally>, PerfError> {
        let geometry = self.engine().geometry(bdev).expect("it was built here");
        let extent = job.extent(geometry.blocks, geometry.block_size_bytes)?;
        let cores = self.engine().cores();
        let lanes = u32::try_from(cores).expect("bounded by CORES_MAX");
        let now_ns = clock::now_ns();
        let workload = |(core, lane)| {
            let load = job.load(extent, (lane, lanes), now_ns).with_cpu_clock(cpu::thread_time_ns);
            let workload: Box<dyn Workload> =
                Box::new(LoadWorkload::new(bdev, load, job.block_size_bytes));
            (core, workload)
        };
        let workloads = (0..cores).zip(0..).map(workload).collect();
        let results = self.engine().run_workloads(workloads).into_iter().map(|result| {
            let LoadResult(result) = *result.downcast().expect("what LoadWorkload gives back");
            result
        });
        results.collect()
    }

    /// Runs a program on one core and gives back what it found.
    pub(crate) fn run_program<R: 'static>(&mut self, core: usize, program: Box<dyn Workload>) -> R {
        let result = self.engine().run_workloads(vec![(core, program)]).pop();
        *result.expect("it was one").downcast().expect("what the program gives back")
    }

    /// Takes away an array that was added by hand, and its members with what lies below them, if
    /// they are named in that order.
    pub(crate) fn remove(&mut self, array: BdevId, below: &[BdevId]) -> Result<(), PerfError> {
        self.engine().stop_array(array).map_err(|status| {
            PerfError(format!("the measured array could not be stopped: {status:?}"))
        })?;
        below.iter().for_each(|bdev| self.engine().remove_bdev(*bdev));
        Ok(())
    }

    /// Stops the arrays and the engine.
    pub(crate) fn stop(self) -> Result<(), PerfError> {
        let mut engine = match self.home {
            Home::Bare(engine) => *engine,
            Home::Target(target) => {
                return target.stop().map_err(|unclean| PerfError(unclean.to_string()));
            }
        };
        for array in self.arrays {
            engine.stop_array(array).map_err(|status| {
                PerfError(format!("the measured array could not be stopped: {status:?}"))
            })?;
        }
        engine.stop();
        Ok(())
    }
}

fn cores_or_last(cores: &[usize]) -> Vec<usize> {
    match cores {
        [] => vec![cpu::usable().last().copied().unwrap_or(0)],
        cores => cores.to_vec(),
    }
}

fn start_engine(cores: &[usize], job: &Job) -> Result<EngineHandle, PerfError> {
    let io_bytes = job.block_size_bytes as usize;
    if io_bytes > IO_SIZE_BYTES_MAX {
        return Err(PerfError(format!(
            "a block size of {io_bytes} is possible over the network only, where the target makes \
             several requests of it; a bdev takes {IO_SIZE_BYTES_MAX} bytes at most"
        )));
    }
    let class = CLASS_SIZES_BYTES.iter().position(|size| *size >= io_bytes);
    let mut buffer_counts = CLASS_COUNTS;
    buffer_counts[class.expect("Job::check")] += usize::from(job.queue_depth);
    let cores = cores_or_last(cores);
    Ok(EngineHandle::start(EngineConfig { cores, poll_always: true, buffer_counts })?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pattern::{Access, Direction};
    use crate::place::Place;
    use crate::stats::Outcome;

    fn job(rw: Access) -> Job {
        Job {
            rw,
            warm_up: Duration::from_millis(5),
            time: Duration::from_millis(40),
            ..Job::default()
        }
    }

    fn stack(text: &str) -> Stack {
        match Place::parse(text).unwrap() {
            Place::InProcess(stack) => stack,
            Place::NvmeTcp(_) => panic!("{text} is on the network"),
        }
    }

    /// Runs `job` on `text` and returns what it measured.
    fn outcome(text: &str, job: &Job) -> Outcome {
        let mut host = Host::start(&[], job).unwrap();
        let bdev = host.build(&stack(text), false).unwrap();
        let tallies = host.run(bdev, job).unwrap();
        host.stop().unwrap();
        Outcome::new(&tallies, job.block_size_bytes)
    }

    #[test]
    fn every_stack_is_measured() {
        for text in ["null:64m", "malloc:8m", "raid1:null:64m,null:64m"] {
            let mixed = outcome(text, &job(Access::RandRw));
            assert!(mixed.read.unwrap().ios > 0 && mixed.write.unwrap().ios > 0, "{text}");
            assert!(mixed.total.latency_ns.max > 0, "{text}");
        }
        let reads = outcome("raid1-nobitmap:malloc:8m,malloc:8m", &job(Access::Read));
        assert!(reads.read.unwrap().ios > 0 && reads.write.is_none());
    }

    #[test]
    fn all_chunks_are_dirty_and_stay_so() {
        let job = job(Access::RandWrite);
        let mut host = Host::start(&[], &job).unwrap();
        let array = host.build(&stack("raid1:null:256m,null:256m"), true).unwrap();
        host.dirty_all(array).unwrap();
        let before = host.engine().array_status(array).unwrap();
        assert!(host.run(array, &job).unwrap()[0].ios(Direction::Write) > 0);
        let after = host.engine().array_status(array).unwrap();
        assert_eq!(before.histogram, after.histogram);
        assert_eq!(before.bitmap_writes, after.bitmap_writes, "no write needed the bitmap");
        host.stop().unwrap();
    }

    #[test]
    fn a_configuration_is_built_without_its_network() {
        let dir = std::env::temp_dir().join(format!("mdof-perf-config-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("perf.toml");
        let text = format!(
            "[target]\nstate_dir = {dir:?}\n\
             [[bdev]]\nname = \"a\"\nkind = \"null\"\nsize_mib = 64\n\
             [[bdev]]\nname = \"b\"\nkind = \"malloc\"\nsize_mib = 64\n\
             [[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n\
             [[subsystem]]\nnqn = \"nqn.2026-01.io.mdof:x\"\nlisten = [\"192.0.2.1:4420\"]\n\
             namespaces = [{{ bdev = \"r\" }}]\n"
        );
        std::fs::write(&path, text).unwrap();
        let job = job(Access::RandWrite);
        let missing = Host::configured(&path, "nope", &[], &job).unwrap_err().to_string();
        let (mut host, bdev) = Host::configured(&path, "r", &[], &job).unwrap();
        let tallies = host.run(bdev, &job).unwrap();
        host.stop().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(missing.contains("nope"), "{missing}");
        assert!(tallies[0].ios(Direction::Write) > 0);
    }

    /// An array's place in the engine's table is given to the next one, while its timers run on.
    #[test]
    fn a_timer_of_an_array_that_is_gone_meets_no_other() {
        let job = Job { time: Duration::from_millis(1300), ..job(Access::RandWrite) };
        let mut host = Host::start(&[], &job).unwrap();
        let leaf = crate::place::Leaf::Null { size_bytes: 64 << 20 };
        let members = ["a", "b"].map(|name| setup::add_leaf(host.engine(), name, &leaf).unwrap());
        let mut plan = setup::ArrayPlan { daemon_sleep_s: 1, ..setup::ArrayPlan::new(true) };
        let gone = setup::add_array(host.engine(), "gone", &members, &plan).unwrap();
        host.remove(gone, &[]).unwrap();
        plan.bitmap = false;
        let next = setup::add_array(host.engine(), "next", &members, &plan).unwrap();
        assert_eq!(gone, next);
        assert!(host.run(next, &job).unwrap()[0].ios(Direction::Write) > 0);
        host.remove(next, &[]).unwrap();
        host.stop().unwrap();
    }

    /// A command may move 1 MiB, what the target asks a bdev for 128 KiB.
    #[test]
    fn a_block_larger_than_a_bdev_takes_is_refused() {
        let job = Job { block_size_bytes: 1 << 20, ..job(Access::Read) };
        let refusal = Host::start(&[], &job).unwrap_err().to_string();
        assert!(refusal.contains("131072"), "{refusal}");
    }

    #[test]
    fn a_job_that_does_not_fit_is_refused() {
        let job = Job { block_size_bytes: 1000, ..job(Access::Read) };
        let mut host = Host::start(&[], &job).unwrap();
        let bdev = host.build(&stack("null:1m"), false).unwrap();
        assert!(host.run(bdev, &job).unwrap_err().to_string().contains("not a multiple"));
        host.stop().unwrap();
    }
}
