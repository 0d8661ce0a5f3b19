//! The page that the cache makes of what the upstream sent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::encoding::{Coding, Encodings};
use super::entity_tag::with_entity_tag;
use super::history::History;
use super::lifetime::{Freshness, Lifetime};
use super::received::Received;
use super::refusal::Refusal;
use super::setback::Setback;
use super::validators::Validators;

/// What a stored page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A good answer.
    Good,
    /// A 401, 403 or 404, remembered for a short while.
    Negative,
    /// An answer that is passed on to those who wait for it and to nobody else.
    Passing,
}

/// A page that was fresh when it was asked for, whatever has become of it since.
#[derive(Clone, Debug)]
pub struct FreshPage {
    page: Arc<Page>,
    ttl: Duration,
}

impl FreshPage {
    /// `page`, if it is fresh now.
    pub fn of(page: Arc<Page>, now: Instant) -> Option<Self> {
        match page.freshness(now) {
            Freshness::Fresh { ttl } => Some(Self { page, ttl }),
            _ => None,
        }
    }

    /// The page, and for how much longer it was fresh.
    pub fn into_parts(self) -> (Arc<Page>, Duration) {
        (self.page, self.ttl)
    }
}

/// One answer for one key, with everything that a hit needs prepared.
///
/// Its fields stand here in their order in memory: those that each hit reads come first, since the cost of a hit is above all in how many
/// places of memory it needs.
#[derive(Debug)]
#[repr(C)]
pub struct Page {
    /// The body, byte for byte as the upstream sent it, in memory of exactly its size.
    pub body: Bytes,
    /// The strong entity tag of the body.
    pub etag: HeaderValue,
    /// When its fetch began.
    pub began: Instant,
    /// The status; 200 for a good page.
    pub status: StatusCode,
    /// What it is.
    pub kind: Kind,
    /// Whether the store has let go of it.
    has_gone: AtomicBool,
    /// Whether somebody has set out to make the twins.
    is_being_encoded: AtomicBool,
    /// From which age on, in milliseconds, it counts as purged.
    purged_from: AtomicU64,
    /// How long it may be used.
    pub lifetime: Lifetime,
    /// The upstream's own validators, to ask whether the page has changed, if it has given any.
    pub validators: Option<Box<Validators>>,
    twins: OnceLock<Arc<Twins>>,
    setback: Setback,
    /// What else is kept of an answer that is not good.
    pub refusal: Option<Box<Refusal>>,
    /// What past syncs have taught of its models.
    pub history: History,
}

/// The body of a good page for those who read it encoded.
#[derive(Debug)]
struct Twins {
    encodings: Encodings,
    /// The page's entity tag as a weak one.
    etag: HeaderValue,
}

/// The age from which a page counts as purged that was not.
const NEVER: u64 = u64::MAX;

impl Page {
    /// The page that `received` makes, with `lifetime`. If `known` has the same body, they share it with all that is made of it.
    pub fn new(received: &Received, kind: Kind, lifetime: Lifetime, history: History, known: Option<&Self>) -> Self {
        let (body, etag, twins) = if let Some(known) = known.filter(|known| known.body == received.body) {
            (known.body.clone(), known.etag.clone(), known.twins.clone())
        } else {
            let (body, etag) = with_entity_tag(&received.body);
            (body, etag, OnceLock::new())
        };
        Self {
            status: received.status,
            etag,
            refusal: (kind != Kind::Good).then(|| Box::new(Refusal::of(received))),
            validators: Validators::read(&received.headers).kept(),
            body,
            kind,
            began: received.began,
            lifetime,
            history,
            twins,
            is_being_encoded: AtomicBool::new(false),
            has_gone: AtomicBool::new(false),
            purged_from: AtomicU64::new(NEVER),
            setback: Setback::default(),
        }
    }

    /// The same page after the upstream has said that it has not changed. It keeps its tag: if the answer names another, that is for a
    /// body that is yet to be seen, and asked by that tag the upstream would say for ever that this one has not changed.
    pub fn confirmed(&self, answer: &Received, lifetime: Lifetime, history: History) -> Self {
        let newer = Validators::read(&answer.headers);
        let known = self.validators.as_deref().cloned().unwrap_or_default();
        let validators = Validators { last_modified: newer.last_modified.or(known.last_modified), ..known };
        Self {
            status: self.status,
            body: self.body.clone(),
            etag: self.etag.clone(),
            refusal: None,
            validators: validators.kept(),
            kind: self.kind,
            began: answer.began,
            lifetime,
            history,
            twins: self.twins.clone(),
            is_being_encoded: AtomicBool::new(false),
            has_gone: AtomicBool::new(false),
            purged_from: AtomicU64::new(NEVER),
            setback: Setback::default(),
        }
    }

