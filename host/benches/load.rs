//! What loading a plugin file takes, part by part, and what a version that is no longer in use leaves in
//! memory: `cargo bench -p host --bench load`.
//!
//! Medians on the wall. A version counts as left when its provider and exchanges are gone; its code stays.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use host::plugins::{probe, runner::Runner};
use provider_api::{
    exchange::Input,
    loader::{self, Sealed},
};
use sha2::{Digest, Sha256};

mod steps;

use steps::{Counting, one_thread};

const PLUGINS: [&str; 5] = ["echo", "mammouth", "moonshot", "ollama", "zai"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    // A trial process is this program again.
    if arguments.next().as_deref() == Some("plugin-probe") {
        let file = arguments.nth(1).expect("a file");
        print!("{}", probe::run(file.as_ref()).expect("a plugin"));
        return;
    }
    probe::enable();
    // In a test run, that it runs is enough.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 100 } else { 2 };
    println!(
        "{:<10}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "plugin", "KB", "read", "digest", "vet", "trial", "copy", "open", "construct", "left, KB"
    );
    for id in PLUGINS {
        plugin(id, rounds);
    }
}

/// One row of the table.
fn plugin(id: &str, rounds: usize) {
    let file = steps::file(id);
    let bytes = loader::read(&file).expect("the plugin");
    let read = median(rounds, || drop(loader::read(&file)));
    let digest = median(rounds, || {
        black_box(Sha256::digest(&bytes));
    });
    let vet = median(rounds, || drop(loader::vet(&bytes)));
    let trial = median(rounds.min(20), || probe::probe(&bytes, &[b"{}".to_vec()]).expect("it passes"));
    // Each round is a version of its own.
    let (mut copy, mut open, mut construct) = (Vec::new(), Vec::new(), Vec::new());
    let before = resident_kb();
    for _ in 0..rounds {
        let began = Instant::now();
        let sealed = Sealed::new(&bytes).expect("a copy");
        copy.push(began.elapsed());
        let began = Instant::now();
        let module = sealed.open().expect("a plugin");
        open.push(began.elapsed());
        let began = Instant::now();
        let instance = module.create(b"{}", Box::new(|_, _| ())).expect("a provider");
        construct.push(began.elapsed());
        used(&Runner::Here(instance));
    }
    let left = resident_kb().saturating_sub(before) / rounds as u64;
    let [copy, open, construct] = [copy, open, construct].map(middle);
    println!(
        "{id:<10}{:>8}{read:>10.1?}{digest:>10.1?}{vet:>10.1?}{trial:>10.1?}{copy:>10.1?}{open:>10.1?}{construct:>10.1?}{left:>12}",
        bytes.len() / 1000
    );
}

/// An exchange, so that what it touches is touched.
fn used(runner: &Runner) {
    one_thread().block_on(async {
        let mut exchange = steps::streaming(runner).await;
        let _ = exchange.step(Input::Cancel, &mut Counting::default()).await;
    });
}

fn median(rounds: usize, mut what: impl FnMut()) -> Duration {
    let time = |_| {
        let began = Instant::now();
        what();
        began.elapsed()
    };
    middle((0..rounds).map(time).collect())
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Resident memory of this process.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
