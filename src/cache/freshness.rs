//! Decisions of the cache as pure functions: how long a page lives, and whether it may answer a request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::cache_control::Wants;
use crate::domain::exchange::{Forward, Policy, Why};
use crate::domain::history::History;
use crate::domain::lifetime::{Freshness, Lifetime};
use crate::domain::page::{Kind, Page};
use crate::domain::received::{Run, SyncDigest};
use crate::domain::rules::{CacheRule, Lifetimes};

/// How long a good page lives. `jitter`, from 0 to 1, shortens the lifetime of a settled page by up to a twentieth, so that pages
/// that were stored together do not expire together.
pub fn lifetime(policy: &Policy, digest: &SyncDigest, history: &History, jitter: f32) -> Lifetime {
    let Lifetimes { syncing, settled, min, while_revalidate, if_error, .. } = policy.lifetimes;
    let fresh = match policy.rule {
        CacheRule::Fixed(fixed) => fixed,
        _ if !digest.results => min,
        _ => {
            let start = digest.next_start.unwrap_or(settled).min(settled).mul_f32(1.0 - jitter.clamp(0.0, 1.0) / 20.0);
            let change = if digest.changing { start.min(syncing) } else { start };
            let ends = digest.runs.iter().filter_map(|run| next_look(run, history, &policy.lifetimes));
            ends.fold(change, Duration::min).max(min)
        }
    };
    Lifetime { fresh, while_revalidate, if_error }
}

/// How soon to look at a sync that has just begun and may last for any time.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// While a model syncs, how soon to look again, between `min` and `syncing`; `None` if it does not sync.
///
/// If its last runs say when this one will end: seldom before that, often around it. If they do not, or it is overdue: the longer
/// it has been going on, the longer it may go on, so that the delay stays in proportion to what is waited for.
fn next_look(run: &Run, history: &History, lifetimes: &Lifetimes) -> Option<Duration> {
    let elapsed = run.under_way?;
    let look = match history.expect(run) {
        Some(expected) if !expected.until_window.is_zero() => expected.until_window,
        Some(expected) if expected.overdue.is_zero() => lifetimes.min * 2,
        Some(expected) => (lifetimes.min * 2).max(expected.overdue / 8),
        None => FIRST_LOOK.max(elapsed / 8),
    };
    Some(look.min(lifetimes.syncing).max(lifetimes.min))
}

/// How long a refusal is remembered.
pub fn negative_lifetime(lifetimes: &Lifetimes) -> Lifetime {
    Lifetime { fresh: lifetimes.negative, while_revalidate: Duration::ZERO, if_error: Duration::ZERO }
}

/// What to do for a request.
#[derive(Debug)]
pub enum Decision {
    /// The stored page is fresh for so long: serve it.
    Hit(Arc<Page>, Duration),
    /// Serve the stored page although it is stale; fetch it anew meanwhile if it says so.
    Stale(Arc<Page>, Why),
    /// Fetch it, with what is known of it.
    Fetch(Forward, Option<Arc<Page>>),
    /// The client wants nothing but what is stored, and that is not fresh.
    NotCached,
}

impl Decision {
    /// What traces call it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Hit(..) => "hit",
            Self::Stale(..) => "stale",
            Self::Fetch(..) => "fetch",
            Self::NotCached => "not-cached",
        }
    }
}

/// Whether `page` may answer a request that `wants` something, now (RFC 9111 §4).
pub fn decide(page: Option<Arc<Page>>, wants: &Wants, now: Instant) -> Decision {
    let Some(page) = page else { return fetch(wants, Forward::UriMiss, None) };
    let too_old = wants.max_age.is_some_and(|limit| page.age(now) > limit);
    let refused = wants.no_cache || wants.no_store || too_old;
    match page.freshness(now) {
        Freshness::Fresh { ttl } if !refused && wants.min_fresh.is_none_or(|wanted| ttl >= wanted) => {
            Decision::Hit(page, ttl)
        }
        Freshness::Fresh { .. } => fetch(wants, Forward::Request, Some(page)),
        Freshness::Revalidate { since } | Freshness::IfError { since }
            if !refused && !page.is_purged(now) && wants.max_stale.is_some_and(|limit| since <= limit) =>
        {
            Decision::Stale(page, Why::Accepted)
        }
        _ if wants.only_if_cached => Decision::NotCached,
        // Who insists has it tried, and pays for that as for any other try that nobody else would have made.
        Freshness::Revalidate { .. } | Freshness::IfError { .. } if page.is_set_back(now) && refused => {
            Decision::Fetch(Forward::Request, Some(page))
        }
        Freshness::Revalidate { .. } | Freshness::IfError { .. } if page.is_set_back(now) => {
            Decision::Stale(page, Why::UpstreamError)
        }
        Freshness::Revalidate { .. } if refused => Decision::Fetch(Forward::Request, Some(page)),
        Freshness::Revalidate { .. } if wants.min_fresh.is_none() => Decision::Stale(page, Why::Revalidating),
        // It would be fetched whatever the client asks for.
        _ => Decision::Fetch(Forward::Stale, Some(page)),
    }
}

