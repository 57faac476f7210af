//! Every pass of every engine that this CPU has, against bytes multiplied one by one.

use proptest::prelude::*;

use super::{Instructions, Kernels, LENGTH_UNIT_BYTES, Strips, Unrecoverable, Verdict};
use crate::limits::MEMBERS_MAX;

/// Bytes before and after a strip that no kernel may touch.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;

fn all_kernels() -> Vec<Kernels> {
    let found: Vec<_> = Instructions::ALL.into_iter().filter_map(Kernels::with).collect();
    assert_eq!(found.last().map(Kernels::instructions), Some(Instructions::Portable));
    assert_eq!(found[0].instructions(), Kernels::detect().instructions());
    found
}

// --- The reference: nothing of `gf`, one bit after the other.

fn multiply(a: u8, b: u8) -> u8 {
    let mut product: u16 = 0;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= u16::from(a) << bit;
        }
    }
    for bit in (8..16).rev() {
        if product >> bit & 1 == 1 {
            product ^= 0x11d << (bit - 8);
        }
    }
    u8::try_from(product).unwrap()
}

fn power_of_two(exponent: usize) -> u8 {
    (0..exponent).fold(1, |power, _| multiply(power, 2))
}

fn reference(data: &[Buf]) -> (Vec<u8>, Vec<u8>) {
    let length = data[0].strip().len();
    let (mut p, mut q) = (vec![0; length], vec![0; length]);
    for (index, strip) in data.iter().enumerate() {
        let coefficient = power_of_two(index);
        let products: Vec<u8> = (0..=255).map(|byte| multiply(byte, coefficient)).collect();
        for (at, &byte) in strip.strip().iter().enumerate() {
            p[at] ^= byte;
            q[at] ^= products[usize::from(byte)];
        }
    }
    (p, q)
}

// --- Strips at any alignment, between guards.

#[derive(Clone)]
struct Buf {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buf {
    /// Random content, `shift` bytes after an address that is a multiple of 64.
    fn new(length: usize, shift: usize, seed: &mut u64) -> Self {
        let mut bytes = vec![GUARD_BYTE; length + 4 * GUARD];
        let start = GUARD + bytes[GUARD..].as_ptr().align_offset(GUARD) + shift;
        for byte in &mut bytes[start..start + length] {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = seed.to_le_bytes()[7];
        }
        Self { bytes, start, length }
    }

    fn strip(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    fn strip_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }

    fn assert_guards(&self) {
        let after = self.start + self.length;
        let guards = self.bytes[..self.start].iter().chain(&self.bytes[after..]);
        assert!(guards.into_iter().all(|&byte| byte == GUARD_BYTE), "written beyond the strip");
    }
}

struct Stripe {
    data: Vec<Buf>,
    p: Vec<u8>,
    q: Vec<u8>,
    length: usize,
    shift: usize,
    seed: u64,
}

impl std::fmt::Debug for Stripe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (strips, length, shift) = (self.data.len(), self.length, self.shift);
        write!(f, "{strips} strips of {length} bytes, shift {shift}, seed {}", self.seed)
    }
}

impl Stripe {
    /// Every strip has an alignment of its own unless `shift` is 0.
    fn new(strips: usize, length: usize, shift: usize, mut seed: u64) -> Self {
        let data: Vec<Buf> = (0..strips)
            .map(|index| Buf::new(length, shift * (index + 1) % GUARD, &mut seed))
            .collect();
        let (p, q) = reference(&data);
        Self { data, p, q, length, shift, seed }
    }

