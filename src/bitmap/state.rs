//! The state machine of one chunk, as a table.

/// State of a chunk; the value is the byte on disk and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ChunkState {
    /// Never written, or discarded: reads as zeroes.
    Unwritten = 0,
    /// Written, and the members agree.
    Clean = 1,
    /// Being written or written lately: the members may differ after a crash.
    Dirty = 2,
    /// The members may differ: resync will visit.
    NeedSync = 3,
    /// Resync is copying it.
    Syncing = 4,
    /// Parity levels: no data yet, parity is to be built.
    NeedSyncUnwritten = 5,
    /// Parity levels: no data yet, parity is being built.
    SyncingUnwritten = 6,
    /// Parity levels: no data yet, parity is right.
    CleanUnwritten = 7,
}

/// What happens to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// A host write is about to be issued.
    Startwrite = 0,
    /// Resync begins to copy.
    Startsync = 1,
    /// Resync has copied.
    Endsync = 2,
    /// Resync gave up.
    Abortsync = 3,
    /// The byte was read from disk at assembly.
    Reload = 4,
    /// The chunk has been idle long enough.
    Daemon = 5,
    /// The host discarded the whole chunk.
    Discard = 6,
    /// The byte can't be trusted, or a write was lost on every member.
    Stale = 7,
    /// Parity levels: the operator asked for parity ahead of the first write.
    ProactiveSync = 8,
    /// Parity levels: a member is rebuilt, parity of chunks without data is void.
    ClearUnwritten = 9,
}

/// Number of states.
pub const STATES: usize = 8;
/// Number of actions.
pub const ACTIONS: usize = 10;

/// All states, by value.
pub const ALL_STATES: [ChunkState; STATES] = [
    ChunkState::Unwritten,
    ChunkState::Clean,
    ChunkState::Dirty,
    ChunkState::NeedSync,
    ChunkState::Syncing,
    ChunkState::NeedSyncUnwritten,
    ChunkState::SyncingUnwritten,
    ChunkState::CleanUnwritten,
];

/// All actions, by value.
pub const ALL_ACTIONS: [Action; ACTIONS] = [
    Action::Startwrite,
    Action::Startsync,
    Action::Endsync,
    Action::Abortsync,
    Action::Reload,
    Action::Daemon,
    Action::Discard,
    Action::Stale,
    Action::ProactiveSync,
    Action::ClearUnwritten,
];

/// `NEXT[state][action]`; `None` leaves the state as it is.
const NEXT: [[Option<ChunkState>; ACTIONS]; STATES] = {
    use ChunkState::{
        Clean as C, CleanUnwritten as CU, Dirty as D, NeedSync as N, NeedSyncUnwritten as NU,
        Syncing as S, SyncingUnwritten as SU, Unwritten as U,
    };
    const O: Option<ChunkState> = None;
    [
        [Some(D), O, O, O, O, O, O, O, Some(NU), O],
        [Some(D), O, O, O, O, O, Some(U), Some(N), O, O],
        [O, O, O, O, Some(N), Some(C), Some(U), Some(N), O, O],
        [O, Some(S), O, O, O, O, Some(U), O, O, O],
        [O, Some(S), Some(D), Some(N), Some(N), O, Some(U), Some(N), O, O],
        [Some(N), Some(SU), O, Some(U), Some(U), O, Some(U), Some(U), O, Some(U)],
        [Some(S), Some(SU), Some(CU), Some(U), Some(U), O, Some(U), Some(U), O, Some(U)],
        [Some(D), O, O, O, O, O, Some(U), Some(U), O, Some(U)],
    ]
};

impl ChunkState {
    /// The state a byte from disk or memory means, `None` for a byte that is no state.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        ALL_STATES.get(usize::from(byte)).copied()
    }

    /// The state after `action`.
    #[must_use]
    pub fn after(self, action: Action) -> Self {
        NEXT[self as usize][action as usize].unwrap_or(self)
    }

    /// Name as histograms and RPC results spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unwritten => "unwritten",
            Self::Clean => "clean",
            Self::Dirty => "dirty",
            Self::NeedSync => "need_sync",
            Self::Syncing => "syncing",
            Self::NeedSyncUnwritten => "need_sync_unwritten",
            Self::SyncingUnwritten => "syncing_unwritten",
            Self::CleanUnwritten => "clean_unwritten",
        }
    }
}

