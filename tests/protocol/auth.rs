//! DH-HMAC-CHAP over real connections: who gets in, who does not, and what they can do before.

use std::time::{Duration, Instant};

use mdof::engine::QueueState;
use mdof::initiator::{
    Client, ClientError, ClientOptions, Data, HostAuth, HostAuthError, HostConfig, QueuePair,
};
use mdof::reactor::buf::BufPool;
use mdof::secure::{ChapKey, Group, GroupSet, Hash, HashSet};
use mdof::target::subsystem::{AuthPolicy, HostKeys, NamedKey};
use mdof::wire::fabrics::auth::{AuthCommand, Explanation, SecureChannel};
use mdof::wire::fabrics::{ConnectCommand, ConnectData, PropertyCommand};
use mdof::wire::nvme::Status;
use zerocopy::IntoBytes;

use crate::rig::{BLOCK, HOST, Host, LIMIT, NQN, Rig, command, io};

fn key(byte: u8) -> ChapKey {
    ChapKey::new(Some(Hash::Sha256), vec![byte; 32]).unwrap()
}

/// A target whose subsystem knows one host, with these keys.
fn rig(host: Option<u8>, controller: Option<u8>) -> Rig {
    let mut rig = Rig::plain();
    rig.table.add_host(NQN, HOST).unwrap();
    rig.table.allow_any_host(NQN, false).unwrap();
    set_keys(&mut rig, host, controller);
    rig
}

fn set_keys(rig: &mut Rig, host: Option<u8>, controller: Option<u8>) {
    let named = |byte: u8| NamedKey { name: format!("key{byte}"), key: key(byte) };
    let keys = HostKeys {
        dhchap: host.map(named),
        dhchap_ctrlr: controller.map(named),
        ..HostKeys::default()
    };
    rig.table.set_keys(NQN, HOST, keys).unwrap();
    rig.publish();
}

fn auth(host: u8, controller: Option<u8>) -> HostAuth {
    let mut auth = HostAuth::new(key(host));
    auth.controller_key = controller.map(key);
    auth.groups = GroupSet::NONE.with(Group::Ffdhe2048);
    auth
}

fn connect(rig: &Rig, auth: Option<HostAuth>) -> Result<Host, ClientError> {
    let mut options = rig.options(HOST);
    options.auth = auth;
    Ok(Host { client: Client::connect(options, rig.pool)?, pool: rig.pool })
}

fn works(host: &mut Host) {
    host.client.request_queues(1).unwrap();
    let mut queue = host.queue(1);
    let data = vec![7; 8 * BLOCK];
    assert_eq!(queue.write(3, &data), Status::SUCCESS);
    assert_eq!(queue.read(3, 8), data);
}

#[test]
fn one_way_and_two_way_on_admin_and_io_queues() {
    let mut rig = rig(Some(1), Some(2));
    for controller in [None, Some(2)] {
        let mut host = connect(&rig, Some(auth(1, controller))).unwrap();
        works(&mut host);
        let reports = rig.engine.reports();
        let mut queues = reports.iter().flat_map(|core| &core.queues);
        let admin = queues.find(|one| matches!(one.queue, Some((_, 0)))).unwrap();
        let agreed = ("completed", Hash::Sha512, Group::Ffdhe2048);
        assert_eq!((admin.auth, admin.state), (Some(agreed), QueueState::Enabled));
        host.client.disconnect().unwrap();
    }
    rig.stop();
}

#[test]
fn every_hash_and_group() {
    let rig = rig(Some(1), Some(2));
    for group in Group::ALL {
        for hash in Hash::ALL {
            let mut both = auth(1, Some(2));
            both.hashes = HashSet::NONE.with(hash);
            both.groups = GroupSet::NONE.with(group);
            connect(&rig, Some(both)).unwrap().client.disconnect().unwrap();
        }
    }
    rig.stop();
}

fn refusal(result: Result<Host, ClientError>) -> HostAuthError {
    match result {
        Err(ClientError::Authentication { error, .. }) => error,
        other => panic!("{:?}", other.map(|host| host.client)),
    }
}

