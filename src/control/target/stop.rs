//! The end of arrays and of the target, which may have to wait for a member that hangs: a request
//! to it does not end.
//!
//! An array with such a request can't be stopped, as the device may still read and write the memory
//! that the request names, and what it has acknowledged must be on record. So whoever stops an
//! array first asks its members for an answer: if one gives none, nothing is changed, and the
//! operator can throw it out. A member that hangs only then does not hold up the call for long
//! either: the array goes on stopping by itself, `bdev_raid_get_bdevs` tells for whom it waits, and
//! it is gone when that has answered. What is to be done behind the stop is done then.

use std::time::{Duration, Instant};

use super::external::External;
use super::{Backing, NewArrayWish, Target, TargetError, io_error};
use crate::bdev::{BdevId, IoStatus};
use crate::md::{SECTOR_BYTES, SUPERBLOCK_READ_BYTES};
use crate::raid::{ArrayConfig, BitmapConfig};

/// How long a member may take to answer before an array of it is stopped.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How long a call waits for an array to stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// How long the end of the target waits for the commands of hosts to end. Arrays wait for those of
/// theirs on.
const HOSTS_WAIT: Duration = Duration::from_secs(5);

/// How long it waits for all arrays to stop.
const ARRAYS_WAIT: Duration = Duration::from_secs(20);

/// How long it waits before it says for whom.
const SILENT_WAIT: Duration = Duration::from_secs(3);

/// An array that is being stopped.
#[derive(Debug)]
pub struct Stopping {
    /// Its place in the engine.
    id: BdevId,
    /// Since when.
    pub since: Instant,
    /// The superblocks are to be erased.
    pub erase: bool,
    /// It is to start again so, and whether nobody has named it.
    again: Option<Box<(NewArrayWish, bool)>>,
}

/// The target has not ended in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unclean(String);

impl Target {
    /// Stops an array cleanly; its members are free then. `erase` makes them blank.
    ///
    /// # Errors
    /// Why it goes on; or that it has not stopped yet and does so by itself, or not cleanly.
    pub fn delete_array(&mut self, name: &str, erase: bool) -> Result<(), TargetError> {
        if self.waiting.contains_key(name) {
            return self.delete_waiting(name, erase);
        }
        let name = self.resolve(name)?;
        if !self.stopping.contains_key(&name) {
            self.array(&name)?;
            self.free_bdev(&name)?;
            self.check_members_answer(&name)?;
            self.begin_stop(&name);
        }
        let stopping = self.stopping.get_mut(&name).expect("it has been told to");
        stopping.erase |= erase;
        self.await_stop(&name)
    }

    /// An array that is being stopped, if it is.
    #[must_use]
    pub fn stopping(&self, name: &str) -> Option<&Stopping> {
        self.stopping.get(name)
    }

    /// Stops an array that the caller will start again. One that has not stopped when this returns
    /// starts again so, by itself, when it has.
    ///
    /// # Errors
    /// If it has not stopped yet, or not cleanly.
    pub(super) fn stop_for_a_while(
        &mut self,
        name: &str,
        again: &NewArrayWish,
    ) -> Result<(), TargetError> {
        self.free_bdev(name)?;
        let is_found = self.array(name)?.1.is_found;
        self.begin_stop(name);
        let stopping = self.stopping.get_mut(name).expect("just told to");
        stopping.again = Some(Box::new((again.clone(), is_found)));
        self.await_stop(name)
    }

    /// Starts an array that was stopped for a while.
    pub(super) fn start_again(
        &mut self,
        name: &str,
        wish: NewArrayWish,
        is_found: bool,
    ) -> Result<(), TargetError> {
        if self.start_or_wait(name, wish)?.is_none() {
            return Err(TargetError::Lacking(self.waits_for(name)));
        }
        self.array_mut(name).is_found = is_found;
        self.find_spares();
        Ok(())
    }

