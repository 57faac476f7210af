//! The owner's keeping of the bitmap: who waits for which chunk, what is being written.
//!
//! A writer's question is answered when every chunk of it is open. Until then it waits at the
//! unit of one chunk that is not; when that unit's write ends it is looked at again.

use std::ops::RangeInclusive;

use super::ahead::Ahead;
use super::message::{Mail, Out, SlotMask, StartWrite, ToChannel};
use super::owner::{Life, MemberRequest, Owner, OwnerOp};
use super::owner_zero::{ZERO_JOBS, ZeroJob};
use super::{CHANNEL_OPS_MAX, MemberSlot, bit, slots};
use crate::bdev::{BdevId, IoOp, IoStatus};
use crate::bitmap::ledger::{HEADER_SIZE_BYTES, Urgency};
use crate::bitmap::{Action, ChunkState, Infection, Ledger, state};
use crate::md::{BitmapFlags, BitmapSuperblock, Settings};
use crate::reactor::buf::{BufPool, IoBuf};

/// Bitmap units that may be written at a time.
const FLUSH_SLOTS: usize = 8;

/// Chunks brought to rest in one step on the way to a stop.
const SETTLED_PER_STEP: usize = 4096;

/// Largest unit: one logical block of 4096 bytes.
const UNIT_SIZE_BYTES_MAX: usize = 4096;

/// As `events_cleared` of a header: what it says on disk can't be trusted. It becomes the count of
/// the next update.
pub(super) const EVENTS_CLEARED_UNKNOWN: u64 = u64::MAX;

/// End of a list of waiters.
pub(super) const NONE: u32 = u32::MAX;

/// A write of one unit to all members.
#[derive(Debug)]
struct Flush {
    buf: IoBuf,
    busy: bool,
    unit: usize,
    pending: SlotMask,
    ok: SlotMask,
    failed: SlotMask,
    /// Event count in the header, if the unit holds it.
    events: u64,
    /// The unit carries changes that the end of the write opens.
    opens: bool,
}

/// A writer's question that is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) core: u16,
    pub(super) question: StartWrite,
    pub(super) next: u32,
}

/// Where the map is kept. A copy has a number: the slot of its member, or 0.
#[derive(Debug)]
pub(super) enum Copies {
    /// On every member in sync: the block where it begins, by slot; 0 for an absent member.
    Members(Vec<u64>),
    /// On this device alone, from its first block on.
    External(BdevId),
}

/// The number of the copy on a device of its own.
const EXTERNAL_COPY: MemberSlot = 0;

/// The bitmap's part of the owner.
#[derive(Debug)]
pub(super) struct BitmapKeeper {
    pub(super) ledger: Ledger,
    header: BitmapSuperblock,
    infection: Infection,
    copies: Copies,
    flushes: Vec<Flush>,
    pub(super) zero_jobs: [ZeroJob; ZERO_JOBS],
    pub(super) ahead: Ahead,
    /// Jobs that are zeroed and wait for a record.
    pub(super) zeroed: u32,
    pub(super) waiters: Vec<Waiter>,
    pub(super) free_waiters: Vec<u32>,
    /// First waiter at each unit, then for a zero job, then for the end of a discard's hold.
    queues: Vec<u32>,
    /// Units that a member which joins has not been given yet, and how many.
    owed: Box<[bool]>,
    owed_count: usize,
    owed_to: SlotMask,
    /// A member that is written, but not given units yet.
    expected: SlotMask,
    /// Event count of the header that is durable.
    events_durable: u64,
    writes: u64,
    /// First chunk that has not been brought to rest on the way to a stop.
    settle_next: usize,
}

impl BitmapKeeper {
    /// The header, if the members have the bitmap.
    pub(super) fn header_on_members(&self) -> Option<&BitmapSuperblock> {
        (!self.is_external()).then_some(&self.header)
    }

