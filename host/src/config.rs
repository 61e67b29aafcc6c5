//! What the program runs on: flags, environment and `sigorest.toml`, checked and with every default.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use provider_api::model::Offer;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port for plain HTTP; 0 picks a free one.
    pub http_port: u16,
    /// Port for HTTPS; 0 picks a free one.
    pub https_port: u16,
    /// Path of the certificate, relative to the data directory.
    pub cert: PathBuf,
    /// Path of the certificate's key.
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

/// `[provider.NAME]`.
#[derive(Debug, Clone, Default)]
pub struct ProviderSettings {
    /// The plugin's id; `None`: the provider's own name.
    pub plugin: Option<String>,
    /// Where the plugin's default base URL stands.
    pub base_url: Option<String>,
    /// Environment variable with the key, before the manifest's.
    pub key_env: Option<String>,
    /// File with the key.
    pub key_file: Option<PathBuf>,
    /// Whether its models are offered without being listed.
    pub offer: Option<Offer>,
    /// What the plugin's manifest declares, as JSON.
    pub settings: serde_json::Map<String, serde_json::Value>,
}
