//! Header and data digests: CRC32C, sent little-endian (section 3.6.1.3).

use crc_fast::{CrcAlgorithm, Digest};

/// Length of a header or data digest in bytes.
pub const DIGEST_BYTES: usize = 4;

/// CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// A data digest that grows as the data arrives.
pub struct DataDigest(Digest);

impl DataDigest {
    /// The digest of no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Forgets everything, for the next PDU.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes since the last reset.
    #[must_use]
    pub fn value(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("CRC32C has 32 bits")
    }
}

impl Default for DataDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for DataDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataDigest({:#010x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, appendix B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    proptest! {
        #[test]
        fn pieces_give_the_digest_of_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..2000),
            cut in any::<proptest::sample::Index>(),
        ) {
            let cut = cut.index(data.len() + 1);
            let mut digest = DataDigest::new();
            digest.update(b"something else");
            digest.reset();
            digest.update(&data[..cut]);
            digest.update(&data[cut..]);
            prop_assert_eq!(digest.value(), crc32c(&data));
        }
    }
}