    /// `None` when the pool has no buffers for the metadata, which are reserved here for good:
    /// host requests hold buffers while they wait for the bitmap.
    pub(super) fn new(
        header: BitmapSuperblock,
        (chunks, chunk_size_bytes): (usize, u64),
        unit_size_bytes: usize,
        copies: Copies,
        cores: u16,
        pool: &BufPool,
    ) -> Option<Self> {
        assert!(unit_size_bytes <= UNIT_SIZE_BYTES_MAX);
        let ledger = Ledger::new(chunks, unit_size_bytes);
        let waiters_max = usize::from(cores) * CHANNEL_OPS_MAX;
        let flushes = (0..FLUSH_SLOTS)
            .map(|_| {
                let buf = pool.get(unit_size_bytes)?;
                Some(Flush {
                    buf,
                    busy: false,
                    unit: 0,
                    pending: 0,
                    ok: 0,
                    failed: 0,
                    events: 0,
                    opens: false,
                })
            })
            .collect::<Option<_>>()?;
        Some(Self {
            queues: vec![NONE; ledger.units() + 2],
            owed: vec![false; ledger.units()].into_boxed_slice(),
            owed_count: 0,
            owed_to: 0,
            expected: 0,
            infection: Infection::default(),
            ledger,
            header,
            copies,
            flushes,
            zero_jobs: [ZeroJob::default(); ZERO_JOBS],
            ahead: Ahead::new(chunks, chunk_size_bytes),
            zeroed: 0,
            waiters: Vec::with_capacity(waiters_max),
            free_waiters: Vec::with_capacity(waiters_max),
            events_durable: 0,
            writes: 0,
            settle_next: 0,
        })
    }

