//! A span around every request that is recorded.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::export::Traces;
use crate::domain::ending::Ending;
use crate::domain::exchange::Outcome;
use crate::domain::request_id::X_REQUEST_ID;
use crate::domain::trace::Trace;
use crate::reply::render::Reply;

/// The layer: takes up the caller's trace, or begins one, and hands it on among the request's extensions.
pub fn layer<S>(traces: Traces) -> impl Layer<S, Service = Requests<S>> + Clone {
    layer_fn(move |inner| Requests { inner, traces: traces.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Requests<S> {
    inner: S,
    traces: Traces,
}

impl<S, B> Service<Request<B>> for Requests<S>
where
    S: Service<Request<B>, Response = Reply, Error = Infallible>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Recording<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let trace = self.traces.of(request.headers());
        if !trace.is_off() {
            trace.note("http.request.method", request.method().to_string());
            request.extensions_mut().insert(trace.clone());
        }
        Recording { trace, reply: self.inner.call(request) }
    }
}

pin_project! {
    /// The future of [`Requests`].
    pub struct Recording<F> {
        trace: Trace,
        #[pin]
        reply: F,
    }
}

impl<F: Future<Output = Result<Reply, Infallible>>> Future for Recording<F> {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(reply) = ready!(this.reply.poll(cx));
        if this.trace.is_recorded() {
            describe(this.trace, &reply);
            // What goes on without the caller, such as a refresh, may still hold it.
            this.trace.end();
        }
        Poll::Ready(Ok(reply))
    }
}

fn describe(trace: &Trace, reply: &Reply) {
    let Outcome { whose, result, .. } = &reply.outcome;
    let ending = Ending::of(result);
    let status = reply.response.status();
    trace.note("http.response.status_code", i64::from(status.as_u16()));
    trace.note("proxy.result", ending.result());
    if !ending.reason().is_empty() {
        trace.note("proxy.reason", ending.reason());
    }
    for (key, name) in [
        ("proxy.consumer", whose.caller().map(|caller| &*caller.consumer.name)),
        ("proxy.account", whose.account().map(|account| account.label())),
        ("http.route", whose.route().map(|route| &**route)),
        ("proxy.request_id", reply.response.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok())),
    ] {
        if let Some(name) = name {
            trace.note(key, name.to_owned());
        }
    }
    if status.is_server_error() {
        trace.fail(if ending.reason().is_empty() { "upstream-error" } else { ending.reason() });
    }
}
