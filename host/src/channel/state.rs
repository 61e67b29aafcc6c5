//! One channel: its key, and what is known against it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};

use super::{AUTH_REST, Blocked, Chosen};
use crate::config::{ChannelSettings, PacingSettings};

/// Longest wait for a turn, unless the settings say otherwise.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(1);

/// What makes a channel.
pub struct Source {
    /// Its name.
    pub name: String,
    /// The variable of its key.
    pub variable: String,
    /// Its key.
    pub key: Option<SecretString>,
}

/// One key of a provider.
pub struct Channel {
    /// The provider's name.
    pub provider: Arc<str>,
    /// Its own name: `default`, a number, or one from the settings.
    pub name: Arc<str>,
    /// `<provider>-<name>`.
    pub full_name: Arc<str>,
    /// The variable that its key comes from.
    pub variable: Arc<str>,
    pub(super) key: Option<SecretString>,
    /// Whether there must be a key.
    pub(super) needs_key: bool,
    pub(super) min_interval: Duration,
    pub(super) max_wait: Duration,
    /// Whether the settings let it be used.
    configured: bool,
    pub(super) state: Arc<State>,
}

/// What is learnt about a channel; kept over a reload as long as its key stays.
#[derive(Default)]
pub(super) struct State {
    pub(super) switch: AtomicU8,
    /// Whether `inner` says anything that keeps it from being used.
    pub(super) troubled: AtomicBool,
    pub(super) errors: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) out: Option<Out>,
    /// When the next request may start.
    turn: Option<Instant>,
    pub(super) last_error: Option<String>,
}

/// Left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Out {
    pub(super) why: Why,
    pub(super) until: Instant,
}

/// Why a channel or an account is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    RateLimit,
    Quota,
    Auth,
}

/// Switched by hand, in the order of the numbers that stand for it: not, off, on.
pub(super) const SWITCHED_OFF: u8 = 1;
pub(super) const SWITCHED_ON: u8 = 2;

impl Channel {
    pub(super) fn new(
        provider: &Arc<str>,
        source: Source,
        needs_key: bool,
        own: Option<&ChannelSettings>,
        pacing: PacingSettings,
    ) -> Self {
        let Source { name, variable, key } = source;
        let of = |pick: fn(&PacingSettings) -> Option<Duration>| {
            own.and_then(|own| pick(&own.pacing)).or(pick(&pacing))
        };
        Self {
            provider: Arc::clone(provider),
            full_name: format!("{provider}-{name}").into(),
            name: name.into(),
            variable: variable.into(),
            key,
            needs_key,
            min_interval: of(|pacing| pacing.min_interval).unwrap_or_default(),
            max_wait: of(|pacing| pacing.max_wait).unwrap_or(DEFAULT_MAX_WAIT),
            configured: own.and_then(|own| own.enabled).unwrap_or(true),
            state: Arc::default(),
        }
    }

    pub(super) fn try_now<P>(
        self: &Arc<Self>,
        now: Instant,
        left: Duration,
        admit: &mut impl FnMut(&Channel) -> Result<P, Duration>,
    ) -> Result<Chosen<P>, Blocked> {
        let pass = admit(self).map_err(Blocked::Open)?;
        let wait = self.reserve(now, left).map_err(Blocked::Paced)?;
        Ok(Chosen { channel: Arc::clone(self), pass, wait })
    }

    /// Its key.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().map(ExposeSecret::expose_secret)
    }

    /// Whether it may be used as far as people have a say: by hand, else by the settings.
    pub fn enabled(&self) -> bool {
        match self.state.switch.load(Ordering::Relaxed) {
            SWITCHED_OFF => false,
            SWITCHED_ON => true,
            _ => self.configured,
        }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it cannot be used now.
    pub(super) fn out(&self, now: Instant) -> Option<Out> {
        if !self.state.troubled.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner();
        // A refused key stays out until somebody or a trial puts it back.
        let over = inner.out.is_none_or(|out| out.why != Why::Auth && out.until <= now);
        if over {
            inner.out = None;
            self.state.troubled.store(false, Ordering::Release);
        }
        inner.out
    }

    pub(super) fn take_out(&self, out: Option<Out>) {
        let mut inner = self.inner();
        inner.out = out;
        self.state.troubled.store(out.is_some(), Ordering::Release);
    }

    /// Takes a refused key's next trial, if it is due; others then wait for the one after it.
    pub(super) fn take_trial(&self, now: Instant) -> bool {
        let mut inner = self.inner();
        match &mut inner.out {
            Some(out) if out.why == Why::Auth && out.until <= now => {
                out.until = now + AUTH_REST;
                true
            }
            _ => false,
        }
    }

    /// Reserves the next turn: how long to wait for it, or how long it would be if that is too long.
    fn reserve(&self, now: Instant, left: Duration) -> Result<Duration, Duration> {
        if self.min_interval.is_zero() {
            return Ok(Duration::ZERO);
        }
        let mut inner = self.inner();
        let turn = inner.turn.filter(|turn| *turn > now).unwrap_or(now);
        let wait = turn - now;
        if wait > self.max_wait.min(left) {
            return Err(wait);
        }
        inner.turn = Some(turn + self.min_interval);
        Ok(wait)
    }
}

impl Out {
    pub(super) fn blocked(self, now: Instant, channel: &Channel) -> Blocked {
        let after = self.until.saturating_duration_since(now);
        match self.why {
            Why::RateLimit => Blocked::Paused(after),
            Why::Quota => Blocked::Quota(after),
            Why::Auth => {
                Blocked::Auth { variable: Arc::clone(&channel.variable), channel: Arc::clone(&channel.name) }
            }
        }
    }
}
