//! The end of the service, as every part sees it: told to stop, out of time, and what still runs.
//!
//! It goes one way: running, draining (new requests get a 503, open ones finish), cut (open ones end now, in
//! words). The connections end when nothing runs any more.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::error::Error;

mod count;

use count::Count;

/// When callers who are turned away may come back: a restart takes about a second.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How far the end has come.
#[derive(Debug, Default)]
pub struct Drain {
    told: CancellationToken,
    cut: CancellationToken,
    /// Requests whose answers were not given away whole.
    count: Count,
}

impl Drain {
    /// No new requests from now on.
    pub fn begin(&self) {
        self.count.begin_the_end();
        self.told.cancel();
    }

    /// Whether no new requests are taken.
    pub fn begun(&self) -> bool {
        self.count.end_has_begun()
    }

    /// Waits for the beginning of the end.
    pub async fn told(&self) {
        self.told.cancelled().await;
    }

    /// The time is up: what runs ends now, with words to its caller.
    pub fn cut(&self) {
        self.begin();
        self.cut.cancel();
    }

    /// Waits until the time is up.
    pub async fn time_is_up(&self) {
        self.cut.cancelled().await;
    }

    /// Does `work` unless the time is up before it is done.
    ///
    /// # Errors
    /// Those of `work`, and 503.
    pub async fn unless_cut<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.time_is_up() => Err(Self::broken_off()),
        }
    }

    /// Counts a request until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> Running {
        self.count.enter();
        Running(Arc::clone(self))
    }

    /// How many requests run.
    pub fn running(&self) -> usize {
        self.count.running()
    }

    /// Waits until no request runs. New ones are short by then: they are told that the end has begun.
    pub async fn idle(&self) {
        self.count.idle().await;
    }

    /// What a new request is told while the server drains.
    pub fn refusal() -> Error {
        Error::unavailable("the server is stopping; send the request again", RETRY_AFTER).code("stopping")
    }

    /// What an open request is told when the time is up.
    pub fn broken_off() -> Error {
        Error::unavailable(
            "the server stopped before the answer was complete; send the request again",
            RETRY_AFTER,
        )
        .code("stopping")
    }
}

/// Marks a request as running.
#[derive(Debug)]
pub struct Running(Arc<Drain>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.count.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_what_runs() {
        let drain = Arc::new(Drain::default());
        drain.idle().await;
        let (one, two) = (drain.enter(), drain.enter());
        assert!(!drain.begun());
        drain.begin();
        drain.told().await;
        assert!(drain.begun());
        let idle = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.idle().await }
        });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        drop(two);
        idle.await.unwrap();
        drain.cut();
        drain.time_is_up().await;
    }
}
