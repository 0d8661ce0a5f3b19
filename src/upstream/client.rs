//! One call to Merge: sign, send, read whole or fail, parse.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Service, ServiceExt};
use tower_http::decompression::{Decompression, DecompressionBody};

use super::patience::Patient;
use super::retry_after::{clock, retry_at};
use super::trouble::{Failed, Troubles, Why};
use super::ways::{InForce, Transport, Way};
use super::{cause, sign, sync_status, trouble};
use crate::domain::access::Upstream;
use crate::domain::body::{StreamBody, empty};
use crate::domain::exchange::Fetch;
use crate::domain::problem::{Cause, Problem};
use crate::domain::received::{Received, SyncDigest};

/// The largest body that is read at all, in bytes. What is larger cannot be a page and would only fill the memory.
const MAX_BODY: usize = 64 << 20;

/// The innermost service. Cheap to clone; all clones take the same ways.
#[derive(Clone)]
pub struct Client {
    in_force: InForce,
    pub(super) troubles: Troubles,
}

/// A call about to be made: when it began, to which upstream, and the way there, which keeps it waiting no longer than that upstream's
/// options allow.
pub(super) struct Leaving {
    pub(super) began: Instant,
    pub(super) upstream: Arc<Upstream>,
    pub(super) way: Patient<Transport>,
}

impl Client {
    /// A client that takes the ways that are in force when it is called.
    pub fn new(in_force: InForce) -> Self {
        Self { in_force, troubles: Troubles::default() }
    }

    /// How to reach the upstream that `admitted` has become.
    pub(super) fn leave(&self, admitted: &Upstream) -> Result<Leaving, Problem> {
        // Before the way is looked up: what is asked by rules that a reload replaces meanwhile counts as asked before that.
        let began = Instant::now();
        let way = self.in_force.way(&admitted.name).ok_or(Problem::UpstreamFailed(Cause::Connect))?;
        let Way { upstream, transport, .. } = way;
        let way = Patient::new(transport, &upstream.client);
        Ok(Leaving { began, upstream, way })
    }
}

impl Service<Fetch> for Client {
    type Response = Received;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Received, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: Fetch) -> Self::Future {
        let (leaving, troubles) = (self.leave(&fetch.target.upstream), self.troubles.clone());
        Box::pin(async move {
            let Leaving { began, upstream, way } = leaving?;
            let request = sign(&upstream, &fetch)?;
            let outcome = call(way, request, began, &fetch).await;
            let why = match &outcome {
                Ok(received) => unusable(received, &fetch),
                Err(failed) => failed.why.clone(),
            };
            if let Some(why) = why {
                troubles.tell(&fetch.target, &why);
            }
            outcome.map_err(|failed| failed.problem)
        })
    }
}

/// The request for a page: nothing of whoever asks goes with it.
fn sign(upstream: &Upstream, fetch: &Fetch) -> Result<Request<StreamBody>, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(validators) = fetch.known.as_ref().and_then(|known| known.validators.as_deref()) {
        headers.extend(validators.etag.iter().map(|tag| (IF_NONE_MATCH, tag.clone())));
        headers.extend(validators.last_modified.iter().map(|date| (IF_MODIFIED_SINCE, date.clone())));
    }
    headers.extend(fetch.trace.headers());
    let to = (upstream, &*fetch.target.account);
    sign::request(to, (&fetch.key.place.path, fetch.query.as_deref()), Method::GET, headers, empty())
}

/// Why an answer is none that can be used, as far as its head and its form tell.
fn unusable(received: &Received, fetch: &Fetch) -> Option<Why> {
    match received.status {
        StatusCode::OK if received.digest.json => None,
        StatusCode::OK => Some(Why::new("the answer is not JSON", None)),
        StatusCode::NOT_MODIFIED if fetch.known.is_some() => None,
        status if status.as_u16() < 400 => {
            Some(Why::new("a status that makes no sense here", Some(status.as_str().to_owned())))
        }
        status => trouble::of_status(status),
    }
}

async fn call(
    way: Patient<Transport>,
    request: Request<StreamBody>,
    began: Instant,
    fetch: &Fetch,
) -> Result<Received, Failed> {
    let (known, deadline) = (fetch.known.as_deref(), fetch.deadline);
    let response = timeout_at(deadline, send(way, request)).await.map_err(|_elapsed| Problem::UpstreamTimeout)?;
    let (head, body) = response.map_err(|error| cause::before_the_answer(&*error))?.into_parts();
    let body = timeout_at(deadline, read(body, &head.headers)).await.unwrap_or(Err(Problem::UpstreamTimeout.into()));
    let body = body.map_err(|failed| match head.status.as_u16() {
        // To Merge the call has failed, whatever becomes of the body: the budget has to know of it.
        status @ 400.. => Failed { problem: Problem::UpstreamFailed(Cause::Unexpected(status)), ..failed },
        _ => failed,
    })?;
    let (clock, retry_at) = (clock(&head.headers), retry_at(&head.headers));
    let digest = match (head.status, known) {
        (StatusCode::OK, _) => sync_status::digest(&body, clock),
        // What has not changed is told by the body that is known; how soon the next sync is, by the new clock.
        (StatusCode::NOT_MODIFIED, Some(known)) => sync_status::digest(&known.body, clock),
        _ => SyncDigest::default(),
    };
    Ok(Received { status: head.status, headers: head.headers, body, began, digest, retry_at, remembered: false })
}

/// Asks for an encoded body and decodes it.
fn send(
    way: Patient<Transport>,
    request: Request<StreamBody>,
) -> BoxFuture<'static, Result<Response<DecompressionBody<StreamBody>>, BoxError>> {
    Box::pin(Decompression::new(way).oneshot(request))
}

/// The whole body, or nothing.
async fn read<B: Body<Data = Bytes, Error = BoxError>>(body: B, headers: &HeaderMap) -> Result<Bytes, Failed> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Problem::UpstreamFailed(Cause::TooLarge).into());
    }
    let mut body = pin!(body);
    // Most come in one piece, which need not be copied.
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| cause::within_the_answer(&*error))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len().max(whole.len()) + data.len() > MAX_BODY {
            return Err(Problem::UpstreamFailed(Cause::TooLarge).into());
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(first.len() + data.len());
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}
