//! More than there is room for: too many requests, too few descriptors, readers that do not read.

use std::{
    io::Read,
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Connection, SERVER, Server, Steady, Upstream, chunk, cpu_time, eventually, gateway};

const CHAT: &str = "/v1/chat/completions";

fn asking(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "retries": 0, "messages": [{"role": "user", "content": "x"}]})
        .to_string()
}

fn started(server: &Server, body: &str) -> Connection {
    let mut caller = server.connect();
    caller.start("POST", CHAT, &[], body.as_bytes());
    caller
}

/// An upstream that answers nobody.
fn hung() -> Upstream {
    Upstream::start(|_, answer| {
        answer.wait_for_hang_up();
    })
}

#[test]
fn beyond_the_cap_the_refusal_is_quick_and_health_answers() {
    let upstream = hung();
    let settings = "[limits]\nmax_in_flight = 20\n";
    let server = gateway().provider("mammouth", &upstream.url("/v1")).config(settings).start();
    let steady = Steady::over(&server, 24);
    let held: Vec<Connection> = (0..20).map(|_| started(&server, &asking("gpt41", false))).collect();
    upstream.wait_for(19);
    let mut times = Vec::new();
    for model in ["gpt41", "echo", "echo"].repeat(5) {
        let mut caller = server.connect();
        let start = Instant::now();
        let reply = caller.send("POST", CHAT, &[], asking(model, true).as_bytes());
        times.push(start.elapsed());
        reply.error(503);
        assert!(reply.header("retry-after").is_some());
        steady.check_reply("over the cap", &reply);
    }
    times.sort();
    println!("refusals: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    // The median: this machine runs many tests at once.
    assert!(times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
    // Places that are given back are free at once.
    for caller in held {
        caller.hang_up();
    }
    eventually("a free place", || {
        (server.send("POST", CHAT, &[], &asking("echo", false)).status == 200).then_some(())
    });
}

#[test]
fn a_hung_provider_slows_nobody_else() {
    let (stuck, quick) = (hung(), Upstream::saying("fine"));
    let server =
        gateway().provider("mammouth", &stuck.url("/v1")).provider("moonshot", &quick.url("/v1")).start();
    let steady = Steady::over(&server, 48);
    let held: Vec<Connection> =
        (0..200).map(|number| started(&server, &asking("gpt41", number % 2 == 0))).collect();
    stuck.wait_for(199);
    let mut times = Vec::new();
    for _ in 0..10 {
        for path in ["/api/health", "/v1/models"] {
            let start = Instant::now();
            assert_eq!(server.get(path).status, 200);
            times.push(start.elapsed());
        }
        let start = Instant::now();
        assert_eq!(server.send("POST", CHAT, &[], &asking("kimi", false)).status, 200);
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "beside 200 hung calls: median {:?}, worst {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
    steady.check("hung");
    drop(held);
}

/// How many descriptors a process has open.
fn descriptors(server: &Server) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("its descriptors").count() as u64
}

fn limit_descriptors(server: &Server, most: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.id()).expect("an id"));
    let limit = rustix::process::Rlimit { current: Some(most), maximum: Some(20_000) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).expect("the limit");
}

#[test]
fn without_descriptors_nothing_spins_and_all_comes_back() {
    let upstream = Upstream::saying("fine");
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let steady = Steady::over(&server, 24);
    assert_eq!(server.send("POST", CHAT, &[], &asking("echo", false)).status, 200);
    let mut open = server.connect();
    assert_eq!(open.get("/ping").status, 200);
    let spare = 8;
    limit_descriptors(&server, descriptors(&server) + spare);
    // More connections than there are descriptors for: the others wait in the socket's queue.
    let mut callers: Vec<Connection> = (0..40).map(|_| server.connect()).collect();
    eventually("no descriptor to be left", || server.log().contains("cannot be accepted").then_some(()));
    let (cpu, start) = (cpu_time(&server), Instant::now());
    // A connection that is there is served on; an upstream that cannot be reached now is a 5xx.
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(open.get("/ping").status, 200);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let reply = open.send("POST", CHAT, &[], asking("gpt41", false).as_bytes());
    assert!(matches!(reply.status, 502 | 503), "{}", reply.text());
    assert_eq!(open.send("POST", CHAT, &[], asking("echo", true).as_bytes()).status, 200);
    let (spent, wall) = (cpu_time(&server) - cpu, start.elapsed());
    println!("without descriptors: {spent:?} of processor time in {wall:?}");
    assert!(spent < wall / 2, "{spent:?} in {wall:?}");
    let warnings = server.log().matches("cannot be accepted").count();
    assert!(warnings < 10, "{warnings} warnings");
    // Descriptors are back: those who waited are served, and so are new ones.
    limit_descriptors(&server, 10_000);
    for caller in &mut callers {
        assert_eq!(caller.get("/ping").status, 200);
    }
    drop(callers);
    assert_eq!(server.send("POST", CHAT, &[], &asking("gpt41", false)).status, 200);
    steady.check("descriptors");
}

