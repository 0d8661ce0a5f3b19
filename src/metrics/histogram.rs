//! Distributions of durations: counted in buckets, without a lock, and read as they were or over the last minute.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How many durations there were in each bucket. To count one is two atomic additions.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    /// The upper bounds of the buckets in nanoseconds, ascending; what is above all of them is counted beside.
    bounds: [u64; BOUNDS],
    stripes: [Stripe<BOUNDS>; STRIPES],
}

/// Threads that count at the same time do so at different places, as far as there are enough, so that none waits for another's
/// cache line. More than this would only make reading slower.
const STRIPES: usize = 8;

#[derive(Debug)]
#[repr(align(128))]
struct Stripe<const BOUNDS: usize> {
    buckets: [AtomicU64; BOUNDS],
    above: AtomicU64,
    nanoseconds: AtomicU64,
}

/// What a histogram showed at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<const BOUNDS: usize> {
    bounds: [u64; BOUNDS],
    buckets: [u64; BOUNDS],
    above: u64,
    nanoseconds: u64,
}

thread_local! {
    static STRIPE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The place where this thread counts.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    STRIPE.with(|stripe| {
        stripe.get().unwrap_or_else(|| {
            let mine = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
            stripe.set(Some(mine));
            mine
        })
    })
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// An empty one, whose buckets end at `bounds`, given in microseconds.
    pub fn new(bounds: [u64; BOUNDS]) -> Self {
        let stripe = |_| Stripe {
            buckets: array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        };
        Self { bounds: bounds.map(|microseconds| microseconds * 1_000), stripes: array::from_fn(stripe) }
    }

    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let stripe = &self.stripes[stripe()];
        // From the lowest on: what happens most often is short.
        let bucket = self.bounds.iter().position(|bound| nanoseconds <= *bound);
        bucket.map_or(&stripe.above, |bucket| &stripe.buckets[bucket]).fetch_add(1, Ordering::Relaxed);
        stripe.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What it shows now.
    pub fn snapshot(&self) -> Snapshot<BOUNDS> {
        let sum = |count: fn(&Stripe<BOUNDS>) -> &AtomicU64| -> u64 {
            self.stripes.iter().map(|stripe| count(stripe).load(Ordering::Relaxed)).sum()
        };
        let bucket =
            |at: usize| self.stripes.iter().map(|stripe| stripe.buckets[at].load(Ordering::Relaxed)).sum::<u64>();
        Snapshot {
            bounds: self.bounds,
            buckets: array::from_fn(bucket),
            above: sum(|stripe| &stripe.above),
            nanoseconds: sum(|stripe| &stripe.nanoseconds),
        }
    }
}

impl<const BOUNDS: usize> Snapshot<BOUNDS> {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.above
    }

    /// All together, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds).as_secs_f64()
    }

    /// The buckets as Prometheus counts them before it adds them up: upper bound in seconds, and how many are in this one.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let seconds = |bound: &u64| Duration::from_nanos(*bound).as_secs_f64();
        let bounded = self.bounds.iter().map(seconds).zip(self.buckets);
        bounded.chain([(f64::INFINITY, self.above)]).collect()
    }

    /// What has been counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            bounds: self.bounds,
            buckets: array::from_fn(|at| self.buckets[at].saturating_sub(earlier.buckets[at])),
            above: self.above.saturating_sub(earlier.above),
            nanoseconds: self.nanoseconds.saturating_sub(earlier.nanoseconds),
        }
    }

    /// The duration that a share of `quantile` is not above, as near as the buckets tell; `None` if there were none. What is above
    /// the last bound is told as that.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * count as f64;
        let (mut below, mut lower) = (0.0, 0);
        for (bound, in_bucket) in self.bounds.iter().zip(self.buckets) {
            let in_bucket = in_bucket as f64;
            if in_bucket > 0.0 && below + in_bucket >= rank {
                let share = ((rank - below) / in_bucket).clamp(0.0, 1.0);
                let width = Duration::from_nanos(bound - lower);
                return Some(Duration::from_nanos(lower) + width.mul_f64(share));
            }
            (below, lower) = (below + in_bucket, *bound);
        }
        Some(Duration::from_nanos(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_belong_to_the_bucket_that_they_end() {
        let histogram = Histogram::new([50, 100]);
        for microseconds in [0, 50, 51, 100, 101] {
            histogram.observe(Duration::from_micros(microseconds));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets(), [(0.000_05, 2), (0.000_1, 2), (f64::INFINITY, 1)]);
        assert_eq!((snapshot.count(), snapshot.seconds()), (5, 0.000_302));
    }

    #[test]
    fn threads_add_up() {
        let histogram = Histogram::new([50]);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| (0..100).for_each(|_| histogram.observe(Duration::from_micros(1))));
            }
        });
        assert_eq!(histogram.snapshot().count(), 1_000);
    }

    #[test]
    fn a_quantile_of_nothing_is_nothing_and_what_is_above_is_told_as_the_last_bound() {
        let histogram = Histogram::new([50, 100]);
        let before = histogram.snapshot();
        assert_eq!(before.quantile(0.99), None);
        histogram.observe(Duration::from_secs(1));
        assert_eq!(histogram.snapshot().quantile(0.99), Some(Duration::from_micros(100)));
        assert_eq!(histogram.snapshot().since(&before).count(), 1);
        assert_eq!(histogram.snapshot().since(&histogram.snapshot()).quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_duration_it_stands_for(
            mut durations in proptest::collection::vec(0_u64..900, 1..50), quantile in 0.01_f64..1.0,
        ) {
            let bounds = [10, 50, 100, 250, 500, 1_000];
            let histogram = Histogram::new(bounds);
            for microseconds in &durations {
                histogram.observe(Duration::from_micros(*microseconds));
            }
            durations.sort_unstable();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
            let rank = (quantile * durations.len() as f64).ceil() as usize;
            let exact = durations[rank.max(1) - 1];
            let bucket = bounds.iter().position(|bound| exact <= *bound).expect("below the last bound");
            let told = histogram.snapshot().quantile(quantile).expect("there were some").as_nanos();
            prop_assert!(told <= u128::from(bounds[bucket]) * 1_000 + 1);
            prop_assert!(bucket == 0 || told + 1 >= u128::from(bounds[bucket - 1]) * 1_000);
        }
    }
}
