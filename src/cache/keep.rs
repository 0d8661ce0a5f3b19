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
use crate::domain::page::{Kind, Lifetime, Page};
use crate::domain::problem::{Cause, Problem};
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
    let policy = &fetch.policy;
    let known = fetch.known.as_ref().map(|known| &known.history);
    let history = known.unwrap_or(&History::default()).learn(&received.digest.runs);
    let lifetime = freshness::lifetime(policy, &received.digest, &history, fastrand::f32());
    let page = match status {
        StatusCode::OK if received.digest.json => {
            Page::new(received, Kind::Good, lifetime, history).sharing(fetch.known.as_deref())
        }
        StatusCode::OK => return Err(Problem::UpstreamFailed(Cause::NotJson)),
        // Only who has named the page by the upstream's own validators has asked for a 304.
        StatusCode::NOT_MODIFIED => match fetch.known.as_deref().filter(|known| known.validators.is_some()) {
            Some(known) => known.confirmed(received, lifetime, history),
            None => return Err(Problem::UpstreamFailed(Cause::Unexpected(304))),
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
            Page::new(received, Kind::Negative, freshness::negative_lifetime(&policy.lifetimes), history)
        }
        status if status.is_client_error() || status.is_server_error() => {
            Page::new(received, Kind::Passing, Lifetime::NONE, history)
        }
        status => return Err(Problem::UpstreamFailed(Cause::Unexpected(status.as_u16()))),
    };
    let page = Arc::new(page);
    let may_keep = !fetch.private && page.kind != Kind::Passing;
    let fits = page.body.len() <= policy.max_page_bytes;
    if may_keep && !fits {
        store.keeping().too_large.add();
    }
    let stored = may_keep && fits && store.keep(&fetch.key, &page);
    // Who has asked for the twins of the page before will ask for these.
    if stored && fetch.known.as_ref().is_some_and(|known| known.is_encoded()) {
        store.encode(&fetch.key, &page);
    }
    Ok(Landing { page, status, stored, remembered: received.remembered })
}
