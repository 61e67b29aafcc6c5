//! All faults at once, under load: upstreams that break, callers that leave, plugins that are swapped,
//! reloads, memory writes. One table at the end; its middle lines must be zeros. `make chaos MINUTES=10`.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    Answer, Recorded, Server, Upstream, chunk, completion, gateway, plugin_file, usage_chunk,
};

/// Callers at once.
const CALLERS: usize = 12;

/// What is counted.
#[derive(Default)]
struct Tally {
    requests: AtomicU64,
    /// Chats that reached the gateway whole: each needs one row in the books.
    chats: AtomicU64,
    faults: AtomicU64,
    left: AtomicU64,
    swaps: AtomicU64,
    reloads: AtomicU64,
    writes: AtomicU64,
    wrong: AtomicU64,
    lost: AtomicU64,
}

impl Tally {
    fn wrong(&self, why: &str) {
        eprintln!("wrong: {why}");
        self.wrong.fetch_add(1, Relaxed);
    }
}

/// A small source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn budget() -> Duration {
    let seconds = std::env::var("SIGOREST_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

/// What the upstream does with a request; the request's text says it.
const FAULTS: [&str; 12] = [
    "fine",
    "fine",
    "fine",
    "reset",
    "close",
    "error",
    "late-error",
    "cut",
    "garbage",
    "busy",
    "html",
    "slow",
];

fn misbehave(request: &Recorded, answer: &mut Answer<'_>) {
    let body = request.json();
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let text = messages.last().and_then(|message| message["content"].as_str()).unwrap_or("").to_owned();
    let (fault, stream) = (text.split(' ').next().unwrap_or(""), body["stream"] == true);
    match fault {
        "reset" => return answer.reset(),
        "close" => return answer.close(),
        "error" => {
            return answer.json(400, &json!({"error": {"message": "no", "type": "invalid_request_error"}}));
        }
        "busy" => return answer.json(503, &json!({"error": {"message": "busy", "type": "server_error"}})),
        "html" => return answer.whole(200, &[("content-type", "text/html")], b"<html>"),
        "garbage" if !stream => return answer.whole(200, &[("content-type", "application/json")], b"{]"),
        _ if !stream => return answer.json(200, &completion(&text)),
        _ => {}
    }
    answer.stream();
    for word in text.split_inclusive(' ') {
        answer.event(&chunk(json!({"content": word}), None));
        if fault == "slow" {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
    match fault {
        "cut" => answer.close(),
        "garbage" => answer.piece("data: {]\n\n").end(),
        "late-error" => answer.event(&json!({"error": {"message": "late"}})).end(),
        _ => {
            answer.event(&chunk(json!({}), Some("stop"))).event(&usage_chunk());
            answer.done();
        }
    }
}

/// One chat; `None` if the caller left on purpose.
fn chat(address: SocketAddr, fault: &str, dice: &mut Dice, tally: &Tally) -> Option<()> {
    let stream = dice.roll(2) == 0;
    let words = 1 + dice.roll(40);
    let text = format!("{fault} {}", (0..words).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" "));
    let body = json!({
        "model": "gpt41", "stream": stream, "retries": dice.roll(2), "timeout": 20,
        "messages": [{"role": "user", "content": text}],
    })
    .to_string();
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).ok()?;
    tally.chats.fetch_add(1, Relaxed);
    if dice.roll(10) == 0 {
        tally.left.fetch_add(1, Relaxed);
        let mut some = vec![0; dice.roll(600) as usize + 200];
        let _ = socket.read(&mut some);
        return None;
    }
    let mut answer = String::new();
    if let Err(error) = socket.read_to_string(&mut answer) {
        tally.wrong(&format!("{fault}: the answer broke off: {error}"));
        return Some(());
    }
    judge(fault, stream, &text, &answer, tally);
    Some(())
}

/// Whether an answer is what this fault may cost.
fn judge(fault: &str, stream: bool, text: &str, answer: &str, tally: &Tally) {
    let status: u16 = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or(("", ""));
    let well = matches!(fault, "fine" | "slow") || (!stream && matches!(fault, "cut" | "late-error"));
    // Faults of others may have opened the breaker; and a provider may be swapped right now.
    let refused = matches!(status, 429 | 502 | 503 | 504) && body.contains("\"error\"");
    if status != 200 {
        let expected = refused || (fault == "error" && status == 400);
        if !expected || (well && status != 503) {
            tally.wrong(&format!("{fault} {stream}: {status} {body}"));
        }
        return;
    }
    if !stream {
        let content = serde_json::from_str::<Value>(body).ok();
        let content = content.as_ref().and_then(|body| body["choices"][0]["message"]["content"].as_str());
        match content {
            Some(found) if well && found == text => {}
            Some(_) if well => {
                tally.lost.fetch_add(1, Relaxed);
            }
            _ => tally.wrong(&format!("{fault}: a 200 with {body}")),
        }
        return;
    }
    let done = body.contains("data: [DONE]");
    let error = body.contains("\"error\"");
    if done == error || done != well {
        return tally.wrong(&format!("{fault}: a stream with done {done}, error {error}"));
    }
    if streamed(body) != text {
        tally.lost.fetch_add(1, Relaxed);
        eprintln!("lost: {fault}: {:?} of {text:?}", streamed(body));
    }
}

/// The text of a chunked stream's deltas.
fn streamed(body: &str) -> String {
    let lines = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let parsed = lines.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    parsed.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

fn caller(address: SocketAddr, seed: u64, stop: &AtomicBool, tally: &Tally) {
    let mut dice = Dice(seed);
    while !stop.load(Relaxed) {
        let fault = FAULTS[dice.roll(FAULTS.len() as u64) as usize];
        if !matches!(fault, "fine" | "slow") {
            tally.faults.fetch_add(1, Relaxed);
        }
        tally.requests.fetch_add(1, Relaxed);
        chat(address, fault, &mut dice, tally);
    }
}

/// Reloads, swaps the plugin's file and writes the memory block until told to stop.
fn disturb(server: &Server, stop: &AtomicBool, tally: &Tally) {
    let mut dice = Dice(0x5eed);
    let plugin = server.data().join("plugins/mammouth.so");
    while !stop.load(Relaxed) {
        match dice.roll(3) {
            0 => {
                let new = server.data().join("plugins/.new");
                fs::copy(plugin_file("mammouth"), &new)
                    .and_then(|_| fs::rename(&new, &plugin))
                    .expect("a swap");
                tally.swaps.fetch_add(1, Relaxed);
                server.reload();
            }
            1 => server.reload(),
            _ => {
                let content = format!("memory {}", dice.roll(1000));
                let reply = server.send("PUT", "/api/memory", &[], &json!({"content": content}).to_string());
                tally.writes.fetch_add(1, Relaxed);
                if reply.status != 200 {
                    tally.wrong(&format!("a memory write: {}", reply.text()));
                } else if !fs::read_to_string(server.data().join("memory.json"))
                    .is_ok_and(|text| text.contains(&content))
                {
                    tally.lost.fetch_add(1, Relaxed);
                }
            }
        }
        tally.reloads.fetch_add(1, Relaxed);
        if server.get("/api/health").status != 200 {
            tally.wrong("no health");
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// Resident memory in KiB.
fn resident(server: &Server) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its state");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

/// KiB a minute by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let above: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    let below: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    if below > 0.0 { above / below * 60.0 } else { 0.0 }
}

/// Rows for chats in the log, which has one for each request.
fn rows(server: &Server) -> u64 {
    let row = |line: &&str| line.contains("INFO  request id=") && line.contains(" stream=");
    server.log().lines().filter(row).count() as u64
}

#[test]
fn chaos_costs_at_most_the_requests_it_meets() {
    let upstream = Upstream::start(misbehave);
    // A breaker would answer for the upstream; what it does is tested elsewhere.
    let config = "[breaker]\nfailures = 1000000\n";
    let server =
        gateway().plugins(&["mammouth"]).provider("mammouth", &upstream.url("/v1")).config(config).start();
    let server = Arc::new(server);
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let mut threads: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (stop, tally, address) = (Arc::clone(&stop), Arc::clone(&tally), server.http());
            std::thread::spawn(move || caller(address, 0x9e37_79b9 + number as u64 * 7919, &stop, &tally))
        })
        .collect();
    threads.push({
        let (server, stop, tally) = (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&tally));
        std::thread::spawn(move || disturb(&server, &stop, &tally))
    });
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed() < budget() {
        std::thread::park_timeout(Duration::from_millis(200));
        samples.push((start.elapsed().as_secs_f64(), resident(&server)));
    }
    stop.store(true, Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
    // The first third is warming up.
    let settled = samples.split_off(samples.len() / 3);
    let chats = tally.chats.load(Relaxed);
    let missing = || chats.saturating_sub(rows(&server));
    let deadline = Instant::now() + Duration::from_secs(10);
    while missing() > 0 && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    report(&tally, missing(), slope(&settled), resident(&server), &upstream);
    assert_eq!(server.get("/api/health").status, 200);
    let zeros = [tally.wrong.load(Relaxed), tally.lost.load(Relaxed), missing()];
    assert_eq!(zeros, [0; 3], "answers wrong, bytes lost, usage rows missing");
}

fn report(tally: &Tally, missing: u64, slope: f64, resident: f64, upstream: &Upstream) {
    let load = |number: &AtomicU64| number.load(Relaxed).to_string();
    let rows = BTreeMap::from([
        ("1 requests", load(&tally.requests)),
        ("2 faults injected", load(&tally.faults)),
        ("2a callers that left", load(&tally.left)),
        ("2b plugin swaps", load(&tally.swaps)),
        ("2c reloads and writes", load(&tally.reloads)),
        ("2d memory writes", load(&tally.writes)),
        ("2e upstream requests", upstream.requests().len().to_string()),
        ("3 answers wrong", load(&tally.wrong)),
        ("4 bytes lost", load(&tally.lost)),
        ("5 usage rows missing", missing.to_string()),
        ("6 memory slope, KiB/min", format!("{slope:.0}")),
        ("7 memory at the end, KiB", format!("{resident:.0}")),
    ]);
    for (name, value) in rows {
        println!("{name:<26} {value:>12}");
    }
}
