//! What naming a page costs: the canonical form of a query, the key with its hash, and the hash of a raw token.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use foldhash::fast::RandomState;
use merge_sync_proxy::domain::access::{AccountHash, Name};
use merge_sync_proxy::domain::key::{CanonicalQuery, KeyParts, PageKey, Place, TokenHasher};

/// As long as Merge's own cursors.
const CURSOR: &str = "page_size=100&cursor=cD0yMDIxLTA2LTI4KzAwJTNBMDA%3d&modified_after=2026-04-01T00%3A00%3A00Z";

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key");
    for (name, query) in [("none", ""), ("page_size", "page_size=100"), ("cursor", CURSOR)] {
        group.bench_function(format!("canonical query, {name}"), |bencher| {
            bencher.iter(|| CanonicalQuery::new(black_box(query)));
        });
    }
    let upstream: Name = "us".into();
    let path = "/api/ats/v1/sync-status";
    let place = Arc::new(Place { route: path.into(), path: path.into() });
    let account = AccountHash([7; 16]);
    let hasher = RandomState::default();
    for (name, query) in [("without query", ""), ("with query", CURSOR)] {
        group.bench_function(format!("built and hashed, {name}"), |bencher| {
            bencher.iter(|| {
                let query = CanonicalQuery::new(black_box(query));
                let key = PageKey::new(KeyParts { upstream: upstream.clone(), account, place: place.clone(), query });
                hasher.hash_one(&key)
            });
        });
    }
    let tokens = TokenHasher::from_key([7; 32]);
    group.bench_function("hash of a raw token", |bencher| {
        bencher.iter(|| tokens.hash(black_box("t-0f3c1a9e7b5d42c88e61f0a2b4c6d8e0")));
    });
    group.finish();
}

criterion_group!(
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = keys
);
criterion_main!(benches);
