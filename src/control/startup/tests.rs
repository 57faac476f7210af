//! What a start decides from files alone.

use std::fs;
use std::os::unix::fs::FileExt;

use super::*;
use crate::control::test_dir::TestDir;

const TEXT: &str = r#"
[[bdev]]
name = "a"
kind = "uring"
path = "a.img"
create = true
size_mib = 64
[[bdev]]
name = "b0"
kind = "uring"
path = "b.img"
create = true
size_mib = 64
[[bdev]]
name = "b"
kind = "error"
base = "b0"
[[array]]
name = "r"
level = 1
members = ["a", "b"]
"#;

struct Bench {
    dir: TestDir,
    state: StateDir,
    config: Config,
}

impl Bench {
    fn new() -> Self {
        let dir = TestDir::new("startup");
        let state = StateDir::open(dir.path()).unwrap();
        Self { state, dir, config: Config::parse(TEXT, "t").unwrap() }
    }

    fn plan(&self) -> Result<ArrayPlan, String> {
        plan_array(&self.config, &self.config.arrays[0], &self.state)
            .map_err(|error| error.to_string())
    }

    fn data(&self, name: &str) {
        let file = fs::File::create(self.dir.path().join(name)).unwrap();
        file.write_all_at(b"data", 4096).unwrap();
        file.set_len(64 << 20).unwrap();
    }

    fn note(&self, phase: ArrayPhase) -> Uuid {
        let uuid = Uuid::from_u128(42);
        self.state.write_note("r", &ArrayNote { uuid, phase }).unwrap();
        uuid
    }

    fn files(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn first_start_makes_both_files() {
    let bench = Bench::new();
    let ArrayPlan::Create { files, .. } = bench.plan().unwrap() else { panic!() };
    let names: Vec<_> = files.iter().map(|(path, _)| path.file_name().unwrap()).collect();
    assert_eq!(names, ["a.img", "b.img"]);
    assert!(bench.files().is_empty(), "planning changes nothing");
}

#[test]
fn a_crash_between_the_files_is_finished() {
    let bench = Bench::new();
    member_file::create_sparse(&bench.dir.path().join("a.img"), 64 << 20).unwrap();
    let ArrayPlan::Create { files, .. } = bench.plan().unwrap() else { panic!() };
    assert_eq!(files.len(), 1);
    assert!(files[0].0.ends_with("b.img"));
}

#[test]
fn a_crash_between_the_superblocks_is_finished_under_the_same_identity() {
    let bench = Bench::new();
    bench.data("a.img");
    member_file::create_sparse(&bench.dir.path().join("b.img"), 64 << 20).unwrap();
    let uuid = bench.note(ArrayPhase::Creating);
    assert_eq!(bench.plan(), Ok(ArrayPlan::Create { uuid, files: Vec::new() }));
}

#[test]
fn a_missing_member_is_not_made_again() {
    let bench = Bench::new();
    bench.data("a.img");
    bench.note(ArrayPhase::Created);
    let plan = bench.plan().unwrap();
    assert_eq!(bench.files(), ["a.img", "r.array"]);
    // The filter above the missing bdev goes with it.
    assert_eq!(plan, ArrayPlan::Assemble { absent: vec!["b".to_owned()], blank: Vec::new() });
    assert_eq!(absent_bdevs(&bench.config, &[plan]), ["b", "b0"]);
}

#[test]
fn an_emptied_member_is_not_taken_for_a_new_one() {
    let bench = Bench::new();
    bench.data("a.img");
    member_file::create_sparse(&bench.dir.path().join("b.img"), 64 << 20).unwrap();
    let plan = ArrayPlan::Assemble { absent: Vec::new(), blank: vec!["b".to_owned()] };
    assert_eq!(bench.plan(), Ok(plan));
}

#[test]
fn an_array_whose_members_are_all_gone_is_not_made_again() {
    let bench = Bench::new();
    bench.note(ArrayPhase::Created);
    let text = bench.plan().unwrap_err();
    assert!(text.contains("was made earlier") && text.contains("r.array"), "{text}");
}

#[test]
fn both_members_there_are_assembled() {
    let bench = Bench::new();
    bench.data("a.img");
    bench.data("b.img");
    assert_eq!(bench.plan(), Ok(ArrayPlan::Assemble { absent: Vec::new(), blank: Vec::new() }));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text =
        format!("[[subsystem]]\nnqn = \"nqn.2026-01.io.mdof:t\"\nlisten = [\"{address}\"]\n");
    let config = Config::parse(&text, "t").unwrap();
    let text = check_listen_addresses(&config).unwrap_err().to_string();
    assert!(text.starts_with(&format!("cannot listen on {address}: the port is in use")), "{text}");
}