fn fetch(wants: &Wants, forward: Forward, known: Option<Arc<Page>>) -> Decision {
    if wants.only_if_cached { Decision::NotCached } else { Decision::Fetch(forward, known) }
}

/// Whether `page` may stand in for a fetch that failed.
pub fn stands_in(page: &Page, now: Instant) -> bool {
    page.kind == Kind::Good && page.freshness(now) != Freshness::Unusable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cache_control::FOREVER;
    use crate::domain::page::tests::page;
    use proptest::prelude::*;

    const fn policy(rule: CacheRule) -> Policy {
        let second = Duration::from_secs;
        let lifetimes = Lifetimes {
            syncing: second(5),
            settled: second(60),
            min: second(2),
            negative: second(5),
            while_revalidate: second(30),
            if_error: second(3600),
        };
        Policy { rule, lifetimes, max_page_bytes: 4 << 20 }
    }

    fn digest(changing: bool, next: Option<u64>) -> SyncDigest {
        SyncDigest { json: true, results: true, changing, next_start: next.map(Duration::from_secs), runs: Vec::new() }
    }

    #[test]
    fn the_page_says_how_long_it_lives() {
        for (digest, seconds) in [
            (digest(true, Some(3600)), 5),
            (digest(false, Some(3600)), 60),
            (digest(false, Some(17)), 17),
            (digest(false, Some(0)), 2),
            (digest(false, None), 60),
            (SyncDigest { json: true, ..SyncDigest::default() }, 2),
        ] {
            let fresh = lifetime(&policy(CacheRule::SyncStatus), &digest, &History::default(), 0.0).fresh;
            assert_eq!(fresh, Duration::from_secs(seconds), "{digest:?}");
        }
        let fixed = policy(CacheRule::Fixed(Duration::from_secs(30)));
        assert_eq!(lifetime(&fixed, &digest(true, None), &History::default(), 1.0).fresh, Duration::from_secs(30));
    }

    fn run(elapsed: u64) -> Run {
        Run { model: 7, under_way: Some(Duration::from_secs(elapsed)), finished: None }
    }

    fn look_after(elapsed: u64, history: &History, syncing: u64) -> u64 {
        let mut policy = policy(CacheRule::SyncStatus);
        policy.lifetimes.syncing = Duration::from_secs(syncing);
        let digest = SyncDigest { runs: vec![run(elapsed)], ..digest(false, None) };
        lifetime(&policy, &digest, history, 0.0).fresh.as_secs()
    }

    #[test]
    fn a_sync_of_unknown_length_is_looked_at_in_proportion_to_its_age() {
        let history = History::default();
        for (elapsed, look) in [(0, 5), (40, 5), (160, 20), (480, 60), (9_000, 60)] {
            assert_eq!(look_after(elapsed, &history, 60), look, "after {elapsed} s");
            assert_eq!(look_after(elapsed, &history, 5), look.min(5), "after {elapsed} s");
        }
    }

    #[test]
    fn a_sync_of_known_length_is_left_alone_until_its_end_is_near() {
        let mut history = History::default();
        for started in 0..40 {
            let finished = Some((started, Duration::from_secs(600)));
            history = history.learn(&[Run { model: 7, under_way: None, finished }]);
        }
        for (elapsed, look) in [(0, 60), (500, 60), (560, 22), (590, 4), (615, 4), (1_000, 47), (2_000, 60)] {
            let got = look_after(elapsed, &history, 60);
            assert!(got.abs_diff(look) <= 2, "{got} after {elapsed} s, expected about {look}");
        }
    }

    /// A decision without its page.
    #[derive(Debug, PartialEq, Eq)]
    enum Outline {
        Hit,
        Stale(Why),
        Fetch(Forward),
        NotCached,
    }

    fn outline(page: Option<&Arc<Page>>, wants: &Wants, now: Instant) -> Outline {
        match decide(page.cloned(), wants, now) {
            Decision::Hit(..) => Outline::Hit,
            Decision::Stale(_, why) => Outline::Stale(why),
            Decision::Fetch(forward, _) => Outline::Fetch(forward),
            Decision::NotCached => Outline::NotCached,
        }
    }

    #[test]
    fn a_client_gets_what_it_asks_for() {
        let began = Instant::now();
        let page = Arc::new(page("{}", began, [5, 30, 3600]));
        let second = Duration::from_secs;
        let plain = Wants::default();
        let no_cache = Wants { no_cache: true, ..plain };
        let cached = Wants { only_if_cached: true, ..plain };
        let max_age = |seconds| Wants { max_age: Some(second(seconds)), ..plain };
        let min_fresh = |seconds| Wants { min_fresh: Some(second(seconds)), ..plain };
        let max_stale = |limit| Wants { max_stale: Some(limit), ..plain };
        for (age, wants, expected) in [
            (0, plain, Outline::Hit),
            (3, max_age(3), Outline::Hit),
            (3, max_age(2), Outline::Fetch(Forward::Request)),
            (3, min_fresh(2), Outline::Hit),
            (3, min_fresh(3), Outline::Fetch(Forward::Request)),
            (0, no_cache, Outline::Fetch(Forward::Request)),
            (0, cached, Outline::Hit),
            (5, plain, Outline::Stale(Why::Revalidating)),
            (5, cached, Outline::NotCached),
            (5, no_cache, Outline::Fetch(Forward::Request)),
            (35, plain, Outline::Fetch(Forward::Stale)),
            (35, no_cache, Outline::Fetch(Forward::Stale)),
            (35, max_stale(second(30)), Outline::Stale(Why::Accepted)),
            (35, max_stale(second(29)), Outline::Fetch(Forward::Stale)),
            (35, Wants { only_if_cached: true, ..max_stale(FOREVER) }, Outline::Stale(Why::Accepted)),
            (9000, plain, Outline::Fetch(Forward::Stale)),
        ] {
            assert_eq!(outline(Some(&page), &wants, began + second(age)), expected, "{wants:?} at {age}");
        }
        assert_eq!(outline(None, &plain, began), Outline::Fetch(Forward::UriMiss));
        assert_eq!(outline(None, &cached, began), Outline::NotCached);
    }

    #[test]
    fn after_a_failure_the_upstream_is_left_alone() {
        let began = Instant::now();
        let page = Arc::new(page("{}", began, [5, 30, 3600]));
        let now = began + Duration::from_secs(6);
        page.set_back(now, None, 0.0);
        assert_eq!(outline(Some(&page), &Wants::default(), now), Outline::Stale(Why::UpstreamError));
        let insisting = Wants { no_cache: true, ..Wants::default() };
        assert_eq!(outline(Some(&page), &insisting, now), Outline::Fetch(Forward::Request));
        let later = now + Duration::from_secs(1);
        assert_eq!(outline(Some(&page), &Wants::default(), later), Outline::Stale(Why::Revalidating));
        page.set_back(later, None, 0.0);
        page.purge(later);
        assert_eq!(outline(Some(&page), &Wants::default(), later), Outline::Fetch(Forward::Stale), "once more");
    }

    #[test]
    fn a_purged_page_is_not_served_even_to_those_who_accept_stale_ones() {
        let began = Instant::now();
        let page = Arc::new(page("{}", began, [5, 30, 3600]));
        page.purge(began);
        let wants = Wants { max_stale: Some(FOREVER), ..Wants::default() };
        assert_eq!(outline(Some(&page), &wants, began), Outline::Fetch(Forward::Stale));
        assert!(stands_in(&page, began));
    }

    proptest! {
        #[test]
        fn lifetimes_stay_within_their_bounds(changing: bool, next in proptest::option::of(0_u64..10_000), jitter in 0.0_f32..1.0) {
            let policy = policy(CacheRule::SyncStatus);
            let fresh = lifetime(&policy, &digest(changing, next), &History::default(), jitter).fresh;
            prop_assert!(fresh >= policy.lifetimes.min);
            let longest = if changing { policy.lifetimes.syncing } else { policy.lifetimes.settled };
            prop_assert!(fresh <= longest);
            let mut running = digest(changing, next);
            running.runs = vec![run(next.unwrap_or(3))];
            let with_run = lifetime(&policy, &running, &History::default(), jitter).fresh;
            prop_assert!((policy.lifetimes.min..=policy.lifetimes.syncing).contains(&with_run) && with_run <= fresh.max(policy.lifetimes.min));
            if let Some(next) = next.filter(|next| *next >= 2) {
                prop_assert!(fresh <= Duration::from_secs(next) || changing);
            }
        }
    }
}
