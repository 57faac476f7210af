//! Puts a received PDU together from pieces of the stream, cut anywhere: the header, its digest,
//! padding, payload, data digest. What the PDU means is its receiver's business.

use super::digest::{DIGEST_BYTES, DataDigest, crc32c};
use super::header::{FatalError, PduError, PduHeader};
use super::pdu::HEADER_BYTES_MAX;

/// Longest header with its digest.
const PROLOGUE_BYTES_MAX: usize = HEADER_BYTES_MAX + DIGEST_BYTES;

/// What follows payload that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadEnd {
    /// More of it.
    Open,
    /// The data digest.
    Digest,
    /// The next PDU.
    Ended,
}

/// The PDU that is being received.
#[derive(Debug)]
pub struct Assembly {
    /// Header and its digest as they arrive; later the data digest.
    gathered: [u8; PROLOGUE_BYTES_MAX],
    gathered_bytes: usize,
    /// Set while the rest of a header, or payload, is awaited.
    pub pdu: Option<PduHeader>,
    padding_left_bytes: usize,
    payload_left_bytes: usize,
    payload_at: usize,
    digest: DataDigest,
}

impl Default for Assembly {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembly {
    /// Nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self {
            gathered: [0; PROLOGUE_BYTES_MAX],
            gathered_bytes: 0,
            pdu: None,
            padding_left_bytes: 0,
            payload_left_bytes: 0,
            payload_at: 0,
            digest: DataDigest::new(),
        }
    }

    /// Whether not a byte of a header has been gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gathered_bytes == 0
    }

    /// Gathers header bytes until there are `want`: how many of `bytes` it took, and all of them
    /// once they are here. They stay until [`Self::forget_header`].
    ///
    /// # Panics
    /// If `want` exceeds the longest header, or what is gathered already.
    pub fn gather(
        &mut self,
        want: usize,
        bytes: &[u8],
    ) -> (usize, Option<[u8; PROLOGUE_BYTES_MAX]>) {
        let have = self.gathered_bytes;
        let n = (want - have).min(bytes.len());
        self.gathered[have..have + n].copy_from_slice(&bytes[..n]);
        self.gathered_bytes += n;
        (n, (self.gathered_bytes == want).then_some(self.gathered))
    }

    /// The header has been understood.
    pub fn forget_header(&mut self) {
        self.gathered_bytes = 0;
    }

    /// Keeps a header that is to be looked at again.
    pub fn keep_header(&mut self, header: &[u8]) {
        self.gathered[..header.len()].copy_from_slice(header);
    }

    /// The header kept by [`Self::keep_header`].
    #[must_use]
    pub fn kept_header(&self) -> [u8; PROLOGUE_BYTES_MAX] {
        self.gathered
    }

    /// The payload of [`Self::pdu`] follows and belongs at `payload_at` of its buffer. Whether
    /// padding comes first.
    ///
    /// # Panics
    /// If there is no PDU.
    pub fn expect_payload(&mut self, payload_at: usize) -> bool {
        let pdu = self.pdu.expect("a header was parsed");
        self.payload_at = payload_at;
        self.payload_left_bytes = pdu.payload_bytes as usize;
        self.padding_left_bytes = usize::from(pdu.padding_bytes);
        if pdu.has_data_digest {
            self.digest.reset();
        }
        pdu.padding_bytes > 0
    }

    /// Passes over padding: how many bytes, and whether it ends there.
    pub fn skip_padding(&mut self, bytes: &[u8]) -> (usize, bool) {
        let n = self.padding_left_bytes.min(bytes.len());
        self.padding_left_bytes -= n;
        (n, self.padding_left_bytes == 0)
    }

    /// Where in its buffer the rest of the payload belongs.
    #[must_use]
    pub fn payload_range(&self) -> std::ops::Range<usize> {
        self.payload_at..self.payload_at + self.payload_left_bytes
    }

    /// Bytes of payload still expected.
    #[must_use]
    pub fn payload_left_bytes(&self) -> usize {
        self.payload_left_bytes
    }

    /// The next bytes of the payload.
    ///
    /// # Panics
    /// If they are more than are expected.
    pub fn payload_arrived(&mut self, bytes: &[u8]) -> PayloadEnd {
        let has_digest = self.pdu.expect("a header was parsed").has_data_digest;
        if has_digest {
            self.digest.update(bytes);
        }
        self.payload_at += bytes.len();
        self.payload_left_bytes -= bytes.len();
        match self.payload_left_bytes {
            0 if has_digest => PayloadEnd::Digest,
            0 => PayloadEnd::Ended,
            _ => PayloadEnd::Open,
        }
    }

    /// Gathers the data digest: how many bytes it took, and, once it is here, whether it is that
    /// of the payload.
    pub fn take_data_digest(&mut self, bytes: &[u8]) -> (usize, Option<bool>) {
        let (n, digest) = self.gather(DIGEST_BYTES, bytes);
        let Some([a, b, c, d, ..]) = digest else { return (n, None) };
        self.forget_header();
        (n, Some(u32::from_le_bytes([a, b, c, d]) == self.digest.value()))
    }
}

