//! Hosts of a whole target in this process, over the loopback: a script of commands that are
//! nearly right, with connections and namespaces that come and go meanwhile. The transport is
//! kept by [`mdof::initiator`], which ends a run that breaks its rules; what is bent is what the
//! commands say. Every command is answered once, and nothing is left when the hosts have gone.
//!
//! The target has threads of its own, so a run is not repeated exactly.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mdof::bdev::malloc::MallocDevice;
use mdof::bdev::{BdevId, Device};
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, Data, QueuePair};
use mdof::limits::TRANSFER_SIZE_BYTES_MAX;
use mdof::reactor::buf::BufPool;
use mdof::target::subsystem::{AnaState, NamespaceSpec, SubsystemSpec, SubsystemTable};
use mdof::wire::nvme::Sqe;
use zerocopy::{FromZeros, IntoBytes};

use super::Input;

const NQN: &str = "nqn.2026-01.io.mdof:fuzz";
const HOSTS: [&str; 2] = ["nqn.2026-01.io.mdof:host-a", "nqn.2026-01.io.mdof:host-b"];
/// More than a command moves.
const BLOCKS: u64 = 4096;
const BLOCK_BYTES: usize = 512;
const STEPS_MAX: usize = 120;
const PATIENCE: Duration = Duration::from_secs(20);

/// I/O opcodes, those that are refused among them.
const IO: [u8; 16] = [
    0x00, 0x01, 0x01, 0x02, 0x02, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x0d, 0x0e, 0x11, 0x15, 0x19, 0x04,
];

/// Admin opcodes, likewise.
const ADMIN: [u8; 12] = [0x02, 0x02, 0x06, 0x06, 0x08, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f, 0x80];

/// The target; it lives as long as the process.
struct Target {
    engine: EngineHandle,
    table: SubsystemTable,
    bdevs: Vec<BdevId>,
    address: SocketAddr,
    pool: BufPool,
    buffers_free: usize,
}

static TARGET: LazyLock<Mutex<Kept>> = LazyLock::new(|| Mutex::new(Kept(Target::start())));

/// Buffers stay on the thread that has the lock.
struct Kept(Target);

// SAFETY: pool and handles on its buffers are used by one thread at a time, that which holds the
// lock; a run gives all handles back before it lets go of it.
unsafe impl Send for Kept {}

