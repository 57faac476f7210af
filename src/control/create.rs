//! `mdof create`: an array on files and block devices, made without a running target.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::examine::{self, Content};
use super::level::LevelChoice;
use super::member_file::{self, Found, MemberFileError};
use super::names;
use super::units::{self, size_text};
use crate::bdev::DeviceError;
use crate::bdev::uring::{UringDevice, UringOptions};
use crate::md::{
    self, CreateLevelError, Creation, InitialState, Level, LevelCreation, NewArray, NewMember,
    SECTOR_BYTES, SUPERBLOCK_READ_BYTES, Superblock, candidate_sectors,
};
use crate::raid::geometry::{Geometry, Shape};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the array.
    pub name: String,
    /// Level, layout and strip.
    pub level: LevelChoice,
    /// Files and block devices, in slot order.
    pub members: Vec<PathBuf>,
    /// Size of the files that do not exist yet.
    pub new_file_bytes: Option<u64>,
    /// File or block device for the bitmap, which then is not on the members.
    pub bitmap_file: Option<PathBuf>,
    /// Bytes a bitmap chunk covers; `None` lets mdof choose.
    pub chunk_bytes: Option<u64>,
    /// Logical block size; `None` takes the device's own, 512 for a file.
    pub block_size_bytes: Option<u32>,
    /// The members are known to be equal.
    pub assume_clean: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Overwrite members that hold something.
    pub force: bool,
}

/// Why no array was made: one sentence.
#[derive(Debug, thiserror::Error)]
pub enum CreateArrayError {
    /// A member file.
    #[error(transparent)]
    MemberFile(#[from] MemberFileError),
    /// A member that cannot be opened, or is in use.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The members do not make an array.
    #[error("array {name}: {source}{members}")]
    Plan {
        /// The array.
        name: String,
        /// Why.
        source: CreateLevelError,
        /// Which member has which number, where the reason speaks of one.
        members: String,
    },
    /// What was asked for makes no sense, or would destroy something.
    #[error("{0}")]
    Refused(String),
    /// A write failed.
    #[error(
        "cannot write the metadata of {path}: {source}; the array is incomplete, and nothing but \
         mdof create --force will use its members"
    )]
    Write {
        /// The member.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A member to be.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    found: Found,
    /// What is on it, where it is not blank.
    carries: Option<String>,
    /// Held open, and so locked against other targets, once it exists.
    device: Option<Arc<UringDevice>>,
    /// The file was made just now.
    is_made: bool,
}

