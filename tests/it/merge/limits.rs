//! Limits, and what the handle tells of calls.

use merge_sync_proxy::demo::fault::Fault;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn the_rate_is_an_exact_sliding_window_per_account() {
    let merge = builder().rate(2, MINUTE).build();
    let first = get(&merge, SYNC_STATUS).await;
    let left = |answer: &Response<Bytes>| field(answer.headers(), "x-ratelimit-remaining").map(str::to_owned);
    assert_eq!(left(&first).as_deref(), Some("1"));
    assert_eq!(field(first.headers(), "x-ratelimit-limit"), Some("2"));
    assert_eq!(field(first.headers(), "x-ratelimit-reset"), Some("1776000060"));
    tokio::time::advance(MINUTE / 2).await;
    assert_eq!(get(&merge, SYNC_STATUS).await.status(), 200);
    tokio::time::advance(Duration::from_millis(29_999)).await;
    let refused = get(&merge, SYNC_STATUS).await;
    assert_eq!(told(&refused), (429, r#"{"detail":"Request was throttled. Expected available in 1 seconds."}"#));
    assert_eq!((field(refused.headers(), "retry-after"), left(&refused).as_deref()), (Some("1"), Some("0")));
    tokio::time::advance(Duration::from_millis(1)).await;
    merge.rate_headers(false);
    let free = get(&merge, SYNC_STATUS).await;
    assert_eq!((free.status().as_u16(), left(&free)), (200, None));
    assert_eq!(ask(&merge, request("token-globex", "/api/hris/v1/sync-status")).await.status(), 200);
    assert_eq!(merge.max_in_any_window("acme", MINUTE / 2), 3);
    assert_eq!(merge.max_in_any_window("globex", MINUTE), 1);
}

#[tokio::test(start_paused = true)]
async fn more_than_twenty_failures_in_ten_seconds_block_every_account_for_a_minute() {
    let merge = builder().build();
    for _ in 0..20 {
        assert_eq!(ask(&merge, request("token-unknown", SYNC_STATUS)).await.status(), 401);
    }
    assert_eq!((get(&merge, SYNC_STATUS).await.status().as_u16(), merge.blocks()), (200, 0));
    merge.script(Fault::Status(500)).once();
    assert_eq!(get(&merge, SYNC_STATUS).await.status(), 500);
    let blocked = get(&merge, SYNC_STATUS).await;
    assert_eq!((blocked.status().as_u16(), field(blocked.headers(), "retry-after")), (429, Some("60")));
    assert_eq!((merge.blocks(), merge.max_failures_in_any_window(Duration::from_secs(10))), (1, 21));
    tokio::time::advance(MINUTE).await;
    assert_eq!(get(&merge, SYNC_STATUS).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_while_held_and_go_in_order() {
    let merge = builder().build();
    let held = merge.hold();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            tokio::spawn({
                let merge = merge.clone();
                async move { get(&merge, SYNC_STATUS).await.status().as_u16() }
            })
        })
        .collect();
    merge.arrived(3).await;
    assert_eq!((merge.calls(), merge.in_flight(), merge.log()[0].status), (3, 3, 0));
    for status in [501, 502] {
        merge.script(Fault::Status(status)).once();
    }
    assert!(held.release_one());
    held.release();
    let mut told = Vec::new();
    for call in calls {
        told.push(call.await.expect("no panic"));
    }
    merge.idle().await;
    assert_eq!(told, [501, 502, 200]);
    assert_eq!((merge.in_flight(), merge.most_in_flight()), (0, 3));
    assert_eq!(merge.log().iter().map(|seen| seen.status).collect::<Vec<_>>(), [501, 502, 200]);
    merge.clear_log();
    assert_eq!((merge.calls(), merge.log().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_is_in_flight_no_longer() {
    let merge = builder().build();
    let held = merge.hold();
    let call = merge.clone().oneshot(request("token-acme", SYNC_STATUS));
    tokio::time::timeout(Duration::from_secs(1), call).await.expect_err("it is held");
    assert_eq!((merge.calls(), merge.in_flight()), (1, 0));
    assert!(!held.release_one(), "nobody waits");
}
