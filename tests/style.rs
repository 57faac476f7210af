//! Holds the source to the layout that `src/lib.rs` draws and to the limits that keep it readable.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]

#[path = "style/source.rs"]
mod source;

use source::{Source, line_of, paths_below, read_all, words};
use std::path::Path;

/// Who may import whom: the stations in the order in which a request passes them. An entry with
/// `::` allows that module only. `limits` is everyone's; `control` may import all and is imported
/// by nobody but the binaries.
const EDGES: [(&str, &[&str]); 13] = [
    ("wire", &[]),
    // Keys and what is computed with them: both ends of a connection need the same.
    ("secure", &[]),
    ("target", &["wire", "secure", "bdev", "reactor::buf"]),
    ("bdev", &["reactor"]),
    ("raid", &["bdev", "bitmap", "md", "parity", "reactor::buf"]),
    // The switch for model checking.
    ("bitmap", &["reactor::sync"]),
    ("md", &[]),
    ("parity", &[]),
    // Counters belong to their core: the reactor counts into them, and they take their atomics
    // from where the model checker can replace them.
    ("reactor", &["observe::counter"]),
    ("observe", &["reactor::sync"]),
    ("initiator", &["wire", "secure", "reactor::buf"]),
    ("engine", &["wire", "secure", "target", "bdev", "raid", "bitmap", "md", "reactor", "observe"]),
    (
        "control",
        &[
            "wire",
            "secure",
            "target",
            "bdev",
            "raid",
            "bitmap",
            "md",
            "reactor",
            "observe",
            "initiator",
            "engine",
        ],
    ),
];

/// Stations that get events and give actions: no I/O, no clock, no thread.
const SANS_IO: [&str; 7] = ["wire", "secure", "target", "raid", "bitmap", "md", "parity"];

/// Paths below `std` that those may not name.
const STD_FORBIDDEN: [&[&str]; 6] =
    [&["net"], &["fs"], &["thread"], &["process"], &["os"], &["time", "Instant"]];

/// Values that live there without doing anything.
const STD_NET_VALUES: [&str; 6] =
    ["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"];

/// Crates that those may not name.
const CRATES_FORBIDDEN: [&str; 3] = ["libc", "io_uring", "rustix"];

const FILE_LINES_MAX: usize = 1000;
const FILE_LINES_WANTED: usize = 300;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

fn sources(folders: &[&str]) -> Vec<Source> {
    let sources = read_all(Path::new(env!("CARGO_MANIFEST_DIR")), folders);
    assert!(!sources.is_empty(), "no source found");
    sources
}

/// Collects complaints and fails with all of them at once.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn add(&mut self, source: &Source, line: usize, what: &str) {
        self.0.push(format!("{}:{line}: {what}", source.path.display()));
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{} complaints\n{}", self.0.len(), self.0.join("\n"));
        }
    }
}

fn may_import(from: &str, path: &[String]) -> bool {
    let Some(to) = path.first() else { return true };
    if to == from || to == "limits" {
        return true;
    }
    let Some((_, allowed)) = EDGES.iter().find(|(station, _)| *station == from) else {
        return false;
    };
    allowed.iter().any(|edge| {
        let edge: Vec<&str> = edge.split("::").collect();
        path.len() >= edge.len() && edge.iter().zip(path).all(|(edge, name)| edge == name)
    })
}

#[test]
fn imports_run_one_way() {
    let mut complaints = Complaints::default();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test) {
        let module = source.module();
        let Some(from) = module.first().filter(|from| *from != "bin") else { continue };
        if from != "limits" && !EDGES.iter().any(|(station, _)| station == from) {
            complaints.add(source, 1, "a station that EDGES in tests/style.rs does not know");
            continue;
        }
        for (line, path) in source.crate_paths() {
            if !may_import(from, &path) {
                let what = format!("{from} may not import {}", path.join("::"));
                complaints.add(source, line, &what);
            }
        }
    }
}

#[test]
fn sans_io_stations_name_no_io() {
    let mut complaints = Complaints::default();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test) {
        let module = source.module();
        let Some(station) = module.first().filter(|name| SANS_IO.contains(&name.as_str())) else {
            continue;
        };
        for (line, path) in paths_below(&source.shipped, "std") {
            let is_forbidden = STD_FORBIDDEN.iter().any(|forbidden| {
                path.len() >= forbidden.len() && forbidden.iter().zip(&path).all(|(a, b)| a == b)
            });
            let is_value = path.get(1).is_some_and(|name| STD_NET_VALUES.contains(&name.as_str()));
            if is_forbidden && !is_value {
                let what =
                    format!("{station} does no I/O and may not name std::{}", path.join("::"));
                complaints.add(source, line, &what);
            }
        }
        for name in CRATES_FORBIDDEN {
            for at in words(&source.shipped, name) {
                let what = format!("{station} does no I/O and may not name {name}");
                complaints.add(source, line_of(&source.shipped, at), &what);
            }
        }
    }
}

#[test]
fn files_and_functions_keep_to_their_length() {
    let mut complaints = Complaints::default();
    for source in sources(&["src", "perf", "tests"]) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.add(&source, lines, &format!("over {FILE_LINES_MAX} lines: split it"));
        } else if lines >= FILE_LINES_WANTED {
            println!("{}: {lines} lines, getting long", source.path.display());
        }
        for (line, name, length) in source.functions() {
            if length > FUNCTION_LINES_MAX {
                let what = format!("fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}");
                complaints.add(&source, line, &what);
            }
        }
    }
}

