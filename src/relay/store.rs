//! Where responses of `http` routes are kept: by upstream, account, route and query, and there by the request fields that select
//! them.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderMap;
use moka::notification::RemovalCause;
use moka::ops::compute::{CompResult, Op};
use moka::sync::Cache;
use tokio::time::Instant;

use super::stored::Stored;
use crate::domain::access::{AccountHash, Name};
use crate::domain::by_route::ByRoute;
use crate::domain::key::{CanonicalQuery, PageKey};
use crate::domain::marks::Outdated;
use crate::domain::tally::Keeping;

/// All stored responses. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Responses {
    entries: Cache<PageKey, Variants, RandomState>,
    /// What must not come in as if nothing had happened meanwhile.
    marks: Arc<Outdated>,
    routes: Arc<ByRoute>,
    keeping: Keeping,
}

/// The responses under one key, newest first.
type Variants = Arc<[Arc<Stored>]>;

/// What is stored for a request.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Only what other request fields select.
    Others,
    /// This.
    This(Arc<Stored>),
}

/// How many variants of one response are kept; more would only serve to fill the memory with what hardly comes again.
const MOST_VARIANTS: usize = 32;

/// What moka and the shared pointers need for an entry, in bytes.
const ENTRY_OVERHEAD: usize = 200;

impl Responses {
    /// An empty store for at most `max_bytes`, keys included.
    pub fn new(max_bytes: u64) -> Self {
        let weigh = |key: &PageKey, variants: &Variants| {
            let sizes: usize = variants.iter().map(|stored| stored.size()).sum();
            u32::try_from(key.size() + sizes + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
        };
        let keeping = Keeping::default();
        let evicted = keeping.evicted.clone();
        let count = move |_, _, cause| {
            if cause == RemovalCause::Size {
                evicted.add();
            }
        };
        let entries = Cache::builder().max_capacity(max_bytes).weigher(weigh).eviction_listener(count);
        Self {
            entries: entries.build_with_hasher(RandomState::default()),
            marks: Arc::default(),
            routes: Arc::default(),
            keeping,
        }
    }

    /// What is stored under `key` for the fields of `request`.
    pub fn get(&self, key: &PageKey, request: &HeaderMap) -> Found {
        let Some(variants) = self.entries.get(key) else { return Found::Nothing };
        match variants.iter().find(|stored| stored.selection.fits(request)) {
            Some(stored) => Found::This(stored.clone()),
            None => Found::Others,
        }
    }

    /// Stores `stored` in place of what `request` selected before, unless that was asked for later; says whether it did.
    pub fn keep(&self, key: &PageKey, stored: &Arc<Stored>, request: &HeaderMap) -> bool {
        if !self.stands(key, stored) {
            return false;
        }
        self.routes.note(key);
        let kept = self.entries.entry_by_ref(key).and_compute_with(|entry| {
            let known = entry.as_ref().map_or(&[][..], |entry| entry.value());
            let (same, others): (Vec<_>, Vec<_>) = known.iter().partition(|other| other.selection.fits(request));
            if same.iter().any(|other| other.began > stored.began) {
                return Op::Nop;
            }
            let others = others.into_iter().take(MOST_VARIANTS - 1).cloned();
            Op::Put(std::iter::once(stored.clone()).chain(others).collect())
        });
        // Once more now that the response is visible, as a purge first leaves its mark and then visits what is visible.
        if !self.stands(key, stored) {
            self.forget(key, stored);
            return false;
        }
        let is_kept = matches!(kept, CompResult::Inserted(_) | CompResult::ReplacedWith(_));
        if !is_kept {
            self.keeping.outdated.add();
        }
        is_kept
    }

    /// Whether nothing has changed since `stored` was asked for. What was purged meanwhile stands, but is stale.
    fn stands(&self, key: &PageKey, stored: &Stored) -> bool {
        if self.marks.purged_since(key, stored.began) {
            stored.purge();
        }
        !self.marks.replaced_since(key, stored.began) && !self.marks.changed_since(key, stored.began)
    }

    /// Whether a call that began then may bring what is not fresh any more, because of a purge or a change.
    pub fn outdated_since(&self, key: &PageKey, began: Instant) -> bool {
        self.marks.any_since(key, began)
    }

    /// Drops `stored`, which `request` has selected.
    pub fn forget(&self, key: &PageKey, stored: &Arc<Stored>) {
        self.entries.entry_by_ref(key).and_compute_with(|entry| {
            let Some(entry) = entry else { return Op::Nop };
            let rest: Variants = entry.value().iter().filter(|other| !Arc::ptr_eq(other, stored)).cloned().collect();
            if rest.is_empty() { Op::Remove } else { Op::Put(rest) }
        });
    }

    /// Drops all that is stored for the account of `key` under an upstream path and query, on whatever route.
    pub fn invalidate(&self, key: &PageKey, path: &str, query: &CanonicalQuery, now: Instant) {
        self.marks.change(key, path, query, now);
        for key in self.routes.keys(key, path, query) {
            self.entries.invalidate(&key);
        }
    }

    /// Drops all that `upstream` has said, which is another server now, or only its refusals if it is asked with another key.
    /// Says how many keys it dropped.
    pub fn forget_upstream(&self, upstream: &Name, only_refusals: bool, now: Instant) -> usize {
        self.marks.replace(upstream, now);
        let refused = |variants: &Variants| {
            variants.iter().any(|stored| matches!(stored.status.as_u16(), 401 | 403 | 404 | 407 | 410))
        };
        let mut count = 0;
        for (key, variants) in &self.entries {
            if key.upstream == *upstream && (!only_refusals || refused(&variants)) {
                count += 1;
                self.entries.invalidate(key.as_ref());
            }
        }
        count
    }

    /// Makes what is stored for one account stale, whichever upstream it is from, or drops it if `hard`; says how many responses
    /// it met.
    pub fn purge_account(&self, account: AccountHash, hard: bool, now: Instant) -> usize {
        self.purge_accounts(&[account].into(), hard, now)
    }

    /// The same for several in one walk.
    pub fn purge_accounts(&self, accounts: &HashSet<AccountHash>, hard: bool, now: Instant) -> usize {
        self.marks.purge(accounts, now);
        self.purge(hard, |key| accounts.contains(&key.account))
    }

    /// Makes everything stale, or drops it if `hard`; says how many responses it met.
    pub fn purge_all(&self, hard: bool, now: Instant) -> usize {
        self.marks.purge_all(now);
        self.purge(hard, |_| true)
    }

    fn purge(&self, hard: bool, chosen: impl Fn(&PageKey) -> bool) -> usize {
        let mut count = 0;
        for (key, variants) in &self.entries {
            if chosen(&key) {
                count += variants.len();
                variants.iter().for_each(|stored| stored.purge());
                if hard {
                    self.entries.invalidate(key.as_ref());
                }
            }
        }
        count
    }

    /// How many keys there are, and how many bytes all weighs; both lag a little behind.
    pub fn size(&self) -> (u64, u64) {
        (self.entries.entry_count(), self.entries.weighted_size())
    }

    /// How many bytes there is room for.
    pub fn capacity(&self) -> u64 {
        self.entries.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// What became of responses.
    pub fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// Does what moka has put off.
    pub fn maintain(&self) {
        self.entries.run_pending_tasks();
    }
}
