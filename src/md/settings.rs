//! What mdof keeps of an array's settings in the head of its bitmap, where md has no field for it:
//! behind md's header, in bytes that mdadm fills with 0xff and that the kernel writes back as it
//! read them. Lost or damaged settings are as good as none: the defaults hold then.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the settings lie in the head: behind md's header, in the same 512 bytes.
pub(super) const SETTINGS_OFFSET_BYTES: usize = 256;

/// Begins the settings; the last digit is the version.
const MAGIC: [u8; 8] = *b"mdofset1";

/// Ours; see [`Settings`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SettingsRaw {
    /// "mdofset1".
    magic: [u8; 8],
    /// Seconds.
    barrier_idle: U32,
    /// Number of the policy.
    infection: u8,
    /// Zero.
    reserved: [u8; 3],
    /// CRC32C of what is before.
    checksum: U32,
}

const _: () = {
    assert!(size_of::<SettingsRaw>() == 20);
    assert!(offset_of!(SettingsRaw, checksum) == 16);
    // One sector holds header and settings: they can't be torn apart.
    assert!(SETTINGS_OFFSET_BYTES + size_of::<SettingsRaw>() <= 512);
};

/// Settings of a bitmap that md does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Seconds a chunk must be idle before the daemon may clear it; not checked here.
    pub barrier_idle_s: u32,
    /// Number of the infection policy; not checked here.
    pub infection: u8,
}

impl Settings {
    /// Reads them from a bitmap's head; `None` if there are none that can be trusted.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let (raw, _) = SettingsRaw::ref_from_prefix(head.get(SETTINGS_OFFSET_BYTES..)?).ok()?;
        let is_ours = raw.magic == MAGIC && raw.checksum.get() == checksum(raw);
        is_ours.then(|| Self { barrier_idle_s: raw.barrier_idle.get(), infection: raw.infection })
    }

    /// Writes them into the unused part of a head, which begins at [`SETTINGS_OFFSET_BYTES`].
    pub(super) fn encode_into(self, unused: &mut [u8]) {
        let mut raw = SettingsRaw {
            magic: MAGIC,
            barrier_idle: U32::new(self.barrier_idle_s),
            infection: self.infection,
            reserved: [0; 3],
            checksum: U32::new(0),
        };
        raw.checksum = U32::new(checksum(&raw));
        unused[..size_of::<SettingsRaw>()].copy_from_slice(raw.as_bytes());
    }
}

fn checksum(raw: &SettingsRaw) -> u32 {
    crc_fast::crc32_iscsi(&raw.as_bytes()[..offset_of!(SettingsRaw, checksum)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_and_damage_is_noticed() {
        let settings = Settings { barrier_idle_s: 77, infection: 2 };
        let mut head = [0xff; 1024];
        assert_eq!(Settings::parse(&head), None, "a head of md has none");
        settings.encode_into(&mut head[SETTINGS_OFFSET_BYTES..]);
        assert_eq!(Settings::parse(&head), Some(settings));
        assert!(head[..256].iter().chain(&head[276..]).all(|&byte| byte == 0xff));
        for at in 256..276 {
            let mut torn = head;
            torn[at] ^= 0x10;
            assert_eq!(Settings::parse(&torn), None, "byte {at}");
        }
        assert_eq!(Settings::parse(&head[..270]), None);
    }
}
