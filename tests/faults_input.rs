//! Requests that are wrong in every way: each is refused with words, and nothing else happens.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;

use crate::harness::{
    Connection, Reply, Steady, Upstream, completion, gateway, memory_peak, memory_settled, reset_memory_peak,
};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = r#""messages":[{"role":"user","content":"x"}]"#;

fn json_reply(server: &crate::harness::Server, body: impl AsRef<[u8]>) -> Reply {
    let headers = [("content-type", "application/json")];
    let body = body.as_ref();
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    all.push(("content-length", &length));
    server.connect().send("POST", CHAT, &all, body)
}

#[test]
fn bodies_that_are_no_request_are_a_400() {
    let server = gateway().start();
    let steady = Steady::over(&server, 96);
    let deep = |open: &str, close: &str| open.repeat(200_000) + &close.repeat(200_000);
    let mut cases: Vec<(String, Vec<u8>)> = [
        ("empty", ""),
        ("white", " \r\n\t "),
        ("half", "{\"model\":\"echo\",\"messages\":[{\"role\""),
        ("an array", "[]"),
        ("null", "null"),
        ("a number", "1e999999"),
        ("two objects", "{\"model\":\"echo\"}{}"),
        ("a comma too many", "{\"model\":\"echo\",}"),
        ("comments", "{/* no */\"model\":\"echo\"}"),
        ("an unpaired surrogate", "{\"model\":\"\\ud800\",\"messages\":[1]}"),
        ("a raw control character", "{\"model\":\"e\u{1}cho\",\"messages\":[1]}"),
        ("a NUL", "{\"model\":\"echo\u{0}\",\"messages\":[1]}"),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .to_vec();
    for field in [
        r#""model":7"#,
        r#""model":null"#,
        r#""model":["echo"]"#,
        r#""model":"""#,
        r#""model":"echo","model":"echo""#,
        r#""model":"echo","mod\u0065l":"gpt41""#,
        r#""model":"echo","stream":1"#,
        r#""model":"echo","stream":"true""#,
        r#""model":"echo","timeout":1e999"#,
        r#""model":"echo","timeout":-1"#,
        r#""model":"echo","timeout":99999999999999999999999999"#,
        r#""model":"echo","timeout":[1]"#,
        r#""model":"echo","retries":1.0"#,
        r#""model":"echo","retries":true"#,
        r#""model":"echo","session_id":7"#,
        r#""model":"echo","session_id":"../../etc/passwd""#,
        r#""model":"echo","session_id":"a\u0000b""#,
        r#""model":"echo","session_id":"a\r\nb""#,
        r#""model":"echo","system_prompt":{}"#,
        r#""model":"echo","messages":[]"#,
    ] {
        cases.push((field.to_owned(), format!("{{{MESSAGES},{field}}}").into_bytes()));
    }
    cases.push(("no messages".into(), br#"{"model":"echo"}"#.to_vec()));
    cases.push(("messages are an object".into(), br#"{"model":"echo","messages":{}}"#.to_vec()));
    cases.push(("not UTF-8".into(), b"{\"model\":\"echo\",\"messages\":[\"\xff\xfe\"]}".to_vec()));
    cases.push(("UTF-16".into(), b"\xff\xfe{\0}\0".to_vec()));
    cases.push(("a mark of byte order".into(), b"\xef\xbb\xbf{}".to_vec()));
    cases.push(("200,000 arrays".into(), deep("[", "]").into_bytes()));
    cases.push(("200,000 objects".into(), deep("{\"a\":", "}").into_bytes()));
    cases.push(("200,000 arrays, open".into(), "[".repeat(200_000).into_bytes()));
    for (case, body) in &cases {
        let reply = json_reply(&server, body);
        let error = reply.error(400);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{case}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() < 500), "{case}: {error}");
        steady.check_reply(case, &reply);
    }
    // Depth where the request may have it: whatever the model makes of it, the process stays.
    let inside = deep("[", "]");
    for body in [
        format!("{{\"model\":\"echo\",{MESSAGES},\"x\":{inside}}}"),
        format!("{{\"model\":\"echo\",\"messages\":[{{\"role\":\"user\",\"content\":{inside}}}]}}"),
        format!(
            "{{\"model\":\"echo\",\"session_id\":\"s\",\"messages\":[{{\"role\":\"user\",\"content\":{inside}}}]}}"
        ),
        format!("{{\"model\":\"echo\",\"messages\":{inside}}}"),
        format!("{{\"model\":\"echo\",\"stream\":true,\"stream_options\":{inside},{MESSAGES}}}"),
        format!("{{\"model\":\"echo\",{MESSAGES},\"tools\":{}}}", deep("{\"a\":", "}").replace(":}", ":1}")),
    ] {
        let reply = json_reply(&server, &body);
        assert!(matches!(reply.status, 200 | 400), "{}: {}", &body[..60], reply.text());
        steady.check_reply(&body[..60], &reply);
    }
}

#[test]
fn deep_and_absurd_requests_reach_every_plugin_safely() {
    let upstream = Upstream::json(200, completion("fine"));
    let mut setup = gateway().file("models.csv", "gpt41\nkimi\nglm\nclaude-h\n");
    for name in ["mammouth", "moonshot", "zai"] {
        setup = setup.provider(name, &upstream.url("/v1"));
    }
    let server = setup.start();
    let steady = Steady::over(&server, 96);
    let models: Vec<String> = server.get("/v1/models").json()["data"]
        .as_array()
        .expect("models")
        .iter()
        .filter_map(|model| model["id"].as_str().map(str::to_owned))
        .collect();
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    for model in models {
        for extra in [
            format!("\"tools\":{deep}"),
            "\"temperature\":1e400,\"max_tokens\":-99999999999999999999999,\"top_p\":\"x\"".to_owned(),
            "\"seed\":123456789012345678901234567890,\"n\":1e5000".to_owned(),
            "\"stop\":{\"a\":[]},\"response_format\":7,\"stream_options\":[]".to_owned(),
        ] {
            for stream in [false, true] {
                let body =
                    format!("{{\"model\":\"{model}\",\"retries\":0,\"stream\":{stream},{MESSAGES},{extra}}}");
                let reply = json_reply(&server, &body);
                // This upstream answers no stream, so a 502 is right where one is due.
                assert!(matches!(reply.status, 200 | 400 | 502), "{model}: {}", reply.text());
                steady.check_reply(&model, &reply);
            }
        }
    }
}

#[test]
fn heads_that_cannot_be_are_refused_in_the_usual_form() {
    let server = gateway().start();
    let steady = Steady::over(&server, 24);
    let long = "a".repeat(100_000);
    let many: String = (0..200).fold(String::new(), |mut text, number| {
        let _ = write!(text, "x-{number}: 1\r\n");
        text
    });
    for (case, head, statuses) in [
        (
            "a long header",
            format!("GET /ping HTTP/1.1\r\nhost: localhost\r\nx-long: {long}\r\n\r\n"),
            &[431][..],
        ),
        ("many headers", format!("GET /ping HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"), &[431]),
        ("a long name", format!("GET /ping HTTP/1.1\r\nhost: localhost\r\n{long}: 1\r\n\r\n"), &[400, 431]),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"), &[414, 431]),
        ("a long method", format!("{long} / HTTP/1.1\r\nhost: localhost\r\n\r\n"), &[400, 431]),
        (
            "markup",
            "GET /<script>alert(1)</script> HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
            &[400, 404],
        ),
        ("no request", "GARBAGE\r\n\r\n".to_owned(), &[400]),
        ("no colon", "GET /ping HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n".to_owned(), &[400]),
        ("a version to come", "GET /ping HTTP/9.9\r\nhost: localhost\r\n\r\n".to_owned(), &[400, 505]),
        ("an ESC in the target", "GET /\x1b[31m HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), &[400]),
        (
            "an ESC in a header",
            "GET /ping HTTP/1.1\r\nhost: localhost\r\nx: \x1b[31m\r\n\r\n".to_owned(),
            &[400],
        ),
        ("a NUL in a header", "GET /ping HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n".to_owned(), &[400]),
        ("no host", "GET /ping HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        (
            "two hosts",
            "GET /ping HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n".to_owned(),
            &[400, 403],
        ),
        (
            "a tunnel",
            "CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n".to_owned(),
            &[400, 403, 404, 405],
        ),
        (
            "another server",
            "GET http://example.org/ping HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
            &[400, 403],
        ),
        ("an asterisk", "OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), &[400, 404, 405]),
    ] {
        let mut caller = server.connect();
        let _ = caller.try_write(&head);
        let reply = caller.reply();
        assert!(statuses.contains(&reply.status), "{case}: {} {}", reply.status, reply.text());
        reply.error(reply.status);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{case}");
        steady.check_reply(case, &reply);
    }
}

#[test]
fn bodies_over_the_limit_end_early() {
    let server = gateway().config("[limits]\nmax_body_bytes = 100000\n").start();
    let steady = Steady::over(&server, 24);
    let mut caller = server.connect();
    let head = [("content-type", "application/json"), ("content-length", "68719476736")];
    caller.start("POST", CHAT, &head, b"").reply().error(413);
    assert!(caller.closed(), "what follows would be the body");
    for path in [CHAT, "/v1/embeddings", "/api/memory"] {
        let method = if path == "/api/memory" { "PUT" } else { "POST" };
        let mut caller = server.connect();
        let head = [("content-type", "application/json"), ("transfer-encoding", "chunked")];
        caller.start(method, path, &head, b"");
        for _ in 0..50 {
            if caller.try_write(format!("2710\r\n{}\r\n", " ".repeat(10_000))).is_err() {
                break;
            }
        }
        let reply = caller.reply();
        reply.error(413);
        steady.check_reply(path, &reply);
    }
    // The default is 64 MiB.
    let server = gateway().start();
    let head = [("content-type", "application/json"), ("content-length", "67108865")];
    server.connect().start("POST", CHAT, &head, b"").reply().error(413);
}

#[test]
fn nothing_is_decoded() {
    let server = gateway().start();
    let steady = Steady::over(&server, 24);
    let bomb = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xed, 0xc1, 1, 1, 0, 0];
    for coding in
        ["gzip", "deflate", "br", "zstd", "compress", "GZIP", "gzip, gzip", "identity, gzip", "identity", "x"]
    {
        let length = bomb.len().to_string();
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", coding),
            ("content-length", length.as_str()),
        ];
        let reply = server.connect().send("POST", CHAT, &headers, &bomb);
        reply.error(415);
        steady.check_reply(coding, &reply);
    }
    // Bytes that are packed without saying so are no JSON.
    json_reply(&server, bomb).error(400);
}

#[test]
fn wrong_methods_and_paths_have_their_statuses() {
    let server = gateway().start();
    let steady = Steady::over(&server, 24);
    for (path, allowed) in [
        (CHAT, "POST"),
        ("/v1/embeddings", "POST"),
        ("/v1/models", "GET"),
        ("/v1/models/echo", "GET"),
        ("/api/models", "GET"),
        ("/api/health", "GET"),
        ("/api/memory", "PUT"),
        ("/api/help", "GET"),
        ("/api/version", "GET"),
        ("/api/usage", "GET"),
        ("/metrics", "GET"),
        ("/ping", "GET"),
    ] {
        for method in ["DELETE", "PATCH", "TRACE", "BREW", "get"] {
            let reply = server.send(method, path, &[], "");
            reply.error(405);
            let allow = reply.header("allow").unwrap_or_default();
            assert!(allow.contains(allowed), "{method} {path}: {allow:?}");
        }
    }
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/v1/chat/completions/x",
        "//v1/models",
        "/V1/models",
        "/v1/../api/memory",
        "/v1/%2e%2e/api/memory",
        "/.env",
        "/memory.json",
        "/api/",
        "/%00",
        "/%1b[31m",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "/v1/models/%0d%0ax",
    ] {
        let reply = server.get(path);
        reply.error(404);
        assert_eq!(reply.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        steady.check_reply(path, &reply);
    }
}

#[test]
fn markup_and_control_characters_stay_data() {
    let server = gateway().start();
    let steady = Steady::over(&server, 24);
    let hostile = "<script>\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n\u{1b}[2J\u{9b}31m\u{202e}\u{7f}";
    for field in ["model", "session_id", "user", "system_prompt"] {
        let mut body = json!({"model": "echo", "messages": [{"role": "user", "content": hostile}]});
        body[field] = json!(hostile);
        let reply = server.chat(&body);
        assert!(!reply.text().contains('\u{1b}'), "{field}: {}", reply.text());
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(reply.header("x-a").is_none());
        steady.check_reply(field, &reply);
    }
    let forged = "x\nWARN forged";
    server.chat(&json!({"model": forged, "messages": [{"role": "user", "content": "x"}]})).error(404);
    let id = "req_\u{1b}[31m%0a";
    server.send("GET", "/ping?a=%1b%0a<b>", &[("x-request-id", "%0aforged"), ("user-agent", "<b>")], "");
    server.get(&format!("/v1/models/{}", id.replace('\u{1b}', "%1b")));
    steady.check("markup");
    let log = server.log();
    assert!(!log.lines().any(|line| line.starts_with("WARN forged")), "{log}");
    assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log}");
}

#[test]
fn a_long_conversation_costs_a_small_multiple_of_its_size() {
    let upstream = Upstream::json(200, completion("fine"));
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let messages: Vec<String> = (0..40_000)
        .map(|number| {
            let role = if number % 2 == 0 { "user" } else { "assistant" };
            format!(r#"{{"role":"{role}","content":"message number {number}"}}"#)
        })
        .collect();
    for extra in ["", r#""system_prompt":"be brief","#, r#""session_id":"long","#] {
        for model in ["gpt41", "echo"] {
            let body = format!(r#"{{"model":"{model}",{extra}"messages":[{}]}}"#, messages.join(","));
            // The code of this way is there before: a gateway at rest has given its pages back.
            let small = format!(r#"{{"model":"{model}",{extra}{MESSAGES}}}"#);
            assert_eq!(json_reply(&server, &small).status, 200);
            let before = memory_settled(&server);
            reset_memory_peak(&server);
            let reply = json_reply(&server, &body);
            assert_eq!(reply.status, 200, "{}", reply.text());
            let peak = memory_peak(&server).saturating_sub(before) * 1024;
            let factor = peak as f64 / body.len() as f64;
            println!("{model} {extra}: {factor:.1} times {} bytes", body.len());
            assert!(factor <= 12.0, "{model} {extra}: {factor:.1} times its size");
        }
    }
}

#[test]
fn a_large_body_is_held_once() {
    let upstream = Upstream::json(200, completion("fine"));
    let setup = gateway().provider("mammouth", &upstream.url("/v1"));
    let server = setup.file("memory.json", r#"{"content": "It goes in front of all."}"#).start();
    let image = "i".repeat(32 << 20);
    let body = format!(r#"{{"model":"gpt41","messages":[{{"role":"user","content":"{image}"}}]}}"#);
    let small = format!(r#"{{"model":"gpt41",{MESSAGES}}}"#);
    assert_eq!(json_reply(&server, &small).status, 200);
    let before = memory_settled(&server);
    reset_memory_peak(&server);
    let reply = json_reply(&server, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let peak = memory_peak(&server).saturating_sub(before) * 1024;
    let factor = peak as f64 / body.len() as f64;
    println!("{factor:.2} times {} bytes", body.len());
    // Half of it is room for code that runs for the first time; two copies would be more.
    assert!(factor < 1.9, "{factor:.2} times its size");
    let sent = upstream.last().messages();
    assert_eq!(sent.len(), 2);
    assert!(sent[1].1 == image, "the upstream got all of it");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let upstream = Upstream::start(|request, answer| {
        if request.number == 0 {
            std::thread::park_timeout(Duration::from_millis(200));
        }
        answer.json(200, &completion(request.json()["user"].as_str().unwrap_or_default()));
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let body =
        |text: &str| json!({"model": "gpt41", "user": text, "messages": [{"role": "user", "content": "x"}]});
    let mut caller = server.connect();
    let mut all = Vec::new();
    for text in ["one", "two", "three"] {
        let body = body(text).to_string();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        all.extend_from_slice((head + &body).as_bytes());
        all.extend_from_slice(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n");
        all.extend_from_slice(b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n");
    }
    all.extend_from_slice(b"GET /ping HTTP/1.1\r\nbad header\r\n\r\n");
    caller.write(all);
    for text in ["one", "two", "three"] {
        assert_eq!(caller.reply().json()["choices"][0]["message"]["content"], text);
        assert_eq!(caller.reply().text().trim(), "pong");
        caller.reply().error(404);
    }
    caller.reply().error(400);
    assert!(caller.closed());
}

/// The status lines of an answer, informational ones included, up to the first final one.
fn statuses(caller: &mut Connection) -> Vec<u16> {
    let mut text = String::new();
    let mut all = Vec::new();
    while all.last().is_none_or(|status| *status < 200) {
        let piece = caller.some(1).expect("an answer");
        assert!(!piece.is_empty(), "the connection ended: {text:?}");
        text.push_str(&String::from_utf8_lossy(&piece));
        if text.ends_with("\r\n\r\n") {
            all.push(text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"));
            text.clear();
        }
    }
    all
}

#[test]
fn a_caller_who_asks_before_sending_is_told_in_time() {
    let server = gateway().config("[limits]\nmax_body_bytes = 100000\n").start();
    let steady = Steady::over(&server, 24);
    let body = format!(r#"{{"model":"echo",{MESSAGES}}}"#);
    let length = body.len().to_string();
    let asking = |path: &str, headers: &[(&str, &str)]| {
        let mut caller = server.connect();
        let mut all = vec![("expect", "100-continue"), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        caller.start("POST", path, &all, b"");
        caller
    };
    let mut caller = asking(CHAT, &[("content-length", &length)]);
    let go = caller.some(1024).expect("an answer");
    assert!(go.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&go));
    caller.write(&body);
    assert_eq!(statuses(&mut caller), [200]);
    // A caller that does not wait for it is served all the same.
    let mut caller = asking(CHAT, &[("content-length", &length)]);
    caller.write(&body);
    assert_eq!(statuses(&mut caller).last(), Some(&200));
    // Refused: the final status at once, without an invitation.
    for (path, headers, status) in [
        (CHAT, &[("content-length", "100001")][..], 413),
        (CHAT, &[("content-length", "10"), ("content-encoding", "gzip")], 415),
        (CHAT, &[("content-length", "10"), ("host", "evil.example")], 403),
        ("/nothing", &[("content-length", "10")], 404),
        ("/ping", &[("content-length", "10")], 405),
    ] {
        let mut caller = asking(path, headers);
        assert_eq!(statuses(&mut caller), [status], "{path} {headers:?}");
        caller.patience(Duration::from_secs(10));
        assert!(
            caller.closed(),
            "{path} {headers:?}: the body that was not asked for must not become a request"
        );
    }
    steady.check("expectations");
}
