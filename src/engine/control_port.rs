//! The control plane's requests on a core.

use super::channels::Slot;
use super::message::{Answer, Ask, Ended};
use super::shard::{Shard, ShardCore};
use super::workload::{Workload, WorkloadIo};
use crate::bdev::{BdevId, BdevIo, Completion, Device, IoOp, IoStatus, Station, Tag};
use crate::reactor::buf::IoBuf;

/// What the control plane waits for on this core. It asks one thing at a time.
#[derive(Default)]
pub(super) struct ControlPort {
    /// A request to a bdev, and its buffer.
    io: Option<(IoOp, Option<IoBuf>)>,
    /// Number of that request. Others that end are no longer waited for.
    io_number: u32,
    /// Channels that are to be dropped when they are drained.
    closing: Vec<BdevId>,
    /// All connections are to end.
    pub(super) closing_connections: bool,
    workload: Option<Box<dyn Workload>>,
}

impl std::fmt::Debug for ControlPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlPort(io {:?}, closing {:?})", self.io, self.closing)
    }
}

impl Shard {
    /// The control plane asks.
    pub(super) fn asked(&mut self, core: &mut ShardCore, ask: Ask) {
        match ask {
            Ask::OpenDevice(bdev, device) => {
                let answer = self.open_device(core, bdev, &device);
                self.answer(core, answer);
            }
            Ask::OpenArray { bdev, config, shared } => {
                let opened = self.open_array(core, bdev, &config, shared);
                self.answer(core, opened.map_or_else(Answer::Failed, |()| Answer::Done));
            }
            Ask::StartArray { bdev, config, shared } => {
                self.start_array(core, bdev, &config, shared);
            }
            Ask::StopArray(bdev) => self.stop_array(core, bdev),
            Ask::InFlight(bdev) => {
                let requests = self.channels.get(bdev).map_or(0, |slot| slot.in_flight());
                self.answer(core, Answer::InFlight(requests));
            }
            Ask::CloseBdev(bdev) => {
                self.answer(core, Answer::Done);
                self.close_bdev(core, bdev);
            }
            Ask::Io { bdev, op, lba, blocks, data } => {
                self.control_io(core, bdev, op, (lba, blocks), &data);
            }
            Ask::ForgetIo => self.forget_control_io(core),
            Ask::ArrayStatus(bdev) => self.tell_array_status(core, bdev),
            Ask::SetKnobs(bdev, knobs) => {
                let mut result = Err("the array is not there".to_owned());
                self.on_owner(core, bdev, |owner, out| result = owner.set_knobs(&knobs, out));
                self.answer(core, result.map_or_else(Answer::Failed, |()| Answer::Done));
            }
            Ask::Command(bdev, command) => {
                let mut result = Err("the array is not there".to_owned());
                self.on_owner(core, bdev, |owner, out| result = owner.execute(&command, out));
                self.answer(core, result.map_or_else(Answer::Failed, Answer::Outcome));
            }
            Ask::GrowArray(bdev, wish) => self.grow_array(core, bdev, &wish),
            Ask::ResizeDevice(bdev, device) => self.resize_device(core, bdev, &device),
            Ask::Publish(table) => {
                self.take_table(core, table);
                self.answer(core, Answer::Done);
            }
            Ask::Listen(listener, address) => {
                self.listen(core, listener, address);
                self.answer(core, Answer::Done);
            }
            Ask::Unlisten(address) => self.unlisten(core, address),
            Ask::CloseConnections => {
                self.answer(core, Answer::Done);
                self.close_all_connections(core);
                self.control.closing_connections = true;
            }
            Ask::Run(workload) => self.run_workload(core, workload),
            Ask::Report => {
                let report = Box::new(self.report(&core.io.pool));
                self.answer(core, Answer::Report(report));
            }
            Ask::Exit => {
                self.answer(core, Answer::Done);
                core.stop();
            }
        }
    }

    fn open_device(&mut self, core: &mut ShardCore, bdev: BdevId, device: &Device) -> Answer {
        match device.open_channel(bdev, &core.io) {
            Ok(channel) => {
                self.channels.open(bdev, Slot::Device(channel));
                Answer::Done
            }
            Err(error) => Answer::Failed(format!(
                "bdev {} could not be opened on core {}: {error}",
                device.geometry().name,
                core.index()
            )),
        }
    }

    fn stop_array(&mut self, core: &mut ShardCore, bdev: BdevId) {
        self.answer(core, Answer::Done);
        if !self.on_owner(core, bdev, |owner, out| owner.stop(out)) {
            self.ended(core, Ended::Array(bdev, Err(IoStatus::Removed)));
        }
    }

