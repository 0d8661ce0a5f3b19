//! Whatever goes wrong between the proxy and its upstream, on real sockets: each fault has a name, ends in the documented answer in
//! its time, stores nothing wrong, holds nothing, and the next good answer is served.

mod connecting;

mod content;

mod framing;

mod http2;

mod pauses;

mod proxied;

mod silence;

mod tls;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::BodyExt;

use crate::raw::front::Front;
use crate::raw::{PAGE, Speech, Step, Upstream, certificates, say};
use crate::support::{Got, ask, soon};

/// Every call is ill until the upstream heals.
const ALWAYS: usize = usize::MAX;

/// Longer than any fault may last. The whole call has 20 s, so who ends before was ended by the clock of the fault.
const DEADLINE: Duration = Duration::from_secs(15);

/// The largest page that is kept, in bytes.
const MAX_PAGE: usize = 4 << 20;

/// How many run side by side: few enough that their clocks of a second are kept on a busy machine.
const AT_A_TIME: usize = 20;

/// A fault, and what it is to come to.
pub(crate) struct Fault {
    name: &'static str,
    run: BoxFuture<'static, ()>,
}

impl Fault {
    fn new(name: &'static str, run: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { name, run: run.boxed() }
    }
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// The page; the fault was hidden.
    Page,
    /// A page of Merge that is too large to be kept.
    Large,
    /// An answer of Merge with this status.
    Status(u16),
    /// 502 of our own.
    Failed,
    /// 504 of our own.
    Late,
}

impl Told {
    fn matches(self, got: &Got) -> bool {
        let (status, problem) = (got.status.as_u16(), got.problem());
        match self {
            Self::Page => status == 200 && got.body == PAGE,
            Self::Large => status == 200 && got.cache() == "fwd=uri-miss; fwd-status=200" && got.body.len() > MAX_PAGE,
            Self::Status(expected) => status == expected && problem.is_empty(),
            Self::Failed => (status, &*problem) == (502, "upstream-failed"),
            Self::Late => (status, &*problem) == (504, "upstream-timeout"),
        }
    }
}

/// A fault of an upstream that does `steps` when it is asked, `times` in a row.
#[derive(Clone)]
struct Case {
    speech: Speech,
    steps: Vec<Step>,
    times: usize,
    /// In the table of the upstream.
    settings: &'static str,
    told: Told,
    /// How many calls the upstream gets for the one of the caller.
    calls: usize,
}

/// An upstream of plain HTTP/1.1 that does this with the first request.
fn plain(steps: impl Into<Vec<Step>>, told: Told) -> Case {
    Case { speech: Speech::Plain, steps: steps.into(), times: 1, settings: "", told, calls: 1 }
}

/// The same over HTTP/2.
fn over_http2(steps: impl Into<Vec<Step>>, told: Told) -> Case {
    Case { speech: certificates::tls(true), ..plain(steps, told) }
}

impl Case {
    /// It does so with every request, and is asked `calls` times.
    fn always(self, calls: usize) -> Self {
        Self { times: ALWAYS, calls, ..self }
    }

    fn calls(self, calls: usize) -> Self {
        Self { calls, ..self }
    }

    fn set(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    fn named(self, name: &'static str) -> Fault {
        Fault::new(name, self.run())
    }

    async fn run(self) {
        let upstream = Upstream::new(self.speech.clone(), self.steps, self.times).await;
        let front = before(&upstream, &self.speech, self.settings).await;
        examine(&front, self.told).await;
        assert_eq!(upstream.calls(), self.calls, "calls");
        upstream.heal(self.speech);
        recover(&front, self.told).await;
    }
}

/// The proxy in front of `upstream`.
async fn before(upstream: &Upstream, speech: &Speech, settings: &str) -> Front {
    if matches!(speech, Speech::Plain) {
        return Front::new(&format!("http://{}", upstream.address), settings).await;
    }
    let settings = format!("ca_file = '{}'\n{settings}", certificates::file().display());
    Front::new(&format!("https://{}", upstream.address), &settings).await
}

/// Asks while the upstream is ill.
async fn examine(front: &Front, told: Told) -> Got {
    let start = Instant::now();
    let got = front.page("acme").await;
    assert!(told.matches(&got), "{told:?} is expected of {got:?}");
    assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
    front.idle().await;
    got
}

/// Asks once the upstream is well.
async fn recover(front: &Front, told: Told) {
    let next = front.page("acme").await;
    assert!(Told::Page.matches(&next), "the next good answer is served: {next:?}");
    let fetched = if told == Told::Page { "hit; ttl=" } else { "fwd=uri-miss; fwd-status=200; stored" };
    assert!(next.cache().starts_with(fetched), "{}", next.cache());
    let kept = front.page("acme").await;
    assert!(kept.cache().starts_with("hit; ttl=") && kept.body == PAGE, "{kept:?}");
    front.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_the_network_ends_in_its_documented_answer() {
    let faults: Vec<Fault> = [
        connecting::faults(),
        proxied::faults(),
        tls::faults(),
        silence::faults(),
        framing::faults(),
        content::faults(),
        http2::faults(),
        pauses::faults(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let count = faults.len();
    let mut names: Vec<&str> = faults.iter().map(|fault| fault.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "each has a name of its own");
    let outcomes = stream::iter(faults).map(|fault| async move {
        let task = tokio::spawn(tokio::time::timeout(Duration::from_secs(40), fault.run));
        (fault.name, task.await)
    });
    let outcomes: Vec<_> = outcomes.buffer_unordered(AT_A_TIME).collect().await;
    let failed: Vec<&str> =
        outcomes.iter().filter(|(_, outcome)| !matches!(outcome, Ok(Ok(())))).map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    println!("{count} faults of the network, each as documented");
    assert!(count >= 40);
}

/// A relayed call keeps the same clocks; what has begun to stream can only be cut.
#[tokio::test]
async fn a_relayed_call_is_kept_waiting_no_longer_than_a_fetch() {
    let silent = Upstream::new(Speech::Plain, vec![Step::Hold], ALWAYS).await;
    let front = before(&silent, &Speech::Plain, "headers_timeout = '500ms'").await;
    let got = front.send(ask("/through/a")).await;
    assert!(Told::Late.matches(&got), "{got:?}");
    front.idle().await;

    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    let halting = Upstream::new(Speech::Plain, vec![say(half), Step::Hold], 1).await;
    let front = before(&halting, &Speech::Plain, "progress_timeout = '500ms'").await;
    let body = front.begin(ask("/through/a")).await.into_body();
    assert!(soon(body.collect()).await.is_err(), "half a body is not a whole one");
    front.idle().await;
    recover(&front, Told::Failed).await;
}
