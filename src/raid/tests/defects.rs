//! What is known to be wrong with the kernel's bitmap and mdadm, by its number: a test each, which
//! fails when the defect is planted. The list is in the text of [`super`].

use super::disk::{BITMAP_BYTE, STATES_BYTE};
use super::mutant::Mutant;
use super::scenario::started;
use super::world::{Shape, World, creation};
use crate::bdev::IoOp;
use crate::bitmap::{ChunkState, Infection};
use crate::md::{self, Slot};

/// The defects as planted bugs. Several may stand for one.
pub(super) const PLANTED: [(Mutant, fn()); 9] = [
    (
        Mutant::DiscardTakesPartOfChunk,
        defect_2_a_partial_discard_keeps_the_rest_of_the_chunk_in_the_bitmap,
    ),
    (Mutant::StaleMemberAccepted, defect_3_a_member_long_away_is_never_taken_for_current),
    (Mutant::HeaderIsInfected, defect_6_the_header_survives_states_in_its_own_block),
    (
        Mutant::BadBlockLogInBitmap,
        defect_8_a_bad_block_log_in_use_never_shares_sectors_with_the_bitmap,
    ),
    (Mutant::BitmapTooSmall, defect_9_a_bitmap_that_did_not_grow_with_its_array_is_refused),
    (Mutant::ClearedInMemoryOnly, defect_10_cleared_chunks_are_clean_on_the_media),
    (Mutant::InfectUnwritten, defect_11_no_chunk_is_clean_that_was_never_made_alike),
    (
        Mutant::DoubtWaitsForWrite,
        defect_12_chunks_in_doubt_of_a_clean_array_are_resynced_at_the_start,
    ),
    (Mutant::HeaderTakesNoSpace, defect_14_the_last_state_lies_inside_the_space_set_aside),
];

/// Defect 2 of the kernel: a discard of 4 KiB at the start of a chunk forgot all of it, so that a
/// rebuild left out its data.
#[test]
pub(super) fn defect_2_a_partial_discard_keeps_the_rest_of_the_chunk_in_the_bitmap() {
    let mut world = started(7, Shape { chunk_blocks: 32, ..Shape::SMALL });
    world.write(0, 64);
    for (lba, blocks) in [(0, 8), (24, 16), (56, 8)] {
        world.submit(0, IoOp::Unmap, true, lba, blocks);
        world.wait_host();
    }
    for chunk in 0..2 {
        assert_ne!(world.state(chunk), ChunkState::Unwritten);
    }
    world.read_all();
    world.cut_power();
    world.assemble();
    assert!(world.wait_started());
    world.wait_synced();
    assert_eq!(world.watch.copied_in_all, 2, "both chunks are carried over");
    world.read_all();
}

/// Defect 3: a member that was away while chunks became Clean again must not be taken back as it
/// is. As long as there is no re-add, it is not taken back at all.
#[test]
pub(super) fn defect_3_a_member_long_away_is_never_taken_for_current() {
    let mut world = started(8, Shape { members: 3, ..Shape::SMALL });
    world.write(0, 16);
    world.stop();
    world.present[2] = false;
    for round in 0..4 {
        world.assemble();
        assert!(world.wait_started());
        world.write(round * 8, 4);
        for _ in 0..3 {
            assert!(world.fire_timer());
            world.run_until_quiet();
        }
        assert!(world.in_state(ChunkState::NeedSync) + world.in_state(ChunkState::Dirty) > 0);
        world.stop();
    }
    world.present[2] = true;
    let assembly = world.assemble();
    assert!(matches!(assembly.slots[2], Slot::Missing { .. }), "{:?}", assembly.slots);
    assert!(world.wait_started());
    // What it lacks is still marked, and will be until it has it.
    assert!(world.in_state(ChunkState::Clean) == 0);
    world.read_all();
}

/// Defect 6: with 4096-byte blocks the first states share a block with the header, whose bytes
/// are no states.
#[test]
pub(super) fn defect_6_the_header_survives_states_in_its_own_block() {
    let mut world = started(9, Shape { block: 4096, ..Shape::SMALL });
    let header = |world: &World| {
        let head = &world.disks[0].durable_meta[BITMAP_BYTE..STATES_BYTE];
        // All but the event count.
        (head[..24].to_vec(), head[32..].to_vec())
    };
    let before = header(&world);
    for chunk in 0..40 {
        world.write(chunk * 8 + chunk % 8, 1);
    }
    world.daemon_pass();
    world.submit(0, IoOp::Unmap, true, 0, 40 * 8 / 2);
    world.wait_host();
    assert_eq!(header(&world), before);
    world.cut_power();
    world.assemble();
    assert!(world.wait_started());
    world.read_all();
    world.stop();
    world.assemble();
    assert!(world.wait_started());
    assert_eq!(header(&world), before);
}

/// A superblock and a bitmap head as they are created, to be changed. The states take ten sectors
/// with the header, and mdadm's log would begin at the ninth.
fn created() -> (md::Superblock, [u8; md::BITMAP_HEAD_BYTES]) {
    let mut creation = creation(&Shape { blocks: 4096 * 8, ..Shape::SMALL });
    // As shipped: the world's members are cut short.
    creation.bitmap.sectors_reserved = 256;
    creation.superblocks[0].bblog.offset_sectors = 8 + 256;
    let mut head = [0; md::BITMAP_HEAD_BYTES];
    creation.bitmap.encode_into(&mut head);
    (creation.superblocks[0].clone(), head)
}

