//! Where a provider's keys come from: files or the environment. A key never leaves the host.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::config::{ChannelSettings, ProviderSettings};

/// Longest key.
const MAX_KEY_BYTES: usize = 16 << 10;

/// Numbered variables go from `_0` to one less than this.
const NUMBERED: u8 = 100;

/// The channel of the key whose variable has no number.
pub const PLAIN: &str = "default";

/// A key with the name of its channel.
pub struct Found {
    /// `default`, a number, or a name from the settings.
    pub channel: String,
    /// The variable that people would look at; never what it holds.
    pub variable: String,
    /// The key.
    pub key: SecretString,
}

/// Looks all keys up, in the order in which they are used: the plain one, from the section's file and
/// variable, then `<NAME>_API_KEY` and the manifest's variables; the same variables with `_0` to `_99`;
/// then the keys that the section's channels name. Each variable also counts as `<VARIABLE>_FILE` and as a
/// systemd credential of that name.
pub fn find(provider: &str, section: &ProviderSettings, manifest_env: &[String]) -> Vec<Found> {
    let own = format!("{}_API_KEY", variable_prefix(provider));
    let variables: Vec<&String> = section.key_env.iter().chain([&own]).chain(manifest_env).collect();
    let in_channel = |name: &str| {
        let settings = section.channels.named.get(name)?;
        let (variable, key) = of_channel(settings, provider)?;
        Some(Found { channel: name.to_owned(), variable, key })
    };
    let found = |channel: &str, variable: String, key| Found { channel: channel.into(), variable, key };
    let mut all = Vec::new();
    let plain = match &section.key_file {
        Some(path) => {
            from_file(path, provider).map(|key| (main_variable(provider, section, manifest_env), key))
        }
        None => variables.iter().find_map(|name| Some(((*name).clone(), from_variable(name, provider)?))),
    };
    all.extend(in_channel(PLAIN).or_else(|| plain.map(|(variable, key)| found(PLAIN, variable, key))));
    for number in 0..NUMBERED {
        let channel = number.to_string();
        let numbered = || {
            variables.iter().find_map(|name| {
                let variable = format!("{name}_{number}");
                let key = from_variable(&variable, provider)?;
                Some(found(&channel, variable, key))
            })
        };
        all.extend(in_channel(&channel).or_else(numbered));
    }
    for name in section.channels.named.keys() {
        let new = !all.iter().any(|found| found.channel == *name);
        match in_channel(name).filter(|_| new) {
            Some(found) => all.push(found),
            None if new => {
                tracing::warn!(provider, channel = %name, "a channel in the settings has no key; it is left out");
            }
            None => {}
        }
    }
    without_repeats(all, provider)
}

/// The variable that people would set if there is no key.
pub fn main_variable(provider: &str, section: &ProviderSettings, manifest_env: &[String]) -> String {
    let variable = section.key_env.as_ref().or(manifest_env.first());
    variable.cloned().unwrap_or_else(|| format!("{}_API_KEY", variable_prefix(provider)))
}

/// `my-provider` → `MY_PROVIDER`.
pub fn variable_prefix(provider: &str) -> String {
    provider.replace(['-', '.'], "_").to_ascii_uppercase()
}

/// One key under two names would be paced, paused and counted as two.
fn without_repeats(all: Vec<Found>, provider: &str) -> Vec<Found> {
    let mut kept: Vec<Found> = Vec::with_capacity(all.len());
    for found in all {
        let same = kept.iter().find(|other| other.key.expose_secret() == found.key.expose_secret());
        match same {
            Some(other) => {
                let (variable, other) = (&found.variable, &other.variable);
                tracing::warn!(provider, %variable, same_as = %other, "a key is there twice; the second is left out");
            }
            None => kept.push(found),
        }
    }
    kept
}

fn of_channel(settings: &ChannelSettings, provider: &str) -> Option<(String, SecretString)> {
    match (&settings.key_file, &settings.key_env) {
        (Some(path), variable) => {
            let name = variable.clone().unwrap_or_else(|| "its key_file".into());
            Some((name, from_file(path, provider)?))
        }
        (None, Some(name)) => Some((name.clone(), from_variable(name, provider)?)),
        (None, None) => None,
    }
}

fn from_variable(name: &str, provider: &str) -> Option<SecretString> {
    if let Ok(value) = std::env::var(name)
        && let Some(key) = usable(&value, name, provider)
    {
        return Some(key);
    }
    if let Some(path) = std::env::var_os(format!("{name}_FILE")) {
        return from_file(Path::new(&path), provider);
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    let path = Path::new(&credentials).join(name);
    path.is_file().then(|| from_file(&path, provider)).flatten()
}

fn from_file(path: &Path, provider: &str) -> Option<SecretString> {
    match std::fs::read_to_string(path) {
        Ok(text) => usable(&text, &path.display().to_string(), provider),
        Err(error) => {
            tracing::warn!(provider, file = %path.display(), %error, "the key file cannot be read");
            None
        }
    }
}

/// A key is sent in a header: one line of visible characters.
fn usable(text: &str, place: &str, provider: &str) -> Option<SecretString> {
    let key = text.trim();
    if key.is_empty() {
        return None;
    }
    if key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        tracing::warn!(provider, place, "the key holds characters that no key has; it is not used");
        return None;
    }
    Some(SecretString::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_one_line_of_visible_characters() {
        let check = |text: &str, expected: Option<&str>| {
            let key = usable(text, "X", "x");
            assert_eq!(key.as_ref().map(ExposeSecret::expose_secret), expected);
        };
        check(" sk-1\n", Some("sk-1"));
        check("", None);
        check("a b", None);
        check("a\r\nx-evil: 1", None);
        assert_eq!(variable_prefix("openai-compatible"), "OPENAI_COMPATIBLE");
    }

    #[test]
    fn a_key_that_is_there_twice_makes_one_channel() {
        let found = |channel: &str, key: &str| Found {
            channel: channel.into(),
            variable: "V".into(),
            key: SecretString::from(key),
        };
        let kept = without_repeats(vec![found("default", "a"), found("0", "b"), found("1", "a")], "x");
        let names: Vec<_> = kept.iter().map(|found| found.channel.as_str()).collect();
        assert_eq!(names, ["default", "0"]);
    }
}
