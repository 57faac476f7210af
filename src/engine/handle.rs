//! What the control plane sees of the engine: every call blocks until all cores concerned have
//! acted, and returns a plain result.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::bdev::{BdevId, Geometry, IoStatus};

/// How the engine runs; from the configuration file.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// CPU numbers, one reactor pinned to each.
    pub cores: Vec<usize>,
    /// Never sleep in the kernel (SPDK's behaviour) instead of adaptively.
    pub poll_always: bool,
    /// Buffers of each class per core.
    pub buffer_counts: [usize; 3],
}

/// The running engine. Owned by the control thread.
#[derive(Debug)]
pub struct EngineHandle {}

#[allow(missing_docs, clippy::unused_self)]
impl EngineHandle {
    /// Starts the reactors.
    pub fn start(_config: EngineConfig) -> std::io::Result<Self> {
        unimplemented!()
    }

    /// Opens a channel of `device` on every core.
    pub fn add_bdev(&mut self, _device: crate::bdev::Device) -> BdevId {
        unimplemented!()
    }

    /// Closes the bdev's channels once their requests have ended.
    pub fn remove_bdev(&mut self, _bdev: BdevId) -> Result<(), IoStatus> {
        unimplemented!()
    }

    /// Reads blocks through the bdev's channel on the first core (control-plane use only).
    pub fn read(&mut self, _bdev: BdevId, _lba: u64, _blocks: u32) -> Result<Vec<u8>, IoStatus> {
        unimplemented!()
    }

    /// Writes blocks durably (FUA) through the bdev's channel on the first core.
    pub fn write(&mut self, _bdev: BdevId, _lba: u64, _data: &[u8]) -> Result<(), IoStatus> {
        unimplemented!()
    }

    /// Starts an assembled or newly created array; its owner and channels go to the cores.
    pub fn start_array(&mut self, _config: crate::raid::ArrayConfig) -> Result<BdevId, IoStatus> {
        unimplemented!()
    }

    /// Stops an array cleanly: in-flight requests end, bitmap and superblocks say "clean".
    pub fn stop_array(&mut self, _bdev: BdevId) -> Result<(), IoStatus> {
        unimplemented!()
    }

    /// State of an array as its owner sees it now.
    pub fn array_status(&mut self, _bdev: BdevId) -> Result<crate::raid::ArrayStatus, IoStatus> {
        unimplemented!()
    }

    /// Fixed properties of a bdev.
    pub fn geometry(&self, _bdev: BdevId) -> Option<&Geometry> {
        unimplemented!()
    }

    /// Gives every core the new table of subsystems, hosts and namespaces; connected controllers
    /// learn of changed namespaces.
    pub fn publish(&mut self, _table: Arc<crate::target::subsystem::SubsystemTable>) {
        unimplemented!()
    }

    /// Listens for NVMe/TCP connections.
    pub fn listen(&mut self, _address: SocketAddr) -> std::io::Result<()> {
        unimplemented!()
    }

    /// Stops listening; connections that exist stay.
    pub fn unlisten(&mut self, _address: SocketAddr) {
        unimplemented!()
    }

    /// Ends all connections, stops arrays cleanly and joins the reactors.
    pub fn stop(self) {
        unimplemented!()
    }
}
