//! Real SDKs against the gateway, and the README's example as it stands.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::harness::{Answer, Recorded, Server, Upstream, chunk, finish, gateway, say};

/// Where the SDKs are; they are set up at the first use.
pub fn environment() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let setup = Command::new("sh").arg(root.join("tests/sdk/setup.sh")).stdin(Stdio::null()).output();
    let setup = setup.expect("a shell");
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    root.join("build/test-env")
}

/// The Python that has the SDK.
pub fn python() -> PathBuf {
    environment().join("python/bin/python")
}

fn run(command: &mut Command) -> Output {
    finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start"))
}

#[track_caller]
fn says_ok(output: &Output) {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.trim() == "ok", "{text}{errors}");
}

/// A provider that answers by what the request's `user` asks for.
fn provider() -> Upstream {
    Upstream::start(|request, answer| {
        if request.path.ends_with("/embeddings") {
            let embedding = json!({"object": "embedding", "index": 0, "embedding": "AACAPwAAAEA="});
            let usage = json!({"prompt_tokens": 1, "total_tokens": 1});
            return answer
                .json(200, &json!({"object": "list", "data": [embedding], "model": "m", "usage": usage}));
        }
        let body = request.json();
        let error = |status, kind: &str, message: &str| {
            (status, json!({"error": {"message": message, "type": kind, "param": null, "code": null}}))
        };
        let (status, body) = match body["user"].as_str() {
            Some("too-long") => error(400, "invalid_request_error", "the prompt is too long"),
            Some("key") => error(401, "auth_error", "no"),
            Some("quota") => error(429, "budget_exceeded", "ExceededBudget: over budget"),
            Some("down") => error(500, "server_error", "no"),
            Some("breaks") => {
                answer.stream().event(&chunk(json!({"content": "part"}), None)).close();
                return;
            }
            _ if body.get("tools").is_some() => return call_a_tool(request, answer),
            _ => return say(request, answer, "fine"),
        };
        answer.json(status, &body);
    })
}

fn call_a_tool(request: &Recorded, answer: &mut Answer<'_>) {
    let call = |arguments: &str| json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}});
    if request.json()["stream"] != true {
        let message =
            json!({"role": "assistant", "content": null, "tool_calls": [call("{\"city\": \"Bern\"}")]});
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
        return answer.json(
            200,
            &json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}),
        );
    }
    answer
        .stream()
        .event(&chunk(json!({"role": "assistant", "content": null, "tool_calls": [call("")]}), None));
    for part in ["{\"city\"", ": \"Bern\"}"] {
        answer.event(&chunk(json!({"tool_calls": [{"index": 0, "function": {"arguments": part}}]}), None));
    }
    answer.event(&chunk(json!({}), Some("tool_calls"))).done();
}

fn start(upstream: &Upstream) -> Server {
    gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .provider("moonshot", &upstream.url("/v1"))
        .file("models.csv", "gpt41, kimi, embedding-small")
        .start()
}

#[test]
fn the_python_sdk_works() {
    let upstream = provider();
    let server = start(&upstream);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sdk/chat.py");
    says_ok(&run(Command::new(python()).arg(script).arg(server.base_url())));
    assert!(server.data().join(".sessions/gpt41-sdk.json").exists());
    // Errors that another try cannot help are not tried again by the SDK either.
    let asked = |user: &str| {
        upstream
            .requests()
            .iter()
            .filter(|request| request.text().contains(&format!("\"user\":\"{user}\"")))
            .count()
    };
    for user in ["too-long", "key", "quota", "down"] {
        assert_eq!(asked(user), 1, "{user}");
    }
}

#[test]
fn the_node_sdk_works() {
    let upstream = provider();
    let server = start(&upstream);
    // Node finds packages beside the script, so the script is run from a copy beside them.
    let script = environment().join("node/chat.mjs");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sdk/chat.mjs"), &script)
        .expect("a copy");
    says_ok(&run(Command::new("node").arg(script).arg(server.base_url())));
}

#[test]
fn the_readmes_example_runs_as_it_stands() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))
        .expect("README.md");
    let example = readme
        .split("```python\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a Python example");
    // It talks to the default port; where something else has that, this test takes another one.
    let free = TcpListener::bind("127.0.0.1:9080").is_ok();
    let server = if free { gateway().args(&["-http-port", "9080"]).start() } else { gateway().start() };
    let example = example.replace(":9080/", &format!(":{}/", server.http().port()));
    let output = run(Command::new(python()).arg("-c").arg(&example));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !text.trim().is_empty(), "{text}{errors}");
}
