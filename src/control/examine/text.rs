//! The report for a human.

use std::fmt::Write;

use super::map::{self, Style};
use super::probe::{Content, Member, Probe};
use super::report::{ArrayReport, BitmapUse, Health, MemberReport, Plan, Report};
use crate::control::names;
use crate::control::units::{size_text, utc_text};
use crate::md::{Examine, SECTOR_BYTES};

/// Slots without a file that are listed one by one; of more only the number is told.
const MISSING_LISTED_MAX: usize = 8;
/// Bad blocks that are listed one by one.
const BAD_LISTED_MAX: usize = 4;

/// All of the report.
#[must_use]
pub(super) fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    for array in &report.arrays {
        array_text(&mut out, report, array, style);
        out.push('\n');
    }
    for probe in &report.probes {
        let _ = match &probe.content {
            Content::Member(member) => member_text(&mut out, probe, member),
            Content::NoSuperblock(why) => writeln!(out, "{}: no member: {why}", shown(probe)),
            Content::Damaged(why) => writeln!(out, "{}: DAMAGED: {why}", shown(probe)),
            Content::Unreadable(why) => writeln!(out, "{}: UNREADABLE: {why}", shown(probe)),
        };
    }
    out
}

/// The path; it may hold control characters, which must not reach the terminal.
fn shown(probe: &Probe) -> String {
    let path = probe.path.display().to_string();
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    path.chars().map(shown).collect()
}

fn array_text(out: &mut String, report: &Report, array: &ArrayReport, style: Style) {
    let superblock = &array.superblock;
    let name = superblock.name().escape_debug().to_string();
    let _ = writeln!(out, "Array {name}  uuid {}", superblock.set_uuid_text());
    let mut line = |key: &str, value: String| writeln!(out, "  {key:10} {value}");
    let size = size_text(superblock.size_sectors.saturating_mul(SECTOR_BYTES));
    let blocks = match superblock.logical_block_size {
        0 => "never started".to_owned(),
        bytes => format!("logical blocks of {bytes} bytes"),
    };
    let disks = superblock.raid_disks;
    let level = superblock.level.name();
    let _ = line("is", format!("{level} of {disks} members, {size} on each, {blocks}"));
    let _ = line("made", utc_text(superblock.ctime.seconds()));
    let written = utc_text(superblock.utime.seconds());
    let _ = line("written", format!("{written}, events {}", superblock.events));
    let _ = line("state", state(report, array));
    let _ = line("health", health(array));
    let _ = line("a start", start(report, array));
    slots_text(out, report, array);
    bitmap_text(out, report, array, style);
}

fn is_in_use(report: &Report, array: &ArrayReport) -> bool {
    let member = |member: &MemberReport| report.probes[member.probe].member();
    array.members.iter().filter_map(member).any(|member| member.is_locked)
}

fn state(report: &Report, array: &ArrayReport) -> String {
    let in_use = is_in_use(report, array);
    let sectors = array.superblock.resync_offset_sectors;
    let state = match sectors {
        _ if array.superblock.is_clean() => "clean".to_owned(),
        0 if in_use => "being written to".to_owned(),
        0 => "dirty: not stopped cleanly, or in use elsewhere".to_owned(),
        _ => format!("dirty: a resync had reached sector {sectors}"),
    };
    if in_use { format!("{state}; in use by a running target") } else { state }
}

fn health(array: &ArrayReport) -> String {
    let all = array.superblock.raid_disks;
    let is_in_sync = |member: &&MemberReport| member.health == Health::InSync;
    let in_sync = array.members.iter().filter(is_in_sync).count();
    let degraded = u64::try_from(in_sync).is_ok_and(|count| count < u64::from(all));
    let word = if degraded { "DEGRADED" } else { "complete" };
    format!("{word}: {in_sync} of {all} members are here and in sync")
}

fn start(report: &Report, array: &ArrayReport) -> String {
    let start = planned_start(array);
    if is_in_use(report, array) {
        format!("is refused while they are in use; after a crash it {start}")
    } else {
        start
    }
}