    /// Every unit is to be written again, because the members' copies may differ. The header, which
    /// vouches for them, follows with the first update of the superblocks, which waits until these
    /// are durable: a crash before leaves the bitmap as doubtful as it was. Where its unit holds
    /// states as well, and what they were is out of date, they are written before with the header
    /// as it was: a write that fails or is cut off may leave one without the other.
    pub(super) fn rewrite_all(&mut self, is_stale: bool) {
        let has_states = self.ledger.unit_of(0) == 0;
        let first = if is_stale && has_states && !mutant!(ExternalVouchedEarly) { 0 } else { 1 };
        for unit in first..self.ledger.units() {
            self.ledger.mark(unit, Urgency::Now);
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.ledger.is_settled()
    }

    /// No unit that somebody waits for is to be written.
    pub(super) fn is_quiet(&self) -> bool {
        self.ledger.is_quiet()
    }

    /// Writes of units or zeroing of chunks are in flight.
    pub(super) fn awaits_members(&self) -> bool {
        self.flushes.iter().any(|flush| flush.pending != 0)
            || self.zero_jobs.iter().any(|job| job.pending != 0)
    }

    /// The map is on a device of its own.
    pub(super) fn is_external(&self) -> bool {
        matches!(self.copies, Copies::External(_))
    }

    /// The copies that count while these members are in sync.
    fn copies(&self, in_sync: SlotMask) -> SlotMask {
        if self.is_external() { bit(EXTERNAL_COPY) } else { in_sync }
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    pub(super) fn set_infection(&mut self, policy: Infection) {
        self.infection = policy;
    }

    pub(super) fn infection(&self) -> Infection {
        self.infection
    }

    pub(super) fn daemon_sleep_s(&self) -> u32 {
        self.header.daemon_sleep_s
    }

    /// The header is to carry this period of the daemon.
    pub(super) fn set_daemon_sleep_s(&mut self, sleep_s: u32) {
        self.header.daemon_sleep_s = sleep_s;
        if !mutant!(SleepNotKept) {
            self.ledger.mark(0, Urgency::Now);
        }
    }

    /// The header is to carry these settings.
    pub(super) fn keep_settings(&mut self, settings: Option<Settings>) {
        if self.header.settings != settings {
            self.header.settings = settings;
            self.ledger.mark(0, Urgency::Now);
        }
    }

    /// Event count below which a member may lack chunks that are Clean.
    pub(super) fn events_cleared(&self) -> u64 {
        self.header.events_cleared
    }

    /// The header is to carry this event count; `completes`: it is that of the update from which
    /// on all members are there, so that chunks may be cleared.
    pub(super) fn set_events(&mut self, events: u64, completes: bool) {
        self.header.events = events;
        self.header.flags.remove(BitmapFlags::STALE);
        if completes || self.header.events_cleared == EVENTS_CLEARED_UNKNOWN {
            self.header.events_cleared = events;
        }
        self.ledger.mark(0, Urgency::Now);
    }

    /// The header is to carry the count of an update that began before the array stopped.
    pub(super) fn repeat_events(&mut self, events: u64) {
        self.header.events = events;
        self.header.flags.remove(BitmapFlags::STALE);
        self.ledger.mark(0, Urgency::Now);
    }

    /// Whether the header with the last event count set is durable.
    pub(super) fn events_are_durable(&self) -> bool {
        self.events_durable == self.header.events
    }

    /// A member's bitmap begins at this block of it.
    pub(super) fn set_lba(&mut self, slot: MemberSlot, lba: u64) {
        if let Copies::Members(lbas) = &mut self.copies {
            lbas[usize::from(slot)] = lba;
        }
    }

    /// A member is written from now on that has none of the units, and is given none before it is
    /// furnished.
    pub(super) fn expect(&mut self, slot: MemberSlot) {
        self.ahead.joined();
        self.expected = bit(slot);
        if mutant!(FurnishedBeforeMarked) {
            self.furnish();
        }
    }

    /// Who was expected has failed.
    pub(super) fn expect_nobody(&mut self) {
        self.expected = 0;
    }

    /// Every unit is to be written, those under way once more: who was expected is given them.
    pub(super) fn furnish(&mut self) {
        let newcomer = std::mem::take(&mut self.expected);
        if self.is_external() || newcomer == 0 {
            return;
        }
        for unit in 0..self.ledger.units() {
            let in_flight = self.flushes.iter().any(|flush| flush.busy && flush.unit == unit);
            if !in_flight || !mutant!(JoinForgetsUnitsInFlight) {
                self.ledger.mark(unit, Urgency::Now);
            }
        }
        self.owed.fill(true);
        self.owed_count = self.owed.len();
        self.owed_to = newcomer;
    }

    /// The member that joins has all units.
    pub(super) fn is_furnished(&self) -> bool {
        self.owed_count == 0 || mutant!(JoinForgetsUnitsInFlight) && self.ledger.is_quiet()
    }

    fn note_given(&mut self, unit: usize, members: SlotMask) {
        if members & self.owed_to != 0 && std::mem::take(&mut self.owed[unit]) {
            self.owed_count -= 1;
        }
    }

    pub(super) fn header(&self) -> &BitmapSuperblock {
        &self.header
    }

    /// A device takes the place of a member: the two change places.
    pub(super) fn swap_lbas(&mut self, slot: MemberSlot, twin: MemberSlot) {
        if let Copies::Members(lbas) = &mut self.copies {
            lbas.swap(usize::from(slot), usize::from(twin));
        }
    }

    /// Requests to the slot's device are under way.
    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        let on_members = !self.is_external();
        on_members && self.flushes.iter().any(|flush| flush.pending & bit(slot) != 0)
            || self.zero_jobs.iter().any(|job| job.has_requests_at(slot))
    }

    /// A chunk became Clean: its unit may be written when nothing better is to do.
    pub(super) fn mark_lazy(&mut self, chunk: usize) {
        if mutant!(ClearedInMemoryOnly) {
            return;
        }
        self.ledger.mark(self.ledger.unit_of(chunk), Urgency::Lazy);
    }

    /// The unit is to be written, as it is.
    pub(super) fn mark_unit(&mut self, unit: usize) {
        self.ledger.mark(unit, Urgency::Now);
    }

    /// Chunks are being zeroed before their first write.
    pub(super) fn has_zero_jobs(&self) -> bool {
        self.zero_jobs.iter().any(ZeroJob::is_busy)
    }

    /// The array has so many chunks from now on, for so many sectors: the header is to say so with
    /// the next update of the superblocks. Nobody waits for anything.
    pub(super) fn grow(&mut self, chunks: usize, sync_size_sectors: u64) {
        assert!(self.queues.iter().all(|&queue| queue == NONE), "writers wait while all rests");
        self.header.sync_size_sectors = sync_size_sectors;
        self.ledger.grow(chunks);
        self.ahead.grow(chunks);
        self.queues = vec![NONE; self.ledger.units() + 2];
        self.owed = vec![false; self.ledger.units()].into_boxed_slice();
    }

    /// A chunk changed and somebody waits until that is durable.
    pub(super) fn mark_now(&mut self, chunk: usize) {
        self.ledger.mark(self.ledger.unit_of(chunk), Urgency::Now);
    }

    fn new_waiter(&mut self, core: u16, question: StartWrite) -> u32 {
        let waiter = Waiter { core, question, next: NONE };
        if let Some(index) = self.free_waiters.pop() {
            self.waiters[index as usize] = waiter;
            return index;
        }
        assert!(self.waiters.len() < self.waiters.capacity(), "more questions than requests");
        self.waiters.push(waiter);
        u32::try_from(self.waiters.len() - 1).expect("bounded by the capacity")
    }

    fn queue_of(&self, blocked: Blocked) -> usize {
        match blocked {
            Blocked::Unit(unit) => unit,
            Blocked::ZeroJobs => self.ledger.units(),
            Blocked::Held => self.ledger.units() + 1,
        }
    }

    pub(super) fn park(&mut self, waiter: u32, blocked: Blocked) {
        let queue = self.queue_of(blocked);
        self.waiters[waiter as usize].next = std::mem::replace(&mut self.queues[queue], waiter);
    }

    pub(super) fn take_waiters(&mut self, blocked: Blocked) -> u32 {
        let queue = self.queue_of(blocked);
        std::mem::replace(&mut self.queues[queue], NONE)
    }

    pub(super) fn zero_job_of(&self, chunk: usize) -> Option<usize> {
        self.zero_jobs.iter().position(|job| job.has(chunk))
    }

    /// Chunks whose zeroing began before the last device joined.
    pub(super) fn zeroing_without_last(&self) -> impl Iterator<Item = usize> {
        let joins = self.ahead.joins();
        self.zero_jobs.iter().filter(move |job| job.is_older_than(joins)).flat_map(ZeroJob::chunks)
    }

    /// Whether one of the chunks is being zeroed.
    pub(super) fn is_zeroing(&self, chunks: &RangeInclusive<usize>) -> bool {
        self.zero_jobs.iter().any(|job| job.meets(chunks))
    }
}

/// What keeps a writer waiting.
#[derive(Debug, Clone, Copy)]
pub(super) enum Blocked {
    /// The write of this unit.
    Unit(usize),
    /// All zero jobs are busy.
    ZeroJobs,
    /// A discard holds one of the chunks.
    Held,
}

impl Owner {
    /// A channel asks for chunks to be opened.
    pub(super) fn start_write(&mut self, core: u16, question: StartWrite, out: &mut Out<'_>) {
        let Some(bitmap) = &mut self.bitmap else {
            return self.open_volatile(core, question, out);
        };
        if self.failed {
            let refusal = ToChannel::Refused(question.op, IoStatus::MediaError);
            return out.mail.push_back(Mail::Channel(core, refusal));
        }
        let waiter = bitmap.new_waiter(core, question);
        self.advance(waiter, out);
    }

