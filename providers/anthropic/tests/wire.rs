//! What goes over the wire to Anthropic and what its answers become.

use anthropic::Anthropic;
use provider_api::{
    Fault, FaultKind, FaultScope,
    serde_json::{Value, from_str, json},
    testing::{Driver, Exchange},
};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream")];

fn driver(settings: &str) -> Driver {
    Driver::new::<Anthropic>(settings).expect("the settings are valid")
}

fn begin(model: &str, body: &Value, stream: bool) -> Result<Exchange, Fault> {
    driver("{}").chat(model, &body.to_string(), stream, &[])
}

/// What is sent for this request, and what was left out of it.
fn sent(model: &str, body: &Value) -> (Value, Vec<String>) {
    let outcome = begin(model, body, false).expect("the call is served").finish();
    (from_str(outcome.requests[0].text()).expect("JSON"), outcome.dropped)
}

fn messages(list: Value) -> Value {
    sent("claude-opus-5", &json!({"messages": list})).0
}

fn refused(body: &Value) -> Fault {
    begin("claude-opus-5", body, false).err().expect("refused")
}

#[test]
fn the_request_goes_to_messages_wherever_the_address_ends() {
    for (settings, url) in [
        ("{}", "https://api.anthropic.com/v1/messages"),
        (r#"{"base_url":"http://127.0.0.1:9/v1"}"#, "http://127.0.0.1:9/v1/messages"),
        (r#"{"base_url":"http://127.0.0.1:9/anthropic/"}"#, "http://127.0.0.1:9/anthropic/v1/messages"),
    ] {
        let exchange = driver(settings).chat("m", r#"{"messages":[]}"#, false, &[]).expect("begun");
        assert_eq!(exchange.request().url, url);
        let version = exchange.request().headers.iter().find(|(name, _)| name == "anthropic-version");
        assert_eq!(version.map(|(_, value)| value.as_str()), Some("2023-06-01"));
    }
}

#[test]
fn max_tokens_is_always_there() {
    let check = |settings: &str, model: &str, body: &str, expected: u64| {
        let exchange = driver(settings).chat(model, body, false, &[]).expect("begun");
        let sent: Value = from_str(exchange.request().text()).expect("JSON");
        assert_eq!(sent["max_tokens"], expected, "{settings} {body}");
        assert_eq!(sent.get("max_completion_tokens"), None);
    };
    check("{}", "claude-haiku-4-5", r#"{"messages":[]}"#, 64_000);
    check("{}", "unknown", r#"{"messages":[],"max_tokens":null}"#, 4096);
    check(r#"{"max_tokens":500}"#, "claude-haiku-4-5", r#"{"messages":[]}"#, 500);
    check("{}", "claude-haiku-4-5", r#"{"messages":[],"max_tokens":7}"#, 7);
    check("{}", "claude-haiku-4-5", r#"{"messages":[],"max_tokens":7,"max_completion_tokens":9}"#, 9);
    for wrong in [json!(0), json!(-1), json!("x"), json!(1.5)] {
        let fault = refused(&json!({"messages": [], "max_tokens": wrong}));
        assert_eq!(fault.kind, FaultKind::BAD_REQUEST);
    }
}

#[test]
fn roles_take_turns_and_the_system_stands_apart() {
    let body = messages(json!([
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": ""}]},
        {"role": "assistant", "content": null},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "f"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "g"}]},
    ]));
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(body["system"], json!([text("a"), text("d")]));
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": [text("b"), text("c"), text("e")]},
            {"role": "assistant", "content": [text("f"), text("g")]},
        ])
    );
    let body = messages(json!([{"role": "assistant", "content": "x"}]));
    assert_eq!(body["messages"][0], json!({"role": "user", "content": "."}));
    assert_eq!(messages(json!([{"role": "system", "content": "x"}]))["messages"][0]["role"], "user");
}

#[test]
fn answers_of_parallel_tools_are_one_turn_and_come_first() {
    let call = |id: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let body = messages(json!([
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call("a", json!("{\"n\":1.0}")), call("b", json!("")), call("c.d:0", json!({"k": 1}))]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "user", "content": "and"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}, {"type": "image_url", "image_url": "data:image/png;base64,AA=="}]},
        {"role": "tool", "tool_call_id": "c.d:0", "content": ""},
    ]));
    let used = |id: &str, input: Value| json!({"type": "tool_use", "id": id, "name": "f", "input": input});
    assert_eq!(
        body["messages"][1]["content"],
        json!([used("a", json!({"n": 1.0})), used("b", json!({})), used("c_d_0", json!({"k": 1}))])
    );
    assert_eq!(
        body["messages"][2]["content"],
        json!([
            {"type": "tool_result", "tool_use_id": "a", "content": "1"},
            {"type": "tool_result", "tool_use_id": "b", "content": [
                {"type": "text", "text": "2"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
            ]},
            {"type": "tool_result", "tool_use_id": "c_d_0"},
            {"type": "text", "text": "and"},
        ])
    );
    for arguments in ["{\"a\":", "[1]", "7", "x"] {
        let fault = refused(
            &json!({"messages": [{"role": "assistant", "tool_calls": [call("a", json!(arguments))]}]}),
        );
        assert_eq!(fault.kind, FaultKind::BAD_REQUEST);
        assert!(fault.message.contains("tool call `f` in message 0"), "{fault}");
    }
}

