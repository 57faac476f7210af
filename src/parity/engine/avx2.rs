//! AVX2: 32 bytes in a register; multiplication by two lookups with `vpshufb`.
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one reason holds for every instruction")]

use std::arch::x86_64::{
    __m256i, _mm_load_si128, _mm_sfence, _mm256_add_epi8, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256, _mm256_stream_si256,
    _mm256_xor_si256,
};

use super::super::gf;
use super::super::pass::{self, Job};
use super::Engine;

const VECTORS: usize = 4;
const VECTOR_BYTES: usize = size_of::<__m256i>();

/// The CPU has AVX2.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx2(());

/// Runs a pass.
///
/// # Safety
/// The CPU must have AVX2.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn run(job: Job<'_>) {
    pass::run(Avx2(()), job);
}

impl Engine for Avx2 {
    type Block = [__m256i; VECTORS];
    const BLOCK_BYTES: usize = VECTORS * VECTOR_BYTES;
    /// The products of the low and of the high halves of a byte, twice each.
    type Factor = [__m256i; 2];

    #[inline(always)]
    fn zero(self) -> Self::Block {
        // SAFETY: the CPU has AVX2 (self).
        [unsafe { _mm256_setzero_si256() }; VECTORS]
    }

    #[inline(always)]
    // SAFETY: as the trait demands of its callers.
    unsafe fn load_unchecked(self, strip: &[u8], at: usize) -> Self::Block {
        let from: *const __m256i = strip.as_ptr().wrapping_add(at).cast();
        let mut block = self.zero();
        for (i, vector) in block.iter_mut().enumerate() {
            // SAFETY: the CPU has AVX2 (self); the vector lies in the strip (caller),
            // and the instruction wants no alignment.
            *vector = unsafe { _mm256_loadu_si256(from.add(i)) };
        }
        block
    }

    #[inline(always)]
    fn store(self, block: Self::Block, strip: &mut [u8], at: usize) {
        let to: *mut __m256i = strip[at..at + Self::BLOCK_BYTES].as_mut_ptr().cast();
        for (i, vector) in block.into_iter().enumerate() {
            // SAFETY: as for `load`; the slice is borrowed exclusively.
            unsafe { _mm256_storeu_si256(to.add(i), vector) };
        }
    }

    #[inline(always)]
    fn can_stream(self, strip: &[u8]) -> bool {
        strip.as_ptr().addr().is_multiple_of(VECTOR_BYTES)
    }

    #[inline(always)]
    fn stream(self, block: Self::Block, strip: &mut [u8], at: usize) {
        let to = &mut strip[at..at + Self::BLOCK_BYTES];
        assert!(self.can_stream(to), "a streaming store wants its alignment");
        let to: *mut __m256i = to.as_mut_ptr().cast();
        for (i, vector) in block.into_iter().enumerate() {
            // SAFETY: as for `store`; the address is aligned (assert). The passes end with
            // `end_stream` before anyone else sees the strip.
            unsafe { _mm256_stream_si256(to.add(i), vector) };
        }
    }

    #[inline(always)]
    fn end_stream(self) {
        // SAFETY: every x86-64 CPU has SSE.
        unsafe { _mm_sfence() };
    }

    #[inline(always)]
    fn xor(self, mut a: Self::Block, b: Self::Block) -> Self::Block {
        for (a, b) in a.iter_mut().zip(b) {
            // SAFETY: the CPU has AVX2 (self).
            *a = unsafe { _mm256_xor_si256(*a, b) };
        }
        a
    }

    #[inline(always)]
    fn double(self, mut a: Self::Block) -> Self::Block {
        for a in &mut a {
            // SAFETY: the CPU has AVX2 (self).
            *a = unsafe {
                let polynomial = _mm256_set1_epi8(gf::POLYNOMIAL.cast_signed());
                // The blend looks at the top bit of each byte only.
                let carry = _mm256_blendv_epi8(_mm256_setzero_si256(), polynomial, *a);
                _mm256_xor_si256(_mm256_add_epi8(*a, *a), carry)
            };
        }
        a
    }

    #[inline(always)]
    fn factor(self, c: u8) -> Self::Factor {
        let nibbles = gf::nibbles(c);
        // SAFETY: the CPU has AVX2 (self); both halves are 16 bytes, aligned to 16 by their type.
        unsafe {
            [
                _mm256_broadcastsi128_si256(_mm_load_si128(nibbles.low.as_ptr().cast())),
                _mm256_broadcastsi128_si256(_mm_load_si128(nibbles.high.as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn times(self, mut a: Self::Block, [low, high]: Self::Factor) -> Self::Block {
        for a in &mut a {
            // SAFETY: the CPU has AVX2 (self).
            *a = unsafe {
                let mask = _mm256_set1_epi8(15);
                let of_low = _mm256_shuffle_epi8(low, _mm256_and_si256(*a, mask));
                let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(*a), mask);
                _mm256_xor_si256(of_low, _mm256_shuffle_epi8(high, upper))
            };
        }
        a
    }
}
