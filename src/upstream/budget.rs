//! What may be sent upstream: per account, at a time, and failing. Every try pays here before it goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use super::account_budget::{AccountBudget, exhausted};
use super::failures::{Failures, Risk};
use crate::domain::access::{AccountHash, Name, Upstream};
use crate::domain::body::{Holding, stream};
use crate::domain::exchange::{Fetch, Target};
use crate::domain::page::Received;
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called};
use crate::domain::rules::BudgetRules;

/// All budgets. Cheap to clone; all clones share them. They outlive a reload.
#[derive(Clone, Default)]
pub struct Budgets {
    accounts: Arc<Mutex<Accounts>>,
    upstreams: Arc<Mutex<HashMap<Name, Arc<UpstreamBudget>>>>,
}

type AccountKey = (Name, AccountHash);

#[derive(Default)]
struct Accounts {
    by_key: HashMap<AccountKey, Arc<AccountBudget>>,
    /// The number of accounts at which those that are unspent are dropped next.
    sweep_at: usize,
}

/// Below this many accounts nothing is ever swept.
const FEW_ACCOUNTS: usize = 1024;

/// What all accounts of one upstream share.
struct UpstreamBudget {
    rules: BudgetRules,
    concurrency: Option<Arc<Semaphore>>,
    failures: Option<Failures>,
}

impl UpstreamBudget {
    fn new(rules: BudgetRules) -> Self {
        let places = |count| usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            rules,
            concurrency: rules.concurrency.map(|count| Arc::new(Semaphore::new(places(count)))),
            failures: rules.errors.map(Failures::new),
        }
    }

    /// The same after its rules were changed: the failures so far stay.
    fn with_rules(&self, rules: BudgetRules) -> Self {
        let mut changed = Self::new(rules);
        if let (Some(before), Some(allowed)) = (&self.failures, rules.errors) {
            changed.failures = Some(before.with_allowed(allowed));
        }
        changed
    }

    fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.failures.as_ref().and_then(|failures| failures.blocked_until(now))
    }

    /// A place in flight, and one among the failures that there may be. All calls to the upstream need both, so whoever waits for
    /// one with the other in hand keeps nobody from going.
    async fn place(&self, until: Instant) -> Result<Place, Problem> {
        let full = || Problem::BudgetExhausted { retry_after: Duration::from_secs(1) };
        let in_flight = match &self.concurrency {
            Some(places) => match timeout_at(until, places.clone().acquire_owned()).await {
                Ok(Ok(permit)) => Some(permit),
                _ => return Err(full()),
            },
            None => None,
        };
        let risk = match &self.failures {
            Some(failures) => Some(failures.risk(until).await.ok_or_else(full)?),
            None => None,
        };
        Ok(Place { _in_flight: in_flight, risk })
    }
}

/// A call's place at its upstream.
struct Place {
    _in_flight: Option<OwnedSemaphorePermit>,
    risk: Option<Risk>,
}

/// What a call has been given; it ends with the call, also when nobody waits for it any more.
struct Permit {
    account: Arc<AccountBudget>,
    place: Place,
}

impl Budgets {
    /// How many accounts have a budget here, and how many calls wait for one.
    pub fn waiting(&self) -> (usize, u32) {
        let accounts = self.accounts.lock();
        (accounts.by_key.len(), accounts.by_key.values().map(|account| account.waiting()).sum())
    }

    /// The calls in flight to `upstream`.
    pub fn in_flight(&self, upstream: &str) -> usize {
        let upstreams = self.upstreams.lock();
        let budget = upstreams.get(upstream);
        budget
            .and_then(|budget| Some((budget.rules.concurrency?, budget.concurrency.as_ref()?)))
            .map_or(0, |(allowed, places)| usize::try_from(allowed).unwrap_or(usize::MAX) - places.available_permits())
    }

    fn account(&self, target: &Target) -> Arc<AccountBudget> {
        let now = Instant::now();
        let rate = target.account.rate();
        let key = (target.upstream.name.clone(), target.account.hash);
        let mut accounts = self.accounts.lock();
        if accounts.by_key.len() >= accounts.sweep_at.max(FEW_ACCOUNTS) {
            accounts.by_key.retain(|_, budget| Arc::strong_count(budget) > 1 || !budget.is_unspent(now));
            accounts.sweep_at = accounts.by_key.len() * 2;
        }
        let budget = accounts.by_key.entry(key).or_insert_with(|| Arc::new(AccountBudget::new(rate, now)));
        if budget.rate() != rate {
            *budget = Arc::new(budget.with_rate(rate, now));
        }
        budget.clone()
    }

