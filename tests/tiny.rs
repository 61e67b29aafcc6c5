//! A real inference server as upstream: llama.cpp's own, with a model of one megabyte.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{harness::gateway, sdk::python};

/// The inference server; it ends when its standard input closes.
struct Llama {
    child: Child,
    url: String,
}

impl Llama {
    fn start(more: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tiny/serve.py");
        let mut child = Command::new(python())
            .arg(script)
            .args(["--port", "0", "--threads", "1", "--ctx", "16384", "--until-eof"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut found =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("listening ").map(str::to_owned));
        let url = found.next().expect("it listens");
        Self { child, url }
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(more: &Value) -> Value {
    let mut body =
        json!({"model": "gpt41", "temperature": 0, "messages": [{"role": "user", "content": "hello"}]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

#[test]
fn a_real_server_answers_plain_streamed_and_with_tools() {
    let llama = Llama::start(&["--api-key", crate::harness::KEY]);
    let server = gateway().provider("mammouth", &format!("{}/v1", llama.url)).start();

    let reply = server.chat(&ask(&json!({})));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    let text = body["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.contains('.') && text.split_whitespace().count() > 2, "{text}");
    assert!(body["usage"]["completion_tokens"].as_u64().is_some_and(|count| count > 2), "{body}");

    let reply = server.chat(&ask(&json!({"stream": true, "stream_options": {"include_usage": true}})));
    assert_eq!(reply.streamed_text(), text, "streamed or not, it says the same");
    let events = reply.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(events[events.len() - 2].contains("\"total_tokens\""), "{events:?}");
    assert!(!server.chat(&ask(&json!({"stream": true}))).text().contains("\"total_tokens\""));

    let tools = json!([{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]);
    let reply = server.chat(&ask(&json!({"tools": tools, "tool_choice": "required", "max_tokens": 64})));
    assert_eq!(
        reply.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
        "look_up",
        "{}",
        reply.text()
    );

    let usage = server.get("/api/usage").json();
    assert_eq!(usage["by_model"]["gpt41"]["requests"], 4, "{usage}");
}

#[test]
fn its_refusal_of_a_key_and_of_a_request_are_told_apart() {
    let llama = Llama::start(&["--api-key", "another-key"]);
    let server = gateway().provider("mammouth", &format!("{}/v1", llama.url)).start();
    assert_eq!(server.chat(&ask(&json!({}))).error(502)["code"], "provider_key");
    let llama = Llama::start(&["--embedding"]);
    let server = gateway()
        .provider("mammouth", &format!("{}/v1", llama.url))
        .file("models.csv", "embedding-small, gpt41")
        .start();
    for format in ["float", "base64"] {
        let reply = server.post(
            "/v1/embeddings",
            &json!({"model": "embedding-small", "input": ["a", "b"], "encoding_format": format}),
        );
        assert_eq!(reply.status, 200, "{}", reply.text());
        let data = reply.json()["data"].clone();
        assert_eq!(data.as_array().map(Vec::len), Some(2));
        assert_eq!(data[0]["embedding"].is_string(), format == "base64");
    }
}
