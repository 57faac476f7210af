//! Where mdof keeps what it must find again, and its notes on the arrays it made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The directory's variable, which goes before the configuration file.
pub const STATE_DIR_VARIABLE: &str = "MDOF_STATE_DIR";

/// A directory that exists and can be written.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// What mdof wrote down about an array it made, to know at a later start that it once existed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayNote {
    /// The array's identity.
    pub uuid: Uuid,
    /// Whether all of its metadata had been written.
    pub phase: ArrayPhase,
}

/// How far the making of an array had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrayPhase {
    /// The members were blank and metadata was going to be written: nothing has been served yet.
    Creating,
    /// All members have their metadata.
    Created,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {reason}")]
pub struct StateDirError {
    doing: &'static str,
    path: String,
    reason: String,
}

impl StateDirError {
    fn new(doing: &'static str, path: &Path, error: &io::Error) -> Self {
        Self { doing, path: path.display().to_string(), reason: error.to_string() }
    }
}

/// Chooses the directory: command line, environment, configuration file, custom.
#[must_use]
pub fn choose(
    option: Option<&Path>,
    config: Option<&Path>,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> PathBuf {
    let set = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    option
        .map(Path::to_owned)
        .or_else(|| set(STATE_DIR_VARIABLE))
        .or_else(|| config.map(Path::to_owned))
        .or_else(|| set("XDG_STATE_HOME").map(|dir| dir.join("mdof")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/mdof")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/mdof"))
}

impl StateDir {
    /// Creates the directory where it does not exist and makes sure that files can be made in it.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let create = |error: &io::Error| {
            StateDirError::new("cannot create the state directory", path, error)
        };
        fs::create_dir_all(path).map_err(|error| create(&error))?;
        let path = fs::canonicalize(path).map_err(|error| create(&error))?;
        let probe = path.join(format!(".probe-{}", std::process::id()));
        let probed = File::create(&probe).and_then(|_| fs::remove_file(&probe));
        probed.map_err(|error| {
            StateDirError::new("cannot write in the state directory", &path, &error)
        })?;
        Ok(Self(path))
    }

    /// The directory, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `path`, taken from this directory unless it is absolute.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.0.join(path)
    }

    /// Where the note on array `name` is. A name has no slash.
    #[must_use]
    pub fn note_path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.array"))
    }

    /// The note on array `name`, if there is one.
    pub fn read_note(&self, name: &str) -> Result<Option<ArrayNote>, StateDirError> {
        let path = self.note_path(name);
        let fault = |error: &io::Error| {
            StateDirError::new("cannot read mdof's note on an array,", &path, error)
        };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| fault(&io::Error::other(error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault(&error)),
        }
    }

    /// Replaces the note on array `name` so that a crash leaves the old or the new one.
    pub fn write_note(&self, name: &str, note: &ArrayNote) -> Result<(), StateDirError> {
        let path = self.note_path(name);
        let new = self.0.join(format!("{name}.array.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(serde_json::to_string(note)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| {
            StateDirError::new("cannot write mdof's note on an array,", &path, &error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_dir::TestDir;

    #[test]
    fn choice_in_order() {
        let none = |_: &str| None;
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/u"));
        let all = |name: &str| Some(PathBuf::from(format!("/env/{name}")));
        let (option, config) = (Path::new("/opt"), Path::new("/conf"));
        assert_eq!(choose(Some(option), Some(config), all), option);
        assert_eq!(choose(None, Some(config), all), Path::new("/env/MDOF_STATE_DIR"));
        assert_eq!(choose(None, Some(config), home), config);
        assert_eq!(choose(None, None, home), Path::new("/home/u/.local/state/mdof"));
        assert_eq!(choose(None, None, none), Path::new("/var/lib/mdof"));
    }

    #[test]
    fn notes_come_back() {
        let dir = TestDir::new("state");
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(state.read_note("r").unwrap(), None);
        let note = ArrayNote { uuid: Uuid::from_u128(7), phase: ArrayPhase::Creating };
        state.write_note("r", &note).unwrap();
        assert_eq!(state.read_note("r").unwrap(), Some(note));
        fs::write(state.note_path("r"), "{").unwrap();
        assert!(state.read_note("r").unwrap_err().to_string().contains("r.array"));
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = TestDir::new("state-file");
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        let text = StateDir::open(&path).unwrap_err().to_string();
        assert!(text.starts_with("cannot create the state directory /"), "{text}");
    }
}
