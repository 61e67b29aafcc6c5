//! Streamed chats: real events, as they come, whole or with an honest end.

use std::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Upstream, chunk, gateway, usage_chunk};

fn asking(model: &str) -> Value {
    json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "one two three"}]})
}

#[test]
fn the_echo_streams_word_by_word() {
    let server = gateway().start();
    let reply = server.chat(&asking("echo"));
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").expect("a type").starts_with("text/event-stream"));
    let events = reply.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(reply.streamed_text(), "one two three");
    assert!(events.len() > 3, "{events:?}");
    let first: Value = serde_json::from_str(&events[0]).expect("JSON");
    assert_eq!(
        (&first["object"], &first["choices"][0]["delta"]["role"]),
        (&json!("chat.completion.chunk"), &json!("assistant"))
    );
    assert!(!reply.text().contains("\"usage\":{"), "usage was not asked for: {}", reply.text());
}

#[test]
fn usage_comes_if_it_was_asked_for() {
    let upstream = Upstream::saying("one two");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    for model in ["echo", "gpt41"] {
        let mut body = asking(model);
        body["stream_options"] = json!({"include_usage": true});
        let events = server.chat(&body).events();
        let last: Value = serde_json::from_str(&events[events.len() - 2]).expect("JSON");
        assert_eq!(last["choices"], json!([]), "{model}");
        assert!(last["usage"]["total_tokens"].as_u64().is_some_and(|count| count > 0), "{model}: {last}");

        body["stream_options"] = json!({"include_usage": false});
        let text = server.chat(&body).text();
        assert!(!text.contains("\"choices\":[]"), "{model}: {text}");
    }
}

#[test]
fn the_gateway_asks_for_usage_and_keeps_only_that_chunk_to_itself() {
    let upstream = Upstream::saying("one two");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply = server.chat(&asking("gpt41"));
    assert_eq!(upstream.last().json()["stream_options"], json!({"include_usage": true}));
    assert_eq!(reply.streamed_text(), "one two");
    assert!(!reply.text().contains("\"choices\":[]"), "{}", reply.text());
    assert!(reply.text().ends_with("data: [DONE]\n\n"));
    let usage = server.get("/api/usage").json();
    assert!(usage.to_string().contains("gpt41"), "{usage}");
}

