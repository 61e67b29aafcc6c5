//! Anthropic's Messages API behind OpenAI's chat, through the whole gateway.

use serde_json::{Value, json};

use crate::harness::{Answer, KEY, Reply, Server, Upstream, gateway};

/// Writes an event as Anthropic does: with its name.
fn event(answer: &mut Answer<'_>, event: &Value) {
    answer.piece(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")));
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "content": [],
        "usage": {"input_tokens": 100, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 400, "output_tokens": 1}}})
}

fn block(index: u64, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn text(words: &str) -> Value {
    delta(0, json!({"type": "text_delta", "text": words}))
}

fn end(reason: &str) -> [Value; 2] {
    let usage = json!({"output_tokens": 50});
    [
        json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}),
        json!({"type": "message_stop"}),
    ]
}

/// One that streams these events, or answers as a whole where nobody asks for a stream.
fn streaming(events: Vec<Value>) -> Upstream {
    Upstream::start(move |_, answer| {
        answer.stream();
        events.iter().for_each(|next| event(answer, next));
        answer.end();
    })
}

fn with(upstream: &Upstream) -> Server {
    gateway().provider("anthropic", &upstream.url("")).file("models.csv", "sonnet5, haiku45").start()
}

fn ask(server: &Server, model: &str, more: Value) -> Reply {
    let mut body = json!({"model": model, "retries": 0, "messages": [{"role": "user", "content": "x"}]});
    more.as_object().expect("an object").iter().for_each(|(name, value)| body[name] = value.clone());
    server.chat(&body)
}

/// The chunks of a streamed answer, which must end as it should.
fn chunks(reply: &Reply) -> Vec<Value> {
    let text = reply.text();
    let body = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end: {text}"));
    body.split("\n\n").filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok()).collect()
}

#[test]
fn a_whole_answer_is_translated_both_ways() {
    let upstream = Upstream::json(
        200,
        json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "stop_reason": "end_turn",
            "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "hi"}],
            "usage": {"input_tokens": 100, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 400, "output_tokens": 50}}),
    );
    let memory = json!({"content": "remember", "cache": true}).to_string();
    let server = gateway()
        .provider("anthropic", &upstream.url(""))
        .file("models.csv", "haiku45")
        .file("memory.json", memory)
        .start();
    let reply = ask(
        &server,
        "haiku45",
        json!({"temperature": 0.5, "max_completion_tokens": 9, "seed": 1, "stop": "END"}),
    );
    let answer = reply.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("hi"), &json!("hm")),
        "{answer}"
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 2500);
    assert_eq!(
        answer["usage"]["prompt_tokens_details"],
        json!({"cached_tokens": 2000, "cache_write_tokens": 400})
    );
    assert_eq!(reply.header("x-sigorest-dropped"), Some("seed"));

    let request = upstream.last();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/messages"));
    assert_eq!(request.header("x-api-key"), Some(KEY));
    assert_eq!(
        (request.header("authorization"), request.header("anthropic-version")),
        (None, Some("2023-06-01"))
    );
    let sent = request.json();
    assert_eq!(
        sent,
        json!({"model": "claude-haiku-4-5", "max_tokens": 9, "temperature": 0.5, "stop_sequences": ["END"],
            "system": [{"type": "text", "text": "remember", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]})
    );

    let counted = server.get("/api/usage").json()["by_model"]["haiku45"].clone();
    let expected = (100.0 * 1.0 + 2000.0 * 0.1 + 400.0 * 1.25 + 50.0 * 5.0) / 1e6;
    let cost = counted["cost_usd"].as_f64().expect("a cost");
    assert!((cost - expected).abs() < 1e-9, "{cost} is not {expected}: {counted}");
}

