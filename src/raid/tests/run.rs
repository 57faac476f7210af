//! Lives by the dozen: the fixed seeds of `scripts/test`, the long run of `scripts/sim`, and the
//! test that every planted bug is found.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::life::{
    BAD_SEEDS, EXTERNAL_SEEDS, Figures, GROW_SEEDS, MEMBER_SEEDS, PARITY, REPLACE_SEEDS, life,
};
use super::mutant::{self, Mutant};
use super::{
    ahead, bad, copies, defects, discard, errors, external, floors, grow, infection, log, pool,
    rejoin, replace, row_members, rows, scenario, trace,
};

use crate::raid::{newcomer, owner_yield};

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
/// - 31565 with members that come and go: a rebuild passed over chunks that a discard held, and
///   called the member whole; a power cut before the discard was durable left them as they were,
///   which the member lacked (oracle 3).
/// - 3777 with parity: not the array but the simulator's operator was at fault. Member 1 alone had
///   recorded a start that the power ended, 2 and 3 another one without it; then 2 or 3 was left
///   out, too, and with what was given nobody could start.
/// - 81126 (of a mirror): a rebuild passed over a chunk that a discard held and that counted as
///   Unwritten already, and called the member whole; a power cut before the discard was durable
///   (oracle 3).
///
/// - 300007235, 300009443 and 300013415 with an external bitmap: an old copy of it was taken for
///   out of date, and made anew; the power went, and of that there was only the head on the medium,
///   which called itself current (oracles 2 and 6).
///
/// The last finds a planted bug that the others pass by: RebuildPassesZeroing.
const FOUND: [u64; 13] = [
    EXTERNAL_SEEDS + 300_007_235,
    EXTERNAL_SEEDS + 300_009_443,
    EXTERNAL_SEEDS + 300_013_415,
    215,
    326,
    560,
    620,
    1152,
    81126,
    EXTERNAL_SEEDS + 2395,
    MEMBER_SEEDS + 31565,
    PARITY + 3777,
    MEMBER_SEEDS + 396_866,
];

/// The same of levels with parity.
///
/// - 143 with members that come and go: two power cuts, each while the superblocks were being
///   written, left most members of a RAID6 two events behind, and nothing could be started (world).
/// - 191 with members that come and go: a window of a rebuild went on reading from the others when
///   the member that it was for was gone (oracle 6).
/// - 900004285 with members that come and go: a rebuild passed over a chunk that was being zeroed
///   for its first write since before the member joined, and called the member whole with what it
///   had held there (oracle 3).
/// - 6217: members 0 and 1 of a RAID6 were used alone, then 2 and 3, and the simulator's operator
///   thought only of one that was (world).
/// - 26505: after a crash a row was written in place without a member that was away for the first
///   time, from the only record; the next power cut brought that one back and took the record
///   away (oracle 3).
/// - 42697: a note of the log's floor could not be written by the last member, and was not tried
///   again, as the floor it would say was its own; a discard waited for it for ever (oracle 0).
/// - 206885 with members that come and go: a cut-off update had made a member one event newer than
///   the others, which went on without it and took it back; a power cut when they said so, and it
///   did not yet, left it one event behind, which is to be current (oracle 3).
/// - 413369: a member that failed before the first start was over knew of no stripe log, and was
///   started alone, which the oracle did not foresee (oracle 8).
/// - 854127: the first start was cut off when it had reached one member; the others went on without
///   it under the same count, and it was believed when it came back (oracle 5).
/// - 10100: the array failed while a row was being read, which then waited for a member's absence
///   to be recorded (oracle 0).
/// - 3002861 with members that come and go: the power went while a member that joined was given
///   the bitmap and its superblock still called it whole; started alone it showed what it happened
///   to hold in a chunk that was never written (oracle 3).
/// - 55000421: a row waited as its parity was torn, and was not told that a resync had made it
///   right (oracle 0).
/// - 120003917 with members that come and go: a channel that had closed wrote a note to the stripe
///   log when it heard that a failure was on record, and the array stopped before it (oracle 0).
/// - 5544 and 21791 with members that come and go: a member was taken out while parity was torn
///   after an unclean stop without a stripe log, and writes were refused for it (oracle 0).
///
/// The others have found planted bugs that these pass by: FailedNoteHoldsFloor, and some that have
/// stories of their own by now.
const FOUND_OF_PARITY: [u64; 19] = [
    (PARITY | MEMBER_SEEDS) + 120_003_917,
    PARITY + 55_000_421,
    (PARITY | MEMBER_SEEDS) + 3_002_861,
    (PARITY | MEMBER_SEEDS) + 5544,
    (PARITY | MEMBER_SEEDS) + 21_791,
    PARITY + 801_698,
    PARITY + 58_884,
    PARITY + 854_127,
    (PARITY | MEMBER_SEEDS) + 143,
    (PARITY | MEMBER_SEEDS) + 191,
    (PARITY | MEMBER_SEEDS) + 900_004_285,
    PARITY + 6217,
    PARITY + 26505,
    PARITY + 42697,
    (PARITY | MEMBER_SEEDS) + 206_885,
    PARITY + 413_369,
    (PARITY | MEMBER_SEEDS) + 534,
    PARITY + 10_100,
    (PARITY | MEMBER_SEEDS) + 9378,
];

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