/// Defect 8: mdadm sets the bad-block log aside inside the bitmap, and each then overwrites the
/// other. Such an array is only taken while the log is empty (nobody writes it then), and that of
/// an array made here is behind the bitmap.
#[test]
pub(super) fn defect_8_a_bad_block_log_in_use_never_shares_sectors_with_the_bitmap() {
    let (mut array, head) = created();
    let bitmap = md::BitmapSuperblock::parse(&head, &array).unwrap();
    assert_eq!(md::bad_block_log_sector(&array, Some(&bitmap)), Some(8 + 8 + 256));
    array.bblog = md::BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: 16 };
    assert!(md::BitmapSuperblock::parse(&head, &array).is_ok());
    assert_eq!(md::bad_block_log_sector(&array, Some(&bitmap)), None, "nobody writes it");
    array.features.insert(md::Features::BAD_BLOCKS);
    let error = md::BitmapSuperblock::parse(&head, &array).unwrap_err();
    assert!(matches!(error, md::BitmapError::Overlap { other: "bad-block log", .. }), "{error}");
    // Beside the bitmap it may be.
    array.bblog.offset_sectors = 8 + 256;
    assert!(md::BitmapSuperblock::parse(&head, &array).is_ok());
}

/// Defect 9: the kernel grows an array and not its bitmap, and then looks for states behind its
/// end. Here a bitmap of another size than its array's is refused by name.
#[test]
pub(super) fn defect_9_a_bitmap_that_did_not_grow_with_its_array_is_refused() {
    let (mut array, head) = created();
    array.size_sectors += 128;
    let error = md::BitmapSuperblock::parse(&head, &array).unwrap_err();
    assert!(matches!(error, md::BitmapError::SyncSize { .. }), "{error}");
}

/// Defect 10: what the daemon cleared was only clean in memory, so that a power cut resynced
/// everything written since the last stop.
#[test]
pub(super) fn defect_10_cleared_chunks_are_clean_on_the_media() {
    let mut world = started(10, Shape::SMALL);
    for chunk in 0..40 {
        world.write(chunk * 8, 8);
    }
    world.daemon_pass();
    assert_eq!(world.in_state(ChunkState::Clean), 40);
    for disk in &world.disks {
        assert!((0..40).all(|chunk| disk.state_byte(chunk) == ChunkState::Clean as u8));
    }
    world.write(11 * 8, 1);
    world.cut_power();
    world.assemble();
    assert_eq!(world.in_state(ChunkState::NeedSync), 1);
    world.cut_power();
}

/// Defect 11: infected chunks that were never written became Clean without having been copied.
#[test]
pub(super) fn defect_11_no_chunk_is_clean_that_was_never_made_alike() {
    for infection in Infection::ALL {
        let mut world = started(11, Shape { members: 3, infection, ..Shape::SMALL });
        for chunk in (0..40).filter(|chunk| chunk % 4 != 1) {
            world.write(chunk * 8 + 1, 2);
        }
        assert_eq!(world.in_state(ChunkState::Unwritten), 10, "{infection:?}");
        // The members hold noise in what was never written, and differ.
        assert_ne!(world.disks[0].live[9], world.disks[1].live[9]);
        world.daemon_pass();
        world.daemon_pass();
        assert_eq!(world.in_state(ChunkState::Clean), 30);
        // All are written again, so that those between could be infected by Clean neighbours too.
        for chunk in (0..40).filter(|chunk| chunk % 4 != 1) {
            world.write(chunk * 8 + 1, 2);
        }
        assert_eq!(world.in_state(ChunkState::Unwritten), 10, "{infection:?}");
        // Whatever is not Unwritten is alike on all members, now and after a stop.
        world.daemon_pass();
        world.check_members_agree();
        world.stop();
        world.assemble();
        assert!(world.wait_started());
        world.check_members_agree();
        world.read_all();
    }
}

/// Defect 12: chunks in doubt of an array that was stopped clean were not resynced at the next
/// start until somebody wrote to them.
#[test]
pub(super) fn defect_12_chunks_in_doubt_of_a_clean_array_are_resynced_at_the_start() {
    let mut world = started(12, Shape::SMALL);
    world.write(0, 32);
    world.stop();
    // As a kernel leaves it that was stopped before its resync: clean, with a mark.
    for disk in &mut world.disks {
        disk.live_meta[STATES_BYTE + 2] = ChunkState::NeedSync as u8;
        disk.durable_meta[STATES_BYTE + 2] = ChunkState::NeedSync as u8;
    }
    let assembly = world.assemble();
    assert!(!assembly.dirty, "the superblocks say clean");
    assert!(world.wait_started());
    world.wait_synced();
    assert_eq!(world.watch.copied_in_all, 1);
    world.read_all();
}

/// Defect 14: the space for states was counted without the header before them.
#[test]
pub(super) fn defect_14_the_last_state_lies_inside_the_space_set_aside() {
    for device_sectors in [8192, 1 << 20, 16_650_240, 16_777_216, 33_554_432, 1 << 33] {
        let creation = md::create(&md::NewArray {
            name: "d14".to_owned(),
            set_uuid: [1; 16],
            ctime: md::Timestamp::from_unix(1, 0),
            assume_clean: false,
            members: (1..3)
                .map(|slot| md::NewMember {
                    device_sectors,
                    logical_block_size: 512,
                    device_uuid: [slot; 16],
                })
                .collect(),
        })
        .unwrap();
        let used = md::STATES_OFFSET_BYTES + creation.chunk_count;
        assert!(used <= creation.bitmap_area_sectors * 512, "{device_sectors}");
    }
}