fn planned_start(array: &ArrayReport) -> String {
    let plan = match &array.plan {
        Ok(plan) => plan,
        Err(error) => return format!("is refused: {error}"),
    };
    let Plan { resync_chunks, resync_bytes, .. } = *plan;
    let size = size_text(resync_bytes);
    let begin = if plan.is_degraded() {
        "goes ahead with --start-degraded only"
    } else {
        "goes ahead with all members"
    };
    let bitmap = match plan.bitmap {
        BitmapUse::None if resync_bytes > 0 => {
            format!("there is no bitmap, so that all of it is in doubt ({size})")
        }
        BitmapUse::None => "there is no bitmap, and nothing is in doubt".to_owned(),
        BitmapUse::Initialise => "its bitmap was never used and is set up first".to_owned(),
        BitmapUse::Load if resync_chunks == 0 => "nothing is in doubt".to_owned(),
        BitmapUse::Load => format!("{resync_chunks} chunks are in doubt ({size})"),
        BitmapUse::Stale => format!(
            "its bitmap is stale, so that all that was ever written is in doubt: \
             {resync_chunks} chunks ({size})"
        ),
    };
    let resync = match (resync_bytes > 0, plan.in_sync) {
        (false, _) => "",
        (true, 1) => ", with no second member to copy them to",
        (true, _) => " and resynced",
    };
    format!("{begin}; {bitmap}{resync}")
}

/// Members and missing slots in the order of slots, then members without a slot.
fn slots_text(out: &mut String, report: &Report, array: &ArrayReport) {
    let mut missing = array.missing_slots.iter().take(MISSING_LISTED_MAX).peekable();
    let mut tell_missing = |out: &mut String, before: Option<u16>| {
        while let Some(slot) = missing.next_if(|&&slot| before.is_none_or(|end| slot < end)) {
            let _ = writeln!(out, "  slot {slot:<5} {:11} not among the files given", "missing");
        }
    };
    for member in &array.members {
        tell_missing(out, member.slot);
        slot_text(out, report, member);
    }
    tell_missing(out, None);
    let more = array.missing_slots.len().saturating_sub(MISSING_LISTED_MAX);
    if more > 0 {
        let _ = writeln!(out, "  and {more} more slots are missing");
    }
}

fn slot_text(out: &mut String, report: &Report, member: &MemberReport) {
    let probe = &report.probes[member.probe];
    let slot = member.slot.map_or("-".to_owned(), |slot| slot.to_string());
    let health = member.health.name().replace('_', " ");
    let events = probe.member().map_or(0, |member| member.candidate.superblock.events);
    let path = shown(probe);
    let _ = writeln!(out, "  slot {slot:<5} {health:11} {path} (events {events})");
    if let Some(reason) = &member.reason {
        let _ = writeln!(out, "{:25}{reason}", "");
    }
}

fn bitmap_text(out: &mut String, report: &Report, array: &ArrayReport, style: Style) {
    let Some(bitmap) = &array.bitmap else { return };
    let chunk = size_text(bitmap.chunk_bytes());
    let count = bitmap.states.len();
    let _ = writeln!(
        out,
        "  {:10} lockless, {count} chunks of {chunk}, as on {}",
        "bitmap",
        shown(&report.probes[bitmap.probe])
    );
    for (probe, differ) in &bitmap.differing {
        let path = shown(&report.probes[*probe]);
        let _ = writeln!(
            out,
            "  {:10} {path} differs in {differ} chunks; the more cautious state counts",
            ""
        );
    }
    *out += &map::draw(bitmap, style);
}

fn member_text(out: &mut String, probe: &Probe, member: &Member) -> std::fmt::Result {
    writeln!(out, "{}:", shown(probe))?;
    let candidate = &member.candidate;
    let bitmap = candidate.bitmap.as_ref().and_then(|bitmap| bitmap.as_ref().ok());
    write!(out, "{}", Examine { superblock: &candidate.superblock, bitmap })?;
    let mut line = |name: &str, value: &str| writeln!(out, "{name:>15} : {value}");
    if let Some(Err(error)) = &candidate.bitmap {
        line("Bitmap", &format!("UNUSABLE: {error}"))?;
    }
    if let Some(Err(error)) = &member.states {
        line("Chunk States", &format!("UNREADABLE: {error}"))?;
    }
    match &member.bad_blocks {
        Ok(ranges) if ranges.is_empty() => Ok(()),
        Ok(ranges) => {
            let first: Vec<String> = ranges
                .iter()
                .take(BAD_LISTED_MAX)
                .map(|range| format!("{} sectors at {}", range.sectors, range.start_sector))
                .collect();
            let more = ranges.len().saturating_sub(BAD_LISTED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            line("Bad Blocks", &format!("{}{more}", names::list(&first)))
        }
        Err(error) => line("Bad Blocks", &format!("UNREADABLE: {error}")),
    }
}
