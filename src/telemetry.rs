//! One log line for each request, and a span around those that are recorded.

/// How the process logs.
pub mod log;

/// What no line may say.
pub mod redact;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use self::log::{REQUEST_LOG, is_logged};
use crate::access_log::line::{Entry, Moment};
use crate::domain::arrival::Arrived;
use crate::domain::ask::Whose;
use crate::domain::body::ReplyBody;
use crate::domain::clock::since_epoch;
use crate::domain::ending::Ending;
use crate::domain::problem::{Cause, Problem};
use crate::domain::reply::{End, Reply};
use crate::domain::trace::Trace;
use crate::domain::under_way::{Abandoned, UnderWay};
use crate::trace::export::Traces;
use crate::trace::requests;

/// The outermost layer: logs each request when it has ended, has `count` count it, and puts a span around those that are recorded. One
/// whose client does not wait for the answer has ended as well.
pub fn layer<S, C: Clone>(traces: Traces, count: C) -> impl Layer<S, Service = Telemetry<S, C>> + Clone {
    layer_fn(move |inner| Telemetry { inner, traces: traces.clone(), count: Arc::new(count.clone()) })
}

/// See [`layer`].
pub struct Telemetry<S, C> {
    inner: S,
    traces: Traces,
    count: Arc<C>,
}

impl<S: Clone, C: Clone> Clone for Telemetry<S, C> {
    /// Each connection has one of its own. So has what is counted with each request that holds on to it: on one for all, the processors
    /// would wait for each other.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), traces: self.traces.clone(), count: Arc::new(C::clone(&self.count)) }
    }
}

impl<S, C, B> Service<Request<Arrived<B>>> for Telemetry<S, C>
where
    S: Service<Request<Arrived<B>>, Response = Reply, Error = Infallible>,
    S::Future: UnderWay<Known = Abandoned>,
    C: Fn(End<'_>),
{
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Answering<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Arrived<B>>) -> Self::Future {
        let trace = requests::begin(&self.traces, &mut request);
        let line = is_logged().then(|| {
            let path = request.body().recalled_path().unwrap_or_else(|| request.uri().path());
            Line { method: request.method().clone(), path: SmallVec::from_slice(path.as_bytes()) }
        });
        Answering { line, trace, count: self.count.clone(), reply: self.inner.call(request) }
    }
}

/// What the log line needs to remember of a request.
struct Line {
    method: Method,
    /// A copy: whoever holds on to a part of a head keeps its connection from reading the next into the same memory.
    path: SmallVec<[u8; 48]>,
}

impl Line {
    fn write(&self, reply: &Reply, ending: Ending) {
        let (whose, status) = (&reply.outcome.whose, reply.response.status());
        let cause = match &reply.outcome.result {
            Err(Problem::UpstreamFailed(cause)) => Some(*cause),
            _ => None,
        };
        self.tell(whose, status, (ending, cause), (reply.ended, reply.took, &reply.request_id));
    }

    fn tell(
        &self,
        whose: &Whose,
        status: StatusCode,
        (ending, cause): (Ending, Option<Cause>),
        (ended, took, id): (Instant, Duration, &HeaderValue),
    ) {
        let entry = || Entry {
            method: self.method.as_str(),
            path: str::from_utf8(&self.path).unwrap_or_default(),
            status: status.as_u16(),
            result: ending.result(),
            reason: Some(ending.reason()).filter(|reason| !reason.is_empty()),
            cause,
            route: whose.route().map(|route| &**route),
            consumer: whose.caller().map(|caller| &*caller.consumer.name),
            account: whose.account().map(|account| account.label()),
        };
        let moment = Moment {
            at: since_epoch(ended),
            microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            id: id.as_bytes(),
        };
        let Some(log) = REQUEST_LOG.get() else { return tell_people(&entry(), &moment) };
        // Of a question that is asked again and again all hits say the same but when, how fast and by which name.
        let same = match whose {
            Whose::Admitted(question) if ending == Ending::Hit && status == StatusCode::OK => {
                question.again.as_ref().map(|again| &again.logged)
            }
            _ => None,
        };
        log.log(&moment, same, entry);
    }
}

/// The line of a request among all others, for people.
fn tell_people(entry: &Entry<'_>, moment: &Moment<'_>) {
    let Entry { method, path, status, result, reason, cause, route, consumer, account } = *entry;
    let cause = cause.map(tracing::field::display);
    let Moment { microseconds, id, .. } = *moment;
    let id = str::from_utf8(id).ok();
    tracing::info!(
        target: "access", method, path, status, result, reason, cause, route, consumer, account, microseconds, id
    );
}

pin_project! {
    /// The future of [`Telemetry`].
    pub struct Answering<F, C>
    where
        F: UnderWay<Known = Abandoned>,
        C: Fn(End<'_>),
    {
        line: Option<Line>,
        trace: Trace,
        count: Arc<C>,
        #[pin]
        reply: F,
    }

    impl<F, C> PinnedDrop for Answering<F, C>
    where
        F: UnderWay<Known = Abandoned>,
        C: Fn(End<'_>),
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(abandoned) = this.reply.abandon() {
                let Abandoned { whose, request_id, ended, took } = &abandoned;
                (this.count)(End::Abandoned(&abandoned));
                requests::abandon(this.trace, &abandoned);
                if let Some(line) = this.line {
                    line.tell(whose, Abandoned::status(), (Ending::Abandoned, None), (*ended, *took, request_id));
                }
            }
        }
    }
}

impl<F, C> Future for Answering<F, C>
where
    F: Future<Output = Result<Reply, Infallible>> + UnderWay<Known = Abandoned>,
    C: Fn(End<'_>),
{
    type Output = Result<Response<ReplyBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(reply) = ready!(this.reply.poll(cx));
        let ending = Ending::of(&reply.outcome.result);
        (this.count)(End::Answered(&reply, ending));
        requests::end(this.trace, &reply, ending);
        if let Some(line) = this.line.take() {
            line.write(&reply, ending);
        }
        Poll::Ready(Ok(reply.response))
    }
}
