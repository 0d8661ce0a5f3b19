//! Methods that may change something, resyncs among them: what is known is dropped, whoever has left and whatever was lost.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use merge_sync_proxy::demo::fault::Fault;
use tokio::time::advance;

use crate::origin::{FRESH, Site, reply, settle};
use crate::support::{RESYNC, SYNC_STATUS, World, ask, consumer, merge, method, with};

/// A route that covers resyncs without naming them.
const HRIS: &str = "
[[routes]]
path = '/api/hris/*'
methods = ['POST']
cache = 'http'
";

#[tokio::test(start_paused = true)]
async fn what_passes_and_changes_something_invalidates() {
    let site = Site::http();
    let fill = async || {
        site.answers(200, &[FRESH], "old");
        for target in ["/x/a", "/x/b", "/x/c?d=1", "/x/e"] {
            site.get(target).await;
        }
    };
    let held = async |target: &str| site.get_with(target, &[("cache-control", "only-if-cached")]).await.status == 200;
    fill().await;
    site.answers(500, &[], "no");
    let got = site.send(method(Method::POST, ask("/x/a"))).await;
    assert_eq!(got.cache(), "fwd=method; fwd-status=500");
    assert!(held("/x/a").await, "a failure changes nothing");
    let elsewhere = ("content-location", "https://elsewhere.test/base/x/e");
    site.answers(201, &[("location", "/base/x/b"), elsewhere], "made");
    site.send(method(Method::PUT, ask("/x/a"))).await;
    assert!(!held("/x/a").await && !held("/x/b").await && held("/x/c?d=1").await && held("/x/e").await);
    site.answers(204, &[("content-location", "http://origin.test/base/x/c?d=1")], "");
    site.send(method(Method::DELETE, ask("/x/e"))).await;
    assert!(!held("/x/c?d=1").await && !held("/x/e").await);
}

/// Asks for what is changed before that is answered.
async fn ask_before_a_change(site: &Site) {
    site.script(|head, _| Ok(reply(200, &[FRESH], if head.method == "GET" { "[]" } else { "{}" })));
    site.hold();
    let late = site.spawn(ask("/x/a"));
    site.arrived(1).await;
    let change = site.spawn(method(Method::POST, ask("/x/a")));
    site.arrived(2).await;
    site.release();
    let (late, _) = (late.await.expect("no panic"), change.await.expect("no panic"));
    assert_eq!(late.body, "[]");
}

