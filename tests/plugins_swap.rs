//! Plugin files come, change and go while requests run: the directory is the interface.

use std::{
    fs,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::{
    harness::{Connection, SERVER, Server, Setup, Upstream, eventually, gateway, plugin_file},
    plugins::{ask, patched, put, version},
};

/// Holds streams back until it is opened.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().expect("the gate") = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        drop(self.1.wait_while(self.0.lock().expect("the gate"), |open| !*open));
    }
}

/// An upstream that sends half of each stream, and the other half when the gate opens.
fn halting(gate: &Arc<Gate>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(move |_, answer| {
        answer.stream().piece("data: a\n\ndata: b\n\n");
        gate.wait();
        answer.piece("data: c\n\n").done();
    })
}

/// All that a caller gets of such a stream, by the plugin's generation.
fn whole_stream(generation: &str) -> String {
    let chunk = |text: &str| {
        format!(
            "data: {{\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"stream\",\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text} generation {generation};\"}},\
             \"finish_reason\":null}}]}}\n\n"
        )
    };
    format!("{}{}{}data: [DONE]\n\n", chunk("a"), chunk("b"), chunk("c"))
}

/// A stream past its first event.
struct Open {
    connection: Connection,
    so_far: String,
    generation: String,
}

impl Open {
    fn stream(server: &Server, generation: &str) -> Self {
        let body =
            json!({"model": "faulty/stream", "stream": true, "messages": [{"role": "user", "content": "x"}]});
        let mut connection = server.connect();
        connection.start("POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
        let head = connection.head();
        assert_eq!(head.status, 200);
        let so_far = connection.read_until("b generation");
        Self { connection, so_far, generation: generation.to_owned() }
    }

    #[track_caller]
    fn check_whole(mut self) {
        while let Some(piece) = self.connection.chunk() {
            self.so_far += &String::from_utf8_lossy(&piece);
        }
        assert_eq!(self.so_far, whole_stream(&self.generation));
    }
}

fn faulty(upstream: &Upstream) -> Setup {
    gateway()
        .plugins(&["echo", "faulty"])
        .provider("faulty", &upstream.url("/v1"))
        .file("sigorest.toml", "[limits]\nheartbeat_secs = 600\n[provider.faulty]\nballast_mib = 64\n")
}

fn shown(server: &Server) -> Value {
    server.get("/api/plugins/faulty").json()
}

/// What a provider of the faulty plugin holds.
const BALLAST_MIB: u64 = 64;

/// Memory that the server asked for, used or not, in MiB.
fn memory_mib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// How many streams the descriptors allow: each takes two sockets here, with two handles each.
fn streams() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    usize::try_from(most.saturating_sub(1000) / 5).unwrap_or(1000).min(1000)
}

#[test]
fn a_thousand_open_streams_outlive_twenty_replacements_of_their_plugin() {
    const SWAPS: usize = 20;
    let gate = Arc::default();
    let upstream = halting(&gate);
    let server = faulty(&upstream).start();
    let plugins = server.data().join("plugins");
    let (all, memory) = (streams(), memory_mib(&server));
    let mut open: Vec<Open> = (0..all / 2).map(|_| Open::stream(&server, "one")).collect();
    for swap in 1..=SWAPS {
        let name = format!("{swap:03}");
        put(&plugins, "faulty.so", &version(&name));
        assert_eq!(server.send("POST", "/api/plugins/reload", &[], "").status, 200);
        assert_eq!(shown(&server)["version"], format!("1.0.0-{name}"));
        open.extend((0..all / 2 / SWAPS).map(|_| Open::stream(&server, &name)));
    }
    let held = memory_mib(&server);
    let serving = shown(&server);
    assert_eq!(serving["generation"], SWAPS + 1);
    let earlier = serving["earlier"].as_array().expect("earlier generations");
    assert!(earlier.iter().all(|old| old["state"] == "superseded" && old["in_flight"] != 0), "{serving}");
    let generations = |state: &str, expected: usize| {
        let line = format!("sigorest_plugin_generations{{plugin=\"faulty\",state=\"{state}\"}} {expected}");
        let metrics = server.get("/metrics").text();
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    };
    generations("serving", 1);
    generations("draining", SWAPS);
    gate.open();
    let count = open.len();
    open.into_iter().for_each(Open::check_whole);
    // Each generation's state went with its last exchange.
    let ballast = BALLAST_MIB * SWAPS as u64;
    assert!(held > memory + ballast, "{memory} MiB, then {held}");
    let left = eventually("the end of what the old generations held", || {
        let left = memory_mib(&server);
        (left < held - ballast / 10 * 9).then_some(left)
    });
    eprintln!("{count} streams, {SWAPS} swaps: {memory} MiB before, {held} with all, {left} after");
    let after = shown(&server);
    assert_eq!((&after["in_flight"], &after["faults"]), (&json!(0), &json!(0)), "{after}");
    generations("draining", 0);
    generations("retired", SWAPS);
}

