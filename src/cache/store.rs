//! Where pages are kept: in memory, weighed in bytes, and never replaced by an older one.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::changes::Changes;
use super::purges::delay;
use crate::domain::access::{AccountHash, Name};
use crate::domain::by_route::ByRoute;
use crate::domain::key::{CanonicalQuery, PageKey};
use crate::domain::marks::Outdated;
use crate::domain::page::{Kind, Page};
use crate::domain::tally::Keeping;

/// All stored pages. Cheap to clone; all clones share the pages.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    pages: Cache<PageKey, Arc<Page>, RandomState>,
    /// Locks for those who look at the page of a key and then change it, so that they do so one after the other.
    turns: [Mutex<()>; TURNS],
    outdated: Outdated,
    routes: ByRoute,
    changes: Changes,
    keeping: Keeping,
    /// Half of the bytes that there is room for.
    half: u64,
}

/// Enough that those who store pages of different keys rarely wait for each other.
const TURNS: usize = 64;

/// What moka and the shared pointers need for an entry beside key and page, in bytes: measured over 100,000 entries.
const ENTRY_OVERHEAD: usize = 200;

impl Store {
    /// An empty store for at most `max_bytes` of pages, keys included.
    pub fn new(max_bytes: u64) -> Self {
        let weigh = |key: &PageKey, page: &Arc<Page>| {
            u32::try_from(key.size() + page.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
        };
        let keeping = Keeping::default();
        let evicted = keeping.evicted.clone();
        let goes = move |_, page: Arc<Page>, cause| {
            if cause == RemovalCause::Size {
                page.go();
                evicted.add();
            }
        };
        let pages = Cache::builder().max_capacity(max_bytes).weigher(weigh).eviction_listener(goes);
        let pages = pages.build_with_hasher(RandomState::default());
        let (turns, half) = ([const { Mutex::new(()) }; TURNS], max_bytes / 2);
        let (outdated, routes, changes) = (Outdated::default(), ByRoute::default(), Changes::default());
        Self(Arc::new(Shared { pages, turns, outdated, routes, changes, keeping, half }))
    }

    /// The page under `key`, fresh or not.
    pub fn get(&self, key: &PageKey) -> Option<Arc<Page>> {
        self.0.pages.get(key)
    }

    /// Whether it matters how often a page is used: while the store is less than half full none has to go for another, and moka does not
    /// count use either.
    pub(super) fn counts_use(&self) -> bool {
        self.0.pages.weighted_size() >= self.0.half
    }

    /// Stores `page` unless a page is there whose fetch began later, or its upstream has changed since; says whether it did.
    pub fn keep(&self, key: &PageKey, page: &Arc<Page>) -> bool {
        if !self.stands(key, page) {
            return false;
        }
        self.0.routes.note(key);
        let is_newest = self.replace(key, page);
        // Once more now that the page is visible, as a purge first leaves its mark and then visits what is visible:
        // so one of the two always sees the other.
        if !self.stands(key, page) {
            self.drop_page(key, |stored| Arc::ptr_eq(stored, page));
            return false;
        }
        self.0.changes.tell(key);
        if !is_newest {
            self.0.keeping.outdated.add();
        }
        is_newest
    }

    /// Puts `page` in the place of one whose fetch did not begin later; says whether it did.
    fn replace(&self, key: &PageKey, page: &Arc<Page>) -> bool {
        let _turn = self.turn(key);
        let before = self.0.pages.get(key);
        if before.as_ref().is_some_and(|before| before.began > page.began) {
            return false;
        }
        self.0.pages.insert(key.clone(), page.clone());
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, page)) {
            before.go();
        }
        true
    }

    fn turn(&self, key: &PageKey) -> MutexGuard<'_, ()> {
        self.0.turns[key.one_of(TURNS)].lock()
    }

    /// Who hears of pages that change.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Whether what a fetch of `key` brings that began then is not fresh any more, because of a purge or a change.
    pub fn was_purged_since(&self, key: &PageKey, began: Instant) -> bool {
        self.0.outdated.any_since(key, began)
    }

    /// Whether its upstream is the same since `page` was asked for. What was purged meanwhile stands, but is stale.
    fn stands(&self, key: &PageKey, page: &Page) -> bool {
        if self.0.outdated.any_since(key, page.began) {
            page.purge(page.began);
        }
        !self.0.outdated.replaced_since(key, page.began)
    }

    /// Drops all pages of `upstream`, which is another server now, or only its refusals if it is asked with another key. Fetches
    /// under way bring nothing that is kept. Says how many pages it dropped.
    pub fn forget_upstream(&self, upstream: &Name, only_refusals: bool, now: Instant) -> usize {
        self.0.outdated.replace(upstream, now);
        let mut count = 0;
        for (key, page) in &self.0.pages {
            if key.upstream == *upstream && (!only_refusals || page.kind == Kind::Negative) {
                count += 1;
                self.drop_page(&key, |_| true);
            }
        }
        count
    }

    /// Has a stored page encoded for those who accept that, on a thread that does not serve; then it is stored again, since it weighs
    /// more. Whoever asks meanwhile gets it as it is.
    pub fn encode(&self, key: &PageKey, page: &Arc<Page>) {
        if !page.is_to_be_encoded() {
            return;
        }
        let (store, key, page) = (self.clone(), key.clone(), page.clone());
        tokio::task::spawn_blocking(move || {
            page.encode();
            store.weigh_again(&key, &page);
        });
    }

    /// Stores `page` once more if it is still there: what has been dropped meanwhile does not come back.
    pub(super) fn weigh_again(&self, key: &PageKey, page: &Arc<Page>) {
        let _turn = self.turn(key);
        if self.0.pages.get(key).is_some_and(|stored| Arc::ptr_eq(&stored, page)) {
            self.0.pages.insert(key.clone(), page.clone());
        }
    }

    /// Drops what `page` would take the place of, if it could be stored.
    pub fn displace(&self, key: &PageKey, page: &Page) {
        self.drop_page(key, |before| before.began <= page.began);
        self.0.changes.tell(key);
    }

    /// Drops the page that there is, if it `may_go`.
    fn drop_page(&self, key: &PageKey, may_go: impl FnOnce(&Arc<Page>) -> bool) {
        let _turn = self.turn(key);
        if self.0.pages.get(key).as_ref().is_some_and(may_go)
            && let Some(dropped) = self.0.pages.remove(key)
        {
            dropped.go();
        }
    }

    /// Makes the pages that `chosen` picks stale, each when `due` says for the number of those before it, or drops them if `hard`; says
    /// how many.
    fn purge(&self, hard: bool, due: impl Fn(usize) -> Instant, chosen: impl Fn(&PageKey) -> bool) -> usize {
        let mut count = 0;
        for (key, page) in &self.0.pages {
            if chosen(&key) {
                page.purge(due(count));
                count += 1;
                if hard {
                    self.drop_page(&key, |_| true);
                }
                self.0.changes.tell(&key);
            }
        }
        count
    }

    /// Purges all pages of one account, whichever upstream they are from: a soft purge leaves them for the case that the upstream fails,
    /// and a hard one drops them. Fetches under way do not bring fresh pages. Says how many pages it met.
    pub fn purge_account(&self, account: AccountHash, hard: bool, now: Instant) -> usize {
        self.purge_accounts(&[account].into(), hard, now)
    }

    /// The same for several in one walk.
    pub fn purge_accounts(&self, accounts: &HashSet<AccountHash>, hard: bool, now: Instant) -> usize {
        self.0.outdated.purge(accounts, now);
        self.purge(hard, |_| now, |key| accounts.contains(&key.account))
    }

    /// Purges the pages of all accounts; see [`Store::purge_account`]. Of many, a soft purge reaches one after the other.
    pub fn purge_all(&self, hard: bool, now: Instant) -> usize {
        self.0.outdated.purge_all(now);
        self.purge(hard, |before| now + delay(before, fastrand::f32()), |_| true)
    }

    /// Makes the page stale, on whatever route, that shows what is at an upstream path and query for the account of `key`: it may have
    /// been changed. A fetch under way does not bring a fresh one.
    pub fn change(&self, key: &PageKey, path: &str, query: &CanonicalQuery, now: Instant) {
        self.0.outdated.change(key, path, query, now);
        for key in self.0.routes.keys(key, path, query) {
            if let Some(page) = self.get(&key) {
                page.purge(now);
                self.0.changes.tell(&key);
            }
        }
    }

    /// A walk over all pages, which does not count as use. What changes meanwhile may or may not be met.
    pub fn pages(&self) -> impl Iterator<Item = (Arc<PageKey>, Arc<Page>)> {
        self.0.pages.iter()
    }

    /// How many bytes there is room for.
    pub fn capacity(&self) -> u64 {
        self.0.pages.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// How many pages there are, and how many bytes they weigh; both lag a little behind.
    pub fn size(&self) -> (u64, u64) {
        (self.0.pages.entry_count(), self.0.pages.weighted_size())
    }

    /// What became of pages.
    pub fn keeping(&self) -> &Keeping {
        &self.0.keeping
    }

    /// Does what moka has put off: evictions, and the bookkeeping behind [`Store::size`].
    pub fn maintain(&self) {
        self.0.pages.run_pending_tasks();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::purges::PURGED_AT_ONCE;
    use super::*;
    use crate::domain::key::{KeyParts, Place};
    use crate::domain::lifetime::Freshness;
    use crate::domain::page::tests::page;
    use std::time::Duration;

    pub(in crate::cache) fn key(account: u8, query: &str) -> PageKey {
        PageKey::new(KeyParts {
            upstream: "us".into(),
            account: AccountHash([account; 16]),
            place: Arc::new(Place { route: "/r".into(), path: "/r".into() }),
            query: CanonicalQuery::new(query),
        })
    }

    #[test]
    fn a_page_never_goes_backwards() {
        let store = Store::new(1 << 20);
        let began = Instant::now();
        let newer = Arc::new(page("new", began + Duration::from_millis(1), [5, 0, 0]));
        let older = Arc::new(page("old", began, [5, 0, 0]));
        assert!(store.keep(&key(1, ""), &newer));
        assert!(!store.keep(&key(1, ""), &older));
        assert_eq!(store.get(&key(1, "")).expect("kept").body, "new");
    }

    #[test]
    fn a_purge_meets_one_account_only_and_also_what_is_on_its_way() {
        let store = Store::new(1 << 20);
        let began = Instant::now();
        for account in [1, 2] {
            store.keep(&key(account, ""), &Arc::new(page("{}", began, [60, 0, 0])));
        }
        assert_eq!(store.purge_account(AccountHash([1; 16]), false, began), 1);
        let is_fresh =
            |key: &PageKey, now| matches!(store.get(key).expect("kept").freshness(now), Freshness::Fresh { .. });
        assert!(!is_fresh(&key(1, ""), began));
        assert!(is_fresh(&key(2, ""), began));

        store.keep(&key(1, "cursor=late"), &Arc::new(page("{}", began, [60, 0, 0])));
        assert!(!is_fresh(&key(1, "cursor=late"), began));
        let after = began + Duration::from_millis(1);
        store.keep(&key(1, ""), &Arc::new(page("{}", after, [60, 0, 0])));
        assert!(is_fresh(&key(1, ""), after));
    }

    #[test]
    fn what_was_on_its_way_when_a_purge_came_is_at_no_moment_fresh() {
        let store = Store::new(1 << 20);
        let began = Instant::now();
        store.purge_account(AccountHash([1; 16]), false, began);
        for n in 0..2_000 {
            let key = key(1, &format!("cursor={n}"));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let seen = std::iter::repeat_with(|| store.get(&key)).flatten().next().expect("it is kept");
                    assert!(!matches!(seen.freshness(began), Freshness::Fresh { .. }));
                });
                store.keep(&key, &Arc::new(page("{}", began, [60, 0, 0])));
            });
        }
    }

    #[test]
    fn a_hard_purge_drops_pages() {
        let store = Store::new(1 << 20);
        let began = Instant::now();
        store.keep(&key(1, ""), &Arc::new(page("{}", began, [60, 0, 0])));
        assert_eq!(store.purge_all(true, began), 1);
        assert!(store.get(&key(1, "")).is_none());
    }

    /// A store with four times as many pages of one account as a purge of everything reaches at once.
    fn of_many(began: Instant) -> Store {
        let store = Store::new(1 << 20);
        for n in 0..PURGED_AT_ONCE * 4 {
            store.keep(&key(1, &format!("cursor={n}")), &Arc::new(page("{}", began, [600, 0, 0])));
        }
        store.maintain();
        store
    }

    #[test]
    fn a_soft_purge_of_one_account_reaches_all_of_its_pages_at_once() {
        let began = Instant::now();
        let store = of_many(began);
        assert_eq!(store.purge_account(AccountHash([1; 16]), false, began), PURGED_AT_ONCE * 4);
        assert!(store.pages().all(|(_, page)| page.is_purged(began)));
    }

    #[test]
    fn a_soft_purge_of_everything_reaches_one_after_the_other() {
        let began = Instant::now();
        let store = of_many(began);
        assert_eq!(store.purge_all(false, began), PURGED_AT_ONCE * 4);
        let stale = |after| {
            let now = began + Duration::from_secs(after);
            store.0.pages.iter().filter(|(_, page)| page.is_purged(now)).count()
        };
        for (after, at_most) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            // A few are due in the very first moment of the next second.
            assert!(stale(after).abs_diff(at_most * PURGED_AT_ONCE) <= 4, "{} after {after} s", stale(after));
        }
    }

    #[test]
    fn another_key_ends_refusals_and_another_server_ends_everything() {
        let store = Store::new(1 << 20);
        let began = Instant::now();
        let mut refusal = page("{}", began, [60, 0, 0]);
        refusal.kind = Kind::Negative;
        let refusal = Arc::new(refusal);
        store.keep(&key(1, ""), &Arc::new(page("{}", began, [60, 0, 0])));
        store.keep(&key(2, ""), &refusal);
        assert_eq!(store.forget_upstream(&"eu".into(), false, began), 0);
        assert_eq!(store.forget_upstream(&"us".into(), true, began), 1);
        assert!(store.get(&key(1, "")).is_some() && store.get(&key(2, "")).is_none());
        assert!(!store.keep(&key(2, ""), &refusal), "it was asked for with the other key");
        assert!(store.was_purged_since(&key(2, ""), began), "whoever asks now does not wait for that answer");
        assert_eq!(store.forget_upstream(&"us".into(), false, began), 1);
        assert!(store.get(&key(1, "")).is_none());
    }

    #[test]
    fn a_page_that_is_weighed_again_does_not_survive_a_hard_purge() {
        let store = Store::new(1 << 20);
        for _ in 0..1_000 {
            let page = Arc::new(page("{}", Instant::now(), [60, 0, 0]));
            store.keep(&key(1, ""), &page);
            std::thread::scope(|scope| {
                scope.spawn(|| store.weigh_again(&key(1, ""), &page));
                store.purge_all(true, Instant::now());
            });
            assert!(store.get(&key(1, "")).is_none());
        }
    }

    #[test]
    fn the_store_stays_within_its_bytes() {
        let store = Store::new(100_000);
        for n in 0..1_000 {
            store.keep(&key(1, &format!("cursor={n}")), &Arc::new(page("{}", Instant::now(), [60, 0, 0])));
        }
        store.maintain();
        let (entries, bytes) = store.size();
        assert!(bytes <= 100_000 && entries > 50, "{entries} entries, {bytes} bytes");
    }
}
