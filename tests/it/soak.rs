//! Two hundred consumers ask for five hundred pages of an upstream that fails at random, and some leave before they are answered:
//! an hour of trouble on a paused clock. Afterwards nobody waits, nothing is held, and no bound was ever crossed.
//!
//! `MERGE_SYNC_PROXY_SOAK=5000000/7 cargo test --release --test it soak -- --nocapture` makes five million requests with the seed 7,
//! and looks at the memory of the process as well, which has to run no other test then.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response};
use http_body_util::Full;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::fault::{Fault, Faults};
use merge_sync_proxy::demo::merge::Merge;
use merge_sync_proxy::domain::body::ReplyBody;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

use crate::support::{API_KEY, Got, SYNC_STATUS, World, consumer, with};

const CONSUMERS: usize = 200;
const ACCOUNTS: usize = 20;
const PAGES: usize = 25;
const MINUTE: Duration = Duration::from_secs(60);
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// The wait for a turn, the whole call, and the second in which a caller hears how it ended: whoever shared a fetch that was too late
/// and has no page to stand in makes one of its own in what is left of that.
const LONGEST: Duration = Duration::from_secs(1 + 20 + 1);

/// How many calls the simulation remembers: those of some ten minutes.
const LOG: usize = 20_000;

/// How much the process may grow in the last third of a run on its own.
const PLATEAU: usize = 16 << 20;

/// What has become of the requests.
#[derive(Default)]
struct Tally {
    /// By status and type of problem.
    answers: Mutex<BTreeMap<(u16, String), usize>>,
    hits: AtomicUsize,
    left: AtomicUsize,
}

impl Tally {
    fn count(&self) -> usize {
        self.answers.lock().values().sum::<usize>() + self.left.load(Ordering::Relaxed)
    }

    fn of(&self, status: u16) -> usize {
        self.answers.lock().iter().filter(|((one, _), _)| *one == status).map(|(_, count)| count).sum()
    }

    fn note(&self, got: &Got, problem: String) {
        self.hits.fetch_add(usize::from(got.cache().starts_with("hit")), Ordering::Relaxed);
        *self.answers.lock().entry((got.status.as_u16(), problem)).or_default() += 1;
    }
}

/// How many requests, and the seed of everything that is random.
fn plan() -> (usize, u64, bool) {
    let Ok(plan) = std::env::var("MERGE_SYNC_PROXY_SOAK") else { return (100_000, 1, false) };
    let (requests, seed) = plan.split_once('/').unwrap_or((&plan, "1"));
    (requests.parse().expect("a number of requests"), seed.parse().expect("a seed"), true)
}

fn world() -> World {
    let name = |number: usize| format!("account-{number}");
    let mut merge = Merge::builder().api_key(API_KEY).rate(100, MINUTE).log_limit(LOG);
    // Pages that live for a short while only, so that the budgets are asked for all they have.
    let lives = "[cache.ttl]\nsettled = '20s'\n[cache.stale]\nwhile_revalidate = '10s'\nif_error = '60s'\n";
    let mut more = format!("[upstreams.us.budget]\nper_account = '100/min'\n{lives}");
    for number in 0..ACCOUNTS {
        let name = name(number);
        merge = merge.account(SimAccount::new(&name, format!("token-of-{name}")).by_hand());
        write!(more, "[[accounts]]\nname = '{name}'\ntoken = 'token-of-{name}'\n").expect("memory takes it");
    }
    for number in 0..CONSUMERS {
        more += &consumer(&format!("consumer-{number}"), "accounts = ['account-*']\nforced_refreshes = '30/min'");
    }
    let world = World::with(merge, &more);
    for number in 0..ACCOUNTS {
        world.merge.page(&name(number), "ats", page_of(&name(number)));
    }
    world
}

