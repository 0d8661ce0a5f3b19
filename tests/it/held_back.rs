//! What holds a call back is said truly, to whoever asks and wherever operators look.

use std::time::Duration;

use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::admin::state::State;
use merge_sync_proxy::admin::table::table;
use merge_sync_proxy::admin::view::View;
use merge_sync_proxy::demo::fault::Fault;
use serde_json::Value;

use crate::exposition::count;
use crate::support::{Got, SYNC_STATUS, World, consumer, merge, with};

/// With the default budgets, but that nobody waits for them.
fn world(more: &str) -> World {
    World::with(merge(), &format!("[upstreams.us.budget]\nmax_wait = '0s'\n{more}"))
}

async fn ask(world: &World, consumer: &str, account: &str) -> Got {
    let key = format!("Bearer {consumer}");
    world.send(with(SYNC_STATUS, &[("authorization", &key), ("x-account-token", account)])).await
}

fn detail(got: &Got) -> String {
    let told: Value = serde_json::from_slice(&got.body).expect("JSON");
    told["detail"].as_str().expect("a detail").to_owned()
}

fn calls(world: &World, account: &str) -> Value {
    world.app.explain(account, "ats", "").expect("it is known")["calls"].clone()
}

fn state(world: &World) -> State {
    View::default().of(&world.app.look())
}

/// The line of the status table that begins with this condition and name.
fn line(state: &State, name: &str) -> String {
    let text = anstream::adapter::strip_str(&table(state, None)).to_string();
    let line = text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_account_that_has_used_up_its_share_of_failures_is_told_so_everywhere() {
    let world = world(&consumer("team", "accounts = ['*']"));
    assert_eq!(ask(&world, "team", "globex").await.status, 200);
    world.merge.set(Fault::Status(500));
    let refused = loop {
        let got = ask(&world, "team", "acme").await;
        if got.status == 429 {
            break got;
        }
        assert_eq!(got.status, 500);
    };
    let share = "too many calls have failed: 2 of the 2 that this account may take in 10 s";
    assert!(detail(&refused).contains(share), "{}", detail(&refused));
    let told = calls(&world, "acme");
    let because = told["because"].as_str().expect("a reason");
    assert!(told["may_go"] == false && because.starts_with(share) && because.contains("may go in"), "{told}");
    assert_eq!(calls(&world, "globex")["may_go"], true);
    let shown = line(&state(&world), " acme ");
    assert!(shown.contains(share) && shown.contains("the next call may go in"), "{shown}");
    let refusals = |reason: &str| {
        let labels = format!(r#"{{upstream="us",account="acme",reason="{reason}"}}"#);
        count(&world.app.metrics(), &format!("merge_sync_proxy_budget_refused_total{labels}"))
    };
    assert_eq!((refusals("failures"), refusals("rate")), (1, 0));
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(calls(&world, "acme")["may_go"], true);
    assert!(!line(&state(&world), " acme ").contains("too many"));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_and_all_accounts_that_do_not_work_have_shares_that_are_named() {
    let more = ["one", "two", "three"].map(|name| consumer(name, "accounts = ['*']\nraw_tokens = true")).concat();
    let world = world(&more);
    assert_eq!(ask(&world, "two", "globex").await.status, 200);
    for number in 0..4 {
        assert_eq!(ask(&world, "one", &format!("wrong-token-{number}")).await.status, 401);
    }
    let refused = ask(&world, "one", "acme").await;
    let share = "4 of the 4 that one consumer may take for accounts whose last call did not succeed in 10 s";
    assert!(refused.status == 429 && detail(&refused).contains(share), "{}", detail(&refused));
    assert_eq!(calls(&world, "acme")["may_go"], true, "for others");
    let shown = line(&state(&world), "4 of 10");
    assert!(shown.contains("some are held back: consumer one: ") && shown.contains(share), "{shown}");
    for number in 4..7 {
        assert_eq!(ask(&world, "two", &format!("wrong-token-{number}")).await.status, 401);
    }
    let share = "7 of the 7 that accounts whose last call did not succeed may take together in 10 s";
    let refused = ask(&world, "three", "acme").await;
    assert!(refused.status == 429 && detail(&refused).contains(share), "{}", detail(&refused));
    assert!(calls(&world, "acme")["because"].as_str().expect("a reason").contains(share));
    assert_eq!(calls(&world, "globex")["may_go"], true, "its last call succeeded");
    tokio::time::advance(Duration::from_secs(1)).await;
    let shown = line(&state(&world), "7 of 10");
    assert!(shown.contains("some are held back: ") && shown.contains(share), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_merge_has_asked_for_is_shown_with_its_end() {
    let world = world(&consumer("team", "accounts = ['*']"));
    world.merge.set(Fault::Status(429));
    let got = ask(&world, "team", "acme").await;
    assert_eq!(got.status, 429);
    let told = calls(&world, "acme");
    assert!(told["because"].as_str().expect("a reason").starts_with("Merge has asked for a pause; the next"), "{told}");
    let shown = line(&state(&world), " acme ");
    assert!(shown.contains("Merge has asked for a pause; the next call may go in"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_not_said_to_hold_anything_back() {
    let world = world("per_account = '2/min'\nerrors = '2/10s'\nbreaker = 2\ndry_run = true");
    world.merge.set(Fault::Status(500));
    for account in ["acme", "acme", "globex", "globex", "acme"] {
        assert_eq!(world.send(with(SYNC_STATUS, &[("x-account-token", account)])).await.status, 500);
    }
    for account in ["acme", "globex"] {
        assert_eq!(calls(&world, account), serde_json::json!({ "may_go": true, "because": null }));
        assert!(!line(&state(&world), &format!(" {account} ")).contains("may go"), "nothing is waited for");
    }
    let row = &state(&world).head.upstreams[0];
    assert_eq!((row.breaker.as_deref(), row.failures_allowed, &row.held_back), (Some("closed"), None, &None));
    assert!(line(&state(&world), "calls may go").contains("unlimited"));
    let metrics = world.app.metrics();
    assert_eq!(count(&metrics, r#"merge_sync_proxy_breaker_open{upstream="us"}"#), 0);
    assert!(count(&metrics, r#"merge_sync_proxy_budget_dry_run_total{upstream="us"}"#) > 0);
}
