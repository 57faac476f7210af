//! Carries an array's mail between its channels and its owner.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::channels::{Array, Slot};
use super::message::{Answer, Ended, Message};
use super::shard::{KIND_ARRAY, Shard, ShardCore};
use crate::bdev::{BdevId, BdevIo, IoStatus, Tag};
use crate::raid::{
    ArrayConfig, ArrayEvent, ArrayTimer, Channel, GrowthWish, Mail, Out, Owner, Shared, ToChannel,
    ToOwner,
};
use crate::reactor::clock;
use crate::reactor::timer::TimerTag;

/// Low bits of a timer's tag that say which timer of the owner it is; the rest is the array's
/// generation.
const TIMER_BITS: u32 = 3;
const TIMER_MASK: u32 = (1 << TIMER_BITS) - 1;

fn wall_clock_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Shard {
    /// Opens an array's channel on this core.
    ///
    /// # Errors
    /// A sentence for the operator when the core has too few buffers.
    pub(super) fn open_array(
        &mut self,
        core: &ShardCore,
        bdev: BdevId,
        config: &ArrayConfig,
        shared: Arc<Shared>,
    ) -> Result<(), String> {
        self.arrays_opened = self.arrays_opened.wrapping_add(1);
        let cores = u16::try_from(core.port.control()).expect("bounded by CORES_MAX");
        let own = u16::try_from(core.index()).expect("as above");
        let channel = Channel::new(shared, config.in_sync(), config.writable());
        let channel = channel.on_core(own, cores, core.io.pool)?;
        let array = Array {
            name: config.name.clone().into_boxed_str(),
            channel,
            owner: None,
            owner_core: config.owner_core,
            generation: self.arrays_opened,
        };
        self.channels.open(bdev, Slot::Array(Box::new(array)));
        Ok(())
    }

    /// Makes an array's owner on this core and starts it; the answer follows.
    pub(super) fn start_array(
        &mut self,
        core: &mut ShardCore,
        bdev: BdevId,
        config: &ArrayConfig,
        shared: Arc<Shared>,
    ) {
        let cores = u16::try_from(core.port.control()).expect("bounded by CORES_MAX");
        match Owner::from_config(config, shared, cores, core.io.pool) {
            Ok(owner) => {
                let array = self.channels.array(bdev).expect("its channel is open");
                array.owner = Some(Box::new(owner));
                self.on_owner(core, bdev, |owner, out| owner.start(out));
            }
            Err(text) => self.answer(core, Answer::Failed(text)),
        }
    }

    /// Lets the owner act; `false` if the array is gone.
    pub(super) fn on_owner(
        &mut self,
        core: &mut ShardCore,
        bdev: BdevId,
        act: impl FnOnce(&mut Owner, &mut Out<'_>),
    ) -> bool {
        let Some(array) = self.channels.array(bdev) else { return false };
        let Some(owner) = array.owner.as_deref_mut() else { return false };
        let mut out =
            Out { io: &mut self.queue, mail: &mut self.mail, wall_clock_s: wall_clock_s() };
        act(owner, &mut out);
        let busy = owner.is_busy();
        self.note_busy(bdev, busy);
        self.carry_mail(core, bdev);
        true
    }

    /// Lets the channel act; `false` if the array is gone.
    fn on_channel(
        &mut self,
        core: &mut ShardCore,
        bdev: BdevId,
        act: impl FnOnce(&mut Channel, &mut Out<'_>),
    ) -> bool {
        self.on_timed_channel(core, bdev, Channel::times_requests, act)
    }

    /// The same; `is_timed`: the channel wants the time for it.
    fn on_timed_channel(
        &mut self,
        core: &mut ShardCore,
        bdev: BdevId,
        is_timed: impl FnOnce(&Channel) -> bool,
        act: impl FnOnce(&mut Channel, &mut Out<'_>),
    ) -> bool {
        let Some(array) = self.channels.array(bdev) else { return false };
        let mut out = Out { io: &mut self.queue, mail: &mut self.mail, wall_clock_s: 0 };
        // Most requests of fast members begin and end in one turn: its own time would not do.
        let now_ns = is_timed(&array.channel).then(clock::now_ns);
        array.channel.tell_time(now_ns);
        act(&mut array.channel, &mut out);
        let gathers = array.channel.wants_turn_end();
        if gathers && !self.gathering.contains(&bdev) {
            self.gathering.push(bdev);
        }
        if !self.mail.is_empty() {
            self.carry_mail(core, bdev);
        }
        true
    }

    /// The turn is over for arrays whose channels gather requests; `true` if there were any.
    pub(super) fn end_turn_of_arrays(&mut self, core: &mut ShardCore) -> bool {
        let mut left = self.gathering.len();
        let worked = left > 0;
        while left > 0 {
            left -= 1;
            // Those that go on gathering put themselves at the end again.
            let bdev = self.gathering.remove(0);
            self.on_channel(core, bdev, |channel, out| channel.turn_ended(out));
        }
        worked
    }

    /// Gives a request to an array.
    pub(super) fn submit_to_array(&mut self, core: &mut ShardCore, bdev: BdevId, io: BdevIo) {
        let submit = |channel: &mut Channel, out: &mut Out<'_>| channel.submit(io, out);
        let given = self.on_timed_channel(core, bdev, Channel::times_next, submit);
        assert!(given, "the array was there a moment ago");
    }

    /// A member has answered a request of the array's channel.
    pub(super) fn array_member_done(&mut self, core: &mut ShardCore, tag: Tag, status: IoStatus) {
        let is_timed = |channel: &Channel| channel.times_answer(tag.op, tag.part);
        let there = self.on_timed_channel(core, BdevId(tag.object), is_timed, |channel, out| {
            channel.member_done(tag.op, tag.part, status, out);
        });
        assert!(there, "an array was closed with requests in flight");
    }

    /// A member has answered a request of the array's owner.
    pub(super) fn array_owner_done(&mut self, core: &mut ShardCore, tag: Tag, status: IoStatus) {
        let there =
            self.on_owner(core, BdevId(tag.object), |owner, out| owner.io_done(tag, status, out));
        assert!(there, "an array was closed with metadata in flight");
    }

    pub(super) fn owner_message(
        &mut self,
        core: &mut ShardCore,
        from: u16,
        bdev: BdevId,
        message: ToOwner,
    ) {
        let there = self.on_owner(core, bdev, |owner, out| owner.handle(from, message, out));
        assert!(there, "a channel outlived its owner");
    }

    pub(super) fn channel_message(
        &mut self,
        core: &mut ShardCore,
        bdev: BdevId,
        message: ToChannel,
    ) {
        let there = self.on_channel(core, bdev, |channel, out| channel.handle(message, out));
        assert!(there, "an owner outlived its channel");
    }

    /// The array has grown: its channel on this core is given what it shares now.
    pub(super) fn grow_channel(&mut self, core: &mut ShardCore, bdev: BdevId, shared: Arc<Shared>) {
        let there = self.on_channel(core, bdev, |channel, out| channel.grow(shared, out));
        assert!(there, "an owner outlived its channel");
    }

    /// The owner is to have the array grow.
    pub(super) fn grow_array(&mut self, core: &mut ShardCore, bdev: BdevId, wish: &GrowthWish) {
        let mut result = Err("the array is not there".to_owned());
        self.on_owner(core, bdev, |owner, out| result = owner.grow(wish, out));
        self.answer(core, Answer::Grows(result));
    }

    /// A timer of an array's owner has run out; the array may be gone, and another one be where
    /// it was.
    pub(super) fn array_timer(&mut self, core: &mut ShardCore, tag: TimerTag) {
        let bdev = BdevId(tag.object);
        let meant = |array: &mut Array| array.generation << TIMER_BITS == tag.op & !TIMER_MASK;
        if !self.channels.array(bdev).is_some_and(meant) {
            return;
        }
        let timer = match tag.op & TIMER_MASK {
            0 => ArrayTimer::DaemonSleep,
            1 => ArrayTimer::BarrierIdle,
            2 => ArrayTimer::Checkpoint,
            3 => ArrayTimer::Pace,
            _ => ArrayTimer::Patience,
        };
        self.on_owner(core, bdev, |owner, out| owner.timer(timer, out));
    }

    /// Delivers what the array's machines want delivered.
    fn carry_mail(&mut self, core: &mut ShardCore, bdev: BdevId) {
        while let Some(mail) = self.mail.pop_front() {
            match mail {
                Mail::Owner(message) => {
                    let array = self.channels.array(bdev).expect("it has just acted");
                    let to = usize::from(array.owner_core);
                    self.send(core, to, Message::ToOwner(bdev, message));
                }
                Mail::Channel(to, message) => {
                    self.send(core, usize::from(to), Message::ToChannel(bdev, message));
                }
                Mail::Channels(message) => {
                    for to in 0..core.port.control() {
                        self.send(core, to, Message::ToChannel(bdev, message));
                    }
                }
                Mail::Arm(timer, after_ms) => {
                    let op = match timer {
                        ArrayTimer::DaemonSleep => 0,
                        ArrayTimer::BarrierIdle => 1,
                        ArrayTimer::Checkpoint => 2,
                        ArrayTimer::Pace => 3,
                        ArrayTimer::Patience => 4,
                    };
                    let array = self.channels.array(bdev).expect("it has just acted");
                    let op = array.generation << TIMER_BITS | op;
                    let tag = TimerTag { kind: KIND_ARRAY, object: bdev.0, op };
                    core.io.timers.arm(core.io.now_ms() + after_ms, tag);
                }
                Mail::Event(event) => {
                    self.log_event(bdev, event);
                    let control = core.port.control();
                    core.port.post(control, Message::Event(bdev, event));
                }
                Mail::Grow => {
                    let array = self.channels.array(bdev).expect("it has just acted");
                    let shared = array.owner.as_ref().expect("it grows by its owner").shared();
                    for to in 0..core.port.control() {
                        self.send(core, to, Message::Grow(bdev, shared.clone()));
                    }
                }
                Mail::Started(result) => self.answer(core, Answer::Array(result)),
                Mail::Stopped(result) => self.ended(core, Ended::Array(bdev, result)),
            }
        }
    }

    fn log_event(&mut self, bdev: BdevId, event: ArrayEvent) {
        let name = &self.channels.array(bdev).expect("it has just acted").name;
        match event {
            ArrayEvent::MemberFailed { as_told: false, .. }
            | ArrayEvent::ReplacementFailed { .. }
            | ArrayEvent::ReplacementOrphaned { .. }
            | ArrayEvent::TooManyReadErrors { .. }
            | ArrayEvent::LastMemberKept { .. }
            | ArrayEvent::GrowthFailed { .. }
            | ArrayEvent::MetadataLost => tracing::error!("array {name}: {event}"),
            ArrayEvent::ReadFailed { .. } | ArrayEvent::ReplacementWaits { .. } => {
                tracing::warn!("array {name}: {event}");
            }
            _ => tracing::info!("array {name}: {event}"),
        }
    }
}
