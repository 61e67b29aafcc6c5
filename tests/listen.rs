//! Starting, listening, stopping.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::{Upstream, chunk, gateway};

#[test]
fn the_start_says_what_was_found_and_a_line_to_paste() {
    let server = gateway().start();
    let line = server.logged("curl");
    assert!(line.contains(&format!("{}", server.http().port())), "{line}");
    assert!(line.contains("echo"), "{line}");
    let log = server.log();
    for wanted in ["echo", "mammouth", "moonshot", "ollama", "zai", "MAMMOUTH_API_KEY", "MOONSHOT_API_KEY"] {
        assert!(log.contains(wanted), "{wanted} in {log}");
    }
    for address in [server.http().port(), server.https().port()] {
        assert!(log.contains(&address.to_string()), "{address} in {log}");
    }
}

#[test]
fn the_line_to_paste_works_as_it_stands() {
    let server = gateway().start();
    let line = server.logged("curl ");
    let line = &line[line.find("curl ").expect("found")..];
    let output = std::process::Command::new("sh").arg("-c").arg(line).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"content\""), "{line}: {text} {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn plain_http_is_for_this_machine_and_https_for_all() {
    let server = gateway().start();
    let (http, https) = server.listening();
    assert!(http.iter().all(|address| address.ip().is_loopback()), "{http:?}");
    assert!(https.iter().all(|address| address.ip().is_unspecified()), "{https:?}");
    let server = gateway().config("[listen]\nhttp = [\"127.0.0.3\"]\nhttps = [\"127.0.0.1\"]\n").start();
    let (http, https) = server.listening();
    assert_eq!(http.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>(), ["127.0.0.3"]);
    assert_eq!(https.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>(), ["127.0.0.1"]);
    let server = gateway().config("[access]\nhttp = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n").start();
    assert!(server.listening().0.iter().any(|address| address.ip().is_unspecified()));
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = gateway().args(&["-http-port", &port]).run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&port) && !text.contains("panicked"), "{text}");
}

#[test]
fn the_run_file_is_private_and_goes_with_the_server() {
    use std::os::unix::fs::PermissionsExt;
    let mut server = gateway().start();
    let file = server.data().join("run.json");
    assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    server.terminate();
    assert!(server.ended().success());
    assert!(!file.exists());
}

#[test]
fn a_drain_has_an_end() {
    let upstream = Upstream::start(|_, answer| {
        answer.stream().event(&chunk(json!({"content": "first"}), None));
        answer.wait_for_hang_up();
    });
    let mut server =
        gateway().provider("mammouth", &upstream.url("/v1")).config("[limits]\ndrain_secs = 1\n").start();
    let mut caller = server.connect();
    let body = json!({"model": "gpt41", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    caller.start("POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
    caller.head();
    caller.read_until("first");
    server.terminate();
    server.ended();
}

#[test]
fn a_connection_serves_many_requests() {
    let server = gateway().start();
    let mut caller = server.connect();
    for _ in 0..3 {
        assert_eq!(caller.get("/ping").status, 200);
        let body = json!({"model": "echo", "stream": true, "messages": [{"role": "user", "content": "a b"}]});
        assert_eq!(caller.post("/v1/chat/completions", &body).streamed_text(), "a b");
        caller.get("/nothing").error(404);
    }
    let reply = caller.send("HEAD", "/ping", &[], b"");
    assert!(reply.status == 200 || reply.status == 405, "{}", reply.status);
}

#[test]
fn a_service_manager_is_told_of_start_reload_and_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a timeout");
    let next = |wanted: &str| {
        let mut text = [0; 500];
        loop {
            let length = socket.recv(&mut text).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            if String::from_utf8_lossy(&text[..length]).contains(wanted) {
                return;
            }
        }
    };
    let server = gateway().env("NOTIFY_SOCKET", path.to_str().expect("a path")).start();
    next("READY=1");
    server.reload();
    next("RELOADING=1");
    next("READY=1");
    server.terminate();
    next("STOPPING=1");
}

#[test]
fn two_servers_do_not_share_a_data_directory_unseen() {
    let server = gateway().start();
    let text = std::fs::read_to_string(server.data().join("run.json")).expect("the file");
    assert!(text.contains(&server.id().to_string()), "{text}");
}
