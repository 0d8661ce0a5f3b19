//! What may be sent for one linked account: its rate, its place in line, and the pause that Merge has asked for.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout_at};

use crate::domain::bucket::{Bucket, Rate};
use crate::domain::problem::Problem;

/// The budget of one account; shared by everyone who asks for it.
#[derive(Debug)]
pub struct AccountBudget {
    rate: Option<Rate>,
    bucket: Option<Bucket>,
    /// Held by the one who goes next; the others queue behind it in order.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicU32,
    pause: Mutex<Pause>,
}

/// The upstream's own "not now".
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    refusals: u32,
}

/// How much longer a window is reckoned than Merge reckons it: calls may reach it closer together than they were sent.
const SLACK: Duration = Duration::from_secs(1);

/// The longest pause after a refusal that did not say how long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl AccountBudget {
    /// An unspent budget.
    pub fn new(rate: Option<Rate>, now: Instant) -> Self {
        let slack = |rate: Rate| Rate { window: rate.window + SLACK.min(rate.window / 20), ..rate };
        Self {
            rate,
            bucket: rate.map(|rate| Bucket::new(slack(rate), now)),
            turn: tokio::sync::Mutex::default(),
            waiting: AtomicU32::new(0),
            pause: Mutex::default(),
        }
    }

    /// The same budget after its rate was changed: what Merge has asked for stays, and so that no call of the last window is
    /// forgotten, the new bucket begins empty.
    pub fn with_rate(&self, rate: Option<Rate>, now: Instant) -> Self {
        let changed = Self::new(rate, now);
        if let Some(bucket) = &changed.bucket {
            while bucket.reserve(now).is_ok() {}
        }
        *changed.pause.lock() = std::mem::take(&mut *self.pause.lock());
        changed
    }

    /// The rate that it keeps.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// How many calls could go at this moment; `None` is without limit.
    pub fn remaining(&self, now: Instant) -> Option<u32> {
        self.bucket.as_ref().map(|bucket| bucket.remaining(now))
    }

    /// How many wait for their turn.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether nothing would be forgotten if it were made anew.
    pub fn is_unspent(&self, now: Instant) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.is_full(now)) && self.paused_until(now).is_none()
    }

    /// Until when the upstream wants no call for this account.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.lock().until.filter(|until| *until > now)
    }

    /// The upstream has refused a call for this account (429): leaves it alone until `until`, or if it did not say, for 1 s, which
    /// doubles with each refusal in a row up to 60 s. `jitter` is from 0 to 1.
    pub fn refused(&self, until: Option<Instant>, now: Instant, jitter: f32) -> Instant {
        let mut pause = self.pause.lock();
        let growing = (Duration::from_secs(1) * 2_u32.pow(pause.refusals.min(6))).min(LONGEST_PAUSE);
        let until = until.unwrap_or(now + growing.mul_f32(1.0 + jitter / 4.0));
        pause.refusals = pause.refusals.saturating_add(1);
        pause.until = pause.until.max(Some(until));
        until
    }

    /// The upstream has answered a call for this account.
    pub fn answered(&self) {
        self.pause.lock().refusals = 0;
    }

    /// Joins the line. Whoever cannot have a turn before `until` is told so at once.
    pub async fn queue(&self, until: Instant) -> Result<Turn<'_>, Problem> {
        let now = Instant::now();
        let place = Place::take(&self.waiting);
        let earliest = self.earliest(now, place.ahead);
        if earliest > until {
            return Err(exhausted(earliest, now));
        }
        let Ok(turn) = timeout_at(until, self.turn.lock()).await else {
            let now = Instant::now();
            return Err(exhausted(self.earliest(now, 0), now));
        };
        Ok(Turn { budget: self, _turn: turn, _place: place })
    }

    /// When the call that stands behind `ahead` others can go at the earliest.
    fn earliest(&self, now: Instant, ahead: u32) -> Instant {
        let paused = self.paused_until(now).unwrap_or(now);
        self.bucket.as_ref().map_or(now, |bucket| bucket.next(now, ahead)).max(paused)
    }
}

/// A place in line; leaving gives it back.
struct Place<'a> {
    waiting: &'a AtomicU32,
    ahead: u32,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32) -> Self {
        Self { waiting, ahead: waiting.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to go next, which is not yet the right to go now.
pub struct Turn<'a> {
    budget: &'a AccountBudget,
    _turn: MutexGuard<'a, ()>,
    _place: Place<'a>,
}

impl Turn<'_> {
    /// When the call could go.
    pub fn earliest(&self, now: Instant) -> Instant {
        self.budget.earliest(now, 0)
    }

    /// Spends one call now, or says when there will be one.
    pub fn spend(&self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.budget.paused_until(now) {
            return Err(until);
        }
        self.budget.bucket.as_ref().map_or(Ok(()), |bucket| bucket.reserve(now))
    }
}

/// The refusal of a call that could go at `at`.
pub fn exhausted(at: Instant, now: Instant) -> Problem {
    Problem::BudgetExhausted { retry_after: at.saturating_duration_since(now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_served_in_order_and_the_late_are_told_at_once() {
        let start = Instant::now();
        let budget = AccountBudget::new(Rate::new(5, second(60)), start);
        let until = start + second(30);
        let turn = budget.queue(until).await.expect("nobody is ahead");
        turn.spend(start).expect("the first call of a full bucket");
        assert!(turn.earliest(start) > start + second(10));
        let refusal = budget.queue(start + second(20)).await.map(drop);
        assert!(matches!(refusal, Err(Problem::BudgetExhausted { retry_after }) if retry_after > second(20)));
        assert_eq!(Instant::now(), start, "it was told without waiting");
        assert_eq!(budget.waiting(), 1);
        drop(turn);
        assert_eq!(budget.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_line_gives_the_place_back() {
        let budget = AccountBudget::new(None, Instant::now());
        let until = Instant::now() + second(5);
        let turn = budget.queue(until).await.expect("nobody is ahead");
        {
            let leaving = budget.queue(until);
            tokio::pin!(leaving);
            assert!(futures_util::poll!(&mut leaving).is_pending());
            assert_eq!(budget.waiting(), 2);
        }
        assert_eq!(budget.waiting(), 1);
        drop(turn);
        budget.queue(until).await.expect("nobody is ahead again");
    }

    #[test]
    fn refusals_without_a_word_grow_and_an_answer_ends_them() {
        let now = Instant::now();
        let budget = AccountBudget::new(None, now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(budget.refused(None, now, 0.0), now + second(pause));
        }
        budget.answered();
        assert_eq!(budget.refused(None, now, 0.0), now + second(1));
        assert_eq!(budget.paused_until(now), Some(now + second(60)), "a pause is never shortened");
        budget.refused(Some(now + second(600)), now, 0.0);
        assert_eq!(budget.paused_until(now), Some(now + second(600)));
    }
}