#[test]
fn who_does_not_prove_itself_is_refused() {
    let mut rig = rig(Some(1), Some(2));
    let failed = HostAuthError::Refused(Some(Explanation::Failed));
    assert_eq!(refusal(connect(&rig, Some(auth(9, None)))), failed);
    assert_eq!(refusal(connect(&rig, Some(auth(1, Some(9))))), HostAuthError::WrongResponse);
    assert!(matches!(connect(&rig, None), Err(ClientError::NoKey(_))));
    rig.table.set_auth_policy(AuthPolicy {
        hashes: HashSet::ALL,
        groups: GroupSet::NONE.with(Group::Ffdhe3072),
    });
    rig.publish();
    let told = HostAuthError::Refused(Some(Explanation::GroupNotUsable));
    assert_eq!(refusal(connect(&rig, Some(auth(1, None)))), told);
    // A host without a key needs none, and a host that wants proof gets none from it.
    set_keys(&mut rig, None, None);
    works(&mut connect(&rig, None).unwrap());
    let asked = connect(&rig, Some(auth(1, Some(2))));
    assert!(matches!(asked, Err(ClientError::NotAsked(_))));
    rig.stop();
}

/// A queue that is connected, and has not authenticated itself.
pub(crate) fn locked(rig: &Rig) -> QueuePair {
    let config = HostConfig {
        header_digest: false,
        data_digest: false,
        hpda: 0,
        depth: 31,
        in_capsule_data_bytes: 8192,
    };
    let mut queue = QueuePair::open(rig.address, config, LIMIT).unwrap();
    let mut buf = rig.pool.get(1024).unwrap();
    let data = ConnectData::new(rig.options(HOST).host_id, 0xffff, NQN, HOST);
    buf.as_mut_slice()[..1024].copy_from_slice(data.as_bytes());
    let sqe = ConnectCommand::new(0, 32, false, 0).to_sqe();
    let done = queue.execute("Connect", sqe, Data::ToController(buf), LIMIT).unwrap();
    assert!(done.status().is_success());
    assert_eq!(done.cqe.result.get() >> 16 & 7, 2, "ATR is set");
    queue
}

#[test]
fn nothing_but_authentication_before_it() {
    let rig = rig(Some(1), None);
    let mut queue = locked(&rig);
    let required = Status::AUTHENTICATION_REQUIRED.dnr();
    let mut plain = |sqe| {
        let none = Data::None;
        queue.execute("a command", sqe, none, LIMIT).unwrap().status()
    };
    assert_eq!(plain(PropertyCommand::get(0, true).to_sqe()), required);
    assert_eq!(plain(PropertyCommand::set(0x14, 0x0046_0001).to_sqe()), required);
    assert_eq!(plain(command(0x18, 0, 0, 0, 0)), required);
    assert_eq!(plain(io(0x02, 0, 1)), required);
    // Malformed authentication commands.
    let invalid = Status::INVALID_FIELD.dnr();
    assert_eq!(plain(AuthCommand::send(0).to_sqe()), invalid);
    let room = |len| Data::ToHost(rig.pool.get(len).unwrap());
    let mut receive = |command: AuthCommand, len| {
        queue.execute("Receive", command.to_sqe(), room(len), LIMIT).unwrap().status()
    };
    assert_eq!(receive(AuthCommand::receive(512), 1024), invalid);
    assert_eq!(receive(AuthCommand::receive(8192), 8192), invalid);
    let other = AuthCommand { secp: 1, ..AuthCommand::receive(4096) };
    assert_eq!(receive(other, 4096), invalid);
    // There is nothing to receive yet.
    let early = receive(AuthCommand::receive(4096), 4096);
    assert_eq!(early, Status::COMMAND_SEQUENCE_ERROR.dnr());
    drop(queue);
    rig.stop();
}

