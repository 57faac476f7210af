//! A target in this process and hosts that talk to it over real TCP connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mdof::bdev::{BdevId, Device, malloc::MallocDevice};
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, Data, QueuePair};
use mdof::reactor::buf::BufPool;
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use mdof::wire::nvme::{Sqe, Status};
use uuid::Uuid;
use zerocopy::FromZeros;

pub(crate) const NQN: &str = "nqn.2026-01.io.mdof:protocol";
pub(crate) const HOST: &str = "nqn.2026-01.io.mdof:host";
pub(crate) const BLOCK: usize = 512;
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The target: one subsystem, one namespace a bdev.
pub(crate) struct Rig {
    pub(crate) engine: EngineHandle,
    pub(crate) table: SubsystemTable,
    pub(crate) address: SocketAddr,
    pub(crate) pool: BufPool,
}

/// A malloc bdev of 512-byte blocks.
pub(crate) fn malloc(engine: &mut EngineHandle, name: &str, blocks: u64) -> BdevId {
    let device = MallocDevice::new(name, Uuid::new_v4(), 512, blocks).unwrap();
    engine.add_bdev(Device::Malloc(device)).unwrap()
}

pub(crate) fn free_address() -> SocketAddr {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Rig {
    /// A target on two cores, if there are two, with these bdevs exported in order.
    pub(crate) fn new(
        buffer_counts: [usize; 4],
        bdevs: impl FnOnce(&mut EngineHandle) -> Vec<BdevId>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
        let config =
            EngineConfig { cores: (0..cores).collect(), poll_always: false, buffer_counts };
        let mut engine = EngineHandle::start(config).unwrap();
        let bdevs = bdevs(&mut engine);
        let mut table = SubsystemTable::new();
        table
            .create_subsystem(&SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) })
            .unwrap();
        let address = free_address();
        table.add_listener(NQN, address).unwrap();
        let pool = BufPool::on_heap([64, 16, 16, 2]);
        let mut rig = Self { engine, table, address, pool };
        for bdev in bdevs {
            rig.add_ns(bdev);
        }
        rig.publish();
        rig.engine.listen(address).unwrap();
        rig
    }

    /// One malloc bdev of 4096 blocks.
    pub(crate) fn plain() -> Self {
        Self::new([256, 32, 16, 2], |engine| vec![malloc(engine, "m0", 4096)])
    }

    pub(crate) fn add_ns(&mut self, bdev: BdevId) -> u32 {
        let geometry = self.engine.geometry(bdev).unwrap().clone();
        self.table.add_ns(NQN, &NamespaceSpec::new(bdev, &geometry)).unwrap()
    }

    /// The bdev of a target that has one.
    pub(crate) fn only_bdev(&self) -> (BdevId, mdof::bdev::Geometry) {
        (BdevId(0), self.engine.geometry(BdevId(0)).unwrap().clone())
    }

    /// Gives the cores the table as it is now.
    pub(crate) fn publish(&mut self) {
        self.engine.publish(Arc::new(self.table.clone()));
    }

    pub(crate) fn options(&self, host: &str) -> ClientOptions {
        let mut options = ClientOptions::new(self.address, NQN, host);
        options.limit = LIMIT;
        options.host_id[..8].copy_from_slice(&host.as_bytes()[host.len() - 8..]);
        options
    }

    pub(crate) fn connect(&self, options: ClientOptions) -> Host {
        let client = Client::connect(options, self.pool).unwrap();
        Host { client, pool: self.pool }
    }

    pub(crate) fn host(&self) -> Host {
        self.connect(self.options(HOST))
    }

    pub(crate) fn stop(mut self) {
        self.engine.close_connections();
        self.engine.stop();
    }
}

/// A host with a controller.
pub(crate) struct Host {
    pub(crate) client: Client,
    pub(crate) pool: BufPool,
}

/// A command with nothing but what is named.
pub(crate) fn command(opcode: u8, nsid: u32, cdw10: u32, cdw11: u32, cdw12: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode;
    sqe.nsid.set(nsid);
    sqe.cdw10.set(cdw10);
    sqe.cdw11.set(cdw11);
    sqe.cdw12.set(cdw12);
    sqe
}

/// A command's range: its first block and number of blocks.
pub(crate) fn io(opcode: u8, lba: u32, blocks: u32) -> Sqe {
    command(opcode, 1, lba, 0, blocks - 1)
}

pub(crate) fn log(lid: u8, len: usize) -> Sqe {
    let dwords = u32::try_from(len / 4 - 1).unwrap();
    command(0x02, u32::MAX, u32::from(lid) | dwords << 16, dwords >> 16, 0)
}

impl Host {
    /// Executes an admin command: status and result.
    pub(crate) fn admin(&mut self, sqe: Sqe) -> (Status, u64) {
        let done = self.client.admin().execute("a command", sqe, Data::None, LIMIT).unwrap();
        (done.status(), done.cqe.result.get())
    }

    /// Executes an admin command that reads `len` bytes.
    pub(crate) fn admin_read(&mut self, sqe: Sqe, len: usize) -> Result<Vec<u8>, Status> {
        let buf = self.pool.get(len).unwrap();
        let done = self.client.admin().execute("a read", sqe, Data::ToHost(buf), LIMIT).unwrap();
        if done.status().is_success() {
            Ok(done.buf.unwrap().as_slice().to_vec())
        } else {
            Err(done.status())
        }
    }

    pub(crate) fn queue(&mut self, qid: u16) -> Queue {
        Queue { pair: self.client.open_io_queue(qid, 32).unwrap(), pool: self.pool }
    }
}

/// An I/O queue.
pub(crate) struct Queue {
    pub(crate) pair: QueuePair,
    pool: BufPool,
}

impl Queue {
    pub(crate) fn data_from(&self, bytes: &[u8]) -> Data {
        let mut buf = self.pool.get(bytes.len()).unwrap();
        buf.as_mut_slice().copy_from_slice(bytes);
        Data::ToController(buf)
    }

    pub(crate) fn room(&self, len: usize) -> Data {
        Data::ToHost(self.pool.get(len).unwrap())
    }

    /// A command without data.
    pub(crate) fn plain(&mut self, sqe: Sqe) -> Status {
        self.pair.execute("a command", sqe, Data::None, LIMIT).unwrap().status()
    }

    /// A command that sends data.
    pub(crate) fn send(&mut self, sqe: Sqe, bytes: &[u8]) -> Status {
        let data = self.data_from(bytes);
        self.pair.execute("a command", sqe, data, LIMIT).unwrap().status()
    }

    /// A command that gets data.
    pub(crate) fn get(&mut self, sqe: Sqe, len: usize) -> Result<Vec<u8>, Status> {
        let room = self.room(len);
        let done = self.pair.execute("a command", sqe, room, LIMIT).unwrap();
        if done.status().is_success() {
            Ok(done.buf.unwrap().as_slice().to_vec())
        } else {
            Err(done.status())
        }
    }

    pub(crate) fn write(&mut self, lba: u32, bytes: &[u8]) -> Status {
        let blocks = u32::try_from(bytes.len() / BLOCK).unwrap();
        self.send(io(0x01, lba, blocks), bytes)
    }

    pub(crate) fn read(&mut self, lba: u32, blocks: u32) -> Vec<u8> {
        self.get(io(0x02, lba, blocks), blocks as usize * BLOCK).unwrap()
    }
}
