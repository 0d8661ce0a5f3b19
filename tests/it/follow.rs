//! Waiting for a change: held requests and streams of events, all on one poll of Merge.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::domain::body::ReplyBody;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;

use crate::exposition::count;
use crate::support::{Got, SYNC_STATUS, Wire, World, consumer, merge, soon, with};

/// A page that lives for exactly five seconds.
const FIVE: &str = "[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = '5s'\n";
/// And for so long that nothing but a purge or a client ends it.
const LONG: &str = "[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = '1h'\n";

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn waiting(key: &str, tag: &str, wait: u64) -> Request<Full<Bytes>> {
    let (bearer, prefer) = (format!("Bearer {key}"), format!("wait={wait}"));
    let fields =
        [("x-account-token", "acme"), ("if-none-match", tag), ("prefer", &*prefer), ("authorization", &bearer)];
    with(SYNC_STATUS, &fields)
}

fn hold(world: &World, tag: &str, wait: u64) -> JoinHandle<Got> {
    let (world, request) = (world.clone(), waiting("any", tag, wait));
    tokio::spawn(async move { world.send(request).await })
}

async fn tag(world: &World) -> String {
    world.get(SYNC_STATUS).await.header("etag").to_owned()
}

/// Begins a stream, and gives back the head of its answer.
async fn stream(world: &World, fields: &[(&str, &str)]) -> Response<ReplyBody> {
    let fields = [&[("x-account-token", "acme"), ("accept", "text/event-stream")], fields].concat();
    let Ok(response) = world.app.service().oneshot(with(SYNC_STATUS, &fields)).await;
    response
}