    fn begin_stop(&mut self, name: &str) {
        let id = self.bdev(name).expect("the caller has resolved the name").id;
        self.engine.begin_stop(id);
        if self.bdev(name).is_ok_and(|bdev| bdev.user.is_none()) {
            self.set_user(name, Some("its own stop".to_owned()));
        }
        let stopping = Stopping { id, since: Instant::now(), erase: false, again: None };
        self.stopping.insert(name.to_owned(), stopping);
    }

    fn await_stop(&mut self, name: &str) -> Result<(), TargetError> {
        let id = self.stopping[name].id;
        if let Some(stopped) = self.engine.stopped_in(id, STOP_WAIT) {
            let Stopping { erase, .. } = self.stopping.remove(name).expect("it was stopping");
            return self.array_stopped(name, erase, stopped);
        }
        let waits_for = self.waits_for_whom(name);
        let stopping = &self.stopping[name];
        let then = match (&stopping.again, stopping.erase) {
            (Some(_), _) => "it starts again as it was",
            (None, true) => "it is gone, its superblocks erased and its members free",
            (None, false) => "it is gone and its members are free",
        };
        Err(TargetError::Busy(format!(
            "array {name} is being stopped and has not come to rest in {} s: it waits for \
             {waits_for}. It takes no requests any more, and goes on stopping by itself: when that \
             has answered, or failed, {then}; bdev_raid_get_bdevs shows it until then. What was \
             acknowledged is safe also if mdof ends before; the array then starts again with mdof, \
             and what its bitmap has in doubt is resynced",
            STOP_WAIT.as_secs()
        )))
    }

    /// For whom an array waits that is being stopped, for a sentence.
    fn waits_for_whom(&mut self, name: &str) -> String {
        let names = self.unanswering(name);
        match names.is_empty() {
            true => "requests to its members".to_owned(),
            false => format!("bdev {}", names.join(" and bdev ")),
        }
    }

    /// The bdevs of an array that have requests which have not ended.
    pub fn unanswering(&mut self, name: &str) -> Vec<String> {
        let Ok((_, array)) = self.array(name) else { return Vec::new() };
        let bitmap = array.external.iter().map(|external| external.bdev.clone());
        let mut bdevs: Vec<String> =
            array.every_member().map(|member| member.name.clone()).chain(bitmap).collect();
        bdevs.retain(|bdev| {
            let id = self.bdevs.get(bdev).map(|bdev| bdev.id);
            id.is_some_and(|id| self.engine.in_flight(id) > 0)
        });
        bdevs
    }

    /// Does what follows for arrays that have stopped since somebody looked last, and for bdevs
    /// that were to go.
    pub fn look_at_ends(&mut self) {
        self.look_at_deletions();
        let names: Vec<String> = self.stopping.keys().cloned().collect();
        for name in names {
            let Some(id) = self.stopping.get(&name).map(|it| it.id) else { continue };
            let Some(stopped) = self.engine.stopped_in(id, Duration::ZERO) else { continue };
            let it = self.stopping.remove(&name).expect("it was stopping");
            let mut ended = self.array_stopped(&name, it.erase, stopped);
            if let Some(again) = it.again.filter(|_| !it.erase) {
                let (wish, is_found) = *again;
                ended = ended.and(self.start_again(&name, wish, is_found));
            }
            match ended {
                Ok(()) => tracing::info!("array {name} has stopped at last"),
                Err(error) => tracing::error!("array {name} has stopped at last, but: {error}"),
            }
        }
    }

    /// Arrays are being stopped, or bdevs deleted.
    pub(super) fn has_endings(&self) -> bool {
        !self.stopping.is_empty() || !self.deleting.is_empty()
    }

