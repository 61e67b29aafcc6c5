//! Failing over between the keys of one provider.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Recorded, Reply, Server, Setup, Upstream, eventually, gateway, say};

/// The keys of the tests, in the order in which they are used.
const KEYS: [&str; 3] = ["sk-first-0123456789", "sk-second-0123456789", "sk-third-0123456789"];

/// A gateway with three keys for one provider.
fn three(upstream: &Upstream) -> Setup {
    let [first, second, third] = KEYS;
    gateway()
        .plugins(&["echo", "mammouth"])
        .env("MAMMOUTH_BASE_URL", upstream.url("/v1"))
        .env("MAMMOUTH_API_KEY", first)
        .env("MAMMOUTH_API_KEY_0", second)
        .env("MAMMOUTH_API_KEY_7", third)
}

/// Which of the keys a request came with.
fn key(request: &Recorded) -> usize {
    let sent = request.header("authorization").expect("a key");
    KEYS.iter().position(|key| sent == format!("Bearer {key}")).expect("one of the keys")
}

/// The keys of all requests so far.
fn keys(upstream: &Upstream) -> Vec<usize> {
    upstream.requests().iter().map(key).collect()
}

/// Answers each key in its own way, well where `fault` says nothing.
fn by_key(fault: impl Fn(usize, &mut Answer<'_>) -> bool + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |request: &Recorded, answer| {
        if !fault(key(request), answer) {
            say(request, answer, "fine");
        }
    })
}

fn body(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
}

fn ask(server: &Server) -> Reply {
    server.chat(&body("gpt41"))
}

fn ask_once(server: &Server) -> Reply {
    let mut body = body("gpt41");
    body["retries"] = 0.into();
    server.chat(&body)
}

fn error(status: u16, answer: &mut Answer<'_>) {
    answer.json(
        status,
        &json!({"error": {"message": "no", "type": "some_error", "param": null, "code": null}}),
    );
}

fn limited(answer: &mut Answer<'_>, after: &str) {
    let body = json!({"error": {"message": "slow down", "type": "rate_limit_error"}}).to_string();
    answer.whole(429, &[("content-type", "application/json"), ("retry-after", after)], body.as_bytes());
}

