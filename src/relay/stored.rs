//! A stored response: what came, for which requests it is, and how long it may be used.

use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::directives::Directives;
use super::policy::{Clocks, Terms, date, terms};
use super::vary::Selection;
use super::verdict::Verdict;
use crate::domain::cache_control::Wants;
use crate::domain::condition;
use crate::domain::detached;
use crate::domain::setback::Setback;

/// One response, whole.
#[derive(Debug)]
pub struct Stored {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without those that may not be stored.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The requests that it is for.
    pub selection: Selection,
    /// How long it may be used.
    pub terms: Terms,
    /// When the request for it went out.
    pub began: Instant,
    /// When it came.
    received: Instant,
    purged: AtomicBool,
    setback: Setback,
}

/// The head of a response as it came, with its times.
#[derive(Clone, Debug)]
pub struct Came {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// What its `Cache-Control` says.
    pub directives: Directives,
    /// What that allows.
    pub terms: Terms,
    /// When the request for it went out.
    began: Instant,
    received: Instant,
}

/// What a 304 says nothing about, for it has no content to describe, and the tag, by which the stored response was found.
const OF_THE_CONTENT: [HeaderName; 5] =
    [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE, HeaderName::from_static("content-md5"), ETAG];

impl Came {
    /// A response that comes now to a request that went out at `began`.
    pub fn new(status: StatusCode, mut headers: HeaderMap, began: Instant) -> Self {
        let (received, wall) = (Instant::now(), SystemTime::now());
        let directives = Directives::read(&headers);
        let clocks = Clocks { delay: received.saturating_duration_since(began), wall };
        let terms = terms(&headers, &directives, clocks);
        headers
            .entry(DATE)
            .or_insert_with(|| HeaderValue::try_from(httpdate::fmt_http_date(wall)).expect("a date is a header value"));
        Self { status, headers, directives, terms, began, received }
    }

