//! A request for a page: what it asks for, which many may ask alike, and what is its own.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::access::{Account, Name};
use super::cache_control::Wants;
use super::caller::{Caller, Quota};
use super::exchange::{Policy, Target};
use super::follow::Follow;
use super::gist::Gist;
use super::heads::Words;
use super::key::PageKey;
use super::page::{FreshPage, Page};
use super::tally::RouteTally;
use super::trace::Trace;

/// Who asks for which page, and by which rules. All of it is behind one pointer: a request that repeats another word for word costs one
/// reference count, and little is moved while it travels.
///
/// Its fields stand here in their order in memory: those that each hit reads come first, since the cost of a hit is above all in how many
/// places of memory it needs.
#[derive(Debug)]
#[repr(C)]
pub struct Question {
    /// The caller's quota, also here so that a hit need not look into the caller for it.
    pub quota: Option<Arc<Quota>>,
    /// The [edition](crate::door::admit::House::edition) of the rules that it was admitted by.
    pub edition: u64,
    /// Whether an encoded twin of the page may be of use.
    pub has_codings: bool,
    /// What is kept for the next time, if it has been asked more than once and may be asked again.
    pub again: Option<Again>,
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What the page is stored under.
    pub key: PageKey,
    /// Whose data it is, and by which credentials it is fetched.
    pub target: Target,
    /// The query as received: it goes upstream byte for byte.
    pub query: Option<Arc<str>>,
    /// The rules of the route.
    pub policy: Arc<Policy>,
}

/// What need not be found out again for a question that is asked again and again. Its fields stand here in their order in memory, as in
/// [`Question`].
#[derive(Debug)]
#[repr(C)]
pub struct Again {
    /// The page that was found last. The store keeps it alive; this does not.
    found: Mutex<Option<Found>>,
    /// Where it is counted, once it has been.
    pub tally: OnceLock<Arc<RouteTally>>,
    /// The words in which it is asked.
    pub words: Words,
    /// What is left of them for whoever answers; `None` if they also say something to their connection.
    pub gist: Option<Gist>,
    /// What all lines of the access log about its hits have in common.
    pub logged: Logged,
}

/// A page that was found.
#[derive(Debug)]
struct Found {
    page: Weak<Page>,
    /// When it is searched for in the store again although it is at hand, if the store counts use by then.
    until: Instant,
}

impl Found {
    /// The page, if the store still has it.
    fn page(&self) -> Option<Arc<Page>> {
        self.page.upgrade().filter(|page| !page.has_gone())
    }
}

/// A text that many lines of the log have in common.
#[derive(Debug, Default)]
pub struct Logged {
    /// The text, once it has been needed.
    pub text: OnceLock<Box<[u8]>>,
    /// Where the log has it already; only the log knows how to read this.
    pub place: AtomicU64,
}

/// How long a page that is at hand need not be searched for in the store. Only a search, or a new page, tells the store that a page is in
/// use and is not to be the next to go when memory runs out. Few pages are fresh for longer than this; and among many pages a search
/// takes a hit to many places in memory.
const SEARCHED_ANEW: Duration = Duration::from_secs(60);

impl Again {
    /// A question that is asked in these `words`, with what is left of them.
    pub fn new(words: Words, gist: Option<Gist>) -> Self {
        Self { words, gist, logged: Logged::default(), tally: OnceLock::new(), found: Mutex::default() }
    }

    /// The page that was found last, if the store still has it.
    pub fn found(&self) -> Option<Arc<Page>> {
        self.found.lock().as_ref().and_then(Found::page)
    }

    /// Whether `are_said` finds that these words were said. If so, the page is needed next: it is touched first, so that, among many, it
    /// comes from memory at the same time as the words. The lock is held until both have come, since giving it back would wait for them
    /// anyway.
    pub(super) fn compare(&self, are_said: impl FnOnce(&Words) -> bool) -> bool {
        let found = self.found.lock();
        std::hint::black_box(found.as_ref().map(|found| found.page.strong_count()));
        are_said(&self.words)
    }

    /// The page that was found last, if the store still has it and it is fresh.
    pub fn fresh_page(&self, now: Instant) -> Option<FreshPage> {
        let page = self.found()?;
        page.draw_near();
        FreshPage::of(page, now)
    }

