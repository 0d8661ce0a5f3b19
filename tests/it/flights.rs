//! Any number of concurrent misses for a key make one call.

use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::demo::fault::Fault;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{SYNC_STATUS, Wire, World, ask, soon};

const LATE: Fault = Fault::Delay(Duration::from_millis(200));

#[tokio::test]
async fn a_thousand_on_a_cold_key_make_one_call_within_a_second() {
    let wire = Wire::new().await;
    wire.merge.set(LATE);
    let start = Instant::now();
    let all = join_all((0..1000).map(|_| wire.get(SYNC_STATUS)));
    let answers = soon(all).await;
    println!("1,000 answers in {:?}", start.elapsed());
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(answers.iter().filter(|answer| answer.cache().contains("stored")).count(), 1);
    assert_eq!(wire.merge.calls(), 1);
}

#[tokio::test]
async fn the_first_of_a_thousand_leaves_and_the_others_do_not_notice() {
    let wire = Wire::new().await;
    let held = wire.merge.hold();
    let mut first = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    let request = format!("GET {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n\r\n");
    first.write_all(request.as_bytes()).await.expect("it takes a request");
    soon(wire.merge.arrived(1)).await;
    let others = join_all((0..999).map(|_| wire.get(SYNC_STATUS)));
    let leave = async {
        drop(first);
        while wire.app.ground().flights.count().1 < 999 {
            tokio::task::yield_now().await;
        }
        held.release();
    };
    let (answers, ()) = soon(async { tokio::join!(others, leave) }).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 999);
    assert_eq!(wire.merge.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_gone_out_is_kept_although_all_have_left() {
    let world = World::new();
    let held = world.merge.hold();
    let only = world.begin(SYNC_STATUS);
    world.merge.arrived(1).await;
    only.abort();
    let _ = only.await;
    held.release();
    world.merge.idle().await;
    while world.app.ground().flights.count().0 > 0 {
        tokio::task::yield_now().await;
    }
    assert!(world.get(SYNC_STATUS).await.cache().starts_with("hit"));
    assert_eq!(world.merge.calls(), 1);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_the_call_went_out_costs_nothing() {
    let world = World::with(crate::support::merge(), "[upstreams.us.budget]\nconcurrency = 1");
    let held = world.merge.hold();
    let first = world.begin(SYNC_STATUS);
    world.merge.arrived(1).await;
    let queued = world.begin("/api/ats/v1/sync-status?page_size=7");
    while world.app.ground().flights.count().0 < 2 {
        tokio::task::yield_now().await;
    }
    queued.abort();
    let _ = queued.await;
    while world.app.ground().flights.count().0 > 1 {
        tokio::task::yield_now().await;
    }
    held.release();
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(world.merge.calls(), 1);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_failure_goes_to_those_who_wait_and_to_nobody_else() {
    let world = World::new();
    world.merge.script(Fault::TruncateLength).once();
    let held = world.merge.hold();
    let waiting: Vec<_> = (0..10).map(|_| world.begin(SYNC_STATUS)).collect();
    while world.app.ground().flights.count().1 < 10 {
        tokio::task::yield_now().await;
    }
    held.release();
    for answer in join_all(waiting).await {
        assert_eq!(answer.expect("no panic").problem(), "upstream-failed");
    }
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
    assert_eq!(world.merge.calls(), 2);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_its_deadline_and_frees_its_key() {
    let world = World::new();
    world.merge.script(Fault::Hang).once();
    let start = Instant::now();
    let answer = world.get(SYNC_STATUS).await;
    assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (504, "upstream-timeout"));
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(world.send(ask(SYNC_STATUS)).await.status, 200);
    world.assert_idle();
}
