//! Routes with `cache = "off"`: requests pass through as themselves, at the price of any call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::iter;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use merge_sync_proxy::domain::body::stream;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tower::BoxError;

use crate::origin::{Site, pass, pipe, reply, streamed};
use crate::support::{ACME_TOKEN, API_KEY, ask, method};

const ALL_HEADERS: &str = "request_headers = ['*']\n";

fn post(target: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::post(target).header("x-account-token", "acme");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from_static(body.as_bytes()))).expect("a valid request")
}

#[tokio::test(start_paused = true)]
async fn a_request_passes_with_the_proxy_s_credentials_and_nobody_s_own() {
    let fields = [
        ("authorization", "Bearer of-the-consumer"),
        ("cookie", "a=b"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-team", "growth"),
        ("accept", "text/csv"),
        ("content-type", "text/plain"),
        ("via", "1.0 before"),
    ];
    for (more, team, accept, via) in [
        ("", "", "application/json", "1.1 merge-sync-proxy"),
        (ALL_HEADERS, "growth", "text/csv", "1.0 before|1.1 merge-sync-proxy"),
        ("request_headers = ['X-Team']\n", "growth", "application/json", "1.1 merge-sync-proxy"),
    ] {
        let site = Site::route("off", more);
        let answer = [
            ("connection", "x-there, close"),
            ("x-there", "1"),
            ("keep-alive", "timeout=5"),
            ("set-cookie", "secret=1"),
            ("x-ratelimit-remaining", "7"),
            ("cache-status", "inner; hit"),
        ];
        site.answers(201, &answer, "made");
        let got = site.send(post("/x/things?b=1&a=%2f", &fields, "thing")).await;
        assert_eq!((got.status.as_u16(), &*got.body), (201, &b"made"[..]));
        for gone in ["set-cookie", "x-there", "keep-alive", "connection"] {
            assert!(!got.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(got.header("x-ratelimit-remaining"), "7");
        let told: Vec<_> = got.headers.get_all("cache-status").iter().collect();
        assert_eq!(told, ["inner; hit", "merge-sync-proxy; fwd=bypass; fwd-status=201"]);

        let (call, body) = site.last();
        assert_eq!((call.method, &*body), (Method::POST, &b"thing"[..]));
        assert_eq!(call.uri, "http://origin.test/base/x/things?b=1&a=%2f");
        assert_eq!(site.sent("authorization"), format!("Bearer {API_KEY}"));
        assert_eq!(site.sent("x-account-token"), ACME_TOKEN);
        assert_eq!((site.sent("host"), site.sent("content-type")), ("origin.test".into(), "text/plain".into()));
        for gone in ["cookie", "connection", "x-hop", "x-request-id"] {
            assert_eq!(site.sent(gone), "", "{gone}");
        }
        assert_eq!((&*site.sent("x-team"), &*site.sent("accept"), &*site.sent("via")), (team, accept, via), "{more}");
        site.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn redirects_and_encodings_pass_as_they_are() {
    let site = Site::route("off", "");
    site.answers(302, &[("location", "https://elsewhere.test/")], "");
    let got = site.get("/x/a").await;
    assert_eq!((got.status.as_u16(), got.header("location")), (302, "https://elsewhere.test/"));
    site.answers(200, &[("content-encoding", "gzip"), ("content-length", "8")], "not gzip");
    let got = site.get_with("/x/a", &[("accept-encoding", "gzip, zstd")]).await;
    assert_eq!((got.header("content-encoding"), &*got.body), ("gzip", &b"not gzip"[..]));
    assert_eq!(site.sent("accept-encoding"), "gzip, zstd");
    site.answers(200, &[("content-length", "8")], "");
    let got = site.send(method(Method::HEAD, ask("/x/a"))).await;
    assert_eq!((got.header("content-length"), got.body.len()), ("8", 0));
    assert_eq!(site.calls(), 3);
    let got = site.send(method(Method::OPTIONS, ask("/x/a"))).await;
    assert_eq!(
        (got.problem().as_str(), got.header("allow")),
        ("method-not-allowed", "DELETE, GET, HEAD, PATCH, POST, PUT")
    );
    assert_eq!(site.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn bodies_stream_both_ways_no_faster_than_they_are_read() {
    let site = Site::route("off", "");
    site.leave_bodies();
    let (answer, body) = pipe();
    let body = Mutex::new(Some(body));
    site.script(move |_, _| Ok(streamed(200, &[], body.lock().take().expect("one call").body())));
    let (upload, sent) = pipe();
    let request = Request::post("/x/a").header("x-account-token", "acme").body(sent.upload()).expect("a request");
    let mut response = site.begin(request).await;
    // The answer has begun although the request has not ended, and nobody reads ahead on either side.
    upload.try_send("one piece waits").expect("room for one");
    pass(1).await;
    upload.try_send("another").expect_err("nobody reads the first");
    for piece in ["one", "two"] {
        answer.try_send(piece).expect("room for one");
        pass(1).await;
        answer.try_send("too early").expect_err("the caller has not read the last");
        let frame = response.body_mut().frame().await.expect("more").expect("no failure");
        assert_eq!(frame.into_data().expect("data"), piece);
    }
    assert_eq!(site.app.ground().budgets.in_flight("us"), 1, "until the last byte");
    drop(answer);
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_flight_until_its_last_byte() {
    let site =
        Site::route("off", "[upstreams.us.budget]\nconcurrency = 1\nerrors = 'unlimited'\nper_account = 'unlimited'");
    let (answer, body) = pipe();
    let body = Mutex::new(Some(body));
    site.script(move |_, calls| {
        let body = body.lock().take().filter(|_| calls == 0);
        Ok(body.map_or_else(|| reply(200, &[], "next"), |body| streamed(200, &[], body.body())))
    });
    let first = site.begin(ask("/x/a")).await;
    assert_eq!(site.app.ground().budgets.in_flight("us"), 1);
    assert_eq!(site.get("/x/b").await.problem(), "budget-exhausted");
    drop(answer);
    assert_eq!(first.into_body().collect().await.expect("whole").to_bytes().len(), 0);
    assert_eq!(site.get("/x/b").await.body, "next");
    // Whoever leaves in the middle gives the place back too.
    drop(site.begin(ask("/x/c")).await);
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn rate_pauses_and_failures_are_those_of_every_call() {
    let budget = "[upstreams.us.budget]\nconcurrency = 'unlimited'\nmax_wait = '1ms'\n";
    let site = Site::route("off", &format!("{budget}per_account = '5/min'\nerrors = 'unlimited'"));
    for _ in 0..10 {
        site.send(post("/x/a", &[], "b")).await;
    }
    assert!((1..=5).contains(&site.calls()), "{} calls", site.calls());
    assert_eq!(site.get("/x/a").await.problem(), "budget-exhausted");
    let site = Site::route("off", &format!("{budget}per_account = 'unlimited'\nerrors = '1/10s'"));
    site.answers(500, &[], "oh");
    assert_eq!(site.get("/x/a").await.status, 500);
    assert_eq!(site.get("/x/a").await.problem(), "budget-exhausted");
    let site = Site::route("off", &format!("{budget}per_account = 'unlimited'\nerrors = 'unlimited'"));
    site.answers(429, &[("retry-after", "30")], "slow down");
    assert_eq!(site.get("/x/a").await.header("retry-after"), "30");
    let refused = site.get("/x/a").await;
    assert_eq!((refused.problem().as_str(), refused.header("retry-after")), ("budget-exhausted", "30"));
    assert_eq!(site.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_what_can_do_no_harm_is_tried_again() {
    let site = Site::route("off", "");
    site.script(|_, calls| if calls == 0 { Err("closed".into()) } else { Ok(reply(200, &[], "second")) });
    assert_eq!(site.get("/x/a").await.body, "second");
    assert_eq!(site.calls(), 2);
    for refused in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        site.script(|_, _| Err("closed".into()));
        let before = site.calls();
        assert_eq!(site.send(method(refused.clone(), post("/x/a", &[], "b"))).await.problem(), "upstream-failed");
        assert_eq!(site.calls(), before + 1, "{refused}");
    }
    site.answers(503, &[], "an answer");
    let before = site.calls();
    assert_eq!(site.get("/x/a").await.body, "an answer");
    assert_eq!(site.calls(), before + 1, "an answer is the caller's");
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_progress_is_cut_and_what_does_is_not() {
    let site = Site::route("off", "");
    site.hold();
    let start = Instant::now();
    assert_eq!(site.get("/x/a").await.problem(), "upstream-timeout");
    assert_eq!(start.elapsed().as_secs(), 3 + 3 + 10, "to connect, for TLS, for the head");

    // An upload may take longer than that, as long as it moves.
    let (upload, sent) = pipe();
    let request = Request::put("/x/a").header("x-account-token", "acme").body(sent.upload()).expect("a request");
    let answer = tokio::spawn({
        let site = site.clone();
        async move { site.begin(request).await.status() }
    });
    for _ in 0..5 {
        upload.send("piece").await.expect("it is read");
        pass(15).await;
    }
    drop(upload);
    site.release();
    assert_eq!(answer.await.expect("no panic"), 200);

    let (answer, body) = pipe();
    let body = Mutex::new(Some(body));
    site.script(move |_, _| Ok(streamed(200, &[], body.lock().take().expect("one call").body())));
    let mut response = site.begin(ask("/x/a")).await;
    answer.try_send("begun").expect("room");
    // A reader may take its time; it is the upstream's silence that counts.
    pass(60).await;
    assert!(response.body_mut().frame().await.expect("more").is_ok());
    let start = Instant::now();
    let end = timeout(Duration::from_secs(60), response.body_mut().frame()).await.expect("it is cut");
    assert!(end.expect("an end").is_err());
    assert_eq!(start.elapsed().as_secs(), 10, "between two pieces");
    site.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_has_only_its_places() {
    let key = "[[consumers]]\nname = 'one'\nkey_sha256 = '";
    let hash = merge_sync_proxy::door::consumer_key::hash("key");
    let site = Site::route("off", &format!("{key}{hash}'\naccounts = ['*']\nmax_in_flight_misses = 1"));
    let (answer, body) = pipe();
    let body = Arc::new(Mutex::new(Some(body)));
    site.script(move |_, _| {
        Ok(body.lock().take().map_or_else(|| reply(200, &[], "next"), |body| streamed(200, &[], body.body())))
    });
    let with_key = |target| {
        let mut request = ask(target);
        request.headers_mut().insert("authorization", "Bearer key".parse().expect("a value"));
        request
    };
    let first = site.begin(with_key("/x/a")).await;
    let second = site.spawn(with_key("/x/b"));
    pass(5).await;
    assert_eq!(site.calls(), 1);
    drop((answer, first));
    assert_eq!(second.await.expect("no panic").body, "next");
}

#[tokio::test(start_paused = true)]
async fn fields_that_come_after_a_body_are_not_handed_on() {
    for cache in ["off", "http"] {
        let site = Site::route(cache, "");
        site.script(|_, _| {
            let mut trailers = HeaderMap::new();
            trailers.insert("set-cookie", HeaderValue::from_static("session=1"));
            trailers.insert("connection", HeaderValue::from_static("close"));
            let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
            Ok(Response::new(stream(StreamBody::new(iter(frames)))))
        });
        let mut got = site.begin(ask("/x/a")).await;
        let mut body = Vec::new();
        while let Some(frame) = got.body_mut().frame().await {
            let frame = frame.expect("whole");
            body.extend_from_slice(frame.data_ref().expect("nothing but data"));
        }
        assert_eq!(body, b"body");
    }
}
