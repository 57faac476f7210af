//! The control thread's picture of the running target: which bdevs there are, who uses them, and
//! what hosts can reach. Every change is checked here first and then handed to the engine.

mod arrays;
mod bdevs;
mod events;
mod external;
mod grow;
mod keys;
mod members;
mod metadata;
mod nvmf;
mod paths;
mod ppl;
mod replace;
mod resize;
mod settings;
mod spares;
mod stop;
mod stripe_log;
mod takeover;
mod waiting;

use std::collections::BTreeMap;

use rustix::io::Errno;
use uuid::Uuid;

pub use arrays::{ArrayOptions, CreateOptions, Members, Permit, StartedHow};
pub use bdevs::BdevSpec;
pub use events::{EVENT_TYPES, EVENTS_MAX, Notice};
pub use external::{BitmapPlace, External};
pub use keys::KeyNames;
pub use members::Which;
pub use nvmf::{NewListener, NewNamespace, Transport, listen_error};
pub use replace::{Leaving, Replacing};
pub use settings::{ProcessOptions, SCRUB_EVERY_HOURS_MAX, Settings};
pub use spares::Spare;
pub use stop::{Stopping, Unclean};
pub use takeover::Takeover;
pub use waiting::{AbsentBdev, NewArrayWish, Waiting};

use events::Notices;

use crate::bdev::{BdevId, Device, Geometry, IoStatus};
use crate::control::keyring::Keyring;
use crate::control::rpc::RpcError;
use crate::engine::IoFault;
use crate::engine::handle::{EngineError, EngineHandle};
use crate::md::{Level, SECTOR_BYTES, Superblock};
use crate::raid::MemberSlot;
use crate::target::subsystem::SubsystemTable;

/// Why a change was refused. The target is then as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The name is taken, or the members belong to something else already.
    #[error("{0}")]
    Exists(String),
    /// No object of this name.
    #[error("{0}")]
    NotFound(String),
    /// Something else uses it.
    #[error("{0}")]
    Busy(String),
    /// What is asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No room left, in a table or on a device.
    #[error("{0}")]
    NoSpace(String),
    /// No key of this name.
    #[error("{0}")]
    NoKey(String),
    /// A key's file can be read by others.
    #[error("{0}")]
    Forbidden(String),
    /// A device or the system failed.
    #[error("{0}")]
    Io(String),
    /// An array is not to start without members that are not here.
    #[error("{0}")]
    Lacking(String),
}

impl From<TargetError> for RpcError {
    fn from(error: TargetError) -> Self {
        let errno = match &error {
            TargetError::Exists(_) => Errno::EXIST,
            TargetError::NotFound(_) => Errno::NODEV,
            TargetError::Busy(_) => Errno::BUSY,
            TargetError::Invalid(_) | TargetError::Lacking(_) => Errno::INVAL,
            TargetError::NoSpace(_) => Errno::NOSPC,
            TargetError::NoKey(_) => Errno::NOKEY,
            TargetError::Forbidden(_) => Errno::PERM,
            TargetError::Io(_) => Errno::IO,
        };
        Self::errno(errno, error.to_string())
    }
}

impl From<EngineError> for TargetError {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        match error {
            EngineError::TooManyBdevs | EngineError::Io { status: IoStatus::NoSpace, .. } => {
                Self::NoSpace(text)
            }
            EngineError::Refused(_) => Self::Invalid(text),
            _ => Self::Io(text),
        }
    }
}

/// A request of the control plane that failed: `what` is how the sentence begins.
fn io_error(what: &str, status: IoStatus) -> TargetError {
    let how = match status {
        IoStatus::Ok => "success",
        IoStatus::MediaError => "an I/O error",
        IoStatus::OutOfRange => "a request outside the device",
        IoStatus::Unsupported => "an operation that the device does not support",
        IoStatus::NoSpace => "no space left on the device",
        IoStatus::CompareMismatch => "a mismatch",
        IoStatus::Aborted => "an aborted request",
        IoStatus::Removed => "the device being gone",
    };
    let text = format!("{what} ended with {how}");
    if status == IoStatus::NoSpace { TargetError::NoSpace(text) } else { TargetError::Io(text) }
}

/// The same, also if it has not ended.
fn io_fault(what: &str, fault: IoFault) -> TargetError {
    match fault {
        IoFault::Status(status) => io_error(what, status),
        IoFault::NoAnswer => TargetError::Busy(format!(
            "{what}: it does not answer. It may yet, and is of no use to anybody before that"
        )),
    }
}

/// A bdev and who uses it.
#[derive(Debug)]
pub struct Bdev {
    /// Its place in the engine.
    pub id: BdevId,
    /// Its fixed properties.
    pub geometry: Geometry,
    /// What is behind it.
    pub backing: Backing,
    /// Who uses it: "array raid1", "bdev EE_a", "subsystem nqn...". A bdev has one user.
    pub user: Option<String>,
}

/// What is behind a bdev.
#[derive(Debug)]
pub enum Backing {
    /// A device of its own, or a filter.
    Device(Device),
    /// An array.
    Array(Array),
}

/// How an array's data lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayShape {
    /// Level.
    pub level: Level,
    /// md's word for its layout.
    pub layout: u32,
    /// Bytes of a strip; 0 for a level without.
    pub strip_bytes: u64,
}

impl ArrayShape {
    /// As a superblock says it.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            level: superblock.level,
            layout: superblock.layout_word(),
            strip_bytes: u64::from(superblock.chunk_sectors) * SECTOR_BYTES,
        }
    }
}