/// What `act` gives, or the text of its panic.
fn awaited<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    quiet_panics();
    let result = catch_unwind(AssertUnwindSafe(act));
    QUIET.set(false);
    result.map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        text.or(cause.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
    })
}

/// One life; what was violated and the story, if anything was.
fn try_life(seed: u64, with_digest: bool) -> Result<Figures, String> {
    let pool = pool();
    awaited(|| life(seed, pool, with_digest))
}

fn tell(seed: u64, what: &str) -> ! {
    eprintln!("{}", trace::story());
    eprintln!("seed {seed}: {what}");
    let bug = std::env::var("MDOF_SIM_BUG").map_or(String::new(), |bug| format!(" --bug {bug}"));
    eprintln!("again: scripts/sim --first {seed} --seeds 1{bug}");
    panic!("seed {seed} breaks a promise");
}

/// The fixed seeds.
fn fixed_seeds() -> impl Iterator<Item = u64> {
    let external = EXTERNAL_SEEDS..EXTERNAL_SEEDS + SEEDS / 2;
    let members = MEMBER_SEEDS..MEMBER_SEEDS + SEEDS / 2;
    (0..SEEDS).chain(FOUND).chain(external).chain(members)
}

/// Nothing may be violated in the fixed seeds.
#[test]
fn random_lives_break_no_promise() {
    let mut sum = Figures::default();
    for seed in fixed_seeds() {
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
    }
    println!("{sum}");
    assert!(sum.writes > 10_000 && sum.cuts > 1000 && sum.copied > 1000, "{sum:?}");
}

/// The fixed seeds of levels with parity.
fn parity_seeds() -> impl Iterator<Item = u64> {
    let members = PARITY | MEMBER_SEEDS;
    (PARITY..PARITY + SEEDS).chain(FOUND_OF_PARITY).chain(members..members + SEEDS / 2)
}

/// The same on levels with parity.
#[test]
fn random_lives_of_parity_break_no_promise() {
    let mut sum = Figures::default();
    for seed in parity_seeds() {
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
    }
    println!("{sum}");
    assert!(sum.writes > 10_000 && sum.cuts > 1000 && sum.copied > 500, "{sum:?}");
}

