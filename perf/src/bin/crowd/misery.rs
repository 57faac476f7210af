//! Hosts that are no good neighbours. They act between the reads that are timed, from the same
//! thread, so that what they cost this process is not taken for what the target does to others:
//! the read behind each act meets the target's work for it.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mdof::initiator::{Client, QueuePair};
use mdof::wire::nvme::{Sqe, opcode};
use zerocopy::{FromZeros, IntoBytes};

use super::served::Served;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Eight ask for 12 MiB each and take nothing.
    Takers,
    /// Eight announce 12 MiB each and send nothing.
    Senders,
    /// Eight send a byte of their 128 KiB now and then.
    Tricklers,
    /// One comes and goes, 200 times a second.
    Restless,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Takers, Self::Senders, Self::Tricklers, Self::Restless];

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Takers => "8 hosts that take nothing of 12 MiB each",
            Self::Senders => "8 hosts that send nothing of 12 MiB each",
            Self::Tricklers => "8 hosts that send a byte each 5 ms",
            Self::Restless => "a host that connects and leaves each 5 ms",
        }
    }

    /// How often one of them acts.
    pub(crate) fn every(self) -> Duration {
        match self {
            Self::Tricklers => STEP / HOSTS,
            Self::Takers | Self::Senders | Self::Restless => STEP,
        }
    }
}

pub(crate) struct Misery {
    kind: Kind,
    target: SocketAddr,
    streams: Vec<TcpStream>,
    /// The next byte is of this stream, and this one of its command's data.
    turn: (usize, usize),
    _hosts: (Vec<Client>, Vec<QueuePair>),
}

const STEP: Duration = Duration::from_millis(5);
const HOSTS: u32 = 8;
const LARGE_BYTES: u32 = 128 << 10;

/// A command of 128 KiB whose data travel by themselves.
fn large_command(opcode: u8, cid: u16) -> Vec<u8> {
    let mut sqe = Sqe::new_zeroed();
    (sqe.opcode, sqe.flags, sqe.sgl_type) = (opcode, 0x40, 0x5a);
    sqe.cid.set(cid);
    sqe.nsid.set(1);
    sqe.cdw12.set(31);
    sqe.sgl_length.set(LARGE_BYTES);
    let mut pdu = vec![4, 0, 72, 0, 72, 0, 0, 0];
    pdu.extend(sqe.as_bytes());
    pdu
}

fn raw(queue: &QueuePair) -> TcpStream {
    let stream = queue.stream().try_clone().expect("a descriptor");
    stream.set_nonblocking(false).expect("a socket");
    stream
}

impl Misery {
    pub(crate) fn begin(kind: Kind, served: &Served) -> Self {
        let hosts = match kind {
            Kind::Restless => (Vec::new(), Vec::new()),
            _ => served.hosts(1, u16::try_from(HOSTS).expect("a few"), 128),
        };
        let (opcode, count) = match kind {
            Kind::Takers => (opcode::nvm::READ, 100),
            Kind::Senders => (opcode::nvm::WRITE, 100),
            Kind::Tricklers | Kind::Restless => (opcode::nvm::WRITE, 1),
        };
        let mut streams: Vec<TcpStream> = hosts.1.iter().map(raw).collect();
        for stream in &mut streams {
            let commands: Vec<u8> = (0..count).flat_map(|cid| large_command(opcode, cid)).collect();
            stream.write_all(&commands).expect("the target takes commands");
        }
        // What they have set going comes to rest.
        std::thread::sleep(Duration::from_millis(50));
        Self { kind, target: served.address, streams, turn: (0, 0), _hosts: hosts }
    }

    /// What they do each [`Kind::every`].
    pub(crate) fn act(&mut self) {
        match self.kind {
            Kind::Takers | Kind::Senders => {}
            Kind::Tricklers => self.trickle(),
            Kind::Restless => drop(TcpStream::connect(self.target)),
        }
    }

    /// The data of each stream's only command, byte by byte.
    fn trickle(&mut self) {
        let (stream, at) = self.turn;
        let byte = data_header().get(at).copied().unwrap_or(0);
        // The target may have ended one: that is what it is for.
        drop(self.streams[stream].write(&[byte]));
        let next = (stream + 1) % self.streams.len();
        self.turn = (next, at + usize::from(next == 0));
    }
}

/// The header of the data of a large command.
fn data_header() -> [u8; 24] {
    let mut header = [0; 24];
    (header[0], header[1], header[2], header[3]) = (6, 4, 24, 24);
    header[4..8].copy_from_slice(&(24 + LARGE_BYTES).to_le_bytes());
    header[16..20].copy_from_slice(&LARGE_BYTES.to_le_bytes());
    header
}
