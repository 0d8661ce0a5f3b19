//! Routes with `cache = "http"`: purges and changes while a call is under way.

use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};

use crate::origin::{FRESH, Site, assert_served, pass, pipe, reply, settle, streamed};
use crate::support::{Got, ask, method, with};

/// The body of the answer to a request with `X-Late` comes once the sender says so; all others are answered at once.
fn site_with_a_late_answer() -> (Site, watch::Sender<bool>) {
    let (site, open) = (Site::http(), watch::Sender::new(false));
    let gate = open.subscribe();
    site.script(move |head, _| {
        if !head.headers.contains_key("x-late") {
            return Ok(reply(200, &[FRESH], "new"));
        }
        let (sender, body) = pipe();
        let mut gate = gate.clone();
        tokio::spawn(async move {
            gate.wait_for(|open| *open).await.expect("it is told");
            sender.send("late").await.expect("it is read");
        });
        Ok(streamed(200, &[FRESH], body.body()))
    });
    (site, open)
}

fn late() -> http::Request<http_body_util::Full<bytes::Bytes>> {
    with("/x/a", &[("x-account-token", "acme"), ("x-late", "1")])
}

fn purge(site: &Site) {
    site.app.ground().http.responses.purge_all(false, Instant::now());
}

async fn a_moment() {
    advance(Duration::from_millis(10)).await;
}

/// A site with a call under way for what is late, from before a change or a purge.
async fn site_with_an_outdated_call(by_change: bool) -> (Site, watch::Sender<bool>, JoinHandle<Got>) {
    let (site, open) = site_with_a_late_answer();
    let before = site.spawn(late());
    site.arrived(1).await;
    a_moment().await;
    if by_change {
        site.send(method(Method::POST, ask("/x/a"))).await;
    } else {
        purge(&site);
    }
    a_moment().await;
    (site, open, before)
}

#[tokio::test(start_paused = true)]
async fn a_purge_during_a_call_costs_no_call_for_each_who_waits() {
    let site = Site::http();
    site.answers(200, &[FRESH], "body");
    site.hold();
    let all: Vec<_> = (0..50).map(|_| site.spawn(ask("/x/a"))).collect();
    site.arrived(1).await;
    settle().await;
    purge(&site);
    site.release();
    for one in all {
        assert_eq!(one.await.expect("no panic").body, "body");
    }
    assert_eq!(site.calls(), 1);
    a_moment().await;
    assert_eq!(
        site.get("/x/a").await.cache(),
        "fwd=stale; fwd-status=200; stored; ttl=60",
        "it was stale from the start"
    );
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_purge_or_a_change_does_not_wait_for_a_call_from_before_it() {
    for by_change in [false, true] {
        let (site, open, before) = site_with_an_outdated_call(by_change).await;
        let calls = site.calls();
        let after = site.spawn(late());
        site.arrived(calls + 1).await;
        let beside = site.spawn(late());
        settle().await;
        assert_eq!(site.calls(), calls + 1, "those after it share one again");
        open.send_replace(true);
        for got in [before, after, beside] {
            assert_eq!(got.await.expect("no panic").body, "late");
        }
        assert_eq!(site.get("/x/a").await.cache(), "hit; ttl=60");
        site.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_late_drops_nothing_newer() {
    for by_change in [false, true] {
        let (site, open, before) = site_with_an_outdated_call(by_change).await;
        assert_eq!(site.get("/x/a").await.body, "new");
        open.send_replace(true);
        assert_eq!(before.await.expect("no panic").body, "late");
        let got = site.get("/x/a").await;
        assert_eq!((&*got.body, got.cache()), (&b"new"[..], "hit; ttl=60"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_outdated_by_a_later_call_is_shared_with_those_who_waited_for_it() {
    let (site, open) = site_with_a_late_answer();
    let all: Vec<_> = (0..20).map(|_| site.spawn(late())).collect();
    site.arrived(1).await;
    settle().await;
    a_moment().await;
    assert_eq!(site.get("/x/a").await.body, "new");
    open.send_replace(true);
    for one in all {
        assert_eq!(one.await.expect("no panic").body, "late");
    }
    assert_eq!(site.calls(), 2);
    assert_eq!(site.get("/x/a").await.body, "new");
}

#[tokio::test(start_paused = true)]
async fn a_soft_purge_during_a_call_leaves_what_stands_in_for_a_failure() {
    let site = Site::http();
    site.answers(200, &[("cache-control", "max-age=5, stale-while-revalidate=60, stale-if-error=3600")], "good");
    site.get("/x/a").await;
    pass(10).await;
    site.hold();
    assert_eq!(site.get("/x/a").await.cache(), "hit; ttl=-5; detail=revalidating");
    site.arrived(2).await;
    a_moment().await;
    purge(&site);
    a_moment().await;
    site.release();
    settle().await;
    site.answers(503, &[], "down");
    let got = site.get("/x/a").await;
    assert!(got.status == 200 && got.cache().ends_with("detail=upstream-error"), "{}", got.cache());
    assert_eq!(site.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_who_purges_or_insists_has_it_tried_again_at_once() {
    for purges in [false, true] {
        let site = Site::http();
        site.answers(200, &[("cache-control", "max-age=5, stale-if-error=3600")], "good");
        site.get("/x/a").await;
        pass(10).await;
        site.answers(503, &[("retry-after", "300")], "down");
        for _ in 0..2 {
            assert_served(&site.get("/x/a").await, "good", "hit; ttl=-5; detail=upstream-error");
        }
        assert_eq!(site.calls(), 2, "the second has the upstream left alone");
        site.answers(200, &[FRESH], "back");
        let got = if purges {
            purge(&site);
            a_moment().await;
            site.get("/x/a").await
        } else {
            site.get_with("/x/a", &[("cache-control", "no-cache")]).await
        };
        let forward = if purges { "stale" } else { "request" };
        assert_served(&got, "back", &format!("fwd={forward}; fwd-status=200; stored; ttl=60"));
    }
}

#[tokio::test(start_paused = true)]
async fn of_what_is_purged_nothing_is_left() {
    let site = Site::http();
    site.answers(200, &[("cache-control", "max-age=60, stale-if-error=3600")], "good");
    site.get("/x/a").await;
    purge(&site);
    a_moment().await;
    site.answers(503, &[], "down");
    let got = site.get("/x/a").await;
    assert_served(&got, "good", "hit; ttl=0; detail=upstream-error");
    assert_eq!(got.header("cache-control"), "max-age=0", "nor for the client's own cache");
}
