//! What shares a stored page and what never does.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use merge_sync_proxy::demo::fault::Fault;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::support::{ACME_TOKEN, GLOBEX_TOKEN, Got, SYNC_STATUS, World, with};

/// Any query gets a page, and no two calls the same one.
fn world() -> World {
    let world = World::new();
    world.merge.set(Fault::Body(r#"{"results":[]}"#.into()));
    world
}

async fn ask(world: &World, account: &str, target: &str) -> Got {
    world.send(with(target, &[("x-account-token", account)])).await
}

/// Whether the second request is answered from what the first one brought.
async fn shares(first: (&str, &str), second: (&str, &str)) -> bool {
    let world = world();
    let before = ask(&world, first.0, first.1).await;
    assert_eq!(before.status, 200, "{first:?}");
    let after = ask(&world, second.0, second.1).await;
    assert_eq!(after.status, 200, "{second:?}");
    assert_eq!(world.merge.calls(), if after.cache().starts_with("hit") { 1 } else { 2 });
    world.merge.calls() == 1
}

#[tokio::test(start_paused = true)]
async fn different_questions_never_share_an_entry() {
    let base = SYNC_STATUS;
    let query = |query: &str| format!("{base}?{query}");
    for (one, other) in [
        (base.to_owned(), query("page_size=50")),
        (base.to_owned(), query("cursor=")),
        (query("page_size=5"), query("page_size=50")),
        (query("page_size=5"), query("page_size=05")),
        (query("cursor=a"), query("cursor=b")),
        (query("cursor=a"), query("cursor=A")),
        (query("cursor=a"), query("cursor=a&page_size=50")),
        (query("cursor=a%2Bb"), query("cursor=a+b")),
        (query("cursor=a%2Bb"), query("cursor=a%20b")),
        (query("cursor=a+b"), query("cursor=a%20b")),
        (query("cursor=a%3D"), query("cursor=a=")),
        (query("cursor=a%26page_size=5"), query("cursor=a&page_size=5")),
        (query("x=1&x=2"), query("x=2&x=1")),
        (query("x"), query("x=")),
        (query("X=1"), query("x=1")),
        (base.to_owned(), base.replace("ats", "hris")),
    ] {
        assert!(!shares(("acme", &one), ("acme", &other)).await, "{one} and {other}");
    }
    assert!(!shares(("acme", base), ("globex", base)).await);
    assert!(!shares((ACME_TOKEN, base), (GLOBEX_TOKEN, base)).await);
    assert!(!shares(("acme", base), (GLOBEX_TOKEN, base)).await);
}

#[tokio::test(start_paused = true)]
async fn the_same_question_shares_an_entry_however_it_is_written() {
    let query = |query: &str| format!("{SYNC_STATUS}?{query}");
    for (one, other) in [
        (SYNC_STATUS.to_owned(), "/ats/v1/sync-status".to_owned()),
        (query("cursor=a%2Bb%3D%3D&page_size=50"), query("page_size=50&cursor=a%2Bb%3D%3D")),
        (query("cursor=a%2Bb"), query("cursor=a%2bb")),
        (query("cursor=%61~b"), query("cursor=a%7Eb")),
        (query("page%5Fsize=5"), query("page_size=5")),
        (query("b=1&a=2&c=3"), "/ats/v1/sync-status?c=3&b=1&a=2".to_owned()),
    ] {
        assert!(shares(("acme", &one), ("acme", &other)).await, "{one} and {other}");
    }
    assert!(shares(("acme", SYNC_STATUS), (ACME_TOKEN, SYNC_STATUS)).await, "a name and its token");
    assert!(shares((GLOBEX_TOKEN, SYNC_STATUS), ("globex", "/ats/v1/sync-status")).await, "a token and its name");
}

#[tokio::test(start_paused = true)]
async fn a_query_reaches_merge_byte_for_byte() {
    let world = world();
    let queries = [
        "cursor=a%2Bb%3D%3D&page_size=50",
        "page_size=7&cursor=a%2bb%3d%3d",
        "cursor=a+b%20c%2Bd",
        "z=1&a=2&z=3",
        "cursor=%zz%2",
        "cursor=%61%7e",
        "&&x=&&y",
        "",
        "cursor=cD0yMDI2LTA0LTE1+/++/==",
        "q=?/:@!$'()*,;",
        "cursor=%C3%A9%00",
    ];
    for query in queries {
        assert_eq!(ask(&world, "acme", &format!("/ats/v1/sync-status?{query}")).await.status, 200, "{query}");
    }
    let seen: Vec<_> = world.merge.log().into_iter().map(|seen| seen.query.unwrap_or_default()).collect();
    assert_eq!(seen, queries);
    assert_eq!(ask(&world, "globex", SYNC_STATUS).await.status, 200);
    assert_eq!(world.merge.log().last().map(|seen| seen.query.clone()), Some(None), "no query stays none");
}

#[tokio::test(start_paused = true)]
async fn a_walk_along_merges_own_cursors_sees_what_merge_shows() {
    let world = World::new();
    let mut target = format!("{SYNC_STATUS}?page_size=2");
    let mut models = Vec::new();
    loop {
        let page: serde_json::Value = serde_json::from_slice(&ask(&world, "acme", &target).await.body).expect("JSON");
        let results = page["results"].as_array().expect("results");
        models.extend(results.iter().map(|model| model["model_id"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        let cursor = merge_sync_proxy::demo::page::escape(next);
        target = format!("{SYNC_STATUS}?cursor={cursor}&page_size=2");
    }
    let expected: Vec<_> = world.merge.states("acme").into_iter().map(|state| state.model_id).collect();
    assert_eq!(models, expected);
}

/// One step of a client that has no plan.
#[allow(clippy::struct_excessive_bools, reason = "each is thrown by itself")]
#[derive(Clone, Debug)]
struct Step {
    globex: bool,
    by_token: bool,
    hris: bool,
    short: bool,
    cursor: Option<&'static str>,
    page_size: Option<u8>,
    swapped: bool,
    pause: u64,
    forced: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let cursor = proptest::sample::select(vec![None, Some(""), Some("a%2Bb"), Some("a+b"), Some("a%20b"), Some("a")]);
    let page_size = proptest::sample::select(vec![None, Some(1_u8), Some(10), Some(100)]);
    let flags = any::<(bool, bool, bool, bool, bool)>();
    let pause = prop_oneof![4 => Just(0_u64), 1 => 0..4_000_u64, 1 => 10_000..40_000_u64];
    (flags, cursor, page_size, pause, proptest::bool::weighted(0.1)).prop_map(
        |((globex, by_token, hris, short, swapped), cursor, page_size, pause, forced)| Step {
            globex,
            by_token,
            hris,
            short,
            cursor,
            page_size,
            swapped,
            pause,
            forced,
        },
    )
}

impl Step {
    fn account(&self) -> &'static str {
        if self.globex { "globex" } else { "acme" }
    }

    fn category(&self) -> &'static str {
        if self.hris { "hris" } else { "ats" }
    }

    fn header(&self) -> &'static str {
        match (self.globex, self.by_token) {
            (false, false) => "acme",
            (false, true) => ACME_TOKEN,
            (true, false) => "globex",
            (true, true) => GLOBEX_TOKEN,
        }
    }

    /// Account, category, cursor and page size: whose page it is.
    fn meaning(&self) -> String {
        format!("{}/{}/{:?}/{:?}", self.account(), self.category(), self.cursor, self.page_size)
    }

    fn target(&self) -> String {
        let cursor = self.cursor.map(|cursor| format!("cursor={cursor}"));
        let mut pairs: Vec<String> = cursor.into_iter().collect();
        pairs.extend(self.page_size.map(|size| format!("page_size={size}")));
        if self.swapped {
            pairs.reverse();
        }
        let prefix = if self.short { "" } else { "/api" };
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        format!("{prefix}/{}/v1/sync-status{query}", self.category())
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_asked_in_whatever_order_a_page_belongs_to_its_question() {
    const SEED: [u8; 32] = *b"two accounts and their questions";
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let world = World::new();
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    let (mut hits, mut calls) = (0, 0);
    for number in 0..2_000_u64 {
        let step = step().new_tree(&mut runner).expect("a step").current();
        tokio::time::advance(Duration::from_millis(step.pause)).await;
        // What Merge would say now: nobody else may ever be told this.
        let body = serde_json::json!({ "results": [], "of": step.meaning(), "version": number });
        world.merge.page(step.account(), step.category(), Bytes::from(body.to_string()));
        let mut headers = vec![("x-account-token", step.header())];
        headers.extend(step.forced.then_some(("cache-control", "no-cache")));
        let answer = world.send(with(&step.target(), &headers)).await;
        world.settle().await;

        assert_eq!(answer.status, 200, "{step:?}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body["of"], step.meaning(), "step {number}: {step:?} {}", answer.cache());
        let version = body["version"].as_u64().expect("a number");
        let before = versions.insert(step.meaning(), version).unwrap_or_default();
        assert!(version >= before, "step {number}: {step:?} went back from {before} to {version}");
        hits += u32::from(answer.cache().starts_with("hit"));
        calls += u32::from(answer.cache().starts_with("fwd"));
    }
    println!("{hits} hits, {calls} fetches, {} calls in all", world.merge.calls());
    assert!(hits > 200 && calls > 200, "{hits} hits and {calls} fetches");
    world.assert_idle();
}
