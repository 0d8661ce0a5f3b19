//! When Merge says no: 429 pauses one account, 401, 403 and 404 are remembered for a moment.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use merge_sync_proxy::demo::fault::Fault;
use tokio::time::advance;

use crate::support::{SYNC_STATUS, World, ask, consumer, merge, with};

const SECOND: Duration = Duration::from_secs(1);

const OTHER_PAGE: &str = "/api/ats/v1/sync-status?page_size=7";

/// A world in which acme is syncing, with its page stored `ago`.
async fn stored(ago: Duration) -> World {
    let world = World::with(merge().start(std::time::UNIX_EPOCH + SECOND * 1_776_000_000), "");
    world.merge.start_sync("acme");
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
    advance(ago).await;
    world
}

fn globex(target: &str) -> Request<Full<Bytes>> {
    with(target, &[("x-account-token", "globex")])
}

#[tokio::test(start_paused = true)]
async fn merges_429_silences_one_account_for_as_long_as_merge_says() {
    let date = |world: &World, ahead: u32| httpdate::fmt_http_date(world.merge.now() + SECOND * ahead);
    for form in ["30", " 30 ", "30.0", "29.2", "date"] {
        let world = stored(SECOND * 6).await;
        let retry_after = if form == "date" { date(&world, 30) } else { form.to_owned() };
        let refusal = Fault::answer(429, &[("retry-after", &retry_after)], "{}");
        world.merge.script(refusal).only("acme").always();
        assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=revalidating"), "{form}");
        world.settle().await;
        assert_eq!(world.merge.calls(), 2);
        for passed in 0..28_u64 {
            let stale = world.get(SYNC_STATUS).await;
            assert_eq!(
                stale.cache(),
                format!("hit; ttl={}; detail=upstream-error", -1 - i64::try_from(passed).expect("small"))
            );
            let without = world.get(OTHER_PAGE).await;
            assert_eq!((without.status.as_u16(), without.problem().as_str()), (429, "budget-exhausted"), "{passed} s");
            assert_eq!(without.number("retry-after"), 30 - passed, "{form}");
            advance(SECOND).await;
        }
        assert_eq!(world.merge.calls(), 2, "no call while it is silenced");
        assert_eq!(world.send(globex(SYNC_STATUS)).await.status, 200, "others are not");
        world.merge.clear();
        advance(SECOND * 2).await;
        assert_eq!(world.get(OTHER_PAGE).await.status, 200, "{form}");
        assert!(world.get(SYNC_STATUS).await.cache().starts_with("fwd=stale; fwd-status=200"));
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_that_asks_for_too_much_is_heeded_for_ten_minutes() {
    for form in ["86400", "99999999999999999999", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let world = World::new();
        world.merge.script(Fault::answer(429, &[("retry-after", form)], "{}")).once();
        let first = world.get(SYNC_STATUS).await;
        assert_eq!((first.status.as_u16(), first.number("retry-after")), (429, 600), "{form}");
        advance(SECOND * 598).await;
        assert_eq!(world.get(SYNC_STATUS).await.number("retry-after"), 2);
        advance(SECOND * 2).await;
        assert_eq!(world.get(SYNC_STATUS).await.status, 200);
        assert_eq!(world.merge.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn without_retry_after_the_pause_doubles() {
    let world = World::new();
    world.merge.set(Fault::Status(429));
    for _ in 0..3_600 {
        assert_eq!(world.get(SYNC_STATUS).await.status, 429);
        advance(SECOND).await;
    }
    let log = world.merge.log();
    for (refusals, pair) in log.windows(2).enumerate() {
        let pause = f64::from((1 << refusals.min(6)).min(60));
        let gap = (pair[1].at - pair[0].at).as_secs_f64();
        // Up to a quarter longer, and a request may wait for its turn or come up to a second late.
        assert!(gap >= pause && gap <= pause * 1.25 + 1.0, "{refusals}: {gap} s instead of {pause} s");
    }
    assert!((48..=70).contains(&log.len()), "{} calls", log.len());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_a_moment_and_ends_by_time() {
    for status in [401, 403, 404] {
        let world = World::new();
        world.merge.script(Fault::Status(status)).only("acme").always();
        let first = world.get(SYNC_STATUS).await;
        assert_eq!(first.cache(), format!("fwd=uri-miss; fwd-status={status}; stored; ttl=5"));
        for passed in 0..5 {
            let again = world.get(SYNC_STATUS).await;
            assert_eq!(again.cache(), format!("hit; ttl={}; detail=negative", 5 - passed));
            assert_eq!((again.status.as_u16(), &again.body), (status, &first.body));
            advance(SECOND).await;
        }
        assert_eq!(world.merge.calls(), 1);
        assert_eq!(world.send(globex(SYNC_STATUS)).await.status, 200, "per account");
        assert_eq!(world.get(SYNC_STATUS).await.cache(), format!("fwd=stale; fwd-status={status}; stored; ttl=5"));
        world.merge.clear();
        assert_eq!(world.get(SYNC_STATUS).await.status.as_u16(), status);
        assert_eq!(world.get(OTHER_PAGE).await.status, 200, "per key");
        advance(SECOND * 5).await;
        assert_eq!(world.get(SYNC_STATUS).await.status, 200);
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_drops_the_page_that_was_stored() {
    for status in [401, 403, 404] {
        for ago in [10, 40] {
            let world = stored(SECOND * ago).await;
            world.merge.script(Fault::Status(status)).once();
            let first = world.get(SYNC_STATUS).await;
            assert_eq!(first.status.as_u16(), if ago == 10 { 200 } else { status }, "stale only while it is asked");
            world.settle().await;
            let told = world.get_with(SYNC_STATUS, &[("cache-control", "max-stale")]).await;
            assert_eq!((told.status.as_u16(), told.cache()), (status, "hit; ttl=5; detail=negative"));
            advance(SECOND * 6).await;
            world.merge.set(Fault::Status(500));
            assert_eq!(world.get(SYNC_STATUS).await.status, 500, "there is no good page to stand in");
            assert_eq!(world.get_with(SYNC_STATUS, &[("cache-control", "max-stale")]).await.status, 500);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_errors_leave_the_page_alone_and_are_not_remembered() {
    let world = stored(SECOND * 40).await;
    world.merge.script(Fault::Status(400)).once();
    let passed = world.get(SYNC_STATUS).await;
    assert_eq!((passed.status.as_u16(), passed.cache()), (400, "fwd=stale; fwd-status=400"));
    world.merge.script(Fault::Status(500)).once();
    let stands_in = world.send(ask(SYNC_STATUS)).await;
    assert_eq!(stands_in.cache(), "hit; ttl=-35; detail=upstream-error");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_insists_makes_a_call() {
    let world = stored(SECOND * 40).await;
    world.merge.script(Fault::Status(403)).once();
    assert_eq!(world.get(SYNC_STATUS).await.status, 403);
    advance(SECOND).await;
    let insisting = world.get_with(SYNC_STATUS, &[("cache-control", "no-cache")]).await;
    assert_eq!((insisting.status.as_u16(), insisting.cache()), (200, "fwd=request; fwd-status=200; stored; ttl=5"));
    assert_eq!(world.get(SYNC_STATUS).await.cache(), "hit; ttl=5");
    assert_eq!(world.merge.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_date_is_read_by_merges_own_clock_in_all_three_forms() {
    for (form, date) in [
        (0, "Sun, 12 Apr 2026 14:20:30 GMT"),
        (0, "Sunday, 12-Apr-26 14:20:30 GMT"),
        (0, "Sun Apr 12 14:20:30 2026"),
        (7, "Sun, 12 Apr 2026 14:20:37 GMT"),
    ] {
        let world = stored(SECOND * form).await;
        let refusal = Fault::answer(429, &[("retry-after", date)], "{}");
        world.merge.script([refusal, Fault::DateSkew(3_600)]).once();
        let first = world.get(OTHER_PAGE).await;
        assert_eq!((first.status.as_u16(), first.number("retry-after")), (429, 30), "{date}");
        advance(SECOND * 28).await;
        assert_eq!(world.get(OTHER_PAGE).await.number("retry-after"), 2, "{date}");
        advance(SECOND * 2).await;
        assert_eq!(world.get(OTHER_PAGE).await.status, 200, "{date}");
        assert_eq!(world.merge.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_refusal_of_the_page_is_never_an_entry() {
    for status in [400, 402, 405, 408, 409, 410, 418, 422, 429, 451, 500, 501, 502, 503, 504, 599] {
        let world = World::new();
        world.merge.script(Fault::Status(status)).times(if matches!(status, 502..=504) { 3 } else { 1 });
        let passed = world.get(SYNC_STATUS).await;
        assert_eq!(passed.cache(), format!("fwd=uri-miss; fwd-status={status}"));
        world.app.ground().store.maintain();
        assert_eq!(world.app.ground().store.size().0, 0, "{status}");
        advance(SECOND * if status == 429 { 2 } else { 0 }).await;
        assert!(world.get(SYNC_STATUS).await.cache().starts_with("fwd=uri-miss; fwd-status=200; stored"), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_every_consumer() {
    let consumers = ["one", "two"].map(|name| consumer(name, "accounts = ['*']")).concat();
    let world = World::with(merge(), &consumers);
    world.merge.script(Fault::Status(404)).once();
    for (key, cache) in [("one", "fwd=uri-miss; fwd-status=404; stored; ttl=5"), ("two", "hit; ttl=5; detail=negative")]
    {
        let bearer = format!("Bearer {key}");
        let answer = world.get_with(SYNC_STATUS, &[("authorization", &bearer)]).await;
        assert_eq!((answer.status.as_u16(), answer.cache()), (404, cache), "{key}");
    }
    assert_eq!(world.merge.calls(), 1);
}
