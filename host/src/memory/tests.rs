//! The memory block on a real directory.

use std::fs;

use super::*;

fn dir_with(content: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("memory.json"), content).unwrap();
    dir
}

#[test]
fn disk_comes_before_the_embedded_default() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Memory::open(dir.path()).block().message(true).is_none());
    let dir = dir_with("\u{feff}{\"content\": \"say \\\"hi\\\"\", \"cache\": true, \"more\": 1}");
    let block = Memory::open(dir.path()).block();
    assert_eq!(
        (block.message(false).unwrap(), block.message(true).unwrap()),
        (
            &Bytes::from(r#"{"role":"system","content":"say \"hi\""}"#),
            &Bytes::from(
                r#"{"role":"system","content":[{"type":"text","text":"say \"hi\"","cache_control":{"type":"ephemeral"}}]}"#
            )
        )
    );
}

#[tokio::test]
async fn a_put_is_in_force_and_on_disk_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::open(dir.path());
    memory.put(br#"{"content":"be kind","cache":true}"#).await.unwrap();
    let huge = format!(r#"{{"content":"{}"}}"#, "x".repeat(MAX_CONTENT_BYTES + 1));
    let bad: [(&[u8], u16, Option<&str>); 8] = [
        (b"", 400, None),
        (b"[]", 400, None),
        (b"{\"content\":\"\xff\"}", 400, None),
        (br#"{"content":"a"} x"#, 400, None),
        (br#"{"content":"a","content":"b"}"#, 400, None),
        (br#"{"content":5}"#, 400, Some("content")),
        (br#"{"content":"a","cache":"yes"}"#, 400, Some("cache")),
        (huge.as_bytes(), 413, Some("content")),
    ];
    for (body, status, param) in bad {
        let error = memory.put(body).await.unwrap_err();
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (status, param));
    }
    assert_eq!(memory.block().json(), r#"{"content":"be kind","cache":true}"#);
    assert_eq!(Memory::open(dir.path()).block().json(), memory.block().json());
    memory.put(br#"{"unknown":1}"#).await.unwrap();
    assert_eq!(memory.block().json(), r#"{"content":"","cache":false}"#);
    let text = fs::read_to_string(dir.path().join("memory.json")).unwrap();
    assert_eq!(text, "{\n  \"content\": \"\",\n  \"cache\": false\n}\n");
}

#[tokio::test]
async fn a_broken_file_starts_empty_and_its_bytes_outlive_a_put() {
    for broken in ["{\"content\": \"half", "[]", "{\"content\": 1}"] {
        let dir = dir_with(broken);
        let memory = Memory::open(dir.path());
        assert!(memory.block().message(false).is_none());
        assert_eq!(fs::read_to_string(dir.path().join("memory.json")).unwrap(), broken);
        memory.put(br#"{"content":"new"}"#).await.unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("memory.json.broken")).unwrap(), broken);
        assert_eq!(Memory::open(dir.path()).block().content, "new");
    }
}

#[tokio::test]
async fn a_failed_write_leaves_the_old_block_in_force() {
    let dir = dir_with(r#"{"content":"old"}"#);
    let memory = Memory::open(dir.path());
    fs::write(dir.path().join(".locks"), "in the way").unwrap();
    let error = memory.put(br#"{"content":"new"}"#).await.unwrap_err();
    assert_eq!(error.status, 500);
    assert_eq!(
        (memory.block().content.as_str(), Memory::open(dir.path()).block().content.as_str()),
        ("old", "old")
    );
}

#[tokio::test]
async fn a_reload_takes_what_is_on_disk_unless_it_is_broken() {
    let dir = dir_with(r#"{"content":"one"}"#);
    let memory = Memory::open(dir.path());
    for (text, expected) in [(r#"{"content":"two"}"#, "two"), ("broken", "two"), (r#"{}"#, "")] {
        fs::write(dir.path().join("memory.json"), text).unwrap();
        memory.reload().await;
        assert_eq!(memory.block().content, expected);
    }
}

#[tokio::test]
async fn what_is_in_force_after_many_writers_is_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::open(dir.path());
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let memory = memory.clone();
        writers.spawn(async move { memory.put(format!(r#"{{"content":"{number}"}}"#).as_bytes()).await });
    }
    writers.join_all().await.into_iter().for_each(|stored| drop(stored.unwrap()));
    assert_eq!(memory.block().json(), Memory::open(dir.path()).block().json());
}
