//! What the gateway tells about itself: the bodies of the endpoints that ask no provider.
//!
//! Pure functions from snapshots to JSON of one line; who may ask is decided before.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use provider_api::model::Mode;
use serde::Serialize;

use crate::{
    breaker::{BreakerState, State},
    catalog::{Catalog, Entry},
    error::Error,
};

mod answer;
mod channels;
mod help;

pub use answer::answer;
pub use help::help;

/// The gateway's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of the interface under `/api`.
const API_VERSION: &str = "1.0";

/// `created` of every model, 2026-02-28: providers do not tell theirs, and a fixed one keeps answers equal.
const CREATED: u64 = 1_772_236_800;

#[derive(Serialize)]
struct ModelObject<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

impl<'a> From<&'a Entry> for ModelObject<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self { id: &entry.name, object: "model", created: CREATED, owned_by: &entry.provider }
    }
}

/// `GET /v1/models`: OpenAI's list.
pub fn models(catalog: &Catalog) -> String {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<ModelObject<'a>>,
    }
    let data = catalog.entries().iter().map(|entry| ModelObject::from(&**entry)).collect();
    json(&List { object: "list", data })
}

/// `GET /v1/models/{id}`: one model of OpenAI's list, by whatever [`Catalog::resolve`] understands.
/// `rest` is the path behind `/v1/models/` as it came, percent signs and slashes included.
///
/// # Errors
/// 404 `model_not_found`.
pub fn model(catalog: &Catalog, rest: &str) -> Result<String, Error> {
    Ok(json(&ModelObject::from(&**catalog.resolve(&unescaped(rest))?)))
}

/// Percent signs undone; what is not UTF-8 behind them is replaced and so names no model.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

/// A row of `GET /api/models`; `null` is unknown.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    shortcode: &'a str,
    /// Where the provider's own address is, not the operator's.
    endpoint: &'a str,
    /// The name of the environment variable, never what it holds.
    apikey: &'a str,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    input_cost: Option<f64>,
    output_cost: Option<f64>,
    min_temperature: Option<f64>,
    max_temperature: Option<f64>,
    requires_completion_tokens: bool,
    provider: &'a str,
    mode: Mode,
    cached_input_cost: Option<f64>,
    cache_write_cost: Option<f64>,
    price_date: Option<&'a str>,
    capabilities: &'a [String],
    drops: &'a [String],
    deprecation_date: Option<&'a str>,
    successor: Option<&'a str>,
    /// Whether it can be called: its key is set, or none is needed.
    key_set: bool,
}

impl<'a> From<&'a Entry> for Row<'a> {
    fn from(entry: &'a Entry) -> Self {
        let model = &entry.model;
        Self {
            id: &model.id,
            shortcode: &entry.name,
            endpoint: &entry.endpoint,
            apikey: entry.key.env(),
            max_input_tokens: model.max_input_tokens,
            max_output_tokens: model.max_output_tokens,
            input_cost: model.input_cost,
            output_cost: model.output_cost,
            min_temperature: model.min_temperature,
            max_temperature: model.max_temperature,
            requires_completion_tokens: entry.requires_completion_tokens,
            provider: &entry.provider,
            mode: model.mode,
            cached_input_cost: model.cached_input_cost,
            cache_write_cost: model.cache_write_cost,
            price_date: model.price_date.as_deref(),
            capabilities: &model.capabilities,
            drops: &model.drops,
            deprecation_date: model.deprecation_date.as_deref(),
            successor: model.successor.as_deref(),
            key_set: entry.key.is_ready(),
        }
    }
}

/// `GET /api/models`: a bare array with prices (USD per million tokens), limits and abilities.
pub fn model_rows(catalog: &Catalog) -> String {
    json(&catalog.entries().iter().map(|entry| Row::from(&**entry)).collect::<Vec<_>>())
}

/// What `GET /api/health` is made of.
pub struct HealthInput<'a> {
    /// The models.
    pub catalog: &'a Catalog,
    /// The breakers.
    pub breakers: Vec<BreakerState>,
    /// Whether there is text in the memory block.
    pub memory_set: bool,
    /// The plugins.
    pub plugins: Vec<PluginHealth>,
    /// What is wrong besides breakers and plugins, in sentences; a missing key is nothing wrong.
    pub reasons: Vec<String>,
    /// Since the start.
    pub uptime: Duration,
}

/// A plugin in `GET /api/health`.
#[derive(Debug, Clone, Serialize)]
pub struct PluginHealth {
    /// Its id.
    pub id: String,
    /// Its own version.
    pub version: String,
    /// `ok`, or in a word what it is instead (`quarantined`, `refused`): then a reason for `degraded`.
    pub status: String,
    /// Why, if it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Names of the providers that it serves.
    pub providers: Vec<String>,
    /// Faults of its own since the start.
    pub faults: u64,
}

/// `GET /api/health`.
pub fn health(input: HealthInput<'_>) -> String {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        timestamp: u64,
        available_models: usize,
        circuit_breakers: Vec<BreakerState>,
        memory_set: bool,
        reasons: Vec<String>,
        plugins: Vec<PluginHealth>,
        uptime_seconds: u64,
        version: &'static str,
    }
    let mut reasons = input.reasons;
    let mut breakers = input.breakers;
    for breaker in &mut breakers {
        // Behind a `#` stands the channel.
        let model = breaker.target.rsplit_once('#').map(|(model, _)| model);
        let found = input.catalog.find(&breaker.target);
        if let Some(entry) = found.or_else(|| input.catalog.find(model?)) {
            breaker.model = entry.name.to_string();
        }
        let (model, target) = (&breaker.model, &breaker.target);
        match breaker.details.state {
            State::Closed => {}
            State::Open => reasons.push(format!("`{model}` ({target}) keeps failing and is left alone")),
            State::HalfOpen => reasons.push(format!("`{model}` ({target}) kept failing and is being tried")),
        }
    }
    for plugin in input.plugins.iter().filter(|plugin| plugin.status != "ok") {
        let why = plugin.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        reasons.push(format!("plugin `{}` is {}{why}", plugin.id, plugin.status));
    }
    json(&Health {
        status: if reasons.is_empty() { "ok" } else { "degraded" },
        timestamp: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        available_models: input.catalog.entries().len(),
        circuit_breakers: breakers,
        memory_set: input.memory_set,
        reasons,
        plugins: input.plugins,
        uptime_seconds: input.uptime.as_secs(),
        version: VERSION,
    })
}

/// `GET /api/version`.
pub fn version() -> String {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
        component: &'static str,
        api: &'static str,
    }
    json(&Version { version: VERSION, component: "sigoREST", api: API_VERSION })
}

/// Text of one line; these structures have no member that JSON could refuse.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
