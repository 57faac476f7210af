//! The passes over a stripe: each reads every strip once, a block of each at a time, and keeps the
//! sums in registers until the block is done.
//!
//! Q is computed by Horner's rule, from the last data strip down to the first: one doubling and one
//! XOR a strip, no multiplication. A lost strip counts as zeroes.
//!
//! Strips usually start at the same offset in a page, so that all lines of a block compete for the
//! same eight ways of the first-level cache. P and Q of many strips are therefore made of a few
//! strips at a time, a tile of each: measured, a fifth faster with eight strips than all at once.

use std::ops::Range;

use super::LENGTH_UNIT_BYTES;
use super::engine::Engine;

/// Data strips that are read in turns while P and Q are made: with P and Q, as many as the cache
/// has ways.
const GROUP_STRIPS: usize = 6;

/// Bytes of each strip before the next group: P and Q of a tile stay in the first-level cache.
const TILE_BYTES: usize = 2048;

/// From this many bytes of a stripe on, an XOR goes around the cache: the second-level cache (of
/// 512 KiB to 2 MiB) would lose the sources to it. Below, and for P and Q at any size, ordinary
/// stores were measured to be faster.
const STREAM_BYTES_MIN: usize = 512 * 1024 + 1;

const _: () = assert!(TILE_BYTES.is_multiple_of(LENGTH_UNIT_BYTES));

