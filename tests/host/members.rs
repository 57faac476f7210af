//! Member files from outside: as `mdadm --examine` describes them, and byte by byte.

use super::find_program;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

const SECTOR_BYTES: u64 = 512;

/// What `mdadm --examine` says of one member.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) version: String,
    pub(crate) array_uuid: String,
    pub(crate) device_uuid: String,
    pub(crate) level: String,
    pub(crate) raid_devices: u32,
    pub(crate) data_offset_sectors: u64,
    pub(crate) used_sectors: u64,
    pub(crate) state: String,
    /// `Active device N`.
    pub(crate) role: String,
    /// Such as `AA` or `A.`.
    pub(crate) array_state: String,
    pub(crate) events: u64,
    /// The checksum and whether mdadm finds it right.
    pub(crate) checksum: String,
}

/// Has Debian's mdadm describe a member.
pub(crate) fn examine(member: &Path) -> Examined {
    let output = Command::new(find_program("mdadm").expect("checked before"))
        .arg("--examine")
        .arg(member)
        .output()
        .expect("mdadm starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdadm --examine {}: {text}{error}", member.display());
    println!("{text}");
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(name)?.trim_start().strip_prefix(": "))
            .unwrap_or_else(|| panic!("mdadm prints no '{name}' for {}", member.display()))
            .to_owned()
    };
    let number = |name: &str| {
        let value = field(name);
        let first = value.split_whitespace().next().unwrap_or_default();
        first.parse().unwrap_or_else(|_| panic!("'{name} : {value}' is no number"))
    };
    let array_state = field("Array State");
    Examined {
        version: field("Version"),
        array_uuid: field("Array UUID"),
        device_uuid: field("Device UUID"),
        level: field("Raid Level"),
        raid_devices: u32::try_from(number("Raid Devices")).expect("a small number"),
        data_offset_sectors: number("Data Offset"),
        // mdadm leaves "Used Dev Size" out where it equals what is available.
        used_sectors: if text.contains("Used Dev Size") {
            number("Used Dev Size")
        } else {
            number("Avail Dev Size")
        },
        state: field("State"),
        role: field("Device Role"),
        array_state: array_state.split(' ').next().unwrap_or_default().to_owned(),
        events: number("Events"),
        checksum: field("Checksum"),
    }
}

/// Holds two members of a whole RAID1 to the same bytes over all of their data.
pub(crate) fn assert_same_data(one: &Path, other: &Path) {
    let (a, b) = (examine(one), examine(other));
    assert_eq!(a.used_sectors, b.used_sectors, "members of one size");
    let mut one = data_of(one, &a);
    let mut other = data_of(other, &b);
    const STEP_BYTES: usize = 64 * 1024;
    let (mut left, mut right) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    let mut at_bytes = 0;
    let mut in_use_bytes = 0;
    let size_bytes = a.used_sectors * SECTOR_BYTES;
    while at_bytes < size_bytes {
        let step = STEP_BYTES.min(usize::try_from(size_bytes - at_bytes).unwrap_or(STEP_BYTES));
        one.read_exact(&mut left[..step]).expect("a member holds all its data");
        other.read_exact(&mut right[..step]).expect("a member holds all its data");
        if left[..step] != right[..step] {
            let at = (0..step).find(|&at| left[at] != right[at]).unwrap_or(0);
            panic!("the members differ at byte {} of the data", at_bytes + at as u64);
        }
        in_use_bytes += if left[..step].iter().any(|byte| *byte != 0) { step } else { 0 };
        at_bytes += step as u64;
    }
    assert!(in_use_bytes > 0, "nothing was ever written to the members");
    println!("members agree over {size_bytes} bytes, {in_use_bytes} of them in use");
}

fn data_of(member: &Path, examined: &Examined) -> BufReader<File> {
    let mut file = File::open(member).expect("a member file");
    file.seek(SeekFrom::Start(examined.data_offset_sectors * SECTOR_BYTES)).expect("seek");
    BufReader::with_capacity(1 << 20, file)
}
