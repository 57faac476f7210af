//! Eight bytes in a `u64`, for CPUs of which we know nothing more. Nothing here is really unsafe.

use super::super::gf;
use super::super::pass::{self, Job};
use super::Engine;

const WORDS: usize = 8;
const WORD_BYTES: usize = 8;

/// The top bit of each byte.
const TOP_BITS: u64 = u64::from_le_bytes([0x80; 8]);

#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Portable;

/// Runs a pass.
pub(in super::super) fn run(job: Job<'_>) {
    pass::run(Portable, job);
}

#[inline(always)]
fn double(word: u64) -> u64 {
    let carries = word & TOP_BITS;
    // 0xff in each byte whose top bit is set: 0x100 - 0x01 there, nothing borrowed between bytes.
    let mask = (carries << 1).wrapping_sub(carries >> 7);
    ((word ^ carries) << 1) ^ (mask & u64::from_le_bytes([gf::POLYNOMIAL; 8]))
}

impl Engine for Portable {
    type Block = [u64; WORDS];
    const BLOCK_BYTES: usize = WORDS * WORD_BYTES;
    type Factor = u8;

    #[inline(always)]
    fn zero(self) -> Self::Block {
        [0; WORDS]
    }

    // SAFETY: asks nothing of its caller; it checks the range.
    #[inline(always)]
    unsafe fn load_unchecked(self, strip: &[u8], at: usize) -> Self::Block {
        let (words, _) = strip[at..at + Self::BLOCK_BYTES].as_chunks::<WORD_BYTES>();
        std::array::from_fn(|i| u64::from_le_bytes(words[i]))
    }

    #[inline(always)]
    fn store(self, block: Self::Block, strip: &mut [u8], at: usize) {
        let (words, _) = strip[at..at + Self::BLOCK_BYTES].as_chunks_mut::<WORD_BYTES>();
        for (to, word) in words.iter_mut().zip(block) {
            *to = word.to_le_bytes();
        }
    }

    #[inline(always)]
    fn xor(self, a: Self::Block, b: Self::Block) -> Self::Block {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn double(self, a: Self::Block) -> Self::Block {
        a.map(double)
    }

    #[inline(always)]
    fn factor(self, c: u8) -> Self::Factor {
        c
    }

    /// Bit by bit of the constant: eight doublings, no table.
    #[inline(always)]
    fn times(self, a: Self::Block, c: Self::Factor) -> Self::Block {
        let mut product = [0; WORDS];
        for bit in (0..8).rev() {
            product = product.map(double);
            let mask = if c >> bit & 1 == 1 { u64::MAX } else { 0 };
            product = std::array::from_fn(|i| product[i] ^ (a[i] & mask));
        }
        product
    }
}
