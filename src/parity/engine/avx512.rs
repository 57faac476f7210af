//! AVX-512 with GFNI: 64 bytes in a register; multiplication is one instruction.
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one reason holds for every instruction")]

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_storeu_si512, _mm512_stream_si512, _mm512_xor_si512,
};

use super::super::gf;
use super::super::pass::{self, Job};
use super::Engine;

const VECTORS: usize = 4;
const VECTOR_BYTES: usize = size_of::<__m512i>();

/// The CPU has AVX-512F and GFNI.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx512(());

/// Runs a pass.
///
/// # Safety
/// The CPU must have AVX-512F and GFNI.
#[target_feature(enable = "avx512f,gfni")]
pub(in super::super) unsafe fn run(job: Job<'_>) {
    pass::run(Avx512(()), job);
}

impl Engine for Avx512 {
    type Block = [__m512i; VECTORS];
    const BLOCK_BYTES: usize = VECTORS * VECTOR_BYTES;
    /// The matrix, eight times.
    type Factor = __m512i;

    #[inline(always)]
    fn zero(self) -> Self::Block {
        // SAFETY: the CPU has AVX-512F (self).
        [unsafe { _mm512_setzero_si512() }; VECTORS]
    }

    #[inline(always)]
    // SAFETY: as the trait demands of its callers.
    unsafe fn load_unchecked(self, strip: &[u8], at: usize) -> Self::Block {
        let from: *const __m512i = strip.as_ptr().wrapping_add(at).cast();
        let mut block = self.zero();
        for (i, vector) in block.iter_mut().enumerate() {
            // SAFETY: the CPU has AVX-512F (self); the vector lies in the strip (caller),
            // and the instruction wants no alignment.
            *vector = unsafe { _mm512_loadu_si512(from.add(i)) };
        }
        block
    }

    #[inline(always)]
    fn store(self, block: Self::Block, strip: &mut [u8], at: usize) {
        let to: *mut __m512i = strip[at..at + Self::BLOCK_BYTES].as_mut_ptr().cast();
        for (i, vector) in block.into_iter().enumerate() {
            // SAFETY: as for `load`; the slice is borrowed exclusively.
            unsafe { _mm512_storeu_si512(to.add(i), vector) };
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
        let to: *mut __m512i = to.as_mut_ptr().cast();
        for (i, vector) in block.into_iter().enumerate() {
            // SAFETY: as for `store`; the address is aligned (assert). The passes end with
            // `end_stream` before anyone else sees the strip.
            unsafe { _mm512_stream_si512(to.add(i), vector) };
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
            // SAFETY: the CPU has AVX-512F (self).
            *a = unsafe { _mm512_xor_si512(*a, b) };
        }
        a
    }

    #[inline(always)]
    fn double(self, a: Self::Block) -> Self::Block {
        self.times(a, self.factor(2))
    }

    #[inline(always)]
    fn factor(self, c: u8) -> Self::Factor {
        // SAFETY: the CPU has AVX-512F (self).
        unsafe { _mm512_set1_epi64(gf::matrix(c).cast_signed()) }
    }

    #[inline(always)]
    fn times(self, mut a: Self::Block, c: Self::Factor) -> Self::Block {
        for a in &mut a {
            // SAFETY: the CPU has AVX-512F and GFNI (self).
            *a = unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(*a, c) };
        }
        a
    }
}
