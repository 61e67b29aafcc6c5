//! Leaves a target alone that keeps failing: one circuit breaker per target, asked before each attempt.
//!
//! Closed until enough failures fall into one window, then open; after the cooldown half open, where a
//! few attempts at once may try. A trial holds a slot only as long as its permit lives, so no way of
//! ending one (refused, cancelled, caller gone) can use up the trials for ever.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::{catalog::day::rfc3339, config::BreakerSettings};

mod circuit;

use circuit::{Circuit, Pass, Phase};

/// The breakers of all targets; one is made when its target is first asked for.
pub struct Breakers {
    settings: Arc<ArcSwap<BreakerSettings>>,
    targets: RwLock<HashMap<Arc<str>, Arc<Breaker>>>,
}

impl Breakers {
    /// No target has failed yet.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings: Arc::new(ArcSwap::from_pointee(settings)), targets: RwLock::default() }
    }

    /// Puts new settings in force, for breakers that callers already hold too.
    pub fn set(&self, settings: BreakerSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// The breaker of a target (`provider/id`); keep it to save the look-up.
    pub fn target(&self, target: &str) -> Arc<Breaker> {
        if let Some(breaker) = self.targets.read().unwrap_or_else(PoisonError::into_inner).get(target) {
            return Arc::clone(breaker);
        }
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(breaker) = targets.get(target) {
            return Arc::clone(breaker);
        }
        let name: Arc<str> = target.into();
        let breaker = Arc::new(Breaker::new(Arc::clone(&name), Arc::clone(&self.settings)));
        targets.insert(name, Arc::clone(&breaker));
        breaker
    }

    /// Asks to try a target once.
    ///
    /// # Errors
    /// The time after which it is worth asking again.
    pub fn admit(&self, target: &str) -> Result<Permit, Duration> {
        self.target(target).admit()
    }

    /// Forgets the targets that no catalog holds any more, so that their number stays bounded.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.targets.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keep(name));
    }

    /// How each target that was tried stands, sorted by name.
    pub fn states(&self) -> Vec<BreakerState> {
        let breakers: Vec<_> =
            self.targets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut states: Vec<_> =
            breakers.iter().filter_map(|breaker| breaker.state_at(Instant::now())).collect();
        states.sort_by(|a, b| a.target.cmp(&b.target));
        states
    }
}

/// The breaker of one target.
pub struct Breaker {
    target: Arc<str>,
    settings: Arc<ArcSwap<BreakerSettings>>,
    circuit: Circuit,
}

impl Breaker {
    fn new(target: Arc<str>, settings: Arc<ArcSwap<BreakerSettings>>) -> Self {
        Self { target, settings, circuit: Circuit::new() }
    }

    /// Asks to try the target once.
    ///
    /// # Errors
    /// The time after which it is worth asking again.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Duration> {
        self.admit_at(Instant::now())
    }

    /// Counts a failure of an attempt that had been answered: a stream that broke off.
    pub fn report_failure(&self) {
        self.failure_at(self.circuit.epoch(), Instant::now());
    }

    fn admit_at(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let Pass { epoch, trial } = self.circuit.admit(now, &self.settings.load())?;
        Ok(Permit { breaker: Arc::clone(self), epoch, trial })
    }

    fn failure_at(&self, epoch: u64, now: Instant) {
        self.circuit.failure(epoch, now, &self.settings.load());
    }

    fn state_at(&self, now: Instant) -> Option<BreakerState> {
        let settings = self.settings.load();
        let shown = self.circuit.show(now, &settings)?;
        let state = match shown.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen => State::HalfOpen,
        };
        Some(BreakerState {
            model: self.target.to_string(),
            target: self.target.to_string(),
            open: state == State::Open,
            failures: shown.failures,
            details: Details {
                state,
                failures: shown.failures,
                threshold: settings.failures,
                window_seconds: settings.window.as_secs(),
                cooldown_seconds: settings.cooldown.as_secs(),
                half_open_max: settings.trials,
                half_open_attempts: shown.trials,
                last_state_change: rfc3339(shown.changed),
                rate_limit_ms: 0,
                last_request: rfc3339(shown.last_request),
            },
        })
    }
}

/// Leave to try a target once. Dropped without a word it gives a trial's slot back and counts nothing.
#[must_use = "a permit tells the breaker how the attempt ended"]
pub struct Permit {
    breaker: Arc<Breaker>,
    epoch: u64,
    trial: bool,
}

impl Permit {
    /// The breaker that gave it.
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// The target answered; a half-open breaker closes.
    pub fn success(self) {
        if self.trial {
            self.breaker.circuit.success(self.epoch);
        }
    }

    /// The target failed in a way that counts.
    pub fn failure(self) {
        self.breaker.failure_at(self.epoch, Instant::now());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.circuit.release(self.epoch);
        }
    }
}

/// How a breaker stands, as `GET /api/health` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct BreakerState {
    /// The name that callers use for the model; the target until someone who knows the name sets it.
    pub model: String,
    /// `provider/id`.
    pub target: String,
    /// Whether attempts are refused.
    pub open: bool,
    /// Counted failures within the window.
    pub failures: usize,
    /// The rest.
    pub details: Details,
}