    /// The fields that are not stored, but go to the one who asked.
    pub fn withheld(&self) -> HeaderMap {
        let names = &self.directives.withheld;
        let fields = self.headers.iter().filter(|(name, _)| names.contains(name));
        fields.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The response to be stored, with its whole body.
    pub fn store(&self, body: &[u8], selection: Selection) -> Stored {
        // A copy gives back what the buffer had to spare.
        self.with(Bytes::copy_from_slice(body), selection)
    }

    fn with(&self, body: Bytes, selection: Selection) -> Stored {
        let mut headers = self.headers.clone();
        for name in self.directives.withheld.iter().chain(&[AGE, CONTENT_LENGTH]) {
            headers.remove(name);
        }
        Stored {
            status: self.status,
            headers: detached::fields(&headers),
            body,
            selection,
            terms: self.terms,
            began: self.began,
            received: self.received,
            purged: AtomicBool::new(false),
            setback: Setback::default(),
        }
    }
}

impl Stored {
    /// The same response after the upstream has confirmed it with `came` (RFC 9111 §3.2, §4.3.4); `None` if it may no longer be
    /// stored for the fields of `request`.
    pub fn confirmed(&self, came: &Came, request: &HeaderMap) -> Option<Self> {
        let mut headers = self.headers.clone();
        for name in came.headers.keys().filter(|name| !OF_THE_CONTENT.contains(name)) {
            headers.remove(name);
            headers.extend(came.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
        let mut merged = Came::new(self.status, headers, came.began);
        merged.received = came.received;
        if merged.directives.no_store || merged.directives.private {
            return None;
        }
        let selection = Selection::new(&merged.headers, request)?;
        Some(merged.with(self.body.clone(), selection))
    }

    /// Whether a 304 with these fields is about another response (RFC 9111 §4.3.4): it names one, by weak comparison. One that has no tag
    /// is not the one that a strong tag names, unless both have the same time of last change.
    pub fn is_not_meant_by(&self, headers: &HeaderMap) -> bool {
        let Some(tag) = headers.get(ETAG) else { return false };
        match self.headers.get(ETAG) {
            Some(known) => !condition::names(slice::from_ref(known), tag),
            None => !tag.as_bytes().starts_with(b"W/") && !self.is_of_the_time_in(headers),
        }
    }

    /// Whether it was last changed when these fields say, and not once more within that second (RFC 9110 §8.8.2.2).
    fn is_of_the_time_in(&self, headers: &HeaderMap) -> bool {
        let changed = date(&self.headers, &LAST_MODIFIED);
        changed.is_some() && changed == date(headers, &LAST_MODIFIED) && changed < date(&self.headers, &DATE)
    }

    /// The fields that ask whether it has changed; none if it has no validator.
    pub fn validators(&self) -> HeaderMap {
        let pairs = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
        pairs.into_iter().filter_map(|(name, asks)| Some((asks, self.headers.get(name)?.clone()))).collect()
    }

    /// How old it is.
    pub fn age(&self, now: Instant) -> Duration {
        self.terms.initial_age + now.saturating_duration_since(self.received)
    }

    /// What is left of its lifetime, in whole seconds; nothing once it is purged.
    pub fn ttl(&self, now: Instant) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let left = seconds(self.terms.lifetime) - seconds(self.age(now));
        if self.is_purged() { left.min(0) } else { left }
    }

    /// Whether it is stale because of a purge.
    pub fn is_purged(&self) -> bool {
        self.purged.load(Ordering::Relaxed)
    }

    /// Whether it may answer a request that `wants` something.
    pub fn judge(&self, wants: &Wants, now: Instant) -> Verdict {
        self.terms.judge(self.age(now), wants, self.is_purged(), self.is_set_back(now))
    }

    /// Whether the upstream has failed and is to be left alone for now.
    pub fn is_set_back(&self, now: Instant) -> bool {
        self.setback.holds_at(now.saturating_duration_since(self.received))
    }

    /// Whether it may stand in for an upstream that fails.
    pub fn stands_in(&self, now: Instant) -> bool {
        self.terms.covers_error(self.age(now))
    }

    /// Remembers that the upstream failed to renew it; see [`Setback::extend`].
    pub fn set_back(&self, now: Instant, retry_at: Option<Instant>) {
        let asked = retry_at.and_then(|at| at.checked_duration_since(now));
        self.setback.extend(now.saturating_duration_since(self.received), asked, fastrand::f32());
    }

    /// Marks it as no longer fresh; only a failure of the upstream may still serve it: one from now on, and not one of before.
    pub fn purge(&self) {
        self.setback.lift();
        self.purged.store(true, Ordering::Relaxed);
    }

    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        let fields: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 96).sum();
        size_of::<Self>() + self.body.len() + fields + self.selection.size()
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, SERVER};

    use super::*;
    use crate::domain::detached::tests::head;

    #[test]
    fn a_stored_response_keeps_nothing_of_the_buffer_that_its_head_came_in() {
        let fields = [(ETAG, "\"one\""), (CACHE_CONTROL, "max-age=60"), (SERVER, "cloudflare"), (SERVER, "other")];
        let came = || {
            let (headers, buffer) = head(&fields);
            (Came::new(StatusCode::OK, headers, Instant::now()), buffer)
        };
        let (first, buffer) = came();
        let stored = first.store(b"{}", Selection::default());
        drop(first);
        assert!(buffer.is_unique());
        let (second, buffer) = came();
        let confirmed = stored.confirmed(&second, &HeaderMap::new()).expect("it may be stored");
        drop(second);
        assert!(buffer.is_unique());
        for stored in [&stored, &confirmed] {
            let fields = [(ETAG, 1), (CACHE_CONTROL, 1), (SERVER, 2)];
            assert!(fields.iter().all(|(name, lines)| stored.headers.get_all(name).iter().count() == *lines));
        }
    }
}
