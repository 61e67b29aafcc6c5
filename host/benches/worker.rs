//! What a step costs here and in a worker process: `cargo bench -p host --bench worker`.
//!
//! The plugin is `ollama`, which translates: each step is one read of an upstream's answer, with one or
//! with sixteen rows. Times are on the wall, from the input to the last result.

use std::time::{Duration, Instant};

use host::plugins::{runner::Runner, worker::process};
use provider_api::exchange::Input;

mod steps;

use steps::{Counting, ROW, one_thread, step};

fn main() {
    // A worker is this program again.
    if std::env::args().nth(1).as_deref() == Some("plugin-worker") {
        process::run().expect("a worker");
        return;
    }
    // In a test run, that it runs is enough.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 50_000 } else { 200 };
    let here = steps::here("ollama");
    let runtime = one_thread();
    let starting = Instant::now();
    let apart = steps::apart("ollama", &runtime);
    println!("start of a worker            {:>10.1?}", starting.elapsed());
    for rows in [1, 16] {
        let read = ROW.repeat(rows);
        let show = |place: &str, times: Vec<Duration>| {
            let at = |share: usize| times[times.len() * share / 1000];
            let (p50, p99) = (at(500), at(990));
            println!("a read of {rows:>2} rows, {place:<24} p50 {p50:>10.1?}  p99 {p99:>10.1?}");
        };
        show("here", runtime.block_on(times(&here, &read, rounds)));
        show("apart, on one core", runtime.block_on(times(&apart, &read, rounds)));
        // The server has a runtime a core; the worker's socket belongs to the first.
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let stepping = scope.spawn(|| {
                let times = one_thread().block_on(times(&apart, &read, rounds));
                drop(stop);
                times
            });
            let _ = runtime.block_on(stopped);
            show("apart, on another core", stepping.join().expect("times"));
        });
    }
}

/// The times of so many steps, in order.
async fn times(runner: &Runner, read: &str, rounds: usize) -> Vec<Duration> {
    let mut exchange = steps::streaming(runner).await;
    let mut sink = Counting::default();
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
