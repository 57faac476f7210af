//! Each refusal's exact text: an operator reads nothing else.

use super::*;

fn refusal(text: &str) -> String {
    match Config::parse(text, "t.toml") {
        Ok(config) => panic!("was taken: {config:?}"),
        Err(error) => error.to_string(),
    }
}

const PAIR: &str = "[[bdev]]\nname = \"a\"\nkind = \"malloc\"\nsize_mib = 8\n\
                    [[bdev]]\nname = \"b\"\nkind = \"null\"\nsize_mib = 8\n\
                    block_size_bytes = 4096\n";

#[test]
fn embedded_and_shipped_files_parse() {
    let demo = Config::parse(include_str!("../../../conf/demo.toml"), "demo").unwrap();
    assert_eq!(demo.arrays.len(), 1);
    assert_eq!(demo.bdevs.len(), 2);
    assert!(matches!(
        demo.bdevs[0].kind,
        BdevKind::Uring { create_bytes: Some(bytes), .. } if bytes == 1 << 30
    ));
    assert_eq!(demo.subsystems[0].listen, ["127.0.0.1:4420".parse().unwrap()]);
    let raid1 = Config::parse(include_str!("../../../conf/raid1.toml"), "raid1").unwrap();
    assert_eq!(raid1.arrays[0].members.len(), 2);
    assert_eq!(raid1.target.state_dir.as_deref(), Some(Path::new("mdof-state")));
}

#[test]
fn empty_file_is_a_target_without_anything() {
    let config = Config::parse("", "t.toml").unwrap();
    assert_eq!(config.target, TargetConfig::default());
    assert!(config.bdevs.is_empty() && config.arrays.is_empty() && config.subsystems.is_empty());
}

#[test]
fn policies_for_hosts_that_connect_anew_are_read() {
    for policy in DupHostPolicy::ALL {
        let text = format!("[target]\ndup_host_policy = \"{}\"\n", policy.name());
        let config = Config::parse(&text, "t.toml").unwrap();
        assert_eq!(config.target.dup_host_policy, policy);
    }
    assert_eq!(
        refusal("[target]\n\ndup_host_policy = \"deny\"\n"),
        "t.toml:3: dup_host_policy is one of \"allow\", \"restrict_per_listener\", \
         \"replace_per_listener\", not \"deny\""
    );
}

#[test]
fn the_kernels_tls_is_used_unless_the_file_forbids_it() {
    for (text, forbids) in [
        ("", false),
        ("[target]\nkernel_tls = true\n", false),
        ("[target]\nkernel_tls = false\n", true),
    ] {
        let config = Config::parse(text, "t.toml").unwrap();
        assert_eq!(config.target.no_kernel_tls, forbids);
    }
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    assert_eq!(
        refusal("[target]\ncores = \"auto\"\npol_mode = \"always\"\n"),
        "t.toml:3: unknown key \"pol_mode\", expected one of \"cores\", \"poll_mode\", \
         \"state_dir\", \"rpc_socket\", \"state\", \"auto_assemble\", \"dhchap_digests\", \
         \"dhchap_dhgroups\", \"dup_host_policy\", \"kernel_tls\", \"spares\""
    );
    assert_eq!(
        refusal("\n[targets]\n"),
        "t.toml:2: unknown key \"targets\", expected one of \"target\", \"bdev\", \"array\", \
         \"key\", \"subsystem\""
    );
    let text =
        format!("{PAIR}[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\nspeed = 1\n");
    assert!(refusal(&text).starts_with("t.toml:14: unknown key \"speed\", expected one of"));
    let text = format!(
        "{PAIR}[[subsystem]]\nnqn = \"nqn.2016-06.io.spdk:c\"\n\
         namespaces = [\n  {{ bdev = \"a\", id = 1 }}]\n"
    );
    assert_eq!(refusal(&text), "t.toml:13: unknown key \"id\", expected \"bdev\" or \"nsid\"");
}

#[test]
fn syntax_and_types() {
    assert!(refusal("[target]\nstate_dir = \n").starts_with("t.toml:2: "));
    assert_eq!(
        refusal("[target]\nstate_dir = 7\n"),
        "t.toml:2: invalid type: integer \"7\", expected a string"
    );
    assert_eq!(refusal("[[bdev]]\nname = \"a\"\n"), "t.toml:1: missing key \"kind\"");
    assert_eq!(
        refusal("[target]\npoll_mode = \"sometimes\"\n"),
        "t.toml:2: poll_mode is \"adaptive\" or \"always\", not \"sometimes\""
    );
    assert_eq!(
        refusal("[target]\ncores = true\n"),
        "t.toml:2: cores must be \"auto\" or a list of CPU numbers such as [0, 1]"
    );
}

#[test]
fn cores_out_of_range() {
    let text = refusal("[target]\ncores = [100000]\n");
    assert!(text.starts_with("t.toml:2: core 100000 is not usable here; usable are "), "{text}");
    let core = crate::control::cores::usable()[0];
    assert_eq!(
        refusal(&format!("[target]\ncores = [{core}, {core}]\n")),
        format!("t.toml:2: core {core} is listed twice")
    );
}

