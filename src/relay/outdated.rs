//! What has been purged, changed or replaced of what `http` routes store.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::access::{AccountHash, Name};
use crate::domain::key::{CanonicalQuery, PageKey};
use crate::domain::marks::Marks;

/// All marks on what `http` routes store.
#[derive(Default)]
pub struct Outdated(Mutex<Kinds>);

#[derive(Default)]
struct Kinds {
    /// What earlier calls bring is stale.
    purged: Marks<AccountHash>,
    /// What earlier calls bring is from another server, or was asked for with another key.
    replaced: Marks<Name>,
    /// What earlier calls bring has been changed since; by the hash of what it is, as it may be long.
    changed: Marks<u64>,
}

impl Outdated {
    /// Everything is purged.
    pub fn purge_all(&self, now: Instant) {
        self.0.lock().purged.mark_all(now);
    }

    /// All of an account is purged.
    pub fn purge(&self, account: AccountHash, now: Instant) {
        self.0.lock().purged.mark(account, now);
    }

    /// An upstream is another server, or asked with another key.
    pub fn replace(&self, upstream: &Name, now: Instant) {
        self.0.lock().replaced.mark(upstream.clone(), now);
    }

    /// What is at `path` and `query` for the account of `key` has changed.
    pub fn change(&self, key: &PageKey, path: &str, query: &CanonicalQuery, now: Instant) {
        self.0.lock().changed.mark(key.resource(path, query), now);
    }

    /// Whether what a call brings that began then is stale.
    pub fn purged_since(&self, key: &PageKey, began: Instant) -> bool {
        self.0.lock().purged.since(&key.account, began)
    }

    /// Whether it may not be kept at all.
    pub fn changed_since(&self, key: &PageKey, began: Instant) -> bool {
        let what = key.resource(&key.place.path, &key.query);
        let kinds = self.0.lock();
        kinds.replaced.since(&key.upstream, began) || kinds.changed.since(&what, began)
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
    async fn a_mark_is_about_what_it_names_and_what_began_before_it() {
        let (marks, began, query) = (Outdated::default(), Instant::now(), CanonicalQuery::default());
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
