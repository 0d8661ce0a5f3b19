//! The simulated Merge: a service that answers as Merge would, and a handle that says what goes wrong.
//!
//! It stands in for Merge in the demo, behind a socket, and in tests, in the same process and on tokio's clock, paused or not.
//! All clones are one: a test keeps a clone, and through it counts, holds, scripts and fails what the other one answers.
//!
//! Sync schedules run on a simulated clock, which may be accelerated; limits count in tokio's own seconds.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Service};

use super::account::{DEMO_API_KEY, SimAccount, demo_accounts};
use super::answer::{Answer, Fate};
use super::api::Visit;
use super::body::SimBody;
use super::builder::Builder;
use super::clock::SimClock;
use super::gate::Gate;
use super::limits::{Failures, Window};
use super::models::Status;
use super::record::{InFlight, Record};
use super::schedule::Schedule;
use super::script::Script;

/// A simulated Merge. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Merge {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) api_key: String,
    pub(crate) linked: Vec<Linked>,
    pub(crate) clock: SimClock,
    /// Whether failing too often is punished.
    pub(crate) blocking: bool,
    pub(crate) failures: Mutex<Failures>,
    pub(crate) record: Arc<Record>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) script: Script,
    pub(crate) switches: Switches,
    pub(crate) connections: AtomicUsize,
}

/// A linked account, and what may change about it.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) account: SimAccount,
    pub(crate) window: Option<Mutex<Window>>,
    pub(crate) state: Mutex<LinkedState>,
}

#[derive(Debug)]
pub(crate) struct LinkedState {
    pub(crate) revoked: bool,
    pub(crate) schedule: Schedule,
    /// Statuses that a test has laid over the schedule's, by model id.
    pub(crate) statuses: HashMap<String, Status>,
    /// Bodies that a test has fixed, by category.
    pub(crate) pages: HashMap<String, Bytes>,
}

/// What Merge may or may not send; nobody outside knows for sure.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    pub(crate) etags: AtomicBool,
    pub(crate) rate_headers: AtomicBool,
}

impl Switches {
    pub(crate) fn is_on(switch: &AtomicBool) -> bool {
        switch.load(Ordering::Relaxed)
    }
}

impl Merge {
    /// A Merge without accounts, to be given some.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The standard set of accounts, at a minute per second, with [`DEMO_API_KEY`].
    pub fn demo() -> Self {
        let builder = Self::builder().api_key(DEMO_API_KEY).accelerated(60);
        demo_accounts().into_iter().fold(builder, Builder::account).build()
    }

    /// Answers a call that was counted, and let in or refused, when it arrived.
    async fn answer(
        self,
        head: Parts,
        call: InFlight,
        account: Option<usize>,
        admitted: Result<Visit, Box<Answer>>,
    ) -> Result<Response<SimBody>, BoxError> {
        let inner = &*self.inner;
        inner.gate.pass().await;
        let mut answer = match admitted {
            Ok(visit) => inner.view(&visit, &head),
            Err(refusal) => *refusal,
        };
        for fault in inner.script.next(account.map(|place| &*inner.linked[place].account.name)) {
            fault.bend(&mut answer, &head.headers);
        }
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        match answer.fate {
            Fate::Send => {}
            Fate::Hang => std::future::pending().await,
            Fate::Reset => return Err(Reset.into()),
        }
        let status = answer.status.as_u16();
        if inner.blocking {
            inner.failures.lock().note(status, Instant::now());
        }
        call.answered(status);
        Ok(answer.into_response(head.method == Method::HEAD, call))
    }
}

impl<B> Service<Request<B>> for Merge {
    type Response = Response<SimBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<SimBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    /// Counts the call and spends its limits at once, so that order is the order of the calls, not that of their polling.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, _) = request.into_parts();
        let account = self.inner.caller(&head.headers);
        let call = self.inner.record.arrive(&head, account.map(|place| &*self.inner.linked[place].account.name));
        let admitted = self.inner.admit(&head);
        Box::pin(self.clone().answer(head, call, account, admitted))
    }
}

/// The connection is to be reset: the only way in which a call fails.
#[derive(Debug, thiserror::Error)]
#[error("the simulated connection was reset")]
pub(crate) struct Reset;