fn channel(server: &Server, name: &str) -> Value {
    let reply = server.get(&format!("/api/channels/mammouth/{name}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn order(server: &Server, name: &str, order: &str) -> Value {
    let reply = server.send("POST", &format!("/api/channels/mammouth/{name}/{order}"), &[], "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn each_key_is_a_channel_and_the_first_is_used_as_long_as_it_works() {
    let upstream = Upstream::saying("hi");
    let server = three(&upstream).start();
    for _ in 0..4 {
        assert_eq!(ask(&server).status, 200);
    }
    assert_eq!(keys(&upstream), [0, 0, 0, 0]);
    let reply = server.get("/api/channels");
    let all = reply.json();
    let mine: Vec<&Value> =
        all.as_array().expect("a list").iter().filter(|row| row["provider"] == "mammouth").collect();
    let names: Vec<_> = mine.iter().map(|row| (row["name"].as_str(), row["full_name"].as_str())).collect();
    assert_eq!(
        names,
        [
            (Some("default"), Some("mammouth-default")),
            (Some("0"), Some("mammouth-0")),
            (Some("7"), Some("mammouth-7"))
        ]
    );
    for row in mine {
        assert_eq!(
            (&row["active"], &row["healthy"], &row["state"]),
            (&json!(true), &json!(true), &json!("ok"))
        );
        assert_eq!((&row["consecutive_errors"], &row["last_error"]), (&json!(0), &Value::Null), "{row}");
        assert_eq!((&row["min_interval_ms"], &row["paused_until"]), (&json!(0), &Value::Null), "{row}");
    }
    // A provider that needs no key has one channel without one.
    let echo = all.as_array().expect("a list").iter().find(|row| row["provider"] == "echo").expect("echo");
    assert_eq!((&echo["name"], &echo["healthy"]), (&json!("default"), &json!(true)));
    assert!(!reply.text().contains("sk-"), "{}", reply.text());
    assert_eq!(channel(&server, "mammouth-7"), channel(&server, "7"));
    server.get("/api/channels/mammouth/1").error(404);
    server.get("/api/channels/nobody/0").error(404);
}

#[test]
fn keys_come_from_files_and_credentials_too() {
    let upstream = Upstream::saying("hi");
    let setup = gateway()
        .plugins(&["echo", "mammouth"])
        .file("first", format!("{}\n", KEYS[0]))
        .file("credentials/MAMMOUTH_API_KEY_3", KEYS[1])
        .file("named.key", KEYS[2])
        .config("[provider.mammouth.channels.spare]\nkey_file = \"named.key\"\n");
    let (first, credentials) = (setup.path().join("first"), setup.path().join("credentials"));
    let server = setup
        .env("MAMMOUTH_BASE_URL", upstream.url("/v1"))
        .env("MAMMOUTH_API_KEY_0_FILE", first.to_string_lossy())
        .env("CREDENTIALS_DIRECTORY", credentials.to_string_lossy())
        .start();
    for (name, position) in [("0", 0), ("3", 1), ("spare", 2)] {
        assert_eq!(ask(&server).status, 200);
        assert_eq!(keys(&upstream).last(), Some(&position));
        order(&server, name, "disable");
    }
}

#[test]
fn a_refused_key_takes_its_channel_out_and_the_next_one_answers() {
    let upstream = by_key(|key, answer| {
        if key == 0 {
            error(401, answer);
        }
        key == 0
    });
    let server = three(&upstream).start();
    let reply = ask(&server);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(ask(&server).status, 200);
    assert_eq!(keys(&upstream), [0, 1, 1], "the refused key is asked once");
    server.logged_with(&["WARN", "MAMMOUTH_API_KEY", "mammouth-default"]);
    let row = channel(&server, "default");
    assert_eq!(
        (&row["state"], &row["healthy"], &row["active"]),
        (&json!("auth"), &json!(false), &json!(true))
    );
    assert_eq!(row["consecutive_errors"], 1);
    let health = server.get("/api/health").json();
    assert!(health["reasons"].to_string().contains("MAMMOUTH_API_KEY"), "{health}");
    order(&server, "default", "enable");
    assert_eq!(ask(&server).status, 200);
    assert_eq!(keys(&upstream), [0, 1, 1, 0, 1], "enabled by hand, it is tried again");
    assert!(!server.log().contains("sk-"), "{}", server.log());
}

#[test]
fn attempts_are_never_more_than_retries_and_one() {
    let upstream = by_key(|_, answer| {
        error(401, answer);
        true
    });
    let server = three(&upstream).start();
    let told = ask_once(&server).error(502);
    assert_eq!((upstream.requests().len(), &told["code"]), (1, &json!("provider_key")));
    assert!(told["message"].as_str().expect("text").contains("check MAMMOUTH_API_KEY"), "{told}");
    let told = ask(&server).error(502);
    assert_eq!((keys(&upstream), &told["code"]), (vec![0, 1, 2], &json!("provider_key")));
    let reply = ask(&server);
    let told = reply.error(502)["message"].to_string();
    for part in ["MAMMOUTH_API_KEY", "SIGHUP", "POST /api/channels/mammouth/default/enable"] {
        assert!(told.contains(part), "the way back: {told}");
    }
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.requests().len(), 3, "all channels are out");
    server.logged_with(&["WARN", "mammouth-default", "SIGHUP", "/enable"]);
}

#[test]
fn a_changed_key_brings_its_channel_back_at_the_reload() {
    let upstream = by_key(|key, answer| {
        if key == 0 {
            error(403, answer);
        }
        key == 0
    });
    let server = gateway()
        .plugins(&["echo", "mammouth"])
        .env("MAMMOUTH_BASE_URL", upstream.url("/v1"))
        .file("key", KEYS[0])
        .config("[provider.mammouth]\nkey_file = \"key\"\n")
        .start();
    ask(&server).error(502);
    ask(&server).error(502);
    assert_eq!(keys(&upstream), [0]);
    server.reload();
    server.logged("reloaded");
    ask(&server).error(502);
    assert_eq!(keys(&upstream), [0], "the same key is refused as before");
    std::fs::write(server.data().join("key"), KEYS[1]).expect("a key");
    server.reload();
    eventually("the new key", || (ask(&server).status == 200).then_some(()));
    assert_eq!(channel(&server, "default")["state"], "ok");
}

#[test]
fn an_empty_account_is_left_alone_with_all_its_channels() {
    let upstream = by_key(|_, answer| {
        answer.json(429, &json!({"error": {"message": "ExceededBudget: User=u1 over budget", "type": "budget_exceeded", "code": "429"}}));
        true
    });
    let server = three(&upstream).start();
    for _ in 0..3 {
        let reply = ask(&server);
        assert_eq!(reply.error(429)["code"], "insufficient_quota");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    assert_eq!(keys(&upstream), [0], "neither repeated nor spread");
    assert_eq!(channel(&server, "7")["state"], "quota");
    server.logged_with(&["WARN", "budget", "mammouth"]);
    order(&server, "0", "enable");
    assert_eq!(channel(&server, "7")["state"], "ok");
}

#[test]
fn metrics_show_how_each_channel_stands_and_no_key() {
    let upstream = by_key(|key, answer| {
        if key == 0 {
            error(401, answer);
        }
        key == 0
    });
    let server = three(&upstream).start();
    assert_eq!(ask(&server).status, 200);
    order(&server, "7", "disable");
    let metrics = server.get("/metrics").text();
    for (channel, state, value) in
        [("default", "auth", 1), ("default", "ok", 0), ("0", "ok", 1), ("7", "disabled", 1), ("7", "ok", 0)]
    {
        let line = format!(
            "sigorest_channel_state{{provider=\"mammouth\",channel=\"{channel}\",state=\"{state}\"}} {value}"
        );
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert!(
        metrics.contains("sigorest_channel_errors{provider=\"mammouth\",channel=\"default\"} 1"),
        "{metrics}"
    );
    assert!(!KEYS.iter().any(|key| metrics.contains(key)) && !metrics.contains("sk-"), "{metrics}");
}

#[test]
fn a_rate_limit_pauses_its_channel_and_the_next_answers_at_once() {
    let upstream = by_key(|key, answer| {
        if key < 2 {
            limited(answer, if key == 0 { "40" } else { "50" });
        }
        key < 2
    });
    let server = three(&upstream).start();
    let start = Instant::now();
    assert_eq!(ask(&server).status, 200);
    assert_eq!(ask_once(&server).status, 200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(keys(&upstream), [0, 1, 2, 2]);
    assert_eq!(channel(&server, "default")["state"], "paused");
    assert!(channel(&server, "default")["paused_until"].is_string());
    order(&server, "7", "disable");
    let reply = ask_once(&server);
    assert_eq!(reply.error(429)["code"], "rate_limit_exceeded");
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((30..=40).contains(&wait), "{wait}");
    assert_eq!(reply.header("x-should-retry"), None);
    assert_eq!(upstream.requests().len(), 4, "a paused channel is not asked");
}

#[test]
fn one_bad_request_never_spreads_over_the_keys() {
    for status in [400, 404, 413, 422, 500] {
        let upstream = by_key(move |_, answer| {
            error(status, answer);
            true
        });
        let server = three(&upstream).start();
        assert_ne!(ask(&server).status, 200);
        let expected = if status == 500 { 4 } else { 1 };
        assert_eq!(keys(&upstream), vec![0; expected], "{status}");
        assert_eq!(channel(&server, "default")["state"], "ok", "{status}");
    }
}

#[test]
fn each_channel_has_its_own_breaker() {
    let upstream = by_key(|key, answer| {
        if key == 0 {
            error(500, answer);
        }
        key == 0
    });
    let server = three(&upstream).start();
    for _ in 0..5 {
        ask_once(&server).error(502);
    }
    assert_eq!(ask_once(&server).status, 200);
    assert_eq!(keys(&upstream), [0, 0, 0, 0, 0, 1]);
    let health = server.get("/api/health").json();
    let open: Vec<&Value> = health["circuit_breakers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|breaker| breaker["open"] == true)
        .collect();
    assert_eq!((open.len(), &open[0]["model"]), (1, &json!("gpt41")), "{health}");
    // Another model on the same key is not touched.
    let mut other = body("claude-h");
    other["retries"] = 0.into();
    server.chat(&other).error(502);
    assert_eq!(keys(&upstream).last(), Some(&0));
}

#[test]
fn a_pace_is_waited_for_then_the_next_channel_then_the_caller_is_told() {
    let upstream = Upstream::saying("hi");
    let server = gateway()
        .plugins(&["echo", "mammouth"])
        .env("MAMMOUTH_BASE_URL", upstream.url("/v1"))
        .env("MAMMOUTH_API_KEY", KEYS[0])
        .env("MAMMOUTH_API_KEY_0", KEYS[1])
        .config(
            "[provider.mammouth.channels]\nmin_interval_ms = 60000\nmax_wait_ms = 0\n\
             [provider.mammouth.channels.0]\nmin_interval_ms = 300\nmax_wait_ms = 350\n",
        )
        .start();
    assert_eq!(ask(&server).status, 200);
    let start = Instant::now();
    assert_eq!(ask(&server).status, 200);
    assert_eq!(ask(&server).status, 200);
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(keys(&upstream), [0, 1, 1]);
    order(&server, "mammouth-0", "disable");
    let reply = ask(&server);
    assert_eq!(reply.error(429)["code"], "rate_limit_exceeded");
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((30..=60).contains(&wait), "{wait}");
    let row = channel(&server, "0");
    assert_eq!((&row["min_interval_ms"], &row["max_wait_ms"]), (&json!(300), &json!(350)));
}

#[test]
fn what_is_switched_off_by_hand_stays_off() {
    let upstream = Upstream::saying("hi");
    let server = three(&upstream).start();
    let row = order(&server, "default", "disable");
    assert_eq!(
        (&row["active"], &row["enabled"], &row["state"]),
        (&json!(false), &json!(false), &json!("disabled"))
    );
    assert_eq!(ask(&server).status, 200);
    server.reload();
    server.logged("reloaded");
    assert_eq!(ask(&server).status, 200);
    let server = server.restart();
    assert_eq!(ask(&server).status, 200);
    assert_eq!(keys(&upstream), [1, 1, 1]);
    let file: Value =
        serde_json::from_slice(&std::fs::read(server.data().join("channels.json")).expect("the file"))
            .expect("JSON");
    assert_eq!(file["providers"]["mammouth"]["default"]["active"], false);

    order(&server, "0", "disable");
    order(&server, "7", "disable");
    let reply = ask(&server);
    assert_eq!(reply.error(503)["code"], "channel_disabled");
    assert_eq!(upstream.requests().len(), 3);
    order(&server, "7", "enable");
    assert_eq!(ask(&server).status, 200);
    assert_eq!(keys(&upstream).last(), Some(&2));
}

#[test]
fn switching_is_for_administrators_and_every_path_says_its_methods() {
    let upstream = Upstream::saying("hi");
    let server = three(&upstream).config("[access]\nadmin = [\"127.0.0.77\"]\n").start();
    server.send("POST", "/api/channels/mammouth/0/disable", &[], "").error(403);
    assert_eq!(channel(&server, "0")["enabled"], true);
    let server = three(&upstream).start();
    for (method, path, allow) in [
        ("POST", "/api/channels", "GET, HEAD"),
        ("DELETE", "/api/channels/mammouth/0", "GET, HEAD"),
        ("GET", "/api/channels/mammouth/0/enable", "POST"),
    ] {
        let reply = server.send(method, path, &[], "");
        reply.error(405);
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
    }
    server.send("POST", "/api/channels/mammouth/5/enable", &[], "").error(404);
    let help = server.get("/api/help").text();
    assert!(help.contains("/api/channels/{provider}/{name}/disable"), "{help}");
}

#[test]
fn mistakes_in_the_settings_are_shown_with_what_was_meant() {
    let setup = gateway().config(
        "[fallback]\nx = 1\n[provider.mammouth.channels]\nmin_intervall_ms = 5\n\
         [provider.mammouth.channels.0]\nmax_wait = 5\nmin_interval_ms = -1\n",
    );
    let output = setup.args(&["check"]).run();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    for meant in
        ["did you mean `fallbacks`?", "did you mean `min_interval_ms`?", "did you mean `max_wait_ms`?"]
    {
        assert!(text.contains(meant), "{meant}: {text}");
    }
    let upstream = Upstream::saying("hi");
    let server = three(&upstream).config("[fallbacks]\ngpt41 = [\"claude-x\"]\n").start();
    server.logged_with(&["WARN", "claude-x", "claude-h"]);
    assert_eq!(ask(&server).status, 200);
}
