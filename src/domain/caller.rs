//! A consumer while the proxy runs: what it has left of what it may do.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::access::{Consumer, Name};
use super::bucket::{Bucket, Rate};
use super::problem::{Problem, whole_seconds};
use super::tally::Tally;

/// A consumer while the proxy runs: who it is, and what it has left. In memory it is as it stands here: first what each request needs.
#[derive(Debug)]
#[repr(C)]
pub struct Caller {
    /// What it may still ask; `None` is unlimited.
    pub quota: Option<Arc<Quota>>,
    /// Where its requests are counted, once one has been.
    pub tally: OnceLock<Arc<Tally>>,
    /// How many fetches it may still force; `None` is unlimited.
    pub forced_refreshes: Option<Arc<Bucket>>,
    /// Its places among those who wait for the upstream.
    pub misses: Arc<Semaphore>,
    /// Its places among those who follow a page.
    pub follows: Arc<Semaphore>,
    /// Whom its calls to the upstream are charged to.
    pub payer: Payer,
    /// Who it is and what it may do.
    pub consumer: Consumer,
}

/// What a consumer may still ask.
#[derive(Debug)]
pub struct Quota {
    /// How much there is of it.
    pub rate: Rate,
    /// What is left of it.
    pub bucket: Bucket,
    /// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10 §3).
    pub policy: HeaderValue,
}

impl Quota {
    fn new(rate: Rate, bucket: Bucket) -> Self {
        let policy = format!("\"quota\";q={};w={}", rate.count, whole_seconds(rate.window));
        Self { rate, bucket, policy: HeaderValue::try_from(policy).expect("digits and punctuation are a header value") }
    }

    /// The value of `RateLimit` (§4 of the same): what is left, and the seconds until everything is.
    pub fn left(&self, now: Instant) -> HeaderValue {
        let until_full = self.bucket.full_at(now).saturating_duration_since(now);
        let left = format!("\"quota\";r={};t={}", self.bucket.remaining(now), whole_seconds(until_full));
        HeaderValue::try_from(left).expect("digits and punctuation are a header value")
    }
}

/// So many places, as far as there can be.
fn places(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

impl Caller {
    /// `consumer` with everything that it is allowed still left.
    pub fn new(consumer: Consumer, now: Instant) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(places(count)));
        Self {
            quota: consumer.quota.map(|rate| Arc::new(Quota::new(rate, Bucket::new(rate, now)))),
            forced_refreshes: consumer.forced_refreshes.map(|rate| Arc::new(Bucket::new(rate, now))),
            misses: semaphore(consumer.max_in_flight_misses),
            follows: semaphore(consumer.max_followers),
            tally: OnceLock::new(),
            payer: Payer { name: consumer.name.clone(), weight: consumer.weight },
            consumer,
        }
    }

    /// Takes one of its places among those who wait for the upstream; says whether it had to wait for it.
    ///
    /// # Errors
    /// [`Problem::Overloaded`], if there is none until `deadline`.
    pub async fn place(&self, deadline: Instant) -> Result<(OwnedSemaphorePermit, bool), Problem> {
        if let Ok(place) = self.misses.clone().try_acquire_owned() {
            return Ok((place, false));
        }
        match timeout_at(deadline, self.misses.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok((place, true)),
            _ => Err(Problem::Overloaded { retry_after: Duration::from_secs(1) }),
        }
    }

    /// How many of its requests have a place among those who wait for the upstream.
    pub fn waiting(&self) -> usize {
        places(self.consumer.max_in_flight_misses).saturating_sub(self.misses.available_permits())
    }

    /// The same consumer after its rules were changed: what it has spent stays spent.
    pub fn renewed(&self, consumer: Consumer, now: Instant) -> Self {
        let new = Self::new(consumer, now);
        let (before, after) = (&self.consumer, &new.consumer);
        let quota = match (after.quota, &self.quota) {
            (rate, Some(known)) if rate == before.quota => Some(known.clone()),
            (Some(rate), Some(known)) => Some(Arc::new(Quota::new(rate, known.bucket.with_rate(rate, now)))),
            _ => new.quota,
        };
        let forced_refreshes = match (after.forced_refreshes, &self.forced_refreshes) {
            (rate, Some(known)) if rate == before.forced_refreshes => Some(known.clone()),
            (Some(rate), Some(known)) => Some(Arc::new(known.with_rate(rate, now))),
            _ => new.forced_refreshes,
        };
        let same_places = before.max_in_flight_misses == after.max_in_flight_misses;
        let misses = if same_places { self.misses.clone() } else { new.misses };
        let same_seats = before.max_followers == after.max_followers;
        let follows = if same_seats { self.follows.clone() } else { new.follows };
        let (tally, payer) = (OnceLock::new(), new.payer);
        Self { quota, forced_refreshes, misses, follows, tally, payer, consumer: new.consumer }
    }
}

/// Whom a call to the upstream is charged to: of those who share it, the one who began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payer {
    /// The consumer's name.
    pub name: Name,
    /// Its share where calls queue, against that of others.
    pub weight: NonZeroU32,
}
