//! What the proxy is doing, as one value: the status page shows it, `/api/state` sends it, `status` prints it. It holds no secret: an
//! account without a name is called by the keyed hash of its token, and of that by eight digits.
//!
//! Times are milliseconds of the Unix epoch by the proxy's clock, so that what has not changed looks the same a second later.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::history::Columns;
use crate::domain::event::Event;

/// Milliseconds of the Unix epoch.
pub type Millis = u64;

/// The whole state, with the accounts that somebody wants to see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What all see.
    #[serde(flatten)]
    pub head: Head,
    /// The accounts.
    pub accounts: Accounts,
    /// The last hour; only where it is asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub history: Option<Columns>,
}

/// Everything but the accounts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The proxy itself.
    pub proxy: Proxy,
    /// What happens now.
    pub now: Now,
    /// The pages and the fetches under way.
    pub cache: Cache,
    /// The upstreams and what may be sent to them.
    pub upstreams: Vec<UpstreamRow>,
    /// Who asks, those who spend most first.
    pub consumers: Vec<ConsumerRow>,
    /// How many consumers there are.
    pub consumers_total: usize,
    /// What has happened, newest first.
    pub events: Vec<EventRow>,
}

/// The proxy itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its version.
    pub version: String,
    /// When it was started: another value is another process.
    pub started_at: Millis,
    /// Its clock.
    pub time: Millis,
    /// `ready`, or why it is not.
    pub condition: String,
    /// Whether the configuration is from a file that can be read again.
    #[serde(default)]
    pub reloadable: bool,
    /// How the last reload of the configuration ended, if there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_reload: Option<Reload>,
    /// The keys of the file that only a restart brings into force.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub needs_restart: Vec<String>,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// When it was.
    pub at: Millis,
    /// Whether the new configuration is in use.
    pub succeeded: bool,
    /// What changed, or what is wrong.
    pub text: String,
}

/// What happens now: rates of the last ten seconds, times of the last minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Now {
    /// Requests a second.
    pub requests_per_second: f64,
    /// The share of answers from the cache; none if nothing was asked.
    pub hit_ratio: Option<f64>,
    /// Upstream calls a second.
    pub calls_per_second: f64,
    /// Calls that were not needed, since midnight UTC or the start.
    pub calls_saved_today: u64,
    /// The time of 99 of 100 hits, in microseconds.
    pub hit_p99_microseconds: Option<f64>,
    /// The same of requests that needed a call.
    pub miss_p99_microseconds: Option<f64>,
    /// All requests since the start.
    pub requests_total: u64,
}

/// The pages and the fetches under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// Stored pages and responses.
    pub entries: u64,
    /// What they weigh, in bytes.
    pub bytes: u64,
    /// What there is room for, in bytes.
    pub capacity: u64,
    /// Fetches under way.
    pub flights: usize,
    /// Requests that wait for them.
    pub waiters: usize,
}

/// An upstream and what may be sent to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamRow {
    /// Its name.
    pub name: String,
    /// The limit of calls for each account, as configured.
    pub per_account: Option<String>,
    /// Calls in flight.
    pub in_flight: usize,
    /// How many there may be.
    pub concurrency: Option<u32>,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Failures of the present window.
    pub failures: Option<usize>,
    /// How many there may be, as configured.
    pub failures_allowed: Option<u32>,
    /// The same as text, such as `10/10s`.
    pub failure_budget: Option<String>,
    /// Until when no call goes, since the failure budget is spent.
    pub blocked_until: Option<Millis>,
    /// Whose calls do not go since so many have failed, while those for accounts whose last call succeeded do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_back: Option<String>,
    /// The state of the circuit breaker, where there is one: `closed`, `open`, `half-open`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub breaker: Option<String>,
}

/// A consumer: what it asks and what it has left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsumerRow {
    /// Its name.
    pub name: String,
    /// Requests a second.
    pub requests_per_second: f64,
    /// The share of its answers that came from the cache.
    pub hit_ratio: Option<f64>,
    /// Upstream calls a second that it made.
    pub calls_per_second: f64,
    /// All its requests.
    pub requests_total: u64,
    /// All upstream calls that it made.
    pub calls_total: u64,
    /// What is left of its quota at this moment.
    pub quota_left: Option<u32>,
    /// Of so many at most, which may come at once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quota_burst: Option<u32>,
    /// Its quota, as configured.
    pub quota: Option<String>,
    /// Its requests that wait for Merge.
    pub waiting: usize,
    /// Its refusals by reason, most frequent first.
    pub refused: Vec<Refused>,
}

