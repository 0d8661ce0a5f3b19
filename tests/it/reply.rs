//! How answers look: the headers of every kind, bodies, HEAD, 304, names.

use std::time::Duration;

use http::Method;
use merge_sync_proxy::demo::fault::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::advance;

use crate::support::{Got, SYNC_STATUS, Wire, World, ask, method, soon, with};

const SECOND: Duration = Duration::from_secs(1);

const PAGE: [&str; 7] = ["age", "cache-control", "cache-status", "content-type", "etag", "vary", "x-request-id"];

const ERROR: [&str; 4] = ["cache-control", "cache-status", "content-type", "x-request-id"];

/// A world in which acme is syncing: its pages live five seconds.
fn syncing() -> World {
    let world = World::new();
    world.merge.start_sync("acme");
    world
}

/// Checks all of a good page's headers but the one that tells it from the others.
fn is_page(answer: &Got, age: u64, cache: &str) {
    assert_eq!((answer.status.as_u16(), answer.names()), (200, PAGE.to_vec()), "{cache}");
    assert_eq!(answer.cache(), cache);
    assert_eq!(answer.number("age"), age, "{cache}");
    assert_eq!(answer.header("cache-control"), "private, max-age=5");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("vary").to_ascii_lowercase(), "accept-encoding");
    let tag = answer.header("etag");
    assert!(tag.len() > 10 && tag.starts_with('"') && tag.ends_with('"'), "a strong tag: {tag}");
}

