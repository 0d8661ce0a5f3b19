//! What may be sent for one linked account: its rate, what Merge says is left of it, and the pause that Merge has asked for.
//!
//! Merge counts the calls of a linked account whichever upstream here they are made through. So upstreams at one address share the
//! budget of an account, and one that a reload gives another name finds it as it was. How calls end is a matter of the API key as well,
//! and so known of each upstream by itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::obstacle::{Kind, Obstacle};
use super::rate_limit_fields::Left;
use crate::domain::access::Name;
use crate::domain::bucket::{Bucket, Rate};
use crate::domain::received::Received;
use crate::domain::setback::backoff;

/// The budget of one account; shared by everyone who asks for it. It is told the time.
#[derive(Debug)]
pub struct AccountBudget {
    /// What it may be asked through each upstream in force that it has been asked through; `None` is without limit.
    rates: Vec<(Name, Option<Rate>)>,
    /// The rate that keeps all of these; where there is none, the last one.
    rate: Option<Rate>,
    bucket: Option<Bucket>,
    /// Until when calls are held back because Merge knows of other callers.
    paced_until: Option<Instant>,
    pause: Pause,
    in_flight: u32,
    /// How its last call through each upstream ended, if that says something.
    last: Vec<(Name, Last)>,
}

/// How a call ended.
#[derive(Debug)]
pub enum Last {
    /// Well, which proves the token.
    Well,
    /// With a refusal (401, 403), which concerns the token and so all its pages.
    Refused(Arc<Received>),
}

/// The upstream's own "not now".
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    /// How often in a row.
    refusals: u32,
    /// The first call after a pause, while it is under way.
    probe: Option<Probe>,
    /// How many there were.
    probes: Probe,
}

/// The number of a call that goes first after a pause.
type Probe = u64;

