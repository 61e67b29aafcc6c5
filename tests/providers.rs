//! The quirks of the providers, through the whole gateway.

use serde_json::{Value, json};

use crate::harness::{Reply, Server, Upstream, chunk, completion, gateway};

fn with(provider: &str, models: &str, upstream: &Upstream) -> Server {
    gateway().provider(provider, &upstream.url("/v1")).file("models.csv", models).start()
}

fn ask(server: &Server, model: &str, more: &Value) -> Reply {
    let mut body = json!({"model": model, "retries": 0, "messages": [{"role": "user", "content": "x"}]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    server.chat(&body)
}

#[test]
fn errors_mean_what_each_provider_means_by_them() {
    for (provider, model, upstream_status, body, status, code) in [
        (
            "moonshot",
            "kimi",
            429,
            json!({"error": {"message": "no balance", "type": "exceeded_current_quota_error"}}),
            429,
            "insufficient_quota",
        ),
        (
            "moonshot",
            "kimi",
            429,
            json!({"error": {"message": "slow", "type": "rate_limit_reached_error"}}),
            429,
            "rate_limit",
        ),
        (
            "moonshot",
            "kimi",
            401,
            json!({"error": {"message": "bad", "type": "invalid_authentication_error"}}),
            502,
            "provider_key",
        ),
        (
            "moonshot",
            "kimi",
            404,
            json!({"error": {"message": "gone", "type": "resource_not_found_error"}}),
            404,
            "model_not_found",
        ),
        (
            "zai",
            "zai-glm46",
            429,
            json!({"error": {"code": "1113", "message": "arrears"}}),
            429,
            "insufficient_quota",
        ),
        ("zai", "zai-glm46", 429, json!({"error": {"code": "1302", "message": "slow"}}), 429, "rate_limit"),
        ("zai", "zai-glm46", 401, json!({"error": {"code": "1001", "message": "key"}}), 502, "provider_key"),
        (
            "zai",
            "zai-glm46",
            400,
            json!({"error": {"code": "1211", "message": "unknown model"}}),
            404,
            "model_not_found",
        ),
        (
            "zai",
            "zai-glm46",
            400,
            json!({"error": {"code": "1261", "message": "prompt too long"}}),
            400,
            "context_length_exceeded",
        ),
        (
            "zai",
            "zai-glm46",
            200,
            json!({"error": {"code": "1301", "message": "unsafe"}}),
            400,
            "content_filter",
        ),
        (
            "deepseek",
            "ds-pro",
            402,
            json!({"error": {"message": "Insufficient Balance", "type": "unknown_error", "param": null, "code": "invalid_request_error"}}),
            429,
            "insufficient_quota",
        ),
        (
            "deepseek",
            "ds-pro",
            422,
            json!({"error": {"message": "unknown variant", "type": "invalid_request_error", "param": null, "code": null}}),
            422,
            "",
        ),
        (
            "mammouth",
            "gpt41",
            400,
            json!({"error": {"message": "over budget", "type": "budget_exceeded", "param": null, "code": "400"}}),
            429,
            "insufficient_quota",
        ),
        (
            "mammouth",
            "gpt41",
            429,
            json!({"error": {"message": "slow", "type": "rate_limit_error", "param": null, "code": "429"}}),
            429,
            "rate_limit",
        ),
    ] {
        let name = format!("{provider} {body}");
        let upstream = Upstream::json(upstream_status, body);
        let reply = ask(&with(provider, model, &upstream), model, &json!({}));
        let error = reply.error(status);
        let told = error["code"].as_str().unwrap_or("");
        assert!(told.starts_with(code), "{name}: {error}");
    }
}

#[test]
fn sampling_that_kimi_fixes_is_dropped_and_named() {
    let upstream = Upstream::json(200, completion("hi"));
    let server = with("moonshot", "kimi", &upstream);
    let reply = ask(
        &server,
        "kimi",
        &json!({"temperature": 0.3, "top_p": 0.5, "n": 1, "presence_penalty": 1, "max_tokens": 5}),
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = upstream.last().json();
    for gone in ["temperature", "top_p", "presence_penalty"] {
        assert_eq!(sent.get(gone), None, "{sent}");
        assert!(reply.header("x-sigorest-dropped").is_some_and(|list| list.contains(gone)), "{reply:?}");
    }
    assert!(
        sent.get("max_tokens").or_else(|| sent.get("max_completion_tokens")) == Some(&json!(5)),
        "{sent}"
    );
}

#[test]
fn usage_is_found_where_each_provider_puts_it() {
    let usage =
        json!({"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107, "cached_tokens": 40});
    let inside = usage.clone();
    let kimi = Upstream::start(move |_, answer| {
        let mut last = chunk(json!({}), Some("stop"));
        last["choices"][0]["usage"] = inside.clone();
        answer.stream().event(&chunk(json!({"content": "x"}), None)).event(&last).done();
    });
    let server = with("moonshot", "kimi", &kimi);
    ask(&server, "kimi", &json!({"stream": true}));
    let counted = server.get("/api/usage").json()["by_model"]["kimi"].clone();
    assert_eq!((&counted["input_tokens"], &counted["output_tokens"]), (&json!(100), &json!(7)), "{counted}");

    let glm = Upstream::start(move |_, answer| {
        let mut last = chunk(json!({}), Some("stop"));
        last["usage"] = usage.clone();
        answer.stream().event(&chunk(json!({"content": "x"}), None)).event(&last).done();
    });
    let server = with("zai", "zai-glm46", &glm);
    ask(&server, "zai-glm46", &json!({"stream": true}));
    let counted = server.get("/api/usage").json()["by_model"]["zai-glm46"].clone();
    assert_eq!((&counted["input_tokens"], &counted["output_tokens"]), (&json!(100), &json!(7)), "{counted}");
}

#[test]
fn finish_reasons_of_glm_become_openais() {
    for (theirs, ours) in [("sensitive", "content_filter"), ("model_context_window_exceeded", "length")] {
        let upstream = Upstream::start(move |request, answer| {
            if request.json()["stream"] == true {
                answer
                    .stream()
                    .event(&chunk(json!({"content": "x"}), None))
                    .event(&chunk(json!({}), Some(theirs)))
                    .done();
            } else {
                let mut whole = completion("x");
                whole["choices"][0]["finish_reason"] = json!(theirs);
                answer.json(200, &whole);
            }
        });
        let server = with("zai", "zai-glm46", &upstream);
        assert_eq!(ask(&server, "zai-glm46", &json!({})).json()["choices"][0]["finish_reason"], ours);
        let text = ask(&server, "zai-glm46", &json!({"stream": true})).text();
        assert!(text.contains(ours) && !text.contains(theirs), "{text}");
    }
    // A failure of the inference is one of ours, however it is dressed.
    let upstream = Upstream::start(|_, answer| {
        let mut whole = completion("");
        whole["choices"][0]["finish_reason"] = json!("network_error");
        answer.json(200, &whole);
    });
    ask(&with("zai", "zai-glm46", &upstream), "zai-glm46", &json!({})).error(502);
}

#[test]
fn glm_gets_the_fields_that_it_knows() {
    let upstream = Upstream::json(200, completion("hi"));
    let server = with("zai", "zai-glm46", &upstream);
    let reply = ask(&server, "zai-glm46", &json!({"max_completion_tokens": 9, "temperature": 0.4}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = upstream.last().json();
    assert_eq!((&sent["max_tokens"], sent.get("max_completion_tokens")), (&json!(9), None), "{sent}");
    assert_eq!(sent["temperature"], 0.4);
    assert_eq!(sent["model"].as_str().map(str::to_lowercase).as_deref(), Some("glm-4.6"));
}

#[test]
fn deepseek_gets_the_thoughts_back_and_its_tokens_are_counted() {
    let usage = json!({"prompt_tokens": 80, "completion_tokens": 12, "total_tokens": 92,
                       "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 16});
    let upstream = Upstream::start(move |request, answer| {
        let mut last = chunk(json!({}), Some("stop"));
        last["usage"] = usage.clone();
        if request.json()["stream"] == true {
            let mut stream = answer.stream();
            stream = stream.piece(": keep-alive\n\n");
            stream.event(&chunk(json!({"reasoning_content": "hm"}), None)).event(&last).done();
        } else {
            let mut whole = completion("hi");
            whole["usage"] = usage.clone();
            let body = format!("\n\n\n{whole}");
            answer.whole(200, &[("content-type", "application/json")], body.as_bytes());
        }
    });
    let server = with("deepseek", "ds-flash", &upstream);
    let turns = json!([
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "y"},
    ]);
    let reply = ask(&server, "ds-flash", &json!({"messages": turns, "max_completion_tokens": 9}));
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "hi", "{}", reply.text());
    let sent = upstream.last().json();
    assert_eq!((&sent["model"], &sent["max_tokens"]), (&json!("deepseek-flash"), &json!(9)), "{sent}");
    assert_eq!(sent["messages"][1]["reasoning_content"], " ", "{sent}");
    let text = ask(&server, "ds-flash", &json!({"stream": true})).text();
    assert!(text.contains("\"reasoning_content\":\"hm\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    let counted = server.get("/api/usage").json()["by_model"]["ds-flash"].clone();
    assert_eq!((&counted["input_tokens"], &counted["output_tokens"]), (&json!(160), &json!(24)), "{counted}");
    // 16 fresh, 64 cached and 12 answer tokens, twice.
    let cost = counted["cost_usd"].as_f64().expect("a cost");
    let expected = 2.0 * (16.0 * 0.3 + 64.0 * 0.006 + 12.0 * 1.2) / 1e6;
    assert!((cost - expected).abs() < 1e-9, "{cost} {expected}");
}