#[tokio::test(start_paused = true)]
async fn a_response_from_before_an_invalidation_does_not_come_in_after_it() {
    let site = Site::http();
    ask_before_a_change(&site).await;
    let before = site.calls();
    site.get("/x/a").await;
    assert_eq!(site.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_resync_must_be_granted_and_makes_that_account_s_pages_stale() {
    let hash = merge_sync_proxy::door::consumer_key::hash;
    let more = format!(
        "{RESYNC}{HRIS}[[consumers]]\nname = 'may'\nkey_sha256 = '{}'\naccounts = ['*']\nresync = true\n\
         [[consumers]]\nname = 'may-not'\nkey_sha256 = '{}'\naccounts = ['*']",
        hash("may"),
        hash("may-not"),
    );
    let world = World::with(merge(), &more);
    let send = async |verb: Method, target: &str, account: &str, key: &str| {
        let fields = [("x-account-token", account), ("authorization", &format!("Bearer {key}"))];
        world.send(method(verb, with(target, &fields))).await
    };
    for account in ["acme", "globex"] {
        assert_eq!(send(Method::GET, SYNC_STATUS, account, "may").await.status, 200, "{account}");
    }
    let resync = format!("{SYNC_STATUS}/resync");
    for target in [&*resync, "/api/hris/v1/sync%2Dstatus/resync"] {
        let refused = send(Method::POST, target, "acme", "may-not").await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (403, "resync-not-allowed"));
    }
    assert_eq!(world.merge.calls(), 2);
    assert!(send(Method::GET, SYNC_STATUS, "acme", "may").await.cache().starts_with("hit"));

    let done = send(Method::POST, &resync, "acme", "may").await;
    assert!(done.status.is_success(), "{done:?}");
    assert!(done.cache().starts_with("fwd=bypass"), "{}", done.cache());
    assert!(send(Method::GET, SYNC_STATUS, "acme", "may").await.cache().starts_with("fwd=stale"));
    assert!(send(Method::GET, SYNC_STATUS, "globex", "may").await.cache().starts_with("hit"));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_resync_that_failed_changes_nothing() {
    let hash = merge_sync_proxy::door::consumer_key::hash("may");
    let more = format!("{RESYNC}[[consumers]]\nname = 'may'\nkey_sha256 = '{hash}'\naccounts = ['*']\nresync = true");
    let site = Site::new(&more);
    let send = async |verb: Method, target: &str| {
        let fields = [("x-account-token", "acme"), ("authorization", "Bearer may")];
        site.send(method(verb, with(target, &fields))).await
    };
    site.answers(200, &[], "{\"results\":[]}");
    assert_eq!(send(Method::GET, SYNC_STATUS).await.status, 200);
    site.answers(500, &[], "no");
    assert_eq!(send(Method::POST, &format!("{SYNC_STATUS}/resync")).await.status, 500);
    assert!(send(Method::GET, SYNC_STATUS).await.cache().starts_with("hit"));
    assert_eq!(site.calls(), 2);
}

/// A GET that is stored, and unsafe methods that pass by a route of their own.
const TWO_ROUTES: &str = "
[[routes]]
path = '/x/*'
cache = 'http'
[[routes]]
path = '/x/*'
methods = ['POST', 'DELETE']
cache = 'off'
";

/// Answers GET with `old` to the first call and with `new` to the others, and changes with 200.
fn site_that_changes(site: Site) -> Site {
    site.script(|head, calls| Ok(reply(200, &[FRESH], if head.method == "GET" && calls == 0 { "old" } else { "new" })));
    site
}

#[tokio::test(start_paused = true)]
async fn a_change_that_passes_by_an_off_route_invalidates_what_another_route_stores() {
    for verb in [Method::POST, Method::DELETE] {
        let site = site_that_changes(Site::new(TWO_ROUTES));
        assert_eq!(site.get("/x/a?b=1").await.body, "old");
        let got = site.send(method(verb, ask("/x/a?b=1"))).await;
        assert_eq!((got.status.as_u16(), got.cache()), (200, "fwd=bypass; fwd-status=200"));
        assert_eq!(site.get("/x/a?b=1").await.body, "new");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_makes_stale_what_a_route_stores_for_a_fixed_time() {
    let site = Site::new(&TWO_ROUTES.replace("'http'", "'1h'"));
    site.script(|head, _| {
        let is_change = head.method == "POST";
        Ok(reply(200, &[("location", "/base/x/b")], if is_change { "{}" } else { "[]" }))
    });
    for target in ["/x/a?c=1", "/x/a", "/x/b", "/x/c"] {
        site.get(target).await;
        assert!(site.get(target).await.cache().starts_with("hit"));
    }
    advance(Duration::from_millis(1)).await;
    site.send(method(Method::POST, ask("/x/a?c=1"))).await;
    advance(Duration::from_millis(1)).await;
    for (target, changed) in [("/x/a?c=1", true), ("/x/b", true), ("/x/c", false), ("/x/a", false)] {
        let cache = site.get(target).await.cache().to_owned();
        assert_eq!(cache.starts_with("fwd=stale; fwd-status=200"), changed, "{target}: {cache}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_from_before_a_change_is_not_fresh_after_it() {
    let site = Site::new(&TWO_ROUTES.replace("'http'", "'1h'"));
    ask_before_a_change(&site).await;
    advance(Duration::from_millis(1)).await;
    assert!(site.get("/x/a").await.cache().starts_with("fwd=stale"));
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_caller_leaves_invalidates_all_the_same() {
    for (site, verb) in [(Site::http(), Method::PUT), (Site::new(TWO_ROUTES), Method::POST)] {
        let site = site_that_changes(site);
        assert_eq!(site.get("/x/a").await.body, "old");
        site.hold();
        let change = site.spawn(method(verb, ask("/x/a")));
        site.arrived(2).await;
        change.abort();
        let _ = change.await;
        site.release();
        settle().await;
        assert_eq!(site.get("/x/a").await.body, "new");
        site.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_is_lost_invalidates_and_one_that_was_not_sent_does_not() {
    let held = async |site: &Site| site.get_with("/x/a", &[("cache-control", "only-if-cached")]).await.status == 200;
    let site = Site::http();
    site.answers(200, &[FRESH], "old");
    site.get("/x/a").await;
    site.script(|_, _| Err("closed".into()));
    assert_eq!(site.send(method(Method::PUT, ask("/x/a"))).await.problem(), "upstream-failed");
    assert!(!held(&site).await);

    site.script(|_, _| Ok(reply(200, &[("cache-control", "max-age=600")], "old")));
    site.get("/x/a").await;
    site.hold();
    assert_eq!(site.send(method(Method::PUT, ask("/x/a"))).await.problem(), "upstream-timeout");
    assert!(!held(&site).await);

    let budget = "[upstreams.us.budget]\nper_account = '1/min'\nerrors = 'unlimited'\n";
    let site = Site::route("http", budget);
    site.answers(200, &[FRESH], "old");
    site.get("/x/a").await;
    assert_eq!(site.send(method(Method::PUT, ask("/x/a"))).await.problem(), "budget-exhausted");
    assert!(held(&site).await);
}

fn as_may(target: &str) -> Request<Full<Bytes>> {
    with(target, &[("x-account-token", "acme"), ("authorization", "Bearer may")])
}

/// A world whose consumer `may` spend sync credits, with a page in the store.
async fn world_that_resyncs() -> (World, Request<Full<Bytes>>) {
    let world = World::with(merge(), &format!("{RESYNC}{}", consumer("may", "accounts = ['*']\nresync = true")));
    assert_eq!(world.send(as_may(SYNC_STATUS)).await.status, 200);
    advance(Duration::from_secs(1)).await;
    (world, method(Method::POST, as_may(&format!("{SYNC_STATUS}/resync"))))
}

#[tokio::test(start_paused = true)]
async fn a_resync_whose_caller_leaves_makes_pages_stale_all_the_same() {
    let (world, resync) = world_that_resyncs().await;
    let held = world.merge.hold();
    let caller = {
        let world = world.clone();
        tokio::spawn(async move { world.send(resync).await })
    };
    world.merge.arrived(2).await;
    caller.abort();
    let _ = caller.await;
    held.release();
    settle().await;
    advance(Duration::from_secs(1)).await;
    let got = world.send(as_may(SYNC_STATUS)).await;
    assert!(got.cache().starts_with("fwd=stale"), "{}", got.cache());
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_resync_whose_answer_is_lost_may_have_gone_through() {
    for (fault, status) in [(Fault::Hang, 504), (Fault::ResetBeforeHeaders, 502)] {
        let (world, resync) = world_that_resyncs().await;
        world.merge.script(fault).once();
        assert_eq!(world.send(resync).await.status, status);
        let got = world.send(as_may(SYNC_STATUS)).await;
        assert!(!got.cache().starts_with("hit"), "{}", got.cache());
    }
}
