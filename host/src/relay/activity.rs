//! How long an upstream has been silent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// When anything came last: bytes, or a timer that was due.
#[derive(Clone)]
pub struct Activity(Arc<(Instant, AtomicU64)>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }
}

impl Activity {
    /// Notes that something came, or that only now it is waited for.
    pub fn note(&self) {
        let (start, last) = &*self.0;
        last.store(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long nothing came.
    pub fn silence(&self) -> Duration {
        let (start, last) = &*self.0;
        start.elapsed().saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed)))
    }
}
