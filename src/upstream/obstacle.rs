//! Why a call cannot go now, and when it might. What kinds of reasons there are is in the [domain](crate::domain::hindrance), as callers
//! are told.

use std::time::Duration;

use tokio::time::Instant;

pub use crate::domain::hindrance::Kind;
use crate::domain::problem::{Problem, whole_seconds};

/// What stands in the way of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub kind: Kind,
    /// When it will be gone; `None` once a call that is under way has ended.
    pub until: Option<Instant>,
}

/// All that stands in the way of a call.
#[derive(Clone, Copy, Debug)]
pub struct Obstacles {
    /// What there is of each kind.
    pub all: [Option<Obstacle>; 4],
    /// When the oldest failure is forgotten.
    pub failure_forgotten: Option<Instant>,
}

impl Obstacles {
    /// Of several the one that lasts.
    pub fn lasting(self) -> Option<Obstacle> {
        self.all.into_iter().flatten().reduce(|one, other| if other.until > one.until { other } else { one })
    }

    /// When to look again if no call ends before. That may be before the one that lasts is to be gone: a breaker that waits for its
    /// probe lets it take a place that is kept for others, and a failure may be forgotten while the calls that may fail still hang.
    pub fn due(self) -> Option<Instant> {
        let due = |obstacle: Obstacle| {
            let forgotten = self.failure_forgotten.filter(|_| matches!(obstacle.kind, Kind::Failures(_)));
            obstacle.until.or(forgotten)
        };
        self.all.into_iter().flatten().filter_map(due).min()
    }
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

    /// What operators are told at `now`.
    pub fn told(self, now: Instant) -> String {
        match self.until {
            Some(until) => {
                let seconds = whole_seconds(until.saturating_duration_since(now));
                format!("{}; the next may go in {seconds} s", self.kind)
            }
            None => format!("{}; the next may go once a call that is under way has ended", self.kind),
        }
    }

    /// What a caller who cannot wait for it to go is told.
    pub fn problem(self, now: Instant) -> Problem {
        let retry_after = self.until.map_or(SOON, |until| until.saturating_duration_since(now));
        match self.kind {
            Kind::Breaker => Problem::Overloaded { retry_after },
            kind @ (Kind::Rate | Kind::Pause | Kind::Concurrency | Kind::Failures(_) | Kind::Line) => {
                Problem::BudgetExhausted { kind, retry_after }
            }
        }
    }
}
