//! Many share one address: who asks too much, or wrongly, must not be felt by the others.

use std::time::Duration;

use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::builder::Builder;
use merge_sync_proxy::demo::fault::Fault;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, sleep};

use crate::origin::settle;
use crate::support::{self, Got, SYNC_STATUS, World, consumer, page, with};

const SECOND: Duration = Duration::from_secs(1);

/// A Merge that counts failures as the real one does, behind the default failure budget.
fn world(budget: &str, consumers: &[String]) -> World {
    let merge = support::merge().no_blocks().account(SimAccount::new("initech", "token-of-initech").by_hand());
    let account = "[[accounts]]\nname = 'initech'\ntoken = 'token-of-initech'\n";
    let world = World::with(merge, &format!("{account}{}[upstreams.us.budget]\n{budget}", consumers.concat()));
    for account in ["acme", "globex", "initech"] {
        world.merge.page(account, "ats", "{\"results\":[]}");
    }
    world
}

async fn ask(world: World, key: &'static str, account: String, target: String) -> (Got, Duration) {
    let start = Instant::now();
    let headers = [("authorization", format!("Bearer {key}")), ("x-account-token", account)];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let got = world.send(with(&target, &headers)).await;
    (got, start.elapsed())
}

/// Asks with what `number` gives, `rate` times a second for so long; every answer, and how long it took.
fn stream(
    world: &World,
    key: &'static str,
    (rate, seconds): (usize, usize),
    what: impl Fn(usize) -> (String, String) + Send + 'static,
) -> JoinHandle<Vec<(Got, Duration)>> {
    let world = world.clone();
    tokio::spawn(async move {
        let mut ticks = interval(SECOND / u32::try_from(rate).expect("a small number"));
        let mut asked = JoinSet::new();
        for number in 0..rate * seconds {
            ticks.tick().await;
            let (account, target) = what(number);
            asked.spawn(ask(world.clone(), key, account, target));
        }
        asked.join_all().await
    })
}

/// What a consumer with a wrong token may do: the same question again and again, ever other pages, ever other tokens.
type Question = fn(usize) -> (String, String);

const WRONG: [(&str, Question); 3] = [
    ("one page", |_| ("wrong-token".into(), SYNC_STATUS.into())),
    ("many pages", |number| ("wrong-token".into(), page(number))),
    ("many tokens", |number| (format!("wrong-token-{number}"), SYNC_STATUS.into())),
];

