//! Exchanges with echo, through the real adapter.

use provider_api::testing::{Driver, Outcome};
use serde_json::{Value, json};

use super::*;

fn chat_with(config: &str, body: Value, stream: bool) -> Result<Outcome, Fault> {
    let driver = Driver::new::<Echo>(config).expect("valid settings");
    driver.chat("echo", &body.to_string(), stream, &[]).map(|exchange| exchange.finish())
}

fn chat(body: Value, stream: bool) -> Result<Outcome, Fault> {
    chat_with("{}", body, stream)
}

fn user(content: Value) -> Value {
    json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": content}])
}

/// The chunks' delta contents, put together.
fn streamed_text(outcome: &Outcome) -> String {
    let chunks = outcome.chunks.iter().map(|chunk| serde_json::from_slice::<Value>(chunk).unwrap());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

#[test]
fn answers_are_in_openais_form() {
    let options = json!({"include_usage": true});
    let plain = json!({"messages": user(json!("Hello, \"world\"\n  bye"))});
    let counted = json!({"messages": user(json!("Hello you")), "stream_options": options, "max_tokens": 1});
    let tool = json!({
        "messages": user(json!("Call it")),
        "tools": [{"type": "function", "function": {"name": "now", "parameters": {}}}],
        "tool_choice": "required",
    });
    insta::assert_snapshot!("whole", chat(plain.clone(), false).unwrap().text());
    insta::assert_snapshot!("streamed", chat(plain, true).unwrap().text());
    insta::assert_snapshot!("cut_with_usage", chat(counted, true).unwrap().text());
    insta::assert_snapshot!("tool_whole", chat(tool.clone(), false).unwrap().text());
    insta::assert_snapshot!("tool_streamed", chat(tool, true).unwrap().text());
}

#[test]
fn the_last_user_message_is_the_answer_and_words_are_the_tokens() {
    let check = |messages: Value, expected: &str, input: u64, output: u64| {
        let whole = chat(json!({"messages": messages}), false).unwrap();
        let answer: Value = serde_json::from_slice(&whole.output).unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], expected);
        assert_eq!(answer["usage"]["total_tokens"], input + output);
        let stream = chat(json!({"messages": messages}), true).unwrap();
        assert_eq!(streamed_text(&stream), expected);
        for usage in [whole.usage, stream.usage] {
            assert_eq!((usage.input, usage.output), (Some(input), Some(output)));
        }
    };
    check(user(json!("one two")), "one two", 4, 2);
    check(user(json!([{"type": "text", "text": "a "}, {"type": "image_url"}, {"text": "b"}])), "a b", 4, 2);
    check(user(json!("")), "", 2, 0);
    check(json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]), "x", 1, 1);
}

#[test]
fn a_long_answer_comes_in_many_steps_and_a_delay_after_each_word() {
    let text = "word ".repeat(1000);
    let stream = chat(json!({"messages": user(json!(text))}), true).unwrap();
    assert_eq!(streamed_text(&stream), text);
    assert!(stream.sleeps.len() > 10 && stream.sleeps.iter().all(|ms| *ms == 0), "{:?}", stream.sleeps);
    let slow = chat_with("{\"delay_ms\":20}", json!({"messages": user(json!("a b c"))}), true).unwrap();
    assert_eq!((slow.sleeps.as_slice(), slow.chunks.len()), (&[20, 20, 20][..], 4));
    let text = "word ".repeat(5000);
    let long = chat_with("{\"delay_ms\":1}", json!({"messages": user(json!(text))}), true).unwrap();
    assert_eq!(streamed_text(&long), text, "more words than a gateway lets an exchange wait");
}

#[test]
fn requests_that_cannot_be_served_name_the_field() {
    let check = |body: Value, expected: &str| {
        let fault = chat(body, false).expect_err(expected);
        assert_eq!(fault.kind, FaultKind::BAD_REQUEST);
        assert!(fault.message.contains(expected), "{fault}");
    };
    check(json!({"messages": []}), "last user message");
    check(json!({"messages": user(json!("x")), "n": 2}), "`n`");
    check(json!({"messages": user(json!("x")), "tool_choice": "required"}), "no tool in `tools`");
    let other = json!({"type": "function", "function": {"name": "other"}});
    check(json!({"messages": user(json!("x")), "tool_choice": other}), "`other`");
    check(json!({"messages": user(json!("x")), "max_tokens": "many"}), "cannot be read");
    assert!(Driver::new::<Echo>("{\"delay_ms\":\"slow\"}").is_err());
}

#[test]
fn it_keeps_to_what_a_gateway_relies_on() {
    provider_api::testing::conformance::<Echo>("fixtures");
}
