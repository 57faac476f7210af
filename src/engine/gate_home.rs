//! The home of all gates: one core decides which ranges are closed, for all.
//!
//! A fused Compare and Write asks its home for its range. When every core has said that its gate
//! holds, the home grants it; when the operation has ended, the gates are opened again. A range
//! that overlaps one that is taken waits in line.

use std::collections::VecDeque;

use super::gate::ClosedRange;
use super::message::{CommandKey, Message};
use super::shard::{Shard, ShardCore};

/// The core that decides.
pub(super) const HOME: usize = 0;

/// Names a closed gate on all cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u32);

/// A range that somebody wants or has.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// The second command of the fused operation, on core `from`.
    asker: CommandKey,
    from: usize,
    range: ClosedRange,
}

#[derive(Debug)]
struct Taken {
    ticket: Ticket,
    claim: Claim,
    /// Cores whose gate does not hold yet.
    cores_left: usize,
}

/// What the home core knows.
#[derive(Debug, Default)]
pub(super) struct GateHome {
    next_ticket: u32,
    taken: Vec<Taken>,
    /// Wait state: claims that overlap a range that is taken, or one in front of them.
    waiting: VecDeque<Claim>,
}

impl GateHome {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        Ticket(self.next_ticket)
    }
}

impl Shard {
    /// A fused operation of core `from` wants a range.
    pub(super) fn range_wanted(
        &mut self,
        core: &mut ShardCore,
        from: usize,
        asker: CommandKey,
        range: ClosedRange,
    ) {
        self.home.waiting.push_back(Claim { asker, from, range });
        self.grant_ranges(core);
    }

    fn grant_ranges(&mut self, core: &mut ShardCore) {
        let mut at = 0;
        while let Some(&claim) = self.home.waiting.get(at) {
            let in_front = self.home.waiting.iter().take(at).map(|before| &before.range);
            let taken = self.home.taken.iter().map(|taken| &taken.claim.range);
            if taken.chain(in_front).any(|range| range.overlaps(&claim.range)) {
                at += 1;
                continue;
            }
            self.home.waiting.remove(at);
            let ticket = self.home.ticket();
            let cores_left = core.port.control();
            self.home.taken.push(Taken { ticket, claim, cores_left });
            for to in 0..cores_left {
                self.send(core, to, Message::CloseRange { ticket, range: claim.range });
            }
        }
    }

    /// The gate holds on one more core.
    pub(super) fn gate_holds(&mut self, core: &mut ShardCore, ticket: Ticket) {
        if self.reservation_holds(core, ticket) {
            return;
        }
        let found = self.home.taken.iter_mut().find(|taken| taken.ticket == ticket);
        let taken = found.expect("a gate is asked for before it holds");
        taken.cores_left -= 1;
        if taken.cores_left == 0 {
            let Claim { asker, from, .. } = taken.claim;
            self.send(core, from, Message::RangeGranted { asker, ticket });
        }
    }

    /// The fused operation has ended.
    pub(super) fn range_returned(&mut self, core: &mut ShardCore, ticket: Ticket) {
        let found = self.home.taken.iter().position(|taken| taken.ticket == ticket);
        self.home.taken.swap_remove(found.expect("it was granted"));
        for to in 0..core.port.control() {
            self.send(core, to, Message::OpenRange { ticket });
        }
        self.grant_ranges(core);
    }
}
