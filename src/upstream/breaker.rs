//! The circuit breaker of one upstream: after so many failures in a row it is left alone for a while, and then asked once.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::obstacle::{Kind, Obstacle};
use crate::domain::access::AccountHash;
use crate::domain::setback::backoff;

/// Whether calls go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They do.
    Closed,
    /// None until then.
    Open {
        /// When the next one may.
        until: Instant,
    },
    /// One, to see how the upstream is.
    HalfOpen,
}

/// How a call ended, as far as the health of the upstream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It has answered, whatever that was: a refusal is a sign of life.
    Alive,
    /// It has said that it is broken (5xx), which may be true for one account only.
    Broken(AccountHash),
    /// It has not answered.
    Silent,
}

/// The breaker itself. It is told the time.
#[derive(Debug, Default)]
pub struct Breaker {
    streak: u32,
    /// Whose failure was counted last.
    last: Option<AccountHash>,
    open_until: Option<Instant>,
    /// How often it has opened since the last success.
    opened: u32,
    probing: bool,
}

/// How long it is open the first time; this doubles with each probe that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest that it is open without a probe.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Breaker {
    /// Whether calls go through now.
    pub fn state(&self, now: Instant) -> State {
        match self.open_until {
            None => State::Closed,
            Some(until) if until > now => State::Open { until },
            Some(_) => State::HalfOpen,
        }
    }

    /// How many failures in a row there have been.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// What stands in the way of a call now.
    pub fn obstacle(&self, now: Instant) -> Option<Obstacle> {
        match self.state(now) {
            State::Closed => None,
            State::Open { until } => Some(Obstacle::until(Kind::Breaker, until)),
            State::HalfOpen => self.probing.then_some(Obstacle::busy(Kind::Breaker)),
        }
    }

    /// A call goes out; says whether it is the probe.
    pub fn sent(&mut self, now: Instant) -> bool {
        let probe = self.state(now) == State::HalfOpen;
        self.probing |= probe;
        probe
    }

    /// The probe has been given up before it could tell anything.
    pub fn given_up(&mut self) {
        self.probing = false;
    }

    /// A call has ended. `threshold` failures in a row open the breaker; failures that one account alone meets count once.
    /// `jitter`, from 0 to 1, lengthens the pause by up to a quarter. Says whether the state has changed.
    pub fn learn(&mut self, sign: Sign, threshold: Option<NonZeroU32>, now: Instant, jitter: f32) -> bool {
        let before = self.state(now);
        let account = match sign {
            Sign::Alive => {
                *self = Self::default();
                return before != State::Closed;
            }
            Sign::Broken(account) => Some(account),
            Sign::Silent => None,
        };
        if account.is_none() || account != self.last || before == State::HalfOpen {
            self.streak = self.streak.saturating_add(1);
        }
        self.last = account;
        // Calls that went out before it opened say nothing new.
        let opens = match before {
            State::Closed => threshold.is_some_and(|threshold| self.streak >= threshold.get()),
            State::HalfOpen => true,
            State::Open { .. } => false,
        };
        if opens {
            let pause = backoff(FIRST_PAUSE, self.opened, LONGEST_PAUSE);
            self.open_until = Some(now + pause.mul_f32(1.0 + jitter / 4.0));
            self.opened = self.opened.saturating_add(1);
            self.probing = false;
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Option<NonZeroU32> = NonZeroU32::new(3);

    fn account(number: u8) -> Sign {
        Sign::Broken(AccountHash([number; 16]))
    }

    fn open(signs: &[Sign], now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for sign in signs {
            breaker.learn(*sign, THREE, now, 0.0);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_success_starts_the_count_anew() {
        let now = Instant::now();
        let closed = |signs: &[Sign]| open(signs, now).state(now) == State::Closed;
        assert!(closed(&[Sign::Silent, Sign::Silent]));
        assert!(closed(&[Sign::Silent, Sign::Silent, Sign::Alive, Sign::Silent, Sign::Silent]));
        assert!(!closed(&[Sign::Silent, Sign::Silent, Sign::Silent]));
        assert!(!closed(&[account(1), account(2), account(3)]));
        assert!(closed(&[account(1); 50]), "one account's trouble is its own");
    }

    #[test]
    fn it_lets_one_probe_through_and_pauses_grow_until_that_succeeds() {
        let mut now = Instant::now();
        let mut breaker = open(&[Sign::Silent; 3], now);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let until = now + Duration::from_secs(pause);
            assert_eq!(breaker.obstacle(now), Some(Obstacle::until(Kind::Breaker, until)));
            now = until;
            assert_eq!(breaker.obstacle(now), None);
            assert!(breaker.sent(now));
            assert_eq!(breaker.obstacle(now), Some(Obstacle::busy(Kind::Breaker)), "only one");
            breaker.learn(account(1), THREE, now, 0.0);
        }
        now += Duration::from_secs(30);
        assert!(breaker.sent(now));
        assert!(breaker.learn(Sign::Alive, THREE, now, 0.0));
        assert_eq!(breaker.state(now), State::Closed);
        assert!(!breaker.sent(now), "it is a call like any other");
    }

    #[test]
    fn a_probe_that_is_given_up_makes_way_for_another() {
        let now = Instant::now();
        let mut breaker = open(&[Sign::Silent; 3], now);
        let later = now + Duration::from_secs(1);
        assert!(breaker.sent(later));
        breaker.given_up();
        assert_eq!(breaker.obstacle(later), None);
    }

    #[test]
    fn without_a_threshold_it_stays_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert!(!breaker.learn(Sign::Silent, None, now, 0.0));
        }
        assert_eq!(breaker.state(now), State::Closed);
    }
}
