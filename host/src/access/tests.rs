//! Tables of who gets in.

use http::{Method, Request, Version, request::Builder};

use super::*;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn settings() -> AccessSettings {
    AccessSettings {
        http: nets(&["127.0.0.0/8", "::1/128"]),
        https: nets(&["192.168.0.0/16", "10.0.0.0/8"]),
        hosts: vec!["llm.example.org".into(), "*.wild.example".into(), "203.0.113.9".into()],
        origins: vec!["https://app.example".into()],
        admin: nets(&["127.0.0.0/8", "::1/128"]),
        memory_write: None,
        trusted_proxies: vec![],
    }
}

fn access_with(change: impl FnOnce(&mut AccessSettings)) -> Access {
    let mut settings = settings();
    change(&mut settings);
    let machine = Machine { name: Some("box".into()), addresses: vec!["192.168.1.5".parse().unwrap()] };
    Access::new(&settings, &machine)
}

fn peer(door: Door, address: &str, local: &str) -> Peer {
    Peer { address: SocketAddr::new(address.parse().unwrap(), 4711), local: local.parse().unwrap(), door }
}

fn local() -> Peer {
    peer(Door::Http, "127.0.0.1", "127.0.0.1")
}

fn get() -> Builder {
    Request::get("/v1/models").header("host", "localhost:9080")
}

fn parts(request: Builder) -> Parts {
    request.body(()).unwrap().into_parts().0
}

fn status(result: Result<Caller, Error>) -> u16 {
    result.map_or_else(|error| error.status.as_u16(), |_| 200)
}

#[test]
fn a_door_admits_its_list_and_nobody_else() {
    let access = access_with(|_| {});
    for (door, address, expected) in [
        (Door::Http, "127.0.0.1", true),
        (Door::Http, "127.255.3.4", true),
        (Door::Http, "::1", true),
        (Door::Http, "::ffff:127.0.0.1", true),
        (Door::Http, "192.168.1.7", false),
        (Door::Http, "128.0.0.1", false),
        (Door::Http, "::2", false),
        (Door::Https, "192.168.255.255", true),
        (Door::Https, "10.1.2.3", true),
        (Door::Https, "::ffff:10.1.2.3", true),
        (Door::Https, "127.0.0.1", false),
        (Door::Https, "172.16.0.1", false),
        (Door::Https, "192.169.0.1", false),
        (Door::Https, "::1", false),
        (Door::Https, "fe80::1", false),
        (Door::Https, "2001:db8::1", false),
    ] {
        assert_eq!(access.admits(door, address.parse().unwrap()), expected, "{door:?} {address}");
    }
}

#[test]
fn host_must_be_a_name_of_this_server() {
    let access = access_with(|_| {});
    let https = peer(Door::Https, "192.168.1.7", "10.0.0.2");
    for (peer, host, expected) in [
        (local(), "localhost", 200),
        (local(), "localhost:9080", 200),
        (local(), "LOCALHOST:1", 200),
        (local(), "localhost.", 200),
        (local(), "localhost.:9080", 200),
        (local(), "a.b.localhost:9080", 200),
        (local(), "127.0.0.1:9080", 200),
        (local(), "127.9.9.9", 200),
        (local(), "[::1]:9080", 200),
        (local(), "[::1]", 200),
        (local(), "[::ffff:127.0.0.1]", 200),
        (local(), "box", 200),
        (local(), "Box:9080", 200),
        (local(), "192.168.1.5:9080", 200),
        (local(), "llm.example.org", 200),
        (local(), "LLM.example.org.:443", 200),
        (local(), "a.wild.example", 200),
        (local(), "203.0.113.9:9080", 200),
        (https, "10.0.0.2:9443", 200),
        (https, "192.168.1.5:9443", 200),
        (https, "localhost:9443", 200),
        (local(), "", 403),
        (local(), ":9080", 403),
        (local(), ".", 403),
        (local(), "evil.example", 403),
        (local(), "evil.example:9080", 403),
        (local(), "wild.example", 403),
        (local(), "localhost.evil.example", 403),
        (local(), "evillocalhost", 403),
        (local(), ".localhost", 403),
        (local(), "a..localhost", 403),
        (local(), "localhost..", 403),
        (local(), "localhost:", 403),
        (local(), "localhost:http", 403),
        (local(), "localhost:+80", 403),
        (local(), "localhost:99999", 403),
        (local(), "localhost:80:80", 403),
        (local(), "user@localhost", 403),
        (local(), "localhost/", 403),
        (local(), "localhost, evil.example", 403),
        (local(), "localhost evil", 403),
        (local(), "2130706433", 403),
        (local(), "0x7f000001", 403),
        (local(), "0x7f.0.0.1", 403),
        (local(), "0177.0.0.1", 403),
        (local(), "127.1", 403),
        (local(), "127.0.0.1.", 403),
        (local(), "127.0.0.1.localhost.1", 403),
        (local(), "0.0.0.0:9080", 403),
        (local(), "8.8.8.8", 403),
        (local(), "10.0.0.2", 403),
        (local(), "::1", 403),
        (local(), "[::1", 403),
        (local(), "[::1]9080", 403),
        (local(), "[::2]", 403),
        (local(), "[127.0.0.1]", 403),
        (local(), "[fe80::1%25eth0]", 403),
    ] {
        let head = parts(Request::get("/").header("host", host));
        assert_eq!(status(access.check(&peer, &head, false)), expected, "{host:?} at {:?}", peer.door);
    }
}

