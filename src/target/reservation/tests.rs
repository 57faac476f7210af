#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use uuid::Uuid;
use zerocopy::FromZeros;

use super::*;
use crate::wire::nvme::opcode::nvm;
use crate::wire::nvme::{Sqe, Status};
use ReservationType as T;

const A: HostId = [1; 16];
const B: HostId = [2; 16];
const C: HostId = [3; 16];
const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();
const INVALID: Status = Status::INVALID_FIELD.dnr();

fn sqe(opcode: u8, cdw10: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode;
    sqe.cdw10.set(cdw10);
    sqe
}

fn keys(current: u64, other: u64) -> Vec<u8> {
    [current.to_le_bytes(), other.to_le_bytes()].concat()
}

struct Bench(Reservation);

impl Bench {
    fn run(&mut self, host: HostId, sqe: &Sqe, data: &[u8]) -> Result<Vec<Notice>, Status> {
        let command = ReservationCommand::parse(sqe, data)?;
        let outcome = self.0.execute(&host, &command, true);
        if outcome.status.is_success() { Ok(outcome.notices) } else { Err(outcome.status) }
    }

    fn register(&mut self, host: HostId, action: u32, current: u64, new: u64) -> Status {
        let sqe = sqe(nvm::RESERVATION_REGISTER, action);
        self.run(host, &sqe, &keys(current, new)).map_or_else(|s| s, |_| Status::SUCCESS)
    }

    fn acquire(
        &mut self,
        host: HostId,
        action: u32,
        rtype: u32,
        current: u64,
        preempt: u64,
    ) -> Result<Vec<Notice>, Status> {
        let sqe = sqe(nvm::RESERVATION_ACQUIRE, action | rtype << 8);
        self.run(host, &sqe, &keys(current, preempt))
    }

    fn release(
        &mut self,
        host: HostId,
        action: u32,
        rtype: u32,
        current: u64,
    ) -> Result<Vec<Notice>, Status> {
        self.run(host, &sqe(nvm::RESERVATION_RELEASE, action | rtype << 8), &keys(current, 0)[..8])
    }

    fn may(&self, host: HostId) -> (bool, bool) {
        self.0.view().map_or((true, true), |view| {
            (view.allows(&host, Access::Read), view.allows(&host, Access::Write))
        })
    }
}

/// A and B are registered with keys 10 and 11.
fn two() -> Bench {
    let mut bench = Bench(Reservation::default());
    assert_eq!(bench.register(A, 0, 0, 10), Status::SUCCESS);
    assert_eq!(bench.register(B, 0, 0, 11), Status::SUCCESS);
    bench
}

fn told(kind: NoticeKind, hosts: &[HostId]) -> Vec<Notice> {
    hosts.iter().map(|&host| Notice { host, kind }).collect()
}

#[test]
fn registrations() {
    let mut b = two();
    assert_eq!(b.register(A, 0, 0, 10), Status::SUCCESS, "the same key again");
    assert_eq!(b.register(A, 0, 0, 12), CONFLICT, "another needs Replace");
    assert_eq!(b.register(A, 2, 99, 12), CONFLICT, "wrong current key");
    assert_eq!(b.register(A, 2, 10, 12), Status::SUCCESS);
    assert_eq!(b.register(A, 2 | 8, 0, 13), Status::SUCCESS, "IEKEY");
    assert_eq!(b.register(C, 2, 0, 13), CONFLICT, "not registered");
    assert_eq!(b.register(C, 2 | 8, 0, 13), Status::SUCCESS, "IEKEY: whether registered or not");
    assert_eq!(b.register(C, 1 | 8, 0, 0), Status::SUCCESS);
    assert_eq!(b.register(C, 1 | 8, 0, 0), CONFLICT);
    assert_eq!(b.register(C, 1, 0, 0), CONFLICT);
    assert_eq!(b.register(A, 1, 10, 0), CONFLICT, "wrong current key");
    assert_eq!(b.register(A, 1, 13, 0), Status::SUCCESS);
    assert_eq!(b.register(C, 0, 0, 0), INVALID, "a key of zero");
    assert_eq!(b.register(C, 3, 0, 1), INVALID, "reserved action");
    assert_eq!(b.register(C, 1 << 30, 0, 1), INVALID, "reserved CPTPL");
    let short = ReservationCommand::parse(&sqe(nvm::RESERVATION_REGISTER, 0), &[0; 15]);
    assert_eq!(short, Err(Status::DATA_SGL_LENGTH_INVALID.dnr()));
    assert_eq!(b.0.generation, 8);
    for n in 0..REGISTRANTS_MAX - 1 {
        let mut host = [9; 16];
        host[..8].copy_from_slice(&n.to_le_bytes());
        assert_eq!(b.register(host, 0, 0, 1), Status::SUCCESS);
    }
    assert_eq!(b.register(C, 0, 0, 1), Status::INTERNAL_ERROR, "bounded");
}

