//! The proxy beside hyper alone and beside the caches that people use today: the same work, in turns, within one run.
//!
//! Machines are noisy and differ, so what counts are ratios of paired rounds: their minimum, median and maximum. Servers run on the first
//! core, the load on the last. `cargo bench --bench peers -- --rounds 15 --seconds 2 --only hits,herd`

#![allow(clippy::print_stdout, reason = "what a bench finds goes to the terminal")]
#![allow(clippy::doc_markdown, reason = "these comments are what --help prints")]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::merge::Merge;
use rustls::ClientConfig;
use support::child::{self, Server, this_program};
use support::drive::{Driver, End, Lines, Pace, Report, Turns};
use support::foreign::{self, PEERS, Setting};
use support::ground::{self, key};
use support::identity;
use support::role::{self, Layout, Role};
use support::rounds::{median, spread};
use support::say;
use support::upstream;
use support::wire::{self, Speech};

const ACCOUNTS: usize = 1_000;

/// What the proxy of the other build is called.
const OTHER: &str = "the other build";

/// Compares the proxy with hyper alone, nginx, HAProxy and Varnish, those of them that are installed.
#[derive(Parser)]
#[command(name = "peers")]
struct Options {
    /// Rounds; in each every server has its turn. Many short ones tell more than few long ones: what slows the machine down then slows
    /// all of a round.
    #[arg(long, default_value_t = 31, value_parser = say::some)]
    rounds: usize,
    /// The length of a turn, in seconds.
    #[arg(long, default_value_t = 0.4, value_parser = say::seconds)]
    seconds: f64,
    /// Only these, with commas between them.
    #[arg(long, value_delimiter = ',', value_parser = ONLY)]
    only: Vec<String>,
    /// The program of this bench as another version of the sources has it: its proxy has a turn too, so that one run shows before and
    /// after.
    #[arg(long, value_name = "PROGRAM", value_parser = say::program)]
    against: Option<String>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be chosen.
const ONLY: [&str; 9] = ["hits", "keys", "many", "open", "http2", "tls", "workers", "herd", "expiry"];

/// A server and how it is asked.
struct Subject {
    name: &'static str,
    server: Server,
    /// The requests, one for each key.
    requests: Vec<Vec<u8>>,
    tls: Option<Arc<ClientConfig>>,
}

/// What a turn showed.
struct Turn {
    report: Report,
    cpu: Duration,
}

/// A kind of work.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    title: &'static str,
    keys: usize,
    connections: usize,
    speech: Speech,
    tls: bool,
    workers: usize,
    pace: Pace,
}

const HITS: Work = Work {
    name: "hits",
    title: "hits, 1 key, 64 connections",
    keys: 1,
    connections: 64,
    speech: Speech::Http1,
    tls: false,
    workers: 1,
    pace: Pace::Closed,
};

const WORKS: [Work; 7] = [
    HITS,
    Work { name: "keys", title: "hits, 1,000 keys, 64 connections", keys: ACCOUNTS, ..HITS },
    Work { name: "many", title: "hits, 1,000 keys, 1,000 connections", keys: ACCOUNTS, connections: 1_000, ..HITS },
    Work { name: "open", title: "hits at 10,000 a second (open loop)", pace: Pace::Open(10_000.0), ..HITS },
    Work {
        name: "http2",
        title: "hits, HTTP/2, 4 connections of 32 streams",
        connections: 4,
        speech: Speech::Http2,
        ..HITS
    },
    Work { name: "tls", title: "hits, 1 key, 64 connections with TLS", tls: true, ..HITS },
    Work { name: "workers", title: "hits, two workers that share two cores with the load", workers: 2, ..HITS },
];

fn main() -> ExitCode {
    if role::play() {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    child::load_on_the_last_core();
    let folder = tempfile::tempdir().expect("a place for files");
    identity::write(folder.path()).expect("a certificate");
    let merge = ground::merge(ACCOUNTS);
    let upstream = upstream::serve(merge.clone());
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let other = options.against.as_deref();
    for work in WORKS.iter().filter(|work| wanted(work.name)) {
        let setting = Setting { tls: work.tls, ..setting(folder.path(), upstream, work.speech, work.workers) };
        compare(work, &subjects(&setting, work.keys, true, other), &options);
    }
    let setting = Setting { lifetime: 60, ..setting(folder.path(), upstream, Speech::Http1, 1) };
    if wanted("herd") {
        herd(&merge, &subjects(&setting, 1, false, other));
    }
    if wanted("expiry") {
        expiry(&merge, &subjects(&Setting { lifetime: 1, ..setting }, 1, true, other));
    }
    ExitCode::SUCCESS
}

fn setting(folder: &Path, upstream: std::net::SocketAddr, speech: Speech, workers: usize) -> Setting<'_> {
    // Said for each, as a child would have the one core of who starts it. Two workers share theirs with the load.
    let cores = if workers == 1 { "0" } else { "0,1" };
    Setting { folder, upstream, speech, tls: false, workers, lifetime: 3_600, cores: Some(cores) }
}

