//! `isolation = "process"`: the same plugin file in a process of its own, which may end in any way.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{CLI, Reply, Server, Setup, Upstream, eventually, finish, gateway, signal},
    plugins::{patched, put},
};

const ISOLATED: &str = "isolation = \"process\"\n";

fn isolated(providers: &[&str]) -> Setup {
    let config: String = providers.iter().map(|name| format!("[provider.{name}]\n{ISOLATED}")).collect();
    gateway().plugins(providers).config(&config)
}

fn ask(server: &Server, model: &str) -> Reply {
    server.chat(&chat(model, false))
}

fn chat(model: &str, stream: bool) -> Value {
    json!({
        "model": model, "stream": stream, "retries": 0,
        "messages": [{"role": "user", "content": "one two three"}]
    })
}

/// The parent of a process and its command line.
fn process(id: u32) -> Option<(u32, String)> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    Some((parent, String::from_utf8_lossy(&command).replace('\0', " ")))
}

/// The worker of a provider, if it has one.
pub fn worker(server: &Server, provider: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |id: &u32| {
        process(*id).is_some_and(|(parent, command)| {
            parent == server.id() && command.trim_end().ends_with(&format!("plugin-worker -- {provider}"))
        })
    };
    ids.into_iter().find(is_it)
}

fn content(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

/// An answer without what differs from one request to the next.
fn lasting(reply: &Reply) -> String {
    let text = reply.text();
    let mut rest = text.as_str();
    let mut kept = String::new();
    while let Some(at) = ["\"id\":\"", "\"created\":", "_at\":\""]
        .iter()
        .filter_map(|mark| rest.find(mark).map(|at| at + mark.len()))
        .min()
    {
        kept.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c));
    }
    kept + rest
}

#[test]
fn answers_are_the_same_wherever_a_plugin_runs() {
    let cloud = Upstream::saying("one two");
    let ollama = Upstream::start(|request, answer| match request.path.as_str() {
        "/api/tags" => answer.json(200, &json!({"models": [{"name": "m:1", "model": "m:1"}]})),
        "/api/show" => answer.json(200, &json!({"capabilities": ["completion"], "model_info": {}})),
        _ => rows(request.json()["stream"] == true, answer),
    });
    let providers = ["echo", "mammouth", "ollama"];
    let with = |setup: Setup| {
        let setup = setup.provider("mammouth", &cloud.url("/v1"));
        let server = setup.env("OLLAMA_BASE_URL", ollama.url("")).start();
        eventually("ollama's model", || (server.get("/v1/models/m:1").status == 200).then_some(()));
        server
    };
    let (here, apart) = (with(gateway().plugins(&providers)), with(isolated(&providers)));
    for provider in providers {
        assert!(worker(&apart, provider).is_some(), "{provider}");
        assert_eq!(worker(&here, provider), None);
    }
    for model in ["echo", "gpt41", "m:1"] {
        for stream in [false, true] {
            for options in [json!({}), json!({"stream_options": {"include_usage": true}})] {
                let mut body = chat(model, stream);
                body.as_object_mut()
                    .expect("an object")
                    .extend(options.as_object().cloned().unwrap_or_default());
                let (one, other) = (here.chat(&body), apart.chat(&body));
                assert_eq!((one.status, lasting(&one)), (other.status, lasting(&other)), "{model} {stream}");
                assert_eq!(one.status, if stream { 200 } else { one.status });
            }
        }
    }
    let huge = "x".repeat(3 << 20);
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": huge}]});
    assert_eq!(content(&apart.chat(&body)).len(), huge.len());
    let wrong = json!({"model": "echo", "messages": []});
    assert_eq!(here.chat(&wrong).text(), apart.chat(&wrong).text());
}