#[test]
fn who_may_read_and_write() {
    let (all, reads, nothing) = ((true, true), (true, false), (false, false));
    // By type: the other registrant, and a host that is not registered.
    let table = [(1, reads, reads), (2, nothing, nothing), (3, all, reads), (4, all, nothing)];
    for (rtype, registrant, stranger) in
        table.into_iter().chain([(5, all, reads), (6, all, nothing)])
    {
        let mut b = two();
        assert_eq!(b.acquire(C, 0, rtype, 0, 0), Err(CONFLICT), "not registered");
        assert_eq!(b.acquire(A, 0, rtype, 99, 0), Err(CONFLICT), "wrong key");
        assert_eq!(b.acquire(A, 0, rtype, 10, 0), Ok(vec![]));
        assert_eq!((b.may(A), b.may(B), b.may(C)), (all, registrant, stranger), "type {rtype}");
        assert_eq!(b.acquire(A, 0, rtype, 10, 0), Ok(vec![]), "again");
        let second = if rtype >= 5 { Ok(vec![]) } else { Err(CONFLICT) };
        assert_eq!(b.acquire(B, 0, rtype, 11, 0), second, "type {rtype}");
        assert_eq!(b.acquire(A, 0, rtype % 6 + 1, 10, 0), Err(CONFLICT), "another type");
    }
    let mut b = two();
    for (action, rtype) in [(0, 0), (0, 7), (3, 1), (8, 1)] {
        assert_eq!(b.acquire(A, action, rtype, 10, 0), Err(INVALID), "{action} {rtype}");
    }
}

#[test]
fn releasing() {
    let mut b = two();
    b.acquire(A, 0, 3, 10, 0).unwrap();
    assert_eq!(b.release(B, 0, 3, 11), Ok(vec![]), "not the holder: nothing happens");
    assert_eq!(b.release(A, 0, 1, 10), Err(INVALID), "another type");
    assert_eq!(b.release(A, 0, 3, 11), Err(CONFLICT), "another key");
    assert_eq!(b.release(A, 2, 3, 10), Err(INVALID), "reserved action");
    assert_eq!(b.may(C), (true, false));
    let released = told(NoticeKind::ReservationReleased, &[B]);
    assert_eq!(b.release(A, 0, 3, 10), Ok(released.clone()));
    assert_eq!(b.may(C), (true, true));
    b.acquire(A, 0, 1, 10, 0).unwrap();
    assert_eq!(b.release(A, 0, 1, 10), Ok(vec![]), "nobody but the holder was let in");
    // A holder that unregisters releases as well; of type 5 the last registrant.
    b.acquire(A, 0, 4, 10, 0).unwrap();
    let unregister = sqe(nvm::RESERVATION_REGISTER, 1);
    assert_eq!(b.run(A, &unregister, &keys(10, 0)), Ok(released));
    let mut b = two();
    b.acquire(A, 0, 5, 10, 0).unwrap();
    assert_eq!(b.run(A, &unregister, &keys(10, 0)), Ok(vec![]));
    assert_eq!((b.may(A), b.may(B)), ((true, false), (true, true)));
    assert_eq!(b.run(B, &unregister, &keys(11, 0)), Ok(vec![]));
    assert_eq!(b.may(A), (true, true));
    let mut b = two();
    b.acquire(A, 0, 2, 10, 0).unwrap();
    assert_eq!(b.release(B, 1, 0, 11), Ok(told(NoticeKind::ReservationPreempted, &[A])), "clear");
    assert_eq!((b.0.registrants.len(), b.may(C)), (0, (true, true)));
}

