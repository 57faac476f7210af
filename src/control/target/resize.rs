//! Bdevs whose file or device has another size than it had, and null bdevs that are given one.
//!
//! Larger is always possible: a namespace becomes larger under its hosts, who are told; an array
//! takes its larger members when it is told to (`bdev_raid_grow`). Smaller is refused while
//! anything uses the bdev.

use super::{Backing, Target, TargetError};
use crate::bdev::Device;

impl Target {
    /// Looks how large the file or device of a uring bdev is now. Returns its blocks.
    ///
    /// # Errors
    /// If it is no uring bdev, can't be looked at, or has become smaller under somebody's hands.
    pub fn rescan_bdev(&mut self, name: &str) -> Result<u64, TargetError> {
        let name = self.resolve(name)?;
        let Backing::Device(Device::Uring(device)) = &self.bdev(&name)?.backing else {
            return Err(TargetError::Invalid(format!("bdev {name} is no uring bdev")));
        };
        let device = device.rescanned()?;
        self.resize_device(&name, Device::Uring(device))
    }

    /// Gives a null bdev another size.
    ///
    /// # Errors
    /// If it is no null bdev, the size is not possible, or smaller while somebody uses it.
    pub fn resize_null(&mut self, name: &str, size_bytes: u64) -> Result<u64, TargetError> {
        let name = self.resolve(name)?;
        let bdev = self.bdev(&name)?;
        let Backing::Device(Device::Null(device)) = &bdev.backing else {
            return Err(TargetError::Invalid(format!("bdev {name} is no null bdev")));
        };
        let device = device.resized(size_bytes / u64::from(bdev.geometry.block_size_bytes))?;
        self.resize_device(&name, Device::Null(device))
    }

    /// Looks at the file or device that is behind a bdev, through filters.
    pub(super) fn rescan_below(&mut self, name: &str) -> Result<(), TargetError> {
        let mut name = name.to_owned();
        while let Backing::Device(device) = &self.bdev(&name)?.backing {
            match (device, device.base()) {
                (Device::Uring(_), _) => return self.rescan_bdev(&name).map(drop),
                (_, Some(base)) => match self.name_of(base) {
                    Some(below) => name = below.to_owned(),
                    None => break,
                },
                _ => break,
            }
        }
        Ok(())
    }

    fn resize_device(&mut self, name: &str, device: Device) -> Result<u64, TargetError> {
        let bdev = self.bdev(name)?;
        let (id, before, blocks) = (bdev.id, bdev.geometry.blocks, device.geometry().blocks);
        if blocks == before {
            return Ok(blocks);
        }
        if let Some(user) = bdev.user.as_ref().filter(|_| blocks < before) {
            return Err(TargetError::Busy(format!(
                "bdev {name} would have {blocks} blocks, and had {before}: it is in use by {user} \
                 and does not become smaller. What uses it may find its end missing: make the file \
                 or device as large as it was"
            )));
        }
        self.engine.resize_bdev(id, &device);
        let bdev = self.bdevs.get_mut(name).expect("it was there");
        bdev.backing = Backing::Device(device);
        tracing::info!("bdev {name} has {blocks} blocks now, and had {before}");
        self.take_blocks(name, blocks);
        Ok(blocks)
    }

    /// The bdev has so many blocks, and so have the filters over it and their namespaces.
    pub(super) fn take_blocks(&mut self, name: &str, blocks: u64) {
        let mut below = Some(name.to_owned());
        while let Some(name) = below {
            let Some(bdev) = self.bdevs.get_mut(&name) else { return };
            bdev.geometry.blocks = blocks;
            let id = bdev.id;
            self.engine.set_blocks(id, blocks);
            self.show_size(id, blocks);
            let base = |backing: &Backing| match backing {
                Backing::Device(device) => device.base(),
                Backing::Array(_) => None,
            };
            let mut above = self.bdevs().filter(|(_, bdev)| base(&bdev.backing) == Some(id));
            below = above.next().map(|(name, _)| name.to_owned());
        }
    }
}
