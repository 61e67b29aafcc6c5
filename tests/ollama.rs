//! Ollama over its own API: found, shown, asked.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Answer, Recorded, Server, Upstream, eventually, gateway};

/// An Ollama with the models that a test sets, which says `rows` to a chat.
struct Ollama {
    models: Arc<Mutex<Vec<String>>>,
    upstream: Upstream,
}

impl Ollama {
    fn with(models: &[&str], chat: impl Fn(&Recorded, &mut Answer<'_>) + Send + Sync + 'static) -> Self {
        let models = Arc::new(Mutex::new(models.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
        let known = Arc::clone(&models);
        let upstream = Upstream::start(move |request, answer| {
            let known = known.lock().expect("the models").clone();
            match request.path.as_str() {
                "/api/tags" => {
                    let models: Vec<Value> = known.iter().map(|name| json!({"name": name, "model": name, "size": 1, "digest": "d", "details": {"family": "gemma3"}})).collect();
                    answer.json(200, &json!({"models": models}));
                }
                "/api/show" => {
                    let vision = request.text().contains("vision");
                    let capabilities = if vision {
                        json!(["completion", "vision"])
                    } else {
                        json!(["completion", "tools", "thinking"])
                    };
                    answer.json(200, &json!({"model_info": {"general.architecture": "gemma3", "gemma3.context_length": 131_072}, "capabilities": capabilities}));
                }
                "/api/chat" => chat(request, answer),
                _ => answer.json(404, &json!({"error": "not found"})),
            }
        });
        Self { models, upstream }
    }

    fn chats(&self) -> Vec<Recorded> {
        self.upstream.requests().into_iter().filter(|request| request.path == "/api/chat").collect()
    }
}

fn row(message: Value, done: bool) -> String {
    let mut row =
        json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": done});
    if done {
        row["done_reason"] = json!("stop");
        row["prompt_eval_count"] = json!(11);
        row["eval_count"] = json!(4);
    }
    format!("{row}\n")
}

/// Answers "Hello there", streamed where asked.
fn hello(request: &Recorded, answer: &mut Answer<'_>) {
    let kind = [("content-type", "application/x-ndjson")];
    if request.json()["stream"] == false {
        return answer.whole(
            200,
            &[("content-type", "application/json")],
            row(json!({"role": "assistant", "content": "Hello there"}), true).as_bytes(),
        );
    }
    answer.open(200, &kind);
    answer.piece(row(json!({"role": "assistant", "content": "Hello "}), false));
    answer.piece(row(json!({"role": "assistant", "content": "there"}), false));
    answer.piece(row(json!({"role": "assistant", "content": ""}), true)).end();
}

fn start(ollama: &Ollama) -> Server {
    let server = gateway().env("OLLAMA_HOST", ollama.upstream.url("")).start();
    eventually("the discovery", || {
        names(&server).iter().any(|name| name.starts_with("ollama-")).then_some(())
    });
    server
}

fn names(server: &Server) -> Vec<String> {
    let list = server.get("/v1/models").json();
    let data = list["data"].as_array().expect("data").clone();
    data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
}

fn ask(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]})
}

#[test]
fn models_are_found_and_named_by_the_originals_rule() {
    let ollama = Ollama::with(&["gemma3:4b", "qwen3:latest", "llama3.2-vision:latest", "me/own:1b"], hello);
    let server = start(&ollama);
    let found = names(&server);
    for name in ["ollama-gemma3-4b", "ollama-qwen3", "ollama-llama3.2-vision", "ollama-me/own-1b"] {
        assert!(found.contains(&name.to_owned()), "{name} in {found:?}");
    }
    let rows = server.get("/api/models").json();
    let rows: Vec<&Value> =
        rows.as_array().expect("rows").iter().filter(|row| row["provider"] == "ollama").collect();
    assert_eq!(rows.len(), 4, "each once: {rows:?}");
    let gemma = rows.iter().find(|row| row["shortcode"] == "ollama-gemma3-4b").expect("the row");
    assert_eq!((&gemma["id"], &gemma["max_input_tokens"]), (&json!("gemma3:4b"), &json!(131_072)), "{gemma}");
    assert!(gemma["capabilities"].to_string().contains("tools"), "{gemma}");
    assert_eq!(gemma["input_cost"].as_f64(), Some(0.0), "{gemma}");
}

