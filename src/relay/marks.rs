//! What has been purged or changed, and when: what a call brings that began before that is not what there is now.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::access::{AccountHash, Name};
use crate::domain::key::{CanonicalQuery, PageKey};

/// All marks. One matters only to calls that began before it.
#[derive(Default)]
pub struct Marks {
    kinds: Mutex<Kinds>,
    hasher: RandomState,
}

#[derive(Default)]
struct Kinds {
    /// What earlier calls bring is stale.
    purged: Kind<AccountHash>,
    /// What earlier calls bring is from another server, or was asked for with another key.
    replaced: Kind<Name>,
    /// What earlier calls bring has been changed since; by the hash of what it is, as it may be long.
    changed: Kind<u64>,
}

/// The marks of one kind: on each thing, or on all.
struct Kind<T> {
    all: Option<Instant>,
    each: HashMap<T, Instant, RandomState>,
}

/// How many things of one kind have a mark of their own. With one more all are marked instead: then calls under way once bring
/// nothing that is fresh, and no memory grows with what clients choose.
const MOST: usize = 8192;

impl<T> Default for Kind<T> {
    fn default() -> Self {
        Self { all: None, each: HashMap::default() }
    }
}

impl<T: Eq + Hash> Kind<T> {
    fn mark(&mut self, what: T, now: Instant) {
        if self.each.len() >= MOST {
            self.each.clear();
            self.all = Some(now);
        }
        self.each.insert(what, now);
    }

    fn since(&self, what: &T, began: Instant) -> bool {
        self.all.is_some_and(|at| began <= at) || self.each.get(what).is_some_and(|at| began <= *at)
    }
}

impl Marks {
    /// Everything is purged.
    pub fn purge_all(&self, now: Instant) {
        self.kinds.lock().purged.all = Some(now);
    }

    /// All of an account is purged.
    pub fn purge(&self, account: AccountHash, now: Instant) {
        self.kinds.lock().purged.mark(account, now);
    }

    /// An upstream is another server, or asked with another key.
    pub fn replace(&self, upstream: &Name, now: Instant) {
        self.kinds.lock().replaced.mark(upstream.clone(), now);
    }

    /// What is at `path` and `query` for the account of `key` has changed.
    pub fn change(&self, key: &PageKey, path: &str, query: &CanonicalQuery, now: Instant) {
        let what = self.hash(key, path, query);
        self.kinds.lock().changed.mark(what, now);
    }

    /// Whether what a call brings that began then is stale.
    pub fn purged_since(&self, key: &PageKey, began: Instant) -> bool {
        self.kinds.lock().purged.since(&key.account, began)
    }

    /// Whether it may not be kept at all.
    pub fn changed_since(&self, key: &PageKey, began: Instant) -> bool {
        let what = self.hash(key, &key.place.path, &key.query);
        let kinds = self.kinds.lock();
        kinds.replaced.since(&key.upstream, began) || kinds.changed.since(&what, began)
    }

    /// The same for all routes to a resource.
    fn hash(&self, key: &PageKey, path: &str, query: &CanonicalQuery) -> u64 {
        self.hasher.hash_one((&key.upstream, key.account, path, query))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::key::{KeyParts, Place};

    fn key(account: u8, path: &str) -> PageKey {
        let place = Arc::new(Place { route: "/x/*".into(), path: path.into() });
        let (upstream, account) = ("us".into(), AccountHash([account; 16]));
        PageKey::new(KeyParts { upstream, account, place, query: CanonicalQuery::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_changes_there_are_none_is_forgotten_and_their_memory_is_bounded() {
        let (marks, began) = (Marks::default(), Instant::now());
        let (first, query) = (key(1, "/x/0"), CanonicalQuery::default());
        for n in 0..3 * MOST {
            marks.change(&first, &format!("/x/{n}"), &query, began);
        }
        assert!(marks.kinds.lock().changed.each.len() <= MOST);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        for n in [0, MOST, 3 * MOST - 1] {
            assert!(marks.changed_since(&key(1, &format!("/x/{n}")), began), "{n}");
            assert!(!marks.changed_since(&key(1, &format!("/x/{n}")), Instant::now()), "{n}");
        }
        assert!(!marks.purged_since(&first, began));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_about_what_it_names_and_what_began_before_it() {
        let (marks, began, query) = (Marks::default(), Instant::now(), CanonicalQuery::default());
        marks.purge(AccountHash([1; 16]), began);
        marks.change(&key(2, "/x/a"), "/x/b", &query, began);
        assert!(marks.purged_since(&key(1, "/x/a"), began) && !marks.purged_since(&key(2, "/x/a"), began));
        assert!(marks.changed_since(&key(2, "/x/b"), began) && !marks.changed_since(&key(2, "/x/a"), began));
        assert!(!marks.changed_since(&key(1, "/x/b"), began));
        marks.purge_all(began);
        assert!(marks.purged_since(&key(2, "/x/a"), began));
        marks.replace(&"us".into(), began);
        assert!(marks.changed_since(&key(1, "/x/b"), began));
    }
}
