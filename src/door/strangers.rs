//! Requests that show no key, or one that nobody has: so many for each origin, and no more.
//!
//! Only requests that fail count. Behind one address there may be many, so whoever has used the limit up must not lock the others
//! out: over the limit a key is still looked up if it has been right before, or if it is one of ours by its checksum, for then it
//! has 256 random bits and cannot be a guess. All others are refused before anything is looked up, right or wrong, which is what
//! makes guessing a short key hopeless.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::RwLock;
use tokio::time::Instant;

use super::consumer_key;
use crate::domain::bucket::{Bucket, Rate};
use crate::domain::peer::Origin;
use crate::domain::problem::Problem;

/// How many origins are remembered at a time; those that have been quiet longest are forgotten first.
const MOST_ORIGINS: u64 = 16_384;

/// What failed requests have used up, by origin.
#[derive(Debug)]
pub struct Strangers {
    limit: Option<Arc<Limit>>,
}

#[derive(Debug)]
struct Limit {
    rate: Rate,
    buckets: Cache<Origin, Arc<Bucket>>,
    /// Keyed hashes of the keys that have been right.
    proven: RwLock<HashSet<u64>>,
    hasher: RandomState,
    epoch: Instant,
    /// Until when some origin may be over the limit, in nanoseconds since `epoch`: as long as nobody is, nothing is looked up.
    quiet_at: AtomicU64,
}

impl Strangers {
    /// As many failed requests as `rate` allows each origin; `None` is unlimited. What `before` remembers stays, unless the rate
    /// is another.
    pub fn new(rate: Option<Rate>, before: Option<&Self>, now: Instant) -> Self {
        let known = before.and_then(|before| before.limit.clone()).filter(|known| Some(known.rate) == rate);
        Self { limit: known.or_else(|| rate.map(|rate| Arc::new(Limit::new(rate, now)))) }
    }

    /// Whether a request of `origin` with this key, or none, may be looked at.
    ///
    /// # Errors
    /// If its origin is over the limit, and the key could be a guess.
    pub fn check(&self, origin: Option<Origin>, key: Option<&[u8]>, now: Instant) -> Result<(), Problem> {
        let (Some(limit), Some(origin)) = (&self.limit, origin) else { return Ok(()) };
        limit.check(origin, key, now)
    }

    /// Notes that a request of `origin` has failed, and says what to answer.
    pub fn refuse(&self, origin: Option<Origin>, now: Instant) -> Problem {
        let (Some(limit), Some(origin)) = (&self.limit, origin) else { return Problem::UnknownConsumer };
        limit.refuse(origin, now)
    }

    /// Notes that this key is right.
    pub fn prove(&self, key: &[u8]) {
        if let Some(limit) = &self.limit {
            limit.proven.write().insert(limit.hasher.hash_one(key));
        }
    }
}

impl Limit {
    fn new(rate: Rate, now: Instant) -> Self {
        // By then a bucket is full again, and as good as a new one.
        let forgotten = rate.window.saturating_mul(2).max(Duration::from_secs(1));
        let buckets = Cache::builder()
            .max_capacity(MOST_ORIGINS)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(forgotten)
            .build();
        let (proven, hasher) = (RwLock::default(), RandomState::new());
        Self { rate, buckets, proven, hasher, epoch: now, quiet_at: AtomicU64::new(0) }
    }

    fn check(&self, origin: Origin, key: Option<&[u8]>, now: Instant) -> Result<(), Problem> {
        if self.quiet_at.load(Ordering::Relaxed) <= self.since_epoch(now) {
            return Ok(());
        }
        let Some(bucket) = self.buckets.get(&origin) else { return Ok(()) };
        let at = bucket.next(now, 0);
        if at <= now || key.is_some_and(|key| self.is_no_guess(key)) {
            return Ok(());
        }
        Err(Problem::TooManyStrangers { retry_after: at - now })
    }

