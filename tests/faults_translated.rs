//! Faults of an upstream whose answers are translated: rows of JSON from Ollama's own API. Embeddings, too.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    faults_streams::ends_in_error,
    faults_upstream::{Fault, flood},
    harness::{Answer, Server, Steady, Upstream, completion, eventually, gateway},
};

const SETTINGS: &str = "[limits]\nheartbeat_secs = 1\n[breaker]\nfailures = 100000\n";

/// A gateway and an Ollama that does to each chat what its only message names.
fn faulty(cases: &'static [(&'static str, Fault)]) -> (Server, Upstream) {
    let upstream = Upstream::start(move |request, answer| match request.path.as_str() {
        "/api/tags" => answer.json(200, &json!({"models": [{"name": "m:1", "model": "m:1"}]})),
        "/api/show" => answer.json(200, &json!({"capabilities": ["completion"], "model_info": {}})),
        _ => {
            let name = request.json()["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
            let fault = cases.iter().find(|(known, _)| *known == name);
            fault.unwrap_or_else(|| panic!("no case {name:?}")).1(answer);
        }
    });
    let server = gateway().plugins(&["ollama"]).env("OLLAMA_HOST", upstream.url("")).config(SETTINGS).start();
    eventually("the model", || (server.get("/v1/models/m:1").status == 200).then_some(()));
    (server, upstream)
}

fn chats(upstream: &Upstream) -> usize {
    upstream.requests().iter().filter(|request| request.path == "/api/chat").count()
}

fn asking(case: &str, stream: bool) -> Value {
    let timeout = if case.contains("nothing more") || case.starts_with("504") { 1 } else { 60 };
    json!({
        "model": "m:1", "stream": stream, "retries": 0, "timeout": timeout,
        "messages": [{"role": "user", "content": case}],
    })
}

fn row(text: &str, done: bool) -> String {
    let message = json!({"role": "assistant", "content": text});
    let mut row =
        json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": done});
    if done {
        row["done_reason"] = json!("stop");
        row["prompt_eval_count"] = json!(11);
        row["eval_count"] = json!(4);
    }
    format!("{row}\n")
}

/// What Ollama calls its rows.
const ROWS: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

/// The head and the first row.
fn begun<'a, 'b>(answer: &'a mut Answer<'b>) -> &'a mut Answer<'b> {
    answer.open(200, ROWS).piece(row("first", false))
}

/// Streams that break off behind their first row.
const BROKEN: &[(&str, Fault)] = &[
    ("nothing more", |answer| {
        begun(answer).wait_for_hang_up();
    }),
    ("ends without its last row", |answer| begun(answer).end()),
    ("closes", |answer| begun(answer).close()),
    ("closes inside a row", |answer| begun(answer).piece("{\"message\":{\"cont").close()),
    ("ends inside a row", |answer| begun(answer).piece("{\"message\":{\"cont").end()),
    ("resets", |answer| begun(answer).reset()),
    ("breaks its chunks", |answer| begun(answer).raw(b"zz\r\n\r\n").close()),
    ("turns to HTML", |answer| begun(answer).piece("<html>\n<body>\n").end()),
    ("turns to garbage", |answer| begun(answer).piece("{\"message\":}\n").end()),
    ("sends no UTF-8", |answer| begun(answer).piece(b"{\"message\":{\"content\":\"\xff\"}}\n").end()),
    ("reports an error", |answer| begun(answer).piece("{\"error\":\"out of memory\"}\n").end()),
    ("never ends a row", |answer| {
        begun(answer);
        flood(answer, &[b"10000\r\n" as &[u8], &[b'x'; 0x10000], b"\r\n"].concat());
    }),
];

#[test]
fn broken_rows_end_in_an_error_event() {
    let (server, upstream) = faulty(BROKEN);
    let steady = Steady::over(&server, 64);
    for (number, (case, _)) in BROKEN.iter().enumerate() {
        let reply = server.chat(&asking(case, true));
        assert_eq!(reply.status, 200, "{case}: {}", reply.text());
        ends_in_error(case, &reply, "first");
        assert_eq!(chats(&upstream), number + 1, "{case}: no attempt after the head");
        steady.check_reply(case, &reply);
    }
}

/// Answers of which nothing can be delivered, whole or streamed, with the status that the caller gets.
const UNBORN: &[(&str, Fault)] = &[
    ("502 closes", |answer| answer.close()),
    ("502 resets", |answer| answer.reset()),
    ("502 is HTML", |answer| answer.whole(200, &[("content-type", "text/html")], b"<html>\n<body>\n")),
    ("502 is empty", |answer| answer.whole(200, &[("content-type", "application/x-ndjson")], b"")),
    ("502 is null", |answer| answer.whole(200, &[("content-type", "application/json")], b"null\n")),
    ("502 is an array", |answer| answer.whole(200, &[("content-type", "application/json")], b"[]\n")),
    ("502 is another's format", |answer| answer.json(200, &completion("x"))),
    ("502 is an error inside a 200", |answer| answer.json(200, &json!({"error": "boom"}))),
    ("502 redirects", |answer| answer.whole(302, &[("location", "/api/elsewhere")], b"")),
    ("502 is 256 MiB without a line", |answer| {
        answer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n");
        flood(answer, &[b'x'; 1 << 16]);
    }),
    ("504 says nothing", |answer| {
        answer.wait_for_hang_up();
    }),
];

#[test]
fn rows_that_are_none_end_in_a_status() {
    let (server, upstream) = faulty(UNBORN);
    let steady = Steady::over(&server, 96);
    for (number, (case, _)) in UNBORN.iter().enumerate() {
        for stream in [false, true] {
            let start = Instant::now();
            let reply = server.chat(&asking(case, stream));
            reply.error(case[..3].parse().expect("a status"));
            assert!(start.elapsed() < Duration::from_secs(20), "{case}: {:?}", start.elapsed());
            assert_eq!(chats(&upstream), 2 * number + 1 + usize::from(stream), "{case}: one attempt");
            steady.check_reply(case, &reply);
        }
    }
}

const WORDS: &str = "früh – 早い 🙂 und \"spät\"\n";

fn words(answer: &mut Answer<'_>, end: &str) {
    let rows: String = WORDS.split_inclusive(' ').map(|word| row(word, false)).collect();
    let rows = (rows + &row("", true)).replace('\n', end);
    answer.open(200, ROWS);
    for byte in rows.as_bytes() {
        answer.piece([*byte]);
    }
    answer.end();
}

/// Streams that come oddly and hold all the same what was asked for.
const ODD: &[(&str, Fault)] = &[
    ("one byte in a packet", |answer| words(answer, "\n")),
    ("CRLF", |answer| words(answer, "\r\n")),
    ("blank lines", |answer| words(answer, "\n\n\r\n")),
    ("no line end at the end", |answer| {
        let last = row("", true);
        answer.open(200, ROWS).piece(row(WORDS, false) + last.trim_end()).end();
    }),
    ("rows behind the last", |answer| {
        answer.open(200, ROWS).piece(row(WORDS, false) + &row("", true) + &row("more", false)).end();
    }),
    ("no end behind the last row", |answer| {
        answer.open(200, ROWS).piece(row(WORDS, false) + &row("", true)).wait_for_hang_up();
    }),
    ("absurd counts", |answer| {
        let last = row("", true).replace(":11", ":-11").replace(":4,", ":1e300,");
        answer.open(200, ROWS).piece(row(WORDS, false) + &last).end();
    }),
];

#[test]
fn odd_rows_arrive_whole() {
    let (server, _upstream) = faulty(ODD);
    let steady = Steady::over(&server, 24);
    for (case, _) in ODD {
        let reply = server.chat(&asking(case, true));
        assert_eq!((reply.status, reply.streamed_text().as_str()), (200, WORDS), "{case}: {}", reply.text());
        assert_eq!(reply.text().matches("data: [DONE]").count(), 1, "{case}");
        steady.check_reply(case, &reply);
    }
    let total = server.get("/api/usage").json()["total"].clone();
    for (name, value) in total.as_object().expect("totals") {
        assert!(value.as_f64().is_none_or(|number| (0.0..1e6).contains(&number)), "{name}: {total}");
    }
}

/// Embeddings that are none.
const EMBEDDINGS: &[(&str, Fault)] = &[
    ("502 closes", |answer| answer.close()),
    ("502 is HTML", |answer| answer.whole(200, &[("content-type", "text/html")], b"<html>")),
    ("502 is cut", |answer| answer.whole(200, &[("content-type", "application/json")], b"{\"data\":[{\"emb")),
    ("502 is an error inside a 200", |answer| answer.json(200, &json!({"error": {"message": "boom"}}))),
    ("502 is 256 MiB", |answer| {
        answer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n");
        flood(answer, &[b' '; 1 << 16]);
    }),
    ("502 redirects", |answer| answer.whole(307, &[("location", "/v1/elsewhere")], b"")),
    ("503 is overloaded", |answer| answer.json(503, &json!({"error": {"message": "busy"}}))),
    ("400 is the caller's mistake", |answer| {
        answer.json(400, &json!({"error": {"message": "no such input"}}));
    }),
];

#[test]
fn embeddings_that_are_none_end_in_a_status() {
    let upstream = Upstream::start(move |request, answer| {
        let name = request.json()["input"].as_str().unwrap_or_default().to_owned();
        EMBEDDINGS.iter().find(|(known, _)| *known == name).expect("a case").1(answer);
    });
    let setup = gateway().plugins(&["mammouth"]).provider("mammouth", &upstream.url("/v1"));
    let server = setup.file("models.csv", "embedding-small").config(SETTINGS).start();
    let steady = Steady::over(&server, 96);
    for (case, _) in EMBEDDINGS {
        // This call has no field for it: three further attempts are its own.
        let reply = server.post("/v1/embeddings", &json!({"model": "embedding-small", "input": case}));
        reply.error(case[..3].parse().expect("a status"));
        steady.check_reply(case, &reply);
    }
    for (case, _) in EMBEDDINGS {
        let same = |request: &&crate::harness::Recorded| request.json()["input"] == *case;
        let attempts = upstream.requests().iter().filter(same).count();
        assert!((1..=4).contains(&attempts), "{case}: {attempts}");
    }
}
