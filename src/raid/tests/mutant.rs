//! Bugs planted on purpose, one at a time, to test the simulator: each must be found.
//!
//! The shipped code asks `mutant!(Name)` where the bug would be. In a normal build that is the
//! constant `false`; in tests it is this thread's choice.

use std::cell::Cell;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A second writer of a chunk does not wait for the block that is in flight.
    SkipWaitForBlockInFlight,
    /// A chunk opens when the first member has its block.
    OpenBeforeDurableOnAll,
    /// The end of a block's write opens chunks that changed after it began.
    OpenLaterChanges,
    /// One member's bitmap is not written, and nobody minds.
    ForgetMembersBitmapWrite,
    /// A chunk that was zeroed ahead counts as zeroed once more when it is discarded.
    AheadKeptWhenWritten,
    /// A chunk that was zeroed ahead counts as zeroed on a member that has joined since.
    AheadKeptForNewcomer,
    /// A member joins while chunks are zeroed, and nobody tells it.
    ZeroedWithoutNewcomer,
    /// Idle chunks are cleared without asking whether writes are in flight.
    ClearWithoutQuiescence,
    /// A writer leaves the daemon's mark on the chunk.
    WriterLeavesMark,
    /// Idle chunks are cleared while data are in the members' caches.
    ClearWithoutFlush,
    /// A clean stop leaves data in the members' caches.
    StopWithoutFlush,
    /// Idle chunks are cleared although a member lacks them.
    ClearWhileDegraded,
    /// A write that a member missed ends before that is on record.
    AcknowledgeBeforeRecorded,
    /// It ends while other channels may still read from that member.
    AcknowledgeBeforeAdopted,
    /// A channel goes on reading from a member that is out.
    MembershipNotAdopted,
    /// An absence counts as recorded when the first survivor knows it.
    RecordedOnFirstSurvivor,
    /// A member that is missing at the start is not put on record.
    AbsenceAtStartForgotten,
    /// An update of the superblocks that was cut off is followed by the next one.
    UpdateNotFinished,
    /// Host requests are served before the superblocks say that the array is in use.
    ServeBeforeRecorded,
    /// Writes go on in a range that resync holds.
    WriteThroughLock,
    /// Resync does not wait for writes that were in flight when it took the range.
    LockIgnoresInFlight,
    /// A chunk that could not be read counts as copied.
    UnreadableCountsAsCopied,
    /// Resync forgets the last member.
    ResyncForgetsMember,
    /// A write that failed on every member leaves no mark.
    LostWriteForgotten,
    /// At assembly only the first member's bitmap is read.
    NoUnionOfBitmaps,
    /// After a crash the members' bitmaps are left as they differ.
    NoRewriteAfterCrash,
    /// After a crash a Dirty chunk counts as Clean.
    DirtyCountsAsClean,
    /// Chunks in doubt are read from any member.
    ReadDoubtFromAny,
    /// The rest of a chunk never written is not zeroed before the first write to a part.
    SkipZeroing,
    /// What members hold in a chunk never written is read.
    UnwrittenReadAsFound,
    /// The superblocks are written before the bitmap's header.
    SuperblockBeforeHeader,
    /// A member that the others have thrown out is taken back as it is.
    StaleMemberAccepted,
    /// A former member is given only what changed, however long it was away.
    TooOldTakenForRecent,
    /// A member that left the running array comes back as it was, whatever was done with it.
    DepartedTrusted,
    /// Copying goes on as it did when the host suffers.
    CopyingNeverYields,
    /// A member may fail any number of reads.
    ReadErrorsForgiven,
    /// Nobody asks whether a member kept what it was given for a read that failed.
    RepairNotReread,
    /// The array is complete again and nobody notes who has seen that.
    EventsClearedForgotten,
    /// A member joins while its slot still answers for another.
    JoinWithoutDrain,
    /// Units of the bitmap that are under way when a member joins are not written to it.
    JoinForgetsUnitsInFlight,
    /// A member whose place is handed over hears of nothing else that is put on record.
    ToldWithoutMember,
    /// A device that was away for long counts, as the others have been told that it comes back.
    AnnouncedTrusted,
    /// What was to replace a member fails, and the superblocks go on counting on it.
    MemberNotTakenBack,
    /// A member's place is given on all superblocks at once.
    HandedOverAtOnce,
    /// Torn parity is mended without making that durable before the log vouches for it.
    MendedWithoutFlush,
    /// A write that a kept member missed waits for another record, and for ever.
    KeptIsForgotten,
    /// What a member that is being rebuilt has in doubt itself is taken for what the others have.
    OwnDoubtsForgotten,
    /// A member that has not heard yet that another has its place back counts as used apart.
    TakenBackIsApart,
    /// A member has its place back on all superblocks at once.
    TakenBackAtOnce,
    /// The daemon flushes while it is not on record that what was to replace a member has failed.
    FlushedWithoutTwin,
    /// One update of the superblocks takes a member's place back and throws out who was given it.
    EndedAtOnce,
    /// A member that fails to take a copy, and is kept as the array needs it, counts as copied to.
    KeptMemberCountsAsCopied,
    /// A channel that has closed still writes a note to the stripe log.
    NoteAfterClosed,
    /// A row waits because its parity is torn; a resync makes it right, and it waits on.
    MendedRowForgotten,
    /// Who joins is given the bitmap while its superblock still calls it whole.
    FurnishedBeforeMarked,
    /// An array stops and leaves who is marked as being rebuilt without the bitmap.
    MarkedAndStopped,
    /// A member joins whose superblock is only one event behind as it is.
    NewcomerNearlyCurrent,
    /// A rebuild passes over a chunk that is held for a discard and counts as Unwritten by now.
    RebuildPassesDiscard,
    /// A rebuild passes over a chunk that is being zeroed without the member.
    RebuildPassesZeroing,
    /// Dirty chunks are not copied to a member that was away.
    RebuildForgetsDirty,
    /// A member counts as whole before the last copies have ended.
    WholeBeforeCopied,
    /// A member counts as whole while copies are in its cache.
    WholeBeforeFlushed,
    /// The update of the superblocks that is under way calls a member whole.
    WholeInEarlierUpdate,
    /// The superblock is ahead of what the member has on its medium.
    CheckpointBeforeFlush,
    /// A write under way when a member joins waits for it, or the other way round.
    NewcomerNotExcused,
    /// An external bitmap that the array was run without is believed.
    ExternalStaleTrusted,
    /// An external bitmap is believed that went on with members that are not here.
    ExternalAheadTrusted,
    /// With an external bitmap an update of the superblocks that was cut off is followed by the
    /// next one.
    ExternalUpdateNotFinished,
    /// The head of a new external bitmap is written as current with the first of its states.
    ExternalVouchedEarly,
    /// With an external bitmap starts and failures take one update of the superblocks.
    ExternalRecordedOnce,
    /// A discard's chunks are not held: writes in flight and later ones go on in them.
    DiscardIgnoresWriters,
    /// Writers' questions about chunks that a discard holds are answered.
    DiscardHoldForgotten,
    /// A discard does not wait for a chunk that is being zeroed before its first write.
    DiscardIgnoresZeroing,
    /// A discard does not wait for resync or repair in its chunks.
    DiscardIgnoresResync,
    /// Members free a discard's space before the Unwritten states are durable.
    FreeBeforeDurable,
    /// They free it while a member that lacks those states would still come back as equal.
    FreeBeforeAbsenceRecorded,
    /// The last chunk of a discard becomes Unwritten though only a part of it was meant.
    DiscardTakesPartOfChunk,
    /// A discard finds nothing to do where another one is not durable yet.
    UnwrittenBeforeDurable,
    /// A chunk that a member failed to zero is opened before that failure is on record.
    ZeroedBeforeAbsenceRecorded,
    /// Chunks never written are infected.
    InfectUnwritten,
    /// Chunks in doubt are infected, and so forgotten.
    InfectInDoubt,
    /// Infected chunks are open before the unit is written.
    InfectedCountsAsDurable,
    /// Chunks are infected while a member is absent, which would be given them all.
    InfectWhileDegraded,
    /// A new sleep of the daemon is not written to the bitmap's header.
    SleepNotKept,
    /// A sleep that is under way is slept to its end though a shorter one was set.
    LongSleepRunsOn,
    /// Settings are taken from an array that stops, which then writes to its members.
    SettingsAtStop,
    /// Bytes of the header that share a block with states are taken for states.
    HeaderIsInfected,
    /// A bad-block log that is in use may lie inside the bitmap.
    BadBlockLogInBitmap,
    /// A bitmap for fewer sectors than the array has is taken.
    BitmapTooSmall,
    /// What the daemon clears is not written.
    ClearedInMemoryOnly,
    /// Nobody looks for chunks in doubt when the array starts.
    DoubtWaitsForWrite,
    /// The space for states is counted without the header before them.
    HeaderTakesNoSpace,
    /// Two channels work on one row at a time.
    NoRowLock,
    /// Parity that may not fit the data is updated.
    ModifyInDoubt,
    /// One of the parities is not written.
    ParityForgotten,
    /// What is written to a member that is away does not come into the parity.
    RecoverForgetsNew,
    /// A row is free again while a member that missed the write is still read by others.
    RowFreedBeforeRecorded,
    /// A write that failed leaves the row's parity trusted.
    LostWriteLeavesNoDoubt,
    /// After a crash parity is trusted.
    CrashLeavesNoDoubt,
    /// The writes of a batch apply in the wrong order.
    BatchReversed,
    /// A chunk is discarded while what a member had in it is recovered.
    RecoveryNotCounted,
    /// An operator takes a member out while there is torn parity.
    RemovedInDoubt,
    /// A member is rebuilt from parity that may not fit.
    RebuildFromDoubt,
    /// A read that may have to be recovered is not cut at slices.
    ReadCrossesSlices,
    /// A slot's device is let go while a row still has requests to it.
    DrainForgetsRows,
    /// A row is written in place before its records are durable.
    LogWaitSkipped,
    /// Records go to one member, whatever may still fail.
    LogOnOneMember,
    /// A log counts though somebody else has run the array since.
    LogIgnoresEvents,
    /// Records that are in place are written there again, over what is newer.
    ReplayIgnoresFloor,
    /// A slot is used again before a floor above its record is durable.
    SlotReusedEarly,
    /// A row is written in place after a crash from a record that one member has alone.
    ReplayWithoutCopies,
    /// A record that only says the floor, and could not be written, is not tried again while the
    /// floor waits for itself.
    FailedNoteHoldsFloor,
    /// A row that was being read when the array failed waits for a record that nobody makes.
    FailedRowWaits,
    /// A row is written in place after a crash from too few records for a member that is not here
    /// and will be believed when it comes.
    ReplayForgetsAbsent,
    /// A chunk is zeroed for its first write while records of what it held before may be live.
    ZeroedUnderLog,
    /// A row is changed while a member that is out would still come back as equal.
    RowChangedWhileUnrecorded,
    /// The last run's log is void before it is on record who was not there to get what it had.
    LogForgottenEarly,
    /// A host's write to a member that is being replaced forgets what replaces it.
    ReplacementForgotten,
    /// A member is let go, and written no more, before it is on record who has its place.
    ReplacedBeforeRecorded,
    /// A member that was replaced comes back as if it had seen all that became Clean since.
    ReplacedTakenForRecent,
    /// A log that could not be renewed is renewed again at once, and again.
    RenewedWithoutPause,
    /// A channel that had only a note of its log to settle does not say that it has closed.
    SettledNotTold,
    /// The superblocks say that the array has grown before its bitmap does.
    GrowthBeforeBitmap,
    /// The states of new chunks are what was on the members.
    GrowthStatesForgotten,
    /// The rest of the last chunk is what was on the members.
    GrowthNotZeroed,
    /// Of that rest one copy is zeroed on each member, where it may have several.
    GrowthCopiesForgotten,
    /// An array grows under the host's requests.
    GrowthUnpaused,
    /// Members that a growth has left behind are left to themselves.
    GrowthNotTakenUp,
    /// What was listed as bad and has been written since stays listed.
    BadBlocksForever,
    /// A write that a member could not do ends before its list says so on the medium.
    BadBlocksAcknowledgedEarly,
    /// What a member has listed as bad is read from it.
    BadBlocksRead,
    /// A write in pieces ends well though what one of them wrote has been lost since.
    LostPieceAcknowledged,
    /// An array is called grown before that is on record.
    GrowthUnrecorded,
    /// A growth, or a pause of the host, waits for members that hang.
    HangsForEver,
    /// An array grows while a member may still zero what an earlier growth asked it to.
    StraysForgotten,
    /// A member comes back under a device number that another one has been given meanwhile.
    NumberGivenTwice,
    /// The pause at the end of a replacement waits for members that hang.
    SwapHangsForEver,
    /// A member is in sync while records count of which there were to be fewer without it.
    JoinedUnderOldLog,
    /// The only one whom an update reached before the power cut is believed, not those who went on
    /// without it under the same count.
    CutOffUpdateTrusted,
    /// A request that is a whole row ends the others of its batch, too.
    WholeRowHidesOthers,
    /// A row that is written the short way does not go to the device that replaces a member.
    WholeRowForgetsTwin,
    /// A row that is written the short way is not logged first.
    WholeRowNotLogged,
    /// What was looked at for an earlier batch of a stripe is taken for what a whole row changes.
    OldSurveyKept,
}

