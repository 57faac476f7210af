//! Levels with parity: how requests come to a stripe, get its lock and leave it again.

use super::channel::Channel;
use super::channel_op::OpState;
use super::message::{BlockRange, Mail, Out, RowEnd, SlotMask, Ticket, ToChannel};
use super::stripe::plan::{Method, Plan, Question};
use super::stripe::{Kind, OpList, RowAt, Sole, StripeState, Stripes};
use super::{bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::reactor::buf::BufPool;

impl Channel {
    /// Makes the channel of a level with parity able to work: it needs to know its core and their
    /// number, and where buffers come from. Of other levels nothing changes.
    ///
    /// # Errors
    /// A sentence for the operator when the core has too few buffers.
    pub fn on_core(mut self, core: u16, cores: u16, pool: BufPool) -> Result<Self, String> {
        let Some(parity) = self.shared.parity() else { return Ok(self) };
        let block = self.shared.block_size_bytes;
        let log = self.shared.log.as_ref();
        let stripes = Stripes::new(parity, block, (core, cores), pool, log)
            .ok_or_else(|| format!("core {core} has no buffers left for the array's parity"))?;
        self.stripes = Some(Box::new(stripes));
        Ok(self)
    }

    /// Whether [`Self::turn_ended`] has something to do.
    #[must_use]
    pub fn wants_turn_end(&self) -> bool {
        self.stripes.as_ref().is_some_and(|it| !it.gathering.is_empty() || !it.hungry.is_empty())
    }

    /// The core's turn is over: what has gathered is worked on.
    pub fn turn_ended(&mut self, out: &mut Out<'_>) {
        let Some(stripes) = &mut self.stripes else { return };
        stripes.whole.are_kept = true;
        for _ in 0..stripes.gathering.len() {
            let Some(index) = self.rows().gathering.pop_front() else { break };
            self.ask_row(index, out);
        }
        self.rows().whole.are_kept = false;
        self.write_whole_rows(out);
        for _ in 0..self.rows().hungry.len() {
            let Some(index) = self.rows().hungry.pop_front() else { break };
            self.start_job(index, out);
        }
    }

    pub(super) fn rows(&mut self) -> &mut Stripes {
        self.stripes.as_mut().expect("a level with parity, on a core")
    }

    /// A request that members can't be sent as it is.
    pub(super) fn give_to_stripe(&mut self, op: u32, is_read: bool) {
        let stripes = self.stripes.as_mut().expect("a level with parity, on a core");
        stripes.take(op, is_read, &mut self.ops);
    }

    /// A read that is `Ready` and that no member can answer alone. The members are not read at one
    /// moment, so nobody but the row's holder may change it meanwhile: what the owner does to whole
    /// chunks waits for it as for a write.
    pub(super) fn recover_read(&mut self, op: u32) {
        if self.is_locked(&self.ops[op as usize].sync) {
            self.lock_waiters.insert(op);
            return self.ops[op as usize].set_state(OpState::LockWait);
        }
        if !mutant!(RecoveryNotCounted) {
            self.count(op);
        }
        self.ops[op as usize].set_state(OpState::Members);
        self.give_to_stripe(op, true);
    }

    fn ask_row(&mut self, index: u32, out: &mut Out<'_>) {
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.set_state(StripeState::Locking);
        // Reads and writes by turns.
        let only_writes = stripe.reads.is_empty();
        let is_write = !stripe.writes.is_empty() && (only_writes || stripe.kind == Kind::Read);
        stripe.kind = if is_write { Kind::Write } else { Kind::Read };
        let slice = stripe.slice;
        let records = if is_write { self.records_wanted(index) } else { 0 };
        let stripes = self.rows();
        let (core, home) = (stripes.core, stripes.home_of(slice));
        if mutant!(NoRowLock) && stripes.log.is_none() {
            return self.begin_job(index, Ticket::default(), out);
        }
        if home != core {
            let wanted = ToChannel::RowWanted(core, slice, records);
            out.mail.push_back(Mail::Channel(home, wanted));
        } else if stripes.locks.ask(core, slice, records) {
            match stripes.log {
                None => self.begin_job(index, Ticket::default(), out),
                Some(_) => self.give_row(core, slice, records, out),
            }
        }
    }

    /// A channel wants a slice whose home is here.
    pub(super) fn row_wanted(&mut self, core: u16, slice: u64, records: u8, out: &mut Out<'_>) {
        if self.rows().locks.ask(core, slice, records) {
            self.give_row(core, slice, records, out);
        }
    }

    /// Gives a slice and the numbers that go with it to a channel.
    pub(super) fn grant_row(&mut self, core: u16, slice: u64, ticket: Ticket, out: &mut Out<'_>) {
        if core == self.rows().core {
            return self.row_granted(slice, ticket, out);
        }
        out.mail.push_back(Mail::Channel(core, ToChannel::RowGranted(slice, ticket)));
    }

    /// A slice is this channel's.
    pub(super) fn row_granted(&mut self, slice: u64, ticket: Ticket, out: &mut Out<'_>) {
        let index = self.rows().by_slice.get(slice).expect("a slice that was asked for");
        self.begin_job(index, ticket, out);
    }

    /// The holder of a slice whose home is here is done.
    pub(super) fn row_freed(&mut self, end: RowEnd, out: &mut Out<'_>) {
        self.end_records(&end);
        if let Some((core, records)) = self.rows().locks.free(end.slice) {
            self.give_row(core, end.slice, records, out);
        }
        if self.shared.log.is_some() {
            self.poll_ring(out);
        }
    }

    /// Takes what has gathered as one batch, of writes no more than can be logged.
    fn begin_job(&mut self, index: u32, ticket: Ticket, out: &mut Out<'_>) {
        let is_write = self.rows().stripes[index as usize].kind == Kind::Write;
        let batch = match is_write {
            true => self.take_writes(index, ticket),
            false => {
                let reads = &mut self.rows().stripes[index as usize].reads;
                std::mem::replace(reads, OpList::EMPTY)
            }
        };
        let batch = if self.bad.is_empty() { batch } else { self.one_at_a_time(index, batch) };
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.batch = batch;
        stripe.ticket = ticket;
        stripe.logged = false;
        stripe.unread = 0;
        stripe.failure = IoStatus::Ok;
        if !is_write {
            // What has failed already is not asked again.
            let batch = stripe.batch;
            let unread = batch.iter(&self.ops).fold(0, |all, op| all | self.ops[op as usize].tried);
            self.rows().stripes[index as usize].unread = unread;
        }
        if !self.begin_whole_row(index, out) {
            self.start_job(index, out);
        }
    }

    /// Where members have listed bad blocks in a slice, each request is a batch of its own: it has
    /// been cut so that a member has all of its columns or none, and others are no concern of it.
    #[cold]
    fn one_at_a_time(&mut self, index: u32, mut batch: OpList) -> OpList {
        let stripes = self.stripes.as_mut().expect("a level with parity, on a core");
        let blocks = stripes.slice_blocks;
        let stripe = &mut stripes.stripes[index as usize];
        let slice = BlockRange { lba: stripe.slice * blocks, blocks };
        if self.bad.at(&self.shared, &slice, self.shared.geometry.all_slots()) == 0 {
            return batch;
        }
        let is_write = stripe.kind == Kind::Write;
        let list = if is_write { &mut stripe.writes } else { &mut stripe.reads };
        let mut later = std::mem::replace(list, OpList::EMPTY);
        let mut one = OpList::EMPTY;
        if let Some(op) = batch.pop(&self.ops) {
            one.push(op, &mut self.ops);
        }
        while let Some(op) = batch.pop(&self.ops).or_else(|| later.pop(&self.ops)) {
            list.push(op, &mut self.ops);
        }
        one
    }

    /// Decides how the batch is done, and begins. Also after a member has failed to read for it.
    pub(super) fn start_job(&mut self, index: u32, out: &mut Out<'_>) {
        if self.cannot_log(index) {
            return self.refuse_row(index, out);
        }
        let (ask, plan) = loop {
            let ask = self.question(index);
            let kind = self.rows().stripes[index as usize].kind;
            let plan = if kind == Kind::Write { ask.plan_write() } else { ask.plan_read() };
            if let Some(plan) = plan {
                break (ask, plan);
            }
            self.fail_ops(index, ask.is_torn, out);
            if self.rows().stripes[index as usize].batch.is_empty() {
                return self.release_row(index, out);
            }
        };
        let block = self.shared.block_size_bytes as usize;
        let wanted = self.wanted_bufs(index, &ask, &plan);
        let records = self.records_of(index, plan.parity);
        let stripes = self.rows();
        let stripe = &mut stripes.stripes[index as usize];
        stripe.plan = plan;
        let len = usize::try_from(stripe.hull.blocks).expect("a slice fits a buffer") * block;
        if !stripes.get_bufs(index, wanted, len, records) {
            stripes.stripes[index as usize].set_state(StripeState::Hungry);
            return stripes.hungry.push_back(index);
        }
        self.read_row(index, out);
    }

    /// What is known of the row and to be done to it.
    fn question(&mut self, index: u32) -> Question {
        let stripes = self.stripes.as_mut().expect("a level with parity, on a core");
        let parity = self.shared.parity().expect("as above");
        let stripe = &mut stripes.stripes[index as usize];
        let (mut first, mut end) = (u64::MAX, 0);
        let (mut in_doubt, mut is_torn) = (false, false);
        for op in stripe.batch.iter(&self.ops) {
            let BlockRange { lba, blocks } = self.ops[op as usize].sync;
            first = first.min(lba);
            end = end.max(lba + blocks);
            in_doubt |= self.shared.is_in_doubt(&self.ops[op as usize].sync);
            is_torn |= self.shared.is_torn(&self.ops[op as usize].sync);
        }
        stripe.hull = BlockRange { lba: first, blocks: end - first };
        stripe.writable = self.writable;
        let at = RowAt::new(parity, first);
        stripe.at = Some(at);
        stripes.survey.look(index, stripe, &self.ops);
        let bad = self.bad.at(&self.shared, &stripe.hull, self.in_sync);
        let bad = if mutant!(BadBlocksRead) { 0 } else { bad };
        let (p, q) = (bit(at.row.p()), at.row.q().map_or(0, bit));
        Question {
            data: at.row.data_mask(),
            p,
            q,
            touched: stripes.survey.touched,
            full: stripes.survey.full,
            readable: self.in_sync & !stripe.unread & !bad,
            writable: self.writable,
            in_doubt,
            is_torn,
            is_accepted: self.shared.doubt.is_accepted(),
        }
    }

    /// The slots that need a buffer.
    fn wanted_bufs(&mut self, index: u32, ask: &Question, plan: &Plan) -> SlotMask {
        let stripes = self.stripes.as_ref().expect("a level with parity, on a core");
        let lost = if plan.method == Method::Recover { ask.data & !plan.reads } else { 0 };
        let mut wanted = plan.reads | plan.parity | lost;
        if stripes.stripes[index as usize].kind == Kind::Write {
            // What comes from one request as a whole is written from its buffer.
            let has_buf = |sole: Sole| self.ops[sole.op as usize].io().buf.is_some();
            for slot in slots(ask.touched & !wanted) {
                if !stripes.survey.sole[usize::from(slot)].is_some_and(has_buf) {
                    wanted |= bit(slot);
                }
            }
        }
        wanted
    }

    /// Ends requests of the batch that can't be done: all, or those where parity is torn.
    #[cold]
    pub(super) fn fail_ops(&mut self, index: u32, only_torn: bool, out: &mut Out<'_>) {
        let batch = &mut self.rows().stripes[index as usize].batch;
        let mut batch = std::mem::replace(batch, OpList::EMPTY);
        let mut left = OpList::EMPTY;
        while let Some(op) = batch.pop(&self.ops) {
            let this = &self.ops[op as usize];
            if only_torn && !self.shared.is_torn(&this.sync) {
                left.push(op, &mut self.ops);
                continue;
            }
            let status = match this.failure {
                IoStatus::Ok => IoStatus::MediaError,
                failure => failure,
            };
            self.finish(op, status, out);
        }
        self.rows().stripes[index as usize].batch = left;
    }

    /// Ends a batch that can't be logged, of which nothing has been written in place.
    #[cold]
    pub(super) fn refuse_row(&mut self, index: u32, out: &mut Out<'_>) {
        self.fail_ops(index, false, out);
        self.release_row(index, out);
    }

    /// The stripe's batch is done: its slice is free, or gathers for the next one.
    pub(super) fn release_row(&mut self, index: u32, out: &mut Out<'_>) {
        let done = !self.is_failed();
        let stripes = self.rows();
        stripes.put_bufs(index);
        let stripe = &mut stripes.stripes[index as usize];
        assert!(stripe.batch.is_empty() && stripe.pending == 0, "a batch was left");
        let slice = stripe.slice;
        let end = stripe.end(done);
        if stripe.writes.is_empty() && stripe.reads.is_empty() {
            stripe.set_state(StripeState::Free);
            stripes.by_slice.remove(slice);
            stripes.free.push(index);
        } else {
            stripes.gather(index);
        }
        let (core, home) = (stripes.core, stripes.home_of(slice));
        if mutant!(NoRowLock) && self.rows().log.is_none() {
        } else if home == core {
            self.row_freed(end, out);
        } else {
            out.mail.push_back(Mail::Channel(home, ToChannel::RowFreed(end)));
        }
        self.take_overflow();
        self.report_closed(out);
    }

    /// Requests that found no free stripe.
    fn take_overflow(&mut self) {
        let stripes = self.stripes.as_mut().expect("a level with parity, on a core");
        while !stripes.free.is_empty() {
            let Some(op) = stripes.overflow.pop(&self.ops) else { return };
            let is_read = matches!(self.ops[op as usize].io().op, IoOp::Read | IoOp::Compare);
            stripes.take(op, is_read, &mut self.ops);
        }
    }

    /// Members may have become known absent: what waits for that goes on.
    #[cold]
    pub(super) fn settle_stripes(&mut self, out: &mut Out<'_>) {
        if self.stripes.is_none() {
            return;
        }
        let settled = self.recorded | self.kept;
        for index in 0..u32::try_from(self.rows().stripes.len()).expect("a small constant") {
            if self.rows().settling == 0 {
                break;
            }
            let stripe = &mut self.rows().stripes[index as usize];
            match stripe.state() {
                StripeState::Settling => {
                    stripe.missed &= !settled;
                    if self.is_settled(index) {
                        self.rows().settling -= 1;
                        self.release_row(index, out);
                    }
                }
                StripeState::Unrecorded if self.unrecorded() == 0 || self.is_failed() => {
                    self.rows().settling -= 1;
                    self.start_job(index, out);
                }
                StripeState::Unlogged => self.poll_unlogged(index, out),
                _ => {}
            }
        }
        self.settle_note(out);
        if !mutant!(SettledNotTold) {
            self.report_closed(out);
        }
    }

    /// Whether nothing of this channel is under way to its peers: they say so when they have heard
    /// all it ever sent.
    pub(super) fn has_taken_leave(&mut self, out: &mut Out<'_>) -> bool {
        let Some(stripes) = &mut self.stripes else { return true };
        if !stripes.is_idle() {
            return false;
        }
        let (core, cores) = (stripes.core, stripes.cores);
        let left = *stripes.farewells.get_or_insert_with(|| {
            for peer in (0..cores).filter(|&peer| peer != core) {
                out.mail.push_back(Mail::Channel(peer, ToChannel::Leaving(core)));
            }
            cores - 1
        });
        left == 0
    }

    /// A peer has heard all.
    pub(super) fn leave_taken(&mut self, out: &mut Out<'_>) {
        let farewells = self.rows().farewells.as_mut().expect("leave was taken");
        *farewells -= 1;
        self.report_closed(out);
    }
}
