//! Killed at any moment: what was acknowledged is there, and no file is damaged.

use std::{
    fs,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{eventually, gateway};

/// One caller that writes and remembers what was acknowledged.
struct Writer {
    /// The highest number that was acknowledged.
    acknowledged: AtomicU64,
    /// The highest number that was sent.
    sent: AtomicU64,
}

impl Writer {
    fn new() -> Self {
        Self { acknowledged: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }

    /// Writes until the server is gone.
    fn run(&self, address: std::net::SocketAddr, request: impl Fn(u64) -> (String, String)) {
        let Ok(mut stream) = std::net::TcpStream::connect(address) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let mut reader = std::io::BufReader::new(stream.try_clone().expect("a second handle"));
        loop {
            let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
            let (line, body) = request(number);
            let head = format!(
                "{line} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
                return;
            }
            match status(&mut reader) {
                Some(200) => self.acknowledged.store(number, Ordering::SeqCst),
                Some(other) => panic!("{line}: {other}"),
                None => return,
            }
        }
    }
}

/// Reads an answer with a length; `None` if the connection ends before its end.
fn status(reader: &mut impl std::io::BufRead) -> Option<u16> {
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        status = status.or_else(|| line.split(' ').nth(1)?.parse().ok());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    status
}

/// How often the server is killed: more with `SIGOREST_KILLS`.
fn kills() -> u64 {
    std::env::var("SIGOREST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let kills = kills();
    let mut server = gateway().plugins(&["echo"]).start();
    let (memory, session) = (Arc::new(Writer::new()), Arc::new(Writer::new()));
    let mut writes = 0;
    for round in 0..kills {
        let address = server.http();
        let first = memory.acknowledged.load(Ordering::SeqCst);
        let one = std::thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                memory.run(address, |number| {
                    let content = format!("{number} {}", "m".repeat((number % 7000) as usize));
                    ("PUT /api/memory".into(), json!({"content": content}).to_string())
                });
            }
        });
        let two = std::thread::spawn({
            let session = Arc::clone(&session);
            move || {
                session.run(address, |number| {
                    let messages = json!([{"role": "user", "content": number.to_string()}]);
                    let body = json!({"model": "echo", "session_id": "k", "messages": messages});
                    ("POST /v1/chat/completions".into(), body.to_string())
                });
            }
        });
        // At any moment: after another number of writes, and somewhere within the next one.
        let enough = first + 1 + round % 5;
        eventually("some writes", || (memory.acknowledged.load(Ordering::SeqCst) >= enough).then_some(()));
        std::thread::park_timeout(Duration::from_micros(round * 7919 % 3000));
        server.signal(Signal::KILL);
        server.ended();
        one.join().expect("the writer");
        two.join().expect("the writer");
        survived(server.data(), &memory, &session);
        writes = memory.sent.load(Ordering::SeqCst) + session.sent.load(Ordering::SeqCst);
        server = server.stop().start();
        let now = server.get("/api/memory").json();
        assert_eq!(number(now["content"].as_str()), on_disk(server.data()), "in force is what is on disk");
    }
    println!("{kills} kills, {writes} writes, 0 damaged files");
}

fn number(content: Option<&str>) -> u64 {
    let first = content.and_then(|text| text.split(' ').next());
    first.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn on_disk(data: &Path) -> u64 {
    let text = fs::read_to_string(data.join("memory.json")).expect("memory.json");
    let memory: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    number(memory["content"].as_str())
}

fn survived(data: &Path, memory: &Writer, session: &Writer) {
    let bounds =
        |writer: &Writer| writer.acknowledged.load(Ordering::SeqCst)..=writer.sent.load(Ordering::SeqCst);
    let found = on_disk(data);
    assert!(bounds(memory).contains(&found), "memory holds {found} of {:?}", bounds(memory));
    if session.acknowledged.load(Ordering::SeqCst) == 0 {
        return;
    }
    let text = fs::read_to_string(data.join(".sessions/echo-k.json")).expect("the session");
    let stored: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let messages = stored["messages"].as_array().expect("messages");
    let last = messages.iter().rfind(|message| message["role"] == "user").expect("a question");
    let found = number(last["content"].as_str());
    assert!(bounds(session).contains(&found), "the session ends with {found} of {:?}", bounds(session));
    let broken = fs::read_dir(data).expect("the directory").flatten();
    assert!(!broken.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains("broken")));
}