/// Degraded rule: what a host write makes of a chunk. A write that would give Dirty gives
/// NeedSync while a member is away, because that member misses it; a chunk that is Dirty already
/// stays so, and is not cleared while the array is degraded.
#[must_use]
pub fn on_write(state: ChunkState, degraded: bool) -> ChunkState {
    match state.after(Action::Startwrite) {
        ChunkState::Dirty if degraded && state != ChunkState::Dirty => ChunkState::NeedSync,
        next => next,
    }
}

/// What the byte of a chunk means at assembly. A value that is no state says nothing about the
/// chunk, so its members must be compared.
#[must_use]
pub fn on_load(byte: u8) -> ChunkState {
    ChunkState::from_byte(byte).map_or(ChunkState::NeedSync, |state| state.after(Action::Reload))
}

/// What the byte means when the whole bitmap is older than the superblock (stale): every chunk
/// that was ever written may differ.
#[must_use]
pub fn on_load_stale(byte: u8) -> ChunkState {
    ChunkState::from_byte(byte).map_or(ChunkState::NeedSync, |state| state.after(Action::Stale))
}

/// Of two members' bytes for the same chunk, the one that is safe to believe: the one under which
/// resync does more. Copies differ when a crash caught a metadata write between members.
#[must_use]
pub fn safer_byte(a: u8, b: u8) -> u8 {
    fn caution(byte: u8) -> u8 {
        match ChunkState::from_byte(byte) {
            None | Some(ChunkState::NeedSync) => 7,
            Some(ChunkState::Syncing) => 6,
            Some(ChunkState::Dirty) => 5,
            Some(ChunkState::Clean) => 4,
            Some(ChunkState::NeedSyncUnwritten) => 3,
            Some(ChunkState::SyncingUnwritten) => 2,
            Some(ChunkState::Unwritten) => 1,
            Some(ChunkState::CleanUnwritten) => 0,
        }
    }
    if caution(a) >= caution(b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the module's documentation is the table in the code.
    #[test]
    fn documented_table_is_the_code() {
        let doc = include_str!("mod.rs");
        let rows: Vec<Vec<&str>> = doc
            .lines()
            .filter_map(|line| line.strip_prefix("//! | "))
            .map(|row| row.trim_end_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), 1 + STATES, "a header and a row for each state");
        for (column, action) in ALL_ACTIONS.iter().enumerate() {
            assert_eq!(rows[0][column + 1], format!("{action:?}"));
        }
        for (state, row) in ALL_STATES.iter().zip(&rows[1..]) {
            assert_eq!(row[0], format!("{state:?}"));
            for (column, &action) in ALL_ACTIONS.iter().enumerate() {
                let next = NEXT[*state as usize][action as usize];
                let text = next.map_or(String::new(), |next| format!("{next:?}"));
                assert_eq!(row[column + 1], text, "{state:?} on {action:?}");
            }
        }
    }

    #[test]
    fn degraded_writes_are_remembered_for_the_absent_member() {
        assert_eq!(on_write(ChunkState::Clean, true), ChunkState::NeedSync);
        assert_eq!(on_write(ChunkState::Unwritten, true), ChunkState::NeedSync);
        assert_eq!(on_write(ChunkState::Dirty, true), ChunkState::Dirty);
        assert_eq!(on_write(ChunkState::Clean, false), ChunkState::Dirty);
    }

    #[test]
    fn loading_never_trusts_a_chunk_in_doubt() {
        for byte in 0..=u8::MAX {
            let loaded = on_load(byte);
            assert!(!matches!(loaded, ChunkState::Dirty | ChunkState::Syncing), "{byte}");
            if byte > 7 {
                assert_eq!(loaded, ChunkState::NeedSync);
                assert_eq!(on_load_stale(byte), ChunkState::NeedSync);
            }
        }
        assert_eq!(on_load_stale(ChunkState::Clean as u8), ChunkState::NeedSync);
        assert_eq!(on_load_stale(ChunkState::Unwritten as u8), ChunkState::Unwritten);
    }

    #[test]
    fn merging_copies_never_forgets_a_doubt() {
        for a in 0..=9u8 {
            for b in 0..=9u8 {
                let merged = on_load(safer_byte(a, b));
                for one in [on_load(a), on_load(b)] {
                    assert!(one != ChunkState::NeedSync || merged == ChunkState::NeedSync);
                }
            }
        }
    }
}
