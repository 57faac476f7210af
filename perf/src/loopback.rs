//! A listener of an engine in this process, for programs of `bin`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use mdof::engine::EngineHandle;
use mdof::target::subsystem::SubsystemTable;

/// Has the engine serve the table, with a listener for this subsystem at a free port of the
/// loopback.
///
/// # Panics
/// If there is no port, or no such subsystem.
pub(crate) fn serve(engine: &mut EngineHandle, mut table: SubsystemTable, nqn: &str) -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    table.add_listener(nqn, address).expect("a listener");
    engine.publish(Arc::new(table));
    engine.listen(address).expect("a port that was free");
    address
}
