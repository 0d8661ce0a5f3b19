//! An upstream that answers as a test tells it, in one process: for routes whose answers are not Merge's sync-status.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use merge_sync_proxy::app::App;
use merge_sync_proxy::domain::body::{ReplyBody, StreamBody, stream};
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::upstream::ways::transport;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tower::{BoxError, Service, ServiceExt};

use crate::support::{Got, ask, config, with};

/// What may be stored for a minute.
pub(crate) const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// How an origin answers; an error is a connection that closes.
pub(crate) type Script = dyn Fn(&Parts, usize) -> Result<Response<StreamBody>, BoxError> + Send + Sync;

/// The proxy in front of an origin of its own.
#[derive(Clone)]
pub(crate) struct Site {
    pub app: App,
    origin: Origin,
}

#[derive(Clone)]
struct Origin {
    script: Arc<Mutex<Arc<Script>>>,
    calls: Arc<Mutex<Vec<Parts>>>,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    read_bodies: Arc<AtomicBool>,
    open: watch::Sender<bool>,
}

impl Site {
    /// With `more` in the configuration.
    pub fn new(more: &str) -> Self {
        let origin = Origin {
            script: Arc::new(Mutex::new(Arc::new(|_: &Parts, _| Ok(reply(200, &[], "body"))))),
            calls: Arc::default(),
            bodies: Arc::default(),
            read_bodies: Arc::new(AtomicBool::new(true)),
            open: watch::Sender::new(true),
        };
        let hasher = TokenHasher::new();
        let config = config("http://origin.test/base", more, &hasher);
        let transports = [("us".into(), transport(origin.clone()))].into();
        Self { app: App::with_transports(config, &hasher, transports), origin }
    }

    /// With one route for `/x` and everything below, of all methods.
    pub fn route(cache: &str, more: &str) -> Self {
        let methods = "methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']";
        Self::new(&format!("[[routes]]\npath = '/x/*'\n{methods}\ncache = '{cache}'\n{more}"))
    }

    /// With such a route that keeps what the origin allows, and passes all fields of requests on.
    pub fn http() -> Self {
        Self::route("http", "request_headers = ['*']\n")
    }

    /// From now on every call is answered with this.
    pub fn answers(&self, status: u16, headers: &[(&'static str, &'static str)], body: &'static str) {
        let headers = headers.to_vec();
        self.script(move |_, _| Ok(reply(status, &headers, body)));
    }

    /// From now on calls are answered by `script`, which is told how many came before.
    pub fn script(
        &self,
        script: impl Fn(&Parts, usize) -> Result<Response<StreamBody>, BoxError> + Send + Sync + 'static,
    ) {
        *self.origin.script.lock() = Arc::new(script);
    }

    /// Bodies of requests are left unread.
    pub fn leave_bodies(&self) {
        self.origin.read_bodies.store(false, Ordering::Relaxed);
    }

    /// Holds all answers until [`Site::release`].
    pub fn hold(&self) {
        self.origin.open.send_replace(false);
    }

    pub fn release(&self) {
        self.origin.open.send_replace(true);
    }

    pub fn calls(&self) -> usize {
        self.origin.calls.lock().len()
    }

    /// Completes once there were `count` calls.
    pub async fn arrived(&self, count: usize) {
        while self.calls() < count {
            tokio::task::yield_now().await;
        }
    }

    /// The last call, and its body if that was read.
    pub fn last(&self) -> (Parts, Bytes) {
        let call = self.origin.calls.lock().last().cloned().expect("a call");
        (call, self.origin.bodies.lock().last().cloned().unwrap_or_default())
    }

    /// A field of the last call; empty if it is not there.
    pub fn sent(&self, name: &str) -> String {
        let (call, _) = self.last();
        let lines = call.headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII"));
        lines.collect::<Vec<_>>().join("|")
    }

