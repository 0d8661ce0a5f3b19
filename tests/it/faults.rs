//! Whatever the upstream does: the documented answer, nothing wrong stored, and the next good answer at once.

use std::time::Duration;

use http::Method;
use merge_sync_proxy::app::App;
use merge_sync_proxy::demo::fault::{Fault, Faults};
use merge_sync_proxy::domain::key::TokenHasher;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::support::{self, Got, SYNC_STATUS, Wire, World, ask, method, soon};

const MISS: &str = "fwd=uri-miss; fwd-status=200; stored";
const MIB: usize = 1 << 20;

/// What `got` is: its status, and the problem if it is one of ours.
fn told(got: &Got) -> (u16, String) {
    (got.status.as_u16(), got.problem())
}

/// The answer while the upstream is like that, and how many calls it took. Then, as soon as the upstream is well, the page comes
/// and is kept.
async fn under(faults: impl Into<Faults>) -> (Got, usize) {
    let world = World::new();
    world.merge.set(faults);
    let got = world.get(SYNC_STATUS).await;
    let calls = world.merge.calls();
    world.merge.clear();
    world.assert_idle();
    let next = world.get(SYNC_STATUS).await;
    assert!(next.cache().starts_with(MISS), "{}", next.cache());
    assert!(world.get(SYNC_STATUS).await.cache().starts_with("hit; ttl="));
    (got, calls)
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_502() {
    let elsewhere = Fault::Redirect("https://elsewhere.example/".to_owned());
    for fault in [
        Fault::TruncateLength,
        Fault::TruncateChunked,
        Fault::Html,
        Fault::EmptyOk,
        Fault::BadJson,
        Fault::NoContent,
        Fault::NotModifiedUnasked,
        elsewhere,
        Fault::HugeBody(64 * MIB + 1),
        Fault::Body("{\"results\":[]} and more".into()),
        Fault::answer(206, &[("content-range", "bytes 0-1/9")], "{}"),
        Fault::answer(300, &[], "{}"),
        Fault::answer(200, &[("content-encoding", "gzip")], "{}"),
    ] {
        let (got, calls) = under(fault.clone()).await;
        assert_eq!(told(&got), (502, "upstream-failed".into()), "{fault:?}");
        assert_eq!(calls, 1, "{fault:?}: an answer, however bad, is not asked for again");
        assert_eq!(got.header("cache-control"), "no-store");
        assert!(!got.headers.contains_key("location"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_tried_again_and_then_told() {
    let (got, calls) = under(Fault::ResetBeforeHeaders).await;
    assert_eq!((told(&got), calls), ((502, "upstream-failed".into()), 3));
    let world = World::new();
    world.merge.script(Fault::ResetBeforeHeaders).times(2);
    assert!(world.get(SYNC_STATUS).await.cache().starts_with(MISS));
    assert_eq!(world.merge.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_fails_does_not_get_a_multiple_of_its_load() {
    // Without the breaker, which would leave it alone altogether.
    let unlimited = ["per_account", "errors", "concurrency", "breaker"].map(|key| format!("{key} = 'unlimited'\n"));
    let world = World::with(support::merge(), &format!("[upstreams.us.budget]\n{}", unlimited.concat()));
    for (fault, status) in [(Fault::ResetBeforeHeaders, 502), (Fault::Status(503), 503)] {
        world.merge.clear_log();
        world.merge.set(fault);
        let start = Instant::now();
        for number in 0..1_000 {
            assert_eq!(world.get(&format!("{SYNC_STATUS}?cursor={number}")).await.status, status);
            sleep(Duration::from_millis(20)).await;
        }
        let calls = world.merge.calls();
        let seconds = usize::try_from(start.elapsed().as_secs()).expect("a few minutes");
        println!("{calls} calls for 1000 requests in {seconds} s");
        // A fifth of the calls, two a second, and what the first window has to give.
        assert!((1_150..=1_000 + 200 + 2 * seconds + 10).contains(&calls), "{calls}");
        sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_is_504() {
    let (got, calls) = under(Fault::Hang).await;
    assert_eq!((told(&got), calls), ((504, "upstream-timeout".into()), 1));
    let (got, _) = under(Fault::Delay(Duration::from_secs(3600))).await;
    assert_eq!(told(&got), (504, "upstream-timeout".into()));
    let (got, _) = under(Fault::SlowBody { chunk: 1, every: Duration::from_secs(1) }).await;
    assert_eq!(told(&got), (504, "upstream-timeout".into()));
}

#[tokio::test(start_paused = true)]
async fn whatever_the_form_a_good_page_is_a_good_page() {
    let plain = World::new().get(SYNC_STATUS).await.body;
    let slow = Fault::SlowBody { chunk: 1000, every: Duration::from_secs(1) };
    let cookie = Fault::Header(http::header::SET_COOKIE, "session=1".parse().expect("a value"));
    for faults in [
        vec![Fault::Chunked],
        vec![Fault::Gzip],
        vec![Fault::GzipAlways],
        vec![Fault::GzipAlways, Fault::Chunked],
        vec![slow],
        vec![Fault::NoDate],
        vec![Fault::DateSkew(-86_400)],
        vec![cookie],
    ] {
        let world = World::new();
        world.merge.script(faults.clone()).once();
        let got = world.get(SYNC_STATUS).await;
        assert!(got.cache().starts_with(MISS), "{faults:?}: {}", got.cache());
        let hit = world.get(SYNC_STATUS).await;
        assert!(hit.cache().starts_with("hit; ttl="));
        for answer in [got, hit] {
            assert_eq!(answer.header("content-type"), "application/json");
            assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("content-encoding"));
            let model_names = |body: &[u8]| body.windows(10).filter(|window| *window == b"model_name").count();
            assert_eq!(model_names(&answer.body), model_names(&plain), "{faults:?}");
            serde_json::from_slice::<serde_json::Value>(&answer.body).expect("whole JSON");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_tolerated_and_kept() {
    let world = World::new();
    world.merge.set(Fault::Bom);
    let got = world.get(SYNC_STATUS).await;
    assert!(got.cache().starts_with(MISS) && got.body.starts_with(b"\xef\xbb\xbf{"));
    assert_eq!(world.get(SYNC_STATUS).await.body, got.body);
}

#[tokio::test(start_paused = true)]
async fn a_page_beyond_the_limit_goes_to_those_who_wait_and_is_not_kept() {
    let (got, calls) = under(Fault::HugeBody(4 * MIB + 1)).await;
    assert_eq!((got.cache(), got.body.len(), calls), ("fwd=uri-miss; fwd-status=200", 4 * MIB + 1, 1));
    let world = World::new();
    world.merge.set(Fault::HugeBody(4 * MIB));
    assert!(world.get(SYNC_STATUS).await.cache().starts_with(MISS));
}

#[tokio::test(start_paused = true)]
async fn errors_of_merge_pass_with_status_and_body() {
    for (status, calls) in [(400, 1), (408, 1), (418, 1), (429, 1), (500, 1), (502, 3), (503, 3), (504, 3)] {
        let world = World::new();
        world.merge.set(Fault::answer(status, &[("content-type", "text/plain")], "as Merge says"));
        let got = world.get(SYNC_STATUS).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (status, &b"as Merge says"[..]));
        assert_eq!((got.header("content-type"), got.header("cache-control")), ("text/plain", "no-store"));
        assert_eq!(got.cache(), format!("fwd=uri-miss; fwd-status={status}"));
        assert_eq!(got.headers.contains_key("retry-after"), matches!(status, 429 | 503), "{status}");
        assert_ne!(got.header("retry-after"), "0");
        assert_eq!(world.merge.calls(), calls, "{status}");
        world.merge.clear();
        if status == 429 {
            sleep(Duration::from_secs(got.header("retry-after").parse().expect("whole seconds"))).await;
        }
        assert!(world.get(SYNC_STATUS).await.cache().starts_with(MISS), "{status}");
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_told_of_a_failure_as_get_is_but_for_the_body() {
    let world = World::new();
    for (fault, status) in [(Fault::Html, 502), (Fault::Status(500), 500), (Fault::Hang, 504)] {
        world.merge.set(fault);
        let got = world.get(SYNC_STATUS).await;
        let head = world.send(method(Method::HEAD, ask(SYNC_STATUS))).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (status, 0));
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        assert_eq!(head.header("content-type"), got.header("content-type"));
    }
    assert!(world.merge.log().iter().all(|call| call.method == Method::GET), "pages are fetched whole");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_remembered_for_a_short_while() {
    for status in [401, 403, 404] {
        let world = World::new();
        world.merge.script(Fault::Status(status)).once();
        let got = world.get(SYNC_STATUS).await;
        assert_eq!((got.status.as_u16(), &*got.problem()), (status, ""));
        assert!(got.cache().starts_with(&format!("fwd=uri-miss; fwd-status={status}")), "{}", got.cache());
        let again = world.get(SYNC_STATUS).await;
        assert_eq!((again.status, &again.body), (got.status, &got.body));
        assert_eq!((again.cache(), world.merge.calls()), ("hit; ttl=5; detail=negative", 1));
        assert_eq!((got.header("age"), again.header("age")), ("", "0"), "only what was stored has an age");
        sleep(Duration::from_secs(5)).await;
        let well = world.get(SYNC_STATUS).await;
        assert_eq!((well.status.as_u16(), world.merge.calls()), (200, 2), "{}", well.cache());
        world.assert_idle();
    }
}

#[tokio::test]
async fn broken_connections_break_one_answer_and_nothing_else() {
    let wire = Wire::with(support::merge(), "").await;
    for (number, fault) in [
        Fault::ResetBeforeHeaders,
        Fault::TruncateLength,
        Fault::TruncateChunked,
        Fault::NotModifiedUnasked,
        Fault::NoContent,
        Fault::BadJson,
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("{SYNC_STATUS}?page_size={}", number + 1);
        wire.merge.set(fault.clone());
        let got = soon(wire.get(&target)).await;
        assert_eq!(told(&got), (502, "upstream-failed".into()), "{fault:?}");
        wire.merge.clear();
        let next = soon(wire.get(&target)).await;
        assert!(next.cache().starts_with(MISS), "{fault:?}: {}", next.cache());
        assert!(wire.get(&target).await.cache().starts_with("hit"), "{fault:?}");
    }
    assert_eq!(wire.app.ground().flights.count(), (0, 0));
}

#[tokio::test]
async fn a_reset_of_one_connection_is_not_seen_by_anyone() {
    let wire = Wire::new().await;
    wire.merge.script(Fault::ResetBeforeHeaders).once();
    assert!(soon(wire.get(SYNC_STATUS)).await.cache().starts_with(MISS));
    assert_eq!(wire.merge.calls(), 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed_even_to_merge_itself() {
    let wire = Wire::new().await;
    wire.merge.set(Fault::Redirect(SYNC_STATUS.to_owned()));
    assert_eq!(told(&soon(wire.get(SYNC_STATUS)).await), (502, "upstream-failed".into()));
    assert_eq!(wire.merge.calls(), 1);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = listener.local_addr().expect("it is bound");
    drop(listener);
    let hasher = TokenHasher::new();
    let app = App::new(support::config(&format!("http://{closed}"), "", &hasher), &hasher).expect("plain HTTP");
    let Ok(got) = soon(app.service().oneshot(ask(SYNC_STATUS))).await;
    assert_eq!(got.status(), 502);
    assert_eq!(app.ground().flights.count(), (0, 0));
}
