//! The core's table of bdevs and arrays.

use crate::bdev::{self, BdevId};
use crate::limits::BDEVS_MAX;
use crate::raid;

/// An array on this core.
#[derive(Debug)]
pub(super) struct Array {
    pub(super) name: Box<str>,
    pub(super) channel: raid::Channel,
    /// Here only if this core owns the array.
    pub(super) owner: Option<Box<raid::Owner>>,
    pub(super) owner_core: u16,
    /// Tells its timers from those of an array that had its place in the table before.
    pub(super) generation: u32,
}

/// One entry of the table.
#[derive(Debug)]
pub(super) enum Slot {
    /// A bdev that executes requests itself, or a filter over one.
    Device(bdev::Channel),
    /// An array.
    Array(Box<Array>),
}

impl Slot {
    /// Requests that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        match self {
            Self::Device(channel) => channel.in_flight(),
            Self::Array(array) => array.channel.in_flight(),
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Channels {
    slots: Box<[Option<Slot>]>,
}

impl Channels {
    pub(super) fn new() -> Self {
        Self { slots: (0..BDEVS_MAX).map(|_| None).collect() }
    }

    pub(super) fn open(&mut self, bdev: BdevId, slot: Slot) {
        let entry = &mut self.slots[usize::from(bdev.0)];
        assert!(entry.is_none(), "bdev {} is open already", bdev.0);
        *entry = Some(slot);
    }

    pub(super) fn close(&mut self, bdev: BdevId) -> Option<Slot> {
        self.slots[usize::from(bdev.0)].take()
    }

    /// The bdev's channel; `None` if it was closed meanwhile.
    pub(super) fn get(&mut self, bdev: BdevId) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(bdev.0))?.as_mut()
    }

    /// The array's part on this core; `None` if it was closed meanwhile.
    pub(super) fn array(&mut self, bdev: BdevId) -> Option<&mut Array> {
        match self.get(bdev)? {
            Slot::Array(array) => Some(array),
            Slot::Device(_) => None,
        }
    }

    /// The device's channel; `None` if it was closed meanwhile.
    pub(super) fn device(&mut self, bdev: BdevId) -> Option<&mut bdev::Channel> {
        match self.get(bdev)? {
            Slot::Device(channel) => Some(channel),
            Slot::Array(_) => None,
        }
    }
}