/// Lives with replacements in which something was broken before it was mended.
///
/// - 3575: what had just replaced the last member could not write the head of the bitmap; the
///   member took its place back, and its superblock ran ahead of its own head (oracle 6). Since
///   then a member has its place until it is on record who follows: there is nothing to take back.
/// - 1604: what was to replace a member was about to call itself whole when that one failed, and
///   was found whole after a power cut, which the oracle did not foresee (oracle 5).
/// - 4963: of three members the operator gave two to an assembly of which the third knew that they
///   were out (oracle 5).
/// - 3005070 with parity: the array was stopped while a note of the stripe log waited for a failure
///   to be recorded, and waited for ever (oracle 0).
/// - 61040623 and 61033322: the array was stopped when a member had just been replaced, and the old
///   device, which counted until that was on record, was not flushed (oracle 4).
/// - 82012915: the daemon flushed while that was not on record, and the old device, which had not
///   flushed, took its place back (oracle 4).
/// - 82024343 and 93021699: a device that had been away was announced to the others, and the power
///   went before its own superblock said that it was being rebuilt; started with only one that was
///   being rebuilt, it counted as it was (oracle 5).
/// - 82022602: the operator chose a device whose write of what was acknowledged without it lay in
///   its cache, a mistake of the simulator's (oracle 3).
/// - 11001030 with parity: a member that could not be done without failed every write, and the log
///   was renewed on it without a pause (oracle 0).
/// - 520021052: a newcomer that had failed voted out the last whole member (oracle 2).
///
/// - 1167716297 with parity and bad blocks: what had just taken a member's place failed the very
///   superblock that said so, another member the next one, and too few were left that believed in
///   each other (world).
/// - 1226683196: what was given a member's place died of that, and its superblock was on its medium
///   all the same; two of three believed in different devices (world).
/// - 1226680886 with parity: the array was started without a member that was being replaced, as the
///   newcomer was whole; it came back as if it had all that had become Clean since (oracle 6).
/// - 411001834 with parity: a row that a kept member had missed was mended by resync, a member was
///   let go, and the power took with it what had been mended, for which the stripe log vouched
///   (oracle 3). Nothing of a replacement's end is in it.
/// - 1300005475: of three, one was out and that was not on record, and one that was left out at
///   the next start had what was written then; the third had it, too, and was called rebuilt
///   (oracle 6). Nothing of a replacement's end is in it.
/// - 455948368 with an external bitmap and 401320783 with bad blocks: the like, when the place was
///   given on all superblocks at once.
///
/// The others have found planted bugs that these pass by and that have stories of their own by now.
const FOUND_OF_REPLACEMENT: [u64; 22] = [
    (REPLACE_SEEDS | PARITY) + 411_001_834,
    REPLACE_SEEDS + 1_300_005_475,
    (BAD_SEEDS | REPLACE_SEEDS | PARITY) + 1_167_716_297,
    REPLACE_SEEDS + 1_226_683_196,
    (REPLACE_SEEDS | PARITY) + 1_226_680_886,
    (REPLACE_SEEDS | EXTERNAL_SEEDS) + 455_948_368,
    (BAD_SEEDS | REPLACE_SEEDS) + 401_320_783,
    REPLACE_SEEDS + 520_021_052,
    REPLACE_SEEDS + 93_021_699,
    REPLACE_SEEDS + 82_024_343,
    REPLACE_SEEDS + 82_022_602,
    REPLACE_SEEDS + 82_012_915,
    REPLACE_SEEDS + 61_040_623,
    REPLACE_SEEDS + 61_033_322,
    (REPLACE_SEEDS | PARITY) + 11_001_030,
    (REPLACE_SEEDS | PARITY) + 3_005_070,
    REPLACE_SEEDS + 3575,
    REPLACE_SEEDS + 1604,
    REPLACE_SEEDS + 4963,
    REPLACE_SEEDS + 700_875,
    (REPLACE_SEEDS | MEMBER_SEEDS) + 338_766,
    REPLACE_SEEDS + 5054,
];

/// The fixed seeds in which members are replaced, of every level.
fn replace_seeds() -> impl Iterator<Item = u64> {
    let of = |bits: u64, count: u64| (REPLACE_SEEDS | bits)..(REPLACE_SEEDS | bits) + count;
    let some = of(0, SEEDS / 3).chain(of(PARITY, SEEDS / 3)).chain(of(EXTERNAL_SEEDS, SEEDS / 15));
    some.chain(FOUND_OF_REPLACEMENT)
}

/// Of RAID10 with the offset layout one copy of what is behind the old end was not zeroed: all may
/// lie on one member, one strip below the other (oracle 4).
const FOUND_OF_GROWTH: u64 = GROW_SEEDS + 910_543;

