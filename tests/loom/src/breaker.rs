//! The circuit breaker.

use std::time::{Duration, Instant};

use loom::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    thread,
};

use crate::{
    circuit::{Circuit, Phase},
    config::BreakerSettings,
    explore,
};

const SETTINGS: BreakerSettings = BreakerSettings {
    failures: 1,
    window: Duration::from_secs(60),
    cooldown: Duration::from_secs(10),
    trials: 1,
};

/// One that opened, and a time when it may be tried again.
fn open() -> (Arc<Circuit>, Instant) {
    let (circuit, start) = (Circuit::new(), Instant::now());
    let pass = circuit.admit(start, &SETTINGS).unwrap();
    circuit.failure(pass.epoch, start, &SETTINGS);
    assert!(circuit.admit(start, &SETTINGS).is_err());
    (Arc::new(circuit), start + SETTINGS.cooldown)
}

/// How a trial ends.
#[derive(Clone, Copy)]
enum End {
    Well,
    Badly,
    /// The caller left.
    Unsaid,
}

/// Three threads try at once, each ending as it is told.
fn try_at_once(ends: [End; 3]) {
    explore(move || {
        let (circuit, now) = open();
        let trying = Arc::new(AtomicUsize::new(0));
        let attempt = move |circuit: &Circuit, trying: &AtomicUsize, end: End| {
            let Ok(pass) = circuit.admit(now, &SETTINGS) else { return };
            if pass.trial {
                // A slot that was given back lets the next one try; two never do at once.
                assert_eq!(trying.fetch_add(1, Ordering::SeqCst), 0, "two trials at once");
                trying.fetch_sub(1, Ordering::SeqCst);
            }
            match end {
                End::Well if pass.trial => circuit.success(pass.epoch),
                End::Badly => circuit.failure(pass.epoch, now, &SETTINGS),
                End::Well | End::Unsaid => {}
            }
            if pass.trial {
                circuit.release(pass.epoch);
            }
        };
        let others: Vec<_> = ends[1..]
            .iter()
            .map(|end| {
                let (circuit, trying, end) = (Arc::clone(&circuit), Arc::clone(&trying), *end);
                thread::spawn(move || attempt(&circuit, &trying, end))
            })
            .collect();
        attempt(&circuit, &trying, ends[0]);
        others.into_iter().for_each(|other| other.join().unwrap());
        let later = now + SETTINGS.cooldown;
        let shown = circuit.show(later, &SETTINGS).unwrap();
        assert_eq!(shown.trials, 0, "a slot is lost");
        let pass = circuit.admit(later, &SETTINGS).expect("it never stays shut");
        assert_eq!(pass.trial, shown.phase != Phase::Closed);
    });
}

#[test]
fn one_probe_at_a_time_and_success_closes_it() {
    try_at_once([End::Well, End::Unsaid, End::Well]);
}

#[test]
fn a_failed_probe_opens_it_again_and_it_never_stays_shut() {
    try_at_once([End::Badly, End::Well, End::Unsaid]);
    try_at_once([End::Badly, End::Badly, End::Unsaid]);
}

#[test]
fn probes_that_nobody_reports_use_nothing_up() {
    try_at_once([End::Unsaid, End::Unsaid, End::Unsaid]);
}
