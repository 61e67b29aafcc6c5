//! What the gateway tells about itself.

use serde_json::{Value, json};

use crate::harness::{Upstream, gateway};

#[test]
fn health_has_the_originals_fields_and_more() {
    let server = gateway().start();
    let reply = server.get("/api/health");
    assert_eq!(reply.status, 200);
    let health = reply.json();
    assert_eq!(health["status"], "ok", "a missing key is no reason: {health}");
    assert!(health["timestamp"].as_u64().is_some_and(|time| time > 1_700_000_000), "{health}");
    let models = server.get("/v1/models").json()["data"].as_array().map(Vec::len);
    assert_eq!(health["available_models"].as_u64(), models.map(|count| count as u64));
    assert_eq!((&health["circuit_breakers"], &health["memory_set"]), (&json!([]), &json!(false)));
    assert!(health["version"].is_string() && health["plugins"].is_array(), "{health}");
    assert!(health.as_object().expect("an object").keys().any(|name| name.contains("uptime")), "{health}");
}

#[test]
fn help_lists_every_endpoint_with_an_example() {
    let server = gateway().start();
    let help = server.get("/api/help").json();
    let endpoints = help["endpoints"].as_array().expect("endpoints");
    for path in [
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/models",
        "/api/models",
        "/api/health",
        "/api/memory",
        "/api/help",
        "/api/version",
        "/ping",
        "/api/usage",
        "/metrics",
    ] {
        let endpoint = endpoints.iter().find(|endpoint| endpoint["path"] == path);
        let endpoint = endpoint.unwrap_or_else(|| panic!("{path} in {help}"));
        for member in ["method", "description", "example"] {
            assert!(endpoint.get(member).is_some(), "{member} of {path}");
        }
    }
    let version = server.get("/api/version").json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server.get("/ping").text().trim(), "pong");
}

#[test]
fn usage_and_cost_are_counted_by_model() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let body = json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]});
    for _ in 0..2 {
        assert_eq!(server.chat(&body).status, 200);
    }
    let mut streamed = body;
    streamed["stream"] = json!(true);
    assert_eq!(server.chat(&streamed).status, 200);
    let usage = server.get("/api/usage").json();
    let model = &usage["by_model"]["gpt41"];
    let count =
        |value: &Value, name: &str| value[name].as_u64().unwrap_or_else(|| panic!("{name} in {usage}"));
    for part in [model, &usage["total"]] {
        assert_eq!(
            (count(part, "input_tokens"), count(part, "output_tokens"), count(part, "requests")),
            (30, 15, 3)
        );
    }
    // 10 prompt tokens at 2 USD and 5 answer tokens at 8 USD a million, three times.
    let cost = model["cost_usd"].as_f64().expect("a cost");
    assert!((cost - 3.0 * (10.0 * 2.0 + 5.0 * 8.0) / 1e6).abs() < 1e-12, "{cost}");
}

#[test]
fn metrics_are_in_prometheus_form() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    server.chat(&json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]}));
    server.chat(&json!({"model": "nothing", "messages": [{"role": "user", "content": "x"}]}));
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").expect("a type").starts_with("text/plain"));
    let text = reply.text();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (_, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let requests = text
        .lines()
        .find(|line| line.contains("requests_total") && line.contains("gpt41") && line.contains("200"));
    assert!(requests.is_some_and(|line| line.ends_with(" 1")), "{text}");
    for wanted in ["tokens", "cost", "in_flight", "first_byte", "plugin"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
}