    fn is_no_guess(&self, key: &[u8]) -> bool {
        self.proven.read().contains(&self.hasher.hash_one(key))
            || std::str::from_utf8(key).is_ok_and(consumer_key::is_whole)
    }

    fn refuse(&self, origin: Origin, now: Instant) -> Problem {
        let bucket = self.buckets.get_with(origin, || Arc::new(Bucket::new(self.rate, now)));
        let refused = bucket.reserve(now);
        let at = bucket.next(now, 0);
        if at > now {
            self.quiet_at.fetch_max(self.since_epoch(at), Ordering::Relaxed);
        }
        match refused {
            Ok(()) => Problem::UnknownConsumer,
            Err(at) => Problem::TooManyStrangers { retry_after: at.saturating_duration_since(now) },
        }
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: Option<Origin> = Some(Origin::V4(Ipv4Addr::LOCALHOST));
    const THERE: Option<Origin> = Some(Origin::Uid(1000));

    fn rate(count: u32) -> Option<Rate> {
        Rate::new(count, Duration::from_secs(60))
    }

    /// Strangers of whom those from here have used the limit up.
    fn crowded(now: Instant) -> Strangers {
        let strangers = Strangers::new(rate(10), None, now);
        assert_eq!(strangers.refuse(HERE, now), Problem::UnknownConsumer);
        assert_eq!(strangers.check(HERE, None, now), Ok(()));
        assert_eq!(strangers.refuse(HERE, now), Problem::UnknownConsumer);
        strangers
    }

    #[test]
    fn who_is_over_the_limit_is_refused_until_it_said_and_others_are_not() {
        let now = Instant::now();
        let strangers = crowded(now);
        let refused = strangers.check(HERE, Some(b"a-guess"), now);
        let Err(Problem::TooManyStrangers { retry_after }) = refused else { panic!("{refused:?}") };
        assert!(matches!(strangers.refuse(HERE, now), Problem::TooManyStrangers { .. }), "one that was on its way");
        for (origin, at) in [(THERE, now), (None, now), (HERE, now + retry_after)] {
            assert_eq!(strangers.check(origin, None, at), Ok(()));
        }
        assert_eq!(strangers.refuse(THERE, now), Problem::UnknownConsumer);
    }

    #[test]
    fn over_the_limit_keys_that_are_no_guess_are_still_looked_up() {
        let now = Instant::now();
        let strangers = crowded(now);
        let whole = consumer_key::generate();
        assert_eq!(strangers.check(HERE, Some(whole.as_bytes()), now), Ok(()));
        assert!(strangers.check(HERE, Some(&whole.as_bytes()[1..]), now).is_err());
        assert!(strangers.check(HERE, Some(b"by-hand"), now).is_err());
        strangers.prove(b"by-hand");
        assert_eq!(strangers.check(HERE, Some(b"by-hand"), now), Ok(()));
        assert!(strangers.check(HERE, Some(b"by-hanD"), now).is_err());
    }

    #[test]
    fn a_reload_forgets_nothing_unless_the_rate_is_another() {
        let now = Instant::now();
        let before = crowded(now);
        assert!(Strangers::new(rate(10), Some(&before), now).check(HERE, None, now).is_err());
        for other in [rate(11), None] {
            assert_eq!(Strangers::new(other, Some(&before), now).check(HERE, None, now), Ok(()));
        }
    }

    #[test]
    fn however_many_origins_there_are_few_are_remembered() {
        let now = Instant::now();
        let strangers = Strangers::new(rate(1), None, now);
        for uid in 0..40_000 {
            assert_eq!(strangers.refuse(Some(Origin::Uid(uid)), now), Problem::UnknownConsumer);
        }
        let limit = strangers.limit.expect("there is a rate");
        limit.buckets.run_pending_tasks();
        assert!(limit.buckets.entry_count() <= MOST_ORIGINS);
        assert!(limit.check(Origin::Uid(39_999), None, now).is_err(), "the last are remembered");
    }
}
