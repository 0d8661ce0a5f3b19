//! Merge says that a sync has ended: what the account has in the cache is stale at once, and nobody else can bring that about.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::pending;
use http::{HeaderValue, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::builder::Builder;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::models::Status;
use merge_sync_proxy::demo::webhook::SYNC_COMPLETED;
use merge_sync_proxy::domain::peer::Peer;
use merge_sync_proxy::domain::signature::SigningKey;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{advance, sleep};
use tower::ServiceExt;

use crate::exposition::count;
use crate::status::Stream;
use crate::support::{Got, SYNC_STATUS, Wire, World, consumer, merge, method, soon, text, with};

const PATH: &str = "/webhooks/merge";
const SECRET: &str = "canary-webhook-secret";
const SIGNATURE: &str = "x-merge-webhook-signature";

/// The accounts of [`merge`] and two that webhooks can name.
fn linked() -> Builder {
    let account = |name: &str| SimAccount::new(name, format!("token-of-{name}")).by_hand();
    merge().account(account("initech")).account(account("hooli"))
}

/// The part of the configuration that goes with it.
fn config(secret: &str) -> String {
    let account = |name: &str| {
        let id = SimAccount::new(name, name).id().to_string().to_ascii_uppercase();
        format!("[[accounts]]\nname = '{name}'\ntoken = 'token-of-{name}'\nlinked_account_id = '{id}'\n")
    };
    format!("{}{}[webhook]\nsecret = {secret}\n", account("initech"), account("hooli"))
}

fn on() -> String {
    config(&format!("'{SECRET}'"))
}

fn page(account: &str) -> Request<Full<Bytes>> {
    with(SYNC_STATUS, &[("x-account-token", account)])
}

/// That a sync of initech has ended.
fn ended(world: &World) -> Request<Full<Bytes>> {
    world.merge.webhook("initech", SYNC_COMPLETED, SECRET, PATH)
}

/// A sync starts and ends, so that the next webhook and the next page differ from those before.
fn sync(merge: &merge_sync_proxy::demo::merge::Merge) {
    merge.start_sync("initech");
    merge.end_sync("initech", Status::Done);
}

fn outcome(got: &Got) -> String {
    assert_eq!((got.status.as_u16(), got.header("content-type")), (200, "application/json"), "{got:?}");
    assert_eq!((got.cache(), got.header("cache-control")), ("detail=webhook", "no-store"));
    let body: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
    body["outcome"].as_str().expect("a word").to_owned()
}

/// How many webhooks became what.
fn counted(world: &World, outcome: &str) -> u64 {
    count(&world.app.metrics(), &format!("merge_sync_proxy_webhooks_total{{outcome=\"{outcome}\"}}"))
}

/// How many calls were made since a webhook had come.
fn calls(world: &World) -> u64 {
    let calls = world.app.ground().metrics.calls_by_account();
    let counts = calls[&("us".into(), "initech".into())].counts();
    counts.iter().filter(|(reason, ..)| *reason == "webhook").map(|(.., calls)| calls).sum()
}

#[tokio::test]
async fn over_the_wire_the_end_of_a_sync_shows_at_once() {
    let wire = Wire::with(linked(), &on()).await;
    let mut stream = Stream::open(&wire, "/api/events").await;
    wire.merge.start_sync("initech");
    let syncing = wire.send(page("initech")).await;
    assert_eq!(wire.send(page("hooli")).await.status, 200);
    assert!(wire.send(page("initech")).await.cache().starts_with("hit"));
    let sending = tokio::spawn(wire.merge.clone().send_webhooks(wire.proxy, SECRET));
    wire.merge.end_sync("initech", Status::Done);
    // The third call is made by nobody's request.
    soon(wire.merge.arrived(3)).await;
    let shown = async {
        loop {
            let got = wire.send(page("initech")).await;
            if got.cache().starts_with("hit") && got.body != syncing.body {
                return got;
            }
        }
    };
    let done = soon(shown).await;
    assert!(String::from_utf8_lossy(&done.body).contains("DONE"), "{done:?}");
    assert!(wire.send(page("hooli")).await.cache().starts_with("hit"), "another account");
    assert_eq!(wire.merge.calls(), 3);
    let told = |state: &serde_json::Value| {
        let events = state["events"].as_array().map_or(&[][..], Vec::as_slice);
        events.iter().any(|event| event["kind"] == "webhook" && event["subject"] == "initech")
    };
    stream.until(told).await;
    let metrics = String::from_utf8(wire.admin("/metrics").await.body.to_vec()).expect("text");
    assert_eq!(count(&metrics, r#"merge_sync_proxy_webhooks_total{outcome="stale"}"#), 1);
    let by_webhook =
        r#"merge_sync_proxy_upstream_calls_total{upstream="us",account="initech",reason="webhook",status="2xx"}"#;
    assert_eq!(count(&metrics, by_webhook), 1);
    let request =
        r#"merge_sync_proxy_requests_total{consumer="-",route="/webhooks/merge",result="webhook",status="2xx"}"#;
    assert_eq!(count(&metrics, request), 1);
    sending.abort();
}

#[tokio::test(start_paused = true)]
async fn no_consumer_key_is_needed_and_a_padded_signature_is_one() {
    let world = World::with(linked(), &(on() + &consumer("team", "accounts = ['*']")));
    sync(&world.merge);
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    advance(Duration::from_secs(1)).await;
    sync(&world.merge);
    let mut bare = ended(&world);
    let padded = bare.headers()[SIGNATURE].to_str().expect("base64").to_owned();
    assert!(padded.ends_with('='));
    bare.headers_mut().insert(SIGNATURE, HeaderValue::from_str(padded.trim_end_matches('=')).expect("base64"));
    assert_eq!(outcome(&world.send(bare).await), "stale");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_stale_and_not_fetched() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    advance(Duration::from_secs(301)).await;
    sync(&world.merge);
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    world.settle().await;
    assert_eq!((world.merge.calls(), calls(&world)), (1, 0));
    let got = world.send(page("initech")).await;
    assert!(got.cache().starts_with("fwd=stale"), "not even while it is fetched anew: {}", got.cache());
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_a_sync_ends_is_fetched_again() {
    for known in [false, true] {
        let world = World::with(linked(), &on());
        let mut made = 1;
        if known {
            // Long ago, so that somebody has to wait for the next.
            world.send(page("initech")).await;
            advance(Duration::from_secs(200)).await;
            made += 1;
        }
        world.merge.script(Fault::Delay(Duration::from_secs(5))).once();
        let first = tokio::spawn({
            let world = world.clone();
            async move { world.send(page("initech")).await }
        });
        world.merge.arrived(made).await;
        advance(Duration::from_secs(1)).await;
        sync(&world.merge);
        assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
        assert_eq!(
            first.await.expect("no panic").status,
            200,
            "who has come before the news may have the page of before"
        );
        sleep(Duration::from_secs(10)).await;
        assert_eq!((world.merge.calls(), calls(&world)), (made + 1, 1), "known: {known}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_page_still_serves_when_merge_fails() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    world.merge.set(Fault::Status(500));
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    world.settle().await;
    let got = world.send(page("initech")).await;
    assert!(got.cache().starts_with("hit; ttl=") && got.cache().ends_with("detail=upstream-error"), "{}", got.cache());
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_ends_model_by_model_costs_a_call_every_two_seconds() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    let models = ["Candidate", "Application", "Job", "Offer", "Tag", "Office", "Activity", "Department"];
    for model in models {
        let webhook = world.merge.webhook("initech", &format!("{model}.synced"), SECRET, PATH);
        assert_eq!(outcome(&world.send(webhook).await), "stale");
        world.settle().await;
        advance(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(10)).await;
    world.settle().await;
    assert_eq!((world.merge.calls(), calls(&world)), (3, 2), "one at the first word, one for all that came after it");
    // With nothing new there is no more to do.
    let got = world.send(page("initech")).await;
    assert!(got.cache().starts_with("hit"), "{}", got.cache());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_sync_shows_at_once_in_however_many_pages_there_are() {
    let long = "[cache.ttl]\nsyncing = '1h'\nsettled = '1h'\nmin = '1h'\n";
    let world = World::with(linked(), &(on() + long));
    let page = |n: usize| with(&format!("{SYNC_STATUS}?page={n}"), &[("x-account-token", "initech")]);
    for n in 0..300 {
        world.send(page(n)).await;
    }
    world.app.ground().store.maintain();
    advance(Duration::from_secs(1)).await;
    sync(&world.merge);
    let held = world.merge.hold();
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    advance(Duration::from_millis(1)).await;
    let cached = |n: usize| {
        let mut request = page(n);
        request.headers_mut().insert("cache-control", HeaderValue::from_static("only-if-cached"));
        world.send(request)
    };
    for n in 0..300 {
        assert_eq!(cached(n).await.problem(), "not-cached", "page {n}");
    }
    held.release();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(calls(&world), 32, "all that are remembered");
}

#[tokio::test(start_paused = true)]
async fn webhooks_alone_do_not_keep_a_page_alive() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    for _ in 0..20 {
        advance(Duration::from_secs(50)).await;
        sync(&world.merge);
        assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
        world.settle().await;
    }
    assert_eq!(calls(&world), 5, "for the five minutes after the one request");
}

#[tokio::test(start_paused = true)]
async fn what_comes_twice_is_done_once() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    let webhook = ended(&world);
    assert_eq!(outcome(&world.send(webhook.clone()).await), "stale");
    for _ in 0..100 {
        assert_eq!(outcome(&world.send(webhook.clone()).await), "duplicate");
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.merge.calls(), counted(&world, "duplicate")), (2, 100));
    advance(Duration::from_secs(45)).await;
    assert_eq!(outcome(&world.send(webhook).await), "stale", "another sync may be told in the same words");
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_a_sync_is_taken_and_changes_nothing() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    for event in ["Candidate.changed", "Issue.new", "AsyncPost.completed", "Something.else", ""] {
        let webhook = world.merge.webhook("initech", event, SECRET, PATH);
        assert_eq!(outcome(&world.send(webhook).await), "ignored", "{event}");
    }
    // acme has no id in the configuration.
    let unknown = world.merge.webhook("acme", SYNC_COMPLETED, SECRET, PATH);
    assert_eq!(outcome(&world.send(unknown).await), "unknown-account");
    let key = SigningKey::new(SECRET);
    for body in [r#"{"response":"Success! This URL will be notified."}"#, "not JSON", ""] {
        assert_eq!(outcome(&world.send(signed(&key, body)).await), "ignored", "{body}");
    }
    assert!(world.send(page("initech")).await.cache().starts_with("hit"));
    let relinked = world.merge.webhook("initech", "LinkedAccount.linked", SECRET, PATH);
    assert_eq!(outcome(&world.send(relinked).await), "stale");
    world.settle().await;
    assert_eq!((world.merge.calls(), calls(&world)), (1, 0), "nothing says that anybody waits for it");
    assert!(world.send(page("initech")).await.cache().starts_with("fwd=stale"));
}

fn signed(key: &SigningKey, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post(PATH).header(SIGNATURE, key.sign(body.as_bytes()).to_string());
    request.body(Full::from(body.to_owned())).expect("a valid request")
}

/// The same request over a connection from this address.
fn from<B>(host: u8, mut request: Request<B>) -> Request<B> {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, host));
    request.extensions_mut().insert(Arc::new(Peer::Network { address, certificate: Box::default() }));
    request
}

/// The same request with something wrong about it.
async fn forged(world: &World) -> Vec<Request<Full<Bytes>>> {
    let whole = ended(world);
    let alter = |change: &dyn Fn(&mut Request<Full<Bytes>>)| {
        let mut request = whole.clone();
        change(&mut request);
        request
    };
    let body = whole.clone().into_body().collect().await.expect("it is in memory").to_bytes();
    vec![
        world.merge.webhook("initech", SYNC_COMPLETED, "another secret", PATH),
        world.merge.webhook("initech", SYNC_COMPLETED, "", PATH),
        alter(&|request| drop(request.headers_mut().remove(SIGNATURE))),
        alter(&|request| drop(request.headers_mut().insert(SIGNATURE, HeaderValue::from_static("nonsense")))),
        alter(&|request| {
            let same = request.headers()[SIGNATURE].clone();
            request.headers_mut().append(SIGNATURE, same);
        }),
        alter(&|request| *request.body_mut() = Full::from(Bytes::from([&body[..], b" "].concat()))),
        alter(&|request| *request.body_mut() = Full::default()),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_merge_has_not_signed_does_nothing_and_counts_like_a_wrong_key() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    let forged = forged(&world).await;
    for request in &forged {
        let got = world.send(from(1, request.clone())).await;
        assert_eq!((got.status.as_u16(), got.problem()), (403, "invalid-signature".to_owned()), "{request:?}");
    }
    world.settle().await;
    assert_eq!((world.merge.calls(), counted(&world, "invalid-signature")), (1, forged.len() as u64));
    assert!(world.send(page("initech")).await.cache().starts_with("hit"));
    let mut refused = forged.len();
    let limited = loop {
        let got = world.send(from(1, forged[0].clone())).await;
        refused += 1;
        if got.status != 403 {
            break got;
        }
    };
    assert_eq!((limited.status.as_u16(), limited.problem()), (429, "quota-exceeded".to_owned()));
    assert!(limited.number("retry-after") > 0 && (10..=60).contains(&refused), "{refused}");
    let elsewhere = world.send(from(2, forged[0].clone())).await;
    assert_eq!(elsewhere.status, 403, "another address has a share of its own");
    assert_eq!(outcome(&world.send(from(1, ended(&world))).await), "stale", "a signature cannot be guessed");
    let subjects = world.app.events().latest(10).into_iter().map(|event| (event.kind.slug(), event.subject));
    assert!(subjects.eq([("webhook", Some("initech".into())), ("webhook", None)]));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_has_come() {
    let wire = Wire::with(linked(), &on()).await;
    let key = SigningKey::new(SECRET);
    let mut got = Vec::new();
    for size in [64 << 10, (64 << 10) + 1] {
        got.push(soon(wire.send(signed(&key, &" ".repeat(size)))).await);
    }
    assert_eq!(
        (outcome(&got[0]), got[1].status.as_u16(), got[1].problem()),
        ("ignored".into(), 413, "request-too-large".into())
    );
    // This one never sends what it has announced.
    let mut stream = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: proxy\r\n{SIGNATURE}: {}\r\nContent-Length: 1000000\r\n\r\n",
        key.sign(b"")
    );
    stream.write_all(head.as_bytes()).await.expect("it is open");
    let mut answer = vec![0; 12];
    soon(stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
    let metrics = String::from_utf8(wire.admin("/metrics").await.body.to_vec()).expect("text");
    assert_eq!(count(&metrics, r#"merge_sync_proxy_webhooks_total{outcome="refused"}"#), 2);
    assert_eq!(wire.merge.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_one_peer_does_not_send_are_in_no_others_way() {
    let world = World::with(linked(), &on());
    world.send(page("initech")).await;
    let signature = SigningKey::new(SECRET).sign(b"").to_string();
    let begin = |host| {
        let never = StreamBody::new(pending::<Result<Frame<Bytes>, Infallible>>());
        let request = Request::post(PATH).header(SIGNATURE, &signature).body(never).expect("a valid request");
        tokio::spawn(world.app.service().oneshot(from(host, request)))
    };
    let slow: Vec<_> = (0..64).map(|_| begin(1)).collect();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.send(from(1, ended(&world))).await.problem(), "overloaded", "the places are its own");
    assert_eq!(outcome(&world.send(from(2, ended(&world))).await), "stale");
    let mut ends = Vec::new();
    for one in slow {
        let Ok(response) = one.await.expect("no panic");
        ends.push(response.status().as_u16());
    }
    ends.sort_unstable();
    assert_eq!(ends, [vec![400; 63], vec![503]].concat(), "the oldest gave way");
    assert_eq!(outcome(&world.send(from(1, ended(&world))).await), "duplicate", "it has places again");
}

#[tokio::test(start_paused = true)]
async fn it_is_there_when_it_is_configured_and_no_route_takes_it() {
    let world = World::with(linked(), "");
    let got = world.send(ended(&world)).await;
    assert_eq!((got.status.as_u16(), got.problem()), (404, "no-such-route".to_owned()));
    let everything = "[[routes]]\npath = '/*'\nmethods = ['GET', 'POST']\ncache = 'off'\n";
    for routes in ["", everything] {
        let world = World::with(linked(), &(on() + routes));
        assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
        for other in [Method::GET, Method::HEAD, Method::PUT] {
            let got = world.send(method(other.clone(), page("initech"))).await;
            assert_ne!(got.status, 404, "{other}");
            let got = world.send(method(other.clone(), with(PATH, &[("x-account-token", "initech")]))).await;
            assert_eq!((got.status.as_u16(), got.header("allow")), (405, "POST"), "{other}");
        }
        assert!(world.merge.log().iter().all(|call| call.path != PATH));
    }
}

/// The world with this consumer, who asks, and a reload that changes what it may.
fn with_team(more: &str) -> (World, impl Fn()) {
    let file = |more: &str| on() + &consumer("team", &format!("accounts = ['*']\n{more}"));
    let world = World::with(linked(), &file(more));
    let changed = text("http://merge.test", "", &file(&format!("{more}\nresync = true")));
    world.app.reads(Box::new(move |hasher| Config::parse(&changed, Path::new("test.toml"), &|_| None, hasher)));
    let reload = {
        let world = world.clone();
        move || assert_eq!(world.app.reload(Cause::Operator).expect("sound").changed, ["consumers.team.resync"])
    };
    (world, reload)
}

/// What team asks for.
fn as_team(query: &str) -> Request<Full<Bytes>> {
    with(&format!("{SYNC_STATUS}{query}"), &[("x-account-token", "initech"), ("authorization", "Bearer team")])
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_reload_is_not_asked_for_after_it() {
    let (world, reload) = with_team("max_in_flight_misses = 1");
    let held = world.merge.hold();
    let ask = |query: &str| {
        let (world, request) = (world.clone(), as_team(query));
        tokio::spawn(async move { world.send(request).await })
    };
    // The second gets its place, and goes on to Merge, only after the reload.
    let all = [ask(""), ask("?page_size=7")];
    world.merge.arrived(1).await;
    reload();
    held.release();
    for one in all {
        assert_eq!(one.await.expect("no panic").status, 200);
    }
    sync(&world.merge);
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.merge.calls(), calls(&world)), (2, 0));
    // Who asks by the new rules is remembered by them.
    world.send(as_team("")).await;
    sync(&world.merge);
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.merge.calls(), calls(&world)), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reload_ends_what_a_webhook_has_begun() {
    let (world, reload) = with_team("");
    for query in ["", "?page_size=7", "?page_size=8"] {
        world.send(as_team(query)).await;
    }
    advance(Duration::from_secs(1)).await;
    let held = world.merge.hold();
    assert_eq!(outcome(&world.send(ended(&world)).await), "stale");
    world.merge.arrived(4).await;
    reload();
    held.release();
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.merge.calls(), calls(&world)), (4, 1), "the one that was under way");
}

#[tokio::test(start_paused = true)]
async fn the_key_can_be_changed_while_it_runs() {
    let world = World::with(linked(), &on());
    let file = Arc::new(Mutex::new(String::new()));
    let read = file.clone();
    world.app.reads(Box::new(move |hasher| Config::parse(&read.lock(), Path::new("test.toml"), &|_| None, hasher)));
    let reload = |secret: &str| {
        *file.lock() = text("http://merge.test", "", &config(secret));
        let changes = world.app.reload(Cause::Operator).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((changes.changed, changes.needs_restart), (vec!["webhook.secret".to_owned()], vec![]));
    };
    let taken = async |secret: &str| {
        advance(Duration::from_secs(1)).await;
        sync(&world.merge);
        world.send(world.merge.webhook("initech", SYNC_COMPLETED, secret, PATH)).await.status == 200
    };
    assert!(taken(SECRET).await && !taken("next").await);
    reload(&format!("['{SECRET}', 'next']"));
    assert!(taken(SECRET).await && taken("next").await);
    reload("'next'");
    assert!(!taken(SECRET).await && taken("next").await);
    *file.lock() = text("http://merge.test", "", "");
    let changes = world.app.reload(Cause::Operator).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(changes.changed.contains(&"webhook (gone)".to_owned()), "{changes:?}");
    assert_eq!(world.send(ended(&world)).await.status, 404);
}
