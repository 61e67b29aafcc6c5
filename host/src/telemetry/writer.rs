//! The log's own thread: takes what gathered for a moment and writes it in one piece.
//!
//! One write for many lines is what makes a line a request cheap. While lines keep coming the thread wakes by
//! its own clock, so that no request has to wake it; a wake-up costs more than the line.

use std::{
    io::Write,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Most bytes that wait for the reader; when they are full, further lines are lost and counted.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// How long lines gather.
const GATHER: Duration = Duration::from_millis(50);

/// How long the end waits for a reader.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes lines; cloned freely.
#[derive(Clone, Default)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    lost: u64,
    /// The thread sleeps until there is a line.
    asleep: bool,
    stopping: bool,
    stopped: bool,
}

/// Ends the thread; what waits is written first, if the reader reads.
pub(super) struct Stop(Writer);

impl Writer {
    /// Starts the thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> (Self, Stop) {
        let writer = Self::default();
        let thread = writer.clone();
        let started = std::thread::Builder::new().name("log".into()).spawn(move || thread.run(out));
        if started.is_err() {
            writer.lock().stopped = true;
        }
        (writer.clone(), Stop(writer))
    }

    /// Hands a line over; never waits for the reader.
    pub(super) fn line(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > MAX_WAITING_BYTES {
            state.lost += 1;
            return;
        }
        state.waiting.extend_from_slice(line);
        if std::mem::replace(&mut state.asleep, false) {
            drop(state);
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        let mut quiet = true;
        loop {
            let mut state = self.lock();
            // Nothing came while the last lines were written and gathered: a quiet time.
            while quiet && state.waiting.is_empty() && !state.stopping {
                state.asleep = true;
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if !state.stopping {
                let gathered = self.0.changed.wait_timeout_while(state, GATHER, |state| !state.stopping);
                state = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            quiet = state.waiting.is_empty();
            std::mem::swap(&mut lines, &mut state.waiting);
            let (lost, stopping) = (std::mem::take(&mut state.lost), state.stopping);
            drop(state);
            if lost > 0 {
                let _ = writeln!(lines, "{lost} log lines were lost: their reader is too slow");
            }
            // A reader that left is no reason to stop.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
            // A burst's memory is not kept.
            lines.shrink_to(64 << 10);
            if stopping {
                self.lock().stopped = true;
                self.0.changed.notify_all();
                return;
            }
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stopping = true;
        self.0.0.changed.notify_all();
        let _ = self.0.0.changed.wait_timeout_while(state, LAST_WORDS, |state| !state.stopped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that reads nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_the_count_is_told() {
        let (go, wait) = mpsc::channel();
        let (sent, got) = mpsc::channel();
        let (writer, stop) = Writer::start(Stuck(wait, sent));
        let line = vec![b'x'; 1 << 20];
        for _ in 0..12 {
            writer.line(&line);
        }
        drop(go);
        drop(stop);
        let all: Vec<u8> = got.iter().flatten().collect();
        let lost = all.iter().filter(|byte| **byte == b'x').count() / line.len();
        let text = String::from_utf8_lossy(&all);
        assert!((4..=8).contains(&lost), "{lost} MiB were written");
        assert!(text.contains(" log lines were lost"), "the loss is told");
    }
}
