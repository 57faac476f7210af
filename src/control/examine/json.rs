//! The report for a program; [`super`] documents its shape.

use serde_json::{Value, json};

use super::map;
use super::probe::{Content, Member};
use super::report::{ArrayReport, BitmapReport, BitmapUse, MemberReport, Plan, Report};
use crate::bitmap::state::STATES;
use crate::md::{BitmapSuperblock, BitmapVersion, Role, SECTOR_BYTES, Superblock, format_uuid};

/// Grows with each change of the shape that a program could stumble over.
pub const SHAPE_VERSION: u32 = 1;

/// Characters of the map at most.
const CELLS_MAX: usize = 1024;

/// All of the report.
#[must_use]
pub(super) fn value(report: &Report) -> Value {
    let arrays: Vec<Value> = report.arrays.iter().map(|array| array_value(report, array)).collect();
    let others: Vec<Value> = report
        .probes
        .iter()
        .filter_map(|probe| {
            let (status, message) = match &probe.content {
                Content::Member(_) => return None,
                Content::NoSuperblock(why) => ("no_superblock", why),
                Content::Damaged(why) => ("damaged", why),
                Content::Unreadable(why) => ("unreadable", why),
            };
            Some(json!({ "path": probe.path.display().to_string(), "status": status,
                "message": message }))
        })
        .collect();
    json!({ "shape": SHAPE_VERSION, "arrays": arrays, "others": others })
}

fn array_value(report: &Report, array: &ArrayReport) -> Value {
    let superblock = &array.superblock;
    let members: Vec<Value> =
        array.members.iter().map(|member| member_value(report, member)).collect();
    json!({
        "uuid": superblock.set_uuid_text(),
        "name": superblock.name(),
        "level": superblock.level.name(),
        "slots": superblock.raid_disks,
        "size_bytes": superblock.size_sectors.saturating_mul(SECTOR_BYTES),
        "logical_block_size_bytes": superblock.logical_block_size,
        "created_s": superblock.ctime.seconds(),
        "updated_s": superblock.utime.seconds(),
        "events": superblock.events,
        "clean": superblock.is_clean(),
        "members": members,
        "missing_slots": array.missing_slots,
        "plan": plan_value(&array.plan),
        "bitmap": array.bitmap.as_ref().map(|bitmap| bitmap_value(report, bitmap)),
    })
}

fn plan_value(plan: &Result<Plan, String>) -> Value {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return json!({ "error": error }),
    };
    json!({
        "error": null,
        "in_sync": plan.in_sync,
        "degraded": plan.is_degraded(),
        "bitmap": match plan.bitmap {
            BitmapUse::None => "none",
            BitmapUse::Load => "load",
            BitmapUse::Stale => "stale",
            BitmapUse::Initialise => "initialise",
        },
        "resync_chunks": plan.resync_chunks,
        "resync_bytes": plan.resync_bytes,
    })
}

fn member_value(report: &Report, member: &MemberReport) -> Value {
    let probe = &report.probes[member.probe];
    let found = probe.member().expect("members of an array are members");
    json!({
        "path": probe.path.display().to_string(),
        "slot": member.slot,
        "health": member.health.name(),
        "reason": member.reason,
        "in_use": found.is_locked,
        "device_sectors": found.candidate.device_sectors,
        "superblock": superblock_value(&found.candidate.superblock),
        "bitmap": head_value(found),
        "bad_blocks": match &found.bad_blocks {
            Ok(ranges) => json!(ranges
                .iter()
                .map(|range| [range.start_sector, range.sectors])
                .collect::<Vec<_>>()),
            Err(error) => json!({ "error": error }),
        },
    })
}

fn superblock_value(superblock: &Superblock) -> Value {
    let role = match superblock.own_role() {
        Role::Active(slot) => format!("active {slot}"),
        Role::Spare => "spare".to_owned(),
        Role::Faulty => "faulty".to_owned(),
        Role::Journal => "journal".to_owned(),
    };
    let names: Vec<&str> = superblock.features.iter_names().map(|(name, _)| name).collect();
    json!({
        "version": superblock.minor_version().name(),
        "features": names,
        "device_uuid": format_uuid(&superblock.device_uuid),
        "dev_number": superblock.dev_number,
        "role": role,
        "events": superblock.events,
        "updated_s": superblock.utime.seconds(),
        "super_offset_sectors": superblock.super_offset_sectors,
        "data_offset_sectors": superblock.data_offset_sectors,
        "data_size_sectors": superblock.data_size_sectors,
        "size_sectors": superblock.size_sectors,
        "bitmap_sector": superblock.bitmap_sector(),
        "resync_offset_sectors":
            (!superblock.is_clean()).then_some(superblock.resync_offset_sectors),
        "corrected_reads": superblock.corrected_reads,
    })
}

fn head_value(member: &Member) -> Value {
    let head = match &member.candidate.bitmap {
        None => return Value::Null,
        Some(Err(error)) => return json!({ "error": error.to_string() }),
        Some(Ok(head)) => head,
    };
    let array_events = member.candidate.superblock.events;
    let BitmapSuperblock { events, daemon_sleep_s, sectors_reserved, .. } = head;
    json!({
        "error": match &member.states {
            Some(Err(error)) => Some(error),
            _ => None,
        },
        "kind": match head.version {
            BitmapVersion::Classic => "classic",
            BitmapVersion::Lockless => "lockless",
        },
        "events": events,
        "stale": head.is_stale(array_events),
        "initialised": !head.needs_initialising(),
        "chunk_size_bytes": head.chunk_sectors().map(|sectors| u64::from(sectors) * SECTOR_BYTES),
        "chunks": head.chunk_count(),
        "daemon_sleep_s": daemon_sleep_s,
        "reserved_sectors": sectors_reserved,
    })
}

fn bitmap_value(report: &Report, bitmap: &BitmapReport) -> Value {
    let states: serde_json::Map<String, Value> = bitmap
        .counts()
        .into_iter()
        .enumerate()
        .map(|(index, (chunks, bytes))| {
            (map::name_of(index).to_owned(), json!({ "chunks": chunks, "bytes": bytes }))
        })
        .collect();
    let legend: serde_json::Map<String, Value> = (0..=STATES)
        .map(|index| (map::LETTERS[index].to_string(), json!(map::name_of(index))))
        .collect();
    let differing: Vec<Value> = bitmap
        .differing
        .iter()
        .map(|(probe, chunks)| {
            let path = report.probes[*probe].path.display().to_string();
            json!({ "path": path, "chunks": chunks })
        })
        .collect();
    let run = bitmap.states.len().div_ceil(CELLS_MAX).max(1);
    json!({
        "chunk_size_bytes": bitmap.chunk_bytes(),
        "chunks": bitmap.states.len(),
        "states": states,
        "differing": differing,
        "map": {
            "chunks_per_cell": run,
            "cells": map::letters(&map::condense(&bitmap.states, run)),
            "legend": legend,
        },
    })
}