impl Target {
    fn start() -> Self {
        // libFuzzer's own `main` leaves it as it is, and a write to a connection that the target
        // has closed would end the process without a word.
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let buffer_counts = [24, 8, 6, 2];
        let config = EngineConfig { cores: vec![0], poll_always: false, buffer_counts };
        let mut engine = EngineHandle::start(config).expect("an engine");
        let mut table = SubsystemTable::new();
        let spec = SubsystemSpec {
            allow_any_host: true,
            ana_reporting: true,
            max_namespaces: 4,
            ..SubsystemSpec::new(NQN)
        };
        table.create_subsystem(&spec).expect("a name");
        let mut bdevs = Vec::new();
        for number in 0..3 {
            let uuid = uuid::Uuid::from_u128(number + 1);
            let name = format!("m{number}");
            let bdev = MallocDevice::new(&name, uuid, 512, BLOCKS).expect("memory");
            bdevs.push(engine.add_bdev(Device::Malloc(bdev)).expect("room"));
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        table.add_listener(NQN, address).expect("a listener");
        let pool = BufPool::on_heap([256, 32, 16, 4]);
        let mut target = Self { engine, table, bdevs, address, pool, buffers_free: 0 };
        target.add_ns(1);
        target.add_ns(2);
        target.publish();
        target.engine.listen(address).expect("a port that was free");
        target.buffers_free = target.engine.reports()[0].buffers_free_bytes;
        target
    }

    fn add_ns(&mut self, nsid: u32) {
        let bdev = self.bdevs[nsid as usize - 1];
        let geometry = self.engine.geometry(bdev).expect("it is there").clone();
        let spec = NamespaceSpec { nsid: Some(nsid), ..NamespaceSpec::new(bdev, &geometry) };
        // It may be there already.
        let _ = self.table.add_ns(NQN, &spec);
    }

    fn publish(&mut self) {
        self.engine.publish(Arc::new(self.table.clone()));
    }

    /// What an operator does meanwhile.
    fn change(&mut self, input: &mut Input<'_>) {
        let (what, nsid) = (input.u8(), u32::from(input.u8() % 3) + 1);
        let states = [AnaState::Optimized, AnaState::NonOptimized, AnaState::Inaccessible];
        match what % 4 {
            0 => drop(self.table.remove_ns(NQN, nsid)),
            1 => self.add_ns(nsid),
            2 => {
                let state = states[usize::from(what >> 2) % 3];
                let _ = self.table.set_ana_state(NQN, self.address, Some(nsid), state);
            }
            _ => drop(self.table.set_ana_group(NQN, nsid, u32::from(what >> 4) % 4 + 1)),
        }
        self.publish();
    }

    /// As it was before the run.
    fn restore(&mut self) {
        for nsid in 1..=3 {
            // It may not be there.
            let _ = self.table.remove_ns(NQN, nsid);
        }
        for group in 1..=4 {
            let optimized = AnaState::Optimized;
            let _ = self.table.set_ana_state(NQN, self.address, Some(group), optimized);
        }
        self.add_ns(1);
        self.add_ns(2);
        self.publish();
    }
}

/// A queue and what it waits for.
struct Lane {
    queue: QueuePair,
    in_flight: usize,
    is_nudged: bool,
}

impl Lane {
    /// The first of a fused operation waits for what comes next: a Flush, once.
    fn nudge(&mut self) {
        if !self.is_nudged && self.queue.can_submit() {
            self.is_nudged = true;
            self.queue.submit(Sqe::new_zeroed(), Data::None, 0);
            self.in_flight += 1;
        }
    }
}

struct Host {
    client: Client,
    /// Commands of the admin queue in flight, those that may wait for ever not counted.
    admin: usize,
    events: usize,
    lanes: Vec<Lane>,
}

const EVENT_TAG: u64 = 1;

/// Runs a script.
pub fn run(data: &[u8]) {
    let mut kept = TARGET.lock().unwrap_or_else(PoisonError::into_inner);
    let target = &mut kept.0;
    let mut input = Input(data);
    let mut hosts: Vec<Host> = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(target, &mut hosts, &mut input);
    }
    let since = Instant::now();
    while hosts.iter().any(|host| host.admin > 0 || host.lanes.iter().any(|one| one.in_flight > 0))
    {
        hosts.iter_mut().flat_map(|host| &mut host.lanes).for_each(Lane::nudge);
        poll(&mut hosts);
        assert!(since.elapsed() < PATIENCE, "commands are never answered: {}", describe(&hosts));
    }
    drop(hosts);
    while !is_alone(target) {
        assert!(since.elapsed() < PATIENCE, "something is left: {:?}", target.engine.reports());
    }
    target.restore();
}

fn is_alone(target: &mut Target) -> bool {
    let reports = target.engine.reports();
    let report = &reports[0];
    report.queues.is_empty() && report.buffers_free_bytes == target.buffers_free
}

fn describe(hosts: &[Host]) -> String {
    let lanes = |host: &Host| host.lanes.iter().map(|one| one.in_flight).collect::<Vec<_>>();
    hosts.iter().map(|host| format!("admin {}, {:?}; ", host.admin, lanes(host))).collect()
}

fn step(target: &mut Target, hosts: &mut Vec<Host>, input: &mut Input<'_>) {
    if hosts.is_empty() {
        return connect(target, hosts, input);
    }
    let pool = target.pool;
    let count = hosts.len();
    let index = usize::from(input.u8()) % count;
    let host = &mut hosts[index];
    match input.u8() % 24 {
        0..=11 => io_command(host, pool, input),
        12..=16 => admin_command(host, pool, input),
        17 => target.change(input),
        18 if count < 3 => connect(target, hosts, input),
        19 => open_queue(host),
        20 if input.u8() < 100 => drop(host.lanes.pop()),
        21 if input.u8() < 60 => drop(hosts.swap_remove(index)),
        22 => poll(hosts),
        _ => std::thread::yield_now(),
    }
}