#[test]
fn host_is_given_once_and_agrees_with_the_target() {
    let access = access_with(|_| {});
    let check = |request: Builder| status(access.check(&local(), &parts(request), false));
    assert_eq!(check(Request::get("/")), 400, "HTTP/1.1 without Host");
    assert_eq!(check(Request::get("/").version(Version::HTTP_10)), 200, "HTTP/1.0 without Host");
    assert_eq!(check(Request::get("/").header("host", "localhost").header("host", "localhost")), 400);
    assert_eq!(check(Request::get("/").header("host", b"localh\xffst".as_slice())), 403);
    let two = Version::HTTP_2;
    assert_eq!(check(Request::get("https://localhost/").version(two)), 200, ":authority");
    assert_eq!(check(Request::get("https://evil.example/").version(two)), 403, ":authority");
    for (target, host, expected) in [
        ("http://localhost:9080/", "localhost:9080", 200),
        ("http://localhost/", "LOCALHOST:80", 200),
        ("http://localhost:9080/", "127.0.0.1:9080", 403),
        ("http://localhost:9080/", "localhost:9081", 403),
        ("http://localhost:9080/", "evil.example", 403),
        ("http://evil.example/", "localhost:9080", 403),
        ("http://evil.example/", "evil.example", 403),
    ] {
        assert_eq!(check(Request::get(target).header("host", host)), expected, "{target} {host}");
    }
}

#[test]
fn pages_of_other_sites_are_refused() {
    let access = access_with(|_| {});
    for (origin, site, expected) in [
        ("", "", 200),
        ("", "none", 200),
        ("", "same-origin", 200),
        ("", "same-site", 403),
        ("", "cross-site", 403),
        ("", "something new", 403),
        ("http://localhost:9080", "", 200),
        ("http://localhost:9080", "same-origin", 200),
        ("http://localhost:9080", "cross-site", 403),
        ("http://localhost:9081", "", 403),
        ("http://localhost", "", 403),
        ("https://localhost:9080", "", 403),
        ("http://127.0.0.1:9080", "", 403),
        ("https://evil.example", "", 403),
        ("https://evil.example", "same-origin", 403),
        ("null", "", 403),
        ("", "", 200),
        ("https://app.example", "", 200),
        ("https://app.example", "cross-site", 200),
        ("https://APP.example", "cross-site", 200),
        ("http://app.example", "cross-site", 403),
        ("https://app.example.evil.example", "cross-site", 403),
        ("https://app.example:8443", "cross-site", 403),
    ] {
        let mut request = get();
        if !origin.is_empty() {
            request = request.header("origin", origin);
        }
        if !site.is_empty() {
            request = request.header("sec-fetch-site", site);
        }
        let result = access.check(&local(), &parts(request), false);
        assert_eq!(status(result), expected, "origin {origin:?}, site {site:?}");
    }
    let all = access_with(|settings| settings.origins = vec!["*".into()]);
    let request = get().header("origin", "https://any.example").header("sec-fetch-site", "cross-site");
    assert_eq!(status(all.check(&local(), &parts(request), false)), 200);
}

#[test]
fn behind_a_proxy_the_forwarded_caller_counts() {
    let access = access_with(|settings| settings.trusted_proxies = nets(&["127.0.0.1/32", "10.9.0.0/16"]));
    for (lines, expected) in [
        (&[][..], None),
        (&["127.0.0.2"], Some("127.0.0.2")),
        (&["::1"], Some("::1")),
        (&["127.0.0.2:5000"], Some("127.0.0.2")),
        (&["[::1]:5000"], Some("::1")),
        (&["[::1]"], Some("::1")),
        (&["::ffff:127.0.0.2"], Some("127.0.0.2")),
        (&["127.0.0.2, 10.9.1.1"], Some("127.0.0.2")),
        (&["8.8.8.8, 127.0.0.2, 10.9.1.1"], Some("127.0.0.2")),
        (&["garbage, 127.0.0.2"], Some("127.0.0.2")),
        (&["8.8.8.8", "127.0.0.2"], Some("127.0.0.2")),
        (&["127.0.0.2", "8.8.8.8"], None),
        (&["127.0.0.2, 8.8.8.8"], None),
        (&["8.8.8.8"], None),
        (&["127.0.0.2, garbage"], None),
        (&["127.0.0.2,"], None),
        (&["127.0.0.2, unknown"], None),
        (&[""], None),
        (&["10.9.1.1, 127.0.0.1"], None),
    ] {
        let request = lines.iter().fold(get(), |request, line| request.header("x-forwarded-for", *line));
        let result = access.check(&local(), &parts(request), false);
        let caller = result.map_or_else(
            |error| {
                assert_eq!(error.status, 403);
                None
            },
            |caller| Some(caller.address.to_string()),
        );
        assert_eq!(caller.as_deref(), expected, "{lines:?}");
    }
    // From anyone else the header is only a claim.
    let direct = peer(Door::Http, "127.0.0.3", "127.0.0.1");
    let request = get().header("x-forwarded-for", "8.8.8.8");
    assert_eq!(access.check(&direct, &parts(request), false).unwrap().address, direct.address.ip());
    // The proxy took HTTPS, the page is our own.
    let request = Request::get("/").header("host", "llm.example.org").header("x-forwarded-for", "127.0.0.2");
    let request = request.header("origin", "https://llm.example.org");
    assert_eq!(status(access.check(&local(), &parts(request), false)), 200);
}

