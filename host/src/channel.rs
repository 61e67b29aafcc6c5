//! Channels: the keys of a provider, which of them the next attempt uses, and which are left alone.
//!
//! The first that can be used is used, so that an upstream's caches stay warm. A channel with nothing
//! wrong costs an attempt two atomic loads; its mutex is taken only where something is wrong or paced.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use provider_api::{Fault, FaultKind, FaultScope};

use crate::config::ChannelsSettings;

mod row;
mod state;
pub mod switches;
#[cfg(test)]
mod tests;

pub use row::{Row, STATES};
pub use state::{Channel, Source};
use state::{Out, SWITCHED_OFF, SWITCHED_ON, Why};
use switches::Switches;

/// How long an account without money is left alone, unless its provider says for how long.
const QUOTA_REST: Duration = Duration::from_secs(300);

/// A refused key is tried again after this if no other channel can be used: the refusal may have been
/// the provider's mistake, and nobody else would find out.
const AUTH_REST: Duration = Duration::from_secs(300);

/// Pause behind a rate limit without a time, where another channel can take over.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// No provider's word takes a channel out for longer.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// What an attempt needs.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Only this channel: a request that may be at fault itself stays with the key it met first.
    pub only: Option<&'a Arc<Channel>>,
    /// Any but this one.
    pub not: Option<&'a Arc<Channel>>,
    /// The time that the request has left.
    pub left: Duration,
}

/// The channel for an attempt.
pub struct Chosen<P> {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Leave to try its target.
    pub pass: P,
    /// How long to wait before.
    pub wait: Duration,
}

/// Why no channel can be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// The provider limits the rate, and said for how long.
    Paused(Duration),
    /// All turns within reach are taken.
    Paced(Duration),
    /// The target keeps failing.
    Open(Duration),
    /// The account is out of money.
    Quota(Duration),
    /// A key was refused.
    Auth {
        /// Where the key comes from.
        variable: Arc<str>,
        /// The name of its channel, which is out.
        channel: Arc<str>,
    },
    /// Switched off, by this channel's name.
    Disabled(Arc<str>),
}

impl Blocked {
    /// The one that says most about when to come back.
    fn or(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        let rank = |blocked: &Self| match blocked {
            Self::Paused(after) | Self::Paced(after) | Self::Open(after) => (0, *after),
            Self::Quota(after) => (1, *after),
            Self::Auth { .. } => (2, Duration::ZERO),
            Self::Disabled(_) => (3, Duration::ZERO),
        };
        if rank(&other) <= rank(&self) { other } else { self }
    }
}

/// The channels of a provider, in the order in which they are used; never none.
pub struct Channels {
    list: Vec<Arc<Channel>>,
    account: Arc<Account>,
}

/// What all channels of a provider share.
#[derive(Default)]
struct Account {
    troubled: AtomicBool,
    out: Mutex<Option<Out>>,
}

impl Account {
    fn out(&self, now: Instant) -> Option<Out> {
        if !self.troubled.load(Ordering::Acquire) {
            return None;
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.is_none_or(|out| out.until <= now) {
            *out = None;
            self.troubled.store(false, Ordering::Release);
        }
        *out
    }

    fn set(&self, value: Option<Out>) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        *out = value;
        self.troubled.store(value.is_some(), Ordering::Release);
    }
}

impl Channels {
    /// The channels of these keys; one without a key if there are none. What `before` learnt about a key
    /// that is still there is kept.
    pub fn new(
        provider: &Arc<str>,
        needs_key: bool,
        mut sources: Vec<Source>,
        settings: &ChannelsSettings,
        before: Option<&Self>,
    ) -> Self {
        if sources.is_empty() {
            sources.push(Source { name: "default".into(), variable: String::new(), key: None });
        }
        let known = |channel: &Channel| {
            let same = |old: &&Arc<Channel>| old.name == channel.name && old.key() == channel.key();
            before?.list.iter().find(same).map(|old| Arc::clone(&old.state))
        };
        let made = sources.into_iter().map(|source| {
            let own = settings.named.get(&source.name);
            let mut channel = Channel::new(provider, source, needs_key, own, settings.pacing);
            if let Some(state) = known(&channel) {
                channel.state = state;
            }
            Arc::new(channel)
        });
        let list: Vec<_> = made.collect();
        let keys = |list: &[Arc<Channel>]| -> Vec<String> {
            list.iter().filter_map(|channel| channel.key().map(str::to_owned)).collect()
        };
        let same = before.filter(|before| keys(&before.list) == keys(&list));
        let account = same.map(|before| Arc::clone(&before.account)).unwrap_or_default();
        Self { list, account }
    }

