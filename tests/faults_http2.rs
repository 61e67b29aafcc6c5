//! HTTP/2 at its worst: floods of frames that cost the sender little.

use std::time::{Duration, Instant};

use crate::harness::{Connection, Server, Steady, Upstream, cpu_time, gateway, trusting};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"echo","messages":[{"role":"user","content":"x"}]}"#;

/// A connection of HTTP/2 with every frame in hand.
struct Frames {
    caller: Connection,
}

impl Frames {
    fn open(server: &Server) -> Self {
        let mut caller = Connection::open(server.https()).tls(trusting(server, &["h2"]), "localhost");
        caller.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").patience(Duration::from_secs(10));
        let mut frames = Self { caller };
        frames.send(4, 0, 0, &[]);
        frames
    }

    /// Whether the other side still takes frames.
    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.caller.try_write(frame(kind, flags, stream, payload)).is_ok()
    }

    /// Reads frames until one of this kind comes (its payload) or the connection ends.
    fn until(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            let head = self.caller.exactly(9).ok()?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let payload = self.caller.exactly(length).ok()?;
            if head[3] == kind {
                return Some(payload);
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The head of a request, in literals only (RFC 7541, 6.2.2).
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn post_head() -> Vec<u8> {
    head(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":path", CHAT),
        (":authority", "localhost"),
        ("content-type", "application/json"),
    ])
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[test]
fn floods_over_http2_end_their_connection_only() {
    let upstream = Upstream::start(|_, answer| {
        answer.wait_for_hang_up();
    });
    let settings = "[access]\nhttps = [\"127.0.0.0/8\"]\n[limits]\nbody_idle_secs = 1\nheader_secs = 1\nkeepalive_secs = 2\n";
    let server = gateway().provider("mammouth", &upstream.url("/v1")).config(settings).start();
    let steady = Steady::over(&server, 48);
    // A request in the usual way, for the harness's own sake.
    let mut frames = Frames::open(&server);
    assert!(
        frames.send(HEADERS, END_HEADERS, 1, &post_head())
            && frames.send(DATA, END_STREAM, 1, BODY.as_bytes())
    );
    let answer = frames.until(DATA).expect("an answer");
    assert!(String::from_utf8_lossy(&answer).contains("choices"), "{answer:?}");

    // Each flood: frames that are sent until the other side ends the connection.
    type Flood = fn(&mut Frames, u32) -> bool;
    let floods: [(&str, Flood); 5] = [
        ("rapid resets", |frames, round| {
            let stream = round * 2 + 1;
            let body = br#"{"model":"gpt41","messages":[{"role":"user","content":"x"}]}"#;
            frames.send(HEADERS, END_HEADERS, stream, &post_head())
                && frames.send(DATA, END_STREAM, stream, body)
                && frames.send(RESET, 0, stream, &8u32.to_be_bytes())
        }),
        ("continuations", |frames, round| {
            if round == 0 {
                return frames.send(HEADERS, 0, 1, &post_head());
            }
            frames.send(CONTINUATION, 0, 1, &head(&[("x-a", &"b".repeat(100))]).repeat(100))
        }),
        ("empty continuations", |frames, round| {
            if round == 0 {
                frames.send(HEADERS, 0, 1, &post_head())
            } else {
                frames.send(CONTINUATION, 0, 1, b"")
            }
        }),
        ("settings", |frames, _| frames.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("pings", |frames, _| frames.send(PING, 0, 0, &[0; 8])),
    ];
    for (case, flood) in floods {
        let mut frames = Frames::open(&server);
        let start = Instant::now();
        let mut round = 0;
        while flood(&mut frames, round) && round < 20_000 && start.elapsed() < Duration::from_secs(5) {
            round += 1;
        }
        println!("{case}: {round} rounds in {:?}", start.elapsed());
        // Pings and settings are answered, which nobody reads: there the write side must bound it.
        let ends = !matches!(case, "settings" | "pings");
        assert!(!ends || round < 20_000, "{case}: taken without end");
        steady.check(case);
    }

    // More headers than are taken: their request is refused, and the others on the connection are served.
    let mut frames = Frames::open(&server);
    let large = [post_head(), head(&[("x-a", &"b".repeat(100))]).repeat(1000)].concat();
    let pieces: Vec<&[u8]> = large.chunks(16_000).collect();
    assert!(frames.send(HEADERS, END_STREAM, 1, pieces[0]));
    for (nth, piece) in pieces.iter().enumerate().skip(1) {
        let last = if nth + 1 == pieces.len() { END_HEADERS } else { 0 };
        assert!(frames.send(CONTINUATION, last, 1, piece));
    }
    let answer = frames.until(HEADERS).expect("an answer");
    // The status as text, or by the code of RFC 7541, appendix B.
    let told =
        [&b"431"[..], &[0x69, 0x90, 0xff]].iter().any(|form| memchr::memmem::find(&answer, form).is_some());
    assert!(told, "{answer:x?}");
    assert!(
        frames.send(HEADERS, END_HEADERS, 3, &post_head())
            && frames.send(DATA, END_STREAM, 3, BODY.as_bytes())
    );
    let answer = frames.until(DATA).expect("an answer");
    assert!(String::from_utf8_lossy(&answer).contains("choices"), "{answer:?}");
    steady.check("many headers");

    // Empty pieces of a body are no progress.
    let mut frames = Frames::open(&server);
    frames.send(HEADERS, END_HEADERS, 1, &post_head());
    let start = Instant::now();
    let cpu = cpu_time(&server);
    let empty = frame(DATA, 0, 1, b"").repeat(10);
    while start.elapsed() < Duration::from_secs(10) && frames.caller.try_write(&empty).is_ok() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let ended = start.elapsed();
    assert!(ended < Duration::from_secs(8), "empty pieces of a body keep it open");
    println!("empty pieces: ended after {ended:?}, {:?} of processor time", cpu_time(&server) - cpu);
    steady.check("empty pieces");
}
