//! How to write to a row or to read what is lost in it: pure decisions on sets of slots.
//!
//! The cost is the number of requests to members. What is written is the same for every method:
//! the data that change and all parity there is. So the method that reads least is best, and of
//! two alike the one that believes less in what is on the members.

use super::super::message::SlotMask;

/// How the new parity comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raid) enum Method {
    /// There is no parity to write: its members are away.
    Plain,
    /// From all data of the row. With all of them given nothing is read.
    Reconstruct,
    /// From the old parity, and the old and the new data.
    Modify,
    /// From all data of the row, after those on members that are away have been recovered.
    Recover,
}

/// What is known of a row and of what is to be done to it. All sets are of slots.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::raid) struct Question {
    /// Slots of the row's data.
    pub(in crate::raid) data: SlotMask,
    /// Slot of P, and that of Q where there is one.
    pub(in crate::raid) p: SlotMask,
    pub(in crate::raid) q: SlotMask,
    /// Data that change, or that are to be read.
    pub(in crate::raid) touched: SlotMask,
    /// Of these those that change in all columns.
    pub(in crate::raid) full: SlotMask,
    /// Members that can be read.
    pub(in crate::raid) readable: SlotMask,
    /// Members that are written.
    pub(in crate::raid) writable: SlotMask,
    /// Parity and data of the row may not fit each other.
    pub(in crate::raid) in_doubt: bool,
    /// Not even where data were written: nothing can be recovered.
    pub(in crate::raid) is_torn: bool,
    /// The operator goes on without what is lost so: a write takes what parity says for it.
    pub(in crate::raid) is_accepted: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raid) struct Plan {
    pub(in crate::raid) method: Method,
    /// Members to read.
    pub(in crate::raid) reads: SlotMask,
    /// Parity to make and to write.
    pub(in crate::raid) parity: SlotMask,
}

impl Question {
    /// The members to read to recover all data that can't be read; `None` if they are too few.
    fn survivors(&self, may_be_torn: bool) -> Option<SlotMask> {
        let lost = (self.data & !self.readable).count_ones();
        let parity = [self.p, self.q].into_iter().filter(|&slot| slot & self.readable != 0);
        let (mut reads, mut left) = (self.data & self.readable, lost);
        for slot in parity.take(lost as usize) {
            reads |= slot;
            left -= 1;
        }
        (left == 0 && (lost == 0 || !self.is_torn || may_be_torn)).then_some(reads)
    }

    /// The best way to write, `None` if there is none that leaves all data readable.
    pub(in crate::raid) fn plan_write(&self) -> Option<Plan> {
        let parity_all = self.p | self.q;
        let parity = parity_all & self.writable;
        let away = (self.data | parity_all) & !self.writable;
        if away.count_ones() > parity_all.count_ones() {
            return None;
        }
        if parity == 0 {
            return Some(Plan { method: Method::Plain, reads: 0, parity });
        }
        if self.data & !self.full == 0 {
            return Some(Plan { method: Method::Reconstruct, reads: 0, parity });
        }
        let trusts_parity = !self.in_doubt || mutant!(ModifyInDoubt);
        let old_data = self.data & !self.full;
        let reconstruct = (old_data & !self.readable == 0).then_some(old_data);
        let old = self.touched | parity;
        let modify = (trusts_parity && old & !self.readable == 0).then_some(old);
        let candidates = [
            (Method::Reconstruct, reconstruct),
            (Method::Modify, modify),
            (Method::Recover, self.survivors(self.is_accepted)),
        ];
        let plans = candidates
            .into_iter()
            .filter_map(|(method, reads)| Some(Plan { method, reads: reads?, parity }));
        plans.min_by_key(|plan| plan.reads.count_ones())
    }

