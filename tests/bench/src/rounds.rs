//! The rounds: nginx and the gateway in turn, each figure in each round.

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    client::{Client, post},
    mock::{BURST_CHUNKS, PACED_CHUNKS},
    process::{self, Process, body},
    table::{Required, Table, quantile},
};

/// Rounds that count; one more before them does not.
const ROUNDS: usize = 5;

/// Connections of the closed loop.
const CONNECTIONS: usize = 16;

/// Words of a request of about 1 KB.
const WORDS: usize = 190;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// One of the two that are compared.
struct Side<'a> {
    name: &'static str,
    process: &'a Process,
    port: u16,
    gateway: bool,
}

impl Side<'_> {
    /// The request for a scene of the mock: nginx takes it by path, the gateway by model.
    fn request(&self, scene: &str, more: &str) -> Vec<u8> {
        let body = body(&format!("{scene}/gpt-4.1"), WORDS, more);
        let path = if self.gateway {
            "/v1/chat/completions".into()
        } else {
            format!("/{scene}/v1/chat/completions")
        };
        post(self.port, &path, &body)
    }
}

/// Runs everything and prints the table.
pub async fn all(binary: &Path, plugins: &Path) -> Outcome<()> {
    let dir = std::env::temp_dir().join(format!("sigorest-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (_mock, upstream) = process::mock().await?;
    let (nginx, nginx_port) = process::nginx(&dir, upstream).await?;
    let mut table = Table::default();
    starts(&mut table, binary, plugins, &dir, upstream).await?;
    let (gateway, gateway_port) = process::gateway(binary, plugins, &dir, upstream).await?;
    // At rest: starting is over, and what only it needed was given back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rest = gateway.resident(false);
    table.add("MiB at rest", "gateway", rest, Required::AtMost(12.0));
    table.add("MiB at rest", "nginx", nginx.resident(false), Required::Shown);
    let size = std::fs::metadata(binary)?.len() as f64 / f64::from(1 << 20);
    table.add("MiB of the server's file", "gateway", size, Required::AtMost(12.0));
    let sides = [
        Side { name: "nginx", process: &nginx, port: nginx_port, gateway: false },
        Side { name: "gateway", process: &gateway, port: gateway_port, gateway: true },
    ];
    println!("mock alone: {:.0} requests/s", ceiling(upstream).await?);
    for round in 0..=ROUNDS {
        let mut scratch = Table::default();
        let table = if round == 0 { &mut scratch } else { &mut table };
        for side in &sides {
            one_round(table, side).await?;
        }
        eprintln!("round {round} of {ROUNDS} done");
    }
    // First, or the peak would be that of the idle streams.
    large(&mut table, &sides[1]).await?;
    for side in &sides {
        idle(&mut table, side, upstream).await?;
    }
    let all = table.print();
    let _ = std::fs::remove_dir_all(&dir);
    println!("{}", if all { "every requirement holds" } else { "some figures fall short" });
    Ok(())
}

/// The first answers: start to first 200.
async fn starts(table: &mut Table, binary: &Path, plugins: &Path, dir: &Path, upstream: u16) -> Outcome<()> {
    // The first start makes a certificate, which later ones find.
    drop(process::gateway(binary, plugins, dir, upstream).await?);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let started = process::gateway(binary, plugins, dir, upstream).await?;
        let taken = began.elapsed().as_secs_f64() * 1000.0;
        drop(started);
        table.add("ms from start to first answer", "gateway", taken, Required::AtMost(60.0));
    }
    Ok(())
}

/// What the mock itself can answer.
async fn ceiling(upstream: u16) -> Outcome<f64> {
    let request = post(upstream, "/plain/v1/chat/completions", &body("m", WORDS, ""));
    let count = closed_loop(upstream, &request, CONNECTIONS, Duration::from_secs(2)).await?;
    Ok(count as f64 / 2.0)
}

async fn one_round(table: &mut Table, side: &Side<'_>) -> Outcome<()> {
    let time = Duration::from_secs(2);
    let per_request = |name: &str, request: Vec<u8>, required| {
        let name = name.to_owned();
        async move {
            let before = side.process.cpu();
            let count = closed_loop(side.port, &request, CONNECTIONS, time).await?;
            Ok::<_, Box<dyn Error>>((name, (side.process.cpu() - before) * 1e6 / count as f64, required))
        }
    };
    let plain =
        per_request("CPU µs per request, 1 KB", side.request("plain", ""), Required::Ratio(1.6)).await?;
    table.add(&plain.0, side.name, plain.1, plain.2);
    let extra = [
        ("CPU µs per request with a session", ",\"session_id\":\"bench\"", "plain"),
        ("CPU µs per request through Ollama's format", "", "ollama"),
    ];
    for (name, more, scene) in extra {
        let request = match (side.gateway, scene) {
            (true, "ollama") => post(side.port, "/v1/chat/completions", &body("ollama-tiny", WORDS, "")),
            (true, _) => side.request(scene, more),
            (false, _) => side.request("plain", ""),
        };
        let figure = per_request(name, request, Required::Ratio(3.0)).await?;
        table.add(&figure.0, side.name, figure.1, figure.2);
    }
    streams(table, side, "paced", (100, 2), Required::Ratio(1.2)).await?;
    streams(table, side, "burst", (8, 5), Required::Ratio(3.0)).await?;
    latency(table, side).await
}

/// Requests as fast as the connections take them; how many were answered.
pub async fn closed_loop(port: u16, request: &[u8], connections: usize, time: Duration) -> Outcome<usize> {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let mut client = Client::new(port, request.to_vec()).await?;
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                client.exchange().await?;
                count += 1;
            }
            std::io::Result::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(count)
}

