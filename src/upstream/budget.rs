//! What may be sent upstream: per account, at a time, and failing. Every try pays here before it goes.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::address::{Address, Permit, Refused};
use super::bid::{Bid, Ending};
use super::rate_limit_fields as fields;
use super::retry_after;
use super::ways::{InForce, Ways};
use crate::domain::access::{Name, Upstream};
use crate::domain::body::{Holding, stream};
use crate::domain::caller::Payer;
use crate::domain::exchange::{Fetch, Reason, Target};
use crate::domain::problem::{Cause, Problem};
use crate::domain::received::Received;
use crate::domain::relay::{Call, Called};

/// All budgets. Cheap to clone; all clones share them. They outlive a reload.
#[derive(Clone, Default)]
pub struct Budgets {
    addresses: Arc<Mutex<Addresses>>,
    in_force: InForce,
}

type Addresses = HashMap<Endpoint, Arc<Address>, RandomState>;

/// Host and port.
type Endpoint = (String, u16);

impl Budgets {
    /// Unspent ones, by the rules that are in force when a call asks for them.
    pub fn new(in_force: InForce) -> Self {
        Self { addresses: Arc::default(), in_force }
    }

    /// The address that an upstream is at. Merge counts failures by where calls come from, whatever key they have: so upstreams at one
    /// host share them.
    pub fn address(&self, upstream: &Upstream) -> Arc<Address> {
        self.addresses.lock().entry(upstream.endpoint()).or_default().clone()
    }

    /// Waits until the call may go, for no longer than `max_wait`. Tells as well whom it goes to.
    async fn reserve(
        &self,
        target: &Target,
        payer: &Payer,
        deadline: Instant,
    ) -> Result<(Permit, Arc<Upstream>), Refused> {
        let mut until = None;
        loop {
            let way = self.in_force.way(&target.upstream.name);
            let way = way.ok_or(Refused::Problem(Problem::UpstreamFailed(Cause::Connect)))?;
            let until = *until.get_or_insert_with(|| (Instant::now() + way.rules.max_wait).min(deadline));
            let address = self.address(&way.upstream);
            let bid = || Bid::new(target, payer, way.rules, &self.in_force.ways());
            let permit = match address.reserve(bid, until).await {
                Err(Refused::Moved) => continue,
                reserved => reserved?,
            };
            // It may have moved to another address just now, which has a budget of its own.
            match self.in_force.way(&target.upstream.name) {
                Some(now) if now.upstream.endpoint() != way.upstream.endpoint() => permit.give_back(),
                Some(now) => return Ok((permit, now.upstream)),
                None => return Ok((permit, way.upstream.clone())),
            }
        }
    }

    /// From now on the rules count that are in force now, also for those who wait.
    pub fn take_over(&self) {
        let (ways, places) = self.places();
        for (endpoint, address) in places {
            let rules = |name: &Name| ways.rules_at(&endpoint, name);
            let moved = |name: &Name| ways.has(name) && rules(name).is_none();
            address.take_over(rules, |name, account| ways.rate(name, account), moved);
        }
    }

    /// Forgets what an upstream has refused: it was asked with another key, or was another server.
    pub fn forget_refusals(&self, upstream: &Name) {
        self.addresses().iter().for_each(|address| address.forget_refusals(upstream));
    }

    /// All addresses that have been called.
    pub fn addresses(&self) -> Vec<Arc<Address>> {
        self.addresses.lock().values().cloned().collect()
    }

    /// The same, each with where it is, and the ways that are in force.
    pub(super) fn places(&self) -> (Arc<Ways>, Vec<(Endpoint, Arc<Address>)>) {
        let all = self.addresses.lock();
        (self.in_force.ways(), all.iter().map(|(endpoint, address)| (endpoint.clone(), address.clone())).collect())
    }
}

