//! Command lines that are taken, and that are not.

use clap::CommandFactory;

use super::*;
use crate::place::{BDEV_BYTES_DEFAULT, Leaf, Level, STRIP_BYTES_DEFAULT, Stack};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("mdof-perf").chain(line.split_whitespace()))
}

fn run(line: &str) -> (Subject, Reach, Job) {
    parse(line).unwrap().run.resolve().unwrap()
}

#[test]
fn command_line_is_consistent() {
    Cli::command().debug_assert();
    let help = Cli::command().render_help().to_string();
    assert!(help.contains("--rwmixread"), "{help}");
}

#[test]
fn a_namespace_and_every_option_of_a_job() {
    let (subject, reach, job) =
        run("--addr 127.0.0.1:4420 --nqn nqn.x --nsid 2 --rw randrw --rwmixread 30 --bs 64k \
         --iodepth 8 --connections 4 --core 1,3 --time 500ms --warm-up 2s --seed 9 --zipf 1.1 \
         --offset 1m --size 1g --sample 4 --hdgst --ddgst --json");
    let address = Address {
        addr: "127.0.0.1:4420".parse().unwrap(),
        nqn: "nqn.x".into(),
        nsid: 2,
        tls: false,
    };
    assert_eq!(subject, Subject::Place(Place::NvmeTcp(address)));
    assert_eq!((reach.cores, reach.connections), (vec![1, 3], 4));
    assert!(reach.header_digest && reach.data_digest);
    let expected = Job {
        rw: Access::RandRw,
        rwmixread: 30,
        block_size_bytes: 65536,
        queue_depth: 8,
        seed: 9,
        zipf_theta: Some(1.1),
        offset_bytes: 1 << 20,
        size_bytes: Some(1 << 30),
        warm_up: Duration::from_secs(2),
        time: Duration::from_millis(500),
        sample_every: 4,
    };
    assert_eq!(job, expected);
}

#[test]
fn bdevs_of_this_process() {
    let null = Leaf::Null { size_bytes: BDEV_BYTES_DEFAULT };
    let (subject, _, job) = run("--bdev null:1g");
    assert_eq!(subject, Subject::Place(Place::InProcess(Stack::Bdev(null))));
    assert_eq!(job, Job::default());
    for (line, bitmap) in [
        ("--raid1 null,null", true),
        ("--raid1 null,null --bitmap lockless", true),
        ("--raid1 null,null --bitmap none", false),
    ] {
        let stack = Stack::Raid {
            level: Level::Raid1,
            strip_size_bytes: STRIP_BYTES_DEFAULT,
            members: vec![null, null],
            bitmap,
        };
        assert_eq!(run(line).0, Subject::Place(Place::InProcess(stack)), "{line}");
    }
    let configured = Subject::Configured { config: "x.toml".into(), bdev: "raid1".into() };
    assert_eq!(run("--config x.toml --bdev raid1").0, configured);
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "--addr 127.0.0.1:4420",
        "--nqn nqn.x",
        "--addr 127.0.0.1:4420 --nqn nqn.x --nsid 0",
        "--addr 127.0.0.1:4420 --nqn nqn.x --bdev null",
        "--bdev null --raid1 null,null",
        "--bdev null --bitmap none",
        "--config x.toml",
        "--bdev null --rw scribble",
        "--bdev null --bs 4x",
        "--bdev null --time 1h",
        "--bdev null --connections 0",
        "ab --a null",
        "ab raid1-bitmap --a null --b null",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    for line in ["", "--bdev nil", "--bdev null --bs 2m", "--bdev null --qd 0"] {
        assert!(parse(line).unwrap().run.resolve().is_err(), "{line}");
    }
}

#[test]
fn comparisons() {
    let ab = |line: &str| match parse(line).unwrap().command {
        Some(Command::Ab(args)) => args.resolve(),
        command => panic!("{command:?}"),
    };
    let (comparison, job, _) = ab("ab raid1-bitmap --rounds 3").unwrap().unwrap();
    assert_eq!((comparison.rounds, comparison.promise), (3, Some(0.99)));
    assert_eq!((job.rw, job.block_size_bytes, job.queue_depth), (Access::RandWrite, 4096, 32));
    let (comparison, ..) = ab("ab --a null --b malloc:8m").unwrap().unwrap();
    assert_eq!(comparison.promise, None);
    assert!(ab("ab").unwrap().is_none());
    assert!(ab("ab no-such").is_err());
}

#[test]
fn keys_come_from_files() {
    let file = std::env::temp_dir().join(format!("mdof-perf-key-{}", std::process::id()));
    let path = file.display();
    let at = "--addr 127.0.0.1:4420 --nqn nqn.x";
    let resolve = |line: &str| parse(line).unwrap().run.resolve();
    assert!(resolve(&format!("{at} --tls-psk {path}")).is_err(), "there is no such file");
    let psk = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:";
    std::fs::write(&file, format!("{psk}\n")).unwrap();
    let (subject, reach, _) = resolve(&format!("{at} --tls-psk {path}")).unwrap();
    assert!(matches!(subject, Subject::Place(Place::NvmeTcp(Address { tls: true, .. }))));
    let tls = reach.keys.tls("nqn.host", "nqn.x").unwrap();
    assert!(tls.identity.starts_with("NVMe1R01 nqn.host nqn.x "));
    assert!(reach.keys.auth().is_none());
    let error = resolve(&format!("{at} --dhchap-key {path}")).unwrap_err().to_string();
    assert!(error.contains("DHHC-1") && !error.contains("VRLb"), "{error}");
    assert!(parse(&format!("{at} --dhchap-ctrlr-key {path}")).is_err(), "alone");
    let ab = |line: &str| match parse(line).unwrap().command {
        Some(Command::Ab(args)) => args.resolve(),
        command => panic!("{command:?}"),
    };
    let places = "ab --a nvme:127.0.0.1:1/nqn.x --b nvme+tls:127.0.0.1:2/nqn.y";
    assert!(ab(places).unwrap_err().to_string().contains("--tls-psk"));
    let (comparison, _, reach) = ab(&format!("{places} --tls-psk {path}")).unwrap().unwrap();
    assert!(comparison.b.to_string().ends_with("under TLS") && reach.keys.psk.is_some());
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn two_targets_and_their_rpc_sockets() {
    let line = "versus --ours 127.0.0.1:4420 --ours-pid 100 --ours-rpc a.sock \
                --peer 127.0.0.1:4430 --peer-pid 101 --peer-rpc b.sock --qd 1,32 --core 1";
    let Some(Command::Versus(args)) = parse(line).unwrap().command else { panic!("{line}") };
    let options = args.options().unwrap();
    assert_eq!((options.ours.pid, options.peer.pid), (Some(100), Some(101)));
    assert_eq!(options.ours.rpc, Some(PathBuf::from("a.sock")));
    assert_eq!(options.peer.rpc, Some(PathBuf::from("b.sock")));
    assert_eq!((options.queue_depths, options.cores), (vec![1, 32], vec![1]));
}
