//! Hostile peers, hostile pages, hostile headers: what a network can do to a gateway, done to it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::harness::{Connection, Steady, Upstream, eventually, gateway, say};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"echo","messages":[{"role":"user","content":"x"}]}"#;

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only asks which address would be used.
    socket.connect("203.0.113.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn connections_are_capped_for_each_peer() {
    let Some(own) = own_address() else { return };
    let settings = format!(
        "[access]\nhttp = [\"127.0.0.0/8\", \"{own}\"]\nhosts = [\"{own}\"]\n[limits]\nmax_connections_per_peer = 5\n"
    );
    let server = gateway().config(&settings).start();
    let steady = Steady::over(&server, 24);
    let address = SocketAddr::new(own, server.http().port());
    let mut held: Vec<Connection> = (0..5).map(|_| Connection::open(address)).collect();
    for caller in &mut held {
        assert_eq!(caller.get("/ping").status, 200);
    }
    let mut more = Connection::open(address);
    let reply = more.get("/ping");
    reply.error(503);
    assert!(reply.header("retry-after").is_some() && more.closed());
    // Another peer is not concerned, and a place that is given back is free.
    assert_eq!(server.get("/ping").status, 200);
    held.pop().expect("one").hang_up();
    eventually("a free place", || (Connection::open(address).get("/ping").status == 200).then_some(()));
    steady.check("connections");
}

#[test]
fn connections_are_capped_in_all() {
    // 1,024 beyond the requests that may run.
    const MOST: usize = 1032;
    let settings = "[limits]\nmax_in_flight = 8\nheader_secs = 300\nkeepalive_secs = 300\n";
    let server = gateway().plugins(&["echo"]).config(settings).start();
    let steady = Steady::over(&server, 48);
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let mut held: Vec<TcpStream> =
        (0..MOST - 1).map(|_| TcpStream::connect(server.http()).expect("connect")).collect();
    let mut last = server.connect();
    assert_eq!(last.get("/ping").status, 200, "all before it are in, and so is this one");
    let mut more = server.connect();
    let reply = more.get("/ping");
    reply.error(503);
    assert!(reply.header("retry-after").is_some() && more.closed());
    server.logged_with(&["WARN", "too many connections"]);
    assert_eq!(last.get("/api/health").status, 200, "who is in is served");
    held.truncate(MOST / 2);
    eventually("a free place", || (server.get("/ping").status == 200).then_some(()));
    drop(held);
    steady.check("all connections");
}

#[test]
fn host_and_origin_attacks_are_refused() {
    let server = gateway().start();
    let steady = Steady::over(&server, 24);
    let port = server.http().port();
    for host in [
        "localhost",
        "LocalHost",
        "localhost.",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "127.0.0.2",
        "sub.localhost",
    ] {
        for host in [host.to_owned(), format!("{host}:{port}")] {
            assert_eq!(server.send("GET", "/ping", &[("host", &host)], "").status, 200, "{host}");
        }
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost:80@evil.example",
        "localhost:9080.evil.example",
        "localhost:",
        "localhost:x",
        "localhost:99999",
        "localhost:-1",
        "localhost:+80",
        "localhost:80:80",
        "localhost..",
        ".localhost",
        "localhost\\.evil.example",
        "localhost/evil.example",
        "localhost?x",
        "localhost#x",
        "localhost evil.example",
        "localhost,evil.example",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "[::1",
        "::1",
        "[::1]evil",
        "[::1]x:80",
        "[::ffff:8.8.8.8]",
        "[::]",
        "[fe80::1%25eth0]",
        "0.0.0.0",
        "0",
        "8.8.8.8",
        "*",
        "%6c%6f%63alhost",
        "lоcalhost",
        "localhost\u{ff0e}",
        "http://localhost",
        "localhost\t.evil.example",
    ] {
        let reply = server.send("GET", "/ping", &[("host", host)], "");
        assert!(matches!(reply.status, 400 | 403), "{host:?}: {}", reply.status);
        reply.error(reply.status);
        steady.check_reply(host, &reply);
    }
    let mut caller = server.connect();
    caller.write("GET /ping HTTP/1.1\r\nhost:\r\n\r\n");
    let reply = caller.reply();
    assert!(matches!(reply.status, 400 | 403), "an empty host: {}", reply.status);

    for (origin, site) in [
        ("https://evil.example", ""),
        ("null", ""),
        ("http://localhost.evil.example", ""),
        ("http://evil.example:80", "cross-site"),
        ("https://localhost", "cross-site"),
        ("file://", ""),
        ("http://localhost:1", ""),
        ("chrome-extension://abc", ""),
        ("http://127.0.0.1@evil.example", ""),
        ("", "cross-site"),
        ("", "same-site"),
    ] {
        let headers = [("origin", origin), ("sec-fetch-site", site)];
        let reply = server.send("POST", CHAT, &headers, BODY);
        reply.error(403);
        assert!(reply.header("access-control-allow-origin").is_none(), "{origin}");
        steady.check_reply(origin, &reply);
    }
    // What a form or an image of another site can send without asking.
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
    {
        server.send("POST", CHAT, &[("content-type", kind)], BODY).error(415);
    }
}

