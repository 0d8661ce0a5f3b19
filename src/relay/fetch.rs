//! One call for something that may be stored: made, read whole if it is of use to others too, stored.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Service, ServiceExt};

use super::meeting::{self, First};
use super::policy::may_store;
use super::store::Responses;
use super::stored::{Came, Stored};
use super::vary::Selection;
use crate::domain::body::{Holding, ReplyBody, StreamBody, stream};
use crate::domain::exchange::{Caller, Forward, Reason, Served};
use crate::domain::key::PageKey;
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called, Relayed};

/// One of a consumer's places among those who wait for the upstream.
pub type Place = OwnedSemaphorePermit;

/// Takes a place; says whether it had to wait for it.
pub async fn place(caller: &Caller, deadline: Instant) -> Result<(Place, bool), Problem> {
    let misses = caller.misses.clone();
    if let Ok(permit) = misses.clone().try_acquire_owned() {
        return Ok((permit, false));
    }
    match timeout_at(deadline, misses.acquire_owned()).await {
        Ok(Ok(permit)) => Ok((permit, true)),
        _ => Err(Problem::Overloaded { retry_after: Duration::from_secs(1) }),
    }
}

/// Passes a call on, and its answer back, as they are.
pub async fn pass<S>(inner: S, call: Call, place: Place, forward: Forward) -> Result<Relayed, Problem>
where
    S: Service<Call, Response = Called, Error = Problem>,
{
    let called = inner.oneshot(Call { reason: Reason::Pass, ..call }).await?;
    Ok(relayed(called.response.map(|body| stream(Holding::new(body, place))), forward))
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

/// Whether the upstream refused or broke down: what stale-if-error covers (RFC 5861 §4, and 429).
pub fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// A call that failed for want of the upstream.
struct Failure {
    /// When the next may be made, as far as that is known.
    retry_at: Option<Instant>,
}

/// How a call failed, if it did for want of the upstream.
fn failure(called: &Result<Called, Problem>) -> Option<Failure> {
    match called {
        Ok(called) => is_failure(called.response.status()).then_some(Failure { retry_at: called.retry_at }),
        Err(problem) => problem
            .is_upstream()
            .then(|| Failure { retry_at: problem.row().retry_after.map(|pause| Instant::now() + pause) }),
    }
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
    S: Service<Call, Response = Called, Error = Problem>,
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
        let Self { inner, responses, mut call, place, known, no_store, most } = self;
        let (key, request, deadline) = (call.key.clone(), call.headers.clone(), call.deadline);
        if let Some(known) = &known {
            // Whether it has changed is asked of the whole.
            call.headers.remove(RANGE);
            call.headers.remove(IF_RANGE);
            call.headers.extend(known.validators());
        }
        let called = inner.oneshot(call).await;
        if let (Some(known), Some(Failure { retry_at })) = (&known, failure(&called)) {
            let now = Instant::now();
            known.set_back(now, retry_at);
            if known.stands_in(now) {
                return Ok(Brought::StandIn(known.clone()));
            }
        }
        let Called { response, began, .. } = called?;
        let (head, body) = response.into_parts();
        let came = Came::new(head.status, head.headers, began);
        if came.status == StatusCode::NOT_MODIFIED {
            let known = known.ok_or(Problem::UpstreamFailed(Cause::Unexpected(304)))?;
            return Ok(confirm(&responses, &key, &request, &known, &came, no_store));
        }
        let selection = Selection::new(&came.headers, &request)
            .filter(|_| !no_store && may_store(came.status, &came.headers, &came.directives, &came.terms));
        let passing = |body, place| {
            let mut response = Response::new(stream(Holding::new(body, place)));
            (*response.status_mut(), *response.headers_mut()) = (came.status, came.headers.clone());
            Brought::Passing(response)
        };
        if selection.is_none() {
            // What was known is no longer what there is.
            known.iter().filter(|_| !is_failure(came.status)).for_each(|known| responses.forget(&key, known));
            if !is_failure(came.status) {
                return Ok(passing(body, place));
            }
        }
        // A failure is read whole too: those who wait need not each call for one of their own.
        match timeout_at(deadline, read(body, most)).await.unwrap_or(Err(Problem::UpstreamTimeout))? {
            Read::Longer(body) => {
                if selection.is_some() {
                    responses.keeping().too_large.add();
                }
                Ok(passing(body, place))
            }
            Read::Whole(bytes) => {
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

/// Renews what is known by the answer to a HEAD, or makes it stale if that is about something else.
pub fn take_head(
    responses: &Responses,
    key: &PageKey,
    request: &HeaderMap,
    known: &Arc<Stored>,
    head: &Relayed,
    began: Instant,
) {
    let came = Came::new(head.status, head.headers.clone(), began);
    let renewed =
        known.confirmed(&came, request).filter(|_| known.status == head.status && known.is_meant_by(&head.headers));
    match renewed {
        Some(renewed) => drop(responses.keep(key, &Arc::new(renewed), request)),
        None => known.purge(),
    }
}

/// What a body turned out to be.
enum Read {
    Whole(Bytes),
    /// Longer than is stored.
    Longer(StreamBody),
}

/// Reads a body up to its verified end, unless it is longer than `most`.
async fn read(mut body: StreamBody, most: usize) -> Result<Read, Problem> {
    if body.size_hint().lower() > most as u64 {
        return Ok(Read::Longer(body));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::UpstreamFailed(Cause::Incomplete))?;
        let Ok(data) = frame.into_data() else { continue };
        whole.extend_from_slice(&data);
        if whole.len() > most {
            return Ok(Read::Longer(stream(Resumed { begun: Some(whole.freeze()), rest: body })));
        }
    }
    Ok(Read::Whole(whole.freeze()))
}

/// A body of which some has been read already.
struct Resumed {
    begun: Option<Bytes>,
    rest: StreamBody,
}

impl Body for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.begun.take() {
            Some(begun) => Poll::Ready(Some(Ok(Frame::data(begun)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + begun);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + begun);
        }
        hint
    }
}
