//! The special rules of levels with parity (4, 5 and 6), each a function with its name.
//!
//! A chunk is a row slice through all members there. What sets these levels apart: a chunk never
//! written has no valid parity, so its first write can't be a read-modify-write, and parity can
//! be built before there are data.

use super::state::{Action, ChunkState};

/// What a host write makes of a chunk. The first write to a chunk without parity asks for its
/// parity to be built (NeedSync): until then rows of it that are not written have none. A chunk
/// whose parity is being built for zeroes goes on as one with data. While the array is degraded a
/// write that would give Dirty gives NeedSync, as on mirrors.
#[must_use]
pub fn on_write(state: ChunkState, degraded: bool) -> ChunkState {
    match state {
        ChunkState::Unwritten => ChunkState::NeedSync,
        _ => super::state::on_write(state, degraded),
    }
}

/// The state in which the chunks of a new array start. Only if every member of the array, one
/// that joins by being rebuilt included, reads as zeroes all over is the parity of its zeroes
/// right. (The kernel leaves out the member that mdadm adds last, whose parity is then wrong.)
#[must_use]
pub fn on_create(assume_clean: bool, all_members_read_zeroes: bool) -> ChunkState {
    match (assume_clean, all_members_read_zeroes) {
        (true, _) => ChunkState::Clean,
        (false, true) => ChunkState::CleanUnwritten,
        (false, false) => ChunkState::Unwritten,
    }
}

/// Whether parity of the chunk is right, so that a partial write may read old data and parity
/// (read-modify-write). If not, a row must be written from all of its data (reconstruct-write).
#[must_use]
pub fn may_read_modify_write(state: ChunkState) -> bool {
    matches!(state, ChunkState::Clean | ChunkState::Dirty | ChunkState::CleanUnwritten)
}

/// Whether the walker that builds parity visits the chunk.
#[must_use]
pub fn wants_parity(state: ChunkState) -> bool {
    matches!(
        state,
        ChunkState::NeedSync
            | ChunkState::Syncing
            | ChunkState::NeedSyncUnwritten
            | ChunkState::SyncingUnwritten
    )
}

/// The operator asks for parity ahead of the first write: chunks without any are to get it.
#[must_use]
pub fn on_proactive_sync(state: ChunkState) -> ChunkState {
    state.after(Action::ProactiveSync)
}

/// A member is about to be rebuilt: parity of chunks without data is void, because their zeroes
/// are not copied to it. To be applied to *every* chunk before the rebuild begins. (The kernel
/// does so only if it happens to visit the first chunk.)
#[must_use]
pub fn on_rebuild(state: ChunkState) -> ChunkState {
    state.after(Action::ClearUnwritten)
}

#[cfg(test)]
mod tests {
    use super::super::state::{ALL_STATES, on_load};
    use super::*;
    use ChunkState::{
        Clean, CleanUnwritten, Dirty, NeedSync, NeedSyncUnwritten, Syncing, SyncingUnwritten,
        Unwritten,
    };

    #[test]
    fn first_writes_ask_for_parity() {
        let after = |degraded| ALL_STATES.map(|state| on_write(state, degraded));
        assert_eq!(
            after(false),
            [NeedSync, Dirty, Dirty, NeedSync, Syncing, NeedSync, Syncing, Dirty]
        );
        assert_eq!(
            after(true),
            [NeedSync, NeedSync, Dirty, NeedSync, Syncing, NeedSync, Syncing, NeedSync]
        );
    }

    #[test]
    fn a_written_chunk_without_right_parity_is_visited_after_any_crash() {
        for state in ALL_STATES {
            for degraded in [false, true] {
                let written = on_write(state, degraded);
                assert!(wants_parity(on_load(written as u8)), "{state:?} became {written:?}");
                assert!(may_read_modify_write(written) || wants_parity(written));
            }
        }
    }

    #[test]
    fn read_modify_write_needs_right_parity() {
        for state in ALL_STATES {
            assert!(!(may_read_modify_write(state) && wants_parity(state)), "{state:?}");
        }
        assert!(!may_read_modify_write(Unwritten));
        assert!(may_read_modify_write(on_create(false, true)));
    }

    /// Defect 4 of the kernel's bitmap: one member was not zeroed, all chunks said they were.
    #[test]
    fn new_chunks_have_parity_only_if_every_member_reads_zeroes() {
        assert_eq!(on_create(false, true), CleanUnwritten);
        assert_eq!(on_create(false, false), Unwritten);
        assert_eq!(on_create(true, false), Clean);
    }

    #[test]
    fn a_rebuild_voids_parity_of_zeroes_only() {
        assert_eq!(
            ALL_STATES.map(on_rebuild),
            [Unwritten, Clean, Dirty, NeedSync, Syncing, Unwritten, Unwritten, Unwritten]
        );
    }

    #[test]
    fn parity_ahead_of_data_is_built_and_survives_only_when_done() {
        let wanted = on_proactive_sync(Unwritten);
        assert_eq!(wanted, NeedSyncUnwritten);
        let building = wanted.after(Action::Startsync);
        assert_eq!(building, SyncingUnwritten);
        assert_eq!(building.after(Action::Endsync), CleanUnwritten);
        assert_eq!(on_load(wanted as u8), Unwritten);
        assert_eq!(on_load(building as u8), Unwritten);
        assert_eq!(on_load(CleanUnwritten as u8), CleanUnwritten);
    }
}
