//! How long an upstream may keep a call waiting once it is connected: for the head of its answer, and between the bytes of the body.
//!
//! Both are clocks of their own beside the whole call's deadline, so that an upstream that has stopped is told from one that is
//! slow, and a long body that comes steadily is not cut.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy::connect::capture_connection;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tower::{BoxError, Service};

use crate::domain::body::{StreamBody, stream};
use crate::domain::rules::ClientOptions;

/// The upstream has kept a call waiting for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stalled {
    /// The head of the answer did not come.
    #[error("no answer began")]
    Head,
    /// The body stopped coming.
    #[error("the upstream stopped sending")]
    Body,
}

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For a connection; the connector keeps the time of each step, this only bounds where the clock of the head begins.
    connection: Duration,
    /// Between two pieces of the request's body, which come as fast as the caller sends them.
    upload: Duration,
    /// From the end of the request to the head of the answer.
    head: Duration,
    /// Between two pieces of the answer's body.
    progress: Duration,
}

/// A transport that is not waited for without end.
#[derive(Clone)]
pub struct Patient<S> {
    inner: S,
    patience: Patience,
}

impl<S> Patient<S> {
    /// `inner`, with the patience that `options` give.
    pub fn new(inner: S, options: &ClientOptions) -> Self {
        let patience = Patience {
            connection: options.connect_timeout + options.tls_timeout,
            upload: options.timeout,
            head: options.headers_timeout,
            progress: options.progress_timeout,
        };
        Self { inner, patience }
    }
}

impl<S> Service<Request<StreamBody>> for Patient<S>
where
    S: Service<Request<StreamBody>, Response = Response<StreamBody>, Error = BoxError, Future: Send + 'static>,
{
    type Response = Response<StreamBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<StreamBody>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<StreamBody>) -> Self::Future {
        let patience = self.patience;
        let mut connection = capture_connection(&mut request);
        let mut uploading = None;
        // Most requests have no body, and then nothing is to be watched.
        if !request.body().is_end_stream() {
            let (upload, watching) = watch::channel(Upload { at: Instant::now(), ended: false });
            uploading = Some(watching);
            request = request.map(|body| stream(Watched { body, upload }));
        }
        let answer = self.inner.call(request).boxed();
        Box::pin(async move {
            let waited_out = async {
                // A transport that is no socket never says that it is connected.
                let _ = timeout(patience.connection, connection.wait_for_connection_metadata()).await;
                head_is_overdue(patience, uploading).await;
            };
            let answer = tokio::select! {
                answer = answer => answer?,
                () = waited_out => return Err(Stalled::Head.into()),
            };
            Ok(answer.map(|body| stream(Paced { body, patience: patience.progress, stalled: None })))
        })
    }
}

/// Completes once nothing has moved for too long. Begins when there is a connection.
async fn head_is_overdue(patience: Patience, uploading: Option<watch::Receiver<Upload>>) {
    let connected = Instant::now();
    let Some(mut uploading) = uploading else { return sleep_until(connected + patience.head).await };
    loop {
        let upload = *uploading.borrow_and_update();
        let due = upload.at.max(connected) + if upload.ended { patience.head } else { patience.upload };
        match timeout_at(due, uploading.changed()).await {
            Ok(Ok(())) => {}
            // The body is gone, so nothing more will be known of it.
            Ok(Err(_gone)) => return sleep_until(due).await,
            Err(_elapsed) => return,
        }
    }
}

/// How far a request's body has come.
#[derive(Clone, Copy)]
struct Upload {
    at: Instant,
    ended: bool,
}

/// A request's body that tells how far it has come.
struct Watched {
    body: StreamBody,
    upload: watch::Sender<Upload>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = frame.is_none() || self.body.is_end_stream();
        self.upload.send_replace(Upload { at: Instant::now(), ended });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that fails when it is waited for and nothing has come for too long. While nobody waits for it, because those
/// who read it are slow, no time counts.
struct Paced {
    body: StreamBody,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Body for Paced {
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
        Poll::Ready(Some(Err(Stalled::Body.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
