//! A bitmap on a bdev or in a file of its own: found, judged, read; the bdev of a file comes and
//! goes with its array. What becomes of it is decided in `md::external`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::takeover::{Given, Takeover};
use super::{BdevSpec, Target, TargetError};
use crate::bdev::BdevId;
use crate::bitmap::ChunkState;
use crate::control::member_file::{self, Found};
use crate::md::{
    self, Assembly, BITMAP_HEAD_BYTES, BitmapError, BitmapFlags, BitmapSuperblock, BitmapVersion,
    CLASSIC_BITS_OFFSET_BYTES, Creation, ExternalHead, ExternalPermits, ExternalPlan, SECTOR_BYTES,
    Superblock, classic_bits_bytes,
};
use crate::raid::ArrayConfig;
use crate::raid::assembly::{ArrayOptions, CandidateBdev, from_external};

/// Size of a file that mdof makes for a bitmap, sparse: chunks of 1 MiB up to 16 TiB fit.
const FILE_BYTES: u64 = md::BITMAP_AREA_BYTES_MAX;

/// What is read of a head: whole blocks of any size.
const HEAD_READ_BYTES: usize = 4096;

/// Where a bitmap lies that is not on the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapPlace {
    /// At the beginning of this bdev.
    Bdev(String),
    /// In this file; mdof makes it where a new bitmap is called for.
    File(PathBuf),
}

/// A place that is open: its bdev, which the array is to use alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Name of the bdev.
    pub bdev: String,
    /// It was made for a file, and goes with the array.
    pub(super) is_own: bool,
}

/// A bitmap that was found and judged.
struct Judged {
    plan: ExternalPlan,
    /// What a plan that has any begins with.
    states: Option<Vec<u8>>,
}

impl External {
    /// The bdev was made for a file, and goes with the array.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.is_own
    }
}

impl Target {
    /// Opens the place for an array with logical blocks of `block` bytes.
    fn open_external(
        &mut self,
        array: &str,
        place: &BitmapPlace,
        block: u32,
    ) -> Result<External, TargetError> {
        let external = match place {
            BitmapPlace::Bdev(name) => {
                External { bdev: self.free_bdev(name)?.geometry.name.clone(), is_own: false }
            }
            BitmapPlace::File(path) => {
                let bdev = format!("{array}-bitmap");
                let spec = BdevSpec::Uring { path: path.clone(), block_size_bytes: Some(block) };
                self.create_bdev(&bdev, None, &spec)?;
                External { bdev, is_own: true }
            }
        };
        let own = self.bdev(&external.bdev)?.geometry.block_size_bytes;
        if own != block {
            let bdev = &external.bdev;
            let text = format!(
                "array {array} has logical blocks of {block} bytes, the bdev {bdev} of its bitmap \
                 blocks of {own}; set block_size_bytes = {block} for it"
            );
            self.close_external(&external);
            return Err(TargetError::Invalid(text));
        }
        Ok(external)
    }

    /// Unmakes the bdev if it was made for the array.
    pub(super) fn close_external(&mut self, external: &External) {
        if !external.is_own {
            return;
        }
        if let Ok(id) = self.bdev(&external.bdev).map(|bdev| bdev.id) {
            self.let_go(&external.bdev, id);
        }
    }

    /// The place for the bitmap of a new array. Nothing is there, or what an interrupted creation
    /// of the same array has left.
    pub(super) fn new_external(
        &mut self,
        array: &str,
        place: &BitmapPlace,
        creation: &Creation,
    ) -> Result<External, TargetError> {
        let need_bytes = creation.bitmap_area_sectors * SECTOR_BYTES;
        if let BitmapPlace::File(path) = place
            && inspect(path)? == Found::Missing
        {
            make_file(path, need_bytes.max(FILE_BYTES))?;
        }
        let superblock = &creation.superblocks[0];
        let external = self.open_external(array, place, superblock.logical_block_size)?;
        let checked = self.check_new_external(array, &external.bdev, superblock, need_bytes);
        if let Err(error) = checked {
            self.close_external(&external);
            return Err(error);
        }
        Ok(external)
    }

    fn check_new_external(
        &mut self,
        array: &str,
        bdev: &str,
        superblock: &Superblock,
        need_bytes: u64,
    ) -> Result<(), TargetError> {
        let have_bytes = self.bdev(bdev)?.geometry.size_bytes();
        if have_bytes < need_bytes {
            return Err(TargetError::Invalid(format!(
                "array {array}: bdev {bdev} has {have_bytes} bytes, its bitmap takes {need_bytes}; \
                 nothing was written"
            )));
        }
        let area = self.read_bytes(bdev, 0, usize::try_from(need_bytes).expect("bounded"))?;
        let is_ours = BitmapSuperblock::parse_external(&area, superblock, have_bytes).is_ok();
        if !is_ours && area.iter().any(|&byte| byte != 0) {
            return Err(TargetError::Exists(format!(
                "array {array}: bdev {bdev} was to hold its bitmap, but holds data; nothing was \
                 written: name another, or clear it"
            )));
        }
        Ok(())
    }

