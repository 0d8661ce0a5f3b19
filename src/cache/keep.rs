//! What was received becomes a page, and is stored before anyone is told.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::StatusCode;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::freshness;
use super::store::Store;
use crate::domain::exchange::{Fetch, Landing};
use crate::domain::history::History;
use crate::domain::lifetime::Lifetime;
use crate::domain::page::{Kind, Page};
use crate::domain::problem::Problem;
use crate::domain::received::Received;

/// The layer inside a flight: turns what was received into a page and stores it before anyone is told.
pub fn layer<S>(store: Store) -> impl Layer<S, Service = Keep<S>> + Clone {
    layer_fn(move |inner| Keep { inner, store: store.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Keep<S> {
    inner: S,
    store: Store,
}

impl<S> Service<Fetch> for Keep<S>
where
    S: Service<Fetch, Response = Received, Error = Problem, Future: Send + 'static>,
{
    type Response = Landing;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Landing, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, fetch: Fetch) -> Self::Future {
        let (store, received) = (self.store.clone(), self.inner.call(fetch.clone()));
        Box::pin(async move { land(&store, &fetch, &received.await?) })
    }
}

/// The table of statuses: what is a good page, what is remembered as a refusal, what passes, what is no answer at all.
fn land(store: &Store, fetch: &Fetch, received: &Received) -> Result<Landing, Problem> {
    let status = received.status;
    let known_by_name = fetch.known.as_deref().filter(|known| known.validators.is_some());
    if let Some(cause) = received.fault(known_by_name.is_some()) {
        return Err(Problem::UpstreamFailed(cause));
    }
    let policy = &fetch.policy;
    let known = fetch.known.as_deref();
    let history = known.map_or(&History::default(), |known| &known.history).learn(&received.digest.runs);
    let lifetime = freshness::lifetime(policy, &received.digest, &history, fastrand::f32());
    let page = match (status, known_by_name) {
        (StatusCode::OK, _) => Page::new(received, Kind::Good, lifetime, history, known),
        (StatusCode::NOT_MODIFIED, Some(known)) => known.confirmed(received, lifetime, history),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
            Page::new(received, Kind::Negative, freshness::negative_lifetime(&policy.lifetimes), history, known)
        }
        _ => Page::new(received, Kind::Passing, Lifetime::NONE, history, known),
    };
    let page = Arc::new(page);
    let may_keep = !fetch.private && page.kind != Kind::Passing;
    let fits = policy.fits(&page);
    if may_keep && !fits {
        store.keeping().too_large.add();
        store.displace(&fetch.key, &page);
    }
    let stored = may_keep && fits && store.keep(&fetch.key, &page);
    // Who has asked for the twins of the page before will ask for these.
    if stored && known.is_some_and(Page::is_encoded) {
        store.encode(&fetch.key, &page);
    }
    Ok(Landing { page, status, stored, remembered: received.remembered })
}