/// All servers that there are, the yardstick first; `other` is the program of the other build, if there is one.
fn subjects(setting: &Setting<'_>, keys: usize, with_bare: bool, other: Option<&str>) -> Vec<Subject> {
    let layout = Layout {
        workers: setting.workers,
        upstream: Some(setting.upstream),
        lifetime: setting.lifetime,
        tls: setting.tls.then_some(setting.folder),
        ..Layout::default()
    };
    let tls = setting.tls.then(|| identity::client(setting.folder));
    let mut subjects = Vec::new();
    let ours = |name, role, program: &str, accounts| {
        let server = Server::play_by(program, role, &Layout { accounts, ..layout }, setting.cores);
        let requests = requests(setting.speech, keys, "account", "");
        Subject { name, server, requests, tls: tls.clone() }
    };
    let this = this_program();
    if with_bare {
        // What hyper answers with comes from as many places in memory as what others do.
        subjects.push(ours(Role::Bare.name(), Role::Bare, &this, keys));
    }
    subjects.push(ours(Role::Proxy.name(), Role::Proxy, &this, layout.accounts));
    subjects.extend(other.map(|other| ours(OTHER, Role::Proxy, other, layout.accounts)));
    for peer in PEERS {
        match foreign::start(peer, setting) {
            Some(server) => {
                let requests = requests(setting.speech, keys, "token", "");
                subjects.push(Subject { name: peer, server, requests, tls: tls.clone() });
            }
            None => println!("({peer} is not installed or does not start: left out)"),
        }
    }
    subjects
}

/// A request for the page of each of so many accounts. Peers know no names of accounts: they get tokens.
fn requests(speech: Speech, keys: usize, account: &str, query: &str) -> Vec<Vec<u8>> {
    let request = |number: usize| {
        let (authorization, account) = (format!("Bearer {}", key(number)), format!("{account}-{number}"));
        let fields = [
            ("user-agent", "merge-python/1.0"),
            ("accept", "application/json"),
            ("authorization", &authorization),
            ("x-account-token", &account),
        ];
        wire::get(speech, "proxy.internal:8080", &format!("/api/ats/v1/sync-status{query}"), &fields)
    };
    (0..keys).map(request).collect()
}

/// A turn, on connections that have each served a request before if `is_warm`.
fn drive(subject: &Subject, work: &Work, end: End, requests: Vec<Vec<u8>>, is_warm: bool) -> Turn {
    let streams = if work.speech == Speech::Http2 { 32 } else { 1 };
    let (target, tls) = (subject.server.address, subject.tls.clone());
    let lines = Lines { target, speech: work.speech, connections: work.connections, streams, tls };
    let mut driver = Driver::connect(lines).unwrap_or_else(|error| panic!("{}: {error}", subject.name));
    let mut mix = Turns::new(requests);
    if is_warm {
        // What a connection takes to begin would be most of what the slowest requests of a short turn show.
        let once = End::Requests((work.connections * streams) as u64);
        driver.run(Pace::Closed, once, &mut mix, &mut |_| ()).expect("sockets that work");
    }
    let before = subject.server.cpu();
    let report = driver.run(work.pace, end, &mut mix, &mut |_| ()).expect("sockets that work");
    let cpu = subject.server.cpu().saturating_sub(before);
    let good = report.statuses.get(&200).copied().unwrap_or(0);
    assert!(good > 0 && good == report.answers(), "{}: {:?}", subject.name, report.statuses);
    Turn { report, cpu }
}

