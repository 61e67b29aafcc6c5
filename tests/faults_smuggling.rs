//! Shapes of smuggling: requests that two servers in a row might read differently.

use std::time::{Duration, Instant};

use crate::harness::{Steady, Upstream, gateway};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"echo","messages":[{"role":"user","content":"x"}]}"#;

#[test]
fn shapes_of_smuggling_never_make_a_second_request() {
    let upstream = Upstream::saying("fine");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let steady = Steady::over(&server, 24);
    let hidden = "GET /v1/models/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let length = BODY.len();
    let chunked = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    for (case, request) in [
        (
            "a length and chunks",
            format!("{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n{chunked}{hidden}"),
        ),
        (
            "chunks and a length",
            format!("{head}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{chunked}{hidden}"),
        ),
        (
            "both, their names in odd letters",
            format!("{head}Content-LENGTH: {length}\r\ntRANSFER-encoding:chunked\r\n\r\n{chunked}{hidden}"),
        ),
        (
            "both, and a line end without its CR",
            format!("{head}content-length:5\nx: y\ntransfer-encoding: chunked\n\n{chunked}{hidden}"),
        ),
        (
            "both, and chunks twice",
            format!(
                "{head}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{chunked}{hidden}"
            ),
        ),
        ("a coding in quotes", format!("{head}transfer-encoding: \"chunked\"\r\n\r\n{chunked}{hidden}")),
        ("a coding behind a tab", format!("{head}transfer-encoding: \x0bchunked\r\n\r\n{chunked}{hidden}")),
        (
            "a name with a control character",
            format!("{head}transfer-encoding\0: chunked\r\n\r\n{chunked}{hidden}"),
        ),
        ("two lengths", format!("{head}content-length: {length}\r\ncontent-length: 0\r\n\r\n{BODY}{hidden}")),
        ("a list of lengths", format!("{head}content-length: {length}, {length}\r\n\r\n{BODY}{hidden}")),
        ("a signed length", format!("{head}content-length: +{length}\r\n\r\n{BODY}{hidden}")),
        ("a length in hex", format!("{head}content-length: 0x{length:x}\r\n\r\n{BODY}{hidden}")),
        ("a huge length", format!("{head}content-length: 18446744073709551617\r\n\r\n{BODY}{hidden}")),
        (
            "a space before the colon",
            format!("{head}content-length : 0\r\ncontent-length: {length}\r\n\r\n{BODY}{hidden}"),
        ),
        (
            "a folded line",
            format!(
                "{head}x: y\r\n content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n{chunked}{hidden}"
            ),
        ),
        ("a folded coding", format!("{head}transfer-encoding:\r\n chunked\r\n\r\n{chunked}{hidden}")),
        ("an unknown coding", format!("{head}transfer-encoding: xchunked\r\n\r\n{chunked}{hidden}")),
        ("chunks twice", format!("{head}transfer-encoding: chunked, identity\r\n\r\n{chunked}{hidden}")),
        ("a bare CR", format!("{head}x: a\rtransfer-encoding: chunked\r\n\r\n{chunked}{hidden}")),
        (
            "a bare LF in a chunk",
            format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\n{BODY}\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a chunk size with a sign",
            format!("{head}transfer-encoding: chunked\r\n\r\n+{length:x}\r\n{BODY}\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a huge chunk size",
            format!(
                "{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{BODY}\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "a chunk too long",
            format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{BODY}\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "an LF in an extension",
            format!("{head}transfer-encoding: chunked\r\n\r\n{length:x};a\nb\r\n{BODY}\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a long extension",
            format!(
                "{head}transfer-encoding: chunked\r\n\r\n{length:x};{}\r\n{BODY}\r\n0\r\n\r\n{hidden}",
                "a".repeat(100_000)
            ),
        ),
        (
            "chunks in HTTP/1.0",
            format!("{}transfer-encoding: chunked\r\n\r\n{chunked}{hidden}", head.replace("1.1", "1.0")),
        ),
    ] {
        let mut caller = server.connect();
        let start = Instant::now();
        let _ = caller.try_write(&request);
        let all = String::from_utf8_lossy(&caller.all()).into_owned();
        assert!(!all.contains("smuggled"), "{case}: {all}");
        assert!(all.matches("HTTP/1.1 ").count() <= 1, "{case}: {all}");
        assert!(all.starts_with("HTTP/1.1 4"), "{case}: {all}");
        assert!(start.elapsed() < Duration::from_secs(20), "{case}: the connection stays open");
        assert!(all.contains("\r\n\r\n{"), "{case}: an answer without words: {all}");
        assert!(!server.log().contains("smuggled"), "{case}");
        steady.check(case);
    }
}

#[test]
fn odd_but_clear_bodies_are_read_as_they_are_meant() {
    let server = gateway().start();
    let steady = Steady::over(&server, 24);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let length = BODY.len();
    let sized = format!("{head}content-length: {length}\r\n\r\n{BODY}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    for (case, request) in [
        (
            "the length twice",
            format!("{head}content-length: {length}\r\ncontent-length: {length}\r\n\r\n{BODY}"),
        ),
        ("leading zeros", format!("{head}content-length: 000{length}\r\n\r\n{BODY}")),
        (
            "extensions and trailers",
            format!(
                "{head}transfer-encoding: chunked\r\n\r\n{length:x};a=b;c=\"d\"\r\n{BODY}\r\n0;x\r\nx-t: 1\r\n\r\n"
            ),
        ),
        ("chunks in capitals", chunked.replace("chunked", "CHUNKED")),
        (
            "a coding behind a tab",
            chunked.replace("transfer-encoding: chunked", "transfer-encoding:\tchunked\t"),
        ),
    ] {
        // What stands behind it is a request of its own, on the same connection.
        let mut caller = server.connect();
        caller.write(format!("{request}GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let reply = caller.reply();
        assert!(reply.status == 200 && reply.text().contains("choices"), "{case}: {}", reply.text());
        assert_eq!(caller.reply().text(), "pong", "{case}");
        steady.check(case);
    }
    // One with a length and one with chunks are two requests that are clear each, also in one packet.
    let mut caller = server.connect();
    caller.write(format!("{sized}{chunked}{sized}{chunked}"));
    for _ in 0..4 {
        let reply = caller.reply();
        assert!(reply.status == 200 && reply.text().contains("choices"), "{}", reply.text());
    }
    // And where both stand in a later one, the first is answered and the connection ends there.
    let both = format!("{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    let mut caller = server.connect();
    caller.write(format!("{sized}{both}{sized}"));
    let text = String::from_utf8_lossy(&caller.all()).into_owned();
    assert_eq!(text.matches("HTTP/1.1 200 ").count(), 1, "{text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{text}");
    assert!(text.contains("HTTP/1.1 400") && text.contains("both Content-Length and"), "{text}");
    steady.check("pipelined");
}
