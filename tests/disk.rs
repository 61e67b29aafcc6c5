//! State on disk: damaged, hostile and full, killed at any moment, and shared with others.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{CLI, Connection, SERVER, Server, Setup, eventually, gateway};

fn setup() -> Setup {
    gateway().plugins(&["echo"])
}

fn put(server: &Server, content: &str) -> crate::harness::Reply {
    server.send("PUT", "/api/memory", &[], &json!({"content": content}).to_string())
}

fn ask(server: &Server, session: &str, text: &str) -> crate::harness::Reply {
    let messages = json!([{"role": "user", "content": text}]);
    server.chat(&json!({"model": "echo", "session_id": session, "messages": messages}))
}

/// What may stand where a file belongs.
const SHAPES: [&str; 8] =
    ["empty", "half", "binary", "huge", "directory", "pipe", "dangling link", "link to a broken file"];

/// Puts something there; the bytes that must not get lost, with the place where they are now.
fn spoil(path: &Path, shape: &str) -> Option<(PathBuf, Vec<u8>)> {
    let bytes: Vec<u8> = match shape {
        "half" | "link to a broken file" => b"{\"content\": \"ha".to_vec(),
        "binary" => (0..=255).cycle().take(5000).collect(),
        _ => Vec::new(),
    };
    match shape {
        "directory" => fs::create_dir(path).expect("a directory"),
        "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).expect("a pipe"),
        "dangling link" => symlink("elsewhere.json", path).expect("a link"),
        "huge" => {
            let file = fs::File::create(path).expect("a file");
            file.set_len(300 << 20).expect("a sparse file");
        }
        "link to a broken file" => {
            let target = path.with_file_name("target.json");
            fs::write(&target, &bytes).expect("a file");
            symlink(&target, path).expect("a link");
            return Some((path.to_owned(), bytes));
        }
        _ => fs::write(path, &bytes).expect("a file"),
    }
    matches!(shape, "half" | "binary").then(|| (path.to_owned(), bytes))
}

/// Whether these bytes are there: at their place, or kept beside it.
fn kept(path: &Path, bytes: &[u8]) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    let beside = fs::read_dir(path.parent().expect("a directory")).expect("the directory").flatten();
    let names = beside.map(|entry| entry.path()).filter(|other| {
        let other = other.file_name().and_then(|other| other.to_str()).unwrap_or("");
        other == name || other.starts_with(&format!("{name}.broken"))
    });
    names.filter(|path| path.is_file()).any(|path| fs::read(path).is_ok_and(|found| found == bytes))
}

#[test]
fn a_memory_file_of_any_shape_neither_stops_the_server_nor_loses_bytes() {
    for shape in SHAPES {
        let setup = setup();
        let path = setup.path().join("memory.json");
        let before = spoil(&path, shape);
        let server = setup.start();
        assert_eq!(ask(&server, "s", "hi").status, 200, "{shape}");
        let reply = put(&server, "new");
        let stored = reply.status == 200;
        if !stored {
            assert_eq!(reply.error(500)["code"], "memory_not_stored", "{shape}");
        }
        assert_eq!(stored, !matches!(shape, "directory" | "pipe"), "{shape}: {}", reply.text());
        let now = server.get("/api/memory").json();
        assert_eq!(now["content"] == "new", stored, "{shape}: in force is what was stored");
        if stored {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{shape}: {error}"));
            assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["content"], "new", "{shape}");
        }
        if let Some((path, bytes)) = before {
            assert!(kept(&path, &bytes), "{shape}: the bytes that were there are kept");
        }
        if shape == "huge" {
            let beside = fs::metadata(server.data().join("memory.json.broken"));
            assert!(beside.is_ok_and(|meta| meta.len() == 300 << 20));
        }
    }
}

