//! Rates, and the bucket that keeps them: never more than N in any window, bursts included.
//!
//! The algorithm is GCRA (the generic cell rate algorithm of ITU-T I.371). A bucket that lets `burst` requests through at once and
//! then one per `interval` admits at most `burst + window / interval` in a window, so the burst has to come out of N:
//! `interval` is chosen such that the sum never exceeds it.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// At most `count` in any window of length `window`, as in `100/min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub count: NonZeroU32,
    /// The length of the window; never zero.
    pub window: Duration,
}

/// The most by which a window is reckoned longer than it is.
const SLACK: Duration = Duration::from_secs(1);

impl Rate {
    /// A rate of `count` per `window`; `None` when either is zero.
    pub fn new(count: u32, window: Duration) -> Option<Self> {
        let count = NonZeroU32::new(count)?;
        (!window.is_zero()).then_some(Self { count, window })
    }

    /// The rate that keeps both: the smaller count in the longer window.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count.min(other.count), window: self.window.max(other.window) }
    }

    /// How many may go at once after a quiet time: a fifth of the count, so that a cold start is quick and the sustained
    /// rate still is four fifths of what is allowed.
    pub fn burst(self) -> u32 {
        (self.count.get() / 5).max(1)
    }

    /// The most that this can come to in `span`: all of it in every window, at any time within.
    pub fn most_in(self, span: Duration) -> u64 {
        let windows = span.as_nanos().div_ceil(self.window.as_nanos());
        u64::from(self.count.get()).saturating_mul(u64::try_from(windows).unwrap_or(u64::MAX))
    }

    /// The same for what a bucket lets through: its burst, and then one for every interval.
    pub fn most_at_a_pace_in(self, span: Duration) -> u64 {
        let paced = span.as_nanos() / self.interval().as_nanos();
        let most = u64::from(self.burst()).saturating_add(u64::try_from(paced).unwrap_or(u64::MAX));
        most.min(self.most_in(span))
    }

    /// The rate to keep here so that this one is kept elsewhere: its window is a twentieth longer, by at most a second. What is sent
    /// may arrive closer together, and others may count a window's ends in.
    pub fn with_slack(self) -> Self {
        Self { window: self.window + SLACK.min(self.window / 20), ..self }
    }

    /// The time between two requests once the burst is used up.
    ///
    /// In a closed window there are `burst` requests and then one for every whole interval; the interval is the shortest
    /// for which that sum stays at `count`.
    fn interval(self) -> Duration {
        self.window / (self.count.get() - self.burst() + 1) + Duration::from_nanos(1)
    }
}

/// As one writes it in the file.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u128, &str); 4] = [(3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
        let window = self.window.as_millis();
        let whole = UNITS.into_iter().find(|(unit, _)| window.is_multiple_of(*unit));
        let (unit, name) = whole.unwrap_or((1, "ms"));
        match window / unit {
            1 => write!(f, "{}/{name}", self.count),
            several => write!(f, "{}/{several}{name}", self.count),
        }
    }
}

/// A shared, lock-free bucket: one atomic decision per request, so that no burst slips between a check and an increment.
#[derive(Debug)]
pub struct Bucket {
    epoch: Instant,
    interval: u64,
    tolerance: u64,
    /// The theoretical arrival time of GCRA, in nanoseconds since `epoch`.
    arrival: AtomicU64,
}

impl Bucket {
    /// A full bucket for `rate`.
    pub fn new(rate: Rate, now: Instant) -> Self {
        let interval = nanoseconds(rate.interval());
        Self { epoch: now, interval, tolerance: interval * u64::from(rate.burst() - 1), arrival: AtomicU64::new(0) }
    }

    /// The bucket for another rate that is full when this one would have been, unless it fills sooner from empty.
    pub fn with_rate(&self, rate: Rate, now: Instant) -> Self {
        let changed = Self::new(rate, now);
        let missing = nanoseconds(self.full_at(now).saturating_duration_since(now));
        changed.arrival.store(missing.min(changed.tolerance + changed.interval), Ordering::Relaxed);
        changed
    }

