//! Secure channel concatenation from end to end: hosts that come in the clear, authenticate
//! themselves and come back under TLS, what is refused on the way, and how long a key opens
//! anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mdof::engine::{QueueReport, QueueState};
use mdof::initiator::{
    Client, ClientError, ClientOptions, Data, HostAuth, HostAuthError, HostConfig, QueuePair,
};
use mdof::secure::psk::{self, TlsPsk};
use mdof::secure::{ChapKey, Group, GroupSet, Hash, HashSet, Secret};
use mdof::target::subsystem::{AuthPolicy, Concat, DupHostPolicy, HostKeys, NamedKey};
use mdof::wire::fabrics::auth::{Explanation, SecureChannel};
use mdof::wire::fabrics::{ConnectCommand, ConnectData, PropertyCommand};
use mdof::wire::nvme::Status;
use zerocopy::IntoBytes;

use crate::protocol::{ends, try_connect, works};
use crate::rig::{HOST, Host, LIMIT, NQN, Rig, command, io, log};

const OTHER: &str = "nqn.2026-01.io.mdof:another";

fn key(byte: u8) -> ChapKey {
    ChapKey::new(Some(Hash::Sha256), vec![byte; 32]).unwrap()
}

/// A target whose subsystem knows one host, with a key and one of the subsystem's.
fn rig(concat: Concat) -> Rig {
    let mut rig = Rig::plain();
    rig.table.allow_any_host(NQN, false).unwrap();
    rig.table.add_host(NQN, HOST).unwrap();
    set_keys(&mut rig, 1, concat);
    rig
}

fn set_keys(rig: &mut Rig, host: u8, concat: Concat) {
    let named = |byte: u8| Some(NamedKey { name: format!("key{byte}"), key: key(byte) });
    let keys = HostKeys { dhchap: named(host), dhchap_ctrlr: named(2), psk: None, concat };
    rig.table.set_keys(NQN, HOST, keys).unwrap();
    rig.publish();
}

fn auth(controller: Option<u8>) -> HostAuth {
    let mut auth = HostAuth::new(key(1));
    auth.controller_key = controller.map(key);
    auth.groups = GroupSet::NONE.with(Group::Null).with(Group::Ffdhe2048);
    auth
}

fn options(rig: &Rig) -> ClientOptions {
    ClientOptions { auth: Some(auth(None)), concat: true, ..rig.options(HOST) }
}

/// One that comes with this key at once.
fn with_key(rig: &Rig, key: &TlsPsk) -> ClientOptions {
    ClientOptions { tls: Some(key.clone()), concat: false, ..options(rig) }
}

fn queues(rig: &mut Rig) -> Vec<QueueReport> {
    rig.engine.reports().into_iter().flat_map(|core| core.queues).collect()
}

fn refused(options: ClientOptions, rig: &Rig) -> ClientError {
    match try_connect(options, rig) {
        Err(error) => error,
        Ok(_) => panic!("it is connected"),
    }
}

fn is_told(error: &ClientError, told: Explanation) {
    let ClientError::Authentication { error, .. } = error else { panic!("{error}") };
    assert_eq!(*error, HostAuthError::Refused(Some(told)));
}

fn is_no_key(error: &ClientError) {
    assert!(matches!(error, ClientError::Tls { .. } | ClientError::Closed { .. }), "{error}");
}

fn is_invalid_host(error: &ClientError) {
    let ClientError::Status { status, .. } = error else { panic!("{error}") };
    assert!(status.is_same_code(Status::CONNECT_INVALID_HOST), "{status:?}");
}