fn connect(target: &Target, hosts: &mut Vec<Host>, input: &mut Input<'_>) {
    let how = input.u8();
    let mut options = ClientOptions::new(target.address, NQN, HOSTS[usize::from(how & 1)]);
    options.header_digest = how & 2 != 0;
    options.data_digest = how & 4 != 0;
    options.limit = PATIENCE;
    let client = Client::connect(options, target.pool).expect("a target takes hosts");
    let mut host = Host { client, admin: 0, events: 0, lanes: Vec::new() };
    open_queue(&mut host);
    hosts.push(host);
}

/// Fails where a reset or a shutdown has come before, or commands are on their way that would be
/// taken for the answer.
fn open_queue(host: &mut Host) {
    let id = u16::try_from(host.lanes.len()).expect("a few") + 1;
    if id <= 3 && host.admin == 0 {
        let opened = host.client.open_io_queue(id, 16);
        host.lanes.extend(opened.map(|queue| Lane { queue, in_flight: 0, is_nudged: false }));
    }
}

/// Takes what has come. Queues that the target has closed go.
fn poll(hosts: &mut Vec<Host>) {
    for host in hosts.iter_mut() {
        host.lanes.retain_mut(|lane| {
            let is_open = lane.queue.poll().is_ok();
            while lane.queue.next_completion().is_some() {
                lane.in_flight -= 1;
            }
            is_open
        });
    }
    hosts.retain_mut(|host| {
        let is_open = host.client.admin().poll().is_ok();
        while let Some(done) = host.client.admin().next_completion() {
            match done.tag {
                EVENT_TAG => host.events -= 1,
                _ => host.admin -= 1,
            }
        }
        is_open
    });
}

/// Mostly small, sometimes none of what there is.
fn nsid(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        0..=150 => 1,
        151..=220 => 2,
        221..=240 => 3,
        241..=247 => u32::MAX,
        other => u32::from(other - 248),
    }
}

fn data(sqe: &Sqe, bytes: usize, pool: BufPool, input: &mut Input<'_>) -> Option<Data> {
    let code = if sqe.opcode == 0x7f { sqe.nsid.get().to_le_bytes()[0] } else { sqe.opcode };
    let bytes = bytes.min(TRANSFER_SIZE_BYTES_MAX);
    if code & 3 == 0 || bytes == 0 {
        return Some(Data::None);
    }
    let mut buf = pool.get(bytes)?;
    if code & 3 == 2 {
        return Some(Data::ToHost(buf));
    }
    let fill = input.u8();
    buf.as_mut_slice().fill(fill & 1);
    let head = input.take(usize::from(fill >> 2));
    let len = head.len().min(bytes);
    buf.as_mut_slice()[..len].copy_from_slice(&head[..len]);
    Some(Data::ToController(buf))
}

fn io_command(host: &mut Host, pool: BufPool, input: &mut Input<'_>) {
    let mut sqe = Sqe::new_zeroed();
    let (opcode, how) = (input.u8(), input.u8());
    sqe.opcode = if opcode < 248 { IO[usize::from(opcode) % IO.len()] } else { input.u8() };
    sqe.nsid.set(nsid(input));
    let blocks = match how & 7 {
        0..=4 => 1,
        5 => 8,
        6 => u32::from(input.u8()) + 1,
        // Now and then more than is allowed.
        _ => u32::from(input.u16() % 2100) + 1,
    };
    // Few places, so that commands meet.
    let lba = if how & 8 == 0 { u32::from(input.u8() & 7) } else { u32::from(input.u16()) };
    sqe.cdw10.set(lba);
    sqe.cdw12.set((blocks - 1) | u32::from(how >> 6) << 30);
    if matches!(sqe.opcode, 0x09 | 0x0d | 0x0e | 0x11 | 0x15) {
        sqe.cdw10.set(u32::from(input.u16() & 0x1fff));
        sqe.cdw11.set(u32::from(input.u8() & 7));
    }
    if how & 0x30 == 0x30 {
        bend(&mut sqe, input);
    }
    let bytes = match sqe.opcode {
        0x09 | 0x0e | 0x19 => 4096,
        0x0d | 0x11 => 16,
        0x15 => 8,
        _ if how & 0x30 == 0x20 => usize::from(input.u16()),
        _ => blocks as usize * BLOCK_BYTES,
    };
    let Some(lane) = pick(&mut host.lanes, input) else { return };
    // A fused Compare and Write, now and then without its second.
    let pair = if sqe.opcode == 0x05 && how & 0x10 != 0 { 2 } else { 1 };
    for part in 0..pair {
        if pair == 2 {
            (sqe.opcode, sqe.flags) = ([0x05, 0x01][part], [1, 2][part]);
            if part == 1 && input.u8() < 30 {
                return;
            }
        }
        if !lane.queue.can_submit() {
            return;
        }
        let Some(data) = data(&sqe, bytes, pool, input) else { return };
        lane.queue.submit(sqe, data, 0);
        lane.in_flight += 1;
    }
}

