//! Streams that fail in every way: what was delivered stays, and then an error event ends them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    faults_upstream::{EVENTS, Fault, asking, faulty, flood},
    harness::{Answer, KEY, Reply, Steady, chunk, completion},
};

/// A stream's first event, so that what follows meets a head that is out.
fn begun<'a, 'b>(answer: &'a mut Answer<'b>) -> &'a mut Answer<'b> {
    answer.stream().event(&chunk(json!({"content": "first"}), None))
}

/// Streams that break off behind their head.
const BROKEN: &[(&str, Fault)] = &[
    ("stops", |answer| {
        begun(answer).wait_for_hang_up();
    }),
    ("ends without its mark", |answer| begun(answer).end()),
    ("ends without its mark but finished", |answer| {
        begun(answer).event(&chunk(json!({}), Some("stop"))).end();
    }),
    ("closes", |answer| begun(answer).close()),
    ("closes inside an event", |answer| begun(answer).piece("data: {\"choices\":[{\"del").close()),
    ("ends inside an event", |answer| begun(answer).piece("data: {\"choices\":[{\"del").end()),
    ("ends before the blank line of its mark", |answer| begun(answer).piece("data: [DONE]").close()),
    ("resets", |answer| begun(answer).reset()),
    ("breaks its chunks", |answer| begun(answer).raw(b"zz\r\n\r\n").close()),
    ("turns to HTML", |answer| {
        begun(answer).piece("<html>\n\n<body>data: x\n\n").piece("data: <b>\n\n").end();
    }),
    ("turns to garbage", |answer| begun(answer).piece("data: {\"choices\":[}\ndata: \n\n").end()),
    ("sends no UTF-8", |answer| begun(answer).piece(b"data: {\"a\":\"\xff\"}\n\n").end()),
    ("reports an error", |answer| {
        begun(answer)
            .event(&json!({"error": {"message": "boom", "type": "server_error", "code": 500}}))
            .done();
    }),
    ("reports an error as a text", |answer| begun(answer).event(&json!({"error": "boom"})).done()),
    ("reports a named error", |answer| {
        begun(answer).piece("event: error\ndata: {\"error\":{\"message\":\"boom\"}}\n\n").done();
    }),
    ("tells the key", |answer| {
        let text = format!("key {KEY} at http://127.0.0.1:1/x");
        begun(answer).event(&json!({"error": {"message": text, "type": "invalid_request_error"}})).end();
    }),
    ("never ends a line", |answer| {
        begun(answer);
        flood(answer, &[b"10000\r\n" as &[u8], &[b'x'; 0x10000], b"\r\n"].concat());
    }),
    ("never ends an event", |answer| {
        begun(answer);
        flood(answer, &[b"8000\r\n" as &[u8], &b"data: x\n".repeat(0x1000), b"\r\n"].concat());
    }),
];

#[test]
fn broken_streams_end_in_an_error_event() {
    let (server, upstream) = faulty(BROKEN);
    let steady = Steady::over(&server, 64);
    for (number, (case, _)) in BROKEN.iter().enumerate() {
        let mut body = asking(case, true);
        body["retries"] = json!(3);
        if *case == "stops" {
            body["timeout"] = json!(1);
        }
        let reply = server.chat(&body);
        assert_eq!(reply.status, 200, "{case}: {}", reply.text());
        ends_in_error(case, &reply, "first");
        assert_eq!(upstream.requests().len(), number + 1, "{case}: no attempt after the head");
        steady.check_reply(case, &reply);
    }
}

/// What was delivered stays, then one well-formed error, no end mark, nothing behind it.
#[track_caller]
pub fn ends_in_error(case: &str, reply: &Reply, text: &str) {
    assert_eq!(reply.streamed_text(), text, "{case}: {}", reply.text());
    let mut events = reply.events();
    let last: Value = serde_json::from_str(&events.pop().expect("events")).expect("JSON");
    for member in ["message", "type", "param", "code"] {
        assert!(last["error"].get(member).is_some(), "{case}: {last}");
    }
    for event in events {
        let event: Value =
            serde_json::from_str(&event).unwrap_or_else(|error| panic!("{case}: {error} {event}"));
        assert!(event.get("error").is_none(), "{case}: two errors");
    }
    assert!(reply.text().ends_with("\n\n") && !reply.text().contains("[DONE]"), "{case}: {}", reply.text());
}

