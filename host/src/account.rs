//! What every request comes to: tokens, cost and time, by model, and its one line in the log.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use provider_api::{Usage, model::Model};
use serde::Serialize;

use crate::{catalog::day::rfc3339, telemetry};

mod metrics;

pub use metrics::{MetricsInput, PluginMetrics};

/// How a request ended. Settle it exactly once.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The request's id.
    pub id: Arc<str>,
    /// Who asked.
    pub peer: IpAddr,
    /// The model's name in the catalog; empty if none was resolved. Never what a caller wrote: the names
    /// become labels, and callers can invent without bound.
    pub model: Arc<str>,
    /// The provider's name; empty if none was resolved.
    pub provider: Arc<str>,
    /// The status that the caller got.
    pub status: u16,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// Tokens.
    pub usage: Usage,
    /// Whether the tokens are an estimate.
    pub estimated: bool,
    /// USD; `None` if a price is unknown.
    pub cost_usd: Option<f64>,
    /// From the request's arrival to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the request's arrival to its end.
    pub duration: Duration,
    /// The error's code, if it ended with one.
    pub error: Option<Cow<'static, str>>,
}

/// Model and provider: their number is bounded by the catalog.
type Of = (Arc<str>, Arc<str>);

/// What all requests came to since the start.
#[derive(Debug)]
pub struct Account {
    since: SystemTime,
    started: Instant,
    by_model: RwLock<HashMap<Of, Arc<Mutex<Sums>>>>,
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

impl Account {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { since: SystemTime::now(), started: Instant::now(), by_model: RwLock::default() }
    }

    /// When counting began.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// How long the process has run.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a request that ended and logs it.
    pub fn settle(&self, settled: &Settled) {
        lock(&self.sums(&settled.model, &settled.provider)).add(settled);
        if tracing::enabled!(tracing::Level::INFO) {
            let settled = settled.clone();
            telemetry::later(move || log(&settled));
        }
    }

    /// What all requests came to.
    pub fn total(&self) -> Total {
        let mut sums = Sums::default();
        self.snapshot().values().for_each(|of| sums.merge(of));
        Total {
            input_tokens: sums.input,
            output_tokens: sums.output,
            cached_input_tokens: sums.cached,
            reasoning_tokens: sums.reasoning,
            cost_usd: sums.known_cost(),
            estimated: sums.estimated > 0,
        }
    }

    /// The body of `GET /api/usage`, one line.
    pub fn usage(&self) -> String {
        let mut by_model: BTreeMap<String, Sums> = BTreeMap::new();
        let mut total = Sums::default();
        for ((model, _), sums) in self.snapshot() {
            total.merge(&sums);
            // Requests that named no model of ours count in the total alone.
            if !model.is_empty() {
                by_model.entry(model.to_string()).or_default().merge(&sums);
            }
        }
        let by_model: BTreeMap<&str, Shown> =
            by_model.iter().map(|(model, sums)| (model.as_str(), sums.shown())).collect();
        serde_json::json!({"since": rfc3339(self.since), "by_model": by_model, "total": total.shown()})
            .to_string()
    }

    /// The body of `GET /metrics` in the text format of Prometheus.
    pub fn metrics(&self, input: &MetricsInput<'_>) -> String {
        metrics::text(&self.snapshot(), self.uptime(), input)
    }

    fn sums(&self, model: &Arc<str>, provider: &Arc<str>) -> Arc<Mutex<Sums>> {
        let of = (Arc::clone(model), Arc::clone(provider));
        if let Some(sums) = self.by_model.read().unwrap_or_else(PoisonError::into_inner).get(&of) {
            return Arc::clone(sums);
        }
        let mut all = self.by_model.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(of).or_default())
    }

    /// Sorted, so that answers are stable.
    fn snapshot(&self) -> BTreeMap<Of, Sums> {
        let all: Vec<(Of, Arc<Mutex<Sums>>)> = {
            let all = self.by_model.read().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(of, sums)| (of.clone(), Arc::clone(sums))).collect()
        };
        all.into_iter().map(|(of, sums)| (of, lock(&sums).clone())).collect()
    }
}

fn lock(sums: &Mutex<Sums>) -> MutexGuard<'_, Sums> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log(settled: &Settled) {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        id = &*settled.id,
        peer = %settled.peer,
        model = &*settled.model,
        provider = &*settled.provider,
        status = settled.status,
        stream = settled.stream,
        input_tokens = settled.usage.input,
        output_tokens = settled.usage.output,
        // Sums of products of decimals come out as 0.30000000000000004; nothing costs less than a nano.
        cost_usd = settled.cost_usd.map(nano),
        first_byte_ms = settled.first_byte.map(millis),
        duration_ms = millis(settled.duration),
        estimated = settled.estimated.then_some(true),
        error = settled.error.as_deref(),
        "request"
    );
}