fn pick<'a>(lanes: &'a mut [Lane], input: &mut Input<'_>) -> Option<&'a mut Lane> {
    let count = lanes.len();
    lanes.get_mut(usize::from(input.u8()) % count.max(1))
}

/// Changes four bytes of the entry somewhere behind its command identifier.
fn bend(sqe: &mut Sqe, input: &mut Input<'_>) {
    let at = 4 + usize::from(input.u8()) % 57;
    let with = input.take(4);
    sqe.as_mut_bytes()[at..at + with.len()].copy_from_slice(with);
}

fn admin_command(host: &mut Host, pool: BufPool, input: &mut Input<'_>) {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = ADMIN[usize::from(input.u8()) % ADMIN.len()];
    let how = input.u8();
    sqe.nsid.set(if how & 1 == 0 { 0 } else { nsid(input) });
    let mut bytes = if how & 2 == 0 { 4096 } else { usize::from(input.u16() & 0x3fff) };
    match sqe.opcode {
        0x02 => {
            let dwords = u32::try_from(bytes / 4).expect("small").saturating_sub(1);
            sqe.cdw10.set(u32::from(input.u8()) | dwords << 16);
            sqe.cdw12.set(if how & 4 == 0 { 0 } else { input.u32() });
            bytes = bytes / 4 * 4;
        }
        0x06 => sqe.cdw10.set(u32::from(input.u8() & 0x3f) | u32::from(how) << 16),
        0x08 => sqe.cdw10.set(u32::from(input.u8() & 3) | u32::from(input.u8() & 15) << 16),
        0x09 | 0x0a => {
            sqe.cdw10.set(u32::from(input.u8() % 0x90) | u32::from(input.u8() & 7) << 8);
            sqe.cdw11.set(if how & 4 == 0 { u32::from(input.u16()) } else { input.u32() });
        }
        0x7f => {
            // Property Set and Get; the register is mostly CC.
            sqe.nsid.set(if how & 8 == 0 { 0 } else { 4 });
            sqe.cdw10.set(u32::from(how & 4 != 0));
            sqe.cdw11.set(if how & 16 == 0 { 0x14 } else { u32::from(input.u8()) });
            sqe.cdw12.set([0x0046_0001, 0x0046_0000, 0x0046_4001, 7][usize::from(how >> 6)]);
        }
        _ => {}
    }
    if how & 0x70 == 0x70 {
        let opcode = sqe.opcode;
        bend(&mut sqe, input);
        sqe.opcode = opcode;
    }
    // A Keep Alive Timeout that is set to little ends the host, which is right; but it takes a
    // second each.
    if sqe.opcode == 0x09 && sqe.cdw10.get() & 0xff == 0x0f {
        sqe.cdw11.set(0);
    }
    if !host.client.admin().can_submit() {
        return;
    }
    let Some(data) = data(&sqe, bytes, pool, input) else { return };
    let tag = if sqe.opcode == 0x0c { EVENT_TAG } else { 0 };
    if tag == EVENT_TAG {
        host.events += 1;
    } else {
        host.admin += 1;
    }
    host.client.admin().submit(sqe, data, tag);
}
