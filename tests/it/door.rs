//! What is refused at the door, and that Merge never hears of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;

use crate::support::{SYNC_STATUS, Wire, World, ask, method, soon, with};

type Refused = (Request<Full<Bytes>>, u16, &'static str);

/// Queries that Merge would refuse, or that two readers would read differently.
const QUERIES: [&str; 24] = [
    "page_size=0",
    "page_size=101",
    "page_size=1000",
    "page_size=-1",
    "page_size=+5",
    "page_size=%2B5",
    "page_size=%205",
    "page_size=5%20",
    "page_size=1.5",
    "page_size=1e1",
    "page_size=0x10",
    "page_size=ten",
    "page_size=",
    "page_size",
    "page_size=1,2",
    "page_size=99999999999999999999",
    "page_size=10&page_size=10",
    "page_size=10&cursor=a&page%5Fsize=20",
    "page%5fsize=0",
    "cursor=a&cursor=b",
    "cursor=a&x=1&cursor=a",
    "cursor=a&%63ursor=b",
    "cursor=a&cursor",
    "cursor=&cursor=",
];

/// Paths that only resemble a route.
const PATHS: [&str; 22] = [
    "/",
    "/api",
    "/sync-status",
    "/api/ats/v1/sync-status/",
    "/ats/v1/sync-status/",
    "/api/ATS/v1/sync-status",
    "/API/ats/v1/sync-status",
    "/api/ats/v1/Sync-Status",
    "//api/ats/v1/sync-status",
    "/api//ats/v1/sync-status",
    "/api/ats/v1//sync-status",
    "/api/ats%2Fv1/sync-status",
    "/api/ats%2fv1/sync-status",
    "/api/ats/v1/sync%2Dstatus",
    "/api/./ats/v1/sync-status",
    "/api/hris/../ats/v1/sync-status",
    "/api/hris/%2e%2e/ats/v1/sync-status",
    "/api/api/ats/v1/sync-status",
    "/api/ats/v2/sync-status",
    "/api/payroll/v1/sync-status",
    "/api/ats/v1/sync-status;a=b",
    "/api/ats/v1/account-details",
];

const METHODS: [&str; 8] = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get"];

/// Requests whose headers, body or size are at fault.
fn malformed() -> Vec<Refused> {
    let token = "x-account-token";
    let bytes = |value: &[u8]| {
        let mut request = with(SYNC_STATUS, &[]);
        request.headers_mut().insert(token, HeaderValue::from_bytes(value).expect("a header value"));
        request
    };
    let with_body = |name: &str| {
        let mut request = method(name.parse().expect("a method"), ask(SYNC_STATUS));
        *request.body_mut() = Full::from("{}");
        request
    };
    let large = "x".repeat(70 << 10);
    let long = |length: usize| ask(&format!("{SYNC_STATUS}?cursor={}", "x".repeat(length)));
    let mut many = ask(SYNC_STATUS);
    for at in 0..2_000 {
        many.headers_mut().append("x-filler", HeaderValue::from(at));
    }
    let invalid = |request| (request, 400, "invalid-request");
    vec![
        invalid(with(SYNC_STATUS, &[])),
        invalid(with(SYNC_STATUS, &[(token, "")])),
        invalid(with(SYNC_STATUS, &[(token, " ")])),
        invalid(with(SYNC_STATUS, &[(token, "acme"), (token, "acme")])),
        invalid(with(SYNC_STATUS, &[(token, "acme"), (token, "globex")])),
        invalid(with(SYNC_STATUS, &[(token, "acme"), (token, "")])),
        invalid(with(SYNC_STATUS, &[(token, "acme,globex")])),
        invalid(with(SYNC_STATUS, &[(token, "ac me")])),
        invalid(with(SYNC_STATUS, &[(token, "acme\t")])),
        invalid(with(SYNC_STATUS, &[(token, &"x".repeat(513))])),
        invalid(bytes(b"acm\xc3\xa9")),
        invalid(bytes(b"\xff")),
        invalid(with(SYNC_STATUS, &[(token, "acme"), ("authorization", "Bearer a"), ("authorization", "Bearer b")])),
        invalid(with_body("GET")),
        invalid(with_body("HEAD")),
        (long(8 << 10), 414, "request-too-large"),
        (long(60_000), 414, "request-too-large"),
        (ask(&format!("/{}", "x".repeat(9_000))), 414, "request-too-large"),
        (with(SYNC_STATUS, &[(token, "acme"), ("x-filler", &large)]), 431, "request-too-large"),
        (many, 431, "request-too-large"),
    ]
}

fn refused() -> Vec<Refused> {
    let queries = QUERIES.iter().map(|query| (ask(&format!("{SYNC_STATUS}?{query}")), 400, "invalid-request"));
    let paths = PATHS.iter().map(|path| (ask(path), 404, "no-such-route"));
    let methods = METHODS
        .iter()
        .map(|name| (method(name.parse().expect("a method"), ask("/ats/v1/sync-status")), 405, "method-not-allowed"));
    queries.chain(paths).chain(methods).chain(malformed()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_right_is_refused_before_merge_hears_of_it() {
    let world = World::new();
    let refused = refused();
    assert!(refused.len() > 40);
    for (request, status, slug) in refused {
        let head_only = request.method() == Method::HEAD;
        let what = format!("{} {:.80}", request.method(), request.uri().to_string());
        let answer = world.send(request).await;
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
        if !head_only {
            assert_eq!(answer.problem(), slug, "{what}");
        }
        assert_eq!(answer.header("cache-control"), "no-store", "{what}");
        assert_eq!(answer.header("allow"), if status == 405 { "GET, HEAD" } else { "" }, "{what}");
        assert!(answer.cache().starts_with("detail="), "{what}");
    }
    assert_eq!(world.merge.calls(), 0);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn each_refusal_has_an_id_of_its_own() {
    let world = World::new();
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        ids.insert(world.get("/nowhere").await.header("x-request-id").to_owned());
    }
    assert_eq!(ids.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn what_merge_clients_send_besides_is_fine() {
    let world = World::new();
    for headers in [
        &[("content-length", "0"), ("content-type", "application/json")][..],
        &[("authorization", "Bearer whatever")],
        &[("connection", "x-account-token")],
        &[("connection", "close, X-Account-Token"), ("te", "trailers")],
        &[("x-filler", &"x".repeat(32 << 10))],
    ] {
        assert_eq!(world.get_with(SYNC_STATUS, headers).await.status, 200, "{headers:.100?}");
    }
    for query in ["", "page_size=1", "page_size=100", "page%5Fsize=%31", "other=1&other=2", "&&", "Cursor=a&Cursor=b"] {
        assert_eq!(world.get(&format!("{SYNC_STATUS}?{query}")).await.status, 200, "{query}");
    }
    assert_eq!(world.get("/ats/v1/sync-status").await.status, 200);
    let longest = format!("{SYNC_STATUS}?x={}", "x".repeat((8 << 10) - SYNC_STATUS.len() - 3));
    assert_eq!(world.get(&longest).await.status, 200);
    assert_eq!(world.get(&format!("{longest}x")).await.status, 414);
}

#[tokio::test]
async fn a_head_of_up_to_64_kib_gets_a_problem_over_the_wire_too() {
    let mut wire = Wire::new().await;
    let refused = [
        (ask(&format!("{SYNC_STATUS}?cursor={}", "x".repeat(60_000))), 414),
        (ask(&format!("//{}", "x".repeat(8_200))), 414),
        (with(SYNC_STATUS, &[("x-account-token", "acme"), ("x-filler", &"x".repeat(70 << 10))]), 431),
    ];
    for (request, status) in refused {
        let answer = soon(wire.send(request)).await;
        assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (status, "request-too-large"));
        assert!(!answer.header("date").is_empty());
    }
    let mut posted = method(Method::GET, ask(SYNC_STATUS));
    *posted.body_mut() = Full::from("{}");
    assert_eq!(soon(wire.send(posted)).await.problem(), "invalid-request");
    assert_eq!(soon(wire.send(method(Method::OPTIONS, ask(SYNC_STATUS)))).await.header("allow"), "GET, HEAD");
    assert_eq!(wire.merge.calls(), 0);
    assert_eq!(soon(wire.admin("/readyz")).await.status, 200);
    assert_eq!(soon(wire.drained()).await.cut, 0, "no refusal leaves a connection busy");
}