    /// Takes one request's worth now, or says when the next one is free.
    pub fn reserve(&self, now: Instant) -> Result<(), Instant> {
        let now = self.since_epoch(now);
        self.arrival
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |arrival| {
                (arrival <= now + self.tolerance).then(|| arrival.max(now) + self.interval)
            })
            .map(drop)
            .map_err(|arrival| self.epoch + Duration::from_nanos(arrival - self.tolerance))
    }

    /// When the request that stands behind `ahead` others can go at the earliest: `now` if at once.
    pub fn next(&self, now: Instant, ahead: u32) -> Instant {
        let arrival = self.arrival.load(Ordering::Relaxed).max(self.since_epoch(now));
        let due = arrival + self.interval * u64::from(ahead);
        now.max(self.epoch + Duration::from_nanos(due.saturating_sub(self.tolerance)))
    }

    /// How many could go at this very moment.
    pub fn remaining(&self, now: Instant) -> u32 {
        let now = self.since_epoch(now);
        let arrival = self.arrival.load(Ordering::Relaxed);
        let free = (now + self.tolerance + self.interval).saturating_sub(arrival.max(now));
        u32::try_from(free / self.interval).unwrap_or(u32::MAX)
    }

    /// Sees to it that no more than `remaining` could go at this moment; what is left already may be less.
    pub fn leave(&self, remaining: u32, now: Instant) {
        let spent = self.since_epoch(now) + self.tolerance + 1;
        let arrival = spent.saturating_sub(self.interval.saturating_mul(u64::from(remaining)));
        self.arrival.fetch_max(arrival, Ordering::Relaxed);
    }

    /// The time between two requests once the burst is used up.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// When it is as it was when it was new, if nothing is taken until then.
    pub fn full_at(&self, now: Instant) -> Instant {
        now.max(self.epoch + Duration::from_nanos(self.arrival.load(Ordering::Relaxed)))
    }

    /// Whether nothing was taken for as long as `time`.
    pub fn was_left_for(&self, time: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.full_at(self.epoch)) >= time
    }

    /// Whether it is as it was when it was new.
    pub fn is_full(&self, now: Instant) -> bool {
        self.arrival.load(Ordering::Relaxed) <= self.since_epoch(now)
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.epoch))
    }
}

/// Whole nanoseconds; 584 years fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(count: u32, seconds: u64) -> Rate {
        Rate::new(count, Duration::from_secs(seconds)).expect("neither is zero")
    }

    #[test]
    fn a_rate_is_written_as_in_the_file() {
        for (count, milliseconds, text) in [
            (30, 60_000, "30/min"),
            (10, 10_000, "10/10s"),
            (5, 1_000, "5/s"),
            (1, 7_200_000, "1/2h"),
            (2, 1_500, "2/1500ms"),
        ] {
            let rate = Rate::new(count, Duration::from_millis(milliseconds)).expect("a rate");
            assert_eq!(rate.to_string(), text);
        }
    }

    #[test]
    fn a_full_bucket_lets_its_burst_go_and_then_says_when() {
        let now = Instant::now();
        let bucket = Bucket::new(rate(100, 60), now);
        assert_eq!(bucket.remaining(now), 20);
        for _ in 0..20 {
            bucket.reserve(now).expect("within the burst");
        }
        let at = bucket.reserve(now).expect_err("the burst is used up");
        assert_eq!(bucket.next(now, 0), at);
        assert!(bucket.next(now, 3) > at);
        assert_eq!(bucket.remaining(now), 0);
        bucket.reserve(at).expect("free when it said");
    }

    #[test]
    fn another_rate_is_no_gift() {
        let now = Instant::now();
        let spent = Bucket::new(rate(100, 60), now);
        while spent.reserve(now).is_ok() {}
        for other in [rate(10, 60), rate(1_000, 60), rate(100, 60)] {
            let changed = spent.with_rate(other, now);
            assert!(changed.remaining(now) <= other.burst() / 50, "{other:?}");
            assert!(changed.full_at(now) <= spent.full_at(now));
        }
        let full = Bucket::new(rate(100, 60), now);
        assert_eq!(full.with_rate(rate(10, 60), now).remaining(now), 2);
    }

    #[test]
    fn a_bucket_of_one_waits_a_whole_window() {
        let now = Instant::now();
        let bucket = Bucket::new(rate(1, 60), now);
        bucket.reserve(now).expect("the first");
        assert!(bucket.reserve(now).expect_err("the second") > now + Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_the_rate(
            count in 1_u32..200,
            window in 1_u64..120,
            gaps in proptest::collection::vec(0_u64..3_000, 1..800),
        ) {
            let rate = rate(count, window);
            let mut now = Instant::now();
            let bucket = Bucket::new(rate, now);
            let mut sent: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                while bucket.reserve(now).is_ok() {
                    sent.push(now);
                }
            }
            let count = count as usize;
            for (first, beyond) in sent.iter().zip(sent.iter().skip(count)) {
                prop_assert!(*beyond - *first > rate.window);
            }
        }

        #[test]
        fn what_is_to_be_left_is_left_and_no_more(count in 1_u32..200, taken in 0_u32..50, left in 0_u32..50) {
            let now = Instant::now();
            let bucket = Bucket::new(rate(count, 60), now);
            for _ in 0..taken {
                let _ = bucket.reserve(now);
            }
            let before = bucket.remaining(now);
            bucket.leave(left, now);
            prop_assert_eq!(bucket.remaining(now), before.min(left));
        }

        #[test]
        fn the_promised_instant_is_kept_and_not_a_moment_too_late(count in 1_u32..200, window in 1_u64..120) {
            let now = Instant::now();
            let bucket = Bucket::new(rate(count, window), now);
            while bucket.reserve(now).is_ok() {}
            let at = bucket.reserve(now).expect_err("empty");
            prop_assert!(bucket.reserve(at - Duration::from_nanos(1)).is_err());
            prop_assert!(bucket.reserve(at).is_ok());
        }
    }
}
