//! The crash simulator: the array's shipped machines under simulated members, cores, clock and
//! host; every event in random order, everything reproducible from a seed.
//!
//! - [`world`], [`machine`]: the members' requests, the messages, the timers; power cuts.
//! - [`disk`]: a member with a volatile cache, torn writes, errors.
//! - [`host`]: what was written, what was promised, what may be read.
//! - [`oracle`]: what must hold. [`trace`]: the story when it does not.
//! - [`life`]: random lives. [`mutant`]: bugs planted on purpose, which must be found.
//! - [`scenario`]: single stories with a name. [`crash_points`]: a cut at each event of a story.
//!
//! `scripts/sim` runs as many lives as there is time for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod copies;
mod crash_points;
mod discard;
mod disk;
mod host;
mod infection;
mod life;
mod machine;
pub(crate) mod mutant;
mod oracle;
mod rng;
mod run;
mod scenario;
mod stale;
mod trace;
mod world;

use crate::reactor::buf::BufPool;

/// Buffers for the largest world; shared by all lives of a thread, as an arena is never freed.
fn pool() -> BufPool {
    thread_local! {
        static POOL: BufPool = BufPool::on_heap([512, 64, 64]);
    }
    POOL.with(|pool| *pool)
}