    /// Sends a request and gives back the head of its answer, whose body is yet to come.
    pub async fn begin<B>(&self, request: Request<B>) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        let Ok(response) = self.app.service().oneshot(request).await;
        response
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        Got::whole(self.begin(request).await).await
    }

    pub async fn get(&self, target: &str) -> Got {
        self.send(ask(target)).await
    }

    pub async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Got {
        self.send(with(target, &[&[("x-account-token", "acme")], headers].concat())).await
    }

    pub fn spawn(&self, request: Request<Full<Bytes>>) -> JoinHandle<Got> {
        let site = self.clone();
        tokio::spawn(async move { site.send(request).await })
    }

    /// Asserts that nothing is in flight and nobody waits.
    pub fn assert_idle(&self) {
        assert_eq!(self.app.ground().budgets.in_flight("us"), 0, "calls in flight");
        assert_eq!(self.app.ground().budgets.waiting(), 0, "waiting for budget");
        assert_eq!(self.app.ground().http.meetings.count(), 0, "meetings");
    }
}

impl Service<Request<StreamBody>> for Origin {
    type Response = Response<StreamBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<StreamBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<StreamBody>) -> Self::Future {
        let origin = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let before = {
                let mut calls = origin.calls.lock();
                calls.push(head.clone());
                calls.len() - 1
            };
            let script = origin.script.lock().clone();
            if origin.read_bodies.load(Ordering::Relaxed) {
                let body = body.collect().await?.to_bytes();
                origin.bodies.lock().push(body);
                let _ = origin.open.subscribe().wait_for(|open| *open).await;
                return script(&head, before);
            }
            let _ = origin.open.subscribe().wait_for(|open| *open).await;
            // The body stays open for as long as the answer is on its way, as on a socket.
            script(&head, before).map(|answer| answer.map(|answer| stream(Beside { answer, _request: body })))
        })
    }
}

struct Beside {
    answer: StreamBody,
    _request: StreamBody,
}

impl Body for Beside {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.answer).poll_frame(cx)
    }
}

/// A whole answer.
pub(crate) fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Response<StreamBody> {
    streamed(status, headers, stream(Full::new(Bytes::from_static(body.as_bytes()))))
}

/// An answer whose body comes as it comes.
pub(crate) fn streamed(
    status: u16,
    headers: &[(&'static str, &'static str)],
    body: StreamBody,
) -> Response<StreamBody> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).expect("a valid answer")
}

/// Answers with the number of the call.
pub(crate) fn counting(
    headers: &'static [(&'static str, &'static str)],
) -> impl Fn(&Parts, usize) -> Result<Response<StreamBody>, BoxError> {
    const NUMBERS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    move |_, calls| Ok(reply(200, headers, NUMBERS[calls]))
}

/// Asserts what came, and from where.
pub(crate) fn assert_served(got: &Got, body: &str, cache: &str) {
    assert_eq!((&*got.body, got.cache()), (body.as_bytes(), cache));
}

/// A body that a test sends piece by piece; dropping the sender ends it.
pub(crate) fn pipe() -> (mpsc::Sender<&'static str>, Pipe) {
    let (sender, pieces) = mpsc::channel(1);
    (sender, Pipe { pieces, then: None })
}

/// See [`pipe`].
pub(crate) struct Pipe {
    pieces: mpsc::Receiver<&'static str>,
    then: Option<BoxError>,
}

impl Pipe {
    /// Ends with a broken connection.
    pub fn then_breaks(mut self) -> Self {
        self.then = Some("broken".into());
        self
    }

    /// As the body of an answer.
    pub fn body(self) -> StreamBody {
        stream(self)
    }

    /// As the body of a request.
    pub fn upload(self) -> http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible> {
        self.map_err(|error| unreachable!("{error}")).boxed_unsync()
    }
}

impl Body for Pipe {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        this.pieces.poll_recv(cx).map(|piece| match piece {
            Some(piece) => Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))),
            None => this.then.take().map(Err),
        })
    }
}

/// Lets everything go on that can without more time.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Lets a number of seconds pass.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