#[tokio::test(start_paused = true)]
async fn a_page_has_the_same_headers_however_it_came_about() {
    let world = syncing();
    is_page(&world.get(SYNC_STATUS).await, 0, "fwd=uri-miss; fwd-status=200; stored; ttl=5");
    is_page(&world.get(SYNC_STATUS).await, 0, "hit; ttl=5");
    advance(SECOND * 3 / 2).await;
    is_page(&world.get(SYNC_STATUS).await, 1, "hit; ttl=4");
    is_page(
        &world.get_with(SYNC_STATUS, &[("cache-control", "no-cache")]).await,
        0,
        "fwd=request; fwd-status=200; stored; ttl=5",
    );
    is_page(&world.get_with(SYNC_STATUS, &[("cache-control", "no-store")]).await, 0, "fwd=request; fwd-status=200");
    advance(SECOND * 8).await;
    is_page(&world.get_with(SYNC_STATUS, &[("cache-control", "max-stale")]).await, 8, "hit; ttl=-3");
    world.merge.set(Fault::Status(500));
    is_page(&world.get(SYNC_STATUS).await, 8, "hit; ttl=-3; detail=revalidating");
    world.settle().await;
    is_page(&world.get(SYNC_STATUS).await, 8, "hit; ttl=-3; detail=upstream-error");
    world.merge.clear();
    advance(SECOND * 60).await;
    is_page(&world.get(SYNC_STATUS).await, 0, "fwd=stale; fwd-status=200; stored; ttl=5");
    world.merge.set(Fault::ResetBeforeHeaders);
    advance(SECOND * 90).await;
    is_page(&world.get(SYNC_STATUS).await, 90, "hit; ttl=-85; detail=upstream-error");
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_fetch_is_told_so() {
    let world = syncing();
    let held = world.merge.hold();
    let both = [world.begin(SYNC_STATUS), world.begin(SYNC_STATUS)];
    while world.app.ground().flights.count().1 < 2 {
        tokio::task::yield_now().await;
    }
    held.release();
    let mut caches = Vec::new();
    for one in both {
        let answer = one.await.expect("no panic");
        is_page(&answer, 0, answer.cache());
        caches.push(answer.cache().to_owned());
    }
    caches.sort_unstable();
    assert_eq!(caches, ["fwd=uri-miss; collapsed", "fwd=uri-miss; fwd-status=200; stored; ttl=5"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_merge_passes_with_its_status_and_body() {
    let world = World::new();
    for status in [400, 402, 409, 410, 422, 500, 501, 502, 504] {
        world.merge.set(Fault::answer(status, &[("content-type", "text/plain")], format!("no {status}")));
        let answer = world.get(SYNC_STATUS).await;
        assert_eq!((answer.status.as_u16(), answer.names()), (status, ERROR.to_vec()));
        assert_eq!(answer.body, format!("no {status}"));
        assert_eq!(answer.header("content-type"), "text/plain");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.cache(), format!("fwd=uri-miss; fwd-status={status}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_refusal_looks_as_the_first_time() {
    for (status, mut names) in [
        (401, vec!["cache-control", "cache-status", "content-type", "www-authenticate", "x-request-id"]),
        (403, ERROR.to_vec()),
        (404, ERROR.to_vec()),
    ] {
        let world = World::new();
        world.merge.set(Fault::answer(
            status,
            &[("content-type", "application/json"), ("www-authenticate", "Bearer")],
            "{}",
        ));
        if status != 401 {
            world.merge.set(Fault::Status(status));
        }
        let first = world.get(SYNC_STATUS).await;
        assert_eq!(first.cache(), format!("fwd=uri-miss; fwd-status={status}; stored; ttl=5"));
        advance(SECOND).await;
        let second = world.get(SYNC_STATUS).await;
        assert_eq!(second.cache(), "hit; ttl=4; detail=negative");
        assert_eq!((first.status, &first.body), (second.status, &second.body));
        assert_eq!(first.names(), names);
        names.insert(0, "age");
        assert_eq!(second.names(), names, "only what was stored has an age");
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_or_503_of_merge_always_says_when_to_come_back() {
    for retry_after in ["0", "-5", "0.2", "1", "7", "7.5", "soon", "", "Wed, 15 Apr 2020 10:00:00 GMT", "none"] {
        for status in [429, 503] {
            let world = World::new();
            let headers = [("content-type", "application/json"), ("retry-after", retry_after)];
            let headers = if retry_after == "none" { &headers[..1] } else { &headers };
            world.merge.set(Fault::answer(status, headers, "{}"));
            let answer = world.get(SYNC_STATUS).await;
            assert_eq!(answer.status.as_u16(), status);
            let pause = answer.number("retry-after");
            let expected = match retry_after {
                "7" => 7..=7,
                "7.5" => 8..=8,
                _ => 1..=2,
            };
            assert!(expected.contains(&pause), "{status} with {retry_after:?} became {pause}");
            assert_eq!(
                answer.names(),
                ["cache-control", "cache-status", "content-type", "retry-after", "x-request-id"]
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hit_is_byte_for_byte_what_merge_sent() {
    for body in ["{\"results\": [ ] }\n", "\u{feff}{\"results\":[]}", "{\"results\":[],\"é\":\"\\u00e9\"}", "7"] {
        for faults in [vec![], vec![Fault::GzipAlways], vec![Fault::Chunked]] {
            let world = World::new();
            world.merge.page("acme", "ats", body);
            world.merge.set(faults);
            let answers = [world.get(SYNC_STATUS).await, world.get(SYNC_STATUS).await];
            assert!(answers[1].cache().starts_with("hit"));
            assert!(answers.iter().all(|answer| answer.body == body && answer.status == 200), "{body}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ttl_and_age_add_up_to_max_age_at_any_moment() {
    let world = World::new();
    for number in 0..200_u64 {
        let answer = world.get(SYNC_STATUS).await;
        if let Some(rest) = answer.cache().strip_prefix("hit; ttl=") {
            let ttl: i64 = rest.split(';').next().unwrap_or_default().parse().expect("a number");
            let max_age = answer.header("cache-control").strip_prefix("private, max-age=").expect("whose it is");
            let age: i64 = answer.header("age").parse().expect("a number");
            assert_eq!(ttl + age, max_age.parse::<i64>().expect("a number"), "{}", answer.cache());
        }
        advance(Duration::from_millis(number * 37 % 4_001)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_answered_from_the_page_of_get() {
    let world = syncing();
    let cold = world.send(method(Method::HEAD, ask(SYNC_STATUS))).await;
    let get = world.get(SYNC_STATUS).await;
    let head = world.send(method(Method::HEAD, ask("/ats/v1/sync-status"))).await;
    assert_eq!(world.merge.calls(), 1);
    for head in [cold, head] {
        assert!(head.status == 200 && head.body.is_empty());
        assert_eq!(head.number("content-length"), get.body.len() as u64);
        assert_eq!(head.header("etag"), get.header("etag"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_the_page_already_gets_304() {
    let world = syncing();
    let get = world.get(SYNC_STATUS).await;
    let tag = get.header("etag");
    for line in [tag.to_owned(), format!("W/{tag}"), format!("\"x\", W/\"y\",{tag}"), "*".to_owned()] {
        for name in [Method::GET, Method::HEAD] {
            let request = with(SYNC_STATUS, &[("x-account-token", "acme"), ("if-none-match", &line)]);
            let answer = world.send(method(name, request)).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{line}");
            assert_eq!(answer.names(), ["age", "cache-control", "cache-status", "etag", "vary", "x-request-id"]);
            assert_eq!((answer.header("etag"), answer.cache()), (tag, "hit; ttl=5"));
        }
    }
    let split = [("if-none-match", "\"x\""), ("if-none-match", tag)];
    assert_eq!(world.get_with(SYNC_STATUS, &split).await.status, 304, "two lines are one list");
    for line in ["\"x\"", "", &tag.to_ascii_uppercase(), tag.trim_matches('"')] {
        assert_eq!(world.get_with(SYNC_STATUS, &[("if-none-match", line)]).await.status, 200, "{line}");
    }
    world.merge.set(Fault::Status(404));
    let missing = world.get_with(&format!("{SYNC_STATUS}?x"), &[("if-none-match", "*")]).await;
    assert_eq!(missing.status, 404, "an error is never 304");
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_its_name_or_gets_one() {
    let world = World::new();
    let longest = "x".repeat(128);
    for name in ["a", "0f8e-1", "~!@#$%^&*()", &longest] {
        for target in [SYNC_STATUS, "/nowhere"] {
            assert_eq!(world.get_with(target, &[("x-request-id", name)]).await.header("x-request-id"), name);
        }
    }
    for name in ["", "a b", "a\tb", "é", &"x".repeat(129)] {
        let made = world.get_with(SYNC_STATUS, &[("x-request-id", name)]).await;
        let made = uuid::Uuid::parse_str(made.header("x-request-id")).expect("a UUID");
        assert_eq!(made.get_version_num(), 7, "{name}");
    }
}

#[tokio::test]
async fn over_the_wire_every_answer_has_a_date_and_head_no_body() {
    let wire = Wire::new().await;
    let answers = [
        soon(wire.get(SYNC_STATUS)).await,
        soon(wire.get(SYNC_STATUS)).await,
        soon(wire.get("/nowhere")).await,
        soon(wire.send(with(SYNC_STATUS, &[("x-account-token", "acme"), ("if-none-match", "*")]))).await,
    ];
    for answer in &answers {
        assert!(!answer.header("date").is_empty() && !answer.header("x-request-id").is_empty(), "{answer:?}");
    }
    assert_eq!(answers[3].status, 304);
    let length = answers[0].body.len();
    let mut stream = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    let head = format!("HEAD {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n");
    let twice = format!("{head}\r\n{head}Connection: close\r\n\r\n");
    stream.write_all(twice.as_bytes()).await.expect("it takes requests");
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.expect("ASCII until the end");
    let heads: Vec<&str> = text.split_terminator("\r\n\r\n").collect();
    assert_eq!(heads.len(), 2, "{text}");
    for head in heads {
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains(&format!("\r\ncontent-length: {length}")), "{head}");
    }
}
