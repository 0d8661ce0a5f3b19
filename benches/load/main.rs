//! A load generator: `cargo bench --bench load -- --help`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a bench finds goes to the terminal, and its progress beside it"
)]

mod options;
mod plot;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use merge_sync_proxy::app::descriptors;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::merge::Merge;
use options::Options;
use serde_json::{Value, json};
use support::child::{self, Server};
use support::drive::{Driver, End, Lines, Pace, Report, Turns};
use support::ground;
use support::role::{self, Layout, Role};
use support::say;
use support::upstream;
use support::wire::{self, Speech};

/// How many requests a thread has ready; it sends them in turn.
const PREPARED: usize = 4_096;

/// The quantiles that are told.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

/// What is loaded, and how it can be watched.
struct Scene {
    target: SocketAddr,
    host: String,
    keys: Vec<String>,
    accounts: Vec<String>,
    server: Option<Server>,
    merge: Option<Merge>,
}

/// One run.
struct Run {
    connections: usize,
    report: Report,
    upstream_calls: Option<usize>,
    cpu_per_request: Option<Duration>,
    memory: Option<u64>,
}

fn main() -> ExitCode {
    if role::play() {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    descriptors::raise();
    // Before the load, which may take minutes.
    for path in options.json.iter().chain(&options.plot) {
        if let Err(error) = File::options().create(true).append(true).open(path) {
            eprintln!("load: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    let scene = match Scene::new(&options) {
        Ok(scene) => scene,
        Err(message) => {
            eprintln!("load: {message}");
            return ExitCode::from(2);
        }
    };
    let sizes = if options.sweep.is_empty() { vec![options.connections] } else { options.sweep.clone() };
    let mut runs = Vec::new();
    for connections in sizes {
        match scene.load(&options, connections) {
            Ok(run) => {
                run.print(&options);
                runs.push(run);
            }
            Err(error) => {
                let is_full = error.raw_os_error() == Some(nix::libc::EMFILE);
                let advice = if is_full { "; `ulimit -Hn` is what this process may have" } else { "" };
                eprintln!("load: {connections} connections to {}: {error}{advice}", scene.target);
                return ExitCode::FAILURE;
            }
        }
    }
    let write = |path: &std::path::Path, text: String| {
        std::fs::write(path, text).map_err(|error| eprintln!("load: {}: {error}", path.display())).is_ok()
    };
    let json = || format!("{:#}\n", Value::from(runs.iter().map(Run::json).collect::<Vec<_>>()));
    let written = options.json.as_deref().is_none_or(|path| write(path, json()))
        && options.plot.as_deref().is_none_or(|path| write(path, plot::draw(&runs)));
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Scene {
    fn new(options: &Options) -> Result<Self, String> {
        if let Some(url) = &options.target {
            let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
            let host = host.ok_or("--target must begin with http://, since no TLS is spoken here")?;
            let addresses: Vec<SocketAddr> =
                host.to_socket_addrs().map_err(|error| format!("--target {url}: {error}"))?.collect();
            // A name may stand for several, of which the proxy listens on one.
            let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, Duration::from_secs(3)).is_ok();
            let target = addresses.iter().find(answers).copied();
            let target = target.ok_or_else(|| format!("--target {url}: nobody listens at {addresses:?}"))?;
            let (keys, accounts) = (options.key.clone(), options.account.clone());
            return Ok(Self { target, host: host.to_owned(), keys, accounts, server: None, merge: None });
        }
        let merge = ground::merge(options.accounts);
        if options.upstream > 0 {
            merge.set(Fault::Delay(Duration::from_millis(options.upstream)));
        }
        let layout = Layout {
            workers: options.workers,
            consumers: options.consumers,
            accounts: options.accounts,
            upstream: Some(upstream::serve(merge.clone())),
            lifetime: options.lifetime,
            tls: None,
            room: ground::AMPLE,
        };
        let server = Server::play(Role::Proxy, &layout, (!options.unpinned && options.workers == 1).then_some("0"));
        Ok(Self {
            target: server.address,
            host: server.address.to_string(),
            keys: (0..options.consumers).map(ground::key).collect(),
            accounts: (0..options.accounts).map(|number| format!("account-{number}")).collect(),
            server: Some(server),
            merge: Some(merge),
        })
    }

    /// Requests as the options mix them.
    fn requests(&self, options: &Options) -> Turns {
        let mut random = fastrand::Rng::new();
        let mut request = || {
            let mut fields =
                vec![("user-agent", "merge-python/1.0".to_owned()), ("accept", "application/json".to_owned())];
            fields.extend(random.choice(&self.keys).map(|key| ("authorization", format!("Bearer {key}"))));
            fields.extend(random.choice(&self.accounts).map(|account| ("x-account-token", account.clone())));
            let mut with = |share: f64, name, value: &str| {
                if random.f64() < share {
                    fields.push((name, value.to_owned()));
                }
            };
            with(options.no_cache, "cache-control", "no-cache");
            with(options.known, "if-none-match", "*");
            with(options.encoded, "accept-encoding", "gzip, br");
            let page = random.u16(1..=options.pages);
            let target = if page == 1 { options.path.clone() } else { format!("{}?page_size={page}", options.path) };
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            wire::get(speech(options), &self.host, &target, &fields)
        };
        Turns::new(std::iter::repeat_with(&mut request).take(PREPARED).collect())
    }

    fn load(&self, options: &Options, connections: usize) -> std::io::Result<Run> {
        let warm = self.drive(options, connections, options.warm_up)?;
        if warm.answers() == 0 && warm.lost > 0 {
            return Err(unanswered(options));
        }
        let calls = self.merge.as_ref().map(Merge::calls);
        let cpu = self.server.as_ref().map(Server::cpu);
        let report = self.drive(options, connections, options.duration)?;
        if report.answers() == 0 {
            return Err(unanswered(options));
        }
        let cpu = self.server.as_ref().map(Server::cpu).zip(cpu).map(|(after, before)| after.saturating_sub(before));
        let answers = u32::try_from(report.answers().max(1)).unwrap_or(u32::MAX);
        Ok(Run {
            connections,
            upstream_calls: self.merge.as_ref().map(Merge::calls).zip(calls).map(|(after, before)| after - before),
            cpu_per_request: cpu.map(|cpu| cpu / answers),
            memory: self.server.as_ref().map(Server::memory),
            report,
        })
    }

    fn drive(&self, options: &Options, connections: usize, seconds: f64) -> std::io::Result<Report> {
        let threads = options.threads.clamp(1, connections.max(1));
        let pace = options.rate.map_or(Pace::Closed, |rate| Pace::Open(rate / threads as f64));
        let end = End::After(Duration::from_secs_f64(seconds));
        let answers = AtomicU64::new(0);
        let work = |place: usize| {
            if !options.unpinned && threads == 1 {
                child::load_on_the_last_core();
            }
            let share = connections / threads + usize::from(place < connections % threads);
            let streams = if options.http2 { options.streams } else { 1 };
            let (target, speech) = (self.target, speech(options));
            let lines = Lines { target, speech, connections: share, streams, tls: None };
            let mut seen = 0;
            let mut progress = |report: &Report| {
                let all = answers.fetch_add(report.answers() - seen, Ordering::Relaxed) + report.answers() - seen;
                seen = report.answers();
                tell(report, all);
            };
            Driver::connect(lines)?.run(pace, end, &mut self.requests(options), &mut progress)
        };
        let reports: Vec<_> = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..threads).map(|place| scope.spawn(move || work(place))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut all = Report::new();
        for report in reports {
            all.add(&report?);
        }
        tell(&all, all.answers());
        Ok(all)
    }
}

/// Figures of nothing would only look like some.
fn unanswered(options: &Options) -> std::io::Error {
    let speech = if options.http2 { "HTTP/2 with prior knowledge" } else { "HTTP/1.1" };
    std::io::Error::other(format!(
        "no request was answered; is {speech} without TLS spoken there, and is --duration long enough?"
    ))
}

fn speech(options: &Options) -> Speech {
    if options.http2 { Speech::Http2 } else { Speech::Http1 }
}

/// One line that is written over and over, where somebody looks.
fn tell(report: &Report, answers: u64) {
    let seconds = report.elapsed.as_secs_f64();
    say::progress(format_args!("{seconds:>6.1} s  {answers:>10} answers  p99 {:>9.0} µs ", report.microseconds(0.99)));
}

impl Run {
    fn print(&self, options: &Options) {
        let report = &self.report;
        let pace = options.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
        let http =
            if options.http2 { format!("HTTP/2, {} streams each", options.streams) } else { "HTTP/1.1".to_owned() };
        println!("\n{} connections, {http}, {pace}, {:.1} s", self.connections, report.elapsed.as_secs_f64());
        println!("  throughput      {:>12.0} req/s", report.throughput());
        for (name, quantile) in QUANTILES {
            println!("  latency {name:<7} {:>12.0} µs", report.microseconds(quantile));
        }
        for (status, count) in &report.statuses {
            println!("  status {status}      {count:>12}");
        }
        if report.lost > 0 {
            println!("  no answer       {:>12}", report.lost);
        }
        for (value, count) in report.cache() {
            println!("  {count:>12} × {}", if value.is_empty() { "no Cache-Status" } else { &value });
        }
        if let Some(calls) = self.upstream_calls {
            println!("  upstream calls  {calls:>12}");
        }
        if let Some(cpu) = self.cpu_per_request {
            println!("  CPU per request {:>12.1} µs", cpu.as_secs_f64() * 1e6);
        }
        if let Some(memory) = self.memory {
            println!("  memory (RSS)    {:>12.1} MiB", memory as f64 / f64::from(1 << 20));
        }
    }

    fn json(&self) -> Value {
        let latency: serde_json::Map<_, _> =
            QUANTILES.iter().map(|(name, at)| ((*name).to_owned(), self.report.microseconds(*at).into())).collect();
        json!({
            "connections": self.connections,
            "seconds": self.report.elapsed.as_secs_f64(),
            "requests_per_second": self.report.throughput(),
            "latency_microseconds": latency,
            "statuses": self.report.statuses,
            "unanswered": self.report.lost,
            "cache_status": self.report.cache(),
            "upstream_calls": self.upstream_calls,
            "cpu_microseconds_per_request": self.cpu_per_request.map(|cpu| cpu.as_secs_f64() * 1e6),
            "memory_bytes": self.memory,
        })
    }
}
