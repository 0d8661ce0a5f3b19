//! The failure budget: Merge blocks an address whose calls fail too often, whoever caused it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::bucket::Rate;

/// The failing calls of the last window. Exact: it holds every one of them.
#[derive(Debug)]
pub struct Failures {
    allowed: Rate,
    recent: Mutex<VecDeque<Instant>>,
}

impl Failures {
    /// None yet, of `allowed` in any window.
    pub fn new(allowed: Rate) -> Self {
        Self { allowed, recent: Mutex::default() }
    }

    /// The same failures, of another number that is allowed.
    pub fn with_allowed(&self, allowed: Rate) -> Self {
        Self { allowed, recent: Mutex::new(self.recent.lock().clone()) }
    }

    /// Counts a call that failed.
    pub fn record(&self, now: Instant) {
        let mut recent = self.recent.lock();
        self.forget(&mut recent, now);
        recent.push_back(now);
    }

    /// When the next call may be risked: `None` is at once.
    pub fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let mut recent = self.recent.lock();
        self.forget(&mut recent, now);
        let excess = recent.len().checked_sub(self.count())?;
        Some(recent[excess] + self.allowed.window)
    }

    /// How many more may fail now.
    pub fn remaining(&self, now: Instant) -> usize {
        let mut recent = self.recent.lock();
        self.forget(&mut recent, now);
        self.count().saturating_sub(recent.len())
    }

    fn count(&self) -> usize {
        usize::try_from(self.allowed.count.get()).unwrap_or(usize::MAX)
    }

    fn forget(&self, recent: &mut VecDeque<Instant>, now: Instant) {
        while recent.front().is_some_and(|first| *first + self.allowed.window <= now) {
            recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_budget_is_spent_by_failures_and_comes_back_one_by_one() {
        let second = Duration::from_secs;
        let start = Instant::now();
        let failures = Failures::new(Rate::new(3, second(10)).expect("not zero"));
        for at in [0, 1, 2] {
            assert_eq!(failures.blocked_until(start + second(at)), None);
            failures.record(start + second(at));
        }
        assert_eq!(failures.remaining(start + second(2)), 0);
        assert_eq!(failures.blocked_until(start + second(2)), Some(start + second(10)));
        assert_eq!(failures.blocked_until(start + second(10)), None);
        assert_eq!(failures.remaining(start + second(11)), 2);
    }
}