/// The longest pause after a refusal that did not say how long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl AccountBudget {
    /// An unspent budget.
    pub fn new(rate: Option<Rate>, now: Instant) -> Self {
        Self {
            rates: Vec::new(),
            rate,
            bucket: bucket(rate, now),
            paced_until: None,
            pause: Pause::default(),
            in_flight: 0,
            last: Vec::new(),
        }
    }

    /// Changes the rate at which it may be asked through `upstream`, if that is another.
    pub fn allow(&mut self, upstream: &Name, rate: Option<Rate>, now: Instant) {
        match self.rates.iter_mut().find(|(name, _)| name == upstream) {
            Some((_, known)) if *known == rate => return,
            Some((_, known)) => *known = rate,
            None => self.rates.push((upstream.clone(), rate)),
        }
        self.keep_rates(now);
    }

    /// Takes the rates over at which it may be asked now. An upstream that is no more `in_force` here has no say, unless nobody but who
    /// still waits for such a one asks for it.
    pub fn take_over(&mut self, in_force: impl Fn(&Name) -> bool, rate: impl Fn(&Name) -> Option<Rate>, now: Instant) {
        self.last.retain(|(upstream, _)| in_force(upstream));
        if self.rates.is_empty() {
            return;
        }
        self.rates.iter_mut().for_each(|(upstream, known)| *known = rate(upstream));
        if !self.rates.iter().any(|(upstream, _)| in_force(upstream)) {
            self.keep_rates(now);
        }
        self.rates.retain(|(upstream, _)| in_force(upstream));
        if !self.rates.is_empty() {
            self.keep_rates(now);
        }
    }

    /// Keeps all rates. So that no call of the last window is forgotten, the bucket of another rate begins empty, unless there was none.
    fn keep_rates(&mut self, now: Instant) {
        let rate = self.rates.iter().filter_map(|(_, rate)| *rate).reduce(Rate::and);
        if self.rate == rate {
            return;
        }
        let window = [self.rate, rate].into_iter().flatten().map(|rate| rate.with_slack().window).max();
        let was_left = |bucket: &Bucket| window.is_none_or(|window| bucket.was_left_for(window, now));
        let spent = !self.bucket.as_ref().is_some_and(was_left);
        self.rate = rate;
        self.bucket = bucket(rate, now);
        while spent && self.bucket.as_ref().is_some_and(|bucket| bucket.reserve(now).is_ok()) {}
    }

    /// The rate that it keeps, and how many calls could go at this moment; `None` is without limit.
    pub fn standing(&self, now: Instant) -> (Option<Rate>, Option<u32>) {
        (self.rate, self.bucket.as_ref().map(|bucket| bucket.remaining(now)))
    }

    fn last(&self, upstream: &Name) -> Option<&Last> {
        self.last.iter().find(|(by, _)| by == upstream).map(|(_, last)| last)
    }

    /// Whether its last call through `upstream` went well.
    pub fn is_proven(&self, upstream: &Name) -> bool {
        matches!(self.last(upstream), Some(Last::Well))
    }

    /// Through how many upstreams its last call went well.
    pub fn proofs(&self) -> usize {
        self.last.iter().filter(|(_, last)| matches!(last, Last::Well)).count()
    }

    /// The refusal that was its last answer from `upstream`.
    pub fn refusal(&self, upstream: &Name) -> Option<&Arc<Received>> {
        if let Some(Last::Refused(refusal)) = self.last(upstream) { Some(refusal) } else { None }
    }

    /// Whether nothing would be forgotten if it were made anew.
    pub fn is_unspent(&self, now: Instant) -> bool {
        let full = self.bucket.as_ref().is_none_or(|bucket| bucket.is_full(now));
        let paced = self.paced_until.is_some_and(|until| until > now);
        full && self.in_flight == 0 && self.proofs() == 0 && !paced && self.paused_until(now).is_none()
    }

    /// Until when the upstream wants no call for this account.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.until.filter(|until| *until > now)
    }

    /// What stands in the way of the call that goes after `ahead` others.
    pub fn obstacle(&self, now: Instant, ahead: u32) -> Option<Obstacle> {
        if let Some(until) = self.paused_until(now) {
            return Some(Obstacle::until(Kind::Pause, until));
        }
        if self.pause.probe.is_some() {
            return Some(Obstacle::busy(Kind::Pause));
        }
        let due = self.bucket.as_ref().map_or(now, |bucket| bucket.next(now, ahead));
        let due = self.paced_until.map_or(due, |until| until.max(due));
        (due > now).then_some(Obstacle::until(Kind::Rate, due))
    }

    /// A call goes out; says which number it has if it is the first after a pause.
    pub fn spend(&mut self, now: Instant) -> Option<u64> {
        // What has no obstacle is in the bucket; only a dry run sends what is not.
        let _ = self.bucket.as_ref().map(|bucket| bucket.reserve(now));
        self.in_flight += 1;
        if self.pause.refusals == 0 {
            return None;
        }
        self.pause.probes += 1;
        self.pause.probe = Some(self.pause.probes);
        self.pause.probe
    }

    /// A call is over, which may have had a number as the first after a pause.
    pub fn release(&mut self, probe: Option<u64>) {
        self.in_flight -= 1;
        // One that brought no answer makes way for another.
        if probe.is_some() && self.pause.probe == probe {
            self.pause.probe = None;
        }
    }

    /// The upstream has refused a call for this account (429): leaves it alone until `until`, or if it did not say, for 1 s, which
    /// doubles with each refusal in a row up to 60 s. `jitter` is from 0 to 1.
    pub fn refused(&mut self, until: Option<Instant>, now: Instant, jitter: f32) -> Instant {
        let Pause { refusals, probe, .. } = &mut self.pause;
        let growing = backoff(Duration::from_secs(1), *refusals, LONGEST_PAUSE);
        let until = until.unwrap_or(now + growing.mul_f32(1.0 + jitter / 4.0));
        *refusals = refusals.saturating_add(1);
        *probe = None;
        self.pause.until = self.pause.until.max(Some(until));
        until
    }

    /// `upstream` has answered a call for this account: well, with a refusal, or with another failure.
    pub fn answered(&mut self, upstream: &Name, last: Option<Last>) {
        self.pause.refusals = 0;
        self.pause.probe = None;
        self.last.retain(|(by, _)| by != upstream);
        self.last.extend(last.map(|last| (upstream.clone(), last)));
    }

    /// Forgets what `upstream` has refused: it was asked with another key, or was another server.
    pub fn forget_refusal(&mut self, upstream: &Name) {
        self.last.retain(|(by, last)| by != upstream || matches!(last, Last::Well));
    }

    /// `upstream` has not answered a call for this account in time: it is proven there no longer.
    pub fn was_too_late(&mut self, upstream: &Name) {
        self.last.retain(|(by, last)| by != upstream || matches!(last, Last::Refused(_)));
    }

    /// What the upstream says is left of its own limit. If that is less than is reckoned here, others use the account too: then
    /// no more goes at once than it says, and what is left is spread over the time until there is more.
    pub fn learn(&mut self, left: Left, now: Instant) {
        let Some(bucket) = &self.bucket else { return };
        bucket.leave(left.remaining, now);
        let interval = bucket.interval();
        let reset = left.reset.unwrap_or(interval);
        if interval * left.remaining < reset {
            self.paced_until = self.paced_until.max(Some(now + reset / left.remaining.saturating_add(1)));
        }
    }
}

