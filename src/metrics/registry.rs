//! All counters of a running proxy in one hand. They outlive a reload; what the configuration names is known from the start.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::calls::AccountCalls;
use super::histogram::{Histogram, Snapshot};
use super::last::Nameless;
use super::numbers::{AccountNumbers, ConsumerNumbers, Counts, LastCalls, Totals};
use super::webhooks::{self, OUTCOMES};
use crate::domain::access::{Account, Name};
use crate::domain::ask::Whose;
use crate::domain::delivery::Delivered;
use crate::domain::ending::{Ending, Source};
use crate::domain::exchange::{Given, Outcome, Target};
use crate::domain::follow::How;
use crate::domain::problem::Problem;
use crate::domain::tally::{Connections, Counter, RouteTally, Tally};
use crate::domain::under_way::Abandoned;

/// The counters. Cheap to clone; all clones are the same counters.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: SystemTime,
    /// Requests that no consumer made.
    nobody: Arc<Tally>,
    consumers: Mutex<HashMap<Name, Arc<Tally>, RandomState>>,
    accounts: Mutex<HashMap<(Name, Name), Arc<AccountCalls>, RandomState>>,
    raw: Name,
    nameless: Nameless,
    durations: Durations,
    recent: Mutex<VecDeque<[Snapshot<20>; 3]>>,
    ages: Histogram<12>,
    connections: Connections,
    webhooks: [Counter; OUTCOMES.len()],
    /// The most calls that have been saved until now.
    saved: AtomicU64,
    reloads: Counter,
    failed_reloads: Counter,
    last_reload_failed: AtomicBool,
}

/// What takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer from the store.
    Hit,
    /// An answer that had to be waited for.
    Miss,
    /// One try of one call to an upstream.
    Upstream,
}

impl Kind {
    /// All of them, each at the place that its number says.
    pub const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Upstream];

    /// What a request has taken time for. One that was held on purpose tells nothing of how fast the proxy is.
    fn of(outcome: &Outcome, ending: Ending) -> Option<Self> {
        match (&outcome.result, ending.source()) {
            (_, Source::Neither) => None,
            (Ok(Given::Followed(followed)), _) if matches!(followed.how, How::Waited(_)) => None,
            (Ok(Given::Page(answer)), Source::Store) if answer.waited => Some(Self::Miss),
            (_, Source::Store) => Some(Self::Hit),
            (_, Source::Upstream) => Some(Self::Miss),
        }
    }
}

type Durations = [Histogram<20>; 3];

/// From what a hit takes inside the proxy to what a call may take, about two and a half buckets for each power of ten, in
/// microseconds.
const BOUNDS: [u64; 20] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Ages of pages: from the shortest lifetime to the longest that is usual for a stale one, in microseconds.
const AGES: [u64; 12] = [
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    900_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// What all accounts are called that have no name.
pub const RAW: &str = "raw";

/// For how many [ticks](Metrics::tick) the recent past goes back.
const RECENT: usize = 60;

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Inner {
            began: SystemTime::now(),
            nobody: Arc::default(),
            consumers: Mutex::default(),
            accounts: Mutex::default(),
            raw: RAW.into(),
            nameless: Nameless::default(),
            durations: Kind::ALL.map(|_| Histogram::new(BOUNDS)),
            recent: Mutex::default(),
            ages: Histogram::new(AGES),
            connections: Connections::default(),
            webhooks: Default::default(),
            saved: AtomicU64::new(0),
            reloads: Counter::default(),
            failed_reloads: Counter::default(),
            last_reload_failed: AtomicBool::new(false),
        }))
    }
}