#[test]
fn preempting() {
    let registration = |hosts: &[HostId]| told(NoticeKind::RegistrationPreempted, hosts);
    let reservation = |hosts: &[HostId]| told(NoticeKind::ReservationPreempted, hosts);
    // The reservation itself.
    let mut b = two();
    b.acquire(A, 0, 1, 10, 0).unwrap();
    let both = [registration(&[A]), reservation(&[A])].concat();
    assert_eq!(b.acquire(B, 1, 2, 11, 10), Ok(both));
    assert_eq!((b.may(A), b.may(B)), ((false, false), (true, true)));
    assert_eq!(b.register(A, 2, 10, 5), CONFLICT, "A is no longer registered");
    // Registrations only.
    let mut b = two();
    b.register(C, 0, 0, 12);
    b.acquire(A, 0, 3, 10, 0).unwrap();
    assert_eq!(b.acquire(B, 2, 3, 11, 12), Ok(registration(&[C])));
    assert_eq!((b.may(A), b.may(B), b.may(C)), ((true, true), (true, true), (true, false)));
    assert_eq!(b.acquire(B, 1, 3, 11, 77), Err(CONFLICT), "nobody has this key");
    assert_eq!(b.acquire(B, 1, 3, 11, 0), Err(INVALID));
    // The holder preempts itself to change the type.
    assert_eq!(b.acquire(A, 1, 2, 10, 10), Ok(told(NoticeKind::ReservationReleased, &[B])));
    assert_eq!((b.may(A), b.may(B)), ((true, true), (false, false)));
    // All registrants hold it: zero takes everything, a key one registration.
    let mut b = two();
    b.register(C, 0, 0, 12);
    b.acquire(A, 0, 6, 10, 0).unwrap();
    assert_eq!(b.acquire(B, 1, 1, 11, 12), Ok(registration(&[C])));
    assert_eq!((b.may(A), b.may(C)), ((true, true), (false, false)));
    let taken = [registration(&[A]), reservation(&[A])].concat();
    assert_eq!(b.acquire(B, 1, 1, 11, 0), Ok(taken));
    assert_eq!((b.may(A), b.0.registrants.len()), ((true, false), 1));
    // Nothing is held.
    let mut b = two();
    assert_eq!(b.acquire(B, 1, 1, 11, 10), Ok(registration(&[A])));
    assert_eq!(b.0.view(), None);
}

/// Two hosts without an identifier are two hosts, which nothing could tell apart.
#[test]
fn a_host_without_an_identifier_has_no_reservations() {
    const NONE: HostId = [0; 16];
    let refused = Status::HOST_ID_NOT_INITIALIZED.dnr();
    let mut b = two();
    b.acquire(A, 0, 1, 10, 0).unwrap();
    let before = b.0.clone();
    assert_eq!(b.register(NONE, 0, 0, 12), refused);
    assert_eq!(b.acquire(NONE, 0, 1, 10, 0), Err(refused));
    assert_eq!(b.release(NONE, 0, 1, 10), Err(refused));
    assert_eq!(b.release(NONE, 1, 0, 10), Err(refused), "clear");
    let report = b.run(NONE, &sqe(nvm::RESERVATION_REPORT, 15), &[]);
    let mut wide = sqe(nvm::RESERVATION_REPORT, 15);
    wide.cdw11.set(1);
    assert_eq!(
        (report, b.run(NONE, &wide, &[])),
        (Err(Status::HOST_ID_INCONSISTENT.dnr()), Err(refused))
    );
    assert_eq!(b.0, before);
    assert_eq!(b.may(NONE), (true, false), "it is held to those of others");
    let feature = b.0.execute(&NONE, &ReservationCommand::GetPersist, true);
    assert_eq!(feature.status, Status::SUCCESS, "a feature is no reservation command");
}

