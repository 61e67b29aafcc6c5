//! Sessions on a real directory.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use super::*;

struct Place {
    dir: tempfile::TempDir,
    sessions: Sessions,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::serve(dir.path());
        Self { dir, sessions }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(".sessions").join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::create_dir_all(self.dir.path().join(".sessions")).unwrap();
        fs::write(self.file(name), text).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(".sessions")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn add(&self, key: &Key, texts: &[&str]) {
        self.sessions.append(key, texts.iter().map(|text| user(text)).collect()).await.unwrap();
    }

    /// The contents of a session's messages in one word.
    async fn texts(&self, key: &Key) -> String {
        let history = self.sessions.load(key).await.unwrap();
        let text = |message: &Bytes| {
            serde_json::from_slice::<Value>(message).unwrap()["content"].as_str().unwrap().to_owned()
        };
        history.messages().iter().map(text).collect()
    }
}

fn user(text: &str) -> Bytes {
    Bytes::from(format!(r#"{{"role":"user","content":"{text}"}}"#))
}

fn key(model: &str, session_id: &str) -> Key {
    Key::new(model, session_id).unwrap()
}

#[tokio::test]
async fn a_session_is_a_private_readable_file_with_the_bytes_as_they_came() {
    let place = Place::new();
    let answer = r#"{ "role":"assistant", "content":null, "n": 1.0, "reasoning_content":"h\u00e4"}"#;
    let new = vec![user("hi"), Bytes::from_static(answer.as_bytes())];
    place.sessions.append(&key("kimi", "s"), new.clone()).await.unwrap();
    assert_eq!(place.sessions.load(&key("kimi", "s")).await.unwrap().messages(), new);
    let expected = format!(
        "{{\n  \"model\": \"kimi\",\n  \"session_id\": \"s\",\n  \"messages\": [\n    {},\n    {answer}\n  ]\n}}\n",
        std::str::from_utf8(&new[0]).unwrap()
    );
    assert_eq!(fs::read_to_string(place.file("kimi-s.json")).unwrap(), expected);
    assert_eq!(place.names(), ["kimi-s.json"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place.file("kimi-s.json")), mode(&place.file(""))), (0o600, 0o700));
}

#[tokio::test]
async fn a_deleted_or_edited_file_counts_at_once() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    assert_eq!(place.texts(&key).await, "");
    place.add(&key, &["a", "b"]).await;
    fs::remove_file(place.file("kimi-s.json")).unwrap();
    assert_eq!(place.texts(&key).await, "");
    place.add(&key, &["c"]).await;
    assert_eq!(place.texts(&key).await, "c");
    place.put("kimi-s.json", r#"{"messages":[{"role":"user","content":"mine"}]}"#);
    assert_eq!(place.texts(&key).await, "mine");
}

#[tokio::test]
async fn a_text_that_somebody_reads_is_not_written_over() {
    use std::io::Read;
    let (place, key) = (Place::new(), key("kimi", "s"));
    for text in ["a", "b", "c"] {
        place.add(&key, &[text]).await;
    }
    let path = place.file("kimi-s.json");
    let mut reader = fs::File::open(&path).unwrap();
    let link = place.dir.path().join("link.json");
    let before = fs::read_to_string(&path).unwrap();
    for text in ["d", "e", "f"] {
        place.add(&key, &[text]).await;
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, before);
    fs::hard_link(&path, &link).unwrap();
    let before = fs::read_to_string(&link).unwrap();
    for text in ["g", "h", "i"] {
        place.add(&key, &[text]).await;
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), before);
    assert_eq!(place.texts(&key).await, "abcdefghi");
}

#[tokio::test]
async fn a_whole_directory_may_be_put_in_the_place_of_another() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    for text in ["a", "b"] {
        place.add(&key, &[text]).await;
    }
    let (dir, aside) = (place.file(""), place.dir.path().join("aside"));
    fs::rename(&dir, &aside).unwrap();
    assert_eq!(place.texts(&key).await, "");
    place.add(&key, &["c"]).await;
    assert_eq!(place.texts(&key).await, "c");
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();
    assert_eq!(place.texts(&key).await, "ab");
    fs::remove_dir_all(&dir).unwrap();
    fs::remove_dir_all(place.dir.path().join(".locks")).unwrap();
    place.add(&key, &["d"]).await;
    assert_eq!(place.texts(&key).await, "d");
}