/// Streams side by side; processor seconds per 100,000 chunks.
async fn streams(
    table: &mut Table,
    side: &Side<'_>,
    scene: &'static str,
    (streams, times): (usize, usize),
    required: Required,
) -> Outcome<()> {
    let request = side.request(scene, ",\"stream\":true");
    let before = side.process.cpu();
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let mut client = Client::new(side.port, request.clone()).await?;
        tasks.spawn(async move {
            for _ in 0..times {
                client.exchange().await?;
            }
            std::io::Result::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let chunks = streams * times * if scene == "paced" { PACED_CHUNKS } else { BURST_CHUNKS };
    let seconds = (side.process.cpu() - before) * 1e5 / chunks as f64;
    let how = if scene == "paced" { "10 ms apart" } else { "arriving together" };
    table.add(&format!("CPU s per 100,000 chunks, {how}"), side.name, seconds, required);
    Ok(())
}

/// Added time at 200 requests a second, plain and to a stream's first byte.
async fn latency(table: &mut Table, side: &Side<'_>) -> Outcome<()> {
    for (name, request) in [
        ("answer", side.request("plain", "")),
        ("first streamed byte", side.request("paced", ",\"stream\":true")),
    ] {
        let streamed = name != "answer";
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let mut tasks = JoinSet::new();
        for _ in 0..if streamed { 200 } else { 600 } {
            ticks.tick().await;
            let mut client = Client::new(side.port, request.clone()).await?;
            tasks.spawn(async move {
                let began = Instant::now();
                if streamed {
                    client.open().await?;
                    Ok(began.elapsed())
                } else {
                    client.exchange().await
                }
            });
        }
        let mut times = Vec::new();
        while let Some(done) = tasks.join_next().await {
            times.push((done? as std::io::Result<Duration>)?.as_secs_f64() * 1000.0);
        }
        let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        table.add(&format!("ms to the {name} at 200/s, p50"), side.name, p50, Required::Above(0.1));
        table.add(&format!("ms to the {name} at 200/s, p99"), side.name, p99, Required::Ratio(1.2));
    }
    Ok(())
}

/// 1,000 idle streams: memory, and what is left of them upstream when their callers have gone.
async fn idle(table: &mut Table, side: &Side<'_>, upstream: u16) -> Outcome<()> {
    let request = side.request("idle", ",\"stream\":true");
    let mut clients = Vec::new();
    for _ in 0..1000 {
        let mut client = Client::new(side.port, request.clone()).await?;
        client.open().await?;
        clients.push(client);
    }
    let resident = side.process.resident(false);
    table.add("MiB with 1,000 idle streams", side.name, resident, Required::AtMost(40.0));
    drop(clients);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let left = open(upstream).await?;
    table.add("streams left upstream 1 s after 1,000 callers left", side.name, left, Required::AtMost(0.0));
    Ok(())
}

/// How many streams the mock is writing.
async fn open(upstream: u16) -> Outcome<f64> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", upstream)).await?;
    stream.write_all(b"GET /open HTTP/1.1\r\n\r\n").await?;
    let mut text = vec![0; 1024];
    let count = stream.read(&mut text).await?;
    let text = String::from_utf8_lossy(&text[..count]).into_owned();
    Ok(text.rsplit("\r\n\r\n").next().unwrap_or("").trim().parse()?)
}

/// The peak of memory that a body of 8 MiB costs, as a multiple of it.
async fn large(table: &mut Table, side: &Side<'_>) -> Outcome<()> {
    // Against what it holds now, not against the peak of its start.
    side.process.reset_peak()?;
    let before = side.process.resident(false);
    let words = (8 << 20) / 5;
    let request = post(side.port, "/v1/chat/completions", &body("plain/gpt-4.1", words, ""));
    Client::new(side.port, request).await?.exchange().await?;
    let cost = (side.process.resident(true) - before) / 8.0;
    table.add("peak memory of an 8 MiB body, × the body", side.name, cost, Required::AtMost(1.5));
    Ok(())
}
