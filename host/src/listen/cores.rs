//! A thread a core, each with a runtime of its own: a connection and everything it asks for stay on one,
//! so that nothing is handed between threads on a request's way.
//!
//! The first accepts and keeps a connection unless another core has fewer: a handover is a wake-up of a
//! sleeping thread, which a quiet server would pay with every connection. One runtime whose threads take
//! each other's work cost more per request: its wake-ups are system calls.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A timer that is due before all others has its thread wake itself, which is a system call, and a request on
/// a quiet server brings two such. This one is due before most.
const TICK: Duration = Duration::from_secs(1);

/// The cores' runtimes; their threads end when this is dropped.
pub(super) struct Cores {
    cores: Vec<Core>,
    _end: DropGuard,
}

/// One runtime and how many connections it has.
struct Core {
    handle: Handle,
    open: Arc<AtomicUsize>,
}

/// A connection's place on a core; dropping it gives the place back.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
        let cores = handles.into_iter().map(|handle| Core { handle, open: Arc::default() }).collect();
        Self { cores, _end: end.drop_guard() }
    }

    /// The one that accepts.
    pub(super) fn first(&self) -> &Handle {
        &self.cores[0].handle
    }

    /// Where a new connection goes: to the core with the fewest, and to the one that accepts if that has no
    /// more than others. `None` for the handle: stay where you are.
    pub(super) fn seat(&self) -> (Option<&Handle>, Seat) {
        let loads = self.cores.iter().map(|core| core.open.load(Ordering::Relaxed));
        let least = loads.enumerate().min_by_key(|(_, open)| *open).map_or(0, |(index, _)| index);
        let core = &self.cores[least];
        core.open.fetch_add(1, Ordering::Relaxed);
        ((least > 0).then_some(&core.handle), Seat(Arc::clone(&core.open)))
    }
}

fn thread(core: usize, end: CancellationToken) -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let handle = runtime.handle().clone();
    let run = move || {
        runtime.block_on(async {
            let mut tick = tokio::time::interval(TICK);
            while end.run_until_cancelled(tick.tick()).await.is_some() {}
        });
        // File work that still runs was given its time to drain.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name(format!("core-{core}")).spawn(run).ok().map(|_| handle)
}
