//! Reads the messages of a host. Every byte may be the work of an enemy.

use zerocopy::FromBytes;

use super::session::Channel;
use crate::secure::{Group, GroupSet, Hash, HashSet};
use crate::target::subsystem::AuthPolicy;
use crate::wire::fabrics::auth::{
    Explanation, Negotiate, PROTOCOL_DHCHAP, PROTOCOLS_MAX, Protocol, Reply, SecureChannel,
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
    #[error(
        "it wants a secure channel made of the authentication, which is not to be had here: on an \
         admin queue only, in the clear or under TLS with a generated key, and not with concat \
         \"refuse\""
    )]
    ConcatRefused,
    #[error("it wants no secure channel made of the authentication, which it must (concat)")]
    ConcatRequired,
    #[error(
        "it wants a secure channel made of the authentication, but no DH group is allowed by both \
         sides (dhchap_dhgroups), or only the null group"
    )]
    ConcatWithoutGroup,
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
            Self::ConcatRefused | Self::ConcatRequired | Self::ConcatWithoutGroup => {
                Explanation::ConcatMismatch
            }
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

/// The hash functions of keys for TLS, the preferred one first. SHA-256 is the one for which every
/// host must have a cipher suite; and GnuTLS before 3.8.11, which shakes hands for Linux, computes
/// what it proves of keys of SHA-384 wrongly.
const CHANNEL_HASHES: [Hash; 2] = [Hash::Sha256, Hash::Sha384];

/// The secure channel that an AUTH_Negotiate asks for, if it may be had on this queue.
fn channel_of(sc_c: u8, allowed: Channel) -> Result<SecureChannel, AuthFailure> {
    let wanted = SecureChannel::from_code(sc_c).ok_or(AuthFailure::ConcatRefused)?;
    match (wanted, allowed) {
        (SecureChannel::None, Channel::Required) => Err(AuthFailure::ConcatRequired),
        (SecureChannel::None, _)
        | (SecureChannel::New, Channel::Allowed | Channel::Required)
        | (SecureChannel::Replace, Channel::Generated) => Ok(wanted),
        _ => Err(AuthFailure::ConcatRefused),
    }
}

/// What was chosen from an AUTH_Negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) hash: Hash,
    pub(super) group: Group,
    pub(super) channel: SecureChannel,
}

/// Chooses from what an AUTH_Negotiate offers: the strongest that the policy allows, or what makes
/// a key for TLS.
pub(super) fn choose(
    payload: &[u8],
    policy: AuthPolicy,
    allowed: Channel,
) -> Result<Choice, AuthFailure> {
    const MALFORMED: AuthFailure = AuthFailure::Malformed("AUTH_Negotiate");
    let (head, rest) = Negotiate::ref_from_prefix(payload).map_err(|_| MALFORMED)?;
    let channel = channel_of(head.sc_c, allowed)?;
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
    let mut groups = groups.iter().filter(|&group| policy.groups.has(group));
    if channel == SecureChannel::None {
        let hash = hashes.iter().find(|&hash| policy.hashes.has(hash));
        let (hash, group) = (hash.ok_or(AuthFailure::NoHash)?, groups.next());
        return Ok(Choice { hash, group: group.ok_or(AuthFailure::NoGroup)?, channel });
    }
    let usable = |hash: &Hash| hashes.has(*hash) && policy.hashes.has(*hash);
    let hash = CHANNEL_HASHES.into_iter().find(usable).ok_or(AuthFailure::NoHash)?;
    // The key is made of what Diffie-Hellman gives.
    let group = groups.find(|&group| group != Group::Null);
    Ok(Choice { hash, group: group.ok_or(AuthFailure::ConcatWithoutGroup)?, channel })
}

/// A DH-HMAC-CHAP_Reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReplyView<'a> {
    pub(super) response: &'a [u8],
    /// Challenge and sequence number. If that is not 0, the controller is to prove itself.
    pub(super) challenge: Option<(&'a [u8], u32)>,
    pub(super) public: &'a [u8],
}

/// Reads a reply for what was agreed on.
pub(super) fn reply(payload: &[u8], agreed: Choice) -> Result<ReplyView<'_>, AuthFailure> {
    let Choice { hash, group, channel } = agreed;
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
    let challenge = (head.cvalid == 1).then_some((challenge, head.seqnum.get()));
    match (challenge, channel) {
        // Sequence number 0 says that the challenge is for a secure channel only.
        (Some((_, 0)), SecureChannel::None) => return Err(AuthFailure::ConcatRefused),
        (Some(_), _) | (None, SecureChannel::None) => {}
        (None, _) => return Err(MALFORMED),
    }
    Ok(ReplyView { response, challenge, public })
}
