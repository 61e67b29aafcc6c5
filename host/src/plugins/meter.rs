//! What a generation did: exchanges, steps and their processor time, faults; and the quarantine that ends
//! it when it does badly.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use rustix::time::{ClockId, clock_gettime};

use super::{Generation, steps::Steps, trace::Recordings};

/// A step that takes longer is logged.
const SLOW: Duration = Duration::from_millis(5);

/// A step that takes longer is an overrun.
const BUDGET: Duration = Duration::from_millis(50);

/// Bytes that an exchange may be given before its steps get more time: they may have to read all of them.
const BYTES_A_BUDGET: usize = 256 << 10;

/// Overruns, and faults, within [`WINDOW`] that end a generation.
const MAX_OVERRUNS: usize = 3;
const MAX_FAULTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Between two lines in the log about slow steps of one generation.
const QUIET: Duration = Duration::from_secs(10);

/// A reading of the thread's processor clock is good for this long. The clock costs a system call, so it is
/// read once in a while and not before each step; what a step used is then known to this much.
const SAMPLE_AGE: Duration = Duration::from_millis(1);

/// The clocks at the start of a step in this thread.
pub struct Clock {
    began: Instant,
    /// A reading of both clocks shortly before.
    sample: (Instant, Duration),
}

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        let began = Instant::now();
        let fresh = |(at, _): &(Instant, Duration)| began.duration_since(*at) <= SAMPLE_AGE;
        let sample = SAMPLE.get().filter(fresh).unwrap_or_else(|| {
            let sample = (began, processor_time());
            SAMPLE.set(Some(sample));
            sample
        });
        Self { began, sample }
    }

    /// Counts the step, in the thread in which it was started.
    pub fn stop(&self, generation: &Generation, fed: usize) {
        let took = self.began.elapsed();
        generation.meter.step(&generation.id, fed, took, || self.used());
    }

    /// Wall time says nothing on a busy machine. Between the sample and the step the thread ran at most all
    /// the time, so this is what the step used at least.
    fn used(&self) -> Duration {
        let (at, used) = self.sample;
        processor_time().saturating_sub(used).saturating_sub(self.began.duration_since(at))
    }
}

thread_local! {
    /// The last reading of this thread's clocks: wall and processor.
    static SAMPLE: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// The meter of one generation.
#[derive(Default)]
pub struct Meter {
    /// How long its steps took.
    pub steps: Steps,
    /// Who waits for a record of an exchange.
    pub recordings: Recordings,
    in_flight: AtomicU64,
    faults: AtomicU64,
    recent: Mutex<Recent>,
    quarantine: ArcSwapOption<Quarantine>,
}

/// Why a generation is not asked any more.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// `too_many_faults` or `too_slow`.
    pub reason: &'static str,
    /// One line.
    pub message: String,
    /// Since when.
    pub since: SystemTime,
}

#[derive(Default)]
struct Recent {
    faults: VecDeque<Instant>,
    overruns: VecDeque<Instant>,
    logged: Option<Instant>,
}

