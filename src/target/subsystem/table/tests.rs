#![allow(clippy::unwrap_used)] // A test may panic.

use super::*;
use crate::target::subsystem::Views;

const NQN: &str = "nqn.2026-11.org.example:one";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:8b3e9e0e-6a5f-4a5e-9f0d-4a2f3a6f9b11";

fn geometry(block_size_bytes: u32) -> Geometry {
    Geometry {
        name: "m0".to_owned(),
        product_name: "Malloc disk",
        uuid: Uuid::from_u128(7),
        block_size_bytes,
        blocks: 1000,
        optimal_io_blocks: 0,
        io_boundary_blocks: 0,
        write_unit_blocks: 0,
        unmap_unit_blocks: 0,
        volatile_write_cache: true,
        unmap: true,
        cheap_zeroes: true,
    }
}

fn spec(geometry: &Geometry, bdev: u16, nsid: Option<u32>) -> NamespaceSpec<'_> {
    NamespaceSpec { nsid, bdev: BdevId(bdev), geometry, uuid: None, nguid: None, eui64: None }
}

fn table() -> SubsystemTable {
    let mut table = SubsystemTable::new();
    table.create_subsystem(&SubsystemSpec::new(NQN)).unwrap();
    table
}

fn only(table: &SubsystemTable) -> &Arc<Subsystem> {
    table.find(&Nqn::parse(NQN).unwrap()).unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn discovery_is_always_there_and_stays() {
    let mut table = SubsystemTable::new();
    assert_eq!(table.find(&Nqn::discovery()).unwrap().kind(), SubsystemKind::Discovery);
    let name = Nqn::discovery();
    assert_eq!(table.delete_subsystem(name.as_str()), Err(TableError::Discovery));
    assert_eq!(table.allow_any_host(name.as_str(), false), Err(TableError::Discovery));
    let geometry = geometry(512);
    assert_eq!(table.add_ns(name.as_str(), &spec(&geometry, 0, None)), Err(TableError::Discovery));
    assert_eq!(
        table.create_subsystem(&SubsystemSpec::new(name.as_str())),
        Err(TableError::SubsystemExists(name.to_string()))
    );
    table.add_listener(name.as_str(), address("127.0.0.1:8009")).unwrap();
}

#[test]
fn lowest_free_nsid_is_given() {
    let mut table = table();
    let geometry = geometry(4096);
    assert_eq!(table.add_ns(NQN, &spec(&geometry, 0, None)), Ok(1));
    assert_eq!(table.add_ns(NQN, &spec(&geometry, 1, Some(3))), Ok(3));
    assert_eq!(table.add_ns(NQN, &spec(&geometry, 2, None)), Ok(2));
    assert_eq!(table.add_ns(NQN, &spec(&geometry, 3, None)), Ok(4));
    table.remove_ns(NQN, 2).unwrap();
    assert!(only(&table).namespace(2).is_none());
    assert_eq!(table.add_ns(NQN, &spec(&geometry, 4, None)), Ok(2));
    let namespace = only(&table).namespace(2).unwrap();
    assert_eq!((namespace.bdev, namespace.block_size_bytes()), (BdevId(4), 4096));
    assert_eq!(namespace.uuid, geometry.uuid);
    assert_eq!(table.exported_as(BdevId(4)), Some((&Nqn::parse(NQN).unwrap(), 2)));
    assert_eq!(table.exported_as(BdevId(2)), None, "removed");
}

#[test]
fn bad_namespaces_are_refused_and_nothing_changes() {
    let mut table = table();
    let good = geometry(512);
    table.add_ns(NQN, &spec(&good, 0, Some(5))).unwrap();
    let before = table.clone();
    let nqn = NQN.to_owned();
    for (bdev, nsid, error) in [
        (1, Some(5), TableError::NamespaceExists { nqn: nqn.clone(), nsid: 5 }),
        (1, Some(0), TableError::BadNsid { nsid: 0, max: 32 }),
        (1, Some(33), TableError::BadNsid { nsid: 33, max: 32 }),
        (0, None, TableError::BdevInUse { bdev: "m0".to_owned(), nqn: nqn.clone(), nsid: 5 }),
    ] {
        assert_eq!(table.add_ns(NQN, &spec(&good, bdev, nsid)), Err(error));
    }
    let odd = geometry(520);
    assert!(matches!(
        table.add_ns(NQN, &spec(&odd, 1, None)),
        Err(TableError::BadBlockSize { bytes: 520, .. })
    ));
    for nsid in [0, 1, 33, u32::MAX] {
        assert_eq!(
            table.remove_ns(NQN, nsid),
            Err(TableError::NoNamespace { nqn: nqn.clone(), nsid })
        );
        assert!(only(&table).namespace(nsid).is_none());
    }
    assert_eq!(table, before);
}

#[test]
fn namespaces_and_subsystems_have_limits() {
    let mut table = SubsystemTable::new();
    let small = SubsystemSpec { max_namespaces: 1, ..SubsystemSpec::new(NQN) };
    table.create_subsystem(&small).unwrap();
    let geometry = geometry(512);
    table.add_ns(NQN, &spec(&geometry, 0, None)).unwrap();
    assert!(matches!(
        table.add_ns(NQN, &spec(&geometry, 1, None)),
        Err(TableError::NamespacesFull { max: 1, .. })
    ));
    for index in 1..SUBSYSTEMS_MAX {
        let name = format!("nqn.2026-11.org.example:{index:03}");
        table.create_subsystem(&SubsystemSpec::new(&name)).unwrap();
    }
    assert_eq!(
        table.create_subsystem(&SubsystemSpec::new("nqn.2026-11.org.example:last")),
        Err(TableError::TooManySubsystems)
    );
    assert!(table.subsystems().is_sorted_by_key(|subsystem| subsystem.nqn().to_string()));
}

#[test]
fn bad_subsystems_are_refused() {
    let mut table = table();
    let base = SubsystemSpec::new("nqn.2026-11.org.example:two");
    let long = "x".repeat(41);
    for bad in [
        SubsystemSpec { nqn: "two", ..base.clone() },
        SubsystemSpec { nqn: NQN, ..base.clone() },
        SubsystemSpec { serial: "", ..base.clone() },
        SubsystemSpec { serial: &long[..21], ..base.clone() },
        SubsystemSpec { serial: "tab\t", ..base.clone() },
        SubsystemSpec { model: &long, ..base.clone() },
        SubsystemSpec { max_namespaces: 0, ..base.clone() },
        SubsystemSpec { max_namespaces: u32::MAX, ..base.clone() },
        SubsystemSpec { min_cntlid: 0, ..base.clone() },
        SubsystemSpec { min_cntlid: 9, max_cntlid: 8, ..base.clone() },
        SubsystemSpec { max_cntlid: 0xfff0, ..base.clone() },
    ] {
        assert!(table.create_subsystem(&bad).is_err(), "{bad:?}");
    }
    assert_eq!(table.subsystems().len(), 2);
}

#[test]
fn hosts_and_listeners() {
    let mut table = table();
    let host = Nqn::parse(HOST).unwrap();
    let at = address("192.0.2.1:4420");
    assert!(!only(&table).allows(&host));
    assert!(!only(&table).listens_on(at));
    let generation = table.generation();
    table.add_host(NQN, HOST).unwrap();
    table.add_listener(NQN, at).unwrap();
    assert!(table.generation() > generation, "the discovery log changed");
    assert!(only(&table).allows(&host));
    assert!(only(&table).listens_on(at));
    assert!(only(&table).listens_on(address("[::ffff:192.0.2.1]:4420")));
    assert!(!only(&table).listens_on(address("192.0.2.2:4420")));
    assert!(!only(&table).listens_on(address("192.0.2.1:4421")));
    assert!(matches!(table.add_host(NQN, HOST), Err(TableError::HostExists { .. })));
    assert!(matches!(table.add_listener(NQN, at), Err(TableError::ListenerExists { .. })));
    assert!(matches!(table.add_host(NQN, "me"), Err(TableError::BadNqn { .. })));
    table.remove_host(NQN, HOST).unwrap();
    table.remove_listener(NQN, at).unwrap();
    assert!(matches!(table.remove_host(NQN, HOST), Err(TableError::NoHost { .. })));
    assert!(matches!(table.remove_listener(NQN, at), Err(TableError::NoListener { .. })));
    table.allow_any_host(NQN, true).unwrap();
    assert!(only(&table).allows(&host));
    table.add_listener(NQN, address("0.0.0.0:4420")).unwrap();
    assert!(only(&table).listens_on(at));
    assert!(!only(&table).listens_on(address("[2001:db8::1]:4420")));
    table.add_listener(NQN, address("[::]:4420")).unwrap();
    assert!(only(&table).listens_on(address("[2001:db8::1]:4420")));
}

#[test]
fn published_tables_do_not_change() {
    let mut table = table();
    let published = Arc::clone(only(&table));
    table.allow_any_host(NQN, true).unwrap();
    assert!(!published.allow_any_host());
    assert!(table.find_uid(published.uid()).unwrap().allow_any_host());
    table.delete_subsystem(NQN).unwrap();
    table.create_subsystem(&SubsystemSpec::new(NQN)).unwrap();
    assert!(table.find_uid(published.uid()).is_none(), "a new subsystem of the same name");
    let gone = "nqn.2026-11.org.example:gone";
    assert_eq!(table.delete_subsystem(gone), Err(TableError::NoSubsystem(gone.to_owned())));
}

#[test]
fn views_are_shared_and_have_no_copy_of_who_else_there_is() {
    let mut table = table();
    let geometry = geometry(512);
    table.add_ns(NQN, &spec(&geometry, 0, None)).unwrap();
    for port in ["192.0.2.1:4420", "192.0.2.1:4421"] {
        table.add_listener(NQN, address(port)).unwrap();
    }
    let hosts = ["nqn.2026-11.org.example:a", "nqn.2026-11.org.example:b"];
    hosts.iter().for_each(|host| table.add_host(NQN, host).unwrap());
    let [a, b] = hosts.map(|host| Nqn::parse(host).unwrap());
    let (first, second) = (address("192.0.2.1:4420"), address("192.0.2.1:4421"));
    let mut views = Views::default();
    let whole = only(&table);
    assert!(Arc::ptr_eq(&views.of(whole, &a, first), whole), "all see the same");
    table.mask_ns(NQN, 1).unwrap();
    table.show_ns(NQN, 1, hosts[0]).unwrap();
    let (whole, mut views) = (only(&table), Views::default());
    let seen = views.of(whole, &a, first);
    assert_eq!(*seen, *whole.seen_by(&a, first));
    assert!(Arc::ptr_eq(&seen, &views.of(whole, &a, first)), "another queue of the host");
    assert!(!Arc::ptr_eq(&seen, &views.of(whole, &a, second)), "another path");
    assert!(views.of(whole, &b, first).namespace(1).is_none() && seen.namespace(1).is_some());
    assert!(std::ptr::eq(seen.hosts(), whole.hosts()), "of 1024 hosts there is one list");
    assert!(std::ptr::eq(seen.mask(1).unwrap(), whole.mask(1).unwrap()));
    // Who has the old table keeps it as it was.
    let kept = whole.clone();
    table.hide_ns(NQN, 1, hosts[0]).unwrap();
    table.remove_host(NQN, hosts[1]).unwrap();
    assert_eq!((kept.mask(1).unwrap().len(), kept.hosts().len()), (1, 2));
    assert_eq!((only(&table).mask(1).unwrap().len(), only(&table).hosts().len()), (0, 1));
}
