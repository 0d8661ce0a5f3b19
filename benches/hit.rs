//! What a hit costs: the look into the store, the form of the answer, and the whole of it through the stack.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use merge_sync_proxy::cache::store::Store;
use merge_sync_proxy::domain::access::AccountHash;
use merge_sync_proxy::domain::arrival::Arrived;
use merge_sync_proxy::domain::ask::Whose;
use merge_sync_proxy::domain::exchange::{Answer, Given, Outcome, Served};
use merge_sync_proxy::domain::history::History;
use merge_sync_proxy::domain::key::{CanonicalQuery, KeyParts, PageKey, Place};
use merge_sync_proxy::domain::lifetime::Lifetime;
use merge_sync_proxy::domain::page::{Kind, Page};
use merge_sync_proxy::domain::received::{Received, SyncDigest};
use merge_sync_proxy::reply::render;
use support::ground::Ground;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

/// A page that stays fresh.
fn page(body: usize) -> Arc<Page> {
    let received = Received {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: vec![b' '; body].into(),
        began: Instant::now(),
        digest: SyncDigest::default(),
        retry_at: None,
        remembered: false,
    };
    let hour = Duration::from_secs(3600);
    let lifetime = Lifetime { fresh: hour, while_revalidate: hour, if_error: hour };
    Arc::new(Page::new(&received, Kind::Good, lifetime, History::default(), None))
}

fn lookups(criterion: &mut Criterion) {
    let path = "/api/ats/v1/sync-status";
    let place = Arc::new(Place { route: path.into(), path: path.into() });
    let mut group = criterion.benchmark_group("lookup");
    for (name, entries) in [("1 entry", 1_u64), ("100,000 entries", 100_000)] {
        let store = Store::new(1 << 30);
        let key = |number: u64| {
            let mut account = [0; 16];
            account[..8].copy_from_slice(&number.to_le_bytes());
            PageKey::new(KeyParts {
                upstream: "us".into(),
                account: AccountHash(account),
                place: place.clone(),
                query: CanonicalQuery::new(""),
            })
        };
        let keys: Vec<PageKey> = (0..entries).map(key).collect();
        for key in &keys {
            store.keep(key, &page(64));
        }
        store.maintain();
        let mut at = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // A stride that shares no factor with their number visits all of them, none after its neighbour.
                at = (at + 7919) % keys.len();
                store.get(&keys[at]).expect("stored")
            });
        });
    }
    group.finish();
}

fn renderings(criterion: &mut Criterion) {
    let page = page(4096);
    let answer = Answer::new(page.clone(), Served::Hit, Instant::now(), false);
    let answering = service_fn(move |_: Request<Arrived<Empty<Bytes>>>| {
        let result = Ok(Given::Page(answer.clone()));
        std::future::ready(Ok(Outcome { whose: Whose::Known(Box::default()), id: None, result }))
    });
    let mut service = render::layer().layer(answering);
    let request = Request::get("/").header("x-request-id", "bench").body(Empty::new()).expect("a valid request");
    criterion.bench_function("render", |bencher| {
        bencher.iter_batched(
            || request.clone().map(|body| Arrived::within(None, body)),
            |request| service.call(request).now_or_never().expect("it never waits").map(|reply| reply.response),
            BatchSize::SmallInput,
        );
    });
}

/// Brings the request that a stored page answers to the page that each account has.
fn warm(ground: &Ground, accounts: usize) -> HeaderValue {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut etag = None;
    for account in 0..accounts {
        let Ok(answer) = runtime.block_on(ground.app.service().oneshot(ground.request(account, account, "")));
        assert_eq!(answer.status(), StatusCode::OK);
        etag = answer.headers().get("etag").cloned();
    }
    etag.expect("a page has one")
}

/// Makes another request of a plain one.
type Bend<'a> = &'a dyn Fn(&mut Request<Empty<Bytes>>);

fn hits(criterion: &mut Criterion) {
    const MANY: usize = 1_000;
    let ground = Ground::new(MANY, MANY);
    let etag = warm(&ground, MANY);
    let mut service = ground.app.service();
    let mut group = criterion.benchmark_group("hit");
    let known = |request: &mut Request<Empty<Bytes>>| drop(request.headers_mut().insert("if-none-match", etag.clone()));
    let head = |request: &mut Request<Empty<Bytes>>| *request.method_mut() = Method::HEAD;
    let kinds: [(&str, StatusCode, usize, Bend<'_>); 4] = [
        ("200, one key", StatusCode::OK, 1, &|_| ()),
        ("200, 1,000 keys", StatusCode::OK, MANY, &|_| ()),
        ("304", StatusCode::NOT_MODIFIED, 1, &known),
        ("HEAD", StatusCode::OK, 1, &head),
    ];
    for (name, status, keys, bend) in kinds {
        let mut requests: Vec<_> = (0..keys).map(|number| ground.request(number, number, "")).collect();
        requests.iter_mut().for_each(bend);
        let mut turns = requests.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || turns.next().expect("without end").clone(),
                |request| {
                    let Ok(answer) = service.call(request).now_or_never().expect("a hit never waits");
                    assert_eq!(black_box(&answer).status(), status);
                    answer
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = short(); targets = lookups, renderings, hits);
criterion_main!(benches);
