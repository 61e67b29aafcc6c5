//! One shape for every refusal, with the statuses that SDKs map to their exceptions.

use serde_json::json;

use crate::harness::{PATIENCE, Upstream, gateway};

#[test]
fn unknown_paths_and_methods() {
    let server = gateway().start();
    for path in ["/", "/v1", "/v1/nothing", "/api/nothing", "/v1/chat/completions/x", "/api/health/"] {
        server.get(path).error(404);
    }
    for (method, path, allowed) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("PUT", "/v1/embeddings", "POST"),
        ("PATCH", "/api/health", "GET"),
        ("DELETE", "/api/models", "GET"),
    ] {
        let reply = server.send(method, path, &[], "");
        reply.error(405);
        assert!(reply.header("allow").is_some_and(|allow| allow.contains(allowed)), "{method} {path}");
        assert!(reply.header("x-request-id").is_some());
    }
}

#[test]
fn every_answer_has_its_own_id() {
    let server = gateway().start();
    let mut ids: Vec<String> = ["/ping", "/api/health", "/nothing", "/v1/models", "/metrics", "/api/help"]
        .map(|path| server.get(path).header("x-request-id").unwrap_or_else(|| panic!("{path}")).to_owned())
        .to_vec();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[test]
fn bodies_need_a_json_type_and_a_plain_encoding() {
    let server = gateway().start();
    let body = r#"{"model":"echo","messages":[{"role":"user","content":"x"}]}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        server.send("POST", "/v1/chat/completions", &[("content-type", kind)], body).error(415);
        server.send("PUT", "/api/memory", &[("content-type", kind)], r#"{"content":"x"}"#).error(415);
    }
    let length = body.len().to_string();
    server
        .send("POST", "/v1/chat/completions", &[("content-type", ""), ("content-length", &length)], body)
        .error(415);
    server.send("POST", "/v1/chat/completions", &[("content-encoding", "gzip")], body).error(415);
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        assert_eq!(
            server.send("POST", "/v1/chat/completions", &[("content-type", kind)], body).status,
            200,
            "{kind}"
        );
    }
}

#[test]
fn large_bodies_are_refused_before_they_are_read() {
    let server = gateway().config("[limits]\nmax_body_bytes = 1000\n").start();
    let mut caller = server.connect();
    caller.start(
        "POST",
        "/v1/chat/completions",
        &[("content-type", "application/json"), ("content-length", "100000000")],
        b"",
    );
    caller.reply().error(413);
    // Without a length, when too much has come.
    let mut caller = server.connect();
    caller.start(
        "POST",
        "/v1/chat/completions",
        &[("content-type", "application/json"), ("transfer-encoding", "chunked")],
        b"",
    );
    let piece = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    let _ = caller.try_write(&piece);
    let _ = caller.try_write(&piece);
    caller.reply().error(413);
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "y".repeat(600)}]});
    assert_eq!(server.chat(&body).status, 200);
}

#[test]
fn a_chunked_body_is_read_whole() {
    let server = gateway().start();
    let body = r#"{"model":"echo","messages":[{"role":"user","content":"in pieces"}]}"#;
    let mut caller = server.connect();
    caller.start(
        "POST",
        "/v1/chat/completions",
        &[("content-type", "application/json"), ("transfer-encoding", "chunked")],
        b"",
    );
    for piece in body.as_bytes().chunks(7) {
        caller.write(format!("{:x}\r\n", piece.len())).write(piece).write("\r\n");
    }
    let reply = caller.write("0\r\n\r\n").reply();
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "in pieces");
}

#[test]
fn a_caller_who_stops_sending_is_not_waited_for() {
    let server = gateway().config("[limits]\nbody_idle_secs = 1\nheader_secs = 1\n").start();
    let mut caller = server.connect();
    caller.start(
        "POST",
        "/v1/chat/completions",
        &[("content-type", "application/json"), ("content-length", "500")],
        b"{",
    );
    caller.reply().error(408);
    assert!(caller.closed());
    for start in ["", "GET / HT", "GET /ping HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut caller = server.connect();
        caller.patience(PATIENCE).write(start);
        assert!(caller.closed(), "{start:?}");
    }
    assert_eq!(server.get("/ping").status, 200);
}

#[test]
fn what_is_not_http_harms_nothing() {
    let server = gateway().start();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GARBAGE\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nbad header\r\n\r\n",
        &[0; 100],
    ] {
        let mut caller = server.connect();
        let _ = caller.try_write(bytes);
        let _ = caller.try_write(b"\r\n\r\n");
        caller.hang_up();
    }
    assert_eq!(server.get("/ping").text().trim(), "pong");
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[test]
fn texts_of_upstream_are_passed_on_only_where_they_concern_the_caller() {
    let secret = "internal-host.example:8443 account acc-1 key sk-test-0123456789abcdef";
    for (status, kind) in
        [(500, "server_error"), (503, "server_error"), (401, "auth_error"), (429, "rate_limit_error")]
    {
        let upstream = Upstream::json(status, json!({"error": {"message": secret, "type": kind}}));
        let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
        let reply = server
            .chat(&json!({"model": "gpt41", "retries": 0, "messages": [{"role": "user", "content": "x"}]}));
        for word in ["internal-host", "acc-1", "sk-test"] {
            assert!(!reply.text().contains(word), "{status}: {}", reply.text());
        }
        assert!(!server.log().contains("sk-test"), "{status}");
    }
    // What does concern the caller still names no key.
    let upstream = Upstream::json(
        400,
        json!({"error": {"message": "the field `top_k` is unknown (key sk-test-0123456789abcdef)", "type": "invalid_request_error"}}),
    );
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply = server.chat(&json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]}));
    assert!(reply.text().contains("`top_k`") && !reply.text().contains("sk-test"), "{}", reply.text());
}

#[test]
fn a_full_house_says_when_to_come_back() {
    let upstream = Upstream::start(|_, answer| {
        answer.wait_for_hang_up();
    });
    let server =
        gateway().provider("mammouth", &upstream.url("/v1")).config("[limits]\nmax_in_flight = 1\n").start();
    let body = json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]});
    let mut first = server.connect();
    first.start("POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
    upstream.wait_for(0);
    let reply = server.chat(&body);
    reply.error(503);
    assert!(reply.header("retry-after").is_some());
    first.hang_up();
}
