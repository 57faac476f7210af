//! The stripe log in the simulator, and single stories of it.

use super::rng::Rng;
use super::world::{Shape, World};
use super::{oracle::violated, trace};
use crate::md;
use crate::md::stripe_log::{LogLayout, LogVoid};
use crate::raid::assembly_log;
use crate::raid::{LogConfig, LogPlan};

/// The log that a run of an array of this shape keeps.
pub(super) fn kept(shape: &Shape, rng: &mut Rng) -> LogConfig {
    let plan = |layout| {
        let mut run = [0; 16];
        run[..8].copy_from_slice(&rng.next().to_le_bytes());
        LogPlan { run, layout }
    };
    LogConfig { kept: shape.log.map(plan), ..LogConfig::default() }
}

/// A log with little room: rows meet full rings and records are used again soon.
pub(super) fn some_layout(rng: &mut Rng, cores: u16, write_bytes: u64) -> LogLayout {
    let slot_bytes = [8, 16, 32, 128][rng.below(4)] << 10;
    let payload = u64::from(slot_bytes) - md::stripe_log::LOG_HEAD_BYTES as u64;
    let least = u32::try_from(write_bytes / payload + 1).unwrap() + 2;
    let more = [0, 1, 3, 12][rng.below(4)];
    let rings = if slot_bytes > 16 << 10 { 1 } else { u16::try_from(rng.between(1, 2)).unwrap() };
    LogLayout { rings: rings.min(cores), slots: least + more, slot_bytes }
}

impl World {
    /// Whether the owner is writing in place what the last run has logged.
    pub(super) fn is_replaying(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.owner.log.is_replaying())
    }

    /// As control does.
    pub(super) fn find_log(
        &mut self,
        assembly: &md::Assembly,
        candidates: &[md::Candidate],
        present: &[usize],
    ) -> LogConfig {
        let mut config = kept(&self.shape, &mut self.rng);
        if self.shape.parity.is_none() {
            return config;
        }
        let block = u32::try_from(self.shape.block).unwrap();
        let disks = &self.disks;
        let read = |candidate: usize, sector: u64, sectors: u64| {
            let at = usize::try_from(sector).unwrap() * 512;
            let meta = &disks[present[candidate]].live_meta;
            let bytes = meta.get(at..at + usize::try_from(sectors).unwrap() * 512);
            bytes.map(<[u8]>::to_vec).ok_or_else(|| "there is nothing".to_owned())
        };
        match assembly_log::find_log(assembly, candidates, block, read) {
            Ok(found) => {
                let replay = found.replay.as_ref().map_or(0, |(_, records)| records.len());
                trace::note(trace::Event::LogFound { replay });
                (config.trusted, config.replay) = (found.trusted, found.replay);
            }
            Err(void) => {
                trace::note(trace::Event::LogVoid);
                let may_doubt = self.faults.any() && void == LogVoid::Doubtful;
                // Then nothing can be started anyway.
                let is_short = matches!(void, LogVoid::TooFew { .. });
                if self.shape.log.is_some() && self.log_served && !may_doubt && !is_short {
                    violated(8, &format!("the stripe log is of no use: {void}"));
                }
            }
        }
        config
    }

    /// The array serves.
    pub(super) fn check_served(&mut self) {
        self.log_served |= self.shape.log.is_some();
        if std::mem::take(&mut self.looks_later) {
            self.check_assembled(self.in_sync());
        }
    }
}
