//! One NVMe/TCP connection of the target, with everything its driver may do to it. The input is a
//! script: what the host sends (well-formed, bent, or noise), how the stream is cut, what the
//! controller and the kernel do meanwhile. Whatever happens, every buffer comes back, and nobody
//! waits for one that nobody has.

use mdof::reactor::buf::{BufPool, IoBuf};
use mdof::target::tcp::{C2hSuccess, Connection, ConnectionConfig, Phase, RequestId};
use mdof::wire::nvme::{Cqe, Status};
use mdof::wire::tcp::TransmitVec;

use super::Input;
use super::peer::Peer;

/// Steps of one run: enough for a queue to fill and empty again.
const STEPS_MAX: usize = 400;

const POOL: [usize; 4] = [6, 4, 3, 2];

thread_local! {
    /// Arenas are never freed, so all runs share one; each gives back what it took.
    static BUFFERS: BufPool = BufPool::on_heap(POOL);
}

struct World {
    pool: BufPool,
    conn: Connection,
    peer: Peer,
    executing: Vec<RequestId>,
    /// Buffers that other connections hold.
    held: Vec<IoBuf>,
    direct_bytes: Option<usize>,
    /// Bytes that the kernel is sending.
    sending: Vec<u8>,
    has_depth: bool,
}

