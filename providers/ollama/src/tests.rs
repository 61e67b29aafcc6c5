//! Exchanges with recorded-style bytes, through the real adapter.

use provider_api::{
    FaultKind, Model, Usage,
    model::Mode,
    testing::{Driver, Exchange, Outcome, cuts},
};
use serde_json::{Value, json};

use super::*;

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json; charset=utf-8")];
const HELLO: &str = r#"{"model":"gemma3:4b","messages":[{"role":"user","content":"hi"}]}"#;

fn driver() -> Driver {
    Driver::new::<Ollama>("{}").expect("valid settings")
}

fn chat(body: &str, stream: bool) -> Result<Exchange, Fault> {
    driver().chat("gemma3:4b", body, stream, &[])
}

/// A stream that comes out the same wherever it is cut.
fn stream(body: &str, fixture: &str) -> Outcome {
    cuts(|| chat(body, true).expect("begins"), 200, &NDJSON, fixture.as_bytes())
}

#[test]
fn streams_are_openais_chunks_wherever_they_are_cut() {
    let counted = r#"{"messages":[],"stream_options":{"include_usage":true}}"#;
    insta::assert_snapshot!("streamed", stream(counted, include_str!("../fixtures/chat.ndjson")).text());
    let tools = stream(HELLO, include_str!("../fixtures/tools.ndjson"));
    insta::assert_snapshot!("streamed_tools", tools.text());
    assert_eq!((tools.usage.input, tools.usage.output), (Some(160), Some(41)));
    let length = stream(HELLO, include_str!("../fixtures/length.ndjson"));
    insta::assert_snapshot!("streamed_length", length.text());
    assert_eq!((length.usage.input, length.usage.output), (Some(0), Some(1)));
}

#[test]
fn a_stream_that_fails_or_breaks_off_is_a_fault() {
    let outcome = stream(HELLO, include_str!("../fixtures/error.ndjson"));
    assert_eq!((outcome.chunks.len(), outcome.usage, outcome.done), (1, Usage::default(), None));
    let fault = outcome.fault.expect("a fault");
    assert_eq!(fault.kind, FaultKind::UPSTREAM);
    assert!(fault.message.contains("CUDA error"), "{fault}");
    let whole = include_str!("../fixtures/chat.ndjson");
    let rows: Vec<&str> = whole.lines().collect();
    let broken = stream(HELLO, &format!("{}\n", rows[..3].join("\n")));
    assert!(broken.fault.expect("a fault").message.contains("before it was complete"));
    let garbage = stream(HELLO, "<html>\n");
    assert_eq!(garbage.fault.expect("a fault").kind, FaultKind::DECODE);
    // The last row may come without its line end.
    assert_eq!(stream(HELLO, whole.trim_end()).fault, None);
}

#[test]
fn whole_answers_are_openais() {
    let answer = |fixture: &str| {
        let start = || chat(HELLO, false).expect("begins");
        cuts(start, 200, &JSON, fixture.as_bytes()).text().to_owned()
    };
    insta::assert_snapshot!("whole", answer(include_str!("../fixtures/chat.json")));
    insta::assert_snapshot!("whole_tools", answer(include_str!("../fixtures/tools.json")));
    let exchange = chat(HELLO, false).expect("begins");
    let fault = exchange.answer(200, &JSON, &[b"{\"error\":\"no\"}"]).fault.expect("a fault");
    assert_eq!(fault.message, "Ollama failed: no");
}

/// The native request for a call, with what was dropped.
fn native(body: &Value, stream: bool) -> Result<(Value, Vec<String>), Fault> {
    let exchange = chat(&body.to_string(), stream)?;
    let body = serde_json::from_slice(&exchange.request().body).expect("the request is JSON");
    Ok((body, exchange.finish().dropped))
}