#[test]
fn headers_pass_by_short_lists_in_both_directions() {
    let upstream = Upstream::start(|request, answer| {
        let headers = [
            (
                "content-type",
                if request.json()["stream"] == true { "text/event-stream" } else { "application/json" },
            ),
            ("set-cookie", "session=secret"),
            ("server", "nginx/1.0"),
            ("x-litellm-model-id", "internal"),
            ("x-litellm-key-spend", "0.5"),
            ("openai-organization", "org-secret"),
            ("x-request-id", "upstream-id"),
            ("x-ratelimit-remaining-requests", "7"),
            ("cf-ray", "abc"),
            ("location", "http://internal.example/"),
            ("access-control-allow-origin", "*"),
            ("www-authenticate", "Bearer realm=internal"),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1"),
            ("refresh", "0; url=http://evil.example"),
            ("x-sigorest-target", "forged"),
        ];
        if request.json()["stream"] == true {
            answer
                .open(200, &headers)
                .event(&crate::harness::chunk(json!({"content": "x"}), Some("stop")))
                .done();
        } else {
            answer.whole(200, &headers, crate::harness::completion("x").to_string().as_bytes());
        }
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let steady = Steady::over(&server, 24);
    let hostile = [
        ("authorization", "Bearer sk-callers-own"),
        ("cookie", "a=b"),
        ("x-api-key", "callers-key"),
        ("api-key", "callers-key"),
        ("x-forwarded-for", "8.8.8.8"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "8.8.8.8"),
        ("forwarded", "for=8.8.8.8"),
        ("via", "1.1 x"),
        ("accept-encoding", "gzip, br"),
        ("openai-organization", "org-caller"),
        ("x-litellm-tags", "x"),
        ("x-stainless-lang", "python"),
        ("user-agent", "OpenAI/Python"),
        ("referer", "http://internal/"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic x"),
        ("x-base-url", "http://evil.example"),
        ("x-target", "http://evil.example"),
    ];
    for stream in [false, true] {
        let body =
            json!({"model": "gpt41", "stream": stream, "messages": [{"role": "user", "content": "x"}]});
        let reply = server.send("POST", CHAT, &hostile, &body.to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let sent = upstream.last();
        let known =
            ["host", "user-agent", "content-type", "accept", "authorization", "content-length", "connection"];
        for (name, value) in &sent.headers {
            assert!(known.contains(&name.as_str()), "{name}: {value} reached the upstream");
            assert!(
                !value.contains("caller") && !value.contains("Python") && !value.contains("8.8.8.8"),
                "{name}: {value}"
            );
        }
        let known = [
            "content-type",
            "content-length",
            "transfer-encoding",
            "date",
            "cache-control",
            "x-accel-buffering",
            "x-request-id",
            "x-content-type-options",
            "x-sigorest-target",
            "x-sigorest-dropped",
            "vary",
            "connection",
        ];
        for (name, value) in &reply.headers {
            assert!(known.contains(&name.as_str()), "{name}: {value} reached the caller");
            assert!(!value.contains("upstream-id") && !value.contains("forged"), "{name}: {value}");
        }
        steady.check_reply("headers", &reply);
    }
}

#[test]
fn nothing_in_a_request_chooses_an_address() {
    let decoy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = decoy.local_addr().expect("an address");
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    std::thread::spawn(move || {
        for _ in decoy.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let upstream = Upstream::start(|request, answer| match request.path.as_str() {
        "/api/tags" => {
            answer.json(200, &json!({"models": [{"name": "tiny:latest", "model": "tiny:latest"}]}));
        }
        "/api/show" => answer.json(200, &json!({"capabilities": ["completion", "vision"], "model_info": {}})),
        "/api/chat" => {
            answer.json(200, &json!({"message": {"role": "assistant", "content": "x"}, "done": true}));
        }
        _ => say(request, answer, "x"),
    });
    let server = gateway()
        .file("models.csv", "gpt41\nkimi\nglm\n")
        .provider("mammouth", &upstream.url("/v1"))
        .provider("moonshot", &upstream.url("/v1"))
        .provider("zai", &upstream.url("/v1"))
        .env("OLLAMA_HOST", upstream.url(""))
        .start();
    let steady = Steady::over(&server, 24);
    let url = format!("http://{address}/x.png");
    let models: Vec<String> = server.get("/v1/models").json()["data"]
        .as_array()
        .expect("models")
        .iter()
        .filter_map(|model| model["id"].as_str().map(str::to_owned))
        .collect();
    assert!(models.len() >= 4, "{models:?}");
    for model in &models {
        let image = json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}});
        let text = json!({"type": "text", "text": url});
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": [text, image]}]});
        body["retries"] = json!(0);
        for field in
            ["base_url", "api_base", "url", "endpoint", "host", "proxy", "callback", "webhook", "metadata"]
        {
            body[field] = json!(url);
        }
        body["extra_body"] = json!({"api_base": url});
        let reply = server.chat(&body);
        assert!(matches!(reply.status, 200 | 400 | 404), "{model}: {}", reply.text());
        steady.check_reply(model, &reply);
        let target = format!("{CHAT}?base_url={url}");
        let headers = [("x-base-url", url.as_str()), ("x-forwarded-host", "evil.example")];
        server.send(
            "POST",
            &target,
            &headers,
            &json!({"model": model, "messages": [{"role": "user", "content": "x"}]}).to_string(),
        );
    }
    for model in [
        url.clone(),
        format!("mammouth/{url}"),
        format!("{url}/gpt41"),
        "mammouth/../admin".into(),
        "mammouth/gpt41?x=http://evil".into(),
    ] {
        let reply = server.chat(&json!({"model": model, "messages": [{"role": "user", "content": "x"}]}));
        reply.error(404);
    }
    for request in upstream.requests() {
        assert!(
            ["/v1/chat/completions", "/api/tags", "/api/show", "/api/chat", "/api/version"]
                .contains(&request.path.as_str()),
            "{}",
            request.path
        );
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0, "something connected to an address from a request");
    let _: Value = server.get("/api/health").json();
}