    fn tell_array_status(&mut self, core: &mut ShardCore, bdev: BdevId) {
        let owner = self.channels.array(bdev).and_then(|array| array.owner.as_deref());
        let answer = match owner {
            Some(owner) => Answer::Status(Box::new(owner.status())),
            None => Answer::Failed("the array is not there".to_owned()),
        };
        self.answer(core, answer);
    }

    fn resize_device(&mut self, core: &mut ShardCore, bdev: BdevId, device: &Device) {
        if let Some(channel) = self.channels.device(bdev) {
            channel.resize(device);
        }
        self.answer(core, Answer::Done);
    }

    fn close_bdev(&mut self, core: &mut ShardCore, bdev: BdevId) {
        match self.channels.get(bdev) {
            None => self.ended(core, Ended::Bdev(bdev)),
            Some(slot) => {
                if let Slot::Device(channel) = slot {
                    channel.close(&mut self.queue);
                }
                self.control.closing.push(bdev);
            }
        }
    }

    /// Tells the control plane what it has asked for, once it has come about.
    pub(super) fn tell_ended(&mut self, core: &mut ShardCore) {
        for _ in 0..self.control.closing.len() {
            let bdev = self.control.closing.remove(0);
            if self.channels.get(bdev).is_none_or(|slot| slot.in_flight() == 0) {
                self.channels.close(bdev);
                self.note_busy(bdev, false);
                self.ended(core, Ended::Bdev(bdev));
            } else {
                self.control.closing.push(bdev);
            }
        }
        if self.control.closing_connections && self.connections.is_empty() {
            self.control.closing_connections = false;
            self.ended(core, Ended::Connections);
        }
    }

    fn control_io(
        &mut self,
        core: &mut ShardCore,
        bdev: BdevId,
        op: IoOp,
        (lba, blocks): (u64, u32),
        data: &[u8],
    ) {
        assert!(self.control.io.is_none(), "the control plane asks one thing at a time");
        let mut buf = None;
        if !data.is_empty() {
            let Some(mut free) = core.io.pool.get(data.len()) else {
                return self.answer(core, Answer::Io(Err(IoStatus::Aborted)));
            };
            free.as_mut_slice().copy_from_slice(data);
            buf = Some(free);
        }
        self.control.io = Some((op, buf.clone()));
        self.control.io_number = self.control.io_number.wrapping_add(1);
        let number = self.control.io_number;
        let tag = Tag { station: Station::Control, part: 0, object: bdev.0, op: number };
        let fua = op.modifies();
        let completion = Completion::new(tag);
        self.queue.submit(bdev, BdevIo { op, fua, lba, blocks, buf, completion });
    }

    /// What the control plane has asked for is no longer waited for, if it has not ended.
    fn forget_control_io(&mut self, core: &mut ShardCore) {
        if self.control.io.take().is_some() {
            self.answer(core, Answer::Failed("it has not ended".to_owned()));
        }
    }

    /// A request of the control plane has ended.
    pub(super) fn control_io_done(&mut self, core: &mut ShardCore, tag: Tag, status: IoStatus) {
        let is_awaited = tag.op == self.control.io_number;
        let Some((op, buf)) = self.control.io.take_if(|_| is_awaited) else {
            return self.ended(core, Ended::Io(BdevId(tag.object)));
        };
        let answer = match (status, buf) {
            (IoStatus::Ok, Some(buf)) if op == IoOp::Read => Ok(buf.as_slice().to_vec()),
            (IoStatus::Ok, _) => Ok(Vec::new()),
            (status, _) => Err(status),
        };
        self.answer(core, Answer::Io(answer));
    }

    fn run_workload(&mut self, core: &mut ShardCore, workload: Box<dyn Workload>) {
        assert!(self.control.workload.is_none(), "one program a core at a time");
        self.control.workload = Some(workload);
        self.with_workload(core, |workload, io| workload.start(io));
    }

    /// A request of the program has ended.
    pub(super) fn workload_done(&mut self, core: &mut ShardCore, tag: Tag, status: IoStatus) {
        self.with_workload(core, |workload, io| workload.done(tag.op, status, io));
    }

    fn with_workload(
        &mut self,
        core: &mut ShardCore,
        act: impl FnOnce(&mut dyn Workload, &mut WorkloadIo<'_>),
    ) {
        let workload = self.control.workload.as_deref_mut().expect("a program runs");
        let mut io =
            WorkloadIo { queue: &mut self.queue, pool: core.io.pool, now_ns: core.io.now_ns };
        act(workload, &mut io);
        if workload.is_finished() {
            let workload = self.control.workload.take().expect("it has just acted");
            self.answer(core, Answer::Finished(workload.into_any()));
        }
    }
}