#[test]
fn requests_are_ollamas() {
    let body = json!({
        "model": "gemma3:4b",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [
                {"type": "text", "text": "what is \"this\"?"},
                {"type": "text", "text": "quick"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K+/=="}},
            ]},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"x\": 1.50}"}},
                {"id": "c2", "type": "function", "function": {"name": "rest", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": "auto", "stream_options": {"include_usage": true}, "n": 1,
        "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0.10, "top_p": 0.9, "seed": 3,
        "stop": "END", "presence_penalty": 0.5, "frequency_penalty": -0.5,
        "reasoning_effort": "minimal", "keep_alive": "5m", "options": {"num_ctx": 8192, "seed": 4},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "logprobs": true, "top_logprobs": 2, "user": "me", "logit_bias": {"1": 2}, "metadata": null,
    });
    let exchange = chat(&body.to_string(), true).expect("begins");
    let request = exchange.request();
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", "http://127.0.0.1:11434/api/chat"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let (body, mut dropped) = native(&body, true).expect("begins");
    insta::assert_snapshot!("request", serde_json::to_string_pretty(&body).unwrap());
    dropped.sort();
    assert_eq!(dropped, ["logit_bias", "user"]);
}

#[test]
fn nothing_is_sent_that_the_caller_did_not_send() {
    let check = |extra: Value, stream: bool, expected: Value, dropped: &[&str]| {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut whole = json!({"model": "gemma3:4b", "messages": body["messages"], "stream": stream});
        whole.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        assert_eq!(native(&body, stream).unwrap(), (whole, dropped.iter().map(|f| (*f).into()).collect()));
    };
    check(json!({}), false, json!({}), &[]);
    check(json!({"temperature": null, "stream": true}), true, json!({}), &[]);
    check(json!({"tools": [{"type": "function"}], "tool_choice": "none"}), false, json!({}), &[]);
    check(json!({"tool_choice": "required"}), false, json!({}), &["tool_choice"]);
    check(json!({"n": 2}), false, json!({}), &["n"]);
    check(json!({"response_format": {"type": "json_object"}}), false, json!({"format": "json"}), &[]);
    check(json!({"response_format": {"type": "text"}}), false, json!({}), &[]);
    check(json!({"reasoning_effort": "none"}), false, json!({"think": false}), &[]);
    check(json!({"think": true, "reasoning_effort": "low"}), false, json!({"think": true}), &[]);
    check(json!({"stop": ["a", "b"]}), false, json!({"options": {"stop": ["a", "b"]}}), &[]);
}

#[test]
fn requests_that_ollama_cannot_serve_are_the_callers_mistake() {
    let check = |messages: Value, expected: &str| {
        let fault = native(&json!({"messages": messages}), false).expect_err(expected);
        assert_eq!(fault.kind, FaultKind::BAD_REQUEST);
        assert!(fault.message.contains(expected), "{fault}");
    };
    let part = |part: Value| json!([{"role": "user", "content": [part]}]);
    check(
        part(json!({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}})),
        "`data:` URLs",
    );
    check(part(json!({"type": "input_audio", "input_audio": {}})), "`input_audio`");
    let call = |arguments: &str| json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
    check(call("{"), "not a JSON object");
    check(call("[1]"), "not a JSON object");
    check(json!("hi"), "cannot be read");
    assert_eq!(chat("{}", false).err().expect("refused").kind, FaultKind::BAD_REQUEST);
    assert_eq!(
        native(&json!({"messages": [], "reasoning_effort": "huge"}), false).unwrap_err().kind,
        FaultKind::BAD_REQUEST
    );
}

#[test]
fn statuses_say_what_went_wrong() {
    let check = |status: u16, kind: FaultKind| {
        let exchange = chat(HELLO, true).expect("begins");
        let fault = exchange.answer(status, &JSON, &[b"{\"error\":\"model 'x' not found\"}"]).fault.unwrap();
        assert_eq!((fault.kind, fault.message.as_str()), (kind, "model 'x' not found"), "{status}");
    };
    check(400, FaultKind::BAD_REQUEST);
    check(401, FaultKind::AUTH);
    check(404, FaultKind::NOT_FOUND);
    check(429, FaultKind::RATE_LIMIT);
    check(500, FaultKind::UPSTREAM);
    check(503, FaultKind::OVERLOADED);
}

