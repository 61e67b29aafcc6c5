//! What threads share, under one name, so that the models in `tests/loom` run the same code on loom's.

pub use std::sync::{Condvar, Mutex, MutexGuard};
