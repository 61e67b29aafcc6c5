//! The account as text for Prometheus.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use super::{Of, Sums};
use crate::{
    breaker::{BreakerState, State},
    channel::{Row, STATES},
};

/// What `GET /metrics` shows beside the account itself.
pub struct MetricsInput<'a> {
    /// The gateway's version.
    pub version: &'a str,
    /// Requests that run now.
    pub in_flight: usize,
    /// The breakers.
    pub breakers: &'a [BreakerState],
    /// The channels, as `GET /api/channels` shows them.
    pub channels: &'a [Row],
    /// The plugins.
    pub plugins: &'a [PluginMetrics<'a>],
}

/// What a plugin did since the start.
pub struct PluginMetrics<'a> {
    /// Its id.
    pub plugin: &'a str,
    /// Faults of its own: panics, broken rules.
    pub faults: u64,
    /// Times that it was called.
    pub steps: u64,
    /// Processor time in these calls.
    pub step_cpu: Duration,
    /// Its loaded versions, whose code all stays mapped: how many serve, run exchanges to their end, are done.
    pub generations: [(&'static str, usize); 3],
    /// Quantiles of the time of one call, as `(0.5, time)`; may be empty.
    pub step_cpu_quantiles: &'a [(f64, Duration)],
}

/// Upper bounds of the time to the first byte, in seconds.
const BOUNDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Times to the first byte.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    /// Those up to each bound and above the one before.
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    pub(super) fn observe(&mut self, time: Duration) {
        if let Some(bucket) = BOUNDS.iter().position(|bound| time.as_secs_f64() <= *bound) {
            self.counts[bucket] += 1;
        }
        self.count += 1;
        self.sum += time;
    }
}

/// Lines in the making.
#[derive(Default)]
struct Text(String);

impl Text {
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (nth, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if nth == 0 { '{' } else { ',' });
            for char in text.chars() {
                match char {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    char if char.is_control() => self.0.push('\u{fffd}'),
                    char => self.0.push(char),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

pub(super) fn text(models: &BTreeMap<Of, Sums>, uptime: Duration, input: &MetricsInput<'_>) -> String {
    let mut text = Text::default();
    requests(&mut text, models);
    first_byte(&mut text, models);
    text.about("sigorest_in_flight", "gauge", "Requests that run now.");
    text.line("sigorest_in_flight", &[], input.in_flight);
    text.about("sigorest_breaker_state", "gauge", "Breaker of a target: 0 closed, 1 half open, 2 open.");
    for breaker in input.breakers {
        let state = match breaker.details.state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        text.line("sigorest_breaker_state", &[("target", &breaker.target)], state);
    }
    channels(&mut text, input.channels);
    plugins(&mut text, input.plugins);
    text.about("sigorest_build_info", "gauge", "Always 1; the label tells the version.");
    text.line("sigorest_build_info", &[("version", input.version)], 1);
    text.about("sigorest_uptime_seconds", "gauge", "Time since the start.");
    text.line("sigorest_uptime_seconds", &[], uptime.as_secs());
    text.0
}

fn requests(text: &mut Text, models: &BTreeMap<Of, Sums>) {
    text.about("sigorest_requests_total", "counter", "Requests that ended.");
    for ((model, provider), sums) in models {
        for (status, requests) in &sums.statuses {
            let labels = [("model", &**model), ("provider", provider), ("status", &status.to_string())];
            text.line("sigorest_requests_total", &labels, requests);
        }
    }
    text.about(
        "sigorest_tokens_total",
        "counter",
        "Tokens; cached_input is part of input, reasoning of output.",
    );
    for ((model, provider), sums) in models.iter().filter(|((model, _), _)| !model.is_empty()) {
        for (kind, tokens) in [
            ("input", sums.input),
            ("output", sums.output),
            ("cached_input", sums.cached),
            ("reasoning", sums.reasoning),
        ] {
            let labels = [("model", &**model), ("provider", provider), ("kind", kind)];
            text.line("sigorest_tokens_total", &labels, tokens);
        }
    }
    text.about("sigorest_cost_usd_total", "counter", "USD, where the price is known.");
    for ((model, provider), sums) in models.iter().filter(|(_, sums)| sums.priced > 0) {
        let labels = [("model", &**model), ("provider", &**provider)];
        text.line("sigorest_cost_usd_total", &labels, super::nano(sums.cost_usd));
    }
}

fn first_byte(text: &mut Text, models: &BTreeMap<Of, Sums>) {
    const NAME: &str = "sigorest_time_to_first_byte_seconds";
    text.about(NAME, "histogram", "From a request's arrival to the first byte of its answer.");
    for ((model, provider), sums) in models.iter().filter(|(_, sums)| sums.first_byte.count > 0) {
        let (labels, times) = ([("model", &**model), ("provider", &**provider)], &sums.first_byte);
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(times.counts) {
            below += count;
            text.line(&format!("{NAME}_bucket"), &[labels[0], labels[1], ("le", &bound.to_string())], below);
        }
        text.line(&format!("{NAME}_bucket"), &[labels[0], labels[1], ("le", "+Inf")], times.count);
        text.line(&format!("{NAME}_sum"), &labels, times.sum.as_secs_f64());
        text.line(&format!("{NAME}_count"), &labels, times.count);
    }
}

fn channels(text: &mut Text, channels: &[Row]) {
    text.about("sigorest_channel_state", "gauge", "1 for the state that a key of a provider is in, else 0.");
    for row in channels {
        for state in STATES {
            let labels = [("provider", &*row.provider), ("channel", &row.name), ("state", state)];
            text.line("sigorest_channel_state", &labels, u8::from(row.state == state));
        }
    }
    text.about("sigorest_channel_errors", "gauge", "Errors of a key since its last success.");
    for row in channels {
        let labels = [("provider", &*row.provider), ("channel", &row.name)];
        text.line("sigorest_channel_errors", &labels, row.consecutive_errors);
    }
}

fn plugins(text: &mut Text, plugins: &[PluginMetrics<'_>]) {
    text.about("sigorest_plugin_faults_total", "counter", "Faults of a plugin itself.");
    for plugin in plugins {
        text.line("sigorest_plugin_faults_total", &[("plugin", plugin.plugin)], plugin.faults);
    }
    let about = "Loaded versions of a plugin; the code of all stays in memory, about half a megabyte each.";
    text.about("sigorest_plugin_generations", "gauge", about);
    for plugin in plugins {
        for (state, count) in plugin.generations {
            text.line("sigorest_plugin_generations", &[("plugin", plugin.plugin), ("state", state)], count);
        }
    }
    const NAME: &str = "sigorest_plugin_step_cpu_seconds";
    text.about(NAME, "summary", "Processor time of one call into a plugin.");
    for plugin in plugins {
        for (quantile, time) in plugin.step_cpu_quantiles {
            let labels = [("plugin", plugin.plugin), ("quantile", &quantile.to_string())];
            text.line(NAME, &labels, time.as_secs_f64());
        }
        text.line(&format!("{NAME}_sum"), &[("plugin", plugin.plugin)], plugin.step_cpu.as_secs_f64());
        text.line(&format!("{NAME}_count"), &[("plugin", plugin.plugin)], plugin.steps);
    }
}