    /// Puts in force what was switched by hand.
    pub fn switch(&self, switches: &Switches) {
        for channel in &self.list {
            let switch = match switches.of(&channel.provider, &channel.name) {
                None => 0,
                Some(false) => SWITCHED_OFF,
                Some(true) => SWITCHED_ON,
            };
            channel.state.switch.store(switch, Ordering::Relaxed);
        }
    }

    /// Leaves what was switched by hand as it was, also where a key has changed.
    pub fn switch_as(&self, before: &Self) {
        for channel in &self.list {
            if let Some(old) = before.list.iter().find(|old| old.name == channel.name) {
                channel.state.switch.store(old.state.switch.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// Whether these are the same keys from the same places.
    pub fn are_those_of(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Channel>, &Arc<Channel>)| {
            (&a.name, &a.variable, a.key()) == (&b.name, &b.variable, b.key())
        };
        self.list.len() == other.list.len() && self.list.iter().zip(&other.list).all(same)
    }

    /// The first key that there is.
    pub fn first_key(&self) -> Option<&str> {
        self.list.iter().find_map(|channel| channel.key())
    }

    /// All of them, in their order.
    pub fn list(&self) -> &[Arc<Channel>] {
        &self.list
    }

    /// One by its name, short or full.
    pub fn find(&self, name: &str) -> Option<&Arc<Channel>> {
        let by = |full: bool| {
            self.list
                .iter()
                .find(|channel| &**(if full { &channel.full_name } else { &channel.name }) == name)
        };
        by(false).or_else(|| by(true))
    }

    /// The one for work that nobody waits for: the first that can be used, else the first.
    pub fn first(&self, now: Instant) -> &Arc<Channel> {
        let fine = |channel: &&Arc<Channel>| channel.enabled() && channel.out(now).is_none();
        self.list.iter().find(fine).unwrap_or(&self.list[0])
    }

    /// The channel for the next attempt: the first that is enabled, healthy, let through by `admit` (its
    /// target's breaker) and within its pace.
    ///
    /// # Errors
    /// Why there is none, and when to ask again.
    pub fn choose<P>(
        &self,
        now: Instant,
        ask: Ask<'_>,
        mut admit: impl FnMut(&Channel) -> Result<P, Duration>,
    ) -> Result<Chosen<P>, Blocked> {
        if let Some(out) = self.account.out(now) {
            return Err(out.blocked(now, &self.list[0]));
        }
        let mut blocked = None;
        let mut refused = None;
        for channel in &self.list {
            if ask.only.is_some_and(|only| only.name != channel.name)
                || ask.not.is_some_and(|not| not.name == channel.name)
            {
                continue;
            }
            if !channel.enabled() {
                blocked = Some(Blocked::Disabled(Arc::clone(&channel.name)).or(blocked));
                continue;
            }
            if let Some(out) = channel.out(now) {
                if out.why == Why::Auth && out.until <= now {
                    refused = refused.or(Some(channel));
                }
                blocked = Some(out.blocked(now, channel).or(blocked));
                continue;
            }
            match channel.try_now(now, ask.left, &mut admit) {
                Ok(chosen) => return Ok(chosen),
                Err(why) => blocked = Some(why.or(blocked)),
            }
        }
        if let Some(channel) = refused.filter(|channel| channel.take_trial(now)) {
            return channel.try_now(now, ask.left, &mut admit);
        }
        Err(blocked.unwrap_or(Blocked::Paused(SHORT_PAUSE)))
    }

    /// Notes a success: what was said against the channel no longer holds.
    pub fn succeeded(&self, channel: &Channel) {
        let state = &channel.state;
        if state.errors.load(Ordering::Relaxed) == 0 {
            return;
        }
        state.errors.store(0, Ordering::Relaxed);
        let mut inner = channel.inner();
        inner.last_error = None;
        // A trial of a refused key. A pause or an empty account is not lifted by a request that began
        // before it.
        if inner.out.is_some_and(|out| out.why == Why::Auth) {
            inner.out = None;
            state.troubled.store(false, Ordering::Release);
            tracing::info!(channel = %channel.full_name, "a refused key is accepted again");
        }
    }

    /// Notes a fault and takes out what it concerns. `text` is what may be shown of it.
    pub fn failed(&self, channel: &Channel, fault: &Fault, text: String, now: Instant) {
        let (why, rest) = match fault.kind {
            FaultKind::AUTH => (Some(Why::Auth), AUTH_REST),
            FaultKind::QUOTA => (Some(Why::Quota), QUOTA_REST),
            FaultKind::RATE_LIMIT => (Some(Why::RateLimit), SHORT_PAUSE),
            FaultKind::OVERLOADED | FaultKind::UPSTREAM | FaultKind::DECODE | FaultKind::TIMEOUT => {
                (None, Duration::ZERO)
            }
            // The caller's own mistakes and the plugin's say nothing about the key.
            _ => return,
        };
        if fault.kind == FaultKind::AUTH && channel.key.is_none() {
            return;
        }
        channel.state.errors.fetch_add(1, Ordering::Relaxed);
        channel.inner().last_error = Some(text);
        let Some(why) = why else { return };
        let asked = Duration::from_millis(fault.retry_after_ms).min(LONGEST_REST);
        if why == Why::RateLimit && asked.is_zero() && self.list.len() == 1 {
            return;
        }
        let rest = if asked.is_zero() || why == Why::Auth { rest } else { asked };
        let out = Out { why, until: now + rest };
        match fault.scope {
            FaultScope::REQUEST | FaultScope::MODEL => {}
            FaultScope::ACCOUNT => self.account_out(channel, out, now),
            _ => channel_out(channel, out, now),
        }
    }

    /// The account is taken out: its other keys would meet the same.
    fn account_out(&self, channel: &Channel, out: Out, now: Instant) {
        let known = self.account.out(now).is_some_and(|old| old.why == out.why);
        self.account.set(Some(out));
        if !known {
            let (provider, variable, secs) = (&channel.provider, &channel.variable, seconds(out.until - now));
            match out.why {
                Why::Quota => tracing::warn!(
                    %provider, %variable, secs,
                    "the budget of the account is used up; all its channels are left alone for a while"
                ),
                Why::Auth => tracing::warn!(
                    %provider, %variable, secs,
                    "the provider refuses the account; all its channels are left alone for a while"
                ),
                Why::RateLimit => tracing::info!(%provider, secs, "the provider limits the account's rate"),
            }
        }
    }

    /// Puts a channel back in force, whatever was said against it or its account.
    pub fn revive(&self, channel: &Channel) {
        channel.take_out(None);
        channel.state.errors.store(0, Ordering::Relaxed);
        channel.inner().last_error = None;
        self.account.set(None);
    }
}

/// One channel is taken out.
fn channel_out(channel: &Channel, out: Out, now: Instant) {
    let before = channel.out(now);
    // A refused key is worse than a pause, which would bring it back.
    if before.is_some_and(|old| old.why == Why::Auth) && out.why != Why::Auth {
        return;
    }
    channel.take_out(Some(out));
    if before.is_some_and(|old| old.why == out.why) {
        return;
    }
    let (channel, variable, secs) = (&channel.full_name, &channel.variable, seconds(out.until - now));
    match out.why {
        Why::Auth => tracing::warn!(
            %channel, %variable,
            "the provider refuses the key; its channel is out until the key is changed and reloaded (SIGHUP), or the channel enabled (POST /api/channels/PROVIDER/NAME/enable)"
        ),
        Why::Quota => {
            tracing::warn!(%channel, %variable, secs, "the budget of the key is used up; its channel is left alone");
        }
        Why::RateLimit => tracing::debug!(%channel, secs, "the provider limits the rate; its channel pauses"),
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
