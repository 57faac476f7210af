//! One way of computing with a block of bytes at once, and those there are.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

/// Vector instructions of one kind. A value of the type is the proof that the CPU has them, so only
/// the making of that value is unsafe.
///
/// Every method must be `#[inline(always)]`: the instructions become instructions only inside the
/// function with `#[target_feature]` that runs a pass.
pub(super) trait Engine: Copy {
    /// Some vectors, as many as are worth to be computed with at once.
    type Block: Copy;

    /// Bytes of a block.
    const BLOCK_BYTES: usize;

    /// A constant to multiply by.
    type Factor: Copy;

    /// All zeroes.
    fn zero(self) -> Self::Block;

    /// The block from byte `at`, at any alignment.
    ///
    /// # Safety
    /// The block must lie inside the strip.
    unsafe fn load_unchecked(self, strip: &[u8], at: usize) -> Self::Block;

    /// The block from byte `at`, at any alignment.
    ///
    /// # Panics
    /// If it leaves the strip.
    #[inline(always)]
    fn load(self, strip: &[u8], at: usize) -> Self::Block {
        let block = &strip[at..at + Self::BLOCK_BYTES];
        // SAFETY: the slice is a block long.
        unsafe { self.load_unchecked(block, 0) }
    }

    /// Writes a block from byte `at`, at any alignment.
    ///
    /// # Panics
    /// If it leaves the strip.
    fn store(self, block: Self::Block, strip: &mut [u8], at: usize);

    /// Whether `stream` can write to a strip: it may want an alignment, or not exist.
    #[inline(always)]
    fn can_stream(self, _strip: &[u8]) -> bool {
        false
    }

    /// As `store`, but around the cache, if `can_stream`; `end_stream` must follow.
    #[inline(always)]
    fn stream(self, block: Self::Block, strip: &mut [u8], at: usize) {
        self.store(block, strip, at);
    }

    /// Orders what was streamed before whatever this thread writes next.
    #[inline(always)]
    fn end_stream(self) {}

    /// a + b in GF(2^8).
    fn xor(self, a: Self::Block, b: Self::Block) -> Self::Block;

    /// g * a in GF(2^8).
    fn double(self, a: Self::Block) -> Self::Block;

    /// Prepares multiplication by `c`.
    fn factor(self, c: u8) -> Self::Factor;

    /// a * c in GF(2^8).
    fn times(self, a: Self::Block, c: Self::Factor) -> Self::Block;
}
