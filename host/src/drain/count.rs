//! What still runs, and the word when the last one ends. Modelled in `tests/loom`.

use crate::sync::{AtomicBool, AtomicUsize, Notify, Ordering};

/// Counts what runs. Only who waits for the end is told, so that nobody pays for it before.
#[derive(Debug, Default)]
pub struct Count {
    ending: AtomicBool,
    running: AtomicUsize,
    ended: Notify,
}

impl Count {
    /// From now on the last one to leave says so. Comes before [`Count::idle`].
    pub fn begin_the_end(&self) {
        self.ending.swap(true, Ordering::AcqRel);
    }

    /// Whether the end has begun.
    pub fn end_has_begun(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// One more runs.
    pub fn enter(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// One ended.
    pub fn leave(&self) {
        // Read by changing nothing: either this sees that the end has begun, or who begins it later sees
        // that nothing runs. Two plain accesses could miss each other.
        let last = self.running.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.ending.fetch_or(false, Ordering::AcqRel) {
            self.ended.notify_waiters();
        }
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Waits until none runs.
    pub async fn idle(&self) {
        loop {
            // Made before the look: a word that comes between the two is not missed.
            let ended = self.ended.notified();
            if self.running() == 0 {
                return;
            }
            ended.await;
        }
    }
}
