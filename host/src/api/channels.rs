//! `GET /api/channels` and its orders: the keys of the providers, how they stand, and switching them.

use std::{sync::Arc, time::Instant};

use http::StatusCode;
use serde_json::json;

use crate::{
    channel::{Channel, Row, switches::Switches},
    error::Error,
    gateway::Gateway,
    plugins::{Provider, Snapshot},
};

/// What stands before a channel's name.
pub const PREFIX: &str = "/api/channels/";

/// A path below `/api/channels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path<'a> {
    /// `{provider}/{name}`.
    One(&'a str, &'a str),
    /// `{provider}/{name}/enable` or `/disable`.
    Switch(&'a str, &'a str, bool),
}

impl<'a> Path<'a> {
    /// What a whole path means; `None` if it is none of these.
    pub fn of(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix(PREFIX)?.split('/');
        let (provider, name, order) = (parts.next()?, parts.next()?, parts.next());
        if provider.is_empty() || name.is_empty() || parts.next().is_some() {
            return None;
        }
        match order {
            None => Some(Self::One(provider, name)),
            Some("enable") => Some(Self::Switch(provider, name, true)),
            Some("disable") => Some(Self::Switch(provider, name, false)),
            Some(_) => None,
        }
    }
}

/// How each channel stands, in the order of their providers.
pub fn rows(snapshot: &Snapshot) -> impl Iterator<Item = Row> + '_ {
    let now = Instant::now();
    snapshot.providers.values().flat_map(move |provider| provider.channels().rows(now))
}

/// All channels.
pub fn list(snapshot: &Snapshot) -> String {
    json!(rows(snapshot).collect::<Vec<_>>()).to_string()
}

/// One channel.
///
/// # Errors
/// 404 `channel_not_found`.
pub fn one(snapshot: &Snapshot, provider: &str, name: &str) -> Result<String, Error> {
    let (provider, channel) = find(snapshot, provider, name)?;
    Ok(row(provider, channel))
}

/// Switches a channel on or off; it is so on disk when this returns.
///
/// # Errors
/// 404 `channel_not_found`; 500 if it cannot be stored, and then nothing is switched.
pub async fn switch(gateway: &Gateway, provider: &str, name: &str, on: bool) -> Result<String, Error> {
    let snapshot = gateway.plugins.current();
    let (_, channel) = find(&snapshot, provider, name)?;
    let data_dir = gateway.settings.load().data_dir.clone();
    let key = (Arc::clone(&channel.provider), Arc::clone(&channel.name));
    let stored = tokio::task::spawn_blocking(move || Switches::set(&data_dir, &key.0, &key.1, on)).await;
    let stored = stored.map_err(|error| error.to_string());
    let switches = stored.and_then(|stored| stored.map_err(|error| error.to_string())).map_err(|why| {
        tracing::error!(%why, "channels.json could not be written");
        let text = "the switch could not be stored and is as it was; the server's log says why";
        Error::internal(text).code("channel_not_stored")
    })?;
    // Plugins may have been reloaded meanwhile.
    let snapshot = gateway.plugins.current();
    let (provider, channel) = find(&snapshot, provider, name)?;
    provider.channels().switch(&switches);
    if on {
        provider.channels().revive(channel);
    }
    let (name, enabled) = (&channel.full_name, on);
    tracing::info!(channel = %name, enabled, "a channel was switched by hand");
    Ok(row(provider, channel))
}

/// Sentences on what is out of service, for `GET /api/health`.
pub fn reasons(snapshot: &Snapshot) -> Vec<String> {
    rows(snapshot)
        .filter_map(|row| {
            let (name, variable) = (&row.full_name, &row.key_variable);
            match row.state {
                "auth" => {
                    Some(format!("channel `{name}` is out: its provider refuses the key in {variable}"))
                }
                "quota" => Some(format!("channel `{name}` is out: the budget of its account is used up")),
                _ => None,
            }
        })
        .collect()
}

fn row(provider: &Provider, channel: &Channel) -> String {
    json!(provider.channels().row(channel, Instant::now())).to_string()
}

fn find<'a>(
    snapshot: &'a Snapshot,
    provider: &str,
    name: &str,
) -> Result<(&'a Arc<Provider>, &'a Arc<Channel>), Error> {
    let found = snapshot.providers.get(provider);
    found.and_then(|provider| Some((provider, provider.channels().find(name)?))).ok_or_else(|| {
        let shown: String = format!("{provider}/{name}").chars().take(130).collect();
        let text = format!("there is no channel `{shown}`; GET /api/channels lists them");
        Error::new(StatusCode::NOT_FOUND, text).code("channel_not_found")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |path: &str, expected: Option<Path<'_>>| assert_eq!(Path::of(path), expected, "{path}");
        check("/api/channels/p/0", Some(Path::One("p", "0")));
        check("/api/channels/p/0/enable", Some(Path::Switch("p", "0", true)));
        check("/api/channels/p/0/disable", Some(Path::Switch("p", "0", false)));
        for path in [
            "/api/channels/p",
            "/api/channels/",
            "/api/channels//0",
            "/api/channels/p/0/x",
            "/api/channels/p/0/enable/x",
        ] {
            check(path, None);
        }
    }
}
