//! What Merge sees, and what it does not.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::record::Seen;

use crate::support::{
    ACME_TOKEN, API_KEY, GLOBEX_TOKEN, Got, SYNC_STATUS, Wire, World, ask, consumer, merge, method, soon, with,
};

/// What a fetch may carry, and what each must say; `None` is whatever the client library makes of it.
const ALLOWED: [(&str, Option<&str>); 7] = [
    ("host", None),
    ("authorization", Some("Bearer test-api-key")),
    ("x-account-token", Some(ACME_TOKEN)),
    ("accept", Some("application/json")),
    ("accept-encoding", None),
    ("user-agent", Some(concat!("merge-sync-proxy/", env!("CARGO_PKG_VERSION")))),
    ("via", Some("1.1 merge-sync-proxy")),
];

/// Headers that callers send and that are nobody's business upstream.
const OF_THE_CALLER: [(&str, &str); 26] = [
    ("authorization", "Bearer canary-consumer-key"),
    ("proxy-authorization", "Basic canary"),
    ("cookie", "session=canary"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-host", "canary.internal"),
    ("x-forwarded-proto", "https"),
    ("forwarded", "for=10.0.0.1"),
    ("x-real-ip", "10.0.0.1"),
    ("x-request-id", "canary-id"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "canary=1"),
    ("baggage", "canary=1"),
    ("via", "1.1 canary"),
    ("user-agent", "canary/1"),
    ("accept", "text/canary"),
    ("accept-encoding", "canary"),
    ("accept-language", "de"),
    ("referer", "https://canary.internal/"),
    ("origin", "https://canary.internal"),
    ("if-none-match", "\"canary\""),
    ("if-modified-since", "Wed, 15 Apr 2026 10:00:00 GMT"),
    ("range", "bytes=0-10"),
    ("cache-control", "max-age=60"),
    ("te", "trailers"),
    ("x-canary", "canary"),
    ("content-type", "application/json"),
];

/// Fails on any header that is not on the list, and on any value that is not its own.
fn check(seen: &Seen) {
    for (name, value) in &seen.headers {
        let (_, expected) = ALLOWED
            .iter()
            .find(|(allowed, _)| name == allowed)
            .unwrap_or_else(|| panic!("upstream saw {name}: {value:?}"));
        if let Some(expected) = expected {
            assert_eq!(value, expected, "{name}");
        }
        assert!(!String::from_utf8_lossy(value.as_bytes()).contains("canary"), "{name}: {value:?}");
        assert_eq!(seen.headers.get_all(name).iter().count(), 1, "{name} twice");
    }
    assert!(ALLOWED.iter().all(|(name, _)| seen.headers.contains_key(*name)), "{:?}", seen.headers);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", SYNC_STATUS));
}

#[tokio::test(start_paused = true)]
async fn merge_sees_our_credentials_and_nothing_of_the_caller() {
    for account in ["acme", ACME_TOKEN] {
        let world = World::new();
        let headers = [&OF_THE_CALLER[..], &[("x-account-token", account), ("connection", "x-canary")]].concat();
        assert_eq!(world.send(with("/ats/v1/sync-status", &headers)).await.status, 200);
        let log = world.merge.log();
        assert_eq!(log.len(), 1);
        check(&log[0]);
        assert_eq!(log[0].headers["host"], "merge.test");
    }
}

#[tokio::test]
async fn the_same_holds_over_the_wire_and_for_head() {
    let wire = Wire::new().await;
    let more = [("x-account-token", "acme"), ("connection", "x-canary, keep-alive"), ("keep-alive", "timeout=5")];
    let headers = [&OF_THE_CALLER[..], &more].concat();
    for target in ["/ats/v1/sync-status", "/api/ats/v1/sync-status?page_size=3"] {
        let answer = soon(wire.send(method(Method::HEAD, with(target, &headers)))).await;
        assert_eq!(answer.status, 200);
    }
    let log = wire.merge.log();
    assert_eq!(log.len(), 2);
    log.iter().for_each(check);
}

#[tokio::test(start_paused = true)]
async fn a_consumers_key_stays_here_and_each_account_goes_with_its_own_token() {
    let world = World::with(merge(), &consumer("canary-team", "accounts = ['*']"));
    for (account, token) in [("acme", ACME_TOKEN), ("globex", GLOBEX_TOKEN)] {
        let headers = [("authorization", "Bearer canary-team"), ("x-account-token", account)];
        assert_eq!(world.send(with(SYNC_STATUS, &headers)).await.status, 200);
        let log = world.merge.log();
        let seen = &log.last().expect("a call").headers;
        assert_eq!(seen["x-account-token"], token);
        assert_eq!(seen["authorization"], format!("Bearer {API_KEY}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_with_merges_own_validators_and_not_with_the_callers() {
    let world = World::with(merge().etags(true), "");
    world.merge.page("acme", "ats", r#"{"results":[{"status":"SYNCING"}]}"#);
    let first = world.get(SYNC_STATUS).await;
    tokio::time::advance(Duration::from_secs(6)).await;
    world.get_with(SYNC_STATUS, &[("if-none-match", "\"canary\""), ("cache-control", "no-cache")]).await;
    let log = world.merge.log();
    assert_eq!((log.len(), log[1].status), (2, 304));
    let conditions = ["if-none-match", "if-modified-since"];
    assert!(conditions.iter().all(|name| log[1].headers.contains_key(*name) && !log[0].headers.contains_key(*name)));
    assert_ne!(log[1].headers["if-none-match"], "\"canary\"");
    assert_ne!(log[1].headers["if-none-match"], first.header("etag"), "ours is another one");
    let mut rest = log[1].clone();
    for name in conditions {
        rest.headers.remove(name);
    }
    check(&rest);
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let world = World::new();
        world.merge.set(Fault::answer(status, &[("location", "http://elsewhere.test/api/ats/v1/sync-status")], ""));
        let answer = world.get(SYNC_STATUS).await;
        assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (502, "upstream-failed"), "{status}");
        assert_eq!(answer.header("location"), "");
        assert_eq!(world.merge.calls(), 1);
    }
    let wire = Wire::new().await;
    wire.merge.set(Fault::Redirect("/api/ats/v1/sync-status?followed".to_owned()));
    assert_eq!(soon(wire.get(SYNC_STATUS)).await.status, 502);
    assert_eq!(wire.merge.calls(), 1);
}

/// What Merge adds that must not be passed on.
const OF_MERGE: [(&str, &str); 8] = [
    ("set-cookie", "session=canary"),
    ("x-ratelimit-limit", "100"),
    ("x-ratelimit-remaining", "1"),
    ("x-ratelimit-reset", "1776000060"),
    ("ratelimit", "\"default\";r=1;t=60"),
    ("server", "canary"),
    ("x-canary", "canary"),
    ("cache-control", "public, max-age=86400"),
];

fn stays_here(answer: &Got) {
    for (name, _) in OF_MERGE.iter().filter(|(name, _)| *name != "cache-control") {
        assert!(!answer.headers.contains_key(*name), "{name} was passed on with {}", answer.status);
    }
    assert!(!answer.header("cache-control").contains("public"));
}

#[tokio::test(start_paused = true)]
async fn cookies_and_rate_limits_of_merge_are_neither_passed_on_nor_stored() {
    let world = World::with(merge().rate(1_000, Duration::from_secs(60)), "");
    let header = |(name, value): &(&'static str, &str)| {
        Fault::Header(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"))
    };
    world.merge.set(OF_MERGE.iter().map(header).collect::<Vec<_>>());
    let first = world.get(SYNC_STATUS).await;
    let second = world.get(SYNC_STATUS).await;
    assert!(second.cache().starts_with("hit"));
    [first, second].iter().for_each(stays_here);
    stays_here(&world.send(method(Method::HEAD, ask(SYNC_STATUS))).await);
    for status in [400, 401, 403, 404, 429, 500, 503] {
        world.merge.set(Fault::answer(status, &OF_MERGE, Bytes::from_static(b"{}")));
        let target = format!("{SYNC_STATUS}?status={status}");
        let passed = world.send(with(&target, &[("x-account-token", "globex")])).await;
        assert_eq!(passed.status.as_u16(), status);
        stays_here(&passed);
        // Until what it says of its limit is over.
        tokio::time::advance(Duration::from_secs(600)).await;
    }
}
