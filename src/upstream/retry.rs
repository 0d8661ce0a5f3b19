//! Second tries: only for what never got an answer or was answered with "not now", within the deadline, each paid anew.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use crate::domain::exchange::Fetch;
use crate::domain::page::Received;
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called};

/// The pause before the second try of a call that was answered; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Whether and after what pause a fetch is tried again that has ended like this. All fetches are GETs, so a try can do no harm
/// upstream; `tries` is how often it was tried. A 4xx is an answer, and so is a body that was cut short: neither is tried again.
pub fn pause(outcome: &Result<Received, Problem>, tries: u32) -> Option<Duration> {
    match outcome {
        Err(problem) => pause_after(problem, tries),
        Ok(received) => match received.status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Some(growing(tries))
            }
            _ => None,
        },
    }
}

/// Likewise for a call that never got an answer.
///
/// A connection that was closed before an answer began is most often an idle one that the peer had given up: the next try, on a
/// new one, follows at once.
pub fn pause_after(problem: &Problem, tries: u32) -> Option<Duration> {
    match problem {
        Problem::UpstreamFailed(Cause::Closed) if tries == 1 => Some(Duration::ZERO),
        Problem::UpstreamFailed(Cause::Closed | Cause::Connect) => Some(growing(tries)),
        _ => None,
    }
}

fn growing(tries: u32) -> Duration {
    FIRST_PAUSE * 2_u32.pow((tries - 1).min(6))
}

/// Waits `pause` with some jitter, if that is over before `deadline`; says whether it was.
async fn wait(pause: Duration, deadline: Instant) -> bool {
    let pause = pause.mul_f32(1.0 + fastrand::f32() / 4.0);
    if Instant::now() + pause >= deadline {
        return false;
    }
    sleep(pause).await;
    true
}

/// The layer, above the budget: every try pays.
pub fn layer<S>() -> impl Layer<S, Service = Retry<S>> + Clone {
    layer_fn(|inner| Retry { inner })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Retry<S> {
    inner: S,
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
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut outcome = inner.clone().oneshot(fetch.clone()).await;
            for tries in 1..=fetch.target.upstream.client.retries {
                let Some(pause) = pause(&outcome, tries) else { break };
                if !wait(pause, fetch.deadline).await {
                    break;
                }
                match inner.clone().oneshot(fetch.clone()).await {
                    // What the upstream said says more than that it may not be asked again.
                    Err(Problem::BudgetExhausted { .. }) => break,
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
        let inner = self.inner.clone();
        Box::pin(async move {
            let (retries, deadline, mut spare) = (call.target.upstream.client.retries, call.deadline, call.again());
            let mut outcome = inner.clone().oneshot(call).await;
            for tries in 1..=retries {
                let (Err(problem), Some(call)) = (&outcome, spare) else { break };
                let Some(pause) = pause_after(problem, tries) else { break };
                if !wait(pause, deadline).await {
                    break;
                }
                spare = call.again();
                match inner.clone().oneshot(call).await {
                    Err(Problem::BudgetExhausted { .. }) => break,
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
    use crate::domain::page::SyncDigest;
    use http::HeaderMap;

    fn answer(status: u16) -> Received {
        Received {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            began: Instant::now(),
            date: None,
            digest: SyncDigest::default(),
            retry_at: None,
            remembered: false,
        }
    }

    #[test]
    fn only_what_may_go_better_is_tried_again() {
        for status in [200, 304, 400, 401, 403, 404, 408, 409, 429, 500, 501] {
            assert_eq!(pause(&Ok(answer(status)), 1), None, "{status}");
        }
        for status in [502, 503, 504] {
            assert_eq!(pause(&Ok(answer(status)), 1), Some(FIRST_PAUSE), "{status}");
            assert_eq!(pause(&Ok(answer(status)), 3), Some(FIRST_PAUSE * 4), "{status}");
        }
        let failed = |cause| Err(Problem::UpstreamFailed(cause));
        assert_eq!(pause(&failed(Cause::Closed), 1), Some(Duration::ZERO));
        assert_eq!(pause(&failed(Cause::Closed), 2), Some(FIRST_PAUSE * 2));
        assert_eq!(pause(&failed(Cause::Connect), 1), Some(FIRST_PAUSE));
        for outcome in [failed(Cause::Incomplete), failed(Cause::NotJson), Err(Problem::UpstreamTimeout)] {
            assert_eq!(pause(&outcome, 1), None);
        }
    }
}