    /// The configuration of an array whose bitmap lies at `place`, and whether it may have
    /// something to resync.
    pub(super) fn assemble_external(
        &mut self,
        options: ArrayOptions,
        given: &Given,
        assembly: &Assembly,
        place: &BitmapPlace,
        takeover: &Takeover,
    ) -> Result<(ArrayConfig, External, bool), TargetError> {
        let name = options.name.clone();
        let permits = ExternalPermits {
            convert: takeover.convert_bitmap,
            lost_resync: takeover.bitmap_lost_resync,
        };
        prepare_file(&name, place, assembly, permits)?;
        let external = self.open_external(&name, place, options.block_size_bytes)?;
        let built = self.candidates(&given.names).and_then(|bdevs| {
            let judged = self.judge(&name, &external.bdev, assembly, permits)?;
            let id = self.bdev(&external.bdev)?.id;
            Ok(configure(options, given, assembly, &bdevs, id, judged))
        });
        match built {
            Ok((config, in_doubt)) => Ok((config, external, in_doubt)),
            Err(error) => {
                self.close_external(&external);
                Err(error)
            }
        }
    }

    /// Reads head and states and decides; a classic bitmap is marked before it is overwritten.
    fn judge(
        &mut self,
        name: &str,
        bdev: &str,
        assembly: &Assembly,
        permits: ExternalPermits,
    ) -> Result<Judged, TargetError> {
        let bytes = self.bdev(bdev)?.geometry.size_bytes();
        let read = self.read_sectors(bdev, 0, HEAD_READ_BYTES.min(to_usize(bytes)));
        let mut head = match read {
            Ok(read) => head_of(&read, &assembly.superblock, bytes),
            Err(error) => unreadable(&error),
        };
        let refused = |error| refusal(name, bdev, &error);
        let mut plan = ExternalPlan::new(assembly, &head, bytes, permits).map_err(refused)?;
        let mut states = None;
        if let ExternalPlan::Load { superblock } = &plan {
            let length = BITMAP_HEAD_BYTES + to_usize(superblock.chunk_count());
            match self.read_sectors(bdev, 0, length) {
                Ok(read) => states = Some(read[BITMAP_HEAD_BYTES..].to_vec()),
                Err(error) => {
                    head = unreadable(&error);
                    plan = ExternalPlan::new(assembly, &head, bytes, permits).map_err(refused)?;
                }
            }
        }
        if let ExternalPlan::Convert { superblock, classic, stale } = &plan {
            states = Some(self.convert_external(bdev, superblock, classic, *stale, bytes)?);
        }
        report(name, bdev, &plan, states.as_deref());
        Ok(Judged { plan, states })
    }

    /// The states that a classic bitmap of `bytes` bytes amounts to. From now on it says itself
    /// that it is not to be believed: the new one is written over its bits.
    fn convert_external(
        &mut self,
        bdev: &str,
        new: &BitmapSuperblock,
        classic: &BitmapSuperblock,
        stale: bool,
        bytes: u64,
    ) -> Result<Vec<u8>, TargetError> {
        let end = (CLASSIC_BITS_OFFSET_BYTES + classic_bits_bytes(classic)).min(bytes);
        let read = self.read_sectors(bdev, 0, to_usize(end))?;
        let bits = read.get(to_usize(CLASSIC_BITS_OFFSET_BYTES)..).unwrap_or(&[]);
        let mut in_doubt = vec![false; to_usize(new.chunk_count())];
        md::mark_in_doubt(&mut in_doubt, new, classic, bits, stale);
        let header = marked_header(classic);
        let mut first = self.read_sectors(bdev, 0, HEAD_READ_BYTES)?;
        first[..header.len()].copy_from_slice(&header);
        self.write_bytes(bdev, 0, &first)?;
        let state = |doubt| if doubt { ChunkState::NeedSync } else { ChunkState::Clean } as u8;
        Ok(in_doubt.into_iter().map(state).collect())
    }
}

fn configure(
    options: ArrayOptions,
    given: &Given,
    assembly: &Assembly,
    bdevs: &[CandidateBdev],
    external: BdevId,
    Judged { plan, states }: Judged,
) -> (ArrayConfig, bool) {
    let quiet = [ChunkState::Unwritten as u8, ChunkState::Clean as u8];
    let states_doubt =
        states.as_ref().is_some_and(|states| states.iter().any(|state| !quiet.contains(state)));
    let in_doubt = match &plan {
        // The superblocks also call an array dirty that only has chunks never written.
        ExternalPlan::Load { .. } => assembly.dirty && states_doubt,
        ExternalPlan::Convert { .. } => states_doubt,
        ExternalPlan::Fresh { .. } => false,
        ExternalPlan::Stale { .. } | ExternalPlan::Replace { .. } => true,
    };
    let candidates = &given.candidates;
    let config = from_external(options, assembly, candidates, bdevs, external, &plan, states);
    (config, in_doubt)
}

