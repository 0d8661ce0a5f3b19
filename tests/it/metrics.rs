//! What is counted: how requests ended, what was sent upstream, and nothing that a request brings along as a label.

use std::time::Duration;

use http::StatusCode;
use merge_sync_proxy::admin::readings::hit_ratio;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::metrics::numbers::{AccountNumbers, CallEnd, Counts};
use merge_sync_proxy::metrics::registry::{Kind, Metrics};
use tokio::time::{Instant, advance};

use crate::support::{SYNC_STATUS, World, ask, consumer, merge, with};

fn metrics(world: &World) -> &Metrics {
    &world.app.ground().metrics
}

fn account(world: &World, name: &str) -> AccountNumbers {
    let accounts = metrics(world).accounts(Instant::now());
    accounts.into_iter().find(|account| &*account.name == name).expect("an account with this name")
}

#[tokio::test(start_paused = true)]
async fn each_request_is_counted_once_by_how_it_ended() {
    let world = World::new();
    world.get(SYNC_STATUS).await;
    world.get(SYNC_STATUS).await;
    world.get_with(SYNC_STATUS, &[("cache-control", "no-cache")]).await;
    world.get("/nowhere").await;
    world.send(with(SYNC_STATUS, &[])).await;
    let counts = metrics(&world).totals().counts;
    assert_eq!((counts.requests, counts.hits, counts.misses, counts.forced, counts.refused), (5, 1, 2, 1, 2));
    assert_eq!(counts.refused_by, [("invalid-request", 1), ("no-such-route", 1)].into());
    assert_eq!((counts.ready, counts.for_merge), (1, 3));
    assert_eq!(hit_ratio(&Counts::default(), &counts), Some(1.0 / 3.0));
    assert_eq!(metrics(&world).totals().upstream_calls, world.merge.calls() as u64);
}