    /// Without a bitmap on disk nothing needs to be durable: the map, if there is one, only
    /// steers the resync, and all of it is open.
    fn open_volatile(&mut self, core: u16, question: StartWrite, out: &mut Out<'_>) {
        out.mail.push_back(Mail::Channel(core, ToChannel::Granted(question.op)));
    }

    /// Takes a writer as far as it can go now.
    fn advance(&mut self, waiter: u32, out: &mut Out<'_>) {
        let Waiter { core, question, .. } = self.keeper().waiters[waiter as usize];
        if self.failed {
            self.keeper().free_waiters.push(waiter);
            let refusal = ToChannel::Refused(question.op, IoStatus::MediaError);
            return out.mail.push_back(Mail::Channel(core, refusal));
        }
        let blocked = self.request_chunks(&question, out);
        let bitmap = self.keeper();
        match blocked {
            Some(blocked) => bitmap.park(waiter, blocked),
            None => {
                bitmap.free_waiters.push(waiter);
                out.mail.push_back(Mail::Channel(core, ToChannel::Granted(question.op)));
            }
        }
    }

    /// Asks for every chunk of the question to become open; says what to wait for, if anything.
    fn request_chunks(&mut self, question: &StartWrite, out: &mut Out<'_>) -> Option<Blocked> {
        let degraded = self.is_short();
        let mut blocked = None;
        for chunk in question.first..=question.last {
            let chunk = chunk as usize;
            if self.discarder.holds(chunk) && !mutant!(DiscardHoldForgotten) {
                return Some(Blocked::Held);
            }
            let state = self.shared.chunk_state(chunk).expect("a bitmap has a map");
            // Also before a write of all of it: a power cut in its middle may leave either
            // zeroes or the new data, never what the members held before.
            let untouched = state == ChunkState::Unwritten && !mutant!(SkipZeroing);
            let reads_zero = untouched && self.shared.unwritten_reads_zero;
            if reads_zero && !self.keeper().ahead.take(chunk) {
                blocked = Some(match self.zero_chunk(chunk, out) {
                    true => Blocked::Unit(self.keeper().ledger.unit_of(chunk)),
                    false => return Some(Blocked::ZeroJobs),
                });
                continue;
            }
            // Where Linux md has called it Unwritten, the rest of the chunk may hold data, or
            // differ: resync makes the members alike. Its parity is made column by column as
            // they are written, until resync or a rebuild has been there.
            let next = if reads_zero {
                self.shared.doubt.clear(chunk);
                state::on_write(ChunkState::Unwritten, degraded)
            } else if untouched {
                self.walker.look_again();
                self.shared.doubt.is_unbuilt(chunk);
                ChunkState::NeedSync
            } else {
                state::on_write(state, degraded)
            };
            if next != state {
                self.turn(chunk, next);
            }
            let map = self.shared.map.as_ref().expect("a bitmap has a map");
            if !map.is_open(chunk) {
                blocked = Some(Blocked::Unit(self.keeper().ledger.unit_of(chunk)));
            }
        }
        blocked
    }