#[test]
fn a_stream_with_thoughts_text_and_tools_is_openais() {
    let mut events = vec![
        start(),
        json!({"type": "ping"}),
        block(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, json!({"type": "thinking_delta", "thinking": "h"})),
        delta(0, json!({"type": "thinking_delta", "thinking": "\"m"})),
        delta(0, json!({"type": "signature_delta", "signature": "sig"})),
        json!({"type": "content_block_stop", "index": 0}),
        block(1, json!({"type": "text", "text": ""})),
        delta(1, json!({"type": "text_delta", "text": "I look."})),
        json!({"type": "content_block_stop", "index": 1}),
    ];
    for (index, parts) in [(2, &["", "{\"q\":", "1}"][..]), (3, &[])] {
        events.push(block(
            index,
            json!({"type": "tool_use", "id": format!("toolu_{index}"), "name": "look", "input": {}}),
        ));
        events.extend(
            parts.iter().map(|part| delta(index, json!({"type": "input_json_delta", "partial_json": part}))),
        );
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.extend(end("tool_use"));
    let upstream = streaming(events);
    let server = with(&upstream);
    let reply = ask(&server, "sonnet5", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = chunks(&reply);
    let deltas = || chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    let joined = |name: &str| deltas().filter_map(|delta| delta[name].as_str()).collect::<String>();
    assert_eq!((joined("reasoning_content"), joined("content")), ("h\"m".into(), "I look.".into()));
    let thoughts: Vec<&Value> = deltas().filter_map(|delta| delta.get("thinking_blocks")).collect();
    assert_eq!(thoughts, [&json!([{"type": "thinking", "thinking": "h\"m", "signature": "sig"}])]);
    let calls: Vec<&Value> = deltas().filter_map(|delta| delta["tool_calls"].get(0)).collect();
    let arguments = |index: u64| -> String {
        let own = calls.iter().filter(|call| call["index"] == index);
        own.filter_map(|call| call["function"]["arguments"].as_str()).collect()
    };
    assert_eq!((arguments(0), arguments(1)), ("{\"q\":1}".into(), "{}".into()));
    let ids: Vec<&Value> = calls.iter().filter_map(|call| call.get("id")).collect();
    assert_eq!(ids, ["toolu_2", "toolu_3"]);
    let reasons: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).filter(|r| r.is_string()).collect();
    assert_eq!(reasons, ["tool_calls"]);
    let usage = &chunks.last().expect("a chunk")["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(2500), &json!(50)), "{usage}");
    assert_eq!(upstream.last().json()["stream"], true);
    let counted = server.get("/api/usage").json()["by_model"]["sonnet5"].clone();
    assert_eq!(
        (&counted["input_tokens"], &counted["output_tokens"]),
        (&json!(2500), &json!(50)),
        "{counted}"
    );
}

#[test]
fn usage_is_not_shown_to_who_did_not_ask() {
    let events = [
        vec![start(), block(0, json!({"type": "text", "text": ""})), text("hi")],
        end("max_tokens").to_vec(),
    ]
    .concat();
    let server = with(&streaming(events));
    let chunks = chunks(&ask(&server, "sonnet5", json!({"stream": true})));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none_or(Value::is_null)), "{chunks:?}");
    assert_eq!(chunks.last().expect("a chunk")["choices"][0]["finish_reason"], "length");
    assert_eq!(server.get("/api/usage").json()["by_model"]["sonnet5"]["output_tokens"], 50);
}

#[test]
fn a_conversation_with_tools_goes_on() {
    let upstream = streaming([vec![start(), text("hi")], end("end_turn").to_vec()].concat());
    let server = with(&upstream);
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": ""}});
    let reply = ask(
        &server,
        "sonnet5",
        json!({"stream": true,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/"}}]},
            {"role": "assistant", "content": null, "tool_calls": [call("a"), call("functions.f:1")]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "functions.f:1", "content": "2"},
        ]}),
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = upstream.last().json();
    let used = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {}});
    let result = |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": text});
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}}]},
            {"role": "assistant", "content": [used("a"), used("functions_f_1")]},
            {"role": "user", "content": [result("a", "1"), result("functions_f_1", "2")]},
        ])
    );
    assert_eq!(sent["tools"], json!([{"name": "f", "input_schema": {"type": "object", "properties": {}}}]));
}

#[test]
fn failures_keep_their_meaning() {
    for (status, kind, message, expected, code) in [
        (400, "invalid_request_error", "max_tokens: too large", 400, ""),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 9 tokens > 8 maximum",
            400,
            "context_length_exceeded",
        ),
        (400, "invalid_request_error", "Your credit balance is too low", 429, "insufficient_quota"),
        (401, "authentication_error", "invalid x-api-key", 502, "provider_key"),
        (404, "not_found_error", "model: x", 404, "model_not_found"),
        (429, "rate_limit_error", "slow", 429, "rate_limit"),
        (529, "overloaded_error", "Overloaded", 503, ""),
    ] {
        let upstream = Upstream::start(move |_, answer| {
            let body =
                json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
            let headers = [("content-type", "application/json"), ("retry-after", "9")];
            answer.whole(status, &headers, body.to_string().as_bytes());
        });
        for stream in [false, true] {
            let reply = ask(&with(&upstream), "sonnet5", json!({"stream": stream}));
            let error = reply.error(expected);
            assert!(error["code"].as_str().unwrap_or("").starts_with(code), "{kind}: {error}");
            if status == 429 {
                assert_eq!(reply.header("retry-after"), Some("9"));
            }
        }
    }
}

#[test]
fn a_stream_that_breaks_ends_in_words() {
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    for last in [Some(error.clone()), None] {
        let events = [vec![start(), text("part")], last.into_iter().collect()].concat();
        let said = ask(&with(&streaming(events)), "sonnet5", json!({"stream": true})).text();
        assert!(said.contains("part") && said.contains("\"error\"") && !said.contains("[DONE]"), "{said}");
        assert!(!said.contains("\"finish_reason\":\"stop\""), "{said}");
    }
    // Before anything was handed out, another attempt may do better.
    let upstream = Upstream::start(move |request, answer| {
        answer.stream();
        event(answer, &start());
        if request.number == 0 {
            event(answer, &error);
        } else {
            [text("hi")].iter().chain(&end("end_turn")).for_each(|next| event(answer, next));
        }
        answer.end();
    });
    let reply = ask(&with(&upstream), "sonnet5", json!({"stream": true, "retries": 1}));
    assert!(chunks(&reply).len() >= 2 && reply.text().contains("hi"), "{}", reply.text());
    assert_eq!(upstream.requests().len(), 2);
}