/// What a stream says next; `None` when it has ended.
async fn said(stream: &mut Response<ReplyBody>) -> Option<String> {
    let frame = stream.body_mut().frame().await?.expect("it does not break");
    Some(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8"))
}

/// Tag and data of an event.
fn event(text: &str) -> (&str, &str) {
    let rest = text.strip_prefix("event: page\nid: ").and_then(|rest| rest.strip_suffix("\n\n"));
    rest.and_then(|rest| rest.split_once("\ndata: ")).unwrap_or_else(|| panic!("{text:?} is no event"))
}

/// Waits until everybody is held.
async fn held(world: &World, count: usize) {
    while world.app.ground().follows.count() != count {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_all_who_wait_and_costs_one_poll_a_lifetime() {
    let world = World::with(merge(), FIVE);
    let tag = tag(&world).await;
    let all: Vec<_> = (0..100).map(|_| hold(&world, &tag, 30)).collect();
    let began = Instant::now();
    sleep(second(12)).await;
    assert_eq!((world.app.ground().follows.count(), world.merge.calls()), (100, 3));
    world.merge.start_sync("acme");
    let answers = join_all(all).await;
    assert_eq!(began.elapsed().as_secs(), 15);
    for answer in answers.into_iter().map(|answer| answer.expect("no panic")) {
        assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (200, "wait=30"));
        assert_ne!(answer.header("etag"), tag);
        assert!(answer.cache().starts_with("hit; ttl="), "{}", answer.cache());
    }
    assert_eq!((world.merge.calls(), world.app.ground().follows.count()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_change_the_time_ends_with_304() {
    let world = World::with(merge(), FIVE);
    let tag = tag(&world).await;
    for (asked, applied) in [(7, 7), (600, 60)] {
        let began = Instant::now();
        let answer = hold(&world, &tag, asked).await.expect("no panic");
        assert_eq!((answer.status.as_u16(), began.elapsed().as_secs()), (304, applied));
        assert_eq!(answer.header("preference-applied"), format!("wait={applied}"));
        assert!(answer.body.is_empty() && answer.number("age") < 5);
    }
    world.settle().await;
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_wait_for_is_answered_at_once() {
    let world = World::with(merge(), FIVE);
    let tag = tag(&world).await;
    let began = Instant::now();
    let only_if_cached = ("cache-control", "only-if-cached");
    for (fields, status) in [
        (&[("prefer", "wait=30")][..], 200),
        (&[("prefer", "wait=30"), ("if-none-match", &tag), only_if_cached], 304),
        (&[("accept", "text/event-stream"), only_if_cached], 200),
        (&[("prefer", "wait=30"), ("if-none-match", "\"another\"")], 200),
        (&[("prefer", "wait=0"), ("if-none-match", &tag)], 304),
        (&[("prefer", "respond-async"), ("if-none-match", &tag)], 304),
    ] {
        let answer = world.get_with(SYNC_STATUS, fields).await;
        assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (status, ""), "{fields:?}");
        assert_eq!(world.merge.calls(), 1);
    }
    world.merge.revoke("acme");
    let refused = [("prefer", "wait=30"), ("if-none-match", &*tag), ("cache-control", "no-cache")];
    assert_eq!(world.get_with(SYNC_STATUS, &refused).await.status, 401);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_is_held_takes_no_place_of_those_who_miss() {
    let team = consumer("team", "accounts = ['*']\nmax_in_flight_misses = 1");
    let world = World::with(merge(), &format!("{team}{FIVE}"));
    let first = world.send(waiting("team", "\"none\"", 30)).await;
    let tag = first.header("etag").to_owned();
    let all: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let (world, request) = (world.clone(), waiting("team", &tag, 30));
                async move { world.send(request).await }
            })
        })
        .collect();
    held(&world, 5).await;
    world.assert_idle();
    let other = with(SYNC_STATUS, &[("x-account-token", "globex"), ("authorization", "Bearer team")]);
    assert!(world.send(other).await.cache().starts_with("fwd=uri-miss; fwd-status=200"));
    assert_eq!(world.app.ground().follows.count(), 5);
    all.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn who_follows_waits_for_no_place_of_another_who_does() {
    let teams = ["first", "second"].map(|name| consumer(name, "accounts = ['*']\nmax_in_flight_misses = 1"));
    let stale = "[cache.stale]\nwhile_revalidate = '0s'\n";
    let world = World::with(merge(), &format!("{}{FIVE}{stale}", teams.concat()));
    let tag = world.send(waiting("first", "\"none\"", 30)).await.header("etag").to_owned();
    let all = ["first", "second"].map(|key| {
        let (world, request) = (world.clone(), waiting(key, &tag, 60));
        tokio::spawn(async move { world.send(request).await })
    });
    held(&world, 2).await;
    // All places are taken by what hangs: that of the one with whose words the page is asked for, and that of the other.
    let hanging = ["first", "second"].map(|key| {
        world.merge.script(Fault::Hang).once();
        let bearer = format!("Bearer {key}");
        let target = format!("{SYNC_STATUS}?page_size={}", key.len());
        let (world, request) =
            (world.clone(), with(&target, &[("x-account-token", "acme"), ("authorization", &bearer)]));
        tokio::spawn(async move { world.send(request).await })
    });
    world.merge.arrived(3).await;
    world.merge.start_sync("acme");
    let began = Instant::now();
    for answer in join_all(all).await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert_eq!(began.elapsed().as_secs(), 5, "when the lifetime ends");
    hanging.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_page_is_not_fetched_for_those_who_left_before_the_call_went_out() {
    let budget =
        "[upstreams.us.budget]\nper_account = '1/min'\nmax_wait = '10min'\n[cache.stale]\nwhile_revalidate = '10min'\n";
    let world = World::with(merge(), &format!("{budget}{FIVE}"));
    let tag = tag(&world).await;
    let waiting = hold(&world, &tag, 60);
    held(&world, 1).await;
    sleep(second(10)).await;
    assert_eq!((world.merge.calls(), world.app.ground().flights.count().0), (1, 1), "it waits for its turn");
    world.app.ground().follows.release();
    assert_eq!(waiting.await.expect("no panic").status, 304);
    sleep(second(120)).await;
    assert_eq!(world.merge.calls(), 1);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_once_the_last_has_left() {
    let world = World::with(merge(), FIVE);
    let tag = tag(&world).await;
    let (one, other) = (hold(&world, &tag, 60), hold(&world, &tag, 60));
    held(&world, 2).await;
    one.abort();
    sleep(second(11)).await;
    assert_eq!((world.merge.calls(), world.app.ground().follows.count()), (3, 1));
    other.abort();
    sleep(second(100)).await;
    assert_eq!((world.merge.calls(), world.app.ground().follows.count()), (3, 0));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_has_so_many_followers_and_no_more() {
    let team = consumer("team", "accounts = ['*']\nmax_followers = 1");
    let world = World::with(merge(), &format!("{team}{FIVE}"));
    let tag = world.send(waiting("team", "\"none\"", 30)).await.header("etag").to_owned();
    let bearer = [("authorization", "Bearer team")];
    let open = stream(&world, &bearer).await;
    assert_eq!(open.status(), 200);
    let began = Instant::now();
    let one_too_many = world.send(waiting("team", &tag, 30)).await;
    assert_eq!((one_too_many.status.as_u16(), one_too_many.header("preference-applied")), (304, ""));
    let another = Got::whole(stream(&world, &bearer).await).await;
    assert_eq!((another.status.as_u16(), another.problem().as_str()), (503, "overloaded"));
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(open);
    assert_eq!(world.send(waiting("team", &tag, 9)).await.header("preference-applied"), "wait=9");
    assert_eq!(began.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_held_through_an_outage_and_merge_is_spared() {
    let world = World::with(merge(), &format!("{FIVE}[cache.stale]\nwhile_revalidate = '0s'\nif_error = '0s'\n"));
    let tag = tag(&world).await;
    let waiting = hold(&world, &tag, 60);
    held(&world, 1).await;
    world.merge.set(Fault::Status(500));
    sleep(second(35)).await;
    let tries = world.merge.calls();
    // Pauses of 1, 2, 4, 8 and 16 seconds, each try with its own two retries.
    assert!((3..=1 + 5 * 3).contains(&tries), "{tries} calls");
    world.merge.clear();
    world.merge.start_sync("acme");
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.status, 200);
    assert_ne!(answer.header("etag"), tag);
}

#[tokio::test(start_paused = true)]
async fn a_purge_is_heard_at_once() {
    for hard in [false, true] {
        let world = World::with(merge(), LONG);
        let tag = tag(&world).await;
        let waiting = hold(&world, &tag, 60);
        held(&world, 1).await;
        world.merge.start_sync("acme");
        advance(second(3)).await;
        world.app.ground().store.purge_all(hard, Instant::now());
        // A fetch that begins in the very instant of a purge counts as begun before it.
        advance(Duration::from_millis(1)).await;
        let began = Instant::now();
        let answer = waiting.await.expect("no panic");
        assert_eq!((answer.status.as_u16(), began.elapsed().as_secs()), (200, 0), "hard: {hard}");
        assert_ne!(answer.header("etag"), tag);
        assert_eq!(world.merge.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_reaches_one_after_the_other_is_heard_as_it_does() {
    let world = World::with(merge(), LONG);
    let page = |n: usize| format!("{SYNC_STATUS}?page={n}");
    let mut all = Vec::new();
    for n in 0..300 {
        let tag = world.get(&page(n)).await.header("etag").to_owned();
        if n % 15 == 0 {
            let world = world.clone();
            all.push(tokio::spawn(async move {
                world.get_with(&page(n), &[("prefer", "wait=60"), ("if-none-match", &tag)]).await
            }));
        }
    }
    held(&world, 20).await;
    world.app.ground().store.maintain();
    world.merge.start_sync("acme");
    advance(second(3)).await;
    world.app.ground().store.purge_all(false, Instant::now());
    let began = Instant::now();
    for answer in join_all(all).await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert!(began.elapsed() <= second(5), "64 at once and in each second 64 more: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_of_each_page_once() {
    let world = World::with(merge(), FIVE);
    let page = world.get(SYNC_STATUS).await;
    let mut open = stream(&world, &[]).await;
    let header = |name: &str| open.headers()[name].to_str().expect("ASCII").to_owned();
    assert_eq!([header("content-type"), header("cache-control")], ["text/event-stream", "no-store"]);
    assert!(header("cache-status").starts_with("merge-sync-proxy; hit; ttl="));
    let first = said(&mut open).await.expect("an event");
    assert_eq!(event(&first), (page.header("etag"), std::str::from_utf8(&page.body).expect("UTF-8")));
    let began = Instant::now();
    assert_eq!(said(&mut open).await.as_deref(), Some(":\n\n"));
    assert_eq!(began.elapsed().as_secs(), 15);
    world.merge.start_sync("acme");
    let second = said(&mut open).await.expect("an event");
    assert_ne!(event(&second).0, page.header("etag"));
    assert!(event(&second).1.contains("SYNCING"));

    // Who knows the page is told of the next one only.
    let mut again = stream(&world, &[("last-event-id", event(&second).0)]).await;
    world.merge.end_sync("acme", merge_sync_proxy::demo::models::Status::Done);
    let (one, other) = (said(&mut open).await, said(&mut again).await);
    assert_eq!(one, other);
    assert!(event(&one.expect("an event")).1.contains("DONE"));
    drop((open, again));
    world.settle().await;
    assert_eq!(world.app.ground().follows.count(), 0);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_page_and_after_ten_minutes() {
    let world = World::with(merge(), FIVE);
    let mut open = stream(&world, &[]).await;
    let began = Instant::now();
    while said(&mut open).await.is_some() {}
    assert_eq!(began.elapsed().as_secs(), 600);
    let mut open = stream(&world, &[]).await;
    assert!(said(&mut open).await.is_some());
    world.merge.revoke("acme");
    while said(&mut open).await.is_some() {}
    assert!(began.elapsed() < second(620));
    assert_eq!(Got::whole(stream(&world, &[]).await).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_page_that_becomes_too_large_to_be_stored_is_let_go() {
    let world = World::with(merge(), &format!("[cache]\nmax_page_bytes = '16KiB'\n{FIVE}"));
    let tag = tag(&world).await;
    let (mut open, waits) = (stream(&world, &[("last-event-id", &tag)]).await, hold(&world, &tag, 60));
    held(&world, 2).await;
    let large = format!("{{\"results\":[],\"x\":\"{}\"}}", "x".repeat(20_000));
    world.merge.page("acme", "ats", large.clone());
    let began = Instant::now();
    assert_eq!(said(&mut open).await, None, "there is nothing to tell of any more");
    let answer = waits.await.expect("no panic");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, large.as_bytes()));
    assert!(began.elapsed() <= second(5), "it was noticed {:?} later", began.elapsed());
    assert_eq!((world.merge.calls(), world.app.ground().follows.count()), (3, 0));
    let again = Got::whole(stream(&world, &[]).await).await;
    assert_eq!((again.header("content-type"), &again.body[..]), ("application/json", large.as_bytes()));
    world.merge.unfix_page("acme", "ats");
    let mut open = stream(&world, &[]).await;
    assert!(said(&mut open).await.is_some(), "it can be followed again");
}

#[tokio::test(start_paused = true)]
async fn who_is_released_is_answered_at_once_and_who_comes_later_is_held_as_ever() {
    let world = World::with(merge(), FIVE);
    let tag = tag(&world).await;
    let (waiting, mut open) = (hold(&world, &tag, 60), stream(&world, &[("last-event-id", &tag)]).await);
    held(&world, 2).await;
    sleep(second(7)).await;
    let began = Instant::now();
    world.app.ground().follows.release();
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (304, "wait=60"));
    assert_eq!((said(&mut open).await, began.elapsed()), (None, Duration::ZERO));
    sleep(second(60)).await;
    assert_eq!((world.merge.calls(), world.app.ground().follows.count()), (2, 0), "nobody asks for them any more");

    let (later, mut open) = (hold(&world, &tag, 30), stream(&world, &[("last-event-id", &tag)]).await);
    held(&world, 2).await;
    sleep(second(7)).await;
    world.merge.start_sync("acme");
    assert!(event(&said(&mut open).await.expect("an event")).1.contains("SYNCING"));
    assert_eq!(later.await.expect("no panic").status, 200);
}

#[tokio::test(start_paused = true)]
async fn who_is_released_is_told_what_there_is_and_has_nothing_fetched() {
    let world = World::with(merge(), LONG);
    let tag = tag(&world).await;
    for hard in [false, true] {
        let waiting = hold(&world, &tag, 60);
        held(&world, 1).await;
        let calls = world.merge.calls();
        let merge = world.merge.hold();
        world.app.ground().store.purge_all(hard, Instant::now());
        world.app.ground().follows.release();
        let began = Instant::now();
        let answer = waiting.await.expect("no panic");
        assert_eq!((answer.status.as_u16(), began.elapsed()), (304, Duration::ZERO), "hard: {hard}");
        advance(Duration::from_millis(1)).await;
        assert_eq!(world.merge.calls(), calls);
        // Its first page is still to come: it is answered with that, and not held by rules of before.
        let coming = hold(&world, &tag, 60);
        world.merge.arrived(calls + 1).await;
        world.app.ground().follows.release();
        merge.release();
        let answer = coming.await.expect("no panic");
        assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (304, ""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_stream_that_nobody_reads_is_not_asked_for_either() {
    let teams = ["old", "new"].map(|name| consumer(name, "accounts = ['*']")).concat();
    let world = World::with(merge(), &format!("{teams}{FIVE}"));
    let charged = |name: &str| {
        count(&world.app.metrics(), &format!("merge_sync_proxy_consumer_calls_total{{consumer=\"{name}\"}}"))
    };
    let _unread = stream(&world, &[("authorization", "Bearer old")]).await;
    held(&world, 1).await;
    world.app.ground().follows.release();
    let _read = stream(&world, &[("authorization", "Bearer new")]).await;
    held(&world, 1).await;
    sleep(second(21)).await;
    assert_eq!((charged("old"), charged("new")), (1, 4));
}

#[tokio::test]
async fn who_hangs_up_is_no_longer_held() {
    let wire = Wire::with(merge(), LONG).await;
    let tag = wire.get(SYNC_STATUS).await.header("etag").to_owned();
    let fields = [format!("If-None-Match: {tag}\r\nPrefer: wait=60"), "Accept: text/event-stream".to_owned()];
    let mut connections = Vec::new();
    for field in fields {
        let mut connection = TcpStream::connect(wire.proxy).await.expect("it listens");
        let request = format!("GET {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n{field}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("sent");
        connections.push(connection);
    }
    let count = async |count| {
        while wire.app.ground().follows.count() != count {
            yield_now().await;
        }
    };
    soon(count(2)).await;
    drop(connections);
    soon(count(0)).await;
}

#[tokio::test]
async fn on_real_sockets_changes_arrive_and_a_drain_ends_the_waiting() {
    let mut wire = Wire::with(merge(), LONG).await;
    let tag = wire.get(SYNC_STATUS).await.header("etag").to_owned();
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let url = format!("http://{}{SYNC_STATUS}", wire.proxy);
    let request = || Request::get(&url).header("x-account-token", "acme");
    let streaming = request().header("accept", "text/event-stream").header("last-event-id", &tag).body(Empty::new());
    let mut open = soon(client.request(streaming.expect("valid"))).await.expect("an answer");
    wire.merge.start_sync("acme");
    wire.send(with(SYNC_STATUS, &[("x-account-token", "acme"), ("cache-control", "no-cache")])).await;
    let frame = soon(open.body_mut().frame()).await.expect("an event").expect("whole").into_data().expect("data");
    let text = String::from_utf8(frame.to_vec()).expect("UTF-8");
    let (newer, _) = event(&text);
    assert_ne!(newer, tag);

    let waiting = request().header("prefer", "wait=60").header("if-none-match", newer).body(Empty::new());
    let waiting = tokio::spawn(client.request(waiting.expect("valid")));
    soon(async {
        while wire.app.ground().follows.count() < 2 {
            yield_now().await;
        }
    })
    .await;
    let drained = soon(wire.drained()).await;
    let answer = soon(waiting).await.expect("no panic").expect("an answer");
    assert_eq!((answer.status().as_u16(), drained.cut), (304, 0));
    assert!(soon(open.body_mut().frame()).await.is_none(), "the stream has a proper end");
}