#[test]
fn golden_report() {
    let mut b = two();
    b.acquire(B, 0, 4, 11, 0).unwrap();
    let data = b.0.report();
    assert_eq!(data.len(), 64 * 3);
    assert_eq!(data[..11], [2, 0, 0, 0, 4, 2, 0, 0, 0, 0, 0]);
    assert_eq!(data[64..80], [0xff, 0xff, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(data[80..96], A);
    assert_eq!((data[130], data[136], data[144]), (1, 11, 2), "B holds it");
    let short = ReservationCommand::parse(&sqe(nvm::RESERVATION_REPORT, 0), &[]);
    assert_eq!(short, Err(Status::HOST_ID_INCONSISTENT.dnr()), "64-bit host ids");
}

#[test]
fn what_persists_is_what_was() {
    let id = Uuid::from_u128(77);
    let mut b = two();
    let no_place = ReservationCommand::SetPersist(true);
    assert_eq!(b.0.execute(&A, &no_place, false).status, INVALID);
    b.acquire(A, 0, 3, 10, 0).unwrap();
    let empty = Reservation::restore(&b.0.save(id), id).unwrap();
    assert_eq!((empty.registrants.len(), empty.held, empty.persist), (0, None, false));
    assert_eq!(b.register(B, 2 | 3 << 30, 11, 14), Status::SUCCESS);
    let text = b.0.save(id);
    let again = Reservation::restore(&text, id).unwrap();
    assert_eq!(again, Reservation { generation: 0, ..b.0.clone() });
    let other = Uuid::from_u128(78);
    assert_eq!(Reservation::restore(&text, other), Err(PersistError::OtherNamespace(id)));
    let changed = text.replace("held 3", "held 4");
    assert_eq!(Reservation::restore(&changed, id), Err(PersistError::CheckSum));
    for cut in 0..text.len() - 1 {
        assert!(Reservation::restore(&text[..cut], id).is_err(), "cut at {cut}");
    }
}

proptest! {
    /// Whatever hosts ask for: a holder is registered, nobody holds what is not there, and the
    /// saved text gives the same again.
    #[test]
    fn any_commands_keep_it_sound(
        commands in prop::collection::vec(
            (0_u8..4, 0_usize..4, any::<u16>(), 0_u64..4, 0_u64..4, 0_u32..4), 0..60
        )
    ) {
        let opcodes = [0x0d, 0x0e, 0x11, 0x15];
        let mut b = Bench(Reservation::default());
        for (host, opcode, cdw10, current, other, cptpl) in commands {
            let host = [host; 16];
            let before = b.0.clone();
            let mut sqe = sqe(opcodes[opcode], u32::from(cdw10) & 0x70f | cptpl << 30);
            sqe.cdw11.set(1);
            if b.run(host, &sqe, &keys(current, other)).is_err() {
                prop_assert_eq!(&b.0, &before, "what is refused changes nothing");
            }
            if let Some(held) = b.0.held {
                let holder = b.0.registrants.iter().any(|one| one.host == held.holder);
                prop_assert!(holder || held.rtype.is_all_registrants());
                prop_assert!(!b.0.registrants.is_empty());
            }
            let id = Uuid::from_u128(5);
            let again = Reservation::restore(&b.0.save(id), id).unwrap();
            if b.0.persist {
                prop_assert_eq!(again.view(), b.0.view());
            }
        }
    }

    #[test]
    fn any_text_is_refused_or_understood(text in "(?s).{0,200}") {
        let _ = Reservation::restore(&text, Uuid::nil());
    }
}

#[test]
fn types_have_their_numbers() {
    for byte in 1..=6 {
        assert_eq!(T::from_byte(byte).map(|rtype| rtype as u8), Some(byte));
    }
    assert_eq!((T::from_byte(0), T::from_byte(7)), (None, None));
}
