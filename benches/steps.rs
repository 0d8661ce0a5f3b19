//! Each step of a hit by itself, so that a change shows where it costs. The form of the answer and the whole are in `hit`, the key in
//! `key`.

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Empty;
use merge_sync_proxy::domain::access::Consumer;
use merge_sync_proxy::domain::arrival::Arrived;
use merge_sync_proxy::domain::ask::Whose;
use merge_sync_proxy::domain::body::ReplyBody;
use merge_sync_proxy::domain::bucket::Rate;
use merge_sync_proxy::domain::cache_control::Wants;
use merge_sync_proxy::domain::caller::Caller;
use merge_sync_proxy::domain::exchange::Outcome;
use merge_sync_proxy::domain::key::{CanonicalQuery, KeyParts, PageKey};
use merge_sync_proxy::domain::problem::Problem;
use merge_sync_proxy::domain::reply::{End, Reply};
use merge_sync_proxy::domain::under_way::{Abandoned, UnderWay};
use merge_sync_proxy::door::fields::Fields;
use merge_sync_proxy::door::{query, quota};
use merge_sync_proxy::reply::accept_encoding;
use merge_sync_proxy::telemetry;
use merge_sync_proxy::trace::export::Traces;
use support::ground::Ground;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

const MANY: usize = 1_000;
const PATH: &str = "/api/ats/v1/sync-status";

/// An answer that nobody has to wait for.
struct AtOnce(Ready<Result<Reply, Infallible>>);

impl Future for AtOnce {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl UnderWay for AtOnce {
    type Known = Abandoned;

    fn abandon(self: Pin<&mut Self>) -> Option<Abandoned> {
        None
    }
}

fn steps(criterion: &mut Criterion) {
    let ground = Ground::new(MANY, MANY);
    let house = ground.app.ground().house.load();
    let request = ground.request(7, 7, "");
    let (headers, now) = (request.headers(), Instant::now());
    let mut group = criterion.benchmark_group("step");
    group.bench_function("route", |bencher| {
        bencher.iter(|| house.routes.find(&Method::GET, black_box(PATH)).expect("a route"));
    });
    group.bench_function("identify", |bencher| {
        bencher.iter(|| {
            house
                .consumers
                .identify(Fields::of(black_box(headers)).authorization, None, &house.strangers, now)
                .expect("a consumer")
                .clone()
        });
    });
    let stranger = ground.request(MANY, 7, "");
    group.bench_function("identify, unknown key", |bencher| {
        bencher.iter(|| {
            house
                .consumers
                .identify(Fields::of(black_box(stranger.headers())).authorization, None, &house.strangers, now)
                .expect_err("unknown")
        });
    });
    group.bench_function("query", |bencher| {
        bencher.iter(|| query::check(&CanonicalQuery::new(black_box("page_size=50"))).expect("a good one"));
    });
    let caller = house
        .consumers
        .identify(Fields::of(headers).authorization, None, &house.strangers, now)
        .expect("a consumer")
        .clone();
    group.bench_function("resolve", |bencher| {
        bencher.iter(|| {
            house.accounts.resolve(Fields::of(black_box(headers)).account, &caller.consumer, None).expect("an account")
        });
    });
    group.bench_function("wants", |bencher| bencher.iter(|| Wants::read(black_box(headers))));
    group.bench_function("accept-encoding", |bencher| bencher.iter(|| accept_encoding::choose(black_box(headers))));
    let rate = Rate::new(u32::MAX, Duration::from_secs(1));
    let limited = Caller::new(Consumer { quota: rate, ..Consumer::open() }, Instant::now());
    group.bench_function("quota", |bencher| bencher.iter(|| quota::take(limited.quota.as_deref(), Instant::now())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let Ok(_) = runtime.block_on(ground.app.service().oneshot(ground.request(7, 7, "")));
    let target = house.accounts.resolve(Fields::of(headers).account, &caller.consumer, None).expect("an account");
    let stop = house.routes.find(&Method::GET, PATH).expect("a route");
    let query = CanonicalQuery::new("");
    let key = PageKey::new(KeyParts {
        upstream: target.upstream.name.clone(),
        account: target.account.hash,
        place: stop.place,
        query,
    });
    group.bench_function("lookup", |bencher| {
        bencher.iter(|| ground.app.ground().store.get(black_box(&key)).expect("stored"));
    });
    let answer = |request: Request<Arrived<Empty<Bytes>>>| {
        drop(request);
        let outcome = Outcome { whose: Whose::Known(Box::default()), id: None, result: Err(Problem::NotCached) };
        let response = Response::new(ReplyBody::whole(Bytes::new()));
        AtOnce(ready(Ok(Reply {
            response,
            outcome,
            request_id: HeaderValue::from_static("id"),
            ended: Instant::now(),
            took: Duration::ZERO,
        })))
    };
    let mut telemetry = telemetry::layer(Traces::default(), |_: End<'_>| ()).layer(service_fn(answer));
    group.bench_function("telemetry", |bencher| {
        let arrived = || request.clone().map(|body| Arrived::within(None, body));
        bencher.iter_batched(arrived, |request| telemetry.call(request), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = steps
);
criterion_main!(benches);
