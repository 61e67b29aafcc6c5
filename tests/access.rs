//! Who may come in: by address, then by `Host` and `Origin`.

use std::net::IpAddr;

use crate::harness::{Connection, Reply, Server, gateway};

const CHAT: &str = r#"{"model":"echo","messages":[{"role":"user","content":"x"}]}"#;

fn from(server: &Server, source: &str) -> Connection {
    let source: IpAddr = source.parse().expect("an address");
    Connection::open_from(source, server.http()).expect("connect")
}

fn with(server: &Server, headers: &[(&str, &str)]) -> Reply {
    server.send("GET", "/v1/models", headers, "")
}

#[test]
fn plain_http_admits_this_machine() {
    let server = gateway().start();
    for source in ["127.0.0.1", "127.0.0.2", "127.200.3.4"] {
        assert_eq!(from(&server, source).get("/ping").status, 200, "{source}");
    }
    if let Some(address) = server.http6() {
        let mut caller = Connection::open(address);
        assert_eq!(caller.get("/ping").status, 200);
    }
}

#[test]
fn a_refused_peer_gets_a_403_and_an_orderly_close() {
    let server = gateway().config("[access]\nhttp = [\"127.0.0.2/32\"]\n").start();
    let mut refused = from(&server, "127.0.0.1");
    refused.get("/ping").error(403);
    assert!(refused.closed());
    assert_eq!(from(&server, "127.0.0.2").get("/ping").status, 200);
    server.logged_with(&["WARN", "127.0.0.1"]);
    // The warning is limited: many refusals, few lines.
    for _ in 0..50 {
        from(&server, "127.0.0.1").get("/ping").error(403);
    }
    let lines =
        server.log().lines().filter(|line| line.contains("WARN") && line.contains("127.0.0.1")).count();
    assert!(lines <= 10, "{lines}");
}

#[test]
fn a_proxy_is_believed_only_where_it_is_trusted() {
    let chain = |server: &Server, source: &str, forwarded: &str| {
        from(server, source).send("GET", "/ping", &[("x-forwarded-for", forwarded)], b"").status
    };
    let server = gateway().start();
    assert_eq!(
        chain(&server, "127.0.0.1", "8.8.8.8"),
        200,
        "no proxy is trusted, so the header says nothing"
    );

    let settings =
        "[access]\nhttp = [\"127.0.0.0/8\", \"192.168.7.0/24\"]\ntrusted_proxies = [\"127.0.0.5\"]\n";
    let server = gateway().config(settings).start();
    assert_eq!(from(&server, "127.0.0.5").get("/ping").status, 403, "a proxy must say for whom");
    for (forwarded, status) in [
        ("192.168.7.9", 200),
        ("8.8.8.8", 403),
        ("8.8.8.8, 192.168.7.9", 200),
        ("192.168.7.9, 8.8.8.8", 403),
        ("192.168.7.9, 127.0.0.5", 200),
        ("::ffff:192.168.7.9", 200),
        ("nonsense", 403),
        ("", 403),
    ] {
        assert_eq!(chain(&server, "127.0.0.5", forwarded), status, "{forwarded}");
    }
    assert_eq!(chain(&server, "127.0.0.6", "8.8.8.8"), 200);
}

