//! What goes over the wire to Mammouth and what its answers become.

use std::collections::HashSet;

use insta::assert_snapshot;
use mammouth::Mammouth;
use provider_api::{
    FaultKind, FaultScope, Manifest, Model, Provider,
    model::Mode,
    testing::{Driver, Exchange, cuts},
};

const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream; charset=utf-8")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn driver() -> Driver {
    Driver::new::<Mammouth>("{}").expect("the settings are valid")
}

fn models() -> Vec<Model> {
    Manifest::parse(Mammouth::MANIFEST).expect("the manifest is valid").models
}

/// Begins a chat with the facts of the model's row in the table.
fn chat(driver: &Driver, model: &str, body: &str, stream: bool) -> Exchange {
    let row = models().into_iter().find(|row| row.id == model).expect("the model is in the table");
    let (drops, tokens) = (row.drops.join(" "), row.requires_completion_tokens == Some(true));
    let attrs = [("drops", drops.as_str()), ("requires_completion_tokens", if tokens { "true" } else { "" })];
    driver.chat(model, body, stream, &attrs).expect("the call is served")
}

#[test]
fn requests_are_forwarded_with_the_model_row_s_edits() {
    let check = |model: &str, body: &str, expected: &str, dropped: &[&str]| {
        let outcome = chat(&driver(), model, body, false).finish();
        let request = &outcome.requests[0];
        assert_eq!(request.url, "https://api.mammouth.ai/v1/chat/completions");
        assert_eq!(
            (request.text(), outcome.dropped),
            (expected, dropped.iter().map(|f| f.to_string()).collect())
        );
    };
    let body = r#"{ "model":"gpt-4.1","messages":[{"role":"developer","content":"x"}],"max_tokens":5,"temperature":1.50,"new":{"b":1,"a":2}}"#;
    check("gpt-4.1", body, body, &[]);
    let given = r#"{"temperature":0.2,"messages":[{"role":"developer","content":"developer"}],"max_tokens":5,"top_p":1,"seed":1}"#;
    check(
        "gpt-5.2",
        given,
        r#"{"messages":[{"role":"developer","content":"developer"}],"max_completion_tokens":5,"seed":1}"#,
        &["temperature", "top_p"],
    );
    check(
        "o4-mini",
        r#"{"max_tokens":5,"max_completion_tokens":6,"top_p":null,"messages":[]}"#,
        r#"{"max_completion_tokens":6,"messages":[]}"#,
        &[],
    );
    check(
        "claude-sonnet-5",
        r#"{"temperature":0.2,"top_k":3,"messages":[{"role":"developer","content":"developer"}],"max_tokens":5}"#,
        r#"{"messages":[{"role":"system","content":"developer"}],"max_tokens":5}"#,
        &["temperature", "top_k"],
    );
    let cached = r#"{"messages":[{"role":"system","content":[{"type":"text","text":"m","cache_control":{"type":"ephemeral"}}]}],"temperature":1}"#;
    check("claude-sonnet-4-6", cached, cached, &[]);
}

#[test]
fn embeddings_pass_untouched_both_ways() {
    let body = r#"{"model":"text-embedding-3-small","input":["a",[1,2]],"encoding_format":"base64"}"#;
    let exchange = driver().call_operation("embeddings", "text-embedding-3-small", body).unwrap();
    assert_eq!(exchange.request().url, "https://api.mammouth.ai/v1/embeddings");
    assert_eq!(exchange.request().text(), body);
    let answer = include_bytes!("../fixtures/embeddings.json");
    let outcome = exchange.answer(200, &JSON, &[answer]);
    assert_eq!((outcome.output.as_slice(), outcome.fault), (&answer[..], None));
}

