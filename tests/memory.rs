//! The global system block: on disk first, first in every chat, written safely.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::harness::{Upstream, gateway};

fn ask(model: &str) -> serde_json::Value {
    json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
}

#[test]
fn the_default_is_empty_and_adds_no_message() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    assert_eq!(server.get("/api/memory").json()["content"], "");
    assert_eq!(server.get("/api/health").json()["memory_set"], false);
    server.chat(&ask("gpt41"));
    assert_eq!(upstream.last().messages(), [("user".to_owned(), "x".to_owned())]);
}

#[test]
fn the_file_goes_first_once_into_every_chat() {
    let upstream = Upstream::saying("hi");
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .file("memory.json", r#"{"content":"Answer \"kindly\" — über alles","cache":false}"#)
        .start();
    assert_eq!(server.get("/api/health").json()["memory_set"], true);
    for _ in 0..2 {
        server.chat(&ask("gpt41"));
        let messages = upstream.last().messages();
        assert_eq!(messages[0], ("system".to_owned(), "Answer \"kindly\" — über alles".to_owned()));
        assert_eq!(messages.len(), 2);
    }
    let reply = server.chat(&ask("echo"));
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "x", "the echo answers the user");
}

#[test]
fn put_takes_effect_at_once_and_is_on_disk() {
    let upstream = Upstream::saying("hi");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let reply = server.send("PUT", "/api/memory", &[], r#"{"content":"NEW","cache":true}"#);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!((&reply.json()["content"], &reply.json()["cache"]), (&json!("NEW"), &json!(true)));
    assert_eq!(server.get("/api/memory").json(), reply.json());
    let file = server.data().join("memory.json");
    let stored: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("the file")).expect("JSON");
    assert_eq!((&stored["content"], &stored["cache"]), (&json!("NEW"), &json!(true)));
    server.chat(&ask("gpt41"));
    assert_eq!(upstream.last().messages()[0].1, "NEW");
    let left: Vec<_> = fs::read_dir(server.data())
        .expect("the directory")
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("tmp")), "{left:?}");
    let server = server.restart();
    assert_eq!(server.get("/api/memory").json()["content"], "NEW");
}

#[test]
fn put_refuses_what_is_not_a_memory_block() {
    let server = gateway().file("memory.json", r#"{"content":"OLD","cache":false}"#).start();
    for body in ["{", "[]", r#"{"content":1}"#, r#"{"content":"x","cache":"yes"}"#, "\"x\""] {
        server.send("PUT", "/api/memory", &[], body).error(400);
    }
    assert_eq!(server.get("/api/memory").json()["content"], "OLD");
    let reply = server.send("POST", "/api/memory", &[], r#"{"content":"x"}"#);
    reply.error(405);
    let allow = reply.header("allow").expect("Allow");
    assert!(allow.contains("GET") && allow.contains("PUT"), "{allow}");
}

#[test]
fn put_answers_an_error_when_the_disk_does_not_take_it() {
    let server = gateway().start();
    // A directory in the file's place: renaming onto it fails for every user.
    fs::create_dir(server.data().join("memory.json")).expect("a directory");
    fs::write(server.data().join("memory.json/x"), "").expect("a file in it");
    let reply = server.send("PUT", "/api/memory", &[], r#"{"content":"NEW"}"#);
    assert!(reply.status >= 500, "{} {}", reply.status, reply.text());
    assert_eq!(server.get("/api/memory").json()["content"], "", "what is not on disk is not in force");
}

#[test]
fn a_broken_file_is_warned_of_and_kept() {
    let broken = "{\"content\": \"lost";
    let server = gateway().file("memory.json", broken).start();
    server.logged("memory.json");
    assert_eq!(server.get("/api/memory").json()["content"], "");
    let entries = fs::read_dir(server.data()).expect("the directory").filter_map(Result::ok);
    let kept = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("memory.json"));
    assert!(kept.filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|text| text == broken));
    // Writing anew does not lose the old bytes either.
    assert_eq!(server.send("PUT", "/api/memory", &[], r#"{"content":"NEW"}"#).status, 200);
    let entries = fs::read_dir(server.data()).expect("the directory").filter_map(Result::ok);
    let kept = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("memory.json"));
    assert!(kept.filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|text| text == broken));
}

#[test]
fn the_cache_mark_is_for_claude_alone() {
    let upstream = Upstream::saying("hi");
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .file("memory.json", r#"{"content":"LONG","cache":true}"#)
        .start();
    server.chat(&ask("claude-h"));
    let marked = json!([{"type": "text", "text": "LONG", "cache_control": {"type": "ephemeral"}}]);
    assert_eq!(upstream.last().json()["messages"][0], json!({"role": "system", "content": marked}));
    server.chat(&ask("gpt41"));
    assert_eq!(upstream.last().json()["messages"][0], json!({"role": "system", "content": "LONG"}));
}

#[test]
fn writing_can_be_narrowed_and_other_writes_are_for_admins() {
    let server = gateway().config("[access]\nmemory_write = [\"192.0.2.1\"]\n").start();
    server.send("PUT", "/api/memory", &[], r#"{"content":"x"}"#).error(403);
    assert_eq!(server.get("/api/memory").status, 200);
}

#[test]
fn the_file_is_not_made_unreadable_for_its_owner() {
    let server = gateway().start();
    server.send("PUT", "/api/memory", &[], r#"{"content":"x","cache":false}"#);
    let mode = fs::metadata(server.data().join("memory.json")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o600, 0o600, "{mode:o}");
}