#[test]
fn a_foreign_host_name_is_refused() {
    let server = gateway().config("[access]\nhosts = [\"llm.example.org\"]\n").start();
    for host in [
        "localhost",
        "localhost:9080",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:9080",
        "LOCALHOST",
        "llm.example.org:9080",
        "LLM.example.org",
        "gateway.localhost",
    ] {
        assert_eq!(with(&server, &[("host", host)]).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "8.8.8.8",
        "127.0.0.1.evil.example",
        "llm.example.org.evil.example",
    ] {
        with(&server, &[("host", host)]).error(403);
    }
}

#[test]
fn pages_of_other_sites_are_refused_unless_allowed() {
    let server = gateway().start();
    let post = |headers: &[(&str, &str)]| server.send("POST", "/v1/chat/completions", headers, CHAT);
    for headers in [
        [("origin", "https://evil.example")],
        [("origin", "null")],
        [("sec-fetch-site", "cross-site")],
        [("origin", "http://localhost.evil.example")],
    ] {
        post(&headers).error(403);
        assert_eq!(post(&headers).header("access-control-allow-origin"), None);
    }
    let own = format!("http://{}", server.http());
    for headers in
        [[("origin", own.as_str())], [("sec-fetch-site", "same-origin")], [("sec-fetch-site", "none")]]
    {
        assert_eq!(post(&headers).status, 200, "{headers:?}");
    }
    let preflight = server.send(
        "OPTIONS",
        "/v1/chat/completions",
        &[("origin", "https://evil.example"), ("access-control-request-method", "POST")],
        "",
    );
    assert_eq!(preflight.status, 403);
}

#[test]
fn an_allowed_origin_gets_its_preflights_answered() {
    let server = gateway().config("[access]\norigins = [\"https://app.example\"]\n").start();
    let origin = ("origin", "https://app.example");
    let preflight = server.send(
        "OPTIONS",
        "/v1/chat/completions",
        &[
            origin,
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,authorization,x-stainless-os"),
        ],
        "",
    );
    assert!(preflight.status == 204 || preflight.status == 200, "{}", preflight.status);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(preflight.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    let headers = preflight.header("access-control-allow-headers").expect("headers").to_lowercase();
    assert!(
        headers.contains("content-type")
            && headers.contains("authorization")
            && headers.contains("x-stainless-os"),
        "{headers}"
    );
    // A preflight passes the same rules as what it asks for.
    for headers in [
        &[origin, ("host", "evil.example")][..],
        &[origin, ("host", "127.0.0.1.evil.example:80")],
        &[("origin", "https://app.example.evil.example")],
        &[("origin", "null")],
        &[("origin", "http://app.example")],
    ] {
        let asked = [headers, &[("access-control-request-method", "POST")]].concat();
        let reply = server.send("OPTIONS", "/v1/chat/completions", &asked, "");
        reply.error(403);
        assert!(reply.header("access-control-allow-methods").is_none(), "{headers:?}");
    }
    let reply =
        server.send("POST", "/v1/chat/completions", &[origin, ("sec-fetch-site", "cross-site")], CHAT);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    server.send("POST", "/v1/chat/completions", &[("origin", "https://other.example")], CHAT).error(403);
}

#[test]
fn administration_is_for_admins() {
    let server = gateway().config("[access]\nadmin = [\"127.0.0.9\"]\n").start();
    let write = |source: &str| from(&server, source).send("POST", "/api/reload", &[], b"").status;
    assert_eq!(write("127.0.0.1"), 403);
    assert_ne!(write("127.0.0.9"), 403);
    // The memory keeps the original's rule: whoever is admitted may write it.
    let put = from(&server, "127.0.0.1").send("PUT", "/api/memory", &[], br#"{"content":"x","cache":false}"#);
    assert_eq!(put.status, 200);
}

#[test]
fn every_order_is_for_admins_by_whatever_way_it_comes() {
    let settings = "[access]\nadmin = [\"127.0.0.9\"]\nmemory_write = [\"127.0.0.9\"]\n\
                    trusted_proxies = [\"127.0.0.5\"]\n";
    let server = gateway().config(settings).start();
    let memory = r#"{"content":"x"}"#;
    for (method, path, body) in [
        ("PUT", "/api/memory", memory),
        ("POST", "/api/plugins/reload", ""),
        ("POST", "/api/plugins/echo/rollback", ""),
        ("POST", "/api/plugins/echo/enable", ""),
        ("POST", "/api/channels/mammouth/default/disable", ""),
        ("POST", "/api/channels/mammouth/default/enable", ""),
        ("DELETE", "/api/plugins/echo", ""),
        ("POST", "/api/anything", ""),
    ] {
        let ask = |source: &str, forwarded: &str| {
            let headers = [("x-forwarded-for", forwarded)];
            from(&server, source).send(method, path, &headers, body.as_bytes())
        };
        // The header of somebody who is no proxy says nothing, and a proxy is no admin for those behind it.
        for (source, forwarded) in [("127.0.0.1", ""), ("127.0.0.1", "127.0.0.9"), ("127.0.0.5", "127.0.0.1")]
        {
            ask(source, forwarded).error(403);
        }
        for (source, forwarded) in [("127.0.0.9", ""), ("127.0.0.5", "127.0.0.9")] {
            assert_ne!(ask(source, forwarded).status, 403, "{method} {path} from {source} for {forwarded}");
        }
    }
    assert_eq!(from(&server, "127.0.0.1").get("/api/memory").json()["content"], "x", "reading is for all");
}