fn rows(stream: bool, answer: &mut crate::harness::Answer<'_>) {
    let row = |text: &str, done: bool| {
        let end = if done { r#","done_reason":"stop","prompt_eval_count":3,"eval_count":2"# } else { "" };
        format!(
            "{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"done\":{done}{end}}}\n"
        )
    };
    if !stream {
        return answer.whole(200, &[("content-type", "application/json")], row("a b", true).as_bytes());
    }
    answer.open(200, &[("content-type", "application/x-ndjson")]);
    let (two, last) = (row("a", false) + &row(" b", false), row("", true));
    // Two rows and a half in one read.
    answer.piece(two + &last[..9]).piece(&last[9..]).end();
}

#[test]
fn a_killed_worker_costs_the_requests_on_it_and_nothing_else() {
    let config = format!("[provider.echo]\ndelay_ms = 20\n{ISOLATED}");
    let server = gateway().plugins(&["echo"]).config(&config).start();
    let mut body = chat("echo", true);
    body["messages"][0]["content"] = json!("word ".repeat(2000));
    for ending in [Signal::KILL, Signal::SEGV, Signal::ABORT] {
        let first = eventually("a worker", || worker(&server, "echo"));
        let mut stream = server.connect();
        stream.start("POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
        assert_eq!(stream.head().status, 200);
        stream.read_until("word");
        // Rust's own handler lets the first SEGV pass that is not a fault of its thread.
        eventually("its end", || {
            signal(first, ending);
            (worker(&server, "echo") != Some(first)).then_some(())
        });
        let rest = stream.read_until("plugin_fault");
        assert!(rest.contains("\"error\""), "{rest}");
        assert!(!rest.contains("[DONE]"), "{rest}");
        // Those that come meanwhile wait for the next worker.
        let whole = chat("echo", false);
        assert_eq!(content(&server.chat(&whole)), "one two three");
        assert_ne!(worker(&server, "echo"), Some(first));
    }
    let shown = server.get("/api/plugins/echo").json();
    assert_eq!((&shown["isolated"], &shown["workers"][0]["restarts"]), (&json!(true), &json!(3)), "{shown}");
    assert_eq!(shown["workers"][0]["pid"], json!(worker(&server, "echo")));
    assert_eq!((&shown["state"], &shown["in_flight"]), (&json!("loaded"), &json!(0)), "{shown}");
}

#[test]
fn a_plugin_that_ends_its_process_ends_no_other() {
    let server = isolated(&["caged", "echo"]).start();
    let echo = worker(&server, "echo");
    for model in ["overflow", "abort", "exit", "hoard"] {
        let error = ask(&server, model).error(502);
        assert_eq!(error["code"], "plugin_fault", "{model}");
        assert!(content(&ask(&server, "report")).contains("thread: done"), "{model}");
    }
    let error = ask(&server, "panic").error(502);
    assert_eq!(error["code"], "plugin_fault");
    assert_eq!(worker(&server, "echo"), echo);
    assert_eq!(content(&ask(&server, "echo")), "one two three");
}

#[test]
fn a_fault_of_the_processor_ends_the_worker_alone() {
    let server = isolated(&["faulty", "echo"]).start();
    for model in ["segv", "abort", "exit"] {
        assert_eq!(ask(&server, model).error(502)["code"], "plugin_fault", "{model}");
        assert_eq!(content(&ask(&server, "good")), "generation one", "{model}");
    }
    assert_eq!(content(&ask(&server, "echo")), "one two three");
}

#[test]
fn a_plugin_that_keeps_ending_its_worker_is_quarantined_until_its_file_is_replaced() {
    let server = isolated(&["caged", "echo"]).start();
    let shown = || server.get("/api/plugins/caged").json();
    for ending in 1..=5 {
        assert_eq!(ask(&server, "abort").error(502)["code"], "plugin_fault", "{ending}");
        eventually("its count", || (shown()["faults"] == ending).then_some(()));
    }
    let error = ask(&server, "print").error(503);
    assert_eq!(error["code"], "plugin_quarantined");
    let plugin = shown();
    assert_eq!((&plugin["state"], &plugin["reason"]), (&json!("quarantined"), &json!("too_many_faults")));
    assert!(plugin["message"].as_str().is_some_and(|text| text.contains("SIGABRT")), "{plugin}");
    assert_eq!(content(&ask(&server, "echo")), "one two three");
    let mended = patched("caged", &[("\"name\": \"Caged\"", "\"name\": \"Tamed\"")]);
    put(&server.data().join("plugins"), "caged.so", &mended);
    eventually("its return", || (ask(&server, "print").status == 200).then_some(()));
    // Who else kills a worker says nothing about the plugin.
    for _ in 0..5 {
        let id = eventually("a worker", || worker(&server, "caged"));
        signal(id, Signal::KILL);
        eventually("its end", || (worker(&server, "caged") != Some(id)).then_some(()));
    }
    assert_eq!(content(&ask(&server, "print")), "printed");
    assert_eq!((&shown()["state"], &shown()["generation"]), (&json!("loaded"), &json!(2)));
}

#[test]
fn an_endless_loop_holds_up_nobody_and_is_ended() {
    let server = isolated(&["caged"]).start();
    let first = worker(&server, "caged");
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| {
            let began = Instant::now();
            (ask(&server, "loop"), began.elapsed())
        });
        let mut answered = 0;
        while !looping.is_finished() {
            let began = Instant::now();
            if ask(&server, "print").status == 200 {
                answered += 1;
                assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            }
        }
        let (reply, took) = looping.join().expect("an answer");
        assert_eq!(reply.error(502)["code"], "plugin_fault");
        assert!((4..20).contains(&took.as_secs()), "{took:?}");
        assert!(answered > 10, "{answered}");
    });
    assert_eq!(content(&ask(&server, "print")), "printed");
    assert_ne!(worker(&server, "caged"), first);
    server.logged("took longer than 5 s");
}

