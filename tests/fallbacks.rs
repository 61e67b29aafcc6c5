//! Models that stand in for one that cannot answer.

use serde_json::{Value, json};

use crate::harness::{Answer, Recorded, Server, Upstream, chunk, completion, gateway};

fn body(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
}

fn error(status: u16, answer: &mut Answer<'_>) {
    answer.json(
        status,
        &json!({"error": {"message": "no", "type": "some_error", "param": null, "code": null}}),
    );
}

fn limited(answer: &mut Answer<'_>, after: &str) {
    let body = json!({"error": {"message": "slow down", "type": "rate_limit_error"}}).to_string();
    answer.whole(429, &[("content-type", "application/json"), ("retry-after", after)], body.as_bytes());
}

/// Two providers, the first with a fault.
fn two(fault: impl Fn(&Recorded, &mut Answer<'_>) + Send + Sync + 'static) -> (Upstream, Upstream) {
    (Upstream::start(fault), Upstream::saying("from the other"))
}

fn falling_back(first: &Upstream, second: &Upstream, fallbacks: &str) -> Server {
    gateway()
        .plugins(&["mammouth", "moonshot"])
        .provider("mammouth", &first.url("/v1"))
        .provider("moonshot", &second.url("/v1"))
        .file("models.csv", "gpt41\nclaude-h\nkimi\n")
        .file("memory.json", r#"{"content":"Be brief","cache":true}"#)
        .config(&format!("[fallbacks]\n{fallbacks}\n"))
        .start()
}

#[test]
fn another_model_stands_in_where_the_first_cannot_answer() {
    let (first, second) = two(|_, answer| error(500, answer));
    let server = falling_back(&first, &second, "gpt41 = [\"kimi\"]");
    let mut asked = body("gpt-4.1");
    asked["retries"] = 1.into();
    let reply = server.chat(&asked);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "from the other");
    let target = reply.header("x-sigorest-target").expect("a target").to_owned();
    assert!(target.starts_with("moonshot/"), "{target}");
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1));
    let sent = second.last();
    assert_eq!(format!("moonshot/{}", sent.json()["model"].as_str().expect("a model")), target);
    assert_eq!(sent.messages()[0], ("system".into(), "Be brief".into()));
    server.logged_with(&["provider=moonshot", "model=kimi"]);
    let usage = server.get("/api/usage").json();
    assert!(usage["by_model"].to_string().contains("kimi"), "{usage}");

    asked["stream"] = true.into();
    let reply = server.chat(&asked);
    assert_eq!((reply.status, reply.streamed_text().as_str()), (200, "from the other"));
    assert_eq!(reply.header("x-sigorest-target"), Some(target.as_str()));
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    // The fifth failure opens the breaker; then the first is not asked any more.
    server.chat(&asked);
    let before = first.requests().len();
    assert_eq!((before, server.chat(&asked).status), (5, 200));
    assert_eq!(first.requests().len(), before);
}

#[test]
fn what_keeps_a_model_from_answering_leads_to_the_next() {
    type Fault = fn(&mut Answer<'_>);
    let faults: [(&str, Fault); 5] = [
        ("key", |answer| error(401, answer)),
        ("money", |answer| error(402, answer)),
        ("rate", |answer| limited(answer, "600")),
        ("overload", |answer| error(503, answer)),
        ("reset", |answer| answer.reset()),
    ];
    for (name, fault) in faults {
        let (first, second) = two(move |_, answer| fault(answer));
        let server = falling_back(&first, &second, "gpt41 = \"moonshot/kimi-k2.5\"\nclaude-h = \"kimi\"");
        let mut asked = body("claude-h");
        asked["retries"] = 0.into();
        for _ in 0..2 {
            let reply = server.chat(&asked);
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        }
        assert_eq!(second.requests().len(), 2, "{name}");
    }
}

#[test]
fn fallbacks_are_asked_in_their_order_and_the_first_failure_is_told() {
    let (first, second) = two(|request, answer| {
        let overloaded = request.json()["model"].as_str().is_some_and(|model| model.contains("gpt"));
        error(if overloaded { 503 } else { 500 }, answer);
    });
    drop(second);
    let server = gateway()
        .plugins(&["mammouth", "moonshot"])
        .provider("mammouth", &first.url("/v1"))
        .file("models.csv", "gpt41\nclaude-h\ngrok3m\n")
        .config("[fallbacks]\ngpt41 = [\"grok3m\", \"claude-h\"]\n")
        .start();
    let mut asked = body("gpt41");
    asked["retries"] = 0.into();
    server.chat(&asked).error(503);
    let models: Vec<String> = first
        .requests()
        .iter()
        .map(|request| request.json()["model"].as_str().unwrap_or("").to_owned())
        .collect();
    assert_eq!(models.len(), 3, "{models:?}");
    assert!(
        models[0].contains("gpt") && models[1].contains("grok") && models[2].contains("claude"),
        "{models:?}"
    );
}

#[test]
fn the_callers_own_mistakes_and_their_time_end_at_the_first_model() {
    for status in [400, 404, 422] {
        let (first, second) = two(move |_, answer| error(status, answer));
        let server = falling_back(&first, &second, "gpt41 = [\"kimi\"]");
        server.chat(&body("gpt41")).error(status);
        assert!(second.requests().is_empty(), "{status}");
    }
    let (first, second) = two(|_, answer| {
        assert!(answer.wait_for_hang_up());
    });
    let server = falling_back(&first, &second, "gpt41 = [\"kimi\"]");
    let mut asked = body("gpt41");
    asked["timeout"] = 1.into();
    server.chat(&asked).error(504);
    assert!(second.requests().is_empty());
}

#[test]
fn no_model_stands_in_once_a_stream_has_begun() {
    let (first, second) = two(|request, answer| {
        if request.json()["stream"] != true {
            return answer.json(200, &completion("x"));
        }
        answer.stream().event(&chunk(json!({"content": "begun"}), None));
        answer.close();
    });
    let server = falling_back(&first, &second, "gpt41 = [\"kimi\"]");
    let mut asked = body("gpt41");
    asked["stream"] = true.into();
    let reply = server.chat(&asked);
    assert_eq!(reply.streamed_text(), "begun");
    assert!(reply.text().contains("\"error\"") && !reply.text().contains("[DONE]"), "{}", reply.text());
    assert!(second.requests().is_empty());
}