#[test]
fn what_cannot_be_translated_is_refused_in_words() {
    for (message, words) in [
        (json!({"role": "function", "name": "f", "content": "x"}), "role \"function\""),
        (json!({"role": "tool", "content": "x"}), "has no id"),
        (
            json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}),
            "a part `input_audio`",
        ),
        (json!({"role": "user", "content": [{"type": "file", "file": {}}]}), "neither `file_data` nor"),
        (json!({"role": "user", "content": 7}), "cannot be read"),
    ] {
        let fault = refused(&json!({"messages": [message]}));
        assert!(fault.kind == FaultKind::BAD_REQUEST && fault.message.contains(words), "{fault}");
    }
    let question = json!([{"role": "user", "content": "x"}]);
    for (field, value) in [
        ("tools", json!([{"type": "custom", "custom": {"name": "x"}}])),
        ("stop", json!({})),
        ("response_format", json!({"type": "json_schema"})),
    ] {
        let fault = refused(&json!({"messages": question, (field): value}));
        let detail = String::from_utf8(fault.detail).expect("JSON");
        assert!(detail.contains(&format!("\"param\":\"{field}\"")), "{detail}");
    }
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    refused(&json!({"messages": question, "tools": tools, "tool_choice": "sometimes"}));
}

#[test]
fn tool_choices_become_anthropics() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let check = |more: Value, expected: Option<Value>, dropped: &[&str]| {
        let mut body = json!({"messages": [], "tools": tools});
        more.as_object().expect("fields").iter().for_each(|(name, value)| body[name] = value.clone());
        let (sent, named) = sent("claude-haiku-4-5", &body);
        assert_eq!(sent["tools"], json!([{"name": "f", "input_schema": {"type": "object"}}]));
        assert_eq!(
            (sent.get("tool_choice"), named),
            (expected.as_ref(), dropped.iter().map(|d| (*d).to_owned()).collect()),
            "{more}"
        );
    };
    check(json!({}), None, &[]);
    check(json!({"tool_choice": "auto"}), Some(json!({"type": "auto"})), &[]);
    check(json!({"tool_choice": "required"}), Some(json!({"type": "any"})), &[]);
    check(json!({"tool_choice": "none", "parallel_tool_calls": false}), Some(json!({"type": "none"})), &[]);
    let named = json!({"type": "function", "function": {"name": "f"}});
    check(json!({"tool_choice": named}), Some(json!({"type": "tool", "name": "f"})), &[]);
    check(json!({"parallel_tool_calls": true}), None, &[]);
    check(
        json!({"parallel_tool_calls": false}),
        Some(json!({"type": "auto", "disable_parallel_tool_use": true})),
        &[],
    );
    let one = json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true});
    check(json!({"tool_choice": named, "parallel_tool_calls": false}), Some(one), &[]);
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    check(json!({"tool_choice": "required", "thinking": thinking}), None, &["tool_choice"]);
    let (body, named) =
        sent("claude-opus-5-5", &json!({"messages": [], "tools": tools, "tool_choice": "required"}));
    assert_eq!((body.get("tool_choice"), named), (None, vec!["tool_choice".to_owned()]), "it always thinks");
}

