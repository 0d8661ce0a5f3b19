//! One call for something that may be stored: made, read whole if it is of use to others too, stored.

use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tower::{Service, ServiceExt};

use super::body::{Read, read};
use super::meeting::{self, First};
use super::policy::may_store;
use super::store::Responses;
use super::stored::{Came, Stored};
use super::vary::Selection;
use crate::domain::body::{Holding, ReplyBody, StreamBody, stream};
use crate::domain::exchange::{Forward, Reason, Served, is_failure};
use crate::domain::key::PageKey;
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called, Relayed};

/// One of a consumer's places among those who wait for the upstream.
pub type Place = OwnedSemaphorePermit;

/// Passes a call on, and its answer back, as they are.
pub async fn pass<S>(inner: S, call: Call, place: Place, forward: Forward) -> Result<Relayed, Problem>
where
    S: Service<Call, Response = Called, Error = Problem>,
{
    let called = in_time(inner, Call { reason: Reason::Pass, ..call }).await?;
    Ok(relayed(called.response.map(|body| stream(Holding::new(body, place))), forward))
}

/// Makes a call, unless no answer has begun by its deadline. How long the caller takes to send a body does not count.
async fn in_time<S>(inner: S, mut call: Call) -> Result<Called, Problem>
where
    S: Service<Call, Response = Called, Error = Problem>,
{
    let deadline = call.deadline;
    if call.body.is_end_stream() {
        return timeout_at(deadline, inner.oneshot(call)).await.unwrap_or(Err(Problem::UpstreamTimeout));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let (sending, sent) = oneshot::channel::<()>();
    call.body = stream(Holding::new(call.body, sending));
    let overdue = async {
        // The other end is gone once the body is.
        let _ = sent.await;
        sleep(left).await;
    };
    tokio::select! {
        biased;
        called = inner.oneshot(call) => called,
        () = overdue => Err(Problem::UpstreamTimeout),
    }
}

/// The answer that is nothing but `response`.
pub fn relayed(response: Response<StreamBody>, forward: Forward) -> Relayed {
    let (head, body) = response.into_parts();
    Relayed {
        status: head.status,
        headers: head.headers,
        body: ReplyBody::stream(body),
        served: Served::Fetched { forward, status: head.status, stored: false },
        ttl: 0,
        refresh_limited: false,
    }
}

/// What is known, if it may stand in for an upstream that fails.
fn stand_in(known: &Arc<Stored>) -> Option<Brought> {
    known.stands_in(Instant::now()).then(|| Brought::StandIn(known.clone()))
}

/// Notes that the upstream failed to renew what is known, and gives that back if it may stand in.
fn instead(known: &Arc<Stored>, retry_at: Option<Instant>) -> Option<Brought> {
    known.set_back(Instant::now(), retry_at);
    stand_in(known)
}

/// What answers in place of a problem, if it is for want of the upstream.
fn despite(problem: Problem, known: Option<&Arc<Stored>>) -> Result<Brought, Problem> {
    let retry_at = problem.row().retry_after.map(|pause| Instant::now() + pause);
    let known = known.filter(|_| problem.is_upstream());
    // Where it is but the caller who is held back, others need not leave the upstream alone.
    let is_alone = problem.is_of_the_payer();
    known.and_then(|known| if is_alone { stand_in(known) } else { instead(known, retry_at) }).ok_or(problem)
}

/// A call that is about to be made.
pub struct Fetching<S> {
    pub(super) inner: S,
    pub(super) responses: Responses,
    pub(super) call: Call,
    /// The place of the one who waits for it; a refresh has none.
    pub(super) place: Option<Place>,
    /// What is stored, to be confirmed or replaced.
    pub(super) known: Option<Arc<Stored>>,
    /// Whether nothing of it may be stored.
    pub(super) no_store: bool,
    /// The longest body that is stored.
    pub(super) most: usize,
}

/// What a call has brought.
pub enum Brought {
    /// A response that is whole.
    Stored {
        /// The response.
        stored: Arc<Stored>,
        /// What the upstream answered: 304 if it confirmed what was known.
        status: StatusCode,
        /// Whether it is in the store now.
        kept: bool,
        /// Whether those who wait may have it too.
        is_for_all: bool,
        /// The fields that are for the one who called alone.
        own: HeaderMap,
    },
    /// A failure that what is known stands in for.
    StandIn(Arc<Stored>),
    /// What passes to the caller as it comes.
    Passing(Response<StreamBody>),
}

impl<S> Fetching<S>
where
    S: Service<Call, Response = Called, Error = Problem> + Clone,
{
    /// Makes the call and tells the meeting, if there is one, how it ended.
    pub async fn fetch(self, first: Option<First>) -> Result<Brought, Problem> {
        let brought = self.bring().await;
        if let Some(first) = first {
            first.end(match &brought {
                Ok(Brought::Stored { stored, is_for_all: true, .. }) => meeting::Result::Shared(stored.clone()),
                // All who waited know the same stored response, which is set back by now.
                Ok(Brought::StandIn(stored)) => meeting::Result::StandIn(stored.clone()),
                Ok(_) => meeting::Result::Apart,
                Err(problem) => meeting::Result::Failed(problem.clone()),
            });
        }
        brought
    }

    async fn bring(self) -> Result<Brought, Problem> {
        let Self { inner, responses, mut call, place, mut known, no_store, most } = self;
        let plain = call.with(Method::GET, call.headers.clone());
        let (key, request, deadline) = (call.key.clone(), call.headers.clone(), call.deadline);
        if let Some(known) = &known {
            call.headers.extend(known.validators());
        }
        let mut called = in_time(inner.clone(), call).await;
        if let (Ok(answer), Some(stored)) = (&called, &known)
            && answer.response.status() == StatusCode::NOT_MODIFIED
            && stored.is_not_meant_by(answer.response.headers())
        {
            // There is another now, which is yet to be seen.
            responses.forget(&key, stored);
            drop(called);
            known = None;
            called = in_time(inner, Call { reason: Reason::Retry, ..plain }).await;
        }
        let Called { response, began, retry_at } = match called {
            Ok(called) => called,
            Err(problem) => return despite(problem, known.as_ref()),
        };
        let failed = is_failure(response.status());
        if failed && let Some(stored) = known.as_ref().and_then(|known| instead(known, retry_at)) {
            return Ok(stored);
        }
        let (head, body) = response.into_parts();
        let came = Came::new(head.status, head.headers, began);
        if came.status == StatusCode::NOT_MODIFIED {
            // What has no validator was not asked about.
            return match known.as_ref().filter(|known| !known.validators().is_empty()) {
                Some(known) => Ok(confirm(&responses, &key, &request, known, &came, no_store)),
                None => despite(Problem::UpstreamFailed(Cause::Unexpected(304)), known.as_ref()),
            };
        }
        let selection = Selection::new(&came.headers, &request)
            .filter(|_| !no_store && may_store(came.status, &came.headers, &came.directives, &came.terms));
        let passing = |body, place| {
            let mut response = Response::new(stream(Holding::new(body, place)));
            (*response.status_mut(), *response.headers_mut()) = (came.status, came.headers.clone());
            Brought::Passing(response)
        };
        // What was known is no longer what there is, whether or not this can take its place.
        let displace = || known.iter().filter(|_| !failed).for_each(|known| responses.forget(&key, known));
        if selection.is_none() && !failed {
            displace();
            return Ok(passing(body, place));
        }
        // A failure is read whole too: those who wait need not each call for one of their own.
        match timeout_at(deadline, read(body, most)).await.unwrap_or(Err(Problem::UpstreamTimeout)) {
            // That it failed has been noted if its status said so.
            Err(problem) => despite(problem, known.as_ref().filter(|_| !failed)),
            Ok(Read::Longer(body)) => {
                if selection.is_some() {
                    responses.keeping().too_large.add();
                }
                displace();
                Ok(passing(body, place))
            }
            Ok(Read::Whole(bytes)) => {
                let stored = Arc::new(came.store(&bytes, selection.clone().unwrap_or_default()));
                let kept = selection.is_some() && responses.keep(&key, &stored, &request);
                let own = came.withheld();
                Ok(Brought::Stored { stored, status: came.status, kept, is_for_all: true, own })
            }
        }
    }
}

/// Renews what is known by a 304.
fn confirm(
    responses: &Responses,
    key: &PageKey,
    request: &HeaderMap,
    known: &Arc<Stored>,
    came: &Came,
    no_store: bool,
) -> Brought {
    let (status, own) = (came.status, came.withheld());
    let Some(confirmed) = known.confirmed(came, request) else {
        responses.forget(key, known);
        return Brought::Stored { stored: known.clone(), status, kept: false, is_for_all: false, own };
    };
    let stored = Arc::new(confirmed);
    let kept = !no_store && responses.keep(key, &stored, request);
    Brought::Stored { stored, status, kept, is_for_all: true, own }
}
