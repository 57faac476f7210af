//! Saves reservations to files, on a thread of its own: a reactor must not wait for a disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

/// A text that is to be in a file, durably.
#[derive(Debug)]
pub(super) struct SaveJob {
    pub(super) path: String,
    pub(super) text: String,
}

type Ended = Result<(), String>;

/// The thread, once it was needed.
#[derive(Debug, Default)]
pub(super) struct Saver(Option<(Sender<SaveJob>, Receiver<Ended>)>);

impl Saver {
    /// Begins a job; the one before has ended.
    pub(super) fn begin(&mut self, job: SaveJob) {
        let (jobs, _) = self.0.get_or_insert_with(start);
        // If there is no thread, `poll` says so.
        let _ = jobs.send(job);
    }

    /// How the job ended; `None`: it has not.
    pub(super) fn poll(&mut self) -> Option<Ended> {
        let (_, ended) = self.0.as_ref().expect("a job was begun");
        match ended.try_recv() {
            Ok(ended) => Some(ended),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.0 = None;
                Some(Err("there is no thread to save reservations with".to_owned()))
            }
        }
    }
}

fn start() -> (Sender<SaveJob>, Receiver<Ended>) {
    let (jobs, todo) = mpsc::channel::<SaveJob>();
    let (done, ended) = mpsc::channel();
    let work = move || {
        for SaveJob { path, text } in todo {
            let saved = save(Path::new(&path), &text);
            let saved = saved
                .map_err(|error| format!("a reservation could not be saved in {path}: {error}"));
            if done.send(saved).is_err() {
                return;
            }
        }
    };
    // Without a thread both channels are closed, which `poll` finds.
    drop(std::thread::Builder::new().name("mdof-saver".to_owned()).spawn(work));
    (jobs, ended)
}

/// Replaces the file in one step, so that a power loss leaves the old text or the new one.
fn save(path: &Path, text: &str) -> io::Result<()> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
