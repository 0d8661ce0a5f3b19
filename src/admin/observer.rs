//! Looks at the proxy for all who watch it: once a second at most, and never so often that looking costs more than it tells.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::alarms::Alarms;
use super::history::{Columns, History, Sample};
use super::readings::{Reading, Readings, tenths, thousandths};
use super::rows::{self, Lookup, Memo};
use super::spenders;
use super::state::{
    AccountRow, Cache, Condition, Conditions, EventRow, Head, Millis, Now, Proxy, Reload, WallClock, millis,
};
use crate::cache::flight::Flights;
use crate::domain::access::Name;
use crate::domain::event::Events;

/// What is looked at.
pub struct Sources<'a> {
    /// Accounts, consumers, pages, budgets.
    pub lookup: Lookup<'a>,
    /// The fetches under way.
    pub flights: &'a Flights,
    /// Entries, bytes and room of what is cached by the upstream's own headers.
    pub responses: (u64, u64, u64),
    /// What has happened.
    pub events: &'a Events,
    /// `ready`, or why it is not.
    pub condition: String,
    /// Whether there is a file to reload.
    pub reloadable: bool,
    /// How the last reload ended.
    pub last_reload: Option<Reload>,
    /// What the file says and only a restart brings about.
    pub needs_restart: Arc<Vec<String>>,
}

/// The proxy at one moment. All who watch share it.
#[derive(Debug)]
pub struct Snapshot {
    /// Later ones have higher numbers.
    pub number: u64,
    /// Everything but the accounts.
    pub head: Head,
    /// All accounts that are shown at all, in no order.
    pub rows: Vec<AccountRow>,
    /// How many there are of each condition.
    pub conditions: Conditions,
    /// How many samples of history there have been, and the newest.
    pub sample: (u64, Option<Sample>),
}

/// See the module. Shared by all.
#[derive(Debug)]
pub struct Observer {
    started_at: Millis,
    counted: Mutex<Counted>,
    /// Held while somebody looks, so that all others wait for that look instead of looking themselves.
    looking: Mutex<Looking>,
    shown: watch::Sender<Option<Arc<Snapshot>>>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Counted {
    readings: Readings,
    history: History,
    alarms: Alarms,
}

#[derive(Debug, Default)]
struct Looking {
    memo: Memo,
    clock: WallClock,
    number: u64,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    began: Instant,
    good_for: Duration,
    snapshot: Arc<Snapshot>,
}

/// A look is good for so long at least.
const OFTEN: Duration = Duration::from_millis(900);

/// And for so many times what it has cost: looking never takes more than this share of one core, however much there is to see.
const COST: u32 = 50;

/// How many events are shown.
const EVENTS: usize = 50;

impl Observer {
    /// Begins to watch.
    pub fn new() -> Self {
        let looking = Looking::default();
        Self {
            started_at: looking.clock.millis(Instant::now()),
            counted: Mutex::default(),
            looking: Mutex::new(looking),
            shown: watch::Sender::new(None),
            closed: watch::Sender::new(false),
        }
    }

    /// Takes in what has been counted until now, once a second, and notes in `events` what is new; `blocked` are the upstreams whose
    /// failure budget is spent.
    pub fn count(&self, now: Instant, reading: Reading, blocked: &[Name], events: &Events) {
        let mut counted = self.counted.lock();
        let unix_seconds = millis(std::time::SystemTime::now()) / 1_000;
        counted.alarms.compare(&reading, blocked, events);
        counted.history.observe(now, unix_seconds, &reading);
        counted.readings.push(now, reading);
    }

    /// Looks, unless somebody has a moment ago. It walks over all pages, so it has no place on a thread that serves.
    pub fn look(&self, sources: &Sources<'_>) -> Arc<Snapshot> {
        let mut looking = self.looking.lock();
        let began = Instant::now();
        if let Some(last) = &looking.last
            && began.saturating_duration_since(last.began) < last.good_for
        {
            return last.snapshot.clone();
        }
        let snapshot = Arc::new(self.snapshot(sources, &mut looking, began));
        let good_for = OFTEN.max(began.elapsed() * COST);
        looking.last = Some(Last { began, good_for, snapshot: snapshot.clone() });
        drop(looking);
        self.shown.send_replace(Some(snapshot.clone()));
        snapshot
    }

    fn snapshot(&self, sources: &Sources<'_>, looking: &mut Looking, now: Instant) -> Snapshot {
        looking.number += 1;
        looking.clock = looking.clock.checked(now);
        let (clock, lookup) = (looking.clock, sources.lookup);
        // What takes long happens without the lock that the next reading needs.
        let (readings, saved_today, sample) = {
            let counted = self.counted.lock();
            let saved = counted.readings.latest().map_or(0, |reading| reading.calls_saved);
            (counted.readings.clone(), counted.history.saved_today(saved), counted.history.newest())
        };
        let rows = rows::accounts(lookup, &readings, &mut looking.memo, clock, now);
        let (consumers, consumers_total) = spenders::consumers(lookup.house, &readings, now);
        let head = Head {
            proxy: Proxy {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: self.started_at,
                time: clock.millis(now),
                condition: sources.condition.clone(),
                reloadable: sources.reloadable,
                last_reload: sources.last_reload.clone(),
                needs_restart: sources.needs_restart.to_vec(),
            },
            now: present(&readings, saved_today),
            cache: cache(sources),
            upstreams: spenders::upstreams(lookup, clock),
            consumers,
            consumers_total,
            events: sources.events.latest(EVENTS).iter().map(EventRow::new).collect(),
        };
        let mut conditions = Conditions::default();
        for row in &rows {
            *match row.condition {
                Condition::Problem => &mut conditions.problem,
                Condition::Warning => &mut conditions.warning,
                Condition::Ok => &mut conditions.ok,
                Condition::Idle => &mut conditions.idle,
            } += 1;
        }
        Snapshot { number: looking.number, head, rows, conditions, sample }
    }

    /// The last hour.
    pub fn history(&self) -> Columns {
        self.counted.lock().history.columns()
    }

    /// Watches what [`Observer::look`] finds.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.shown.subscribe()
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        self.shown.receiver_count() > 0
    }

    /// Ends all streams: those who watch are to go.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Completes when streams are to end.
    pub async fn closed(&self) {
        // An error would mean that the sender is gone, which is a part of self.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}

fn present(readings: &Readings, calls_saved_today: u64) -> Now {
    let Some(reading) = readings.latest() else { return Now::default() };
    let span = readings.span();
    let microseconds = |time: Option<Duration>| time.map(|time| tenths(time.as_secs_f64() * 1e6));
    Now {
        requests_per_second: span.map_or(0.0, |span| tenths(span.rate(|reading| reading.total.requests))),
        hit_ratio: span.and_then(|span| span.hit_ratio()).map(thousandths),
        calls_per_second: span.map_or(0.0, |span| tenths(span.rate(|reading| reading.calls))),
        calls_saved_today,
        hit_p99_microseconds: microseconds(reading.hit_p99),
        miss_p99_microseconds: microseconds(reading.miss_p99),
        requests_total: reading.total.requests,
    }
}

fn cache(sources: &Sources<'_>) -> Cache {
    let (entries, bytes) = sources.lookup.store.size();
    let (flights, waiters) = sources.flights.count();
    let (more_entries, more_bytes, more_room) = sources.responses;
    Cache {
        entries: entries + more_entries,
        bytes: bytes + more_bytes,
        capacity: sources.lookup.store.capacity().saturating_add(more_room),
        flights,
        waiters,
    }
}