/// The fixed seeds in which members become larger, of every level.
fn grow_seeds() -> impl Iterator<Item = u64> {
    let of = |bits: u64, count: u64| (GROW_SEEDS | bits)..(GROW_SEEDS | bits) + count;
    let some = of(0, SEEDS / 3).chain(of(PARITY, SEEDS / 3)).chain(of(MEMBER_SEEDS, SEEDS / 10));
    some.chain([FOUND_OF_GROWTH])
}

/// The same with arrays that grow while they serve.
#[test]
fn random_lives_with_growths_break_no_promise() {
    let mut sum = Figures::default();
    for seed in grow_seeds() {
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
    }
    println!("{sum}");
    assert!(sum.grown > 200, "{sum:?}");
}

/// The same with members that are replaced while they serve.
#[test]
fn random_lives_with_replacements_break_no_promise() {
    let mut sum = Figures::default();
    for seed in replace_seeds() {
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
    }
    println!("{sum}");
    assert!(sum.replaced > 300, "{sum:?}");
}

/// What lives with bad blocks have found:
///
/// - a copy had failed on a member that the array could not do without: it was kept, and the chunk
///   counted as copied and became Clean (oracles 4 and 3: the three after those);
/// - a block was on a list already when it could not be written again, and was acknowledged,
///   though the member that it could have been computed from had gone (oracle 5: the next one);
/// - a write was acknowledged whose member was let go meanwhile, while another one listed a column
///   of the row (oracle 5: the two after it);
/// - nobody had a piece for a member that was rebuilt, nor could that list it (the one after them);
/// - what was to replace a member was let go while a piece that it had been given was still being
///   written elsewhere, and then looked for on its list (a panic: the last one);
/// - a write in pieces was acknowledged though a piece that had ended, and that one member listed,
///   was lost with another one before the last piece ended (oracle 5: the third one);
/// - resync had ended, and that parity is right again waited for another event to be put on record
///   (oracle 0: the second one);
/// - a piece of a copy had failed to be read, and had got longer than its buffer when it was read
///   again, for a member with a list was gone (a panic of the simulated member: the last but one);
/// - a write that a kept member had missed waited for another one's list to be on record, and then
///   for ever (oracle 0: the first one).
const FOUND_OF_BAD: [u64; 12] = [
    BAD_SEEDS + 411_009_577,
    (BAD_SEEDS | PARITY) + 1_085_405_040,
    (BAD_SEEDS | REPLACE_SEEDS | PARITY) + 660_003_082,
    (BAD_SEEDS | MEMBER_SEEDS) + 55_001_470,
    (BAD_SEEDS | MEMBER_SEEDS) + 55_001_600,
    (BAD_SEEDS | REPLACE_SEEDS) + 55_000_509,
    (BAD_SEEDS | PARITY) + 9_000_627,
    (BAD_SEEDS | PARITY | MEMBER_SEEDS) + 55_000_271,
    (BAD_SEEDS | PARITY) + 55_000_377,
    (BAD_SEEDS | REPLACE_SEEDS) + 7_000_012,
    (BAD_SEEDS | REPLACE_SEEDS) + 1_226_681_330,
    (BAD_SEEDS | REPLACE_SEEDS) + 737_259_379,
];

/// The fixed seeds in which blocks can't be written, of every level.
fn bad_seeds() -> impl Iterator<Item = u64> {
    let of = |bits: u64, count: u64| (BAD_SEEDS | bits)..(BAD_SEEDS | bits) + count;
    let some = of(0, SEEDS / 3).chain(of(PARITY, SEEDS / 3)).chain(of(MEMBER_SEEDS, SEEDS / 15));
    some.chain(FOUND_OF_BAD)
}

