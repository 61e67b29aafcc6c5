//! What goes over the wire to a server that speaks OpenAI's format.

use openai_compatible::OpenAiCompatible;
use provider_api::{Fault, FaultKind, testing::Driver};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn driver(settings: &str) -> Result<Driver, Fault> {
    Driver::new::<OpenAiCompatible>(settings)
}

#[test]
fn requests_keep_every_byte_below_the_operators_address() {
    let driver = driver(r#"{"base_url":"https://api.groq.com/openai/v1/"}"#).expect("made");
    let body = r#"{ "messages":[], "temperature":0.10, "x":{} }"#;
    let exchange = driver.chat("llama", body, true, &[]).expect("begun");
    assert_eq!(exchange.request().url, "https://api.groq.com/openai/v1/chat/completions");
    assert_eq!(exchange.request().text(), body);
    let exchange = driver.call_operation("embeddings", "e", r#"{"input":"x"}"#).expect("begun");
    assert_eq!(exchange.request().url, "https://api.groq.com/openai/v1/embeddings");
}

#[test]
fn without_an_address_it_says_what_to_write() {
    let fault = driver("{}").err().expect("refused");
    assert_eq!(fault.kind, FaultKind::BAD_REQUEST);
    assert!(fault.message.contains("base_url"), "{fault}");
}

#[test]
fn models_are_listed_unless_the_operator_names_them() {
    let list = br#"{"object":"list","data":[{"id":"llama","context_window":131072}]}"#;
    let exchange = driver(r#"{"base_url":"http://127.0.0.1:8000/v1"}"#)
        .expect("made")
        .call_operation("models", "", "")
        .expect("begun");
    assert_eq!(exchange.request().url, "http://127.0.0.1:8000/v1/models");
    let outcome = exchange.answer(200, &JSON, &[list]);
    assert!(outcome.text().contains(r#""max_input_tokens":131072"#), "{}", outcome.text());

    let named = driver(r#"{"base_url":"http://127.0.0.1:8000/v1","models":["mine"]}"#).expect("made");
    let outcome = named.call_operation("models", "", "").expect("begun").finish();
    assert_eq!((outcome.text(), outcome.requests.len()), ("[]", 0));
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<OpenAiCompatible>("fixtures");
}