#[tokio::test]
async fn what_a_power_cut_took_is_put_back_and_nothing_else() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    let beside = || {
        let entries = fs::read_dir(place.dir.path().join(".locks/sessions")).unwrap();
        entries.count()
    };
    place.add(&key, &["a"]).await;
    place.sessions.settle().await;
    for text in ["b", "c", "d"] {
        place.add(&key, &[text]).await;
    }
    assert!(beside() > 0);
    // Killed, but the file is whole.
    assert_eq!(Sessions::serve(place.dir.path()).load(&key).await.unwrap().messages().len(), 4);
    assert_eq!(beside(), 0);
    place.sessions.settle().await;
    for text in ["e", "f"] {
        place.add(&key, &[text]).await;
    }
    // As a file system leaves it whose power went before it wrote the text.
    fs::File::options().write(true).open(place.file("kimi-s.json")).unwrap().set_len(7).unwrap();
    let sessions = Sessions::serve(place.dir.path());
    assert_eq!(sessions.load(&key).await.unwrap().messages().len(), 4);
    assert_eq!(place.texts(&key).await, "abcd");
    place.add(&key, &["g"]).await;
    place.sessions.settle().await;
    assert_eq!(beside(), 0, "nothing that was replaced lingers");
}

#[tokio::test]
async fn fifty_writers_of_one_session_lose_nothing() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    // A second handle stands for another process: only the file's lock is between them.
    let handles = [place.sessions.clone(), Sessions::new(place.dir.path())];
    for round in 0..5 {
        let mut writers = JoinSet::new();
        for number in 0..10 {
            let (sessions, key) = (handles[number % 2].clone(), key.clone());
            writers
                .spawn(async move { sessions.append(&key, vec![user(&format!("{round}{number},"))]).await });
        }
        writers.join_all().await.into_iter().for_each(|done| done.unwrap());
        let texts = place.texts(&key).await;
        for number in 0..10 {
            assert!(texts.contains(&format!("{round}{number},")), "{texts}");
        }
    }
    assert_eq!(place.sessions.load(&key).await.unwrap().messages().len(), MAX_MESSAGES);
}

#[tokio::test]
async fn a_write_goes_on_when_its_caller_leaves() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    for text in ["a", "b", "c"] {
        // Polled once, then dropped.
        let _ = timeout(Duration::ZERO, place.sessions.append(&key, vec![user(text)])).await;
    }
    // Turns are taken in order, so this one comes after all of them.
    place.add(&key, &["d"]).await;
    assert_eq!(place.texts(&key).await, "abcd");
}

#[tokio::test]
async fn pairs_that_share_a_name_stay_apart() {
    let place = Place::new();
    let pairs = [key("kimi", "thinking-x"), key("kimi-thinking", "x"), key("kimi", "thinking-y")];
    for _ in 0..2 {
        for (pair, text) in pairs.iter().zip(["a", "b", "c"]) {
            place.add(pair, &[text]).await;
        }
    }
    assert_eq!(place.names(), ["kimi-thinking-x.json", "kimi-thinking-y.json", "kimi-thinking@x.json"]);
    for (pair, texts) in pairs.iter().zip(["aa", "bb", "cc"]) {
        assert_eq!(place.texts(pair).await, texts);
    }
    fs::remove_file(place.file("kimi-thinking-x.json")).unwrap();
    assert_eq!(
        (place.texts(&pairs[0]).await, place.texts(&pairs[1]).await),
        (String::new(), "bb".to_owned())
    );
}

#[tokio::test]
async fn pairs_that_race_for_a_name_stay_apart() {
    let place = Place::new();
    let pairs = [key("a", "b-c"), key("a-b", "c")];
    let mut writers = JoinSet::new();
    for number in 0..20 {
        let (sessions, pair) = (place.sessions.clone(), pairs[number % 2].clone());
        writers.spawn(async move { sessions.append(&pair, vec![user(&(number % 2).to_string())]).await });
    }
    writers.join_all().await.into_iter().for_each(|done| done.unwrap());
    assert_eq!(
        (place.texts(&pairs[0]).await, place.texts(&pairs[1]).await),
        ("0".repeat(10), "1".repeat(10))
    );
}