/// What a model's requests come to.
#[derive(Debug, Clone, Default)]
struct Sums {
    /// Requests by status; a handful, so a list is enough.
    statuses: Vec<(u16, u64)>,
    /// Requests that failed, also behind a stream's 200.
    errors: u64,
    input: u64,
    output: u64,
    cached: u64,
    reasoning: u64,
    cost_usd: f64,
    /// Requests with a known cost, and with tokens whose price is unknown.
    priced: u64,
    unpriced: u64,
    estimated: u64,
    first_byte: metrics::Histogram,
}

impl Sums {
    fn add(&mut self, settled: &Settled) {
        self.count(settled.status, 1);
        self.errors += u64::from(settled.status >= 400 || settled.error.is_some());
        let usage = &settled.usage;
        self.input += usage.input.unwrap_or_default();
        self.output += usage.output.unwrap_or_default();
        self.cached += usage.cache_read.unwrap_or_default();
        self.reasoning += usage.reasoning.unwrap_or_default();
        match settled.cost_usd {
            Some(usd) => {
                self.cost_usd += usd;
                self.priced += 1;
            }
            None if usage.input.is_some() || usage.output.is_some() => self.unpriced += 1,
            None => {}
        }
        self.estimated += u64::from(settled.estimated);
        if let Some(time) = settled.first_byte {
            self.first_byte.observe(time);
        }
    }

    fn count(&mut self, status: u16, requests: u64) {
        match self.statuses.binary_search_by_key(&status, |(known, _)| *known) {
            Ok(place) => self.statuses[place].1 += requests,
            Err(place) => self.statuses.insert(place, (status, requests)),
        }
    }

    fn merge(&mut self, other: &Self) {
        for (status, requests) in &other.statuses {
            self.count(*status, *requests);
        }
        self.errors += other.errors;
        self.input += other.input;
        self.output += other.output;
        self.cached += other.cached;
        self.reasoning += other.reasoning;
        self.cost_usd += other.cost_usd;
        self.priced += other.priced;
        self.unpriced += other.unpriced;
        self.estimated += other.estimated;
    }

    fn shown(&self) -> Shown {
        Shown {
            requests: self.statuses.iter().map(|(_, requests)| requests).sum(),
            errors: self.errors,
            input_tokens: self.input,
            output_tokens: self.output,
            total_tokens: self.input + self.output,
            cached_input_tokens: self.cached,
            reasoning_tokens: self.reasoning,
            cost_usd: self.known_cost(),
            unpriced_requests: self.unpriced,
            estimated_requests: self.estimated,
        }
    }

    /// `None` if tokens were spent and no price was known for any of them.
    fn known_cost(&self) -> Option<f64> {
        (self.priced > 0 || self.unpriced == 0).then(|| nano(self.cost_usd))
    }
}

/// What all requests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Answer tokens.
    pub output_tokens: u64,
    /// Prompt tokens that were read from a cache.
    pub cached_input_tokens: u64,
    /// Answer tokens that were thought, not said.
    pub reasoning_tokens: u64,
    /// USD; `None` if tokens were spent and no price is known.
    pub cost_usd: Option<f64>,
    /// Whether some of it is an estimate.
    pub estimated: bool,
}

/// A row of `GET /api/usage`.
#[derive(Debug, Serialize)]
struct Shown {
    requests: u64,
    errors: u64,
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    cached_input_tokens: u64,
    reasoning_tokens: u64,
    cost_usd: Option<f64>,
    /// Requests that spent tokens whose price is unknown, and so are not in `cost_usd`.
    unpriced_requests: u64,
    estimated_requests: u64,
}

fn nano(usd: f64) -> f64 {
    (usd * 1e9).round() / 1e9
}

/// What these tokens cost in USD; `None` if a price that is needed is unknown, or no tokens are known.
pub fn cost(model: &Model, usage: &Usage) -> Option<f64> {
    if usage.input.is_none() && usage.output.is_none() {
        return None;
    }
    let read = usage.cache_read.unwrap_or_default();
    let (written, for_an_hour) =
        (usage.cache_write.unwrap_or_default(), usage.cache_write_1h.unwrap_or_default());
    // Rows hold one price for writing to a cache, that of the short time. An hour costs twice the input at
    // both vendors that sell it (Anthropic, Moonshot; 2026-10-27).
    let hour_cost =
        model.input_cost.map(|usd| if model.cache_write_cost.is_some() { 2.0 * usd } else { usd });
    let plain = usage.input.unwrap_or_default().saturating_sub(read + written + for_an_hour);
    let of = |tokens: u64, usd_per_mtok: Option<f64>| match tokens {
        0 => Some(0.0),
        _ => usd_per_mtok.map(|usd| tokens as f64 * usd / 1e6),
    };
    Some(
        of(plain, model.input_cost)?
            + of(read, model.cached_input_cost.or(model.input_cost))?
            + of(written, model.cache_write_cost.or(model.input_cost))?
            + of(for_an_hour, hour_cost)?
            + of(usage.output.unwrap_or_default(), model.output_cost)?,
    )
}

#[cfg(test)]
mod tests;