fn compare(work: &Work, subjects: &[Subject], options: &Options) {
    for subject in subjects {
        let warm_up = End::Requests(20 * work.keys.max(work.connections) as u64);
        drive(subject, &Work { pace: Pace::Closed, ..*work }, warm_up, subject.requests.clone(), false);
    }
    let turn = |subject: &Subject| {
        drive(subject, work, End::After(Duration::from_secs_f64(options.seconds)), subject.requests.clone(), true)
    };
    println!("\n{}: {} rounds of {} s", work.title, options.rounds, options.seconds);
    let round = |number: usize| {
        say::progress(format_args!("round {} of {}", number + 1, options.rounds));
        subjects.iter().map(turn).collect()
    };
    let rounds: Vec<Vec<Turn>> = (0..options.rounds).map(round).collect();
    say::no_progress();
    println!(
        "{:<18} {:>9} {:>22} {:>22} {:>10} {:>22} {:>9} {:>9}{}",
        "",
        "req/s",
        "× bare hyper",
        "× nginx",
        "CPU µs",
        "CPU × bare hyper",
        "p50 µs",
        "p99 µs",
        options
            .against
            .as_ref()
            .map_or_else(String::new, |_| format!(" {:>22} {:>22}", "× the other", "CPU × the other"))
    );
    let place = |name: &str| subjects.iter().position(|subject| subject.name == name);
    let [nginx, other] = ["nginx", OTHER].map(place);
    for (at, subject) in subjects.iter().enumerate() {
        let mine = || rounds.iter().map(move |round| &round[at]);
        let against = |other: usize, of: &dyn Fn(&Turn) -> f64| {
            spread(rounds.iter().map(|round| of(&round[at]) / of(&round[other])).collect())
        };
        let throughput = |turn: &Turn| turn.report.throughput();
        let cpu = |turn: &Turn| turn.cpu.as_secs_f64() * 1e6 / turn.report.answers() as f64;
        println!(
            "{:<18} {:>9.0} {:>22} {:>22} {:>10.1} {:>22} {:>9.0} {:>9.0}{}",
            subject.name,
            median(mine().map(throughput).collect()),
            against(0, &throughput),
            nginx.map_or_else(String::new, |nginx| against(nginx, &throughput)),
            median(mine().map(cpu).collect()),
            against(0, &cpu),
            median(mine().map(|turn| turn.report.microseconds(0.5)).collect()),
            median(mine().map(|turn| turn.report.microseconds(0.99)).collect()),
            other.map_or_else(String::new, |other| {
                format!(" {:>22} {:>22}", against(other, &throughput), against(other, &cpu))
            }),
        );
    }
}

/// A thousand callers at once for a page that is not there, while the upstream takes 200 ms.
fn herd(merge: &Merge, subjects: &[Subject]) {
    println!("\nherd: 1,000 at once on a cold key, upstream 200 ms; the fastest of 3");
    println!("{:<18} {:>14} {:>16}", "", "upstream calls", "all answered ms");
    merge.set(Fault::Delay(Duration::from_millis(200)));
    for subject in subjects {
        let mut turns: Vec<(usize, Duration)> = Vec::new();
        for round in 0..3 {
            let calls = merge.calls();
            let account = if PEERS.contains(&subject.name) { "token" } else { "account" };
            let requests = requests(Speech::Http1, 1, account, &format!("?page_size={}", round + 50));
            let work = Work { connections: 1_000, ..HITS };
            let turn = drive(subject, &work, End::Requests(1_000), requests, false);
            turns.push((merge.calls() - calls, turn.report.elapsed));
        }
        let (calls, fastest) = turns.into_iter().min_by_key(|(_, elapsed)| *elapsed).expect("three turns");
        println!("{:<18} {calls:>14} {:>16.0}", subject.name, fastest.as_secs_f64() * 1e3);
    }
    merge.clear();
}

/// Two thousand requests a second for ten seconds on a page that lives for one, while the upstream takes 50 ms. Bare hyper, whose page
/// never expires, shows what the machine itself adds at this rate.
fn expiry(merge: &Merge, subjects: &[Subject]) {
    println!("\nexpiry: 2,000 a second on one key of lifetime 1 s, 10 s, upstream 50 ms");
    println!("{:<18} {:>14} {:>9} {:>9}", "", "upstream calls", "p99 µs", "p99.9 µs");
    merge.set(Fault::Delay(Duration::from_millis(50)));
    for subject in subjects {
        drive(subject, &HITS, End::Requests(64), subject.requests.clone(), false);
        let calls = merge.calls();
        let work = Work { pace: Pace::Open(2_000.0), ..HITS };
        let turn = drive(subject, &work, End::After(Duration::from_secs(10)), subject.requests.clone(), true);
        let [p99, p999] = [0.99, 0.999].map(|quantile| turn.report.microseconds(quantile));
        println!("{:<18} {:>14} {p99:>9.0} {p999:>9.0}", subject.name, merge.calls() - calls);
    }
    merge.clear();
}
