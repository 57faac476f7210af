//! Parity of stripes: XOR, P and Q, recovery and check, on strips of bytes and nothing else.
//!
//! The algebra is that of md and of H. Peter Anvin, "The mathematics of RAID-6". A byte is an
//! element of GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d), + is XOR, g = 2. With the data
//! strips D_0 … D_(n-1) in md's order (D_0 follows Q in the layouts where that is to be counted):
//!
//! | what | how |
//! |---|---|
//! | P, Q | P = sum D_i; Q = sum g^i D_i, by Horner's rule: (…(D_(n-1) g + D_(n-2)) g + …) + D_0 (section 3, "Optimization issues") |
//! | D_x becomes D_x + d | P += d; Q += g^x d: both are linear |
//! | P or Q lost | computed again |
//! | D_x lost (and Q) | D_x = P + P_x, where P_x and Q_x are made with zeroes in place of what is lost; then Q = Q_x + g^x D_x |
//! | D_x and P lost | D_x = (Q + Q_x) g^-x; then P = P_x + D_x |
//! | D_x and D_y lost | D_x = A (P + P_xy) + B (Q + Q_xy), D_y = (P + P_xy) + D_x, with A = g^(y-x) / (g^(y-x) + 1) and B = g^-x / (g^(y-x) + 1) |
//! | one of n + 2 wrong | P differs by e and Q by f: only P if f = 0, only Q if e = 0, else D_z with g^z = f / e (section 4, "single-disk corruption recovery") |
//!
//! g has the order 255, so all g^i of an array's members differ and every division above exists.
//!
//! `gf` has the field's tables, made by the compiler. `engine` computes with blocks of bytes in one
//! kind of instructions; all unsafe code is there and where one of them is called. `pass` goes once
//! over a stripe with any engine. `kernels`, `recover` and `check` are the safe face, `strips` the
//! lists that callers build on the stack. What it promises is in `perf/PROMISES.md`.

mod check;
mod engine;
mod gf;
mod kernels;
mod pass;
mod recover;
mod strips;
#[cfg(test)]
mod tests;

pub use check::Verdict;
pub use kernels::{Instructions, Kernels};
pub use recover::Unrecoverable;
pub use strips::{List, Strips, Survivors};

/// Strips are a multiple of this long: the smallest logical block.
pub const LENGTH_UNIT_BYTES: usize = 512;
