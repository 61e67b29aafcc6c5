//! `sigoE`: questions from the command line, without a server.

use std::{
    io::Write,
    process::{Output, Stdio},
    sync::{Mutex, mpsc},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{
    CLI, KEY, PATIENCE, Recorded, Setup, Terminal, Upstream, chunk, completion, finish, gateway, signal,
};

/// What it does with these arguments, and this piped in.
#[track_caller]
fn run(setup: &Setup, args: &[&str], input: Option<&str>) -> Output {
    let mut command = setup.command(CLI);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("start");
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // It may refuse before it reads.
        let _ = stdin.write_all(input.as_bytes());
    }
    finish(child)
}

/// Exit code, standard output, standard error.
fn parts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Its output, if it did what it should.
#[track_caller]
fn told(setup: &Setup, args: &[&str]) -> String {
    let (code, out, err) = parts(&run(setup, args, None));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}: {out}");
    out
}

/// Moonshot at this upstream.
fn with(upstream: &Upstream) -> Setup {
    gateway().plugins(&["moonshot"]).provider("moonshot", &upstream.url("/v1"))
}

fn answer_of(request: &Recorded) -> Value {
    let (_, question) = request.messages().pop().expect("a message");
    completion(&format!("answer to {question}"))
}

#[test]
fn flags_in_both_styles() {
    let setup = gateway().plugins(&["echo"]);
    let check = |args: &[&str], expected: &str| assert_eq!(told(&setup, args), expected, "{args:?}");
    check(&["-m", "echo", "hi"], "hi\n");
    check(&["-m=echo", "hi", "there"], "hi there\n");
    check(&["--model", "echo", "-t", "9", "-r=0", "--", "-x"], "-x\n");
    check(&["hi", "--model=echo", "-q", "-stream=false", "-v", "error"], "hi\n");
    check(&["-model", "echo", "--stream", "one two"], "one two\n");
    check(&["-m", "echo/echo", "-n", "2", "-T=-1", "one two three"], "one two \n");
    assert!(told(&setup, &["-version"]).starts_with("sigoE 2"));
    assert!(told(&setup, &["--help"]).contains("-sp TEXT, --system-prompt TEXT"));
}

#[test]
fn the_prompt_comes_from_the_argument_the_pipe_or_both() {
    let setup = gateway().plugins(&["echo"]);
    let check = |args: &[&str], input: &str, expected: &str| {
        let all: Vec<&str> = ["-m", "echo"].iter().chain(args).copied().collect();
        let (code, out, err) = parts(&run(&setup, &all, Some(input)));
        assert_eq!((code, out.as_str(), err.as_str()), (Some(0), expected, ""), "{args:?} {input:?}");
    };
    check(&[], "  piped\ntext\n\n", "piped\ntext\n");
    check(&["argument"], "", "argument\n");
    check(&["sum this up:"], "piped text\n", "sum this up:\n\npiped text\n");
}