    fn strips(&self) -> Strips<'_> {
        self.data.iter().map(Buf::strip).collect()
    }

    /// Somewhere to write, full of something else.
    fn out(&self, number: usize) -> Buf {
        Buf::new(self.length, self.shift * (number + 7) % GUARD, &mut self.seed.clone())
    }

    /// Recovers these data strips and parities and compares.
    fn recover(&self, kernels: Kernels, lost: &[usize], p_lost: bool, q_lost: bool) {
        let data: Vec<Option<&[u8]>> = (self.data.iter().enumerate())
            .map(|(index, buf)| (!lost.contains(&index)).then(|| buf.strip()))
            .collect();
        let p = (!p_lost).then_some(&self.p[..]);
        let q = (!q_lost).then_some(&self.q[..]);
        let mut wanted: Vec<&[u8]> = lost.iter().map(|&index| self.data[index].strip()).collect();
        wanted.extend(p_lost.then_some(&self.p[..]));
        wanted.extend(q_lost.then_some(&self.q[..]));
        let mut outs: Vec<Buf> = (0..wanted.len()).map(|number| self.out(number)).collect();
        let mut out: Vec<&mut [u8]> = outs.iter_mut().map(Buf::strip_mut).collect();
        assert_eq!(kernels.recover(&data, p, q, &mut out), Ok(()));
        for (out, wanted) in outs.iter().zip(wanted) {
            assert!(out.strip() == wanted, "{kernels:?}: {lost:?} {p_lost} {q_lost}");
            out.assert_guards();
        }
    }
}

