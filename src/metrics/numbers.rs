//! What can be read of the counters, as plain values.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::domain::access::{AccountHash, Name};
use crate::domain::ending::Ending;
use crate::domain::problem::Cause;
use crate::domain::tally::Count;

/// How the requests of one consumer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerNumbers {
    /// Its name; `None`: requests that were refused before it was known who made them.
    pub name: Option<Name>,
    /// How they ended.
    pub counts: Counts,
    /// Tries of calls to upstreams that are charged to it.
    pub calls: u64,
}

/// How requests ended. All are numbers since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// From the store, fresh.
    pub hits: u64,
    /// From the store, a remembered refusal of Merge.
    pub negative: u64,
    /// From the store, stale.
    pub stale: u64,
    /// By a fetch that another request had begun.
    pub collapsed: u64,
    /// By a call that confirmed what was stored.
    pub revalidated: u64,
    /// By a call.
    pub misses: u64,
    /// Of the misses, those that the client insisted on.
    pub forced: u64,
    /// Passed through.
    pub bypassed: u64,
    /// Webhooks that Merge has signed.
    pub webhooks: u64,
    /// Refused here, all together.
    pub refused: u64,
    /// Likewise by reason: the last part of the problem's type.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// Without an answer, since Merge gave none of use.
    pub failed: u64,
    /// Without an answer, since their client had gone by then.
    pub abandoned: u64,
    /// Those that waited for no call of their own.
    pub ready: u64,
    /// Those that would have been calls to Merge if there were no proxy.
    pub for_merge: u64,
}

impl Counts {
    /// What `counts` add up to.
    pub fn of(counts: &[Count]) -> Self {
        let mut all = Self::default();
        for count in counts {
            all.take(count.ending, count.requests);
        }
        all
    }

    fn take(&mut self, ending: Ending, requests: u64) {
        self.requests += requests;
        let field = match ending.result() {
            "hit" => &mut self.hits,
            "negative" => &mut self.negative,
            "stale" => &mut self.stale,
            "collapsed" => &mut self.collapsed,
            "revalidated" => &mut self.revalidated,
            "miss" => &mut self.misses,
            "bypass" => &mut self.bypassed,
            "webhook" => &mut self.webhooks,
            "refused" => &mut self.refused,
            "abandoned" => &mut self.abandoned,
            _ => &mut self.failed,
        };
        *field += requests;
        if ending.result() == "refused" {
            *self.refused_by.entry(ending.reason()).or_default() += requests;
        }
        if ending == Ending::MissForced {
            self.forced += requests;
        }
        if ending.was_ready() {
            self.ready += requests;
        }
        if ending.is_for_merge() {
            self.for_merge += requests;
        }
    }

    /// Adds those of somebody else.
    pub fn add(&mut self, others: &Self) {
        self.requests += others.requests;
        self.hits += others.hits;
        self.negative += others.negative;
        self.stale += others.stale;
        self.collapsed += others.collapsed;
        self.revalidated += others.revalidated;
        self.misses += others.misses;
        self.forced += others.forced;
        self.bypassed += others.bypassed;
        self.webhooks += others.webhooks;
        self.refused += others.refused;
        for (reason, refused) in &others.refused_by {
            *self.refused_by.entry(reason).or_default() += refused;
        }
        self.failed += others.failed;
        self.abandoned += others.abandoned;
        self.ready += others.ready;
        self.for_merge += others.for_merge;
    }
}

/// Everything together, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How requests ended.
    pub counts: Counts,
    /// Tries of calls to upstreams.
    pub upstream_calls: u64,
    /// How many fewer these are than the requests that would have been calls; see
    /// [`Metrics::calls_saved`](super::registry::Metrics::calls_saved).
    pub calls_saved: u64,
    /// Those that were not answered, with a status of 400 and above, or with what is no page.
    pub upstream_failures: u64,
    /// Of these, those that were answered with 429.
    pub upstream_refusals: u64,
    /// Connections from consumers that were accepted.
    pub connections_opened: u64,
    /// Those that are open now.
    pub connections_open: u64,
    /// Configurations that were taken in.
    pub reloads: u64,
    /// Those that could not be.
    pub failed_reloads: u64,
}

/// The calls for one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountNumbers {
    /// The upstream that was called.
    pub upstream: Name,
    /// The account's name; `raw` for all that have none.
    pub name: Name,
    /// Tries of calls.
    pub calls: u64,
    /// Those that were not answered, with a status of 400 and above, or with what is no page.
    pub failures: u64,
    /// Of these, those that were answered with 429.
    pub rate_limited: u64,
    /// Calls that were not made for want of budget.
    pub refused: u64,
    /// How the last of them went.
    pub last: LastCalls,
}

/// How the last calls for an account went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastCalls {
    /// How long ago the last call succeeded, and when that was.
    pub success: Option<(Duration, SystemTime)>,
    /// How the last call that failed did so.
    pub error: Option<LastError>,
    /// Whether the last call failed.
    pub is_failing: bool,
}

/// How the last calls went for an account that has no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamelessNumbers {
    /// The upstream that was called.
    pub upstream: Name,
    /// What stands for the account.
    pub hash: AccountHash,
    /// How they went.
    pub last: LastCalls,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// How.
    pub ended: CallEnd,
    /// When.
    pub at: SystemTime,
    /// How long ago that is.
    pub ago: Duration,
}

/// How a try of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// With this status.
    Answered(StatusCode),
    /// Without an answer that was of use.
    Failed(Cause),
    /// Not in time.
    TimedOut,
    /// Nobody waited for it any more.
    Abandoned,
}

impl CallEnd {
    /// Whether it was a success.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(status) if status.as_u16() < 400)
    }

    /// The status, if there was one.
    pub fn status(self) -> Option<StatusCode> {
        match self {
            Self::Answered(status) => Some(status),
            Self::Failed(Cause::Unexpected(status)) => StatusCode::from_u16(status).ok(),
            _ => None,
        }
    }
}

impl fmt::Display for CallEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "{status}"),
            Self::Failed(cause) => write!(f, "{cause}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Abandoned => f.write_str("abandoned"),
        }
    }
}
