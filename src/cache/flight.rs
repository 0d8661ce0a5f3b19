//! Flights: any number of callers who miss the same page at once share one fetch.
//!
//! The fetch runs as a task of its own, so no caller can kill it, stall it or outlive it unnoticed. It always ends in this order:
//! the page is stored, the key is freed, the callers are told. Whoever comes between the first two steps finds the page; whoever
//! comes later begins a new flight, and so does whoever comes after a purge.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use super::freshness;
use super::store::Store;
use crate::domain::access::Name;
use crate::domain::ask::{Ask, Question};
use crate::domain::exchange::{Departure, Fetch, Landing, Reason};
use crate::domain::key::PageKey;
use crate::domain::lifetime::Freshness;
use crate::domain::page::{Kind, Page};
use crate::domain::problem::{Cause, Problem};
use crate::domain::trace::Trace;

/// A request for the page of `ask`, fetched now or already on its way.
#[derive(Clone, Debug)]
pub struct Join {
    /// Who asks for what.
    pub ask: Ask,
    /// The page that the caller has seen and not found good enough.
    pub seen: Option<Arc<Page>>,
    /// Why it is fetched.
    pub reason: Reason,
}

/// How a caller's flight ended.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The page, or why there is none.
    pub outcome: Ended,
    /// Whether another caller had begun the flight.
    pub collapsed: bool,
}

impl Join {
    /// Whether the caller waits for another flight when one was no answer: while there is time, and nothing else to give it. A page
    /// that may stand in for a failure does so at once, as it does for whoever asks after the failure.
    fn may_wait_on(&self, now: Instant) -> bool {
        let has_stand_in = self.seen.as_deref().is_some_and(|seen| freshness::stands_in(seen, now));
        !has_stand_in && now < self.ask.deadline()
    }

    /// The fetch that answers it.
    fn fetch(&self) -> Fetch {
        let Self { ask, seen, reason } = self;
        let upstream = &ask.target.upstream;
        let whole = Instant::now() + upstream.budget.max_wait + upstream.client.timeout;
        Fetch {
            question: ask.question.clone(),
            // A remembered refusal has nothing to be confirmed.
            known: seen.clone().filter(|page| page.kind == Kind::Good),
            reason: *reason,
            // Those who share a flight may have come with less time, so its end is reckoned from the rules and not from theirs.
            deadline: if ask.wants.no_store { whole.min(ask.deadline()) } else { whole },
            trace: ask.trace.step("fetch"),
            departure: Departure::default(),
            private: ask.wants.no_store,
        }
    }
}

/// How a flight ends.
pub type Ended = Result<Landing, Problem>;

/// The flights in the air, by key. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Flights(Arc<Shared>);

struct Shared {
    shards: [Shard; SHARDS],
    store: Store,
}

type Shard = Mutex<ByKey>;

type ByKey = HashMap<PageKey, Arc<Flight>, RandomState>;

/// Enough that callers of different keys rarely meet on a lock.
const SHARDS: usize = 64;

/// One shared fetch.
struct Flight {
    began: Instant,
    /// Its receivers are the callers that wait.
    outcome: watch::Sender<Option<Ended>>,
    /// Where its fetch is traced.
    traced: Option<SpanContext>,
    /// Whom its call is charged to.
    payer: Name,
}

/// What a caller does after it has looked at the flights in the air.
enum Seat {
    /// The page landed between the caller's look into the store and now.
    Landed(Arc<Page>),
    /// Wait for a flight; if somebody else has begun it, it is charged to `payer`.
    Wait { outcome: watch::Receiver<Option<Ended>>, payer: Option<Name>, trace: Trace },
}

impl Seat {
    /// Whether it is in a flight that somebody else pays for.
    fn is_of_another(&self, payer: &Name) -> bool {
        matches!(self, Self::Wait { payer: Some(other), .. } if other != payer)
    }

