//! What goes over the wire to Moonshot and what its answers become.

use insta::assert_snapshot;
use moonshot::Moonshot;
use provider_api::{
    FaultKind, FaultScope, Manifest, Provider,
    testing::{Driver, Exchange, cuts},
};

const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json; charset=utf-8")];

fn driver() -> Driver {
    Driver::new::<Moonshot>("{}").expect("the settings are valid")
}

/// Begins a chat with the facts of the model's row in the table.
fn chat(driver: &Driver, model: &str, body: &str, stream: bool) -> Exchange {
    let models = Manifest::parse(Moonshot::MANIFEST).expect("the manifest is valid").models;
    let row = models.into_iter().find(|row| row.id == model).expect("the model is in the table");
    driver.chat(model, body, stream, &[("drops", &row.drops.join(" "))]).expect("the call is served")
}

#[test]
fn a_tool_conversation_gets_what_a_thinking_model_wants() {
    let outcome =
        chat(&driver(), "kimi-k2.6", include_str!("../fixtures/request-tools.json"), false).finish();
    assert_eq!(outcome.requests[0].url, "https://api.moonshot.ai/v1/chat/completions");
    assert_snapshot!("request-tools", outcome.requests[0].text());
    assert_eq!(outcome.dropped, ["temperature", "n", "seed", "tool_choice"]);
}

