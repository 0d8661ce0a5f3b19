//! Stale pages: while they are fetched anew, while Merge is down, and never longer than promised.

use std::sync::Arc;
use std::time::Duration;

use merge_sync_proxy::demo::fault::Fault;
use parking_lot::Mutex;
use tokio::time::{Instant, advance};

use crate::support::{Got, SYNC_STATUS, World, consumer, merge, with};

const SECOND: Duration = Duration::from_secs(1);

/// A world in which acme is syncing, so that its pages live five seconds, with one page stored `ago`.
pub(crate) async fn stored(ago: Duration) -> World {
    let world = World::new();
    world.merge.start_sync("acme");
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
    advance(ago).await;
    world
}

fn age(answer: &Got) -> u64 {
    answer.number("age")
}

#[tokio::test(start_paused = true)]
async fn after_its_lifetime_a_page_is_fetched_once_and_nobody_waits() {
    let world = stored(SECOND * 6).await;
    let held = world.merge.hold();
    let start = Instant::now();
    for _ in 0..100 {
        let answer = world.get(SYNC_STATUS).await;
        assert_eq!((answer.cache(), age(&answer)), ("hit; ttl=-1; detail=revalidating", 6));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    world.merge.arrived(2).await;
    held.release();
    world.settle().await;
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "hit; ttl=5");
    assert_eq!(world.merge.calls(), 2);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_old_is_never_served_without_a_word() {
    for (ago, background) in [(4_999_i64, false), (5_000, true), (34_999, true), (35_000, false), (500_000, false)] {
        let world = stored(Duration::from_millis(ago.unsigned_abs())).await;
        let answer = world.get(SYNC_STATUS).await;
        let expected = match ago {
            4_999 => "hit; ttl=1".to_owned(),
            _ if background => format!("hit; ttl={}; detail=revalidating", 5 - ago / 1_000),
            _ => "fwd=stale; fwd-status=200; stored; ttl=5".to_owned(),
        };
        assert_eq!(answer.cache(), expected, "after {ago} ms");
        world.settle().await;
        assert_eq!(world.merge.calls(), if ago < 5_000 { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_fetch_that_hangs_gets_the_stale_page_as_soon_as_that_has_failed() {
    let world = stored(SECOND * 40).await;
    world.merge.set(Fault::Hang);
    let first = world.begin(SYNC_STATUS);
    world.merge.arrived(2).await;
    advance(SECOND * 5).await;
    let start = Instant::now();
    let (second, first) = tokio::join!(world.get(SYNC_STATUS), first);
    let detail = |answer: &Got| answer.cache().rsplit_once("detail=").map(|(_, detail)| detail.to_owned());
    for answer in [first.expect("no panic"), second] {
        assert_eq!((answer.status.as_u16(), detail(&answer).as_deref()), (200, Some("upstream-error")));
    }
    assert!(start.elapsed() < SECOND * 20, "{:?}: it waited for a fetch of its own", start.elapsed());
    assert_eq!(world.merge.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn merge_is_down_for_an_hour_and_everybody_is_served() {
    let world = stored(SECOND * 6).await;
    world.merge.set(Fault::Status(500));
    for passed in 6..3_605 {
        let answer = world.get(SYNC_STATUS).await;
        assert_eq!((answer.status.as_u16(), age(&answer)), (200, passed));
        let ttl = 5 - i64::try_from(passed).expect("small");
        let detail = answer.cache().strip_prefix(&format!("hit; ttl={ttl}; detail=")).expect("a stale hit").to_owned();
        assert!(detail == "upstream-error" || (detail == "revalidating" && passed < 35), "{passed} s: {detail}");
        world.settle().await;
        advance(SECOND).await;
    }
    // The pause between two tries doubles from 1 s to 60 s, less up to a half, and someone comes every second.
    let log = world.merge.log();
    for (failures, pair) in log[1..].windows(2).enumerate() {
        let pause = (1 << failures.min(6)).min(60);
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= SECOND * pause / 2 && gap <= SECOND * (pause + 1), "{failures}: {gap:?} instead of {pause} s");
    }
    assert!((60..=130).contains(&log.len()), "{} calls", log.len());
    // Now it is older than `if_error` allows.
    let answer = world.get(SYNC_STATUS).await;
    assert_eq!((answer.status.as_u16(), answer.cache()), (500, "fwd=stale; fwd-status=500"));
    world.merge.clear();
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "fwd=stale; fwd-status=200; stored; ttl=5");
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "hit; ttl=5");
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn the_first_success_ends_an_outage() {
    let world = stored(SECOND * 40).await;
    world.merge.set(Fault::Status(500));
    for _ in 0..600 {
        assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=upstream-error"));
        advance(SECOND).await;
    }
    world.merge.clear();
    let before = world.merge.calls();
    let mut waited = 0;
    while !world.get(SYNC_STATUS).await.cache().starts_with("fwd=stale; fwd-status=200") {
        waited += 1;
        assert!(waited <= 60, "it is tried once a minute at least");
        advance(SECOND).await;
    }
    assert_eq!(world.merge.calls(), before + 1);
    advance(SECOND * 6).await;
    assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=revalidating"), "nothing is held against the page");
    world.settle().await;
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "hit; ttl=5");
}

#[tokio::test(start_paused = true)]
async fn whatever_way_merge_fails_the_stale_page_stands_in() {
    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::ResetBeforeHeaders,
        Fault::TruncateLength,
        Fault::Html,
        Fault::EmptyOk,
        Fault::BadJson,
        Fault::NoContent,
        Fault::Redirect("/elsewhere".to_owned()),
        Fault::Hang,
    ] {
        let world = stored(SECOND * 40).await;
        let body = world.get_with(SYNC_STATUS, &[("cache-control", "max-stale, only-if-cached")]).await.body;
        world.merge.set(fault.clone());
        let answer = world.get(SYNC_STATUS).await;
        assert_eq!((answer.status.as_u16(), &answer.body), (200, &body), "{fault:?}");
        assert!(answer.cache().ends_with("detail=upstream-error"), "{fault:?}: {}", answer.cache());
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_if_error_stands_in_for_nothing() {
    for (fault, status) in [(Fault::Status(500), 500), (Fault::Hang, 504), (Fault::ResetBeforeHeaders, 502)] {
        let world = stored(SECOND * 3_606).await;
        world.merge.set(fault);
        assert_eq!(world.get(SYNC_STATUS).await.status.as_u16(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_soft_purge_makes_the_next_request_fetch() {
    let world = stored(SECOND).await;
    world.app.ground().store.purge_all(false, Instant::now());
    advance(SECOND / 1_000).await;
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "fwd=stale; fwd-status=200; stored; ttl=5");
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "hit; ttl=5");

    world.app.ground().store.purge_all(false, Instant::now());
    advance(SECOND / 1_000).await;
    for directive in ["only-if-cached", "only-if-cached, max-stale"] {
        assert_eq!(world.get_with(SYNC_STATUS, &[("cache-control", directive)]).await.problem(), "not-cached");
    }
    world.merge.set(Fault::Status(500));
    let answer = world.get(SYNC_STATUS).await;
    assert_eq!(answer.status, 200, "a failure may still serve it");
    assert_eq!(answer.cache(), "hit; ttl=0; detail=upstream-error");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_who_purges_or_insists_has_it_tried_again_at_once() {
    for purges in [false, true] {
        let world = stored(SECOND * 40).await;
        world.merge.script(Fault::Status(503)).times(3);
        assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=upstream-error"));
        assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=upstream-error"));
        assert_eq!(world.merge.calls(), 4, "the second has the upstream left alone");
        let answer = if purges {
            world.app.ground().store.purge_all(false, Instant::now());
            advance(SECOND / 1_000).await;
            world.get(SYNC_STATUS).await
        } else {
            world.get_with(SYNC_STATUS, &[("cache-control", "no-cache")]).await
        };
        let forward = if purges { "stale" } else { "request" };
        assert_eq!(answer.cache(), format!("fwd={forward}; fwd-status=200; stored; ttl=5"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_gets_a_place_after_a_failure_has_the_upstream_left_alone_too() {
    let teams = [consumer("one", "accounts = ['*']\nmax_in_flight_misses = 1"), consumer("other", "accounts = ['*']")];
    let world = World::with(merge(), &format!("{}[cache.stale]\nwhile_revalidate = '0s'\n", teams.concat()));
    let ask = |key: &str, query: &str| {
        let bearer = format!("Bearer {key}");
        let target = format!("{SYNC_STATUS}{query}");
        let (world, request) =
            (world.clone(), with(&target, &[("x-account-token", "acme"), ("authorization", &bearer)]));
        tokio::spawn(async move { world.send(request).await })
    };
    assert_eq!(ask("other", "").await.expect("no panic").status, 200);
    advance(SECOND * 100).await;
    world.merge.script(Fault::Hang).once();
    let hanging = ask("one", "?page_size=7");
    world.merge.arrived(2).await;
    let waiting = ask("one", "");
    tokio::task::yield_now().await;
    world.merge.set(Fault::Status(500));
    assert!(ask("other", "").await.expect("no panic").cache().ends_with("detail=upstream-error"));
    let calls = world.merge.calls();
    world.merge.clear();
    hanging.abort();
    let answer = waiting.await.expect("no panic");
    assert!(answer.cache().ends_with("detail=upstream-error"), "{}", answer.cache());
    assert_eq!(world.merge.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_hard_purge_leaves_nothing_to_stand_in() {
    let world = stored(SECOND).await;
    world.app.ground().store.purge_all(true, Instant::now());
    world.merge.set(Fault::Status(500));
    assert_eq!(world.get(SYNC_STATUS).await.status, 500);
}

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_when_a_purge_came_is_not_fresh() {
    let world = stored(SECOND * 40).await;
    let held = world.merge.hold();
    let waiting = world.begin(SYNC_STATUS);
    world.merge.arrived(2).await;
    advance(SECOND / 1_000).await;
    world.app.ground().store.purge_all(false, Instant::now());
    held.release();
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert!(world.get(SYNC_STATUS).await.cache().starts_with("fwd=stale; fwd-status=200"));
    assert_eq!(world.merge.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_page_never_goes_backwards() {
    let world = World::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for version in 1..=500_u64 {
        let body = serde_json::json!({ "results": [{ "status": "SYNCING" }], "version": version });
        world.merge.page("acme", "ats", body.to_string());
        if version % 7 == 0 {
            world.merge.script(Fault::Delay(SECOND * 3)).once();
        }
        let ask = |directives: &'static str| {
            let (world, seen) = (world.clone(), seen.clone());
            tokio::spawn(async move {
                let answer = world.get_with(SYNC_STATUS, &[("cache-control", directives)]).await;
                let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
                seen.lock().push(body["version"].as_u64().expect("a number"));
            })
        };
        let all = [ask(if version % 3 == 0 { "no-cache" } else { "" }), ask("max-stale"), ask("")];
        advance(SECOND / 10).await;
        ask("no-cache").await.expect("no panic");
        for one in all {
            one.await.expect("no panic");
        }
        advance(Duration::from_millis(version * 997 % 9_000)).await;
    }
    let seen = seen.lock();
    assert!(seen.is_sorted(), "in the order in which they were told");
    assert_eq!((seen.len(), seen.last()), (2_000, Some(&500)));
}

#[tokio::test(start_paused = true)]
async fn a_304_that_nobody_asked_for_renews_nothing() {
    let world = stored(SECOND * 40).await;
    world.merge.set(Fault::NotModifiedUnasked);
    let answer = world.get(SYNC_STATUS).await;
    assert_eq!((answer.cache(), age(&answer)), ("hit; ttl=-35; detail=upstream-error", 40));
    assert!(world.merge.log().iter().all(|call| !call.headers.contains_key("if-none-match")));
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_purge_does_not_join_a_fetch_from_before_it() {
    let world = World::new();
    let body = |version: u64| format!("{{\"results\":[{{\"status\":\"SYNCING\"}}],\"version\":{version}}}");
    world.merge.page("acme", "ats", body(1));
    world.merge.script(Fault::Delay(SECOND * 5)).once();
    let before = world.begin(SYNC_STATUS);
    world.merge.arrived(1).await;
    advance(SECOND).await;
    world.app.ground().store.purge_all(false, Instant::now());
    world.merge.page("acme", "ats", body(2));
    advance(SECOND).await;
    let after = world.get(SYNC_STATUS).await;
    assert_eq!(after.cache(), "fwd=uri-miss; fwd-status=200; stored; ttl=5");
    assert_eq!(after.body, body(2));
    assert_eq!(before.await.expect("no panic").body, body(1), "who asked before it may have it");
    let next = world.get_with(SYNC_STATUS, &[("cache-control", "max-stale")]).await;
    assert_eq!((&next.body, world.merge.calls()), (&after.body, 2), "the older page does not replace the newer");
    world.assert_idle();
}
