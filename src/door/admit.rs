//! The door: from a request to one that has been [`Admitted`]. Every refusal happens here, before anything is sent upstream.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::audit::{Audit, Event};
use super::fields::Fields;
use super::found::{Found, traced};
use super::identify::{Consumers, Stranger};
use super::query;
use super::quota;
use super::resolve::Accounts;
use super::route::Routes;
use super::strangers::Strangers;
use crate::domain::arrival::Arrived;
use crate::domain::ask::{Ask, Known, Whose};
use crate::domain::body;
use crate::domain::cache_control::Wants;
use crate::domain::caller::Caller;
use crate::domain::delivery::{Delivery, WEBHOOK_PATH};
use crate::domain::exchange::{Admitted, Given, Outcome};
use crate::domain::key::{CanonicalQuery, KeyParts, PageKey};
use crate::domain::peer::{Asker, Peer};
use crate::domain::problem::{Objection, Problem};
use crate::domain::request_id::{self, X_REQUEST_ID};
use crate::domain::rules::CacheRule;
use crate::domain::signature::{SigningKey, Unsigned};
use crate::domain::under_way::UnderWay;

/// Who may come in, as of now. A reload replaces it whole; each request sees one version.
#[derive(Debug)]
pub struct House {
    /// Which edition of the rules this is: each reload makes a new one.
    pub edition: u64,
    /// Which requests there are.
    pub routes: Routes,
    /// Who may make them.
    pub consumers: Consumers,
    /// How many of those who may not are listened to.
    pub strangers: Strangers,
    /// About whom.
    pub accounts: Accounts,
    /// The largest header section, in bytes.
    pub max_header_bytes: usize,
    /// What webhooks are signed with; none: there are no webhooks.
    pub signing_keys: Vec<SigningKey>,
    /// Where refusals are told.
    pub audit: Arc<Audit>,
}

/// The longest request target, in bytes.
const LONGEST_TARGET: usize = 8 << 10;

impl House {
    /// From a request to one that is admitted; `progress` says how far it has come, in any case.
    fn admit<B>(&self, mut request: Request<Arrived<B>>, progress: &mut Progress) -> Result<Admitted, Problem>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        let now = request.body().at();
        if let Some((question, recalled)) = request.body_mut().take_question(self.edition) {
            // The same words under the same rules: only what each request costs is left to be seen to.
            quota::take(question.quota.as_deref(), now).inspect_err(|_| progress.known = Known::of(&question))?;
            let trace = traced(request.extensions());
            return Ok(Admitted::Ask(Ask {
                question,
                recalled,
                wants: Wants::default(),
                follow: None,
                at: now,
                trace,
            }));
        }
        let (head, body) = request.into_parts();
        self.read(head, body, progress)
    }

    /// The same for words that are not known: in this order all that is asked is found out, and refused if it has to be.
    fn read<B>(&self, head: Parts, body: Arrived<B>, progress: &mut Progress) -> Result<Admitted, Problem>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        if let Some(Objection(problem)) = head.extensions.get() {
            return Err(problem.clone());
        }
        let fields = Fields::of(&head.headers);
        self.check_size(&head, &fields)?;
        let stop = match self.routes.find(&head.method, head.uri.path()) {
            Ok(stop) => stop,
            Err(problem) => return self.off_route(problem, head, body, progress),
        };
        progress.known.route = Some(stop.place.route.clone());
        let (peer, now) = (body.peer(), body.at());
        let identified = self.consumers.identify(fields.authorization, peer, &self.strangers, now);
        let caller = identified.map_err(|stranger| self.refuse(stranger, || progress.asker(&head, peer, now), now))?;
        progress.known.caller = Some(caller.clone());
        if !body.is_end_stream() && matches!(head.method, Method::GET | Method::HEAD) {
            return Err(Problem::InvalidRequest("Send no body with GET or HEAD.".into()));
        }
        let query = CanonicalQuery::new(head.uri.query().unwrap_or_default());
        query::check(&query)?;
        let target = self.accounts.resolve(fields.account, &caller.consumer, stop.upstream.as_ref());
        let target = target
            .inspect_err(|problem| self.deny(problem, &fields, caller, || progress.asker(&head, peer, now), now))?;
        progress.known.account = Some(target.account.clone());
        let resync = (!head.method.is_safe() && stop.place.is_resync()).then(|| progress.asker(&head, peer, now));
        if let Some(asker) = resync.clone().filter(|_| !caller.consumer.resync) {
            let (consumer, account) = (caller.consumer.name.clone(), target.account.audit_label());
            self.audit.tell(Event::ResyncDenied { consumer, account }, asker, now);
            return Err(Problem::ResyncNotAllowed);
        }
        quota::take(caller.quota.as_deref(), now)?;
        let (upstream, account) = (target.upstream.name.clone(), target.account.hash);
        let key = PageKey::new(KeyParts { upstream, account, place: stop.place, query });
        let wants = if fields.has_wants { Wants::read(&head.headers) } else { Wants::default() };
        let found = Found { caller: caller.clone(), target, key, policy: stop.policy, wants };
        Ok(match found.policy.rule {
            CacheRule::SyncStatus | CacheRule::Fixed(_) => {
                Admitted::Ask(found.ask(self.edition, &head, &fields, &body))
            }
            CacheRule::Http | CacheRule::Off => {
                Admitted::Relay(Box::new(found.relay(head, body, &stop.request_headers, resync)))
            }
        })
    }

    /// What came to no route is for the webhook, or for nobody. Looked at only here, so that requests for pages pay nothing for it.
    fn off_route<B>(
        &self,
        problem: Problem,
        head: Parts,
        body: Arrived<B>,
        progress: &mut Progress,
    ) -> Result<Admitted, Problem>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        if problem != Problem::NoSuchRoute || self.signing_keys.is_empty() || head.uri.path() != WEBHOOK_PATH {
            return Err(problem);
        }
        progress.known.route = Some(WEBHOOK_PATH.into());
        if head.method != Method::POST {
            return Err(Problem::MethodNotAllowed { allow: HeaderValue::from_static("POST") });
        }
        let asker = progress.asker(&head, body.peer(), body.at());
        Ok(Admitted::Delivery(Box::new(Delivery { headers: head.headers, body: body::stream(body), asker })))
    }

    /// Who sends what Merge has not signed is a stranger like one without a key.
    pub fn refuse_delivery(&self, reason: Unsigned, asker: Asker, now: Instant) -> Problem {
        let origin = asker.peer.as_ref().and_then(Peer::origin);
        self.audit.tell(Event::WebhookRefused { reason }, asker, now);
        match self.strangers.refuse(origin, now) {
            Problem::UnknownConsumer => Problem::InvalidSignature,
            too_many => too_many,
        }
    }

    /// Who has no key that counts is told nothing; the log is told why.
    fn refuse(&self, stranger: Stranger<'_>, asker: impl FnOnce() -> Asker, now: Instant) -> Problem {
        match stranger {
            Stranger::Unread(problem) => problem,
            Stranger::Refused(reason, consumer, shown) => {
                let key = shown.map(|key| self.accounts.stand_in(&String::from_utf8_lossy(key)));
                let asker = asker();
                let origin = asker.peer.as_ref().and_then(Peer::origin);
                self.audit.tell(Event::KeyRefused { reason, consumer: consumer.cloned(), key }, asker, now);
                self.strangers.refuse(origin, now)
            }
        }
    }

    fn deny(
        &self,
        problem: &Problem,
        fields: &Fields<'_>,
        caller: &Caller,
        asker: impl FnOnce() -> Asker,
        now: Instant,
    ) {
        if *problem == Problem::AccountNotAllowed {
            let account = self.accounts.denied(fields.account, &caller.consumer);
            let event = Event::AccountDenied { consumer: caller.consumer.name.clone(), account };
            self.audit.tell(event, asker(), now);
        }
    }

    /// Refuses what is too large.
    fn check_size(&self, head: &Parts, fields: &Fields<'_>) -> Result<(), Problem> {
        let target = head.uri.path().len() + head.uri.query().map_or(0, |query| query.len() + 1);
        if target > LONGEST_TARGET {
            return Err(Problem::TargetTooLong);
        }
        if fields.size > self.max_header_bytes { Err(Problem::HeadersTooLarge) } else { Ok(()) }
    }
}

