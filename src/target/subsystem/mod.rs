//! Names: NQNs, hosts, namespaces.
//!
//! Control owns a [`SubsystemTable`], changes a copy of it and publishes the copy as an `Arc` to
//! all cores. A published table never changes: the data path reads it without a lock, and a
//! connection keeps the [`Subsystem`] it was admitted to until it is given the newer one.

mod duplicates;
mod entry;
mod error;
mod keys;
mod nqn;
mod paths;
mod table;
mod view;

pub use duplicates::{DupHostPolicy, HostPlace};
pub use entry::{Namespace, NamespaceKey, Persistence, Subsystem, SubsystemKind};
pub use error::{CNTLID_MAX, HOSTS_MAX, LISTENERS_MAX, TableError};
pub use keys::{AllowedHost, AuthPolicy, Concat, HostKeys, NamedKey};
pub use nqn::{Nqn, NqnError};
pub use paths::Referral;
pub use table::{NamespaceSpec, SubsystemSpec, SubsystemTable};
pub use view::{AnaState, Views};