/// Tells the budgets what an answer has taught them; says when the account may be asked again, if the answer is about that.
fn learn(permit: &mut Permit, status: StatusCode, headers: &HeaderMap, retry_at: Option<Instant>) -> Option<Instant> {
    let left = fields::left(headers);
    if status != StatusCode::TOO_MANY_REQUESTS {
        permit.ended(Ending::Answered(status.as_u16()), left);
        return retry_at;
    }
    let until = retry_at.or_else(|| Some(Instant::now() + fields::reset(headers)?.max(retry_after::SHORTEST)));
    permit.ended(Ending::Limited(until), left)
}

/// Whether an answer is about the account's token, and so about all its pages.
fn concerns_the_token(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// What is known of a call that brought nothing: what Merge has answered counts, whatever became of the body.
fn learn_from(permit: &mut Permit, problem: &Problem) {
    permit.ended(
        match problem {
            // When it may be asked again has got lost with the answer.
            Problem::UpstreamFailed(Cause::Unexpected(429)) => Ending::Limited(None),
            Problem::UpstreamFailed(Cause::Unexpected(status)) => Ending::Answered(*status),
            Problem::UpstreamFailed(Cause::TooLarge | Cause::NotJson) => Ending::Answered(StatusCode::OK.as_u16()),
            Problem::InvalidRequest(_) => Ending::Broken,
            Problem::UpstreamTimeout => Ending::TooLate,
            _ => Ending::Silent,
        },
        None,
    );
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

impl<S: Clone> Budgeted<S> {
    /// The service below, which has been asked whether it is ready; the copy that takes its place has not.
    fn take_ready(&mut self) -> S {
        let next = self.inner.clone();
        mem::replace(&mut self.inner, next)
    }
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

    fn call(&mut self, mut fetch: Fetch) -> Self::Future {
        let (mut inner, budgets) = (self.take_ready(), self.budgets.clone());
        Box::pin(async move {
            let waiting = fetch.trace.step("wait for budget");
            let (mut permit, upstream) = match budgets.reserve(&fetch.target, &fetch.caller.payer, fetch.deadline).await
            {
                Ok(reserved) => reserved,
                Err(Refused::Remembered(refusal, _)) => return Ok(Received { remembered: true, ..(*refusal).clone() }),
                Err(refused) => return Err(refused.problem()),
            };
            drop(waiting);
            if permit.is_probe() {
                fetch.reason = Reason::Probe;
            }
            fetch.departure.depart();
            match inner.call(fetch).await {
                // What was meant for another key says nothing about the account.
                Ok(received) if concerns_the_token(received.status) && budgets.in_force.still_is(&upstream) => {
                    permit.ended(Ending::Refused(Arc::new(received.detached())), None);
                    Ok(received)
                }
                Ok(mut received) => {
                    received.retry_at = learn(&mut permit, received.status, &received.headers, received.retry_at);
                    Ok(received)
                }
                Err(problem) => {
                    learn_from(&mut permit, &problem);
                    Err(problem)
                }
            }
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

    fn call(&mut self, mut call: Call) -> Self::Future {
        let (mut inner, budgets) = (self.take_ready(), self.budgets.clone());
        Box::pin(async move {
            let waiting = call.trace.step("wait for budget");
            let mut permit = match budgets.reserve(&call.target, &call.payer, call.deadline).await {
                Ok((permit, _)) => permit,
                // What passes through is never answered with what another call has brought.
                Err(refused) => return Err(refused.problem()),
            };
            drop(waiting);
            if permit.is_probe() {
                call.reason = Reason::Probe;
            }
            let called = inner.call(call).await.inspect_err(|problem| learn_from(&mut permit, problem))?;
            let Called { response, began, retry_at } = called;
            let retry_at = learn(&mut permit, response.status(), response.headers(), retry_at);
            // A call is in flight until the last byte of its answer.
            let response = response.map(|body| stream(Holding::new(body, permit)));
            Ok(Called { response, began, retry_at })
        })
    }
}
