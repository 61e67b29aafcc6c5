//! Prints every value in force and where it came from: `sigoREST config show`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    ChannelsSettings, Isolation, Loaded, PacingSettings, ProviderSettings,
    fields::{FIELDS, SECTIONS, quoted},
    problem::is_secret,
};

/// The settings in TOML's form, with the origin of each behind it. Keys are not among them.
pub fn show(loaded: &Loaded) -> String {
    let mut out = String::new();
    let settings = &loaded.settings;
    match &settings.config_file {
        Some(path) => drop(writeln!(out, "# configuration file: {}", path.display())),
        None => out.push_str("# configuration file: none\n"),
    }
    line(&mut out, loaded, "data_dir", "data_dir", &quoted(settings.data_dir.display()));
    for section in [""].into_iter().chain(SECTIONS) {
        if !section.is_empty() {
            let _ = writeln!(out, "\n[{section}]");
        }
        for field in FIELDS.iter().filter(|field| field.section() == section) {
            line(&mut out, loaded, field.key, field.name(), &(field.show)(settings));
        }
    }
    if !settings.models.is_empty() {
        out.push_str("\n[models]\n");
        for (name, provider) in &settings.models {
            line(&mut out, loaded, &format!("models.{name}"), &key(name), &quoted(provider));
        }
    }
    if !settings.fallbacks.is_empty() {
        out.push_str("\n[fallbacks]\n");
        for (name, models) in &settings.fallbacks {
            let models: Vec<String> = models.iter().map(quoted).collect();
            let value = format!("[{}]", models.join(", "));
            line(&mut out, loaded, &format!("fallbacks.{name}"), &key(name), &value);
        }
    }
    for (name, provider) in &settings.providers {
        section(&mut out, loaded, name, provider);
    }
    out
}

fn line(out: &mut String, loaded: &Loaded, key: &str, name: &str, value: &str) {
    let text = match value.strip_prefix("# ") {
        Some(comment) => format!("# {name} is {comment}"),
        None => format!("{name} = {value}"),
    };
    let _ = writeln!(out, "{text:<48} # {}", loaded.origin(key));
}

fn section(out: &mut String, loaded: &Loaded, name: &str, provider: &ProviderSettings) {
    let _ = writeln!(out, "\n[provider.{}]", key(name));
    let path = provider.key_file.as_ref().map(|path| path.display().to_string());
    let offer = provider.offer.map(|offer| format!("{offer:?}").to_ascii_lowercase());
    let isolation = (provider.isolation != Isolation::None).then(|| "process".to_owned());
    let own = [
        ("plugin", provider.plugin.as_ref()),
        ("base_url", provider.base_url.as_ref()),
        ("key_env", provider.key_env.as_ref()),
        ("key_file", path.as_ref()),
        ("offer", offer.as_ref()),
        ("isolation", isolation.as_ref()),
    ];
    for (setting, value) in own.into_iter().filter_map(|(setting, value)| Some((setting, value?))) {
        line(out, loaded, &format!("provider.{name}.{setting}"), setting, &quoted(value));
    }
    if !provider.models.is_empty() {
        let ids: Vec<String> = provider.models.iter().map(|model| quoted(&model.id)).collect();
        line(out, loaded, &format!("provider.{name}.models"), "models", &format!("[{}]", ids.join(", ")));
    }
    for (setting, value) in &provider.settings {
        let value = masked(setting, value);
        let text =
            toml::Value::try_from(&value).map_or_else(|_| value.to_string(), |value| value.to_string());
        line(out, loaded, &format!("provider.{name}.{setting}"), &key(setting), &text);
    }
    channels(out, loaded, name, &provider.channels);
}

/// The tables of a provider's channels. They come from the file, all of them from where `channels` starts.
fn channels(out: &mut String, loaded: &Loaded, provider: &str, settings: &ChannelsSettings) {
    let origin = format!("provider.{provider}.channels");
    let pacing = |out: &mut String, pacing: PacingSettings| {
        for (name, time) in [("min_interval_ms", pacing.min_interval), ("max_wait_ms", pacing.max_wait)] {
            if let Some(time) = time {
                line(out, loaded, &origin, name, &time.as_millis().to_string());
            }
        }
    };
    if settings.pacing != PacingSettings::default() {
        let _ = writeln!(out, "\n[provider.{}.channels]", key(provider));
        pacing(out, settings.pacing);
    }
    for (name, channel) in &settings.named {
        let _ = writeln!(out, "\n[provider.{}.channels.{}]", key(provider), key(name));
        let path = channel.key_file.as_ref().map(|path| path.display().to_string());
        for (name, value) in [("key_env", channel.key_env.as_ref()), ("key_file", path.as_ref())] {
            if let Some(value) = value {
                line(out, loaded, &origin, name, &quoted(value));
            }
        }
        pacing(out, channel.pacing);
        if let Some(enabled) = channel.enabled {
            line(out, loaded, &origin, "enabled", &enabled.to_string());
        }
    }
}

/// The value without texts whose name says that they may be a key.
fn masked(name: &str, value: &Value) -> Value {
    match value {
        Value::String(_) if is_secret(name) => Value::from("***"),
        Value::Array(list) => list.iter().map(|value| masked(name, value)).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), masked(name, value))).collect()
        }
        other => other.clone(),
    }
}

/// A name as TOML writes it.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quoted(name) }
}
