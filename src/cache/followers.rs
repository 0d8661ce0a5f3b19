//! Those who follow a page, and when they are let go.
//!
//! Whoever follows is demand, so the page is [kept fresh](super::renew) for as long as somebody does, once for all of them. So any
//! number of followers cost what one busy client costs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower::Service;

use super::changes::Listening;
use super::renew::{Renewal, keep_fresh};
use super::store::Store;
use crate::domain::ask::Ask;
use crate::domain::cache_control::Wants;
use crate::domain::condition;
use crate::domain::key::PageKey;
use crate::domain::page::{Kind, Page};
use crate::domain::problem::Problem;

/// All who follow. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Follows {
    store: Store,
    everybody: Arc<Mutex<Everybody>>,
    /// Whether the proxy drains; touched whenever those who are held are to be held no longer.
    draining: Arc<watch::Sender<bool>>,
}

/// Those who follow, by page.
#[derive(Default)]
struct Everybody {
    by_key: HashMap<PageKey, Followers, RandomState>,
    /// The number of the next one to come. None is given twice, so that one who leaves takes nobody else along.
    next: u64,
}

/// Those who follow one page.
struct Followers {
    /// The number of the one who was the first: others may follow the same page later.
    first: u64,
    /// What each would ask for, by the order in which they came.
    asks: BTreeMap<u64, Ask>,
    keeping_fresh: AbortHandle,
}

/// Hears when those who have come by now are to be held no longer.
pub(super) struct Release(watch::Receiver<bool>);

impl Release {
    pub(super) fn has_come(&self) -> bool {
        // The sender lives as long as somebody follows.
        *self.0.borrow() || self.0.has_changed().unwrap_or(true)
    }

    pub(super) async fn come(&mut self) {
        if !self.has_come() {
            let _ = self.0.changed().await;
        }
    }
}

/// The same once more, now. What the client wants of the cache was for the first time.
pub(super) fn again(ask: &Ask) -> Ask {
    Ask { wants: Wants::default(), follow: None, at: Instant::now(), ..ask.clone() }
}

/// One who follows, until it is dropped.
pub(super) struct Follower {
    follows: Follows,
    key: PageKey,
    number: u64,
    changes: Listening,
    _place: OwnedSemaphorePermit,
}

impl Follows {
    /// Nobody follows the pages of `store` yet.
    pub fn new(store: Store) -> Self {
        Self { store, everybody: Arc::default(), draining: Arc::new(watch::Sender::new(false)) }
    }

    /// From now on nobody is held: whoever waits is answered, and streams end.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Who is held now is answered, and streams end, once: they were admitted by rules that are in force no longer. Who comes later
    /// is held as ever.
    pub fn release(&self) {
        let mut everybody = self.everybody.lock();
        // A stream ends only when its client reads on, and what it asks for must not be asked until then.
        for (_, followers) in everybody.by_key.drain() {
            followers.keeping_fresh.abort();
        }
        self.draining.send_modify(|_| ());
    }

    /// Where the pages are that they follow.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// How many follow.
    pub fn count(&self) -> usize {
        self.everybody.lock().by_key.values().map(|followers| followers.asks.len()).sum()
    }

    pub(super) fn next_release(&self) -> Release {
        Release(self.draining.subscribe())
    }

    /// Takes part, unless its end has come; the first of a key has it kept fresh through `inner`.
    pub(super) fn join<S>(
        &self,
        ask: &Ask,
        place: OwnedSemaphorePermit,
        release: &Release,
        inner: &S,
    ) -> Option<Follower>
    where
        S: Service<Renewal, Response = bool, Error = Problem, Future: Send> + Clone + Send + 'static,
    {
        let key = &ask.key;
        let changes = self.store.changes().listen(key);
        let mut everybody = self.everybody.lock();
        // Under the lock, so that whoever is released is either known by then or not let in.
        if release.has_come() {
            return None;
        }
        let number = everybody.next;
        everybody.next += 1;
        let followers = everybody.by_key.entry(key.clone()).or_insert_with(|| {
            let (follows, key, inner) = (self.clone(), key.clone(), inner.clone());
            let task = tokio::spawn(async move {
                keep_fresh(follows.store.clone(), key.clone(), |turn| follows.ask(&key, turn), inner).await;
                follows.let_go(&key, number);
            });
            Followers { first: number, asks: BTreeMap::new(), keeping_fresh: task.abort_handle() }
        });
        followers.asks.insert(number, ask.clone());
        Some(Follower { follows: self.clone(), key: key.clone(), number, changes, _place: place })
    }

    /// There is nothing more to be told of the page of `key` to those of whom this was the first: whoever waits asks for it once more,
    /// and streams end.
    fn let_go(&self, key: &PageKey, first: u64) {
        let mut everybody = self.everybody.lock();
        if everybody.by_key.get(key).is_some_and(|followers| followers.first == first) {
            everybody.by_key.remove(key);
            self.store.changes().tell(key);
        }
    }

    /// What one of those who follow `key` would ask, each in its `turn`.
    fn ask(&self, key: &PageKey, turn: u32) -> Option<Ask> {
        let everybody = self.everybody.lock();
        let asks = &everybody.by_key.get(key)?.asks;
        let number = usize::try_from(turn).unwrap_or_default().checked_rem(asks.len())?;
        asks.values().nth(number).map(again)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut everybody = self.follows.everybody.lock();
        let Some(followers) = everybody.by_key.get_mut(&self.key) else { return };
        followers.asks.remove(&self.number);
        if followers.asks.is_empty() {
            followers.keeping_fresh.abort();
            everybody.by_key.remove(&self.key);
        }
    }
}

impl Follower {
    /// Completes when there is a page that `known` does not name; with none when it has been let go.
    pub(super) async fn other_than(&mut self, known: &[HeaderValue]) -> Option<Arc<Page>> {
        loop {
            // What has been dropped is about to be fetched.
            match self.follows.store.get(&self.key) {
                Some(page) if is_news(&page, known) => return Some(page),
                _ if self.has_been_let_go() => return None,
                _ => self.changes.changed().await,
            }
        }
    }

    fn has_been_let_go(&self) -> bool {
        let everybody = self.follows.everybody.lock();
        !everybody.by_key.get(&self.key).is_some_and(|followers| followers.asks.contains_key(&self.number))
    }
}

/// Whether `page` is something that `known` does not name.
pub(super) fn is_news(page: &Page, known: &[HeaderValue]) -> bool {
    page.kind != Kind::Good || !condition::names(known, &page.etag)
}
