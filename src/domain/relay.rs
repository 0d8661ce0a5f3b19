//! The values of a request that passes through as itself: a [`Relay`] goes in, a [`Call`] goes up, a [`Relayed`] comes back.
//!
//! They are kinds of their own beside [`Ask`](super::ask::Ask), [`Fetch`](super::exchange::Fetch) and
//! [`Answer`](super::exchange::Answer), so that nothing that belongs to one caller can come into a page that many share.

use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode, Uri};
use http_body::Body;
use tokio::time::Instant;

use super::body::{ReplyBody, StreamBody, empty};
use super::cache_control::Wants;
use super::caller::{Caller, Payer};
use super::exchange::{Policy, Reason, Served, Target};
use super::key::PageKey;
use super::peer::Asker;
use super::trace::Trace;

/// A request on a route with `cache = "off"` or `"http"` that has been admitted.
#[derive(Debug)]
pub struct Relay {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// The call that it becomes if nothing stored can answer it.
    pub call: Call,
    /// What the caller sent, whether it goes upstream or not.
    pub asked: HeaderMap,
    /// What the client asks of the cache.
    pub wants: Wants,
    /// The rules of the route.
    pub policy: Arc<Policy>,
    /// Who spends a sync credit of the account, if it does.
    pub resync: Option<Asker>,
}

/// One call to an upstream that carries a request as it is.
#[derive(Debug)]
pub struct Call {
    /// Where to, for whom.
    pub target: Target,
    /// What is asked for; its place has the path.
    pub key: PageKey,
    /// The request target whose query goes upstream.
    pub uri: Uri,
    /// Whom it is charged to.
    pub payer: Payer,
    /// The method.
    pub method: Method,
    /// The caller's fields that go with it.
    pub headers: HeaderMap,
    /// The body, as it comes.
    pub body: StreamBody,
    /// Why it is made.
    pub reason: Reason,
    /// Until when it may wait for its turn or be tried again.
    pub deadline: Instant,
    /// Its place in a distributed trace.
    pub trace: Trace,
}

impl Call {
    /// The same call once more, if that can do no harm: a safe method, and no body that would be spent.
    pub fn again(&self) -> Option<Self> {
        let harmless = self.method.is_safe() && self.body.is_end_stream();
        harmless.then(|| Self { reason: Reason::Retry, ..self.with(self.method.clone(), self.headers.clone()) })
    }

    /// A call for the same thing with another method and other fields, and no body.
    pub fn with(&self, method: Method, headers: HeaderMap) -> Self {
        Self {
            target: self.target.clone(),
            key: self.key.clone(),
            uri: self.uri.clone(),
            payer: self.payer.clone(),
            method,
            headers,
            body: empty(),
            reason: self.reason,
            deadline: self.deadline,
            trace: self.trace.clone(),
        }
    }
}

/// What the upstream answered; the body is still on its way.
#[derive(Debug)]
pub struct Called {
    /// The response, without what belongs to one connection.
    pub response: Response<StreamBody>,
    /// When the request went out.
    pub began: Instant,
    /// When the upstream takes the next request, where it has said so.
    pub retry_at: Option<Instant>,
}

/// The answer to a [`Relay`].
#[derive(Debug)]
pub struct Relayed {
    /// The status.
    pub status: StatusCode,
    /// All fields that go to the caller but those of the proxy's own.
    pub headers: HeaderMap,
    /// The body.
    pub body: ReplyBody,
    /// Where it came from.
    pub served: Served,
    /// What is left of its lifetime, in whole seconds; negative once that is over.
    pub ttl: i64,
    /// Whether a forced refresh was asked for and not granted.
    pub refresh_limited: bool,
}