    /// A write turns the chunk Dirty or NeedSync: its unit is to be written, and carries the
    /// Clean neighbours that the policy infects. Not while the array is degraded: the absent
    /// member would be given them all.
    pub(super) fn turn(&mut self, chunk: usize, next: ChunkState) {
        let is_degraded = self.is_degraded();
        let map = self.shared.map.as_ref().expect("a bitmap has a map");
        let bitmap = self.bitmap.as_mut().expect("the array has a bitmap");
        map.change(chunk, next);
        bitmap.mark_now(chunk);
        let may_infect = next == ChunkState::Dirty && !is_degraded || mutant!(InfectWhileDegraded);
        if !may_infect || bitmap.infection() == Infection::Off {
            return;
        }
        let chunks = bitmap.ledger.chunks_of(bitmap.ledger.unit_of(chunk));
        let is_dirty = |other: usize| {
            matches!(
                map.state(other),
                ChunkState::Dirty | ChunkState::NeedSync | ChunkState::Syncing
            )
        };
        for other in bitmap.infection.spread(chunks, chunk, is_dirty) {
            let state = map.state(other);
            if state == ChunkState::Clean && mutant!(InfectedCountsAsDurable) {
                map.change_quietly(other, ChunkState::Dirty);
            } else if state == ChunkState::Clean
                || state == ChunkState::Unwritten && mutant!(InfectUnwritten)
                || is_dirty(other) && mutant!(InfectInDoubt)
            {
                map.change(other, ChunkState::Dirty);
            }
        }
    }

    pub(super) fn keeper(&mut self) -> &mut BitmapKeeper {
        self.bitmap.as_mut().expect("the array has a bitmap")
    }

    /// The array has failed: nobody's chunks can be opened any more.
    pub(super) fn refuse_waiters(&mut self, out: &mut Out<'_>) {
        let Some(bitmap) = &mut self.bitmap else { return };
        for queue in 0..bitmap.queues.len() {
            let mut waiter = std::mem::replace(&mut bitmap.queues[queue], NONE);
            while waiter != NONE {
                let Waiter { core, question, next } = bitmap.waiters[waiter as usize];
                bitmap.free_waiters.push(waiter);
                let refusal = ToChannel::Refused(question.op, IoStatus::MediaError);
                out.mail.push_back(Mail::Channel(core, refusal));
                waiter = next;
            }
        }
    }

    /// The writers that a discard held go on.
    pub(super) fn advance_held(&mut self, out: &mut Out<'_>) {
        self.advance_queue(Blocked::Held, out);
    }

