//! The header of a partial parity log: 4096 bytes as a member has them, then what array it is of.

use mdof::md::{
    Level, PPL_HEADER_BYTES, PplArray, PplHeader, PplWriter, SUPERBLOCK_READ_BYTES, Superblock,
    ppl_checksum,
};

use super::Input;

/// A raid5 of these numbers: a superblock of the tests with other fields.
fn array(input: &mut Input<'_>) -> Option<(PplArray, Superblock)> {
    let golden = include_bytes!("../../data/md/raid10-fresh-m3.sb");
    let mut bytes = [0; SUPERBLOCK_READ_BYTES];
    let length = golden.len().min(bytes.len());
    bytes[..length].copy_from_slice(&golden[..length]);
    let mut superblock = mdof::md::Unverified::parse(&bytes, 8).expect("a golden superblock");
    superblock.level = Level::Raid5;
    superblock.raid_disks = u32::from(input.u8() % 6) + 1;
    superblock.chunk_sectors = 1 << (input.u8() % 22);
    superblock.size_sectors = u64::from(input.u32()) << (input.u8() % 34);
    PplArray::new(&superblock).ok().map(|array| (array, superblock))
}

/// Parses the header. Unless the input says otherwise, signature and checksum are put right first:
/// chance would never get past them.
pub fn parse(input: &mut Input<'_>) -> Option<(PplHeader, PplArray)> {
    let mut bytes = [0; PPL_HEADER_BYTES];
    let head = input.take(PPL_HEADER_BYTES);
    bytes[..head.len()].copy_from_slice(head);
    let how = input.u8();
    let (array, superblock) = array(input)?;
    if how & 1 == 0 {
        bytes[512..516].copy_from_slice(&ppl_checksum(&superblock.set_uuid).to_le_bytes());
        bytes[532..536].fill(0);
        let sum = ppl_checksum(&bytes);
        bytes[532..536].copy_from_slice(&sum.to_le_bytes());
    }
    let length = if how & 2 == 0 { bytes.len() } else { head.len() };
    let parsed = PplHeader::parse(&bytes[..length], &array);
    if let Err(error) = &parsed {
        assert!(!error.to_string().is_empty());
    }
    Some((parsed.ok()?, array))
}

/// What must hold for a header that was accepted.
pub fn run(data: &[u8]) {
    let Some((header, array)) = parse(&mut Input(data)) else { return };
    let mut again = vec![0xee; PPL_HEADER_BYTES];
    let mut writer = PplWriter::new(&mut again, &array, header.generation).expect("room");
    assert!(header.entries.iter().all(|entry| writer.push(entry)));
    writer.finish();
    assert_eq!(PplHeader::parse(&again, &array).as_ref(), Ok(&header), "it is read back");
    assert!(header.parity_offsets().all(|at| at <= header.sectors()));
    for entry in &header.entries {
        let span = entry.span(&array).expect("it was accepted");
        assert!(span.first_sector < span.behind_sector);
        let edges = [0, span.parity_sectors / 2, span.parity_sectors - 1];
        for sector in edges.into_iter().flat_map(|at| span.written_at(at)) {
            assert!((span.first_sector..span.behind_sector).contains(&sector));
        }
    }
}