/// Waits until the cores have seen what was closed.
fn settles(rig: &mut Rig, what: &str, is_so: impl Fn(&[QueueReport]) -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so(&queues(rig)) {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_host_comes_back_under_tls_whatever_both_agree_on() {
    let mut rig = rig(Concat::Allow);
    for (hash, controller, digests) in [
        (Hash::Sha256, None, false),
        (Hash::Sha384, None, true),
        (Hash::Sha256, Some(2), true),
        (Hash::Sha384, Some(2), false),
    ] {
        let mut own = options(&rig);
        own.auth = Some(HostAuth { hashes: HashSet::NONE.with(hash), ..auth(controller) });
        (own.header_digest, own.data_digest) = (digests, digests);
        let mut host = try_connect(own, &rig).unwrap();
        assert!(psk::is_generated(&host.client.tls_key().unwrap().identity));
        works(&mut host);
        // Those that serve are under TLS, and were not asked to prove themselves again.
        let serving = queues(&mut rig).into_iter().filter(|one| one.state == QueueState::Enabled);
        let kinds: Vec<_> = serving.map(|one| (one.tls_key, one.auth)).collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == (Some("generated"), None)));
        host.client.disconnect().unwrap();
    }
    rig.stop();
}

/// Each comes to the next core in turn, at once after it knows its key.
#[test]
fn every_core_knows_the_key_before_the_host() {
    let rig = rig(Concat::Require);
    let mut hosts: Vec<Host> = (0..9).map(|_| try_connect(options(&rig), &rig).unwrap()).collect();
    for host in &mut hosts {
        host.client.request_queues(4).unwrap();
        let mut queues: Vec<_> = (1..=3).map(|qid| host.queue(qid)).collect();
        for queue in &mut queues {
            assert_eq!(queue.plain(command(0, 1, 0, 0, 0)), Status::SUCCESS);
        }
    }
    drop(hosts);
    rig.stop();
}

#[test]
fn a_host_that_may_do_without_does() {
    let rig = rig(Concat::Allow);
    let plain = ClientOptions { concat: false, ..options(&rig) };
    works(&mut try_connect(plain, &rig).unwrap());
    rig.stop();
}

#[test]
fn what_is_not_allowed_is_a_mismatch() {
    let told = Explanation::ConcatMismatch;
    let mut rig = rig(Concat::Refuse);
    is_told(&refused(options(&rig), &rig), told);
    works(&mut try_connect(ClientOptions { concat: false, ..options(&rig) }, &rig).unwrap());
    set_keys(&mut rig, 1, Concat::Allow);
    // Diffie-Hellman is needed, and a hash function that TLS has.
    let null = GroupSet::NONE.with(Group::Null);
    let by_host = HostAuth { groups: null, ..auth(None) };
    is_told(&refused(ClientOptions { auth: Some(by_host), ..options(&rig) }, &rig), told);
    let sha512 = HostAuth { hashes: HashSet::NONE.with(Hash::Sha512), ..auth(None) };
    let error = refused(ClientOptions { auth: Some(sha512), ..options(&rig) }, &rig);
    is_told(&error, Explanation::HashNotUsable);
    // Not on an I/O queue, not under TLS for a new one, and not without TLS in place of one.
    let channel = |queue: &mut QueuePair, own: &ClientOptions, channel| {
        let pool = rig.pool;
        Client::authenticate_queue(queue, own, pool, channel).map(|_| ()).unwrap_err()
    };
    let own = options(&rig);
    let mut plain = try_connect(ClientOptions { concat: false, ..own.clone() }, &rig).unwrap();
    plain.client.request_queues(1).unwrap();
    let mut queue = plain.queue(1);
    is_told(&channel(&mut queue.pair, &own, SecureChannel::New), told);
    is_told(&channel(plain.client.admin(), &own, SecureChannel::Replace), told);
    let mut secured = try_connect(own.clone(), &rig).unwrap();
    is_told(&channel(secured.client.admin(), &own, SecureChannel::New), told);
    rig.stop();
}

fn open_in_the_clear(rig: &Rig) -> QueuePair {
    let config = HostConfig {
        header_digest: false,
        data_digest: false,
        hpda: 0,
        depth: 31,
        in_capsule_data_bytes: 8192,
    };
    QueuePair::open(rig.address, config, LIMIT).unwrap()
}

/// An admin queue in the clear, and what its Connect is answered with.
fn in_the_clear(rig: &Rig) -> (QueuePair, u64) {
    let mut queue = open_in_the_clear(rig);
    let result = connect(&mut queue, rig, 0, 0xffff).unwrap();
    (queue, result)
}

