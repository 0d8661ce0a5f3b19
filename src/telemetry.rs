//! One log line for each request, and a span around those that are recorded; how logs look.

/// What no line may say.
pub mod redact;

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use self::redact::Redacting;
use crate::access_log::Log;
use crate::access_log::line::{Entry, Moment};
use crate::domain::arrival::Arrived;
use crate::domain::ask::Whose;
use crate::domain::body::ReplyBody;
use crate::domain::clock::since_epoch;
use crate::domain::ending::Ending;
use crate::domain::problem::{Cause, Problem};
use crate::domain::trace::Trace;
use crate::domain::under_way::{Abandoned, UnderWay};
use crate::reply::render::{End, Reply};
use crate::trace::export::Traces;
use crate::trace::requests;

/// Begins logging to standard error what `filter` lets through: lines for people if `pretty`, else one JSON object a line.
/// What is [concealed](redact::conceal) is in none of them. A second call changes nothing.
///
/// # Errors
/// If there can be no thread that writes.
pub fn start(pretty: bool, filter: &str, access_log: bool) -> io::Result<()> {
    if LOG.get().is_some() {
        return Ok(());
    }
    let log = Log::start(Redacting(io::stderr()))?;
    // What cannot be written is lost and counted. To say so on standard error, where it could not be written, would be a panic.
    let lines = tracing_subscriber::fmt().with_writer(log.clone()).log_internal_errors(false);
    let lines = lines.with_env_filter(parse(filter, access_log)).with_ansi(io::stderr().is_terminal());
    if !pretty {
        let _ = REQUEST_LOG.set(log.clone());
    }
    let _ = LOG.set(log);
    // What a panic quotes may be anything; and a line for people among lines of JSON would not be read by what reads those.
    std::panic::set_hook(Box::new(tell_panic));
    // The two formats are two types, and so are their handles.
    if pretty {
        let lines = lines.compact().with_filter_reloading();
        let handle = lines.reload_handle();
        install(lines, move |filter| handle.reload(filter).is_ok());
    } else {
        let lines = lines.json().flatten_event(true).with_filter_reloading();
        let handle = lines.reload_handle();
        install(lines, move |filter| handle.reload(filter).is_ok());
    }
    Ok(())
}

/// A panic, as one line of the log, or on its own where the filter lets no error through.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let at = panic.location().map(ToString::to_string);
    if tracing::enabled!(target: "panic", tracing::Level::ERROR) {
        tracing::error!(target: "panic", at, "{message}");
    } else {
        tell(&format!("panic at {}: {message}", at.unwrap_or_default()));
    }
    // It is the last that the process says.
    if thread::current().name() == Some("main") {
        finish();
    }
}

/// Writes a line that no filter may keep back, after all that has been logged.
pub fn tell(line: &str) {
    let line = format!("{line}\n");
    match LOG.get() {
        Some(log) => log.tell(line.as_bytes()),
        // Whoever cannot be told cannot be told that either.
        None => drop(Redacting(io::stderr()).write_all(line.as_bytes())),
    }
}

type Refilter = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Whether the lines of requests pass the filter of the process's log: to ask the filter for each would cost more than to write them.
static IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// Whether a request gets a line.
fn is_logged() -> bool {
    match REQUEST_LOG.get() {
        Some(_) => IS_LOGGED.load(Ordering::Relaxed),
        None => passes_filter(),
    }
}

fn passes_filter() -> bool {
    tracing::enabled!(target: "access", tracing::Level::INFO)
}

/// Changes the filter of the process's log, once there is one.
static REFILTER: OnceLock<Refilter> = OnceLock::new();

fn install(lines: impl SubscriberInitExt, refilter: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    if lines.try_init().is_ok() {
        let _ = REFILTER.set(Box::new(refilter));
    }
    IS_LOGGED.store(passes_filter(), Ordering::Relaxed);
}

/// Lets another filter decide from now on which lines are logged.
pub fn refilter(filter: &str, access_log: bool) {
    let changed = REFILTER.get().is_none_or(|refilter| refilter(parse(filter, access_log)));
    IS_LOGGED.store(passes_filter(), Ordering::Relaxed);
    if !changed {
        tracing::error!("the log filter could not be changed");
    }
}

/// The filter; audit lines pass it unless it speaks of them itself.
fn parse(text: &str, access_log: bool) -> EnvFilter {
    let directive = |text: &str| text.parse().expect("a target and a level are a directive");
    let mut filter = EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new("info"));
    if !access_log {
        filter = filter.add_directive(directive("access=off"));
    }
    if !text.split(',').any(|part| part.trim().starts_with("audit")) {
        filter = filter.add_directive(directive("audit=info"));
    }
    filter
}

/// Where all lines go.
static LOG: OnceLock<Log> = OnceLock::new();

/// The same, if it makes the lines of requests itself.
static REQUEST_LOG: OnceLock<Log> = OnceLock::new();

/// How long the end of the process waits for whoever reads the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes what has been logged and not written yet, unless that takes too long. Nothing that is logged later is sure to be written.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.flush(LAST_LINES);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use secrecy::zeroize::Zeroizing;
    use std::panic;

    #[test]
    fn audit_lines_pass_a_filter_that_does_not_speak_of_them() {
        let parsed = |text, access_log| parse(text, access_log).to_string();
        assert!(parsed("warn", true).contains("audit=info") && !parsed("warn", true).contains("access"));
        assert!(parsed("warn", false).contains("access=off"));
        assert_eq!(parsed("audit=off", true), "audit=off");
        assert_eq!(parsed("audit=warn", true), "audit=warn");
    }

    #[test]
    fn a_panic_is_a_line_of_the_log_and_holds_no_secret() {
        #[derive(Clone, Default)]
        struct Taken(Arc<Mutex<Vec<u8>>>);
        impl Write for Taken {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let taken = Taken::default();
        let writer = taken.clone();
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(Redacting(move || writer.clone()));
        let _guard = tracing::subscriber::set_default(lines.finish());
        redact::conceal([Zeroizing::new("sk-canary-of-a-panic".to_owned())]);
        // Panics of other tests go where they always go.
        let (here, before) = (thread::current().id(), panic::take_hook());
        panic::set_hook(Box::new(
            move |panic| if thread::current().id() == here { tell_panic(panic) } else { before(panic) },
        ));
        let panicked = panic::catch_unwind(|| panic!("a \"quote\" of sk-canary-of-a-panic"));
        drop(panic::take_hook());
        assert!(panicked.is_err());
        let line: serde_json::Value = serde_json::from_slice(&taken.0.lock()).expect("one JSON line");
        assert_eq!((&line["message"], &line["target"]), (&"a \"quote\" of [redacted]".into(), &"panic".into()));
        assert!(line["at"].as_str().is_some_and(|at| at.starts_with("src/telemetry.rs:")), "{line}");
    }
}