    pub(super) fn advance_queue(&mut self, blocked: Blocked, out: &mut Out<'_>) {
        let mut waiter = self.keeper().take_waiters(blocked);
        while waiter != NONE {
            let next = self.keeper().waiters[waiter as usize].next;
            self.advance(waiter, out);
            waiter = next;
        }
    }

    /// A write was lost on every member: what they hold there now may differ.
    pub(super) fn write_lost(&mut self, first: u32, last: u32) {
        self.doubt_raised();
        let Some(map) = &self.shared.map else { return };
        if mutant!(LostWriteForgotten) {
            return;
        }
        for chunk in first..=last {
            let chunk = chunk as usize;
            let state = map.state(chunk);
            // Parity may have been called right since the channel doubted it.
            if !mutant!(LostWriteLeavesNoDoubt) {
                self.shared.doubt.raise(chunk);
            }
            let next = state.after(Action::Stale);
            if next != state {
                // NeedSync on disk is as cautious as the Dirty that is there.
                map.change_quietly(chunk, next);
            }
        }
        self.walker.look_again();
    }

    /// Whether a turn may begin to write a unit back that nobody waits for. Not while the daemon
    /// clears chunks: it may still clear more of the unit.
    pub(super) fn may_write_back(&self) -> bool {
        !self.failed
            && !self.is_pausing()
            && !self.daemon.is_walking()
            && self.bitmap.as_ref().is_some_and(|bitmap| bitmap.ledger.may_begin_lazy())
    }

    /// Begins to write back one unit that nobody waits for.
    pub(super) fn write_back(&mut self, out: &mut Out<'_>) {
        if self.may_write_back()
            && let Some(unit) = self.keeper().ledger.begin_lazy()
        {
            let index = self.keeper().flushes.iter().position(|flush| !flush.busy);
            self.begin_flush(index.expect("no write is in flight"), unit, out);
        }
    }

    /// Submits as many unit writes as there are slots, of units that somebody waits for; of all
    /// on the way to a stop.
    pub(super) fn poll_bitmap(&mut self, out: &mut Out<'_>) {
        if self.failed {
            return;
        }
        while let Some(bitmap) = &mut self.bitmap {
            let Some(index) = bitmap.flushes.iter().position(|flush| !flush.busy) else { return };
            let unit = bitmap.ledger.begin().or_else(|| match self.life() {
                Life::Settling | Life::Sealing => self.keeper().ledger.begin_lazy(),
                _ => None,
            });
            let Some(unit) = unit else { return };
            self.begin_flush(index, unit, out);
        }
    }

    fn begin_flush(&mut self, index: usize, unit: usize, out: &mut Out<'_>) {
        let map = self.shared.map.as_ref().expect("a bitmap has a map");
        let bitmap = self.bitmap.as_mut().expect("the array has a bitmap");
        let mut copies = bitmap.copies(self.writable & !bitmap.expected);
        let forgotten = if mutant!(ForgetMembersBitmapWrite) { copies & (copies - 1) } else { 0 };
        copies &= !forgotten;
        bitmap.writes += 1;
        let flush = &mut bitmap.flushes[index];
        let bytes = flush.buf.as_mut_slice();
        bytes.fill(0);
        let header_bytes = bitmap.ledger.header_bytes(unit);
        if header_bytes > 0 {
            let mut header = [0; HEADER_SIZE_BYTES];
            bitmap.header.encode_into(&mut header);
            let start = unit * bytes.len();
            bytes[..header_bytes].copy_from_slice(&header[start..start + header_bytes]);
            if mutant!(HeaderIsInfected) {
                let taken = bytes[..header_bytes].iter_mut().filter(|byte| **byte <= 1);
                taken.for_each(|byte| *byte = ChunkState::Dirty as u8);
            }
        }
        let chunks = bitmap.ledger.chunks_of(unit);
        let states = &mut bytes[header_bytes..header_bytes + chunks.len()];
        flush.opens = map.snapshot(chunks, states);
        flush.busy = true;
        flush.unit = unit;
        flush.pending = copies;
        flush.ok = forgotten;
        flush.failed = 0;
        flush.events = bitmap.header.events;
        let buf = flush.buf.clone();
        for copy in slots(copies) {
            let (bdev, lba) = match &self.bitmap.as_ref().expect("asked for").copies {
                Copies::Members(lbas) => (self.place(copy).bdev, lbas[usize::from(copy)]),
                Copies::External(bdev) => (*bdev, 0),
            };
            let request = MemberRequest {
                op: IoOp::Write,
                lba: lba + unit as u64,
                blocks: 1,
                buf: Some(buf.clone()),
            };
            self.send_to(bdev, copy, OwnerOp::Unit(index), request, out);
        }
    }

