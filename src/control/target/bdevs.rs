//! Making and unmaking bdevs that are not arrays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::members::DRAIN_WAIT;
use super::{Backing, Bdev, Target, TargetError};
use crate::bdev::delay::DelayDevice;
use crate::bdev::error::ErrorDevice;
use crate::bdev::malloc::MallocDevice;
use crate::bdev::null::NullDevice;
use crate::bdev::uring::{UringDevice, UringOptions};
use crate::bdev::{BdevId, Device, DeviceError};
use crate::control::config::DelayLatency;
use crate::control::names;
use crate::limits::BDEVS_MAX;
use crate::reactor::dma;

/// A bdev to be made.
#[derive(Debug, Clone)]
pub enum BdevSpec {
    /// Memory.
    Malloc {
        /// Logical block size.
        block_size_bytes: u32,
        /// Size in logical blocks.
        blocks: u64,
    },
    /// Forgets writes.
    Null {
        /// Logical block size.
        block_size_bytes: u32,
        /// Size in logical blocks.
        blocks: u64,
    },
    /// File or block device.
    Uring {
        /// Where it is.
        path: PathBuf,
        /// Logical block size; `None` is the device's own.
        block_size_bytes: Option<u32>,
    },
    /// Fails requests to `base` on command.
    Error {
        /// The bdev below.
        base: String,
    },
    /// Passes requests to `base` on.
    Passthru {
        /// The bdev below.
        base: String,
    },
    /// Delays requests to `base`.
    Delay {
        /// The bdev below.
        base: String,
        /// By how much.
        latency: DelayLatency,
    },
}

impl BdevSpec {
    /// The bdev below a filter.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        match self {
            Self::Error { base } | Self::Passthru { base } | Self::Delay { base, .. } => Some(base),
            Self::Malloc { .. } | Self::Null { .. } | Self::Uring { .. } => None,
        }
    }

    /// The file or device behind it.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Uring { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl From<DeviceError> for TargetError {
    fn from(error: DeviceError) -> Self {
        let text = error.to_string();
        match error {
            DeviceError::NotFound { .. } => Self::NotFound(text),
            DeviceError::InUse { .. } => Self::Busy(text),
            DeviceError::Os { .. } | DeviceError::Permission { .. } => Self::Io(text),
            DeviceError::Memory { .. } => Self::NoSpace(text),
            _ => Self::Invalid(text),
        }
    }
}

impl Target {
    /// A free name that begins with `prefix`, for callers that give none.
    pub fn auto_name(&mut self, prefix: &str) -> String {
        loop {
            let name = format!("{prefix}{}", self.next_auto_name);
            self.next_auto_name += 1;
            if !self.bdevs.contains_key(&name) {
                return name;
            }
        }
    }

    /// Refuses a name for a new bdev that is taken or no name, and a full table.
    pub(super) fn check_new_name(&self, name: &str) -> Result<(), TargetError> {
        names::check_bdev_name(name).map_err(TargetError::Invalid)?;
        if self.bdevs.contains_key(name) {
            return Err(TargetError::Exists(format!("a bdev called {name} exists already")));
        }
        if self.waiting.contains_key(name) {
            let text = format!("an array called {name} waits for its members");
            return Err(TargetError::Exists(text));
        }
        if self.bdevs.len() >= BDEVS_MAX {
            return Err(TargetError::NoSpace(format!(
                "{BDEVS_MAX} bdevs exist, the most there can"
            )));
        }
        Ok(())
    }

    /// Makes a bdev, and looks whether an array waits for it.
    pub fn create_bdev(
        &mut self,
        name: &str,
        uuid: Option<Uuid>,
        spec: &BdevSpec,
    ) -> Result<(), TargetError> {
        self.make_bdev(name, uuid, spec)?;
        self.bdev_appeared(name);
        Ok(())
    }

