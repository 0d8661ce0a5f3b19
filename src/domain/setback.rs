//! When to try again what has failed: after a pause that grows as long as the failures go on. A [`Setback`] is about one page; whether
//! the upstream as a whole is left alone is for its breaker.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The pause after so many failures in a row before this one: `first`, doubled for each of them, and never more than `longest`.
pub fn backoff(first: Duration, failures: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

/// How often the fetch of a page has failed in a row, and at which age of the page the next one may be tried. The first success
/// ends it, since that brings another page.
#[derive(Debug, Default)]
pub struct Setback {
    failures: AtomicU32,
    /// In milliseconds of its age; 0 = at once.
    next_try: AtomicU64,
}

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Setback {
    /// Whether a page of this age is still to be left alone.
    pub fn holds_at(&self, age: Duration) -> bool {
        age < Duration::from_millis(self.next_try.load(Ordering::Relaxed))
    }

    /// The next try may come at once.
    pub fn lift(&self) {
        self.next_try.store(0, Ordering::Relaxed);
    }

    /// Counts a failure of a page of this age. The next try comes after the pause that the upstream has `asked` for, or else after
    /// 1 s, which doubles with every failure up to 60 s; `jitter`, from 0 to 1, shortens it by up to a half, so that keys that
    /// failed together do not return together.
    pub fn extend(&self, age: Duration, asked: Option<Duration>, jitter: f32) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let growing = backoff(FIRST_PAUSE, failures, LONGEST_PAUSE);
        let pause = asked.filter(|asked| !asked.is_zero()).unwrap_or(growing.mul_f32(1.0 - jitter / 2.0));
        let next_try = u64::try_from((age + pause).as_millis()).unwrap_or(u64::MAX);
        self.next_try.store(next_try, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest_however_often_it_fails() {
        let (first, longest) = (Duration::from_millis(250), Duration::from_secs(1));
        let pauses = [0, 1, 2, 3, 40, u32::MAX].map(|failures| backoff(first, failures, longest).as_millis());
        assert_eq!(pauses, [250, 500, 1_000, 1_000, 1_000, 1_000]);
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_what_was_asked_goes_first() {
        let setback = Setback::default();
        let age = Duration::from_secs(7);
        assert!(!setback.holds_at(age), "nothing has failed");
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            setback.extend(age, None, 0.0);
            let due = age + Duration::from_secs(pause);
            assert!(setback.holds_at(due - Duration::from_millis(1)));
            assert!(!setback.holds_at(due));
        }
        setback.extend(age, Some(Duration::from_secs(300)), 0.0);
        assert!(setback.holds_at(age + Duration::from_secs(299)));
        assert!(!setback.holds_at(age + Duration::from_secs(300)));
        setback.extend(age, None, 0.0);
        setback.lift();
        assert!(!setback.holds_at(age));
        setback.extend(age, None, 0.0);
        assert!(setback.holds_at(age + Duration::from_secs(59)), "its failures still count");
    }

    proptest! {
        #[test]
        fn jitter_takes_at_most_half_of_a_pause(failures in 1_usize..10, jitter in 0.0_f32..=1.0) {
            let [whole, short] = [0.0, jitter].map(|jitter| {
                let setback = Setback::default();
                (0..failures).for_each(|_| setback.extend(Duration::ZERO, None, jitter));
                setback.next_try.load(Ordering::Relaxed)
            });
            prop_assert!(short <= whole && short + 1 >= whole / 2, "{short} of {whole}");
        }
    }
}
