//! Calling upstream again, or not: by what went wrong.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Recorded, Reply, Server, Upstream, completion, gateway};

fn server(upstream: &Upstream) -> Server {
    gateway().provider("mammouth", &upstream.url("/v1")).start()
}

fn ask(server: &Server, retries: u32) -> Reply {
    server
        .chat(&json!({"model": "gpt41", "retries": retries, "messages": [{"role": "user", "content": "x"}]}))
}

fn error(kind: &str, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
}

/// Answers the first `count` requests by `fault`, then well.
fn failing(count: usize, fault: impl Fn(&mut Answer<'_>) + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |request: &Recorded, answer| {
        if request.number < count { fault(answer) } else { answer.json(200, &completion("fine")) }
    })
}

#[test]
fn what_may_pass_is_tried_again() {
    type Fault = fn(&mut Answer<'_>);
    let faults: [(&str, Fault); 11] = [
        ("500", |answer| answer.json(500, &error("server_error", "x"))),
        ("502", |answer| answer.whole(502, &[("content-type", "text/html")], b"<html>bad gateway</html>")),
        ("503", |answer| answer.json(503, &error("server_error", "x"))),
        ("529", |answer| answer.json(529, &error("overloaded_error", "x"))),
        ("408", |answer| answer.json(408, &error("timeout", "x"))),
        ("425", |answer| answer.json(425, &error("too_early", "x"))),
        ("reset", |answer| answer.reset()),
        ("garbage", |answer| {
            answer.raw(b"not http at all\r\n\r\n").close();
        }),
        ("a page", |answer| answer.whole(200, &[("content-type", "text/html")], b"<html>welcome</html>")),
        ("no JSON", |answer| answer.whole(200, &[("content-type", "application/json")], b"{\"id\":")),
        ("a short body", |answer| {
            answer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\"").close();
        }),
    ];
    for (name, fault) in faults {
        let upstream = failing(1, fault);
        let reply = ask(&server(&upstream), 3);
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(upstream.requests().len(), 2, "{name}");
        let bodies: Vec<String> = upstream.requests().iter().map(Recorded::text).collect();
        assert_eq!(bodies[0], bodies[1], "{name}");
    }
}

#[test]
fn spent_retries_end_in_a_status_that_tells_sdks_to_stop() {
    for (upstream_status, status) in [(500, 502), (502, 502), (504, 502), (503, 503), (529, 503)] {
        let upstream = Upstream::json(upstream_status, error("server_error", "details of theirs"));
        let reply = ask(&server(&upstream), 1);
        reply.error(status);
        assert_eq!(reply.header("x-should-retry"), Some("false"), "{upstream_status}");
        assert_eq!(upstream.requests().len(), 2, "{upstream_status}");
    }
    let server = gateway().provider("mammouth", &Upstream::nobody()).start();
    let reply = ask(&server, 0);
    reply.error(502);
    assert_eq!(reply.header("x-should-retry"), Some("false"));
}