fn connect(queue: &mut QueuePair, rig: &Rig, qid: u16, cntlid: u16) -> Result<u64, Status> {
    let mut buf = rig.pool.get(1024).unwrap();
    let data = ConnectData::new(rig.options(HOST).host_id, cntlid, NQN, HOST);
    buf.as_mut_slice()[..1024].copy_from_slice(data.as_bytes());
    let sqe = ConnectCommand::new(qid, 32, false, 0).to_sqe();
    let done = queue.execute("Connect", sqe, Data::ToController(buf), LIMIT).unwrap();
    let status = done.status();
    if status.is_success() { Ok(done.cqe.result.get()) } else { Err(status) }
}

fn is_locked(queue: &mut QueuePair) {
    for sqe in [
        PropertyCommand::get(0, true).to_sqe(),
        PropertyCommand::set(0x14, 0x0046_0001).to_sqe(),
        command(0x18, 0, 0, 0, 0),
        io(0x02, 0, 1),
    ] {
        let done = queue.execute("a command", sqe, Data::None, LIMIT).unwrap();
        assert_eq!(done.status(), Status::AUTHENTICATION_REQUIRED.dnr());
    }
}

#[test]
fn where_it_is_required_nothing_is_had_in_the_clear() {
    let rig = rig(Concat::Require);
    let own = options(&rig);
    let plain = ClientOptions { concat: false, ..own.clone() };
    assert!(matches!(refused(plain.clone(), &rig), ClientError::NeedsChannel(_)));
    let (mut queue, result) = in_the_clear(&rig);
    assert_eq!(result >> 16 & 7, 4, "ASCR, and not ATR");
    is_locked(&mut queue);
    let none = SecureChannel::None;
    let error = Client::authenticate_queue(&mut queue, &plain, rig.pool, none).unwrap_err();
    is_told(&error, Explanation::ConcatMismatch);
    // A host that has made its key, and stays.
    let (mut queue, result) = in_the_clear(&rig);
    let new = SecureChannel::New;
    let key = Client::authenticate_queue(&mut queue, &own, rig.pool, new).unwrap().unwrap();
    is_locked(&mut queue);
    let clear = u16::try_from(result & 0xffff).unwrap();
    let mut host = try_connect(with_key(&rig, &key), &rig).unwrap();
    host.client.request_queues(2).unwrap();
    // No I/O queue in the clear belongs to either controller.
    for cntlid in [clear, host.client.info().cntlid] {
        let mut io_queue = open_in_the_clear(&rig);
        let status = connect(&mut io_queue, &rig, 1, cntlid).unwrap_err();
        assert!(status.is_same_code(Status::CONNECT_INVALID_HOST), "{status:?}");
    }
    works(&mut host);
    rig.stop();
}

#[test]
fn a_controller_under_tls_has_no_queue_beside_it() {
    let rig = rig(Concat::Allow);
    let mut host = try_connect(options(&rig), &rig).unwrap();
    host.client.request_queues(2).unwrap();
    let mut io_queue = open_in_the_clear(&rig);
    let status = connect(&mut io_queue, &rig, 1, host.client.info().cntlid).unwrap_err();
    assert!(status.is_same_code(Status::CONNECT_INVALID_HOST), "{status:?}");
    // A queue that has made its key does nothing else, though it need not have made one.
    let (mut queue, result) = in_the_clear(&rig);
    assert_eq!(result >> 16 & 7, 2, "ATR");
    let (own, new) = (options(&rig), SecureChannel::New);
    assert!(Client::authenticate_queue(&mut queue, &own, rig.pool, new).unwrap().is_some());
    is_locked(&mut queue);
    works(&mut host);
    rig.stop();
}

#[test]
fn a_key_opens_nothing_when_its_controller_is_gone() {
    let mut rig = rig(Concat::Allow);
    let mut host = try_connect(options(&rig), &rig).unwrap();
    let key = host.client.tls_key().unwrap().clone();
    works(&mut host);
    host.client.disconnect().unwrap();
    settles(&mut rig, "the controller stays", |queues| queues.iter().all(|one| one.tls.is_none()));
    is_no_key(&refused(with_key(&rig, &key), &rig));
    rig.stop();
}