    /// Waits until the flight has ended, or until the caller has no more time.
    async fn wait(self, deadline: Instant) -> Joined {
        let (mut waiting, collapsed, _trace) = match self {
            Self::Landed(page) => {
                let landing = Landing { status: page.status, page, stored: true, remembered: false };
                return Joined { outcome: Ok(landing), collapsed: true };
            }
            Self::Wait { outcome, payer, trace } => (outcome, payer.is_some(), trace),
        };
        let outcome = match timeout_at(deadline, waiting.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(DIED),
            Ok(Err(_gone)) => DIED,
            Err(_elapsed) => Err(Problem::UpstreamTimeout),
        };
        Joined { outcome, collapsed }
    }
}

const DIED: Ended = Err(Problem::UpstreamFailed(Cause::Died));

/// Whether a flight ended without a word from the upstream, for reasons of its own.
fn is_no_answer(problem: &Problem) -> bool {
    matches!(problem, Problem::UpstreamTimeout | Problem::UpstreamFailed(Cause::Died))
}

impl Flights {
    /// No flights; pages land in `store`.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Shared { shards: std::array::from_fn(|_| Shard::default()), store }))
    }

    /// How many fetches are under way, and how many callers wait for them.
    pub fn count(&self) -> (usize, usize) {
        self.0.shards.iter().map(|shard| shard.lock()).fold((0, 0), |(flights, waiting), shard| {
            let here: usize = shard.values().map(|flight| flight.outcome.receiver_count()).sum();
            (flights + shard.len(), waiting + here)
        })
    }

    /// Whether the page of `key` is being fetched.
    pub fn is_under_way(&self, key: &PageKey) -> bool {
        self.shard(key).lock().contains_key(key)
    }

    fn shard(&self, key: &PageKey) -> &Shard {
        &self.0.shards[key.one_of(SHARDS)]
    }

    /// Takes a seat in the flight for `join`, beginning one with `fetch` if there is none.
    fn board<S>(&self, join: &Join, fetch: S) -> Seat
    where
        S: Service<Fetch, Response = Landing, Error = Problem, Future: Send> + Send + 'static,
    {
        let key = &join.ask.key;
        let mut shard = self.shard(key).lock();
        let place = shard.entry(key.clone());
        // What was asked for before a purge is for those who came before it.
        if let Entry::Occupied(flight) = &place
            && !self.0.store.was_purged_since(key, flight.get().began)
        {
            let trace = join.ask.trace.wait("wait for flight", flight.get().traced.as_ref());
            let (outcome, payer) = (flight.get().outcome.subscribe(), Some(flight.get().payer.clone()));
            return Seat::Wait { outcome, payer, trace };
        }
        // A caller that missed just before a landing comes here just after it: without this second look it would fetch twice.
        if let Some(landed) = self.landed_since(key, join.seen.as_ref()) {
            return Seat::Landed(landed);
        }
        let (sender, outcome) = watch::channel(None);
        let pages = join.fetch();
        let (traced, payer) = (pages.trace.place(), join.ask.caller.payer.name.clone());
        let flight = Arc::new(Flight { began: Instant::now(), outcome: sender, traced, payer });
        place.insert_entry(flight.clone());
        let slot = Slot { flights: self.clone(), question: join.ask.question.clone(), flight };
        // Behind a pointer, as a task is moved several times before it runs and once it has ended.
        tokio::spawn(Box::pin(fly(slot, pages, fetch)));
        Seat::Wait { outcome, payer: None, trace: Trace::default() }
    }

    /// A fresh page that is not the one that the caller has seen.
    fn landed_since(&self, key: &PageKey, seen: Option<&Arc<Page>>) -> Option<Arc<Page>> {
        let stored = self.0.store.get(key)?;
        let is_new = seen.is_none_or(|seen| !Arc::ptr_eq(seen, &stored));
        (is_new && matches!(stored.freshness(Instant::now()), Freshness::Fresh { .. })).then_some(stored)
    }
}

/// The key's place among the flights. Frees it when dropped, so that no flight that dies can block its key.
struct Slot {
    flights: Flights,
    question: Arc<Question>,
    flight: Arc<Flight>,
}

