//! The kit passes a good provider and finds what is wrong with a bad one.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{Call, Config, Event, HttpRequest, Out, Reply};

fn report<P: Provider>() -> Report {
    let manifest = Manifest::parse(P::MANIFEST).expect("a manifest");
    let create = &crate::testing::create::<P>;
    run(&Subject { manifest, create, fixtures: Fixtures::default(), bless: false }, &mut |_| ())
}

struct Good(String);

impl Provider for Good {
    type State = ();
    const MANIFEST: &'static str = r#"{"schema":1,"id":"good","name":"Good","version":"1.0.0","license":"MIT","api":"1.0",
        "operations":["chat","embeddings"],"dialect":{"request":"openai","response":"openai","stream":"openai"},
        "auth":{"kind":"bearer","env":["GOOD_API_KEY"]},"base_url":"https://good.example/v1",
        "models":[{"id":"a","input_cost":1},{"id":"e","mode":"embedding"}]}"#;

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self(config.base_url().to_owned()))
    }

    fn request(&self, call: &Call<'_>, _: &mut ()) -> Result<HttpRequest, Fault> {
        crate::openai::forward(&self.0, call)
    }
}

/// Wrong in many ways, each of which a check is there for.
struct Bad(Mutex<Vec<Vec<u8>>>);

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Provider for Bad {
    type State = usize;
    const MANIFEST: &'static str = r#"{"schema":1,"id":"bad","api":"1.0","version":"1.0.0","license":"MIT","name":"Bad",
        "operations":["chat"],"dialect":{"stream":"openai"},"stream":{"wake":["choices"]},
        "auth":{"kind":"header","name":"x-key","env":["lower"]},"base_url":"http://bad.example/v1/",
        "models":[{"id":"a","input_cost":-1}]}"#;

    fn new(config: &Config) -> Result<Self, Fault> {
        assert!(config.base_url().len() < 1000, "too long");
        Ok(Self(Mutex::default()))
    }

    fn request(&self, _: &Call<'_>, _: &mut usize) -> Result<HttpRequest, Fault> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        self.0.lock().expect("the list").push(vec![1; 4096]);
        let url = format!("https://elsewhere.example/{number}");
        Ok(HttpRequest::post(url).header("x-key", "secret").json("{}"))
    }

    fn event(&self, state: &mut usize, _: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        *state += 1;
        out.chunk(format!("{state}").as_bytes());
        if *state == 3 {
            out.done(b"");
        }
        Ok(())
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        Fault::upstream(String::from_utf8_lossy(reply.body).into_owned())
    }
}

/// A translator that takes every end for the end and every event for text.
struct Careless;

impl Provider for Careless {
    type State = ();
    const MANIFEST: &'static str = r#"{"schema":1,"id":"careless","name":"Careless","version":"1.0.0",
        "license":"MIT","api":"1.0","operations":["chat"],"base_url":"https://careless.example"}"#;

    fn new(_: &Config) -> Result<Self, Fault> {
        Ok(Self)
    }

    fn request(&self, _: &Call<'_>, _: &mut ()) -> Result<HttpRequest, Fault> {
        Ok(HttpRequest::post("https://careless.example/chat").json("{}"))
    }

    fn event(&self, _: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let text = serde_json::Value::from(String::from_utf8_lossy(&event.data));
        let chunk =
            format!(r#"{{"choices":[{{"index":0,"delta":{{"content":{text}}},"finish_reason":null}}]}}"#);
        out.chunk(chunk.as_bytes());
        Ok(())
    }

    fn end(&self, _: &mut (), out: &mut Out<'_, '_>) -> Result<(), Fault> {
        out.done(b"");
        Ok(())
    }
}

#[test]
fn an_authors_fixtures_are_tried_and_blessed() {
    let dir = tempfile::tempdir().expect("a directory");
    let answer = "HTTP/1.1 200 OK\ncontent-type: text/event-stream\n\ndata: a\n\ndata: b\n\n";
    std::fs::write(dir.path().join("two.upstream.http"), answer).expect("a file");
    let report = |bless| {
        let manifest = Manifest::parse(Careless::MANIFEST).expect("a manifest");
        let fixtures = Fixtures::read(dir.path()).expect("fixtures");
        let create = &crate::testing::create::<Careless>;
        run(&Subject { manifest, create, fixtures, bless }, &mut |_| ())
    };
    let verdict = |report: &Report, name: &str| report.check(name).map(|check| check.verdict);
    let first = report(true);
    for (name, expected) in [
        ("stream two: form", Verdict::Pass),
        ("stream two: cut anywhere", Verdict::Pass),
        ("stream two: truncated", Verdict::Fail),
        ("stream two: unknown events", Verdict::Fail),
        ("streams: text", Verdict::Pass),
        ("streams: usage", Verdict::Skip),
    ] {
        assert_eq!(verdict(&first, name), Some(expected), "{name}\n{}", first.table(false));
    }
    let transcript = std::fs::read_to_string(dir.path().join("two.expected.txt")).expect("it was written");
    assert!(transcript.starts_with("--- request\nPOST https://careless.example/chat\n"), "{transcript}");
    assert_eq!(verdict(&report(false), "fixture two: transcript"), Some(Verdict::Pass));
    std::fs::write(dir.path().join("two.expected.txt"), transcript.replace("200", "201") + "more")
        .expect("a file");
    assert_eq!(verdict(&report(false), "fixture two: transcript"), Some(Verdict::Fail));
}

// One test for both: what the bad one keeps would count as the good one's.
#[test]
fn a_good_provider_passes_and_what_is_wrong_with_a_bad_one_is_found() {
    let good = report::<Good>();
    assert_eq!(good.count(Verdict::Pass), good.checks.len(), "\n{}", good.table(false));
    let report = report::<Bad>();
    for name in [
        "manifest: addresses",
        "manifest: key",
        "manifest: models",
        "settings: garbage",
        "requests: allowed",
        "requests: unknown operation",
        "errors: HTTP 401",
        "errors: HTTP 429",
        "errors: HTTP 500",
        "errors: Retry-After",
        "answers: garbage",
        "stream openai text: form",
        "stream openai text: 1 MB event",
        "exchanges: two runs equal",
        "exchanges: 64 threads",
        "exchanges: memory of 10,000",
    ] {
        let verdict = report.check(name).map(|check| check.verdict);
        assert_eq!(verdict, Some(Verdict::Fail), "{name}\n{}", report.table(false));
    }
}
