//! The md superblock: 4096 bytes as a member has them, then how they are touched up.

use mdof::md::{Candidate, Examine, SUPERBLOCK_READ_BYTES, Superblock, Unverified, assemble};

use super::Input;

/// md's checksum: little-endian words added up, the carries folded in, its own field not counted.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let own_field = 216 / 4;
    let sum = words.iter().enumerate().filter(|(index, _)| *index != own_field);
    let mut sum: u64 = sum.map(|(_, word)| u64::from(u32::from_le_bytes(*word))).sum();
    if let [a, b, ..] = rest {
        sum += u64::from(u16::from_le_bytes([*a, *b]));
    }
    let [a, b, c, d, e, f, g, h] = sum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).wrapping_add(u32::from_le_bytes([e, f, g, h]))
}

/// Parses the superblock at the start of the input. Unless the input says otherwise, magic,
/// version, position and checksum are put right first: chance would never get past them.
pub fn parse(input: &mut Input<'_>) -> Option<Superblock> {
    let mut bytes = [0; SUPERBLOCK_READ_BYTES];
    let head = input.take(SUPERBLOCK_READ_BYTES);
    bytes[..head.len()].copy_from_slice(head);
    let how = input.u8();
    let sector = [8, 0, 1 << 20, 8][usize::from(how & 3)];
    if how & 4 == 0 {
        bytes[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
        bytes[144..152].copy_from_slice(&u64::to_le_bytes(sector));
        let [a, b, c, d] = [bytes[220], bytes[221], bytes[222], bytes[223]];
        let roles = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let length = roles.saturating_mul(2).saturating_add(256).min(bytes.len());
        let sum = checksum(&bytes[..length]);
        bytes[216..220].copy_from_slice(&sum.to_le_bytes());
    }
    let length = if how & 8 == 0 { bytes.len() } else { head.len() };
    let parsed = Unverified::parse(&bytes[..length], sector);
    if let Err(error) = &parsed {
        assert!(!error.to_string().is_empty());
    }
    parsed.ok()
}

/// What must hold for a superblock that was accepted.
pub fn run(data: &[u8]) {
    let Some(superblock) = parse(&mut Input(data)) else { return };
    let mut again = [0; SUPERBLOCK_READ_BYTES];
    superblock.encode_into(&mut again);
    let parsed = Unverified::parse(&again, superblock.super_offset_sectors);
    assert_eq!(parsed.as_ref(), Ok(&superblock), "what is written is read back");
    let text = Examine { superblock: &superblock, bitmap: None }.to_string();
    assert!(text.contains(&superblock.set_uuid_text()));
    let device_sectors = superblock.data_offset_sectors + superblock.data_size_sectors;
    let candidate = Candidate { device_sectors, superblock, bitmap: None };
    // A twin, and one that disagrees about the array.
    let mut other = candidate.clone();
    other.superblock.events = other.superblock.events.saturating_sub(1);
    other.superblock.device_uuid[0] ^= 1;
    for set in [vec![candidate.clone()], vec![candidate.clone(), candidate.clone()]] {
        let _ = assemble(&set).map_err(|error| error.to_string());
    }
    let _ = assemble(&[other, candidate]).map_err(|error| error.to_string());
}
