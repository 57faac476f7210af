//! A host whose authentication makes a key for TLS hears of its success when all cores know the
//! key: it may come with it to any of them at once.

use std::net::{TcpListener, TcpStream};

use zerocopy::{FromZeros, IntoBytes};

use super::super::auth_worker;
use super::super::message::Message;
use super::*;
use crate::initiator::auth::{HostAuth, HostAuthenticator};
use crate::reactor::CoreIo;
use crate::reactor::buf::BufPool;
use crate::reactor::mesh::{self, Port, RING_MESSAGES};
use crate::secure::{ChapKey, GroupSet, dh, random};
use crate::target::auth::{Made, Work};
use crate::target::controller::{IoQueueGrant, Traffic};
use crate::target::subsystem::{HostKeys, NamedKey, SubsystemSpec, SubsystemTable};
use crate::target::tcp::RequestState;
use crate::wire::nvme::opcode;

const HOST: &str = "nqn.2026-11.org.example:host";
const SUBSYSTEM: &str = "nqn.2026-11.org.example:subsystem";
const CORES: usize = 3;

/// The cores of a target, whose messages the test carries.
struct Rig {
    cores: Vec<(Shard, ShardCore)>,
    _control: Port<Message>,
    _peer: TcpStream,
    /// The host's connection, to core 0.
    index: u16,
}

fn keys() -> Arc<HostKeys> {
    let key = ChapKey::new(Some(Hash::Sha256), vec![1; 32]).unwrap();
    let dhchap = Some(NamedKey { name: "host".to_owned(), key });
    Arc::new(HostKeys { dhchap, ..HostKeys::default() })
}

/// An authentication that is to make a key: the host's reply is there, and its check is work.
fn awaiting_check() -> (Authenticator, Work) {
    let terms = AuthTerms {
        hostnqn: Nqn::parse(HOST).unwrap(),
        subnqn: Nqn::parse(SUBSYSTEM).unwrap(),
        keys: keys(),
        policy: Default::default(),
        channel: Channel::Allowed,
    };
    let mut own = Authenticator::new(terms.clone(), 0);
    let mut wants = HostAuth::new(ChapKey::new(Some(Hash::Sha256), vec![1; 32]).unwrap());
    wants.groups = GroupSet::NONE.with(Group::Ffdhe2048);
    wants.channel = SecureChannel::New;
    let mut host = HostAuthenticator::new(wants, HOST, SUBSYSTEM, 0x1234);
    let Some(Work::Challenge { hash, group }) = own.send(host.message(), Some(terms), 0) else {
        panic!("no challenge is to be made");
    };
    let challenge = random(hash.len_bytes());
    own.challenge_made(Made { challenge, seqnum: 7, keys: Some(dh::generate(group)) });
    let Receive::Message(challenge) = own.receive(4096) else { panic!("no challenge") };
    host.received(&challenge).unwrap();
    let work = own.send(host.message(), None, 0).unwrap();
    (own, work)
}

/// The capsule of an Authentication Receive with room for 4 KiB.
fn authentication_receive() -> Vec<u8> {
    let mut sqe = Sqe::new_zeroed();
    (sqe.opcode, sqe.flags, sqe.sgl_type) = (opcode::FABRICS, 0x40, 0x5a);
    sqe.sgl_length.set(4096);
    let mut sqe = sqe.as_bytes().to_vec();
    sqe[4] = fctype::AUTH_RECEIVE;
    (sqe[41], sqe[42], sqe[43]) = (1, 1, 0xe9);
    sqe[44..48].copy_from_slice(&4096_u32.to_le_bytes());
    let mut pdu = vec![4, 0, 72, 0];
    pdu.extend(72_u32.to_le_bytes());
    pdu.extend(sqe);
    pdu
}