    /// The way to read what is touched, `None` if too much is lost.
    pub(in crate::raid) fn plan_read(&self) -> Option<Plan> {
        let plan = |method, reads| Plan { method, reads, parity: 0 };
        if self.touched & !self.readable == 0 {
            return Some(plan(Method::Plain, self.touched));
        }
        self.survivors(false).map(|reads| plan(Method::Recover, reads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every question about rows of up to five members.
    fn all_questions(mut look: impl FnMut(&Question)) {
        for (slots, parity) in [(2, 1), (3, 1), (4, 1), (4, 2), (5, 2)] {
            let data = (1 << (slots - parity)) - 1;
            let p = 1 << (slots - parity);
            let q = if parity == 2 { p << 1 } else { 0 };
            let subsets = |of: SlotMask| (0..=of).filter(move |set| set & !of == 0);
            for touched in subsets(data).filter(|&set| set != 0) {
                for full in subsets(touched) {
                    for writable in subsets((1 << slots) - 1) {
                        for readable in subsets(writable) {
                            for doubt in 0..4 {
                                let sets = Question { data, p, q, touched, full, ..<_>::default() };
                                let sets = Question { readable, writable, ..sets };
                                let (in_doubt, is_torn) = (doubt > 0, doubt > 1);
                                let is_accepted = doubt > 2;
                                look(&Question { in_doubt, is_torn, is_accepted, ..sets });
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn plans_read_what_is_there_and_make_all_parity_there_is() {
        all_questions(|ask| {
            let Some(plan) = ask.plan_write() else { return };
            assert_eq!(plan.parity, (ask.p | ask.q) & ask.writable, "{ask:?}");
            assert_eq!(plan.reads & !ask.readable, 0, "{ask:?} {plan:?}");
            let known = plan.reads | ask.full;
            match plan.method {
                Method::Plain => assert_eq!(plan.parity, 0, "{ask:?}"),
                Method::Reconstruct => assert_eq!(ask.data & !known, 0, "{ask:?}"),
                Method::Modify => {
                    assert!(!ask.in_doubt, "{ask:?}");
                    assert_eq!(plan.reads, ask.touched | plan.parity, "{ask:?}");
                }
                Method::Recover => {
                    let lost = (ask.data & !plan.reads).count_ones();
                    assert!(lost == 0 || !ask.is_torn || ask.is_accepted, "{ask:?}");
                    let parity = plan.reads & (ask.p | ask.q);
                    assert!(parity.count_ones() >= lost, "{ask:?} {plan:?}");
                }
            }
        });
    }

    #[test]
    fn a_write_is_refused_only_when_too_much_is_lost_or_in_doubt() {
        all_questions(|ask| {
            let parity = (ask.p | ask.q).count_ones();
            let lost = |have: SlotMask| ((ask.data | ask.p | ask.q) & !have).count_ones();
            let is_hopeless = lost(ask.writable) > parity
                || (lost(ask.readable) > parity || ask.is_torn && !ask.is_accepted)
                    && lost(ask.readable) > 0;
            assert!(ask.plan_write().is_some() || is_hopeless, "{ask:?}");
        });
    }

    #[test]
    fn no_method_that_could_be_used_reads_less() {
        all_questions(|ask| {
            let whole = ask.data | ask.p | ask.q;
            if ask.readable != whole || ask.in_doubt {
                return;
            }
            let plan = ask.plan_write().expect("all is there");
            let modify = (ask.touched | ask.p | ask.q).count_ones();
            let reconstruct = (ask.data & !ask.full).count_ones();
            assert_eq!(plan.reads.count_ones(), modify.min(reconstruct), "{ask:?}");
            if ask.full == ask.data {
                assert_eq!(plan.reads, 0, "full stripes are written without reads");
            }
        });
    }

    #[test]
    fn what_is_lost_is_read_from_as_many_as_needed() {
        all_questions(|ask| {
            let plan = ask.plan_read();
            let lost = (ask.data & !ask.readable).count_ones();
            let parity = ((ask.p | ask.q) & ask.readable).count_ones();
            let needs = ask.touched & !ask.readable != 0;
            assert_eq!(plan.is_some(), !needs || lost <= parity && !ask.is_torn, "{ask:?}");
            if let (Some(plan), true) = (plan, needs) {
                assert_eq!(plan.reads.count_ones(), ask.data.count_ones(), "{ask:?}");
            }
        });
    }
}
