//! Following a page: a request that is held until there is another one (`Prefer: wait`, RFC 7240 §4.3), or that is told of each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Stream};
use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::cache_control::{directives, list, seconds};
use super::detached;
use super::exchange::Answer;
use super::page::Page;

/// The header for what a client would like (RFC 7240 §2).
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest that a request is held: clients and what lies between give up on a connection that is silent for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How a request follows a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It is answered once there is a page that it does not know, or when the time is over.
    Wait {
        /// How long it is held at most.
        at_most: Duration,
        /// Lines that name the pages it knows.
        known: Vec<HeaderValue>,
    },
    /// It is told of each page that it does not know.
    Stream {
        /// Lines that name the pages it knows.
        known: Vec<HeaderValue>,
    },
}

impl Follow {
    /// What the fields of a request ask for; `None` if it is to be answered at once, as most are.
    pub fn read(method: &Method, headers: &HeaderMap) -> Option<Self> {
        if method != Method::GET {
            return None;
        }
        let lines = |name: HeaderName| headers.get_all(name).iter().map(detached::value);
        if accepts_events(headers) {
            return Some(Self::Stream { known: lines(LAST_EVENT_ID).chain(lines(IF_NONE_MATCH)).collect() });
        }
        let at_most = wait(headers)?.min(LONGEST_WAIT);
        let known: Vec<_> = lines(IF_NONE_MATCH).collect();
        // Who knows nothing has nothing to wait for.
        (!known.is_empty() && !at_most.is_zero()).then_some(Self::Wait { at_most, known })
    }
}

/// Whether an event stream is asked for by its name; whoever accepts anything gets a page.
fn accepts_events(headers: &HeaderMap) -> bool {
    list(headers, &ACCEPT).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/event-stream"));
        let refused = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse() == Ok(0.0))
        };
        named && !parts.any(refused)
    })
}

/// `wait` among the preferences; the first counts (RFC 7240 §2).
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let mut preferences = headers.get_all(PREFER).iter().flat_map(directives);
    let (_, argument) = preferences.find(|(name, _)| name.eq_ignore_ascii_case("wait"))?;
    seconds(argument.and_then(|argument| argument.split(';').next()).map(str::trim))
}

/// The answer to a request that has followed a page.
#[derive(Debug)]
pub struct Followed {
    /// The page as it was when the answer begins.
    pub answer: Answer,
    /// What goes beyond that.
    pub how: How,
}

/// How a page was followed.
#[derive(Debug)]
pub enum How {
    /// The request was held, for this long at most.
    Waited(Duration),
    /// Pages are still to come; taken by whoever sends them.
    Stream(Option<Updates>),
}

/// Pages, each different from the one before. They end when there is nothing more to follow.
pub struct Updates(BoxStream<'static, Arc<Page>>);

impl Updates {
    /// These pages.
    pub fn new(pages: impl Stream<Item = Arc<Page>> + Send + 'static) -> Self {
        Self(pages.boxed())
    }

    /// The next page. Nothing is lost if this is given up.
    pub async fn next(&mut self) -> Option<Arc<Page>> {
        self.0.next().await
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Updates")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &'static str)]) -> Option<Follow> {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        Follow::read(&Method::GET, &fields.iter().map(field).collect())
    }

    #[test]
    fn a_wait_needs_a_time_and_something_known() {
        let known = ("if-none-match", "\"a\"");
        let waits = |line| match read(&[("prefer", line), known]) {
            Some(Follow::Wait { at_most, .. }) => at_most.as_secs(),
            None => 0,
            Some(stream) => panic!("{stream:?}"),
        };
        let told = ["wait=5", "respond-async, Wait=\"7\"", "wait = 9; x=y, wait=1", "wait=61", "wait=99999999999"];
        assert_eq!(told.map(waits), [5, 7, 9, 60, 60]);
        assert_eq!(["wait", "wait=", "wait=0", "wait=-1", "wait=1.5", "await=5", ""].map(waits), [0; 7]);
        assert_eq!(read(&[("prefer", "wait=5")]), None);
        let headers = [(PREFER, HeaderValue::from_static("wait=5")), (IF_NONE_MATCH, HeaderValue::from_static("*"))];
        assert_eq!(Follow::read(&Method::HEAD, &headers.into_iter().collect()), None);
    }

    #[test]
    fn a_stream_is_asked_for_by_name() {
        let streams = |line| matches!(read(&[("accept", line)]), Some(Follow::Stream { .. }));
        for line in ["text/event-stream", "application/json;q=0.5, TEXT/event-stream ; q=1", "text/event-stream;q=0.1"]
        {
            assert!(streams(line), "{line}");
        }
        for line in ["*/*", "text/*", "text/event-streams", "text/event-stream;q=0", "text/event-stream; q=0.00"] {
            assert!(!streams(line), "{line}");
        }
    }
}
