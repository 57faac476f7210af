//! Diffie-Hellman in the groups of RFC 7919, as DH-HMAC-CHAP uses them.

use std::sync::OnceLock;

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::error::ErrorStack;

use super::Secret;

/// A group, with its DHGID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Group {
    /// No Diffie-Hellman exchange.
    Null = 0,
    /// ffdhe2048.
    Ffdhe2048 = 1,
    /// ffdhe3072.
    Ffdhe3072 = 2,
    /// ffdhe4096.
    Ffdhe4096 = 3,
    /// ffdhe6144.
    Ffdhe6144 = 4,
    /// ffdhe8192.
    Ffdhe8192 = 5,
}

/// Bytes of a private exponent: more than twice the strength of the largest group (RFC 7919,
/// section 5.2 wants 400 bits for that one), and cheap to compute with.
const EXPONENT_BYTES: usize = 64;

impl Group {
    /// All of them, the strongest first.
    pub const ALL: [Self; 6] = [
        Self::Ffdhe8192,
        Self::Ffdhe6144,
        Self::Ffdhe4096,
        Self::Ffdhe3072,
        Self::Ffdhe2048,
        Self::Null,
    ];

    /// The group with this DHGID.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|group| *group as u8 == id)
    }

    /// The group that SPDK calls so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    /// SPDK's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ffdhe2048 => "ffdhe2048",
            Self::Ffdhe3072 => "ffdhe3072",
            Self::Ffdhe4096 => "ffdhe4096",
            Self::Ffdhe6144 => "ffdhe6144",
            Self::Ffdhe8192 => "ffdhe8192",
        }
    }

    /// Bytes of a public value and of a shared secret.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Ffdhe2048 => 256,
            Self::Ffdhe3072 => 384,
            Self::Ffdhe4096 => 512,
            Self::Ffdhe6144 => 768,
            Self::Ffdhe8192 => 1024,
        }
    }

    /// The number that RFC 7919, appendix A adds to the digits of e.
    const fn addend(self) -> u32 {
        match self {
            Self::Null => 0,
            Self::Ffdhe2048 => 560_316,
            Self::Ffdhe3072 => 2_625_351,
            Self::Ffdhe4096 => 5_736_041,
            Self::Ffdhe6144 => 15_705_020,
            Self::Ffdhe8192 => 10_965_728,
        }
    }

    /// The group's prime.
    fn prime(self) -> &'static BigNumRef {
        static PRIMES: [OnceLock<BigNum>; 6] = [const { OnceLock::new() }; 6];
        PRIMES[self as usize]
            .get_or_init(|| self.compute_prime().expect("OpenSSL computes with large numbers"))
    }

    /// 2^b - 2^(b-64) + (floor(2^(b-130) e) + X) 2^64 - 1 (RFC 7919, appendix A).
    fn compute_prime(self) -> Result<BigNum, ErrorStack> {
        let bits = i32::try_from(self.len_bytes() * 8).expect("at most 8192");
        let mut middle = digits_of_e(bits - 130)?;
        middle.add_word(self.addend())?;
        let mut prime = power_of_two(bits)?;
        prime = &prime - &power_of_two(bits - 64)?;
        prime = &prime + &(&middle << 64);
        prime.sub_word(1)?;
        Ok(prime)
    }
}

fn power_of_two(exponent: i32) -> Result<BigNum, ErrorStack> {
    let mut number = BigNum::new()?;
    number.set_bit(exponent)?;
    Ok(number)
}

/// floor(2^bits e), by e's series.
fn digits_of_e(bits: i32) -> Result<BigNum, ErrorStack> {
    /// Each of some 1000 terms is cut off: that is lost in so many bits more.
    const GUARD_BITS: i32 = 64;
    let mut term = power_of_two(bits + GUARD_BITS)?;
    let mut sum = BigNum::new()?;
    let mut divisor = 1;
    while term.num_bits() > 0 {
        sum = &sum + &term;
        term.div_word(divisor)?;
        divisor += 1;
    }
    Ok(&sum >> GUARD_BITS)
}

/// A private exponent and the public value that goes to the peer.
#[derive(Debug)]
pub struct KeyPair {
    /// Stays here.
    pub private: Secret,
    /// As long as the group's prime.
    pub public: Vec<u8>,
}

/// Makes a key pair.
///
/// # Panics
/// If the group is [`Group::Null`], or the system has no randomness.
#[must_use]
pub fn generate(group: Group) -> KeyPair {
    assert_ne!(group, Group::Null, "the null group has no keys");
    let compute = || {
        let mut bytes = vec![0; EXPONENT_BYTES];
        openssl::rand::rand_priv_bytes(&mut bytes)?;
        let private = Secret::new(bytes);
        let generator = BigNum::from_u32(2)?;
        let public = power(group, &generator, &private)?;
        Ok::<_, ErrorStack>(KeyPair { private, public })
    };
    compute().expect("OpenSSL makes keys")
}