/// How often something was refused for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The last part of the problem's type.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Later ones have higher numbers.
    pub id: u64,
    /// When it happened last.
    pub at: Millis,
    /// What kind it is.
    pub kind: String,
    /// What it happened to.
    pub subject: Option<String>,
    /// What happened.
    pub text: String,
    /// How often it happened without a pause.
    pub count: u32,
}

impl EventRow {
    /// The row of `event`.
    pub fn new(event: &Event) -> Self {
        Self {
            id: event.id,
            at: millis(event.at),
            kind: event.kind.slug().to_owned(),
            subject: event.subject.as_deref().map(str::to_owned),
            text: event.text.clone(),
            count: event.count,
        }
    }
}

/// The accounts that somebody wants to see, and how many there are of each condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounts {
    /// All.
    pub total: usize,
    /// Those that fit the filter.
    pub matching: usize,
    /// How many of them come before the first of `rows`.
    pub offset: usize,
    /// Of all: how many have problems, deserve a look, are well, are not asked for.
    pub conditions: Conditions,
    /// Those that are shown.
    pub rows: Vec<AccountRow>,
}

/// How many accounts there are of each condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// See [`Condition::Problem`].
    pub problem: usize,
    /// See [`Condition::Warning`].
    pub warning: usize,
    /// See [`Condition::Ok`].
    pub ok: usize,
    /// See [`Condition::Idle`].
    pub idle: usize,
}

/// How an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Merge refuses or fails, or a sync has failed.
    Problem,
    /// A sync was not complete, or the budget is nearly spent.
    Warning,
    /// All is well.
    Ok,
    /// Nobody has asked for it.
    Idle,
}

impl Condition {
    /// Its name.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Ok => "ok",
            Self::Idle => "idle",
        }
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountRow {
    /// Its name, or `raw:` and eight digits.
    pub name: String,
    /// Whether it has a name in the configuration, so that it can be purged and explained by it.
    pub named: bool,
    /// Its upstream.
    pub upstream: String,
    /// The categories of which pages are held.
    pub categories: Vec<String>,
    /// How it is.
    pub condition: Condition,
    /// Why, for people.
    pub because: String,
    /// Its models as Merge reports them in the pages that are held.
    pub models: Vec<ModelRow>,
    /// How many pages are held.
    pub pages: usize,
    /// When the newest page was asked for.
    pub fetched_at: Option<Millis>,
    /// How fresh that page is: `fresh`, `stale`, `expired`, `purged`, `refused`.
    pub freshness: Option<String>,
    /// Until when it is fresh.
    pub fresh_until: Option<Millis>,
    /// When the next sync of any of its models is due, as Merge says.
    pub next_sync: Option<Millis>,
    /// Calls that may go in a window; none is without limit.
    pub budget_limit: Option<u32>,
    /// The limit as configured.
    pub budget: Option<String>,
    /// Calls that could go at this moment, in one burst.
    pub budget_left: Option<u32>,
    /// Of so many at most.
    pub budget_burst: Option<u32>,
    /// Requests that wait for their turn.
    pub waiting: usize,
    /// Until when Merge wants no call for it.
    pub paused_until: Option<Millis>,
    /// What stands in the way of a call for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub obstacle: Option<String>,
    /// Until when, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub obstacle_until: Option<Millis>,
    /// The last failure of a call for it.
    pub last_error: Option<Failure>,
    /// When a call for it succeeded last.
    pub last_success: Option<Millis>,
}

/// A model of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRow {
    /// Its name, such as `Candidate`.
    pub name: String,
    /// Its status as Merge reports it.
    pub status: String,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Millis,
    /// How.
    pub text: String,
}

/// Turns instants into times of day, always the same for the same instant.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    instant: Instant,
    system: SystemTime,
}

/// Above this the clock was set, or the machine has slept.
const DRIFT: Duration = Duration::from_secs(2);

impl WallClock {
    /// The clock as of now.
    pub fn new() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }

    /// The same clock, unless it was set meanwhile.
    pub fn checked(self, now: Instant) -> Self {
        let (system, reckoned) = (SystemTime::now(), self.at(now));
        let off = system.duration_since(reckoned).unwrap_or_else(|behind| behind.duration());
        if off > DRIFT { Self { instant: now, system } } else { self }
    }

    /// The time of day at `instant`.
    pub fn at(&self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.instant) {
            Some(later) => self.system + later,
            None => self.system - self.instant.saturating_duration_since(instant),
        }
    }

    /// The same in milliseconds.
    pub fn millis(&self, instant: Instant) -> Millis {
        millis(self.at(instant))
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

/// A time of day in milliseconds of the Unix epoch.
pub fn millis(time: SystemTime) -> Millis {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
