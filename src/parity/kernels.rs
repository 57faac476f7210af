//! The choice of the engine, and the safe face of the passes.

use super::LENGTH_UNIT_BYTES;
use super::engine;
use super::gf;
use super::pass::Job;
use crate::limits::MEMBERS_MAX;

/// Which instructions compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512F and GFNI, 64 bytes at once.
    Avx512Gfni,
    /// AVX2, 32 bytes at once.
    Avx2,
    /// NEON, 16 bytes at once.
    Neon,
    /// Eight bytes in a `u64`: any CPU.
    Portable,
}

impl Instructions {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512Gfni, Self::Avx2, Self::Neon, Self::Portable];

    /// The name for logs and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Gfni => "AVX-512+GFNI",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Portable => "portable",
        }
    }

    /// The runner of these instructions, if this CPU has them.
    fn run(self) -> Option<Run> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Gfni
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni") =>
            {
                Some(engine::avx512::run)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if is_x86_feature_detected!("avx2") => Some(engine::avx2::run),
            #[cfg(target_arch = "aarch64")]
            Self::Neon if std::arch::is_aarch64_feature_detected!("neon") => {
                Some(engine::neon::run)
            }
            Self::Portable => Some(engine::portable::run),
            _ => None,
        }
    }
}

/// Runs a pass with instructions that the CPU must have.
type Run = unsafe fn(Job<'_>);

/// The kernels for this CPU: chosen once, copied to whoever computes. No call allocates, blocks or
/// fails; every strip of one call has the same length, a multiple of [`LENGTH_UNIT_BYTES`], at any
/// alignment.
///
/// # Panics
/// Every method, if the lengths differ or are no such multiple, or if there are no or more than
/// [`MEMBERS_MAX`] sources: the RAID core cuts its strips, so this is never input.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    instructions: Instructions,
    run: Run,
}

impl Kernels {
    /// The fastest that this CPU can run.
    #[must_use]
    pub fn detect() -> Self {
        Instructions::ALL.into_iter().find_map(Self::with).expect("the portable ones run anywhere")
    }

    /// With these instructions, if this CPU has them: for tests and benchmarks.
    #[must_use]
    pub fn with(instructions: Instructions) -> Option<Self> {
        instructions.run().map(|run| Self { instructions, run })
    }

    /// Which instructions were chosen.
    #[must_use]
    pub fn instructions(&self) -> Instructions {
        self.instructions
    }

    pub(super) fn run(&self, job: Job<'_>) {
        // SAFETY: `with` made sure that the CPU has the instructions; nothing else sets `run`.
        unsafe { (self.run)(job) }
    }

    /// dst = XOR of the sources: P of a stripe, or the one strip that is lost of a stripe with P.
    pub fn xor(&self, dst: &mut [u8], sources: &[&[u8]]) {
        assert_strips(dst.len(), sources);
        self.run(Job::Xor { dst, sources });
    }

    /// dst ^= XOR of the sources. With the old and the new data it updates P.
    pub fn xor_into(&self, dst: &mut [u8], sources: &[&[u8]]) {
        assert_strips(dst.len(), sources);
        self.run(Job::XorInto { dst, sources });
    }

    /// P and Q of the data strips in md's order.
    pub fn generate_pq(&self, p: &mut [u8], q: &mut [u8], data: &[&[u8]]) {
        assert_strips(p.len(), data);
        assert_length(p.len(), q);
        self.run(Job::Pq { p, q, data });
    }

    /// Q alone of the data strips in md's order.
    pub fn generate_q(&self, q: &mut [u8], data: &[&[u8]]) {
        assert_strips(q.len(), data);
        self.run(Job::Q { q, data });
    }

    /// P and Q after data strip `index` has changed by the XOR of the strips in `change`: its old
    /// and its new content, or their difference.
    pub fn update_pq(&self, p: &mut [u8], q: &mut [u8], index: usize, change: &[&[u8]]) {
        assert_strips(p.len(), change);
        assert_length(p.len(), q);
        self.run(Job::UpdatePq { p, q, factor: coefficient(index), change });
    }

    /// Q alone after such a change.
    pub fn update_q(&self, q: &mut [u8], index: usize, change: &[&[u8]]) {
        assert_strips(q.len(), change);
        self.run(Job::UpdateQ { q, factor: coefficient(index), change });
    }
}

/// What data strip `index` is multiplied by in Q.
pub(super) fn coefficient(index: usize) -> u8 {
    assert!(index < MEMBERS_MAX, "data strip {index} of at most {MEMBERS_MAX}");
    gf::power(index)
}

pub(super) fn assert_strips(length_bytes: usize, strips: &[&[u8]]) {
    assert_count(strips.len());
    for strip in strips {
        assert_length(length_bytes, strip);
    }
    assert_unit(length_bytes);
}

pub(super) fn assert_count(strips: usize) {
    assert!((1..=MEMBERS_MAX).contains(&strips), "{strips} strips, 1 to {MEMBERS_MAX} wanted");
}

pub(super) fn assert_length(length_bytes: usize, strip: &[u8]) {
    assert_eq!(strip.len(), length_bytes, "strips of a stripe are equally long");
}

pub(super) fn assert_unit(length_bytes: usize) {
    assert!(
        length_bytes.is_multiple_of(LENGTH_UNIT_BYTES),
        "a strip of {length_bytes} bytes is no multiple of {LENGTH_UNIT_BYTES}"
    );
}

// Every data strip has a coefficient of its own.
const _: () = assert!(MEMBERS_MAX <= gf::ORDER);
