//! How channels stand, as `GET /api/channels` shows it.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{Channel, Channels, state::Why};
use crate::catalog::day::rfc3339;

/// The states that a channel may be in.
pub const STATES: [&str; 6] = ["ok", "disabled", "paused", "auth", "quota", "no_key"];

/// A row of `GET /api/channels`.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The provider's name.
    pub provider: String,
    /// The channel's own name.
    pub name: String,
    /// `<provider>-<name>`.
    pub full_name: String,
    /// The variable of its key, never what it holds.
    pub key_variable: String,
    /// Like `enabled`, under the name that clients of earlier versions know.
    pub active: bool,
    /// Whether people let it be used.
    pub enabled: bool,
    /// Whether it can be used now.
    pub healthy: bool,
    /// One of [`STATES`].
    pub state: &'static str,
    /// What went wrong last, if nothing has gone well since.
    pub last_error: Option<String>,
    /// Since the last success.
    pub consecutive_errors: u32,
    /// Least time between two requests; 0: no pacing.
    pub min_interval_ms: u64,
    /// Longest wait for a turn.
    pub max_wait_ms: u64,
    /// Until when it is left alone, RFC 3339; for a refused key, when it may be tried again.
    pub paused_until: Option<String>,
}

impl Channels {
    /// How each channel stands, as `GET /api/channels` shows it.
    pub fn rows(&self, now: Instant) -> impl Iterator<Item = Row> + '_ {
        self.list.iter().map(move |channel| self.row(channel, now))
    }

    /// How one channel stands.
    pub fn row(&self, channel: &Channel, now: Instant) -> Row {
        let enabled = channel.enabled();
        let out = self.account.out(now).or_else(|| channel.out(now));
        let state = match out {
            _ if !enabled => "disabled",
            _ if channel.needs_key && channel.key.is_none() => "no_key",
            Some(out) => match out.why {
                Why::RateLimit => "paused",
                Why::Quota => "quota",
                Why::Auth => "auth",
            },
            None => "ok",
        };
        let time = |at: Instant| rfc3339(SystemTime::now() + at.saturating_duration_since(now));
        Row {
            provider: channel.provider.to_string(),
            name: channel.name.to_string(),
            full_name: channel.full_name.to_string(),
            key_variable: channel.variable.to_string(),
            active: enabled,
            enabled,
            healthy: state == "ok",
            state,
            last_error: channel.inner().last_error.clone(),
            consecutive_errors: channel.state.errors.load(Ordering::Relaxed),
            min_interval_ms: milliseconds(channel.min_interval),
            max_wait_ms: milliseconds(channel.max_wait),
            paused_until: out.filter(|_| enabled).map(|out| time(out.until)),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
