//! A thread a core, each with a runtime of its own: a connection and everything it asks for stay on one,
//! so that nothing is handed between threads on a request's way.
//!
//! Connections are dealt out in turn. One runtime whose threads take each other's work cost more per
//! request: its wake-ups are system calls.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread::available_parallelism,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The cores' runtimes; their threads end when this is dropped.
pub(super) struct Cores {
    handles: Vec<Handle>,
    next: AtomicUsize,
    _end: DropGuard,
}

impl Cores {
    /// Starts a thread for each core. Where none can be started, the caller's runtime does all.
    pub(super) fn start() -> Self {
        let end = CancellationToken::new();
        let count = available_parallelism().map_or(1, NonZero::get);
        let mut handles: Vec<Handle> = (0..count).filter_map(|core| thread(core, end.clone())).collect();
        if handles.is_empty() {
            tracing::warn!("no threads can be started; one does all");
            handles.push(Handle::current());
        }
        Self { handles, next: AtomicUsize::new(0), _end: end.drop_guard() }
    }

    /// The one whose turn it is.
    pub(super) fn next(&self) -> &Handle {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }
}

fn thread(core: usize, end: CancellationToken) -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let handle = runtime.handle().clone();
    let run = move || {
        runtime.block_on(end.cancelled());
        // File work that still runs was given its time to drain.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name(format!("core-{core}")).spawn(run).ok().map(|_| handle)
}
