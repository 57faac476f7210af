//! NEON: 16 bytes in a register; multiplication by two lookups with `tbl`.
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one reason holds for every instruction")]

use std::arch::aarch64::{
    uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vreinterpretq_s8_u8,
    vreinterpretq_u8_s8, vshlq_n_u8, vshrq_n_s8, vshrq_n_u8, vst1q_u8,
};

use super::super::gf;
use super::super::pass::{self, Job};
use super::Engine;

const VECTORS: usize = 4;
const VECTOR_BYTES: usize = size_of::<uint8x16_t>();

/// The CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Neon(());

/// Runs a pass.
///
/// # Safety
/// The CPU must have NEON.
#[target_feature(enable = "neon")]
pub(in super::super) unsafe fn run(job: Job<'_>) {
    pass::run(Neon(()), job);
}

impl Engine for Neon {
    type Block = [uint8x16_t; VECTORS];
    const BLOCK_BYTES: usize = VECTORS * VECTOR_BYTES;
    /// The products of the low and of the high halves of a byte.
    type Factor = [uint8x16_t; 2];

    #[inline(always)]
    fn zero(self) -> Self::Block {
        // SAFETY: the CPU has NEON (self).
        [unsafe { vdupq_n_u8(0) }; VECTORS]
    }

    #[inline(always)]
    // SAFETY: as the trait demands of its callers.
    unsafe fn load_unchecked(self, strip: &[u8], at: usize) -> Self::Block {
        let from = strip.as_ptr().wrapping_add(at);
        let mut block = self.zero();
        for (i, vector) in block.iter_mut().enumerate() {
            // SAFETY: the CPU has NEON (self); the vector lies in the strip (caller),
            // and the instruction wants no alignment.
            *vector = unsafe { vld1q_u8(from.add(i * VECTOR_BYTES)) };
        }
        block
    }

    #[inline(always)]
    fn store(self, block: Self::Block, strip: &mut [u8], at: usize) {
        let to = strip[at..at + Self::BLOCK_BYTES].as_mut_ptr();
        for (i, vector) in block.into_iter().enumerate() {
            // SAFETY: as for `load`; the slice is borrowed exclusively.
            unsafe { vst1q_u8(to.add(i * VECTOR_BYTES), vector) };
        }
    }

    #[inline(always)]
    fn xor(self, mut a: Self::Block, b: Self::Block) -> Self::Block {
        for (a, b) in a.iter_mut().zip(b) {
            // SAFETY: the CPU has NEON (self).
            *a = unsafe { veorq_u8(*a, b) };
        }
        a
    }

    #[inline(always)]
    fn double(self, mut a: Self::Block) -> Self::Block {
        for a in &mut a {
            // SAFETY: the CPU has NEON (self).
            *a = unsafe {
                // The shift of signed bytes spreads the top bit over the byte.
                let mask = vreinterpretq_u8_s8(vshrq_n_s8::<7>(vreinterpretq_s8_u8(*a)));
                let carry = vandq_u8(mask, vdupq_n_u8(gf::POLYNOMIAL));
                veorq_u8(vshlq_n_u8::<1>(*a), carry)
            };
        }
        a
    }

    #[inline(always)]
    fn factor(self, c: u8) -> Self::Factor {
        let nibbles = gf::nibbles(c);
        // SAFETY: the CPU has NEON (self); both halves are 16 bytes.
        unsafe { [vld1q_u8(nibbles.low.as_ptr()), vld1q_u8(nibbles.high.as_ptr())] }
    }

    #[inline(always)]
    fn times(self, mut a: Self::Block, [low, high]: Self::Factor) -> Self::Block {
        for a in &mut a {
            // SAFETY: the CPU has NEON (self).
            *a = unsafe {
                let of_low = vqtbl1q_u8(low, vandq_u8(*a, vdupq_n_u8(15)));
                veorq_u8(of_low, vqtbl1q_u8(high, vshrq_n_u8::<4>(*a)))
            };
        }
        a
    }
}
