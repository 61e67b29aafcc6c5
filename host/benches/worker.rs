//! What a step costs here and in a worker process: `cargo bench -p host --bench worker`.
//!
//! The plugin is `ollama`, which translates: each step is one read of an upstream's answer, with one or
//! with sixteen rows. Times are on the wall, from the input to the last result.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use host::plugins::{
    runner::{Exchange, Runner},
    worker::{Worker, process},
};
use provider_api::{
    Usage,
    exchange::{Asked, Begin, Input, Sink},
    loader,
};

const ROW: &str = "{\"model\":\"m\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n";

fn main() {
    // A worker is this program again.
    if std::env::args().nth(1).as_deref() == Some("plugin-worker") {
        process::run().expect("a worker");
        return;
    }
    // In a test run, that it runs is enough.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 50_000 } else { 200 };
    let beside = std::env::current_exe().expect("this program");
    let path = beside.parent().expect("a directory").join("libollama.so");
    let bytes = loader::read(&path).expect("the plugin");
    let here =
        loader::open(&bytes).expect("a plugin").create(b"{}", Box::new(|_, _| ())).expect("a provider");
    let here = Runner::Here(here);
    let runtime = one_thread();
    let starting = Instant::now();
    let apart = runtime.block_on(async {
        let file = File::open(path).expect("the plugin");
        let start = move || {
            Worker::start(&"ollama".into(), file, b"{}".to_vec(), (Box::new(|_, _| ()), Box::new(|_| ())))
        };
        tokio::task::spawn_blocking(start).await.expect("no panic").expect("a worker")
    });
    println!("start of a worker            {:>10.1?}", starting.elapsed());
    let apart = Runner::Apart(apart);
    for rows in [1, 16] {
        let read = ROW.repeat(rows);
        let show = |place: &str, times: Vec<Duration>| {
            let at = |share: usize| times[times.len() * share / 1000];
            let (p50, p99) = (at(500), at(990));
            println!("a read of {rows:>2} rows, {place:<24} p50 {p50:>10.1?}  p99 {p99:>10.1?}");
        };
        show("here", runtime.block_on(steps(&here, &read, rounds)));
        show("apart, on one core", runtime.block_on(steps(&apart, &read, rounds)));
        // The server has a runtime a core; the worker's socket belongs to the first.
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let stepping = scope.spawn(|| {
                let times = one_thread().block_on(steps(&apart, &read, rounds));
                drop(stop);
                times
            });
            let _ = runtime.block_on(stopped);
            show("apart, on another core", stepping.join().expect("times"));
        });
    }
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The times of so many steps, in order.
async fn steps(runner: &Runner, read: &str, rounds: usize) -> Vec<Duration> {
    let body = br#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let begin = Begin { operation: "chat", model: "m", stream: true, body, ..Begin::default() };
    let mut exchange = runner.begin(&begin).expect("an exchange");
    let mut sink = Counting::default();
    step(&mut exchange, Input::Start, &mut sink).await;
    step(&mut exchange, Input::Head { id: 1, status: 200, headers: &[] }, &mut sink).await;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        step(&mut exchange, Input::Body { id: 1, data: read.as_bytes() }, &mut sink).await;
        times.push(began.elapsed());
    }
    assert!(sink.0 >= rounds, "{}", sink.0);
    times.sort();
    times
}

async fn step(exchange: &mut Exchange, input: Input<'_>, sink: &mut Counting) {
    exchange.step(input, sink).await.1.expect("a step");
}

/// Counts chunks.
#[derive(Default)]
struct Counting(usize);

impl Sink for Counting {
    fn http(&mut self, _: Asked<'_>) -> u64 {
        1
    }

    fn emit(&mut self, _: &[u8]) -> bool {
        self.0 += 1;
        true
    }

    fn pass(&mut self) -> bool {
        true
    }

    fn usage(&mut self, _: Usage) {}

    fn sleep(&mut self, _: u64) -> u64 {
        0
    }

    fn done(&mut self, _: &[u8]) -> bool {
        true
    }

    fn dropped(&mut self, _: &str) {}
}