#[test]
fn chats_go_over_the_native_api() {
    let ollama = Ollama::with(&["gemma3:4b", "me/own:1b"], hello);
    let server = start(&ollama);
    for model in ["ollama-gemma3-4b", "gemma3:4b", "ollama/gemma3:4b"] {
        let reply = server.chat(&ask(model, false));
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        let body = reply.json();
        assert_eq!(body["choices"][0]["message"]["content"], "Hello there");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        assert_eq!(body["usage"], json!({"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}));
        let sent = ollama.chats().pop().expect("a chat").json();
        assert_eq!((&sent["model"], &sent["stream"]), (&json!("gemma3:4b"), &json!(false)));
        assert_eq!(sent["messages"][1], json!({"role": "user", "content": "x"}));
    }
    let reply = server.chat(&json!({"model": "ollama-me/own-1b", "session_id": "s", "messages": [{"role": "user", "content": "x"}]}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(server.data().join(".sessions/ollama-me%2Fown-1b-s.json").exists());
}

#[test]
fn streams_become_server_sent_events() {
    let ollama = Ollama::with(&["gemma3:4b"], hello);
    let server = start(&ollama);
    let mut body = ask("ollama-gemma3-4b", true);
    body["stream_options"] = json!({"include_usage": true});
    let reply = server.chat(&body);
    assert_eq!(reply.streamed_text(), "Hello there");
    let events = reply.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(events[events.len() - 2].contains("\"total_tokens\":15"), "{events:?}");
    assert!(events.iter().any(|event| event.contains("\"finish_reason\":\"stop\"")), "{events:?}");
}

#[test]
fn options_tools_images_schemas_and_thinking_are_translated() {
    let ollama = Ollama::with(&["gemma3:4b"], |_, answer| {
        let call = json!({"function": {"name": "f", "arguments": {"city": "Bern"}}});
        let message = json!({"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]});
        answer.whole(200, &[("content-type", "application/json")], row(message, true).as_bytes());
    });
    let server = start(&ollama);
    let reply = server.chat(&json!({
        "model": "ollama-gemma3-4b", "temperature": 0, "max_tokens": 7, "seed": 1, "stop": "X", "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        ]}],
    }));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = ollama.chats().pop().expect("a chat").json();
    assert_eq!(
        (&sent["options"]["temperature"], &sent["options"]["num_predict"], &sent["options"]["seed"]),
        (&json!(0), &json!(7), &json!(1)),
        "{sent}"
    );
    assert_eq!(sent["format"], json!({"type": "object"}), "{sent}");
    assert_eq!(
        (&sent["messages"][0]["content"], &sent["messages"][0]["images"]),
        (&json!("look"), &json!(["QUJD"])),
        "{sent}"
    );
    assert_eq!(sent["tools"][0]["function"]["name"], "f");
    assert_eq!(sent["think"], "low", "{sent}");
    let choice = &reply.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["reasoning_content"], "hm");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("f")));
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().expect("text")).expect("JSON");
    assert_eq!(arguments, json!({"city": "Bern"}));
    assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()));
}

#[test]
fn a_model_pulled_later_appears_and_a_removed_one_goes() {
    let ollama = Ollama::with(&["gemma3:4b"], hello);
    let server = start(&ollama);
    *ollama.models.lock().expect("the models") = vec!["qwen3:latest".to_owned()];
    // Asking for a model that is not known looks again at once.
    eventually("the new model", || {
        let found = names(&server);
        let reply = server.chat(&ask("ollama-qwen3", false));
        (reply.status == 200 && !found.contains(&"ollama-gemma3-4b".to_owned())).then_some(())
    });
    assert!(names(&server).contains(&"ollama-qwen3".to_owned()));
}

#[test]
fn errors_inside_and_before_streams_are_told() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let ollama = Ollama::with(&["gemma3:4b"], move |_, answer| {
        answer.open(200, &[("content-type", "application/x-ndjson")]);
        answer.piece(row(json!({"role": "assistant", "content": "part"}), false));
        gate.lock().expect("the gate").recv().expect("a go");
        answer.piece("{\"error\":\"out of memory\"}\n").end();
    });
    let server = start(&ollama);
    let mut caller = server.connect();
    caller.start("POST", "/v1/chat/completions", &[], ask("ollama-gemma3-4b", true).to_string().as_bytes());
    assert_eq!(caller.head().status, 200);
    caller.read_until("part");
    go.send(()).expect("the upstream waits");
    caller.read_until("\"error\"");
    assert_eq!(caller.chunk(), None);

    let ollama = Ollama::with(&["gemma3:4b"], |_, answer| {
        answer.json(404, &json!({"error": "model 'gemma3:4b' not found"}));
    });
    let server = start(&ollama);
    assert_eq!(server.chat(&ask("ollama-gemma3-4b", false)).error(404)["code"], "model_not_found");
}

#[test]
fn not_running_is_one_line_of_information() {
    let server = gateway().env("OLLAMA_HOST", Upstream::nobody().replace("/v1", "")).start();
    let line = server.logged("llama");
    assert!(
        !server
            .log()
            .lines()
            .any(|line| line.contains("llama") && (line.contains("WARN") || line.contains("ERROR"))),
        "{line}"
    );
    assert_eq!(server.get("/api/health").json()["status"], "ok");
}
