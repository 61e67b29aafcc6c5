//! What goes over the wire to DeepSeek and what its answers become.

use deepseek::DeepSeek;
use provider_api::{
    FaultKind, FaultScope,
    testing::{Driver, Exchange},
};

const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream; charset=utf-8")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn chat(body: &str, stream: bool) -> Exchange {
    let driver = Driver::new::<DeepSeek>("{}").expect("the settings are valid");
    driver.chat("deepseek-flash", body, stream, &[]).expect("the call is served")
}

#[test]
fn requests_change_only_where_deepseek_differs() {
    let check = |body: &str, expected: &str| {
        let outcome = chat(body, false).finish();
        assert_eq!(outcome.requests[0].url, "https://api.deepseek.com/chat/completions");
        assert_eq!((outcome.requests[0].text(), outcome.dropped.len()), (expected, 0));
    };
    let same = r#"{ "messages":[{"role":"user","content":"x"}],"temperature":0.10,"max_tokens":7,"reasoning_effort":"max","thinking":null}"#;
    check(same, same);
    check(
        r#"{"messages":[{"role":"developer","content":"x"}],"max_completion_tokens":7}"#,
        r#"{"messages":[{"role":"system","content":"x"}],"max_tokens":7}"#,
    );
    check(r#"{"reasoning_effort":"minimal"}"#, r#"{"reasoning_effort":"low"}"#);
    check(r#"{"reasoning_effort":"medium"}"#, r#"{"reasoning_effort":"high"}"#);
    check(r#"{"a":1,"reasoning_effort":"none"}"#, r#"{"a":1,"thinking":{"type":"disabled"}}"#);
    let turn = r#"{"messages":[{"role":"assistant","tool_calls":[{}],"reasoning_content":null},{"role":"assistant","content":"x"}]"#;
    check(&format!("{turn}}}"), &format!("{}}}", turn.replace("null", "\" \"")));
    let off = format!(r#"{turn},"thinking":{{"type":"disabled"}}}}"#);
    check(&off, &off);
}

#[test]
fn tokens_from_the_cache_are_counted() {
    let body = br#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":80,"completion_tokens":12,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":16}}"#;
    let outcome = chat("{}", false).answer(200, &JSON, &[b"\n\n", body]);
    let usage = outcome.usage;
    assert_eq!([usage.input, usage.output, usage.cache_read], [Some(80), Some(12), Some(64)]);
}

#[test]
fn an_answer_that_broke_off_is_a_failure() {
    let whole =
        br#"{"choices":[{"message":{"content":"x"},"finish_reason":"insufficient_system_resource"}]}"#;
    let outcome = chat("{}", false).answer(200, &JSON, &[whole]);
    assert_eq!(outcome.fault.map(|fault| fault.kind), Some(FaultKind::OVERLOADED));
    let event = br#"data: {"choices":[{"delta":{},"finish_reason":"insufficient_system_resource"}]}

"#;
    let outcome = chat("{}", true).answer(200, &SSE, &[event]);
    assert_eq!(outcome.fault.map(|fault| fault.kind), Some(FaultKind::OVERLOADED));
}

#[test]
fn errors_mean_what_deepseek_says() {
    for (status, message, kind, scope) in [
        (
            400,
            "The last message of deepseek-flash must be a user message",
            FaultKind::BAD_REQUEST,
            FaultScope::REQUEST,
        ),
        (
            400,
            "This model's maximum context length is 1000000 tokens",
            FaultKind::CONTEXT_LENGTH,
            FaultScope::REQUEST,
        ),
        (
            401,
            "Authentication Fails, Your api key: ****cdef is invalid",
            FaultKind::AUTH,
            FaultScope::CHANNEL,
        ),
        (402, "Insufficient Balance", FaultKind::QUOTA, FaultScope::ACCOUNT),
        (
            422,
            "Failed to deserialize the JSON body: unknown variant `custom`",
            FaultKind::BAD_REQUEST,
            FaultScope::REQUEST,
        ),
        (429, "Rate Limit Reached", FaultKind::RATE_LIMIT, FaultScope::CHANNEL),
        (500, "Internal error", FaultKind::UPSTREAM, FaultScope::REQUEST),
        (503, "Service is too busy", FaultKind::OVERLOADED, FaultScope::MODEL),
    ] {
        let body =
            serde_json::json!({"error": {"message": message, "type": "x_error", "param": null, "code": "x"}});
        let fault =
            chat("{}", false).answer(status, &JSON, &[body.to_string().as_bytes()]).fault.expect("one");
        assert_eq!((fault.kind, fault.scope, fault.status), (kind, scope, status), "{message}");
    }
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<DeepSeek>("fixtures");
}