#[test]
fn bdevs() {
    assert_eq!(
        refusal(&format!("{PAIR}[[bdev]]\nname = \"a\"\nkind = \"malloc\"\nsize_mib = 1\n")),
        "t.toml:11: a second bdev or array is named \"a\""
    );
    assert_eq!(
        refusal("[[bdev]]\nname = \"a\"\nkind = \"floppy\"\n"),
        "t.toml:3: kind is malloc, null, uring, error or delay, not \"floppy\""
    );
    assert_eq!(
        refusal("[[bdev]]\nname = \"a\"\nkind = \"malloc\"\n"),
        "t.toml:3: a bdev of kind \"malloc\" needs the key \"size_mib\""
    );
    assert_eq!(
        refusal("[[bdev]]\nname = \"a\"\nkind = \"malloc\"\nsize_mib = 1\npath = \"x\"\n"),
        "t.toml:5: a bdev of kind \"malloc\" has no key \"path\""
    );
    assert_eq!(
        refusal("[[bdev]]\nname = \"a\"\nkind = \"null\"\nsize_mib = 1\nblock_size_bytes = 520\n"),
        "t.toml:5: block_size_bytes is 512 or 4096, not 520"
    );
    assert_eq!(
        refusal("[[bdev]]\nname = \"a\"\nkind = \"null\"\nsize_mib = 9000000000000000\n"),
        "t.toml:4: size_mib = 9000000000000000 is out of range"
    );
    assert_eq!(
        refusal("[[bdev]]\nname = \"e\"\nkind = \"error\"\nbase = \"nope\"\n"),
        "t.toml:4: bdev \"e\" uses \"nope\", which no bdev above has"
    );
}

#[test]
fn arrays() {
    let array = |rest: &str| refusal(&format!("{PAIR}[[array]]\nname = \"r\"\n{rest}"));
    assert_eq!(
        array("level = 1\nmembers = [\"a\", \"c\"]\n"),
        "t.toml:13: array \"r\" uses \"c\", which no bdev above has"
    );
    assert_eq!(
        array("level = 1\nmembers = [\"a\", \"a\"]\n"),
        "t.toml:13: array \"r\" uses \"a\", but array \"r\" does already"
    );
    assert_eq!(
        array("level = 1\nmembers = [\"a\"]\n"),
        "t.toml:13: 1 members; an array has 2 to 64"
    );
    assert_eq!(
        array("level = 7\nmembers = [\"a\", \"b\"]\n"),
        "t.toml:12: \"7\" is no level: it is raid0, raid1, raid4, raid5, raid6, raid10 or concat"
    );
    assert_eq!(
        array("level = 1\nmembers = [\"a\", \"b\"]\nchunk_size_kib = 100\n"),
        "t.toml:14: chunk_size_kib = 100: it is a power of two from 4 to 1048576"
    );
}

#[test]
fn subsystems() {
    let subsystem = |rest: &str| refusal(&format!("{PAIR}[[subsystem]]\n{rest}"));
    assert_eq!(
        subsystem("nqn = \"cnode1-without-nqn\"\n"),
        "t.toml:11: \"cnode1-without-nqn\" is no NQN; one looks like \
         nqn.2026-01.com.example:array0"
    );
    assert_eq!(
        subsystem("nqn = \"nqn.2016-06.io.spdk:c\"\nlisten = [\"localhost\"]\n"),
        "t.toml:12: \"localhost\" is no listen address; one looks like 127.0.0.1:4420 or \
         [::1]:4420"
    );
    assert_eq!(
        subsystem("nqn = \"nqn.2016-06.io.spdk:c\"\nnamespaces = [{ bdev = \"zz\" }]\n"),
        "t.toml:12: subsystem nqn.2016-06.io.spdk:c uses \"zz\", which no bdev above has"
    );
    assert_eq!(
        subsystem("nqn = \"nqn.2016-06.io.spdk:c\"\nnamespaces = [{ bdev = \"a\", nsid = 0 }]\n"),
        "t.toml:12: nsid = 0: it is from 1 to 256"
    );
}

#[test]
fn what_an_array_may_do_at_its_start() {
    let array = |keys: &str| {
        let head = format!("{PAIR}[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n");
        Config::parse(&format!("{head}{keys}"), "t.toml").map(|config| config.arrays[0].clone())
    };
    let plain = array("").unwrap();
    assert!(plain.start_degraded.is_none() && plain.sync_max_mib_s.is_none());
    assert!(!plain.convert_bitmap && !plain.bitmap_lost_resync);
    let keys = "start_degraded = \"start\"\nconvert_bitmap = true\nbitmap_lost = \"resync\"\n";
    let all = array(keys).unwrap();
    assert!(all.convert_bitmap && all.bitmap_lost_resync);
    assert_eq!(all.start_degraded, Some(DegradedStart::Start));
    let keys = "start_degraded = \"wait:30\"\nsync_max_mib_s = 5\nscrub_every_hours = 168\n";
    let kept = array(keys).unwrap();
    assert_eq!(kept.start_degraded, Some(DegradedStart::WaitS(30)));
    assert_eq!((kept.sync_max_mib_s, kept.scrub_every_hours), (Some(5), Some(168)));
    assert_eq!(
        array("start_degraded = \"wait\"\n").unwrap_err().to_string(),
        "t.toml:14: start_degraded is \"refuse\", \"start\" or \"wait:SECONDS\" (1 to 86400), not \
         \"wait\""
    );
    assert_eq!(
        array("scrub_every_hours = 9999\n").unwrap_err().to_string(),
        "t.toml:14: scrub_every_hours = 9999: it is at most 8784"
    );
    assert_eq!(
        array("spares = [\"a\"]\n").unwrap_err().to_string(),
        "t.toml:14: array \"r\", as a spare uses \"a\", but array \"r\" does already"
    );
    assert_eq!(
        array("bitmap_lost = \"ignore\"\n").unwrap_err().to_string(),
        "t.toml:14: bitmap_lost is \"refuse\" or \"resync\", not \"ignore\""
    );
}
