//! As many streams at once as the descriptors of this machine allow, each of them whole. `make streams`.
//!
//! The harness's callers and upstreams have a thread and two descriptors each; here it is one descriptor and a
//! task.

use std::{sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::harness::{chunk, gateway, memory_used};

/// Streams that are being opened at the same time.
const OPENING: usize = 128;

/// Descriptors for all else in this process, and in the gateway.
const SPARE: u64 = 1000;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many: a thousand, or what the variable says, as far as descriptors go: two for each stream.
fn count() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let most = limit.maximum.map_or(u64::MAX, |limit| limit.saturating_sub(SPARE) / 2);
    let wanted = std::env::var("SIGOREST_STREAMS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(1000).min(usize::try_from(most).unwrap_or(usize::MAX))
}

/// The events of a stream up to where it is held, and those behind.
fn events(number: usize) -> [String; 2] {
    [0..3, 3..20].map(|range| {
        range.fold(String::new(), |text, nth| {
            let word = format!("{number}-{nth} ");
            let event = chunk(json!({"content": word.repeat(1 + (number + nth) % 7)}), None);
            format!("{text}data: {event}\n\n")
        })
    })
}

/// Reads until `end`.
async fn read_until(socket: &mut TcpStream, read: &mut Vec<u8>, end: &[u8]) {
    while memchr::memmem::find(read, end).is_none() {
        let count =
            tokio::time::timeout(PATIENCE, socket.read_buf(read)).await.expect("in time").expect("bytes");
        assert!(
            count > 0,
            "it ended before {:?}: {}",
            String::from_utf8_lossy(end),
            String::from_utf8_lossy(read)
        );
    }
}

/// Answers one request with the stream that it asks for; its second half when the gate opens.
async fn answer(mut socket: TcpStream, mut gate: watch::Receiver<bool>) {
    let mut request = Vec::new();
    read_until(&mut socket, &mut request, b" end\"").await;
    let text = String::from_utf8(request).expect("UTF-8");
    let number = text.rsplit_once("stream ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let [first, second] = events(number.expect("its number"));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    socket.write_all(format!("{head}{first}").as_bytes()).await.expect("the first half");
    gate.wait_for(|open| *open).await.expect("the gate");
    socket.write_all(format!("{second}data: [DONE]\n\n").as_bytes()).await.expect("the second half");
    // What closes with unread bytes would be a reset.
    let _ = socket.shutdown().await;
    let _ = tokio::time::timeout(PATIENCE, socket.read(&mut [0; 64])).await;
}

/// A body of which the chunks are joined.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = memchr::memmem::find(rest, b"\r\n").expect("a chunk's head");
        let size =
            std::str::from_utf8(&rest[..line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.expect("a chunk's size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

/// A caller who is past the first half of its stream.
struct Open {
    number: usize,
    socket: TcpStream,
    read: Vec<u8>,
}

impl Open {
    async fn stream(address: std::net::SocketAddr, number: usize) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("connect");
        let text = format!("stream {number} end");
        let body = json!({"model": "gpt41", "stream": true, "retries": 0, "timeout": 3600,
                          "messages": [{"role": "user", "content": text}]});
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.expect("the request");
        let mut read = Vec::new();
        read_until(&mut socket, &mut read, format!("{number}-2 \"").as_bytes()).await;
        Self { number, socket, read }
    }

    /// Whether every byte is what the upstream sent.
    async fn whole(mut self) {
        read_until(&mut self.socket, &mut self.read, b"\r\n0\r\n\r\n").await;
        let head = memchr::memmem::find(&self.read, b"\r\n\r\n").expect("a head");
        assert!(self.read.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.read));
        let body = String::from_utf8(joined(&self.read[head + 4..])).expect("UTF-8");
        assert_eq!(body, events(self.number).concat() + "data: [DONE]\n\n", "stream {}", self.number);
    }
}

#[test]
fn a_crowd_of_streams_is_whole_and_each_is_small() {
    let count = count();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (open, gate) = watch::channel(false);
    let upstream = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/v1", upstream.local_addr().expect("an address"));
    runtime.spawn(async move {
        loop {
            let (socket, _) = upstream.accept().await.expect("a connection");
            tokio::spawn(answer(socket, gate.clone()));
        }
    });
    // Heartbeats would come between the bytes that are compared.
    let settings = "[limits]\nheartbeat_secs = 3600\nstream_idle_secs = 3600\n";
    let server = gateway().plugins(&["echo", "mammouth"]).provider("mammouth", &url).config(settings).start();
    let address = server.http();
    let at_rest = memory_used(&server);
    runtime.block_on(async {
        let opening = Arc::new(Semaphore::new(OPENING));
        let mut callers = JoinSet::new();
        for number in 0..count {
            let opening = Arc::clone(&opening);
            callers.spawn(async move {
                let _turn = opening.acquire().await.expect("a turn");
                Open::stream(address, number).await
            });
        }
        let callers = callers.join_all().await;
        let each = memory_used(&server).saturating_sub(at_rest) as f64 / count as f64;
        println!("{count} streams at once: {each:.1} KiB each");
        assert!(each <= 64.0, "{each:.1} KiB each");
        assert_eq!(tokio::task::block_in_place(|| server.get("/api/health").status), 200);
        open.send(true).expect("upstreams that wait");
        let mut ends: JoinSet<()> = callers.into_iter().map(Open::whole).collect();
        while let Some(end) = ends.join_next().await {
            end.expect("a whole stream");
        }
    });
    let rows = || server.log().lines().filter(|line| line.contains("status=200 stream=true")).count();
    crate::harness::eventually("a row for each", || (rows() == count).then_some(()));
}