#[test]
fn a_session_file_of_any_shape_costs_at_most_its_session() {
    for shape in SHAPES {
        let setup = setup();
        let dir = setup.path().join(".sessions");
        fs::create_dir(&dir).expect("a directory");
        let path = dir.join("echo-s.json");
        let before = spoil(&path, shape);
        let server = setup.start();
        let reply = ask(&server, "s", "hi");
        let usable = !matches!(shape, "huge" | "directory" | "pipe");
        assert_eq!(reply.status == 200, usable, "{shape}: {}", reply.text());
        if !usable {
            assert_eq!(reply.error(500)["code"], "session_failed", "{shape}");
        }
        assert_eq!(ask(&server, "other", "hi").status, 200, "{shape}");
        if let Some((path, bytes)) = before {
            assert!(kept(&path, &bytes), "{shape}: the bytes that were there are kept");
        }
        if usable {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{shape}: {error}"));
            let stored: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(stored["messages"].as_array().map(Vec::len), Some(2), "{shape}");
        }
    }
}

#[test]
fn lists_of_any_shape_do_not_stop_the_server() {
    for shape in SHAPES {
        let setup = setup();
        let path = setup.path().join("shortcodes.json");
        let record = spoil(&path, shape);
        let models = setup.path().join("models.csv");
        let list = spoil(&models, if shape.contains("link") { "dangling link" } else { shape });
        let server = setup.start();
        assert_eq!(ask(&server, "s", "hi").status, 200, "{shape}");
        for (path, bytes) in [record, list].into_iter().flatten() {
            assert!(kept(&path, &bytes), "{shape}: {} is kept", path.display());
        }
        if shape == "huge" {
            let beside = fs::metadata(server.data().join("shortcodes.json.broken"));
            assert!(beside.is_ok_and(|meta| meta.len() == 300 << 20), "kept");
        }
    }
}

#[test]
fn what_only_a_person_can_decide_stops_the_start_with_words() {
    let made = setup().start().stop();
    let certificate = |name: &str| fs::read(made.path().join(name)).expect("the pair");
    let pair = ["certs/server.crt", "certs/server.key"].map(|name| (name, certificate(name)));
    for file in ["certs/server.crt", "certs/server.key", "sigorest.toml"] {
        for shape in SHAPES {
            // These are the same as no file; without the key a new pair is made, as the old one is ours.
            if matches!(
                (file, shape),
                ("sigorest.toml", "empty") | ("sigorest.toml" | "certs/server.key", "dangling link")
            ) {
                continue;
            }
            let mut setup = setup();
            for (name, bytes) in pair.iter().filter(|(name, _)| *name != file) {
                setup = setup.file(name, bytes);
            }
            let path = setup.path().join(file);
            let before = spoil(&path, shape);
            let output = setup.run();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                matches!(output.status.code(), Some(1 | 2)),
                "{file} {shape}: {:?} {text}",
                output.status
            );
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(text.contains(name) && !text.contains("panicked"), "{file} {shape}: {text}");
            if let Some((path, bytes)) = before {
                assert!(fs::read(&path).is_ok_and(|now| now == bytes), "{file} {shape}");
            }
        }
    }
}

/// A small file system of its own for a data directory, where the machine lets us have one.
struct Disk(PathBuf);

impl Disk {
    fn under(setup: &Setup) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs"]);
        mount_to(&mut mount, setup.path()).then(|| Self(setup.path().to_owned()))
    }

    /// Takes all room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("a file");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }

    fn read_only(&self, yes: bool) {
        let options = if yes { "remount,ro" } else { "remount,rw" };
        let mut command = Command::new("mount");
        command.args(["-o", options]);
        assert!(mount_to(&mut command, &self.0));
    }
}

