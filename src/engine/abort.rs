//! The Abort command looks for its command: on the core of the command's queue, which answers the
//! core of the admin queue.

use super::message::{AbortWanted, CommandKey, ConnectionKey, Message};
use super::queue::{IDLE, Role};
use super::shard::{Shard, ShardCore};
use crate::target::tcp::{Recall, RequestId};
use crate::wire::nvme::Status;

impl Shard {
    /// An Abort command of the admin queue `index` means command `cid` of I/O queue `qid`.
    #[cold]
    pub(super) fn look_for(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        qid: u16,
        cid: u16,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        let Role::Admin(slot) = conn.role else { unreachable!("Abort is an admin command") };
        let connection = ConnectionKey { index, generation: conn.generation };
        let owned = self.connections.controllers[slot].as_deref();
        let owned = owned.expect("it lives as long as its connection");
        let cntlid = owned.controller.cntlid();
        let found = owned.queues[usize::from(qid - 1)];
        let (to, queue) = found.expect("the controller knows the queue");
        let asker = CommandKey { connection, id };
        let wanted = Box::new(AbortWanted { asker, queue, cntlid, qid, cid });
        self.send(core, usize::from(to), Message::Abort(wanted));
    }

    /// Aborts a command of a queue of this core, if it can be recalled.
    pub(super) fn abort_asked(&mut self, core: &mut ShardCore, from: usize, wanted: &AbortWanted) {
        let AbortWanted { asker, queue, cntlid, qid, cid } = *wanted;
        let is_it =
            |role: &Role| matches!(role, Role::Io(it) if (it.cntlid, it.qid) == (cntlid, qid));
        let is_there = self.connections.find(queue).is_some_and(|conn| is_it(&conn.role));
        let was_aborted = is_there && self.recall(queue.index, cid);
        self.send(core, from, Message::Aborted { asker, was_aborted });
    }

    fn recall(&mut self, index: u16, cid: u16) -> bool {
        let conn = self.connections.get(index).expect("just found");
        match conn.protocol.recall(cid) {
            Recall::Aborted => {
                self.connections.wants_to_send(index);
                true
            }
            Recall::Executing(id) if self.takes_back(index, id) => {
                self.complete_io(index, id, Status::ABORT_REQUESTED, 0, 0);
                true
            }
            // A bdev has it, and ends it in bounded time by itself.
            Recall::Executing(_) | Recall::Later | Recall::Gone => false,
        }
    }

    /// Takes back a command that waits in front of its bdev.
    fn takes_back(&mut self, index: u16, id: RequestId) -> bool {
        if self.gates.unpark(index, id) {
            return true;
        }
        let waited = self.recall_steps(index, id);
        if waited {
            let conn = self.connections.get(index).expect("just found");
            conn.executing[id.slot()] = IDLE;
        }
        waited
    }

    /// The core of the queue has answered.
    pub(super) fn abort_answered(
        &mut self,
        core: &mut ShardCore,
        asker: CommandKey,
        was_aborted: bool,
    ) {
        let CommandKey { connection, id } = asker;
        let conn = self.connections.find(connection).expect("it stays until its commands ended");
        let owned = match conn.role {
            Role::Admin(slot) => self.connections.controllers[slot].as_deref_mut(),
            _ => None,
        };
        // Without a controller the connection is closing, and nobody hears the answer.
        let result = owned.map_or(0, |owned| owned.controller.abort_ended(was_aborted));
        self.complete(connection.index, id, Status::SUCCESS, result, 0);
        self.drop_if_drained(core, connection.index);
    }
}
