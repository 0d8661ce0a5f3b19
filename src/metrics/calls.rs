//! Counts the calls to upstreams: every try that goes out, and every one that could not for want of budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::last::Last;
use super::numbers::{AccountNumbers, CallEnd, LastCalls};
use super::registry::{Kind, Metrics};
use crate::domain::access::{AccountHash, Name};
use crate::domain::caller::Payer;
use crate::domain::exchange::{Fetch, Reason, Target};
use crate::domain::hindrance::Kind as Hindrance;
use crate::domain::problem::{Cause, Problem};
use crate::domain::received::Received;
use crate::domain::relay::{Call, Called};
use crate::domain::tally::{CLASSES, Counter, class_of};

/// How a call ended as its label says: the classes of statuses, and no answer of use.
const CALL_CLASSES: [&str; 5] = [CLASSES[0], CLASSES[1], CLASSES[2], CLASSES[3], "none"];

/// The calls for one account.
#[derive(Debug, Default)]
pub struct AccountCalls {
    counts: [[AtomicU64; CALL_CLASSES.len()]; Reason::ALL.len()],
    rate_limited: Counter,
    refused: [Counter; Hindrance::LABELS.len()],
    last: Mutex<Last>,
}

impl AccountCalls {
    /// A try has ended.
    fn count(&self, reason: Reason, ended: CallEnd) {
        let class = match ended.status() {
            // A page that is none is no success, whatever its status says.
            Some(status) if ended.is_success() || status.as_u16() >= 400 => class_of(status),
            _ => CALL_CLASSES.len() - 1,
        };
        self.counts[reason as usize][class].fetch_add(1, Ordering::Relaxed);
        if ended.status() == Some(StatusCode::TOO_MANY_REQUESTS) {
            self.rate_limited.add();
        }
        self.last.lock().note(ended, Instant::now(), SystemTime::now());
    }

    /// How many tries ended how, by reason and class; what never happened is left out.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let rows = Reason::ALL.into_iter().zip(&self.counts);
        let all = rows.flat_map(|(reason, by_class)| {
            let cells = CALL_CLASSES.into_iter().zip(by_class);
            cells.map(move |(class, count)| (reason.label(), class, count.load(Ordering::Relaxed)))
        });
        all.filter(|(_, _, count)| *count > 0).collect()
    }

    /// How many calls were not made for want of budget, by what of it. What never happened is left out, except the two that people
    /// wait for: their first time is to be seen.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        let all = Hindrance::LABELS.into_iter().zip(&self.refused).map(|(label, refused)| (label, refused.get()));
        all.filter(|(label, refused)| *refused > 0 || matches!(*label, "rate" | "failures")).collect()
    }

    /// How the last of them went.
    pub(super) fn last(&self, now: Instant) -> LastCalls {
        self.last.lock().told(now)
    }

    /// All of it, for the account of this name.
    pub(super) fn numbers(&self, upstream: &Name, name: &Name, now: Instant) -> AccountNumbers {
        let sum = |failed: bool| {
            // The first two classes are those of success.
            let chosen = self.counts.iter().flat_map(|by_class| &by_class[if failed { 2 } else { 0 }..]);
            chosen.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        AccountNumbers {
            upstream: upstream.clone(),
            name: name.clone(),
            calls: sum(false),
            failures: sum(true),
            rate_limited: self.rate_limited.get(),
            refused: self.refused.iter().map(Counter::get).sum(),
            last: self.last(now),
        }
    }
}

/// A try that is under way. It is counted however it ends, also when nobody waits for it any more: to Merge it has been made.
struct Try {
    metrics: Metrics,
    calls: Arc<AccountCalls>,
    /// Whose call it is, where that is nobody who has a name.
    nameless: Option<(Name, AccountHash)>,
    reason: Reason,
    began: Instant,
    ended: CallEnd,
}