/// Makes the array, or with [`Options::dry_run`] finds out whether it could be made. Returns what
/// the operator reads.
///
/// # Errors
/// One sentence; with all but [`CreateArrayError::Write`] nothing has been changed.
pub fn create(options: &Options) -> Result<String, CreateArrayError> {
    names::check_array_name(&options.name).map_err(CreateArrayError::Refused)?;
    let mut places = places(options)?;
    let bitmap = bitmap_place(options, &places)?;
    check_loss(options, &places)?;
    check_loss(options, bitmap.as_slice())?;
    for place in places.iter_mut().filter(|place| place.found != Found::Missing) {
        place.open(options)?;
    }
    let set_uuid = Uuid::new_v4();
    let creation = plan(options, set_uuid, &places)?;
    let text = plan_text(options, &creation, &places);
    if options.dry_run {
        return Ok(text + "nothing was written (--dry-run)\n");
    }
    let creation = match make_files(options, &mut places) {
        Ok(()) => plan(options, set_uuid, &places),
        Err(error) => Err(error),
    };
    let creation = creation.inspect_err(|_| remove_new_files(&places))?;
    if let (Some(place), LevelCreation::Bitmap(creation)) = (bitmap, &creation) {
        write_bitmap(creation, place)?;
    }
    write(&creation, &places)?;
    let paths = options.members.iter().map(|path| quoted(path));
    let bitmap = options.bitmap_file.iter().map(|path| format!("--bitmap-file {}", quoted(path)));
    Ok(format!(
        "{text}created, array uuid {}\nserve it with:  mdof assemble {}\n",
        creation.superblocks()[0].set_uuid_text(),
        bitmap.chain(paths).collect::<Vec<_>>().join(" ")
    ))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Looks at the members without changing them.
fn places(options: &Options) -> Result<Vec<Place>, CreateArrayError> {
    let mut places: Vec<Place> = Vec::with_capacity(options.members.len());
    for given in &options.members {
        let path = std::path::absolute(given)
            .map_err(|error| CreateArrayError::Refused(format!("{}: {error}", given.display())))?;
        let path = path.canonicalize().unwrap_or(path);
        if places.iter().any(|place| place.path == path) {
            return Err(CreateArrayError::Refused(format!("{} is given twice", path.display())));
        }
        let found = member_file::inspect(&path)?;
        if found == Found::Missing && options.new_file_bytes.is_none() {
            return Err(CreateArrayError::Refused(format!(
                "{} does not exist; --size SIZE lets mdof make it as a sparse file",
                path.display()
            )));
        }
        let carries = (found == Found::Data).then(|| carries(&path));
        places.push(Place { path, found, carries, device: None, is_made: false });
    }
    Ok(places)
}

/// Looks at the place of an external bitmap without changing it.
fn bitmap_place(options: &Options, members: &[Place]) -> Result<Option<Place>, CreateArrayError> {
    let Some(given) = &options.bitmap_file else { return Ok(None) };
    let path = std::path::absolute(given)
        .map_err(|error| CreateArrayError::Refused(format!("{}: {error}", given.display())))?;
    let path = path.canonicalize().unwrap_or(path);
    if members.iter().any(|place| place.path == path) {
        let text = format!("{} is a member: the bitmap takes a file of its own", path.display());
        return Err(CreateArrayError::Refused(text));
    }
    let found = member_file::inspect(&path)?;
    let carries = (found == Found::Data).then(|| carries(&path));
    Ok(Some(Place { path, found, carries, device: None, is_made: false }))
}

/// Makes the file of an external bitmap where it is missing, and writes it, durably.
fn write_bitmap(creation: &Creation, mut place: Place) -> Result<(), CreateArrayError> {
    let area = creation.bitmap_area();
    if place.found == Found::Missing {
        member_file::check_room(&place.path, 1)?;
        let bytes = (area.len() as u64).max(md::BITMAP_AREA_BYTES_MAX);
        member_file::create_sparse(&place.path, bytes)?;
    }
    let block = creation.superblocks[0].logical_block_size;
    let device = place.open_with(Some(block))?;
    let have = device.geometry().size_bytes();
    if have < area.len() as u64 {
        return Err(CreateArrayError::Refused(format!(
            "{} has {have} bytes, the bitmap takes {}; no member was written",
            place.path.display(),
            area.len()
        )));
    }
    place.write(|file, _| file.write_all_at(&area, 0))
}

/// What is on a member that is not blank.
fn carries(path: &Path) -> String {
    match examine::probe(path).content {
        Content::Member(member) => {
            let superblock = &member.candidate.superblock;
            let name = superblock.name().escape_debug().to_string();
            format!("is a member of array {name} ({})", superblock.set_uuid_text())
        }
        Content::Damaged(why) => format!("carries md metadata ({why})"),
        Content::NoSuperblock(_) | Content::Unreadable(_) => "holds data".to_owned(),
    }
}

fn check_loss(options: &Options, places: &[Place]) -> Result<(), CreateArrayError> {
    if options.force {
        return Ok(());
    }
    let told = |place: &Place| {
        place.carries.as_ref().map(|carries| format!("{} {carries}", place.path.display()))
    };
    let told: Vec<String> = places.iter().filter_map(told).collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(CreateArrayError::Refused(format!(
        "{}; nothing was written: --force makes the array all the same, and what they hold is lost",
        told.join("; ")
    )))
}

impl Place {
    fn open(&mut self, options: &Options) -> Result<(), DeviceError> {
        self.open_with(options.block_size_bytes).map(|_| ())
    }

    fn open_with(&mut self, block_size_bytes: Option<u32>) -> Result<&UringDevice, DeviceError> {
        let device = UringDevice::open(UringOptions {
            name: self.path.display().to_string(),
            path: self.path.clone(),
            block_size_bytes,
            uuid: Uuid::nil(),
        })?;
        Ok(self.device.insert(device))
    }

    /// Sectors and logical block size; of a file that is to be made, what was asked for.
    fn geometry(&self, options: &Options) -> (u64, u32) {
        match &self.device {
            Some(device) => {
                let geometry = device.geometry();
                (geometry.size_bytes() / SECTOR_BYTES, geometry.block_size_bytes)
            }
            None => {
                let bytes = options.new_file_bytes.unwrap_or(0);
                (bytes / SECTOR_BYTES, options.block_size_bytes.unwrap_or(512))
            }
        }
    }
}

fn plan(
    options: &Options,
    set_uuid: Uuid,
    places: &[Place],
) -> Result<LevelCreation, CreateArrayError> {
    if options.bitmap_file.is_some() && options.level.level != Level::Raid1 {
        let text = "--bitmap-file is for raid1 only".to_owned();
        return Err(CreateArrayError::Refused(text));
    }
    let member = |place: &Place| {
        let (device_sectors, logical_block_size) = place.geometry(options);
        let device_uuid = Uuid::new_v4().into_bytes();
        NewMember { device_sectors, logical_block_size, device_uuid }
    };
    let array = NewArray {
        name: options.name.clone(),
        set_uuid: set_uuid.into_bytes(),
        ctime: units::now(),
        assume_clean: options.assume_clean,
        members: places.iter().map(member).collect(),
    };
    let level = options.level.with_bitmap(true, options.chunk_bytes);
    let planned = md::create_level(&array, &level).map_err(|source| {
        let number =
            |(index, place): (usize, &Place)| format!("member {index} is {}", place.path.display());
        let members: Vec<String> = places.iter().enumerate().map(number).collect();
        let speaks_of_one = source.to_string().contains("member ");
        let members =
            if speaks_of_one { format!(" ({})", members.join(", ")) } else { String::new() };
        CreateArrayError::Plan { name: options.name.clone(), source, members }
    });
    planned.map(|mut creation| {
        if let (LevelCreation::Bitmap(creation), Some(_)) = (&mut creation, &options.bitmap_file) {
            creation.make_external();
        }
        creation
    })
}

/// Layout and strip of a level that has any.
fn shape_text(superblock: &Superblock) -> String {
    let strip = u64::from(superblock.chunk_sectors) * SECTOR_BYTES;
    let layout = md::layout_name(superblock.level, superblock.layout_word());
    let layout = layout.map_or(String::new(), |name| format!(" ({name})"));
    match strip {
        0 => layout,
        strip => format!("{layout} in strips of {}", size_text(strip)),
    }
}

/// What hosts will see.
fn array_bytes(superblock: &Superblock, slots: usize, members: &[Superblock]) -> u64 {
    let member_sectors: Vec<u64> = members.iter().map(|it| it.data_size_sectors).collect();
    let shape = Shape {
        level: superblock.level.number(),
        layout: superblock.layout_word(),
        raid_disks: u32::try_from(slots).unwrap_or(u32::MAX),
        chunk_sectors: superblock.chunk_sectors,
        size_sectors: superblock.size_sectors,
        member_sectors: &member_sectors,
        block_size_bytes: superblock.logical_block_size,
    };
    let block = u64::from(superblock.logical_block_size);
    Geometry::new(&shape).map_or(0, |geometry| geometry.blocks() * block)
}

fn plan_text(options: &Options, creation: &LevelCreation, places: &[Place]) -> String {
    let superblock = &creation.superblocks()[0];
    let bytes = |sectors: u64| size_text(sectors * SECTOR_BYTES);
    let mut text = format!(
        "array {}: {}{} of {} members, {}, logical blocks of {} bytes\n",
        options.name,
        superblock.level.name().to_uppercase(),
        shape_text(superblock),
        places.len(),
        size_text(array_bytes(superblock, places.len(), creation.superblocks())),
        superblock.logical_block_size
    );
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "  {key:12}{value}");
    };
    let (at, data) =
        (bytes(superblock.super_offset_sectors), bytes(superblock.data_offset_sectors));
    match creation {
        LevelCreation::Bitmap(creation) => {
            let state = match creation.initial_state {
                InitialState::Unwritten => "unwritten: they read as zeroes until they are written",
                InitialState::Clean => {
                    "clean: they read as what the members hold, taken to be equal"
                }
            };
            let chunk = u64::from(creation.bitmap.chunk_sectors().unwrap_or(0));
            line("chunks", format!("{} of {}, {state}", creation.chunk_count, bytes(chunk)));
            let place = match &options.bitmap_file {
                None => format!("at {}", bytes(creation.bitmap_sector)),
                Some(path) => format!("in {}", path.display()),
            };
            let area = bytes(creation.bitmap_area_sectors);
            let text =
                format!("superblock at {at}, bitmap {place} ({area} set aside), data from {data}");
            line("layout", text);
        }
        LevelCreation::Plain { .. } => {
            line("layout", format!("superblock at {at}, data from {data}"));
        }
    }
    for (slot, place) in places.iter().enumerate() {
        let what = match (&place.carries, place.found) {
            (Some(carries), _) => format!("{carries}, WHICH IS LOST"),
            (None, Found::Missing) => "new file".to_owned(),
            (None, _) => "blank".to_owned(),
        };
        let (sectors, _) = place.geometry(options);
        let path = place.path.display();
        line(&format!("slot {slot}"), format!("{path}, {}, {what}", bytes(sectors)));
    }
    text
}

