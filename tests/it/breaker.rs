//! What Merge says of its own limits, and what its silence says: both are heeded.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::fault::Fault;
use serde_json::Value;
use tokio::time::{Instant, advance, sleep};

use crate::audit::Log;
use crate::exposition::count;
use crate::support::{self, SYNC_STATUS, World, page, with};

const SECOND: Duration = Duration::from_secs(1);

fn world(budget: &str) -> World {
    let world = World::with(support::merge(), &format!("[upstreams.us.budget]\n{budget}"));
    for account in ["acme", "globex"] {
        world.merge.page(account, "ats", "{\"results\":[]}");
    }
    world
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_left_alone_and_asked_once_before_all_may_ask_again() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = 3");
    world.merge.set(Fault::ResetBeforeHeaders);
    let mut number = 0;
    loop {
        let got = world.get(&page(number)).await;
        number += 1;
        if got.problem() == "overloaded" {
            assert_eq!((got.status.as_u16(), got.number("retry-after")), (503, 2), "a second and some jitter");
            break;
        }
        assert_eq!(got.problem(), "upstream-failed");
    }
    let calls = world.merge.calls();
    assert!((3..=6).contains(&calls), "{calls}: three failures in a row, retries counted");
    for number in 0..100 {
        assert_eq!(world.get(&page(1_000 + number)).await.problem(), "overloaded");
    }
    assert_eq!(world.merge.calls(), calls);

    advance(SECOND * 2).await;
    world.merge.clear();
    let held = world.merge.hold();
    let probe = world.begin(&page(2_000));
    world.merge.arrived(calls + 1).await;
    let others = join_all((0..10).map(|number| world.begin(&page(3_000 + number)))).await;
    assert!(others.into_iter().all(|got| got.expect("no panic").problem() == "overloaded"));
    held.release();
    assert_eq!(probe.await.expect("no panic").status, 200);
    assert_eq!(world.merge.calls(), calls + 1, "one call only");
    let after = join_all((0..10).map(|number| world.begin(&page(4_000 + number)))).await;
    assert!(after.into_iter().all(|got| got.expect("no panic").status == 200));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_the_breaker_is_told_in_words() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = 3");
    let (log, _guard) = Log::begin();
    let told = || {
        let lines = log.of("budget");
        let words = |line: &Value| {
            [&line["message"], &line["state"], &line["upstream"]].map(|word| word.as_str().map(str::to_owned))
        };
        lines
            .iter()
            .map(|line| (words(line).map(Option::unwrap_or_default), line["seconds"].as_f64()))
            .collect::<Vec<_>>()
    };
    world.merge.set(Fault::ResetBeforeHeaders);
    for number in 0..6 {
        world.get(&page(number)).await;
    }
    let lines = told();
    let [([message, state, upstream], Some(seconds))] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(*message, format!("calls to us are stopped for {seconds} s: 3 failures in a row"));
    assert_eq!((&**state, &**upstream, (1.0..=1.3).contains(seconds)), ("open", "us", true), "{seconds}");
    advance(SECOND * 2).await;
    world.merge.clear();
    assert_eq!(world.get(&page(7)).await.status, 200);
    let words = ["calls to us may go again", "closed", "us"].map(str::to_owned);
    assert_eq!(told(), [(words, None)]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_counted_as_one_whether_it_fails_or_not_and_whatever_it_is_for() {
    let routes = "[[routes]]\npath = '/api/{category}/v1/sync-status'\n\
                  [[routes]]\npath = '/api/ats/v1/jobs'\nmethods = ['GET']\ncache = 'off'\n";
    let budget = "per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = 3\n";
    let world = world(&(budget.to_owned() + routes));
    let probes = |status: &str| {
        let series = format!(
            r#"merge_sync_proxy_upstream_calls_total{{upstream="us",account="acme",reason="probe",status="{status}"}}"#
        );
        let told = world.app.metrics();
        if told.contains(&series) { count(&told, &series) } else { 0 }
    };
    world.merge.set(Fault::ResetBeforeHeaders);
    for number in 0..6 {
        world.get(&page(number)).await;
    }
    assert_eq!(world.get(&page(6)).await.problem(), "overloaded", "it is open");
    assert_eq!((probes("none"), probes("4xx")), (0, 0));
    advance(SECOND * 2).await;
    assert_eq!(world.get(&page(7)).await.problem(), "upstream-failed");
    assert_eq!((probes("none"), probes("4xx")), (1, 0), "one probe, and no second try of it");
    advance(SECOND * 4).await;
    world.merge.clear();
    assert_eq!(world.get("/api/ats/v1/jobs").await.status, 404, "a sign of life");
    assert_eq!((probes("none"), probes("4xx")), (1, 1), "what passes through is a probe as well");
    assert_eq!(world.get(&page(8)).await.status, 200);
    assert_eq!((probes("none"), probes("4xx"), probes("2xx")), (1, 1, 0), "and what follows is none");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_what_stale_pages_stand_in_for() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = 3");
    let first = world.get(SYNC_STATUS).await;
    world.merge.set(Fault::Status(500));
    for number in 0..6 {
        world.send(with(&page(number), &[("x-account-token", ["acme", "globex"][number % 2])])).await;
    }
    advance(SECOND * 100).await;
    for number in 6..12 {
        world.send(with(&page(number), &[("x-account-token", ["acme", "globex"][number % 2])])).await;
    }
    let calls = world.merge.calls();
    let stale = world.get(SYNC_STATUS).await;
    assert_eq!((stale.status.as_u16(), &stale.body, world.merge.calls()), (200, &first.body, calls));
    assert!(stale.cache().ends_with("detail=upstream-error"), "{}", stale.cache());
}

#[tokio::test(start_paused = true)]
async fn the_trouble_of_one_account_does_not_open_the_breaker() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = 3");
    world.merge.script(Fault::Status(500)).only("globex").always();
    for number in 0..10 {
        let got = world.send(with(&page(number), &[("x-account-token", "globex")])).await;
        assert_eq!(got.status, 500);
    }
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn whoever_lifts_the_breaker_need_not_wait_until_it_closes() {
    let budget = |breaker: &str| {
        format!(
            "[upstreams.us.budget]\nper_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = {breaker}"
        )
    };
    let world = World::with(support::merge(), &budget("2"));
    let lifted = support::text("http://merge.test", "", &budget("'unlimited'"));
    world.app.reads(Box::new(move |hasher| Config::parse(&lifted, Path::new("test.toml"), &|_| None, hasher)));
    world.merge.set(Fault::ResetBeforeHeaders);
    while world.get(SYNC_STATUS).await.problem() != "overloaded" {}
    assert_eq!(world.app.reload(Cause::Signal).expect("sound").changed, ["upstreams.us.budget.breaker"]);
    for _ in 0..5 {
        assert_eq!(world.get(SYNC_STATUS).await.problem(), "upstream-failed");
    }
    world.merge.clear();
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_one_call_goes_first() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '2s'");
    world.merge.script(Fault::answer(429, &[("retry-after", "5")], "{}")).once();
    assert_eq!(world.get(&page(0)).await.status, 429);
    advance(SECOND * 5).await;
    let held = world.merge.hold();
    let waiting: Vec<_> = (1..=20).map(|number| world.begin(&page(number))).collect();
    world.merge.arrived(2).await;
    sleep(SECOND).await;
    assert_eq!(world.merge.calls(), 2, "the others wait for how the first one fares");
    held.release();
    assert!(join_all(waiting).await.into_iter().all(|got| got.expect("no panic").status == 200));
}

#[tokio::test(start_paused = true)]
async fn what_merge_says_is_left_is_kept_to_when_others_use_the_account_too() {
    let world = world("per_account = '100/min'\nerrors = 'unlimited'\nmax_wait = '0s'");
    let fields = [("x-ratelimit-remaining", "4"), ("x-ratelimit-reset", "50")];
    world.merge.script(Fault::answer(200, &fields, "{\"results\":[]}")).once();
    assert_eq!(world.get(&page(0)).await.status, 200);
    let refused = world.get(&page(1)).await;
    assert_eq!((&*refused.problem(), refused.header("retry-after")), ("budget-exhausted", "10"));
    advance(SECOND * 10).await;
    assert_eq!(world.get(&page(1)).await.status, 200);

    let none = [("ratelimit", "\"default\";r=0;t=30")];
    world.merge.script(Fault::answer(200, &none, "{\"results\":[]}")).once();
    let world_of = |number| world.send(with(&page(number), &[("x-account-token", "globex")]));
    assert_eq!(world_of(1).await.status, 200);
    assert_eq!(world_of(2).await.header("retry-after"), "30");
}

#[tokio::test(start_paused = true)]
async fn a_429_that_only_says_when_the_limit_is_reset_is_heeded() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'");
    world.merge.script(Fault::answer(429, &[("x-ratelimit-reset", "17")], "{}")).once();
    let refused = world.get(&page(0)).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "17"));
    assert_eq!(world.get(&page(1)).await.header("retry-after"), "17");
    assert_eq!(world.merge.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_holds_nothing_back_and_tells_what_would_have_been() {
    let (log, _guard) = Log::begin();
    let world = world("per_account = '10/min'\nerrors = '2/10s'\nmax_wait = '0s'\ndry_run = true");
    world.merge.set(Fault::Status(500));
    let start = Instant::now();
    for number in 0..30 {
        assert_eq!(world.get(&page(number)).await.status, 500);
    }
    assert_eq!((world.merge.calls(), start.elapsed()), (30, Duration::ZERO));
    let (lines, metrics) = (log.of("budget"), world.app.metrics());
    let told = count(&metrics, "merge_sync_proxy_budget_dry_run_total{upstream=\"us\"}");
    assert_eq!((lines.len(), told), (28, 28), "all but the burst of two");
    assert_eq!(lines[0]["message"], "would have been held back");
    let mut refused = metrics.lines().filter(|line| line.starts_with("merge_sync_proxy_budget_refused_total{"));
    assert!(refused.all(|line| line.ends_with(" 0.0")), "{metrics}");
    world.assert_idle();
}