/// One pass with its strips, all of one length, a multiple of [`LENGTH_UNIT_BYTES`].
#[derive(Debug)]
pub(super) enum Job<'a> {
    /// dst = XOR of the sources.
    Xor { dst: &'a mut [u8], sources: &'a [&'a [u8]] },
    /// dst ^= XOR of the sources.
    XorInto { dst: &'a mut [u8], sources: &'a [&'a [u8]] },
    /// P and Q of the data.
    Pq { p: &'a mut [u8], q: &'a mut [u8], data: &'a [&'a [u8]] },
    /// Q of the data.
    Q { q: &'a mut [u8], data: &'a [&'a [u8]] },
    /// P ^= delta, Q ^= factor * delta, where delta is the XOR of the changes.
    UpdatePq { p: &'a mut [u8], q: &'a mut [u8], factor: u8, change: &'a [&'a [u8]] },
    /// Q ^= factor * delta.
    UpdateQ { q: &'a mut [u8], factor: u8, change: &'a [&'a [u8]] },
    /// dst = factor * (Q of the survivors ^ q).
    DataByQ { dst: &'a mut [u8], data: &'a [Option<&'a [u8]>], q: &'a [u8], factor: u8 },
    /// dst likewise; P = P of the survivors ^ dst.
    DataAndP {
        dst: &'a mut [u8],
        p: &'a mut [u8],
        data: &'a [Option<&'a [u8]>],
        q: &'a [u8],
        factor: u8,
    },
    /// dst = P of the survivors ^ p; Q = Q of the survivors ^ factor * dst.
    DataAndQ {
        dst: &'a mut [u8],
        q: &'a mut [u8],
        data: &'a [Option<&'a [u8]>],
        p: &'a [u8],
        factor: u8,
    },
    /// With dp and dq the differences of P and Q: x = factors[0] * dp ^ factors[1] * dq,
    /// y = dp ^ x.
    TwoData {
        x: &'a mut [u8],
        y: &'a mut [u8],
        data: &'a [Option<&'a [u8]>],
        p: &'a [u8],
        q: &'a [u8],
        factors: [u8; 2],
    },
}

/// A strip that may be lost.
trait Strip {
    fn bytes(&self) -> Option<&[u8]>;
}

impl Strip for &[u8] {
    #[inline(always)]
    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

impl Strip for Option<&[u8]> {
    #[inline(always)]
    fn bytes(&self) -> Option<&[u8]> {
        *self
    }
}

/// The offset of each block of a range.
fn blocks_of<E: Engine>(_: E, range: Range<usize>) -> impl Iterator<Item = usize> {
    const { assert!(LENGTH_UNIT_BYTES.is_multiple_of(E::BLOCK_BYTES)) };
    range.step_by(E::BLOCK_BYTES)
}

/// The offset of each block of a strip.
fn blocks<E: Engine>(e: E, length_bytes: usize) -> impl Iterator<Item = usize> {
    blocks_of(e, 0..length_bytes)
}

/// The XOR of the sources' blocks at `at`, added to `sum`.
#[inline(always)]
fn sum_of<E: Engine>(e: E, mut sum: E::Block, sources: &[&[u8]], at: usize) -> E::Block {
    for source in sources {
        sum = e.xor(sum, e.load(source, at));
    }
    sum
}

/// P and Q of the blocks at `at`.
#[inline(always)]
fn syndromes<E: Engine>(e: E, data: &[impl Strip], at: usize) -> (E::Block, E::Block) {
    let Some((last, rest)) = data.split_last() else { return (e.zero(), e.zero()) };
    let first = match last.bytes() {
        Some(strip) => e.load(strip, at),
        None => e.zero(),
    };
    syndromes_from(e, (first, first), rest, at)
}

/// P and Q of the blocks at `at`, given what the strips after these have come to.
#[inline(always)]
fn syndromes_from<E: Engine>(
    e: E,
    (mut p, mut q): (E::Block, E::Block),
    data: &[impl Strip],
    at: usize,
) -> (E::Block, E::Block) {
    for strip in data.iter().rev() {
        q = e.double(q);
        if let Some(strip) = strip.bytes() {
            let block = e.load(strip, at);
            p = e.xor(p, block);
            q = e.xor(q, block);
        }
    }
    (p, q)
}

#[inline(always)]
fn generate<E: Engine>(e: E, p: &mut [u8], q: &mut [u8], data: &[&[u8]]) {
    let length_bytes = p.len();
    for tile in (0..length_bytes).step_by(TILE_BYTES) {
        let end = length_bytes.min(tile + TILE_BYTES);
        for (number, group) in data.rchunks(GROUP_STRIPS).enumerate() {
            for at in blocks_of(e, tile..end) {
                let sums = if number == 0 {
                    syndromes(e, group, at)
                } else {
                    syndromes_from(e, (e.load(p, at), e.load(q, at)), group, at)
                };
                e.store(sums.0, p, at);
                e.store(sums.1, q, at);
            }
        }
    }
}

#[inline(always)]
fn xor<E: Engine>(e: E, dst: &mut [u8], sources: &[&[u8]]) {
    let length_bytes = dst.len();
    assert!(length_bytes.is_multiple_of(LENGTH_UNIT_BYTES));
    assert!(sources.iter().all(|source| source.len() == length_bytes));
    let Some((first, rest)) = sources.split_first() else { return dst.fill(0) };
    if length_bytes * (sources.len() + 1) >= STREAM_BYTES_MIN && e.can_stream(dst) {
        for at in blocks(e, length_bytes) {
            // SAFETY: all strips have the same length, a multiple of a block's (asserts), and
            // `at` is the start of one of its blocks.
            let sum = unsafe { xor_block(e, first, rest, at) };
            e.stream(sum, dst, at);
        }
        e.end_stream();
    } else {
        for at in blocks(e, length_bytes) {
            // SAFETY: as above.
            let sum = unsafe { xor_block(e, first, rest, at) };
            e.store(sum, dst, at);
        }
    }
}

/// The XOR of the blocks at `at`.
///
/// # Safety
/// The block must lie inside every strip.
#[inline(always)]
unsafe fn xor_block<E: Engine>(e: E, first: &[u8], rest: &[&[u8]], at: usize) -> E::Block {
    // SAFETY: the caller's promise.
    let mut sum = unsafe { e.load_unchecked(first, at) };
    for source in rest {
        // SAFETY: as above.
        sum = e.xor(sum, unsafe { e.load_unchecked(source, at) });
    }
    sum
}

/// Runs one pass with one engine; inlined into the function that has its instructions.
#[inline(always)]
pub(super) fn run<E: Engine>(e: E, job: Job<'_>) {
    match job {
        Job::Xor { dst, sources } => xor(e, dst, sources),
        Job::XorInto { dst, sources } => {
            for at in blocks(e, dst.len()) {
                let sum = sum_of(e, e.load(dst, at), sources, at);
                e.store(sum, dst, at);
            }
        }
        Job::Pq { p, q, data } => generate(e, p, q, data),
        Job::Q { q, data } => {
            for at in blocks(e, q.len()) {
                let (_, sum) = syndromes(e, data, at);
                e.store(sum, q, at);
            }
        }
        Job::UpdatePq { .. } | Job::UpdateQ { .. } => update(e, job),
        Job::DataByQ { .. } | Job::DataAndP { .. } | Job::DataAndQ { .. } | Job::TwoData { .. } => {
            recover(e, job)
        }
    }
}

#[inline(always)]
fn update<E: Engine>(e: E, job: Job<'_>) {
    match job {
        Job::UpdatePq { p, q, factor, change } => {
            let factor = e.factor(factor);
            for at in blocks(e, p.len()) {
                let delta = sum_of(e, e.zero(), change, at);
                let sum = e.xor(e.load(p, at), delta);
                e.store(sum, p, at);
                let sum = e.xor(e.load(q, at), e.times(delta, factor));
                e.store(sum, q, at);
            }
        }
        Job::UpdateQ { q, factor, change } => {
            let factor = e.factor(factor);
            for at in blocks(e, q.len()) {
                let delta = sum_of(e, e.zero(), change, at);
                let sum = e.xor(e.load(q, at), e.times(delta, factor));
                e.store(sum, q, at);
            }
        }
        job => unreachable!("{job:?} updates nothing"),
    }
}

#[inline(always)]
fn recover<E: Engine>(e: E, job: Job<'_>) {
    match job {
        Job::DataByQ { dst, data, q, factor } => {
            let factor = e.factor(factor);
            for at in blocks(e, dst.len()) {
                let (_, sum) = syndromes(e, data, at);
                let lost = e.times(e.xor(sum, e.load(q, at)), factor);
                e.store(lost, dst, at);
            }
        }
        Job::DataAndP { dst, p, data, q, factor } => {
            let factor = e.factor(factor);
            for at in blocks(e, dst.len()) {
                let sums = syndromes(e, data, at);
                let lost = e.times(e.xor(sums.1, e.load(q, at)), factor);
                e.store(lost, dst, at);
                e.store(e.xor(sums.0, lost), p, at);
            }
        }
        Job::DataAndQ { dst, q, data, p, factor } => {
            let factor = e.factor(factor);
            for at in blocks(e, dst.len()) {
                let sums = syndromes(e, data, at);
                let lost = e.xor(sums.0, e.load(p, at));
                e.store(lost, dst, at);
                e.store(e.xor(sums.1, e.times(lost, factor)), q, at);
            }
        }
        Job::TwoData { x, y, data, p, q, factors } => {
            let (of_p, of_q) = (e.factor(factors[0]), e.factor(factors[1]));
            for at in blocks(e, x.len()) {
                let sums = syndromes(e, data, at);
                let dp = e.xor(sums.0, e.load(p, at));
                let dq = e.xor(sums.1, e.load(q, at));
                let lost = e.xor(e.times(dp, of_p), e.times(dq, of_q));
                e.store(lost, x, at);
                e.store(e.xor(dp, lost), y, at);
            }
        }
        job => unreachable!("{job:?} recovers nothing"),
    }
}
