//! What a program under callgrind may ask of it, and what its dumps say.

use std::io;
use std::path::Path;

/// VALGRIND's own request; those of a tool begin with its two letters.
const RUNNING_ON_VALGRIND: u64 = 0x1001;
const DUMP_STATS: u64 = 0x4354_0000;
const ZERO_STATS: u64 = DUMP_STATS + 1;

/// A request of the program to valgrind: instructions that do nothing elsewhere.
#[cfg(target_arch = "x86_64")]
fn request(code: u64) -> u64 {
    let args = [code, 0, 0, 0, 0, 0];
    let mut answer: u64 = 0;
    // SAFETY: the four rotations add up to 128 bits, which leaves the register as it was, as the
    // exchange of a register with itself does. Valgrind, which knows the sequence, reads the
    // arguments and writes rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") args.as_ptr(),
            inout("rdx") answer,
            options(nostack),
        );
    }
    answer
}

/// The sequence is another on each processor.
#[cfg(not(target_arch = "x86_64"))]
fn request(_code: u64) -> u64 {
    0
}

/// Whether this program runs under valgrind, and can ask it.
pub(crate) fn is_here() -> bool {
    request(RUNNING_ON_VALGRIND) != 0
}

/// Counts from nothing again.
pub(crate) fn zero() {
    request(ZERO_STATS);
}

/// Writes what was counted to the next file.
pub(crate) fn dump() {
    request(DUMP_STATS);
}

/// A dump: the instructions, and how often a function was called whose name ends like this.
///
/// Of a dump are read `events: Ir`, `totals:` with their sum, and of each pair of functions
/// `cfn=(id) name`, the name only at first, and `calls=count`. Not `summary:`: that begins with
/// what other threads had done since their last turn when all was set to zero.
pub(crate) fn read(path: &Path, called: &str) -> io::Result<(f64, f64)> {
    let text = std::fs::read_to_string(path)?;
    let bad = |what: &str| {
        let text = format!("{} has no {what}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let sum = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let instructions = sum.and_then(|sum| sum.trim().parse().ok());
    let instructions = instructions.ok_or_else(|| bad("sum of instructions"))?;
    Ok((instructions, calls(&text, called).ok_or_else(|| bad(called))?))
}

/// How often a function was called whose name ends like this; `None`: there is no such function.
fn calls(text: &str, called: &str) -> Option<f64> {
    let names = text.lines().filter_map(|line| {
        line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")).and_then(|name| {
            let (id, name) = name.split_once(' ')?;
            name.ends_with(called).then_some(id)
        })
    });
    let ids: Vec<&str> = names.collect();
    let (mut sum, mut is_it) = (None, false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("cfn=") {
            is_it = ids.contains(&name.split(' ').next().unwrap_or(name));
        } else if let Some(count) = line.strip_prefix("calls=")
            && is_it
        {
            let count: f64 = count.split(' ').next()?.parse().ok()?;
            sum = Some(sum.unwrap_or(0.0) + count);
        }
    }
    sum
}
