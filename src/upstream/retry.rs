//! Second tries: only for what never got an answer or was answered with "not now", within the deadline, each paid anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::layer::layer_fn;
use tower::retry::budget::{Budget, TpsBudget};
use tower::{Layer, Service, ServiceExt};

use crate::domain::access::{Name, Upstream};
use crate::domain::exchange::{Fetch, Reason};
use crate::domain::problem::{Cause, Problem};
use crate::domain::received::Received;
use crate::domain::relay::{Call, Called};
use crate::domain::setback::backoff;

/// How many second tries there may be, for each upstream: a fifth of the calls of the last ten seconds, and one a second, or two
/// where calls are few, as the seconds are counted coarsely there. Without it an upstream that fails would get a multiple of its
/// load just then. Cheap to clone; all clones share them. It outlives a reload.
#[derive(Clone, Default)]
pub struct Retries {
    budgets: Arc<Mutex<HashMap<Name, Arc<TpsBudget>, RandomState>>>,
}

/// For how long a call allows for tries of others.
const WINDOW: Duration = Duration::from_secs(10);

/// Tries for each second without any call.
const LEAST: u32 = 1;

/// Tries for each call.
const SHARE: f32 = 0.2;

impl Retries {
    fn of(&self, upstream: &Upstream) -> Arc<TpsBudget> {
        let mut budgets = self.budgets.lock();
        let budget =
            budgets.entry(upstream.name.clone()).or_insert_with(|| Arc::new(TpsBudget::new(WINDOW, LEAST, SHARE)));
        budget.clone()
    }
}

/// The pause before the second try of a call that was answered; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// It grows no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// Whether and after what pause a fetch is tried again that has ended like this. All fetches are GETs, so a try can do no harm
/// upstream; `tries` is how often it was tried. A 4xx is an answer, and so is a body that was cut short: neither is tried again.
pub fn pause(outcome: &Result<Received, Problem>, tries: u32, now: Instant) -> Option<Duration> {
    match outcome {
        Err(problem) => pause_after(problem, tries),
        Ok(received) => match received.status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                // Not before the upstream takes it, where it has said when that is.
                let asked = received.retry_at.map(|at| at.saturating_duration_since(now));
                Some(growing(tries).max(asked.unwrap_or_default()))
            }
            _ => None,
        },
    }
}

/// Likewise for a call that never got an answer.
///
/// A connection that was closed before an answer began is most often an idle one that the peer had given up, and a stream that was
/// refused was one too many there: the next try, on a new connection, follows at once. Nobody has begun with the call in vain.
fn pause_after(problem: &Problem, tries: u32) -> Option<Duration> {
    match problem {
        Problem::UpstreamFailed(Cause::Closed | Cause::Refused) if tries == 1 => Some(Duration::ZERO),
        Problem::UpstreamFailed(Cause::Closed | Cause::Refused | Cause::Connect) => Some(growing(tries)),
        _ => None,
    }
}

fn growing(tries: u32) -> Duration {
    backoff(FIRST_PAUSE, tries - 1, LONGEST_PAUSE)
}

/// Waits `pause` with some jitter, if that is over before `deadline` and `budget` has a try left; says whether it was.
async fn wait(pause: Duration, deadline: Instant, budget: &TpsBudget) -> bool {
    let pause = pause.mul_f32(1.0 + fastrand::f32() / 4.0);
    if Instant::now() + pause >= deadline || !budget.withdraw() {
        return false;
    }
    sleep(pause).await;
    true
}