impl Slot {
    /// Frees the key unless a newer flight has it.
    fn free(&self, shard: &mut ByKey) {
        if shard.get(&self.question.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            shard.remove(&self.question.key);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free(&mut self.flights.shard(&self.question.key).lock());
    }
}

/// How much later than the fetch's own deadline the flight itself is cut off.
const GRACE: Duration = Duration::from_millis(100);

/// The flight's own task.
async fn fly<S>(slot: Slot, fetch: Fetch, service: S)
where
    S: Service<Fetch, Response = Landing, Error = Problem, Future: Send> + Send + 'static,
{
    let deadline = fetch.deadline + GRACE;
    let known = fetch.known.clone();
    let expected = Expected { departure: fetch.departure.clone(), wanted_anyway: fetch.reason == Reason::Refresh };
    let whole = AssertUnwindSafe(timeout_at(deadline, service.oneshot(fetch))).catch_unwind();
    tokio::pin!(whole);
    let ended = tokio::select! {
        ended = &mut whole => ended,
        () = abandoned(&slot, &expected) => return,
    };
    let outcome = match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_elapsed)) => Err(Problem::UpstreamTimeout),
        Err(_panic) => DIED,
    };
    if let Some(known) = known.filter(|_| failed(&outcome)) {
        known.set_back(Instant::now(), retry_at(&outcome), fastrand::f32());
    }
    let flight = slot.flight.clone();
    drop(slot);
    flight.outcome.send_replace(Some(outcome));
}

/// Why a flight goes on although nobody waits for it.
struct Expected {
    /// A call that has gone out has been paid for: its page is kept for the next who asks.
    departure: Departure,
    /// A refresh is begun for those who will ask.
    wanted_anyway: bool,
}

/// Completes when everybody has left before the call went out, and the key has been freed.
async fn abandoned(slot: &Slot, expected: &Expected) {
    loop {
        slot.flight.outcome.closed().await;
        if expected.wanted_anyway || expected.departure.has_departed() {
            return std::future::pending().await;
        }
        // Under the lock nobody can take a seat, so a flight that is empty here stays empty.
        let mut shard = slot.flights.shard(&slot.question.key).lock();
        if slot.flight.outcome.receiver_count() == 0 {
            slot.free(&mut shard);
            return;
        }
    }
}

/// Whether the upstream failed, or may not be asked by anybody.
fn failed(outcome: &Ended) -> bool {
    outcome.as_ref().map_or_else(|problem| problem.is_upstream() && !problem.is_of_the_payer(), Landing::is_failure)
}

fn retry_at(outcome: &Ended) -> Option<Instant> {
    match outcome {
        Ok(landing) => landing.page.retry_at(),
        Err(problem) => problem.row().retry_after.map(|pause| Instant::now() + pause),
    }
}

/// The layer: `Join` in, `Fetch` up.
pub fn layer<S>(flights: Flights) -> impl Layer<S, Service = Aboard<S>> + Clone {
    layer_fn(move |inner| Aboard { inner, flights: flights.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Aboard<S> {
    inner: S,
    flights: Flights,
}

impl<S> Service<Join> for Aboard<S>
where
    S: Service<Fetch, Response = Landing, Error = Problem, Future: Send> + Clone + Send + 'static,
{
    type Response = Joined;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Joined, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, join: Join) -> Self::Future {
        let inner = self.inner.clone();
        if join.ask.wants.no_store {
            return Box::pin(async move {
                let outcome = inner.oneshot(join.fetch()).await;
                Ok(Joined { outcome, collapsed: false })
            });
        }
        // The seat is taken here and not in the future: a refresh that nobody waits for must begin all the same.
        let mut seat = self.flights.board(&join, inner.clone());
        let flights = self.flights.clone();
        Box::pin(async move {
            loop {
                let is_of_another = seat.is_of_another(&join.ask.caller.payer.name);
                match seat.wait(join.ask.deadline()).await {
                    // Somebody else's flight was too late or broke down, or who pays for it is held back. That says nothing about one
                    // of our own.
                    Joined { outcome: Err(problem), collapsed: true }
                        if (is_no_answer(&problem) || is_of_another && problem.is_of_the_payer())
                            && join.may_wait_on(Instant::now()) =>
                    {
                        seat = flights.board(&join, inner.clone());
                    }
                    joined => return Ok(joined),
                }
            }
        })
    }
}
