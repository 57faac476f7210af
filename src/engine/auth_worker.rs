//! The mathematics of authentication, on a thread of its own: an exponentiation takes up to some
//! tens of milliseconds, which no other connection may have to wait.
//!
//! There is one thread for all cores, of low priority. It works on one job of a connection at a
//! time, and skips those of connections that are gone.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};

use super::message::ConnectionKey;
use crate::secure::dh::{self, KeyPair};
use crate::secure::{Group, Secret, random};
use crate::target::auth::{Made, Work};

/// Nice value of the thread: authentication yields to I/O where a core is shared.
const NICE: libc::c_int = 10;

/// Something to compute.
#[derive(Debug)]
struct Job {
    core: usize,
    connection: ConnectionKey,
    /// Gone: nobody waits for it any more.
    life: Weak<()>,
    work: Work,
}

/// What was computed. Each job is answered once.
#[derive(Debug)]
pub(super) enum Computed {
    /// Nothing: the connection is gone.
    Nothing,
    /// [`Work::Challenge`].
    Challenge(Made),
    /// [`Work::SharedSecret`].
    SharedSecret(Option<Secret>),
}

/// A core's way to the thread.
#[derive(Debug)]
pub(super) struct AuthDesk {
    core: usize,
    jobs: Sender<Job>,
    done: Receiver<(ConnectionKey, Computed)>,
    /// Jobs that have not been answered.
    waiting: usize,
}

impl AuthDesk {
    /// Has something computed for as long as `life` lives.
    pub(super) fn ask(&mut self, connection: ConnectionKey, life: &Arc<()>, work: Work) {
        let job = Job { core: self.core, connection, life: Arc::downgrade(life), work };
        match self.jobs.send(job) {
            Ok(()) => self.waiting += 1,
            // The connection runs into its deadline.
            Err(_) => {
                tracing::error!("there is no thread for authentication: no host can prove itself");
            }
        }
    }

    /// The next result.
    pub(super) fn next(&mut self) -> Option<(ConnectionKey, Computed)> {
        let answer = self.done.try_recv().ok()?;
        self.waiting -= 1;
        Some(answer)
    }

    /// Whether answers are still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }
}

/// Starts the thread; returns a desk a core. It ends with the last of them.
pub(super) fn start(cores: usize) -> Vec<AuthDesk> {
    let (jobs, todo) = mpsc::channel();
    let mut results = Vec::with_capacity(cores);
    let mut desks = Vec::with_capacity(cores);
    for core in 0..cores {
        let (result, done) = mpsc::channel();
        results.push(result);
        desks.push(AuthDesk { core, jobs: jobs.clone(), done, waiting: 0 });
    }
    let thread = std::thread::Builder::new().name("mdof-auth".to_owned());
    if let Err(error) = thread.spawn(move || work(&todo, &results)) {
        tracing::error!("no thread for authentication could be started: {error}");
    }
    desks
}

fn work(todo: &Receiver<Job>, results: &[Sender<(ConnectionKey, Computed)>]) {
    // SAFETY: the call takes plain numbers; 0 names the calling thread. A refusal costs nothing
    // but priority.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    let mut seqnum = first_seqnum();
    for Job { core, connection, life, work } in todo {
        let computed = match work {
            _ if life.strong_count() == 0 => Computed::Nothing,
            Work::Challenge { hash, group } => {
                seqnum = next_seqnum(seqnum);
                let keys = (group != Group::Null).then(|| dh::generate(group));
                Computed::Challenge(made(random(hash.len_bytes()), seqnum, keys))
            }
            Work::SharedSecret { group, private, public } => {
                Computed::SharedSecret(dh::shared_secret(group, &private, &public))
            }
        };
        // A core that is gone needs no result.
        let _ = results[core].send((connection, computed));
    }
}

fn made(challenge: Vec<u8>, seqnum: u32, keys: Option<KeyPair>) -> Made {
    Made { challenge, seqnum, keys }
}

fn first_seqnum() -> u32 {
    let bytes = random(4);
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The next number; 0 has a meaning of its own.
fn next_seqnum(last: u32) -> u32 {
    last.wrapping_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::Hash;

    #[test]
    fn sequence_numbers_leave_out_0() {
        assert_eq!((next_seqnum(0), next_seqnum(7), next_seqnum(u32::MAX)), (1, 8, 1));
    }

    #[test]
    fn work_of_connections_that_are_gone_is_skipped() {
        let mut desks = start(2);
        let mut desk = desks.remove(1);
        let key = |index| ConnectionKey { index, generation: 1 };
        let (gone, stays) = (Arc::new(()), Arc::new(()));
        let work = || Work::Challenge { hash: Hash::Sha384, group: Group::Ffdhe2048 };
        // The first occupies the thread while the second's connection goes away.
        desk.ask(key(1), &stays, Work::Challenge { hash: Hash::Sha256, group: Group::Ffdhe8192 });
        desk.ask(key(2), &gone, work());
        drop(gone);
        desk.ask(key(3), &stays, work());
        let next = || desk.done.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
        let first = next();
        assert_eq!(first.0, key(1));
        let (connection, computed) = next();
        // Unless the thread was quick.
        assert_eq!(connection, key(2));
        assert!(matches!(computed, Computed::Nothing | Computed::Challenge(_)));
        let (connection, computed) = next();
        assert_eq!(connection, key(3));
        let Computed::Challenge(made) = computed else { panic!("{computed:?}") };
        assert_eq!((made.challenge.len(), made.keys.unwrap().public.len()), (48, 256));
    }
}