fn mount_to(command: &mut Command, path: &Path) -> bool {
    command.arg(path).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_lies_about_nothing() {
    let setup = setup();
    let Some(disk) = Disk::under(&setup) else { return };
    let server = setup.start();
    assert_eq!(put(&server, "old").status, 200);
    assert_eq!(ask(&server, "s", "one").status, 200);
    let session = server.data().join(".sessions/echo-s.json");
    let (memory, before) = (fs::read(server.data().join("memory.json")), fs::read(&session));
    let filler = disk.fill();

    assert_eq!(put(&server, &"x".repeat(100_000)).error(500)["code"], "memory_not_stored");
    assert_eq!(server.get("/api/memory").json()["content"], "old");
    assert_eq!(ask(&server, "s", &"two ".repeat(10_000)).status, 200, "the answer is there all the same");
    server.logged("the session was not stored");
    assert_eq!(fs::read(server.data().join("memory.json")).ok(), memory.ok());
    assert_eq!(fs::read(&session).ok(), before.ok());
    let server = server.restart();
    assert_eq!(server.get("/api/memory").json()["content"], "old");
    assert_eq!(ask(&server, "t", "hi").status, 200);

    fs::remove_file(filler).expect("it was there");
    assert_eq!(put(&server, "new").status, 200);
    assert_eq!(ask(&server, "s", "three").status, 200);
    let leftovers = fs::read_dir(server.data()).expect("the directory").flatten();
    let leftovers: Vec<_> = leftovers
        .map(|entry| entry.file_name().into_string().expect("UTF-8"))
        .filter(|name| name.contains("tmp"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    drop(server);
    drop(disk);
}

#[test]
fn a_read_only_disk_can_be_served_from() {
    let setup = setup();
    let Some(disk) = Disk::under(&setup) else { return };
    let server = setup.start();
    assert_eq!(put(&server, "old").status, 200);
    let setup = server.stop();
    disk.read_only(true);
    // There is no run.json to find the port by.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let setup = setup.args(&["-http-port", &port.port().to_string()]);
    let mut child = setup.command(SERVER).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
    eventually("the start", || std::net::TcpStream::connect(port).ok());
    let mut caller = Connection::open(port);
    assert_eq!(caller.get("/api/memory").json()["content"], "old");
    let chat = json!({"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(caller.post("/v1/chat/completions", &chat).status, 200);
    let reply = caller.send("PUT", "/api/memory", &[], br#"{"content": "new"}"#);
    assert_eq!(reply.error(500)["code"], "memory_not_stored");
    assert_eq!(caller.get("/api/memory").json()["content"], "old");
    let _ = child.kill();
    let _ = child.wait();
    disk.read_only(false);
    drop(disk);
}

#[test]
fn what_is_in_force_is_what_is_on_disk_whoever_writes() {
    let server = Arc::new(setup().start());
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                for round in 0..5 {
                    assert_eq!(put(&server, &format!("{writer} {round}")).status, 200);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("the writer"));
    let text = fs::read_to_string(server.data().join("memory.json")).expect("memory.json");
    let on_disk: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(server.get("/api/memory").json(), on_disk);
}

#[test]
fn the_server_and_sigoe_write_one_session_and_lose_no_turn() {
    let server = Arc::new(setup().start());
    let turns = |who: &'static str, turn: fn(&Server, &str) -> bool| {
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            // With those of the others, as many as a session holds.
            for number in 0..5 {
                assert!(turn(&server, &format!("{who} {number}")), "{who} {number}");
            }
        })
    };
    let both = [
        turns("server", |server, text| ask(server, "shared", text).status == 200),
        turns("sigoE", |server, text| {
            let data = server.data();
            let mut command = Command::new(CLI);
            command.env_clear().current_dir(data).stdin(Stdio::null()).stdout(Stdio::null());
            command.args(["-m", "echo", "-s", "shared", text]).arg("-plugin-dir").arg(data.join("plugins"));
            command.status().is_ok_and(|status| status.success())
        }),
    ];
    both.into_iter().for_each(|turns| turns.join().expect("the turns"));
    let text = fs::read_to_string(server.data().join(".sessions/echo-shared.json")).expect("the session");
    let stored: Value = serde_json::from_str(&text).expect("JSON");
    let asked: Vec<&str> = stored["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .filter(|message| message["role"] == "user")
        .filter_map(|message| message["content"].as_str())
        .collect();
    assert_eq!(asked.len(), 10, "{asked:?}");
    for who in ["server", "sigoE"] {
        let own: Vec<_> = asked.iter().filter(|text| text.starts_with(who)).copied().collect();
        assert_eq!(own, (0..5).map(|number| format!("{who} {number}")).collect::<Vec<_>>(), "in their order");
    }
}

#[test]
fn fifty_thousand_sessions_and_fifty_writers_to_one() {
    let setup = setup();
    let dir = setup.path().join(".sessions");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..50_000 {
        let text = format!(
            r#"{{"model":"echo","session_id":"n{number}","messages":[{{"role":"user","content":"x"}}]}}"#
        );
        fs::write(dir.join(format!("echo-n{number}.json")), text).expect("a file");
    }
    let start = Instant::now();
    let server = Arc::new(setup.start());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(ask(&server, "n49999", "y").status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    let done = Arc::new(AtomicBool::new(false));
    let healthy = std::thread::spawn({
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        move || {
            let mut slowest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                assert_eq!(server.get("/ping").status, 200);
                slowest = slowest.max(start.elapsed());
            }
            slowest
        }
    });
    let writers: Vec<_> = (0..50)
        .map(|writer| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                for round in 0..4 {
                    assert_eq!(ask(&server, "shared", &format!("w{writer}r{round}")).status, 200);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("the writer"));
    done.store(true, Ordering::Relaxed);
    let slowest = healthy.join().expect("health");
    assert!(slowest < Duration::from_secs(2), "file work blocks nobody: {slowest:?}");

    let text = fs::read_to_string(dir_of(&server).join("echo-shared.json")).expect("the session");
    let stored: Value = serde_json::from_str(&text).expect("JSON");
    let messages = stored["messages"].as_array().expect("messages").clone();
    assert_eq!(messages.len(), 20);
    for pair in messages.chunks(2) {
        assert_eq!((&pair[0]["role"], &pair[1]["role"]), (&json!("user"), &json!("assistant")));
    }
    let mut questions: Vec<String> = messages.iter().step_by(2).map(|m| m["content"].to_string()).collect();
    questions.sort();
    questions.dedup();
    assert_eq!(questions.len(), 10, "none is there twice");
}

fn dir_of(server: &Server) -> PathBuf {
    server.data().join(".sessions")
}

#[test]
fn files_are_private_whatever_the_umask() {
    for umask in ["000", "027", "777"] {
        let setup = setup();
        let server = setup.command(SERVER);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!(r#"umask {umask}; exec "$0" "$@""#)]);
        command.arg(server.get_program()).args(server.get_args());
        command.env_clear().current_dir(setup.path()).stdin(Stdio::null());
        let server = setup.start_as(command);
        assert_eq!(put(&server, "m").status, 200, "{umask}");
        assert_eq!(ask(&server, "s", "hi").status, 200, "{umask}");
        let mut seen = 0;
        for entry in walk(server.data()) {
            if entry.strip_prefix(server.data().join("plugins")).is_ok() {
                continue;
            }
            let meta = fs::symlink_metadata(&entry).expect("its state");
            let mode = meta.permissions().mode() & 0o777;
            let expected = if meta.is_dir() { 0o700 } else { 0o600 };
            let public = entry.extension().is_some_and(|end| end == "crt");
            assert!(
                mode == expected || (public && mode == 0o644),
                "umask {umask}: {} {mode:o}",
                entry.display()
            );
            seen += 1;
        }
        assert!(seen >= 8, "{seen}");
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the directory").flatten() {
        found.push(entry.path());
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found
}

#[test]
fn a_second_server_on_the_directory_refuses_and_names_the_first() {
    let mut server = setup().start();
    let other = gateway().plugins(&["echo"]);
    let mut args: Vec<_> = other.command(SERVER).get_args().map(std::ffi::OsStr::to_owned).collect();
    let at = args.iter().position(|arg| arg == "-data-dir").expect("the flag");
    args[at + 1] = server.data().into();
    let output = Command::new(SERVER).args(args).env_clear().output().expect("its output");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&server.id().to_string()) && text.contains("-data-dir"), "{text}");
    assert_eq!(server.get("/ping").status, 200, "the first goes on");
    server.signal(Signal::KILL);
    server.ended();
    let server = server.stop().start();
    assert_eq!(server.get("/ping").status, 200, "a killed one leaves no claim behind");
}

#[test]
fn links_stay_links_and_their_targets_are_written() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("shared-memory.json");
    fs::write(&target, r#"{"content": "shared"}"#).expect("a file");
    let setup = setup();
    symlink(&target, setup.path().join("memory.json")).expect("a link");
    let server = setup.start();
    assert_eq!(server.get("/api/memory").json()["content"], "shared");
    assert_eq!(put(&server, "new").status, 200);
    assert!(server.data().join("memory.json").is_symlink());
    assert!(fs::read_to_string(&target).expect("text").contains("new"));
}