/// A fault, or none, for the next few calls.
fn weather(dice: &mut Rng) -> Option<Faults> {
    let brief = Duration::from_millis(dice.u64(1..5_000));
    let piece = Fault::SlowBody { chunk: 4, every: Duration::from_millis(dice.u64(1..400)) };
    let throttled = Fault::answer(429, &[("retry-after", "2")], "{}");
    Some(match dice.u8(..36) {
        0 => Fault::ResetBeforeHeaders.into(),
        1 => Fault::TruncateLength.into(),
        2 => Fault::TruncateChunked.into(),
        3 => Fault::Html.into(),
        4 => Fault::EmptyOk.into(),
        5 => Fault::NoContent.into(),
        6 => Fault::NotModifiedUnasked.into(),
        7 => Fault::BadJson.into(),
        8 => Fault::Redirect("https://elsewhere.example/".to_owned()).into(),
        9 => Fault::Hang.into(),
        10 => Fault::Delay(brief).into(),
        11 => piece.into(),
        12 => Fault::Status(401).into(),
        13 => Fault::Status(404).into(),
        14 => Fault::Status(500).into(),
        15 => Fault::Status(502).into(),
        16 => Fault::Status(503).into(),
        17 => throttled.into(),
        18 => Fault::Status(429).into(),
        19 => [Fault::Status(500), Fault::TruncateLength].into(),
        20 => [Fault::Gzip, Fault::Chunked].into(),
        21 => Fault::NoDate.into(),
        22 => Fault::DateSkew(dice.i64(-9_999..9_999)).into(),
        _ => return None,
    })
}

/// Troubles the upstream until it is aborted.
async fn trouble(merge: Merge, mut dice: Rng) {
    loop {
        // What is left of the last trouble is over, or there would be ever more where calls are few.
        merge.clear();
        if let Some(faults) = weather(&mut dice) {
            merge.script(faults).times(dice.usize(1..10));
        }
        sleep(Duration::from_millis(dice.u64(20..800))).await;
    }
}

/// The whole stack.
trait Proxy:
    Service<Request<Full<Bytes>>, Response = Response<ReplyBody>, Error = Infallible, Future: Send> + Clone
{
}

impl<S> Proxy for S where
    S: Service<Request<Full<Bytes>>, Response = Response<ReplyBody>, Error = Infallible, Future: Send> + Clone
{
}

/// The page of an account.
fn page_of(account: &str) -> String {
    format!("{{\"next\":null,\"results\":[],\"of\":\"{account}\"}}")
}

/// One consumer, who asks so many times.
async fn ask(service: impl Proxy, name: String, requests: usize, mut dice: Rng, tally: Arc<Tally>) {
    for _ in 0..requests {
        sleep(Duration::from_millis(dice.u64(0..2_000))).await;
        let account = format!("account-{}", dice.usize(..ACCOUNTS));
        // Some pages are asked for more often than others, as everywhere.
        let page = dice.usize(..PAGES).min(dice.usize(..PAGES));
        let directive = match dice.u8(..50) {
            0 => "no-cache",
            1 => "max-age=1",
            2 => "max-stale",
            3 => "only-if-cached",
            4 => "no-store",
            _ => "x",
        };
        let authorization = format!("Bearer {name}");
        let fields = [("authorization", &*authorization), ("x-account-token", &account), ("cache-control", directive)];
        let answer = service.clone().oneshot(with(&format!("{SYNC_STATUS}?cursor={page}"), &fields));
        let answer = async {
            let Ok(response) = answer.await;
            Got::whole(response).await
        };
        let patience = if dice.u8(..4) == 0 { Duration::from_millis(dice.u64(0..1_000)) } else { LONGEST * 2 };
        let start = Instant::now();
        let Ok(got) = timeout(patience, answer).await else {
            assert!(patience < LONGEST, "a request was not answered at all");
            tally.left.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        assert!(start.elapsed() <= LONGEST + Duration::from_millis(10), "{:?}: {got:?}", start.elapsed());
        let problem = got.problem();
        check(&got, &problem, &account);
        tally.note(&got, problem);
    }
}

/// Every answer is the account's page, or a documented failure.
fn check(got: &Got, problem: &str, account: &str) {
    match (got.status.as_u16(), problem) {
        (200, "") => assert_eq!(got.body, page_of(account), "the page of another account"),
        (429, "budget-exhausted" | "") | (503, "overloaded" | "") => assert!(got.number("retry-after") >= 1, "{got:?}"),
        (401 | 404 | 500 | 502, "") | (502, "upstream-failed") | (504, "upstream-timeout" | "not-cached") => {}
        _ => panic!("not documented: {got:?}"),
    }
}

/// The most that the upstream has seen: calls of one account in a minute, and failures of all in ten seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    calls: usize,
    failures: usize,
}

