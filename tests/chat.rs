//! Chats that are not streamed: what reaches the provider, and what comes back.

use serde_json::{Value, json};

use crate::harness::{KEY, Upstream, completion, gateway};

/// What reaches the provider when this is sent for `gpt41`.
#[track_caller]
fn passes(sent: &str, expected: &str) {
    let upstream = Upstream::json(200, completion("hi"));
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply = server.send("POST", "/v1/chat/completions", &[], sent);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last().text(), expected);
}

#[test]
fn without_any_key_the_echo_answers() {
    let server = gateway().start();
    let reply =
        server.chat(&json!({"model": "echo", "messages": [{"role": "user", "content": "hello there"}]}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"]["content"], "hello there");
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let usage = &body["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a number");
    assert!(count("prompt_tokens") > 0 && count("completion_tokens") > 0, "{usage}");
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
}

#[test]
fn a_request_keeps_every_byte_but_the_model_name() {
    passes(
        r#"{ "messages":[{"role":"user","content":"caf\u00e9 \ud83d\ude00 é","name":null}],"zeta":1, "temperature":0.10 ,"seed":12345678901234567890123,"x":{"b":1,"a":[1e400,-0]},"model":"gpt41","logit_bias":{"50256":-100},"metadata":{"timeout":5} }"#,
        r#"{ "messages":[{"role":"user","content":"caf\u00e9 \ud83d\ude00 é","name":null}],"zeta":1, "temperature":0.10 ,"seed":12345678901234567890123,"x":{"b":1,"a":[1e400,-0]},"model":"gpt-4.1","logit_bias":{"50256":-100},"metadata":{"timeout":5} }"#,
    );
}

#[test]
fn the_gateways_own_fields_never_reach_the_provider() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut fields = json!({
        "model": "gpt41", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5,
        "session_id": "s1", "timeout": 30, "retries": 0, "system_prompt": "Be brief",
    });
    assert_eq!(server.chat(&fields).status, 200);
    let sent = upstream.last().json();
    for own in ["session_id", "timeout", "retries", "system_prompt"] {
        assert!(sent.get(own).is_none(), "{own} in {sent}");
        fields.as_object_mut().expect("an object").remove(own);
    }
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&sent), names(&fields), "nothing is added");
}

#[test]
fn the_request_goes_to_the_base_url_with_the_key() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/some/base")).start();
    let headers = [("authorization", "Bearer callers-own"), ("cookie", "a=b"), ("x-custom", "1")];
    let body = r#"{"model":"gpt41","messages":[{"role":"user","content":"x"}]}"#;
    assert_eq!(server.send("POST", "/v1/chat/completions", &headers, body).status, 200);
    let seen = upstream.last();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/some/base/chat/completions"));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!((seen.header("cookie"), seen.header("x-custom")), (None, None));
}

#[test]
fn an_answer_keeps_every_byte() {
    let body = r#"{"id":"a","object":"chat.completion","created":1,"model":"up","choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning_content":"why","tool_calls":[{"id":"functions.f:0","type":"function","function":{"name":"f","arguments":"{\"a\": 1.0}"}}]},"finish_reason":"tool_calls","logprobs":null}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"x":1e-7},"extra":{"z":1,"a":0.10}}"#;
    let upstream = Upstream::start(move |_, answer| {
        answer.whole(200, &[("content-type", "application/json")], body.as_bytes());
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply = server.chat(&json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]}));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.text(), body);
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[test]
fn messages_go_out_in_their_order() {
    let upstream = Upstream::saying("answer");
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .file("memory.json", r#"{"content":"MEMORY","cache":false}"#)
        .start();
    let chat = |text: &str| {
        let reply = server.chat(&json!({
            "model": "gpt41", "session_id": "order", "system_prompt": "PROMPT",
            "messages": [
                {"role": "system", "content": "LEADING"}, {"role": "developer", "content": "DEVELOPER"},
                {"role": "user", "content": text}, {"role": "system", "content": "LATER"},
            ],
        }));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    chat("one");
    chat("two");
    let texts: Vec<String> = upstream.last().messages().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["MEMORY", "PROMPT", "LEADING", "DEVELOPER", "one", "answer", "two", "LATER"]);
}

#[test]
fn zero_is_a_value_and_wrong_values_are_named() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let ask = |field: &str, value: Value| {
        let mut body = json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]});
        body[field] = value;
        server.chat(&body)
    };
    for (field, value) in [
        ("retries", json!(0)),
        ("retries", json!(10)),
        ("timeout", json!(1)),
        ("timeout", json!(3600)),
        ("temperature", json!(0)),
        ("system_prompt", json!("")),
        ("session_id", json!("a.B_-9")),
    ] {
        assert_eq!(ask(field, value.clone()).status, 200, "{field} {value}");
    }
    assert_eq!(ask("temperature", json!(0)).status, 200);
    assert_eq!(upstream.last().json()["temperature"], 0);
    for (field, value, range) in [
        ("retries", json!(-1), "10"),
        ("retries", json!(11), "10"),
        ("retries", json!("3"), "10"),
        ("retries", json!(1.5), "10"),
        ("timeout", json!(0), "3600"),
        ("timeout", json!(3601), "3600"),
        ("timeout", json!(-5), "3600"),
        ("timeout", json!("60"), "3600"),
        ("timeout", json!(true), "3600"),
        ("timeout", json!(1e300), "3600"),
    ] {
        let error = ask(field, value.clone()).error(400);
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(field) && message.contains(range), "{field} {value}: {message}");
        assert_eq!(error["param"], field);
    }
    for (field, value) in [
        ("system_prompt", json!(1)),
        ("session_id", json!(7)),
        ("session_id", json!("../../etc/x")),
        ("session_id", json!(".hidden")),
        ("session_id", json!("a".repeat(65))),
        ("session_id", json!("a/b")),
        ("stream", json!("yes")),
        ("model", json!(4)),
        ("messages", json!("hi")),
    ] {
        let error = ask(field, value.clone()).error(400);
        assert!(error["message"].as_str().expect("text").contains(field), "{field} {value}: {error}");
    }
}