#[test]
fn a_reload_without_descriptors_keeps_what_was_in_force() {
    let settings = "[access]\nhosts = [\"old.example\"]\n";
    let server = gateway()
        .plugins(&["echo", "mammouth"])
        .provider("mammouth", &Upstream::saying("fine").url("/v1"))
        .config(settings)
        .file("models.csv", "gpt4o\n")
        .file("memory.json", r#"{"content":"old"}"#)
        .file("channels.json", r#"{"providers":{"mammouth":{"default":{"active":false}}}}"#)
        .file("plugins/echo.models.csv", "shortcode,id\nechoes,echoes\n")
        .start();
    let mut open = server.connect();
    let host = |open: &mut Connection, name: &str| open.send("GET", "/ping", &[("host", name)], b"").status;
    let seen = |open: &mut Connection| {
        let told = ["/v1/models", "/api/memory", "/api/channels"].map(|path| open.get(path).text());
        let plugins = open.get("/api/plugins").json();
        let plugins = plugins.as_array().expect("a list").iter();
        let serving: Vec<_> = plugins
            .filter(|plugin| plugin["state"] == "loaded")
            .map(|plugin| (plugin["id"].clone(), plugin["generation"].clone()))
            .collect();
        (told, serving, host(open, "old.example"), host(open, "new.example"))
    };
    let before = seen(&mut open);
    assert!(before.0[0].contains("gpt4o") && before.0[0].contains("echoes") && before.0[1].contains("old"));
    for (file, text) in [
        ("sigorest.toml", "[access]\nhosts = [\"new.example\"]\n"),
        ("models.csv", "gpt41\n"),
        ("memory.json", r#"{"content":"new"}"#),
    ] {
        std::fs::write(server.data().join(file), text).expect("a file");
    }
    // What is there now may close and come again, but nothing more.
    limit_descriptors(&server, 3);
    for _ in 0..3 {
        let from = server.log_length();
        server.reload();
        eventually("the reload", || server.log_from(from).contains("reloaded").then_some(()));
        assert_eq!(seen(&mut open), before, "{}", server.log_from(from));
    }
    limit_descriptors(&server, 10_000);
    server.reload();
    eventually("what is new", || (host(&mut open, "new.example") == 200).then_some(()));
    eventually("the new memory", || open.get("/api/memory").text().contains("new").then_some(()));
    let models = open.get("/v1/models").text();
    assert!(models.contains("gpt41") && !models.contains("gpt4o") && models.contains("echoes"), "{models}");
    assert!(open.get("/api/channels").text().contains("disabled"), "switched off as before");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let setup = gateway();
    let mut command: Command = setup.command(SERVER);
    let mut child =
        command.args(["-v", "debug"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start");
    let file = setup.path().join("run.json");
    let address = eventually("the start", || {
        let run: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        let list = run["http"].as_array()?;
        list.iter().find_map(|text| text.as_str()?.parse().ok().filter(std::net::SocketAddr::is_ipv4))
    });
    // Many times what a pipe holds (64 KiB).
    let mut caller = Connection::open(address);
    let start = Instant::now();
    for _ in 0..1500 {
        assert_eq!(caller.send("POST", CHAT, &[], asking("echo", false).as_bytes()).status, 200);
    }
    assert_eq!(caller.get("/api/health").status, 200);
    println!("1,500 requests with a full log in {:?}", start.elapsed());
    // And it can still be told to stop.
    crate::harness::signal(child.id(), rustix::process::Signal::TERM);
    eventually("the end", || child.try_wait().expect("its state"));
    let mut text = String::new();
    child.stderr.take().expect("the log").read_to_string(&mut text).expect("text");
    assert!(text.contains("request"), "{text}");
}

/// Asks, waits until `ready`, leaves, and measures until the upstream sees its connection close.
fn leaving(stream: bool, behind_head: bool) -> Duration {
    let (left, gone) = mpsc::channel();
    let left = Mutex::new(left);
    let upstream = Upstream::start(move |_, answer| {
        if behind_head {
            answer.stream().event(&chunk(json!({"content": "part"}), None));
        } else if !stream {
            answer.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{");
        }
        assert!(answer.wait_for_hang_up());
        let _ = left.lock().expect("the channel").send(Instant::now());
    });
    let server = gateway().provider("mammouth", &upstream.url("/v1")).start();
    let mut times: Vec<Duration> = (0..7)
        .map(|round| {
            let mut caller = started(&server, &asking("gpt41", stream));
            upstream.wait_for(round);
            if behind_head {
                caller.head();
                caller.read_until("part");
            }
            let start = Instant::now();
            caller.hang_up();
            let end = gone.recv_timeout(Duration::from_secs(10)).expect("the upstream's connection closes");
            end.saturating_duration_since(start)
        })
        .collect();
    times.sort();
    // What the calls used is in the books, once each.
    eventually("the entries", || (server.log().matches("model=gpt41").count() == 7).then_some(()));
    println!("stream {stream}, behind the head {behind_head}: median {:?}, worst {:?}", times[3], times[6]);
    times[3]
}

#[test]
fn callers_who_leave_free_the_upstream_at_once() {
    for (stream, behind_head) in [(false, false), (true, false), (true, true)] {
        let median = leaving(stream, behind_head);
        assert!(median < Duration::from_millis(100), "stream {stream}, behind {behind_head}: {median:?}");
    }
}
