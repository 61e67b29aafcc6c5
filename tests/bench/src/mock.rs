//! The upstream: canned answers in OpenAI's and Ollama's form, by path.
//!
//! `/plain` answers whole, `/paced` streams a chunk each 10 ms, `/burst` streams all chunks at once,
//! `/idle` streams one chunk and then waits, `/ollama` answers as Ollama. `GET /open` tells how many
//! streams are still being written.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Chunks of a paced stream.
pub const PACED_CHUNKS: usize = 150;

/// Time between them.
pub const PACE: Duration = Duration::from_millis(10);

/// Chunks of a burst.
pub const BURST_CHUNKS: usize = 10_000;

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1795554736,"model":"gpt-4.1","choices":[{"index":0,"message":{"role":"assistant","content":"An answer of about the length that a short question gets, so that there is something to carry."},"finish_reason":"stop"}],"usage":{"prompt_tokens":250,"completion_tokens":20,"total_tokens":270}}"#;
const CHUNK: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795554736,"model":"gpt-4.1","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}"#;
const USAGE: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795554736,"model":"gpt-4.1","choices":[],"usage":{"prompt_tokens":250,"completion_tokens":20,"total_tokens":270}}"#;
const OLLAMA: &str = r#"{"model":"tiny","created_at":"2026-11-24T00:00:00Z","message":{"role":"assistant","content":"An answer of about the length that a short question gets, so that there is something to carry."},"done":true,"done_reason":"stop","prompt_eval_count":250,"eval_count":20}"#;
const TAGS: &str = r#"{"models":[{"name":"tiny:latest","model":"tiny:latest"}]}"#;
const SHOW: &str = r#"{"model_info":{"general.architecture":"llama","llama.context_length":4096},"capabilities":["completion"]}"#;

/// Serves until it is ended.
pub async fn serve(port: u16) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let open = Arc::clone(&open);
        tokio::spawn(async move { connection(stream, &open).await });
    }
}

async fn connection(mut stream: TcpStream, open: &AtomicUsize) {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let Some((path, end)) = request(&mut stream, &mut buffer).await else { return };
        buffer.drain(..end);
        let scene = path.trim_start_matches('/').split('/').next().unwrap_or("").to_owned();
        let done = match (scene.as_str(), path.as_str()) {
            ("open", _) => whole(&mut stream, &open.load(Ordering::Relaxed).to_string()).await,
            (_, path) if path.ends_with("/api/tags") => whole(&mut stream, TAGS).await,
            (_, path) if path.ends_with("/api/show") => whole(&mut stream, SHOW).await,
            ("ollama", _) => whole(&mut stream, OLLAMA).await,
            ("paced" | "burst" | "idle", _) => {
                open.fetch_add(1, Ordering::Relaxed);
                let done = streamed(&mut stream, &scene).await;
                open.fetch_sub(1, Ordering::Relaxed);
                done
            }
            _ => whole(&mut stream, ANSWER).await,
        };
        if done.is_err() {
            return;
        }
    }
}

/// Reads one request; its path, and where it ends in the buffer.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, usize)> {
    loop {
        if let Some(head) = find(buffer, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            let length = text
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let end = head + 4 + length.unwrap_or(0usize);
            while buffer.len() < end {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            return Some((text.split(' ').nth(1)?.to_owned(), end));
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

async fn whole(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await
}

async fn streamed(stream: &mut TcpStream, scene: &str) -> std::io::Result<()> {
    let chunk = framed(CHUNK);
    let mut text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    match scene {
        "paced" => {
            stream.write_all(text.as_bytes()).await?;
            let mut ticks = tokio::time::interval(PACE);
            for _ in 0..PACED_CHUNKS {
                ticks.tick().await;
                stream.write_all(chunk.as_bytes()).await?;
            }
            text.clear();
        }
        "burst" => text.extend(std::iter::repeat_n(chunk.as_str(), BURST_CHUNKS)),
        _ => {
            text.push_str(&chunk);
            stream.write_all(text.as_bytes()).await?;
            // Nobody closes an idle stream but the other side.
            let mut nothing = [0u8; 64];
            while stream.read(&mut nothing).await? > 0 {}
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
    }
    text.push_str(&framed(USAGE));
    text.push_str(&framed("data: [DONE]"));
    text.push_str("0\r\n\r\n");
    stream.write_all(text.as_bytes()).await
}

/// One event as one HTTP chunk.
fn framed(event: &str) -> String {
    format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2)
}
