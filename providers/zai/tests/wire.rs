//! What goes over the wire to Z.ai and what its answers become.

use insta::assert_snapshot;
use provider_api::{
    FaultKind, FaultScope, Manifest, Provider,
    testing::{Driver, Exchange, Outcome, cuts},
};
use zai::Zai;

const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream;charset=UTF-8")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json;charset=UTF-8")];

fn driver() -> Driver {
    Driver::new::<Zai>("{}").expect("the settings are valid")
}

fn chat(driver: &Driver, model: &str, body: &str, stream: bool) -> Exchange {
    driver.chat(model, body, stream, &[]).expect("the call is served")
}

fn replay(model: &str, stream: &[u8]) -> Outcome {
    let driver = driver();
    cuts(|| chat(&driver, model, "{}", true), 200, &SSE, stream)
}

#[test]
fn each_generation_loses_only_what_it_refuses() {
    let outcome = chat(&driver(), "glm-4.6", include_str!("../fixtures/request.json"), false).finish();
    assert_eq!(outcome.requests[0].url, "https://api.z.ai/api/paas/v4/chat/completions");
    assert_snapshot!("request-glm46", outcome.requests[0].text());
    assert_eq!(outcome.dropped, ["tool_choice", "stop", "response_format"]);

    let outcome = chat(&driver(), "glm-5.3-flash", include_str!("../fixtures/request.json"), false).finish();
    assert_snapshot!("request-glm53", outcome.requests[0].text());
    assert_eq!(outcome.dropped, ["tool_choice", "stop", "thinking"]);

    for body in [
        r#"{ "tool_choice":"auto","stop":["a"],"response_format":{"type":"json_object"},"thinking":{"type":"enabled"},"temperature":0.1}"#,
        r#"{"stop":"a","tool_choice":null,"max_tokens":7,"thinking":7,"response_format":"x"}"#,
    ] {
        for model in ["glm-4.6", "GLM-5.3"] {
            let outcome = chat(&driver(), model, body, true).finish();
            assert_eq!((outcome.requests[0].text(), outcome.dropped.len()), (body, 0));
        }
    }
}

#[test]
fn a_stream_without_quirks_keeps_every_byte() {
    let stream = include_bytes!("../fixtures/stream.sse");
    let outcome = replay("glm-4.6", stream);
    assert_eq!(outcome.output, stream);
    let usage = outcome.usage;
    assert_eq!(
        [usage.input, usage.output, usage.cache_read, usage.reasoning],
        [Some(14), Some(30), Some(3), Some(21)]
    );
    assert_eq!(outcome.fault, None);
}

#[test]
fn finish_reasons_and_arguments_come_in_openai_s_form() {
    let sensitive = replay("glm-4.6", include_bytes!("../fixtures/stream-sensitive.sse"));
    assert_snapshot!("stream-sensitive", sensitive.text());
    assert_eq!((sensitive.usage.input, sensitive.usage.output), (Some(14), Some(3)));
    assert_snapshot!(
        "stream-length",
        replay("glm-5.3", include_bytes!("../fixtures/stream-length.sse")).text()
    );
    assert_snapshot!(
        "stream-tools",
        replay("glm-4.6", include_bytes!("../fixtures/stream-tools.sse")).text()
    );

    let answer = include_bytes!("../fixtures/answer.json");
    let outcome = chat(&driver(), "glm-4.6", "{}", false).answer(200, &JSON, &[answer]);
    assert_snapshot!("answer", outcome.text());
    assert_eq!((outcome.usage.input, outcome.fault), (Some(7), None));
}

#[test]
fn failures_inside_a_stream_are_faults() {
    let outcome = replay("glm-4.6", include_bytes!("../fixtures/stream-network.sse"));
    assert_snapshot!("stream-network", outcome.text());
    assert_eq!(outcome.fault.unwrap().kind, FaultKind::UPSTREAM);
    let outcome = replay("glm-4.6", include_bytes!("../fixtures/stream-error.sse"));
    assert_eq!(outcome.text(), "");
    assert_eq!(outcome.fault.unwrap().kind, FaultKind::RATE_LIMIT);
}

