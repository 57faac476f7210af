//! Keys in files: named by the operator, read when they are used. What is in them never leaves
//! this module but as a key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::secure::key::KEY_TEXT_BYTES_MAX;

/// Keys at most.
pub const KEYS_MAX: usize = 4096;

/// Permission bits of group and others: none may be set.
const OTHERS: u32 = 0o077;

/// Why a key can't be had. It never says what is in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeyringError {
    #[error("there is a key named {0} already")]
    Exists(String),
    #[error("there is no key named {0}; keyring_file_add_key makes it known")]
    Unknown(String),
    #[error("there are {KEYS_MAX} keys, the maximum")]
    TooMany,
    #[error("key {name}: its name is empty or longer than 255 bytes")]
    BadName { name: String },
    #[error("key {name}: the path {path} is not absolute")]
    Relative { name: String, path: String },
    #[error("key {name}: {path} cannot be read: {reason}")]
    Unreadable { name: String, path: String, reason: String },
    #[error("key {name}: {path} is not a file")]
    NoFile { name: String, path: String },
    #[error(
        "key {name}: others may read {path} (mode {mode:04o}); its mode must be 0600 or stricter"
    )]
    Open { name: String, path: String, mode: u32 },
    #[error("key {name}: {path} belongs to user {owner}, and mdof runs as user {own}")]
    Foreign { name: String, path: String, owner: u32, own: u32 },
    #[error("key {name}: what is in {path} is no key: {reason}")]
    BadKey { name: String, path: String, reason: String },
}

/// The keys that the operator has named.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    files: BTreeMap<String, PathBuf>,
}

impl Keyring {
    /// Makes a key known. Its file must be there, and be nobody else's.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn add_file(&mut self, name: &str, path: &Path) -> Result<(), KeyringError> {
        if name.is_empty() || name.len() > 255 {
            return Err(KeyringError::BadName { name: name.to_owned() });
        }
        if self.files.contains_key(name) {
            return Err(KeyringError::Exists(name.to_owned()));
        }
        if self.files.len() >= KEYS_MAX {
            return Err(KeyringError::TooMany);
        }
        if !path.is_absolute() {
            let path = path.display().to_string();
            return Err(KeyringError::Relative { name: name.to_owned(), path });
        }
        open(name, path)?;
        self.files.insert(name.to_owned(), path.to_owned());
        Ok(())
    }

    /// Makes a key unknown. Hosts that have it keep it.
    ///
    /// # Errors
    /// If it is unknown.
    pub fn remove(&mut self, name: &str) -> Result<(), KeyringError> {
        self.files.remove(name).map(|_| ()).ok_or_else(|| KeyringError::Unknown(name.to_owned()))
    }

    /// All keys: names and files.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn read<K, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<K, E>,
    ) -> Result<K, KeyringError> {
        let path = self.files.get(name).ok_or_else(|| KeyringError::Unknown(name.to_owned()))?;
        let mut file = open(name, path)?;
        // Room for it all, so that no part of it is left behind when the buffer grows.
        let mut text = Zeroizing::new(vec![0; KEY_TEXT_BYTES_MAX * 2]);
        let mut len = 0;
        loop {
            match file.read(&mut text[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) => return Err(unreadable(name, path, &error)),
            }
        }
        let bad = |reason: String| KeyringError::BadKey {
            name: name.to_owned(),
            path: path.display().to_string(),
            reason,
        };
        let text =
            std::str::from_utf8(&text[..len]).map_err(|_| bad("it is no text".to_owned()))?;
        parse(text.trim_end_matches(['\n', '\r', ' '])).map_err(|error| bad(error.to_string()))
    }
}

fn unreadable(name: &str, path: &Path, error: &std::io::Error) -> KeyringError {
    KeyringError::Unreadable {
        name: name.to_owned(),
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

/// Opens a key's file, if nobody else can read it.
fn open(name: &str, path: &Path) -> Result<File, KeyringError> {
    let shown = || (name.to_owned(), path.display().to_string());
    let file = File::open(path).map_err(|error| unreadable(name, path, &error))?;
    // Of what was opened, not of what is there by now.
    let found = file.metadata().map_err(|error| unreadable(name, path, &error))?;
    let (name, path) = shown();
    if !found.is_file() {
        return Err(KeyringError::NoFile { name, path });
    }
    if found.mode() & OTHERS != 0 {
        return Err(KeyringError::Open { name, path, mode: found.mode() & 0o7777 });
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(KeyringError::Foreign { name, path, owner: found.uid(), own });
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_dir::TestDir;
    use crate::secure::ChapKey;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:";

    #[test]
    fn keys_are_read_from_files_that_nobody_else_can_read() {
        let dir = TestDir::new("keyring");
        let path = dir.path().join("key");
        fs::write(&path, format!("{KEY}\n")).unwrap();
        let mut keyring = Keyring::default();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = keyring.add_file("k", &path).unwrap_err().to_string();
            assert!(refused.contains(&format!("mode {mode:04o}")), "{refused}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        keyring.add_file("k", &path).unwrap();
        assert_eq!(keyring.read("k", ChapKey::parse).unwrap(), ChapKey::parse(KEY).unwrap());
        assert_eq!(keyring.add_file("k", &path), Err(KeyringError::Exists("k".to_owned())));
        // It is looked at again when it is used.
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(keyring.read("k", ChapKey::parse), Err(KeyringError::Open { .. })));
        keyring.remove("k").unwrap();
        assert_eq!(keyring.remove("k"), Err(KeyringError::Unknown("k".to_owned())));
        assert!(matches!(keyring.read("k", ChapKey::parse), Err(KeyringError::Unknown(_))));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        let dir = TestDir::new("keyring-bad");
        let path = dir.path().join("key");
        let mut keyring = Keyring::default();
        assert!(matches!(keyring.add_file("k", &path), Err(KeyringError::Unreadable { .. })));
        assert!(matches!(
            keyring.add_file("k", Path::new("k")),
            Err(KeyringError::Relative { .. })
        ));
        assert!(matches!(keyring.add_file("", &path), Err(KeyringError::BadName { .. })));
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::set_permissions(dir.path().join("d"), Permissions::from_mode(0o700)).unwrap();
        let refused = keyring.add_file("k", &dir.path().join("d"));
        assert!(matches!(refused, Err(KeyringError::NoFile { .. })));
        for bad in ["", "hush", &KEY.replace("z8K1", "z8K2"), &"x".repeat(100_000)] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let mut keyring = Keyring::default();
            keyring.add_file("k", &path).unwrap();
            let refused = keyring.read("k", ChapKey::parse).unwrap_err();
            assert!(matches!(refused, KeyringError::BadKey { .. }), "{refused:?}");
            assert!(
                !refused.to_string().contains("hush") && !refused.to_string().contains("DHHC-1:01")
            );
        }
    }
}