/// Bugs of replacement, found in lives of their own.
pub(super) const OF_REPLACEMENT: [Mutant; 17] = [
    Mutant::MendedWithoutFlush,
    Mutant::WholeRowForgetsTwin,
    Mutant::OwnDoubtsForgotten,
    Mutant::HandedOverAtOnce,
    Mutant::TakenBackIsApart,
    Mutant::TakenBackAtOnce,
    Mutant::FlushedWithoutTwin,
    Mutant::AnnouncedTrusted,
    Mutant::ToldWithoutMember,
    Mutant::MemberNotTakenBack,
    Mutant::EndedAtOnce,
    Mutant::NumberGivenTwice,
    Mutant::SwapHangsForEver,
    Mutant::ReplacementForgotten,
    Mutant::ReplacedBeforeRecorded,
    Mutant::ReplacedTakenForRecent,
    Mutant::WholeBeforeCopied,
];

/// Bugs of growth, found in lives of their own.
pub(super) const OF_GROWTH: [Mutant; 9] = [
    Mutant::GrowthCopiesForgotten,
    Mutant::GrowthBeforeBitmap,
    Mutant::GrowthStatesForgotten,
    Mutant::GrowthNotZeroed,
    Mutant::GrowthUnpaused,
    Mutant::GrowthNotTakenUp,
    Mutant::GrowthUnrecorded,
    Mutant::HangsForEver,
    Mutant::StraysForgotten,
];

