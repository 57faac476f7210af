//! The bitmap of a member: head and states, up to the array that would start with them. The input
//! is the bitmap's bytes; the superblock is a fixed good one, but for what the input's end says.

use mdof::bdev::BdevId;
use mdof::md::{
    Assembly, BITMAP_HEAD_BYTES, BitmapPlan, BitmapSuperblock, Candidate, Superblock, Unverified,
    assemble,
};
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_assembly};

use super::Input;

/// A member of the kernel's, with a lockless bitmap.
const SUPERBLOCK: &[u8] = include_bytes!("../../data/md/raid1-degraded-m0.sb");

/// States that one run looks at; there may be 2^26.
const CHUNKS_MAX: u64 = 1 << 16;

fn superblock(input: &mut Input<'_>) -> Superblock {
    let mut superblock = Unverified::parse(SUPERBLOCK, 8).expect("the kernel wrote it");
    let how = input.u8();
    if how & 1 != 0 {
        superblock.bitmap_offset_sectors = i32::from(input.u16().cast_signed());
    }
    if how & 2 != 0 {
        superblock.size_sectors = u64::from(input.u32()).min(superblock.data_size_sectors);
    }
    if how & 4 != 0 {
        superblock.events = u64::from(input.u8());
    }
    superblock
}

/// A head that is accepted is one that the rest can rely on.
pub fn run(data: &[u8]) {
    starts(data);
}

/// Whether an array would start with this bitmap.
pub fn starts(data: &[u8]) -> bool {
    let mut input = Input(data);
    let mut bytes = [0; BITMAP_HEAD_BYTES];
    let head = input.take(BITMAP_HEAD_BYTES);
    bytes[..head.len()].copy_from_slice(head);
    let states = input.take(4096);
    let superblock = superblock(&mut input);
    // The identity is a hash: chance would never meet it.
    if input.u8() & 1 == 0 {
        bytes[8..24].copy_from_slice(&superblock.set_uuid);
    }
    let bitmap = match BitmapSuperblock::parse(&bytes, &superblock) {
        Ok(bitmap) => bitmap,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let mut encoded = [0; BITMAP_HEAD_BYTES];
    bitmap.encode_into(&mut encoded);
    assert_eq!(BitmapSuperblock::parse(&encoded, &superblock).as_ref(), Ok(&bitmap));
    let device_sectors = superblock.data_offset_sectors + superblock.data_size_sectors;
    let chunks = bitmap.chunk_count();
    let candidate = Candidate { device_sectors, superblock, bitmap: Some(Ok(bitmap)) };
    let Ok(assembly) = assemble(std::slice::from_ref(&candidate)) else { return false };
    if chunks > CHUNKS_MAX {
        return false;
    }
    let read = match &assembly.bitmap {
        BitmapPlan::Load { .. } => {
            let chunks = usize::try_from(chunks).expect("checked");
            let mut read = states.to_vec();
            read.resize(chunks, 0xff);
            Some(read)
        }
        _ => None,
    };
    start(&assembly, candidate, read)
}

fn start(assembly: &Assembly, candidate: Candidate, read: Option<Vec<u8>>) -> bool {
    let options = ArrayOptions {
        name: "raid".to_owned(),
        block_size_bytes: 512,
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let bdevs = [CandidateBdev::plain(BdevId(1))];
    let candidates = [candidate];
    from_assembly(options, assembly, &candidates, &bdevs, &[read])
        .is_ok_and(|config| mdof::raid::prepare(&config, BdevId(0)).is_ok())
}
