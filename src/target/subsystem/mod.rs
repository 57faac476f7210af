//! Names: NQNs, hosts, namespaces.
//!
//! Control owns a [`SubsystemTable`], changes a copy of it and publishes the copy as an `Arc` to
//! all cores. A published table never changes: the data path reads it without a lock, and a
//! connection keeps the [`Subsystem`] it was admitted to until it is given the newer one.

pub mod nqn;
pub mod table;

pub use nqn::{Nqn, NqnError};
pub use table::{
    Namespace, NamespaceSpec, Subsystem, SubsystemKind, SubsystemSpec, SubsystemTable, TableError,
};
