//! One call that carries a request as it is: sign, send, and hand on what comes as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{BoxError, Service, ServiceExt};

use super::client::{Client, Transport, cause};
use super::{retry_after, sign};
use crate::domain::body::{StreamBody, stream};
use crate::domain::end_to_end;
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called};

/// What would set state in the browser of somebody who is not the one who asked; never passed on.
const COOKIES: [HeaderName; 2] = [http::header::SET_COOKIE, HeaderName::from_static("set-cookie2")];

impl Service<Call> for Client {
    type Response = Called;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Called, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let transport = self.transport(&call.target.upstream.name);
        Box::pin(async move {
            let transport = transport.ok_or(Problem::UpstreamFailed(Cause::Connect))?;
            let patience = call.target.upstream.client.timeout;
            let began = Instant::now();
            let progress = Progress::new(began);
            let body = stream(Watched { body: call.body, progress: progress.clone() });
            let what = (&*call.key.place.path, call.uri.query());
            let request = sign::request(&call.target, what, call.method, call.headers, body)?;
            let mut answer = send(transport, request);
            let response = tokio::select! {
                answer = &mut answer => answer.map_err(|error| Problem::UpstreamFailed(cause(&error)))?,
                () = progress.stalled(patience) => return Err(Problem::UpstreamTimeout),
            };
            let mut response = response.map(|body| stream(Paced { body, patience, stalled: None }));
            let headers = response.headers_mut();
            end_to_end::strip(headers);
            for name in COOKIES {
                headers.remove(name);
            }
            let retry_at = retry_at(headers);
            Ok(Called { response, began, retry_at })
        })
    }
}

fn send(
    transport: Transport,
    request: Request<StreamBody>,
) -> BoxFuture<'static, Result<Response<StreamBody>, BoxError>> {
    Box::pin(transport.oneshot(request))
}

/// When the upstream takes the next request, where `headers` say so.
pub fn retry_at(headers: &HeaderMap) -> Option<Instant> {
    let date = headers.get(DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    let clock = date.unwrap_or_else(SystemTime::now);
    let pause = headers.get(RETRY_AFTER).and_then(|value| retry_after::pause(value.to_str().ok()?, clock));
    pause.map(|pause| Instant::now() + pause)
}

/// When a request last got further.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    fn note(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Completes once nothing has moved for `patience`.
    async fn stalled(&self, patience: Duration) {
        loop {
            let due = *self.0.lock() + patience;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// A request's body that notes its progress.
struct Watched {
    body: StreamBody,
    progress: Progress,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.note();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that fails when it is waited for and nothing has come for too long. While nobody waits for it, because those
/// who read it are slow, no time counts.
struct Paced<B> {
    body: B,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// A body made no progress for too long.
#[derive(Debug, thiserror::Error)]
#[error("the upstream stopped sending")]
struct Stalled;

impl<B: Body<Data = Bytes, Error = BoxError> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.stalled = None;
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Some(Err(Stalled.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
