//! What is configured counts from the reload on, for those as well who were admitted before: keys, servers, limits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use merge_sync_proxy::app::App;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::merge::Merge;
use merge_sync_proxy::domain::body::ReplyBody;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::upstream::ways::transport;
use parking_lot::Mutex;
use tokio::time::sleep;
use tower::ServiceExt;

use crate::origin::{Site, reply};
use crate::renamed::servers;
use crate::support::{API_KEY, Got, SYNC_STATUS, Wire, World, consumer, merge, soon, text, with};

const FIVE_SECONDS: &str = "[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = '5s'\n";
const NEW_KEY: &str = "another-key";
const INSTANT: Duration = Duration::from_millis(1);

/// A site whose origin knows one key at a time: the first, until [`rotate`].
fn rotating(more: &str) -> (Site, Arc<Mutex<String>>) {
    let site = Site::new(more);
    let right = Arc::new(Mutex::new(API_KEY.to_owned()));
    let known = right.clone();
    site.script(move |call, _| {
        let fits = call.headers["authorization"].to_str().expect("ASCII") == format!("Bearer {}", known.lock());
        Ok(if fits { reply(200, &[], "{\"results\":[]}") } else { reply(401, &[], "{}") })
    });
    let more = more.to_owned();
    site.app.reads(Box::new(move |hasher| {
        let text = text("http://origin.test/base", "", &more).replace(API_KEY, NEW_KEY);
        Config::parse(&text, Path::new("test.toml"), &|_| None, hasher)
    }));
    (site, right)
}