    /// A copy of a unit is written, or is not. Where there is one copy only, and it fails, the
    /// metadata are lost.
    pub(super) fn unit_answered(
        &mut self,
        index: usize,
        copy: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let flush = &mut self.keeper().flushes[index];
        assert!(flush.busy && flush.pending & bit(copy) != 0);
        flush.pending &= !bit(copy);
        if status.is_ok() {
            flush.ok |= bit(copy);
        } else {
            flush.failed |= bit(copy);
        }
        if flush.pending != 0 {
            if mutant!(OpenBeforeDurableOnAll) {
                let unit = flush.unit;
                let chunks = self.keeper().ledger.chunks_of(unit);
                self.shared.map.as_ref().expect("a bitmap has a map").open(chunks);
            }
            return;
        }
        flush.busy = false;
        let Flush { unit, ok, failed, events, opens, .. } = *flush;
        let in_sync = self.in_sync;
        let is_lost = ok & self.keeper().copies(in_sync) == 0 || !self.may_fail_all(failed);
        if is_lost {
            return self.fail_array(out);
        }
        for slot in slots(failed) {
            self.fail_member(slot, out);
        }
        let bitmap = self.bitmap.as_mut().expect("the array has a bitmap");
        bitmap.ledger.end(unit);
        bitmap.note_given(unit, ok);
        if unit == 0 {
            bitmap.events_durable = events;
        }
        // A unit that was written back only has nothing to open.
        if opens {
            let chunks = bitmap.ledger.chunks_of(unit);
            self.shared.map.as_ref().expect("a bitmap has a map").open(chunks);
        }
        self.advance_queue(Blocked::Unit(unit), out);
    }

    /// On the way to a stop, chunks are left to look at.
    pub(super) fn is_settling(&self) -> bool {
        let (Some(bitmap), Some(map)) = (&self.bitmap, &self.shared.map) else { return false };
        self.life() == Life::Settling && !self.failed && bitmap.settle_next < map.len()
    }

    /// Stopping: no write is in flight and none will come, so what is Dirty is Clean if all
    /// members are there.
    pub(super) fn settle_bitmap(&mut self, out: &mut Out<'_>) {
        assert_eq!(self.life(), Life::Settling);
        let may_clean = self.may_settle_clean();
        let (Some(bitmap), Some(map)) = (&mut self.bitmap, &self.shared.map) else { return };
        let end = match may_clean {
            true => map.len().min(bitmap.settle_next + SETTLED_PER_STEP),
            false => map.len(),
        };
        let chunks = std::mem::replace(&mut bitmap.settle_next, end)..end;
        for chunk in chunks.filter(|_| may_clean) {
            if map.state(chunk) == ChunkState::Dirty {
                map.change(chunk, ChunkState::Clean);
                bitmap.mark_now(chunk);
            }
        }
        self.poll_bitmap(out);
    }

    /// Whether no chunk is in doubt: what the superblocks call clean.
    pub(super) fn is_clean(&self) -> bool {
        if self.stop_flush_has_failed() {
            return false;
        }
        if self.life() != Life::Sealing {
            return false;
        }
        if self.shared.doubt.torn_count() > 0 {
            return false;
        }
        let Some(map) = &self.shared.map else { return true };
        let histogram = map.histogram();
        let in_doubt =
            histogram[ChunkState::NeedSync as usize] + histogram[ChunkState::Syncing as usize];
        if self.shared.parity().is_some() {
            // What an absent member lacks can be recovered: the parity is right.
            return in_doubt == 0 || self.is_degraded();
        }
        // A degraded array keeps NeedSync for the member that is away; a single member has
        // nobody to differ from.
        in_doubt == 0 || self.in_sync.count_ones() < 2
    }
}
