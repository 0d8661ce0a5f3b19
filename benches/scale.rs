//! How the cost of a hit grows: with entries, connections, consumers and workers; and what a miss adds to going direct.
//!
//! `cargo bench --bench scale -- --only entries,connections,consumers,workers,misses`; `-- --million` also fills a million entries, which
//! takes minutes and about 7 GB.

#![allow(clippy::print_stdout, reason = "what a bench finds goes to the terminal")]

mod support;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use support::child::{self, Server};
use support::drive::{Driver, End, Lines, Mix, Pace, Report};
use support::ground::{self, key};
use support::role::{self, Layout, Role};
use support::upstream;
use support::wire::{self, Speech};

const ACCOUNTS: usize = 1_000;
const TURN: End = End::After(Duration::from_secs(2));

/// Shows how the cost of a hit grows.
#[derive(Parser)]
#[command(name = "scale")]
struct Options {
    /// Only these: entries, connections, consumers, workers, misses.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Fill a million entries too.
    #[arg(long)]
    million: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if role::play() {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    child::load_on_the_last_core();
    let works: [(&str, &dyn Fn()); 5] = [
        ("entries", &|| entries(options.million)),
        ("connections", &connections),
        ("consumers", &consumers),
        ("workers", &workers),
        ("misses", &misses),
    ];
    for (name, work) in works {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            work();
        }
    }
    ExitCode::SUCCESS
}

/// Requests for many pages: each account has some, told apart by a number in the query.
struct Wide {
    requests: Vec<Vec<u8>>,
    /// Where in each request the number stands.
    digits: std::ops::Range<usize>,
    entries: usize,
    entry: usize,
    stride: usize,
}

impl Wide {
    /// So many pages, one after the other.
    fn new(entries: usize, consumers: usize) -> Self {
        let accounts = entries.min(ACCOUNTS);
        let request = |number: usize| {
            let (authorization, account) = (format!("Bearer {}", key(number % consumers)), format!("account-{number}"));
            let fields = [
                ("user-agent", "merge-python/1.0"),
                ("accept", "application/json"),
                ("authorization", &authorization),
                ("x-account-token", &account),
            ];
            wire::get(Speech::Http1, "proxy.internal:8080", "/api/ats/v1/sync-status?n=0000000", &fields)
        };
        let start = "GET /api/ats/v1/sync-status?n=".len();
        let requests = (0..accounts).map(request).collect();
        Self { requests, digits: start..start + 7, entries, entry: 0, stride: 1 }
    }

    /// None after its neighbour: a stride that shares no factor with their number visits all of them.
    fn scattered(self) -> Self {
        Self { stride: 7_919, ..self }
    }

    /// For Merge itself, which wants its own key and the token of an account.
    fn direct(entries: usize) -> Self {
        let request = |number: usize| {
            let account = format!("token-{number}");
            let fields = [("authorization", "Bearer test-api-key"), ("x-account-token", &account)];
            wire::get(Speech::Http1, "proxy.internal:8080", "/api/ats/v1/sync-status?n=0000000", &fields)
        };
        Self { requests: (0..ACCOUNTS).map(request).collect(), ..Self::new(entries, 1) }
    }
}

