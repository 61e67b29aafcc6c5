//! How long a plugin's steps take. A step never waits, so its time is the processor's.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets by powers of two of nanoseconds: 1 ns to 9 minutes.
const BUCKETS: usize = 40;

/// A histogram that threads share without a lock.
pub struct Steps {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Default for Steps {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], nanos: AtomicU64::new(0) }
    }
}

impl Steps {
    /// Adds a step.
    pub fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (64 - nanos.leading_zeros() as usize).min(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Steps so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The time of all steps.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// The time within which this share of the steps stayed, to a factor of two.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (power, bucket) in self.buckets.iter().enumerate() {
            seen += bucket.load(Ordering::Relaxed);
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(1 << power);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_factor_of_two() {
        let steps = Steps::default();
        assert_eq!(steps.quantile(0.5), Duration::ZERO);
        for nanos in [100; 98] {
            steps.record(Duration::from_nanos(nanos));
        }
        steps.record(Duration::from_millis(1));
        steps.record(Duration::from_secs(3600));
        assert_eq!(steps.quantile(0.5), Duration::from_nanos(128));
        assert!(steps.quantile(0.99) >= Duration::from_millis(1));
        assert_eq!(steps.count(), 100);
    }
}