#[tokio::test(start_paused = true)]
async fn a_wrong_token_at_a_thousand_requests_a_second_is_not_felt_by_the_others() {
    for (name, question) in WRONG {
        let consumers = [
            consumer("wrong", "accounts = []\nraw_tokens = true\nmax_in_flight_misses = 1000"),
            consumer("healthy", "accounts = ['*']"),
        ];
        let world = world("per_account = 'unlimited'", &consumers);
        world.merge.set(Fault::Delay(Duration::from_millis(50)));
        let healthy = stream(&world, "healthy", (10, 20), |number| ("acme".into(), page(number)));
        sleep(SECOND / 2).await;
        let wrong = stream(&world, "wrong", (1_000, 20), question);
        // An account that nobody has asked for before comes in while the budget for failures is being fought over.
        sleep(SECOND * 5).await;
        let (newcomer, _) = ask(world.clone(), "healthy", "globex".into(), SYNC_STATUS.into()).await;
        assert_eq!(newcomer.status, 200, "{name}");

        let healthy = healthy.await.expect("no panic");
        assert!(healthy.iter().all(|(got, _)| got.status == 200), "{name}");
        let wrong = wrong.await.expect("no panic");
        let refused = wrong.iter().filter(|(got, _)| got.status == 429).count();
        let told = wrong.iter().filter(|(got, _)| got.status == 401).count();
        assert_eq!(refused + told, wrong.len(), "{name}: only Merge's own word, or a refusal of ours");
        let failures = world.merge.max_failures_in_any_window(SECOND * 10);
        assert!((1..=10).contains(&failures), "{name}: {failures} failures in ten seconds");
        let slowest = healthy.iter().map(|(_, took)| *took).max().unwrap_or_default();
        println!(
            "{name}: {told} x 401, {refused} x 429, at most {failures} failures in 10 s; healthy: at most {slowest:?}"
        );
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_nobody_has_asked_for_before_comes_in_beside_those_that_keep_its_consumer_busy() {
    let world = world("per_account = 'unlimited'", &[consumer("busy", "accounts = ['*']")]);
    ask(world.clone(), "busy", "acme".into(), SYNC_STATUS.into()).await;
    let held = world.merge.hold();
    let calls = world.merge.calls();
    let mut known = JoinSet::new();
    for number in 0..6 {
        known.spawn(ask(world.clone(), "busy", "acme".into(), page(number)));
    }
    settle().await;
    let new = tokio::spawn(ask(world.clone(), "busy", "globex".into(), SYNC_STATUS.into()));
    settle().await;
    assert_eq!(world.merge.calls() - calls, 7, "what has gone well takes nothing of the share of what has not yet");
    held.release();
    assert_eq!(new.await.expect("no panic").0.status, 200);
    assert!(known.join_all().await.iter().all(|(got, _)| got.status == 200));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_hundred_accounts_that_nobody_has_asked_for_before_are_all_asked_for_within_seconds() {
    let account = |number| SimAccount::new(format!("account-{number}"), format!("token-{number}"));
    for consumers in [&["one"][..], &["one", "two"]] {
        let merge = (0..100).map(account).fold(support::merge().no_blocks(), Builder::account);
        let of = |name: &&str| consumer(name, "accounts = []\nraw_tokens = true\nmax_in_flight_misses = 1000");
        let of: String = consumers.iter().map(of).collect();
        let world = World::with(merge, &format!("{of}[upstreams.us.budget]\nmax_wait = '30s'"));
        world.merge.set(Fault::Delay(SECOND * 3 / 10));
        let start = Instant::now();
        let mut asked = JoinSet::new();
        for number in 0..100 {
            let key = ["one", "two"][number % consumers.len()];
            asked.spawn(ask(world.clone(), key, format!("token-{number}"), SYNC_STATUS.into()));
        }
        assert!(asked.join_all().await.iter().all(|(got, _)| got.status == 200));
        let took = start.elapsed();
        assert!(took < SECOND * 5, "{consumers:?}: {took:?}");
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_gets_the_refusal_that_is_remembered_for_the_account() {
    let consumers = [consumer("wrong", "accounts = []\nraw_tokens = true"), consumer("healthy", "accounts = ['acme']")];
    let world = world("per_account = 'unlimited'", &consumers);
    ask(world.clone(), "healthy", "acme".into(), SYNC_STATUS.into()).await;
    for number in 0..20 {
        let (got, took) = ask(world.clone(), "wrong", "wrong-token".into(), page(number)).await;
        assert_eq!((got.status.as_u16(), took), (401, Duration::ZERO));
        if number >= 2 {
            assert!(got.cache().contains("detail=negative"), "{}", got.cache());
        }
    }
    assert_eq!(world.merge.calls(), 3, "two tenths of the failures are one account's");
    sleep(SECOND * 10).await;
    world.merge.clear_log();
    ask(world.clone(), "wrong", "wrong-token".into(), page(99)).await;
    assert_eq!(world.merge.calls(), 1, "it is asked again once its failures are forgotten");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiting_misses_of_one_do_not_delay_the_single_ones_of_another() {
    let consumers = [
        consumer("bulk", "accounts = ['*']\nmax_in_flight_misses = 20000"),
        consumer("single", "accounts = ['*']\nmax_in_flight_misses = 8"),
    ];
    let budget = "per_account = '600/min'\nerrors = 'unlimited'\nmax_wait = '20min'\nmax_waiting = 20000";
    let world = world(budget, &consumers);
    let bulk: Vec<_> =
        (0..10_000).map(|number| tokio::spawn(ask(world.clone(), "bulk", "acme".into(), page(number)))).collect();
    sleep(SECOND).await;
    for account in ["acme", "globex"] {
        let answers = stream(&world, "single", (1, 60), move |number| (account.into(), page(20_000 + number))).await;
        let mut waits: Vec<Duration> = answers
            .expect("no panic")
            .into_iter()
            .map(|(got, took)| {
                assert_eq!(got.status, 200);
                took
            })
            .collect();
        waits.sort_unstable();
        let p99 = waits[waits.len() * 99 / 100];
        println!("p99 wait of the single one on {account}: {p99:?}");
        // Its fair share of 600 a minute is five a second; of those it asks for one.
        assert!(p99 <= SECOND / 5, "{account}: {p99:?}");
    }
    bulk.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn weights_share_out_what_the_upstream_takes() {
    let consumers = [
        consumer("light", "accounts = ['*']\nmax_in_flight_misses = 1000"),
        consumer("heavy", "accounts = ['*']\nmax_in_flight_misses = 1000\nweight = 3"),
    ];
    let budget = "per_account = 'unlimited'\nerrors = 'unlimited'\nconcurrency = 2\nmax_wait = '10s'";
    let world = world(budget, &consumers);
    world.merge.set(Fault::Delay(SECOND / 10));
    let held = world.merge.hold();
    let mut asked = Vec::new();
    for number in 0..100 {
        for key in ["light", "heavy"] {
            asked.push((key, tokio::spawn(ask(world.clone(), key, "acme".into(), format!("{}-{key}", page(number))))));
        }
    }
    while world.app.ground().budgets.waiting() < 198 {
        tokio::task::yield_now().await;
    }
    held.release();
    sleep(SECOND * 4).await;
    let of = |key: &str| {
        let log = world.merge.log();
        log.iter().filter(|call| call.query.as_deref().is_some_and(|query| query.ends_with(key))).count()
    };
    let (light, heavy) = (of("light"), of("heavy"));
    println!("{light} calls for weight 1, {heavy} for weight 3");
    assert!(heavy >= light * 5 / 2 && light >= 10, "{light} and {heavy}");
    for (_, task) in asked {
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_who_has_most_in_it() {
    let consumers =
        [consumer("bulk", "accounts = ['*']\nmax_in_flight_misses = 1000"), consumer("single", "accounts = ['*']")];
    let budget = "per_account = 'unlimited'\nerrors = 'unlimited'\nconcurrency = 1\nmax_wait = '10s'\nmax_waiting = 10";
    let world = world(budget, &consumers);
    let held = world.merge.hold();
    let mut bulk = JoinSet::new();
    for number in 0..20 {
        bulk.spawn(ask(world.clone(), "bulk", "acme".into(), page(number)));
    }
    while world.app.ground().budgets.waiting() < 10 {
        tokio::task::yield_now().await;
    }
    let single = tokio::spawn(ask(world.clone(), "single", "acme".into(), page(99)));
    settle().await;
    held.release();
    assert_eq!(single.await.expect("no panic").0.status, 200);
    let refused = bulk.join_all().await.into_iter().filter(|(got, _)| got.problem() == "budget-exhausted").count();
    assert_eq!(refused, 10, "nine that found no place, and the one that gave way");
    world.assert_idle();
}