#[test]
fn events_pass_byte_for_byte() {
    let odd = concat!(
        "event: x\ndata: {\"choices\":[ {\"index\":0,\"delta\":{\"content\":null,\"role\":\"assistant\"}}],\"z\":0.10}\n\n",
        "id: 7\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"caf\u{e9} \u{1f600}\"},\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}]}\r\n\r\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
        "data: [DONE]\n\n",
    );
    // Cut at every byte, characters included.
    let upstream = Upstream::start(move |_, answer| {
        answer.stream();
        for byte in odd.as_bytes().chunks(1) {
            answer.piece(byte);
        }
        answer.end();
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let text = server.chat(&asking("gpt41")).text();
    for part in odd.split_inclusive("\n\n").filter(|part| !part.starts_with(':')) {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

#[test]
fn each_event_goes_out_as_it_comes() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::start(move |_, answer| {
        let wait = || gate.lock().expect("the gate").recv().expect("a go");
        answer.stream().event(&chunk(json!({"role": "assistant", "content": "first"}), None));
        wait();
        answer.event(&chunk(json!({"content": "second"}), None));
        wait();
        answer.event(&chunk(json!({}), Some("stop"))).done();
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut caller = server.connect();
    caller.start("POST", "/v1/chat/completions", &[], asking("gpt41").to_string().as_bytes());
    assert_eq!(caller.head().status, 200);
    assert!(!caller.read_until("first").contains("second"));
    go.send(()).expect("the upstream waits");
    assert!(!caller.read_until("second").contains("[DONE]"));
    go.send(()).expect("the upstream waits");
    caller.read_until("[DONE]");
    assert_eq!(caller.chunk(), None);
    // The connection serves on.
    assert_eq!(caller.get("/ping").status, 200);
}

#[test]
fn heartbeats_fill_silence_behind_the_head() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::start(move |_, answer| {
        answer.stream().event(&chunk(json!({"content": "first"}), None));
        gate.lock().expect("the gate").recv().expect("a go");
        answer.event(&chunk(json!({}), Some("stop"))).done();
    });
    let server =
        gateway().provider("mammouth", &upstream.url("/v1")).config("[limits]\nheartbeat_secs = 1\n").start();
    let mut caller = server.connect();
    caller.start("POST", "/v1/chat/completions", &[], asking("gpt41").to_string().as_bytes());
    caller.head();
    caller.read_until("first");
    assert!(caller.read_until("\n\n").starts_with(": "));
    go.send(()).expect("the upstream waits");
    caller.read_until("[DONE]");
}

#[test]
fn a_stream_that_breaks_ends_in_an_error() {
    let whole = chunk(json!({"content": "part"}), None);
    for (how, name) in [(0, "closed"), (1, "reset"), (2, "ended early"), (3, "garbage")] {
        let event = whole.clone();
        let upstream = Upstream::start(move |_, answer| {
            answer.stream().event(&event);
            match how {
                0 => answer.close(),
                1 => answer.reset(),
                2 => answer.end(),
                _ => answer.piece("data: {\"choices\":[{\"delta\"").end(),
            }
        });
        let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
        let reply = server.chat(&asking("gpt41"));
        assert_eq!(reply.status, 200, "{name}");
        let events = reply.events();
        assert!(events[0].contains("part"), "{name}");
        let error: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
        assert!(error["error"]["message"].is_string(), "{name}: {events:?}");
        assert!(!events.contains(&"[DONE]".to_owned()), "{name}: {events:?}");
        assert_eq!(upstream.requests().len(), 1, "{name}: nothing is tried again after the head");
    }
}

#[test]
fn silence_inside_a_stream_ends_it() {
    let upstream = Upstream::start(|_, answer| {
        answer.stream().event(&chunk(json!({"content": "part"}), None));
        assert!(answer.wait_for_hang_up());
    });
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .config("[limits]\nstream_idle_secs = 1\n")
        .start();
    let events = server.chat(&asking("gpt41")).events();
    assert!(events.last().expect("events").contains("\"error\""), "{events:?}");
    // The request's own timeout counts where it is smaller.
    let upstream = Upstream::start(|_, answer| {
        answer.stream().event(&chunk(json!({"content": "part"}), None));
        answer.wait_for_hang_up();
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut body = asking("gpt41");
    body["timeout"] = json!(1);
    let events = server.chat(&body).events();
    assert!(events.last().expect("events").contains("\"error\""), "{events:?}");
}

#[test]
fn before_the_head_an_error_is_a_status_and_is_tried_again() {
    let upstream = Upstream::start(|request, answer| {
        answer.stream();
        if request.number == 0 {
            answer
                .event(&json!({"error": {"message": "overloaded", "type": "server_error", "code": null}}))
                .end();
        } else {
            answer
                .event(&chunk(json!({"content": "fine"}), None))
                .event(&chunk(json!({}), Some("stop")))
                .done();
        }
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply = server.chat(&asking("gpt41"));
    assert_eq!((reply.status, reply.streamed_text().as_str()), (200, "fine"));
    assert_eq!(upstream.requests().len(), 2);

    let upstream = Upstream::json(500, json!({"error": {"message": "down", "type": "server_error"}}));
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut body = asking("gpt41");
    body["retries"] = json!(0);
    server.chat(&body).error(502);
}

#[test]
fn a_caller_who_leaves_frees_the_provider() {
    let (left, gone) = mpsc::channel();
    let left = Mutex::new(left);
    let upstream = Upstream::start(move |_, answer| {
        answer.stream().event(&chunk(json!({"content": "part"}), None));
        assert!(answer.wait_for_hang_up());
        left.lock().expect("the channel").send(Instant::now()).expect("the test waits");
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut caller = server.connect();
    caller.start("POST", "/v1/chat/completions", &[], asking("gpt41").to_string().as_bytes());
    caller.head();
    caller.read_until("part");
    let start = Instant::now();
    caller.hang_up();
    let end = gone.recv_timeout(Duration::from_secs(10)).expect("the upstream's connection closes");
    // 100 ms on a machine with time to spare; this one runs many tests at once.
    assert!(end - start < Duration::from_secs(1), "{:?}", end - start);
    // And what was used is accounted, once, as an estimate.
    server.logged("gpt41");
}

#[test]
fn a_provider_that_thinks_for_long_gets_a_head_and_heartbeats() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::start(move |_, answer| {
        answer.stream();
        gate.lock().expect("the gate").recv().expect("a go");
        answer
            .event(&chunk(json!({"content": "at last"}), None))
            .event(&chunk(json!({}), Some("stop")))
            .done();
    });
    let server =
        gateway().provider("mammouth", &upstream.url("/v1")).config("[limits]\nheartbeat_secs = 1\n").start();
    let mut caller = server.connect();
    let start = Instant::now();
    caller.start("POST", "/v1/chat/completions", &[], asking("gpt41").to_string().as_bytes());
    assert_eq!(caller.head().status, 200);
    // Ten seconds of silence; until then the answer could still have become an error with its own status.
    assert!(start.elapsed() > Duration::from_secs(9), "{:?}", start.elapsed());
    assert!(caller.read_until("\n\n").starts_with(": "));
    go.send(()).expect("the upstream waits");
    assert!(caller.read_until("[DONE]").contains("at last"));
}

#[test]
fn usage_inside_the_stream_passes_as_it_came() {
    let mut last = chunk(json!({}), Some("stop"));
    last["usage"] = json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3});
    let upstream = Upstream::start(move |_, answer| {
        answer
            .stream()
            .event(&chunk(json!({"content": "x"}), None))
            .event(&last)
            .event(&usage_chunk())
            .done();
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let text = server.chat(&asking("gpt41")).text();
    assert!(text.contains("\"total_tokens\":3"), "{text}");
    assert!(!text.contains("\"total_tokens\":15"), "the chunk with empty choices was not asked for: {text}");
}

#[test]
fn a_whole_answer_to_a_streamed_request_is_not_passed_on_as_a_stream() {
    let upstream = Upstream::json(200, json!({"error": {"message": "no", "type": "invalid_request_error"}}));
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut body = asking("gpt41");
    body["retries"] = json!(0);
    let reply = server.chat(&body);
    assert!(reply.status >= 400, "{} {}", reply.status, reply.text());
}
