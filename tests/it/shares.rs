//! Consumers who share a page: what one of them has used up holds no other back.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use merge_sync_proxy::demo::fault::Fault;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use crate::origin::settle;
use crate::support::{Got, SYNC_STATUS, World, consumer, merge, with};

type Ask = Request<Full<bytes::Bytes>>;

fn ask_as(key: &str, account: &str, more: &[(&str, &str)]) -> Ask {
    let bearer = format!("Bearer {key}");
    with(SYNC_STATUS, &[&[("authorization", &*bearer), ("x-account-token", account)], more].concat())
}

fn begin(world: &World, request: Ask) -> JoinHandle<Got> {
    let world = world.clone();
    tokio::spawn(async move { world.send(request).await })
}

/// The consumers `bad` and `good`. The account `globex` is well, so shares of the failure budget are kept.
async fn world(more: &str) -> World {
    let teams = ["bad", "good"].map(|name| consumer(name, "accounts = ['*']\nraw_tokens = true")).concat();
    let world = World::with(merge(), &format!("[upstreams.us.budget]\nmax_wait = '1s'\n{more}{teams}"));
    assert_eq!(world.send(ask_as("good", "globex", &[])).await.status, 200);
    world
}

#[tokio::test(start_paused = true)]
async fn who_joins_the_fetch_of_one_who_is_held_back_has_one_of_its_own() {
    for route in ["", "[[routes]]\npath = '/api/*'\ncache = 'http'\n"] {
        let world = world(route).await;
        world.merge.script(Fault::Hang).times(4);
        let hanging: Vec<_> = (0..4).map(|n| begin(&world, ask_as("bad", &format!("wrong-token-{n}"), &[]))).collect();
        world.merge.arrived(5).await;
        let bad = begin(&world, ask_as("bad", "acme", &[]));
        settle().await;
        let good = begin(&world, ask_as("good", "acme", &[]));
        assert_eq!(bad.await.expect("no panic").problem(), "budget-exhausted", "{route}");
        assert_eq!(good.await.expect("no panic").status, 200, "{route}");
        hanging.iter().for_each(JoinHandle::abort);
    }
}

/// A page of acme that is stale, of which a call has failed since, and four failures of `bad`.
async fn stale_page_and_failures(world: &World) {
    assert_eq!(world.send(ask_as("good", "acme", &[])).await.status, 200);
    advance(Duration::from_secs(100)).await;
    world.merge.script(Fault::Status(500)).only("acme").once();
    assert!(world.send(ask_as("good", "acme", &[])).await.cache().ends_with("detail=upstream-error"));
    // Longer than the page is left alone for that.
    advance(Duration::from_secs(2)).await;
    for n in 0..4 {
        assert_eq!(world.send(ask_as("bad", &format!("wrong-token-{n}"), &[])).await.status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstream_is_not_left_alone_by_all_because_one_is_held_back() {
    let world = world("").await;
    stale_page_and_failures(&world).await;
    assert!(world.send(ask_as("bad", "acme", &[])).await.cache().ends_with("detail=upstream-error"));
    let good = world.send(ask_as("good", "acme", &[])).await;
    assert!(good.cache().starts_with("fwd=stale; fwd-status=200"), "{}", good.cache());
}

#[tokio::test(start_paused = true)]
async fn a_page_stays_fresh_for_all_who_follow_it_although_one_of_them_is_held_back() {
    let world = world("[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = '5s'\n").await;
    let tag = world.send(ask_as("good", "acme", &[])).await.header("etag").to_owned();
    let follow = |key| begin(&world, ask_as(key, "acme", &[("prefer", "wait=60"), ("if-none-match", &tag)]));
    let bad = follow("bad");
    settle().await;
    let good = follow("good");
    settle().await;
    assert_eq!(world.app.ground().follows.count(), 2);
    world.merge.script(Fault::Status(500)).only("acme").once();
    world.merge.start_sync("acme");
    // Whatever `bad` asks for fails all the time.
    let failing = tokio::spawn({
        let world = world.clone();
        async move {
            for n in 0.. {
                world.send(ask_as("bad", &format!("wrong-token-{n}"), &[])).await;
                sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let began = tokio::time::Instant::now();
    for one in [bad, good] {
        assert_eq!(one.await.expect("no panic").status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    failing.abort();
}
