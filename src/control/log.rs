//! The log goes to standard error by a thread of its own: a reader that is slow, or has stopped,
//! delays no reactor. Who writes never waits; lines that find the queue full are counted, and the
//! count is written when there is room again.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait for the reader.
const LINES_MAX: usize = 4096;

/// How long the end of the process waits for the reader.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

enum Entry {
    Line(Vec<u8>),
    /// Tell when everything before is written.
    Flush(SyncSender<()>),
}

/// The way to the thread that writes.
#[derive(Debug)]
struct Lines {
    sender: SyncSender<Entry>,
    left_out: AtomicU64,
}

impl Lines {
    /// A queue, and the end of it for the thread that calls [`write_all`].
    fn new(lines_max: usize) -> (Self, Receiver<Entry>) {
        let (sender, receiver) = sync_channel(lines_max);
        (Self { sender, left_out: AtomicU64::new(0) }, receiver)
    }

    fn add(&self, line: Vec<u8>) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let text = format!("({left_out} lines left out: nobody took them in time)\n");
            if self.sender.try_send(Entry::Line(text.into_bytes())).is_err() {
                self.left_out.fetch_add(left_out, Ordering::Relaxed);
            }
        }
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Entry::Line(line)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(entries: &Receiver<Entry>, out: &mut impl Write) {
    while let Ok(entry) = entries.recv() {
        match entry {
            // A log that can't be written has no place to complain.
            Entry::Line(line) => drop(out.write_all(&line)),
            Entry::Flush(done) => drop(done.try_send(())),
        }
    }
}

static LINES: OnceLock<Lines> = OnceLock::new();

/// One event on its way: `tracing` writes it piece by piece and drops this.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.0);
        match LINES.get() {
            _ if line.is_empty() => {}
            Some(lines) => lines.add(line),
            None => drop(io::stderr().write_all(&line)),
        }
    }
}

/// Logs what `MDOF_LOG` asks for, `info` by default.
pub(super) fn to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MDOF_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(Writer::default)
        .init();
}

/// From now on who logs does not wait: for programs that serve. Call [`flush`] before their end.
pub(super) fn never_wait() {
    let (lines, entries) = Lines::new(LINES_MAX);
    let thread = std::thread::Builder::new().name("log".to_owned());
    // Without it everything is written as before.
    if thread.spawn(move || write_all(&entries, &mut io::stderr())).is_ok() {
        // A second call would change nothing.
        let _ = LINES.set(lines);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            flush();
            before(panic);
        }));
    }
}

/// Waits until all is written, unless nobody reads.
pub(super) fn flush() {
    let Some(lines) = LINES.get() else { return };
    let (done, wait) = sync_channel(1);
    if lines.sender.try_send(Entry::Flush(done)).is_ok() {
        // Who reads nothing for so long does not read the rest either.
        let _ = wait.recv_timeout(FLUSH_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_stopped_delays_nobody_and_learns_what_it_missed() {
        let (lines, entries) = Lines::new(3);
        for number in 0..10 {
            lines.add(format!("{number}\n").into_bytes());
        }
        let take = |entries: &Receiver<Entry>| match entries.try_recv() {
            Ok(Entry::Line(line)) => Some(String::from_utf8(line).unwrap()),
            _ => None,
        };
        assert_eq!([0, 1, 2].map(|n| format!("{n}\n")).map(Some), [(); 3].map(|()| take(&entries)));
        lines.add(b"later\n".to_vec());
        assert!(take(&entries).unwrap().starts_with("(7 lines left out"));
        assert_eq!(take(&entries).as_deref(), Some("later\n"));
        assert_eq!(take(&entries), None);
    }

    #[test]
    fn what_is_queued_is_written_in_order() {
        let (lines, entries) = Lines::new(8);
        for text in ["a\n", "b\n"] {
            lines.add(text.as_bytes().to_vec());
        }
        drop(lines);
        let mut out = Vec::new();
        write_all(&entries, &mut out);
        assert_eq!(out, b"a\nb\n");
    }
}
