//! The life of the server: signals, the end, reloads, what a service manager sees, and where it must run.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixDatagram},
    },
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Connection, KEY, PATIENCE, Reply, SERVER, Server, Setup, Upstream, chunk, completion, eventually,
    gateway, plugin_file,
};

/// An upstream whose answers begin at once and go on when the test says so.
struct Held {
    upstream: Upstream,
    go_on: Vec<mpsc::Sender<()>>,
}

/// Holds this many answers.
fn held(answers: usize) -> Held {
    let (go_on, waiting): (Vec<_>, Vec<_>) = (0..answers).map(|_| mpsc::channel::<()>()).unzip();
    let waiting = Mutex::new(waiting);
    let upstream = Upstream::start(move |request, answer| {
        let go_on = waiting.lock().expect("the list").pop().expect("an answer more");
        if request.json()["stream"] == true {
            answer.stream().event(&chunk(json!({"role": "assistant", "content": "begun"}), None));
            let _ = go_on.recv_timeout(PATIENCE);
            answer.event(&chunk(json!({"content": " ended"}), Some("stop"))).done();
        } else {
            let _ = go_on.recv_timeout(PATIENCE);
            answer.json(200, &completion("ended"));
        }
    });
    Held { upstream, go_on }
}

fn hello(stream: bool) -> String {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"model": "gpt41", "stream": stream, "messages": messages}).to_string()
}

/// A connection with an open stream of which the first word was read.
fn open_stream(server: &Server) -> (Connection, String) {
    let mut connection = server.connect();
    connection.start("POST", "/v1/chat/completions", &[], hello(true).as_bytes());
    assert_eq!(connection.head().status, 200);
    let read = connection.read_until("begun");
    (connection, read)
}

#[track_caller]
fn turned_away(reply: &Reply) {
    let error = reply.error(503);
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("stopping")), "{error}");
    assert!(reply.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|secs| secs > 0)));
    assert_eq!(reply.header("connection"), Some("close"));
}

#[test]
fn told_to_stop_it_finishes_streams_and_turns_others_away() {
    for signal in [Signal::TERM, Signal::INT] {
        let held = held(1);
        let mut server = gateway().provider("mammouth", &held.upstream.url("/v1")).start();
        let (mut streaming, mut text) = open_stream(&server);
        let mut idle = server.connect();
        assert_eq!(idle.get("/ping").status, 200);
        server.signal(signal);
        server.logged("stopping");

        turned_away(&server.get("/api/health"));
        turned_away(&server.send("POST", "/v1/chat/completions", &[], &hello(false)));
        turned_away(&idle.get("/v1/models"));
        assert!(idle.closed(), "an answer that says close is the last");
        held.go_on[0].send(()).expect("the stream waits");
        text += &streaming.read_until("[DONE]");
        assert!(text.contains(" ended"), "{text}");
        assert!(server.ended().success());
        assert!(!server.data().join("run.json").exists());
    }
}