/// To count.
impl Metrics {
    /// These consumers and accounts are there from now on, also before the first of them asks or is asked for.
    pub fn expect<'a>(
        &self,
        consumers: impl IntoIterator<Item = &'a Name>,
        accounts: impl IntoIterator<Item = &'a Account>,
    ) {
        consumers.into_iter().for_each(|name| drop(self.consumer(name)));
        accounts.into_iter().for_each(|account| drop(self.calls_for(&account.upstream.name, account)));
    }

    /// A request has been answered: here all are counted that are.
    pub fn count(&self, outcome: &Outcome, ending: Ending, status: StatusCode, took: Duration) {
        match &outcome.whose {
            Whose::Admitted(question) if let Some(again) = &question.again => {
                again.tally.get_or_init(|| self.tally(&outcome.whose)).count(ending, status);
            }
            whose => self.tally(whose).count(ending, status),
        }
        if let Some(kind) = Kind::of(outcome, ending) {
            self.duration(kind, took);
        }
        if ending.source() == Source::Store
            && let Ok(Given::Page(answer)) = &outcome.result
        {
            self.0.ages.observe(answer.age);
        }
    }

    /// A request has ended without an answer. How long its client has waited says nothing of how long answers take.
    pub fn abandoned(&self, abandoned: &Abandoned) {
        self.tally(&abandoned.whose).count(Ending::Abandoned, Abandoned::status());
    }

    /// Where a request is counted.
    fn tally(&self, whose: &Whose) -> Arc<RouteTally> {
        let tally = match whose.caller() {
            // By name once, and from then on where the caller keeps it.
            Some(caller) => caller.tally.get_or_init(|| self.consumer(&caller.consumer.name)),
            None => &self.0.nobody,
        };
        tally.of(whose.route()).clone()
    }

    /// A call goes out that is charged to the consumer of this name.
    pub fn charge(&self, consumer: &Name) {
        self.consumer(consumer).calls.add();
    }

    /// Something has taken this long.
    pub fn duration(&self, kind: Kind, took: Duration) {
        self.0.durations[kind as usize].observe(took);
    }

    /// Something has become of a webhook.
    pub fn webhook(&self, outcome: &Result<Delivered, Problem>) {
        self.0.webhooks[webhooks::place(outcome)].add();
    }

    /// A configuration has been taken in, or could not be.
    pub fn reloaded(&self, taken: bool) {
        if taken { &self.0.reloads } else { &self.0.failed_reloads }.add();
        self.0.last_reload_failed.store(!taken, Ordering::Relaxed);
    }

    /// Where the calls for `target` are counted.
    pub fn calls(&self, target: &Target) -> Arc<AccountCalls> {
        self.calls_for(&target.upstream.name, &target.account)
    }

    /// Where connections from consumers are counted.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Notes how things are, so that the recent past can be told from all that was; once a second.
    pub fn tick(&self) {
        let now = self.snapshots();
        let mut recent = self.0.recent.lock();
        recent.push_back(now);
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }

    fn consumer(&self, name: &Name) -> Arc<Tally> {
        self.0.consumers.lock().entry(name.clone()).or_default().clone()
    }

    fn calls_for(&self, upstream: &Name, account: &Account) -> Arc<AccountCalls> {
        let name = account.name.as_ref().unwrap_or(&self.0.raw).clone();
        self.0.accounts.lock().entry((upstream.clone(), name)).or_default().clone()
    }
}

/// To read.
impl Metrics {
    /// When counting began.
    pub fn began(&self) -> SystemTime {
        self.0.began
    }

    /// The consumers by name, each with how its requests ended, and last those that nobody made.
    pub fn consumers(&self) -> Vec<ConsumerNumbers> {
        let known = self.tallies().into_iter();
        known
            .map(|(name, tally)| ConsumerNumbers {
                name,
                counts: Counts::of(&tally.counts()),
                calls: tally.calls.get(),
            })
            .collect()
    }

    /// The tallies of all consumers by name; that of requests without one has no name.
    pub fn tallies(&self) -> Vec<(Option<Name>, Arc<Tally>)> {
        let consumers = self.0.consumers.lock();
        let known = consumers.iter().map(|(name, tally)| (Some(name.clone()), tally.clone()));
        let sorted = known.collect::<BTreeMap<_, _>>().into_iter();
        sorted.chain([(None, self.0.nobody.clone())]).collect()
    }

