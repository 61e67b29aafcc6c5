//! What threads share, under one name: the models in `tests/loom` run the same code on loom's.

pub use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

pub use tokio::sync::Notify;