/// Streams that fail before anything of them could be delivered.
const UNBORN: &[(&str, Fault)] = &[
    ("502 is JSON", |answer| answer.json(200, &completion("x"))),
    ("502 is an error", |answer| answer.json(200, &json!({"error": {"message": "boom"}}))),
    ("429 is a rate limit", |answer| {
        answer.json(200, &json!({"error": {"message": "slow", "type": "rate_limit_error"}}));
    }),
    ("502 is HTML", |answer| answer.whole(200, &[("content-type", "text/html; charset=x")], b"<html>\n\n")),
    ("502 is HTML that calls itself a stream", |answer| {
        answer.whole(200, &[("content-type", "text/event-stream")], b"<html>\n\n<body>\n\n");
    }),
    ("502 is empty", |answer| answer.stream().end()),
    ("502 is a mark only", |answer| answer.stream().done()),
    ("502 starts with an error", |answer| {
        answer.stream().event(&json!({"error": {"message": "boom", "code": 500}})).done();
    }),
    ("502 is compressed", |answer| {
        answer
            .open(200, &[("content-type", "text/event-stream"), ("content-encoding", "br")])
            .piece("x")
            .end();
    }),
    ("502 never ends its first line", |answer| {
        answer.raw(EVENTS).raw(b"data: ");
        flood(answer, &[b'x'; 1 << 16]);
    }),
    ("502 closes", |answer| answer.raw(EVENTS).close()),
    ("502 resets", |answer| answer.raw(EVENTS).reset()),
    ("504 says nothing", |answer| {
        answer.wait_for_hang_up();
    }),
];

#[test]
fn streams_that_fail_before_their_head_end_in_a_status() {
    let (server, upstream) = faulty(UNBORN);
    let steady = Steady::over(&server, 64);
    for (number, (case, _)) in UNBORN.iter().enumerate() {
        let mut body = asking(case, true);
        if case.starts_with("504") {
            body["timeout"] = json!(1);
        }
        let reply = server.chat(&body);
        reply.error(case[..3].parse().expect("a status"));
        assert_eq!(upstream.requests().len(), number + 1, "{case}");
        steady.check_reply(case, &reply);
    }
}

const WORDS: &str = "äöü€😀 e\u{301} \u{1f468}\u{200d}\u{1f469} ok";

/// Streams that are whole in spite of how they come.
const WHOLE_STREAMS: &[(&str, Fault)] = &[
    ("byte by byte", |answer| {
        let text = format!("data: {}\n\ndata: [DONE]\n\n", chunk(json!({"content": WORDS}), Some("stop")));
        answer.stream();
        for byte in text.as_bytes() {
            answer.piece([*byte]);
        }
        answer.end();
    }),
    ("byte by byte until the end", |answer| {
        answer.raw(EVENTS);
        let text =
            format!("data: {}\r\n\r\ndata: [DONE]\r\n\r\n", chunk(json!({"content": WORDS}), Some("stop")));
        for byte in text.as_bytes() {
            answer.raw(&[*byte]);
        }
        answer.close();
    }),
    ("comments and CRLF", |answer| {
        answer.stream().piece(": hello\r\n\r\n:\r\nid: 7\r\nretry: 10\r\n");
        answer
            .piece(format!("data: {}\r\n\r\n: more\r\n\r\n", chunk(json!({"content": WORDS}), Some("stop"))));
        answer.piece(": x\n\ndata:[DONE]\r\n\r\n").end();
    }),
    ("several lines of data", |answer| {
        let event = chunk(json!({"content": WORDS}), Some("stop")).to_string();
        let (one, two) = event.split_at(event.find(",\"").expect("a comma") + 1);
        answer.stream().piece(format!("data: {one}\ndata: {two}\n\n")).done();
    }),
    ("data after the end", |answer| {
        answer.stream().event(&chunk(json!({"content": WORDS}), Some("stop")));
        answer.piece("data: [DONE]\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"late\"}}]}\n\n<html>");
        answer.event(&chunk(json!({"content": "later"}), None)).end();
    }),
    ("endless data after the end", |answer| {
        answer.stream().event(&chunk(json!({"content": WORDS}), Some("stop"))).piece("data: [DONE]\n\n");
        flood(answer, &[b"10000\r\n" as &[u8], &[b'x'; 0x10000], b"\r\n"].concat());
    }),
    ("no end behind the mark", |answer| {
        answer.stream().event(&chunk(json!({"content": WORDS}), Some("stop"))).piece("data: [DONE]\n\n");
        answer.wait_for_hang_up();
    }),
    ("negative usage", |answer| {
        let mut last = chunk(json!({"content": WORDS}), Some("stop"));
        last["usage"] = json!({"prompt_tokens": -5, "completion_tokens": 1e300, "total_tokens": "many"});
        answer.stream().event(&last).done();
    }),
    ("many comments before", |answer| {
        answer.stream();
        for _ in 0..512 {
            answer.piece(format!(": wait {}\n\n", " ".repeat(8000)).repeat(8));
        }
        answer.event(&chunk(json!({"content": WORDS}), Some("stop"))).done();
    }),
];

#[test]
fn streams_arrive_whole_however_they_come() {
    let (server, _upstream) = faulty(WHOLE_STREAMS);
    let steady = Steady::over(&server, 24);
    for (case, _) in WHOLE_STREAMS {
        let start = Instant::now();
        let reply = server.chat(&asking(case, true));
        assert_eq!(reply.status, 200, "{case}: {}", reply.text());
        assert_eq!(reply.streamed_text(), WORDS, "{case}");
        assert!(reply.text().replace("\r\n", "\n").ends_with("\n\ndata: [DONE]\n\n"), "{case}");
        assert_eq!(reply.text().matches("[DONE]").count(), 1, "{case}");
        assert!(start.elapsed() < Duration::from_secs(10), "{case}: {:?}", start.elapsed());
        steady.check_reply(case, &reply);
    }
}