#[test]
fn fields_are_translated_or_named() {
    let check = |model: &str, more: Value, expected: Value, dropped: &[&str]| {
        let mut body = more.clone();
        body["messages"] = json!([]);
        body["max_tokens"] = json!(5000);
        let (mut sent, named) = sent(model, &body);
        for always in ["model", "messages", "max_tokens"] {
            sent.as_object_mut().expect("an object").remove(always);
        }
        assert_eq!((&sent, named), (&expected, dropped.iter().map(|d| (*d).to_owned()).collect()), "{more}");
    };
    let old = "claude-haiku-4-5";
    check(old, json!({"temperature": 0.30, "top_k": 5}), json!({"temperature": 0.3, "top_k": 5}), &[]);
    check(old, json!({"temperature": 1.7}), json!({"temperature": 1}), &["temperature"]);
    check(old, json!({"top_p": 0.5}), json!({"top_p": 0.5}), &[]);
    check(old, json!({"temperature": 1, "top_p": 0.5}), json!({"temperature": 1}), &["top_p"]);
    check(old, json!({"stop": "x"}), json!({"stop_sequences": ["x"]}), &[]);
    check(old, json!({"stop": ["x", "\n"]}), json!({"stop_sequences": ["x"]}), &["stop"]);
    check(old, json!({"n": 1, "logprobs": false, "seed": 1, "n_x": null}), json!({}), &["logprobs", "seed"]);
    check(old, json!({"n": 2}), json!({}), &["n"]);
    check(old, json!({"user": "u"}), json!({"metadata": {"user_id": "u"}}), &[]);
    check(
        old,
        json!({"metadata": {"a": "b"}, "service_tier": "default"}),
        json!({"service_tier": "standard_only"}),
        &["metadata"],
    );
    check(
        old,
        json!({"metadata": {"user_id": "m"}, "service_tier": "flex"}),
        json!({"metadata": {"user_id": "m"}}),
        &["service_tier"],
    );
    check(old, json!({"response_format": {"type": "json_object"}}), json!({}), &["response_format"]);
    let schema = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}});
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    check(old, json!({"response_format": schema}), json!({"output_config": {"format": format}}), &[]);
    let budget = json!({"type": "enabled", "budget_tokens": 4096});
    check(
        old,
        json!({"reasoning_effort": "medium", "temperature": 0.1}),
        json!({"thinking": budget}),
        &["temperature"],
    );
    check(old, json!({"reasoning_effort": "huge"}), json!({}), &["reasoning_effort"]);
    let own = json!({"type": "enabled", "budget_tokens": 2000});
    check(
        old,
        json!({"thinking": own, "reasoning_effort": "low"}),
        json!({"thinking": own}),
        &["reasoning_effort"],
    );
    check(
        "claude-opus-5",
        json!({"reasoning_effort": "high", "response_format": schema}),
        json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high", "format": format}}),
        &[],
    );
    check(
        "claude-opus-5-5",
        json!({"reasoning_effort": "low"}),
        json!({"output_config": {"effort": "low"}}),
        &[],
    );
}

#[test]
fn fields_of_the_models_row_are_left_out() {
    let attrs = [("drops", "temperature top_p top_k")];
    let body = r#"{"messages":[],"temperature":1,"top_p":1}"#;
    let outcome = driver("{}").chat("claude-opus-5", body, false, &attrs).expect("begun").finish();
    assert!(!outcome.requests[0].text().contains("temperature"));
    assert_eq!(outcome.dropped, ["temperature", "top_p"]);
}

#[test]
fn errors_mean_what_anthropic_says() {
    let question = json!({"messages": [{"role": "user", "content": "x"}]});
    let check = |status: u16, kind: &str, message: &str, expected: FaultKind, scope: FaultScope| {
        let body =
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
                .to_string();
        let exchange = begin("claude-opus-5", &question, true).expect("begun");
        let fault =
            exchange.answer(status, &[("retry-after", "3"), JSON[0]], &[body.as_bytes()]).fault.expect("one");
        assert_eq!((fault.kind, fault.scope, fault.status), (expected, scope, status), "{status} {kind}");
        assert_eq!((fault.message.as_str(), fault.retry_after_ms), (message, 3000));
    };
    use FaultScope as Scope;
    check(400, "invalid_request_error", "max_tokens: 1 > 0", FaultKind::BAD_REQUEST, Scope::REQUEST);
    check(
        400,
        "invalid_request_error",
        "prompt is too long: 210000 tokens > 200000 maximum",
        FaultKind::CONTEXT_LENGTH,
        Scope::REQUEST,
    );
    check(
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the API",
        FaultKind::QUOTA,
        Scope::ACCOUNT,
    );
    check(401, "authentication_error", "invalid x-api-key", FaultKind::AUTH, Scope::CHANNEL);
    check(402, "billing_error", "payment is due", FaultKind::QUOTA, Scope::ACCOUNT);
    check(403, "permission_error", "not allowed", FaultKind::AUTH, Scope::CHANNEL);
    check(404, "not_found_error", "model: claude-9", FaultKind::NOT_FOUND, Scope::MODEL);
    check(413, "request_too_large", "too large", FaultKind::BAD_REQUEST, Scope::REQUEST);
    check(429, "rate_limit_error", "slow down", FaultKind::RATE_LIMIT, Scope::CHANNEL);
    check(
        429,
        "rate_limit_error",
        "You have reached your specified API usage limits",
        FaultKind::QUOTA,
        Scope::ACCOUNT,
    );
    check(500, "api_error", "Internal server error", FaultKind::UPSTREAM, Scope::REQUEST);
    check(504, "timeout_error", "late", FaultKind::TIMEOUT, Scope::REQUEST);
    check(529, "overloaded_error", "Overloaded", FaultKind::OVERLOADED, Scope::MODEL);
}

#[test]
fn a_stream_without_its_end_is_a_failure() {
    let question = json!({"messages": [{"role": "user", "content": "x"}]});
    let cut = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"part\"}}\n\n";
    let outcome = begin("claude-opus-5", &question, true).expect("begun").answer(200, &SSE, &[cut]);
    assert!(outcome.text().contains("part") && !outcome.text().contains("[DONE]"));
    assert_eq!(outcome.fault.map(|fault| fault.kind), Some(FaultKind::UPSTREAM));
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<Anthropic>("fixtures");
}
