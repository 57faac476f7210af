//! XOR and P+Q of mdof beside ISA-L's, in turns, in one process on the same strips.
//!
//! ISA-L (Debian: `libisal2`) is looked for at run time and never needed. Every stripe is computed
//! by both into the same strips, and the results are compared before anything is measured. Figures
//! are bytes of data per second of CPU time of the thread, so that other programs matter little.

use std::process::ExitCode;
use std::time::Duration;

use mdof::parity::{Instructions, Kernels, Strips};
use rustix::time::{ClockId, clock_gettime};

const STRIP_BYTES: usize = 64 * 1024;
/// Buffers of the target start at such addresses.
const ALIGNMENT: usize = 4096;
const ROUNDS: usize = 41;
/// Data of one kernel's turn in a round.
const TURN_BYTES: usize = 256 * 1024 * 1024;

/// Data strips and parity strips of each case.
const CASES: [(usize, usize); 4] = [(4, 1), (8, 1), (4, 2), (8, 2)];

/// The functions of `libisal.so.2`.
mod isal {
    use std::ffi::{CStr, c_int, c_void};

    /// `int xor_gen(int vects, int len, void **array)`; `pq_gen` likewise: the last one or two of
    /// the array are written.
    ///
    /// # Safety
    /// The array has `vects` strips of `len` bytes, aligned to 32.
    type Generate = unsafe extern "C" fn(c_int, c_int, *const *mut c_void) -> c_int;

    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Isal {
        xor: Generate,
        pq: Generate,
    }

    impl Isal {
        pub(crate) fn open() -> Option<Self> {
            // SAFETY: the name ends with a zero; the library's start does nothing but look at
            // the CPU.
            let library = unsafe { libc::dlopen(c"libisal.so.2".as_ptr(), libc::RTLD_NOW) };
            if library.is_null() {
                return None;
            }
            Some(Self { xor: find(library, c"xor_gen")?, pq: find(library, c"pq_gen")? })
        }

        /// Makes P, or P and Q, of the data.
        pub(crate) fn generate(self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
            let length = data[0].len();
            assert!(data.iter().all(|strip| strip.len() == length));
            assert!(parity.iter().all(|strip| strip.len() == length));
            let mut array = [std::ptr::null_mut(); 16];
            let data = data.iter().map(|strip| strip.as_ptr().cast_mut());
            let strips = data.chain(parity.iter_mut().map(|strip| strip.as_mut_ptr()));
            let mut count = 0;
            for strip in strips {
                assert_eq!(strip.addr() % 32, 0, "ISA-L wants strips aligned to 32 bytes");
                array[count] = strip.cast();
                count += 1;
            }
            let generate = if parity.len() == 2 { self.pq } else { self.xor };
            let count = c_int::try_from(count).expect("few strips");
            let length = c_int::try_from(length).expect("a short strip");
            // SAFETY: `count` strips of `length` bytes (asserts), aligned (assert); the last ones
            // are borrowed exclusively, the others are only read.
            let failed = unsafe { generate(count, length, array.as_ptr()) };
            assert_eq!(failed, 0, "ISA-L refused the strips");
        }
    }

    fn find(library: *mut c_void, name: &CStr) -> Option<Generate> {
        // SAFETY: the library is open and the name ends with a zero.
        let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
        // SAFETY: both symbols have this type in ISA-L's raid.h; null is `None`.
        unsafe { std::mem::transmute::<*mut c_void, Option<Generate>>(symbol) }
    }
}

/// Strips of one stripe, all at the same offset in a page as the target's buffers are.
fn strips(count: usize) -> Vec<&'static mut [u8]> {
    let mut seed = 1u64;
    let mut strip = || {
        let memory = Box::leak(vec![0; STRIP_BYTES + ALIGNMENT].into_boxed_slice());
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let strip = &mut memory[start..start + STRIP_BYTES];
        for byte in strip.iter_mut() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = seed.to_le_bytes()[7];
        }
        strip
    };
    (0..count).map(|_| strip()).collect()
}

