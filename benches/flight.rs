//! What it costs that a thousand callers wait for one fetch: all of them through the whole stack, one call upstream.

mod support;

use std::convert::Infallible;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use http::{Response, StatusCode};
use support::ground::Ground;
use tokio::runtime::Builder;
use tower::ServiceExt;

const WAITERS: usize = 1_000;

fn flights(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ground = Ground::new(10, 10);
    let mut group = criterion.benchmark_group("flight");
    group.sample_size(20);
    // Never the same twice: what has landed would be a hit.
    let mut number = 0;
    group.bench_function("1,000 waiters on one fetch", |bencher| {
        let batch = || {
            number += 1;
            let query = format!("?cursor={number}");
            (0..WAITERS).map(|_| ground.request(0, 0, &query)).collect::<Vec<_>>()
        };
        let serve = |requests: Vec<_>| async {
            let calls = ground.merge.calls();
            let held = ground.merge.hold();
            let service = ground.app.service();
            let all = join_all(requests.into_iter().map(|request| service.clone().oneshot(request)));
            let landing = async {
                ground.merge.arrived(calls + 1).await;
                held.release();
            };
            let (answers, ()) = futures_util::future::join(all, landing).await;
            let answers =
                answers.into_iter().map(|answer: Result<Response<_>, Infallible>| answer.map(|answer| answer.status()));
            let served = answers.filter(|status| *status == Ok(StatusCode::OK)).count();
            assert_eq!((served, ground.merge.calls()), (WAITERS, calls + 1));
        };
        bencher.iter_batched(batch, |requests| runtime.block_on(serve(requests)), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, flights);
criterion_main!(benches);
