//! Every decoder of bytes that others write, under mutated and random input: nothing panics, and what is
//! accepted keeps its promises. `make fuzz MINUTES=10` runs each target that long and tells the executions.

mod engine;
mod targets;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use engine::Fuzzer;
use targets::{Target, target};

/// How long each target runs: half a second, or what `make fuzz` says.
fn budget() -> Duration {
    let seconds = std::env::var("SIGOREST_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_millis(500), Duration::from_secs)
}

fn run(name: &str) {
    let Target { seeds, words, check, .. } = target(name);
    // A short run is the same each time; a long one looks for what is new.
    let long = std::env::var_os("SIGOREST_FUZZ_SECONDS").is_some();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let state = if long { now.as_nanos() as u64 } else { 1 };
    let mut fuzzer = Fuzzer::new(name, seeds, words, state);
    let executions = fuzzer.run(budget(), check);
    println!("{name}: {executions} executions, {} outcomes", fuzzer.outcomes());
}

#[test]
fn chat_requests() {
    run("chat");
}

#[test]
fn event_streams() {
    run("sse");
}

#[test]
fn json_lines() {
    run("ndjson");
}

#[test]
fn model_lists() {
    run("models.csv");
}

#[test]
fn memory_files() {
    run("memory");
}

#[test]
fn session_files() {
    run("session");
}

#[test]
fn host_headers_and_networks() {
    run("host");
}

#[test]
fn plugin_files() {
    run("plugin");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for name in targets::NAMES {
            (target(name).check)(&bytes);
        }
    }

    #[test]
    fn any_text(text in "[\\PC\\r\\n]{0,200}") {
        for name in targets::NAMES {
            (target(name).check)(text.as_bytes());
        }
    }
}
