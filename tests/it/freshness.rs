//! How long a page lives follows from what it says about syncs.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use merge_sync_proxy::demo::fault::{Fault, Faults};
use merge_sync_proxy::demo::page::sync_page;
use tokio::time::advance;

use crate::support::{SYNC_STATUS, World, merge};

const MILLISECOND: Duration = Duration::from_millis(1);

/// What Merge's clock shows when the page is fetched.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_776_000_000)
}

fn at(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { now() - distance } else { now() + distance }
}

/// Asserts that the page is fresh for `most`, or up to a twentieth less if its lifetime may be shortened: not a moment less by
/// its headers and by the calls that are made.
async fn assert_lives(what: &str, body: Bytes, faults: impl Into<Faults>, most: u64, shortened: bool) {
    let world = World::with(merge().start(now()), "");
    world.merge.page("acme", "ats", body.clone());
    world.merge.set(faults);
    let most = Duration::from_secs(most);
    let least = if shortened { most * 19 / 20 } else { most };
    let first = world.get(SYNC_STATUS).await;
    assert_eq!(first.status, 200, "{what}");
    let max_age = first.header("cache-control").strip_prefix("private, max-age=").expect("a lifetime").parse();
    let max_age: u64 = max_age.expect("whole seconds");
    assert!((least.as_secs()..=most.as_secs()).contains(&max_age), "{what}: {max_age} s");
    assert_eq!(first.cache(), format!("fwd=uri-miss; fwd-status=200; stored; ttl={max_age}"), "{what}");

    advance(least - MILLISECOND).await;
    let hit = world.get(SYNC_STATUS).await;
    let ttl = max_age - hit.number("age");
    assert_eq!((hit.cache(), &hit.body), (&*format!("hit; ttl={ttl}"), &first.body), "{what}");
    assert_eq!(world.merge.calls(), 1, "{what}: no call while it is fresh");
    advance(most - least + MILLISECOND).await;
    assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=revalidating"), "{what}");
    world.settle().await;
    assert_eq!(world.merge.calls(), 2, "{what}: the next call goes out when it is over");
    world.assert_idle();
}

/// The same for a page of these models.
async fn lives(what: &str, models: &[(&str, &str, Option<SystemTime>)], most: u64, shortened: bool) {
    assert_lives(what, sync_page(models), vec![], most, shortened).await;
}

#[tokio::test(start_paused = true)]
async fn while_something_syncs_a_page_lives_as_long_as_syncing_says() {
    lives("syncing", &[("ats.Job", "DONE", Some(at(3_600))), ("ats.Offer", "SYNCING", None)], 5, false).await;
    lives("syncing, the next soon", &[("ats.Job", "DONE", Some(at(4))), ("ats.Offer", "SYNCING", None)], 4, true).await;
    for status in ["IDLE", "done", ""] {
        lives(status, &[("ats.Job", status, Some(at(3_600)))], 5, false).await;
    }
    let initial = r#"{"results":[{"model_id":"ats.Job","status":"DONE","is_initial_sync":true}]}"#;
    assert_lives("an initial sync", initial.into(), vec![], 5, false).await;
    let missing = r#"{"results":[{"model_id":"ats.Job"}]}"#;
    assert_lives("no status", missing.into(), vec![], 5, false).await;
}

#[tokio::test(start_paused = true)]
async fn when_nothing_syncs_a_page_lives_until_the_next_start_within_bounds() {
    lives("far", &[("ats.Job", "DONE", Some(at(3_600)))], 60, true).await;
    lives("near", &[("ats.Job", "DONE", Some(at(40))), ("ats.Offer", "FAILED", Some(at(20)))], 20, true).await;
    lives("partly synced", &[("ats.Job", "PARTIALLY_SYNCED", Some(at(30)))], 30, true).await;
    lives("at once", &[("ats.Job", "DONE", Some(at(1)))], 2, false).await;
    lives("overdue", &[("ats.Job", "DONE", Some(at(-600)))], 2, false).await;
    lives("no next start", &[("ats.Job", "DONE", None)], 60, true).await;
    let unreadable = r#"{"results":[{"status":"DONE","next_sync_start":"soon"}]}"#;
    assert_lives("unreadable", unreadable.into(), vec![], 60, true).await;
}

#[tokio::test(start_paused = true)]
async fn models_that_do_not_sync_do_not_count() {
    lives("all at rest", &[("ats.Job", "PAUSED", Some(at(10))), ("ats.Offer", "DISABLED", Some(at(-10)))], 60, true)
        .await;
    lives("one counts", &[("ats.Job", "PAUSED", Some(at(10))), ("ats.Offer", "DONE", Some(at(20)))], 20, true).await;
    lives("none", &[], 60, true).await;
}

#[tokio::test(start_paused = true)]
async fn json_that_lists_nothing_lives_the_shortest_time() {
    for body in ["{}", "[]", "7", r#"{"results":null}"#, r#"{"results":{}}"#] {
        assert_lives(body, body.into(), vec![], 2, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_changes_nothing() {
    let body = sync_page(&[("ats.Job", "DONE", Some(at(20)))]);
    assert_lives("marked", body, Fault::Bom, 20, true).await;
}

#[tokio::test(start_paused = true)]
async fn times_are_read_by_merges_clock() {
    let ahead = sync_page(&[("ats.Job", "DONE", Some(at(3_620)))]);
    assert_lives("ahead", ahead, Fault::DateSkew(3_600), 20, true).await;
    let behind = sync_page(&[("ats.Job", "DONE", Some(at(-3_580)))]);
    assert_lives("behind", behind, Fault::DateSkew(-3_600), 20, true).await;
}

#[tokio::test(start_paused = true)]
async fn what_merge_says_of_caches_does_not_matter() {
    for (name, value) in [("cache-control", "no-store"), ("cache-control", "max-age=1"), ("age", "9"), ("expires", "0")]
    {
        let header = Fault::Header(name.parse().expect("a name"), value.parse().expect("a value"));
        let body = sync_page(&[("ats.Job", "DONE", Some(at(20)))]);
        assert_lives(value, body, header, 20, true).await;
    }
}