/// Bugs of the bad-block logs.
pub(super) const OF_BAD_BLOCKS: [Mutant; 6] = [
    Mutant::KeptIsForgotten,
    Mutant::OldSurveyKept,
    Mutant::BadBlocksRead,
    Mutant::BadBlocksForever,
    Mutant::BadBlocksAcknowledgedEarly,
    Mutant::LostPieceAcknowledged,
];

/// Bugs of the stripe log, found in the lives of levels with parity or in stories of their own.
pub(super) const OF_LOG: [Mutant; 17] = [
    Mutant::WholeRowNotLogged,
    Mutant::NoteAfterClosed,
    Mutant::RenewedWithoutPause,
    Mutant::SettledNotTold,
    Mutant::JoinedUnderOldLog,
    Mutant::LogForgottenEarly,
    Mutant::LogWaitSkipped,
    Mutant::LogOnOneMember,
    Mutant::LogIgnoresEvents,
    Mutant::ReplayIgnoresFloor,
    Mutant::SlotReusedEarly,
    Mutant::ReplayWithoutCopies,
    Mutant::ReplayForgetsAbsent,
    Mutant::FailedNoteHoldsFloor,
    Mutant::FailedRowWaits,
    Mutant::ZeroedUnderLog,
    Mutant::RowChangedWhileUnrecorded,
];

