//! How the cost of a hit grows: with entries, connections, consumers and workers; and what a miss adds to going direct, here and with
//! nginx where it is installed.
//!
//! `cargo bench --bench scale -- --only entries,connections,consumers,workers,misses`; `-- --million` also fills a million entries, which
//! takes minutes and about 12 GB.

#![allow(clippy::print_stdout, reason = "what a bench finds goes to the terminal")]

mod misses;
#[path = "../support/mod.rs"]
mod support;
mod wide;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use support::child::{self, Server};
use support::drive::{Driver, End, Lines, Pace, Report};
use support::ground;
use support::role::{self, Layout, Role};
use support::rounds::{median, spread};
use support::say;
use support::upstream;
use wide::{ACCOUNTS, Wide};

const TURN: End = End::After(Duration::from_secs(2));

/// How many turns each gets where several are compared.
const ROUNDS: usize = 7;

/// Shows how the cost of a hit grows.
#[derive(Parser)]
#[command(name = "scale")]
struct Options {
    /// Only these, with commas between them.
    #[arg(long, value_delimiter = ',', value_parser = ["entries", "connections", "consumers", "workers", "misses"])]
    only: Vec<String>,
    /// Fill a million entries too, which takes minutes and about 12 GB.
    #[arg(long)]
    million: bool,
    /// The program of this bench as another version of the sources has it: its misses have turns too.
    #[arg(long, value_name = "PROGRAM", value_parser = say::program)]
    against: Option<String>,
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
        ("misses", &|| misses::misses(options.against.as_deref())),
    ];
    for (name, work) in works {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            work();
        }
    }
    ExitCode::SUCCESS
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
    let cpu = server.cpu().saturating_sub(before).as_secs_f64() * 1e6 / report.answers() as f64;
    (report, cpu)
}

/// Beside the proxy, bare hyper with as many pages, which looks for none of them: what it costs that they do not fit into the caches of
/// the processor.
fn entries(million: bool) {
    let body = ground::page().len();
    println!("\nentries (pages of {body} bytes); medians of {ROUNDS} rounds that take turns");
    println!(
        "{:>10} {:>9} {:>10} {:>20} {:>20} {:>9} {:>14} {:>8}",
        "", "req/s", "CPU µs", "CPU × 1,000", "bare hyper's", "p99 µs", "RSS per entry", "× page"
    );
    let counts = [1, 1_000, 100_000, 1_000_000];
    let counts = &counts[..if million { 4 } else { 3 }];
    let bare = |count: usize| {
        let server = Server::play(Role::Bare, &Layout { accounts: count, ..Layout::default() }, Some("0"));
        run(server.address, 64, End::Requests(count as u64), &mut Wide::new(1, 1));
        server
    };
    // Pages come over a socket: what is kept of hyper's buffers shows only there.
    let upstream = upstream::serve(ground::merge(ACCOUNTS));
    let servers: Vec<_> = counts.iter().map(|count| (*count, filled(*count, upstream), bare(*count))).collect();
    let mut rounds = vec![Vec::new(); counts.len()];
    for _ in 0..ROUNDS {
        for ((count, (server, _), bare), rounds) in servers.iter().zip(&mut rounds) {
            let mut mix = Wide::new(*count, ACCOUNTS).scattered();
            let (report, cpu) = hits(server, 64, &mut mix);
            let (_, bare) = hits(bare, 64, &mut mix);
            rounds.push([report.throughput(), cpu, bare, report.microseconds(0.99)]);
        }
    }
    let column = |rounds: &[[f64; 4]], column: usize| rounds.iter().map(|round| round[column]).collect::<Vec<_>>();
    for ((count, (_, each), _), rounds_of_it) in servers.iter().zip(&rounds) {
        let [throughput, cpu, _, p99] = [0, 1, 2, 3].map(|at| median(column(rounds_of_it, at)));
        let [against, bare] = [1, 2].map(|at| {
            let pairs = column(rounds_of_it, at).into_iter().zip(column(&rounds[1], at));
            spread(pairs.map(|(cpu, other)| cpu / other).collect())
        });
        let is_many = *count >= 100_000;
        let memory = if is_many { format!("{each:.0}") } else { "–".into() };
        let ratio = if is_many { format!("{:.2}", each / body as f64) } else { "–".into() };
        println!(
            "{count:>10} {throughput:>9.0} {cpu:>10.1} {against:>20} {bare:>20} {p99:>9.0} {memory:>14} {ratio:>8}"
        );
    }
    drop(servers);
    let merge = ground::merge(ACCOUNTS);
    merge.etags(true);
    let (_, each) = filled(counts[2], upstream::serve(merge));
    let ratio = each / body as f64;
    println!("{:>10} with an ETag and a Last-Modified of Merge's each {each:>50.0} {ratio:>8.2}", counts[2]);
}