#[test]
fn with_nothing_open_it_ends_at_once() {
    let mut server = gateway().plugins(&["echo"]).start();
    let mut idle = server.connect();
    assert_eq!(idle.get("/ping").status, 200);
    let start = Instant::now();
    server.terminate();
    assert!(server.ended().success());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn when_the_time_is_up_open_answers_end_in_words() {
    let held = held(2);
    let config = "[limits]\ndrain_secs = 1\n";
    let mut server = gateway().provider("mammouth", &held.upstream.url("/v1")).config(config).start();
    let (mut streaming, mut text) = open_stream(&server);
    let mut whole = server.connect();
    whole.start("POST", "/v1/chat/completions", &[], hello(false).as_bytes());
    held.upstream.wait_for(1);
    server.terminate();

    while let Some(piece) = streaming.chunk() {
        text += &String::from_utf8_lossy(&piece);
    }
    assert!(!text.contains("[DONE]"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().expect("an event").strip_prefix("data: ");
    let last: Value = serde_json::from_str(last.expect("data")).expect("JSON");
    assert_eq!(last["error"]["code"], "stopping", "{text}");
    turned_away(&whole.reply());
    assert!(server.ended().success());
    for status in ["status=200", "status=503"] {
        let booked = |line: &&str| line.contains("model=gpt41") && line.contains(status);
        assert_eq!(server.log().lines().filter(booked).count(), 1, "{status} in {}", server.log());
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let held = held(1);
        let mut server = gateway().provider("mammouth", &held.upstream.url("/v1")).start();
        let (mut streaming, _) = open_stream(&server);
        server.terminate();
        server.logged("stopping; a second signal");
        let start = Instant::now();
        server.signal(signal);
        assert_eq!(server.ended().code(), Some(code));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(streaming.closed());
        assert!(!server.data().join("run.json").exists());
        server.logged_with(&["model=gpt41", "stopping"]);
    }
}

fn reloaded(server: &Server, times: usize) {
    server.reload();
    eventually("the reload", || {
        (server.log().lines().filter(|line| line.contains("reloaded")).count() == times).then_some(())
    });
}

#[test]
fn a_reload_takes_what_is_right_and_keeps_the_old_of_what_is_wrong() {
    let server = gateway().plugins(&["echo"]).start();
    let data = server.data().to_owned();
    let write = |name: &str, text: &str| fs::write(data.join(name), text).expect("a file");
    write("memory.json", r#"{"content": "new", "cache": false}"#);
    write("models.csv", "echo\n!echo-embed\n");
    reloaded(&server, 1);
    assert_eq!(server.get("/api/memory").json()["content"], "new");

    let models = server.get("/v1/models").text();
    for file in ["memory.json", "sigorest.toml", "certs/cert.pem"] {
        fs::create_dir_all(data.join("certs")).expect("a directory");
        write(file, "{ this is [ nothing");
    }
    fs::remove_file(data.join("models.csv")).expect("it was there");
    fs::create_dir(data.join("models.csv")).expect("a directory in its place");
    let certificate = fs::read_dir(&data).expect("the directory").flatten().find_map(|entry| {
        let path = entry.path();
        (path.extension()? == "pem" || path.extension()? == "crt").then_some(path)
    });
    if let Some(certificate) = &certificate {
        fs::write(certificate, "no certificate").expect("a file");
    }
    reloaded(&server, 2);
    assert_eq!(server.get("/api/memory").json()["content"], "new", "the old block");
    assert_eq!(server.get("/v1/models").text(), models, "the old list");
    assert_eq!(fs::read_to_string(data.join("memory.json")).expect("text"), "{ this is [ nothing");
    server.logged("the settings are wrong; the old ones stay in force");
    server.logged("memory.json cannot be used");
    server.logged("models.csv");
}

/// A service manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn of(setup: Setup) -> (Self, Setup) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        (Self { socket, _dir: dir }, setup.env("NOTIFY_SOCKET", path.to_str().expect("a path")))
    }

    /// Waits for a notification that holds this line or line's beginning.
    fn hears(&self, line: &str) -> String {
        loop {
            let mut bytes = [0; 4096];
            let count = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("no {line}: {error}"));
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.lines().any(|found| found.starts_with(line)) {
                return text;
            }
        }
    }
}

#[test]
fn a_service_manager_hears_what_happens() {
    let (manager, setup) = Manager::of(gateway().plugins(&["echo"]));
    let mut server = setup.env("WATCHDOG_USEC", "300000").start();
    manager.hears("READY=1");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    server.reload();
    assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.hears("READY=1");
    server.signal(Signal::STOP);
    manager.socket.set_read_timeout(Some(Duration::from_millis(900))).expect("a timeout");
    let mut byte = [0; 64];
    let mut last_words = 0;
    while manager.socket.recv(&mut byte).is_ok() {
        last_words += 1;
    }
    assert!(last_words < 10, "a server that stands still says nothing");
    server.signal(Signal::CONT);
    manager.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    manager.hears("WATCHDOG=1");
    server.terminate();
    assert!(manager.hears("STOPPING=1").contains("EXTEND_TIMEOUT_USEC="));
    assert!(server.ended().success());
}

/// Hands a socket over as systemd does; the shell's process becomes the server's.
fn with_socket(setup: &Setup, socket: &TcpListener) -> Command {
    let server = setup.command(SERVER);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#]);
    command.arg(server.get_program()).args(server.get_args());
    command.env_clear().envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let socket = OwnedFd::from(socket.try_clone().expect("a second handle"));
    command.current_dir(setup.path()).stdin(Stdio::from(socket));
    command
}

#[test]
fn with_socket_activation_a_restart_refuses_no_connection() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let start = |setup: Setup| {
        let command = with_socket(&setup, &socket);
        setup.start_as(command)
    };
    let mut server = start(gateway().plugins(&["echo"]));
    assert_eq!(server.http(), address);
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut answered = [0_u32; 2];
                while !stop.load(Ordering::Relaxed) {
                    let status = ping(address);
                    assert!(status == 200 || status == 503, "{status}");
                    answered[usize::from(status == 503)] += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..3 {
        server = start(server.stop());
        assert_eq!(server.get("/ping").status, 200);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        let [served, turned_away] = caller.join().expect("every connection was answered");
        assert!(served > 0 && turned_away <= 3, "{served} served, {turned_away} turned away");
    }
}

/// One request on a connection of its own; its status.
fn ping(address: std::net::SocketAddr) -> u16 {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET /ping HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

#[test]
fn a_start_is_less_than_a_second_of_work() {
    // Processor time, the plugins' trials included: the machine may be busy with other tests.
    let server = gateway().start();
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.id())).expect("its state");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11..15].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    // Linux counts 100 ticks a second here, whatever its own clock does.
    assert!(ticks < 100, "{ticks} hundredths of a second");
}