/// Makes the files that do not exist, and opens them.
fn make_files(options: &Options, places: &mut [Place]) -> Result<(), CreateArrayError> {
    let bytes = options.new_file_bytes.unwrap_or(0);
    let is_new = |place: &Place| place.device.is_none();
    let count = places.iter().filter(|place| is_new(place)).count() as u64;
    for place in places.iter().filter(|place| is_new(place)) {
        member_file::check_room(&place.path, count)?;
    }
    for place in places.iter_mut().filter(|place| is_new(place)) {
        member_file::create_sparse(&place.path, bytes)?;
        place.is_made = true;
        place.open(options)?;
    }
    Ok(())
}

/// After a failure: files that are ours and hold nothing go again.
fn remove_new_files(places: &[Place]) {
    for place in places.iter().filter(|place| place.is_made) {
        let _ = std::fs::remove_file(&place.path);
    }
}

/// Writes everything: old superblocks go first, then the bitmaps, durably on all members, before
/// the first superblock makes one of them a member.
fn write(creation: &LevelCreation, places: &[Place]) -> Result<(), CreateArrayError> {
    let has_own = creation.superblocks().iter().any(|own| own.bitmap_sector().is_some());
    let (area, sector) = match creation {
        LevelCreation::Bitmap(creation) if has_own => {
            (creation.bitmap_area(), creation.bitmap_sector)
        }
        _ => (Vec::new(), 0),
    };
    for place in places {
        place.write(|file, sectors| {
            if place.carries.is_some() {
                erase_superblocks(file, sectors)?;
            }
            file.write_all_at(&area, sector * SECTOR_BYTES)
        })?;
    }
    for (place, superblock) in places.iter().zip(creation.superblocks()) {
        place.write(|file, _| {
            let mut bytes = [0; SUPERBLOCK_READ_BYTES];
            superblock.encode_into(&mut bytes);
            file.write_all_at(&bytes, superblock.super_offset_sectors * SECTOR_BYTES)
        })?;
    }
    Ok(())
}

/// Zeroes each place where md looks for a superblock, that of version 0.90 among them.
fn erase_superblocks(file: &std::fs::File, device_sectors: u64) -> io::Result<()> {
    let old = (device_sectors & !127).checked_sub(128);
    for sector in candidate_sectors(device_sectors).chain(old) {
        file.write_all_at(&[0; SUPERBLOCK_READ_BYTES], sector * SECTOR_BYTES)?;
    }
    file.sync_all()
}

impl Place {
    /// Writes to the member, and waits until it is durable.
    fn write(
        &self,
        body: impl FnOnce(&std::fs::File, u64) -> io::Result<()>,
    ) -> Result<(), CreateArrayError> {
        let device = self.device.as_ref().expect("every member is open by now");
        let sectors = device.geometry().size_bytes() / SECTOR_BYTES;
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| body(&file, sectors).and_then(|()| file.sync_all()))
            .map_err(|source| CreateArrayError::Write { path: self.path.clone(), source })
    }
}
