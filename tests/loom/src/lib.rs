//! Models of what threads share in the host: its own files, on loom's locks and atomics, run through the
//! orders in which threads can go.
//!
//! `cargo test` tries all with up to two switches at a bad moment, `make loom` with more.

#![cfg(test)]

/// What the files know as `crate::sync`.
mod sync {
    pub(crate) use loom::sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    pub(crate) use super::notify::Notify;
}

/// What the files know as `crate::config`.
mod config {
    use std::time::Duration;

    pub(crate) struct BreakerSettings {
        pub(crate) failures: u32,
        pub(crate) window: Duration,
        pub(crate) cooldown: Duration,
        pub(crate) trials: u32,
    }
}

#[path = "../../../host/src/breaker/circuit.rs"]
#[allow(dead_code)]
mod circuit;
#[path = "../../../host/src/drain/count.rs"]
#[allow(dead_code)]
mod count;
#[path = "../../../host/src/session/lanes.rs"]
#[allow(dead_code)]
mod lanes;
#[path = "../../../host/src/limits/places.rs"]
#[allow(dead_code)]
mod places;

mod notify;

mod breaker;
mod drain;
mod limiter;
mod sessions;

/// Runs a model through its orders.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Set by `make loom`.
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(model);
}
