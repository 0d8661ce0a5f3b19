//! How fast a soft purge of everything goes.

use std::time::Duration;

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