#[test]
fn errors_mean_what_the_business_code_says() {
    let driver = driver();
    let check = |status: u16, codes: &[u16], kind: FaultKind, scope: FaultScope| {
        for code in codes {
            let body = serde_json::json!({"error":{"code":code.to_string(),"message":"words"}}).to_string();
            for status in [status, 200] {
                let outcome = chat(&driver, "glm-4.6", "{}", false).answer(status, &JSON, &[body.as_bytes()]);
                let fault = outcome.fault.unwrap();
                assert_eq!((fault.kind, fault.scope), (kind, scope), "{status} {code}");
                assert_eq!(fault.status, if status == 200 { 0 } else { status });
            }
            let event = format!("data: {body}\n\n");
            let outcome = chat(&driver, "glm-4.6", "{}", true).answer(200, &SSE, &[event.as_bytes()]);
            let fault = outcome.fault.unwrap();
            assert_eq!((fault.kind, fault.scope), (kind, scope), "{code} in a stream");
        }
    };
    use FaultScope as Scope;
    check(401, &[1000, 1001, 1002, 1003, 1004, 1005, 1220], FaultKind::AUTH, Scope::CHANNEL);
    check(429, &[1110, 1111, 1112, 1120, 1121], FaultKind::AUTH, Scope::ACCOUNT);
    check(429, &[1113], FaultKind::QUOTA, Scope::ACCOUNT);
    check(400, &[1210, 1212, 1213, 1214, 1215, 1221, 1222, 1231], FaultKind::BAD_REQUEST, Scope::REQUEST);
    check(400, &[1211], FaultKind::NOT_FOUND, Scope::MODEL);
    check(400, &[1261], FaultKind::CONTEXT_LENGTH, Scope::REQUEST);
    check(400, &[1300, 1301], FaultKind::CONTENT_FILTER, Scope::REQUEST);
    check(429, &[1302, 1303], FaultKind::RATE_LIMIT, Scope::CHANNEL);
    check(429, &[1305], FaultKind::RATE_LIMIT, Scope::MODEL);
    check(429, &[1308, 1309, 1310, 1311, 1313, 1316, 1321], FaultKind::QUOTA, Scope::ACCOUNT);
    check(500, &[500, 1200, 1230, 1234], FaultKind::UPSTREAM, Scope::REQUEST);
    check(400, &[1400, 1410], FaultKind::BAD_REQUEST, Scope::REQUEST);
}

#[test]
fn errors_without_a_business_code_mean_what_their_status_says() {
    let driver = driver();
    let check = |status: u16, body: &str, kind: FaultKind| {
        let outcome = chat(&driver, "glm-4.6", "{}", true).answer(status, &JSON, &[body.as_bytes()]);
        assert_eq!(outcome.fault.unwrap().kind, kind, "{status} {body}");
    };
    check(401, r#"{"error":{"message":"token expired or incorrect"}}"#, FaultKind::AUTH);
    check(429, "{}", FaultKind::RATE_LIMIT);
    check(434, r#"{"error":"no API permission"}"#, FaultKind::BAD_REQUEST);
    check(435, "", FaultKind::BAD_REQUEST);
    check(404, r#"{"message":"not found"}"#, FaultKind::NOT_FOUND);
    check(503, "<html>", FaultKind::OVERLOADED);
}

#[test]
fn callers_learn_the_usual_codes() {
    let body = br#"{"error":{"code":"1261","message":"Prompt exceeds max length"}}"#;
    let fault = chat(&driver(), "glm-4.6", "{}", false).answer(400, &JSON, &[body]).fault.unwrap();
    assert_eq!(fault.message, "Prompt exceeds max length");
    let detail = String::from_utf8(fault.detail).unwrap();
    assert!(detail.contains(r#""code":"context_length_exceeded""#), "{detail}");
}

#[test]
fn the_table_has_every_shortcode_of_the_first_gateway_and_both_spellings() {
    let models = Manifest::parse(Zai::MANIFEST).unwrap().models;
    for line in include_str!("../fixtures/shortcodes.txt").lines() {
        let (shortcode, id) = line.split_once(' ').unwrap();
        assert!(models.iter().any(|row| row.shortcode == shortcode && row.id == id), "{shortcode}");
        assert!(models.iter().any(|row| row.id == id.to_lowercase()), "{id} in lower case");
    }
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<Zai>("fixtures");
}