impl Rig {
    fn new() -> Self {
        let mut table = SubsystemTable::default();
        table.create_subsystem(&SubsystemSpec::new(SUBSYSTEM)).unwrap();
        table.add_host(SUBSYSTEM, HOST).unwrap();
        table.set_keys(SUBSYSTEM, HOST, HostKeys::clone(&keys())).unwrap();
        let table = Arc::new(table);
        let mut ports = mesh::mesh(CORES, RING_MESSAGES).unwrap();
        let control = ports.pop().unwrap();
        let make = |(port, desk)| {
            let pool = BufPool::on_heap([4, 4, 0, 0]);
            let core = ShardCore::at_rest(CoreIo::new(pool).unwrap(), port);
            let mut shard = Shard::new(desk, false);
            shard.table = table.clone();
            (shard, core)
        };
        let mut cores: Vec<_> =
            ports.into_iter().zip(auth_worker::start(CORES)).map(make).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, from) = listener.accept().unwrap();
        let (shard, core) = &mut cores[0];
        let index = shard.connections.insert(stream, from, from, 0).unwrap();
        let conn = shard.connections.get(index).unwrap();
        let mut icreq = [0; 128];
        (icreq[2], icreq[4]) = (128, 128);
        conn.protocol.handle_bytes(&icreq, &core.io.pool);
        let subsystem = table.find(&Nqn::parse(SUBSYSTEM).unwrap()).expect("it was made").clone();
        conn.role = Role::Io(Box::new(IoQueueGrant {
            cntlid: 1,
            qid: 1,
            subsystem,
            queue_depth: 32,
            flow_control_disabled: false,
            vwc_advertised: false,
            hostnqn: Nqn::parse(HOST).unwrap(),
            hostid: [1; 16],
            traffic: Arc::new(Traffic::default()),
        }));
        Self { cores, _control: control, _peer: peer, index }
    }

    /// The host's reply is found to be right, and the host asks for the answer.
    fn pass(&mut self) {
        let (mut own, work) = awaiting_check();
        let Work::SharedSecret { group, private, public } = work else { panic!("{work:?}") };
        own.secret_computed(dh::shared_secret(group, &private, &public).as_ref(), 0);
        let (shard, core) = &mut self.cores[0];
        let conn = shard.connections.get(self.index).unwrap();
        conn.auth = Some(ConnAuth::new(own));
        conn.protocol.handle_bytes(&authentication_receive(), &core.io.pool);
        let (id, sqe) = conn.protocol.next_command().unwrap();
        shard.execute_authentication(core, self.index, id, &sqe);
    }

    /// A core takes what has come to it.
    fn turn(&mut self, at: usize) {
        let (shard, core) = &mut self.cores[at];
        core.port.flush_backlog();
        while let Some((from, message)) = core.port.receive() {
            crate::reactor::Program::on_message(shard, core, from, message);
        }
        shard.drain(core);
        core.port.flush_backlog();
    }

    /// Core 0 takes what other cores have sent to it, but nothing of its own.
    fn take_answers(&mut self) {
        let (shard, core) = &mut self.cores[0];
        while let Some((_, message)) = core.port.receive() {
            let Message::KeyKnown { maker } = message else { panic!("{message:?}") };
            shard.key_known(core, maker);
        }
    }

    /// The host has been given its answer, which says that it has succeeded.
    fn is_told(&mut self) -> bool {
        let conn = self.cores[0].0.connections.get(self.index).unwrap();
        let (state, ..) = conn.auth.as_deref().unwrap().describe();
        let is_waiting = conn.protocol.population(RequestState::Executing) == 1;
        assert_eq!(state, if is_waiting { "reply" } else { "completed" });
        !is_waiting
    }

    /// The cores that know a key.
    fn knowing(&self) -> Vec<usize> {
        let maker = self.cores[0].0.connections.iter().next().unwrap();
        let made = maker.auth.as_deref().and_then(|auth| auth.made.as_ref());
        let identity = made.expect("a key was made").0.identity().to_owned();
        let knows = |at: &usize| self.cores[*at].0.generated.find(&identity).is_some();
        (0..CORES).filter(knows).collect()
    }
}

#[test]
fn success_is_told_when_the_last_core_knows_the_key() {
    for last in 0..CORES {
        let mut rig = Rig::new();
        rig.pass();
        assert!(!rig.is_told(), "nobody has been told of the key");
        assert!(rig.knowing().is_empty());
        let others: Vec<usize> = (0..CORES).filter(|at| *at != last).collect();
        for at in others.iter().rev() {
            rig.turn(*at);
            rig.take_answers();
            assert!(!rig.is_told(), "core {at} knows the key, core {last} does not");
        }
        assert_eq!(rig.knowing(), others, "core {last} has not been told");
        rig.turn(last);
        if last > 0 {
            assert_eq!(rig.knowing(), [0, 1, 2]);
            rig.turn(0);
        }
        assert!(rig.is_told(), "all cores know the key");
    }
}
