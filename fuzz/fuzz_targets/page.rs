//! Whatever Merge sends is read to an end, and the lifetime that follows from it stays within its bounds.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::cache::freshness;
use merge_sync_proxy::domain::exchange::Policy;
use merge_sync_proxy::domain::history::History;
use merge_sync_proxy::domain::rules::{CacheRule, Lifetimes};
use merge_sync_proxy::upstream::sync_status;

fuzz_target!(|input: (u32, Vec<u8>, Vec<u8>)| {
    let (date, first, second) = input;
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(date.into());
    let lifetimes = Lifetimes::default();
    let policy = Policy { rule: CacheRule::SyncStatus, lifetimes, max_page_bytes: 4 << 20 };
    let mut history = History::default();
    for body in [first, second] {
        let digest = sync_status::digest(&body, date);
        assert!(digest.json || !digest.results);
        history = history.learn(&digest.runs);
        for jitter in [0.0, 0.5, 1.0] {
            let fresh = freshness::lifetime(&policy, &digest, &history, jitter).fresh;
            assert!((lifetimes.min..=lifetimes.settled.max(lifetimes.syncing)).contains(&fresh), "{fresh:?}");
        }
    }
});
