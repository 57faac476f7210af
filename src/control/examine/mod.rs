//! `mdof examine`: what files and block devices carry, grouped by array.
//!
//! Everything is opened read-only and without a lock that anybody would wait for, so that it works
//! beside a running target. What a start would do is found out by going the start's own way up to
//! the point where it would touch something.
//!
//! # The shape of `--json`
//!
//! Names and meanings stay; what is new is added. `shape` grows when something has to change.
//!
//! ```json
//! {
//!   "shape": 1,
//!   "arrays": [{
//!     "uuid": "e055969a:...", "name": "raid1", "level": "raid1", "slots": 2,
//!     "size_bytes": 1071644672, "logical_block_size_bytes": 512,
//!     "created_s": 1763000000, "updated_s": 1763000900, "events": 5, "clean": true,
//!     "members": [{
//!       "path": "a.img", "slot": 0,
//!       "health": "in_sync | rebuilding | stale | faulty | spare | journal | rejected",
//!       "reason": null, "in_use": false, "device_sectors": 2097152,
//!       "superblock": { "version": "1.2", "features": ["BITMAP_OFFSET"], ... },
//!       "bitmap": { "error": null, "kind": "lockless", "events": 5, "stale": false, ... },
//!       "bad_blocks": [[4096, 8]]
//!     }],
//!     "missing_slots": [1],
//!     "plan": {
//!       "error": null, "in_sync": 1, "degraded": true,
//!       "bitmap": "none | load | stale | initialise", "resync_chunks": 0, "resync_bytes": 0
//!     },
//!     "bitmap": {
//!       "chunk_size_bytes": 65536, "chunks": 16352,
//!       "states": { "unwritten": { "chunks": 16352, "bytes": 1071644672 }, ... },
//!       "differing": [{ "path": "b.img", "chunks": 3 }],
//!       "map": { "chunks_per_cell": 16, "cells": "....D", "legend": { ".": "unwritten", ... } }
//!     }
//!   }],
//!   "others": [{
//!     "path": "x", "status": "no_superblock | damaged | unreadable", "message": "..."
//!   }]
//! }
//! ```
//!
//! A `plan` whose `error` is a sentence has no other members: the array would not start. `bitmap`
//! of an array is null without a lockless bitmap that can be read; of a member it is null where
//! the superblock names none, and has only `error` where its head cannot be used. In `cells` each
//! character stands for `chunks_per_cell` chunks and shows the most doubtful of them.

mod json;
mod map;
mod probe;
mod report;
#[cfg(test)]
mod tests;
mod text;

use std::io::IsTerminal;
use std::path::PathBuf;

pub use json::SHAPE_VERSION;
pub use map::Style;
pub use probe::{Content, Member, Probe, probe};
pub use report::{ArrayReport, BitmapReport, BitmapUse, Health, MemberReport, Plan, Report};

/// Columns where the terminal does not tell.
const COLUMNS_DEFAULT: usize = 80;

/// Reads the files; the result says what they make together.
#[must_use]
pub fn examine(paths: &[PathBuf]) -> Report {
    Report::new(paths.iter().map(|path| probe(path)).collect())
}

impl Report {
    /// For a human.
    #[must_use]
    pub fn to_text(&self, style: Style) -> String {
        text::text(self, style)
    }

    /// For a program.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json::value(self)
    }
}

impl Style {
    /// Of standard output: its width, and colours if it is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn of_stdout() -> Self {
        let out = std::io::stdout();
        let is_terminal = out.is_terminal();
        let told = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
        let columns = told.filter(|&columns| is_terminal && columns > 0);
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { columns: columns.unwrap_or(COLUMNS_DEFAULT), is_coloured: is_terminal && !no_colour }
    }
}