/// An exchange in flight, until it is dropped.
pub struct InFlight(Arc<Meter>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Meter {
    /// Counts an exchange.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Exchanges that run now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Faults of the plugin itself so far.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Why it is in quarantine, if it is.
    pub fn quarantine(&self) -> Option<Arc<Quarantine>> {
        self.quarantine.load_full()
    }

    /// Whether it is in quarantine; for the path of every request.
    pub fn is_quarantined(&self) -> bool {
        self.quarantine.load().is_some()
    }

    /// Ends a quarantine and forgets what led to it.
    pub fn release(&self) {
        *self.recent() = Recent::default();
        self.quarantine.store(None);
    }

    /// Counts a fault of the plugin itself; `plugin` is for the log.
    pub fn fault(&self, plugin: &str, why: &str) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let count = within_window(&mut self.recent().faults);
        if count >= MAX_FAULTS {
            let message = format!("it failed {count} times within {} s, last: {why}", WINDOW.as_secs());
            self.end(plugin, "too_many_faults", message);
        }
    }

    /// Counts a step of an exchange that was given `fed` bytes so far; it took this long, and `used` says how
    /// much processor time, which is asked only if that can matter.
    pub fn step(&self, plugin: &str, fed: usize, took: Duration, used: impl FnOnce() -> Duration) {
        self.steps.record(took);
        if took >= SLOW {
            self.slow(plugin, used().min(took), fed);
        }
    }

    fn slow(&self, plugin: &str, used: Duration, fed: usize) {
        let share = 1 + u32::try_from(fed / BYTES_A_BUDGET).unwrap_or(u32::MAX - 1);
        if used < SLOW.saturating_mul(share) {
            return;
        }
        let step_ms = u64::try_from(used.as_millis()).unwrap_or(u64::MAX);
        let overrun = used >= BUDGET.saturating_mul(share);
        let mut recent = self.recent();
        if recent.logged.is_none_or(|last| last.elapsed() >= QUIET) {
            recent.logged = Some(Instant::now());
            tracing::warn!(plugin, step_ms, fed_bytes = fed, "a plugin's step took long");
        }
        let count = if overrun { within_window(&mut recent.overruns) } else { 0 };
        drop(recent);
        if count >= MAX_OVERRUNS {
            let message = format!(
                "{count} steps within {} s took over {} ms of processor time, the last {step_ms} ms",
                WINDOW.as_secs(),
                BUDGET.as_millis()
            );
            self.end(plugin, "too_slow", message);
        }
    }

    fn end(&self, plugin: &str, reason: &'static str, message: String) {
        if self.is_quarantined() {
            return;
        }
        tracing::error!(plugin, reason, why = %message, "plugin quarantined; replace its file to bring it back");
        self.quarantine.store(Some(Arc::new(Quarantine { reason, message, since: SystemTime::now() })));
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds now and forgets what is older than the window; how many are left.
fn within_window(times: &mut VecDeque<Instant>) -> usize {
    let now = Instant::now();
    times.push_back(now);
    while times.front().is_some_and(|first| now.duration_since(*first) > WINDOW) {
        times.pop_front();
    }
    // More than these bounds say nothing more.
    while times.len() > MAX_FAULTS.max(MAX_OVERRUNS) {
        times.pop_front();
    }
    times.len()
}

/// What this thread used of its processor so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(time: Duration) {
        let until = processor_time() + time;
        while processor_time() < until {}
    }

    #[test]
    fn five_faults_end_a_generation_and_a_release_brings_it_back() {
        let meter = Meter::default();
        for fault in 1..=4 {
            meter.fault("x", "a panic");
            assert!(!meter.is_quarantined(), "{fault}");
        }
        meter.fault("x", "a panic");
        let quarantine = meter.quarantine().expect("ended");
        assert_eq!(quarantine.reason, "too_many_faults");
        assert!(quarantine.message.ends_with("last: a panic"), "{}", quarantine.message);
        meter.release();
        meter.fault("x", "a panic");
        assert!(!meter.is_quarantined());
        assert_eq!(meter.faults(), 6);
    }

    #[test]
    fn only_processor_time_counts_and_big_bodies_give_more_of_it() {
        let meter = Meter::default();
        let timed = |fed: usize, step: &dyn Fn()| {
            let clock = Clock::start();
            step();
            meter.step("x", fed, clock.began.elapsed(), || clock.used());
        };
        for _ in 0..3 {
            timed(0, &|| std::thread::park_timeout(Duration::from_millis(60)));
            timed(1 << 20, &|| burn(Duration::from_millis(60)));
        }
        assert!(!meter.is_quarantined());
        for _ in 0..3 {
            timed(0, &|| burn(Duration::from_millis(60)));
        }
        assert_eq!(meter.quarantine().expect("ended").reason, "too_slow");
        assert_eq!(meter.steps.count(), 9);
    }

    #[test]
    fn exchanges_are_counted_until_they_end() {
        let meter = Arc::new(Meter::default());
        let (first, second) = (meter.enter(), meter.enter());
        assert_eq!(meter.in_flight(), 2);
        drop(first);
        drop(second);
        assert_eq!(meter.in_flight(), 0);
    }
}
