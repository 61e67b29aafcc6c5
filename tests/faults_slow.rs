//! Peers that are slow, silent, or take nothing: each is closed by its own deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Connection, Steady, Upstream, eventually, gateway, memory_used};

const CHAT: &str = "/v1/chat/completions";

/// Short deadlines, so that the tests are short.
const SHORT: &str =
    "[limits]\nheader_secs = 1\nbody_idle_secs = 1\nkeepalive_secs = 1\nstream_idle_secs = 2\n";

/// Sends `piece` again and again, slowly, until the other side closes; how long that took.
#[track_caller]
fn dripped(caller: &mut Connection, piece: &[u8]) -> Duration {
    let start = Instant::now();
    while caller.try_write(piece).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(15), "it is never closed");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    start.elapsed()
}

#[test]
fn slow_and_silent_peers_are_closed_by_their_deadlines() {
    let server = gateway().config(SHORT).start();
    let steady = Steady::over(&server, 24);
    for start in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: localhost\r\nx: "] {
        let mut caller = server.connect();
        caller.write(start).patience(Duration::from_secs(10));
        let begun = Instant::now();
        assert!(caller.closed(), "{start:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{start:?} {:?}", begun.elapsed());
    }
    // Slow ones that are never silent.
    let mut caller = server.connect();
    caller.write("GET / HTTP/1.1\r\nhost: localhost\r\nx: ");
    assert!(dripped(&mut caller, b"a") < Duration::from_secs(5));
    let mut caller = server.connect();
    let head = [("content-type", "application/json"), ("content-length", "100000")];
    caller.start("POST", CHAT, &head, b"{");
    assert!(dripped(&mut caller, b" ") < Duration::from_secs(10));
    let mut caller = server.connect();
    let head = [("content-type", "application/json"), ("transfer-encoding", "chunked")];
    caller.start("POST", CHAT, &head, b"");
    assert!(dripped(&mut caller, b"1\r\n \r\n") < Duration::from_secs(10));
    // Idle between requests.
    let mut caller = server.connect();
    assert_eq!(caller.get("/ping").status, 200);
    let begun = Instant::now();
    assert!(caller.closed());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // Silent before TLS.
    let server = gateway().config(&format!("{SHORT}[access]\nhttps = [\"127.0.0.0/8\"]\n")).start();
    let mut caller = Connection::open(server.https());
    assert!(caller.patience(Duration::from_secs(10)).closed());
    let mut caller = Connection::open(server.https());
    caller.write([0x16, 3, 1, 2, 0, 1, 0, 1]).patience(Duration::from_secs(10));
    assert!(caller.closed());
    drop(steady);
}

/// An upstream that streams as fast as it is read; counts what it could write.
fn torrent() -> (Upstream, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let upstream = Upstream::start(move |_, answer| {
        answer.stream();
        let text = "x".repeat(1000);
        let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let piece = event.repeat(60);
        while answer.alive() {
            answer.piece(&piece);
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    (upstream, written)
}

#[test]
fn a_reader_that_takes_nothing_stops_the_upstream_and_is_dropped() {
    let (upstream, written) = torrent();
    let server = gateway().provider("mammouth", &upstream.url("/v1")).config(SHORT).start();
    let steady = Steady::over(&server, 48);
    let body = json!({"model": "gpt41", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let before = memory_used(&server);
    let mut callers = Vec::new();
    for _ in 0..20 {
        let mut caller = server.connect();
        caller.start("POST", CHAT, &[], body.to_string().as_bytes());
        assert_eq!(caller.head().status, 200);
        callers.push(caller);
    }
    // Nobody reads: the sockets' own buffers fill, then the upstream must wait.
    let mut last = 0;
    let mut since = Instant::now();
    eventually("the upstream to wait", || {
        let now = written.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(())
    });
    let held = memory_used(&server).saturating_sub(before);
    println!("20 stalled streams hold {held} KiB; {} KiB were sent before the wait", last / 1024);
    // 64 KiB and an event, what an unoptimised build needs more, and what threads' arenas keep.
    assert!(held < 20 * 80 + 2048, "{held} KiB for 20 stalled streams");
    steady.check("stalled");
    // And after `stream_idle_secs` they are closed.
    eventually("the stalled readers to be dropped", || {
        server.log().matches("stream=true").count().ge(&20).then_some(())
    });
    for mut caller in callers {
        assert!(caller.patience(Duration::from_secs(10)).closed());
    }
    steady.check("dropped");
}
