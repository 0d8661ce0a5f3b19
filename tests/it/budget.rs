//! What is sent upstream never exceeds what the operator allows, and whoever waits for it is never forgotten.

use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::demo::fault::Fault;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::{self, Got, SYNC_STATUS, World, page, with};

const MINUTE: Duration = Duration::from_secs(60);
const MAX_WAIT: Duration = Duration::from_secs(1);

/// A Merge that keeps its rate and has a page for whatever cursor, behind these budgets.
fn world(budget: &str) -> World {
    let merge = support::merge().rate(100, MINUTE);
    let world = World::with(merge, &format!("[upstreams.us.budget]\n{budget}"));
    for account in ["acme", "globex"] {
        world.merge.page(account, "ats", "{\"results\":[]}");
    }
    world
}

/// Asks for `count` pages that nobody has, `every` so often; each with how long its answer took.
async fn demand(world: &World, count: usize, every: Duration) -> Vec<(Got, Duration)> {
    let mut asked: Vec<JoinHandle<_>> = Vec::with_capacity(count);
    for number in 0..count {
        let world = world.clone();
        asked.push(tokio::spawn(async move {
            let start = Instant::now();
            (world.get(&page(number)).await, start.elapsed())
        }));
        sleep(every).await;
    }
    join_all(asked).await.into_iter().map(|answer| answer.expect("no panic")).collect()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_misses_in_ten_seconds_send_at_most_a_hundred_a_minute() {
    let world = world("per_account = '100/min'\nmax_wait = '1s'");
    let answers = demand(&world, 10_000, Duration::from_millis(1)).await;
    let (served, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(answer, _)| answer.status == 200);
    assert_eq!(served.len(), world.merge.calls_for("acme"));
    assert!((20..=100).contains(&served.len()), "{} were served", served.len());
    assert!(world.merge.max_in_any_window("acme", MINUTE) <= 100);
    assert!(world.merge.log().iter().all(|call| call.status == 200), "Merge never had to refuse");
    for (answer, took) in refused {
        assert_eq!((answer.status.as_u16(), &*answer.problem()), (429, "budget-exhausted"));
        let pause: u64 = answer.header("retry-after").parse().expect("whole seconds");
        assert!((1..=60).contains(&pause), "{pause}");
        assert!(took <= MAX_WAIT + Duration::from_millis(1), "{took:?}");
    }
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn minutes_of_demand_keep_the_bound_and_use_most_of_it() {
    let world = world("per_account = '100/min'\nmax_wait = '1s'");
    demand(&world, 3_000, Duration::from_millis(100)).await;
    let calls = world.merge.calls_for("acme");
    println!("{calls} calls in five minutes, of 500");
    assert!(world.merge.max_in_any_window("acme", MINUTE) <= 100);
    assert!(world.merge.log().iter().all(|call| call.status == 200));
    assert!(calls >= 5 * 75, "{calls}");
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_after_retry_after_is_served() {
    let world = world("per_account = '5/min'\nmax_wait = '0s'");
    let mut number = 0;
    let refusal = loop {
        let answer = world.get(&page(number)).await;
        number += 1;
        if answer.status != 200 {
            break answer;
        }
    };
    sleep(Duration::from_secs(refusal.header("retry-after").parse().expect("whole seconds"))).await;
    assert_eq!(world.get(&page(number)).await.status, 200);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn two_accounts_do_not_share_a_rate() {
    let world = world("per_account = '100/min'\nmax_wait = '1s'");
    demand(&world, 500, Duration::from_millis(1)).await;
    let start = Instant::now();
    let other = world.send(with(&page(0), &[("x-account-token", "globex")])).await;
    assert_eq!((other.status.as_u16(), start.elapsed()), (200, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_in_flight_than_allowed() {
    let world = world("per_account = 'unlimited'\nconcurrency = 4\nmax_wait = '1s'");
    let merge = world.merge.clone();
    merge.set(Fault::Delay(Duration::from_millis(100)));
    let answers = demand(&world, 40, Duration::ZERO).await;
    assert_eq!(merge.most_in_flight(), 4);
    assert!(answers.iter().all(|(answer, _)| answer.status == 200), "ten rounds of 100 ms are within max_wait");

    let held = merge.hold();
    let waiting: Vec<_> = (100..108).map(|number| world.begin(&page(number))).collect();
    merge.arrived(44).await;
    sleep(MAX_WAIT * 2).await;
    held.release();
    let statuses = join_all(waiting).await.into_iter().map(|answer| answer.expect("no panic").status.as_u16());
    assert_eq!(statuses.collect::<Vec<_>>(), [200, 200, 200, 200, 429, 429, 429, 429]);
    assert_eq!((merge.most_in_flight(), merge.calls()), (4, 44));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_never_sends_and_does_not_hold_up_the_next() {
    let world = world("per_account = '1/min'\nmax_wait = '5min'");
    assert_eq!(world.get(&page(0)).await.status, 200);
    let leaving = world.begin(&page(1));
    let staying = world.begin(&page(2));
    while world.app.ground().budgets.waiting() < 2 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    let _ = leaving.await;
    let start = Instant::now();
    assert_eq!(staying.await.expect("no panic").status, 200);
    assert!(start.elapsed() < MINUTE * 2, "{:?}: the place of who left is free", start.elapsed());
    let cursors: Vec<_> = world.merge.log().into_iter().filter_map(|call| call.query).collect();
    assert_eq!(cursors, ["cursor=0", "cursor=2"]);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn after_the_allowed_failures_calls_stop_until_the_window_has_moved() {
    let world = world("per_account = 'unlimited'\nerrors = '3/10s'\nmax_wait = '1s'");
    world.merge.set(Fault::Status(500));
    for number in 0..3 {
        assert_eq!(world.get(&page(number)).await.status, 500);
        sleep(Duration::from_secs(1)).await;
    }
    world.merge.clear();
    let refused = world.get(&page(3)).await;
    assert_eq!((refused.status.as_u16(), &*refused.problem()), (429, "budget-exhausted"));
    assert_eq!((refused.header("retry-after"), world.merge.calls()), ("8", 3));
    sleep(Duration::from_secs(8)).await;
    assert_eq!(world.get(&page(3)).await.status, 200);
    assert_eq!(world.merge.calls(), 4);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_failure_whose_body_breaks_off_counts_as_one() {
    let world = world("per_account = 'unlimited'\nerrors = '3/10s'\nmax_wait = '1s'");
    world.merge.set([Fault::Status(500), Fault::TruncateLength]);
    for number in 0..6 {
        world.get(&page(number)).await;
    }
    assert_eq!(world.merge.max_failures_in_any_window(Duration::from_secs(10)), 3);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn what_took_too_long_counts_as_failed_and_one_account_that_hangs_leaves_the_others_their_share() {
    let world = world("per_account = 'unlimited'\nerrors = '10/60s'\nmax_wait = '0s'");
    let of =
        async |account: &str, number: usize| world.send(with(&page(number), &[("x-account-token", account)])).await;
    for account in ["acme", "globex"] {
        assert_eq!(of(account, 0).await.status, 200, "both are proven");
    }
    world.merge.script(Fault::Hang).only("acme").always();
    let mut answers = Vec::new();
    for number in 1..=4 {
        answers.push(of("acme", number).await.problem());
    }
    assert_eq!(answers, ["upstream-timeout", "upstream-timeout", "budget-exhausted", "budget-exhausted"], "two tenths");
    assert_eq!(of("globex", 1).await.status, 200);
    sleep(MINUTE).await;
    assert_eq!(of("acme", 5).await.problem(), "upstream-timeout", "it is asked again");
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_nobody_shares_pays_like_any_other() {
    let world = world("per_account = '10/min'\nmax_wait = '0s'");
    let private = || world.get_with(SYNC_STATUS, &[("cache-control", "no-store")]);
    let answers = join_all((0..30).map(|_| private())).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((served, world.merge.calls()), (2, 2), "the burst of a rate of ten");
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.problem() == "budget-exhausted"));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_all_at_once_do_not_get_the_address_blocked() {
    let world = world("per_account = 'unlimited'\nconcurrency = 32");
    world.merge.set([Fault::Status(500), Fault::Delay(Duration::from_millis(200))]);
    demand(&world, 200, Duration::from_millis(1)).await;
    let most = world.merge.max_failures_in_any_window(Duration::from_secs(10));
    assert!(most <= 10, "{most} failures in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn the_pause_that_merge_asks_for_is_kept() {
    let world = world("per_account = 'unlimited'\nmax_wait = '1s'");
    world.merge.script(Fault::answer(429, &[("retry-after", "30")], "{}")).once();
    let first = world.get(&page(0)).await;
    assert_eq!((first.status.as_u16(), first.header("retry-after")), (429, "30"));
    sleep(Duration::from_secs(10)).await;
    let second = world.get(&page(1)).await;
    assert_eq!((&*second.problem(), second.header("retry-after")), ("budget-exhausted", "20"));
    assert_eq!(world.merge.calls(), 1);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.get(&page(1)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_429_whose_body_breaks_off_pauses_the_account_and_is_no_failure() {
    let world = world("per_account = 'unlimited'\nmax_wait = '0s'");
    world.merge.script([Fault::answer(429, &[], "{\"detail\":\"slow down\"}"), Fault::TruncateLength]).once();
    assert_eq!(world.get(&page(0)).await.problem(), "upstream-failed");
    assert_eq!(world.get(&page(1)).await.problem(), "budget-exhausted");
    assert_eq!((world.merge.calls(), world.app.ground().budgets.upstreams()[0].failed), (1, 0));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.get(&page(1)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn permits_are_back_after_every_kind_of_end() {
    let world = world("per_account = 'unlimited'\nerrors = 'unlimited'\nconcurrency = 1\nmax_wait = '1s'");
    let second = Duration::from_secs(1);
    let slow = [Fault::Body(vec![b' '; 100].into()), Fault::SlowBody { chunk: 1, every: second }];
    let faults = [Fault::Hang, Fault::ResetBeforeHeaders, Fault::TruncateLength, Fault::TruncateChunked, Fault::Html]
        .map(|fault| vec![fault]);
    for (number, fault) in faults.into_iter().chain([slow.to_vec(), vec![Fault::Status(503)]]).enumerate() {
        world.merge.set(fault.clone());
        assert!(world.get(&page(number)).await.status.is_server_error(), "{fault:?}");
        world.assert_idle();
        world.merge.clear();
        assert_eq!(world.get(&page(number)).await.status, 200, "{fault:?}");
        world.merge.idle().await;
    }
}