#[test]
fn it_writes_no_core_files_and_takes_all_descriptors() {
    let server = gateway().plugins(&["echo"]).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("its limits");
    let of = |name: &str| -> Vec<String> {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("the limit");
        line[26..].split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(of("Max core file size")[..2], ["0", "0"]);
    let files = of("Max open files");
    assert_eq!(files[0], files[1]);
}

#[test]
fn no_process_tells_a_key() {
    let upstream = Upstream::saying("answer");
    let setup = gateway().config("[provider.mammouth]\nisolation = \"process\"\n");
    let server = setup.provider("mammouth", &upstream.url("/v1")).start();
    assert_eq!(server.send("POST", "/v1/chat/completions", &[], &hello(false)).status, 200);
    let worker = eventually("the worker", || crate::worker::worker(&server, "mammouth"));
    let read = |process: u32, what: &str| {
        String::from_utf8_lossy(&fs::read(format!("/proc/{process}/{what}")).expect("its own")).into_owned()
    };
    for (process, what) in [(server.id(), "cmdline"), (worker, "cmdline"), (worker, "environ")] {
        assert!(!read(process, what).contains(KEY), "{what}: {}", read(process, what));
    }
    assert!(!run_json(&server).contains(KEY));
}

fn run_json(server: &crate::harness::Server) -> String {
    fs::read_to_string(server.data().join("run.json")).expect("run.json")
}

/// Whether this test may change to another user.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn nobody_without_rights_home_or_time_zone_can_run_it() {
    if !is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        return;
    }
    let held = held(0);
    let setup = gateway().provider("mammouth", &held.upstream.url("/v1"));
    let program = setup.path().join("sigoREST");
    fs::copy(SERVER, &program).expect("a copy");
    let server = setup.command(SERVER);
    for id in ["echo", "mammouth"] {
        assert!(plugin_file(id).exists());
    }
    own(setup.path());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    command.args(["--inh-caps=-all", "--no-new-privs"]).arg(&program).args(server.get_args());
    command.env_clear().envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", "/usr/bin:/bin").current_dir(setup.path()).stdin(Stdio::null());
    let server = setup.start_as(command);
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its state");
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("Uid:\t65534"), "{status}");
    let chat = json!({"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(server.chat(&chat).status, 200);
    assert_eq!(server.send("PUT", "/api/memory", &[], r#"{"content": "m"}"#).status, 200);
    assert!(server.get("/v1/models").text().contains("gpt41"), "plugins load: {}", server.log());
    assert_eq!(fs::read_dir(server.data().join(".sessions")).expect("sessions").count(), 1);
}

/// Gives a directory and what is in it to nobody.
fn own(dir: &Path) {
    std::os::unix::fs::chown(dir, Some(65534), Some(65534)).expect("root may");
    for entry in fs::read_dir(dir).expect("the directory").flatten() {
        if entry.path().is_dir() {
            own(&entry.path());
        } else {
            std::os::unix::fs::chown(entry.path(), Some(65534), Some(65534)).expect("root may");
        }
    }
}

#[test]
fn keys_come_from_files_and_credentials_too() {
    let keys = tempfile::tempdir().expect("a directory");
    let file = |name: &str| {
        let path = keys.path().join(name);
        fs::write(&path, format!("{KEY}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("a mode");
        path.to_str().expect("a path").to_owned()
    };
    let plain = file("key");
    file("MAMMOUTH_API_KEY");
    let config = format!("[provider.mammouth]\nkey_file = {plain:?}\n");
    let directory = keys.path().to_str().expect("a path");
    for (what, setup) in [
        ("_FILE", gateway().env("MAMMOUTH_API_KEY_FILE", plain.as_str())),
        ("a credential", gateway().env("CREDENTIALS_DIRECTORY", directory)),
        ("key_file", gateway().config(&config)),
    ] {
        let upstream = Upstream::saying("answer");
        let server = setup.env("MAMMOUTH_BASE_URL", upstream.url("/v1")).start();
        let reply = server.send("POST", "/v1/chat/completions", &[], &hello(false));
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        assert_eq!(upstream.last().header("authorization"), Some(&*format!("Bearer {KEY}")), "{what}");
        assert!(!server.log().contains(KEY), "{what}");
        let environment = fs::read(format!("/proc/{}/environ", server.id())).expect("its environment");
        assert!(!String::from_utf8_lossy(&environment).contains(KEY), "{what}");
    }
}
