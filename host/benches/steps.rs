//! What the benches share: plugins that cargo left beside them, and steps of an exchange.

#![allow(dead_code, reason = "each bench uses its part")]

use std::{fs::File, path::PathBuf};

use host::plugins::{
    runner::{Exchange, Runner},
    worker::Worker,
};
use provider_api::{
    Usage,
    exchange::{Asked, Begin, Input, Sink},
    loader,
};

/// One row of an answer of Ollama's, which its plugin translates.
pub const ROW: &str = "{\"model\":\"m\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n";

/// The file of a plugin.
pub fn file(id: &str) -> PathBuf {
    let beside = std::env::current_exe().expect("this program");
    beside.with_file_name(format!("lib{}.so", id.replace('-', "_")))
}

/// A provider in this process.
pub fn here(id: &str) -> Runner {
    let bytes = loader::read(&file(id)).expect("the plugin");
    let module = loader::open(&bytes).expect("a plugin");
    Runner::Here(module.create(b"{}", Box::new(|_, _| ())).expect("a provider"))
}

/// A provider in a worker process, whose socket belongs to this runtime.
pub fn apart(id: &'static str, runtime: &tokio::runtime::Runtime) -> Runner {
    let code = File::open(file(id)).expect("the plugin");
    let ears = (Box::new(|_: u32, _: &str| ()) as _, Box::new(|_: &str| ()) as _);
    let start = move || Worker::start(&id.into(), code, b"{}".to_vec(), ears);
    let started = runtime.block_on(async { tokio::task::spawn_blocking(start).await });
    Runner::Apart(started.expect("no panic").expect("a worker"))
}

/// A runtime as each core has one.
pub fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A streamed chat that got the head of its answer.
pub async fn streaming(runner: &Runner) -> Exchange {
    let body = br#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let begin = Begin { operation: "chat", model: "m", stream: true, body, ..Begin::default() };
    let mut exchange = runner.begin(&begin).expect("an exchange");
    let mut sink = Counting::default();
    step(&mut exchange, Input::Start, &mut sink).await;
    step(&mut exchange, Input::Head { id: 1, status: 200, headers: &[] }, &mut sink).await;
    exchange
}

/// One step.
pub async fn step(exchange: &mut Exchange, input: Input<'_>, sink: &mut Counting) {
    exchange.step(input, sink).await.1.expect("a step");
}

/// Counts chunks.
#[derive(Default)]
pub struct Counting(pub usize);

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
        1
    }

    fn done(&mut self, _: &[u8]) -> bool {
        true
    }

    fn dropped(&mut self, _: &str) {}
}
