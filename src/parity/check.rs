//! Whether a stripe's parity fits its data, and which member is wrong if it does not.

use super::gf;
use super::kernels::{Kernels, assert_length, assert_strips};
use super::strips::Strips;

/// What a check of a stripe has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The parity fits the data.
    Consistent,
    /// Only P is wrong, if one member is.
    P,
    /// Only Q is wrong, if one member is.
    Q,
    /// Only this data strip is wrong, if one member is: its place in md's order.
    Data(usize),
    /// The parity does not fit, and no one member can be blamed: several are wrong, or there is
    /// only one parity.
    Inconsistent,
}

/// Compared at once; both syndromes are on the stack.
const TILE_BYTES: usize = 2048;

impl Kernels {
    /// Compares the parity strips that are given with the data strips in md's order, and writes
    /// nothing. With both, one wrong member is told by its trace in every byte; two wrong members
    /// look like a third only if all their bytes conspire.
    pub fn check(&self, data: &[&[u8]], p: Option<&[u8]>, q: Option<&[u8]>) -> Verdict {
        let length_bytes = data.first().map_or(0, |strip| strip.len());
        assert_strips(length_bytes, data);
        for parity in [p, q].into_iter().flatten() {
            assert_length(length_bytes, parity);
        }
        let mut verdict = Verdict::Consistent;
        for start in (0..length_bytes).step_by(TILE_BYTES) {
            let tile = start..length_bytes.min(start + TILE_BYTES);
            let strips: Strips<'_> = data.iter().map(|strip| &strip[tile.clone()]).collect();
            let [p, q] = [p, q].map(|strip| strip.map(|strip| &strip[tile.clone()]));
            verdict = merge(verdict, self.check_tile(&strips, p, q));
            if verdict == Verdict::Inconsistent {
                break;
            }
        }
        verdict
    }

    fn check_tile(&self, data: &[&[u8]], p: Option<&[u8]>, q: Option<&[u8]>) -> Verdict {
        let (mut sums_p, mut sums_q) = ([0; TILE_BYTES], [0; TILE_BYTES]);
        let sums_p = &mut sums_p[..data[0].len()];
        let sums_q = &mut sums_q[..data[0].len()];
        let is_same = match (p, q) {
            (None, None) => true,
            (Some(p), None) => {
                self.xor(sums_p, data);
                sums_p == p
            }
            (None, Some(q)) => {
                self.generate_q(sums_q, data);
                sums_q == q
            }
            (Some(p), Some(q)) => {
                self.generate_pq(sums_p, sums_q, data);
                if sums_p != p || sums_q != q {
                    self.xor_into(sums_p, &[p]);
                    self.xor_into(sums_q, &[q]);
                    return blame(sums_p, sums_q, data.len());
                }
                true
            }
        };
        if is_same { Verdict::Consistent } else { Verdict::Inconsistent }
    }
}

/// Who left these differences of P and Q, if it was one member: an error e of data strip z changes
/// P by e and Q by g^z * e.
fn blame(sums_p: &[u8], sums_q: &[u8], data_strips: usize) -> Verdict {
    let mut verdict = Verdict::Consistent;
    for (&p, &q) in sums_p.iter().zip(sums_q) {
        let of_byte = match (p, q) {
            (0, 0) => Verdict::Consistent,
            (_, 0) => Verdict::P,
            (0, _) => Verdict::Q,
            (p, q) => {
                let index = (gf::ORDER + gf::logarithm(q) - gf::logarithm(p)) % gf::ORDER;
                if index < data_strips { Verdict::Data(index) } else { Verdict::Inconsistent }
            }
        };
        verdict = merge(verdict, of_byte);
    }
    verdict
}

/// Two places of a stripe must blame the same member.
fn merge(a: Verdict, b: Verdict) -> Verdict {
    match (a, b) {
        (Verdict::Consistent, verdict) | (verdict, Verdict::Consistent) => verdict,
        (a, b) if a == b => a,
        _ => Verdict::Inconsistent,
    }
}