/// Runs a script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let c2h_success = match how & 3 {
        0 => C2hSuccess::Never,
        1 => C2hSuccess::WithoutFlowControl,
        _ => C2hSuccess::Always,
    };
    let config = ConnectionConfig { c2h_success, ..ConnectionConfig::default() };
    let mut world = World {
        pool: BUFFERS.with(|pool| *pool),
        conn: Connection::new(config),
        peer: Peer::default(),
        executing: Vec::new(),
        held: Vec::new(),
        direct_bytes: None,
        sending: Vec::new(),
        has_depth: false,
    };
    world.conn.set_flow_control_disabled(how & 4 != 0);
    if how & 8 == 0 {
        world.peer.send_ic_req((how >> 4) & 7, how >> 6);
        let _ = (world.deliver(usize::MAX), world.transmit(usize::MAX));
    }
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    if data.len() & 1 == 0 {
        world.settle();
    }
    world.end();
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let digests = self.conn.digests();
        match input.u8() & 15 {
            // What ends a connection must be rare, or little else would be seen.
            1..=3 if input.u8() < 12 => self.misbehave(input),
            0..=3 => self.command(input),
            4 | 5 if !self.peer.transfers.is_empty() => {
                let index = usize::from(input.u8()) % self.peer.transfers.len();
                let (bytes, is_bold) = (input.u32() & 0x3_ffff, input.u8() < 4);
                self.peer.send_data(index, bytes, is_bold, digests);
            }
            6 => drop(self.deliver(usize::from(input.u8()))),
            4 | 5 | 7 => drop(self.deliver(usize::MAX)),
            8 => self.take_commands(),
            9 => self.complete(input),
            10 => drop(self.transmit(usize::from(input.u16()))),
            11 => drop(self.transmit(usize::MAX)),
            12 => self.direct(input),
            13 => {
                self.conn.retry_buffers(&self.pool);
            }
            14 => self.press(input),
            _ => self.rarely(input),
        }
        self.check();
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let (how, cid) = (input.u8(), u16::from(input.u8() & 31));
        let bytes = match how >> 6 {
            0 => 512,
            1 => 4096,
            2 => 8192,
            _ => input.u32() & 0x3_ffff,
        };
        match (how >> 3) & 7 {
            5 => {
                self.one_command((how & 7, 1, cid), bytes, input);
                self.one_command((how & 7, 2, cid ^ 16), bytes, input);
            }
            6 => self.one_command((how & 7, 1, cid), bytes, input),
            7 => self.one_command((how & 7, 2, cid), bytes, input),
            _ => self.one_command((how & 7, 0, cid), bytes, input),
        }
    }

    /// `fuse` is the FUSE field.
    fn one_command(&mut self, (what, fuse, cid): (u8, u8, u16), bytes: u32, input: &mut Input<'_>) {
        let digests = self.conn.digests();
        let in_capsule = vec![0xa5; usize::try_from(bytes.min(8193)).unwrap_or(0)];
        let mut send = |opcode, sgl, data: &[u8]| {
            self.peer.send_command((opcode, fuse, cid), sgl, data, digests);
        };
        match what {
            0 => send(0, (0x5a, 0), &[]),
            1 | 2 => send(1, (0x5a, bytes), &[]),
            3 | 4 => send(2, (0x5a, bytes), &[]),
            5 => send(1, (0x01, bytes), &in_capsule),
            6 => send(0x7f, (0x01, bytes), &in_capsule),
            _ => {
                let (opcode, sgl) = (input.u8(), input.u8());
                send(opcode, (sgl, bytes), &in_capsule[..in_capsule.len().min(512)]);
            }
        }
    }

    fn misbehave(&mut self, input: &mut Input<'_>) {
        match input.u8() & 3 {
            0 => self.peer.send_ic_req(input.u8(), input.u8()),
            1 => {
                let count = usize::from(input.u8());
                self.peer.outgoing.extend(input.take(count));
            }
            _ => self.bend(input),
        }
    }

    /// Changes a byte that is on its way.
    fn bend(&mut self, input: &mut Input<'_>) {
        let (at, xor) = (usize::from(input.u16()), input.u8());
        let count = self.peer.outgoing.len();
        if let Some(byte) = self.peer.outgoing.get_mut(at % count.max(1)) {
            *byte ^= xor;
        }
    }

    fn deliver(&mut self, bytes_max: usize) -> usize {
        if self.direct_bytes.is_some() || !self.conn.wants_bytes() {
            return 0;
        }
        let bytes = &self.peer.outgoing[..bytes_max.min(self.peer.outgoing.len())];
        let taken = self.conn.handle_bytes(bytes, &self.pool);
        assert!(
            taken == bytes.len() || !self.conn.wants_bytes(),
            "{taken} of {} bytes taken although more are wanted",
            bytes.len()
        );
        self.peer.outgoing.drain(..taken);
        taken
    }

    fn take_commands(&mut self) {
        while let Some((id, sqe)) = self.conn.next_command() {
            assert_eq!(self.conn.request_sqe(id).cid, sqe.cid);
            assert_eq!(self.conn.find_cid(sqe.cid.get()), Some(id));
            self.executing.push(id);
        }
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        if self.executing.is_empty() {
            return;
        }
        let id = self.executing.swap_remove(usize::from(input.u8()) % self.executing.len());
        self.finish(id, input.u8());
    }

    fn finish(&mut self, id: RequestId, how: u8) {
        let status = if how & 3 == 3 { Status::INVALID_FIELD } else { Status::SUCCESS };
        let to_host = self.conn.request_sqe(id).opcode & 3 == 2;
        let bytes = self.conn.request_buf(id).filter(|_| to_host).map_or(0, IoBuf::len);
        if let Some(data) = self.conn.request_data_mut(id) {
            data.fill(how);
        }
        let cqe = Cqe::new(u64::from(how & 4).try_into().unwrap_or(0), status, 0);
        self.conn.complete(id, cqe, u32::try_from(bytes).expect("a buffer"));
    }

    /// The kernel takes what waits to be sent, or a part of it.
    fn transmit(&mut self, bytes_max: usize) -> usize {
        if !self.conn.wants_transmit() {
            return 0;
        }
        let mut out = TransmitVec::new();
        let offered = self.conn.poll_transmit(&mut out);
        self.sending.clear();
        for segment in out.segments() {
            // SAFETY: the connection keeps what it offers in place until `transmitted`.
            let bytes = unsafe { std::slice::from_raw_parts(segment.ptr, segment.len) };
            self.sending.extend_from_slice(bytes);
        }
        assert_eq!(self.sending.len(), offered);
        let taken = bytes_max.min(offered);
        self.peer.receive(&self.sending[..taken], &self.conn);
        self.conn.transmitted(taken);
        taken
    }

    fn direct(&mut self, input: &mut Input<'_>) {
        match self.direct_bytes.take() {
            None => {
                self.direct_bytes = self.conn.direct_target().map(|region| region.len());
            }
            Some(room) => {
                let count = usize::from(input.u16()).min(room).min(self.peer.outgoing.len());
                // What the kernel put there came off the stream.
                self.peer.outgoing.drain(..count);
                self.conn.handle_direct(count);
            }
        }
    }

    /// Other connections take buffers, or give them back.
    fn press(&mut self, input: &mut Input<'_>) {
        let how = input.u8();
        if how & 1 == 0 {
            self.held.extend(self.pool.get([4096, 32768, 131_072][usize::from(how >> 1) % 3]));
        } else {
            self.held.pop();
        }
    }

    fn rarely(&mut self, input: &mut Input<'_>) {
        match input.u8() {
            0..8 => self.conn.abort(),
            8..200 if !self.has_depth && self.conn.phase() == Phase::Established => {
                self.has_depth = true;
                self.conn.set_queue_depth(u16::from(input.u8() & 31) + 1);
            }
            _ => {}
        }
    }

    fn check(&self) {
        let queued = self.conn.population(mdof::target::tcp::RequestState::Executing);
        assert_eq!(usize::from(queued), self.executing.len(), "commands that execute");
    }

    /// All that others hold comes back, and this host sends, takes and is answered all there is: it
    /// waits for no buffer then, unless it owes something itself.
    fn settle(&mut self) {
        self.held.clear();
        loop {
            let mut moved = self.receive_direct();
            moved += self.deliver(usize::MAX);
            let digests = self.conn.digests();
            for index in (0..self.peer.transfers.len()).rev() {
                self.peer.send_data(index, u32::MAX, false, digests);
                moved += 1;
            }
            self.take_commands();
            while let Some(id) = self.executing.pop() {
                self.finish(id, 0);
                moved += 1;
            }
            moved += self.transmit(usize::MAX);
            moved += usize::from(self.conn.retry_buffers(&self.pool));
            self.check();
            if moved == 0 {
                break;
            }
        }
        let (owed, _) = self.conn.inbound_transfers();
        let waits = self.conn.phase() == Phase::Established && self.conn.needs_buffers();
        assert!(!waits || owed > 0, "waits for a buffer that nobody has: {:?}", self.conn);
    }

    /// What the kernel was to receive comes.
    fn receive_direct(&mut self) -> usize {
        let Some(room) = self.direct_bytes.take() else { return 0 };
        let count = room.min(self.peer.outgoing.len());
        self.peer.outgoing.drain(..count);
        self.conn.handle_direct(count);
        count
    }

    /// The socket ends: what is owed is paid, and nothing stays behind.
    fn end(mut self) {
        self.conn.abort();
        while let Some(id) = self.executing.pop() {
            self.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
        }
        if self.direct_bytes.is_some() {
            self.conn.handle_direct(0);
        }
        assert!(self.conn.is_drained(), "something stayed behind: {:?}", self.conn);
        self.held.clear();
        assert_eq!(self.pool.free_counts(), POOL, "buffers were lost");
    }
}