#[test]
fn exit_codes_and_types_of_failures() {
    let setup = gateway().plugins(&["echo", "mammouth"]);
    let check = |args: &[&str], code: i32, expected: &str| {
        let (got, out, err) = parts(&run(&setup, args, Some("")));
        assert_eq!((got, out.as_str()), (Some(code), ""), "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    };
    check(
        &["-m", "gtp41", "hi"],
        1,
        "Error [CONFIG_NOT_FOUND]: model `gtp41` is unknown; did you mean `gpt41`",
    );
    check(
        &["hi"],
        1,
        "\nError [API_KEY_MISSING]: the key for provider `mammouth` is missing; set MAMMOUTH_API_KEY\n",
    );
    check(&["-m", "embedding-small", "hi"], 1, "API_KEY_MISSING");
    check(&["-m", "echo"], 2, "Error [INVALID_INPUT]: the prompt is empty; give it");
    check(&["-m", "echo", " "], 2, "the prompt is empty");
    check(&["-m", "echo", "-s", "../x", "hi"], 1, "Error [INVALID_INPUT]: session_id must be");
    check(&["-modle", "x"], 2, "sigoE: unknown flag `-modle`; did you mean `-model`?\n");
    check(&["-t", "0", "hi"], 2, "-t: \"0\" is not a whole number from 1 to 3600");
    check(&["-m"], 2, "flag `-m` needs a value");
    check(&["-plugin-dir", "nowhere", "-m", "echo", "hi"], 2, "nowhere cannot be read");
    for quiet in ["gtp41", "gpt41"] {
        let (code, out, err) = parts(&run(&setup, &["-q", "-m", quiet, "hi"], None));
        assert_eq!((code, out.as_str(), err.as_str()), (Some(1), "", ""));
    }
    // Closed, or the null device.
    assert_eq!(parts(&run(&setup, &["-m", "echo"], None)).0, Some(2));
    let none = gateway().plugins(&[]);
    let (code, _, err) = parts(&run(&none, &["hi"], None));
    assert!(code == Some(1) && err.contains("there is no provider plugin in"), "{err}");
}

#[test]
fn failures_of_a_provider_say_what_they_are() {
    let check = |status: u16, headers: &'static [(&str, &str)], body: &'static str, expected: &[&str]| {
        let upstream = Upstream::start(move |_, answer| answer.whole(status, headers, body.as_bytes()));
        let (code, out, err) = parts(&run(&with(&upstream), &["-m", "kimi", "-r", "0", "hi"], None));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        for part in expected {
            assert!(err.contains(part), "{status}: {part:?} is not in {err}");
        }
        assert_eq!(upstream.requests().len(), 1);
    };
    let error = r#"{"error":{"message":"no","type":"t"}}"#;
    check(401, &[], error, &["Error [AUTH_FAILED]: ", "MOONSHOT_API_KEY", "\nHTTP status: 401\n"]);
    let wait = &[("retry-after", "7")];
    check(429, wait, error, &["[RATE_LIMIT]", "HTTP status: 429\n", "Retry-After: 7 seconds\n"]);
    check(500, &[], error, &["[SERVER_ERROR]", "HTTP status: 500\n"]);
    check(400, &[], error, &["[CLIENT_ERROR]: no (the model was retired on ", "HTTP status: 400\n"]);
    let dead = gateway().plugins(&["moonshot"]).provider("moonshot", &Upstream::nobody());
    let (code, _, err) = parts(&run(&dead, &["-m", "kimi", "-r", "0", "hi"], None));
    assert!(code == Some(1) && err.contains("Error [API_FAILED]: ") && !err.contains("HTTP"), "{err}");
    // After the failures that the breaker counts, the next attempt is not made.
    let (_, _, err) =
        parts(&run(&dead.config("[breaker]\nfailures = 1"), &["-m", "kimi", "-r", "1", "hi"], None));
    assert!(err.contains("Error [CIRCUIT_OPEN]: ") && err.contains("\nHint: "), "{err}");
}

#[test]
fn retries_and_timeouts_are_the_engines_own() {
    let upstream = Upstream::start(|request, answer| match request.number {
        0 => answer.json(500, &json!({})),
        1 => answer.json(200, &answer_of(request)),
        _ => {
            answer.wait_for_hang_up();
        }
    });
    let setup = with(&upstream);
    assert_eq!(told(&setup, &["-m", "kimi", "-r", "1", "hi"]), "answer to hi\n");
    let (code, _, err) = parts(&run(&setup, &["-m", "kimi", "-t", "1", "-r", "0", "hi"], None));
    assert!(
        code == Some(1) && err.contains("[TIMEOUT]") && err.contains("Hint: allow more time with -t"),
        "{err}"
    );
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn only_what_was_asked_for_is_sent() {
    let upstream = Upstream::start(|request, answer| answer.json(200, &answer_of(request)));
    let setup = with(&upstream).file("memory.json", r#"{"content":"MEMORY","cache":false}"#);
    told(&setup, &["-m", "moon-8k", "hi"]);
    let body = upstream.last().json();
    assert_eq!(body["messages"], json!([{"role": "user", "content": "hi"}]));
    let members: Vec<_> = body.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(members, ["messages", "model"], "{body}");
    assert_eq!(upstream.last().header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    told(&setup, &["-m", "moon-8k", "-T", "0.5", "-n", "7", "-sp", "Be brief", "hi"]);
    let body = upstream.last().json();
    assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0.5), &json!(7)));
    assert_eq!(upstream.last().messages()[0], ("system".to_owned(), "Be brief".to_owned()));
}

#[test]
fn models_that_the_list_leaves_out_can_be_asked() {
    let upstream = Upstream::start(|request, answer| answer.json(200, &answer_of(request)));
    let setup = with(&upstream).file("models.csv", "kimi\n!moon-8k\n!moonshot/*32k*\n");
    for (name, id) in
        [("moon-8k", "moonshot-v1-8k"), ("moonshot-v1-32k", "moonshot-v1-32k"), ("KIMI", "kimi-k2.5")]
    {
        assert_eq!(told(&setup, &["-m", name, "hi"]), "answer to hi\n");
        assert_eq!(upstream.last().json()["model"], *id);
    }
    // Others may be using the directory: nothing is written there.
    let mut left: Vec<_> = std::fs::read_dir(setup.path()).expect("the directory").flatten().collect();
    left.retain(|entry| entry.file_name() != "plugins" && entry.file_name() != "models.csv");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_session_goes_on_and_is_listed() {
    let upstream = Upstream::start(|request, answer| answer.json(200, &answer_of(request)));
    let setup = with(&upstream);
    assert!(told(&setup, &["-h"]).contains("Sessions: none in "));
    told(&setup, &["-m", "kimi", "-s", "trip", "-sp", "Be brief", "one"]);
    told(&setup, &["-m", "kimi-k2.5", "-s", "trip", "two"]);
    let texts: Vec<String> = upstream.last().messages().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "answer to one", "two"]);
    assert!(setup.path().join(".sessions/kimi-trip.json").is_file());
    let help = told(&setup, &["-h"]);
    assert!(help.contains("  kimi\n    trip ") && help.contains(" 4 messages  "), "{help}");
    // A failure stores nothing.
    let dead = with(&upstream).env("MOONSHOT_BASE_URL", Upstream::nobody());
    run(&dead, &["-m", "kimi", "-s", "trip", "-r", "0", "lost"], None);
    assert!(!dead.path().join(".sessions").exists());
}

#[test]
fn one_line_of_json() {
    let upstream = Upstream::start(|request, answer| match request.number {
        0 => answer.json(200, &answer_of(request)),
        _ => answer.whole(429, &[("retry-after", "7")], b"{}"),
    });
    let setup = with(&upstream);
    let line = |args: &[&str], code: i32| {
        let (got, out, err) = parts(&run(&setup, args, None));
        assert_eq!((got, err.as_str()), (Some(code), ""), "{out}");
        assert_eq!((out.matches('\n').count(), out.ends_with('\n')), (1, true), "{out}");
        let mut line: Value = serde_json::from_str(&out).expect("JSON");
        for number in ["pid", "timestamp", "duration_ms"] {
            assert!(line[number].is_u64(), "{number} in {out}");
            line[number] = json!("[number]");
        }
        line
    };
    insta::assert_json_snapshot!("json-answer", line(&["-j", "-m", "moon-8k", "hi"], 0));
    insta::assert_json_snapshot!("json-failure", line(&["-j", "-m", "moon-8k", "-r", "0", "hi"], 1));
    assert_eq!(line(&["-j", "-m", "nope", "hi"], 1)["error_type"], "CONFIG_NOT_FOUND");
    assert_eq!(line(&["-j", "-m", "kimi"], 2)["error_type"], "INVALID_INPUT");
}

#[test]
fn lists_and_facts() {
    let ollama = Upstream::start(|request, answer| {
        let tags = json!({"models": [{"name": "tiny:1b", "details": {"family": "t"}}]});
        let listing = request.path == "/api/tags";
        answer.json(200, &if listing { tags } else { json!({"capabilities": ["completion"]}) });
    });
    let setup = gateway().plugins(&["echo", "ollama"]).env("OLLAMA_HOST", ollama.url(""));
    // Rows whose prices and dates this test knows.
    let setup = setup.file(
        "plugins/echo.models.csv",
        "shortcode,id,input_cost,output_cost,max_output_tokens,deprecation_date,successor\n\
         old,an-old-model-with-a-long-name,0.075,1.5,1000,2026-01-31,new\nbare,bare,,,,,\n",
    );
    insta::assert_snapshot!("list", told(&setup, &["-l"]));
    insta::assert_snapshot!("facts", told(&setup, &["-i", "-m", "old"]));
    let local = told(&setup, &["-i", "-m", "ollama-tiny-1b"]);
    assert!(local.contains("Ollama\n") && local.contains("none needed"), "{local}");
    assert!(told(&setup, &["-i", "-m", "nope"]).contains("model `nope` is unknown"));
    // First the help, then the list, then the facts.
    assert!(told(&setup, &["-i", "-l", "-h"]).starts_with("sigoE "));
    assert!(told(&setup, &["-i", "-l"]).starts_with("Available models\n"));
}

#[test]
fn every_shortcode_is_listed_whether_offered_or_not() {
    let setup = gateway().file("models.csv", "kimi,!gpt*").env("OLLAMA_HOST", Upstream::nobody());
    let list = told(&setup, &["-l"]);
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    for line in include_str!("../providers/mammouth/fixtures/shortcodes.txt").lines() {
        let (shortcode, id) = line.split_once(' ').expect("a shortcode and an id");
        assert!(rows.iter().any(|row| row.len() == 4 && row[..2] == [id, shortcode]), "{line} in {list}");
    }
    for provider in ["Echo", "Mammouth", "Moonshot", "Z.ai"] {
        assert!(list.contains(&format!("\n--- {provider} ---\n")), "{list}");
    }
    assert!(list.contains("--- Ollama (local) ---\nno models"), "{list}");
    let facts = told(&setup, &["-i"]);
    assert!(facts.contains("MAMMOUTH_API_KEY (not set)") && facts.contains("$2.00/M tokens"), "{facts}");
}

#[test]
fn an_answer_streams_to_a_terminal_as_it_comes() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |request, answer| {
        if request.json()["stream"] != true {
            return answer.json(200, &answer_of(request));
        }
        answer.stream().event(&chunk(json!({"role": "assistant", "reasoning_content": "hm"}), None));
        answer.event(&chunk(json!({"content": "first \u{1b}[2J"}), None));
        let _ = wait.lock().expect("the signal").recv_timeout(PATIENCE);
        answer.event(&chunk(json!({"content": "second"}), None)).event(&chunk(json!({}), Some("stop")));
        answer.done();
    });
    let setup = with(&upstream);
    let terminal = Terminal::open();
    let mut command = setup.command(CLI);
    command.args(["-m", "kimi", "-s", "t", "hi"]).stdout(terminal.stdio()).stderr(Stdio::piped());
    let child = command.spawn().expect("start");
    let shown = terminal.shows("first");
    assert!(!shown.contains("second") && !shown.contains("hm"), "{shown}");
    go.send(()).expect("the upstream");
    let (code, _, err) = parts(&finish(child));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(terminal.shows("second\r\n"), "first \u{fffd}[2Jsecond\r\n");
    assert!(setup.path().join(".sessions/kimi-t.json").is_file());

    let whole = Terminal::open();
    let mut command = setup.command(CLI);
    command.args(["-stream=false", "-m", "kimi", "hi"]).stdout(whole.stdio()).stderr(Stdio::piped());
    assert_eq!(parts(&finish(command.spawn().expect("start"))).0, Some(0));
    assert_eq!(whole.shows("\r\n"), "answer to hi\r\n");
}

