//! `[provider.NAME.channels]`: what is set for the keys of a provider.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{
    problem::nearest,
    provider::variable,
    value::{self, Input, Read, Wrong},
};

/// A longer interval or wait is a mistake.
const MOST_MS: u64 = 3_600_000;

/// What `[provider.NAME.channels]` says: pacing for all channels of the provider, and tables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelsSettings {
    /// For the channels whose own tables say nothing.
    pub pacing: PacingSettings,
    /// By the channel's name: `default` for the key without a number, `0` to `99` for the others, or a
    /// new name with a key of its own.
    pub named: BTreeMap<String, ChannelSettings>,
}

/// How closely requests may follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacingSettings {
    /// Least time between two requests; `None` or zero: no pacing.
    pub min_interval: Option<Duration>,
    /// Longest time that a request waits for its turn.
    pub max_wait: Option<Duration>,
}

/// `[provider.NAME.channels.CHANNEL]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelSettings {
    /// Environment variable with the key.
    pub key_env: Option<String>,
    /// File with the key (a relative path starts at the data directory).
    pub key_file: Option<PathBuf>,
    /// Pacing.
    pub pacing: PacingSettings,
    /// Whether it is used, unless it was switched by hand.
    pub enabled: Option<bool>,
}

/// Reads the table of a provider's channels.
pub(super) fn read(provider: &str, value: &Spanned<DeValue<'_>>) -> Read<ChannelsSettings> {
    let Some(table) = value.get_ref().as_table() else {
        return Input::Toml(value)
            .wrong("channels are a table; write [provider.NAME.channels.CHANNEL] and its settings below");
    };
    let mut settings = ChannelsSettings::default();
    let mut bad = Vec::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if let Some(pacing) = settings.pacing.field(name) {
            match milliseconds(value) {
                Ok(time) => *pacing = Some(time),
                Err(wrong) => bad.extend(wrong),
            }
        } else if value.get_ref().is_table() {
            match channel_name(provider, name) {
                Ok(name) => match one(value) {
                    Ok(channel) => drop(settings.named.insert(name, channel)),
                    Err(wrong) => bad.extend(wrong),
                },
                Err(text) => bad.push(Wrong { text, span: Some(key.span()) }),
            }
        } else {
            let meant = nearest(name, ["min_interval_ms", "max_wait_ms"]);
            bad.push(Wrong { text: unknown(name, meant), span: Some(key.span()) });
        }
    }
    if bad.is_empty() { Ok(settings) } else { Err(bad) }
}

impl PacingSettings {
    fn field(&mut self, name: &str) -> Option<&mut Option<Duration>> {
        match name {
            "min_interval_ms" => Some(&mut self.min_interval),
            "max_wait_ms" => Some(&mut self.max_wait),
            _ => None,
        }
    }
}

fn one(value: &Spanned<DeValue<'_>>) -> Read<ChannelSettings> {
    const NAMES: [&str; 5] = ["key_env", "key_file", "min_interval_ms", "max_wait_ms", "enabled"];
    let mut channel = ChannelSettings::default();
    let mut bad = Vec::new();
    for (key, value) in value.get_ref().as_table().into_iter().flatten() {
        let name = key.get_ref().as_ref();
        let input = Input::Toml(value);
        let read = match name {
            "key_env" => input.parse("a variable's name", variable).map(|name| channel.key_env = Some(name)),
            "key_file" => input.parse("a path", value::path).map(|path| channel.key_file = Some(path)),
            "enabled" => input.truth().map(|truth| channel.enabled = Some(truth)),
            _ => match channel.pacing.field(name) {
                Some(pacing) => milliseconds(value).map(|time| *pacing = Some(time)),
                None => {
                    let text = unknown(name, nearest(name, NAMES));
                    Err(vec![Wrong { text, span: Some(key.span()) }])
                }
            },
        };
        bad.extend(read.err().into_iter().flatten());
    }
    if bad.is_empty() { Ok(channel) } else { Err(bad) }
}

fn milliseconds(value: &Spanned<DeValue<'_>>) -> Read<Duration> {
    Input::Toml(value).count::<u64>(0..=MOST_MS).map(Duration::from_millis)
}

/// The name without the provider's, which may stand before it as in the full name.
fn channel_name(provider: &str, name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(format!("the channel name {name:?} must be 1 to 64 of a-z, A-Z, 0-9, - _ and ."));
    }
    let short = name.strip_prefix(provider).and_then(|rest| rest.strip_prefix('-'));
    Ok(short.filter(|short| !short.is_empty()).unwrap_or(name).to_owned())
}

fn unknown(name: &str, meant: Option<&str>) -> String {
    let meant = match meant {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => "; it has key_env, key_file, min_interval_ms, max_wait_ms and enabled".into(),
    };
    format!("a channel has no setting `{name}`{meant}")
}