#[test]
fn lines_keep_to_their_width() {
    let mut complaints = Complaints::default();
    for source in sources(&["src", "perf", "tests"]) {
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            // The rows of a table in the docs cannot be folded.
            let text = line.trim_start();
            let is_table = text.starts_with("//! |") || text.starts_with("/// |");
            if columns > COLUMNS_MAX && !is_table {
                let what = format!("{columns} columns, at most {COLUMNS_MAX}");
                complaints.add(&source, index + 1, &what);
            }
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    let mut complaints = Complaints::default();
    for source in sources(&["src", "perf"]) {
        for word in ["TODO", "FIXME", "XXX"] {
            for at in words(&source.text, word) {
                complaints.add(&source, line_of(&source.text, at), word);
            }
        }
        for word in ["todo", "unimplemented"] {
            for at in words(&source.code, word) {
                if source.code[at + word.len()..].starts_with('!') {
                    complaints.add(&source, line_of(&source.code, at), &format!("{word}!"));
                }
            }
        }
    }
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    let mut complaints = Complaints::default();
    for source in sources(&["src", "perf", "tests"]) {
        for line in unsafe_without_reason(&source) {
            complaints.add(&source, line, "unsafe without a SAFETY comment");
        }
    }
}

/// Lines above an `unsafe` among which its reason stands.
const REASON_LINES: usize = 3;

/// Lines of `unsafe` with neither `SAFETY:` in the few lines above, or on its own, nor `# Safety`
/// in the docs.
fn unsafe_without_reason(source: &Source) -> Vec<usize> {
    let lines: Vec<&str> = source.text.lines().collect();
    let is_docs = |line: &&&str| {
        let text = line.trim_start();
        text.starts_with("///") || text.starts_with("#[")
    };
    words(&source.code, "unsafe")
        // A type such as `unsafe fn(u8)` does nothing.
        .filter(|at| {
            let next = source.code[at + "unsafe".len()..].trim_start();
            !next.starts_with("fn(") && !next.starts_with("extern \"C\" fn(")
        })
        .map(|at| line_of(&source.code, at))
        .filter(|&line| {
            let above = &lines[(line - 1).saturating_sub(REASON_LINES)..line];
            let mut docs = lines[..line - 1].iter().rev().take_while(is_docs);
            !above.iter().any(|text| text.contains("SAFETY:"))
                && !docs.any(|text| text.contains("# Safety"))
        })
        .collect()
}

#[test]
fn every_station_of_the_drawing_has_its_rule() {
    let library = sources(&["src"]).into_iter().find(|s| s.path.ends_with("src/lib.rs"));
    let library = library.expect("src/lib.rs");
    let modules: Vec<&str> = library
        .code
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    for module in &modules {
        let is_known = *module == "limits" || EDGES.iter().any(|(station, _)| station == module);
        assert!(is_known, "src/lib.rs has {module}, about which EDGES says nothing");
    }
    for (station, _) in EDGES {
        assert!(modules.contains(&station), "EDGES names {station}, which src/lib.rs has not");
    }
}

// --- The scanner itself, held to examples: a rule that sees nothing would forbid nothing.

fn example(path: &str, text: &str) -> Source {
    Source::new(Path::new(path), text.to_owned())
}

#[test]
fn the_scanner_finds_imports_in_every_form() {
    let source = example(
        "src/wire/tcp/pdu.rs",
        "use crate::{bdev::{BdevIo, io::*}, reactor::buf as b};\n\
         // crate::comment::no\n\
         fn f() { let s = \"crate::string::no\"; super::super::super::engine::go(); }\n\
         fn g<'a>(c: char) -> bool { c == '\"' || crate::raid::Array::new::<u8>() }\n\
         #[cfg(test)]\nmod tests { use crate::control::X; }\n",
    );
    let paths: Vec<String> = source
        .crate_paths()
        .iter()
        .map(|(line, path)| format!("{line} {}", path.join("::")))
        .collect();
    assert_eq!(
        paths,
        ["1 bdev::BdevIo", "1 bdev::io", "1 reactor::buf", "4 raid::Array::new", "3 engine::go"]
    );
    assert!(!may_import("wire", &["bdev".to_owned(), "BdevIo".to_owned()]));
    assert!(may_import("target", &["reactor".to_owned(), "buf".to_owned()]));
    assert!(!may_import("target", &["reactor".to_owned(), "ring".to_owned()]));
    assert!(!may_import("target", &["control".to_owned()]));
    assert!(may_import("md", &["limits".to_owned(), "MDTS".to_owned()]));
}

#[test]
fn the_scanner_measures_functions() {
    let source = example(
        "src/a.rs",
        "trait T { fn none(&self) -> [u8; 2]; }\nfn one() -> u8 { 1 }\nfn three() {\n    \
         let x = r#\"}\"#;\n}\n",
    );
    let functions: Vec<(String, usize)> =
        source.functions().into_iter().map(|(_, name, length)| (name, length)).collect();
    assert_eq!(functions, [("one".to_owned(), 1), ("three".to_owned(), 3)]);
}

#[test]
fn the_scanner_finds_unsafe_without_a_reason() {
    let source = example(
        "src/a.rs",
        "// SAFETY: because.\nlet a = unsafe { x() };\n\n\nlet b = unsafe { y() };\n\
         type F = unsafe fn(u8);\n/// Docs.\n///\n/// # Safety\n/// Never null,\n/// nor\n\
         /// dangling.\n#[inline]\npub unsafe fn z() {}\n\
         // SAFETY: because.\n// Therefore.\n// And so on.\nlet c = unsafe { x() };\n",
    );
    assert_eq!(unsafe_without_reason(&source), [5]);
}