/// Bugs of levels with parity, found in their lives.
pub(super) const OF_PARITY: [Mutant; 19] = [
    Mutant::WholeRowHidesOthers,
    Mutant::MendedRowForgotten,
    Mutant::RemovedInDoubt,
    Mutant::CutOffUpdateTrusted,
    Mutant::NewcomerNearlyCurrent,
    Mutant::DepartedTrusted,
    Mutant::UpdateNotFinished,
    Mutant::BatchReversed,
    Mutant::RecoveryNotCounted,
    Mutant::NoRowLock,
    Mutant::ModifyInDoubt,
    Mutant::ParityForgotten,
    Mutant::RecoverForgetsNew,
    Mutant::RowFreedBeforeRecorded,
    Mutant::LostWriteLeavesNoDoubt,
    Mutant::CrashLeavesNoDoubt,
    Mutant::RebuildFromDoubt,
    Mutant::ReadCrossesSlices,
    Mutant::DrainForgetsRows,
];

/// Every bug that random lives or a story of the simulator must find. Those that stand for a
/// defect of the kernel's and that no oracle forbids are in `super::defects`.
pub(super) const ALL: [Mutant; 70] = [
    Mutant::ExternalVouchedEarly,
    Mutant::KeptMemberCountsAsCopied,
    Mutant::FurnishedBeforeMarked,
    Mutant::MarkedAndStopped,
    Mutant::ExternalUpdateNotFinished,
    Mutant::ZeroedWithoutNewcomer,
    Mutant::RebuildPassesZeroing,
    Mutant::AheadKeptWhenWritten,
    Mutant::AheadKeptForNewcomer,
    Mutant::RebuildPassesDiscard,
    Mutant::CopyingNeverYields,
    Mutant::ReadErrorsForgiven,
    Mutant::RepairNotReread,
    Mutant::SkipWaitForBlockInFlight,
    Mutant::OpenBeforeDurableOnAll,
    Mutant::OpenLaterChanges,
    Mutant::ForgetMembersBitmapWrite,
    Mutant::ClearWithoutQuiescence,
    Mutant::WriterLeavesMark,
    Mutant::ClearWithoutFlush,
    Mutant::StopWithoutFlush,
    Mutant::ClearWhileDegraded,
    Mutant::AcknowledgeBeforeRecorded,
    Mutant::AcknowledgeBeforeAdopted,
    Mutant::MembershipNotAdopted,
    Mutant::RecordedOnFirstSurvivor,
    Mutant::AbsenceAtStartForgotten,
    Mutant::ServeBeforeRecorded,
    Mutant::WriteThroughLock,
    Mutant::LockIgnoresInFlight,
    Mutant::UnreadableCountsAsCopied,
    Mutant::ResyncForgetsMember,
    Mutant::LostWriteForgotten,
    Mutant::NoUnionOfBitmaps,
    Mutant::NoRewriteAfterCrash,
    Mutant::DirtyCountsAsClean,
    Mutant::ReadDoubtFromAny,
    Mutant::SkipZeroing,
    Mutant::UnwrittenReadAsFound,
    Mutant::SuperblockBeforeHeader,
    Mutant::StaleMemberAccepted,
    Mutant::TooOldTakenForRecent,
    Mutant::EventsClearedForgotten,
    Mutant::JoinWithoutDrain,
    Mutant::JoinForgetsUnitsInFlight,
    Mutant::RebuildForgetsDirty,
    Mutant::WholeBeforeCopied,
    Mutant::WholeBeforeFlushed,
    Mutant::WholeInEarlierUpdate,
    Mutant::CheckpointBeforeFlush,
    Mutant::NewcomerNotExcused,
    Mutant::ExternalStaleTrusted,
    Mutant::ExternalAheadTrusted,
    Mutant::ExternalRecordedOnce,
    Mutant::DiscardIgnoresWriters,
    Mutant::DiscardHoldForgotten,
    Mutant::DiscardIgnoresZeroing,
    Mutant::DiscardIgnoresResync,
    Mutant::FreeBeforeDurable,
    Mutant::FreeBeforeAbsenceRecorded,
    Mutant::DiscardTakesPartOfChunk,
    Mutant::UnwrittenBeforeDurable,
    Mutant::ZeroedBeforeAbsenceRecorded,
    Mutant::InfectUnwritten,
    Mutant::InfectInDoubt,
    Mutant::InfectedCountsAsDurable,
    Mutant::InfectWhileDegraded,
    Mutant::SleepNotKept,
    Mutant::LongSleepRunsOn,
    Mutant::SettingsAtStop,
];

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

impl Mutant {
    /// Whether this bug is planted on this thread.
    pub(crate) fn is_on(self) -> bool {
        PLANTED.get() == Some(self)
    }
}

/// The bug of that name.
pub(super) fn by_name(name: &str) -> Option<Mutant> {
    let all = ALL.into_iter().chain(OF_PARITY).chain(OF_LOG).chain(OF_REPLACEMENT);
    let all = all.chain(OF_GROWTH).chain(OF_BAD_BLOCKS);
    all.into_iter().find(|mutant| format!("{mutant:?}") == name)
}

/// Plants a bug, or none, on this thread.
pub(super) fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}
