//! One call to Merge: sign, send, read whole or fail, parse.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, DATE, HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, RETRY_AFTER, USER_AGENT, VIA,
};
use http::uri::{Parts, PathAndQuery};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::time::{Instant, timeout_at};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};
use tower_http::decompression::{Decompression, DecompressionBody};

use super::{retry_after, sync_status};
use crate::domain::access::{Name, Upstream, X_ACCOUNT_TOKEN};
use crate::domain::exchange::Fetch;
use crate::domain::page::{Page, Received, SyncDigest};
use crate::domain::problem::{Cause, Problem};

/// The body of a call: none.
pub type CallBody = Empty<Bytes>;

/// The body of an answer, decoded.
pub type AnswerBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Sends one request to one upstream and gives back what comes, whatever that is.
pub type Transport = BoxCloneSyncService<Request<CallBody>, Response<AnswerBody>, BoxError>;

/// The largest body that is read at all, in bytes. What is larger cannot be a page and would only fill the memory.
const MAX_BODY: usize = 64 << 20;

const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(concat!("merge-sync-proxy/", env!("CARGO_PKG_VERSION")));
const VIA_VALUE: HeaderValue = HeaderValue::from_static("1.1 merge-sync-proxy");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

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

    /// Replaces the transports; calls under way end on the old ones.
    pub fn replace(&self, transports: HashMap<Name, Transport>) {
        self.transports.store(Arc::new(transports));
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
        let transport = self.transports.load().get(&fetch.target.upstream.name).cloned();
        Box::pin(async move {
            // Only a reload that removed the upstream meanwhile leaves none.
            let transport = transport.ok_or(Problem::UpstreamFailed(Cause::Connect))?;
            call(transport, sign(&fetch)?, fetch.known.as_deref(), fetch.deadline).await
        })
    }
}

/// The request for a page: the upstream's credentials, the account's token, and nothing of whoever asks.
fn sign(fetch: &Fetch) -> Result<Request<CallBody>, Problem> {
    let upstream = &fetch.target.upstream;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target(upstream, &fetch.key.place.path, fetch.uri.query())
        .ok_or(Problem::InvalidRequest("The path and query cannot be sent on; shorten them.".into()))?;
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(upstream.authority.as_str()) {
        headers.insert(HOST, host);
    }
    headers.insert(AUTHORIZATION, upstream.api_key.expose().clone());
    headers.insert(X_ACCOUNT_TOKEN, fetch.target.account.token.expose().clone());
    headers.insert(ACCEPT, JSON);
    headers.insert(USER_AGENT, USER_AGENT_VALUE);
    headers.insert(VIA, VIA_VALUE);
    if let Some(known) = &fetch.known {
        let validators = &known.validators;
        headers.extend(validators.etag.iter().map(|tag| (IF_NONE_MATCH, tag.clone())));
        headers.extend(validators.last_modified.iter().map(|date| (IF_MODIFIED_SINCE, date.clone())));
    }
    Ok(request)
}

fn target(upstream: &Upstream, path: &str, query: Option<&str>) -> Option<Uri> {
    let prefix = &upstream.prefix;
    let path = match query {
        Some(query) => format!("{prefix}{path}?{query}"),
        None => format!("{prefix}{path}"),
    };
    let mut parts = Parts::default();
    parts.scheme = Some(upstream.scheme.clone());
    parts.authority = Some(upstream.authority.clone());
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

async fn call(
    transport: Transport,
    request: Request<CallBody>,
    known: Option<&Page>,
    deadline: Instant,
) -> Result<Received, Problem> {
    let began = Instant::now();
    let response =
        timeout_at(deadline, transport.oneshot(request)).await.map_err(|_elapsed| Problem::UpstreamTimeout)?;
    let (head, body) = response.map_err(|error| Problem::UpstreamFailed(cause(&error)))?.into_parts();
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
    })
}

/// The whole body, or nothing.
async fn read(body: AnswerBody, headers: &HeaderMap) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Problem::UpstreamFailed(Cause::TooLarge));
    }
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::UpstreamFailed(Cause::Incomplete))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY {
            return Err(Problem::UpstreamFailed(Cause::TooLarge));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// What an error of the transport means, found by its kind and not by its text.
fn cause(error: &BoxError) -> Cause {
    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = link {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>()
            && error.is_connect()
        {
            return Cause::Connect;
        }
        link = error.source();
    }
    Cause::Closed
}

/// Makes a service a [`Transport`], whatever its body and error are: asks for encoded bodies and decodes them.
pub fn transport<S, B>(service: S) -> Transport
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync,
    S: 'static,
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let service =
        Decompression::new(service).map_err(Into::into).map_response(|response: Response<DecompressionBody<B>>| {
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        });
    BoxCloneSyncService::new(service)
}
