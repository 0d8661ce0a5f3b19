//! What is not counted but looked up when somebody asks: plain values, filled in by whoever can see all parts.

use std::time::Duration;

use super::registry::Metrics;
use crate::domain::access::Name;
use crate::domain::bucket::Rate;
use crate::domain::tally::Keeping;

/// How things are at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// The budgets of accounts, by upstream and name.
    pub budgets: Vec<BudgetGauges>,
    /// The upstreams by name.
    pub upstreams: Vec<UpstreamGauges>,
    /// The stores, the one for pages first.
    pub stores: Vec<StoreGauges>,
    /// Callers who wait for a flight.
    pub flight_waiters: usize,
    /// Lines of the log that were left out since the start: the log is the process's, and counts them itself.
    pub lost_lines: u64,
}

/// The budget of one account.
#[derive(Clone, Debug)]
pub struct BudgetGauges {
    /// The upstream.
    pub upstream: Name,
    /// The account's name; `raw` for all that have none.
    pub account: Name,
    /// How many calls there may be; `None` is unlimited.
    pub limit: Option<Rate>,
    /// How many could go at this moment; `None` is unlimited.
    pub remaining: Option<u32>,
    /// How many wait for their turn.
    pub waiting: usize,
    /// For how much longer the upstream wants no call.
    pub paused: Duration,
}

/// What all calls to one upstream share.
#[derive(Clone, Debug)]
pub struct UpstreamGauges {
    /// Its name.
    pub name: Name,
    /// Calls in flight.
    pub in_flight: usize,
    /// How many there may be; `None` is unlimited.
    pub in_flight_limit: Option<u32>,
    /// How many calls may fail; `None` is unlimited.
    pub failures_limit: Option<Rate>,
    /// How many have failed within the window.
    pub failures: usize,
    /// Whether no call goes, since too many have failed.
    pub is_blocked: bool,
    /// How many calls went only because of a dry run.
    pub let_go: u64,
}

/// One store.
#[derive(Clone, Debug)]
pub struct StoreGauges {
    /// What it holds.
    pub holds: &'static str,
    /// How many entries there are.
    pub entries: u64,
    /// How many bytes they weigh.
    pub bytes: u64,
    /// How many there is room for.
    pub capacity: u64,
    /// Fetches for it that are under way.
    pub flights: usize,
    /// What became of entries.
    pub keeping: Keeping,
}

impl Gauges {
    /// The text that Prometheus reads: these, and all that has been counted.
    pub fn expose(self, metrics: &Metrics) -> String {
        super::exposition::expose(metrics, self)
    }
}