#[test]
fn bodies_that_are_not_a_request_are_refused() {
    let server = gateway().start();
    let post = |body: &str| server.send("POST", "/v1/chat/completions", &[], body).error(400);
    for body in ["{", "[]", "null", "\"x\"", "{}{}", r#"{"model":"echo","messages":[]} x"#, "\u{feff}{}"] {
        post(body);
    }
    let error = post(r#"{"model":"echo","messages":[],"model":"echo"}"#);
    assert!(error["message"].as_str().expect("text").contains("model"), "{error}");
    assert_eq!(post(r#"{"messages":[{"role":"user","content":"x"}]}"#)["param"], "model");
    assert_eq!(post(r#"{"model":"echo"}"#)["param"], "messages");
    // A key that is spelt with escapes is the same key.
    let body = r#"{"mod\u0065l":"echo","messages":[{"role":"user","content":"escaped"}]}"#;
    let reply = server.send("POST", "/v1/chat/completions", &[], body);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "escaped");
}

#[test]
fn what_a_model_requires_is_translated_and_what_it_rejects_is_named() {
    let upstream = Upstream::saying("hi");
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .provider("moonshot", &upstream.url("/v1"))
        .file("models.csv", "gpt5m, gpt41, kimi")
        .start();
    let ask = |model: &str| {
        server.chat(&json!({
            "model": model, "max_tokens": 9, "temperature": 0.3,
            "messages": [{"role": "developer", "content": "d"}, {"role": "user", "content": "x"}],
        }))
    };
    let reply = ask("gpt5m");
    let sent = upstream.last().json();
    assert_eq!((&sent["max_completion_tokens"], sent.get("max_tokens")), (&json!(9), None), "{sent}");
    assert_eq!(sent.get("temperature"), None);
    assert_eq!(reply.header("x-sigorest-dropped"), Some("temperature"));

    let reply = ask("gpt41");
    let sent = upstream.last().json();
    assert_eq!((&sent["max_tokens"], sent.get("max_completion_tokens")), (&json!(9), None), "{sent}");
    assert_eq!(sent["temperature"], 0.3);
    assert_eq!(reply.header("x-sigorest-dropped"), None);

    let reply = ask("kimi");
    let sent = upstream.last().json();
    assert_eq!(sent["messages"][0]["role"], "system", "{sent}");
    assert_eq!(sent.get("temperature"), None, "{sent}");
    assert_eq!(reply.header("x-sigorest-dropped"), Some("temperature"));
}

#[test]
fn a_model_is_found_by_shortcode_id_and_provider_and_nothing_else() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let ask =
        |name: &str| server.chat(&json!({"model": name, "messages": [{"role": "user", "content": "x"}]}));
    for name in ["gpt41", "gpt-4.1", "mammouth/gpt-4.1"] {
        assert_eq!(ask(name).status, 200, "{name}");
        assert_eq!(upstream.last().json()["model"], "gpt-4.1");
    }
    let reply = ask("gpt42");
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let error = reply.error(404);
    assert_eq!(error["code"], "model_not_found");
    assert!(error["message"].as_str().expect("text").contains("gpt41"), "the nearest name: {error}");
    // A model that exists but is not listed is not offered.
    ask("gpt4o").error(404);
}

#[test]
fn embedding_models_do_not_chat() {
    let server =
        gateway().provider("mammouth", &Upstream::nobody()).file("models.csv", "embedding-small").start();
    let body = json!({"model": "embedding-small", "messages": [{"role": "user", "content": "x"}]});
    let error = server.chat(&body).error(400);
    assert!(error["message"].as_str().expect("text").contains("/v1/embeddings"), "{error}");
}

#[test]
fn images_and_tools_pass() {
    let upstream = Upstream::start(|_, answer| answer.json(200, &completion("seen")));
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let body = json!({
        "model": "gpt41", "tool_choice": "auto", "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "what is it"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
    });
    assert_eq!(server.chat(&body).status, 200);
    let mut expected = body;
    expected["model"] = "gpt-4.1".into();
    assert_eq!(upstream.last().json(), expected);
}
