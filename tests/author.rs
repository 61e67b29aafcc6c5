//! An author's whole way: from nothing to an answer streamed through a running gateway, and what the kit
//! says to a plugin that must not be trusted.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use serde_json::{Value, json};

use crate::harness::{KEY, PLUGINS, SERVER, Upstream, eventually, finish, gateway, plugin_file};

/// `sigoREST plugin …` in a directory.
fn plugin(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(SERVER);
    command.arg("plugin").args(args).current_dir(dir).env_clear();
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the crates of these tests are compiled: dependencies are kept from one run to the next.
pub fn target() -> PathBuf {
    let tests = std::env::current_exe().expect("this program's path");
    tests.ancestors().nth(3).expect("the target directory").join("author")
}

/// An author's machine with one new crate; nothing is downloaded, all versions are the workspace's.
struct Author {
    place: tempfile::TempDir,
    name: &'static str,
}

impl Author {
    fn new(name: &'static str, flags: &[&str]) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let output = plugin(place.path(), &[&["new", name], flags].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("cargo build --release"), "{}", text(&output.stdout));
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        std::fs::copy(lock, place.path().join(name).join("Cargo.lock")).expect("the versions");
        Self { place, name }
    }

    fn crate_dir(&self) -> PathBuf {
        self.place.path().join(self.name)
    }

    fn cargo(&self, args: &[&str]) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(args).arg("--offline").current_dir(self.crate_dir()).env("CARGO_TARGET_DIR", target());
        let output = command.output().expect("cargo runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("warning"), "{}", text(&output.stderr));
    }

    fn file(&self) -> PathBuf {
        target().join(format!("debug/lib{}.so", self.name.replace('-', "_")))
    }

    fn check(&self, flags: &[&str]) -> Output {
        let file = self.file();
        plugin(&self.crate_dir(), &[&["check", file.to_str().expect("a path")], flags].concat())
    }
}

/// Builds, checks and installs it while a gateway runs; its models' answer is `hello there`.
fn whole_way(author: &Author, upstream: &Upstream, path: &str) {
    let server = gateway().plugins(&["echo"]).provider("acme", &upstream.url(path)).start();
    let began = Instant::now();
    author.cargo(&["build"]);
    println!("built in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let output = author.check(&["-fixtures", "fixtures"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    println!("checked in {:.1} s", began.elapsed().as_secs_f64());
    // No colours where no terminal is, and every check by name.
    let table = text(&output.stdout);
    assert!(!table.contains('\x1b') && table.contains("ok    manifest: form "), "{table}");
    assert!(table.contains("fixture hello: transcript") && table.contains(" 0 failed"), "{table}");
    let began = Instant::now();
    let plugins = server.data().join("plugins");
    std::fs::copy(author.file(), plugins.join("acme.so.tmp")).expect("copied");
    std::fs::rename(plugins.join("acme.so.tmp"), plugins.join("acme.so")).expect("renamed");
    // No command: the directory is watched.
    eventually("the model's offer", || server.get("/v1/models").text().contains("\"acme-1\"").then_some(()));
    let asked = json!({"model": "acme-1", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let reply = server.chat(&asked);
    assert_eq!((reply.status, reply.streamed_text().as_str()), (200, "hello there"), "{}", reply.text());
    println!("answered {:.1} s after it was copied", began.elapsed().as_secs_f64());
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    assert!(upstream.last().header("authorization").is_some_and(|key| key.starts_with("Bearer sk-test")));
}

// One test for both starts: they share a target directory, and with it the compiled dependencies.
#[test]
fn an_author_gets_from_nothing_to_a_streamed_answer() {
    let began = Instant::now();
    let author = Author::new("acme", &[]);
    let lines = std::fs::read_to_string(author.crate_dir().join("src/lib.rs")).expect("the source");
    assert!(lines.lines().filter(|line| line.starts_with("    ")).count() <= 5, "{lines}");
    whole_way(&author, &Upstream::saying("hello there"), "/v1");
    let compatible = began.elapsed();
    let began = Instant::now();
    let author = Author::new("acme", &["--translator"]);
    let upstream = Upstream::start(|request, answer| {
        let body = request.json();
        assert_eq!((request.path.as_str(), body["lines"][0]["text"].as_str()), ("/generate", Some("hi")));
        answer.stream().event(&json!({"text": "hello "})).event(&json!({"text": "there"}));
        answer.event(&json!({"end": "stop", "tokens": {"in": 3, "out": 2}})).end();
    });
    whole_way(&author, &upstream, "");
    println!(
        "from `plugin new` to a streamed answer: {:.1} s OpenAI-compatible (with what dependencies were not \
         compiled yet), {:.1} s translator",
        compatible.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    what_must_not_be_trusted_is_found(&author);
}

/// What the kit fails in the same crate when its `fault` does this instead.
fn failed_with(author: &Author, statement: &str) -> (String, String) {
    let source = author.crate_dir().join("src/lib.rs");
    let code = std::fs::read_to_string(&source).expect("the source");
    let at = code.find("fn fault(").expect("the method");
    let body = at + code[at..].find("{\n").expect("its body") + 2;
    std::fs::write(&source, format!("{}        {statement}\n{}", &code[..body], &code[body..]))
        .expect("written");
    author.cargo(&["build"]);
    std::fs::write(&source, code).expect("written");
    let output = author.check(&["-json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["plugin"], &report["passed"]), (&json!("acme"), &json!(false)));
    let checks = report["checks"].as_array().expect("checks");
    let mut failed = checks.iter().filter(|check| check["verdict"] == "fail");
    let (first, second) = (failed.next().expect("a failed check"), failed.next());
    assert_eq!(second, None, "{report:#}");
    let word = |member: &str| first[member].as_str().expect("text").to_owned();
    (word("name"), word("detail"))
}

fn what_must_not_be_trusted_is_found(author: &Author) {
    let (name, detail) = failed_with(author, "if reply.status > 0 { std::process::abort() }");
    assert_eq!(name, "errors: HTTP 302");
    assert!(detail.contains("SIGABRT"), "{detail}");
    let (name, detail) = failed_with(author, "println!(\"chatty\");");
    assert_eq!(name, "output: nothing printed");
    assert!(detail.contains("chatty"), "{detail}");
}

#[test]
fn every_shipped_plugin_passes_the_check() {
    let check = |id: &&str| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../providers").join(id).join("fixtures");
        let (file, fixtures) = (plugin_file(id), fixtures.to_string_lossy().into_owned());
        let output = plugin(Path::new("."), &["check", &file.to_string_lossy(), "-fixtures", &fixtures]);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains(" 0 failed"), "{}", text(&output.stdout));
    };
    PLUGINS.iter().for_each(check);
}

#[test]
fn what_cannot_be_checked_or_made_is_said_and_has_its_status() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("text.so"), "no plugin").expect("a file");
    let check = |args: &[&str], status: i32, words: &str| {
        let output = plugin(place.path(), args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    check(&["check"], 2, "needs FILE");
    check(&["check", "a.so", "-translator"], 2, "belongs to `plugin new`");
    check(&["check", "none.so"], 1, "FAIL  load: file");
    check(&["check", "text.so"], 1, "not_elf");
    check(&["check", "text.so", "-fixtures", "nowhere"], 1, "nowhere cannot be read");
    check(&["new"], 2, "needs NAME");
    check(&["new", "Acme"], 1, "cannot be a plugin's name");
    check(&["new", "acme", "-api", "."], 1, "not the directory of provider-api");
    std::fs::create_dir(place.path().join("acme")).expect("a directory");
    check(&["new", "acme"], 1, "is there already");
    assert_eq!(std::fs::read_dir(place.path().join("acme")).expect("the directory").count(), 0);
}

#[test]
fn an_exchange_is_recorded_without_the_key_and_played_to_any_version() {
    // The upstream repeats the key, as some do in their errors.
    let upstream = Upstream::start(|request, answer| {
        if request.path != "/api/chat" {
            return answer.json(200, &json!({"models": [{"name": "any"}]}));
        }
        let key = request.header("authorization").unwrap_or_default().to_owned();
        let row = json!({"message": {"content": format!("you said {key}")}, "done": false});
        answer.open(200, &[("content-type", "application/x-ndjson"), ("set-cookie", "secret=1")]);
        answer.piece(format!("{row}\n"));
        answer.piece("{\"message\":{\"content\":\" there\"},\"done\":true,\"done_reason\":\"stop\",\"eval_count\":2}\n").end();
    });
    let server = gateway().plugins(&["ollama", "zai"]).provider("ollama", &upstream.url("")).start();
    let place = tempfile::tempdir().expect("a directory");
    let trace = place.path().join("trace.jsonl");
    let mut command = Command::new(SERVER);
    command.args(["plugin", "record", "ollama", "-out"]).arg(&trace).arg("-data-dir").arg(server.data());
    command.env_clear().current_dir(place.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut recording = command.spawn().expect("start");
    let asked =
        json!({"model": "ollama/any", "stream": true, "messages": [{"role": "user", "content": "hello"}]});
    eventually("the record", || {
        let reply = server.chat(&asked);
        assert_eq!(reply.streamed_text(), format!("you said Bearer {KEY} there"), "{}", reply.text());
        recording.try_wait().expect("its state")
    });
    let output = finish(recording);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let recorded = std::fs::read_to_string(&trace).expect("the trace");
    assert!(!recorded.contains(KEY) && !recorded.contains("secret=1"), "{recorded}");
    assert!(recorded.contains("you said Bearer ***") && recorded.contains("/api/chat"), "{recorded}");
    let replay = |id: &str, status: i32, words: &str| {
        let (file, trace) = (plugin_file(id), trace.to_str().expect("a path"));
        let output = plugin(place.path(), &["replay", file.to_str().expect("a path"), trace]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(words), "{said}");
    };
    replay("ollama", 0, "equal");
    replay("zai", 1, "results differ");
    std::fs::write(&trace, recorded.replacen(" there", " their", 2)).expect("written");
    replay("ollama", 0, "equal");
    std::fs::write(&trace, recorded.replacen("\"eval_count\\\":2", "\"eval_count\\\":3", 1))
        .expect("written");
    replay("ollama", 1, "results differ (- as recorded, + now)");
    std::fs::write(&trace, "{}").expect("written");
    replay("ollama", 1, "line 1");
    let output =
        plugin(place.path(), &["record", "nobody", "-data-dir", server.data().to_str().expect("a path")]);
    assert!(text(&output.stderr).contains("nobody"), "{}", text(&output.stderr));
}
