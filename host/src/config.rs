//! What the program runs on: flags, environment and `sigorest.toml`, checked and with every default.

//!
//! Precedence: flag, environment (`SIGOREST_*`), file, default. Read at start and at each reload.

mod channels;
mod defaults;
mod fields;
mod file;
mod installed;
mod load;
mod places;
mod problem;
mod provider;
mod schema;
mod show;
#[cfg(test)]
mod tests;
pub mod value;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use provider_api::{Model, model::Offer};

use crate::cli::ServerArgs;

pub use channels::{ChannelSettings, ChannelsSettings, PacingSettings};
pub use installed::installed;
pub(crate) use load::examine;
pub use load::{Loaded, Origin, load, unknown_variables};
pub use places::create_data_dir;
pub use problem::{Place, Problem, Problems, Severity, Source, nearest};
pub use provider::{address_wanted, base_url};
pub use schema::check_providers;
pub use show::show;

/// Reads one variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port for plain HTTP; 0 picks a free one.
    pub http_port: u16,
    /// Port for HTTPS; 0 picks a free one.
    pub https_port: u16,
    /// Absolute path of the certificate (a relative one starts at the data directory).
    pub cert: PathBuf,
    /// Absolute path of the certificate's key.
    pub key: PathBuf,
    /// The log.
    pub log: LogSettings,
    /// Absolute path of the directory of memory.json, models.csv, .sessions, certs, plugins.
    pub data_dir: PathBuf,
    /// The configuration file that was read, if there is one.
    pub config_file: Option<PathBuf>,
    /// Directories of plugins, the later ones win.
    pub plugin_dirs: Vec<PathBuf>,
    /// Who may come in.
    pub access: AccessSettings,
    /// Where to listen.
    pub listen: ListenSettings,
    /// Bounds in bytes, time and number.
    pub limits: Limits,
    /// When a target is left alone.
    pub breaker: BreakerSettings,
    /// `[provider.NAME]`.
    pub providers: BTreeMap<String, ProviderSettings>,
    /// `[models] NAME = "provider"`: who owns a shortcode that several offer.
    pub models: BTreeMap<String, String>,
    /// `[fallbacks] NAME = ["other", …]`: which models answer when this one cannot, in their order.
    pub fallbacks: BTreeMap<String, Vec<String>>,
    /// The configuration file's text, to show mistakes in it.
    pub source: Option<Arc<Source>>,
    /// The flags that were given, for a reload.
    pub given: Arc<ServerArgs>,
}

impl Settings {
    /// Reads everything again, as at start; blocking: the same flags, the environment, the file as it is now.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub fn reload(&self) -> Result<Loaded, Problems> {
        load(&self.given, &|name| std::env::var(name).ok())
    }

    /// The addresses for plain HTTP: this machine alone unless the list of peers admits more.
    pub fn http_addresses(&self) -> Vec<IpAddr> {
        if !self.listen.http.is_empty() {
            return self.listen.http.clone();
        }
        if self.access.http.iter().all(is_loopback) {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        }
    }

    /// The addresses for HTTPS.
    pub fn https_addresses(&self) -> Vec<IpAddr> {
        if self.listen.https.is_empty() {
            return vec![Ipv4Addr::UNSPECIFIED.into()];
        }
        self.listen.https.clone()
    }
}

/// Whether a network holds this machine's own addresses only.
fn is_loopback(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_loopback() && net.prefix_len() >= 8,
        IpNet::V6(net) => net.addr().is_loopback() && net.prefix_len() == 128,
    }
}

/// The log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Least level.
    pub level: Level,
    /// Errors only.
    pub quiet: bool,
    /// One JSON object a line.
    pub json: bool,
}

/// A level of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Steps.
    Debug,
    /// One line a request.
    Info,
    /// Someone should look.
    Warn,
    /// We failed.
    Error,
}

/// `[access]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSettings {
    /// Peers that plain HTTP admits.
    pub http: Vec<IpNet>,
    /// Peers that HTTPS admits.
    pub https: Vec<IpNet>,
    /// Names that a `Host` header may hold besides local ones, lower case, without port.
    pub hosts: Vec<String>,
    /// Web origins that may call cross-site, lower case (`https://app.example`); `*` admits all.
    pub origins: Vec<String>,
    /// Peers that may administrate.
    pub admin: Vec<IpNet>,
    /// Peers that may write the memory block; `None`: everyone who is admitted.
    pub memory_write: Option<Vec<IpNet>>,
    /// Reverse proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[listen]`; empty lists mean the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenSettings {
    /// Addresses for plain HTTP. Default: 127.0.0.1 and ::1, or all if `[access] http` admits more.
    pub http: Vec<IpAddr>,
    /// Addresses for HTTPS. Default: 0.0.0.0.
    pub https: Vec<IpAddr>,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body.
    pub max_body_bytes: usize,
    /// For a whole request head, and for a TLS handshake.
    pub header: Duration,
    /// For the next bytes of a request body.
    pub body_idle: Duration,
    /// For the next request on an open connection.
    pub keepalive: Duration,
    /// For connecting to an upstream.
    pub connect: Duration,
    /// For silence in a stream.
    pub stream_idle: Duration,
    /// Between heartbeats while a stream is silent.
    pub heartbeat: Duration,
    /// For open requests at shutdown.
    pub drain: Duration,
    /// Requests at once.
    pub max_in_flight: usize,
    /// Connections of one peer that is not loopback.
    pub max_connections_per_peer: usize,
}

/// `[breaker]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Counted failures that open it.
    pub failures: u32,
    /// Within this time.
    pub window: Duration,
    /// How long it stays open before trials.
    pub cooldown: Duration,
    /// Trials at once while half open.
    pub trials: u32,
}

/// Where a provider's code runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In the gateway's own process.
    #[default]
    None,
    /// In a process of its own, without network and files.
    Process,
}

/// `[provider.NAME]`.
#[derive(Debug, Clone, Default)]
pub struct ProviderSettings {
    /// The plugin's id; `None`: the provider's own name.
    pub plugin: Option<String>,
    /// Stands in for the plugin's default base URL; no slash at its end.
    pub base_url: Option<String>,
    /// Environment variable with the key, before the manifest's.
    pub key_env: Option<String>,
    /// File with the key (a relative path starts at the data directory).
    pub key_file: Option<PathBuf>,
    /// Its keys: how each is used, and further ones.
    pub channels: ChannelsSettings,
    /// Whether its models are offered without being listed.
    pub offer: Option<Offer>,
    /// Where the plugin's code runs.
    pub isolation: Isolation,
    /// Rows that override or add to the plugin's own.
    pub models: Vec<Model>,
    /// What the plugin's manifest declares, as JSON.
    pub settings: serde_json::Map<String, serde_json::Value>,
}
