//! What can be seen without a release build of the target.

use super::*;

#[test]
fn proc_is_read_right() {
    let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 3 0 99";
    assert_eq!(parse_cpu_ticks(stat), Some(175));
    assert_eq!(parse_cpu_ticks("42 (x) S 1"), None);
    let status = "Name:\tmdof\nVmPeak:\t  9000 kB\nVmRSS:\t    5120 kB\nHugetlbPages:\t 2048 kB\n";
    assert_eq!(resident_kib(status), Some(7168));
    assert_eq!(resident_kib("VmRSS:\t 12 kB\n"), Some(12));
    assert_eq!(resident_kib("Name:\tmdof\n"), None);
    let own = std::process::id();
    assert!(cpu_ticks(own).is_ok());
    assert!(resident_kib(&read_proc(own, "status").unwrap()).unwrap() > 0);
}

#[test]
fn the_demo_moves_to_another_port() {
    let address = "127.0.0.1:5555".parse().unwrap();
    let config = moved(DEMO, address).unwrap();
    assert!(config.contains("127.0.0.1:5555") && !config.contains(DEMO_ADDRESS));
    assert!(moved("", address).is_err());
}

#[test]
fn a_missing_binary_is_one_sentence() {
    let error = measure_ready(Path::new("/nonexistent/mdof"), 1).unwrap_err().to_string();
    assert!(error.contains("build it first"), "{error}");
}

#[test]
fn a_target_that_ends_early_is_noticed() {
    let output = std::io::Cursor::new(b"array made\n".to_vec());
    let error = wait_for_ready(output).unwrap_err().to_string();
    assert!(error.contains("ended before"), "{error}");
    wait_for_ready(std::io::Cursor::new(b"x\nready; Ctrl-C stops it\n".to_vec())).unwrap();
}