#[test]
fn another_base_url_stands_where_the_default_stood() {
    let driver = Driver::new::<Mammouth>(r#"{"base_url":"http://127.0.0.1:9/x/"}"#).unwrap();
    assert_eq!(chat(&driver, "gpt-4.1", "{}", true).request().url, "http://127.0.0.1:9/x/chat/completions");
}

#[test]
fn answers_and_streams_keep_every_byte() {
    let driver = driver();
    let answer = include_bytes!("../fixtures/answer.json");
    let outcome = chat(&driver, "gpt-4.1", "{}", false).answer(200, &JSON, &[answer]);
    assert_eq!((outcome.output.as_slice(), outcome.fault), (&answer[..], None));

    for (model, stream) in [
        ("gpt-4.1", &include_bytes!("../fixtures/stream.sse")[..]),
        ("claude-sonnet-4-6", &include_bytes!("../fixtures/stream-thinking.sse")[..]),
    ] {
        let outcome = cuts(|| chat(&driver, model, "{}", true), 200, &SSE, stream);
        assert_eq!(outcome.text(), std::str::from_utf8(stream).unwrap());
        assert_eq!(outcome.fault, None);
        if model == "gpt-4.1" {
            let usage = outcome.usage;
            assert_eq!((usage.input, usage.output, usage.cache_read), (Some(19), Some(7), Some(16)));
        }
    }
}

#[test]
fn a_failure_inside_a_stream_is_a_fault_behind_what_came() {
    let driver = driver();
    let stream = include_bytes!("../fixtures/stream-error.sse");
    let outcome = cuts(|| chat(&driver, "grok-4-1-fast", "{}", true), 200, &SSE, stream);
    assert_snapshot!("stream-error", outcome.text());
    let fault = outcome.fault.unwrap();
    assert_eq!((fault.kind, fault.message.as_str()), (FaultKind::UPSTREAM, "peer closed connection"));
}

#[test]
fn errors_mean_what_litellm_and_its_vendors_say() {
    let driver = driver();
    let check = |status: u16, body: &str, kind: FaultKind, scope: FaultScope, message: &str| {
        let outcome = chat(&driver, "gpt-4.1", "{}", true).answer(status, &JSON, &[body.as_bytes()]);
        let fault = outcome.fault.unwrap();
        assert_eq!(
            (fault.kind, fault.scope, fault.message.as_str()),
            (kind, scope, message),
            "{status} {body}"
        );
        assert_eq!(fault.status, if status == 200 { 0 } else { status });
    };
    let error = |message: &str, kind: &str, code: &str| {
        serde_json::json!({"error":{"message":message,"type":kind,"param":null,"code":code}}).to_string()
    };
    let budget = include_str!("../fixtures/budget.json");
    let spent = "ExceededBudget: User=*** over budget. Spend=10.0021, Budget=10.0";
    check(429, budget, FaultKind::QUOTA, FaultScope::ACCOUNT, spent);
    check(400, budget, FaultKind::QUOTA, FaultScope::ACCOUNT, spent);
    let old = error("Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", "auth_error", "400");
    check(
        400,
        &old,
        FaultKind::QUOTA,
        FaultScope::ACCOUNT,
        "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0",
    );
    check(
        429,
        &error(
            "litellm.RateLimitError: OpenAIException - Slow down. Received Model Group=gpt-4.1\nAvailable Model Group Fallbacks=None LiteLLM Retried: 2 times",
            "throttling_error",
            "429",
        ),
        FaultKind::RATE_LIMIT,
        FaultScope::CHANNEL,
        "Slow down",
    );
    check(
        401,
        &error("Authentication Error, Invalid proxy server token passed. key=88dc28", "auth_error", "401"),
        FaultKind::AUTH,
        FaultScope::CHANNEL,
        "Authentication Error, Invalid proxy server token passed. key=***",
    );
    check(
        401,
        &error(
            "litellm.AuthenticationError: XaiException - Incorrect API key provided: sk-abcdef123456",
            "auth_error",
            "401",
        ),
        FaultKind::UPSTREAM,
        FaultScope::REQUEST,
        "Incorrect API key provided: ***",
    );
    check(
        400,
        &error(
            "/chat/completions: Invalid model name passed in model=gpt-9. Call `/v1/models` to view available models for your key.",
            "invalid_request_error",
            "400",
        ),
        FaultKind::NOT_FOUND,
        FaultScope::MODEL,
        "/chat/completions: Invalid model name passed in model=gpt-9. Call `/v1/models` to view available models for your key.",
    );
    check(
        400,
        &error(
            "litellm.ContextWindowExceededError: litellm.BadRequestError: AnthropicException - prompt is too long: 250000 tokens > 200000 maximum",
            "invalid_request_error",
            "400",
        ),
        FaultKind::CONTEXT_LENGTH,
        FaultScope::REQUEST,
        "prompt is too long: 250000 tokens > 200000 maximum",
    );
    check(
        400,
        &error(
            "litellm.ContentPolicyViolationError: AzureException - The response was filtered, see https://go.example.com/x",
            "invalid_request_error",
            "400",
        ),
        FaultKind::CONTENT_FILTER,
        FaultScope::REQUEST,
        "The response was filtered, see ***",
    );
    check(
        400,
        &error(
            "litellm.BadRequestError: OpenAIException - Unsupported value: 'temperature'",
            "invalid_request_error",
            "400",
        ),
        FaultKind::BAD_REQUEST,
        FaultScope::REQUEST,
        "Unsupported value: 'temperature'",
    );
    check(422, r#"{"detail":"Unprocessable"}"#, FaultKind::BAD_REQUEST, FaultScope::REQUEST, "Unprocessable");
    check(404, r#"{"error":"no such model"}"#, FaultKind::NOT_FOUND, FaultScope::MODEL, "no such model");
    check(408, r#"{"detail":"late"}"#, FaultKind::TIMEOUT, FaultScope::REQUEST, "late");
    check(
        500,
        &error("litellm.InternalServerError: VertexAIException - boom", "internal_server_error", "500"),
        FaultKind::UPSTREAM,
        FaultScope::REQUEST,
        "boom",
    );
    check(503, r#"{"error":{"message":"busy"}}"#, FaultKind::OVERLOADED, FaultScope::MODEL, "busy");
    check(
        502,
        "<html>",
        FaultKind::UPSTREAM,
        FaultScope::REQUEST,
        "the upstream answered HTTP 502 with application/json",
    );
}

#[test]
fn the_table_has_every_shortcode_of_the_first_gateway() {
    let models = models();
    for line in include_str!("../fixtures/shortcodes.txt").lines() {
        let (shortcode, id) = line.split_once(' ').unwrap();
        let row =
            models.iter().find(|row| row.shortcode == shortcode).unwrap_or_else(|| panic!("{shortcode}"));
        assert_eq!(row.id, id, "{shortcode}");
        assert!(row.input_cost.is_some() && row.output_cost.is_some(), "{shortcode} has no price");
    }
    let row = |shortcode: &str| models.iter().find(|row| row.shortcode == shortcode).unwrap();
    let price = |shortcode: &str| (row(shortcode).input_cost, row(shortcode).output_cost);
    assert_eq!(price("claude-h"), (Some(0.8), Some(4.0)));
    assert_eq!(price("gpt41"), (Some(2.0), Some(8.0)));
    assert_eq!(price("gemini-p"), (Some(2.5), Some(15.0)));
    assert_eq!(
        (price("deepseek-r1"), row("deepseek-r1").price_date.as_deref()),
        ((Some(0.5), Some(2.18)), Some("2026-04-15"))
    );
    assert_eq!(price("grok3m"), (Some(0.3), Some(0.5)));
    assert_eq!((row("o3").price_date.as_deref(), row("o3").source.as_deref()), (None, None));
    assert_eq!((row("embedding-small").mode, row("gpt41").mode), (Mode::Embedding, Mode::Chat));
    assert_eq!(row("claude-h").successor.as_deref(), Some("claude-h45"));
}

#[test]
fn shortcodes_are_unique_across_the_cloud_providers_and_successors_exist() {
    let tables = [
        include_str!("../models.csv"),
        include_str!("../../moonshot/models.csv"),
        include_str!("../../zai/models.csv"),
    ];
    let rows: Vec<Model> =
        tables.iter().flat_map(|table| provider_api::model::models_from_csv(table).unwrap()).collect();
    let mut seen = HashSet::new();
    for row in &rows {
        assert!(seen.insert(row.shortcode.as_str()), "{} stands twice", row.shortcode);
    }
    for row in &rows {
        if let Some(successor) = &row.successor {
            assert!(seen.contains(successor.as_str()), "{} is followed by {successor}", row.shortcode);
        }
    }
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<Mammouth>("fixtures");
}