/// The header of a classic bitmap that is not to be believed.
fn marked_header(classic: &BitmapSuperblock) -> Vec<u8> {
    let mut marked = classic.clone();
    marked.flags |= BitmapFlags::STALE;
    let mut head = [0; BITMAP_HEAD_BYTES];
    marked.encode_into(&mut head);
    head[..to_usize(CLASSIC_BITS_OFFSET_BYTES)].to_vec()
}

fn head_of(bytes: &[u8], array: &Superblock, device_bytes: u64) -> ExternalHead {
    if bytes.iter().all(|&byte| byte == 0) {
        return ExternalHead::Blank;
    }
    match BitmapSuperblock::parse_external(bytes, array, device_bytes) {
        Ok(head) => ExternalHead::Found(head),
        Err(error) => ExternalHead::Unusable(error),
    }
}

fn unreadable(error: &TargetError) -> ExternalHead {
    ExternalHead::Unusable(BitmapError::Unreadable { reason: error.to_string() })
}

fn refusal(name: &str, place: &str, error: &md::ExternalError) -> TargetError {
    TargetError::Invalid(format!(
        "array {name}: its bitmap on {place} is not used: {error}; nothing was started or written"
    ))
}

fn inspect(path: &Path) -> Result<Found, TargetError> {
    member_file::inspect(path).map_err(|error| TargetError::Io(error.to_string()))
}

fn make_file(path: &Path, bytes: u64) -> Result<(), TargetError> {
    member_file::check_room(path, 1)
        .and_then(|()| member_file::create_sparse(path, bytes))
        .map_err(|error| TargetError::Io(error.to_string()))
}

/// What has to be done about a file before it can be a bdev: one that is missing is made, where a
/// new bitmap is called for at all; a classic one is as long as its bits, and given the room that
/// states take. One that lacks bits is marked first: what it lacks would read as clean.
fn prepare_file(
    name: &str,
    place: &BitmapPlace,
    assembly: &Assembly,
    permits: ExternalPermits,
) -> Result<(), TargetError> {
    let BitmapPlace::File(path) = place else { return Ok(()) };
    let shown = path.display().to_string();
    let refused = |error| refusal(name, &shown, &error);
    if inspect(path)? == Found::Missing {
        ExternalPlan::new(assembly, &ExternalHead::Blank, FILE_BYTES, permits).map_err(refused)?;
        return make_file(path, FILE_BYTES);
    }
    let io = |error: std::io::Error| TargetError::Io(format!("cannot prepare {shown}: {error}"));
    let length = std::fs::metadata(path).map_err(io)?.len();
    let mut bytes = vec![0; HEAD_READ_BYTES.min(to_usize(length))];
    let file = File::open(path).map_err(io)?;
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let head = head_of(&bytes, &assembly.superblock, length);
    let plan = match &head {
        ExternalHead::Found(found) if found.version == BitmapVersion::Classic => {
            ExternalPlan::new(assembly, &head, FILE_BYTES, permits).map_err(refused)?
        }
        _ => return Ok(()),
    };
    if let (ExternalPlan::Convert { classic, .. }, true) = (plan, length < FILE_BYTES) {
        let file = OpenOptions::new().write(true).open(path).map_err(io)?;
        if length < CLASSIC_BITS_OFFSET_BYTES + classic_bits_bytes(&classic) {
            let header = marked_header(&classic);
            file.write_all_at(&header, 0).and_then(|()| file.sync_all()).map_err(io)?;
        }
        file.set_len(FILE_BYTES).and_then(|()| file.sync_all()).map_err(io)?;
    }
    Ok(())
}

/// Tells the operator what became of the bitmap.
fn report(name: &str, place: &str, plan: &ExternalPlan, states: Option<&[u8]>) {
    match plan {
        ExternalPlan::Load { .. } => tracing::info!("array {name}: its bitmap is on {place}"),
        ExternalPlan::Stale { events, .. } => tracing::warn!(
            "array {name}: the bitmap on {place} (events {events}) is out of date: the array was \
             run without it since; all chunks are resynced and it is written anew"
        ),
        ExternalPlan::Replace { .. } => tracing::warn!(
            "array {name}: a new bitmap is made on {place}, as bitmap_lost says; all chunks are \
             resynced"
        ),
        ExternalPlan::Fresh { .. } => {
            tracing::info!("array {name}: it has a bitmap from now on, on {place}");
        }
        ExternalPlan::Convert { stale, .. } => {
            let doubtful = |&&state: &&u8| state == ChunkState::NeedSync as u8;
            let doubtful = states.unwrap_or(&[]).iter().filter(doubtful).count();
            let why = if *stale { ", as it was older than the superblocks" } else { "" };
            tracing::info!(
                "array {name}: the classic bitmap on {place} was turned into a lockless one, \
                 {doubtful} chunks of which are resynced now{why}"
            );
        }
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a bitmap fits the memory")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
