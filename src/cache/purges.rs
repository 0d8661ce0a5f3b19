//! What has been purged: what a fetch that began before brings is not fresh, and when which page of many is stale.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::access::{AccountHash, Name};
use crate::domain::key::{CanonicalQuery, PageKey};
use crate::domain::marks::Marks;

/// When which account was purged last, and which page may have been changed: a fetch that began before that must not bring a fresh
/// page. And since when which upstream is another, or asked with another key: what an earlier fetch brings is not kept at all.
#[derive(Default)]
pub(super) struct Purges {
    accounts: Marks<AccountHash>,
    upstreams: Marks<Name>,
    /// By what stands for each.
    changed: Marks<u64>,
}

impl Purges {
    pub(super) fn note(&mut self, accounts: &HashSet<AccountHash>, now: Instant) {
        for account in accounts {
            self.accounts.mark(*account, now);
        }
    }

    pub(super) fn note_all(&mut self, now: Instant) {
        self.accounts.mark_all(now);
    }

    pub(super) fn replace(&mut self, upstream: &Name, now: Instant) {
        self.upstreams.mark(upstream.clone(), now);
    }

    pub(super) fn change(&mut self, key: &PageKey, path: &str, query: &CanonicalQuery, now: Instant) {
        self.changed.mark(key.resource(path, query), now);
    }

    /// Whether what a fetch brings that began then is not fresh.
    pub(super) fn cover(&self, key: &PageKey, began: Instant) -> bool {
        self.accounts.since(&key.account, began)
            || self.has_replaced(&key.upstream, began)
            || self.changed.since(&key.resource(&key.place.path, &key.query), began)
    }

    /// Whether what a fetch brings that began then is from another server, or was asked for with another key.
    pub(super) fn has_replaced(&self, upstream: &Name, began: Instant) -> bool {
        self.upstreams.since(upstream, began)
    }
}

/// How many pages of a soft purge of everything are stale at once, and then in each second more. What is stale is fetched with the
/// next request, and so many fetches at a time do not crowd out the misses of those who wait.
pub(super) const PURGED_AT_ONCE: usize = 64;

/// How long after a soft purge of everything the page is stale that it meets after `before` others. `jitter` is from 0 to 1.
pub(super) fn delay(before: usize, jitter: f32) -> Duration {
    let seconds = u32::try_from(before / PURGED_AT_ONCE).unwrap_or(u32::MAX);
    if seconds == 0 {
        Duration::ZERO
    } else {
        Duration::from_secs(1) * (seconds - 1) + Duration::from_secs(1).mul_f32(jitter)
    }
}