    /// The engine has let go of an array. What it could not write is reported.
    fn array_stopped(
        &mut self,
        name: &str,
        erase: bool,
        stopped: Result<(), IoStatus>,
    ) -> Result<(), TargetError> {
        self.take_events();
        let (_, array) = self.array(name).expect("it is there until it has stopped");
        let mut members: Vec<String> =
            array.every_member().map(|member| member.name.clone()).collect();
        let external = array.external.clone();
        self.bdevs.remove(name);
        self.notices.add("bdev_unregister", name, None, String::new());
        for member in &members {
            self.set_user(member, None);
        }
        if let Some(external) = &external {
            self.set_user(&external.bdev, None);
        }
        members.extend(self.forget_spares_of(name));
        let stopped = stopped.map_err(|status| io_error(&format!("stopping array {name}"), status));
        let ended = stopped.and_then(|()| match erase {
            true => self.erase_array(name, &members, external.as_ref()),
            false => Ok(()),
        });
        if let Some(external) = &external {
            self.close_external(external);
        }
        ended
    }

    fn erase_array(
        &mut self,
        name: &str,
        members: &[String],
        external: Option<&External>,
    ) -> Result<(), TargetError> {
        if let Some(external) = external {
            self.erase_head(&external.bdev)?;
        }
        for member in members {
            self.erase_superblock(member)?;
        }
        self.settings.remove(name);
        Ok(())
    }

    /// Part of [`Self::delete_array`], for one that has not started.
    fn delete_waiting(&mut self, name: &str, erase: bool) -> Result<(), TargetError> {
        let found = self.forget_waiting(name);
        if erase {
            for bdev in &found {
                self.erase_superblock(bdev)?;
            }
            self.settings.remove(name);
        }
        Ok(())
    }

    /// Refuses to stop an array with a member, or the device of its bitmap, that gives no answer.
    fn check_members_answer(&mut self, name: &str) -> Result<(), TargetError> {
        let status = self.array_status(name)?;
        let takes_part = |state: &str| matches!(state, "in_sync" | "rebuilding");
        let members = status.members.iter().filter(|(_, state)| takes_part(state));
        let ids = members.filter_map(|(id, _)| *id);
        let ids = ids.chain(status.replacement.and_then(|replacement| replacement.bdev));
        let mut bdevs: Vec<String> =
            ids.filter_map(|id| self.name_of(id)).map(str::to_owned).collect();
        let (_, array) = self.array(name)?;
        let external = array.external.as_ref().map(|external| external.bdev.clone());
        let bitmap = external.clone();
        bdevs.extend(external);
        let Some(hangs) = self.first_without_answer(&bdevs)? else { return Ok(()) };
        let advice = match bitmap.is_some_and(|bitmap| bitmap == hangs) {
            true => "it holds the bitmap: stop the array when it answers",
            false => {
                "throw it out (bdev_raid_remove_base_bdev), which stops without it, or stop the \
                 array when it answers"
            }
        };
        Err(TargetError::Busy(format!(
            "array {name}: bdev {hangs} has not answered for {} s, and a stop would wait for it. \
             Nothing was changed, and the array goes on: {advice}",
            ANSWER_WAIT.as_secs()
        )))
    }

