//! One call to Merge: sign, send, read whole or fail, parse.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, DATE, IF_MODIFIED_SINCE, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};
use tower_http::decompression::{Decompression, DecompressionBody};

use super::patience::Patient;
use super::{cause, retry_after, sign, sync_status};
use crate::domain::access::{Name, Upstream};
use crate::domain::body::{StreamBody, empty, stream};
use crate::domain::exchange::Fetch;
use crate::domain::page::Page;
use crate::domain::problem::{Cause, Problem};
use crate::domain::received::{Received, SyncDigest};

/// Sends one request to one upstream and gives back what comes, whatever that is and however it is encoded.
pub type Transport = BoxCloneSyncService<Request<StreamBody>, Response<StreamBody>, BoxError>;

/// The largest body that is read at all, in bytes. What is larger cannot be a page and would only fill the memory.
const MAX_BODY: usize = 64 << 20;

/// The innermost service. Cheap to clone; all clones share the transports.
#[derive(Clone)]
pub struct Client {
    transports: Arc<ArcSwap<HashMap<Name, Transport>>>,
}

impl Client {
    /// A client that reaches each upstream through its transport.
    pub fn new(transports: HashMap<Name, Transport>) -> Self {
        Self { transports: Arc::new(ArcSwap::from_pointee(transports)) }
    }

    /// The ways to all upstreams.
    pub fn transports(&self) -> Arc<HashMap<Name, Transport>> {
        self.transports.load_full()
    }

    /// Replaces the transports; calls under way end on the old ones.
    pub fn replace(&self, transports: HashMap<Name, Transport>) {
        self.transports.store(Arc::new(transports));
    }

    /// The way to an upstream, which may not keep a call waiting for longer than it allows.
    pub(super) fn way(&self, upstream: &Upstream) -> Result<Patient<Transport>, Problem> {
        // Only a reload that has removed the upstream meanwhile leaves none.
        let transport = self.transports.load().get(&upstream.name).cloned();
        let transport = transport.ok_or(Problem::UpstreamFailed(Cause::Connect))?;
        Ok(Patient::new(transport, &upstream.client))
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
        let way = self.way(&fetch.target.upstream);
        Box::pin(async move { call(way?, sign(&fetch)?, fetch.known.as_deref(), fetch.deadline).await })
    }
}

/// The request for a page: nothing of whoever asks goes with it.
fn sign(fetch: &Fetch) -> Result<Request<StreamBody>, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(validators) = fetch.known.as_ref().and_then(|known| known.validators.as_deref()) {
        headers.extend(validators.etag.iter().map(|tag| (IF_NONE_MATCH, tag.clone())));
        headers.extend(validators.last_modified.iter().map(|date| (IF_MODIFIED_SINCE, date.clone())));
    }
    headers.extend(fetch.trace.headers());
    sign::request(&fetch.target, (&fetch.key.place.path, fetch.query.as_deref()), Method::GET, headers, empty())
}

async fn call(
    way: Patient<Transport>,
    request: Request<StreamBody>,
    known: Option<&Page>,
    deadline: Instant,
) -> Result<Received, Problem> {
    let began = Instant::now();
    let response = timeout_at(deadline, send(way, request)).await.map_err(|_elapsed| Problem::UpstreamTimeout)?;
    let (head, body) = response.map_err(|error| cause::before_the_answer(&*error))?.into_parts();
    let body = timeout_at(deadline, read(body, &head.headers)).await.unwrap_or(Err(Problem::UpstreamTimeout));
    let body = body.map_err(|problem| match head.status.as_u16() {
        // To Merge the call has failed, whatever becomes of the body: the budget has to know of it.
        status @ 400.. => Problem::UpstreamFailed(Cause::Unexpected(status)),
        _ => problem,
    })?;
    let date = head.headers.get(DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    let clock = date.unwrap_or_else(SystemTime::now);
    let pause = head.headers.get(RETRY_AFTER).and_then(|value| retry_after::pause(value.to_str().ok()?, clock));
    let digest = match (head.status, known) {
        (StatusCode::OK, _) => sync_status::digest(&body, clock),
        // What has not changed is told by the body that is known; how soon the next sync is, by the new clock.
        (StatusCode::NOT_MODIFIED, Some(known)) => sync_status::digest(&known.body, clock),
        _ => SyncDigest::default(),
    };
    Ok(Received {
        status: head.status,
        headers: head.headers,
        body,
        began,
        date,
        digest,
        retry_at: pause.map(|pause| Instant::now() + pause),
        remembered: false,
    })
}

/// Asks for an encoded body and decodes it.
fn send(
    way: Patient<Transport>,
    request: Request<StreamBody>,
) -> BoxFuture<'static, Result<Response<DecompressionBody<StreamBody>>, BoxError>> {
    Box::pin(Decompression::new(way).oneshot(request))
}

/// The whole body, or nothing.
async fn read<B: Body<Data = Bytes, Error = BoxError>>(body: B, headers: &HeaderMap) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Problem::UpstreamFailed(Cause::TooLarge));
    }
    let mut body = pin!(body);
    // Most come in one piece, which need not be copied.
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| cause::within_the_answer(&*error))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len().max(whole.len()) + data.len() > MAX_BODY {
            return Err(Problem::UpstreamFailed(Cause::TooLarge));
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

/// Makes a service a [`Transport`], whatever its body and error are.
pub fn transport<S, B>(service: S) -> Transport
where
    S: Service<Request<StreamBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync,
    S: 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(
        service.map_err(Into::into).map_response(|response: Response<B>| response.map(|body| stream(body))),
    )
}
