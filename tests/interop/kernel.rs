//! Arrays made by mdof, taken over by Linux 7.2 and mdadm 4.6 in a guest, and taken back.

use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::mdof::md::{BITMAP_HEAD_BYTES, BitmapSuperblock};

use crate::mdof::TestDir;
use crate::rig::{Pattern, Rig, shared, superblock};

const GUEST_SCRIPT: &str = include_str!("takeover.sh");

/// Chunks in one of the eight states.
pub(crate) fn count(states: &[u8], state: u8) -> usize {
    states.iter().filter(|&&found| found == state).count()
}

/// An array for the guest.
struct Handover {
    rig: Rig,
    name: &'static str,
    how: &'static str,
    /// Sector where the kernel writes 64 sectors of "VMHGEN03".
    write: Option<u64>,
    patterns: Vec<Pattern>,
    /// State of each chunk as mdof left it on member 0.
    left: Vec<u8>,
}

impl Handover {
    /// What the kernel should count at load: chunks Unwritten, Clean, and in doubt.
    ///
    /// It applies its own rule of infection when it takes a Dirty chunk for NeedSync: the second
    /// one in a logical block of the bitmap takes the whole block along.
    fn loaded(&self) -> [usize; 3] {
        let unit = usize::try_from(self.rig.block_size_bytes()).unwrap();
        let mut counts = [0; 3];
        let mut first = 0;
        while first < self.left.len() {
            let length = (unit - (BITMAP_HEAD_BYTES + first) % unit).min(self.left.len() - first);
            let block = &self.left[first..first + length];
            let infected = block.iter().filter(|&&state| state == 2).count() > 1;
            for &state in block {
                counts[if infected { 2 } else { usize::from(state).min(2) }] += 1;
            }
            first += length;
        }
        counts
    }
}

pub(crate) fn pattern(first: u64, sectors: u64, tag: &str) -> Pattern {
    (first, sectors, tag.to_owned())
}

/// The bitmap's head and the state of each chunk on a member file.
pub(crate) fn states(path: &Path) -> (BitmapSuperblock, Vec<u8>) {
    let own = superblock(path);
    let file = File::open(path).unwrap();
    let at = own.bitmap_sector().unwrap() * 512;
    let mut head = [0; BITMAP_HEAD_BYTES];
    file.read_exact_at(&mut head, at).unwrap();
    let head = BitmapSuperblock::parse(&head, &own).unwrap();
    let mut bytes = vec![0; usize::try_from(head.chunk_count()).unwrap()];
    file.read_exact_at(&mut bytes, at + BITMAP_HEAD_BYTES as u64).unwrap();
    (head, bytes)
}

fn blank(name: &str, size_bytes: u64, block_size_bytes: u64) -> Rig {
    let rig = Rig::new(name, 2, block_size_bytes);
    for member in rig.members() {
        File::create(member).unwrap().set_len(size_bytes).unwrap();
    }
    rig
}

/// Written and stopped cleanly.
fn clean(name: &'static str, block_size_bytes: u64) -> Handover {
    let rig = blank(name, 256 << 20, block_size_bytes);
    let patterns = vec![pattern(0, 1024, "VMHGEN01"), pattern(300_000, 256, "VMHGEN02")];
    let array = rig.start();
    let mut host = array.host();
    for (first, sectors, tag) in &patterns {
        host.write(*first, *sectors, tag);
    }
    drop(host);
    array.stop();
    let (_, left) = states(&rig.member(0));
    assert_eq!([count(&left, 0), count(&left, 1)], [4080 - 11, 11]);
    Handover { rig, name, how: "whole", write: Some(8192), patterns, left }
}

/// Killed while writes were on their way. What a crash can leave behind is left behind for sure:
/// the members differ in chunks in doubt, beside what was acknowledged.
fn crashed(
    name: &'static str,
    size_bytes: u64,
    block_size_bytes: u64,
    patterns: Vec<Pattern>,
) -> Handover {
    let rig = blank(name, size_bytes, block_size_bytes);
    let array = rig.start();
    let mut host = array.host();
    for (first, sectors, tag) in &patterns {
        host.write(*first, *sectors, tag);
    }
    let last = patterns.last().unwrap().0;
    for number in 0..8 {
        host.begin_write(last + 2048 + number * 2560, 64, "VMHGEN02");
    }
    host.push(2);
    array.kill();
    drop(host);
    let data_sector = superblock(&rig.member(1)).data_offset_sectors;
    for (first, sectors, _) in &patterns {
        rig.poke(1, (data_sector + first + sectors) * 512, &[0xd1; 4096]);
    }
    let (_, left) = states(&rig.member(0));
    assert!(count(&left, 2) > patterns.len(), "hardly anything was in doubt");
    Handover { rig, name, how: "whole", write: None, patterns, left }
}