fn bucket(rate: Option<Rate>, now: Instant) -> Option<Bucket> {
    rate.map(|rate| Bucket::new(rate.with_slack(), now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn left(remaining: u32, reset: u64) -> Left {
        Left { remaining, reset: Some(second(reset)) }
    }

    #[test]
    fn the_rate_says_when_and_who_is_ahead_goes_first() {
        let now = Instant::now();
        let mut budget = AccountBudget::new(Rate::new(5, second(60)), now);
        assert_eq!(budget.obstacle(now, 0), None);
        budget.spend(now);
        let at = |ahead| budget.obstacle(now, ahead).and_then(|obstacle| obstacle.until).expect("there is an obstacle");
        assert!(at(0) > now + second(10));
        assert!(at(2) > at(0) + second(20));
    }

    #[test]
    fn another_rate_forgets_no_call_of_the_last_window_and_invents_none() {
        let (now, us) = (Instant::now(), "us".into());
        let (few, many) = (Rate::new(10, second(60)), Rate::new(100, second(60)));
        for (before, after) in [(few, many), (many, few), (few, Rate::new(10, second(1)))] {
            let burst = after.map(Rate::burst);
            for (pause, left) in [(30, Some(0)), (70, burst)] {
                let mut budget = AccountBudget::new(before, now);
                budget.allow(&us, before, now);
                budget.spend(now);
                let at = now + second(pause);
                budget.allow(&us, after, at);
                assert_eq!(budget.standing(at).1, left, "{before:?}, then {after:?} after {pause} s");
            }
        }
        let mut unlimited = AccountBudget::new(None, now);
        unlimited.allow(&us, None, now);
        unlimited.allow(&us, few, now + second(600));
        assert_eq!(unlimited.standing(now + second(600)).1, Some(0), "nobody knows what it has been asked");
    }

    #[test]
    fn of_the_rates_of_several_upstreams_all_are_kept_and_those_that_are_gone_have_no_say() {
        let (now, us, other) = (Instant::now(), "us".into(), "other".into());
        let (few, many) = (Rate::new(10, second(60)), Rate::new(100, second(60)));
        let mut budget = AccountBudget::new(many, now);
        budget.allow(&us, many, now);
        budget.allow(&other, few, now);
        budget.allow(&us, many, now);
        assert_eq!(budget.standing(now).0, few);
        budget.take_over(|name| *name == us, |_| many, now);
        assert_eq!(budget.standing(now).0, many);
        budget.take_over(|_| false, |_| few, now);
        assert_eq!(budget.standing(now).0, few, "for who still waits");
        budget.take_over(|_| false, |_| None, now);
        assert_eq!(budget.standing(now).0, few, "until it is asked again");
    }

    #[test]
    fn refusals_without_a_word_grow_and_an_answer_ends_them() {
        let now = Instant::now();
        let mut budget = AccountBudget::new(None, now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(budget.refused(None, now, 0.0), now + second(pause));
        }
        budget.answered(&"us".into(), Some(Last::Well));
        assert_eq!(budget.refused(None, now, 0.0), now + second(1));
        assert_eq!(budget.paused_until(now), Some(now + second(60)), "a pause is never shortened");
        budget.refused(Some(now + second(600)), now, 0.0);
        assert_eq!(budget.paused_until(now), Some(now + second(600)));
    }

    #[test]
    fn after_a_pause_one_call_goes_first() {
        let now = Instant::now();
        let mut budget = AccountBudget::new(None, now);
        budget.spend(now);
        budget.refused(Some(now + second(30)), now, 0.0);
        budget.release(None);
        let after = now + second(30);
        assert_eq!(budget.obstacle(after, 0), None);
        budget.spend(after);
        assert_eq!(budget.obstacle(after, 0), Some(Obstacle::busy(Kind::Pause)));
        budget.answered(&"us".into(), Some(Last::Well));
        assert_eq!(budget.obstacle(after, 0), None, "it went well");
        budget.spend(after);
        assert_eq!(budget.obstacle(after, 0), None);
    }

    #[test]
    fn a_probe_that_is_given_up_makes_way_for_another() {
        let now = Instant::now();
        let mut budget = AccountBudget::new(None, now);
        budget.spend(now);
        budget.refused(Some(now), now, 0.0);
        budget.release(None);
        let probe = budget.spend(now);
        budget.release(probe);
        assert_eq!(budget.obstacle(now, 0), None);
    }

    #[test]
    fn who_waits_for_a_probe_does_not_wait_for_calls_that_went_before_it() {
        let now = Instant::now();
        let mut budget = AccountBudget::new(None, now);
        let download = budget.spend(now);
        budget.spend(now);
        budget.refused(Some(now), now, 0.0);
        budget.release(None);
        let probe = budget.spend(now);
        budget.release(probe);
        assert_eq!(budget.obstacle(now, 0), None, "it brought nothing");
        let probe = budget.spend(now);
        budget.release(download);
        assert_eq!(budget.obstacle(now, 0), Some(Obstacle::busy(Kind::Pause)), "that was not the probe");
        budget.release(probe);
        assert_eq!(budget.obstacle(now, 0), None);
    }

    #[test]
    fn what_merge_says_is_left_lowers_the_budget_and_never_raises_it() {
        let now = Instant::now();
        let mut budget = AccountBudget::new(Rate::new(100, second(60)), now);
        budget.learn(left(90, 60), now);
        assert_eq!((budget.standing(now).1, budget.obstacle(now, 0)), (Some(20), None), "nobody else is there");
        budget.learn(left(5, 60), now);
        assert_eq!(budget.standing(now).1, Some(5));
        let due = budget.obstacle(now, 0).and_then(|obstacle| obstacle.until);
        assert_eq!(due, Some(now + second(10)), "five calls and six gaps until the minute is over");
        budget.learn(left(0, 30), now);
        assert_eq!(budget.obstacle(now, 0).and_then(|obstacle| obstacle.until), Some(now + second(30)));
        budget.learn(left(99, 60), now);
        assert_eq!(budget.obstacle(now, 0).and_then(|obstacle| obstacle.until), Some(now + second(30)));
    }
}