#[test]
fn a_worker_can_compute_and_nothing_else() {
    let server = isolated(&["caged"]).env("CAGED_SECRET", "visible to the gateway").start();
    let report = content(&ask(&server, "report"));
    let expected = [
        "initialiser reads: PermissionDenied",
        "initialiser lists: PermissionDenied",
        "variables: 0",
        "connect: PermissionDenied",
        "listen: PermissionDenied",
        "datagram: PermissionDenied",
        "unix: PermissionDenied",
        "write: PermissionDenied",
        "read: PermissionDenied",
        "environ: PermissionDenied",
        "list: PermissionDenied",
        "run: PermissionDenied",
        "thread: done",
    ];
    assert_eq!(report, expected.join("\n"));
    assert_eq!(content(&ask(&server, "print")), "printed");
    assert!(!server.log().contains("printed to"));
    let id = worker(&server, "caged").expect("a worker");
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let open = fs::read_dir(format!("/proc/{id}/fd")).expect("its descriptors").flatten();
    for entry in open {
        let what = fs::read_link(entry.path()).expect("what it is").display().to_string();
        let harmless = ["/dev/null", "socket:", "/memfd:"].iter().any(|start| what.starts_with(start));
        assert!(harmless, "{what}");
    }
}

#[test]
fn a_worker_goes_with_its_server_and_not_before() {
    let mut server = isolated(&["echo"]).start();
    let id = worker(&server, "echo").expect("a worker");
    // A service manager tells every process of a unit to stop.
    signal(id, Signal::TERM);
    signal(id, Signal::INT);
    assert_eq!(content(&ask(&server, "echo")), "one two three");
    assert_eq!(worker(&server, "echo"), Some(id));
    signal(server.id(), Signal::KILL);
    server.ended();
    eventually("the worker's end", || {
        process(id).is_none_or(|(_, command)| command.is_empty()).then_some(())
    });
}

#[test]
fn settings_that_a_plugin_refuses_in_a_worker_are_said_as_ever() {
    let config = |new: &str| format!("[provider.caged]\nnew = \"{new}\"\n{ISOLATED}");
    for (new, expected) in [("odd", "`new` cannot be odd"), ("abort", "SIGABRT")] {
        let server = gateway().plugins(&["caged", "echo"]).config(&config(new)).start();
        server.logged(expected);
        ask(&server, "report").error(404);
        assert_eq!(content(&ask(&server, "echo")), "one two three");
        assert_eq!(worker(&server, "caged"), None);
    }
}

#[test]
fn a_reload_leaves_a_worker_that_would_be_the_same() {
    let server = isolated(&["echo"]).start();
    let id = worker(&server, "echo");
    server.reload();
    server.logged("reloaded");
    assert_eq!(worker(&server, "echo"), id);
}

#[test]
fn the_command_line_program_has_workers_of_its_own() {
    let setup = isolated(&["echo"]);
    let mut command = setup.command(CLI);
    command.args(["-data-dir", "."]).arg("-plugin-dir").arg("plugins").args(["-m", "echo", "one two"]);
    let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "one two", "{}", String::from_utf8_lossy(&output.stderr));
}
