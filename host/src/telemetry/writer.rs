//! The log's own thread: takes what gathered for a moment and writes it in one piece.
//!
//! One write for many lines is what makes a line a request cheap. While lines keep coming the thread wakes by
//! its own clock, so that no request has to wake it; a wake-up costs more than the line. Putting a line together
//! can be left to the thread too, so that no caller waits for it.

use std::{
    cell::RefCell,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Most bytes that wait for the reader; when they are full, further lines are lost and counted.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// How long lines gather.
const GATHER: Duration = Duration::from_millis(50);

/// What an event that is put together later counts of them.
const LATER_BYTES: usize = 320;

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

/// Something that logs one event.
type Later = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: Waiting,
    lost: u64,
    /// The thread sleeps until there is a line.
    asleep: bool,
    stopping: bool,
    stopped: bool,
}

/// What came since the last write.
#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// What is still to be put together, when it happened, and where in `lines` it belongs.
    later: Vec<(usize, SystemTime, Later)>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.later.is_empty()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.lines.len() + self.later.len() * LATER_BYTES + bytes <= MAX_WAITING_BYTES
    }

    /// Everything in its order. Empties itself.
    fn take(&mut self, out: &mut Vec<u8>) {
        let mut from = 0;
        for (at, when, later) in self.later.drain(..) {
            out.extend_from_slice(&self.lines[from..at]);
            from = at;
            NOW.set(Some((when, std::mem::take(out))));
            // Whatever it says, the log goes on.
            let _ = catch_unwind(AssertUnwindSafe(later));
            *out = NOW.take().map(|(_, lines)| lines).unwrap_or_default();
        }
        out.extend_from_slice(&self.lines[from..]);
        self.lines.clear();
        // A burst's memory is not kept.
        self.lines.shrink_to(64 << 10);
        self.later.shrink_to(1 << 10);
    }
}

thread_local! {
    /// In the log's thread, while it puts an event together: when that happened, and where its line goes.
    static NOW: RefCell<Option<(SystemTime, Vec<u8>)>> = const { RefCell::new(None) };
}

/// When the event that is being logged in this thread happened.
pub(super) fn now() -> SystemTime {
    NOW.with_borrow(|now| now.as_ref().map(|(when, _)| *when)).unwrap_or_else(SystemTime::now)
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
        let put = |now: &mut Option<(SystemTime, Vec<u8>)>| {
            now.as_mut().map(|(_, lines)| lines.extend_from_slice(line)).is_some()
        };
        if !NOW.with_borrow_mut(put) {
            self.add(line.len(), |waiting| waiting.lines.extend_from_slice(line));
        }
    }

    /// Logs an event in the thread, as what happened now.
    pub(super) fn later(&self, later: Later) {
        let now = SystemTime::now();
        self.add(LATER_BYTES, |waiting| waiting.later.push((waiting.lines.len(), now, later)));
    }

    fn add(&self, bytes: usize, add: impl FnOnce(&mut Waiting)) {
        let mut state = self.lock();
        if !state.waiting.has_room(bytes) {
            state.lost += 1;
            return;
        }
        add(&mut state.waiting);
        if std::mem::replace(&mut state.asleep, false) {
            drop(state);
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: impl Write) {
        let (mut lines, mut taken) = (Vec::new(), Waiting::default());
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
            std::mem::swap(&mut taken, &mut state.waiting);
            let (lost, stopping) = (std::mem::take(&mut state.lost), state.stopping);
            drop(state);
            taken.take(&mut lines);
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
    fn what_is_put_together_later_stands_where_it_happened() {
        let (sent, got) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        drop(go);
        let (writer, stop) = Writer::start(Stuck(wait, sent));
        let before = SystemTime::now();
        writer.line(b"first\n");
        let (own, other) = (writer.clone(), writer.clone());
        writer.later(Box::new(move || own.line(if now() >= before { b"second\n" } else { b"untimely\n" })));
        writer.later(Box::new(|| panic!("an event that cannot be put together")));
        writer.line(b"third\n");
        writer.later(Box::new(move || other.line(b"fourth\n")));
        drop(stop);
        let all: Vec<u8> = got.iter().flatten().collect();
        assert_eq!(String::from_utf8_lossy(&all), "first\nsecond\nthird\nfourth\n");
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
