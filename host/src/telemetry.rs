//! The log: one line an event on stderr, as text or JSON, written by a thread of its own.
//!
//! Nothing in a request waits for it: a reader that stops reading costs lines, never requests.

mod line;
mod writer;

use std::{
    cell::RefCell,
    fs::File,
    io::Write as _,
    os::fd::AsFd,
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use tracing::{
    Event, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::config::{Level, LogSettings};
use line::{Fields, Line};
use writer::{Stop, Writer};

/// Keeps the log's thread; what waits is written when it is dropped.
#[must_use]
pub struct Guard {
    _writer: Option<Stop>,
}

/// The settings in force, in one byte so that a reload needs no lock: level in the low bits.
static IN_FORCE: AtomicU8 = AtomicU8::new(1);
/// The log, once it is started.
static STARTED: OnceLock<Writer> = OnceLock::new();

const JSON: u8 = 0x80;
const LEVEL: u8 = 0x0f;

/// Starts the log. A second call in one process only changes the settings.
pub fn init(settings: LogSettings) -> Guard {
    set(settings);
    // Not `std::io::stderr()`: its lock would be held while a reader does not read.
    let Ok(descriptor) = std::io::stderr().as_fd().try_clone_to_owned() else {
        return Guard { _writer: None };
    };
    let (writer, guard) = Writer::start(File::from(descriptor));
    let log = Log { writer: writer.clone(), pid: std::process::id() };
    match tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log)) {
        Ok(()) => {
            STARTED.get_or_init(|| writer);
            Guard { _writer: Some(guard) }
        }
        Err(_) => Guard { _writer: None },
    }
}

/// Changes the settings of the running log.
pub fn set(settings: LogSettings) {
    let level = if settings.quiet { Level::Error } else { settings.level };
    let level = match level {
        Level::Debug => 0,
        Level::Info => 1,
        Level::Warn => 2,
        Level::Error => 3,
    };
    IN_FORCE.store(level | if settings.json { JSON } else { 0 }, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Logs an event as one of now, but has the log's thread put its line together: `event` runs there. For what many
/// requests say while somebody waits for their answer. At once if there is no such thread.
pub fn later(event: impl FnOnce() + Send + 'static) {
    match STARTED.get() {
        Some(writer) => writer.later(Box::new(event)),
        None => event(),
    }
}

/// Logs a panic as an error with its place, and prints nothing else: its text may hold a caller's words.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if tracing::dispatcher::has_been_set() {
            let thread = std::thread::current();
            tracing::error!(place, thread = thread.name().unwrap_or(""), "internal error");
        } else {
            let _ = writeln!(std::io::stderr(), "sigoREST: internal error at {place}");
        }
    }));
}

/// Whether events of this kind are logged. Libraries say at `info` and below what only a developer wants.
fn admits(metadata: &Metadata<'_>) -> bool {
    let least = match IN_FORCE.load(Ordering::Relaxed) & LEVEL {
        0 => return *metadata.level() <= tracing::Level::DEBUG,
        1 => tracing::Level::INFO,
        2 => tracing::Level::WARN,
        _ => tracing::Level::ERROR,
    };
    let target = metadata.target().split("::").next().unwrap_or_default();
    let own = matches!(target, "host" | "sigoREST" | "sigoE" | "plugin");
    *metadata.level() <= if own { least } else { least.min(tracing::Level::WARN) }
}

/// The one layer: formats into a buffer of its thread, and hands each line over in one piece.
struct Log {
    writer: Writer,
    pid: u32,
}

thread_local!(static LINE: RefCell<Line> = RefCell::default());

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if admits(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        admits(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match IN_FORCE.load(Ordering::Relaxed) & LEVEL {
            0 => LevelFilter::DEBUG,
            1 => LevelFilter::INFO,
            2 => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        })
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let json = IN_FORCE.load(Ordering::Relaxed) & JSON != 0;
        let write = |line: &mut Line| {
            line.start(event.metadata().level(), json);
            event.record(line);
            for span in context.event_scope(event).into_iter().flatten() {
                if let Some(fields) = span.extensions().get::<Fields>() {
                    fields.replay(line);
                }
            }
            self.writer.line(line.finish(self.pid));
        };
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => write(&mut line),
            // A value that logs while it is being written.
            Err(_) => write(&mut Line::default()),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn spans_levels_and_libraries() {
        let kept = Kept::default();
        let (writer, guard) = Writer::start(kept.clone());
        let log = |level, quiet, json| set(LogSettings { level, quiet, json });
        log(Level::Info, false, false);
        let subscriber = tracing_subscriber::registry().with(Log { writer, pid: 1 });
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", id = "r1", model = tracing::field::Empty);
            let _inside = span.enter();
            span.record("model", "a b");
            tracing::info!(status = 200, "request");
            tracing::debug!("a step");
            tracing::info!(target: "hyper::proto", "a library's step");
            tracing::warn!(target: "hyper::proto", "a library's warning");
            log(Level::Debug, false, true);
            tracing::debug!(target: "hyper::proto", found = true, "a library's step");
            log(Level::Debug, true, false);
            tracing::warn!("not an error");
        });
        drop(guard);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once('Z').unwrap().1).collect();
        let expected = [
            " INFO  request status=200 id=r1 model=\"a b\"",
            " WARN  a library's warning id=r1 model=\"a b\"",
            r#"","level":"DEBUG","message":"a library's step","found":true,"id":"r1","model":"a b","pid":1}"#,
        ];
        assert_eq!(lines, expected);
    }
}