/// The key is another from now on, there and here.
async fn rotate(site: &Site, right: &Mutex<String>) {
    sleep(INSTANT).await;
    *right.lock() = NEW_KEY.into();
    assert_eq!(site.app.reload(Cause::Signal).expect("sound").changed, ["upstreams.us.api_key"]);
    sleep(INSTANT).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_try_goes_with_the_key_that_is_in_force_by_then() {
    let (site, right) = rotating(FIVE_SECONDS);
    let known = right.clone();
    site.script(move |call, before| {
        if before == 0 {
            return Ok(reply(503, &[("retry-after", "2")], "{}"));
        }
        let fits = call.headers["authorization"].to_str().expect("ASCII") == format!("Bearer {}", known.lock());
        Ok(if fits { reply(200, &[], "{\"results\":[]}") } else { reply(401, &[], "{}") })
    });
    let waiting = site.spawn(with(SYNC_STATUS, &[("x-account-token", "acme")]));
    site.arrived(1).await;
    rotate(&site, &right).await;
    assert_eq!(site.get(SYNC_STATUS).await.status, 200);
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(site.sent("authorization"), format!("Bearer {NEW_KEY}"));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_budget_over_a_reload_is_fetched_with_the_new_key() {
    let budget =
        "[upstreams.us.budget]\nper_account = 'unlimited'\nerrors = 'unlimited'\nconcurrency = 1\nmax_wait = '10s'\n";
    for cache in [FIVE_SECONDS, "[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = 'http'\n"] {
        let (site, right) = rotating(&format!("{cache}{budget}"));
        site.hold();
        let first = site.spawn(with(SYNC_STATUS, &[("x-account-token", "globex")]));
        site.arrived(1).await;
        let waiting = site.spawn(with(SYNC_STATUS, &[("x-account-token", "acme")]));
        rotate(&site, &right).await;
        site.release();
        assert_eq!(first.await.expect("no panic").status, 401, "it went out with the key of before");
        assert_eq!(waiting.await.expect("no panic").status, 200);
        assert_eq!(site.get(SYNC_STATUS).await.status, 200);
        let globex = site.send(with(SYNC_STATUS, &[("x-account-token", "globex")])).await;
        assert_eq!(globex.status, 200, "what was refused to the key of before is not kept");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_was_meant_for_another_key_is_forgotten_wherever_it_is_remembered() {
    let budget = "[upstreams.us.budget]\nper_account = 'unlimited'\nerrors = '2/10s'\nmax_wait = '0s'\n";
    let (site, right) = rotating(&format!("{FIVE_SECONDS}{budget}"));
    *right.lock() = NEW_KEY.into();
    for page in 0..2 {
        assert_eq!(site.get(&format!("{SYNC_STATUS}?cursor={page}")).await.status, 401);
    }
    assert_eq!(site.get(SYNC_STATUS).await.status, 401, "no call is left, and this would be the answer to it");
    rotate(&site, &right).await;
    assert_eq!(site.get(SYNC_STATUS).await.problem(), "budget-exhausted");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_comes_after_its_key_was_replaced_is_not_held_against_the_account() {
    let budget = "[upstreams.us.budget]\nper_account = 'unlimited'\nerrors = '1/10s'\nmax_wait = '0s'\n";
    let (site, right) = rotating(&format!("{FIVE_SECONDS}{budget}"));
    site.hold();
    let before = site.spawn(with(SYNC_STATUS, &[("x-account-token", "acme")]));
    site.arrived(1).await;
    rotate(&site, &right).await;
    site.release();
    assert_eq!(before.await.expect("no panic").status, 401);
    assert_eq!(site.get(SYNC_STATUS).await.problem(), "budget-exhausted");
}

#[tokio::test]
async fn a_new_age_of_connections_counts_after_a_reload() {
    let wire = Wire::with(merge(), "").await;
    let base_url = wire.app.config().default_upstream.authority.to_string();
    wire.app.reads(Box::new(move |hasher| {
        let text = text(&format!("http://{base_url}"), "", "");
        let text = text.replace("[upstreams.us.budget]", "max_connection_age = '50ms'\n[upstreams.us.budget]");
        Config::parse(&text, Path::new("test.toml"), &|_| None, hasher)
    }));
    assert_eq!(soon(wire.get(SYNC_STATUS)).await.status, 200);
    let changes = wire.app.reload(Cause::Signal).expect("sound");
    assert_eq!(changes.changed, ["upstreams.us.max_connection_age"]);
    let connections = wire.merge.connections();
    for page in 1..3 {
        sleep(Duration::from_millis(120)).await;
        assert_eq!(soon(wire.get(&format!("{SYNC_STATUS}?page_size={page}"))).await.status, 200);
    }
    assert!(wire.merge.connections() >= connections + 2, "{} connections in all", wire.merge.connections());
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_was_lowered_is_kept_by_those_who_wait_as_well() {
    let more =
        |rate: &str| format!("{FIVE_SECONDS}[upstreams.us.budget]\nper_account = '{rate}'\nmax_wait = '10min'\n");
    let world = World::with(merge().unlimited(), &more("600/min"));
    let lowered = text("http://merge.test", "", &more("4/min"));
    world.app.reads(Box::new(move |hasher| Config::parse(&lowered, Path::new("test.toml"), &|_| None, hasher)));
    let waiting: Vec<_> = (0..200).map(|number| world.begin(&format!("{SYNC_STATUS}?x={number}"))).collect();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.app.reload(Cause::Signal).expect("sound").changed, ["upstreams.us.budget.per_account"]);
    assert!(world.merge.calls() > 100, "{} calls by the rate of before", world.merge.calls());
    world.merge.clear_log();
    sleep(Duration::from_secs(150)).await;
    let most = world.merge.max_in_any_window("acme", Duration::from_secs(60));
    assert!((1..=4).contains(&most), "{most} calls in a minute, of 4");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Asks for a stream of events, and reads the page that it begins with.
async fn follow(app: &App, fields: &[(&str, &str)]) -> Response<ReplyBody> {
    let fields = [&[("x-account-token", "acme"), ("accept", "text/event-stream")], fields].concat();
    let Ok(mut stream) = app.service().oneshot(with(SYNC_STATUS, &fields)).await;
    assert_eq!(stream.status(), 200);
    stream.body_mut().frame().await.expect("a page").expect("it does not break");
    stream
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_page_comes_again_past_the_door_and_has_it_fetched_with_the_new_key() {
    let (site, right) = rotating(&format!("{FIVE_SECONDS}[cache.stale]\nwhile_revalidate = '0s'\n"));
    let mut stream = follow(&site.app, &[]).await;
    rotate(&site, &right).await;
    assert!(stream.body_mut().frame().await.is_none(), "it has ended");
    sleep(Duration::from_secs(8)).await;
    let calls = site.calls();
    follow(&site.app, &[]).await;
    assert_eq!((site.calls(), site.sent("authorization")), (calls + 1, format!("Bearer {NEW_KEY}")));
}

#[tokio::test(start_paused = true)]
async fn who_may_not_ask_any_more_is_not_told_any_more() {
    let team = |accounts: &str| format!("{FIVE_SECONDS}{}", consumer("team", &format!("accounts = {accounts}")));
    let site = Site::new(&team("['*']"));
    site.answers(200, &[], "{\"results\":[]}");
    let mut stream = follow(&site.app, &[("authorization", "Bearer team")]).await;
    let revoked = text("http://origin.test/base", "", &team("[]"));
    site.app.reads(Box::new(move |hasher| Config::parse(&revoked, Path::new("test.toml"), &|_| None, hasher)));
    site.app.reload(Cause::Signal).expect("sound");
    assert!(stream.body_mut().frame().await.is_none(), "it has ended");
    let fields = [("x-account-token", "acme"), ("accept", "text/event-stream"), ("authorization", "Bearer team")];
    assert_eq!(site.send(with(SYNC_STATUS, &fields)).await.problem(), "account-not-allowed");
}

#[tokio::test]
async fn nothing_comes_from_the_server_of_before_however_it_was_asked_for() {
    let [(_, old), (_, new)] = servers().await;
    let more = "[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = '200ms'\n";
    let parse = |url: &str, hasher: &TokenHasher| {
        Config::parse(&text(url, "", more), Path::new("test.toml"), &|_| None, hasher).expect("sound")
    };
    let hasher = TokenHasher::new();
    let app = App::new(parse(&old, &hasher), &hasher).expect("no certificates");
    let stream = follow(&app, &[]).await;
    app.reads(Box::new(move |hasher| Ok(parse(&new, hasher))));
    assert_eq!(app.reload(Cause::Signal).expect("sound").changed, ["upstreams.us.base_url"]);
    for _ in 0..20 {
        let got = soon(get(&app, "acme", SYNC_STATUS)).await;
        assert!(String::from_utf8_lossy(&got.body).contains("new"), "{:?}", got.body);
        sleep(Duration::from_millis(50)).await;
    }
    drop(stream);
}

/// The configuration of two upstreams, each with an account of its own.
fn two_upstreams(hosts: [&str; 2], budgets: [&str; 2], more: &str) -> String {
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = '{}'\napi_key = '{API_KEY}'\n[upstreams.us.budget]\n{}\n\
         [upstreams.other]\nbase_url = '{}'\napi_key = '{API_KEY}'\n[upstreams.other.budget]\n{}\n\
         [[accounts]]\nname = 'acme'\ntoken = 'token-of-acme'\nupstream = 'us'\n\
         [[accounts]]\nname = 'globex'\ntoken = 'token-of-globex'\nupstream = 'other'\n{more}",
        hosts[0], budgets[0], hosts[1], budgets[1]
    )
}

/// A proxy with that configuration, and the one Merge behind both upstreams.
fn behind(text: &str) -> (App, Merge) {
    let merge = merge().no_blocks().build();
    merge.page("acme", "ats", "{\"results\":[]}");
    let hasher = TokenHasher::new();
    let config = Config::parse(text, Path::new("test.toml"), &|_| None, &hasher).expect("sound");
    let transports = [("us".into(), transport(merge.clone())), ("other".into(), transport(merge.clone()))].into();
    (App::with_transports(config, &hasher, transports), merge)
}

async fn get(app: &App, account: &str, target: &str) -> Got {
    let Ok(response) = app.service().oneshot(with(target, &[("x-account-token", account)])).await;
    Got::whole(response).await
}

#[tokio::test(start_paused = true)]
async fn the_budget_of_the_upstream_that_serves_a_route_counts() {
    let route = "[[routes]]\npath = '/api/{category}/v1/sync-status'\nupstream = 'other'\n";
    let budgets = ["per_account = '100/min'", "per_account = '2/min'\nmax_wait = '0s'"];
    let (app, merge) = behind(&two_upstreams(["http://us.test", "http://other.test"], budgets, route));
    for number in 0..10 {
        get(&app, "acme", &format!("{SYNC_STATUS}?cursor={number}")).await;
    }
    assert_eq!(merge.calls(), 1, "the burst of 2/min");
}

#[tokio::test(start_paused = true)]
async fn upstreams_at_one_address_keep_every_rule_for_failures_of_both() {
    const MANY: &str = "per_account = 'unlimited'\nerrors = '10/10s'\nbreaker = 'unlimited'\nmax_wait = '0s'";
    const FEW: &str = "per_account = 'unlimited'\nerrors = '9/s'\nbreaker = 'unlimited'\nmax_wait = '0s'";
    for hosts in [["http://merge.test", "http://merge.test"], ["https://merge.test", "https://Merge.test:443"]] {
        let (app, merge) = behind(&two_upstreams(hosts, [MANY, FEW], ""));
        for account in ["acme", "globex"] {
            merge.revoke(account);
        }
        for number in 0..100 {
            for account in ["acme", "globex"] {
                get(&app, account, &format!("{SYNC_STATUS}?cursor={number}")).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let most = merge.max_failures_in_any_window(Duration::from_secs(10));
        assert!((1..=9).contains(&most), "{most} failures in 10 s");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rule_of_an_upstream_that_was_changed_or_removed_counts_no_more() {
    let budgets = ["per_account = 'unlimited'\nerrors = '10/10s'", "per_account = 'unlimited'\nerrors = '1/h'"];
    let text = two_upstreams(["http://merge.test", "http://merge.test"], budgets, "");
    let changed = text.replace("errors = '1/h'", "errors = '10/10s'");
    let start = text.find("[upstreams.other]").expect("it is there");
    let end = text.find("[[accounts]]").expect("they are there");
    let removed = [&text[..start], &text[end..].replace("'other'", "'us'")].concat();
    for after in [changed, removed] {
        let (app, merge) = behind(&text);
        get(&app, "globex", SYNC_STATUS).await;
        app.reads(Box::new(move |hasher| Config::parse(&after, Path::new("test.toml"), &|_| None, hasher)));
        app.reload(Cause::Signal).expect("sound");
        let shown: Vec<_> = app.ground().budgets.upstreams().iter().map(|of| of.failures_allowed).collect();
        assert!(shown.iter().all(|allowed| *allowed == Some(10)), "{shown:?}");
        merge.revoke("acme");
        assert_eq!(get(&app, "acme", &format!("{SYNC_STATUS}?cursor=1")).await.status, 401);
        sleep(Duration::from_secs(60)).await;
        merge.restore("acme");
        assert_eq!(get(&app, "acme", &format!("{SYNC_STATUS}?cursor=2")).await.status, 200);
    }
}