fn generate(kernels: Kernels, data: &[&[u8]], parity: &mut [&mut [u8]]) {
    match parity {
        [p] => kernels.xor(p, data),
        [p, q] => kernels.generate_pq(p, q, data),
        _ => unreachable!("one or two parity strips"),
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is positive")
}

/// CPU time in seconds of one turn.
fn turn(times: usize, mut run: impl FnMut()) -> f64 {
    let start = cpu_time();
    for _ in 0..times {
        run();
    }
    (cpu_time() - start).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures one case and prints its line; gives whether the promise is kept, if ISA-L is there.
fn measure(kernels: Kernels, isal: Option<isal::Isal>, data: usize, parity: usize) -> Option<bool> {
    let mut strips = strips(data + parity);
    let mut parities = strips.split_off(data);
    let data: Strips<'_> = strips.iter().map(|strip| &**strip).collect();
    let times = TURN_BYTES / (STRIP_BYTES * data.len());
    let turn_bytes = u32::try_from(times * STRIP_BYTES * data.len()).expect("a short turn");
    let gigabytes = f64::from(turn_bytes) / 1e9;

    generate(kernels, &data, &mut parities);
    if let Some(isal) = isal {
        let ours: Vec<Vec<u8>> = parities.iter().map(|strip| strip.to_vec()).collect();
        isal.generate(&data, &mut parities);
        let is_same = ours.iter().zip(&parities).all(|(ours, theirs)| ours[..] == theirs[..]);
        assert!(is_same, "mdof and ISA-L disagree about the parity");
    }
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut our_turn = |parities: &mut Vec<&'static mut [u8]>| {
            ours.push(turn(times, || generate(kernels, &data, parities)));
        };
        if round % 2 == 0 {
            our_turn(&mut parities);
        }
        if let Some(isal) = isal {
            theirs.push(turn(times, || isal.generate(&data, &mut parities)));
        }
        if round % 2 == 1 {
            our_turn(&mut parities);
        }
        ratios.extend(theirs.last().zip(ours.last()).map(|(theirs, ours)| theirs / ours));
    }
    let name = format!("{}+{parity} {}", data.len(), if parity == 1 { "XOR" } else { "P+Q" });
    let ours = gigabytes / median(ours);
    if isal.is_none() {
        println!("{name}: {ours:6.1} GB/s");
        return None;
    }
    let theirs = gigabytes / median(theirs);
    ratios.sort_by(f64::total_cmp);
    let (low, high) = (ratios[ROUNDS / 4], ratios[ROUNDS * 3 / 4]);
    let ratio = ratios[ROUNDS / 2];
    let is_kept = ratio >= 1.0;
    let verdict = if is_kept { "kept" } else { "NOT KEPT" };
    println!(
        "{name}: {ours:6.1} GB/s, ISA-L {theirs:6.1} GB/s, ratio {ratio:.3} \
         (quartiles {low:.3} to {high:.3}), promise >= 1.0: {verdict}"
    );
    Some(is_kept)
}

fn main() -> ExitCode {
    let kernels = match std::env::args().nth(1).as_deref() {
        None => Kernels::detect(),
        Some("portable") => Kernels::with(Instructions::Portable).expect("they run anywhere"),
        Some(_) => {
            eprintln!("usage: parity-bench [portable]");
            return ExitCode::FAILURE;
        }
    };
    let isal = isal::Isal::open();
    println!(
        "{} kernels, strips of {} KiB in cache, {ROUNDS} rounds in turns, data per CPU second",
        kernels.instructions().name(),
        STRIP_BYTES / 1024
    );
    if isal.is_none() {
        println!("no libisal.so.2 (Debian: apt-get install libisal2): NOT COMPARED with ISA-L");
    }
    let mut is_kept = true;
    for (data, parity) in CASES {
        is_kept &= measure(kernels, isal, data, parity).unwrap_or(true);
    }
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
