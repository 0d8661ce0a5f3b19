//! What Prometheus is told: in a form that it takes, with names that stay, and with labels from the configuration alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::page::escape;
use tower::ServiceExt;

use crate::support::{SYNC_STATUS, Wire, World, ask, consumer, merge, with};

const README: &str = include_str!("../../README.md");

/// Some of everything: hits, misses, stale pages, refusals, failures, and what passes through.
pub(crate) async fn exercised() -> World {
    let routes = "
        [[routes]]
        path = '/api/{category}/v1/sync-status'
        [[routes]]
        path = '/api/ats/v1/jobs'
        cache = 'http'
        [[routes]]
        path = '/api/ats/v1/jobs/*'
        cache = 'off'\n";
    let team = "accounts = ['*']\nraw_tokens = true\nmax_in_flight_misses = 1000\n";
    let budget = "[upstreams.us.budget]\nper_account = '1000000/s'\nerrors = '100000/10s'\nconcurrency = 32\n";
    let teams = consumer("one", team) + &consumer("other", "accounts = ['acme']\nquota = '2/h'");
    let world = World::with(merge(), &(budget.to_owned() + routes + &teams));
    for target in [SYNC_STATUS, SYNC_STATUS, "/api/ats/v1/jobs", "/api/ats/v1/jobs/7", "/nowhere"] {
        send(&world, "one", "acme", target).await;
    }
    for target in [SYNC_STATUS, SYNC_STATUS, SYNC_STATUS] {
        send(&world, "other", "acme", target).await;
    }
    send(&world, "one", "some-token", SYNC_STATUS).await;
    send(&world, "one", "some-token", SYNC_STATUS).await;
    send(&world, "nobody", "acme", SYNC_STATUS).await;
    send(&world, "other", "globex", SYNC_STATUS).await;
    send(&world, "one", "acme", &format!("{SYNC_STATUS}?page_size=0")).await;
    tokio::time::advance(Duration::from_secs(70)).await;
    world.merge.set(Fault::Status(500));
    send(&world, "one", "acme", SYNC_STATUS).await;
    send(&world, "one", "globex", SYNC_STATUS).await;
    world.merge.clear();
    world.settle().await;
    world
}

async fn send(world: &World, consumer: &str, account: &str, target: &str) -> StatusCode {
    let key = format!("Bearer {consumer}");
    world.send(with(target, &[("x-account-token", account), ("authorization", &key)])).await.status
}

/// The series of a text: names and labels without values.
fn series(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a name and a value").0).collect()
}

/// The names of all metrics in a text, without those that every process has.
pub(crate) fn names(text: &str) -> BTreeSet<&str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    types.filter(|name| name.starts_with("merge_sync_proxy_")).collect()
}

/// The labels that each metric of a text has in some series or other, `le` of histograms aside.
pub(crate) fn labels(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = names(text).into_iter().map(|name| (name, BTreeSet::new())).collect();
    for series in series(text) {
        let (name, rest) = series.split_once('{').unwrap_or((series, ""));
        let family = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = family.filter(|family| found.contains_key(family)).unwrap_or(name);
        // Every other piece between quotes is a value.
        let pieces = rest.split('"').step_by(2).filter_map(|piece| piece.strip_suffix('='));
        let labels = pieces.map(|piece| piece.trim_start_matches(',')).filter(|label| *label != "le");
        found.entry(name).or_default().extend(labels);
    }
    found
}

/// The value of this series in a text.
pub(crate) fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
}

/// The same of what is counted.
pub(crate) fn count(text: &str, series: &str) -> u64 {
    format!("{:.0}", value(text, series)).parse().expect("a whole number")
}

/// Runs `promtool` over a text, where it is installed.
pub(crate) fn promtool(arguments: &[&str], text: &str) {
    let started = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("promtool is not installed (Debian: prometheus): its checks are left out");
            return;
        }
        started => started.expect("promtool starts"),
    };
    let mut input = promtool.stdin.take().expect("it is piped");
    // A check that reads files may be done before it has read what comes in.
    let _ = input.write_all(text.as_bytes());
    drop(input);
    let done = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{text}");
}