/// The buffer of an Authentication Receive may have been another host's.
#[test]
fn what_lies_behind_a_message_is_zeroed() {
    let rig = rig(Some(1), None);
    let mut queue = locked(&rig);
    let negotiate = [0u8, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1];
    let mut message = [0; 72];
    message[..negotiate.len()].copy_from_slice(&negotiate);
    let mut buf = rig.pool.get(72).unwrap();
    buf.as_mut_slice()[..72].copy_from_slice(&message);
    let data = Data::ToController(buf);
    assert!(
        queue
            .execute("s", AuthCommand::send(72).to_sqe(), data, LIMIT)
            .unwrap()
            .status()
            .is_success()
    );
    let mut room = rig.pool.get(4096).unwrap();
    room.as_mut_slice().fill(0xaa);
    let data = Data::ToHost(room);
    let done = queue.execute("r", AuthCommand::receive(4096).to_sqe(), data, LIMIT).unwrap();
    let buf = done.buf.unwrap();
    let challenge = buf.as_slice();
    assert_eq!(challenge[..12], [1, 1, 0, 0, 1, 0, 32, 0, 1, 0, 0, 0]);
    assert!(challenge[16..48].iter().any(|&byte| byte != 0));
    assert!(challenge[48..4096].iter().all(|&byte| byte == 0));
    drop(queue);
    rig.stop();
}

#[test]
fn a_queue_that_failed_is_closed() {
    let rig = rig(Some(1), None);
    let mut queue = locked(&rig);
    let client_auth = auth(9, None);
    let options = ClientOptions { auth: Some(client_auth), ..rig.options(HOST) };
    let refused = Client::authenticate_queue(&mut queue, &options, rig.pool, SecureChannel::None);
    assert!(matches!(refused, Err(ClientError::Authentication { .. })));
    let end = Instant::now() + LIMIT;
    while queue.poll().is_ok() {
        assert!(Instant::now() < end, "the connection is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
    rig.stop();
}

#[test]
fn authentication_anew_while_io_goes_on() {
    let mut rig = rig(Some(1), Some(2));
    let mut host = connect(&rig, Some(auth(1, Some(2)))).unwrap();
    host.client.request_queues(1).unwrap();
    let mut queue = host.queue(1);
    assert_eq!(queue.write(0, &[1; BLOCK]), Status::SUCCESS);
    host.client.authenticate(&mut queue.pair).unwrap();
    assert_eq!(queue.write(0, &[2; BLOCK]), Status::SUCCESS);
    host.client.authenticate_admin().unwrap();
    assert_eq!(queue.read(0, 1), [2; BLOCK]);
    // With other keys the next authentication fails, and the queue with it.
    set_keys(&mut rig, Some(3), Some(2));
    assert_eq!(queue.read(0, 1), [2; BLOCK]);
    assert!(host.client.authenticate(&mut queue.pair).is_err());
    let status = queue.pair.execute("a read", io(0x02, 0, 1), queue.room(BLOCK), LIMIT);
    assert!(status.map_or(true, |done| !done.status().is_success()));
    rig.stop();
}

/// The largest group costs many milliseconds of arithmetic; others must not wait for it.
#[test]
fn arithmetic_does_not_stop_other_connections() {
    let mut rig = rig(Some(1), None);
    let other = "nqn.2026-01.io.mdof:other";
    rig.table.add_host(NQN, other).unwrap();
    rig.publish();
    let mut host = rig.connect(rig.options(other));
    host.client.request_queues(1).unwrap();
    let mut queue = host.queue(1);
    let mut slow = auth(1, None);
    slow.groups = GroupSet::NONE.with(Group::Ffdhe8192);
    let options = ClientOptions { auth: Some(slow), ..rig.options(HOST) };
    let busy = std::thread::spawn(move || {
        let pool = BufPool::on_heap([16, 4, 2, 0]);
        for _ in 0..5 {
            Client::connect(options.clone(), pool).unwrap().disconnect().unwrap();
        }
    });
    let mut reads = 0;
    while !busy.is_finished() {
        assert_eq!(queue.read(0, 1).len(), BLOCK);
        reads += 1;
    }
    busy.join().unwrap();
    assert!(reads > 5, "{reads} reads beside 5 authentications");
    rig.stop();
}