/// What control remembers of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Identity, as in the members' superblocks.
    pub uuid: Uuid,
    /// Level, layout and strip.
    pub shape: ArrayShape,
    /// Member bdevs by slot, `None` where the array started without.
    pub members: Vec<Option<Member>>,
    /// What takes the place of members, which are let go.
    pub replacing: Box<Replacing>,
    /// First data block on the members, in their logical blocks.
    pub data_offset_blocks: u64,
    /// Whether there is a bitmap.
    pub bitmap: bool,
    /// Where it lies, if not on the members.
    pub external: Option<External>,
    /// Levels with parity: the stripe log is kept, or why not.
    pub stripe_log: Option<Result<(), String>>,
    /// Slots that it was started without though it counted on their members: these may come back
    /// by themselves.
    pub awaited: Vec<MemberSlot>,
    /// When its resync began, and its check, in seconds since 1970.
    pub resync_began_s: u64,
    /// See there.
    pub scrub_began_s: u64,
    /// It was told that it is degraded, and not yet that it is whole again.
    pub is_degraded: bool,
    /// Blocks that it is to have: it was growing when somebody looked last.
    pub grows_to: Option<u64>,
    /// Nobody named it: it was found on its members, and will be again.
    pub is_found: bool,
}

impl Array {
    /// The bdevs that it uses as members: those in slots, what replaces one, and those that leave.
    pub(super) fn every_member(&self) -> impl Iterator<Item = &Member> {
        let leaving = self.replacing.leaving.iter().map(|it| &it.member);
        self.members.iter().flatten().chain(&self.replacing.newcomer).chain(leaving)
    }
}

/// A member as control remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of its bdev.
    pub name: String,
    /// Identity in its superblock.
    pub uuid: Uuid,
}

/// The running target. Owned by the control thread.
#[derive(Debug)]
pub struct Target {
    engine: EngineHandle,
    cores: Vec<usize>,
    /// By name.
    bdevs: BTreeMap<String, Bdev>,
    /// Numbers for names that the caller leaves to us ("Malloc3").
    next_auto_name: u32,
    table: SubsystemTable,
    transport: Option<Transport>,
    keyring: Keyring,
    /// Bdevs that take the place of members that fail.
    spares: Vec<Spare>,
    /// What is set of arrays, by name.
    settings: BTreeMap<String, Settings>,
    /// What holds for arrays without settings of their own.
    process_options: ProcessOptions,
    /// Arrays that wait for members, by name.
    waiting: BTreeMap<String, Waiting>,
    /// Arrays that are being stopped, by name; they are among the bdevs until they have.
    stopping: BTreeMap<String, Stopping>,
    /// Bdevs that go when their requests have ended.
    deleting: Vec<(String, BdevId)>,
    /// Bdevs whose file or device is not there yet.
    absent: Vec<AbsentBdev>,
    /// New bdevs are looked at for arrays that they belong to.
    auto_assemble: bool,
    /// What has happened.
    notices: Notices,
}

impl Target {
    /// A target without anything on a running engine.
    #[must_use]
    pub fn new(engine: EngineHandle, cores: Vec<usize>) -> Self {
        Self {
            engine,
            cores,
            bdevs: BTreeMap::new(),
            next_auto_name: 0,
            table: SubsystemTable::default(),
            transport: None,
            keyring: Keyring::default(),
            spares: Vec::new(),
            settings: BTreeMap::new(),
            process_options: ProcessOptions::default(),
            waiting: BTreeMap::new(),
            stopping: BTreeMap::new(),
            deleting: Vec::new(),
            absent: Vec::new(),
            auto_assemble: false,
            notices: Notices::default(),
        }
    }

    /// CPUs that reactors run on.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// The engine, for a program that runs workloads on its cores. Bdevs come and go through the
    /// target only.
    pub fn engine(&mut self) -> &mut EngineHandle {
        &mut self.engine
    }

    /// All bdevs by name.
    pub fn bdevs(&self) -> impl Iterator<Item = (&str, &Bdev)> {
        self.bdevs.iter().map(|(name, bdev)| (name.as_str(), bdev))
    }

    /// The bdev called `name`; its UUID is an alias.
    pub fn bdev(&self, name: &str) -> Result<&Bdev, TargetError> {
        if let Some(bdev) = self.bdevs.get(name) {
            return Ok(bdev);
        }
        let uuid = Uuid::try_parse(name).ok();
        self.bdevs
            .values()
            .find(|bdev| uuid.is_some_and(|uuid| bdev.geometry.uuid == uuid))
            .ok_or_else(|| TargetError::NotFound(format!("there is no bdev {name}")))
    }

    /// Like [`Self::bdev`], by its own name, which is returned, too.
    fn resolve(&self, name: &str) -> Result<String, TargetError> {
        Ok(self.bdev(name)?.geometry.name.clone())
    }

    /// Name of a bdev by its place in the engine.
    #[must_use]
    pub fn name_of(&self, id: BdevId) -> Option<&str> {
        self.bdevs().find(|(_, bdev)| bdev.id == id).map(|(name, _)| name)
    }

    /// A bdev that nobody uses.
    fn free_bdev(&self, name: &str) -> Result<&Bdev, TargetError> {
        let bdev = self.bdev(name)?;
        match &bdev.user {
            None if self.engine.is_late(bdev.id) => Err(TargetError::Busy(format!(
                "bdev {name} has not answered a request yet that was given up"
            ))),
            None => Ok(bdev),
            Some(user) => Err(TargetError::Busy(format!("bdev {name} is in use by {user}"))),
        }
    }

    /// Notes who uses a bdev.
    fn set_user(&mut self, name: &str, user: Option<String>) {
        let bdev = self.bdevs.get_mut(name).expect("the caller has resolved the name");
        assert!(bdev.user.is_none() || user.is_none(), "bdev {name} has a user already");
        bdev.user = user;
    }
}
