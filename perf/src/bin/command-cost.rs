//! Instructions that the target spends on a 4 KiB read or write over NVMe/TCP, counted by
//! callgrind: null, malloc and RAID1 bdevs, at queue depth 1 and 32 on 4 and on 256 connections.
//!
//! This program drives a target of one core that runs in a process of its own under callgrind: the
//! engine as it is shipped, with its ring and real sockets. Instructions of turns that found no
//! work are taken off; those of the kernel are not counted.

#[path = "command-cost/callgrind.rs"]
mod callgrind;
#[path = "command-cost/lanes.rs"]
mod lanes;
#[path = "../loopback.rs"]
mod loopback;
#[path = "command-cost/served.rs"]
mod served;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use mdof::reactor::buf::BufPool;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use lanes::{Lanes, Work};
use served::NAMESPACES;

/// What was promised.
const RATIO_MAX: f64 = 1.2;

const DEPTHS: [u16; 2] = [1, 32];
const DEPTH_MAX: u16 = 32;

/// Commands that are counted at least, and for each in flight: the first and the last of them
/// have fewer beside them.
const COMMANDS_MIN: u64 = 20_000;
const COMMANDS_PER_PLACE: u64 = 8;

/// Commands before these, for each in flight.
const WARM_UPS_PER_PLACE: u64 = 2;

/// How long the target is left without work to see what a turn without work takes.
const IDLE_TIME: Duration = Duration::from_millis(500);
const IDLE_TURNS_MIN: f64 = 3000.0;
const IDLE_TRIES: u32 = 200;
const IDLE_AGREED: usize = 3;
const IDLE_SPREAD_MAX: f64 = 0.005;

/// What is called once a turn, twice in one with timers. The core's own count is read a moment too
/// early or too late: callgrind lets threads take turns.
const TURN: &str = "as mdof::reactor::core::Program>::on_turn";

/// Connections: hosts, queues of each; and of those that do nothing.
const FEW: (usize, u16) = (1, 4);
const MANY: (usize, u16) = (2, 128);
const IDLE: (usize, u16) = (8, 125);

const USAGE: &str = "usage: command-cost [--quick]; needs valgrind";

/// The target under callgrind.
struct Target {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    dir: PathBuf,
    dumps: u32,
}

/// Turns of the core, and those with work.
#[derive(Debug, Clone, Copy)]
struct Turns {
    all: f64,
    busy: f64,
}

impl Target {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("mdof-command-cost-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a place for what callgrind says");
        let mut child = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--fair-sched=try"])
            .arg(format!("--callgrind-out-file={}", dir.join("out").display()))
            .arg(std::env::current_exe().expect("the own program"))
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("valgrind runs");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the target says where it is");
        let address = line.trim().parse().expect("the target runs and says where it is");
        let input = child.stdin.take();
        Self { child, input, output, address, dir, dumps: 0 }
    }

    /// Tells the target something; the turns with work so far.
    fn ask(&mut self, what: &str) -> f64 {
        let mut input = self.input.as_ref().expect("it runs");
        writeln!(input, "{what}").expect("the target listens");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the target answers");
        line.trim().parse().expect("a number")
    }

    /// Instructions while `work` was done, and the turns meanwhile.
    fn count(&mut self, work: impl FnOnce()) -> (f64, Turns) {
        let busy_before = self.ask("zero");
        work();
        let busy = self.ask("dump") - busy_before;
        self.dumps += 1;
        let path = self.dir.join(format!("out.{}", self.dumps));
        let (instructions, all) = callgrind::read(&path, TURN).expect("callgrind has written it");
        std::fs::remove_file(path).expect("it was read");
        (instructions, Turns { all, busy })
    }

    /// Instructions of a turn without work, once several looks agree: connections that have just
    /// come or left are still seen to, and a thread of the engine may still begin.
    fn idle(&mut self) -> f64 {
        let mut agreed: Vec<f64> = Vec::new();
        for _ in 0..IDLE_TRIES {
            let (instructions, turns) = self.count(|| std::thread::sleep(IDLE_TIME));
            if turns.busy > 0.0 || turns.all < IDLE_TURNS_MIN {
                continue;
            }
            let turn = instructions / turns.all;
            let differs = |other: &f64| (other - turn).abs() > IDLE_SPREAD_MAX * turn;
            if agreed.iter().any(differs) {
                agreed.clear();
            }
            agreed.push(turn);
            if agreed.len() == IDLE_AGREED {
                return agreed[0];
            }
        }
        panic!("the target has work although nobody uses it");
    }

    fn end(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it was started");
        std::fs::remove_dir_all(&self.dir).expect("what was made is taken away");
        assert!(status.success(), "the target failed: {status}");
    }
}