impl Most {
    fn seen(merge: &Merge) -> Self {
        let calls = (0..ACCOUNTS).map(|number| merge.max_in_any_window(&format!("account-{number}"), MINUTE)).max();
        Self { calls: calls.unwrap_or_default(), failures: merge.max_failures_in_any_window(TEN_SECONDS) }
    }

    fn or(self, other: Self) -> Self {
        Self { calls: self.calls.max(other.calls), failures: self.failures.max(other.failures) }
    }
}

/// Looks at what the upstream has seen before it forgets it, until there were so many requests.
async fn watch(merge: Merge, tally: Arc<Tally>, requests: usize) -> Most {
    let mut most = Most::default();
    while tally.count() < requests {
        sleep(MINUTE * 5).await;
        most = most.or(Most::seen(&merge));
    }
    most
}

/// The memory of the process, in bytes; 0 where the system does not say.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok()).unwrap_or_default() * 4096
}

#[tokio::test(start_paused = true)]
async fn after_a_long_time_of_trouble_nothing_is_held_and_no_bound_was_crossed() {
    let (requests, seed, alone) = plan();
    fastrand::seed(seed);
    let mut dice = Rng::with_seed(seed);
    let world = world();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let tally = Arc::new(Tally::default());
    let trouble = tokio::spawn(trouble(world.merge.clone(), dice.fork()));
    let (wall, start) = (std::time::Instant::now(), Instant::now());
    let service = world.app.service();
    let mut consumers = JoinSet::new();
    for number in 0..CONSUMERS {
        let share = requests / CONSUMERS + usize::from(number < requests % CONSUMERS);
        consumers.spawn(ask(service.clone(), format!("consumer-{number}"), share, dice.fork(), tally.clone()));
    }
    let memory = {
        let (world, tally) = (world.clone(), tally.clone());
        tokio::spawn(async move {
            while tally.count() < requests * 2 / 3 {
                sleep(MINUTE / 6).await;
            }
            world.app.ground().store.maintain();
            (world.app.ground().store.size(), resident())
        })
    };
    let watch = tokio::spawn(watch(world.merge.clone(), tally.clone(), requests));
    while let Some(ended) = consumers.join_next().await {
        ended.expect("no panic");
    }
    let (stored_before, resident_before) = memory.await.expect("no panic");
    trouble.abort();
    world.merge.clear();
    println!("seed {seed}: {requests} requests in {:?} of {:?}", wall.elapsed(), start.elapsed());
    println!(
        "{} hits, {} left early, {:?}",
        tally.hits.load(Ordering::Relaxed),
        tally.left.load(Ordering::Relaxed),
        tally.answers.lock()
    );
    assert_eq!(tally.count(), requests, "each was answered, or left by its own will");
    assert!(tally.of(200) * 10 >= requests * 5, "trouble did not end the service");

    // What runs ends, what was refused is forgotten, and then everything is as it was.
    let most = watch.await.expect("no panic");
    sleep(MINUTE * 2).await;
    world.assert_idle();
    world.merge.idle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks, "tasks that were left behind");
    let most = most.or(Most::seen(&world.merge));
    println!("{} calls; of one account in a minute and failures in ten seconds at most: {most:?}", world.merge.calls());
    assert!(most.calls <= 100, "{most:?}");
    assert!(most.failures <= 10, "what the budget allows; above 20 Merge blocks the address: {most:?}");
    assert_eq!(world.merge.blocks(), 0);
    world.app.ground().store.maintain();
    let (entries, bytes) = world.app.ground().store.size();
    println!("stored: {stored_before:?}, then {:?}", (entries, bytes));
    assert!(entries <= (ACCOUNTS * PAGES) as u64 && bytes <= stored_before.1 * 5 / 4, "{entries} pages, {bytes} bytes");
    if alone {
        println!("memory: {resident_before} bytes, then {}", resident());
        assert!(resident() <= resident_before + PLATEAU);
    }
    for number in 0..ACCOUNTS {
        let (account, key) = (format!("account-{number}"), "Bearer consumer-0");
        let got = world.send(with(SYNC_STATUS, &[("authorization", key), ("x-account-token", &account)])).await;
        assert_eq!(got.status, 200, "{account} is served again: {got:?}");
    }
}
