//! One core's way to one bdev: static dispatch over the kinds.

use super::delay::DelayChannel;
use super::error::ErrorChannel;
use super::malloc::MallocChannel;
use super::null::NullChannel;
use super::uring::UringChannel;
use super::{BdevIo, Device, IoQueue, IoStatus};
use crate::reactor::CoreIo;

/// Requests one core has in flight to one bdev at most; more wait in the channel.
pub const OPS_PER_CHANNEL: usize = 1024;

/// Executes requests of one core to one bdev. Nothing here calls back: what has ended, and what
/// a filter wants of its base, goes to the core's [`IoQueue`].
#[derive(Debug)]
pub enum Channel {
    /// See [`super::Device::Malloc`].
    Malloc(MallocChannel),
    /// See [`super::Device::Null`].
    Null(NullChannel),
    /// See [`super::Device::Uring`].
    Uring(Box<UringChannel>),
    /// See [`super::Device::Error`].
    Error(ErrorChannel),
    /// See [`super::Device::Delay`].
    Delay(DelayChannel),
}

impl Channel {
    /// Starts `io`; it ends through `out`, now or later.
    pub fn submit(&mut self, io: BdevIo, core: &mut CoreIo, out: &mut IoQueue) {
        match self {
            Self::Malloc(channel) => channel.submit(io, core, out),
            Self::Null(channel) => channel.submit(io, out),
            Self::Uring(channel) => channel.submit(io, core, out),
            Self::Error(channel) => channel.submit(io, core, out),
            Self::Delay(channel) => channel.submit(io, core, out),
        }
    }

    /// A completion of the core's ring with kind [`crate::reactor::ring::KIND_BDEV`] and this
    /// bdev as object.
    pub fn ring_done(&mut self, op: u32, res: i32, core: &mut CoreIo, out: &mut IoQueue) {
        match self {
            Self::Uring(channel) => channel.ring_done(op, res, core, out),
            _ => panic!("a ring completion came to a bdev that uses no ring"),
        }
    }

    /// A request of this filter to its base has ended: station [`super::Station::Filter`] with
    /// this bdev as object.
    pub fn io_done(&mut self, op: u32, status: IoStatus, core: &mut CoreIo, out: &mut IoQueue) {
        match self {
            Self::Error(channel) => channel.io_done(op, status, core, out),
            Self::Delay(channel) => channel.io_done(op, status, core, out),
            _ => panic!("a base completion came to a bdev that has no base"),
        }
    }

    /// A timer with kind [`crate::reactor::ring::KIND_BDEV`] and this bdev as object has fired.
    /// One that belongs to an earlier channel of the same id is ignored.
    pub fn timer(&mut self, op: u32, core: &mut CoreIo, out: &mut IoQueue) {
        match self {
            Self::Null(_) | Self::Uring(_) => {}
            Self::Malloc(channel) => channel.timer(core, out),
            Self::Error(channel) => channel.timer(op, core, out),
            Self::Delay(channel) => channel.timer(op, core, out),
        }
    }

    /// The bdev is as large as `device` says from now on, which is the same one in all else.
    /// Filters leave it to their base what lies within it.
    ///
    /// # Panics
    /// If it is of another kind.
    pub fn resize(&mut self, device: &Device) {
        match (self, device) {
            (Self::Null(channel), Device::Null(device)) => channel.resize(device.clone()),
            (Self::Uring(channel), Device::Uring(device)) => channel.resize(device.clone()),
            (channel, device) => panic!("{channel:?} can't become {device:?}"),
        }
    }

    /// No request will be submitted any more: ends those that wait for something that may never
    /// happen (held back by the error bdev). The channel may be dropped once [`Self::in_flight`]
    /// is zero, the base's channel after that.
    pub fn close(&mut self, out: &mut IoQueue) {
        if let Self::Error(channel) = self {
            channel.close(out);
        }
    }

    /// Requests that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match self {
            Self::Null(_) => 0,
            Self::Malloc(channel) => channel.in_flight(),
            Self::Uring(channel) => channel.in_flight(),
            Self::Error(channel) => channel.in_flight(),
            Self::Delay(channel) => channel.in_flight(),
        }
    }
}
