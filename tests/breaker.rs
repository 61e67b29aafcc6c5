//! A target that keeps failing is left alone for a while, and always gets its chance again.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use serde_json::{Value, json};

use crate::harness::{Reply, Server, Upstream, completion, eventually, gateway};

fn ask(server: &Server, model: &str) -> Reply {
    server.chat(&json!({"model": model, "retries": 0, "messages": [{"role": "user", "content": "x"}]}))
}

/// Answers with the status that a test sets.
fn switched() -> (Arc<AtomicU16>, Upstream) {
    let status = Arc::new(AtomicU16::new(500));
    let now = Arc::clone(&status);
    let upstream = Upstream::start(move |_, answer| match now.load(Ordering::SeqCst) {
        200 => answer.json(200, &completion("fine")),
        status => answer.json(status, &json!({"error": {"message": "no", "type": "server_error"}})),
    });
    (status, upstream)
}

fn states(server: &Server) -> Vec<Value> {
    server.get("/api/health").json()["circuit_breakers"].as_array().expect("a list").clone()
}

#[test]
fn five_failures_open_it_for_that_target_alone() {
    let (_, upstream) = switched();
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    assert_eq!(states(&server), Vec::<Value>::new());
    for _ in 0..5 {
        ask(&server, "gpt41").error(502);
    }
    let reply = ask(&server, "gpt-4.1");
    reply.error(503);
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    assert_eq!(reply.header("x-should-retry"), None, "SDKs come back after the wait");
    assert_eq!(upstream.requests().len(), 5, "an open breaker asks nobody");
    ask(&server, "claude-h").error(502);
    assert_eq!(upstream.requests().len(), 6);

    let open: Vec<Value> = states(&server).into_iter().filter(|state| state["open"] == true).collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert!(open[0]["model"].as_str().expect("a model").contains("gpt"), "{open:?}");
    assert_eq!((&open[0]["failures"], &open[0]["details"]["state"]), (&json!(5), &json!("open")));
    assert_eq!(open[0]["details"]["threshold"], 5);
    let health = server.get("/api/health").json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(server.get("/metrics").text().contains("breaker"));
}

#[test]
fn each_attempt_counts() {
    let (_, upstream) = switched();
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let body = json!({"model": "gpt41", "retries": 10, "messages": [{"role": "user", "content": "x"}]});
    let reply = server.chat(&body);
    assert!(reply.status == 502 || reply.status == 503, "{}", reply.text());
    assert_eq!(upstream.requests().len(), 5, "the fifth attempt opened it");
}

#[test]
fn trials_close_it_again_and_always_give_their_slot_back() {
    let (status, upstream) = switched();
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .config("[breaker]\nfailures = 2\ncooldown_secs = 1\ntrials = 1\n")
        .start();
    ask(&server, "gpt41").error(502);
    ask(&server, "gpt41").error(502);
    ask(&server, "gpt41").error(503);
    // Trials that end in the caller's own mistakes count as nothing, and must not use the trials up.
    status.store(400, Ordering::SeqCst);
    for _ in 0..3 {
        eventually("a trial", || (ask(&server, "gpt41").status == 400).then_some(()));
    }
    status.store(200, Ordering::SeqCst);
    eventually("the end of the outage", || (ask(&server, "gpt41").status == 200).then_some(()));
    assert!(states(&server).iter().all(|state| state["open"] == false));
    assert_eq!(server.get("/api/health").json()["status"], "ok");
}

#[test]
fn what_is_not_the_providers_fault_never_opens_it() {
    for fault in [400, 401, 404, 422, 429] {
        let (status, upstream) = switched();
        status.store(fault, Ordering::SeqCst);
        let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
        for _ in 0..7 {
            ask(&server, "gpt41");
        }
        assert!(states(&server).iter().all(|state| state["open"] == false), "{fault}");
    }
}

#[test]
fn timeouts_and_refused_connections_count() {
    let server = gateway().provider("mammouth", &Upstream::nobody()).start();
    for _ in 0..5 {
        ask(&server, "gpt41").error(502);
    }
    ask(&server, "gpt41").error(503);
}