    /// Makes a bdev.
    pub(super) fn make_bdev(
        &mut self,
        name: &str,
        uuid: Option<Uuid>,
        spec: &BdevSpec,
    ) -> Result<(), TargetError> {
        self.check_new_name(name)?;
        let uuid = uuid.unwrap_or_else(Uuid::new_v4);
        if let Some(other) = self.bdevs.values().find(|bdev| bdev.geometry.uuid == uuid) {
            let other = &other.geometry.name;
            return Err(TargetError::Exists(format!("bdev {other} has the UUID {uuid} already")));
        }
        let mut below = None;
        let device = match spec {
            BdevSpec::Malloc { block_size_bytes, blocks } => {
                let device = MallocDevice::new(name, uuid, *block_size_bytes, *blocks)?;
                if device.backing() == dma::Backing::Hugepages {
                    tracing::info!("bdev {name}: all its memory is taken now, in hugepages");
                }
                Device::Malloc(device)
            }
            // Reads return zeroes: a namespace must not show a host what other hosts' I/O left
            // in a buffer.
            BdevSpec::Null { block_size_bytes, blocks } => {
                Device::Null(NullDevice::new(name, uuid, *block_size_bytes, *blocks, true)?)
            }
            BdevSpec::Uring { path, block_size_bytes } => {
                Device::Uring(UringDevice::open(UringOptions {
                    name: name.to_owned(),
                    path: path.clone(),
                    block_size_bytes: *block_size_bytes,
                    uuid,
                })?)
            }
            BdevSpec::Error { base } => {
                let bdev = self.free_bdev(base)?;
                below = Some(bdev.geometry.name.clone());
                Device::Error(ErrorDevice::new(name, uuid, bdev.id, &bdev.geometry))
            }
            BdevSpec::Passthru { base } => {
                let bdev = self.free_bdev(base)?;
                below = Some(bdev.geometry.name.clone());
                Device::Error(ErrorDevice::passthru(name, uuid, bdev.id, &bdev.geometry))
            }
            BdevSpec::Delay { base, latency } => {
                let bdev = self.free_bdev(base)?;
                below = Some(bdev.geometry.name.clone());
                let latencies = [
                    latency.avg_read_us,
                    latency.p99_read_us,
                    latency.avg_write_us,
                    latency.p99_write_us,
                ];
                Device::Delay(DelayDevice::new(name, uuid, bdev.id, &bdev.geometry, latencies))
            }
        };
        let geometry = device.geometry().clone();
        let id = self.engine.add_bdev(device.clone())?;
        let bdev = Bdev { id, geometry, backing: Backing::Device(device), user: None };
        self.bdevs.insert(name.to_owned(), bdev);
        self.notices.add("bdev_register", name, None, String::new());
        if let Some(below) = below {
            self.set_user(&below, Some(format!("bdev {name}")));
        }
        Ok(())
    }

    /// Unmakes a bdev of the kind that `is_kind` wants; arrays are deleted by
    /// [`Target::delete_array`].
    pub fn delete_bdev(
        &mut self,
        name: &str,
        kind: &str,
        is_kind: fn(&Device) -> bool,
    ) -> Result<(), TargetError> {
        let bdev = self.bdev(name)?;
        let name = bdev.geometry.name.clone();
        let id = match &bdev.backing {
            Backing::Device(device) if is_kind(device) => bdev.id,
            _ => return Err(TargetError::Invalid(format!("bdev {name} is no {kind} bdev"))),
        };
        // An array that waits has no claim yet.
        self.leave_waiting(&name);
        self.free_bdev(&name)?;
        if self.let_go(&name, id) {
            return Ok(());
        }
        Err(TargetError::Busy(format!(
            "bdev {name} is being deleted and has requests that it has not ended for {} s. It \
             takes no others, and is gone when it has ended them",
            DRAIN_WAIT.as_secs()
        )))
    }

    /// Unmakes a bdev that nobody uses any more. One whose requests do not end soon goes when they
    /// have; says whether it is gone.
    pub(super) fn let_go(&mut self, name: &str, id: BdevId) -> bool {
        self.engine.begin_removal(id);
        let is_gone = self.engine.removed_in(id, DRAIN_WAIT);
        if is_gone {
            self.bdev_is_gone(name);
        } else {
            self.set_user(name, Some("its own deletion".to_owned()));
            self.deleting.push((name.to_owned(), id));
        }
        is_gone
    }

    fn bdev_is_gone(&mut self, name: &str) {
        let bdev = self.bdevs.remove(name).expect("it was there until now");
        self.notices.add("bdev_unregister", name, None, String::new());
        let Backing::Device(device) = bdev.backing else { return };
        let below = device.base().and_then(|below| self.name_of(below)).map(str::to_owned);
        if let Some(below) = below {
            self.set_user(&below, None);
        }
    }

    /// Bdevs go that were to, and have ended their requests since somebody looked last.
    pub(super) fn look_at_deletions(&mut self) {
        for (name, id) in std::mem::take(&mut self.deleting) {
            if self.engine.removed_in(id, Duration::ZERO) {
                self.bdev_is_gone(&name);
                tracing::info!("bdev {name} is gone at last");
            } else {
                self.deleting.push((name, id));
            }
        }
    }
}
