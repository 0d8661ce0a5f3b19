//! What a client may ask of the cache (RFC 9111 §5.2.1), and what that costs it.

use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::demo::fault::Fault;
use tokio::time::{Instant, advance};

use crate::stale::stored;
use crate::support::{Got, SYNC_STATUS, World, consumer, merge, with};

const SECOND: Duration = Duration::from_secs(1);

const FETCHED: &str = "fwd=request; fwd-status=200; stored; ttl=5";

async fn asking(world: &World, directives: &str) -> Got {
    let answer = world.get_with(SYNC_STATUS, &[("cache-control", directives)]).await;
    world.settle().await;
    answer
}

#[tokio::test(start_paused = true)]
async fn each_directive_means_what_the_rfc_says() {
    let revalidating = "hit; ttl=-3; detail=revalidating";
    let stale = "fwd=stale; fwd-status=200; stored; ttl=5";
    for (ago, directives, cache, calls) in [
        (2, "no-cache", FETCHED, 2),
        (2, "max-age=0", FETCHED, 2),
        (2, "max-age=1", FETCHED, 2),
        (2, "max-age=2", "hit; ttl=3", 1),
        (2, "max-age=60", "hit; ttl=3", 1),
        (2, "max-age=\"1\"", FETCHED, 2),
        (2, "max-age=soon", FETCHED, 2),
        (2, "min-fresh=3", "hit; ttl=3", 1),
        (2, "min-fresh=4", FETCHED, 2),
        (2, "max-stale=9", "hit; ttl=3", 1),
        (2, "only-if-cached", "hit; ttl=3", 1),
        (2, "unknown, other=1", "hit; ttl=3", 1),
        (2, "NO-CACHE", FETCHED, 2),
        (2, "max-age=60, no-cache", FETCHED, 2),
        (2, "no-store", "fwd=request; fwd-status=200", 2),
        (8, "max-stale", "hit; ttl=-3", 1),
        (8, "max-stale=3", "hit; ttl=-3", 1),
        (8, "max-stale=2", revalidating, 2),
        (8, "max-stale=never", revalidating, 2),
        (8, "max-age=60", revalidating, 2),
        (8, "max-age=7, max-stale", FETCHED, 2),
        (8, "no-cache, max-stale", FETCHED, 2),
        (8, "min-fresh=1", stale, 2),
        (8, "max-stale, only-if-cached", "hit; ttl=-3", 1),
        (40, "max-stale=35", "hit; ttl=-35", 1),
        (40, "max-stale=34", stale, 2),
        (40, "no-cache", stale, 2),
        (40, "no-store", "fwd=stale; fwd-status=200", 2),
    ] {
        let world = stored(SECOND * ago).await;
        let answer = asking(&world, directives).await;
        assert_eq!((answer.status.as_u16(), answer.cache()), (200, cache), "{directives} after {ago} s");
        assert_eq!(world.merge.calls(), calls, "{directives} after {ago} s");
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn pragma_counts_only_where_there_is_no_cache_control() {
    let world = stored(SECOND).await;
    assert_eq!(world.get_with(SYNC_STATUS, &[("pragma", "no-cache")]).await.cache(), FETCHED);
    let both = [("pragma", "no-cache"), ("cache-control", "max-age=60")];
    assert_eq!(world.get_with(SYNC_STATUS, &both).await.cache(), "hit; ttl=5");
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_never_makes_a_call() {
    let world = World::new();
    world.merge.start_sync("acme");
    let refused = |answer: &Got| (answer.status.as_u16(), answer.problem());
    let not_cached = (504, "not-cached".to_owned());
    assert_eq!(refused(&asking(&world, "only-if-cached").await), not_cached);
    assert_eq!(world.merge.calls(), 0);
    world.get(SYNC_STATUS).await;
    for directives in ["only-if-cached, no-cache", "only-if-cached, no-store", "only-if-cached, min-fresh=60"] {
        assert_eq!(refused(&asking(&world, directives).await), not_cached, "{directives}");
    }
    advance(SECOND * 6).await;
    for directives in ["only-if-cached", "only-if-cached, max-stale=0"] {
        assert_eq!(refused(&asking(&world, directives).await), not_cached, "{directives}");
    }
    assert_eq!(world.merge.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn forced_fetches_are_shared_and_no_store_is_not() {
    for (directives, calls, collapsed) in [("no-cache", 2, 9), ("max-age=0", 2, 9), ("no-store", 11, 0)] {
        let world = stored(SECOND).await;
        let held = world.merge.hold();
        let headers = [("cache-control", directives)];
        let all = join_all((0..10).map(|_| world.get_with(SYNC_STATUS, &headers)));
        let release = async {
            world.merge.arrived(calls).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            held.release();
        };
        let (answers, ()) = tokio::join!(all, release);
        assert_eq!(world.merge.calls(), calls, "{directives}");
        let told = answers.iter().filter(|answer| answer.cache() == "fwd=request; collapsed").count();
        assert_eq!(told, collapsed, "{directives}");
        assert!(answers.iter().all(|answer| answer.status == 200));
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_store_brought_is_for_one_caller_alone() {
    let world = World::new();
    world.merge.start_sync("acme");
    assert_eq!(asking(&world, "no-store").await.cache(), "fwd=uri-miss; fwd-status=200");
    assert_eq!(asking(&world, "only-if-cached").await.status, 504, "nothing was stored");
    world.get(SYNC_STATUS).await;
    advance(SECOND * 2).await;
    world.merge.page("acme", "ats", r#"{"results":[],"newer":true}"#);
    assert!(asking(&world, "no-store").await.body.ends_with(b"\"newer\":true}"));
    let hit = world.get(SYNC_STATUS).await;
    assert!(hit.cache() == "hit; ttl=3" && !hit.body.ends_with(b"\"newer\":true}"), "what was stored stays");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_for_a_turn_and_a_whole_call_and_a_second() {
    for directives in ["no-store", "no-cache", ""] {
        let team = consumer("team", "accounts = ['*']\nmax_in_flight_misses = 1");
        let world = World::with(merge(), &team);
        world.merge.set(Fault::SlowBody { chunk: 1, every: SECOND * 5 });
        let start = Instant::now();
        let asking = |page: u8| {
            let headers =
                [("authorization", "Bearer team"), ("x-account-token", "acme"), ("cache-control", directives)];
            let request = with(&format!("{SYNC_STATUS}?cursor={page}"), &headers);
            let world = &world;
            async move { (world.send(request).await.status, start.elapsed()) }
        };
        let answers = join_all((0..3).map(asking)).await;
        for (status, waited) in answers {
            assert!(status.is_server_error(), "{status}");
            assert!(waited <= SECOND * 22 + Duration::from_millis(10), "{directives}: {waited:?}");
        }
    }
}

/// A world with a consumer `team` that may force a fetch a minute, and `other` without limit.
async fn limited() -> World {
    let team = consumer("team", "accounts = ['*']\nforced_refreshes = '1/min'");
    let world = World::with(merge(), &format!("{team}{}", consumer("other", "accounts = ['*']")));
    world.merge.start_sync("acme");
    assert_eq!(as_team(&world, "team", "").await.status, 200);
    world
}

async fn as_team(world: &World, key: &str, directives: &str) -> Got {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer), ("x-account-token", "acme"), ("cache-control", directives)];
    let answer = world.send(with(SYNC_STATUS, &headers)).await;
    world.settle().await;
    answer
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_has_spent_its_forced_refreshes_is_answered_as_if_it_had_not_asked() {
    for spent_by in ["no-cache", "max-age=0", "min-fresh=60", "no-store"] {
        let world = limited().await;
        advance(SECOND).await;
        assert!(
            as_team(&world, "team", spent_by).await.cache().starts_with("fwd=request; fwd-status=200"),
            "{spent_by}"
        );
        advance(SECOND).await;
        let calls = world.merge.calls();
        for directives in ["no-cache", "max-age=0", "no-store"] {
            let answer = as_team(&world, "team", directives).await;
            assert!(answer.cache().starts_with("hit; ttl="), "{directives}: {}", answer.cache());
            assert!(answer.cache().ends_with("; detail=refresh-limited"), "{directives}: {}", answer.cache());
        }
        assert_eq!(world.merge.calls(), calls);
        advance(SECOND * 6).await;
        let stale = as_team(&world, "team", "no-cache").await;
        assert!(stale.cache().starts_with("hit; ttl=-") && stale.cache().ends_with("; detail=refresh-limited"));
        assert!(as_team(&world, "other", "no-cache").await.cache().starts_with("fwd=request"), "its own limit only");
        advance(SECOND * 61).await;
        as_team(&world, "team", "").await;
        advance(SECOND).await;
        assert_eq!(as_team(&world, "team", "no-cache").await.cache(), FETCHED, "there is a new one");
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_have_been_fetched_anyway_costs_no_forced_refresh() {
    let world = limited().await;
    for _ in 0..5 {
        advance(SECOND * 40).await;
        assert!(as_team(&world, "team", "no-cache").await.cache().starts_with("fwd=stale"));
        assert_eq!(as_team(&world, "team", "max-age=60").await.cache(), "hit; ttl=5");
    }
    assert_eq!(as_team(&world, "team", "no-cache").await.cache(), FETCHED);
}

#[tokio::test(start_paused = true)]
async fn a_forced_fetch_costs_the_upstreams_budget_like_any_other() {
    let world = World::with(merge(), "[upstreams.us.budget]\nper_account = '5/min'\nmax_wait = '0s'");
    world.merge.start_sync("acme");
    for _ in 0..20 {
        let answer = asking(&world, "no-cache").await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(world.merge.max_in_any_window("acme", SECOND * 60), 1, "a fifth of five may go at once");
    assert!(asking(&world, "no-cache").await.cache().ends_with("detail=upstream-error"), "the rest is served stale");
}
