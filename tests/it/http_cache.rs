//! Routes with `cache = "http"`: a shared cache by RFC 9111, from the upstream's own headers alone.

use http::Method;
use merge_sync_proxy::domain::key::TokenHasher;
use tokio::time::Instant;

use crate::origin::{FRESH, Site, assert_served, counting, pass, reply};
use crate::support::{consumer, method, with};

#[tokio::test(start_paused = true)]
async fn a_response_lives_as_long_as_it_says_and_is_then_confirmed() {
    let site = Site::http();
    site.answers(
        200,
        &[FRESH, ("etag", "\"a\""), ("x-one", "1"), ("age", "10"), ("content-type", "text/plain")],
        "body",
    );
    let got = site.get("/x/a").await;
    assert_served(&got, "body", "fwd=uri-miss; fwd-status=200; stored; ttl=50");
    pass(49).await;
    let got = site.get("/x/a").await;
    assert_served(&got, "body", "hit; ttl=1");
    assert_eq!((got.header("age"), got.header("x-one"), got.header("content-type")), ("59", "1", "text/plain"));
    assert_eq!(got.header("cache-control"), "max-age=60", "the upstream's own");
    pass(1).await;
    site.answers(304, &[FRESH, ("etag", "\"a\""), ("x-one", "2")], "");
    let got = site.get("/x/a").await;
    assert_served(&got, "body", "fwd=stale; fwd-status=304; stored; ttl=60");
    assert_eq!((got.status.as_u16(), got.header("x-one"), got.header("age")), (200, "2", "0"));
    assert_eq!(site.sent("if-none-match"), "\"a\"");
    assert_served(&site.get("/x/a").await, "body", "hit; ttl=60");
    assert_eq!(site.calls(), 2);
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_is_never_reused() {
    let site = Site::http();
    for headers in [
        &[][..],
        &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("cache-control", "private, max-age=60")],
        &[("cache-control", "no-store")],
        &[FRESH, ("vary", "*")],
    ] {
        let before = site.calls();
        site.answers(200, headers, "body");
        for _ in 0..2 {
            assert_eq!(site.get("/x/a").await.status, 200);
        }
        assert_eq!(site.calls(), before + 2, "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn accounts_share_nothing_and_consumers_of_one_do() {
    let site = Site::http();
    site.script(counting(&[FRESH]));
    let ask_as = |account, key| with("/x/a", &[("x-account-token", account), ("authorization", key)]);
    assert_eq!(site.send(ask_as("acme", "Bearer one")).await.body, "0");
    assert_eq!(site.send(ask_as("acme", "Bearer other")).await.body, "0");
    assert_eq!(site.send(ask_as("globex", "Bearer one")).await.body, "1");
    assert_eq!(site.get("/x/a?page=2").await.body, "2");
}

#[tokio::test(start_paused = true)]
async fn variants_are_told_apart_by_the_fields_that_select_them() {
    let site = Site::http();
    site.script(counting(&[FRESH, ("vary", "X-Team"), ("vary", "accept-language")]));
    let ask = async |team: &'static str, language: &'static str| {
        site.get_with("/x/a", &[("x-team", team), ("accept-language", language), ("x-other", team)]).await
    };
    assert_eq!(ask("a", "en, de").await.body, "0");
    let got = ask("b", "en").await;
    assert_served(&got, "1", "fwd=vary-miss; fwd-status=200; stored; ttl=60");
    assert_served(&ask("a", "DE,en").await, "0", "hit; ttl=60");
    assert_served(&ask("b", "en").await, "1", "hit; ttl=60");
    assert_eq!(site.get("/x/a").await.body, "2");
    // Only lists of plain words have neither case nor order.
    site.script(counting(&[FRESH, ("vary", "accept")]));
    let calls = site.calls();
    for accept in ["text/csv;profile=\"A\"", "text/csv;profile=\"a\""] {
        site.get_with("/x/b", &[("accept", accept)]).await;
    }
    assert_eq!(site.calls(), calls + 2);
    // Without the right to send them, all requests are alike.
    let site = Site::route("http", "");
    site.script(counting(&[FRESH, ("vary", "x-team")]));
    for team in ["a", "b"] {
        assert_eq!(site.get_with("/x/a", &[("x-team", team)]).await.body, "0");
    }
}

#[tokio::test(start_paused = true)]
async fn stale_while_revalidate_fetches_once_and_ends() {
    let site = Site::http();
    site.script(counting(&[("cache-control", "max-age=5, stale-while-revalidate=10")]));
    site.get("/x/a").await;
    pass(6).await;
    site.hold();
    for _ in 0..5 {
        assert_served(&site.get("/x/a").await, "0", "hit; ttl=-1; detail=revalidating");
    }
    site.release();
    pass(1).await;
    assert_eq!(site.calls(), 2);
    assert_served(&site.get("/x/a").await, "1", "hit; ttl=4");
    pass(15).await;
    assert_served(&site.get("/x/a").await, "2", "fwd=stale; fwd-status=200; stored; ttl=5");
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn the_client_has_its_say() {
    let site = Site::http();
    let ask = async |line: &str| site.get_with("/x/a", &[("cache-control", line)]).await;
    assert_eq!(ask("only-if-cached").await.problem(), "not-cached");
    assert_eq!(site.calls(), 0);
    site.script(counting(&[FRESH]));
    assert_served(&ask("no-store").await, "0", "fwd=uri-miss; fwd-status=200");
    assert_eq!(site.get("/x/a").await.body, "1");
    assert_served(&ask("no-cache").await, "2", "fwd=request; fwd-status=200; stored; ttl=60");
    pass(10).await;
    assert_eq!(ask("max-age=10").await.body, "2");
    assert_eq!(ask("max-age=9").await.body, "3");
    assert_eq!(ask("min-fresh=61").await.body, "4");
    pass(70).await;
    assert_served(&ask("max-stale=20").await, "4", "hit; ttl=-10");
    assert_eq!(ask("max-stale=5").await.body, "5");
}

#[tokio::test(start_paused = true)]
async fn forced_refreshes_are_counted() {
    let hash = merge_sync_proxy::door::consumer_key::hash("key");
    let consumer =
        format!("[[consumers]]\nname = 'one'\nkey_sha256 = '{hash}'\naccounts = ['*']\nforced_refreshes = '1/min'");
    let site = Site::route("http", &consumer);
    site.script(counting(&[FRESH]));
    let ask =
        async |line: &str| site.get_with("/x/a", &[("authorization", "Bearer key"), ("cache-control", line)]).await;
    ask("").await;
    assert_eq!(ask("no-cache").await.body, "1");
    assert_served(&ask("no-cache").await, "1", "hit; ttl=60; detail=refresh-limited");
}

#[tokio::test(start_paused = true)]
async fn who_insists_pays_only_for_a_call_that_would_not_have_been_made_otherwise() {
    let one = consumer("one", "accounts = ['*']\nforced_refreshes = '1/min'");
    for (line, is_served) in [
        ("max-age=0", false),
        ("no-cache, max-age=60", false),
        ("max-age=0, stale-if-error=60", false),
        ("max-age=60", true),
        ("max-age=0, stale-while-revalidate=60", true),
    ] {
        let site = Site::route("http", &one);
        site.answers(200, &[("cache-control", line), ("etag", "\"a\"")], "body");
        let ask = async || {
            site.get_with("/x/a", &[("authorization", "Bearer one"), ("cache-control", "no-cache")])
                .await
                .cache()
                .to_owned()
        };
        ask().await;
        for _ in 0..2 {
            ask().await;
        }
        let last = ask().await;
        assert_eq!(last.contains("refresh-limited"), is_served, "{line}: {last}");
        assert_eq!(last.starts_with("fwd=stale"), !is_served, "{line}: {last}");
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_for_the_origin_are_held_to_what_a_cache_is_told_and_to_forced_refreshes() {
    let one = consumer("one", "accounts = ['*']\nforced_refreshes = '1/min'");
    let site = Site::route("http", &format!("request_headers = ['*']\n{one}"));
    site.script(counting(&[FRESH, ("etag", "\"a\"")]));
    for condition in [("if-match", "\"a\""), ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")] {
        let ask = async |line: &str| {
            site.get_with("/x/a", &[("authorization", "Bearer one"), condition, ("cache-control", line)]).await
        };
        let calls = site.calls();
        assert_eq!((ask("only-if-cached").await.problem().as_str(), site.calls()), ("not-cached", calls));
        assert_eq!(ask("").await.cache(), "fwd=request; fwd-status=200");
        assert_eq!(site.sent(condition.0), condition.1);
        // Beyond that the origin is not asked for each, but for what all may have.
        ask("").await;
        for line in ["", "no-cache"] {
            assert_eq!(ask(line).await.cache(), "hit; ttl=60; detail=refresh-limited");
        }
        assert_eq!((site.calls(), site.sent(condition.0).as_str()), (calls + 2, ""));
        pass(61).await;
    }
    site.answers(304, &[], "");
    let asked = [("authorization", "Bearer one"), ("if-match", "\"a\"")];
    assert_eq!(
        site.get_with("/x/a", &asked).await.problem(),
        "upstream-failed",
        "nobody has asked whether it has changed"
    );
}

#[tokio::test(start_paused = true)]
async fn conditions_ranges_and_head_are_answered_from_the_store() {
    let site = Site::http();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    site.answers(200, &[FRESH, ("etag", "\"a\""), ("last-modified", date), ("set-cookie", "a=b")], "0123456789");
    let first = site.get_with("/x/a", &[("if-none-match", "\"old\"")]).await;
    assert_eq!((first.status.as_u16(), site.sent("if-none-match").as_str()), (200, ""));
    let ask = async |name, value| site.get_with("/x/a", &[(name, value)]).await;
    let got = ask("if-none-match", "\"x\", W/\"a\"").await;
    assert_eq!((got.status.as_u16(), got.header("etag"), got.body.len()), (304, "\"a\"", 0));
    assert_eq!(ask("if-modified-since", date).await.status, 304);
    assert_eq!(ask("if-none-match", "\"b\"").await.status, 200);
    let got = ask("range", "bytes=2-4").await;
    assert_eq!((got.status.as_u16(), &*got.body, got.header("content-range")), (206, &b"234"[..], "bytes 2-4/10"));
    assert_eq!(ask("range", "bytes=20-").await.status, 416);
    for range in ["bytes=2-4", "bytes=20-"] {
        let got = site.get_with("/x/a", &[("if-none-match", "\"a\""), ("range", range)]).await;
        assert_eq!((got.status.as_u16(), got.header("content-range")), (304, ""), "conditions come first");
    }
    let got = site.send(method(Method::HEAD, crate::support::ask("/x/a"))).await;
    assert_eq!((got.status.as_u16(), got.header("content-length"), got.body.len()), (200, "10", 0));
    assert!(!got.headers.contains_key("set-cookie"));
    assert_eq!(site.calls(), 1);

    // A caller that sent no condition never sees the upstream's 304, and one that did gets its own.
    pass(60).await;
    site.answers(304, &[FRESH, ("etag", "\"a\"")], "");
    assert_eq!(ask("range", "bytes=0-0").await.status, 206);
    assert_eq!(site.sent("range"), "", "what is stored is confirmed whole");
    pass(60).await;
    assert_eq!(ask("if-none-match", "\"a\"").await.status, 304);
    assert_eq!(site.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_range_has_brought_is_for_the_one_who_asked_for_it() {
    for (status, range) in [(206, "bytes=0-0"), (416, "bytes=99-")] {
        let site = Site::http();
        site.script(move |head, _| {
            let ranged = head.headers.contains_key("range");
            Ok(if ranged { reply(status, &[FRESH], "part") } else { reply(200, &[FRESH], "whole") })
        });
        assert_eq!(site.get_with("/x/a", &[("range", range)]).await.status, status);
        assert_served(&site.get("/x/a").await, "whole", "fwd=uri-miss; fwd-status=200; stored; ttl=60");
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_makes_an_account_s_responses_stale() {
    let site = Site::http();
    site.answers(200, &[("cache-control", "max-age=60, stale-if-error=600")], "body");
    for account in ["acme", "globex"] {
        site.send(with("/x/a", &[("x-account-token", account)])).await;
    }
    let responses = &site.app.ground().http.responses;
    assert_eq!(responses.purge_all(false, Instant::now()), 2);
    site.script(|_, _| Err("closed".into()));
    assert!(site.get("/x/a").await.cache().ends_with("detail=upstream-error"), "it still stands in");
    let nobody = TokenHasher::new().hash("nobody");
    assert_eq!(responses.purge_account(nobody, true, Instant::now()), 0);
    assert_eq!(responses.purge_all(true, Instant::now()), 2);
    assert_eq!(site.get("/x/a").await.problem(), "upstream-failed");
}

#[tokio::test(start_paused = true)]
async fn a_page_and_a_response_of_one_path_never_meet() {
    let routes = "[[routes]]\npath = '/api/ats/v1/sync-status'\n[[routes]]\npath = '/x/*'\ncache = 'http'\nupstream_path = '/api/*'";
    let site = Site::new(routes);
    site.answers(200, &[FRESH], "{\"results\":[]}");
    site.get("/api/ats/v1/sync-status").await;
    site.answers(200, &[FRESH], "other");
    assert_eq!(site.get("/x/ats/v1/sync-status").await.body, "other");
    assert_eq!(site.get("/api/ats/v1/sync-status").await.body, "{\"results\":[]}");
    assert_eq!(site.calls(), 2);
}
