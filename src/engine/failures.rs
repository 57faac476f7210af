//! Failed I/O commands: their completion, and their way to the error log of their controller, which
//! may live on another core.

use super::message::{CommandFailure, Message};
use super::queue::Role;
use super::shard::{Shard, ShardCore};
use crate::bdev::{IoOp, IoStatus};
use crate::target::controller::connect::ControllerPlace;
use crate::target::controller::{CommandError, io};
use crate::target::tcp::RequestId;
use crate::wire::nvme::Status;

/// Failures a connection tells between two housekeepings. The log holds no more.
const TOLD_MAX: u32 = 64;

/// What a connection has told of its failed commands.
#[derive(Debug, Default)]
pub(super) struct ErrorsTold {
    /// Since the last housekeeping.
    pub(super) told: u32,
    /// Not told yet: their number goes with the next one.
    skipped: u64,
}

impl Shard {
    /// Ends a command whose request to a bdev failed.
    #[cold]
    pub(super) fn bdev_failed(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        op: IoOp,
        status: IoStatus,
    ) {
        let conn = self.connections.get(index).expect("commands belong to connections");
        if let Role::Io(grant) = &conn.role
            && status == IoStatus::MediaError
        {
            grant.traffic.count_media_error();
        }
        self.fail(core, index, id, io::status_of(op, status));
    }

    /// Ends a command with an error.
    #[cold]
    pub(super) fn fail(&mut self, core: &mut ShardCore, index: u16, id: RequestId, status: Status) {
        self.fail_with(core, index, id, status, 0);
    }

    /// Ends a command with an error and a result.
    #[cold]
    pub(super) fn fail_with(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        status: Status,
        result: u64,
    ) {
        self.count_other(index);
        let conn = self.connections.get(index).expect("commands belong to connections");
        let is_io = matches!(conn.role, Role::Io(_));
        if let Role::Io(grant) = &conn.role
            && let Some(error) = CommandError::of(grant.qid, conn.protocol.request_sqe(id), status)
        {
            if conn.errors.told < TOLD_MAX {
                conn.errors.told += 1;
                let skipped = std::mem::take(&mut conn.errors.skipped);
                let cntlid = grant.cntlid;
                let owner = ControllerPlace::of(cntlid, core.port.control());
                let owner = owner.expect("it granted the queue").core;
                let failure = CommandFailure { cntlid, error, skipped };
                self.send(core, owner, Message::CommandFailed(Box::new(failure)));
            } else {
                conn.errors.skipped += 1;
            }
        }
        self.connections.counts.io_commands += u64::from(is_io);
        self.complete(index, id, status, result, 0);
    }

    /// A command of a controller of this core has failed.
    pub(super) fn command_failed(&mut self, core: &mut ShardCore, failure: &CommandFailure) {
        let CommandFailure { cntlid, error, skipped } = *failure;
        let found = self.connections.find_controller(cntlid, core.port.control());
        if let Some(owned) = found {
            owned.controller.note_error(error, skipped);
        }
    }
}
