//! Names: NQNs, hosts, namespaces.

/// (skeleton, the subsystem station replaces it)
#[derive(Debug, Default)]
pub struct SubsystemTable {}