/// The layer: `Request` in, [`Outcome`] out; what comes in goes on as [`Admitted`].
pub fn layer<S>(house: Arc<ArcSwap<House>>) -> impl Layer<S, Service = Admit<S>> + Clone {
    layer_fn(move |inner| Admit { inner, house: Cache::new(house.clone()) })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Admit<S> {
    inner: S,
    /// With the house of the last request, which nearly always is that of the next: to see whether it is costs little.
    house: Cache<Arc<ArcSwap<House>>, Arc<House>>,
}

impl<S, B> Service<Request<Arrived<B>>> for Admit<S>
where
    S: Service<Admitted, Response = Given, Error = Problem>,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    type Response = Outcome;
    type Error = Infallible;
    type Future = Admitting<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The services behind the door are always ready: whatever must wait does so inside its call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Arrived<B>>) -> Self::Future {
        let mut progress = Progress::default();
        let (whose, step) = match self.house.load().admit(request, &mut progress) {
            Ok(Admitted::Ask(ask)) => {
                let whose = Whose::Admitted(ask.question.clone());
                (whose, Step::Asking { answer: self.inner.call(Admitted::Ask(ask)) })
            }
            Ok(other) => (Whose::Known(Box::new(progress.known)), Step::Asking { answer: self.inner.call(other) }),
            Err(problem) => (Whose::Known(Box::new(progress.known)), Step::Refused { problem: Some(problem) }),
        };
        Admitting { whose: Some(whose), id: progress.id, step }
    }
}

/// How far a request has come.
#[derive(Default)]
struct Progress {
    known: Known,
    id: Option<Box<HeaderValue>>,
}

impl Progress {
    /// Who asks, for a line of the log. From now on the request has the name that stands there.
    fn asker(&mut self, head: &Parts, peer: Option<&Peer>, now: Instant) -> Asker {
        let id = self.id.get_or_insert_with(|| Box::new(request_id::name(head.headers.get(X_REQUEST_ID), now)));
        Asker { peer: peer.cloned(), id: Some((**id).clone()) }
    }
}

pin_project! {
    /// The future of [`Admit`].
    pub struct Admitting<F> {
        whose: Option<Whose>,
        id: Option<Box<HeaderValue>>,
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<F> {
        Refused { problem: Option<Problem> },
        Asking { #[pin] answer: F },
    }
}

impl<F> UnderWay for Admitting<F> {
    type Known = (Whose, Option<Box<HeaderValue>>);

    fn abandon(self: Pin<&mut Self>) -> Option<Self::Known> {
        let this = self.project();
        Some((this.whose.take()?, this.id.take()))
    }
}

impl<F: Future<Output = Result<Given, Problem>>> Future for Admitting<F> {
    type Output = Result<Outcome, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.step.project() {
            StepProjection::Refused { problem } => Err(problem.take().expect("a future is not polled after its end")),
            StepProjection::Asking { answer } => ready!(answer.poll(cx)),
        };
        let whose = this.whose.take().expect("a future is not polled after its end");
        Poll::Ready(Ok(Outcome { whose, id: this.id.take(), result }))
    }
}
