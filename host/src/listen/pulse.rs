//! What a connection does right now, and until when it may: the clock behind its deadlines.
//!
//! One timer a connection suffices. A deadline that moves back is only written down here and read when
//! the timer fires; the timer itself is touched when a deadline moves forward, which a busy connection
//! never causes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::config::Limits;

/// How long a connection may take to close once it was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a connection on which nothing came yet is kept at the end: its request may be under way.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// How much of an answer waits for one write. hyper by itself gathers 64 KiB, also for a reader that takes
/// nothing.
const GIVEN_BYTES: usize = 16 << 10;

/// Nothing was read yet.
const FRESH: u8 = 0;
/// A request's head is coming in.
const HEAD: u8 = 1;
/// Between requests.
const IDLE: u8 = 2;
/// Told to close.
const LEAVING: u8 = 3;

/// The state of one connection, shared by its socket, its requests and its driver.
///
/// They all run in the connection's task, but for the streams of HTTP/2; none waits for another, so plain
/// relaxed atomics do.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    header: Duration,
    keepalive: Duration,
    stall: Duration,
    phase: AtomicU8,
    /// Since when this phase lasts, in milliseconds after `origin`.
    since: AtomicU64,
    /// Requests that run.
    active: AtomicUsize,
    /// Since when a write makes no progress, plus one; 0: none is pending.
    stuck: AtomicU64,
    streams: AtomicBool,
    /// Bytes of an answer that were given away since the last write.
    given: AtomicUsize,
    /// An answer waits until these have gone out.
    held: AtomicBool,
    /// A request was refused whose body may still be coming in.
    unread: AtomicBool,
    /// A head gave the length of its body twice.
    framed_twice: AtomicBool,
}

/// What to do with a connection whose time is up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// Let it say goodbye.
    Farewell,
    /// Drop it.
    Drop,
}

impl Pulse {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            origin: Instant::now(),
            header: limits.header,
            keepalive: limits.keepalive,
            stall: limits.stream_idle,
            phase: AtomicU8::new(FRESH),
            since: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            stuck: AtomicU64::new(0),
            streams: AtomicBool::new(false),
            given: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            framed_twice: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    fn enter(&self, phase: u8) {
        self.since.store(self.now(), Relaxed);
        self.phase.store(phase, Relaxed);
    }

    /// The handshake is over, HTTP begins; `streams`: requests share the connection (HTTP/2).
    pub(super) fn opened(&self, streams: bool) {
        self.streams.store(streams, Relaxed);
        self.enter(FRESH);
    }

    /// Bytes came in.
    pub(super) fn read(&self) {
        if self.active.load(Relaxed) > 0 {
            return;
        }
        match (self.phase.load(Relaxed), self.streams.load(Relaxed)) {
            (FRESH | IDLE, false) => self.enter(HEAD),
            // On HTTP/2, what comes in between requests may be a ping and proves nothing.
            (FRESH, true) => self.enter(IDLE),
            _ => {}
        }
    }

    /// Bytes went out; whether an answer waited for that and is to be woken.
    pub(super) fn wrote(&self) -> bool {
        if self.stuck.load(Relaxed) != 0 {
            self.stuck.store(0, Relaxed);
            // The rest of an answer goes out after its request ended: idle time starts behind it.
            if self.active.load(Relaxed) == 0 {
                self.enter(self.phase.load(Relaxed));
            }
        }
        self.given.store(0, Relaxed);
        self.held.load(Relaxed) && self.held.swap(false, Relaxed)
    }

    /// An answer gave bytes away.
    pub(super) fn gave(&self, bytes: usize) {
        self.given.fetch_add(bytes, Relaxed);
    }

    /// Whether an answer is to give nothing more until what it gave was written. On HTTP/2 the streams have
    /// windows of their own.
    pub(super) fn holds(&self) -> bool {
        let waiting = self.is_stuck() || self.given.load(Relaxed) >= GIVEN_BYTES;
        let holds = waiting && !self.streams.load(Relaxed);
        if holds {
            self.held.store(true, Relaxed);
        }
        holds
    }

    /// Bytes could not go out.
    pub(super) fn stuck(&self) {
        if self.stuck.load(Relaxed) == 0 {
            self.stuck.store(self.now() + 1, Relaxed);
        }
    }

    /// Whether written bytes wait for the reader.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Relaxed) != 0
    }

    /// Whether a request runs.
    pub(super) fn busy(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    /// A request begins; it ends when the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Relaxed);
        self.unread.store(false, Relaxed);
        Busy(Arc::clone(self))
    }

    /// A request with a body was refused, perhaps before the body was read.
    pub(super) fn refused(&self) {
        self.unread.store(true, Relaxed);
    }

    /// A head came in that gives the length of its body twice; its request ends the connection.
    pub(super) fn framed_twice(&self) {
        self.framed_twice.store(true, Relaxed);
    }

    /// Whether such a head came in, perhaps behind the request that is read now.
    pub(super) fn is_framed_twice(&self) -> bool {
        self.framed_twice.load(Relaxed)
    }

    /// Whether the peer may still be sending a body that nobody reads.
    pub(super) fn unread(&self) -> bool {
        self.unread.load(Relaxed) && self.now().saturating_sub(self.since.load(Relaxed)) < 1000
    }

    /// Whether a request may be on its way.
    pub(super) fn opening(&self) -> bool {
        self.active.load(Relaxed) == 0 && matches!(self.phase.load(Relaxed), FRESH | HEAD)
    }

    /// Until when a first request may be on its way, if none came yet.
    pub(super) fn expected(&self) -> Option<Instant> {
        let since = Duration::from_millis(self.since.load(Relaxed));
        (self.phase.load(Relaxed) == FRESH).then(|| self.origin + since + UNDER_WAY)
    }

    /// Until when something must have happened; `None` while only requests run, which have their own limits.
    pub(super) fn due(&self) -> Option<Instant> {
        let stuck = self.stuck.load(Relaxed);
        let phase = self.phase.load(Relaxed);
        let since = self.since.load(Relaxed);
        let (from, limit) = match phase {
            _ if stuck != 0 => (stuck - 1, self.stall),
            _ if self.active.load(Relaxed) > 0 => return None,
            LEAVING => (since, FAREWELL),
            IDLE => (since, self.keepalive),
            _ => (since, self.header),
        };
        Some(self.origin + Duration::from_millis(from) + limit)
    }

    /// Called when [`Pulse::due`] has passed.
    pub(super) fn expire(&self) -> Expired {
        if self.stuck.load(Relaxed) == 0 && self.phase.load(Relaxed) == IDLE {
            self.enter(LEAVING);
            return Expired::Farewell;
        }
        Expired::Drop
    }
}

/// Marks a request as running.
#[derive(Debug)]
pub(super) struct Busy(Arc<Pulse>);

impl Busy {
    pub(super) fn pulse(&self) -> &Pulse {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Relaxed) == 1 {
            let leaving = self.0.phase.load(Relaxed) == LEAVING;
            self.0.enter(if leaving { LEAVING } else { IDLE });
        }
    }
}
