//! When what was purged, replaced or changed: what a call brings that began before that is not what there is now.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::access::{AccountHash, Name};
use super::key::{CanonicalQuery, PageKey};

/// Marks of one kind: on each thing, or on all. One matters only to calls that began before it.
#[derive(Debug)]
struct Marks<T> {
    all: Option<Instant>,
    each: HashMap<T, Instant, RandomState>,
}

/// How many things have a mark of their own. With one more all are marked instead: then calls under way once bring nothing that is
/// fresh, and no memory grows with what clients choose.
const MOST: usize = 8192;

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self { all: None, each: HashMap::default() }
    }
}

impl<T: Eq + Hash> Marks<T> {
    /// A mark on `what`.
    fn mark(&mut self, what: T, now: Instant) {
        if self.each.len() >= MOST && !self.each.contains_key(&what) {
            self.mark_all(now);
        }
        let at = self.each.entry(what).or_insert(now);
        *at = now.max(*at);
    }

    /// A mark on everything.
    fn mark_all(&mut self, now: Instant) {
        // Whoever marks has looked at the clock before it came here, in whatever order: no mark is taken back by one from before it.
        self.all = self.each.drain().map(|(_, at)| at).chain(self.all).chain([now]).max();
    }

    /// Whether `what` has been marked since a call for it began.
    fn since(&self, what: &T, began: Instant) -> bool {
        self.all.is_some_and(|at| began <= at) || self.each.get(what).is_some_and(|at| began <= *at)
    }
}

/// All marks on what one store holds.
#[derive(Default)]
pub struct Outdated(Mutex<Kinds>);

#[derive(Default)]
struct Kinds {
    /// What earlier calls for the account bring is stale.
    purged: Marks<AccountHash>,
    /// What earlier calls bring is from another server, or was asked for with another key.
    replaced: Marks<Name>,
    /// What earlier calls bring may have been changed since; by the hash of what it is, as it may be long.
    changed: Marks<u64>,
}

impl Outdated {
    /// All of these accounts is purged.
    pub fn purge(&self, accounts: &HashSet<AccountHash>, now: Instant) {
        let mut kinds = self.0.lock();
        for account in accounts {
            kinds.purged.mark(*account, now);
        }
    }

    /// Everything is purged.
    pub fn purge_all(&self, now: Instant) {
        self.0.lock().purged.mark_all(now);
    }

    /// An upstream is another server, or asked with another key.
    pub fn replace(&self, upstream: &Name, now: Instant) {
        self.0.lock().replaced.mark(upstream.clone(), now);
    }

    /// What is at `path` and `query` for the account of `key` may have changed.
    pub fn change(&self, key: &PageKey, path: &str, query: &CanonicalQuery, now: Instant) {
        self.0.lock().changed.mark(key.resource(path, query), now);
    }

    /// Whether the account of `key` has been purged since a call began.
    pub fn purged_since(&self, key: &PageKey, began: Instant) -> bool {
        self.0.lock().purged.since(&key.account, began)
    }

    /// Whether the upstream of `key` has been replaced since a call began.
    pub fn replaced_since(&self, key: &PageKey, began: Instant) -> bool {
        self.0.lock().replaced.since(&key.upstream, began)
    }

    /// Whether what `key` asks for may have changed since a call began.
    pub fn changed_since(&self, key: &PageKey, began: Instant) -> bool {
        self.0.lock().changed.since(&key.resource(&key.place.path, &key.query), began)
    }

    /// Whether any of these has happened since a call for `key` began, so that what it brings is not fresh.
    pub fn any_since(&self, key: &PageKey, began: Instant) -> bool {
        self.purged_since(key, began) || self.replaced_since(key, began) || self.changed_since(key, began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::{KeyParts, Place};
    use std::sync::Arc;
    use std::time::Duration;

    fn key(account: u8, path: &str) -> PageKey {
        let place = Arc::new(Place { route: "/x/*".into(), path: path.into() });
        let (upstream, account) = ("us".into(), AccountHash([account; 16]));
        PageKey::new(KeyParts { upstream, account, place, query: CanonicalQuery::default() })
    }

    #[test]
    fn each_kind_of_mark_is_about_what_it_names() {
        let (marks, began, query) = (Outdated::default(), Instant::now(), CanonicalQuery::default());
        let (first, second) = (key(1, "/x/a"), key(2, "/x/a"));
        marks.purge(&[first.account].into(), began);
        marks.change(&second, "/x/b", &query, began);
        assert!(marks.purged_since(&first, began) && !marks.purged_since(&second, began));
        assert!(marks.any_since(&first, began) && !marks.any_since(&second, began));
        assert!(marks.changed_since(&key(2, "/x/b"), began) && !marks.changed_since(&second, began));
        assert!(!marks.changed_since(&key(1, "/x/b"), began));
        marks.purge_all(began);
        assert!(marks.purged_since(&second, began) && !marks.replaced_since(&second, began));
        marks.replace(&second.upstream, began);
        assert!(marks.replaced_since(&second, began));
    }

    #[test]
    fn however_many_marks_there_are_none_is_forgotten_and_their_memory_is_bounded() {
        let (mut marks, began) = (Marks::default(), Instant::now());
        let marked = began + Duration::from_secs(1);
        for what in 0..3 * MOST {
            marks.mark(what, marked);
            assert!(marks.each.len() <= MOST);
        }
        for what in [0, MOST, 3 * MOST - 1] {
            assert!(marks.since(&what, began), "{what}");
            assert!(!marks.since(&what, marked + Duration::from_secs(1)), "{what}");
        }
    }

    #[test]
    fn a_mark_is_about_what_it_names_and_what_began_before_it_however_long_ago() {
        let (mut marks, began) = (Marks::default(), Instant::now());
        let later = began + Duration::from_secs(3_600);
        marks.mark("a", later);
        assert!(marks.since(&"a", began) && marks.since(&"a", later) && !marks.since(&"b", began));
        marks.mark_all(later);
        assert!(marks.since(&"b", began) && !marks.since(&"b", later + Duration::from_secs(1)));
    }

    #[test]
    fn a_mark_never_goes_back_in_whatever_order_they_come() {
        let start = Instant::now();
        let [first, between, last] = [1, 2, 3].map(|seconds| start + Duration::from_secs(seconds));
        let mut marks = Marks::default();
        marks.mark("a", last);
        marks.mark("a", first);
        assert!(marks.since(&"a", between));
        marks.mark_all(first);
        assert!(marks.since(&"a", between), "what is marked with all the others keeps its own");
        marks.mark_all(last);
        marks.mark_all(first);
        assert!(marks.since(&"b", between));
    }
}
