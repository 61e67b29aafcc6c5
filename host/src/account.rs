//! What every request comes to: tokens, cost and time, by model, and its one line in the log.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use provider_api::{Usage, model::Model};

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

/// What all requests came to since the start.
#[derive(Debug, Default)]
pub struct Account {}

impl Account {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request that ended and logs it.
    pub fn settle(&self, _settled: &Settled) {}
}

/// What these tokens cost in USD; `None` if a price that is needed is unknown, or no tokens are known.
pub fn cost(_model: &Model, _usage: &Usage) -> Option<f64> {
    None
}
