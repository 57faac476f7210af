//! Reads the messages of a host. Every byte may be the work of an enemy.

use zerocopy::FromBytes;

use crate::secure::{Group, GroupSet, Hash, HashSet};
use crate::target::subsystem::AuthPolicy;
use crate::wire::fabrics::auth::{
    Explanation, Negotiate, PROTOCOL_DHCHAP, PROTOCOLS_MAX, Protocol, Reply,
};

/// Why an authentication failed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum AuthFailure {
    #[error("it sent message {auth_type:02x}h/{auth_id:02x}h when another was due")]
    UnexpectedMessage { auth_type: u8, auth_id: u8 },
    #[error("its {0} message is malformed")]
    Malformed(&'static str),
    #[error("it offers no DH-HMAC-CHAP")]
    NoProtocol,
    #[error("it wants a secure channel made of the authentication, which mdof does not do")]
    WantsSecureChannel,
    #[error("it offers none of the hash functions that are allowed here (dhchap_digests)")]
    NoHash,
    #[error("it offers none of the DH groups that are allowed here (dhchap_dhgroups)")]
    NoGroup,
    #[error("its Diffie-Hellman value is none of the group's")]
    BadPublicValue,
    #[error("it sent our own challenge back")]
    Reflected,
    #[error("its key is not the one that is set here for it: compare dhchap_key")]
    WrongResponse,
    #[error("it wants the subsystem to prove itself, for which dhchap_ctrlr_key is not set")]
    NoControllerKey,
    #[error("its key was taken away meanwhile")]
    NoKey,
    #[error("it does not accept our proof ({0}): compare dhchap_ctrlr_key")]
    HostRefuses(&'static str),
}

impl AuthFailure {
    /// What the host is told.
    #[must_use]
    pub fn explanation(self) -> Explanation {
        match self {
            Self::UnexpectedMessage { .. } => Explanation::IncorrectMessage,
            Self::Malformed(_) => Explanation::IncorrectPayload,
            Self::NoProtocol => Explanation::ProtocolNotUsable,
            Self::WantsSecureChannel => Explanation::ConcatMismatch,
            Self::NoHash => Explanation::HashNotUsable,
            Self::NoGroup => Explanation::GroupNotUsable,
            Self::BadPublicValue
            | Self::Reflected
            | Self::WrongResponse
            | Self::NoControllerKey
            | Self::NoKey
            | Self::HostRefuses(_) => Explanation::Failed,
        }
    }
}

/// Chooses from what an AUTH_Negotiate offers: the strongest that the policy allows.
pub(super) fn choose(payload: &[u8], policy: AuthPolicy) -> Result<(Hash, Group), AuthFailure> {
    const MALFORMED: AuthFailure = AuthFailure::Malformed("AUTH_Negotiate");
    let (head, rest) = Negotiate::ref_from_prefix(payload).map_err(|_| MALFORMED)?;
    if head.sc_c != 0 {
        return Err(AuthFailure::WantsSecureChannel);
    }
    let count = usize::from(head.napd);
    if count == 0 || count > PROTOCOLS_MAX {
        return Err(MALFORMED);
    }
    let protocols = <[Protocol]>::ref_from_prefix_with_elems(rest, count);
    let (protocols, _) = protocols.map_err(|_| MALFORMED)?;
    let offer = protocols.iter().find(|protocol| protocol.auth_id == PROTOCOL_DHCHAP);
    let offer = offer.ok_or(AuthFailure::NoProtocol)?;
    let hashes = offer.hashes.get(..usize::from(offer.halen)).ok_or(MALFORMED)?;
    let groups = offer.groups.get(..usize::from(offer.dhlen)).ok_or(MALFORMED)?;
    let hashes =
        hashes.iter().filter_map(|&id| Hash::from_id(id)).fold(HashSet::NONE, HashSet::with);
    let groups =
        groups.iter().filter_map(|&id| Group::from_id(id)).fold(GroupSet::NONE, GroupSet::with);
    let hash = hashes.iter().find(|&hash| policy.hashes.has(hash)).ok_or(AuthFailure::NoHash)?;
    let group =
        groups.iter().find(|&group| policy.groups.has(group)).ok_or(AuthFailure::NoGroup)?;
    Ok((hash, group))
}

/// A DH-HMAC-CHAP_Reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReplyView<'a> {
    pub(super) response: &'a [u8],
    /// Challenge and sequence number, if the controller is to prove itself.
    pub(super) challenge: Option<(&'a [u8], u32)>,
    pub(super) public: &'a [u8],
}

/// Reads a reply for what was agreed on.
pub(super) fn reply(
    payload: &[u8],
    hash: Hash,
    group: Group,
) -> Result<ReplyView<'_>, AuthFailure> {
    const MALFORMED: AuthFailure = AuthFailure::Malformed("DH-HMAC-CHAP_Reply");
    let (head, rest) = Reply::ref_from_prefix(payload).map_err(|_| MALFORMED)?;
    let hash_bytes = hash.len_bytes();
    let lengths = (usize::from(head.hl), usize::from(head.dhvlen.get()));
    if lengths != (hash_bytes, group.len_bytes()) || head.cvalid > 1 {
        return Err(MALFORMED);
    }
    let (response, rest) = rest.split_at_checked(hash_bytes).ok_or(MALFORMED)?;
    let (challenge, rest) = rest.split_at_checked(hash_bytes).ok_or(MALFORMED)?;
    let public = rest.get(..group.len_bytes()).ok_or(MALFORMED)?;
    // Sequence number 0 says that the challenge is for a secure channel only.
    if head.cvalid == 1 && head.seqnum.get() == 0 {
        return Err(AuthFailure::WantsSecureChannel);
    }
    let challenge = (head.cvalid == 1).then_some((challenge, head.seqnum.get()));
    Ok(ReplyView { response, challenge, public })
}
