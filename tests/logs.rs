//! The log: one line a request, nothing of what was said in it.

use serde_json::{Value, json};

use crate::harness::{KEY, Upstream, gateway};

fn ask() -> Value {
    json!({"model": "gpt41", "messages": [{"role": "user", "content": "the secret prompt"}]})
}

#[test]
fn one_line_a_request_with_its_facts() {
    let upstream = Upstream::saying("the secret answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).args(&["-j", "-v", "debug"]).start();
    let reply = server.chat(&ask());
    let id = reply.header("x-request-id").expect("an id").to_owned();
    server.logged(&id);
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    let level = |line: &Value| line["level"].as_str().unwrap_or("").to_lowercase();
    let ended: Vec<&Value> =
        lines.iter().filter(|line| level(line) == "info" && line.to_string().contains(&id)).collect();
    assert_eq!(ended.len(), 1, "{log}");
    let text = ended[0].to_string();
    for wanted in ["gpt41", "mammouth", "127.0.0.1", "200"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    for secret in ["secret prompt", "secret answer", KEY] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn text_is_the_default_and_quiet_is_quiet() {
    let server = gateway().start();
    server.chat(&json!({"model": "echo", "messages": [{"role": "user", "content": "x"}]}));
    let line = server.logged("model=echo");
    assert!(line.contains("INFO") && serde_json::from_str::<Value>(&line).is_err(), "{line}");

    let server = gateway().args(&["-q"]).start();
    server.chat(&json!({"model": "echo", "messages": [{"role": "user", "content": "x"}]}));
    server.chat(&json!({"model": "nothing", "messages": [{"role": "user", "content": "x"}]})).error(404);
    assert_eq!(server.log(), "");
}

#[test]
fn control_characters_cannot_forge_lines() {
    let server = gateway().start();
    server.chat(&json!({"model": "evil\n2026-01-01 ERROR forged \u{1b}[31m\u{7f}", "messages": []}));
    server.send("GET", "/v1/models/a%0Ab%1b%5B31m", &[("x-request-id", "a\u{1}b")], "");
    server.get("/ping");
    let log = server.log();
    assert!(!log.contains('\u{1b}') && !log.contains('\u{7f}'), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01 ERROR")), "{log}");
}

#[test]
fn failures_are_logged_once_too() {
    let upstream = Upstream::json(500, json!({"error": {"message": "down", "type": "server_error"}}));
    let server = gateway().provider("mammouth", &upstream.url("/v1")).args(&["-j"]).start();
    let mut body = ask();
    body["retries"] = json!(0);
    let id = server.chat(&body).header("x-request-id").expect("an id").to_owned();
    server.logged(&id);
    let log = server.log();
    let ended = log.lines().filter(|line| line.contains(&id) && line.contains("502")).count();
    assert_eq!(ended, 1, "{log}");
}
