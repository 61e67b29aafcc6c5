//! Stored conversations.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use crate::harness::{Server, Upstream, chunk, gateway, say};

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn ask(server: &Server, model: &str, session: &str, messages: &Value) {
    let reply = server.chat(&json!({"model": model, "session_id": session, "messages": messages}));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn file(server: &Server, name: &str) -> PathBuf {
    server.data().join(".sessions").join(name)
}

fn stored(server: &Server, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(file(server, name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let messages = file.get("messages").or_else(|| file.get("history")).expect("messages");
    messages.as_array().expect("a list").clone()
}

#[test]
fn a_conversation_is_remembered_in_a_readable_file() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    ask(&server, "gpt41", "talk", &json!([{"role": "system", "content": "s"}, user("one")]));
    ask(&server, "gpt41", "talk", &json!([user("two")]));
    let texts: Vec<String> = upstream.last().messages().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "answer", "two"], "system messages are not stored");
    let messages = stored(&server, "gpt41-talk.json");
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert_eq!((&messages[0]["content"], &messages[3]["content"]), (&json!("one"), &json!("answer")));
    let path = file(&server, "gpt41-talk.json");
    let mode = fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.lines().count() > 4, "for people: {text}");
    assert!(text.contains("gpt41") && text.contains("talk"), "it names its model and session: {text}");
}

#[test]
fn id_and_shortcode_share_a_session_and_others_do_not() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    ask(&server, "gpt41", "s", &json!([user("one")]));
    ask(&server, "gpt-4.1", "s", &json!([user("two")]));
    ask(&server, "mammouth/gpt-4.1", "s", &json!([user("three")]));
    assert_eq!(upstream.last().messages().len(), 5);
    ask(&server, "claude-h", "s", &json!([user("other")]));
    assert_eq!(upstream.last().messages().len(), 1);
    ask(&server, "gpt41", "S", &json!([user("other")]));
    assert_eq!(upstream.last().messages().len(), 1);
}

#[test]
fn a_whole_conversation_is_not_doubled() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    ask(&server, "gpt41", "s", &json!([user("one")]));
    let whole = json!([user("one"), {"role": "assistant", "content": "answer"}, user("two")]);
    ask(&server, "gpt41", "s", &whole);
    let texts: Vec<String> = upstream.last().messages().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "answer", "two"]);
    let messages = stored(&server, "gpt41-s.json");
    assert_eq!(messages.len(), 4, "{messages:?}");
}

#[test]
fn streams_store_the_whole_answer() {
    let upstream = Upstream::saying("a longer answer in words");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply =
        server.chat(&json!({"model": "gpt41", "stream": true, "session_id": "s", "messages": [user("one")]}));
    assert_eq!(reply.streamed_text(), "a longer answer in words");
    ask(&server, "gpt41", "s", &json!([user("two")]));
    assert_eq!(
        upstream.last().messages()[1],
        ("assistant".to_owned(), "a longer answer in words".to_owned())
    );
}

#[test]
fn tool_calls_and_reasoning_are_kept() {
    let call = json!({"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let parts = [
        chunk(json!({"role": "assistant", "reasoning_content": "think "}), None),
        chunk(json!({"reasoning_content": "hard"}), None),
        chunk(
            json!({"tool_calls": [{"index": 0, "id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{\"a\""}}]}),
            None,
        ),
        chunk(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}), None),
        chunk(json!({}), Some("tool_calls")),
    ];
    let upstream = Upstream::start(move |request, answer| {
        if request.json()["stream"] == true {
            answer.stream();
            for part in &parts {
                answer.event(part);
            }
            answer.done();
        } else {
            say(request, answer, "42");
        }
    });
    let server = gateway().provider("moonshot", &upstream.url("/v1")).start();
    let reply =
        server.chat(&json!({"model": "kimi", "stream": true, "session_id": "t", "messages": [user("one")]}));
    assert_eq!(reply.status, 200);
    ask(&server, "kimi", "t", &json!([{"role": "tool", "tool_call_id": "functions.f:0", "content": "7"}]));
    let sent = upstream.last().json();
    let answer = &sent["messages"][1];
    assert_eq!(answer["reasoning_content"], "think hard", "{sent}");
    assert_eq!(answer["tool_calls"], json!([call]), "{sent}");
    assert_eq!(sent["messages"][2]["content"], "7");
}

