//! What the parts cost that wait for nobody: `make bench-pure`.
//!
//! Reading and splicing a request, looking through a stream, a plugin's steps in this process, and one in a
//! worker process, which is on the wall.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use host::{
    dialect::{
        chat::{Chat, Insert},
        events,
    },
    plugins::worker::process,
};
use provider_api::{
    exchange::{Begin, Input},
    sse,
};

mod steps;

use steps::{Counting, ROW, one_thread, step};

fn main() {
    // A worker is this program again.
    if std::env::args().nth(1).as_deref() == Some("plugin-worker") {
        process::run().expect("a worker");
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    requests(&mut criterion);
    streams(&mut criterion);
    plugin(&mut criterion);
    criterion.final_summary();
}

/// A request of about this many bytes, in messages of 1 KB.
fn request(bytes: usize) -> Bytes {
    let message = format!(r#"{{"role":"user","content":"{}"}}"#, "lorem ipsum ".repeat(80));
    let messages = vec![message; (bytes / 1000).max(1)].join(",");
    format!(r#"{{"model":"gpt41","stream":true,"temperature":0.7,"timeout":60,"messages":[{messages}],"top_p":1}}"#)
        .into()
}

/// As the pipeline does it: the envelope is read, the model gets its own name, the memory block goes in, one of
/// the gateway's own fields goes out.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request: read and splice");
    let memory = Bytes::from_static(br#"{"role":"system","content":"Remember this."}"#);
    for kilobytes in [2, 100, 1000] {
        let body = request(kilobytes * 1000);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{kilobytes} KB")), |bencher| {
            bencher.iter(|| {
                let chat = Chat::parse(body.clone()).expect("a chat");
                let insert = Insert { memory: Some(memory.clone()), ask_usage: true, ..Insert::default() };
                chat.encode("gpt-4.1", &insert).expect("spliced")
            });
        });
    }
    group.finish();
}

/// Finding the events in what was read, and looking at each, as for a stream that passes.
fn streams(criterion: &mut Criterion) {
    let event = concat!(
        r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4.1","#,
        r#""choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#,
        "\n\n"
    );
    let mut group = criterion.benchmark_group("stream: scan and look");
    for count in [1usize, 100] {
        let text = event.repeat(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{count} events")), |bencher| {
            bencher.iter(|| {
                let mut rest = text.as_bytes();
                while let Some(end) = sse::event_end(rest, 0) {
                    black_box(events::look(&rest[..end]));
                    rest = &rest[end..];
                }
            });
        });
    }
    group.finish();
}

fn plugin(criterion: &mut Criterion) {
    let runtime = one_thread();
    let mut group = criterion.benchmark_group("plugin");
    let echo = steps::here("echo");
    group.bench_function("echo: begin, start and drop of an exchange", |bencher| {
        let body = br#"{"messages":[{"role":"user","content":"x"}]}"#;
        let begin = Begin { operation: "chat", model: "echo", stream: true, body, ..Begin::default() };
        bencher.iter(|| {
            let mut exchange = echo.begin(&begin).expect("an exchange");
            runtime.block_on(step(&mut exchange, Input::Start, &mut Counting::default()));
        });
    });
    for (place, runner) in [("here", steps::here("ollama")), ("apart", steps::apart("ollama", &runtime))] {
        let mut exchange = runtime.block_on(steps::streaming(&runner));
        group.bench_function(format!("ollama: a step, {place}"), |bencher| {
            let mut sink = Counting::default();
            bencher.iter(|| {
                runtime.block_on(step(&mut exchange, Input::Body { id: 1, data: ROW.as_bytes() }, &mut sink));
            });
        });
    }
    group.finish();
}