    /// Touches what an answer needs from other places in memory. Where there are so many pages that none of it is in the processor's
    /// cache, it comes from there all at once, and not one after the other as it is needed.
    pub fn draw_near(&self) {
        std::hint::black_box((self.body.is_unique(), self.body.first().copied()));
    }

    /// Whether the encoded twins are there.
    pub fn is_encoded(&self) -> bool {
        self.twins.get().is_some()
    }

    /// Whether it falls to the caller to make the encoded twins: they are of use, not there, and nobody else has set out to. Says so
    /// once.
    pub fn is_to_be_encoded(&self) -> bool {
        self.kind == Kind::Good && !self.is_encoded() && !self.is_being_encoded.swap(true, Ordering::Relaxed)
    }

    /// Makes the encoded twins unless they are there already; see [`Encodings::of`] for what it takes.
    pub fn encode(&self) {
        self.twins.get_or_init(|| {
            let etag = [b"W/", self.etag.as_bytes()].concat();
            let etag =
                HeaderValue::from_maybe_shared(Bytes::from(etag)).expect("an entity tag is one as a weak one too");
            Arc::new(Twins { encodings: Encodings::of(&self.body), etag })
        });
    }

    /// The body in `coding`, and its weak entity tag, if it has been encoded and that made it smaller.
    pub fn encoded(&self, coding: Coding) -> Option<(&Bytes, &HeaderValue)> {
        let twins = self.twins.get()?;
        Some((twins.encodings.get(coding)?, &twins.etag))
    }

    /// When the upstream takes the next request, where it has said so.
    pub fn retry_at(&self) -> Option<Instant> {
        self.refusal.as_ref()?.retry_at
    }

    /// How old it is, counted from the moment that its request went out.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// What it is good for now.
    pub fn freshness(&self, now: Instant) -> Freshness {
        self.lifetime.freshness(self.age(now), self.is_purged(now))
    }

    /// Marks it as no longer fresh from `at` on: the next request then fetches, and the page only stands in if that fails, whatever
    /// failed before. Of two purges the earlier one counts.
    pub fn purge(&self, at: Instant) {
        self.setback.lift();
        let age = u64::try_from(self.age(at).as_millis()).unwrap_or(NEVER);
        self.purged_from.fetch_min(age, Ordering::Relaxed);
    }

    /// Whether it is purged by now.
    pub fn is_purged(&self, now: Instant) -> bool {
        let from = self.purged_from.load(Ordering::Relaxed);
        from != NEVER && self.age(now) >= Duration::from_millis(from)
    }

    /// For how much longer it is fresh, if it is: until its lifetime ends, or until a purge reaches it that is under way.
    pub fn fresh_for(&self, now: Instant) -> Option<Duration> {
        let Freshness::Fresh { ttl } = self.freshness(now) else { return None };
        let purged_from = Duration::from_millis(self.purged_from.load(Ordering::Relaxed));
        Some(ttl.min(purged_from.saturating_sub(self.age(now))))
    }

    /// The store has let go of it: under its key there is another now, or none.
    pub fn go(&self) {
        self.has_gone.store(true, Ordering::Release);
    }

    /// Whether the store has let go of it.
    pub fn has_gone(&self) -> bool {
        self.has_gone.load(Ordering::Acquire)
    }

    /// Whether the upstream is to be left alone for this page for now.
    pub fn is_set_back(&self, now: Instant) -> bool {
        self.setback.holds_at(self.age(now))
    }

    /// Remembers a fetch that failed while this page stood in for it; see [`Setback::extend`].
    pub fn set_back(&self, now: Instant, retry_at: Option<Instant>, jitter: f32) {
        let asked = retry_at.and_then(|at| at.checked_duration_since(now));
        self.setback.extend(self.age(now), asked, jitter);
    }

