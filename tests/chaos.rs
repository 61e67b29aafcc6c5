//! All faults at once, under load, at two gateways: one that stays up, whose memory and books are watched, and
//! one that is killed again and again. One table at the end; what stands behind the faults must be zeros.
//! `make chaos MINUTES=10`.

mod callers;
mod site;
mod trouble;
mod upstream;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::harness::{KEY, Server, Setup, Upstream, eventually, gateway};
use site::{Site, Tally};

/// Callers of the gateway that stays up, and of the one that does not.
const CALLERS: [u64; 2] = [10, 4];

/// Runs shorter than this say nothing about the slope of the memory.
const LONG: Duration = Duration::from_secs(300);

/// Most growth in a long run, MiB a minute.
const STEEPEST: f64 = 16.0;

/// A small source of choices.
pub struct Dice(u64);

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
    Duration::from_secs(seconds.unwrap_or(6))
}

fn dressed(setup: Setup, upstream: &Upstream) -> Setup {
    let config = "[breaker]\ncooldown_secs = 1\n[provider.moonshot]\nisolation = \"process\"\n";
    setup
        .plugins(&["echo", "faulty", "mammouth", "moonshot"])
        .provider("mammouth", &upstream.url("/v1"))
        .provider("moonshot", &upstream.url("/v1"))
        .file("models.csv", callers::MODELS.join("\n"))
        .config(config)
}

/// Resident memory in MiB.
fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its state");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    kib / 1024.0
}

/// MiB a minute by least squares over `(seconds, MiB)`.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let above: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    let below: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    if below > 0.0 { above / below * 60.0 } else { 0.0 }
}

/// Chats that are not in the books of the gateway that stayed up: neither in its sums nor in its log.
fn missing(server: &Server, chats: u64) -> u64 {
    let counted = || server.get("/api/usage").json()["total"]["requests"].as_u64().unwrap_or(0);
    let row = |line: &&str| line.contains("INFO  request id=") && line.contains(" stream=");
    let rows = || server.log().lines().filter(row).count() as u64;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let missing = chats.abs_diff(counted());
        if (missing == 0 && chats == rows()) || Instant::now() > deadline {
            return missing.max(chats.abs_diff(rows()));
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

#[test]
fn chaos_costs_at_most_the_requests_it_meets() {
    let tally = Arc::new(Tally::default());
    let upstream = upstream::start(&tally);
    let bare = gateway();
    let disk = trouble::disk_under(&bare);
    let [up, mortal] = [bare, gateway()].map(|setup| dressed(setup, &upstream).start());
    let sites = [(&up, false), (&mortal, true)];
    let sites = sites.map(|(server, mortal)| Arc::new(Site::of(server, mortal, &tally)));
    let id = up.id();
    let mut threads = Vec::new();
    for (site, (count, seed)) in sites.iter().zip(CALLERS.into_iter().zip([1, 1000])) {
        threads.extend((0..count).map(|number| {
            let site = Arc::clone(site);
            std::thread::spawn(move || callers::run(&site, number, Dice((seed + number) * 0x9e37_79b9)))
        }));
    }
    let [first, second] = sites.clone();
    let disturbing = std::thread::spawn(move || trouble::disturb(up, &first, disk));
    let killing = std::thread::spawn(move || trouble::kill(mortal, &second));

    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed() < budget() {
        std::thread::park_timeout(Duration::from_millis(200));
        samples.push((start.elapsed().as_secs_f64(), resident(id)));
    }
    sites.iter().for_each(|site| site.stop.store(true, Relaxed));
    // What disturbs ends first: some callers wait for the end of a fault.
    let (up, _disk) = disturbing.join().expect("the disturber");
    let _mortal = killing.join().expect("the killer");
    threads.into_iter().for_each(|thread| thread.join().expect("a caller"));

    // The first third is warming up.
    let settled = samples.split_off(samples.len() / 3);
    tally.missing.fetch_add(missing(&up, sites[0].chats.load(Relaxed)), Relaxed);
    let steep = slope(&settled);
    tally.print(steep, resident(id));
    eventually("health", || (up.get("/api/health").status == 200).then_some(()));
    assert_eq!(up.id(), id, "the same process");
    assert!(!up.log().contains(KEY), "a key in the log");
    assert_eq!(tally.zeros(), [0; 3], "answers wrong, bytes lost, usage rows missing");
    assert!(budget() < LONG || steep < STEEPEST, "memory grows by {steep:.1} MiB a minute");
}
