//! What a stripe has lost, from what is left of it.

use super::gf;
use super::kernels::{Kernels, assert_count, assert_length, assert_unit, coefficient};
use super::pass::Job;
use super::strips::Strips;

/// More is lost than the parity that is left can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("data strips lost: {data}, parity strips left: {parity}; the stripe cannot be recovered")]
pub struct Unrecoverable {
    /// Data strips that are lost.
    pub data: usize,
    /// Parity strips that are left.
    pub parity: usize,
}

impl Kernels {
    /// Fills `out` with what is lost (`None`): the data strips in md's order, then P, then Q. The
    /// parity may be left off at the end, so that a stripe without Q (RAID5's) gives `None` for it.
    ///
    /// # Errors
    /// If more data strips are lost than parity strips are left; `out` is not touched then.
    ///
    /// # Panics
    /// If `out` is not as long as that, and as every method does.
    pub fn recover(
        &self,
        data: &[Option<&[u8]>],
        p: Option<&[u8]>,
        q: Option<&[u8]>,
        out: &mut [&mut [u8]],
    ) -> Result<(), Unrecoverable> {
        assert_stripe(data, p, q, out);
        let mut lost = (0..data.len()).filter(|&index| data[index].is_none());
        match (lost.next(), lost.next()) {
            (None, _) => self.recover_parity(data, p, q, out),
            (Some(index), None) if p.is_some() || q.is_some() => {
                self.recover_one(data, index, p, q, out);
            }
            (Some(first), Some(second)) if p.is_some() && q.is_some() && lost.next().is_none() => {
                let (Some(p), Some(q), [x, y]) = (p, q, out) else { wrong_out() };
                let factors = factors_of_two(first, second);
                self.run(Job::TwoData { x, y, data, p, q, factors });
            }
            _ => {
                let lost = data.iter().filter(|strip| strip.is_none()).count();
                let parity = usize::from(p.is_some()) + usize::from(q.is_some());
                return Err(Unrecoverable { data: lost, parity });
            }
        }
        Ok(())
    }

    fn recover_parity(
        &self,
        data: &[Option<&[u8]>],
        p: Option<&[u8]>,
        q: Option<&[u8]>,
        out: &mut [&mut [u8]],
    ) {
        let data: Strips<'_> = data.iter().copied().flatten().collect();
        match (p, q, out) {
            (None, _, [p]) => self.xor(p, &data),
            (None, None, [p, q]) => self.generate_pq(p, q, &data),
            (Some(_), None, [q]) => self.generate_q(q, &data),
            _ => wrong_out(),
        }
    }

    fn recover_one(
        &self,
        data: &[Option<&[u8]>],
        index: usize,
        p: Option<&[u8]>,
        q: Option<&[u8]>,
        out: &mut [&mut [u8]],
    ) {
        match (p, q, out) {
            (Some(p), _, [dst]) => {
                // All strips and P add up to zero.
                let mut sources: Strips<'_> = data.iter().copied().flatten().collect();
                sources.push(p);
                self.xor(dst, &sources);
            }
            (Some(p), None, [dst, q]) => {
                self.run(Job::DataAndQ { dst, q, data, p, factor: coefficient(index) });
            }
            (None, Some(q), [dst]) => {
                let factor = gf::inverse(coefficient(index));
                self.run(Job::DataByQ { dst, data, q, factor });
            }
            (None, Some(q), [dst, p]) => {
                let factor = gf::inverse(coefficient(index));
                self.run(Job::DataAndP { dst, p, data, q, factor });
            }
            _ => wrong_out(),
        }
    }
}

/// What the differences of P and of Q are multiplied by to give the first of two lost strips.
fn factors_of_two(first: usize, second: usize) -> [u8; 2] {
    let distance = gf::power(second - first);
    let divisor = gf::inverse(distance ^ 1);
    [gf::multiply(distance, divisor), gf::multiply(gf::inverse(coefficient(first)), divisor)]
}

fn assert_stripe(data: &[Option<&[u8]>], p: Option<&[u8]>, q: Option<&[u8]>, out: &[&mut [u8]]) {
    let Some(first) = out.first() else { wrong_out() };
    assert_count(data.len());
    assert_unit(first.len());
    for strip in data.iter().copied().chain([p, q]).flatten() {
        assert_length(first.len(), strip);
    }
    for strip in out {
        assert_length(first.len(), strip);
    }
}

fn wrong_out() -> ! {
    panic!("as many strips must be asked for as are lost")
}
