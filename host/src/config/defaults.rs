//! Every default, in one place.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{AccessSettings, BreakerSettings, Level, Limits, LogSettings, Settings};

/// The certificate, relative to the data directory.
pub(super) const CERT: &str = "./certs/server.crt";
/// The certificate's key, relative to the data directory.
pub(super) const KEY: &str = "./certs/server.key";
/// The configuration file, relative to the data directory.
pub(super) const CONFIG: &str = "sigorest.toml";

impl Default for Settings {
    fn default() -> Self {
        Self {
            http_port: 9080,
            https_port: 9443,
            cert: PathBuf::from(CERT),
            key: PathBuf::from(KEY),
            log: LogSettings::default(),
            data_dir: PathBuf::from("."),
            config_file: None,
            plugin_dirs: Vec::new(),
            access: AccessSettings::default(),
            listen: Default::default(),
            limits: Limits::default(),
            breaker: BreakerSettings::default(),
            providers: Default::default(),
            models: Default::default(),
            fallbacks: Default::default(),
            source: None,
            given: Arc::default(),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: Level::Info, quiet: false, json: false }
    }
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            http: nets(&["127.0.0.0/8", "::1/128"]),
            https: nets(&["192.168.0.0/16", "10.0.0.0/8"]),
            hosts: Vec::new(),
            origins: Vec::new(),
            admin: nets(&["127.0.0.0/8", "::1/128"]),
            memory_write: None,
            trusted_proxies: Vec::new(),
        }
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 64 << 20,
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keepalive: Duration::from_secs(120),
            connect: Duration::from_secs(5),
            stream_idle: Duration::from_secs(180),
            heartbeat: Duration::from_secs(15),
            drain: Duration::from_secs(120),
            max_in_flight: 16_384,
            max_connections_per_peer: 1024,
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 5, window: Duration::from_secs(60), cooldown: Duration::from_secs(10), trials: 3 }
    }
}
