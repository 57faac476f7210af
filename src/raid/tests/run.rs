//! Lives by the dozen: the fixed seeds of `scripts/test`, the long run of `scripts/sim`, and the
//! test that every planted bug is found.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::life::{EXTERNAL_SEEDS, Figures, life};
use super::mutant::{self, Mutant};
use super::{pool, trace};

/// Seeds of `scripts/test`.
const SEEDS: u64 = 300;

/// Seeds that have found something, each with its story. Lives change with the simulator, so a
/// seed may tell another story today; the oracle that spoke is what keeps the bug away.
///
/// - 215: a repair of member 0 from member 1 and a resync of member 1 from member 0 worked on the
///   same blocks at once, and the two exchanged what they held (oracle 6).
/// - 326: an array that had lost its metadata said that it had stopped while members still worked
///   on its zeroing (oracle 0).
/// - 560: member 0 was started alone, then member 1 twice; md calls an absent member a spare, so
///   the next assembly took member 1 for current and what member 0 had acknowledged was gone
///   (oracle 5).
/// - 620: the last member failed the flush at the stop, and the array said that it had stopped
///   clean (oracle 3).
/// - 1152: after a crash that left the members' bitmaps different, a write was served before the
///   unit with its chunk had been written anew (oracle 1).
/// - 2395 with an external bitmap: an array that had lost its metadata went on searching for chunks
///   to copy, and never came to rest (oracle 0).
const FOUND: [u64; 6] = [215, 326, 560, 620, 1152, EXTERNAL_SEEDS + 2395];

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of this thread print nothing: they are awaited.
fn quiet_panics() {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
}

/// One life; what was violated and the story, if anything was.
fn try_life(seed: u64, with_digest: bool) -> Result<Figures, String> {
    quiet_panics();
    let pool = pool();
    let result = catch_unwind(AssertUnwindSafe(|| life(seed, pool, with_digest)));
    QUIET.set(false);
    result.map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        text.or(cause.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
    })
}

fn tell(seed: u64, what: &str) -> ! {
    eprintln!("{}", trace::story());
    eprintln!("seed {seed}: {what}");
    eprintln!("again: scripts/sim --first {seed} --seeds 1");
    panic!("seed {seed} breaks a promise");
}

/// The fixed seeds: nothing may be violated.
#[test]
fn random_lives_break_no_promise() {
    let mut sum = Figures::default();
    let external = EXTERNAL_SEEDS..EXTERNAL_SEEDS + SEEDS / 2;
    for seed in (0..SEEDS).chain(FOUND).chain(external) {
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
    }
    println!("{sum:?}");
    assert!(sum.writes > 10_000 && sum.cuts > 1000 && sum.copied > 1000, "{sum:?}");
}

/// Oracle 7.
#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in (0..24).chain(EXTERNAL_SEEDS..EXTERNAL_SEEDS + 8) {
        let (once, twice) = (try_life(seed, true), try_life(seed, true));
        assert_eq!(once, twice, "seed {seed}");
        assert!(once.is_ok_and(|figures| figures.digest.0 > 100));
    }
    assert_ne!(try_life(1, true).unwrap().digest, try_life(2, true).unwrap().digest);
}

/// Seeds after which a bug must have been found.
const MUTANT_SEEDS: u64 = 6000;

/// Where the search begins for bugs that show seldom.
const RARE: [(Mutant, u64); 4] = [
    (Mutant::NoUnionOfBitmaps, 3400),
    (Mutant::ExternalStaleTrusted, EXTERNAL_SEEDS),
    (Mutant::ExternalAheadTrusted, EXTERNAL_SEEDS + 3600),
    (Mutant::ExternalRecordedOnce, EXTERNAL_SEEDS + 1600),
];

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for mutant in mutant::ALL {
        mutant::plant(Some(mutant));
        let first = RARE.iter().find(|(rare, _)| *rare == mutant).map_or(0, |&(_, seed)| seed);
        let found = (first..first + MUTANT_SEEDS)
            .find_map(|seed| Some((seed, try_life(seed, false).err()?)));
        mutant::plant(None);
        match found {
            Some((seed, what)) => println!("{mutant:?}: seed {seed}: {what}"),
            None => missed.push(mutant),
        }
    }
    assert_eq!(missed, Vec::<Mutant>::new(), "bugs that nobody noticed");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// `scripts/sim`: lives until the seeds or the seconds are used up.
#[test]
#[ignore = "runs for as long as it is told: use scripts/sim"]
fn as_many_lives_as_there_is_time_for() {
    let first = setting("MDOF_SIM_FIRST", 0);
    let seeds = setting("MDOF_SIM_SEEDS", u64::MAX);
    let limit = Duration::from_secs(setting("MDOF_SIM_SECONDS", 60));
    let (began, mut said) = (Instant::now(), Instant::now());
    let mut sum = Figures::default();
    for seed in first..first.saturating_add(seeds) {
        // Every fourth life has an external bitmap.
        let seed = if seed % 4 == 3 { seed | EXTERNAL_SEEDS } else { seed };
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
        if seed % 512 == 0 {
            assert_eq!(try_life(seed, true), try_life(seed, true), "seed {seed}: oracle 7");
        }
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            eprintln!("{:>6} s, next seed {}: {sum:?}", began.elapsed().as_secs(), seed + 1);
        }
        if began.elapsed() >= limit {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = |count: u64| count as f64 / seconds;
    eprintln!("{seconds:.0} s from seed {first} on, no promise broken: {sum:?}");
    eprintln!("{:.0} host writes/s, {:.0} power cuts/s", rate(sum.writes), rate(sum.cuts));
}