#[tokio::test]
async fn the_admin_listener_tells_prometheus_in_its_own_format() {
    let wire = Wire::new().await;
    wire.get(SYNC_STATUS).await;
    wire.get(SYNC_STATUS).await;
    let told = wire.admin("/metrics").await;
    assert_eq!(told.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(told.body.to_vec()).expect("text");
    let hits = r#"merge_sync_proxy_requests_total{consumer="open",route="/api/{category}/v1/sync-status",result="hit",status="2xx"}"#;
    assert!((value(&text, hits) - 1.0).abs() < 0.1);
    assert!(value(&text, "merge_sync_proxy_connections_open") >= 1.0);
    assert!(value(&text, "merge_sync_proxy_connections_total") >= 1.0);
    for of_the_process in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "threads"] {
        assert!(value(&text, &format!("process_{of_the_process}")) >= 0.0);
    }
    promtool(&["check", "metrics"], &text);
}

#[tokio::test(start_paused = true)]
async fn promtool_finds_nothing_to_complain_about() {
    let text = exercised().await.app.metrics();
    promtool(&["check", "metrics"], &text);
    // Of that it says nothing.
    let rows = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series(&text).len(), rows, "each series is there once");
}

#[tokio::test(start_paused = true)]
async fn budgets_stores_and_calls_are_told_by_the_names_of_the_configuration() {
    let text = exercised().await.app.metrics();
    for (series, expected) in [
        (r#"budget_limit{upstream="us",account="globex"}"#, 1_000_000.0),
        (r#"budget_window_seconds{upstream="us",account="globex"}"#, 1.0),
        (r#"budget_waiting{upstream="us",account="raw"}"#, 0.0),
        (r#"upstream_calls_total{upstream="us",account="raw",reason="miss",status="4xx"}"#, 1.0),
        (r#"upstream_calls_total{upstream="us",account="acme",reason="refresh",status="5xx"}"#, 1.0),
        (r#"account_failing{upstream="us",account="globex"}"#, 1.0),
        (r#"account_last_success_age_seconds{upstream="us",account="acme"}"#, 70.0),
        (r#"failure_budget_limit{upstream="us"}"#, 100_000.0),
        (r#"failure_budget_used{upstream="us"}"#, 2.0),
        (r#"breaker_open{upstream="us"}"#, 0.0),
        (r#"upstream_in_flight{upstream="us"}"#, 0.0),
        (r#"flights{store="pages"}"#, 0.0),
        ("flight_waiters", 0.0),
        (r#"cache_bytes_limit{store="pages"}"#, 134_217_728.0),
        ("config_last_reload_successful", 1.0),
        (r#"request_duration_seconds_count{result="miss"}"#, 4.0),
        ("page_age_seconds_count", 4.0),
    ] {
        let found = value(&text, &format!("merge_sync_proxy_{series}"));
        assert!((found - expected).abs() < 1e-6, "{series} is {found} and not {expected}\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_the_store_shows_in_its_counters() {
    let world = World::with(merge(), "[cache]\nmax_bytes = '64KiB'\nmax_page_bytes = '32KiB'");
    world.merge.page("acme", "hris", "[".to_owned() + &" ".repeat(40_000) + "]");
    world.get("/api/hris/v1/sync-status").await;
    for number in 0..100 {
        world.get(&format!("{SYNC_STATUS}?strange={number}")).await;
    }
    world.settle().await;
    world.app.ground().store.maintain();
    let text = world.app.metrics();
    let rejected = r#"merge_sync_proxy_cache_rejections_total{store="pages",reason="too-large"}"#;
    assert!((value(&text, rejected) - 1.0).abs() < 0.1);
    assert!(value(&text, r#"merge_sync_proxy_cache_evictions_total{store="pages"}"#) > 1.0);
    let entries = value(&text, r#"merge_sync_proxy_cache_entries{store="pages"}"#);
    assert!(entries > 1.0 && entries < 100.0);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_requests_with_random_tokens_cursors_and_paths_bring_no_new_labels() {
    let mut random = Random(fastrand::Rng::with_seed(7));
    let world = exercised().await;
    let service = world.app.service();
    let mut before = String::new();
    for number in 0_u32..100_100 {
        // The first hundred are one of each kind.
        if number == 100 {
            world.settle().await;
            before = world.app.metrics();
        }
        let token = random.token();
        let (consumer, account, target) = match number % 100 {
            // What comes to Merge.
            0..2 => ("one", "acme", format!("{SYNC_STATUS}?cursor={}", random.cursor())),
            2 => ("one", "acme", format!("{SYNC_STATUS}?page_size={}&cursor={}", number % 100 + 1, random.cursor())),
            3 => ("one", "acme", format!("{SYNC_STATUS}?{}={}", random.word(), random.word())),
            4..6 => ("one", &*token, SYNC_STATUS.to_owned()),
            6 => ("one", &*token, format!("{SYNC_STATUS}?cursor={}", random.cursor())),
            7 => ("one", "acme", format!("/api/ats/v1/jobs/{}", random.path())),
            8 => ("one", "acme", format!("/api/ats/v1/jobs?cursor={}", random.cursor())),
            // What the door refuses.
            9..20 => ("one", "acme", format!("/{}", random.path())),
            20..30 => ("one", "acme", format!("/api/{}/v1/sync-status", random.word())),
            30..50 => (&*token, "acme", SYNC_STATUS.to_owned()),
            50..70 => ("other", &*token, format!("{SYNC_STATUS}?cursor={}", random.cursor())),
            70..90 => ("one", "acme", format!("{SYNC_STATUS}?page_size={}", random.word())),
            _ => ("one", "acme", SYNC_STATUS.to_owned()),
        };
        let key = format!("Bearer {consumer}");
        let request = with(&target, &[("x-account-token", account), ("authorization", &key)]);
        let Ok(_) = service.clone().oneshot(request).await;
    }
    world.settle().await;
    let after = world.app.metrics();
    let new: Vec<_> = series(&after).difference(&series(&before)).copied().map(str::to_owned).collect();
    assert_eq!(new, Vec::<String>::new());
    let all: u64 = world.app.ground().metrics.totals().counts.requests;
    assert!(all >= 100_100, "{all}");
}

/// What callers may send, the same in each run.
struct Random(fastrand::Rng);

impl Random {
    fn word(&mut self) -> String {
        (0..self.0.usize(1..20)).map(|_| self.0.alphanumeric()).collect()
    }

    /// As long as those of Merge.
    fn token(&mut self) -> String {
        (0..54).map(|_| if self.0.u8(..8) == 0 { '-' } else { self.0.alphanumeric() }).collect()
    }

    /// As it has to be written in a query.
    fn cursor(&mut self) -> String {
        let bytes: Vec<u8> = (0..self.0.usize(1..60)).map(|_| self.0.u8(..)).collect();
        escape(&STANDARD.encode(bytes))
    }

    fn path(&mut self) -> String {
        (0..self.0.usize(1..6)).map(|_| self.word()).collect::<Vec<_>>().join("/")
    }
}

#[tokio::test(start_paused = true)]
async fn the_readme_lists_every_metric_with_its_labels_and_no_other() {
    let text = exercised().await.app.metrics();
    let section = README.split("## Watching it").nth(1).expect("a section").split("\n## ").next().expect("its text");
    let table = section.split("| `result` | `reason` |").next().expect("the first table");
    let mut listed = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // `; ` stands between those of one metric and the next; what follows ` = ` are values.
        let labels = cells[2].split("; ").map(|of_one| words(of_one.split(" = ").next().unwrap_or_default()).collect());
        let labels: Vec<BTreeSet<&str>> = labels.collect();
        for (at, name) in words(cells[1]).enumerate() {
            let labels = labels.get(at).unwrap_or(&labels[0]).clone();
            listed.insert(format!("merge_sync_proxy_{name}"), labels);
        }
    }
    let told = labels(&text).into_iter().map(|(name, labels)| (name.to_owned(), labels));
    let told = told.filter(|(name, _)| name.starts_with("merge_sync_proxy_")).collect();
    assert_eq!(listed, told);
}

/// What stands between backticks.
fn words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[tokio::test]
async fn metrics_need_the_token_where_there_is_one() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    assert_eq!(wire.admin("/metrics").await.status, 401);
    let told = wire.operate(with("/metrics", &[("authorization", "Bearer let-me-in")])).await;
    assert_eq!(told.status, 200);
    assert_eq!(wire.operate(crate::support::method(http::Method::POST, ask("/metrics"))).await.status, 405);
}
