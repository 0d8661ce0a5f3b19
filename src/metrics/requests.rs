//! Counts the requests: how each ended, and how long it took until its answer could be sent.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::registry::Metrics;
use crate::reply::render::Reply;

/// The layer: sees every answer as it leaves, refusals too.
pub fn layer<S>(metrics: Metrics) -> impl Layer<S, Service = Requests<S>> + Clone {
    layer_fn(move |inner| Requests { inner, metrics: metrics.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Requests<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, R> Service<R> for Requests<S>
where
    S: Service<R, Response = Reply, Error = Infallible>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Counting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        Counting { metrics: self.metrics.clone(), reply: self.inner.call(request) }
    }
}

pin_project! {
    /// The future of [`Requests`].
    pub struct Counting<F> {
        metrics: Metrics,
        #[pin]
        reply: F,
    }
}

impl<F: Future<Output = Result<Reply, Infallible>>> Future for Counting<F> {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(reply) = ready!(this.reply.poll(cx));
        this.metrics.count(&reply.outcome, reply.response.status(), reply.took);
        Poll::Ready(Ok(reply))
    }
}
