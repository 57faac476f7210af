//! The crash simulator: the array's shipped machines under simulated members, cores, clock and
//! host; every event in random order, everything reproducible from a seed.
//!
//! - [`world`], [`machine`]: the members' requests, the messages, the timers; power cuts.
//! - [`disk`]: a member with a volatile cache, torn writes, errors.
//! - [`host`]: what was written, what was promised, what may be read.
//! - [`oracle`]: what must hold. [`trace`]: the story when it does not.
//! - [`members`]: members that fail, go, come back or are replaced. [`rejoin`]: stories of that;
//!   [`row_members`]: the same of RAID5, 6 and 10.
//! - [`life`]: random lives. [`mutant`]: bugs planted on purpose, which must be found.
//! - [`grow`]: members that become larger, and arrays that take it.
//! - [`errors`]: members that can't read what they hold.
//! - [`scenario`]: single stories with a name; [`copies`], [`discard`], [`infection`], [`stale`]:
//!   more of them, [`ahead`] those of chunks zeroed before anybody writes to them.
//!   [`floors`] those of members and arrays that wait for the stripe log. [`crash_points`]: a cut
//!   at each event of a story.
//!
//! # Defects of others that must not be ours
//!
//! Those of the kernel's bitmap (Linux 7.2) and of mdadm 4.6 that concern mirrors or the format. A
//! test of [`run`] plants each of them and sees its test in [`defects`] fail.
//!
//! |    | defect | test |
//! |----|--------|------|
//! | 2  | a discard forgets a chunk of which it covers a part | [`defects::defect_2_a_partial_discard_keeps_the_rest_of_the_chunk_in_the_bitmap`], `discard::a_small_discard_at_a_chunk_start_keeps_the_chunk`, `channel_discard::tests::only_whole_chunks_are_discarded` |
//! | 3  | `events_cleared` is never raised, so a member long away is taken back as it is | [`defects::defect_3_a_member_long_away_is_never_taken_for_current`] |
//! | 6  | with 4096-byte blocks the header is infected | [`defects::defect_6_the_header_survives_states_in_its_own_block`] |
//! | 8  | the bad-block log lies inside the bitmap | [`defects::defect_8_a_bad_block_log_in_use_never_shares_sectors_with_the_bitmap`] |
//! | 9  | an array grows and its bitmap does not | [`defects::defect_9_a_bitmap_that_did_not_grow_with_its_array_is_refused`] |
//! | 10 | cleared chunks are Clean in memory only | [`defects::defect_10_cleared_chunks_are_clean_on_the_media`] |
//! | 11 | infected chunks become Clean without having been copied | [`defects::defect_11_no_chunk_is_clean_that_was_never_made_alike`], `infection::unwritten_chunks_are_never_infected` |
//! | 12 | chunks in doubt of an array that was stopped clean wait for a write | [`defects::defect_12_chunks_in_doubt_of_a_clean_array_are_resynced_at_the_start`] |
//! | 14 | the states' space is counted without the header | [`defects::defect_14_the_last_state_lies_inside_the_space_set_aside`], `md::tests::chunk_rule_counts_the_head` |
//!
//! The others concern levels that are not here yet: 1 RAID10; 4 (but see `bitmap::parity`), 5, 7
//! and 13 the lazy recovery of parity levels. Of 5 the half that any level could have, a member
//! under recovery taken for a current one, has its test in `md::assemble`:
//! `a_member_under_rebuild_is_no_source`.
//!
//! `scripts/sim` runs as many lives as there is time for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ahead;
mod bad;
mod copies;
mod crash_points;
mod defects;
mod discard;
mod disk;
mod errors;
mod external;
mod floors;
mod grow;
mod host;
mod infection;
mod life;
mod log;
mod machine;
mod members;
pub(crate) mod mutant;
mod oracle;
mod parity;
mod rejoin;
mod replace;
pub(in crate::raid) mod rng;
mod row_members;
mod rows;
mod run;
mod scenario;
mod stale;
mod stop;
mod torn;
mod trace;
mod world;

use crate::reactor::buf::BufPool;

/// Buffers for the largest world; shared by all lives of a thread, as an arena is never freed.
fn pool() -> BufPool {
    thread_local! {
        static POOL: BufPool = BufPool::on_heap([512, 256, 128, 0]);
    }
    POOL.with(|pool| *pool)
}
