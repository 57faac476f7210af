//! HKDF with the labels of TLS 1.3 (RFC 5869; RFC 8446, section 7.1).

use zerocopy::big_endian::U16;

use super::{Hash, Secret};

/// HKDF-Extract without salt.
pub(super) fn extract(hash: Hash, key: &Secret) -> Secret {
    let salt = vec![0; hash.len_bytes()];
    hash.hmac(&salt, &[key.bytes()])
}

/// HKDF-Expand-Label to `len_bytes`, at most as many as the hash function gives: one step of the
/// expansion.
pub(super) fn expand_label(
    hash: Hash,
    secret: &Secret,
    label: &[u8],
    context: &[u8],
    len_bytes: usize,
) -> Secret {
    assert!(len_bytes <= hash.len_bytes(), "one step gives no more");
    let length = U16::new(u16::try_from(len_bytes).expect("at most 64")).to_bytes();
    let label_len = [u8::try_from(6 + label.len()).expect("labels are short")];
    let context_len = [u8::try_from(context.len()).unwrap_or(u8::MAX)];
    // What is longer than one byte can say is cut off; names of hosts are at most 223 bytes.
    let context = &context[..usize::from(context_len[0])];
    let parts: [&[u8]; 7] = [&length, &label_len, b"tls13 ", label, &context_len, context, &[1]];
    let all = hash.hmac(secret.bytes(), &parts);
    Secret::new(all.bytes()[..len_bytes].to_vec())
}