#[test]
fn a_stream_that_breaks_off_is_a_failure_behind_what_came() {
    let upstream = Upstream::start(|_, answer| {
        answer.stream().event(&chunk(json!({"content": "half"}), None)).close();
    });
    let (code, out, err) = parts(&run(&with(&upstream), &["-m", "kimi", "-stream", "-r", "0", "hi"], None));
    assert_eq!((code, out.as_str()), (Some(1), "half\n"), "{err}");
    assert!(err.contains("\nError ["), "{err}");
}

#[test]
fn a_question_is_asked_on_a_terminal() {
    let setup = gateway().plugins(&["echo"]);
    let terminal = Terminal::open();
    let start = |model: &str| {
        let mut command = setup.command(CLI);
        command.args(["-m", model]).stdin(terminal.stdio()).stderr(terminal.stdio());
        command.stdout(Stdio::piped()).spawn().expect("start")
    };
    let child = start("echo");
    terminal.shows("Prompt: ");
    terminal.types("what is it?\nmore\n");
    assert_eq!(parts(&finish(child)).1, "what is it?\n");
    // Nobody types for a model that is not there.
    assert_eq!(parts(&finish(start("nope"))).0, Some(1));
    assert_eq!(terminal.shows("CONFIG_NOT_FOUND").matches("Prompt: ").count(), 1);
}

#[test]
fn ctrl_c_ends_it_at_once_and_frees_the_upstream() {
    let (left, gone) = mpsc::channel();
    let left = Mutex::new(left);
    let upstream = Upstream::start(move |_, answer| {
        let hung_up = answer.wait_for_hang_up();
        let _ = left.lock().expect("the signal").send(hung_up);
    });
    let setup = with(&upstream);
    let mut command = setup.command(CLI);
    command.args(["-m", "kimi", "hi"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("start");
    upstream.wait_for(0);
    signal(child.id(), rustix::process::Signal::INT);
    let (code, out, err) = parts(&finish(child));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(130), "", ""));
    assert_eq!(gone.recv_timeout(Duration::from_secs(10)), Ok(true));
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let setup = gateway().plugins(&["echo"]);
    for args in [
        &["-m", "echo", "hi"][..],
        &["-m", "echo", "-stream", "one two"],
        &["-j", "-m", "echo", "hi"],
        &["-h"],
    ] {
        let mut command = setup.command(CLI);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = command.args(args).stdout(writer).stderr(Stdio::piped()).spawn().expect("start");
        let (code, _, err) = parts(&finish(child));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    }
}