    /// A start writes to all members, and nothing else can be said to the target before it has
    /// ended. So each is written first what is there: its superblock, or the bitmap's head. A
    /// device that does that late does no harm.
    pub(super) fn check_members_take_writes(
        &mut self,
        config: &ArrayConfig,
    ) -> Result<(), TargetError> {
        let replacement = config.replacement.as_ref().map(|(_, member)| member);
        let members = config.members.iter().flatten().chain(replacement);
        let places = members.map(|it| (it.bdev, it.superblock.super_offset_sectors * SECTOR_BYTES));
        let bitmap = match &config.bitmap {
            BitmapConfig::Lockless { external, .. } => external.map(|bdev| (bdev, 0)),
            BitmapConfig::None { .. } => None,
        };
        for (bdev, offset) in places.chain(bitmap) {
            let name = self.name_of(bdev).expect("members were looked up by name").to_owned();
            let there = self.read_bytes(&name, offset, SUPERBLOCK_READ_BYTES);
            let done = there.and_then(|there| self.write_bytes(&name, offset, &there));
            // What fails is the array's to deal with.
            if let Err(error @ TargetError::Busy(_)) = done {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The first of these bdevs that does not end a read and a flush in [`ANSWER_WAIT`] each.
    pub(super) fn first_without_answer(
        &mut self,
        bdevs: &[String],
    ) -> Result<Option<String>, TargetError> {
        for bdev in bdevs {
            let id = self.bdev(bdev)?.id;
            if !self.engine.answers_in(id, ANSWER_WAIT) {
                return Ok(Some(bdev.clone()));
            }
        }
        Ok(None)
    }

    /// Stops everything in order: no new connections, connections ended, arrays clean. That ends
    /// in bounded time, also if a bdev hangs.
    ///
    /// # Errors
    /// What has not ended in order. Devices may then still read and write memory of this process:
    /// it is to end now.
    pub fn stop(mut self) -> Result<(), Unclean> {
        self.unlisten_all();
        let mut hosts_are_gone = self.engine.close_connections_in(HOSTS_WAIT);
        if !hosts_are_gone {
            tracing::warn!(
                "hosts have commands that have not ended for {} s; arrays are stopped all the same",
                HOSTS_WAIT.as_secs()
            );
        }
        let is_running = |(name, bdev): &(&str, &super::Bdev)| {
            matches!(bdev.backing, Backing::Array(_)) && !self.stopping.contains_key(*name)
        };
        let running = self.bdevs().filter(is_running).map(|(name, _)| name.to_owned());
        for name in running.collect::<Vec<String>>() {
            self.begin_stop(&name);
        }
        let left = self.await_all_stops();
        hosts_are_gone = hosts_are_gone || self.engine.close_connections_in(Duration::ZERO);
        if left.is_empty() && hosts_are_gone && !self.engine.has_late() {
            self.engine.stop();
            return Ok(());
        }
        // Not joined: the cores end with the process.
        std::mem::forget(self.engine);
        Err(Unclean(match left.is_empty() {
            false => left.join("; "),
            true => {
                "ended although a bdev has requests that it has not answered; no array has any, \
                     and all have stopped"
                    .to_owned()
            }
        }))
    }

    /// Waits for all arrays; what is to be said of those that have not stopped in time.
    fn await_all_stops(&mut self) -> Vec<String> {
        let begun = Instant::now();
        for (until, is_last) in [(SILENT_WAIT, false), (ARRAYS_WAIT, true)] {
            for name in self.stopping.keys().cloned().collect::<Vec<String>>() {
                let id = self.stopping[&name].id;
                let Some(stopped) =
                    self.engine.stopped_in(id, until.saturating_sub(begun.elapsed()))
                else {
                    continue;
                };
                self.stopping.remove(&name);
                if let Err(status) = stopped {
                    let error = io_error("writing its metadata", status);
                    tracing::error!(
                        "array {name} was not stopped cleanly: {error}; what its bitmap holds in \
                         doubt will be resynced at the next start"
                    );
                }
                self.bdevs.remove(&name);
            }
            let names: Vec<String> = self.stopping.keys().cloned().collect();
            if is_last {
                return names.iter().map(|name| self.not_stopped(name)).collect();
            }
            for name in names {
                let waits_for = self.waits_for_whom(&name);
                let seconds = (ARRAYS_WAIT - SILENT_WAIT).as_secs();
                tracing::warn!(
                    "array {name} does not stop, as it waits for {waits_for}; mdof ends in \
                     {seconds} s all the same"
                );
            }
        }
        unreachable!("the last round returns")
    }

    fn not_stopped(&mut self, name: &str) -> String {
        let waits_for = self.waits_for_whom(name);
        format!(
            "array {name} was not stopped cleanly: it waited {} s for {waits_for}. What was \
             acknowledged is safe; what its bitmap has in doubt is resynced at the next start",
            ARRAYS_WAIT.as_secs()
        )
    }
}
