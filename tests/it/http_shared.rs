//! Routes with `cache = "http"`: who shares a call, and what each has to wait for.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::origin::{FRESH, Site, pass, pipe, reply, settle, streamed};
use crate::support::{Got, ask, consumer, method, with};

fn ask_as(key: &str, target: &str) -> Request<Full<Bytes>> {
    with(target, &[("x-account-token", "acme"), ("authorization", &format!("Bearer {key}"))])
}

/// Consumer `one` has so many places, and `other` as many as it needs.
fn site_with_places(places: usize) -> Site {
    let one = consumer("one", &format!("accounts = ['*']\nmax_in_flight_misses = {places}"));
    Site::route("http", &[one, consumer("other", "accounts = ['*']")].concat())
}

/// A request whose call is held until the site is released; what it gets may be stored.
async fn held(site: &Site, request: Request<Full<Bytes>>) -> JoinHandle<Got> {
    site.answers(200, &[FRESH], "body");
    site.hold();
    let first = site.spawn(request);
    site.arrived(1).await;
    first
}

#[tokio::test(start_paused = true)]
async fn concurrent_misses_make_one_call_where_one_answer_is_for_all() {
    let site = Site::http();
    site.answers(200, &[FRESH], "body");
    let all = join_all((0..50).map(|_| site.get("/x/a"))).await;
    assert_eq!((site.calls(), all.len()), (1, 50));
    assert_eq!(all.iter().filter(|got| got.cache() == "fwd=uri-miss; collapsed").count(), 49);
    // A failure is shared; what is private is not.
    site.answers(503, &[], "down");
    let all = join_all((0..50).map(|_| site.get("/x/b"))).await;
    assert!(all.iter().all(|got| got.body == "down"));
    assert_eq!(site.calls(), 2);
    site.answers(200, &[("cache-control", "private")], "mine");
    join_all((0..5).map(|_| site.get("/x/c"))).await;
    assert_eq!(site.calls(), 7);
    // Others' fields may select another answer.
    site.answers(200, &[FRESH], "body");
    let teams =
        ["a", "b", "a", "b"].map(|team| site.spawn(with("/x/d", &[("x-account-token", "acme"), ("x-team", team)])));
    join_all(teams).await;
    assert_eq!(site.calls(), 9);
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn the_first_may_leave_and_the_others_get_their_answer() {
    let site = Site::http();
    let first = held(&site, ask("/x/a")).await;
    let others: Vec<_> = (0..10).map(|_| site.spawn(ask("/x/a"))).collect();
    tokio::task::yield_now().await;
    first.abort();
    let _ = first.await;
    site.release();
    for other in others {
        assert_eq!(other.await.expect("no panic").body, "body");
    }
    assert_eq!(site.calls(), 1);
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_has_no_place_keeps_no_other_consumer_waiting() {
    let site = site_with_places(1);
    let slow = held(&site, ask_as("one", "/x/slow")).await;
    let without_place = site.spawn(ask_as("one", "/x/a"));
    settle().await;
    let other = site.spawn(ask_as("other", "/x/a"));
    settle().await;
    assert_eq!(site.calls(), 2, "the other consumer's call goes at once");
    site.release();
    for (got, cache) in [
        (slow, "fwd=uri-miss; fwd-status=200; stored; ttl=60"),
        (other, "fwd=uri-miss; fwd-status=200; stored; ttl=60"),
        (without_place, "hit; ttl=60"),
    ] {
        assert_eq!(got.await.expect("no panic").cache(), cache);
    }
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_s_call_takes_a_place_too() {
    let site = site_with_places(2);
    let first = held(&site, ask_as("other", "/x/a")).await;
    let waiting = [(); 2].map(|()| site.spawn(ask_as("one", "/x/a")));
    settle().await;
    let more = site.spawn(ask_as("one", "/x/b"));
    settle().await;
    assert_eq!(site.calls(), 1, "both places are taken");
    // Whoever leaves gives the place back.
    waiting[0].abort();
    site.arrived(2).await;
    site.release();
    for got in [first, more] {
        assert_eq!(got.await.expect("no panic").body, "body");
    }
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_gets_a_place_after_a_failure_has_the_upstream_left_alone_too() {
    let site = site_with_places(1);
    site.answers(200, &[("cache-control", "max-age=5, stale-if-error=600")], "good");
    site.send(ask_as("one", "/x/a")).await;
    pass(10).await;
    let open = watch::Sender::new(false);
    let gate = open.subscribe();
    site.script(move |head, _| {
        if !head.uri.path().ends_with("slow") {
            return Ok(reply(503, &[], "down"));
        }
        let (sender, body) = pipe();
        let mut gate = gate.clone();
        tokio::spawn(async move {
            let _ = gate.wait_for(|open| *open).await;
            drop(sender);
        });
        Ok(streamed(200, &[FRESH], body.body()))
    });
    let slow = site.spawn(ask_as("one", "/x/slow"));
    site.arrived(2).await;
    let waiting = site.spawn(ask_as("one", "/x/a"));
    settle().await;
    assert_eq!(site.send(ask_as("other", "/x/a")).await.body, "good");
    open.send_replace(true);
    assert_eq!(slow.await.expect("no panic").status, 200);
    let got = waiting.await.expect("no panic");
    assert!(got.body == "good" && got.cache().ends_with("detail=upstream-error"), "{}", got.cache());
    assert_eq!(site.calls(), 3, "slow, and one try");
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_refresh_behind_a_stale_answer_needs_no_place() {
    let site = site_with_places(1);
    site.answers(200, &[("cache-control", "max-age=5, stale-while-revalidate=60")], "body");
    site.send(ask_as("one", "/x/a")).await;
    pass(10).await;
    site.hold();
    let _slow = site.spawn(ask_as("one", "/x/slow"));
    site.arrived(2).await;
    assert_eq!(site.send(ask_as("one", "/x/a")).await.cache(), "hit; ttl=-5; detail=revalidating");
    settle().await;
    assert_eq!(site.calls(), 3);
    site.release();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_for_a_turn_a_call_and_a_second() {
    for (cache, verb) in [("http", Method::GET), ("http", Method::PUT), ("off", Method::GET), ("off", Method::POST)] {
        let one = consumer("one", "accounts = ['*']\nmax_in_flight_misses = 1");
        let site = Site::route(cache, &one);
        site.hold();
        let start = Instant::now();
        let all: Vec<_> = (0..3)
            .map(|n| {
                let mut request = method(verb.clone(), ask_as("one", &format!("/x/{n}")));
                if !verb.is_safe() {
                    *request.body_mut() = Full::from("an upload that ends at once");
                }
                site.spawn(request)
            })
            .collect();
        let mut problems = Vec::new();
        for got in all {
            problems.push(got.await.expect("no panic").problem());
        }
        assert_eq!(problems, ["upstream-timeout", "upstream-timeout", "overloaded"], "{verb} {cache}");
        assert_eq!(start.elapsed().as_secs(), 1 + 20 + 1, "{verb} {cache}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_more_time_than_the_first_waits_on_and_what_comes_is_kept() {
    let site = site_with_places(1);
    let _slow = held(&site, ask_as("one", "/x/slow")).await;
    let first = site.spawn(ask_as("one", "/x/a"));
    // The slow one is given up after 16 s, and the first has six left.
    pass(17).await;
    assert_eq!(site.calls(), 2);
    let other = site.spawn(ask_as("other", "/x/a"));
    assert_eq!(first.await.expect("no panic").problem(), "upstream-timeout");
    pass(1).await;
    site.release();
    assert_eq!(other.await.expect("no panic").cache(), "fwd=uri-miss; collapsed");
    assert_eq!(
        (site.get_with("/x/a", &[("authorization", "Bearer other")]).await.cache(), site.calls()),
        ("hit; ttl=53", 2)
    );
}

#[tokio::test(start_paused = true)]
async fn whether_a_whole_has_changed_is_asked_once_whatever_parts_are_asked_for() {
    for stale in ["max-age=5", "max-age=5, stale-while-revalidate=60"] {
        let site = Site::http();
        site.script(move |_, _| Ok(reply(200, &[("cache-control", stale)], "0123456789")));
        site.get("/x/a").await;
        pass(10).await;
        site.hold();
        let parts = ["bytes=0-1", "bytes=2-3", "bytes=-2"];
        let fields = parts.map(|range| [("x-account-token", "acme"), ("range", range)]);
        let all = fields.map(|fields| site.spawn(with("/x/a", &fields)));
        let whole = site.spawn(ask("/x/a"));
        settle().await;
        assert_eq!(site.calls(), 2, "{stale}");
        site.release();
        for (one, part) in all.into_iter().zip(["01", "23", "89"]) {
            let got = one.await.expect("no panic");
            assert_eq!((got.status.as_u16(), &*got.body), (206, part.as_bytes()));
        }
        assert_eq!(whole.await.expect("no panic").body, "0123456789");
        settle().await;
        assert_eq!(site.calls(), 2, "{stale}");
        site.assert_idle();
    }
}