#[test]
fn only_success_is_stored() {
    let upstream = Upstream::start(|_, answer| {
        answer.json(400, &json!({"error": {"message": "no", "type": "invalid_request_error"}}));
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    server.chat(&json!({"model": "gpt41", "session_id": "s", "messages": [user("one")]})).error(400);
    assert!(!file(&server, "gpt41-s.json").exists());
    let upstream = Upstream::start(|_, answer| {
        answer.stream().event(&chunk(json!({"content": "part"}), None)).close();
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply =
        server.chat(&json!({"model": "gpt41", "stream": true, "session_id": "s", "messages": [user("one")]}));
    assert!(reply.text().contains("\"error\""));
    assert!(!file(&server, "gpt41-s.json").exists());
}

#[test]
fn twenty_messages_are_kept_and_no_tool_result_without_its_call() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    for turn in 0..12 {
        ask(&server, "gpt41", "long", &json!([user(&format!("q{turn}"))]));
    }
    let messages = stored(&server, "gpt41-long.json");
    assert_eq!(messages.len(), 20);
    assert_eq!(messages[0]["content"], "q2");

    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "c", "content": "r"});
    for turn in 0..9 {
        ask(&server, "gpt41", "tools", &json!([user(&format!("q{turn}")), call, result]));
    }
    let messages = stored(&server, "gpt41-tools.json");
    assert!(messages.len() <= 20 && messages.len() >= 16, "{}", messages.len());
    assert_ne!(messages[0]["role"], "tool");
}

#[test]
fn the_file_may_be_edited_or_deleted_at_any_time() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    ask(&server, "gpt41", "s", &json!([user("one")]));
    fs::remove_file(file(&server, "gpt41-s.json")).expect("deleted");
    ask(&server, "gpt41", "s", &json!([user("two")]));
    assert_eq!(upstream.last().messages().len(), 1);
    // The original's form.
    let old = r#"{"history":[{"role":"user","content":"old"},{"role":"assistant","content":"times"}]}"#;
    fs::write(file(&server, "gpt41-old.json"), old).expect("written");
    ask(&server, "gpt41", "old", &json!([user("new")]));
    let texts: Vec<String> = upstream.last().messages().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["old", "times", "new"]);
    assert_eq!(stored(&server, "gpt41-old.json").len(), 4);
    // A broken one does not stop the conversation, and is not destroyed unseen.
    fs::write(file(&server, "gpt41-broken.json"), "{").expect("written");
    let reply = server.chat(&json!({"model": "gpt41", "session_id": "broken", "messages": [user("x")]}));
    assert!(reply.status == 200 || reply.status == 500, "{}", reply.text());
    server.logged("broken");
}

#[test]
fn two_pairs_that_would_share_a_name_do_not() {
    let upstream = Upstream::saying("answer");
    let server = gateway()
        .provider("moonshot", &upstream.url("/v1"))
        .file("models.csv", "kimi, kimi-thinking")
        .start();
    ask(&server, "kimi", "thinking-x", &json!([user("one")]));
    ask(&server, "kimi-thinking", "x", &json!([user("two")]));
    assert_eq!(upstream.last().messages().len(), 1);
    assert!(file(&server, "kimi-thinking-x.json").exists());
    assert!(file(&server, "kimi-thinking@x.json").exists());
    ask(&server, "kimi", "thinking-x", &json!([user("three")]));
    assert_eq!(upstream.last().messages()[0].1, "one");
    ask(&server, "kimi-thinking", "x", &json!([user("four")]));
    assert_eq!(upstream.last().messages()[0].1, "two");
}

#[test]
fn requests_at_once_lose_nothing() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || ask(server, "gpt41", "many", &json!([user(&format!("q{number}"))])));
        }
    });
    let messages = stored(&server, "gpt41-many.json");
    assert_eq!(messages.len(), 16);
    for number in 0..8 {
        assert!(messages.iter().any(|message| message["content"] == format!("q{number}")), "{messages:?}");
    }
    for pair in messages.chunks(2) {
        assert_eq!((&pair[0]["role"], &pair[1]["role"]), (&json!("user"), &json!("assistant")));
    }
}

#[test]
fn a_lock_that_another_process_holds_stops_nobody_but_its_writers() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    ask(&server, "gpt41", "s", &json!([user("one")]));
    // A writer of any session waits for one of these.
    let locks: Vec<fs::File> = (0..64)
        .map(|lane| {
            let path = server.data().join(format!(".locks/sessions-{lane:02}"));
            let file = fs::File::options().create(true).append(true).open(path).expect("the lock's file");
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("the lock");
            file
        })
        .collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = ["s", "t", "u", "v"]
            .map(|session| scope.spawn(|| ask(&server, "gpt41", session, &json!([user("two")]))))
            .into();
        // All of them have their answers and wait to store them.
        crate::harness::eventually("the upstream", || (upstream.requests().len() == 5).then_some(()));
        for _ in 0..3 {
            assert_eq!(server.get("/api/health").status, 200);
            let plain = json!({"model": "gpt41", "messages": [user("plain")]});
            assert_eq!(server.chat(&plain).status, 200);
        }
        assert!(waiting.iter().all(|writer| !writer.is_finished()), "they wait for the lock");
        drop(locks);
        waiting.into_iter().for_each(|writer| writer.join().expect("stored"));
    });
    assert_eq!(stored(&server, "gpt41-s.json").len(), 4);
    assert_eq!(stored(&server, "gpt41-v.json").len(), 2);
}

#[test]
fn sessions_outlive_the_server() {
    let upstream = Upstream::saying("answer");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    ask(&server, "gpt41", "s", &json!([user("one")]));
    let server = server.restart();
    ask(&server, "gpt41", "s", &json!([user("two")]));
    assert_eq!(upstream.last().messages().len(), 3);
}
