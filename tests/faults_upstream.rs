//! Upstreams that fail in every way: each costs one request, which ends in the right status or, once
//! streaming, in an error event.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Answer, KEY, Recorded, Server, Steady, Upstream, chunk, completion, gateway};

/// Settings under which many failures in a row change nothing for the next.
const SETTINGS: &str = "[limits]\nconnect_secs = 1\nheartbeat_secs = 1\n[breaker]\nfailures = 100000\n";

pub type Fault = fn(&mut Answer<'_>);

/// Starts a gateway whose upstream does to each request what its `user` field names.
pub fn faulty(cases: &'static [(&'static str, Fault)]) -> (Server, Upstream) {
    let upstream = Upstream::start(move |request, answer| {
        let name = request.json()["user"].as_str().unwrap_or_default().to_owned();
        let fault = cases.iter().find(|(known, _)| *known == name);
        fault.unwrap_or_else(|| panic!("no case {name:?}")).1(answer);
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).config(SETTINGS).start();
    (server, upstream)
}

pub fn asking(case: &str, stream: bool) -> Value {
    json!({
        "model": "gpt41", "stream": stream, "retries": 0, "user": case,
        "messages": [{"role": "user", "content": "x"}],
    })
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
pub const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// Writes until the other side has had enough, 256 MiB at most.
pub fn flood(answer: &mut Answer<'_>, piece: &[u8]) {
    let mut left = 256 << 20;
    while answer.alive() && left > 0 {
        answer.raw(piece);
        left -= piece.len().min(left);
    }
    answer.close();
}

fn whole(answer: &mut Answer<'_>, body: &[u8]) {
    answer.whole(200, &[("content-type", "application/json")], body);
}

fn secret(answer: &mut Answer<'_>, status: u16) {
    let text = format!("refused Authorization: Bearer {KEY} at http://127.0.0.1:1/internal");
    answer.json(status, &json!({"error": {"message": text, "type": "server_error", "code": null}}));
}

/// Whole answers that are none, with the status that the caller gets.
const WHOLE: &[(&str, Fault)] = &[
    ("502 closes at once", |answer| answer.close()),
    ("502 resets", |answer| answer.reset()),
    ("502 is not HTTP", |answer| answer.raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").close()),
    ("502 is binary", |answer| answer.raw(&[0xff, 0, 1, 2, 3, b'\n', b'\n']).close()),
    ("502 has half a head", |answer| answer.raw(b"HTTP/1.1 200 OK\r\ncontent-le").close()),
    ("502 has a short body", |answer| {
        answer.raw(HEAD).raw(b"content-length: 1000\r\n\r\n{\"choices\":[]").close();
    }),
    ("502 has a short chunk", |answer| {
        answer.raw(HEAD).raw(b"transfer-encoding: chunked\r\n\r\nff\r\n{\"choices\":[]}").close();
    }),
    ("502 has a surplus in a chunk", |answer| {
        answer.raw(HEAD).raw(b"transfer-encoding: chunked\r\n\r\n3\r\n{}   \r\n0\r\n\r\n").close();
    }),
    ("502 has two lengths", |answer| {
        answer.raw(HEAD).raw(b"content-length: 2\r\ncontent-length: 3\r\n\r\n{} ").close();
    }),
    ("502 has a length and chunks", |answer| {
        answer.raw(HEAD).raw(b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}").close();
    }),
    ("502 has a negative length", |answer| answer.raw(HEAD).raw(b"content-length: -1\r\n\r\n{}").close()),
    ("502 is HTML", |answer| answer.whole(200, &[("content-type", "text/html")], b"<html>sign in</html>")),
    ("502 is HTML with 502", |answer| {
        answer.whole(502, &[("content-type", "text/html")], b"<html>bad gateway</html>");
    }),
    ("502 is empty", |answer| whole(answer, b"")),
    ("502 has no content", |answer| answer.raw(b"HTTP/1.1 204 No Content\r\n\r\n").close()),
    ("502 is an array", |answer| whole(answer, b"[]")),
    ("502 is null", |answer| whole(answer, b"null")),
    ("502 is cut JSON", |answer| whole(answer, b"{\"choices\":[{\"message\"")),
    ("502 is no UTF-8", |answer| whole(answer, b"{\"choices\":[\"\xff\xfe\"]}")),
    ("502 lacks choices", |answer| whole(answer, b"{\"id\":\"x\"}")),
    ("502 has no list of choices", |answer| whole(answer, b"{\"choices\":\"all\"}")),
    ("502 has trailing garbage", |answer| whole(answer, b"{\"choices\":[]}}")),
    ("502 is a stream", |answer| {
        answer.stream().event(&chunk(json!({"content": "x"}), None)).done();
    }),
    ("502 claims 256 MiB", |answer| {
        answer.raw(HEAD).raw(b"content-length: 268435456\r\n\r\n");
        flood(answer, &[b' '; 1 << 16]);
    }),
    ("502 has 256 MiB in chunks", |answer| {
        answer.raw(HEAD).raw(b"transfer-encoding: chunked\r\n\r\n");
        flood(answer, &[b"10000\r\n" as &[u8], &[b' '; 0x10000], b"\r\n"].concat());
    }),
    ("502 has 256 MiB until the end", |answer| {
        answer.raw(HEAD).raw(b"\r\n");
        flood(answer, &[b' '; 1 << 16]);
    }),
    ("502 has an error of 256 MiB", |answer| {
        answer.raw(b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\n\r\n");
        flood(answer, &[b' '; 1 << 16]);
    }),
    ("502 is a bomb", |answer| {
        answer.whole(
            200,
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xed\xc1\x01\x0d\x00\x00\x00\xc2\xa0",
        );
    }),
    ("502 has endless headers", |answer| {
        answer.raw(b"HTTP/1.1 200 OK\r\n");
        flood(answer, &b"x-more: and more of the same\r\n".repeat(1000));
    }),
    ("502 has an endless header", |answer| {
        answer.raw(b"HTTP/1.1 200 OK\r\nx-more: ");
        flood(answer, &[b'a'; 1 << 14]);
    }),
    ("502 has 1xx without end", |answer| {
        flood(answer, &b"HTTP/1.1 102 Processing\r\n\r\n".repeat(100));
    }),
    ("502 switches protocols", |answer| {
        answer.raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n").close();
    }),
    ("502 redirects", |answer| {
        answer.whole(307, &[("location", "/v1/elsewhere")], b"");
    }),
    ("502 redirects with an answer", |answer| {
        answer.whole(302, &[("location", "http://127.0.0.1:9/")], completion("no").to_string().as_bytes());
    }),
    ("502 has status 999", |answer| answer.whole(999, &[], b"{}")),
    ("502 is an error inside a 200", |answer| {
        answer.json(200, &json!({"error": {"message": "boom", "type": "server_error", "code": 500}}));
    }),
    ("502 is a text for an error", |answer| answer.json(200, &json!({"error": "boom"}))),
    ("429 is a rate limit inside a 200", |answer| {
        answer.json(
            200,
            &json!({"error": {"message": "slow down", "type": "rate_limit_error", "code": "429"}}),
        );
    }),
    ("502 tells the key", |answer| secret(answer, 500)),
    ("502 tells the key inside a 200", |answer| secret(answer, 200)),
    ("504 says nothing", |answer| {
        answer.wait_for_hang_up();
    }),
    ("504 stops in its body", |answer| {
        answer.raw(HEAD).raw(b"content-length: 1000\r\n\r\n{\"choices\":[").wait_for_hang_up();
    }),
    ("504 drips its head", |answer| {
        answer.raw(b"HTTP/1.1 200 OK\r\nx-a: ");
        while answer.alive() {
            answer.raw(b"a");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }),
];

#[test]
fn whole_answers_that_are_none_end_in_their_status() {
    let (server, upstream) = faulty(WHOLE);
    let steady = Steady::over(&server, 110);
    for (number, (case, _)) in WHOLE.iter().enumerate() {
        let mut body = asking(case, false);
        if case.starts_with("504") {
            body["timeout"] = json!(1);
        }
        let start = Instant::now();
        let reply = server.chat(&body);
        reply.error(case[..3].parse().expect("a status"));
        assert!(start.elapsed() < Duration::from_secs(15), "{case}: {:?}", start.elapsed());
        assert_eq!(upstream.requests().len(), number + 1, "{case}: one attempt, and nothing is followed");
        steady.check_reply(case, &reply);
    }
}

/// Odd answers that hold what the caller asked for.
const ODD: &[(&str, Fault)] = &[
    ("behind 1xx", |answer| {
        answer.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n");
        answer.json(200, &completion("hello"));
    }),
    ("surplus", |answer| {
        let body = completion("hello").to_string();
        let head = format!("content-length: {}\r\n\r\n", body.len());
        answer.raw(HEAD).raw(format!("{head}{body}HTTP/1.1 200 OK\r\n\r\nmore").as_bytes());
    }),
    ("HTTP/1.0", |answer| {
        answer.raw(b"HTTP/1.0 200 OK\r\n\r\n").raw(completion("hello").to_string().as_bytes()).close();
    }),
    ("byte by byte", |answer| {
        let body = completion("hello").to_string();
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
        for byte in format!("{head}{body}\r\n0\r\n\r\n").as_bytes() {
            answer.raw(&[*byte]);
        }
    }),
    ("chunk extensions and trailers", |answer| {
        let body = completion("hello").to_string();
        answer.raw(HEAD).raw(b"transfer-encoding: chunked\r\n\r\n");
        answer.raw(format!("{:X};a=b\r\n{body}\r\n0;x\r\nx-t: 1\r\n\r\n", body.len()).as_bytes());
    }),
    ("error null", |answer| {
        let mut body = completion("hello");
        body["error"] = Value::Null;
        answer.json(200, &body);
    }),
    ("the wrong type", |answer| {
        let body = completion("hello").to_string();
        answer.whole(200, &[("content-type", "text/plain")], body.as_bytes());
    }),
];

#[test]
fn odd_answers_arrive_whole() {
    let (server, _upstream) = faulty(ODD);
    let steady = Steady::over(&server, 40);
    for (case, _) in ODD.iter().chain(ODD) {
        let reply = server.chat(&asking(case, false));
        assert_eq!(reply.status, 200, "{case}: {}", reply.text());
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "hello", "{case}");
        steady.check_reply(case, &reply);
    }
}

#[test]
fn usage_that_cannot_be_is_not_booked() {
    let upstream = Upstream::start(|request: &Recorded, answer| {
        let mut body = completion("x");
        body["usage"] = match request.number {
            0 => json!({"prompt_tokens": -1, "completion_tokens": -9e18}),
            1 => json!({"prompt_tokens": 1e300, "completion_tokens": u64::MAX}),
            2 => json!({"prompt_tokens": "7", "completion_tokens": [1], "prompt_tokens_details": 3}),
            3 => json!("all of them"),
            _ => {
                json!({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4000}})
            }
        };
        answer.json(200, &body);
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).config(SETTINGS).start();
    let steady = Steady::over(&server, 24);
    for _ in 0..5 {
        assert_eq!(server.chat(&asking("", false)).status, 200);
    }
    let usage = server.get("/api/usage");
    let total = &usage.json()["total"];
    let numbers = total.as_object().expect("totals");
    for (name, value) in numbers {
        let number = value.as_f64().unwrap_or(0.0);
        assert!((0.0..1e6).contains(&number), "{name}: {value} in {total}");
    }
    assert!(!server.get("/metrics").text().contains("NaN"));
    steady.check_reply("usage", &usage);
}

#[test]
fn refused_and_unroutable_upstreams_end_in_time() {
    let server = gateway().provider("mammouth", &Upstream::nobody()).config(SETTINGS).start();
    let steady = Steady::over(&server, 24);
    for stream in [false, true] {
        let reply = server.chat(&asking("refused", stream));
        reply.error(502);
        steady.check_reply("refused", &reply);
    }
    // A full queue of connections answers no further SYN: the connect hangs as at a dead address.
    let full = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let full = full.expect("a socket");
    rustix::net::bind(&full, &"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address"))
        .expect("bind");
    rustix::net::listen(&full, 0).expect("listen");
    let full = TcpListener::from(full);
    let address = full.local_addr().expect("an address");
    let _waiting: Vec<_> = (0..4)
        .map_while(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    let server = gateway().provider("mammouth", &format!("http://{address}/v1")).config(SETTINGS).start();
    let start = Instant::now();
    let reply = server.chat(&asking("unroutable", false));
    assert!(matches!(reply.status, 502 | 504), "{}", reply.text());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn attempts_are_never_more_than_asked_for() {
    for (retries, stream) in [(0, false), (2, false), (2, true)] {
        let upstream = Upstream::start(|_, answer| answer.close());
        let server = gateway().provider("mammouth", &upstream.url("/v1")).config(SETTINGS).start();
        let mut body = asking("", stream);
        body["retries"] = json!(retries);
        server.chat(&body).error(502);
        assert_eq!(upstream.requests().len(), retries + 1);
    }
}
