//! Keys for TLS that were made of authentications, as one core knows them. What the cores tell each
//! other keeps them alike.
//!
//! A key belongs to one controller at a time. It lives until that is gone, or until the host has
//! replaced it; one that no controller has come with yet, for [`UNUSED_KEY_MS`]. It is of no use
//! any more when the host's key for DH-HMAC-CHAP, of which it was made, is not that key any more.

use std::sync::Arc;

use crate::secure::psk::TlsPsk;
use crate::secure::tls::FindPsk;
use crate::target::subsystem::{HostKeys, Nqn, SubsystemTable};

/// A host that does not come with its key within that time has to make another one. Hosts try again
/// some times where their Connect is refused because the target is busy.
pub const UNUSED_KEY_MS: u64 = 120_000;

/// Keys of a host for a subsystem that wait for it; of more, the oldest is dropped.
const UNUSED_KEYS_MAX: usize = 8;

/// A key for TLS that was made of an authentication.
#[derive(Debug)]
pub struct GeneratedKey {
    tls: TlsPsk,
    hostnqn: Nqn,
    subnqn: Nqn,
    /// The keys of the host that has proven itself.
    keys: Arc<HostKeys>,
}

impl GeneratedKey {
    /// One between these two, of an authentication with these keys.
    #[must_use]
    pub fn new(tls: TlsPsk, hostnqn: Nqn, subnqn: Nqn, keys: Arc<HostKeys>) -> Self {
        Self { tls, hostnqn, subnqn, keys }
    }

    /// The identity under which it is offered.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.tls.identity
    }

    /// Whether the host could make it today.
    #[must_use]
    pub fn holds(&self, table: &SubsystemTable) -> bool {
        let known = table.find(&self.subnqn).and_then(|known| known.keys_of(&self.hostnqn));
        known.is_some_and(|now| now.may_concatenate() && now.dhchap == self.keys.dhchap)
    }

    fn is_of_same(&self, other: &Self) -> bool {
        self.hostnqn == other.hostnqn && self.subnqn == other.subnqn
    }
}

#[derive(Debug)]
struct Entry {
    key: Arc<GeneratedKey>,
    /// Controllers that have come with it.
    controllers: u32,
    since_ms: u64,
}

/// The keys that a host can name when it comes now.
#[derive(Debug, Default)]
struct Offered(Vec<Arc<GeneratedKey>>);

impl FindPsk for Offered {
    fn find_psk(&self, identity: &str) -> Option<TlsPsk> {
        let found = self.0.iter().find(|key| key.tls.identity == identity);
        found.map(|key| key.tls.clone())
    }
}

/// The keys that a core knows.
#[derive(Debug, Default)]
pub struct GeneratedKeys {
    entries: Vec<Entry>,
    /// The same for handshakes, which may be under way when that changes.
    offered: Arc<Offered>,
}

impl GeneratedKeys {
    /// What a handshake that begins now finds its key in.
    #[must_use]
    pub fn finder(&self) -> Arc<dyn FindPsk> {
        self.offered.clone()
    }

    /// The key of this identity, if it still holds.
    #[must_use]
    pub fn find(&self, identity: &str) -> Option<&Arc<GeneratedKey>> {
        let mut keys = self.entries.iter().map(|entry| &entry.key);
        keys.find(|key| key.tls.identity == identity)
    }

    /// A key was made; in place of another one, it is that one's controller's.
    pub fn add(
        &mut self,
        key: Arc<GeneratedKey>,
        replaced: Option<&Arc<GeneratedKey>>,
        now_ms: u64,
    ) {
        if let Some(replaced) = replaced {
            self.leave(replaced);
        }
        let controllers = u32::from(replaced.is_some());
        let is_waiting = |one: &Entry| one.controllers == 0 && one.key.is_of_same(&key);
        let waiting = self.entries.iter().filter(|one| is_waiting(one)).count();
        if waiting >= UNUSED_KEYS_MAX
            && let Some(oldest) = self.entries.iter().position(is_waiting)
        {
            self.entries.remove(oldest);
        }
        self.entries.push(Entry { key, controllers, since_ms: now_ms });
        self.renew();
    }

    /// A controller has come with this key. It holds again, if it was dropped meanwhile.
    pub fn enter(&mut self, key: Arc<GeneratedKey>) {
        match self.entries.iter_mut().find(|one| Arc::ptr_eq(&one.key, &key)) {
            Some(entry) => entry.controllers += 1,
            None => {
                self.entries.push(Entry { key, controllers: 1, since_ms: 0 });
                self.renew();
            }
        }
    }

    /// A controller that had come with this key is gone.
    pub fn leave(&mut self, key: &Arc<GeneratedKey>) {
        let Some(at) = self.entries.iter().position(|one| Arc::ptr_eq(&one.key, key)) else {
            return;
        };
        let entry = &mut self.entries[at];
        entry.controllers = entry.controllers.saturating_sub(1);
        if entry.controllers == 0 {
            self.entries.remove(at);
            self.renew();
        }
    }

    /// The authentication that has made this key has failed after all.
    pub fn drop_key(&mut self, key: &Arc<GeneratedKey>) {
        self.retain(|one| !Arc::ptr_eq(&one.key, key));
    }

    /// Drops those that do not hold in this table.
    pub fn table_changed(&mut self, table: &SubsystemTable) {
        self.retain(|one| one.key.holds(table));
    }

    /// Drops those that no host has come with in time.
    pub fn expire(&mut self, now_ms: u64) {
        self.retain(|one| {
            one.controllers > 0 || now_ms.saturating_sub(one.since_ms) <= UNUSED_KEY_MS
        });
    }

    fn retain(&mut self, is_kept: impl FnMut(&Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(is_kept);
        if self.entries.len() != before {
            self.renew();
        }
    }

    /// Handshakes that begin from now on find those that there are now.
    fn renew(&mut self) {
        self.offered = Arc::new(Offered(self.entries.iter().map(|one| one.key.clone()).collect()));
    }
}