/// The phase of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attempts pass.
    Closed,
    /// Attempts are refused.
    Open,
    /// A few attempts at once may try.
    HalfOpen,
}

/// The details of a breaker, under the names that clients of earlier versions know.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// Its phase.
    pub state: State,
    /// Counted failures within the window.
    pub failures: usize,
    /// Failures that open it.
    pub threshold: u32,
    /// Window of the failures.
    pub window_seconds: u64,
    /// How long it stays open.
    pub cooldown_seconds: u64,
    /// Trials at once while half open.
    pub half_open_max: u32,
    /// Trials that run now.
    pub half_open_attempts: u32,
    /// RFC 3339.
    pub last_state_change: String,
    /// Always 0: there is no minimum gap between requests.
    pub rate_limit_ms: u64,
    /// RFC 3339.
    pub last_request: String,
}

#[cfg(test)]
mod tests {
    use super::{circuit::TRIALS_TAKEN, *};

    fn breaker() -> (Arc<Breaker>, Instant) {
        let settings = BreakerSettings {
            failures: 5,
            window: Duration::from_secs(60),
            cooldown: Duration::from_secs(10),
            trials: 3,
        };
        let breakers = Breakers::new(settings);
        (breakers.target("p/m"), Instant::now())
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn fail(breaker: &Arc<Breaker>, at: Instant) {
        let permit = breaker.admit_at(at).expect("admitted");
        breaker.failure_at(permit.epoch, at);
    }

    fn state(breaker: &Breaker, at: Instant) -> (State, usize, u32) {
        let state = breaker.state_at(at).expect("asked before");
        (state.details.state, state.failures, state.details.half_open_attempts)
    }

    #[test]
    fn failures_within_the_window_open_it_and_older_ones_age_out() {
        let (breaker, start) = breaker();
        assert!(breaker.state_at(start).is_none(), "shown from the first request on");
        for second in [0, 1, 2, 3] {
            fail(&breaker, start + secs(second));
        }
        assert_eq!(state(&breaker, start + secs(3)), (State::Closed, 4, 0));
        // A success while closed clears nothing.
        breaker.admit_at(start + secs(4)).expect("admitted").success();
        fail(&breaker, start + secs(61));
        assert_eq!(state(&breaker, start + secs(61)), (State::Closed, 4, 0), "the first one aged out");
        fail(&breaker, start + secs(62));
        assert_eq!(state(&breaker, start + secs(62)).0, State::Closed);
        fail(&breaker, start + secs(62));
        assert_eq!(state(&breaker, start + secs(62)).0, State::Open);
        assert_eq!(breaker.admit_at(start + secs(65)).err(), Some(secs(7)));
    }

    #[test]
    fn trials_give_their_slot_back_however_they_end() {
        let (breaker, start) = breaker();
        (0..5).for_each(|_| fail(&breaker, start));
        let later = start + secs(10);
        for _ in 0..100 {
            let trials: Vec<_> = (0..3).map(|_| breaker.admit_at(later).expect("a slot")).collect();
            assert_eq!(breaker.admit_at(later).err(), Some(TRIALS_TAKEN));
            drop(trials);
        }
        assert_eq!(state(&breaker, later), (State::HalfOpen, 5, 0));
    }

    #[test]
    fn a_trial_decides_and_late_reports_do_not() {
        let (breaker, start) = breaker();
        let late = breaker.admit_at(start).expect("closed");
        (0..5).for_each(|_| fail(&breaker, start));
        let first = breaker.admit_at(start + secs(10)).expect("a trial");
        let second = breaker.admit_at(start + secs(10)).expect("a trial");
        breaker.failure_at(late.epoch, start + secs(10));
        assert_eq!(state(&breaker, start + secs(10)).0, State::HalfOpen, "from before it opened");
        breaker.failure_at(first.epoch, start + secs(11));
        assert_eq!(state(&breaker, start + secs(11)).0, State::Open);
        second.success();
        assert_eq!(breaker.admit_at(start + secs(12)).err(), Some(secs(9)), "reopened for a whole cooldown");
        breaker.admit_at(start + secs(21)).expect("a trial").success();
        drop(first);
        assert_eq!(state(&breaker, start + secs(21)), (State::Closed, 0, 0));
    }

    #[test]
    fn new_settings_reach_breakers_in_use() {
        let breakers =
            Breakers::new(BreakerSettings { failures: 5, window: secs(60), cooldown: secs(10), trials: 3 });
        let breaker = breakers.target("p/m");
        breakers.set(BreakerSettings { failures: 1, window: secs(60), cooldown: secs(30), trials: 1 });
        breakers.admit("p/m").expect("closed").failure();
        assert!(breaker.admit().err().is_some_and(|left| left > secs(29)));
        let shown = serde_json::to_value(breakers.states()).expect("states are JSON");
        assert_eq!(
            (&shown[0]["open"], &shown[0]["details"]["state"], &shown[0]["details"]["threshold"]),
            (&true.into(), &"open".into(), &1.into())
        );
        breakers.retain(|target| target != "p/m");
        assert!(breakers.states().is_empty());
    }
}