    fn upstream(&self, upstream: &Upstream) -> Arc<UpstreamBudget> {
        let mut upstreams = self.upstreams.lock();
        let rules = upstream.budget;
        let budget = upstreams.entry(upstream.name.clone()).or_insert_with(|| Arc::new(UpstreamBudget::new(rules)));
        if budget.rules != rules {
            *budget = Arc::new(budget.with_rules(rules));
        }
        budget.clone()
    }

    /// Waits until the call may go, for no longer than `max_wait`. Nothing is held while something else is waited for, but the
    /// turn, which is the account's own.
    async fn reserve(&self, target: &Target, deadline: Instant) -> Result<Permit, Problem> {
        let account = self.account(target);
        let upstream = self.upstream(&target.upstream);
        let until = (Instant::now() + upstream.rules.max_wait).min(deadline);
        let place = {
            let turn = account.queue(until).await?;
            loop {
                let now = Instant::now();
                let earliest = turn.earliest(now).max(upstream.blocked_until(now).unwrap_or(now));
                if earliest > until {
                    return Err(exhausted(earliest, now));
                }
                sleep_until(earliest).await;
                let place = upstream.place(until).await?;
                // Others may have failed or been refused meanwhile: then the place goes back and the wait begins anew.
                let now = Instant::now();
                if upstream.blocked_until(now).is_none() && turn.spend(now).is_ok() {
                    break place;
                }
            }
        };
        Ok(Permit { account, place })
    }
}

impl Permit {
    /// What an answer with `status` teaches that asks to come back at `retry_at`; says when that can be.
    fn learn(&mut self, status: u16, retry_at: Option<Instant>) -> Option<Instant> {
        let now = Instant::now();
        // How the call ended is known by its status: only a failure keeps its place among them.
        let risk = self.place.risk.take();
        if status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
            return Some(self.account.refused(retry_at, now, fastrand::f32()));
        }
        self.account.answered();
        if let Some(risk) = risk.filter(|_| status >= 400) {
            risk.failed(now);
        }
        retry_at
    }
}

/// The layer: a call goes on once it has been paid for.
pub fn layer<S>(budgets: Budgets) -> impl Layer<S, Service = Budgeted<S>> + Clone {
    layer_fn(move |inner| Budgeted { inner, budgets: budgets.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Budgeted<S> {
    inner: S,
    budgets: Budgets,
}

impl<S> Service<Fetch> for Budgeted<S>
where
    S: Service<Fetch, Response = Received, Error = Problem, Future: Send> + Clone + Send + 'static,
{
    type Response = Received;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Received, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, fetch: Fetch) -> Self::Future {
        let Self { inner, budgets } = self.clone();
        Box::pin(async move {
            let mut permit = budgets.reserve(&fetch.target, fetch.deadline).await?;
            fetch.departure.depart();
            let mut outcome = inner.oneshot(fetch).await;
            match &mut outcome {
                Ok(received) => received.retry_at = permit.learn(received.status.as_u16(), received.retry_at),
                Err(Problem::UpstreamFailed(Cause::Unexpected(status))) => drop(permit.learn(*status, None)),
                Err(_) => {}
            }
            outcome
        })
    }
}

impl<S> Service<Call> for Budgeted<S>
where
    S: Service<Call, Response = Called, Error = Problem, Future: Send> + Clone + Send + 'static,
{
    type Response = Called;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Called, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let Self { inner, budgets } = self.clone();
        Box::pin(async move {
            let mut permit = budgets.reserve(&call.target, call.deadline).await?;
            let Called { response, began, retry_at } = inner.oneshot(call).await?;
            let retry_at = permit.learn(response.status().as_u16(), retry_at);
            // A call is in flight until the last byte of its answer.
            let response = response.map(|body| stream(Holding::new(body, permit)));
            Ok(Called { response, began, retry_at })
        })
    }
}