impl Mix for Wide {
    fn next(&mut self) -> &[u8] {
        self.entry = (self.entry + self.stride) % self.entries;
        let accounts = self.requests.len();
        let request = &mut self.requests[self.entry % accounts];
        let mut rest = self.entry / accounts;
        for digit in request[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        request
    }
}

fn run(target: SocketAddr, connections: usize, end: End, mix: &mut Wide) -> Report {
    let mut driver = Driver::connect(Lines::http1(target, connections)).expect("the server listens");
    let report = driver.run(Pace::Closed, end, mix, &mut |_| ()).expect("sockets that work");
    assert_eq!(report.statuses.keys().collect::<Vec<_>>(), [&200], "{:?}", report.statuses);
    report
}

fn proxy(layout: Layout<'_>) -> Server {
    Server::play(Role::Proxy, &layout, (layout.workers == 1).then_some("0"))
}

/// A turn of hits, with the processor time for each in microseconds.
fn hits(server: &Server, connections: usize, mix: &mut Wide) -> (Report, f64) {
    let before = server.cpu();
    let report = run(server.address, connections, TURN, mix);
    let cpu = (server.cpu() - before).as_secs_f64() * 1e6 / report.answers() as f64;
    (report, cpu)
}

fn entries(million: bool) {
    let body = ground::page().len();
    println!("\nentries (pages of {body} bytes)");
    println!("{:>10} {:>9} {:>10} {:>9} {:>14} {:>8}", "", "req/s", "CPU µs", "p99 µs", "RSS per entry", "× page");
    let sizes = [1, 1_000, 100_000, 1_000_000];
    for count in sizes.into_iter().take(if million { 4 } else { 3 }) {
        let server = proxy(Layout::default());
        run(server.address, 64, End::Requests(1_000), &mut Wide::new(1, 1));
        let before = server.memory();
        run(server.address, 64, End::Requests(count as u64), &mut Wide::new(count, ACCOUNTS));
        // Twins are made, and the room of what is over given back, a little later.
        std::thread::sleep(Duration::from_secs(2));
        let each = server.memory().saturating_sub(before) as f64 / count as f64;
        let (report, cpu) = hits(&server, 64, &mut Wide::new(count, ACCOUNTS).scattered());
        let memory = if count >= 100_000 { format!("{each:.0}") } else { "–".into() };
        let ratio = if count >= 100_000 { format!("{:.2}", each / body as f64) } else { "–".into() };
        let (throughput, p99) = (report.throughput(), report.microseconds(0.99));
        println!("{count:>10} {throughput:>9.0} {cpu:>10.1} {p99:>9.0} {memory:>14} {ratio:>8}");
    }
}

fn connections() {
    println!("\nconnections that have each served a hit");
    println!(
        "{:>10} {:>9} {:>10} {:>9} {:>18} {:>12}",
        "", "req/s", "CPU µs", "p99 µs", "RSS of an idle one", "bare hyper's"
    );
    for count in [1, 10, 100, 1_000, 10_000] {
        let server = proxy(Layout::default());
        let (mut idle, each) = match connect(&server, count) {
            Ok(connected) => connected,
            Err(error) => return println!("{count:>10} {error}"),
        };
        let cpu = server.cpu();
        let report = idle.run(Pace::Closed, TURN, &mut Wide::new(1_000, 1), &mut |_| ()).expect("sockets that work");
        let cpu = (server.cpu() - cpu).as_secs_f64() * 1e6 / report.answers() as f64;
        let (throughput, p99) = (report.throughput(), report.microseconds(0.99));
        drop(idle);
        let layout = Layout { accounts: 1, ..Layout::default() };
        let bare = connect(&Server::play(Role::Bare, &layout, Some("0")), count).map_or(0, |(_, each)| each);
        let [memory, bare] = [each, bare].map(|each| if count >= 1_000 { each.to_string() } else { "–".into() });
        println!("{count:>10} {throughput:>9.0} {cpu:>10.1} {p99:>9.0} {memory:>18} {bare:>12}");
    }
}

/// How many requests a second are made on connections that are to be idle. All at once they would take memory that stays, and is none of
/// idle connections.
const CALM: Pace = Pace::Open(2_000.0);

/// So many connections that have each served a hit, and how much memory one takes, in bytes.
fn connect(server: &Server, count: usize) -> std::io::Result<(Driver, u64)> {
    run(server.address, 64, End::Requests(1_000), &mut Wide::new(1, 1));
    let before = server.memory();
    let mut idle = Driver::connect(Lines::http1(server.address, count))?;
    idle.run(CALM, End::Requests(count as u64), &mut Wide::new(1, 1), &mut |_| ())?;
    let each = server.memory().saturating_sub(before) / count as u64;
    Ok((idle, each))
}

fn consumers() {
    println!("\nconsumers");
    println!("{:>10} {:>9} {:>10} {:>9}", "", "req/s", "CPU µs", "p99 µs");
    for count in [1, 10, 100, 1_000] {
        let server = proxy(Layout { consumers: count, ..Layout::default() });
        run(server.address, 64, End::Requests(2_000), &mut Wide::new(ACCOUNTS, count));
        let (report, cpu) = hits(&server, 64, &mut Wide::new(ACCOUNTS, count));
        println!("{count:>10} {:>9.0} {cpu:>10.1} {:>9.0}", report.throughput(), report.microseconds(0.99));
    }
}

fn workers() {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    println!("\nworkers, of {cores} cores that they share with the load");
    println!("{:>10} {:>9} {:>10} {:>9}", "", "req/s", "CPU µs", "p99 µs");
    for workers in 1..=cores {
        let server = proxy(Layout { workers, ..Layout::default() });
        run(server.address, 64, End::Requests(2_000), &mut Wide::new(ACCOUNTS, ACCOUNTS));
        let (report, cpu) = hits(&server, 64, &mut Wide::new(ACCOUNTS, ACCOUNTS));
        println!("{workers:>10} {:>9.0} {cpu:>10.1} {:>9.0}", report.throughput(), report.microseconds(0.99));
    }
}

fn misses() {
    let upstream = upstream::serve(ground::merge(ACCOUNTS));
    let server = proxy(Layout { upstream: Some(upstream), ..Layout::default() });
    let mut through = Wide::new(1_000_000, ACCOUNTS);
    let mut direct = Wide::direct(1_000_000);
    println!("\nmisses, one connection, against the simulated Merge direct; µs");
    println!("{:>10} {:>12} {:>12} {:>12} {:>12}", "", "direct p50", "added p50", "direct p99", "added p99");
    run(upstream, 1, End::Requests(1_000), &mut direct);
    run(server.address, 1, End::Requests(1_000), &mut through);
    for round in 1..=5 {
        let direct = run(upstream, 1, End::Requests(3_000), &mut direct);
        let through = run(server.address, 1, End::Requests(3_000), &mut through);
        let [p50, p99] =
            [0.5, 0.99].map(|at| (direct.microseconds(at), through.microseconds(at) - direct.microseconds(at)));
        println!("{round:>10} {:>12.0} {:>12.0} {:>12.0} {:>12.0}", p50.0, p50.1, p99.0, p99.1);
    }
}