impl Try {
    fn begin(metrics: &Metrics, target: &Target, payer: &Payer, reason: Reason) -> Self {
        metrics.charge(&payer.name);
        let calls = metrics.calls(target);
        let nameless = target.account.name.is_none().then(|| (target.upstream.name.clone(), target.account.hash));
        Self { metrics: metrics.clone(), calls, nameless, reason, began: Instant::now(), ended: CallEnd::Abandoned }
    }

    fn end(mut self, ended: Result<StatusCode, &Problem>) {
        self.ended = match ended {
            Ok(status) => CallEnd::Answered(status),
            Err(Problem::UpstreamTimeout) => CallEnd::TimedOut,
            Err(Problem::UpstreamFailed(cause)) => CallEnd::Failed(*cause),
            // Whatever else it was, it had nothing to do with the upstream.
            Err(_) => CallEnd::Failed(Cause::Died),
        };
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.calls.count(self.reason, self.ended);
        if let Some(account) = self.nameless.take() {
            self.metrics.nameless().note(account, self.ended, Instant::now(), SystemTime::now());
        }
        self.metrics.duration(Kind::Upstream, self.began.elapsed());
    }
}

/// The layer below the budget: every try that goes out is counted.
pub fn tries<S>(metrics: Metrics) -> impl Layer<S, Service = Tries<S>> + Clone {
    layer_fn(move |inner| Tries { inner, metrics: metrics.clone() })
}

/// See [`tries`].
#[derive(Clone)]
pub struct Tries<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Service<Fetch> for Tries<S>
where
    S: Service<Fetch, Response = Received, Error = Problem, Future: Send + 'static>,
{
    type Response = Received;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Received, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, fetch: Fetch) -> Self::Future {
        let attempt = Try::begin(&self.metrics, &fetch.target, &fetch.caller.payer, fetch.reason);
        let asked = fetch.known.as_ref().is_some_and(|known| known.validators.is_some());
        let outcome = self.inner.call(fetch);
        Box::pin(async move {
            let outcome = outcome.await;
            match &outcome {
                Ok(received) => match received.fault(asked) {
                    Some(cause) => attempt.end(Err(&Problem::UpstreamFailed(cause))),
                    None => attempt.end(Ok(received.status)),
                },
                Err(problem) => attempt.end(Err(problem)),
            }
            outcome
        })
    }
}

impl<S> Service<Call> for Tries<S>
where
    S: Service<Call, Response = Called, Error = Problem, Future: Send + 'static>,
{
    type Response = Called;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Called, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let attempt = Try::begin(&self.metrics, &call.target, &call.payer, call.reason);
        let outcome = self.inner.call(call);
        Box::pin(async move {
            let outcome = outcome.await;
            attempt.end(outcome.as_ref().map(|called| called.response.status()));
            outcome
        })
    }
}

/// The layer above the budget: what it refuses is counted.
pub fn refusals<S>(metrics: Metrics) -> impl Layer<S, Service = Refusals<S>> + Clone {
    layer_fn(move |inner| Refusals { inner, metrics: metrics.clone() })
}

/// See [`refusals`].
#[derive(Clone)]
pub struct Refusals<S> {
    inner: S,
    metrics: Metrics,
}

/// What is paid for with an account's budget.
pub trait Paid {
    /// Whose budget it is.
    fn target(&self) -> &Target;
}

impl Paid for Fetch {
    fn target(&self) -> &Target {
        &self.target
    }
}

impl Paid for Call {
    fn target(&self) -> &Target {
        &self.target
    }
}

impl<S, R> Service<R> for Refusals<S>
where
    S: Service<R, Error = Problem, Future: Send + 'static>,
    R: Paid,
{
    type Response = S::Response;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<S::Response, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, paid: R) -> Self::Future {
        let (metrics, target) = (self.metrics.clone(), paid.target().clone());
        let outcome = self.inner.call(paid);
        Box::pin(async move {
            let outcome = outcome.await;
            if let Err(Problem::BudgetExhausted { kind, .. }) = &outcome {
                metrics.calls(&target).refused[kind.place()].add();
            }
            outcome
        })
    }
}
