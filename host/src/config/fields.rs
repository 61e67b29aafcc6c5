//! The settings that have a name of their own: how each is read, checked and shown.

use std::{path::Path, time::Duration};

use super::{
    ListenSettings, Settings,
    value::{self, Input, Read, network_text, size_text},
};

/// One setting.
pub(super) struct Field {
    /// Its name with its section: `limits.header_secs`.
    pub(super) key: &'static str,
    /// Reads a value into the settings.
    pub(super) read: fn(Input<'_>, &mut Settings) -> Read<()>,
    /// Its value in force, as TOML, or a comment if there is none.
    pub(super) show: fn(&Settings) -> String,
}

impl Field {
    /// The section, empty for the top of the file.
    pub(super) fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name within the section.
    pub(super) fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The variable of the environment: `SIGOREST_LIMITS_HEADER_SECS`.
    pub(super) fn variable(&self) -> String {
        format!("SIGOREST_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

/// Sections with settings of fixed names, in the order in which they are shown.
pub(super) const SECTIONS: [&str; 4] = ["access", "listen", "limits", "breaker"];

/// A day in seconds: longer waits are mistakes.
const DAY: f64 = 86_400.0;
/// Shorter waits are mistakes.
const LEAST: f64 = 0.01;

macro_rules! field {
    ($key:literal, $($part:ident).+, $read:expr, $show:expr) => {
        Field {
            key: $key,
            read: |input, settings| {
                let read: fn(Input<'_>) -> Read<_> = $read;
                settings.$($part).+ = read(input)?;
                Ok(())
            },
            show: |settings| ($show)(&settings.$($part).+),
        }
    };
}

fn networks(input: Input<'_>) -> Read<Vec<ipnet::IpNet>> {
    input.list("a network", value::network)
}

fn path(input: Input<'_>) -> Read<std::path::PathBuf> {
    input.parse("a path", value::path)
}

/// All settings of fixed names.
pub(super) static FIELDS: [Field; 31] = [
    field!("http_port", http_port, |input| input.count(0..=65_535), number),
    field!("https_port", https_port, |input| input.count(0..=65_535), number),
    field!("cert", cert, path, |path: &Path| quoted(path.display())),
    field!("key", key, path, |path: &Path| quoted(path.display())),
    field!("log_level", log.level, |input| input.parse("a level", value::level), |level: &_| quoted(
        format!("{level:?}").to_ascii_lowercase()
    )),
    field!("quiet", log.quiet, |input| input.truth(), number),
    field!("json", log.json, |input| input.truth(), number),
    field!("plugin_dirs", plugin_dirs, |input| input.list("a path", value::path), |list: &[_]| {
        strings(list.iter().map(|path: &std::path::PathBuf| path.display().to_string()))
    }),
    field!("access.http", access.http, networks, nets),
    field!("access.https", access.https, networks, nets),
    field!("access.hosts", access.hosts, |input| input.list("a host name", value::host), texts),
    field!("access.origins", access.origins, |input| input.list("an origin", value::origin), texts),
    field!("access.admin", access.admin, networks, nets),
    Field {
        key: "access.memory_write",
        read: |input, settings| {
            settings.access.memory_write = Some(networks(input)?);
            Ok(())
        },
        show: |settings| match &settings.access.memory_write {
            Some(list) => nets(list),
            None => "# not set: everyone who is admitted".into(),
        },
    },
    field!("access.trusted_proxies", access.trusted_proxies, networks, nets),
    listen("listen.http"),
    listen("listen.https"),
    field!(
        "limits.max_body_bytes",
        limits.max_body_bytes,
        |input| input.bytes(1..=4 << 30),
        |bytes: &usize| {
            let bytes = u64::try_from(*bytes).unwrap_or(u64::MAX);
            if bytes >= 1024 && bytes % 1024 == 0 { quoted(size_text(bytes)) } else { bytes.to_string() }
        }
    ),
    field!("limits.header_secs", limits.header, |input| input.seconds(LEAST..=3600.0), seconds),
    field!("limits.body_idle_secs", limits.body_idle, |input| input.seconds(LEAST..=3600.0), seconds),
    field!("limits.keepalive_secs", limits.keepalive, |input| input.seconds(LEAST..=DAY), seconds),
    field!("limits.connect_secs", limits.connect, |input| input.seconds(LEAST..=600.0), seconds),
    field!("limits.stream_idle_secs", limits.stream_idle, |input| input.seconds(LEAST..=DAY), seconds),
    field!("limits.heartbeat_secs", limits.heartbeat, |input| input.seconds(LEAST..=3600.0), seconds),
    field!("limits.drain_secs", limits.drain, |input| input.seconds(0.0..=DAY), seconds),
    field!("limits.max_in_flight", limits.max_in_flight, |input| input.count(1..=1 << 20), number),
    field!(
        "limits.max_connections_per_peer",
        limits.max_connections_per_peer,
        |input| input.count(1..=1 << 20),
        number
    ),
    field!("breaker.failures", breaker.failures, |input| input.count(1..=1_000_000), number),
    field!("breaker.window_secs", breaker.window, |input| input.seconds(LEAST..=DAY), seconds),
    field!("breaker.cooldown_secs", breaker.cooldown, |input| input.seconds(LEAST..=DAY), seconds),
    field!("breaker.trials", breaker.trials, |input| input.count(1..=1000), number),
];

/// The lists of addresses: shown with what an empty one stands for.
const fn listen(key: &'static str) -> Field {
    fn read(input: Input<'_>, list: &mut Vec<std::net::IpAddr>) -> Read<()> {
        *list = input.list("an address", value::address)?;
        if list.is_empty() {
            return input.wrong("the list is empty; name an address, or leave the setting out");
        }
        Ok(())
    }
    const fn is_https(key: &str) -> bool {
        key.len() == "listen.https".len()
    }
    if is_https(key) {
        return Field {
            key,
            read: |input, Settings { listen: ListenSettings { https, .. }, .. }| read(input, https),
            show: |settings| strings(settings.https_addresses().iter().map(ToString::to_string)),
        };
    }
    Field {
        key,
        read: |input, Settings { listen: ListenSettings { http, .. }, .. }| read(input, http),
        show: |settings| strings(settings.http_addresses().iter().map(ToString::to_string)),
    }
}

fn number(value: &impl ToString) -> String {
    value.to_string()
}

fn seconds(value: &Duration) -> String {
    value.as_secs_f64().to_string()
}

fn nets(list: &[ipnet::IpNet]) -> String {
    strings(list.iter().map(network_text))
}

fn texts(list: &[String]) -> String {
    strings(list.iter().cloned())
}

fn strings(list: impl Iterator<Item = String>) -> String {
    format!("[{}]", list.map(quoted).collect::<Vec<_>>().join(", "))
}

/// A TOML string.
pub(super) fn quoted(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}