/// The header of a whole prologue, whose digest, if it has one, must be right; else the error, and
/// the header it concerns.
pub fn check_prologue<'a>(
    prologue: &'a [u8],
    pdu: &PduHeader,
) -> Result<&'a [u8], (PduError, &'a [u8])> {
    let (header, digest) = prologue.split_at(usize::from(pdu.header_bytes));
    if let Ok(digest) = <[u8; DIGEST_BYTES]>::try_from(digest) {
        let fei = u32::from_le_bytes(digest);
        if fei != crc32c(header) {
            return Err((PduError { fes: FatalError::HeaderDigestError, fei }, header));
        }
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp::pdu::{Flags, PduType};
    use proptest::prelude::*;

    /// A PDU with a header of 24 bytes and its digest, padding and data digest.
    fn pdu(padding_bytes: u8, payload_bytes: u32) -> PduHeader {
        PduHeader {
            pdu_type: PduType::H2cData,
            flags: Flags::empty(),
            header_bytes: 24,
            prologue_bytes: 28,
            padding_bytes,
            payload_bytes,
            has_data_digest: true,
        }
    }

    /// Takes a PDU from `stream` in pieces of these sizes; says whether the data digest was right.
    fn receive(stream: &[u8], pdu: PduHeader, mut sizes: impl Iterator<Item = usize>) -> bool {
        let mut assembly = Assembly::new();
        let (mut at, mut padded, mut has_header, mut ended) = (0, false, false, false);
        let mut payload = Vec::new();
        loop {
            let piece = &stream[at..stream.len().min(at + sizes.next().unwrap())];
            at += if !has_header {
                let (n, gathered) = assembly.gather(28, piece);
                if let Some(prologue) = gathered {
                    assert_eq!(check_prologue(&prologue[..28], &pdu).unwrap(), &stream[..24]);
                    assembly.forget_header();
                    assembly.pdu = Some(pdu);
                    (has_header, padded) = (true, assembly.expect_payload(5));
                }
                n
            } else if padded {
                let (n, ends) = assembly.skip_padding(piece);
                padded = !ends;
                n
            } else if !ended {
                let range = assembly.payload_range();
                assert_eq!(range.start, 5 + payload.len());
                let n = range.len().min(piece.len());
                payload.extend_from_slice(&piece[..n]);
                ended = assembly.payload_arrived(&piece[..n]) == PayloadEnd::Digest;
                n
            } else {
                let (n, is_right) = assembly.take_data_digest(piece);
                if let Some(is_right) = is_right {
                    assert_eq!(at + n, stream.len());
                    let start = 28 + usize::from(pdu.padding_bytes);
                    assert_eq!(payload, stream[start..stream.len() - DIGEST_BYTES]);
                    return is_right;
                }
                n
            };
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_pdu(
            padding in 0u8..8,
            payload in proptest::collection::vec(any::<u8>(), 1..200),
            sizes in proptest::collection::vec(1usize..40, 1..20),
            spoilt in any::<bool>(),
        ) {
            let mut stream: Vec<u8> = (0..24).collect();
            stream.extend(crc32c(&stream).to_le_bytes());
            stream.extend(vec![0; padding.into()]);
            stream.extend(&payload);
            stream.extend((crc32c(&payload) ^ u32::from(spoilt)).to_le_bytes());
            let pdu = pdu(padding, u32::try_from(payload.len()).unwrap());
            prop_assert_eq!(receive(&stream, pdu, sizes.iter().copied().cycle()), !spoilt);
        }
    }

    #[test]
    fn a_wrong_header_digest_is_told_with_its_value() {
        let mut prologue = [7; 28];
        prologue[24..].copy_from_slice(&9u32.to_le_bytes());
        let (error, header) = check_prologue(&prologue, &pdu(0, 1)).unwrap_err();
        assert_eq!(error, PduError { fes: FatalError::HeaderDigestError, fei: 9 });
        assert_eq!(header.len(), 24);
    }
}