    /// Whether the page is to be searched for in the store again, if the store counts use.
    pub fn is_due(&self, now: Instant) -> bool {
        self.found.lock().as_ref().is_none_or(|found| now >= found.until)
    }

    /// This page was found.
    pub fn remember(&self, page: &Arc<Page>, now: Instant) {
        *self.found.lock() = Some(Found { page: Arc::downgrade(page), until: now + SEARCHED_ANEW });
    }
}

/// An admitted request for a page: it has a consumer, an account and a key, or it would not exist.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is asked.
    pub question: Arc<Question>,
    /// The page, if it was looked for as the request came, and was fresh.
    pub recalled: Option<FreshPage>,
    /// What the client asks of the cache.
    pub wants: Wants,
    /// Whether it follows the page, and how.
    pub follow: Option<Box<Follow>>,
    /// When it was asked: what is fresh then is fresh enough.
    pub at: Instant,
    /// Its place in a distributed trace.
    pub trace: Trace,
}

impl Deref for Ask {
    type Target = Question;

    fn deref(&self) -> &Question {
        &self.question
    }
}

/// How much longer a caller waits than its fetch may take, so that it hears how the fetch ended.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Ask {
    /// Until when an answer is of use.
    pub fn deadline(&self) -> Instant {
        deadline(&self.target, self.at)
    }
}

/// Until when an answer about `target` is of use to whoever asks at `at`.
pub fn deadline(target: &Target, at: Instant) -> Instant {
    at + target.upstream.budget.max_wait + target.upstream.client.timeout + LAST_WORD
}

/// Whose a request was, as far as that is known.
#[derive(Debug)]
pub enum Whose {
    /// All is known.
    Admitted(Arc<Question>),
    /// One that passed through, or that did not come so far.
    Known(Box<Known>),
}

/// What has been found out about a request.
#[derive(Debug, Default)]
pub struct Known {
    /// The consumer, once it has been identified.
    pub caller: Option<Arc<Caller>>,
    /// The account, once it has been found and granted.
    pub account: Option<Arc<Account>>,
    /// The route as configured, once it has been found.
    pub route: Option<Name>,
}

impl Known {
    /// What is known of a request that asks this.
    pub fn of(question: &Question) -> Self {
        let (caller, account) = (question.caller.clone(), question.target.account.clone());
        Self { caller: Some(caller), account: Some(account), route: Some(question.key.place.route.clone()) }
    }
}

impl Whose {
    /// The consumer.
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        match self {
            Self::Admitted(question) => Some(&question.caller),
            Self::Known(known) => known.caller.as_ref(),
        }
    }

    /// What the consumer may still ask, if that has a limit.
    pub fn quota(&self) -> Option<&Quota> {
        match self {
            Self::Admitted(question) => question.quota.as_deref(),
            Self::Known(known) => known.caller.as_ref()?.quota.as_deref(),
        }
    }

    /// The account.
    pub fn account(&self) -> Option<&Arc<Account>> {
        match self {
            Self::Admitted(question) => Some(&question.target.account),
            Self::Known(known) => known.account.as_ref(),
        }
    }

    /// The route as configured.
    pub fn route(&self) -> Option<&Name> {
        match self {
            Self::Admitted(question) => Some(&question.key.place.route),
            Self::Known(known) => known.route.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heads::tests::words;
    use super::super::page::tests::page;
    use super::*;

    #[test]
    fn what_is_remembered_is_not_held_and_only_good_while_the_store_has_it() {
        let now = Instant::now();
        let page = || Arc::new(page("{}", now, [60, 0, 0]));
        let (again, first, second) = (Again::new(words(""), None), page(), page());
        let finds = |page| again.found().is_some_and(|found| Arc::ptr_eq(&found, page));
        assert!(again.found().is_none() && again.is_due(now));
        again.remember(&first, now);
        assert!(finds(&first) && !again.is_due(now + SEARCHED_ANEW / 2) && again.is_due(now + SEARCHED_ANEW));
        first.go();
        assert!(again.found().is_none());
        again.remember(&second, now);
        assert!(finds(&second));
        drop(second);
        assert!(again.found().is_none(), "its memory is for others");
    }
}
