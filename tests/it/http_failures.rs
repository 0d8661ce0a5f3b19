//! Routes with `cache = "http"`: answers that fail, are cut short, or do not fit what was asked.

use http::Method;
use tokio::time::Instant;

use crate::origin::{FRESH, Site, assert_served, pass, pipe, reply, settle, streamed};
use crate::support::{ask, method, with};

/// A site whose stored `/x/a` is stale, and may be served for ten minutes if there is none newer to be had.
async fn site_with_a_stale_page() -> Site {
    let site = Site::http();
    site.answers(200, &[("cache-control", "max-age=5, stale-if-error=600")], "good");
    site.get("/x/a").await;
    pass(10).await;
    site
}

#[tokio::test(start_paused = true)]
async fn stale_if_error_stands_in_and_leaves_the_upstream_alone() {
    let site = site_with_a_stale_page().await;
    site.answers(503, &[], "down");
    for _ in 0..10 {
        assert_served(&site.get("/x/a").await, "good", "hit; ttl=-5; detail=upstream-error");
    }
    assert_eq!(site.calls(), 2, "one try, then a pause");
    site.script(|_, _| Err("closed".into()));
    let start = Instant::now();
    for _ in 0..300 {
        assert!(site.get("/x/a").await.cache().ends_with("detail=upstream-error"));
        pass(1).await;
    }
    assert!(site.calls() < 50, "{} calls in {:?}", site.calls(), start.elapsed());
    pass(60).await;
    site.answers(200, &[FRESH], "back");
    assert_eq!(site.get("/x/a").await.body, "back");

    // Without leave nothing stale is served, and never against a directive.
    for line in ["max-age=5", "max-age=5, must-revalidate, stale-if-error=600", "s-maxage=5, stale-if-error=600"] {
        site.answers(200, &[("cache-control", line)], "good");
        site.get("/x/b").await;
        pass(10).await;
        site.script(|_, _| Err("closed".into()));
        assert_eq!(site.get("/x/b").await.problem(), "upstream-failed", "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_304_that_nobody_asked_for_is_no_answer() {
    let site = Site::http();
    site.answers(304, &[], "");
    for verb in [Method::GET, Method::HEAD] {
        let conditional = with("/x/a", &[("x-account-token", "acme"), ("if-none-match", "\"a\"")]);
        for request in [ask("/x/a"), conditional] {
            let got = site.send(method(verb.clone(), request)).await;
            assert_eq!((got.status.as_u16(), got.header("content-type")), (502, "application/problem+json"), "{verb}");
        }
    }
    // Nor does it renew what has no validator to ask about.
    site.answers(200, &[("cache-control", "max-age=5")], "old");
    site.get("/x/b").await;
    pass(10).await;
    site.answers(304, &[FRESH], "");
    assert_eq!(site.get("/x/b").await.problem(), "upstream-failed");
    assert_eq!(site.sent("if-none-match"), "");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_passes_and_what_is_cut_short_does_not() {
    let site = Site::new("[[routes]]\npath = '/x/*'\ncache = 'http'\n[cache]\nmax_page_bytes = '1KiB'");
    let large = "0123456789abcdef".repeat(100);
    let whole: &'static str = Box::leak(large.into_boxed_str());
    site.script(move |_, _| {
        let (sender, body) = pipe();
        tokio::spawn(async move {
            for at in (0..whole.len()).step_by(100) {
                let _ = sender.send(&whole[at..at + 100]).await;
            }
        });
        Ok(streamed(200, &[FRESH], body.body()))
    });
    for _ in 0..2 {
        let got = site.get("/x/a").await;
        assert_served(&got, whole, "fwd=uri-miss; fwd-status=200");
    }
    assert_eq!(site.calls(), 2);
    site.script(|_, _| {
        let (sender, body) = pipe();
        sender.try_send("half").expect("room");
        Ok(streamed(200, &[FRESH], body.then_breaks().body()))
    });
    assert_eq!(site.get("/x/b").await.problem(), "upstream-failed");
    site.answers(200, &[FRESH], "whole");
    assert_eq!(site.get("/x/b").await.body, "whole");
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_takes_the_place_of_what_is_not() {
    let large: &'static str = Box::leak(format!("{{{:2000}}}", "").into_boxed_str());
    for (cache, fields) in [
        ("http", [("cache-control", "max-age=5, stale-while-revalidate=600")]),
        ("5s", [("content-type", "application/json")]),
    ] {
        let stale = "[cache]\nmax_page_bytes = '1KiB'\n[cache.stale]\nwhile_revalidate = '10min'";
        let site = Site::new(&format!("[[routes]]\npath = '/x/*'\ncache = '{cache}'\n{stale}"));
        for insists in [true, false] {
            site.script(move |_, _| Ok(reply(200, &fields, "{}")));
            assert_eq!(site.get_with("/x/a", &[("cache-control", "no-cache")]).await.body, "{}");
            site.script(move |_, _| Ok(reply(200, &fields, large)));
            if insists {
                assert_eq!(site.get_with("/x/a", &[("cache-control", "no-cache")]).await.body, large);
            } else {
                pass(10).await;
                assert_served(&site.get("/x/a").await, "{}", "hit; ttl=-5; detail=revalidating");
                settle().await;
            }
            assert_served(&site.get("/x/a").await, large, "fwd=uri-miss; fwd-status=200");
        }
        site.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn stale_if_error_covers_what_breaks_off_or_stops_and_notes_the_failure() {
    for breaks_off in [true, false] {
        let site = site_with_a_stale_page().await;
        site.script(move |_, _| {
            let (sender, body) = pipe();
            sender.try_send("half").expect("room");
            if breaks_off {
                return Ok(streamed(200, &[FRESH], body.then_breaks().body()));
            }
            tokio::spawn(async move { sender.closed().await });
            Ok(streamed(200, &[FRESH], body.body()))
        });
        let got = site.get("/x/a").await;
        assert!(got.body == "good" && got.cache().ends_with("detail=upstream-error"), "{}", got.cache());
        assert_eq!(site.get("/x/a").await.body, "good");
        assert_eq!(site.calls(), 2, "one try, then a pause");
        site.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_answered_as_get_would_be() {
    let site = Site::http();
    let head = || site.spawn(method(Method::HEAD, ask("/x/a")));
    site.answers(200, &[("cache-control", "max-age=5, stale-if-error=600"), ("etag", "\"a\"")], "body");
    let all: Vec<_> = (0..50).map(|_| head()).collect();
    for got in all {
        let got = got.await.expect("no panic");
        assert_eq!((got.status.as_u16(), got.header("content-length"), got.body.len()), (200, "4", 0));
    }
    assert_eq!(site.calls(), 1, "they share a call");
    assert_served(&site.get("/x/a").await, "body", "hit; ttl=5");
    pass(10).await;
    site.answers(503, &[], "down");
    for _ in 0..2 {
        let got = head().await.expect("no panic");
        assert_served(&got, "", "hit; ttl=-5; detail=upstream-error");
    }
    assert_eq!(site.calls(), 2, "one try, then a pause");
    pass(60).await;
    site.answers(304, &[FRESH, ("etag", "\"a\"")], "");
    assert_eq!(head().await.expect("no panic").cache(), "fwd=stale; fwd-status=304; stored; ttl=60");
    assert_served(&site.get("/x/a").await, "body", "hit; ttl=60");
    // It has no parts (RFC 9110 §14.2).
    for target in ["/x/a", "/x/a?b=c"] {
        let ranged = with(target, &[("x-account-token", "acme"), ("range", "bytes=2-3")]);
        site.answers(200, &[FRESH], "body");
        let got = site.send(method(Method::HEAD, ranged)).await;
        assert_eq!((got.status.as_u16(), got.header("content-length"), got.header("content-range")), (200, "4", ""));
    }
    assert_eq!(site.sent("range"), "");
    // Nor has what has no content a length (RFC 9110 §8.6).
    site.answers(204, &[FRESH], "");
    for _ in 0..2 {
        let got = site.send(method(Method::HEAD, ask("/x/empty"))).await;
        assert!(got.status == 204 && got.names().iter().all(|name| *name != "content-length"), "{:?}", got.headers);
    }
    // What may not be stored has its length too.
    site.answers(200, &[("cache-control", "private"), ("content-length", "4")], "mine");
    let got = site.send(method(Method::HEAD, ask("/x/b"))).await;
    assert_eq!((got.status.as_u16(), got.header("content-length"), got.body.len()), (200, "4", 0));
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_304_that_names_another_response_has_that_fetched_once() {
    for (stored, told, is_another) in [
        ("\"a\"", "\"b\"", true),
        ("W/\"a\"", "W/\"b\"", true),
        ("W/\"a\"", "\"a\"", false),
        ("\"a\"", "W/\"a\"", false),
    ] {
        let site = Site::route(
            "http",
            "[upstreams.us.budget]\nconcurrency = 1\nper_account = 'unlimited'\nerrors = 'unlimited'\n",
        );
        let told = ("etag", told);
        site.answers(200, &[("cache-control", "max-age=5"), ("etag", stored)], "old");
        site.get("/x/a").await;
        pass(10).await;
        site.script(move |head, _| {
            let asks = head.headers.contains_key("if-none-match");
            Ok(if asks { reply(304, &[FRESH, told], "") } else { reply(200, &[FRESH, told], "new") })
        });
        let (body, status, calls) = if is_another { ("new", 200, 3) } else { ("old", 304, 2) };
        assert_served(&site.get("/x/a").await, body, &format!("fwd=stale; fwd-status={status}; stored; ttl=60"));
        assert_served(&site.get("/x/a").await, body, "hit; ttl=60");
        assert_eq!(site.calls(), calls);
        // Should it insist, that is no answer.
        pass(60).await;
        site.answers(304, &[("etag", "\"c\"")], "");
        assert_eq!(site.get("/x/a").await.problem(), "upstream-failed");
        assert_eq!(site.calls(), calls + 2);
        site.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn a_304_that_names_a_tag_is_not_about_a_response_that_has_none() {
    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    for (made, fields, is_another) in [
        (LATER, &[("etag", "\"a\"")][..], true),
        (LATER, &[("etag", "\"a\""), ("last-modified", LATER)], true),
        (CHANGED, &[("etag", "\"a\""), ("last-modified", CHANGED)], true),
        (LATER, &[("etag", "\"a\""), ("last-modified", CHANGED)], false),
        (LATER, &[("etag", "W/\"a\"")], false),
        (LATER, &[], false),
    ] {
        let fields = [fields, &[FRESH]].concat();
        let site = Site::http();
        let first = [("cache-control", "max-age=0"), ("last-modified", CHANGED), ("date", made)];
        site.answers(200, &first, "old");
        site.get("/x/a").await;
        site.script(move |head, _| {
            let asks = head.headers.contains_key("if-modified-since");
            Ok(if asks { reply(304, &fields, "") } else { reply(200, &fields, "new") })
        });
        let got = site.get("/x/a").await;
        assert_eq!(got.body, if is_another { "new" } else { "old" }, "{made}: {}", got.cache());
    }
}