#[tokio::test(start_paused = true)]
async fn waiters_of_one_flight_are_collapsed_and_a_stale_page_says_why() {
    let world = World::new();
    let held = world.merge.hold();
    let asked = [world.begin(SYNC_STATUS), world.begin(SYNC_STATUS), world.begin(SYNC_STATUS)];
    world.merge.arrived(1).await;
    held.release();
    for answer in asked {
        assert_eq!(answer.await.expect("an answer").status, StatusCode::OK);
    }
    advance(Duration::from_secs(120)).await;
    world.merge.set(Fault::Status(500));
    world.get(SYNC_STATUS).await;
    let counts = metrics(&world).totals().counts;
    assert_eq!((counts.misses, counts.collapsed, counts.stale), (1, 2, 1));
    let acme = account(&world, "acme");
    assert_eq!((acme.calls, acme.failures, acme.last.is_failing), (2, 1, true));
    assert_eq!(acme.last.error.map(|error| error.ended), Some(CallEnd::Answered(StatusCode::INTERNAL_SERVER_ERROR)));
    assert_eq!(acme.last.success.map(|(ago, _)| ago.as_secs()), Some(120));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_a_call_that_was_not_saved() {
    let world = World::new();
    let saved = || metrics(&world).totals().calls_saved;
    world.get(SYNC_STATUS).await;
    assert_eq!(saved(), 0);
    for call in 2..4_u64 {
        advance(Duration::from_secs(61)).await;
        assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=revalidating"));
        world.settle().await;
        assert_eq!(saved(), call - 2, "the stale page came with a call");
        world.get(SYNC_STATUS).await;
        assert_eq!(saved(), call - 1);
    }
    world.merge.set(Fault::Status(500));
    world.send(with(SYNC_STATUS, &[("x-account-token", "globex")])).await;
    assert_eq!(saved(), 2, "a request that fails has saved nothing");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_charged_to_who_began_it_and_a_refresh_too() {
    let more = [consumer("one", "accounts = ['*']"), consumer("other", "accounts = ['*']")].concat();
    let world = World::with(merge(), &more);
    let get = async |key: &str| {
        let authorization = format!("Bearer {key}");
        let got = world.get_with(SYNC_STATUS, &[("authorization", &authorization)]).await;
        world.settle().await;
        got.cache().to_owned()
    };
    let charged = || {
        let consumers = metrics(&world).consumers();
        consumers.iter().map(|consumer| (consumer.counts.misses, consumer.calls)).collect::<Vec<_>>()
    };
    get("one").await;
    get("other").await;
    assert_eq!(charged(), [(1, 1), (0, 0), (0, 0)]);
    advance(Duration::from_secs(61)).await;
    assert!(get("other").await.ends_with("detail=revalidating"));
    assert_eq!(charged(), [(1, 1), (0, 1), (0, 0)]);
    assert_eq!(world.merge.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn consumers_are_told_apart_and_are_there_before_they_ask() {
    let teams = consumer("one", "accounts = ['*']") + &consumer("other", "accounts = ['*']\nquota = '1/min'");
    let world = World::with(merge(), &teams);
    let of = |name: &str| -> Counts {
        let consumers = metrics(&world).consumers();
        let found = consumers.into_iter().find(|consumer| consumer.name.as_deref() == Some(name));
        found.expect("a consumer with this name").counts
    };
    assert_eq!(of("one"), Counts::default());
    for _ in 0..2 {
        world.get_with(SYNC_STATUS, &[("authorization", "Bearer other")]).await;
    }
    world.send(ask(SYNC_STATUS)).await;
    assert_eq!(of("one").requests, 0);
    assert_eq!((of("other").misses, of("other").refused_by), (1, [("quota-exceeded", 1)].into()));
    let consumers = metrics(&world).consumers();
    let nobody = consumers.last().expect("those that nobody made");
    assert_eq!((nobody.name.as_deref(), nobody.counts.refused), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn quantiles_are_of_the_last_minute() {
    let world = World::new();
    world.merge.set(Fault::Delay(Duration::from_millis(700)));
    world.get(SYNC_STATUS).await;
    world.merge.clear();
    let slow = metrics(&world).quantile(Kind::Miss, 0.99).expect("there was a miss");
    assert!(slow > Duration::from_millis(500) && slow <= Duration::from_secs(1), "{slow:?}");
    assert!(metrics(&world).quantile(Kind::Upstream, 0.5).expect("there was a call") > Duration::from_millis(500));
    assert_eq!(metrics(&world).quantile(Kind::Hit, 0.99), None);
    for _ in 0..61 {
        metrics(&world).tick();
    }
    assert_eq!(metrics(&world).quantile(Kind::Miss, 0.99), None, "it was long ago");
    assert_eq!(metrics(&world).durations(Kind::Miss).count(), 1, "and is not forgotten");
}

#[tokio::test(start_paused = true)]
async fn what_was_held_or_waited_for_is_not_among_the_times_of_hits() {
    let world = World::with(merge(), "[cache.ttl]\nsettled = '10min'");
    let first = world.get(SYNC_STATUS).await;
    world.get(SYNC_STATUS).await;
    let counts = || [Kind::Hit, Kind::Miss].map(|kind| metrics(&world).durations(kind).count());
    assert_eq!(counts(), [1, 1]);
    let held = [("if-none-match", first.header("etag")), ("prefer", "wait=60")];
    let got = world.get_with(SYNC_STATUS, &held).await;
    assert_eq!((got.status.as_u16(), got.header("preference-applied")), (304, "wait=60"));
    assert_eq!(counts(), [1, 1], "a minute on purpose");
    tokio::time::advance(Duration::from_secs(700)).await;
    world.merge.set([Fault::Delay(Duration::from_secs(2)), Fault::Status(503)]);
    let stale = world.get(SYNC_STATUS).await;
    assert!(stale.cache().ends_with("detail=upstream-error"), "{}", stale.cache());
    assert_eq!(counts(), [1, 2], "it was waited for");
    let again = world.get(SYNC_STATUS).await;
    assert!(again.cache().ends_with("detail=upstream-error"), "{}", again.cache());
    assert_eq!(counts(), [2, 2], "that was at once");
    assert!(metrics(&world).quantile(Kind::Hit, 0.99).is_some_and(|time| time < Duration::from_millis(100)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_budget_refuses_is_counted_for_its_account_and_not_as_a_call() {
    let budget = "[upstreams.us.budget]\nper_account = '5/h'\nmax_wait = '10ms'";
    let world = World::with(merge(), budget);
    for cursor in 0..4 {
        world.get(&format!("{SYNC_STATUS}?page_size={}", cursor + 1)).await;
    }
    let acme = account(&world, "acme");
    assert_eq!(acme.calls, world.merge.calls() as u64);
    assert_eq!(acme.refused, 4 - acme.calls);
    assert!(acme.refused > 0, "{acme:?}");
}
