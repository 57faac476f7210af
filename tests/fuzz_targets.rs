//! The fuzz targets on their seeds, on what once failed, and on some thousand changed seeds, the
//! same each time: so that they keep compiling and an easy find does not wait for `scripts/fuzz`.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]

#[path = "fuzz/src/lib.rs"]
#[allow(missing_docs, unreachable_pub, reason = "a crate of its own otherwise")]
mod targets;

use std::path::{Path, PathBuf};

/// Inputs made from the seeds of each target.
const CASES: u32 = 3000;

/// The same of the target that has a whole mdof.
const SESSION_CASES: u32 = 300;

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).expect("48 bits") % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A seed with some bytes changed, cut out, put in or appended.
fn change(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 | 1 if !bytes.is_empty() => bytes[at] = random.byte(),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            3 => bytes.truncate(at),
            4 => {
                let count = random.below(40);
                let noise: Vec<u8> = (0..count).map(|_| random.byte()).collect();
                bytes.splice(at..at, noise);
            }
            _ => bytes.extend((0..random.below(200)).map(|_| random.byte())),
        }
    }
    bytes
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Seeds, what fuzzing has found of interest (`tests/fuzz/corpus/TARGET/`) and what once failed
/// (`tests/fuzz/found/TARGET/`), and changed seeds.
fn exercise(target: &str, seeds: &[Vec<u8>], run: fn(&[u8])) {
    exercise_some(target, seeds, run, CASES);
}

fn exercise_some(target: &str, seeds: &[Vec<u8>], run: fn(&[u8]), cases: u32) {
    assert!(!seeds.is_empty());
    let found = files(&root().join("tests/fuzz/found").join(target), "");
    let corpus = files(&root().join("tests/fuzz/corpus").join(target), "");
    let seeds = &[seeds, &corpus].concat();
    seeds.iter().chain(&found).for_each(|input| run(input));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for case in 0..cases {
        let seed = &seeds[random.below(seeds.len())];
        let input = change(seed, &mut random);
        let result = std::panic::catch_unwind(|| run(&input));
        assert!(result.is_ok(), "case {case} of {target} fails: {}", hex(&input));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn superblock() {
    let seeds = files(&root().join("tests/data/md"), ".sb");
    let is_accepted = |seed: &Vec<u8>| targets::superblock::parse(&mut targets::Input(seed));
    // All but the one of metadata 1.0, which belongs at its member's end.
    let accepted = seeds.iter().filter(|seed| is_accepted(seed).is_some()).count();
    assert_eq!(accepted, seeds.len() - 1, "seeds go all the way");
    exercise("superblock", &seeds, targets::superblock::run);
}

#[test]
fn bitmap() {
    let mut seeds = files(&root().join("tests/data/md"), ".bitmap");
    // Head, states, and how the rest of the input changes the superblock.
    seeds.iter_mut().for_each(|seed| seed.resize(1024 + 4096, 0));
    assert!(seeds.iter().any(|seed| targets::bitmap::starts(seed)), "a seed goes all the way");
    exercise("bitmap", &seeds, targets::bitmap::run);
}

#[test]
fn ppl() {
    let mut seeds = files(&root().join("tests/data/md"), ".ppl");
    // As it is, for 3 members with chunks of 64 KiB and some size.
    seeds.iter_mut().for_each(|seed| seed.extend([0, 2, 7, 0, 0, 8, 0, 0]));
    let accepted = seeds.iter().filter_map(|seed| targets::ppl::parse(&mut targets::Input(seed)));
    assert_eq!(accepted.count(), seeds.len(), "seeds go all the way");
    exercise("ppl", &seeds, targets::ppl::run);
}

#[test]
fn conn() {
    let mut random = Random(7);
    let seeds: Vec<Vec<u8>> =
        (0..200).map(|_| (0..random.below(600)).map(|_| random.byte()).collect()).collect();
    exercise("conn", &seeds, targets::conn::run);
}

#[test]
fn auth() {
    use mdof::initiator::auth::HostAuthState;
    use mdof::target::auth::AuthState;
    let seeds: [&[u8]; 4] = [
        // Negotiate, its challenge, the reply, and what is said of it.
        &[0, 7, 1, 1, 1, 7, 0, 7, 1, 1, 1, 7],
        &[0, 7, 1, 1, 1, 7, 0, 2, 16, 0, 1, 1, 1, 1, 7, 2, 0, 4, 1, 3, 0, 0],
        &[0, 2, 7, 0, 2, 1, 1, 1, 7],
        b"DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:",
    ];
    let bytes = [&[0, 7, 1][..], &[0x11; 64], &[1, 1, 7, 0, 7, 1, 1, 1, 7]].concat();
    let ends = targets::auth::play(&mut targets::Input(&bytes));
    assert_eq!(ends, (AuthState::Failed, HostAuthState::Failed), "a seed goes all the way");
    let mut seeds: Vec<Vec<u8>> = seeds.map(<[u8]>::to_vec).to_vec();
    seeds.push(bytes);
    // With keys: one way and both, without and with values to compute with, nothing changed; and
    // with a key for TLS made of it.
    for how in [0, 1, 2, 3, 5, 7, 13, 15] {
        let seed = [&[how][..], &[7; 12]].concat();
        let ends = targets::auth::play_with_keys(&mut targets::Input(&seed));
        let end = if how < 4 { AuthState::Done } else { AuthState::Moved };
        assert_eq!(ends, (end, HostAuthState::Done, true), "a seed goes all the way");
        seeds.push(seed);
    }
    exercise("auth", &seeds, targets::auth::run);
}

/// A handshake takes a millisecond.
const TLS_CASES: u32 = 700;

#[test]
fn tls() {
    use mdof::secure::tls::TlsState;
    // Greeting, answer, the client's end of it, data.
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for how in [0, 4, 8, 9, 10, 11] {
        // One names somebody else.
        let name = if how == 4 { &[b'a'; 80][..] } else { &[] };
        seeds.push(
            [&[how][..], name, &[0, 11, 3, 11, 0, 11, 7, 0, 40, 0, 11, 7, 9, 9, 0, 11, 0, 11]]
                .concat(),
        );
    }
    let ends = seeds.iter().map(|seed| targets::tls::play(&mut targets::Input(seed)));
    let expected = [TlsState::Ended, TlsState::Ended].into_iter().chain([TlsState::Open; 4]);
    assert!(ends.eq(expected.map(|state| (state, true))), "seeds go all the way");
    exercise_some("tls", &seeds, targets::tls::run, TLS_CASES);
}

#[test]
fn session() {
    let mut random = Random(11);
    let seeds: Vec<Vec<u8>> =
        (0..100).map(|_| (0..random.below(1200)).map(|_| random.byte()).collect()).collect();
    exercise_some("session", &seeds, targets::session::run, SESSION_CASES);
}

#[test]
fn rpc() {
    let seeds = [
        &b"\x04{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"a\":[1,\"}\"]}}"[..],
        b"\x00[{\"id\":\"x\",\"method\":\"none\"},{\"method\":\"echo\"}] {}",
        b"\xff {\"id\":null,\"method\":\"echo\",\"params\":[[],{},\"\\\"\\u0000\",1e9]}\n[]",
    ];
    exercise("rpc", &seeds.map(<[u8]>::to_vec), targets::rpc::run);
}

#[test]
fn config() {
    exercise("config", &files(&root().join("conf"), ".toml"), targets::config::run);
}