#[test]
fn embeddings_are_openais_in_both_encodings() {
    let embed = |body: &str| driver().call_operation("embeddings", "nomic-embed-text", body);
    let body = r#"{"model":"n","input":["a","b"],"dimensions":3,"user":"me","encoding_format":"float"}"#;
    let exchange = embed(body).expect("begins");
    let expected = r#"{"model":"nomic-embed-text","input":["a","b"],"dimensions":3}"#;
    assert_eq!(
        (exchange.request().text(), &*exchange.request().url),
        (expected, "http://127.0.0.1:11434/api/embed")
    );
    let outcome = exchange.answer(200, &JSON, &[include_bytes!("../fixtures/embed.json")]);
    assert_eq!((outcome.usage.input, outcome.dropped.as_slice()), (Some(8), &["user".to_owned()][..]));
    insta::assert_snapshot!("embeddings", outcome.text());
    let exchange = embed(r#"{"input":"a","encoding_format":"base64"}"#).expect("begins");
    let outcome = exchange.answer(200, &JSON, &[include_bytes!("../fixtures/embed.json")]);
    insta::assert_snapshot!("embeddings_base64", outcome.text());
    for body in [r#"{"input":[1,2]}"#, "{}", r#"{"input":"a","encoding_format":"hex"}"#] {
        assert_eq!(embed(body).err().expect("refused").kind, FaultKind::BAD_REQUEST);
    }
}

#[test]
fn models_are_found_with_their_facts_and_none_costs_the_others() {
    let mut exchange = driver().call_operation("models", "", "").expect("begins");
    assert_eq!(
        (&*exchange.request().method, &*exchange.request().url),
        ("GET", "http://127.0.0.1:11434/api/tags")
    );
    exchange.reply(200, &JSON, &[include_bytes!("../fixtures/tags.json")]);
    assert_eq!(exchange.request().url, "http://127.0.0.1:11434/api/show");
    assert_eq!(exchange.request().text(), r#"{"model":"gemma3:4b"}"#);
    exchange.reply(200, &JSON, &[include_bytes!("../fixtures/show.json")]);
    exchange.reply(404, &JSON, &[b"{\"error\":\"gone\"}"]);
    exchange.reply(200, &JSON, &[include_bytes!("../fixtures/show-embed.json")]);
    exchange.fail("connection reset");
    assert!(!exchange.is_waiting());
    let outcome = exchange.finish();
    assert_eq!(outcome.fault, None);
    let models: Vec<Model> = serde_json::from_slice(&outcome.output).expect("rows");
    let facts = |at: usize| {
        let Model { shortcode, mode, max_input_tokens, input_cost, capabilities, .. } = models[at].clone();
        (shortcode, mode, max_input_tokens, input_cost, capabilities.join(" "))
    };
    let row = |shortcode: &str, mode, length, cost, words: &str| {
        (shortcode.to_owned(), mode, length, cost, words.to_owned())
    };
    assert_eq!(
        facts(0),
        row("ollama-gemma3-4b", Mode::Chat, Some(131_072), Some(0.0), "vision tools reasoning json")
    );
    assert_eq!(facts(1), row("ollama-broken", Mode::Chat, None, Some(0.0), ""));
    assert_eq!(facts(2), row("ollama-nomic-embed-text", Mode::Embedding, Some(2048), Some(0.0), ""));
    assert_eq!(facts(3), row("ollama-qwen3-coder-480b-cloud", Mode::Chat, Some(262_144), None, "tools json"));
    assert_eq!((models.len(), models[1].id.as_str()), (4, "broken:latest"));
}

#[test]
fn discovery_without_models_or_with_garbage_ends() {
    let models =
        |body: &[u8]| driver().call_operation("models", "", "").expect("begins").answer(200, &JSON, &[body]);
    assert_eq!(models(b"{\"models\":[]}").text(), "[]");
    assert_eq!(models(b"{}").text(), "[]");
    assert_eq!(models(b"<html>").fault.expect("a fault").kind, FaultKind::DECODE);
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<Ollama>("fixtures");
}