#[test]
fn each_generation_loses_only_what_it_refuses() {
    let check = |model: &str, body: &str, expected: &str, dropped: &[&str]| {
        let outcome = chat(&driver(), model, body, false).finish();
        assert_eq!(outcome.requests[0].text(), expected, "{model}");
        assert_eq!(outcome.dropped, dropped, "{model}");
    };
    let on =
        r#"{"thinking":{"type":"enabled"},"reasoning_effort":"high","tool_choice":"required","top_p":1}"#;
    check("kimi-k3", on, r#"{"reasoning_effort":"high","tool_choice":"required"}"#, &["top_p", "thinking"]);
    check(
        "kimi-k3.1-pro",
        on,
        r#"{"reasoning_effort":"high","tool_choice":"required"}"#,
        &["top_p", "thinking"],
    );
    check(
        "kimi-k2.5",
        on,
        r#"{"thinking":{"type":"enabled"}}"#,
        &["top_p", "reasoning_effort", "tool_choice"],
    );
    let off = r#"{"thinking":{"type":"disabled"},"tool_choice":"none","presence_penalty":0.1,"frequency_penalty":0,"top_k":1,"functions":[],"function_call":"auto"}"#;
    let refused = ["presence_penalty", "frequency_penalty", "top_k", "functions", "function_call"];
    check("kimi-k2.6", off, r#"{"thinking":{"type":"disabled"},"tool_choice":"none"}"#, &refused);
    let all = [&refused[..], &["thinking"]].concat();
    check("kimi-k2.7-code", off, r#"{"tool_choice":"none"}"#, &all);
    let old = r#"{"temperature":0.3,"top_p":0.5,"n":2,"presence_penalty":1,"stop":["a"]}"#;
    check("moonshot-v1-8k", old, old, &[]);
    // A model that does not think needs no thoughts back.
    let turn = r#"{"thinking":{"type":"disabled"},"messages":[{"role":"assistant","tool_calls":[{}]}]}"#;
    check("kimi-k2.6", turn, turn, &[]);
    let turn = r#"{"messages":[{"role":"assistant","tool_calls":[{}]}]}"#;
    check("moonshot-v1-8k", turn, turn, &[]);
    check(
        "kimi-k3",
        turn,
        r#"{"messages":[{"role":"assistant","tool_calls":[{}],"reasoning_content":" "}]}"#,
        &[],
    );
    for odd in [r#"{"messages":7}"#, r#"{"messages":[1,{"role":1,"tool_calls":[1]}],"thinking":true}"#] {
        let outcome = driver().chat("kimi-k2.6", odd, false, &[]).unwrap().finish();
        assert_eq!(outcome.requests[0].text(), odd);
    }
}

#[test]
fn usage_is_found_at_the_top_or_inside_the_choice_and_no_byte_changes() {
    let driver = driver();
    let check = |model: &str, stream: &[u8], expected: [Option<u64>; 4]| {
        let outcome = cuts(|| chat(&driver, model, "{}", true), 200, &SSE, stream);
        assert_eq!(outcome.text(), std::str::from_utf8(stream).unwrap());
        let usage = outcome.usage;
        assert_eq!([usage.input, usage.output, usage.cache_read, usage.reasoning], expected, "{model}");
        assert_eq!(outcome.fault, None);
    };
    check("kimi-k2.6", include_bytes!("../fixtures/stream.sse"), [Some(19), Some(21), Some(8), None]);
    check(
        "kimi-k3",
        include_bytes!("../fixtures/stream-tools.sse"),
        [Some(70), Some(33), Some(64), Some(12)],
    );

    let answer = include_bytes!("../fixtures/answer.json");
    let outcome = chat(&driver, "kimi-k2.6", "{}", false).answer(200, &JSON, &[answer]);
    assert_eq!((outcome.output.as_slice(), outcome.fault), (&answer[..], None));
    assert_eq!((outcome.usage.input, outcome.usage.cache_read), (Some(9), Some(4)));
}

#[test]
fn an_error_inside_a_stream_ends_it_with_what_it_means() {
    let driver = driver();
    let stream = include_bytes!("../fixtures/stream-error.sse");
    let outcome = cuts(|| chat(&driver, "kimi-k2.6", "{}", true), 200, &SSE, stream);
    assert_snapshot!("stream-error", outcome.text());
    let fault = outcome.fault.unwrap();
    assert_eq!((fault.kind, fault.scope, fault.status), (FaultKind::RATE_LIMIT, FaultScope::MODEL, 0));
}

#[test]
fn errors_mean_what_moonshot_says() {
    let driver = driver();
    let check = |status: u16, kind: &str, message: &str, expected: (FaultKind, FaultScope), wait: u64| {
        let body = serde_json::json!({"error":{"message":message,"type":kind}}).to_string();
        let outcome = chat(&driver, "kimi-k2.6", "{}", true).answer(status, &JSON, &[body.as_bytes()]);
        let fault = outcome.fault.unwrap();
        assert_eq!(((fault.kind, fault.scope), fault.retry_after_ms), (expected, wait), "{status} {kind}");
        // The same error where the status says 200.
        let outcome = chat(&driver, "kimi-k2.6", "{}", false).answer(200, &JSON, &[body.as_bytes()]);
        let fault = outcome.fault.unwrap();
        assert_eq!((fault.kind, fault.scope), expected, "{kind} in a 200");
        fault.message
    };
    let request = |kind: FaultKind| (kind, FaultScope::REQUEST);
    let bad = "invalid_request_error";
    check(
        400,
        "content_filter",
        "The request was rejected because it was considered high risk",
        request(FaultKind::CONTENT_FILTER),
        0,
    );
    check(
        400,
        bad,
        "Your request exceeded model token limit: 262144 (requested: 300000)",
        request(FaultKind::CONTEXT_LENGTH),
        0,
    );
    check(400, bad, "Input token length too long", request(FaultKind::CONTEXT_LENGTH), 0);
    check(
        400,
        bad,
        "invalid temperature: only 1 is allowed for this model",
        request(FaultKind::BAD_REQUEST),
        0,
    );
    check(400, bad, "unsupported image url: http urls are refused", request(FaultKind::BAD_REQUEST), 0);
    let key = (FaultKind::AUTH, FaultScope::CHANNEL);
    check(401, "invalid_authentication_error", "Invalid Authentication", key, 0);
    check(401, "incorrect_api_key_error", "Incorrect API key provided", key, 0);
    check(403, "permission_denied_error", "The API you are accessing is not open", key, 0);
    let account = (FaultKind::QUOTA, FaultScope::ACCOUNT);
    check(403, "permission_denied_error", "Insufficient balance", account, 0);
    check(
        404,
        "resource_not_found_error",
        "Not found the model kimi-k2.9 or Permission denied",
        (FaultKind::NOT_FOUND, FaultScope::MODEL),
        0,
    );
    let message = check(
        429,
        "exceeded_current_quota_error",
        "Your account org-9f8e7d6c5b4a <ak-f0a1b2c3d4e5> is suspended, please check your plan and billing details",
        account,
        0,
    );
    assert_eq!(message, "Your account *** <***> is suspended, please check your plan and billing details");
    check(
        429,
        "rate_limit_reached_error",
        "Your account request reached max concurrency: 1, please try again after 1 seconds",
        (FaultKind::RATE_LIMIT, FaultScope::CHANNEL),
        0,
    );
    check(
        429,
        "engine_overloaded_error",
        "The engine is currently overloaded, please try again later",
        (FaultKind::RATE_LIMIT, FaultScope::MODEL),
        2000,
    );
    check(500, "server_error", "Internal error", request(FaultKind::UPSTREAM), 0);
    check(500, "unexpected_output", "invalid state transition", request(FaultKind::UPSTREAM), 0);
}

#[test]
fn an_upstream_s_own_wait_counts() {
    let headers = [("content-type", "application/json"), ("retry-after", "7")];
    let body = br#"{"error":{"message":"overloaded","type":"engine_overloaded_error"}}"#;
    let outcome = chat(&driver(), "kimi-k2.6", "{}", false).answer(429, &headers, &[body]);
    assert_eq!(outcome.fault.unwrap().retry_after_ms, 7000);
}

#[test]
fn the_table_has_every_shortcode_of_the_first_gateway() {
    let models = Manifest::parse(Moonshot::MANIFEST).unwrap().models;
    for line in include_str!("../fixtures/shortcodes.txt").lines() {
        let (shortcode, id) = line.split_once(' ').unwrap();
        let row = models.iter().find(|row| row.shortcode == shortcode).unwrap();
        assert_eq!(row.id, id);
        assert_eq!(row.successor.as_deref(), Some("kimi26"), "{shortcode} is retired");
    }
    let kimi = models.iter().find(|row| row.shortcode == "kimi").unwrap();
    assert_eq!(
        (kimi.input_cost, kimi.output_cost, kimi.cached_input_cost),
        (Some(0.6), Some(3.0), Some(0.1))
    );
    assert_eq!(kimi.price_date.as_deref(), Some("2026-10-27"));
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<Moonshot>("fixtures");
}
