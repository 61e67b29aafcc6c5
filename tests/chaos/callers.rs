//! Callers under chaos: each asks without pause and judges every answer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Dice, site::Site};

/// What is asked for, and the model that is asked: each fault has its own, so that its breaker is its own.
const KINDS: [(&str, &str); 20] = [
    ("fine", "gpt41"),
    ("fine", "gpt41"),
    ("fine", "gpt41"),
    ("slow", "gpt41"),
    ("session", "gpt4o"),
    ("session", "gpt4o"),
    ("session", "gpt4o"),
    ("worker", "kimi"),
    ("worker", "kimi"),
    ("reset", MODELS[2]),
    ("close", MODELS[3]),
    ("error", MODELS[4]),
    ("busy", MODELS[5]),
    ("html", MODELS[6]),
    ("garbage", MODELS[7]),
    ("cut", MODELS[8]),
    ("late-error", MODELS[9]),
    ("hang", MODELS[10]),
    ("torrent", MODELS[11]),
    ("panic", "faulty/panic-in-begin"),
];

/// The models of the list; the faulty plugin's are offered beside it.
pub const MODELS: [&str; 13] = [
    "gpt41",
    "gpt4o",
    "gpt41m",
    "gpt41n",
    "mistral-m",
    "mistral-l",
    "codestral",
    "deepseek-v3",
    "deepseek-v31",
    "llama-mav",
    "gemini-f",
    "claude-s45",
    "kimi",
];

/// One request.
struct Question {
    kind: &'static str,
    stream: bool,
    text: String,
    /// Whether something was wrong on purpose while it ran.
    broken: bool,
}

/// Asks until told to stop.
pub fn run(site: &Site, number: u64, mut dice: Dice) {
    // What the session may hold last: what was acknowledged, and what may have been stored since.
    let mut last = vec!["nothing".to_owned()];
    while !site.stopped() {
        match dice.roll(30) {
            0 => malformed(site),
            1 => half_a_request(site, &mut dice),
            _ => chat(site, number, &mut dice, &mut last),
        }
    }
}