/// The same with blocks that can't be written, which members list.
#[test]
fn random_lives_with_bad_blocks_break_no_promise() {
    let mut sum = Figures::default();
    for seed in bad_seeds() {
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
    }
    println!("{sum}");
    assert!(sum.writes > 1000, "{sum:?}");
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

/// Stories that find a bug which random lives meet seldom or have no oracle for.
const STORIES: [(Mutant, fn()); 21] = [
    (
        Mutant::KeptMemberCountsAsCopied,
        copies::who_stays_without_its_copy_leaves_the_chunk_in_doubt,
    ),
    (Mutant::FurnishedBeforeMarked, rejoin::who_joins_is_marked_before_it_has_the_bitmap),
    (Mutant::MarkedAndStopped, rejoin::who_is_marked_has_the_bitmap_when_the_array_stops),
    (Mutant::RebuildPassesZeroing, ahead::a_newcomer_was_not_asked_to_zero),
    (Mutant::RebuildPassesDiscard, discard::a_rebuild_waits_for_a_discard_on_its_way),
    (Mutant::ExternalUpdateNotFinished, external::no_cut_off_start_leaves_its_header_ahead),
    (Mutant::ZeroedWithoutNewcomer, ahead::a_newcomer_was_not_asked_to_zero),
    (Mutant::AheadKeptWhenWritten, ahead::a_chunk_zeroed_ahead_is_so_once),
    (Mutant::AheadKeptForNewcomer, ahead::a_newcomer_has_not_zeroed_ahead),
    (Mutant::CopyingNeverYields, owner_yield::tests::copying_goes_as_far_as_the_host_allows),
    (Mutant::ReadErrorsForgiven, errors::too_many_read_errors_put_a_member_out),
    (Mutant::RepairNotReread, errors::who_does_not_keep_what_it_is_given_is_out),
    (Mutant::ExternalAheadTrusted, external::a_member_left_behind_is_not_started_alone),
    (Mutant::ExternalRecordedOnce, external::a_member_left_behind_is_not_started_alone),
    (Mutant::NoUnionOfBitmaps, copies::what_any_copy_has_in_doubt_is_in_doubt),
    (Mutant::UnreadableCountsAsCopied, scenario::a_chunk_that_cannot_be_read_stays_in_doubt),
    (
        Mutant::ZeroedBeforeAbsenceRecorded,
        discard::a_first_write_waits_until_a_failed_zeroing_is_recorded,
    ),
    (Mutant::InfectWhileDegraded, infection::nothing_is_infected_while_the_array_is_degraded),
    (Mutant::SleepNotKept, infection::settings_have_bounds_and_the_sleep_survives_a_restart),
    (Mutant::LongSleepRunsOn, infection::a_shorter_sleep_counts_soon),
    (Mutant::SettingsAtStop, infection::an_array_that_stops_takes_no_settings),
];

/// What a planted bug broke: in its story if it has one, else in the first of the seeds that finds
/// it.
fn find(
    mutant: Mutant,
    stories: &[(Mutant, fn())],
    mut seeds: impl Iterator<Item = u64>,
) -> Option<String> {
    let told = stories.iter().find(|(planted, _)| *planted == mutant);
    if let Some((_, story)) = told {
        return awaited(story).err().map(|what| format!("its story: {what}"));
    }
    seeds.find_map(|seed| Some(format!("seed {seed}: {}", try_life(seed, false).err()?)))
}

/// Plants each bug; none may go unnoticed. With `MDOF_SIM_BUG` that one only.
fn find_all<S: Iterator<Item = u64>>(
    mutants: &[Mutant],
    stories: &[(Mutant, fn())],
    seeds: impl Fn() -> S,
) {
    let only = std::env::var("MDOF_SIM_BUG").ok();
    let mut missed = Vec::new();
    let is_wanted =
        |mutant: &&Mutant| only.as_ref().is_none_or(|only| *only == format!("{mutant:?}"));
    for &mutant in mutants.iter().filter(is_wanted) {
        mutant::plant(Some(mutant));
        let found = find(mutant, stories, seeds());
        mutant::plant(None);
        match found {
            Some(what) => println!("{mutant:?}: {what}"),
            None => missed.push(mutant),
        }
    }
    assert_eq!(missed, Vec::<Mutant>::new(), "bugs that nobody noticed");
}

/// The tests named after the kernel's defects see the defects.
#[test]
fn every_known_defect_fails_its_test() {
    for (mutant, test) in defects::PLANTED {
        assert_eq!(awaited(test), Ok(()));
        mutant::plant(Some(mutant));
        let result = awaited(test);
        mutant::plant(None);
        println!("{mutant:?}: {}", result.expect_err("the defect is there and its test passes"));
    }
}

#[test]
fn every_planted_bug_is_found() {
    find_all(&mutant::ALL, &STORIES, fixed_seeds);
}

/// Their stories, where random lives meet them seldom.
const ROW_STORIES: [(Mutant, fn()); 7] = [
    (Mutant::WholeRowHidesOthers, rows::overlapping_writes_of_a_batch_apply_in_order),
    (Mutant::NewcomerNearlyCurrent, rejoin::who_joins_is_behind_before_it_is_told),
    (Mutant::DepartedTrusted, row_members::who_was_used_apart_is_given_everything),
    (Mutant::UpdateNotFinished, row_members::no_cut_off_start_leaves_a_member_behind),
    (Mutant::BatchReversed, rows::overlapping_writes_of_a_batch_apply_in_order),
    (Mutant::RowFreedBeforeRecorded, rows::a_row_that_a_member_missed_is_not_taken_for_whole),
    (Mutant::LostWriteLeavesNoDoubt, rows::a_row_that_a_member_missed_is_not_taken_for_whole),
];

/// The bugs of levels with parity, each in their fixed seeds.
#[test]
fn every_planted_bug_of_parity_is_found() {
    find_all(&mutant::OF_PARITY, &ROW_STORIES, parity_seeds);
}

const REPLACE_STORIES: [(Mutant, fn()); 13] = [
    (Mutant::OwnDoubtsForgotten, rejoin::what_one_that_is_rebuilt_has_in_doubt_itself),
    (Mutant::TakenBackIsApart, replace::what_the_operator_ends_at_its_end),
    (
        Mutant::FlushedWithoutTwin,
        replace::nothing_is_clean_that_was_in_the_cache_of_one_that_failed,
    ),
    (Mutant::HandedOverAtOnce, replace::who_dies_as_it_is_told_was_told_alone),
    (Mutant::TakenBackAtOnce, replace::who_is_counted_on_again_knows_it),
    (Mutant::EndedAtOnce, replace::what_the_operator_ends_at_its_end),
    (Mutant::AnnouncedTrusted, replace::who_was_only_announced_does_not_count),
    (Mutant::NumberGivenTwice, newcomer::tests::a_number_on_its_way_to_another_is_not_given_again),
    (Mutant::MemberNotTakenBack, replace::who_takes_its_place_back_counts_again),
    (Mutant::ToldWithoutMember, replace::who_hands_its_place_over_hears_what_happens),
    (Mutant::SwapHangsForEver, replace::a_member_that_hangs_holds_up_no_host),
    (Mutant::ReplacedTakenForRecent, replace::who_was_replaced_is_given_everything),
    (Mutant::ReplacedBeforeRecorded, replace::who_was_replaced_never_serves_again),
];

/// The bugs of replacement, in its fixed seeds.
#[test]
fn every_planted_bug_of_replacement_is_found() {
    find_all(&mutant::OF_REPLACEMENT, &REPLACE_STORIES, replace_seeds);
}

const GROW_STORIES: [(Mutant, fn()); 4] = [
    (Mutant::GrowthStatesForgotten, grow::an_array_grows_while_it_serves),
    (Mutant::GrowthNotTakenUp, grow::a_power_cut_at_every_event_of_a_growth),
    (Mutant::HangsForEver, grow::a_member_that_hangs_in_a_growth),
    (Mutant::StraysForgotten, grow::what_hung_in_a_growth_does_no_harm_later),
];

/// The bugs of growth, in its fixed seeds.
#[test]
fn every_planted_bug_of_growth_is_found() {
    find_all(&mutant::OF_GROWTH, &GROW_STORIES, grow_seeds);
}

const BAD_STORIES: [(Mutant, fn()); 5] = [
    (Mutant::OldSurveyKept, bad::what_a_whole_row_has_missed_is_listed),
    (Mutant::LostPieceAcknowledged, bad::what_a_piece_has_lost_is_no_success),
    (Mutant::BadBlocksRead, bad::what_cannot_be_written_is_listed_and_cleared),
    (Mutant::BadBlocksForever, bad::what_cannot_be_written_is_listed_and_cleared),
    (Mutant::BadBlocksAcknowledgedEarly, bad::what_cannot_be_written_is_listed_and_cleared),
];

/// The bugs of the bad-block logs, in their story.
#[test]
fn every_planted_bug_of_bad_blocks_is_found() {
    find_all(&mutant::OF_BAD_BLOCKS, &BAD_STORIES, bad_seeds);
}

/// Their stories, where random lives meet them seldom.
const LOG_STORIES: [(Mutant, fn()); 8] = [
    (Mutant::JoinedUnderOldLog, floors::a_member_comes_back_and_another_goes),
    (Mutant::FailedRowWaits, floors::an_array_fails_while_a_row_is_read),
    (Mutant::RenewedWithoutPause, floors::a_floor_cannot_be_written),
    (Mutant::SettledNotTold, floors::a_note_is_settled_on_the_way_to_a_stop),
    (Mutant::ReplayForgetsAbsent, log::replays_without_a_member),
    (Mutant::LogForgottenEarly, log::members_that_miss_a_replay),
    (Mutant::LogIgnoresEvents, log::what_another_system_wrote_stays),
    (Mutant::ReplayWithoutCopies, log::replays_that_are_cut),
];

/// The bugs of the stripe log, each in the fixed seeds of levels with parity.
#[test]
fn every_planted_bug_of_the_log_is_found() {
    find_all(&mutant::OF_LOG, &LOG_STORIES, parity_seeds);
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// `scripts/sim`: lives until the seeds or the seconds are used up.
#[test]
#[ignore = "runs for as long as it is told: use scripts/sim"]
fn as_many_lives_as_there_is_time_for() {
    if let Ok(name) = std::env::var("MDOF_SIM_BUG") {
        mutant::plant(Some(mutant::by_name(&name).unwrap_or_else(|| panic!("no bug {name}"))));
    }
    let first = setting("MDOF_SIM_FIRST", 0);
    let seeds = setting("MDOF_SIM_SEEDS", u64::MAX);
    let limit = Duration::from_secs(setting("MDOF_SIM_SECONDS", 60));
    let (began, mut said) = (Instant::now(), Instant::now());
    let mut sum = Figures::default();
    for seed in first..first.saturating_add(seeds) {
        // Every fourth life has an external bitmap, every fourth has parity, half of these and
        // every eighth of the others members that come and go; every fourth has members that are
        // replaced, every sixteenth grows, and in every thirty-second blocks can't be written.
        let seed = match seed % 8 {
            _ if seed >= EXTERNAL_SEEDS => seed,
            3 | 7 => seed | EXTERNAL_SEEDS,
            1 => seed | PARITY,
            5 => seed | PARITY | MEMBER_SEEDS,
            2 => seed | MEMBER_SEEDS,
            4 => seed | REPLACE_SEEDS,
            6 => seed | REPLACE_SEEDS | PARITY,
            _ if seed % 16 == 0 => seed | GROW_SEEDS,
            _ if seed % 32 == 8 => seed | BAD_SEEDS,
            _ => seed,
        };
        match try_life(seed, false) {
            Ok(figures) => sum.add(&figures),
            Err(what) => tell(seed, &what),
        }
        if seed % 512 == 0 {
            assert_eq!(try_life(seed, true), try_life(seed, true), "seed {seed}: oracle 7");
        }
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            eprintln!("{:>6} s, next seed {}: {sum}", began.elapsed().as_secs(), seed + 1);
        }
        if began.elapsed() >= limit {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = |count: u64| count as f64 / seconds;
    eprintln!("{seconds:.0} s from seed {first} on, no promise broken: {sum}");
    eprintln!("{:.0} host writes/s, {:.0} power cuts/s", rate(sum.writes), rate(sum.cuts));
}
