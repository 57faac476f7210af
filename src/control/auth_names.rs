//! Hash functions, DH groups and what becomes of hosts that connect anew by SPDK's names, and of
//! authentications, as the configuration file and JSON-RPC have them.

use crate::secure::{Group, GroupSet, Hash, HashSet};
use crate::target::subsystem::{AuthPolicy, Concat, DupHostPolicy};

/// The policy `now` with the lists that are given.
pub(super) fn parse_policy(
    now: AuthPolicy,
    digests: Option<&[String]>,
    groups: Option<&[String]>,
) -> Result<AuthPolicy, String> {
    let mut policy = now;
    if let Some(names) = digests {
        policy.hashes = HashSet::NONE;
        for name in names {
            let hash = Hash::from_name(name);
            let hash = hash.ok_or(format!("digests are sha256, sha384 and sha512, not {name}"))?;
            policy.hashes = policy.hashes.with(hash);
        }
    }
    if let Some(names) = groups {
        policy.groups = GroupSet::NONE;
        for name in names {
            let group = Group::from_name(name);
            let group = group.ok_or(format!(
                "DH groups are null, ffdhe2048, ffdhe3072, ffdhe4096, ffdhe6144 and ffdhe8192, \
                 not {name}"
            ))?;
            policy.groups = policy.groups.with(group);
        }
    }
    if policy.hashes == HashSet::NONE || policy.groups == GroupSet::NONE {
        return Err("without any digest or DH group no host can authenticate itself".to_owned());
    }
    Ok(policy)
}

/// The policy of this name.
pub(super) fn parse_dup_host_policy(name: &str) -> Result<DupHostPolicy, String> {
    DupHostPolicy::from_name(name).ok_or_else(|| {
        let names = DupHostPolicy::ALL.map(DupHostPolicy::name).join("\", \"");
        format!("dup_host_policy is one of \"{names}\", not \"{name}\"")
    })
}

/// What becomes of a host's authentication, by its name.
pub(super) fn parse_concat(name: &str) -> Result<Concat, String> {
    Concat::from_name(name).ok_or_else(|| {
        let names = Concat::ALL.map(Concat::name).join("\", \"");
        format!("concat is one of \"{names}\", not \"{name}\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_replace_what_was_allowed() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = AuthPolicy::default();
        assert_eq!(parse_policy(all, None, None), Ok(all));
        let digests = list(&["sha384", "sha512"]);
        let policy = parse_policy(all, Some(&digests), Some(&list(&["null"]))).unwrap();
        assert_eq!(policy.hashes.iter().collect::<Vec<_>>(), [Hash::Sha512, Hash::Sha384]);
        assert_eq!(policy.groups.iter().collect::<Vec<_>>(), [Group::Null]);
        for (digests, groups) in
            [(&["md5"][..], &["null"][..]), (&[], &["null"]), (&["sha256"], &["x"])]
        {
            assert!(parse_policy(all, Some(&list(digests)), Some(&list(groups))).is_err());
        }
    }
}