fn stripes() -> impl Strategy<Value = Stripe> {
    // Up to nine sectors: less, more and not a multiple of a tile.
    let strips = prop_oneof![4 => 1..=12usize, 1 => 13..=MEMBERS_MAX];
    let shift = prop_oneof![Just(0), 1..GUARD];
    (strips, 1..=9usize, shift, any::<u64>()).prop_map(|(strips, units, shift, seed)| {
        Stripe::new(strips, units * LENGTH_UNIT_BYTES, shift, seed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parity_is_what_the_reference_says(stripe in stripes()) {
        for kernels in all_kernels() {
            let (mut p, mut q) = (stripe.out(0), stripe.out(1));
            kernels.xor(p.strip_mut(), &stripe.strips());
            prop_assert!(p.strip() == stripe.p, "{kernels:?}");
            kernels.generate_q(q.strip_mut(), &stripe.strips());
            prop_assert!(q.strip() == stripe.q, "{kernels:?}");
            let (mut p, mut q) = (stripe.out(2), stripe.out(3));
            let before = p.strip().to_vec();
            kernels.xor_into(p.strip_mut(), &stripe.strips());
            let wanted = before.iter().zip(&stripe.p).map(|(a, b)| a ^ b);
            prop_assert!(p.strip().iter().copied().eq(wanted), "{kernels:?}");
            kernels.generate_pq(p.strip_mut(), q.strip_mut(), &stripe.strips());
            prop_assert!(p.strip() == stripe.p && q.strip() == stripe.q, "{kernels:?}");
            p.assert_guards();
            q.assert_guards();
        }
    }

    #[test]
    fn a_changed_strip_updates_parity(stripe in stripes(), index: prop::sample::Index) {
        let index = index.index(stripe.data.len());
        let new = stripe.out(9);
        let mut changed = stripe.data.clone();
        changed[index] = new.clone();
        let (wanted_p, wanted_q) = reference(&changed);
        let old = stripe.data[index].strip();
        for kernels in all_kernels() {
            let (mut p, mut q) = (stripe.out(0), stripe.out(1));
            let mut delta = stripe.out(2);
            kernels.xor(delta.strip_mut(), &[old, new.strip()]);
            let changes: [&[&[u8]]; 2] = [&[old, new.strip()], &[delta.strip()]];
            for change in changes {
                p.strip_mut().copy_from_slice(&stripe.p);
                q.strip_mut().copy_from_slice(&stripe.q);
                kernels.update_pq(p.strip_mut(), q.strip_mut(), index, change);
                prop_assert!(p.strip() == wanted_p && q.strip() == wanted_q, "{kernels:?}");
                q.strip_mut().copy_from_slice(&stripe.q);
                kernels.update_q(q.strip_mut(), index, change);
                prop_assert!(q.strip() == wanted_q, "{kernels:?}");
            }
            p.assert_guards();
            q.assert_guards();
        }
    }

    #[test]
    fn what_is_lost_comes_back(
        stripe in stripes(), x: prop::sample::Index, y: prop::sample::Index
    ) {
        let (x, y) = (x.index(stripe.data.len()), y.index(stripe.data.len()));
        for kernels in all_kernels() {
            stripe.recover(kernels, &[], true, false);
            stripe.recover(kernels, &[], false, true);
            stripe.recover(kernels, &[], true, true);
            stripe.recover(kernels, &[x], false, false);
            stripe.recover(kernels, &[x], true, false);
            stripe.recover(kernels, &[x], false, true);
            if x != y {
                stripe.recover(kernels, &[x.min(y), x.max(y)], false, false);
            }
        }
    }

    #[test]
    fn one_wrong_member_is_found(
        stripe in stripes(), victim: prop::sample::Index, seed: u64, at: prop::sample::Index
    ) {
        let victim = victim.index(stripe.data.len() + 2);
        for kernels in all_kernels() {
            let both = (Some(&stripe.p[..]), Some(&stripe.q[..]));
            prop_assert_eq!(kernels.check(&stripe.strips(), both.0, both.1), Verdict::Consistent);
            // Wrong all over, and wrong in one byte.
            let noise = Buf::new(stripe.length, 0, &mut seed.clone()).strip().to_vec();
            let mut one = vec![0; stripe.length];
            one[at.index(stripe.length)] = seed.to_le_bytes()[0] | 1;
            for error in [noise, one] {
                let mut strips: Vec<Vec<u8>> =
                    stripe.data.iter().map(|buf| buf.strip().to_vec()).collect();
                strips.extend([stripe.p.clone(), stripe.q.clone()]);
                for (byte, error) in strips[victim].iter_mut().zip(&error) {
                    *byte ^= error;
                }
                let n = stripe.data.len();
                let data: Strips<'_> = strips[..n].iter().map(|strip| &strip[..]).collect();
                let (p, q) = (Some(&strips[n][..]), Some(&strips[n + 1][..]));
                let wanted = match victim.checked_sub(n) {
                    None => Verdict::Data(victim),
                    Some(0) => Verdict::P,
                    Some(_) => Verdict::Q,
                };
                prop_assert_eq!(kernels.check(&data, p, q), wanted);
                // One parity alone sees the error where it covers it, and cannot tell whose it is.
                let seen = |is_seen| match is_seen {
                    true => Verdict::Inconsistent,
                    false => Verdict::Consistent,
                };
                prop_assert_eq!(kernels.check(&data, p, None), seen(victim <= n));
                prop_assert_eq!(kernels.check(&data, None, q), seen(victim != n));
            }
        }
    }
}

#[test]
fn two_wrong_members_are_nobody() {
    let stripe = Stripe::new(5, 4096, 0, 3);
    for kernels in all_kernels() {
        let mut strips = stripe.strips().to_vec();
        let (mut one, mut other) = (strips[1].to_vec(), strips[4].to_vec());
        one[17] ^= 1;
        other[3000] ^= 1;
        (strips[1], strips[4]) = (&one, &other);
        let verdict = kernels.check(&strips, Some(&stripe.p), Some(&stripe.q));
        assert_eq!(verdict, Verdict::Inconsistent);
        // An error that points at a strip beyond the last: g^9 times P's.
        let (mut p, mut q) = (stripe.p.clone(), stripe.q.clone());
        p[0] ^= 1;
        q[0] ^= power_of_two(9);
        let verdict = kernels.check(&stripe.strips(), Some(&p), Some(&q));
        assert_eq!(verdict, Verdict::Inconsistent);
    }
}

#[test]
fn large_stripes_are_written_around_the_cache() {
    for shift in [0, 32, 48, 5] {
        let stripe = Stripe::new(9, 64 * 1024, shift, 11);
        for kernels in all_kernels() {
            let mut p = stripe.out(0);
            kernels.xor(p.strip_mut(), &stripe.strips());
            assert!(p.strip() == stripe.p, "{kernels:?}");
            p.assert_guards();
            stripe.recover(kernels, &[4], false, false);
            stripe.recover(kernels, &[0, 8], false, false);
        }
    }
}

#[test]
fn every_pair_of_data_strips_comes_back() {
    let stripe = Stripe::new(MEMBERS_MAX, LENGTH_UNIT_BYTES, 0, 5);
    let kernels = Kernels::detect();
    for x in 0..MEMBERS_MAX {
        for y in x + 1..MEMBERS_MAX {
            stripe.recover(kernels, &[x, y], false, false);
        }
    }
}

/// The first sector of each member's chunk in row 0 of a RAID6 that Linux 7.2 wrote: 5 members,
/// left-symmetric, so D_0, D_1 and D_2 are on members 1 to 3, P on 4 and Q on 0. Each sector
/// repeats 16 bytes: a number and a tag.
#[test]
fn parity_is_what_linux_wrote() {
    let sector = |number: u64, tag: u64| {
        let mut record = number.to_le_bytes().to_vec();
        record.extend(tag.to_le_bytes());
        record.repeat(LENGTH_UNIT_BYTES / 16)
    };
    let tag = u64::from_le_bytes(*b"VMHGEN01");
    let data = [sector(0, tag), sector(0x80, tag), sector(0x100, tag)];
    let (on_p, on_q) = (sector(0x180, tag), sector(0x41d, 0x9790_f7c6_c8e5_febf));
    let data: Strips<'_> = data.iter().map(|strip| &strip[..]).collect();
    for kernels in all_kernels() {
        let (mut p, mut q) = ([0; LENGTH_UNIT_BYTES], [0; LENGTH_UNIT_BYTES]);
        kernels.generate_pq(&mut p, &mut q, &data);
        assert_eq!((&p[..], &q[..]), (&on_p[..], &on_q[..]));
        assert_eq!(kernels.check(&data, Some(&on_p), Some(&on_q)), Verdict::Consistent);
    }
}

#[test]
fn more_than_the_parity_is_refused() {
    let stripe = Stripe::new(4, LENGTH_UNIT_BYTES, 0, 1);
    let kernels = Kernels::detect();
    let strips = stripe.strips();
    let (p, q) = (Some(&stripe.p[..]), Some(&stripe.q[..]));
    let mut out = [0; LENGTH_UNIT_BYTES];
    let mut recover = |lost: usize, p: Option<&[u8]>, q: Option<&[u8]>| {
        let data: Vec<_> = (0..4).map(|index| (index >= lost).then(|| strips[index])).collect();
        kernels.recover(&data, p, q, &mut [&mut out])
    };
    assert_eq!(recover(1, None, None), Err(Unrecoverable { data: 1, parity: 0 }));
    assert_eq!(recover(2, p, None), Err(Unrecoverable { data: 2, parity: 1 }));
    assert_eq!(recover(2, None, q), Err(Unrecoverable { data: 2, parity: 1 }));
    assert_eq!(recover(3, p, q), Err(Unrecoverable { data: 3, parity: 2 }));
    assert_eq!(out, [0; LENGTH_UNIT_BYTES]);
}

#[test]
fn strips_that_do_not_fit_are_caught() {
    let kernels = Kernels::detect();
    let panics =
        |call: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err();
    let [a, b] = [[0u8; 1024], [1; 1024]];
    assert!(panics(&|| kernels.xor(&mut [0; 1024], &[&a, &b[..512]])));
    assert!(panics(&|| kernels.xor(&mut [0; 520], &[&a[..520]])));
    assert!(panics(&|| kernels.xor(&mut [0; 512], &[])));
    assert!(panics(&|| kernels.xor(&mut [0; 1024], &[&a[..]; MEMBERS_MAX + 1])));
    assert!(panics(&|| kernels.generate_pq(&mut [0; 1024], &mut [0; 512], &[&a])));
    assert!(panics(&|| kernels.update_q(&mut [0; 1024], MEMBERS_MAX, &[&a])));
    let nothing = || kernels.recover(&[Some(&a)], None, None, &mut []).is_ok();
    assert!(panics(&|| assert!(nothing())));
    let short = |x: &mut [u8]| {
        let done = kernels.recover(&[None], Some(&a[..512]), Some(&b), &mut [x]);
        assert!(done.is_ok());
    };
    assert!(panics(&|| short(&mut [0; 1024])));
    assert!(!panics(&|| kernels.xor(&mut [0; 1024], &[&a[..]; MEMBERS_MAX])));
}