#[test]
fn the_directory_is_the_interface() {
    let upstream = Upstream::saying("hello");
    let server = faulty(&upstream).plugins(&["echo"]).start();
    let plugins = server.data().join("plugins");
    ask(&server, "good").error(404);

    let dropped = Instant::now();
    fs::copy(plugin_file("faulty"), plugins.join("libanything.so")).expect("copied");
    eventually("its service", || (ask(&server, "good").status == 200).then_some(()));
    eprintln!("a dropped file served after {:?}", dropped.elapsed());

    // A table beside it brings models, not a generation.
    let changed = Instant::now();
    fs::write(plugins.join("faulty.models.csv"), "shortcode,id,input_cost\nextra,extra,3\n")
        .expect("written");
    eventually("its rows", || (ask(&server, "extra").status == 200).then_some(()));
    eprintln!("a changed table served after {:?}", changed.elapsed());
    assert_eq!(shown(&server)["generation"], 1);
    assert_eq!(shown(&server)["models"], json!({"has": 17, "offers": 17, "hides": 0}));

    // Half a copy, in place, and the rest of it later.
    let (file, new) = (plugins.join("libanything.so"), version("new"));
    fs::write(&file, &new[..new.len() / 2]).expect("written");
    let refused = eventually("its refusal", || {
        let shown = shown(&server);
        shown["refused"][0]["reason"].as_str().map(str::to_owned)
    });
    assert_eq!(refused, "truncated");
    assert!(ask(&server, "good").text().contains("generation one"));
    fs::write(&file, &new).expect("written");
    eventually("the new one", || ask(&server, "good").text().contains("generation new").then_some(()));
    assert_eq!(shown(&server)["refused"], json!([]));
    assert_eq!(shown(&server)["generation"], 2);

    // Names that editors and installers use for a while.
    for name in [".libanything.so.swp", "libanything.so~", "other.so.tmp", "#other.so#"] {
        fs::write(plugins.join(name), "not a plugin").expect("written");
    }
    server.send("POST", "/api/plugins/reload", &[], "");
    let all = server.get("/api/plugins").json();
    assert!(all.as_array().expect("a list").iter().all(|plugin| plugin["state"] == "loaded"), "{all}");
}

#[test]
fn a_directory_may_appear_later() {
    let setup = gateway();
    // Without -plugin-dir the data directory's own is one of the defaults.
    let mut command = Command::new(SERVER);
    command.env_clear().args(["-http-port", "0", "-https-port", "0", "-data-dir"]).arg(setup.path());
    let server = setup.start_as(command);
    ask(&server, "echo").error(404);
    let plugins = server.data().join("plugins");
    fs::create_dir(&plugins).expect("a directory");
    fs::copy(plugin_file("echo"), plugins.join("echo.so")).expect("copied");
    eventually("its service", || (ask(&server, "echo").status == 200).then_some(()));
}

#[test]
fn a_removed_plugin_drains() {
    let gate = Arc::default();
    let upstream = halting(&gate);
    let server = faulty(&upstream).start();
    let stream = Open::stream(&server, "one");
    fs::remove_file(server.data().join("plugins/faulty.so")).expect("removed");
    eventually("its end", || (ask(&server, "good").status == 404).then_some(()));
    assert!(!server.get("/v1/models").text().contains("faulty"));
    let draining = shown(&server);
    assert_eq!((&draining["state"], &draining["in_flight"]), (&json!("draining"), &json!(1)), "{draining}");
    gate.open();
    stream.check_whole();
    eventually("the end of the drain", || (server.get("/api/plugins/faulty").status == 404).then_some(()));
}

/// How often plugin files are mapped in the server, by mappings that run code.
fn mapped(server: &Server) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.id())).expect("its maps");
    maps.lines().filter(|line| line.contains("/memfd:plugin") && line.contains(" r-xp ")).count()
}

