//! Encoded twins and validators: fewer bytes to clients and from Merge, and the same page.

use std::io::Read;
use std::time::Duration;

use http::Method;
use merge_sync_proxy::demo::fault::Fault;
use tokio::time::advance;

use crate::support::{Got, SYNC_STATUS, World, ask, merge, method};

const SECOND: Duration = Duration::from_secs(1);

/// A world whose page lives five seconds and does not change, behind a Merge that knows validators.
fn validating() -> World {
    let world = World::with(merge().etags(true), "");
    world.merge.page("acme", "ats", r#"{"results":[{"status":"SYNCING"}],"version":1}"#);
    world
}

async fn accepting(world: &World, codings: &str) -> Got {
    world.get_with(SYNC_STATUS, &[("accept-encoding", codings)]).await
}

/// Asks until the twin is made, which happens beside the path of requests.
async fn twin(world: &World, codings: &str) -> Got {
    for _ in 0..1_000_000 {
        let got = accepting(world, codings).await;
        if got.headers.contains_key("content-encoding") {
            return got;
        }
        tokio::task::yield_now().await;
    }
    panic!("no twin for {codings}");
}

fn decoded(got: &Got) -> Vec<u8> {
    let mut body = Vec::new();
    match got.header("content-encoding") {
        "gzip" => flate2::read::GzDecoder::new(&got.body[..]).read_to_end(&mut body).expect("gzip"),
        "br" => brotli::Decompressor::new(&got.body[..], 4_096).read_to_end(&mut body).expect("br"),
        other => panic!("{other:?}"),
    };
    body
}

#[tokio::test(start_paused = true)]
async fn twins_are_the_page_in_fewer_bytes_under_a_weak_tag() {
    let world = World::new();
    let plain = world.get(SYNC_STATUS).await;
    let weak = format!("W/{}", plain.header("etag"));
    for (codings, coding) in [("gzip", "gzip"), ("br", "br"), ("gzip, deflate, br", "br"), ("br;q=0.1, gzip", "gzip")] {
        let got = twin(&world, codings).await;
        assert_eq!((got.header("content-encoding"), got.header("etag")), (coding, &*weak), "{codings}");
        assert!(got.cache().starts_with("hit; ttl=") && got.body.len() < plain.body.len());
        assert_eq!(decoded(&got), plain.body, "{codings}");
        for name in ["vary", "cache-control", "content-type"] {
            assert_eq!(got.header(name), plain.header(name), "{codings}");
        }
        let head = method(Method::HEAD, ask(SYNC_STATUS));
        let (mut parts, body) = head.into_parts();
        parts.headers.insert("accept-encoding", codings.parse().expect("a value"));
        let head = world.send(http::Request::from_parts(parts, body)).await;
        assert_eq!((head.number("content-length"), head.body.len()), (got.body.len() as u64, 0));
        assert_eq!(head.header("content-encoding"), coding);
    }
    assert_eq!(world.merge.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_page_is_encoded_for_those_who_accept_that_and_for_nobody_else() {
    let world = validating();
    // A page that takes far longer to encode than to answer with: the first who would read it encoded must not find it so by chance.
    let models = vec![r#"{"status":"SYNCING"}"#; 100_000].join(",");
    world.merge.page("acme", "ats", format!(r#"{{"results":[{models}]}}"#));
    let is_encoded = || world.app.ground().store.pages().any(|(_, page)| page.is_encoded());
    for _ in 0..3 {
        assert_eq!(world.get(SYNC_STATUS).await.header("content-encoding"), "");
        advance(SECOND).await;
    }
    assert!(!is_encoded());
    assert_eq!(accepting(&world, "gzip").await.header("content-encoding"), "", "nobody waits for it");
    twin(&world, "gzip").await;
    assert!(is_encoded());
}

#[tokio::test(start_paused = true)]
async fn who_accepts_nothing_that_there_is_gets_the_page_as_it_is() {
    let world = World::new();
    let plain = world.get(SYNC_STATUS).await;
    twin(&world, "br").await;
    for codings in ["identity;q=0", "*;q=0", "", "zstd", "gzip;q=0", "identity", "gzip;q=0, br;q=0, identity;q=0"] {
        let got = accepting(&world, codings).await;
        assert_eq!((got.header("content-encoding"), got.header("etag")), ("", plain.header("etag")), "{codings:?}");
        assert_eq!(got.body, plain.body, "{codings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_304_has_the_tag_and_vary_that_the_page_would_have() {
    let world = World::new();
    world.get(SYNC_STATUS).await;
    for codings in ["identity", "br", "gzip"] {
        let full = if codings == "identity" { accepting(&world, codings).await } else { twin(&world, codings).await };
        for tag in [full.header("etag"), full.header("etag").trim_start_matches("W/"), "*"] {
            let headers = [("accept-encoding", codings), ("if-none-match", tag)];
            let got = world.get_with(SYNC_STATUS, &headers).await;
            assert_eq!((got.status.as_u16(), got.body.len()), (304, 0), "{codings}, {tag}");
            assert_eq!(got.names(), ["age", "cache-control", "cache-status", "etag", "vary", "x-request-id"]);
            for name in ["etag", "vary", "cache-control"] {
                assert_eq!(got.header(name), full.header(name), "{codings}, {tag}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_merge_confirms_is_renewed_and_its_304_stays_here() {
    let world = validating();
    let first = world.get(SYNC_STATUS).await;
    for round in 1..=3 {
        advance(SECOND * 40).await;
        let renewed = world.get(SYNC_STATUS).await;
        assert_eq!((renewed.status.as_u16(), &renewed.body), (200, &first.body), "round {round}");
        assert_eq!(renewed.cache(), "fwd=stale; fwd-status=304; stored; ttl=5");
        assert_eq!((renewed.number("age"), renewed.header("etag")), (0, first.header("etag")));
        assert_eq!(world.get(SYNC_STATUS).await.cache(), "hit; ttl=5");
    }
    let log = world.merge.log();
    assert_eq!(log.iter().map(|call| call.status).collect::<Vec<_>>(), [200, 304, 304, 304]);
    let asked: Vec<_> = log.iter().map(|call| call.headers.get("if-none-match")).collect();
    assert!(asked[0].is_none() && asked[1..].iter().all(|tag| tag.is_some_and(|tag| *tag != *first.header("etag"))));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn where_merge_says_when_a_page_changed_clients_may_ask_by_date() {
    let world = validating();
    let first = world.get(SYNC_STATUS).await;
    let since = |date: &str| [("if-modified-since", date.to_owned())];
    let ask = async |fields: &[(&str, String)]| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        world.get_with(SYNC_STATUS, &fields).await
    };
    let known = ask(&since(first.header("last-modified"))).await;
    assert_eq!((known.status.as_u16(), known.header("last-modified")), (304, first.header("last-modified")));
    assert_eq!(ask(&since("Sun, 06 Nov 1994 08:49:37 GMT")).await.status, 200);
    let [date] = since(first.header("last-modified"));
    assert_eq!(ask(&[("if-none-match", "\"other\"".to_owned()), date]).await.status, 200, "a tag counts for more");
    let undated = World::new();
    let got = undated.get_with(SYNC_STATUS, &[("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")]).await;
    assert_eq!((got.status.as_u16(), got.header("last-modified")), (200, ""));
}

#[tokio::test(start_paused = true)]
async fn a_clients_condition_is_answered_here_and_does_not_go_to_merge() {
    let world = validating();
    let cold = world.get_with(SYNC_STATUS, &[("if-none-match", "\"x\"")]).await;
    assert_eq!(cold.status, 200);
    let tag = cold.header("etag").to_owned();
    advance(SECOND * 40).await;
    let confirmed = world.get_with(SYNC_STATUS, &[("if-none-match", &tag)]).await;
    assert_eq!((confirmed.status.as_u16(), confirmed.cache()), (304, "fwd=stale; fwd-status=304; stored; ttl=5"));
    let sent = world.merge.log().into_iter().map(|call| call.headers.get("if-none-match").cloned());
    assert!(sent.flatten().all(|sent| sent != *tag && sent != "\"x\""));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_changed_is_fetched_whole_with_its_own_tag() {
    let world = validating();
    let before = world.get(SYNC_STATUS).await;
    world.merge.page("acme", "ats", r#"{"results":[{"status":"SYNCING"}],"version":2}"#);
    advance(SECOND * 40).await;
    let after = world.get_with(SYNC_STATUS, &[("if-none-match", before.header("etag"))]).await;
    assert_eq!((after.status.as_u16(), after.cache()), (200, "fwd=stale; fwd-status=200; stored; ttl=5"));
    assert_ne!((after.header("etag"), &after.body), (before.header("etag"), &before.body));
    world.merge.set(Fault::Status(500));
    advance(SECOND * 40).await;
    assert_eq!(world.get(SYNC_STATUS).await.body, after.body);
}
