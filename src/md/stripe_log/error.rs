//! Why a log, or a part of it, does not count.

use thiserror::Error;

/// Why bytes are no head, or no record, of a log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogError {
    /// Fewer bytes than there must be.
    #[error("{have_bytes} bytes are too few")]
    Truncated {
        /// How many there are.
        have_bytes: usize,
    },
    /// Nothing of this kind was written here.
    #[error("there is none")]
    Magic,
    /// Of a later mdof.
    #[error("version {found} is not known")]
    Version {
        /// The version.
        found: u32,
    },
    /// Damaged, or torn.
    #[error("the checksum is {found:#010x}, computed is {expected:#010x}")]
    Checksum {
        /// Found.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// Of another array.
    #[error("it belongs to another array")]
    Uuid,
    /// Of another run of this array: a record that is of no concern any more.
    #[error("it is of another run of the array")]
    Run,
    /// A number that makes no sense here.
    #[error("{field} {value} makes no sense")]
    Field {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The member could not be read.
    #[error("it could not be read: {reason}")]
    Unreadable {
        /// What the member said.
        reason: String,
    },
}

/// Why an array's log says nothing about its rows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogVoid {
    /// The superblocks were not written by an mdof that kept a log.
    #[error("the array was last run without mdof's stripe log")]
    NotKept,
    /// No member has a head that can be read.
    #[error("no member has the head of a stripe log: {reason}")]
    NoHead {
        /// Of one of them.
        reason: String,
    },
    /// Somebody has run the array since.
    #[error(
        "the stripe log is of event {found}, the superblocks are of event {events}: another \
         system has run the array since"
    )]
    Older {
        /// Of the newest head.
        found: u64,
        /// Of the superblocks.
        events: u64,
    },
    /// Parity was in doubt somewhere when the log was last written.
    #[error("parity was in doubt in some chunks already, apart from what the stripe log has")]
    Doubtful,
    /// Too few members could read theirs.
    #[error("{unreadable} members could not read their stripe log and {missing} are missing")]
    TooFew {
        /// Members that could not.
        unreadable: usize,
        /// Members that are not there.
        missing: usize,
    },
}