/// Written to while member 1 was away, which then comes back.
fn degraded(name: &'static str) -> Handover {
    let mut rig = blank(name, 256 << 20, 512);
    let array = rig.start();
    let mut host = array.host();
    host.write(0, 512, "VMHGEN01");
    host.write(100_000, 256, "VMHGEN01");
    drop(host);
    array.stop();
    let away = rig.dir.file("away.img");
    fs::rename(rig.member(1), &away).unwrap();
    rig.arguments = vec!["--start-degraded"];
    let array = rig.start();
    let mut host = array.host();
    host.write(256, 128, "VMHGEN02");
    host.write(200_000, 64, "VMHGEN02");
    drop(host);
    array.stop();
    fs::rename(away, rig.member(1)).unwrap();
    rig.arguments.clear();
    let patterns = vec![
        pattern(0, 256, "VMHGEN01"),
        pattern(256, 128, "VMHGEN02"),
        pattern(384, 128, "VMHGEN01"),
        pattern(100_000, 256, "VMHGEN01"),
        pattern(200_000, 64, "VMHGEN02"),
    ];
    let (_, left) = states(&rig.member(0));
    assert_eq!(count(&left, 3), 2, "what member 1 missed is remembered");
    Handover { rig, name, how: "degraded", write: None, patterns, left }
}

/// A run of the guest over members of many arrays.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    dir: &'a TestDir,
    script: &'a str,
    command: Command,
    /// `d`: virtio-blk, `s`: SCSI, which takes more disks.
    kind: char,
    lists: String,
    patterns: String,
    disks: usize,
}

impl<'a> Guest<'a> {
    /// `dir` takes the files for the guest.
    pub(crate) fn new(vmrun: &Path, dir: &'a TestDir, script: &'a str, kind: char) -> Self {
        let mut command = Command::new(vmrun);
        command.args(["-t", "400"]);
        let (lists, patterns) = (String::new(), String::new());
        Self { dir, script, command, kind, lists, patterns, disks: 0 }
    }

    /// An array, a line for the script.
    pub(crate) fn add(
        &mut self,
        (name, how): (&str, &str),
        write: Option<u64>,
        members: &[PathBuf],
        block_size_bytes: u64,
        patterns: &[Pattern],
    ) {
        let write = write.map_or("-".to_owned(), |sector| sector.to_string());
        self.lists += &format!("{name} {how} {write}");
        for member in members {
            self.lists += &format!(" {}{}", self.kind, self.disks);
            self.disks += 1;
            let option = if self.kind == 's' { "-S" } else { "-d" };
            let disk = format!("{},lbs={block_size_bytes}", member.display());
            self.command.arg(option).arg(disk);
        }
        self.lists.push('\n');
        for (first, sectors, tag) in patterns {
            self.patterns += &format!("{name} {first} {sectors} {tag}\n");
        }
    }

    /// Runs it; returns what it printed.
    pub(crate) fn run(self) -> Printed {
        let (text, code) = self.output();
        assert!(code == Some(0) && text.contains("all done"), "the guest did not finish");
        let stuck = text.lines().find(|line| line.split(' ').nth(1) == Some("stuck"));
        assert!(stuck.is_none(), "the kernel's sync did not end: {}", stuck.unwrap());
        text
    }

    /// Runs it until it has its power cut; returns what it printed.
    pub(crate) fn run_until_cut(mut self) -> Printed {
        self.command.arg("--cut");
        let (text, code) = self.output();
        assert_eq!(code, Some(137), "the guest was to lose its power");
        text
    }

    fn output(mut self) -> (Printed, Option<i32>) {
        let file = |name: &str, text: &str| -> PathBuf {
            let path = self.dir.file(name);
            fs::write(&path, text).unwrap();
            path
        };
        self.command.arg("-f").arg(file("arrays", &self.lists));
        self.command.arg("-f").arg(file("patterns", &self.patterns));
        self.command.arg("-f").arg(file("guest.sh", include_str!("guest.sh")));
        let output = self.command.arg(file("takeover.sh", self.script)).output().unwrap();
        let [said, complained] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        (Printed(format!("{said}{complained}")), output.status.code())
    }
}

/// What a guest printed. It is shown behind the reason of a failure, not before it, so that the
/// reason is what a reader meets first.
#[derive(Debug)]
pub(crate) struct Printed(String);

impl Deref for Printed {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the guest printed:\n{}", self.0);
        }
    }
}