/// The layer, above the budget: every try pays.
pub fn layer<S>(retries: Retries) -> impl Layer<S, Service = Retry<S>> + Clone {
    layer_fn(move |inner| Retry { inner, retries: retries.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Retry<S> {
    inner: S,
    retries: Retries,
}

impl<S> Service<Fetch> for Retry<S>
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
        let budget = self.retries.of(&fetch.target.upstream);
        budget.deposit();
        let (first, inner) = (self.inner.call(fetch.clone()), self.inner.clone());
        Box::pin(async move {
            let mut outcome = first.await;
            for tries in 1..=fetch.target.upstream.client.retries {
                let Some(pause) = pause(&outcome, tries, Instant::now()) else { break };
                if !wait(pause, fetch.deadline, &budget).await {
                    break;
                }
                let again = Fetch { reason: Reason::Retry, ..fetch.clone() };
                match inner.clone().oneshot(again).await {
                    // What the upstream said says more than that it may not be asked again.
                    Err(Problem::BudgetExhausted { .. } | Problem::Overloaded { .. }) => break,
                    next => outcome = next,
                }
            }
            outcome
        })
    }
}

/// What passes through is tried again only if it never got an answer and [can do no harm](Call::again); every answer is the
/// caller's.
impl<S> Service<Call> for Retry<S>
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
        let budget = self.retries.of(&call.target.upstream);
        budget.deposit();
        let (retries, deadline, mut spare) = (call.target.upstream.client.retries, call.deadline, call.again());
        let (first, inner) = (self.inner.call(call), self.inner.clone());
        Box::pin(async move {
            let mut outcome = first.await;
            for tries in 1..=retries {
                let (Err(problem), Some(call)) = (&outcome, spare) else { break };
                let Some(pause) = pause_after(problem, tries) else { break };
                if !wait(pause, deadline, &budget).await {
                    break;
                }
                spare = call.again();
                match inner.clone().oneshot(call).await {
                    Err(Problem::BudgetExhausted { .. } | Problem::Overloaded { .. }) => break,
                    next => outcome = next,
                }
            }
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::received::SyncDigest;
    use http::HeaderMap;

    fn answer(status: u16) -> Received {
        Received {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            began: Instant::now(),
            digest: SyncDigest::default(),
            retry_at: None,
            remembered: false,
        }
    }

    #[test]
    fn only_what_may_go_better_is_tried_again() {
        let now = Instant::now();
        for status in [200, 304, 400, 401, 403, 404, 408, 409, 429, 500, 501] {
            assert_eq!(pause(&Ok(answer(status)), 1, now), None, "{status}");
        }
        for status in [502, 503, 504] {
            assert_eq!(pause(&Ok(answer(status)), 1, now), Some(FIRST_PAUSE), "{status}");
            assert_eq!(pause(&Ok(answer(status)), 3, now), Some(FIRST_PAUSE * 4), "{status}");
        }
        let failed = |cause| Err(Problem::UpstreamFailed(cause));
        for cause in [Cause::Closed, Cause::Refused] {
            assert_eq!(pause(&failed(cause), 1, now), Some(Duration::ZERO));
            assert_eq!(pause(&failed(cause), 2, now), Some(FIRST_PAUSE * 2));
        }
        assert_eq!(pause(&failed(Cause::Connect), 1, now), Some(FIRST_PAUSE));
        for cause in [Cause::Incomplete, Cause::NotJson, Cause::Invalid, Cause::Tls, Cause::Unexpected(502)] {
            assert_eq!(pause(&failed(cause), 1, now), None, "{cause}");
        }
        assert_eq!(pause(&Err(Problem::UpstreamTimeout), 1, now), None);
    }

    #[test]
    fn no_try_comes_before_the_upstream_takes_it() {
        let now = Instant::now();
        let later = |wait| Ok(Received { retry_at: Some(now + wait), ..answer(503) });
        assert_eq!(pause(&later(Duration::from_secs(7)), 1, now), Some(Duration::from_secs(7)));
        assert_eq!(pause(&later(Duration::ZERO), 1, now), Some(FIRST_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn tries_are_a_fifth_of_the_calls_and_ten_in_ten_seconds() {
        let budget = TpsBudget::new(WINDOW, LEAST, SHARE);
        let deadline = Instant::now() + Duration::from_secs(60);
        (0..100).for_each(|_| budget.deposit());
        let mut tries = 0;
        while wait(Duration::ZERO, deadline, &budget).await {
            tries += 1;
        }
        assert_eq!(tries, 30);
        sleep(WINDOW * 2).await;
        assert!(wait(Duration::ZERO, deadline, &budget).await, "what was used up is forgotten");
    }
}