#[test]
fn only_listed_callers_administrate() {
    let access = access_with(|settings| settings.memory_write = Some(nets(&["10.0.0.0/8"])));
    let caller = |address: &str| Caller { address: address.parse().unwrap() };
    assert!(access.admin(&caller("127.0.0.1")).is_ok());
    let error = access.admin(&caller("10.0.0.1")).unwrap_err();
    assert_eq!(error.status, 403);
    assert!(error.message.contains("10.0.0.1") && error.message.contains("`admin`"), "{}", error.message);
    assert!(access.memory_write(&caller("10.0.0.1")).is_ok());
    assert!(access.memory_write(&caller("127.0.0.1")).unwrap_err().message.contains("`memory_write`"));
    assert!(access_with(|_| {}).memory_write(&caller("192.168.0.1")).is_ok());
}

#[test]
fn bodies_are_json_and_plain() {
    let access = access_with(|_| {});
    for (kind, coding, expected) in [
        ("application/json", "", 200),
        ("application/json; charset=utf-8", "", 200),
        ("Application/JSON ;charset=utf-8", "", 200),
        ("application/vnd.api+json", "", 200),
        ("application/json", "identity", 415),
        ("application/json", "gzip", 415),
        ("application/json", "identity, gzip", 415),
        ("", "", 415),
        ("text/plain", "", 415),
        ("text/plain; application/json", "", 415),
        ("text/json", "", 415),
        ("application/jsonp", "", 415),
        ("application/json, text/plain", "", 415),
        ("application/x-www-form-urlencoded", "", 415),
        ("application/+json", "", 415),
        ("multipart/form-data", "", 415),
    ] {
        let mut request = get().method(Method::POST);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if !coding.is_empty() {
            request = request.header("content-encoding", coding);
        }
        let head = parts(request);
        assert_eq!(status(access.check(&local(), &head, true)), expected, "{kind:?} {coding:?}");
        assert_eq!(status(access.check(&local(), &head, false)), 200, "without a body");
    }
    let twice = get().header("content-type", "application/json").header("content-type", "text/plain");
    assert_eq!(status(access.check(&local(), &parts(twice), true)), 415);
}

#[test]
fn configured_pages_get_cors_answers() {
    let access = access_with(|_| {});
    let asked = || {
        get()
            .method(Method::OPTIONS)
            .header("origin", "https://app.example")
            .header("sec-fetch-site", "cross-site")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let head = parts(asked());
    assert_eq!(status(access.check(&local(), &head, false)), 200);
    let answer = access.preflight(&head).unwrap();
    assert_eq!(answer.status(), 204);
    let header = |name: &str| answer.headers()[name].to_str().unwrap();
    assert_eq!(header("access-control-allow-origin"), "https://app.example");
    assert_eq!(header("access-control-allow-headers"), "authorization,content-type");
    assert!(header("access-control-allow-methods").contains("POST"));
    assert!(header("vary").starts_with("Origin"));
    assert!(answer.headers().contains_key("access-control-max-age"));

    let of = |origin: &str| {
        let mut head = parts(asked());
        head.headers.insert("origin", origin.parse().unwrap());
        access.preflight(&head).is_some()
    };
    assert!(of("http://localhost:9080"), "our own page");
    assert!(!of("https://evil.example") && !of("http://localhost:9081") && !of("null"));
    assert!(access.preflight(&parts(asked().method(Method::POST))).is_none());
    assert!(access.preflight(&parts(get().method(Method::OPTIONS))).is_none());

    let mut headers = HeaderMap::new();
    access.cors(&parts(get().header("origin", "https://app.example")), &mut headers);
    assert_eq!(headers["access-control-allow-origin"], "https://app.example");
    assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
    let mut headers = HeaderMap::new();
    access.cors(&parts(get()), &mut headers);
    assert_eq!(headers["vary"], "Origin");
    assert_eq!(headers.len(), 1);
    let mut headers = HeaderMap::new();
    let closed = access_with(|settings| settings.origins.clear());
    closed.cors(&parts(get().header("origin", "https://app.example")), &mut headers);
    assert!(headers.is_empty());
}