fn connect(site: &Site) -> Option<TcpStream> {
    let mark = site.mark();
    match TcpStream::connect(site.address()) {
        Ok(socket) => {
            socket.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
            Some(socket)
        }
        Err(error) => {
            if !site.was_broken(mark) {
                site.tally.wrong(&format!("no connection: {error}"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
            None
        }
    }
}

/// A body that is no JSON.
fn malformed(site: &Site) {
    let mark = site.mark();
    let Some(mut socket) = connect(site) else { return };
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 9\r\n\r\n{\"model\":";
    let mut answer = String::new();
    let sent = socket.write_all(head.as_bytes());
    site.tally.request();
    site.tally.fault("caller sends garbage");
    if sent.and_then(|()| socket.read_to_string(&mut answer)).is_ok() {
        site.chats.fetch_add(1, Relaxed);
    }
    if !answer.starts_with("HTTP/1.1 400 ") && !site.was_broken(mark) {
        site.tally.wrong(&format!("a body that is no JSON: {answer:?}"));
    }
}

/// A request that stops in its head or in its body; nobody waits for an answer.
fn half_a_request(site: &Site, dice: &mut Dice) {
    let Some(mut socket) = connect(site) else { return };
    let half = ["GET / HT", "POST /v1/models HTTP/1.1\r\nhost: localhost\r\nx-a", "PRI * HTTP/2.0\r\n\r\nSM"];
    let _ = socket.write_all(half[dice.roll(3) as usize].as_bytes());
    site.tally.fault("caller stops inside a request");
    std::thread::park_timeout(Duration::from_millis(dice.roll(20)));
}

fn chat(site: &Site, number: u64, dice: &mut Dice, last: &mut Vec<String>) {
    let (kind, model) = KINDS[dice.roll(KINDS.len() as u64) as usize];
    let (stream, words) = (kind == "torrent" || dice.roll(2) == 0, 1 + dice.roll(40));
    let text = format!("{kind} {} {words}", dice.roll(1 << 40)) + &" word".repeat(words as usize);
    let mut body = json!({
        "model": model, "stream": stream, "retries": dice.roll(2), "timeout": 60,
        "messages": [{"role": "user", "content": text}],
    });
    match kind {
        "session" => body["session_id"] = json!(format!("caller-{number}")),
        "hang" => body["timeout"] = json!(1),
        _ => {}
    }
    let leaves = kind == "torrent" || kind != "session" && dice.roll(10) == 0;
    let mark = site.mark();
    let answer = asked(site, &body, leaves.then(|| dice.roll(800)));
    let mut question = Question { kind, stream, text, broken: site.was_broken(mark) };
    let told = match answer {
        Asked::Whole(answer) => judge(site, &question, &answer),
        Asked::Broken(error) => {
            if !question.broken {
                site.tally.wrong(&format!("{kind} {stream}: the answer broke off: {error}"));
            }
            None
        }
        Asked::Nothing => return,
    };
    if kind == "session" {
        let text = std::mem::take(&mut question.text);
        if let Some(told) = &told {
            let before = told.rsplit_once('|').map_or("", |(_, before)| before);
            if !last.iter().any(|known| known == before) {
                let why = format!("a session of {}: {before:?} instead of one of {last:?}", site.address());
                site.tally.lost(before.len(), &why);
            }
        }
        if told.is_some() && !question.broken {
            last.clear();
        }
        last.push(text);
    }
}

enum Asked {
    Whole(String),
    Broken(std::io::Error),
    /// Nobody was there, or the caller left.
    Nothing,
}

/// Sends a chat and reads the answer, or a part of it before leaving.
fn asked(site: &Site, body: &Value, leaves: Option<u64>) -> Asked {
    let Some(mut socket) = connect(site) else { return Asked::Nothing };
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    site.tally.request();
    if let Err(error) = socket.write_all(head.as_bytes()) {
        return Asked::Broken(error);
    }
    site.chats.fetch_add(1, Relaxed);
    if let Some(some) = leaves {
        site.tally.fault("caller leaves");
        let _ = socket.read(&mut vec![0; some as usize + 1]);
        return Asked::Nothing;
    }
    let mut answer = String::new();
    match socket.read_to_string(&mut answer) {
        Ok(_) => Asked::Whole(answer),
        Err(error) => Asked::Broken(error),
    }
}

/// Whether an answer is what this kind may cost; gives the text of one that is whole.
fn judge(site: &Site, question: &Question, answer: &str) -> Option<String> {
    let Question { kind, stream, text, broken } = question;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status: u16 = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let wrong = |why: &str| {
        let end = answer.char_indices().nth_back(600).map_or(0, |(at, _)| at);
        site.tally.wrong(&format!("{kind} {stream} {broken}: {why}: {answer:.400} … {}", &answer[end..]));
        None
    };
    // Who is killed says nothing more.
    if site.mortal && *broken && cut_off(head, body) {
        return None;
    }
    if let Some(id) = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")) {
        site.answered(id);
    } else {
        return wrong("no id");
    }
    if status != 200 {
        let error = body.contains("\"error\"") && body.contains("\"message\"");
        if body.contains("circuit_open") {
            site.tally.fault("refusals by an open breaker");
        }
        let may = error && (refusals(kind).contains(&status) || *broken && (500..=504).contains(&status));
        return if may { None } else { wrong("the status") };
    }
    let whole = if *stream { streamed(body) } else { content(body).unwrap_or_default() };
    let expected = if *kind == "session" { format!("{text}|") } else { text.clone() };
    let fails = matches!(*kind, "cut" | "late-error" | "garbage");
    if *stream {
        let (done, error) = (body.contains("data: [DONE]"), body.contains("data: {\"error\""));
        let may_break = *broken || *kind == "worker";
        if done == error || done && fails || error && !fails && !may_break {
            return wrong("the end of the stream");
        }
        if error && may_break && !fails {
            return if expected.starts_with(&whole) || whole.starts_with(&expected) {
                None
            } else {
                wrong("the part")
            };
        }
    } else if *kind == "garbage" {
        return wrong("garbage");
    }
    let right = if *kind == "session" { whole.starts_with(&expected) } else { whole == expected };
    if !right {
        site.tally.lost(
            expected.len().abs_diff(whole.len()),
            &format!("{kind} {stream}: {whole:?} of {expected:?}"),
        );
        return None;
    }
    (!fails || !*stream).then_some(whole)
}

/// Whether an answer lacks its end.
fn cut_off(head: &str, body: &str) -> bool {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.map_or_else(|| !body.ends_with("\r\n0\r\n\r\n"), |length: usize| body.len() < length)
}

/// The statuses, beside 200, that a kind may end in.
fn refusals(kind: &str) -> &'static [u16] {
    match kind {
        "error" => &[400],
        "busy" => &[503],
        "reset" | "close" | "html" | "garbage" | "cut" | "late-error" => &[502, 503],
        "hang" => &[503, 504],
        // Until a worker is there again; where the killed one left a fault, the breaker may follow.
        "worker" => &[502, 503],
        // A plugin that fails on and on is left alone, and it may just be replaced.
        "panic" => &[404, 502, 503],
        _ => &[],
    }
}

fn content(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    body["choices"][0]["message"]["content"].as_str().map(str::to_owned)
}

/// The text of a chunked stream's deltas.
fn streamed(body: &str) -> String {
    let lines = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let parsed = lines.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    parsed.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}
