//! What can keep a call from going to Merge, in words for callers, operators and metrics. When it will be gone is known to the
//! [`Obstacle`](crate::upstream::obstacle::Obstacle) of a call that cannot go.

use std::fmt;
use std::time::Duration;

/// The kinds of obstacles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The account's rate.
    Rate,
    /// The upstream has asked for a pause for the account, or a first call after one is under way.
    Pause,
    /// As many calls are in flight as there may be.
    Concurrency,
    /// Too many calls have failed, or may yet fail.
    Failures(Share),
    /// The upstream is down, as far as its last calls tell.
    Breaker,
    /// So many calls wait that there is no place in line.
    Line,
}

/// The share of the failure budget that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whose it is.
    pub of: Sharers,
    /// How many of its calls have failed within the window.
    pub failed: usize,
    /// How many are in flight, and may yet fail.
    pub risked: usize,
    /// How many there may be of both.
    pub places: usize,
    /// For how long a failure counts, as configured.
    pub window: Duration,
}

/// Those who have a share of the failure budget in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharers {
    /// All calls to the address.
    All,
    /// All accounts whose last call did not go well.
    Unproven,
    /// Likewise those that one consumer asks for.
    Consumer,
    /// One such account.
    Account,
}

impl Kind {
    /// What metrics and logs call them.
    pub const LABELS: [&str; 7] = ["rate", "failures", "risk", "pause", "concurrency", "line", "breaker"];

    /// Its place among the labels.
    pub fn place(self) -> usize {
        match self {
            Self::Rate => 0,
            // Nothing has failed, so there is nothing to put right.
            Self::Failures(Share { failed: 0, .. }) => 2,
            Self::Failures(_) => 1,
            Self::Pause => 3,
            Self::Concurrency => 4,
            Self::Line => 5,
            Self::Breaker => 6,
        }
    }

    /// What metrics and logs call it.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.place()]
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate => f.write_str("the account's rate is used up for the moment"),
            Self::Pause => f.write_str("Merge has asked for a pause"),
            Self::Concurrency => f.write_str("as many calls are in flight as there may be"),
            Self::Failures(share) => share.fmt(f),
            Self::Breaker => f.write_str("the circuit breaker is open, since calls in a row have failed"),
            Self::Line => f.write_str("too many calls wait for their turn"),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, failed, risked, places, window } = *self;
        let whose = match of {
            Sharers::All => "all calls together may take",
            Sharers::Unproven => "accounts whose last call did not succeed may take together",
            Sharers::Consumer => "one consumer may take for accounts whose last call did not succeed",
            Sharers::Account => "this account may take",
        };
        let seconds = window.as_secs_f64();
        match (failed, risked) {
            (_, 0) => write!(f, "too many calls have failed: {failed} of the {places} that {whose} in {seconds} s"),
            (0, _) => write!(
                f,
                "too many calls are in flight that may yet fail: {risked} of the {places} that {whose} in {seconds} s"
            ),
            _ => write!(
                f,
                "too many calls have failed or may yet fail: {failed} and {risked} in flight, of the {places} that {whose} in \
                 {seconds} s"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_says_whose_it_is_and_how_much_is_taken() {
        let share = Share { of: Sharers::Account, failed: 2, risked: 0, places: 2, window: Duration::from_secs(10) };
        assert_eq!(share.to_string(), "too many calls have failed: 2 of the 2 that this account may take in 10 s");
        let others = Share { of: Sharers::Unproven, failed: 3, risked: 4, places: 7, ..share };
        assert_eq!(
            others.to_string(),
            "too many calls have failed or may yet fail: 3 and 4 in flight, of the 7 that accounts whose last call did not \
             succeed may take together in 10 s"
        );
        let slow = Share { of: Sharers::All, failed: 0, risked: 10, places: 10, ..share };
        assert_eq!(
            slow.to_string(),
            "too many calls are in flight that may yet fail: 10 of the 10 that all calls together may take in 10 s"
        );
        let label = |share| Kind::Failures(share).label();
        assert_eq!((label(share), label(others), label(slow)), ("failures", "failures", "risk"));
    }
}
