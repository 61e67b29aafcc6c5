//! A number of places that is never exceeded, and none of which gets lost. Modelled in `tests/loom`.

use crate::sync::{AtomicUsize, Ordering};

/// Places, taken and given back by anybody at any time.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Places {
    /// `max` of them, all free.
    pub fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) }
    }

    /// Takes one; whether there was one.
    pub fn take(&self) -> bool {
        // Taken first and given back if it was one too many: one atomic on the usual way.
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let free = before < self.max.load(Ordering::Relaxed);
        if !free {
            self.give_back();
        }
        free
    }

    /// Gives one back.
    pub fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many there are from now on.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }
}
