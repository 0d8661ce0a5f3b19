//! The failure budget: Merge blocks an address whose calls fail too often, whoever caused it.
//!
//! A call takes its place in the budget before it goes, since nobody knows how it will end. If it succeeds the place is free again
//! at once, if it fails a window later. So even if all calls in flight fail together, there are never more failures than allowed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::domain::bucket::Rate;

/// The failure budget of one address. Cheap to clone; all clones are the same budget.
#[derive(Clone, Debug)]
pub struct Failures {
    allowed: Rate,
    places: Arc<Semaphore>,
    /// When the places of failed calls are free again, oldest first.
    held: Arc<Mutex<VecDeque<Instant>>>,
}

impl Failures {
    /// A budget of `allowed` failures in any window, none of them spent.
    pub fn new(allowed: Rate) -> Self {
        let places = usize::try_from(allowed.count.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { allowed, places: Arc::new(Semaphore::new(places)), held: Arc::default() }
    }

    /// The same failures, of another number that is allowed.
    pub fn with_allowed(&self, allowed: Rate) -> Self {
        let changed = Self::new(allowed);
        for until in &*self.held.lock() {
            if let Ok(place) = changed.places.clone().try_acquire_owned() {
                changed.hold(place, *until);
            }
        }
        changed
    }

    /// When the next call may be risked, if failures alone stand in its way.
    pub fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let held = self.held.lock();
        let is_spent = held.len() >= usize::try_from(self.allowed.count.get()).unwrap_or(usize::MAX);
        held.front().copied().filter(|until| is_spent && *until > now)
    }

    /// Takes a place for a call that goes now; waits for one until `until`.
    pub async fn risk(&self, until: Instant) -> Option<Risk> {
        let place = timeout_at(until, self.places.clone().acquire_owned()).await.ok()?.ok()?;
        Some(Risk { failures: self.clone(), place })
    }

    /// Keeps a place until `until`.
    fn hold(&self, place: OwnedSemaphorePermit, until: Instant) {
        self.held.lock().push_back(until);
        let held = self.held.clone();
        tokio::spawn(async move {
            sleep_until(until).await;
            held.lock().pop_front();
            drop(place);
        });
    }
}

/// The place of a call in flight; dropping it says that the call has not failed.
#[derive(Debug)]
pub struct Risk {
    failures: Failures,
    place: OwnedSemaphorePermit,
}

impl Risk {
    /// The call has failed.
    pub fn failed(self, now: Instant) {
        let until = now + self.failures.allowed.window;
        self.failures.hold(self.place, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    fn failures(count: u32) -> Failures {
        Failures::new(Rate::new(count, Duration::from_secs(10)).expect("not zero"))
    }

    async fn risk(failures: &Failures) -> Option<Risk> {
        failures.risk(Instant::now()).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_spent_by_failures_and_comes_back_one_by_one() {
        let failures = failures(2);
        for _ in 0..2 {
            risk(&failures).await.expect("a place").failed(Instant::now());
            advance(Duration::from_secs(1)).await;
        }
        assert!(risk(&failures).await.is_none());
        assert_eq!(failures.blocked_until(Instant::now()), Some(Instant::now() + Duration::from_secs(8)));
        advance(Duration::from_secs(8)).await;
        let waiting = failures.risk(Instant::now() + Duration::from_secs(1)).await;
        assert!(waiting.is_some(), "the oldest is forgotten after its window");
        assert!(risk(&failures).await.is_none(), "the other is not yet");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_flight_may_fail_and_what_succeeds_is_free_at_once() {
        let failures = failures(2);
        let (one, _other) = (risk(&failures).await, risk(&failures).await);
        assert!(risk(&failures).await.is_none());
        assert_eq!(failures.blocked_until(Instant::now()), None, "they may succeed any moment");
        drop(one);
        assert!(risk(&failures).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_rule_forgets_no_failure() {
        let before = failures(2);
        risk(&before).await.expect("a place").failed(Instant::now());
        let after = before.with_allowed(Rate::new(1, Duration::from_secs(10)).expect("not zero"));
        assert!(risk(&after).await.is_none());
    }
}
