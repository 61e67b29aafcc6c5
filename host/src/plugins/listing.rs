//! What a provider listed when it was asked for its models, and when it is to be asked again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use provider_api::Model;

/// Between two looks at the list of a provider elsewhere: callers of unknown models wait for one.
const REMOTE_GAP: Duration = Duration::from_secs(300);

/// The same if it did not answer.
const REMOTE_RETRY_GAP: Duration = Duration::from_secs(15);

/// A provider's own list.
#[derive(Default)]
pub struct Listing {
    /// What it listed last.
    pub found: ArcSwap<Vec<Model>>,
    /// When it was asked last, and whether it answered.
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Listing {
    /// With what an earlier one of the same provider found.
    pub fn after(before: Option<&Self>) -> Self {
        let found = before.map(|before| before.found.load_full()).unwrap_or_default();
        Self { found: ArcSwap::new(found), asked: Mutex::default() }
    }

    /// Whether to ask now: one on the own network at any time, others now and then.
    pub fn is_due(&self, remote: bool) -> bool {
        match *self.asked.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, answered)) if remote => {
                at.elapsed() >= if answered { REMOTE_GAP } else { REMOTE_RETRY_GAP }
            }
            _ => true,
        }
    }

    /// Notes whether it answered; whether that is worth saying.
    pub fn note(&self, answered: bool) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.replace((Instant::now(), answered)).is_none_or(|(_, before)| before != answered)
    }
}