#[test]
fn no_retries_means_one_attempt() {
    let upstream = Upstream::json(500, error("server_error", "x"));
    ask(&server(&upstream), 0).error(502);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_callers_own_mistakes_are_told_and_not_repeated() {
    for status in [400, 413, 422] {
        let upstream = Upstream::json(status, error("invalid_request_error", "the field `foo` is wrong"));
        let reply = ask(&server(&upstream), 3);
        let told = reply.error(status);
        assert!(told["message"].as_str().expect("text").contains("`foo` is wrong"), "{told}");
        assert_eq!(upstream.requests().len(), 1, "{status}");
        assert_eq!(reply.header("x-should-retry"), Some("false"), "{status}");
    }
    let upstream = Upstream::json(404, error("invalid_request_error", "no such model"));
    assert_eq!(ask(&server(&upstream), 3).error(404)["code"], "model_not_found");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_refused_key_names_the_variable_to_check() {
    for status in [401, 403] {
        let upstream =
            Upstream::json(status, error("auth_error", "key sk-test-0123456789abcdef of account 77 is bad"));
        let reply = ask(&server(&upstream), 3);
        let told = reply.error(502);
        assert_eq!(told["code"], "provider_key");
        let message = told["message"].as_str().expect("text");
        assert!(message.contains("MAMMOUTH_API_KEY"), "{message}");
        assert!(
            !reply.text().contains("sk-test") && !reply.text().contains("account 77"),
            "{}",
            reply.text()
        );
        assert_eq!(upstream.requests().len(), 1);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    let upstream = Upstream::saying("never");
    let server = gateway().env("MAMMOUTH_BASE_URL", upstream.url("/v1")).start();
    let told = ask(&server, 3).error(502);
    assert_eq!(told["code"], "provider_key");
    assert!(told["message"].as_str().expect("text").contains("MAMMOUTH_API_KEY"), "{told}");
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_rate_limit_is_waited_for_within_the_callers_time() {
    let upstream = failing(1, |answer| {
        answer.whole(
            429,
            &[("content-type", "application/json"), ("retry-after-ms", "200")],
            error("rate_limit_error", "slow").to_string().as_bytes(),
        );
    });
    let start = Instant::now();
    assert_eq!(ask(&server(&upstream), 3).status, 200);
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());

    // A wait past the caller's timeout is not begun.
    let upstream = failing(99, |answer| {
        answer.whole(
            429,
            &[("content-type", "application/json"), ("retry-after", "600")],
            error("rate_limit_error", "slow").to_string().as_bytes(),
        );
    });
    let server = server(&upstream);
    let reply =
        server.chat(&json!({"model": "gpt41", "timeout": 5, "messages": [{"role": "user", "content": "x"}]}));
    reply.error(429);
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((500..=600).contains(&wait), "{wait}");
    assert_eq!(reply.header("x-should-retry"), None);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_rate_limit_without_a_time_is_tried_again_and_told_with_one() {
    let upstream = Upstream::json(429, error("rate_limit_error", "slow"));
    let reply = ask(&server(&upstream), 1);
    reply.error(429);
    assert!(reply.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok()));
    assert_eq!(upstream.requests().len(), 2);
    // A date does as well as seconds.
    let upstream = failing(9, |answer| {
        let headers =
            [("content-type", "application/json"), ("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT")];
        answer.whole(429, &headers, error("rate_limit_error", "slow").to_string().as_bytes());
    });
    let reply = ask(&server(&upstream), 3);
    reply.error(429);
    assert!(
        reply.header("retry-after").and_then(|wait| wait.parse().ok()).is_some_and(|wait: u64| wait > 180)
    );
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_empty_purse_is_not_a_rate_limit() {
    let body = json!({"error": {"message": "ExceededBudget: User=secret-user over budget. Spend=4.1, Budget=4.0", "type": "budget_exceeded", "param": null, "code": "429"}});
    let upstream = Upstream::json(429, body);
    let reply = ask(&server(&upstream), 3);
    assert_eq!(reply.error(429)["code"], "insufficient_quota");
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.requests().len(), 1);
    assert!(!reply.text().contains("secret-user"), "{}", reply.text());
}

#[test]
fn the_timeout_bounds_the_whole_call() {
    let upstream = Upstream::start(|_, answer| {
        assert!(answer.wait_for_hang_up());
    });
    let server = server(&upstream);
    let start = Instant::now();
    let reply =
        server.chat(&json!({"model": "gpt41", "timeout": 1, "messages": [{"role": "user", "content": "x"}]}));
    reply.error(504);
    assert!(
        start.elapsed() >= Duration::from_millis(900) && start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(reply.header("x-should-retry"), Some("false"));
}

#[test]
fn a_caller_who_leaves_ends_a_call_that_waits() {
    let (sender, gone) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let upstream = Upstream::start(move |_, answer| {
        assert!(answer.wait_for_hang_up());
        sender.lock().expect("the channel").send(()).expect("the test waits");
    });
    let server = server(&upstream);
    let mut caller = server.connect();
    caller.start(
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"gpt41","messages":[{"role":"user","content":"x"}]}"#,
    );
    upstream.wait_for(0);
    caller.hang_up();
    gone.recv_timeout(Duration::from_secs(10)).expect("the upstream's connection closes");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn redirects_are_not_followed() {
    let other = Upstream::saying("never");
    let to = other.url("/v1/chat/completions");
    let upstream = Upstream::start(move |_, answer| answer.whole(307, &[("location", &to)], b""));
    let reply = ask(&server(&upstream), 0);
    assert_eq!(reply.status, 502);
    assert!(other.requests().is_empty());
}

#[test]
fn connections_are_used_again() {
    let upstream = Upstream::saying("hi");
    let server = server(&upstream);
    for _ in 0..5 {
        assert_eq!(ask(&server, 0).status, 200);
    }
    let mut connections: Vec<usize> = upstream.requests().iter().map(|request| request.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    // Each thread, of which there is one a core, keeps connections of its own.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    assert!(connections.len() <= threads, "{connections:?}");
}

#[test]
fn a_pooled_connection_that_died_costs_no_caller_anything() {
    // Closes each connection after its answer, without saying so.
    let upstream = Upstream::start(|_, answer| {
        answer.json(200, &completion("hi"));
        answer.close();
    });
    let server = server(&upstream);
    for _ in 0..5 {
        assert_eq!(ask(&server, 1).status, 200);
    }
}