#[tokio::test]
async fn the_originals_files_go_on() {
    let place = Place::new();
    let old = r#"{"history":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    place.put("gpt41-s.json", old);
    place.put("gpt-4.1-t.json", old);
    for (session_id, key) in ["s", "t"].map(|id| (id, key("gpt41", id).or_id("gpt-4.1"))) {
        assert_eq!(place.texts(&key).await, "ab", "{session_id}");
        place.add(&key, &["c"]).await;
        assert_eq!(place.texts(&key).await, "abc");
    }
    assert_eq!(place.names(), ["gpt41-s.json", "gpt41-t.json"]);
    assert!(fs::read_to_string(place.file("gpt41-s.json")).unwrap().contains("\"messages\""));
    // A file of a model whose name is that id is not the original's.
    place.add(&key("gpt-4.1", "u"), &["x"]).await;
    assert_eq!(place.texts(&key("gpt41", "u").or_id("gpt-4.1")).await, "");
}

#[tokio::test]
async fn a_broken_file_starts_anew_and_is_kept() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    for broken in ["{\"messages\":[{\"role\":", "[]", "{}", "{\"messages\":[1]}"] {
        place.put("kimi-s.json", broken);
        assert_eq!(place.texts(&key).await, "");
        place.add(&key, &["new"]).await;
        assert_eq!(place.texts(&key).await, "new");
        let kept = place.file("kimi-s.json.broken");
        assert_eq!(fs::read_to_string(&kept).unwrap(), broken);
        fs::remove_file(kept).unwrap();
    }
    place.put("kimi-s.json", "");
    place.add(&key, &["new"]).await;
    assert_eq!(place.names(), ["kimi-s.json"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_says_so() {
    let (place, key) = (Place::new(), key("kimi", "s"));
    place.put("kimi-s.json", "");
    fs::File::options()
        .write(true)
        .open(place.file("kimi-s.json"))
        .unwrap()
        .set_len(MAX_FILE_BYTES + 1)
        .unwrap();
    let error = place.sessions.load(&key).await.unwrap_err();
    assert!(error.status == 500 && error.message.contains("delete it"), "{}", error.message);
    fs::remove_file(place.file("kimi-s.json")).unwrap();
    fs::create_dir(place.file("kimi-s.json")).unwrap();
    assert_eq!(place.sessions.load(&key).await.unwrap_err().status, 500);
    assert_eq!(place.sessions.append(&key, vec![user("a")]).await.unwrap_err().status, 500);
}

#[tokio::test]
async fn a_copied_file_is_its_new_owners() {
    let place = Place::new();
    place.add(&key("kimi", "a"), &["x"]).await;
    fs::copy(place.file("kimi-a.json"), place.file("kimi-b.json")).unwrap();
    place.add(&key("kimi", "b"), &["y"]).await;
    assert_eq!(
        (place.texts(&key("kimi", "a")).await, place.texts(&key("kimi", "b")).await),
        ("x".into(), "xy".into())
    );
}

#[tokio::test]
async fn the_list_names_every_session() {
    let place = Place::new();
    assert_eq!(place.sessions.list(), []);
    place.add(&key("kimi-thinking", "x"), &["a", "b"]).await;
    place.put("hf.co%2Fa-old.json", r#"{"history":[]}"#);
    place.put("broken-x.json", "{");
    let mut list: Vec<_> =
        place.sessions.list().into_iter().map(|s| (s.model, s.session_id, s.messages)).collect();
    list.sort();
    assert_eq!(list, [("hf.co/a".into(), "old".into(), 0), ("kimi-thinking".into(), "x".into(), 2)]);
}

#[test]
fn what_is_new_stands_behind_the_history() {
    let messages = ["a", "b", "c"];
    assert_eq!(new_messages(None, &messages), messages);
    assert_eq!(new_messages(Some(0..2), &messages), ["c"]);
    assert_eq!(new_messages(Some(0..3), &messages), [""; 0]);
}