/// A proxy that holds so many pages of this upstream, and how much memory one more takes than a thousand do, in bytes.
fn filled(count: usize, upstream: SocketAddr) -> (Server, f64) {
    let server = proxy(Layout { room: ground::AMPLE, upstream: Some(upstream), ..Layout::default() });
    let fill = |count: usize| {
        run(server.address, 64, End::Requests(count as u64), &mut Wide::new(count, ACCOUNTS));
        // What a start and many fetches leave over is given back a little later.
        std::thread::sleep(Duration::from_secs(2));
        server.memory() as f64
    };
    let first = count.min(1_000);
    let before = fill(first);
    let each = (fill(count) - before) / (count - first).max(1) as f64;
    // What is polled again and again has been asked before.
    run(server.address, 64, End::Requests(2 * count as u64), &mut Wide::new(count, ACCOUNTS).scattered());
    (server, each)
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
        let cpu = server.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / report.answers() as f64;
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
    let report = idle.run(CALM, End::Requests(count as u64), &mut Wide::new(1, 1), &mut |_| ())?;
    assert_eq!((report.answers(), report.lost), (count as u64, 0), "each connection gets an answer, and stays");
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
    let cores = child::cores();
    println!("\nworkers, of {cores} cores that they share with the load; medians of {ROUNDS} rounds that take turns");
    println!(
        "{:>31} {:>8} {:>12} {:>9} {:>9} {:>10} {:>9}",
        "", "workers", "connections", "req/s", "least", "CPU µs", "p99 µs"
    );
    let proxies = (1..=cores).map(|workers| (Role::Proxy, workers));
    let settings: Vec<_> = proxies.chain([(Role::Bare, cores), (Role::Spread, cores)]).collect();
    let start = |&(role, workers): &(Role, usize)| {
        // Said for each, as a child would have the one core of who starts it.
        Server::play(role, &Layout { workers, ..Layout::default() }, Some(&format!("0-{}", workers - 1)))
    };
    let servers: Vec<_> = settings.iter().map(start).collect();
    for server in &servers {
        run(server.address, 64, End::Requests(2_000), &mut Wide::new(ACCOUNTS, ACCOUNTS));
    }
    for connections in [64, 4] {
        let mut rounds = vec![Vec::new(); servers.len()];
        for _ in 0..ROUNDS {
            for (server, rounds) in servers.iter().zip(&mut rounds) {
                let (report, cpu) = hits(server, connections, &mut Wide::new(ACCOUNTS, ACCOUNTS));
                rounds.push([report.throughput(), cpu, report.microseconds(0.99)]);
            }
        }
        for ((role, workers), rounds) in settings.iter().zip(&rounds) {
            let [throughput, cpu, p99] =
                [0, 1, 2].map(|column| median(rounds.iter().map(|round| round[column]).collect()));
            let least = rounds.iter().map(|round| round[0]).reduce(f64::min).unwrap_or_default();
            println!(
                "{:>31} {workers:>8} {connections:>12} {throughput:>9.0} {least:>9.0} {cpu:>10.1} {p99:>9.0}",
                role.name()
            );
        }
    }
}