/// Figures of all works with one set of connections.
struct Column {
    /// Instructions of a turn without work.
    idle: f64,
    /// Instructions of a command.
    cells: Vec<(Work, f64)>,
}

impl Column {
    fn measure(target: &mut Target, lanes: &mut Lanes, works: &[Work], share: u64) -> Self {
        let idle = target.idle();
        let cell = |work: &Work| {
            let places = lanes.connections() as u64 * u64::from(work.depth);
            let count = COMMANDS_MIN.max(COMMANDS_PER_PLACE * places) / share;
            // A connection that has never waited for a buffer makes room to wait, once.
            lanes.run(work, (count / 4).max(WARM_UPS_PER_PLACE * places));
            let (instructions, turns) = target.count(|| lanes.run(work, count));
            let idle_turns = turns.all - turns.busy;
            (*work, (instructions - idle_turns * idle) / count as f64)
        };
        Self { idle, cells: works.iter().map(cell).collect() }
    }

    fn of(&self, nsid: u32, is_write: bool, depth: u16) -> f64 {
        let is_it = |work: &Work| (work.nsid, work.is_write, work.depth) == (nsid, is_write, depth);
        self.cells.iter().find(|(work, _)| is_it(work)).expect("it was counted").1
    }
}

fn works(nsids: u32) -> Vec<Work> {
    let mut all = Vec::new();
    for nsid in 1..=nsids {
        for is_write in [false, true] {
            all.extend(DEPTHS.map(|depth| Work { nsid, is_write, depth }));
        }
    }
    all
}

/// Prints both columns and returns the greatest ratio.
fn compare(few: &Column, other: &Column, what: &str) -> f64 {
    println!(
        "{:<18}{:<7}{:>6}{:>17}{what:>25}{:>8}",
        "bdev", "", "depth", "4 connections", "ratio"
    );
    let mut greatest = 0.0f64;
    for (work, cost) in &other.cells {
        let base = few.of(work.nsid, work.is_write, work.depth);
        let ratio = cost / base;
        greatest = greatest.max(ratio);
        println!(
            "{:<18}{:<7}{:>6}{base:>17.0}{cost:>25.0}{ratio:>8.3}",
            NAMESPACES[work.nsid as usize - 1],
            if work.is_write { "write" } else { "read" },
            work.depth,
        );
    }
    let kept = if greatest <= RATIO_MAX { "kept" } else { "NOT KEPT" };
    println!("promised: at most {RATIO_MAX}: {greatest:.3}: {kept}\n");
    greatest
}

fn main() {
    let mut args = std::env::args().skip(1);
    let share = match args.next().as_deref() {
        None => 1,
        Some("serve") => return served::serve(),
        Some("--quick") => 4,
        Some(_) => panic!("{USAGE}"),
    };
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, all).expect("up to the hard limit");
    let places = MANY.0 * usize::from(MANY.1) * usize::from(DEPTH_MAX);
    let pool = BufPool::on_heap([places + 64, 64, 0, 0]);
    let mut target = Target::start();
    let address = target.address;
    let connect = |connections| Lanes::connect(address, connections, DEPTH_MAX, pool);

    let mut lanes = connect(FEW);
    let few = Column::measure(&mut target, &mut lanes, &works(4), share);
    let idle = connect(IDLE);
    let crowd = Column::measure(&mut target, &mut lanes, &works(1), share);
    drop(idle);
    drop(lanes);
    let mut lanes = connect(MANY);
    let many = Column::measure(&mut target, &mut lanes, &works(4), share);
    drop(lanes);
    target.end();

    println!("Instructions of the target's process a command of 4 KiB, without turns");
    println!("that found no work.\n");
    compare(&few, &many, "256 connections");
    compare(&few, &crowd, "4, 1000 idle beside");
    println!(
        "a turn without work: {:.0} with 4 connections, {:.0} with 1000 idle ones besides, {:.0} \
         with 256",
        few.idle, crowd.idle, many.idle
    );
    for (column, what) in [(&few, "4 connections"), (&many, "256 connections")] {
        for depth in DEPTHS {
            let added = column.of(4, true, depth) - column.of(3, true, depth);
            println!("the bitmap adds to a write, depth {depth}, {what}: {added:.1}");
        }
    }
}
