//! Identify's lists of controllers: each core names its own.

use super::message::{CommandKey, ConnectionKey, Message};
use super::shard::{Shard, ShardCore};
use crate::target::tcp::RequestId;
use crate::wire::nvme::Status;
use crate::wire::nvme::identify::{CONTROLLER_LIST_MAX, IDENTIFY_BYTES};

/// An Identify command that waits for the cores.
#[derive(Debug)]
struct Pending {
    asker: CommandKey,
    from: u16,
    cores_left: usize,
    cntlids: Vec<u16>,
}

/// A core's commands that wait for others: one an admin queue's command at most.
#[derive(Debug, Default)]
pub(super) struct ControllerLists(Vec<Pending>);

impl Shard {
    /// An admin queue's controller of this core wants to know which there are.
    #[cold]
    pub(super) fn list_controllers(
        &mut self,
        core: &mut ShardCore,
        (index, slot, id): (u16, usize, RequestId),
        nsid: Option<u32>,
        from: u16,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        let connection = ConnectionKey { index, generation: conn.generation };
        let owned = self.connections.controllers[slot].as_deref();
        let uid = owned.expect("it has just asked").controller.subsystem().uid();
        let asker = CommandKey { connection, id };
        let cores_left = core.port.control();
        self.lists.0.push(Pending { asker, from, cores_left, cntlids: Vec::new() });
        for to in 0..cores_left {
            self.send(core, to, Message::ControllersWanted(Box::new((asker, uid, nsid))));
        }
    }

    /// Names this core's controllers of a subsystem, or those that see a namespace of it.
    pub(super) fn controllers_wanted(
        &mut self,
        core: &mut ShardCore,
        to: usize,
        asker: CommandKey,
        uid: u64,
        nsid: Option<u32>,
    ) {
        let known = self.connections.controllers.iter().flatten().map(|owned| &owned.controller);
        let is_meant = |controller: &&crate::target::controller::Controller| {
            let subsystem = controller.subsystem();
            subsystem.uid() == uid && nsid.is_none_or(|nsid| subsystem.namespace(nsid).is_some())
        };
        let cntlids = known.filter(is_meant).map(|controller| controller.cntlid()).collect();
        self.send(core, to, Message::ControllersNamed(Box::new((asker, cntlids))));
    }

    /// One more core has named its own.
    pub(super) fn controllers_named(
        &mut self,
        core: &mut ShardCore,
        asker: CommandKey,
        cntlids: &[u16],
    ) {
        let pending = &mut self.lists.0;
        let at = pending.iter().position(|one| one.asker == asker).expect("it has asked");
        pending[at].cntlids.extend_from_slice(cntlids);
        pending[at].cores_left -= 1;
        if pending[at].cores_left > 0 {
            return;
        }
        let Pending { from, mut cntlids, .. } = pending.swap_remove(at);
        cntlids.retain(|&cntlid| cntlid >= from);
        cntlids.sort_unstable();
        let CommandKey { connection, id } = asker;
        let conn = self.connections.find(connection).expect("it stays until its commands ended");
        let status = match conn.protocol.request_data_mut(id) {
            Some(data) if data.len() >= IDENTIFY_BYTES => {
                fill(&cntlids, &mut data[..IDENTIFY_BYTES]);
                Status::SUCCESS
            }
            _ => Status::DATA_SGL_LENGTH_INVALID.dnr(),
        };
        let len = if status.is_success() { IDENTIFY_BYTES } else { 0 };
        let len = u32::try_from(len).expect("a small constant");
        self.complete(connection.index, id, status, 0, len);
        self.drop_if_drained(core, connection.index);
    }
}

/// A controller list (Base 2.1, section 4.6.1): their number, and they, ascending.
fn fill(cntlids: &[u16], page: &mut [u8]) {
    page.fill(0);
    let shown = &cntlids[..cntlids.len().min(CONTROLLER_LIST_MAX)];
    let number = u16::try_from(shown.len()).expect("bounded by CONTROLLER_LIST_MAX");
    for (to, value) in page.chunks_exact_mut(2).zip(std::iter::once(&number).chain(shown)) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_their_number_in_front_and_an_end() {
        let mut page = [0xaa; IDENTIFY_BYTES];
        fill(&[1, 0x203], &mut page);
        assert_eq!(page[..6], [2, 0, 1, 0, 3, 2]);
        assert!(page[6..].iter().all(|&byte| byte == 0));
        let many: Vec<u16> = (1..=3000).collect();
        fill(&many, &mut page);
        assert_eq!(page[..4], [0xff, 7, 1, 0], "2047 of them");
        assert_eq!(page[4094..], 2047_u16.to_le_bytes());
    }
}