#[test]
fn a_host_may_replace_its_key_and_the_old_one_opens_nothing() {
    let rig = rig(Concat::Require);
    for controller in [None, Some(2)] {
        let own = ClientOptions { auth: Some(auth(controller)), ..options(&rig) };
        let mut host = try_connect(own, &rig).unwrap();
        host.client.request_queues(3).unwrap();
        let mut before = host.queue(1);
        let mut old = host.client.tls_key().unwrap().clone();
        for qid in [2, 3] {
            host.client.replace_key().unwrap();
            let new = host.client.tls_key().unwrap().clone();
            assert_ne!(old.identity, new.identity);
            is_no_key(&refused(with_key(&rig, &old), &rig));
            let mut after = host.queue(qid);
            for queue in [&mut before, &mut after] {
                assert_eq!(queue.plain(command(0, 1, 0, 0, 0)), Status::SUCCESS);
            }
            old = new;
        }
        // An authentication that fails ends the queue, and the key with it.
        let mut wrong = options(&rig);
        wrong.auth = Some(HostAuth { key: key(9), ..auth(None) });
        let replace = SecureChannel::Replace;
        let admin = host.client.admin();
        let error = Client::authenticate_queue(admin, &wrong, rig.pool, replace).unwrap_err();
        is_told(&error, Explanation::Failed);
        let end = Instant::now() + LIMIT;
        while host.client.admin().poll().is_ok() {
            assert!(Instant::now() < end, "the connection is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
        is_no_key(&refused(with_key(&rig, &old), &rig));
    }
    rig.stop();
}

#[test]
fn a_host_that_doubts_the_subsystem_leaves_no_key() {
    let rig = rig(Concat::Allow);
    let own = ClientOptions { auth: Some(auth(Some(9))), ..options(&rig) };
    let error = refused(own, &rig);
    let ClientError::Authentication { error, .. } = error else { panic!("{error}") };
    assert_eq!(error, HostAuthError::WrongResponse);
    rig.stop();
}

#[test]
fn keys_are_of_one_host_and_hold_as_long_as_its_own() {
    let mut rig = rig(Concat::Allow);
    rig.table.add_host(NQN, OTHER).unwrap();
    rig.publish();
    let mut host = try_connect(options(&rig), &rig).unwrap();
    let good = host.client.tls_key().unwrap().clone();
    // As another host, under the right name with another key, and under a name that nobody has.
    let stranger = ClientOptions { host_nqn: OTHER.to_owned(), ..with_key(&rig, &good) };
    is_invalid_host(&refused(stranger, &rig));
    let wrong = TlsPsk { key: Secret::new(vec![1; 32]), ..good.clone() };
    is_no_key(&refused(with_key(&rig, &wrong), &rig));
    let party = psk::party(&good.identity).unwrap();
    let unknown = psk::generated_tls_key(good.hash, &good.key, party);
    is_no_key(&refused(with_key(&rig, &unknown), &rig));
    works(&mut host);
    // The host's own key is another one now.
    set_keys(&mut rig, 3, Concat::Allow);
    is_no_key(&refused(with_key(&rig, &good), &rig));
    assert_eq!(host.admin(command(0x18, 0, 0, 0, 0)).0, Status::SUCCESS);
    rig.stop();
}

#[test]
fn first_bytes_that_are_neither_cost_their_own_connection_only() {
    let rig = rig(Concat::Allow);
    let mut host = try_connect(options(&rig), &rig).unwrap();
    let mut noise: Vec<u8> = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    noise.extend((0..600u16).map(|n| (n * 31).to_le_bytes()[0]));
    let inputs = [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x15; 64], &[0xff; 100_000], &noise, &[]];
    for input in inputs {
        let mut stream = TcpStream::connect(rig.address).unwrap();
        // It may be gone before all of it has left.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(ends(stream));
    }
    // A first byte that the rest comes late behind, of each kind; and nothing at all.
    let half = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(rig.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let (secured, silent) = (half(&noise[..1]), half(&[]));
    let mut plain = half(&[0]);
    works(&mut host);
    let mut icreq = [0; 128];
    (icreq[2], icreq[4]) = (128, 128);
    plain.write_all(&icreq[1..]).unwrap();
    plain.set_read_timeout(Some(LIMIT)).unwrap();
    let mut icresp = [0; 128];
    plain.read_exact(&mut icresp).unwrap();
    assert_eq!(icresp[..3], [1, 0, 128]);
    drop((secured, silent));
    rig.stop();
}

/// Where no host has a key that could be made of, TLS is refused as anything that is no NVMe/TCP.
#[test]
fn tls_is_known_only_where_somebody_may_come_with_it() {
    let mut rig = rig(Concat::Allow);
    let mut host = try_connect(options(&rig), &rig).unwrap();
    let key = host.client.tls_key().unwrap().clone();
    set_keys(&mut rig, 1, Concat::Refuse);
    let error = refused(with_key(&rig, &key), &rig);
    assert!(!matches!(error, ClientError::TimedOut { .. }), "{error}");
    // What is there stays.
    assert_eq!(host.admin(command(0x18, 0, 0, 0, 0)).0, Status::SUCCESS);
    rig.stop();
}

/// The queue in the clear is not where the host has its controller.
#[test]
fn a_host_that_comes_anew_is_judged_by_what_is_under_tls() {
    for policy in [DupHostPolicy::RestrictPerListener, DupHostPolicy::ReplacePerListener] {
        let mut rig = rig(Concat::Require);
        rig.table.set_dup_host_policy(policy);
        rig.publish();
        let mut host = try_connect(options(&rig), &rig).unwrap();
        works(&mut host);
        let newer = try_connect(options(&rig), &rig);
        match policy {
            DupHostPolicy::RestrictPerListener => {
                let Err(ClientError::Status { status, .. }) = newer else { panic!("two") };
                assert!(status.is_same_code(Status::CONNECT_CONTROLLER_BUSY), "{status:?}");
                works(&mut host);
                // Its key waits for the place.
                let (mut queue, _) = in_the_clear(&rig);
                let (own, new) = (options(&rig), SecureChannel::New);
                let key = Client::authenticate_queue(&mut queue, &own, rig.pool, new).unwrap();
                drop(host);
                settles(&mut rig, "it stays", |queues| queues.iter().all(|one| one.tls.is_none()));
                works(&mut try_connect(with_key(&rig, &key.unwrap()), &rig).unwrap());
            }
            _ => works(&mut newer.unwrap()),
        }
        rig.stop();
    }
}

#[test]
fn the_discovery_log_says_what_is_required() {
    let mut rig = rig(Concat::Allow);
    rig.table.add_host(NQN, OTHER).unwrap();
    rig.publish();
    let entry = |rig: &Rig, name: &str| {
        let subsystem_nqn = "nqn.2014-08.org.nvmexpress.discovery".to_owned();
        let own = ClientOptions { subsystem_nqn, ..rig.options(name) };
        let mut host = try_connect(own, rig).unwrap();
        let page = host.admin_read(log(0x70, 2048), 2048).unwrap();
        // TREQ, and SECTYPE in TSAS.
        (page[1024 + 3], page[1024 + 768])
    };
    assert_eq!(entry(&rig, HOST), (4, 0));
    set_keys(&mut rig, 1, Concat::Require);
    assert_eq!(entry(&rig, HOST), (6, 2), "a secure channel is possible, TLS 1.3");
    assert_eq!(entry(&rig, OTHER), (4, 0));
    rig.stop();
}

#[test]
fn what_is_allowed_at_all_holds_for_keys_too() {
    let mut rig = rig(Concat::Allow);
    let policy = |hash, group| AuthPolicy {
        hashes: HashSet::NONE.with(hash),
        groups: GroupSet::NONE.with(group),
    };
    rig.table.set_auth_policy(policy(Hash::Sha384, Group::Ffdhe2048));
    rig.publish();
    let host = try_connect(options(&rig), &rig).unwrap();
    assert_eq!(host.client.tls_key().unwrap().hash, Hash::Sha384);
    rig.table.set_auth_policy(policy(Hash::Sha256, Group::Null));
    rig.publish();
    is_told(&refused(options(&rig), &rig), Explanation::ConcatMismatch);
    drop(host);
    rig.stop();
}
