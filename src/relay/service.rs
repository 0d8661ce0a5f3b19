//! From a [`Relay`] to its answer: passed on as it is, or by the rules of HTTP caching.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::cached::Cached;
use super::change::{Forget, change};
use super::fetch::pass;
use super::meeting::Meetings;
use super::store::Responses;
use crate::domain::exchange::Forward;
use crate::domain::problem::Problem;
use crate::domain::relay::{Call, Called, Relay, Relayed};
use crate::domain::rules::CacheRule;

/// What all requests share: what is stored, and who waits for what.
#[derive(Clone)]
pub struct Http {
    /// What is stored.
    pub responses: Responses,
    /// Who waits for what.
    pub meetings: Meetings,
}

impl Http {
    /// An empty cache for at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        Self { responses: Responses::new(max_bytes), meetings: Meetings::default() }
    }
}

/// The layer: `Relay` in, `Relayed` out; what must go upstream goes on as a [`Call`]. It calls `forget` after each change or resync
/// that may have gone through.
pub fn layer<S>(http: Http, forget: Forget) -> impl Layer<S, Service = Relaying<S>> + Clone {
    layer_fn(move |inner| Relaying { inner, http: http.clone(), forget: forget.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Relaying<S> {
    inner: S,
    http: Http,
    forget: Forget,
}

impl<S> Service<Relay> for Relaying<S>
where
    S: Service<Call, Response = Called, Error = Problem, Future: Send> + Clone + Send + 'static,
{
    type Response = Relayed;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Relayed, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, relay: Relay) -> Self::Future {
        let Self { inner, http, forget } = self.clone();
        Box::pin(async move {
            if !relay.call.method.is_safe() {
                return change(inner, forget, relay).await;
            }
            if relay.policy.rule == CacheRule::Http {
                return Cached { inner, http, relay }.answer().await;
            }
            let (place, _) = relay.caller.place(relay.call.deadline).await?;
            pass(inner, relay.call, place, Forward::Bypass).await
        })
    }
}
