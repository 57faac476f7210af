//! The stripe log of arrays with parity: what the last run left is read, and a new one is planned.

use uuid::Uuid;

use super::arrays::ArrayOptions;
use super::takeover::Given;
use super::{Target, TargetError};
use crate::md::stripe_log::LogVoid;
use crate::md::{Assembly, SECTOR_BYTES};
use crate::raid::assembly_log::{self, has_log};
use crate::raid::{ArrayConfig, BitmapConfig, LogConfig};

/// Why an array has none whose operator wants none.
pub(super) const TURNED_OFF: &str = "it was turned off";

/// What an operator sees of it; `None` for levels that have none.
pub(super) fn state(config: &ArrayConfig) -> Option<Result<(), String>> {
    let member = config.members.iter().flatten().next()?;
    if !has_log(member.superblock.level) {
        return None;
    }
    Some(match config.log.kept {
        Some(_) => Ok(()),
        None => Err(config.log.why_off.clone()),
    })
}

impl Target {
    /// Reads what the last run of an array left in its stripe log.
    pub(super) fn find_log(
        &mut self,
        config: &mut ArrayConfig,
        assembly: &Assembly,
        given: &Given,
    ) {
        let name = &config.name;
        if !has_log(assembly.superblock.level) {
            return;
        }
        let block = config.block_size_bytes;
        let read = |candidate: usize, sector: u64, sectors: u64| {
            let length = usize::try_from(sectors * SECTOR_BYTES).map_err(|it| it.to_string())?;
            let member = &given.names[candidate];
            let bytes = self.read_sectors(member, sector, length);
            bytes.map_err(|error: TargetError| error.to_string())
        };
        match assembly_log::find_log(assembly, &given.candidates, block, read) {
            Ok(found) => {
                let records = found.replay.as_ref().map_or(0, |(_, records)| records.len());
                if assembly.dirty {
                    tracing::info!(
                        "array {name}: it was not stopped cleanly; its stripe log says what was \
                         being written: {records} records are written in place before it serves"
                    );
                }
                config.log = LogConfig { kept: None, ..found };
            }
            // It has never had one, or nothing was being written.
            Err(LogVoid::NotKept) => {}
            Err(void) if assembly.dirty => tracing::warn!(
                "array {name}: it was not stopped cleanly, and {void}: parity is made anew where \
                 it may not fit"
            ),
            Err(void) => tracing::info!("array {name}: {void}"),
        }
    }

    /// Plans the log that the array keeps from now on.
    pub(super) fn keep_log(&self, config: &mut ArrayConfig, options: &ArrayOptions) {
        let member = config.members.iter().flatten().next();
        if !member.is_some_and(|member| has_log(member.superblock.level)) {
            return;
        }
        if options.without_log {
            TURNED_OFF.clone_into(&mut config.log.why_off);
        } else {
            let bitmap = match &config.bitmap {
                BitmapConfig::Lockless { superblock, external: None, .. } => {
                    Some(superblock.clone())
                }
                _ => None,
            };
            let cores = u16::try_from(self.engine.cores()).unwrap_or(u16::MAX);
            let run = Uuid::new_v4().into_bytes();
            assembly_log::plan_log(config, bitmap.as_ref(), cores, run);
        }
        let name = &config.name;
        match &config.log.kept {
            Some(plan) => tracing::info!(
                "array {name}: the stripe log closes the write hole; it takes {} KiB of each \
                 member, before the data",
                plan.layout.area_bytes() / 1024
            ),
            None => tracing::warn!(
                "array {name}: no stripe log: {}. After a power cut with a member missing it will \
                 start by force only, and may have lost what that member held",
                config.log.why_off
            ),
        }
    }
}