#[test]
fn a_plugin_that_comes_back_unchanged_costs_no_further_mapping() {
    let upstream = halting(&Arc::default());
    let server = faulty(&upstream).start();
    let file = server.data().join("plugins/faulty.so");
    let away = server.data().join("away");
    let before = mapped(&server);
    assert!(before > 0, "plugins are mapped");
    for generation in 2..4 {
        fs::rename(&file, &away).expect("away");
        eventually("its end", || (server.get("/api/plugins/faulty").status == 404).then_some(()));
        fs::rename(&away, &file).expect("back");
        eventually("its return", || {
            let shown = server.get("/api/plugins/faulty");
            (shown.status == 200 && shown.json()["generation"] == json!(generation)).then_some(())
        });
        assert_eq!(ask(&server, "good").status, 200);
    }
    assert_eq!(mapped(&server), before);
}

#[test]
fn a_rollback_is_instant_and_lasts_until_the_file_changes() {
    let upstream = Upstream::saying("hello");
    let server = faulty(&upstream).start();
    let plugins = server.data().join("plugins");
    server.send("POST", "/api/plugins/faulty/rollback", &[], "").error(409);
    server.send("POST", "/api/plugins/unknown/rollback", &[], "").error(404);
    server.send("PUT", "/api/plugins/faulty/rollback", &[], "").error(405);
    let replace = |name: &str| {
        put(&plugins, "faulty.so", &version(name));
        server.send("POST", "/api/plugins/reload", &[], "");
        assert!(ask(&server, "good").text().contains(&format!("generation {name}")));
    };
    replace("TWO");

    let began = Instant::now();
    let mut command = Command::new(SERVER);
    let output = command.args(["plugin", "rollback", "faulty", "-data-dir"]).arg(server.data()).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "faulty serves generation 1 again, version 1.0.0-one\n");
    eprintln!("rolled back in {:?}", began.elapsed());
    assert!(ask(&server, "good").text().contains("generation one"));
    let after = shown(&server);
    assert_eq!((&after["generation"], &after["reason"]), (&json!(1), &json!("rolled_back")), "{after}");

    // The file that was passed over stays so, also when all is read again.
    server.send("POST", "/api/plugins/reload", &[], "");
    assert!(ask(&server, "good").text().contains("generation one"));
    replace("new");
    assert_eq!(shown(&server)["generation"], 3);
    server.send("POST", "/api/plugins/faulty/rollback", &[], "");
    assert_eq!(shown(&server)["generation"], 2);

    let mut command = Command::new(SERVER);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let output = command.args(["plugin", "rollback", "faulty", "-data-dir"]).arg(elsewhere.path()).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no server runs"));
}

#[test]
fn a_generation_that_fails_its_checks_leaves_the_old_one_serving() {
    let upstream = Upstream::saying("hello");
    let server = faulty(&upstream).start();
    let plugins = server.data().join("plugins");
    let symbol = "_1as_0lib_1header_0root_bmodule_bloader";
    for (from, to, reason) in [
        ("\"api\": \"1.0\"", "\"api\": \"2.0\"", "wrong_api"),
        ("AbiFault", "AbiFaulx", "layout_mismatch"),
        (symbol, &symbol.replace("loader", "header"), "missing_symbol"),
        ("\"schema\": 1", "\"schema\": 9", "bad_manifest"),
    ] {
        put(&plugins, "faulty.so", &patched("faulty", &[(from, to)]));
        server.send("POST", "/api/plugins/reload", &[], "");
        assert!(ask(&server, "good").text().contains("generation one"), "{reason}");
        let shown = shown(&server);
        assert_eq!((&shown["state"], &shown["generation"]), (&json!("loaded"), &json!(1)), "{shown}");
        assert_eq!(shown["refused"][0]["reason"], reason, "{shown}");
        let message = shown["refused"][0]["message"].as_str().expect("a line");
        assert!(message.len() < 500 && !message.contains('\n'), "{message}");
    }
    let long = fs::read_to_string(server.data().join("plugin-errors/faulty.so.txt")).expect("the long text");
    assert!(long.len() > 1000, "{long}");
    put(&plugins, "faulty.so", &version("new"));
    eventually("the mended one", || ask(&server, "good").text().contains("generation new").then_some(()));
    assert_eq!(shown(&server)["refused"], json!([]));
}
