//! One breaker's states and the ways between them. Modelled in `tests/loom`.

use std::{
    collections::VecDeque,
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    config::BreakerSettings,
    sync::{Mutex, MutexGuard},
};

/// What a refused attempt is told to wait while all trials are taken.
pub const TRIALS_TAKEN: Duration = Duration::from_secs(1);

/// The state of a breaker, for any number of threads.
#[derive(Debug)]
pub struct Circuit(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// Counts the changes of phase: what a pass of an earlier one reports no longer matters.
    epoch: u64,
    /// When the counted failures happened, oldest first; never more than open it.
    failures: VecDeque<Instant>,
    trials: u32,
    changed: SystemTime,
    last_request: Option<SystemTime>,
}

/// Whether attempts pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// They do.
    Closed,
    /// They do not until the cooldown is over.
    Open {
        /// The failure that opened it.
        since: Instant,
    },
    /// A few may try.
    HalfOpen,
}

/// Leave for one attempt; a trial's has to be given back with [`Circuit::release`].
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// In which phase it was given.
    pub epoch: u64,
    /// Whether it is one of the few of a half-open one.
    pub trial: bool,
}

/// How it stands.
#[derive(Debug)]
pub struct Shown {
    /// Its phase.
    pub phase: Phase,
    /// Counted failures.
    pub failures: usize,
    /// Trials that run.
    pub trials: u32,
    /// When the phase began.
    pub changed: SystemTime,
    /// When it was asked last.
    pub last_request: SystemTime,
}

impl Circuit {
    /// Closed, and never asked.
    pub fn new() -> Self {
        Self(Mutex::new(Inner {
            phase: Phase::Closed,
            epoch: 0,
            failures: VecDeque::new(),
            trials: 0,
            changed: SystemTime::now(),
            last_request: None,
        }))
    }

    /// The phase's number.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Asks for an attempt.
    ///
    /// # Errors
    /// The time after which it is worth asking again.
    pub fn admit(&self, now: Instant, settings: &BreakerSettings) -> Result<Pass, Duration> {
        let mut inner = self.lock();
        inner.last_request = Some(SystemTime::now());
        if let Phase::Open { since } = inner.phase {
            let left = settings.cooldown.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                return Err(left);
            }
            inner.enter(Phase::HalfOpen);
        }
        let trial = inner.phase == Phase::HalfOpen;
        if trial {
            if inner.trials >= settings.trials.max(1) {
                return Err(TRIALS_TAKEN);
            }
            inner.trials += 1;
        }
        Ok(Pass { epoch: inner.epoch, trial })
    }

    /// Counts a failure.
    pub fn failure(&self, epoch: u64, now: Instant, settings: &BreakerSettings) {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            return;
        }
        let needed = settings.failures.max(1) as usize;
        inner.failures.push_back(now);
        inner.forget_before(now, settings.window);
        while inner.failures.len() > needed {
            inner.failures.pop_front();
        }
        if inner.phase == Phase::HalfOpen || inner.failures.len() >= needed {
            inner.enter(Phase::Open { since: now });
        }
    }

    /// A trial went well.
    pub fn success(&self, epoch: u64) {
        let mut inner = self.lock();
        if inner.epoch == epoch && inner.phase == Phase::HalfOpen {
            inner.failures.clear();
            inner.enter(Phase::Closed);
        }
    }

    /// Gives a trial's slot back.
    pub fn release(&self, epoch: u64) {
        let mut inner = self.lock();
        if inner.epoch == epoch {
            inner.trials = inner.trials.saturating_sub(1);
        }
    }

    /// How it stands; `None` if it was never asked.
    pub fn show(&self, now: Instant, settings: &BreakerSettings) -> Option<Shown> {
        let mut inner = self.lock();
        if inner.phase == Phase::Closed {
            inner.forget_before(now, settings.window);
        }
        Some(Shown {
            phase: inner.phase,
            failures: inner.failures.len(),
            trials: inner.trials,
            changed: inner.changed,
            last_request: inner.last_request?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
        self.trials = 0;
        self.changed = SystemTime::now();
    }

    fn forget_before(&mut self, now: Instant, window: Duration) {
        while self.failures.front().is_some_and(|at| now.saturating_duration_since(*at) > window) {
            self.failures.pop_front();
        }
    }
}
