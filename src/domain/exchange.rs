//! The values that travel between the stacks: an [`Ask`] goes in, a [`Fetch`] goes up, an [`Answer`] comes back. What passes
//! through as itself has its own, in [`relay`](super::relay).

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::access::{Account, Upstream};
use super::ask::{Ask, Question, Whose};
use super::delivery::{Delivered, Delivery};
use super::follow::Followed;
use super::page::Page;
use super::problem::Problem;
use super::relay::{Relay, Relayed};
use super::rules::{CacheRule, Lifetimes};
use super::trace::Trace;

/// Whose data, and with whose credentials it is fetched: the only holder of usable credentials on a request's path.
#[derive(Clone, Debug)]
pub struct Target {
    /// The credential set.
    pub upstream: Arc<Upstream>,
    /// The linked account.
    pub account: Arc<Account>,
}

/// The operator's rules for the pages of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where lifetimes come from.
    pub rule: CacheRule,
    /// The bounds of lifetimes.
    pub lifetimes: Lifetimes,
    /// A larger page is passed on, but not stored; in bytes.
    pub max_page_bytes: usize,
}

impl Policy {
    /// Whether `page` is small enough to be stored.
    pub fn fits(&self, page: &Page) -> bool {
        page.body.len() <= self.max_page_bytes
    }
}

/// Why an upstream is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody waits for it.
    Miss,
    /// Somebody has been served a stale page meanwhile.
    Refresh,
    /// The try before failed.
    Retry,
    /// It passes through as itself.
    Pass,
    /// The upstream has been left alone for a while, and this one shows whether it is well again.
    Probe,
    /// Merge has said that there is something new.
    Webhook,
}

impl Reason {
    /// All of them, each at the place that its number says.
    pub const ALL: [Self; 6] = [Self::Miss, Self::Refresh, Self::Retry, Self::Pass, Self::Probe, Self::Webhook];

    /// What metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Refresh => "refresh",
            Self::Retry => "retry",
            Self::Pass => "pass",
            Self::Probe => "probe",
            Self::Webhook => "webhook",
        }
    }
}

/// One page to be fetched from the upstream.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What is asked: from where, for whom, by which rules. Of those who share the fetch, it is the one who began it that asks and is
    /// charged.
    pub question: Arc<Question>,
    /// The page that is being renewed, if there is one.
    pub known: Option<Arc<Page>>,
    /// Why it is fetched.
    pub reason: Reason,
    /// When the whole fetch ends, whatever happens.
    pub deadline: Instant,
    /// Its place in the trace of whoever asked first.
    pub trace: Trace,
    /// Set once the call has gone out.
    pub departure: Departure,
    /// Whether the page is for one caller alone and may not be stored (`no-store`).
    pub private: bool,
}

impl Deref for Fetch {
    type Target = Question;

    fn deref(&self) -> &Question {
        &self.question
    }
}

/// Whether a call has gone out: before that it may still be given up, afterwards it has been paid for.
#[derive(Clone, Debug, Default)]
pub struct Departure(Arc<AtomicBool>);

impl Departure {
    /// The call goes out now.
    pub fn depart(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has gone out.
    pub fn has_departed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a fetch ended well: everyone who waited for it gets the same page.
#[derive(Clone, Debug)]
pub struct Landing {
    /// The page.
    pub page: Arc<Page>,
    /// What the upstream answered: 304 when it confirmed the page that was known.
    pub status: StatusCode,
    /// Whether the page is in the store now.
    pub stored: bool,
    /// Whether no call was made, because it would only have brought the refusal that is remembered for the account.
    pub remembered: bool,
}

impl Landing {
    /// Whether the upstream refused or broke down; see [`is_failure`].
    pub fn is_failure(&self) -> bool {
        is_failure(self.status)
    }
}

/// Whether an upstream that answers so refused or broke down: what stale-if-error covers (RFC 5861 §4, and 429).
pub fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Why the request went forward to the upstream (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nothing was stored.
    UriMiss,
    /// What was stored is stale.
    Stale,
    /// The client asked for it.
    Request,
    /// What is stored is for other request headers (`http` routes).
    VaryMiss,
    /// The method is not one that a store can answer (`http` routes).
    Method,
    /// The route has no cache.
    Bypass,
}

/// Why a stale page is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is being fetched anew.
    Revalidating,
    /// The upstream failed or may not be asked.
    UpstreamError,
    /// The client accepts it (`max-stale`).
    Accepted,
}

/// Where an answer came from: the one source of the Cache-Status field, the log's `result` and `reason`, and the labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// From the store, fresh.
    Hit,
    /// From the store, a remembered refusal.
    Negative,
    /// From the store, stale.
    Stale(Why),
    /// From the upstream.
    Fetched {
        /// Why it was asked.
        forward: Forward,
        /// What it said.
        status: StatusCode,
        /// Whether the page is in the store now.
        stored: bool,
    },
    /// From a call to the upstream that another request had begun.
    Collapsed {
        /// Why it was asked.
        forward: Forward,
    },
}

/// What came of a request, and whose it was. The short name for what came of it is its [`Ending`](super::ending::Ending).
#[derive(Debug)]
pub struct Outcome {
    /// Whose it was.
    pub whose: Whose,
    /// The name of the request, if a line of the log has told it already.
    pub id: Option<Box<HeaderValue>>,
    /// The answer, or why there is none.
    pub result: Result<Given, Problem>,
}

/// A request that has been admitted, by what its route does with it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of the large kind, which is on the path of a hit")]
pub enum Admitted {
    /// For a page that all share.
    Ask(Ask),
    /// Passes through as itself.
    Relay(Box<Relay>),
    /// For the webhook. It is yet to be seen whether Merge has sent it.
    Delivery(Box<Delivery>),
}

/// The answer to an [`Admitted`] request.
#[derive(Debug)]
pub enum Given {
    /// A page that all share.
    Page(Answer),
    /// A page that was followed.
    Followed(Box<Followed>),
    /// What came for this request.
    Relayed(Box<Relayed>),
    /// What became of a webhook.
    Delivered(Delivered),
}

impl Given {
    /// Where it came from; `None`: it is no page.
    pub fn served(&self) -> Option<Served> {
        match self {
            Self::Page(answer) => Some(answer.served),
            Self::Followed(followed) => Some(followed.answer.served),
            Self::Relayed(relayed) => Some(relayed.served),
            Self::Delivered(_) => None,
        }
    }
}

/// The page that a caller gets, and how it came about.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The page.
    pub page: Arc<Page>,
    /// Where it came from.
    pub served: Served,
    /// The instant at which age and remaining lifetime are told.
    pub now: Instant,
    /// How old the page is then.
    pub age: Duration,
    /// Whether a forced refresh was asked for and not granted.
    pub refresh_limited: bool,
    /// Whether it was waited for, wherever it came from in the end.
    pub waited: bool,
}

impl Answer {
    /// `page` as it is at `now`.
    pub fn new(page: Arc<Page>, served: Served, now: Instant, refresh_limited: bool) -> Self {
        Self { age: page.age(now), page, served, now, refresh_limited, waited: false }
    }

    /// The same, which was waited for.
    #[must_use]
    pub fn after_waiting(self) -> Self {
        Self { waited: true, ..self }
    }

    /// `page`, which at `now` is fresh for `ttl` more; its age follows from that.
    pub fn fresh(page: Arc<Page>, served: Served, now: Instant, ttl: Duration, refresh_limited: bool) -> Self {
        Self { age: page.lifetime.fresh.saturating_sub(ttl), page, served, now, refresh_limited, waited: false }
    }
}
