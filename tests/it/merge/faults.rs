//! Each fault on a bare socket, where nothing can hide it, and the timed ones on a paused clock.

use std::io::Read;

use flate2::read::GzDecoder;
use merge_sync_proxy::demo::fault::{Fault, Faults};
use tokio::time::Instant;

use super::*;

/// The head and the body of the answer to one bare request under these faults.
async fn under(faults: impl Into<Faults>) -> Option<(String, String)> {
    let merge = builder().build();
    merge.page("acme", "ats", "0123456789");
    merge.set(faults);
    let answer = Wire::new(&merge).await.raw("accept-encoding: br\r\n").await?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    Some((head.to_lowercase(), body.to_owned()))
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).expect("a status line")
}

#[tokio::test]
async fn good_answers_come_whole() {
    let (head, body) = under([]).await.expect("an answer");
    assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\ncontent-length: 10"), "{head}");
    assert_eq!(head.matches("\r\ndate: sun, 12 apr 2026").count(), 1, "{head}");
    assert_eq!(body, "0123456789");
    let (head, body) = under(Fault::Chunked).await.expect("an answer");
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
    assert_eq!(body, "A\r\n0123456789\r\n0\r\n\r\n");
}

#[tokio::test]
async fn truncated_answers_end_in_the_middle() {
    let (head, body) = under(Fault::TruncateLength).await.expect("an answer");
    assert!(head.contains("\r\ncontent-length: 10"), "{head}");
    assert_eq!(body, "01234");
    let (head, body) = under(Fault::TruncateChunked).await.expect("an answer");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(body, "5\r\n01234\r\n");
    let (head, body) = under([Fault::EmptyOk, Fault::TruncateLength]).await.expect("an answer");
    assert!(head.contains("\r\ncontent-length: 1"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn a_reset_connection_says_nothing() {
    assert_eq!(under(Fault::ResetBeforeHeaders).await, None);
}

#[tokio::test]
async fn statuses_have_the_bodies_that_they_may_have() {
    for (fault, expected, expected_body) in [
        (Fault::Status(503), "503", r#"{"detail":"Service Unavailable"}"#),
        (Fault::answer(418, &[("x-pot", "tea")], "short and stout"), "418", "short and stout"),
        (Fault::EmptyOk, "200", ""),
        (Fault::NoContent, "204", ""),
        (Fault::NotModifiedUnasked, "304", ""),
        (Fault::Redirect("https://elsewhere.example/".to_owned()), "301", ""),
        (Fault::Body("{}".into()), "200", "{}"),
        (Fault::Bom, "200", "\u{feff}0123456789"),
    ] {
        let (head, body) = under(fault.clone()).await.expect("an answer");
        assert_eq!((status(&head), &*body), (expected, expected_body), "{fault:?}");
        let bodiless = matches!(fault, Fault::NoContent | Fault::NotModifiedUnasked);
        assert_eq!(head.contains("content-length"), !bodiless, "{head}");
    }
    let (head, _) = under(Fault::answer(418, &[("x-pot", "tea")], "")).await.expect("an answer");
    assert!(head.contains("\r\nx-pot: tea") && !head.contains("content-type"), "{head}");
    let (head, _) = under(Fault::Redirect("https://elsewhere.example/".to_owned())).await.expect("an answer");
    assert!(head.contains("\r\nlocation: https://elsewhere.example/"), "{head}");
    let (head, body) = under(Fault::Html).await.expect("an answer");
    assert!(head.contains("content-type: text/html") && body.starts_with("<!doctype html>"), "{head}");
    let (_, body) = under(Fault::BadJson).await.expect("an answer");
    serde_json::from_str::<serde_json::Value>(&body).expect_err("it is bad");
    let (head, body) = under(Fault::HugeBody(1_000_000)).await.expect("an answer");
    assert!(head.contains("content-length: 1000000"), "{head}");
    assert_eq!(body.len(), 1_000_000);
}

#[tokio::test]
async fn header_fields_are_added_and_dates_bent() {
    let extra = Fault::Header(http::header::SET_COOKIE, "session=1".parse().expect("a value"));
    let (head, body) = under([extra, Fault::NoDate]).await.expect("an answer");
    assert!(head.contains("\r\nset-cookie: session=1") && !head.contains("\r\ndate:"), "{head}");
    assert_eq!(body, "0123456789");
    let (head, _) = under(Fault::DateSkew(-86_400)).await.expect("an answer");
    assert!(head.contains("\r\ndate: sat, 11 apr 2026"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn gzip_is_for_those_who_accept_it_or_for_all() {
    let merge = builder().build();
    let plain = get(&merge, SYNC_STATUS).await;
    merge.set(Fault::Gzip);
    assert_eq!(get(&merge, SYNC_STATUS).await.body(), plain.body());
    let mut accepting = request("token-acme", SYNC_STATUS);
    accepting.headers_mut().insert("accept-encoding", "gzip, deflate".parse().expect("a value"));
    merge.script(Fault::GzipAlways).once();
    for answer in [get(&merge, SYNC_STATUS).await, ask(&merge, accepting).await] {
        assert_eq!(field(answer.headers(), "content-encoding"), Some("gzip"));
        let mut decoded = Vec::new();
        GzDecoder::new(&**answer.body()).read_to_end(&mut decoded).expect("gzip");
        assert_eq!(&decoded, plain.body());
    }
}

#[tokio::test(start_paused = true)]
async fn delays_and_drops_take_their_time() {
    let merge = builder().build();
    merge.page("acme", "ats", "0123456789");
    let start = Instant::now();
    merge.script(Fault::Delay(Duration::from_secs(7))).once();
    get(&merge, SYNC_STATUS).await;
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    merge.script([Fault::Chunked, Fault::SlowBody { chunk: 3, every: Duration::from_secs(1) }]).once();
    let mut body = merge.clone().oneshot(request("token-acme", SYNC_STATUS)).await.expect("an answer").into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        assert_eq!(merge.in_flight(), 1, "until the body is gone");
        frames.push(frame.expect("a frame").into_data().expect("data"));
    }
    drop(body);
    assert_eq!(frames, ["012", "345", "678", "9"]);
    assert_eq!((start.elapsed(), merge.in_flight()), (Duration::from_secs(10), 0));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_never_ends_and_a_broken_body_is_an_error() {
    let merge = builder().build();
    merge.script(Fault::Hang).only("acme").once();
    let call = merge.clone().oneshot(request("token-acme", SYNC_STATUS));
    tokio::time::timeout(Duration::from_secs(86_400), call).await.expect_err("it hangs");
    merge.script(Fault::ResetBeforeHeaders).once();
    merge.clone().oneshot(request("token-acme", SYNC_STATUS)).await.expect_err("it is reset");
    merge.script(Fault::TruncateLength).once();
    let cut = merge.clone().oneshot(request("token-acme", SYNC_STATUS)).await.expect("a head");
    cut.into_body().collect().await.expect_err("it is cut");
    assert_eq!(merge.log().iter().map(|seen| seen.status).collect::<Vec<_>>(), [0, 0, 200]);
    merge.set(Fault::Hang);
    merge.clear();
    assert_eq!(get(&merge, SYNC_STATUS).await.status(), 200);
}