/// The secret shared with the peer that sent `public`, as long as the group's prime. `None`: the
/// value is none of the group's, or of those with which a peer can force a result.
///
/// # Panics
/// If OpenSSL runs out of memory.
#[must_use]
pub fn shared_secret(group: Group, private: &Secret, public: &[u8]) -> Option<Secret> {
    if group == Group::Null || public.len() != group.len_bytes() {
        return None;
    }
    let compute = || -> Result<Option<Secret>, ErrorStack> {
        let base = BigNum::from_slice(public)?;
        let one = BigNum::from_u32(1)?;
        let mut last = group.prime().to_owned()?;
        last.sub_word(1)?;
        if *base <= *one || *base >= *last {
            return Ok(None);
        }
        power(group, &base, private).map(|value| Some(Secret::new(value)))
    };
    compute().expect("OpenSSL computes with large numbers")
}

/// base^exponent, in a time that does not tell the exponent.
fn power(group: Group, base: &BigNumRef, exponent: &Secret) -> Result<Vec<u8>, ErrorStack> {
    let mut private = BigNum::new_secure()?;
    private.copy_from_slice(exponent.bytes())?;
    private.set_const_time();
    let mut context = BigNumContext::new_secure()?;
    let mut result = BigNum::new_secure()?;
    result.mod_exp(base, &private, group.prime(), &mut context)?;
    let len = i32::try_from(group.len_bytes()).expect("at most 1024");
    result.to_vec_padded(len)
}

/// A set of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSet(u8);

impl GroupSet {
    /// None.
    pub const NONE: Self = Self(0);
    /// All that there are.
    pub const ALL: Self = Self((1 << 6) - 1);

    /// The set with `group`, too.
    #[must_use]
    pub const fn with(self, group: Group) -> Self {
        Self(self.0 | 1 << group as u8)
    }

    /// Whether `group` is in it.
    #[must_use]
    pub const fn has(self, group: Group) -> bool {
        self.0 >> group as u8 & 1 != 0
    }

    /// Those that are in it, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Group> {
        Group::ALL.into_iter().filter(move |group| self.has(*group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::hash::Hash;

    /// SHA-256 of each prime as OpenSSL's `genpkey -genparam` writes it.
    const PRIMES: [(Group, &str); 5] = [
        (Group::Ffdhe2048, "9cd3b7f336872f46c09428d1bbc19877a4d440512cda8d1c1cf0cd6e33698966"),
        (Group::Ffdhe3072, "0eaf67db3a839156d5013494a5318a772b5697d270d721f37f092efc69ea5a17"),
        (Group::Ffdhe4096, "4648414224ac881b3d0dc59b466f96d06a558278776807797ecf1f66ff397b3e"),
        (Group::Ffdhe6144, "227ac9066b3ddd9e193670cda2388fa884f65ba0cf98b742d1fe77a6687c79c7"),
        (Group::Ffdhe8192, "770b14efaf6f049929c523113b3fa99a8d11dab1b18af3609590122075d19833"),
    ];

    #[test]
    fn primes_are_those_of_openssl() {
        for (group, expected) in PRIMES {
            let prime = group.prime().to_vec();
            assert_eq!(prime.len(), group.len_bytes());
            let hash = Hash::Sha256.of(&[&prime]);
            let hex: String = hash.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{group:?}");
        }
    }

    #[test]
    fn both_sides_find_the_same_secret() {
        for group in Group::ALL.into_iter().filter(|group| *group != Group::Null) {
            let (a, b) = (generate(group), generate(group));
            let secret = shared_secret(group, &a.private, &b.public).unwrap();
            assert_eq!(secret.bytes().len(), group.len_bytes());
            assert_eq!(Some(&secret), shared_secret(group, &b.private, &a.public).as_ref());
            let other = generate(group);
            assert_ne!(Some(secret), shared_secret(group, &other.private, &a.public));
        }
    }

    #[test]
    fn values_that_force_a_result_are_refused() {
        let group = Group::Ffdhe2048;
        let own = generate(group);
        let value = |number: &BigNumRef| number.to_vec_padded(256).unwrap();
        let mut last = group.prime().to_owned().unwrap();
        for bad in [BigNum::new().unwrap(), BigNum::from_u32(1).unwrap()] {
            assert_eq!(shared_secret(group, &own.private, &value(&bad)), None);
        }
        assert_eq!(shared_secret(group, &own.private, &value(&last)), None);
        last.sub_word(1).unwrap();
        assert_eq!(shared_secret(group, &own.private, &value(&last)), None);
        last.sub_word(1).unwrap();
        assert!(shared_secret(group, &own.private, &value(&last)).is_some());
        assert_eq!(shared_secret(group, &own.private, &own.public[1..]), None);
        assert_eq!(shared_secret(group, &own.private, &[0xff; 256]), None);
        assert_eq!(shared_secret(Group::Null, &own.private, &[]), None);
    }

    #[test]
    fn names_and_ids_lead_back() {
        for group in Group::ALL {
            assert_eq!(Group::from_id(group as u8), Some(group));
            assert_eq!(Group::from_name(group.name()), Some(group));
            assert!(GroupSet::ALL.has(group) && !GroupSet::NONE.has(group));
            assert_eq!(GroupSet::NONE.with(group).iter().collect::<Vec<_>>(), [group]);
        }
        assert_eq!(Group::from_id(6), None);
    }
}
