//! Why a call cannot go now, and when it might.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::problem::Problem;

/// What stands in the way of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub kind: Kind,
    /// When it will be gone; `None` once a call that is under way has ended.
    pub until: Option<Instant>,
}

/// The kinds of obstacles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The account's rate.
    Rate,
    /// The upstream has asked for a pause for the account, or a first call after one is under way.
    Pause,
    /// So many calls are in flight.
    Concurrency,
    /// Too many calls have failed, or may yet fail.
    Failures,
    /// The upstream is down, as far as its last calls tell.
    Breaker,
    /// So many calls wait that there is no place in line.
    Line,
}

/// How soon to come back where nobody knows when it will be better.
const SOON: Duration = Duration::from_secs(1);

impl Obstacle {
    /// An obstacle until `until`.
    pub fn until(kind: Kind, until: Instant) -> Self {
        Self { kind, until: Some(until) }
    }

    /// An obstacle until a call that is under way has ended.
    pub fn busy(kind: Kind) -> Self {
        Self { kind, until: None }
    }

    /// Whether it will certainly still be there at `deadline`.
    pub fn outlasts(self, deadline: Instant) -> bool {
        self.until.is_some_and(|until| until > deadline)
    }

    /// What a caller is told who cannot wait for it.
    pub fn problem(self, now: Instant) -> Problem {
        let retry_after = self.until.map_or(SOON, |until| until.saturating_duration_since(now));
        match self.kind {
            Kind::Breaker => Problem::Overloaded { retry_after },
            Kind::Rate | Kind::Pause | Kind::Concurrency | Kind::Failures | Kind::Line => {
                Problem::BudgetExhausted { retry_after }
            }
        }
    }
}
