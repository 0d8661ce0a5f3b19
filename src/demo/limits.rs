//! What Merge refuses: too many calls of one account, and everybody once too many calls have failed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many failures in how long Merge puts up with, and for how long it then refuses everything.
const FAILURES: usize = 20;
const FAILURE_WINDOW: Duration = Duration::from_secs(10);
const BLOCK: Duration = Duration::from_secs(60);

/// An exact sliding window: it remembers every call that it let through.
#[derive(Debug)]
pub(crate) struct Window {
    limit: usize,
    length: Duration,
    admitted: VecDeque<Instant>,
}

/// How an account stands with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) limit: usize,
    pub(crate) remaining: usize,
    /// Until the oldest call leaves the window.
    pub(crate) reset: Duration,
}

impl Window {
    pub(crate) fn new(limit: usize, length: Duration) -> Self {
        Self { limit, length, admitted: VecDeque::new() }
    }

    /// Lets a call through, or not; a call that is refused does not count.
    pub(crate) fn take(&mut self, now: Instant) -> Result<Standing, Standing> {
        while self.admitted.front().is_some_and(|oldest| *oldest + self.length <= now) {
            self.admitted.pop_front();
        }
        let free = self.admitted.len() < self.limit;
        if free {
            self.admitted.push_back(now);
        }
        let standing = Standing {
            limit: self.limit,
            remaining: self.limit - self.admitted.len(),
            reset: self.admitted.front().map_or(self.length, |oldest| *oldest + self.length - now),
        };
        if free { Ok(standing) } else { Err(standing) }
    }
}

/// Merge's guard against callers that keep failing: one for all accounts, as they come from one address.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    recent: VecDeque<Instant>,
    blocked_until: Option<Instant>,
    blocks: usize,
}

impl Failures {
    /// Takes note of an answer's status.
    pub(crate) fn note(&mut self, status: u16, now: Instant) {
        if !is_failure(status) {
            return;
        }
        while self.recent.front().is_some_and(|oldest| *oldest + FAILURE_WINDOW <= now) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() > FAILURES {
            self.recent.clear();
            self.blocked_until = Some(now + BLOCK);
            self.blocks += 1;
        }
    }

    /// How long everything is still refused, if it is.
    pub(crate) fn blocked(&self, now: Instant) -> Option<Duration> {
        self.blocked_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// How often that has happened.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }
}

/// Whether Merge counts this status as a failure of the caller: 429 has a limit of its own.
pub(crate) fn is_failure(status: u16) -> bool {
    status >= 400 && status != 429
}

/// Whole seconds, rounded up: a caller that waits this long does not come too early.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_window_slides_exactly() {
        let start = Instant::now();
        let mut window = Window::new(2, SECOND * 60);
        assert_eq!(window.take(start), Ok(Standing { limit: 2, remaining: 1, reset: SECOND * 60 }));
        assert_eq!(window.take(start + SECOND * 30), Ok(Standing { limit: 2, remaining: 0, reset: SECOND * 30 }));
        let just_before = start + SECOND * 60 - Duration::from_nanos(1);
        assert_eq!(window.take(just_before).map_err(|refused| refused.reset), Err(Duration::from_nanos(1)));
        assert!(window.take(start + SECOND * 60).is_ok());
        assert!(window.take(start + SECOND * 61).is_err());
        assert!(window.take(start + SECOND * 90).is_ok());
    }

    #[test]
    fn the_twenty_first_failure_in_ten_seconds_blocks_everybody_for_a_minute() {
        let start = Instant::now();
        let mut failures = Failures::default();
        for _ in 0..20 {
            failures.note(401, start);
            failures.note(429, start);
            failures.note(200, start);
        }
        assert_eq!(failures.blocked(start), None);
        failures.note(500, start + SECOND * 9);
        assert_eq!(failures.blocked(start + SECOND * 9), Some(SECOND * 60));
        assert_eq!(failures.blocked(start + SECOND * 69), None);
        assert_eq!(failures.blocks(), 1);
    }

    #[test]
    fn failures_older_than_ten_seconds_are_forgiven() {
        let start = Instant::now();
        let mut failures = Failures::default();
        for _ in 0..20 {
            failures.note(401, start);
        }
        failures.note(401, start + SECOND * 10);
        assert_eq!(failures.blocked(start + SECOND * 10), None);
    }

    #[test]
    fn waits_are_rounded_up_and_never_nothing() {
        assert_eq!([0, 1, 1_000, 1_001].map(|ms| whole_seconds(Duration::from_millis(ms))), [1, 1, 1, 2]);
    }
}