    /// The accounts by upstream and name; all that have none are `raw`.
    pub fn accounts(&self, now: Instant) -> Vec<AccountNumbers> {
        let accounts = self.calls_by_account();
        let numbers = accounts.iter().map(|((upstream, name), calls)| calls.numbers(upstream, name, now));
        numbers.collect()
    }

    /// How the last calls went for the account of this name, if there was any.
    pub fn last_calls(&self, upstream: &Name, account: &Name, now: Instant) -> Option<LastCalls> {
        let calls = self.0.accounts.lock().get(&(upstream.clone(), account.clone())).cloned()?;
        Some(calls.last(now))
    }

    /// How the last calls went for accounts that have no name.
    pub fn nameless(&self) -> &Nameless {
        &self.0.nameless
    }

    /// What is counted of calls, by upstream and account.
    pub fn calls_by_account(&self) -> BTreeMap<(Name, Name), Arc<AccountCalls>> {
        let accounts = self.0.accounts.lock();
        accounts.iter().map(|(name, calls)| (name.clone(), calls.clone())).collect()
    }

    /// What has become of webhooks.
    pub fn webhooks(&self) -> [(&'static str, u64); OUTCOMES.len()] {
        std::array::from_fn(|place| (OUTCOMES[place], self.0.webhooks[place].get()))
    }

    /// Whether the configuration that was read last is the one that runs.
    pub fn last_reload_succeeded(&self) -> bool {
        !self.0.last_reload_failed.load(Ordering::Relaxed)
    }

    /// Everything together.
    pub fn totals(&self) -> Totals {
        let mut counts = Counts::default();
        self.consumers().iter().for_each(|consumer| counts.add(&consumer.counts));
        let accounts = self.accounts(Instant::now());
        let upstream_calls = accounts.iter().map(|account| account.calls).sum();
        Totals {
            upstream_calls,
            calls_saved: self.calls_saved(&counts, upstream_calls),
            upstream_failures: accounts.iter().map(|account| account.failures).sum(),
            upstream_refusals: accounts.iter().map(|account| account.rate_limited).sum(),
            connections_opened: self.0.connections.opened.get(),
            connections_open: self.0.connections.opened.get().saturating_sub(self.0.connections.closed.get()),
            reloads: self.0.reloads.get(),
            failed_reloads: self.0.failed_reloads.get(),
            counts,
        }
    }

    /// How many calls have been saved: requests that would have been calls, less the calls that were made, with all refreshes and
    /// retries. It never falls, although a call may be counted before the next request that it saves a call for.
    pub fn calls_saved(&self, counts: &Counts, upstream_calls: u64) -> u64 {
        let saved = counts.for_merge.saturating_sub(upstream_calls);
        self.0.saved.fetch_max(saved, Ordering::Relaxed).max(saved)
    }

    /// The duration that a share of `quantile` was not above within the last minute; `None` if nothing happened.
    pub fn quantile(&self, kind: Kind, quantile: f64) -> Option<Duration> {
        let recent = self.0.recent.lock().front().map(|then| then[kind as usize].clone());
        let now = self.durations(kind);
        recent.map_or_else(|| now.clone(), |then| now.since(&then)).quantile(quantile)
    }

    /// How long something has taken since the start.
    pub fn durations(&self, kind: Kind) -> Snapshot<20> {
        self.0.durations[kind as usize].snapshot()
    }

    /// How old pages from the store were when they were served.
    pub fn ages(&self) -> Snapshot<12> {
        self.0.ages.snapshot()
    }

    fn snapshots(&self) -> [Snapshot<20>; 3] {
        Kind::ALL.map(|kind| self.durations(kind))
    }
}