    /// The bytes that it takes in the store.
    pub fn size(&self) -> usize {
        let twins = self.twins.get().map_or(0, |twins| size_of::<Twins>() + twins.encodings.size());
        let validators = self.validators.as_ref().map_or(0, |validators| validators.size());
        let refusal = self.refusal.as_ref().map_or(0, |refusal| refusal.size());
        let beside = self.etag.len() + validators + twins + refusal + self.history.size();
        size_of::<Self>() + self.body.len() + beside
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::detached::tests::head;
    use super::super::received::SyncDigest;
    use super::*;
    use http::HeaderMap;
    use http::header::{CONTENT_TYPE, ETAG, LAST_MODIFIED, WWW_AUTHENTICATE};

    fn received(body: &'static str, began: Instant) -> Received {
        Received {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
            began,
            digest: SyncDigest::default(),
            retry_at: None,
            remembered: false,
        }
    }

    /// A good page with a body and a lifetime in seconds.
    pub(crate) fn page(body: &'static str, began: Instant, [fresh, while_revalidate, if_error]: [u64; 3]) -> Page {
        let received = received(body, began);
        let [fresh, while_revalidate, if_error] = [fresh, while_revalidate, if_error].map(Duration::from_secs);
        Page::new(&received, Kind::Good, Lifetime { fresh, while_revalidate, if_error }, History::default(), None)
    }

    #[test]
    fn a_purged_page_serves_only_failures() {
        let began = Instant::now();
        let page = page("{}", began, [5, 30, 3600]);
        let second = |seconds| began + Duration::from_secs(seconds);
        page.purge(second(2));
        page.purge(second(3));
        assert_eq!(page.freshness(second(1)), Freshness::Fresh { ttl: Duration::from_secs(4) });
        assert_eq!(page.freshness(second(2)), Freshness::IfError { since: Duration::ZERO });
    }

    #[test]
    fn a_page_is_fresh_until_its_lifetime_ends_or_a_purge_reaches_it() {
        let began = Instant::now();
        let page = page("{}", began, [60, 30, 3600]);
        let second = Duration::from_secs;
        assert_eq!(page.fresh_for(began + second(10)), Some(second(50)));
        page.purge(began + second(90));
        assert_eq!(page.fresh_for(began + second(10)), Some(second(50)));
        page.purge(began + second(13));
        assert_eq!(page.fresh_for(began + second(10)), Some(second(3)));
        assert_eq!(
            page.freshness(began + second(10)),
            Freshness::Fresh { ttl: second(50) },
            "its age follows from that"
        );
        assert_eq!(page.fresh_for(began + second(13)), None);
    }

    #[test]
    fn a_page_keeps_nothing_of_the_buffer_that_its_head_came_in() {
        let fields = [
            (ETAG, "\"one\""),
            (LAST_MODIFIED, "Wed, 15 Apr 2026 10:00:00 GMT"),
            (CONTENT_TYPE, "application/problem+json"),
            (WWW_AUTHENTICATE, "Bearer"),
        ];
        for kind in [Kind::Good, Kind::Negative, Kind::Passing] {
            let (headers, buffer) = head(&fields);
            let received = Received { headers, ..received("{}", Instant::now()) };
            let page = Page::new(&received, kind, Lifetime::NONE, History::default(), None);
            let confirmed = page.confirmed(&received, Lifetime::NONE, History::default());
            drop(received);
            assert!(buffer.is_unique(), "{kind:?}");
            let kept = if kind == Kind::Good { &fields[..2] } else { &fields[..] };
            let kept: usize = kept.iter().map(|(_, value)| value.len()).sum();
            assert!(page.size() >= size_of::<Page>() + "{}".len() + kept, "what is kept of the head weighs");
            let validators = page.validators.as_ref().expect("there are some");
            let named = [&validators.etag, &validators.last_modified].map(|value| value.as_ref().expect("a value"));
            assert_eq!(named, [fields[0].1, fields[1].1]);
            assert_eq!(confirmed.validators, page.validators);
        }
    }

    #[test]
    fn a_page_that_is_confirmed_keeps_its_tag_or_goes_on_without() {
        let came = |fields: &[_]| Received { headers: head(fields).0, ..received("{}", Instant::now()) };
        let date = (LAST_MODIFIED, "Wed, 15 Apr 2026 10:00:00 GMT");
        let other = came(&[(ETAG, "\"two\""), date.clone()]);
        for (first, tag) in [(&[(ETAG, "\"one\"")][..], Some("\"one\"")), (&[date], None)] {
            let page = Page::new(&came(first), Kind::Good, Lifetime::NONE, History::default(), None);
            let validators = page.confirmed(&other, Lifetime::NONE, History::default()).validators.expect("a date");
            assert_eq!(validators.etag.as_ref().map(HeaderValue::as_bytes), tag.map(str::as_bytes));
        }
    }

    #[test]
    fn a_page_of_a_known_body_has_no_other_copy_of_it() {
        let named = |body, tag, known: Option<&Page>| {
            let (headers, _) = head(&[(ETAG, tag)]);
            let received = Received { headers, ..received(body, Instant::now()) };
            Page::new(&received, Kind::Good, Lifetime::NONE, History::default(), known)
        };
        let known = named("{}", "\"one\"", None);
        known.encode();
        for tag in ["\"one\"", "\"two\""] {
            let page = named("{}", tag, Some(&known));
            assert_eq!((page.body.as_ptr(), &page.etag), (known.body.as_ptr(), &known.etag));
            assert!(page.is_encoded());
            assert_eq!(page.validators.and_then(|validators| validators.etag).expect("a tag"), tag);
        }
        let other = named("[]", "\"one\"", Some(&known));
        assert_eq!((&*other.body, other.is_encoded()), (&b"[]"[..], false));
        assert_ne!(other.etag, known.etag);
    }
}