fn guest(vmrun: &Path, arrays: &[Handover]) -> Printed {
    let mut guest = Guest::new(vmrun, &arrays[0].rig.dir, GUEST_SCRIPT, 'd');
    for array in arrays {
        let (members, block) = (array.rig.members(), array.rig.block_size_bytes());
        guest.add((array.name, array.how), array.write, &members, block, &array.patterns);
    }
    guest.run()
}

/// What the guest said of an array under a key.
pub(crate) fn said<'a>(text: &'a str, name: &str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{name} {key} ");
    text.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect()
}

fn judge(text: &str, array: &Handover) {
    let name = array.name;
    let one = |key: &str| -> String {
        let found = said(text, name, key);
        assert_eq!(found.len(), 1, "{name}: one line of {key}");
        found[0].to_owned()
    };
    let loaded = one("loaded");
    let bits = |state: &str| -> usize {
        let found = loaded.split(';').find_map(|part| part.strip_prefix(state)?.strip_prefix(' '));
        found.and_then(|number| number.parse().ok()).unwrap()
    };
    let counts = [bits("unwritten"), bits("clean"), bits("dirty") + bits("need sync")];
    assert_eq!(counts, array.loaded(), "{name}");
    assert_eq!(one("blocks"), array.rig.block_size_bytes().to_string());
    assert_eq!(one("degraded"), "0", "{name}");
    let verified = said(text, name, "verify");
    assert_eq!(verified.len(), array.patterns.len());
    assert!(verified.iter().all(|line| line.starts_with("0 ")), "{name}: {verified:?}");
    assert_eq!(one("mismatch"), "0", "{name}: check found differences");
}

/// mdof starts the array again and reads what it and the kernel wrote.
fn take_back(array: &Handover) {
    let running = array.rig.start();
    running.wait_for_resync();
    let mut host = running.host();
    host.verify(&array.patterns);
    if let Some(write) = array.write {
        host.verify(&[pattern(write, 64, "VMHGEN03")]);
    }
    drop(host);
    running.stop();
    for (first, sectors, _) in &array.patterns {
        let data = |member| array.rig.data(member, *first, *sectors);
        assert!(data(0) == data(1), "{}: members differ at sector {first}", array.name);
    }
    array.rig.examine(0..2);
}

/// What runs the guest, if there is one.
pub(crate) fn vmrun() -> Option<PathBuf> {
    let vmrun = shared("vm/vmrun", "arrays of mdof were not handed to the kernel");
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !qemu {
        eprintln!("LEFT OUT: no guest here, arrays of mdof were not handed to the kernel");
        return None;
    }
    vmrun
}

fn hand_over(arrays: &[Handover]) {
    let Some(vmrun) = vmrun() else { return };
    let text = guest(&vmrun, arrays);
    for array in arrays {
        judge(&text, array);
        if head_is_overwritten(array) {
            // All that is left to do right is to say so and to touch nothing.
            let sentence = array.rig.refused();
            assert!(sentence.contains("the bitmap is of version"), "{sentence}");
            println!("{}: the kernel wrote states over its bitmap's head", array.name);
        } else {
            take_back(array);
        }
    }
}

/// On 4096-byte blocks Linux 7.2 takes the head of the bitmap for states when it infects the block
/// that holds both, and writes Dirty over its zeroes: the version 06 00 00 00 becomes 06 02 02 02.
/// Whether it comes to that in a run depends on the kernel's timing.
fn head_is_overwritten(array: &Handover) -> bool {
    if array.rig.block_size_bytes() != 4096 {
        return false;
    }
    let sector = superblock(&array.rig.member(0)).bitmap_sector().unwrap();
    let mut version = [0; 4];
    let member = File::open(array.rig.member(0)).unwrap();
    member.read_exact_at(&mut version, sector * 512 + 4).unwrap();
    version == [6, 2, 2, 2]
}

#[test]
fn linux_takes_over_arrays_of_mdof() {
    let near = vec![pattern(0, 512, "VMHGEN01"), pattern(300_000, 128, "VMHGEN01")];
    let far = vec![pattern(0, 512, "VMHGEN01"), pattern(400_000_000, 128, "VMHGEN01")];
    let large = crashed("large", 200 << 30, 512, far);
    // Only where the kernel does not write over its own bitmap's head (defect 6).
    let behind = vec![pattern(394_000, 512, "VMHGEN01"), pattern(400_000, 128, "VMHGEN01")];
    let (head, _) = states(&large.rig.member(0));
    assert_eq!(head.chunk_sectors(), Some(2048), "1 MiB although the member has 200 GiB");
    assert!(head.sectors_reserved > 256);
    hand_over(&[
        clean("clean", 512),
        crashed("crashed", 256 << 20, 512, near.clone()),
        degraded("degraded"),
        clean("clean4k", 4096),
        crashed("crashed4k", 256 << 20, 4096, behind),
        large,
    ]);
}
