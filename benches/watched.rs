//! What it costs to be watched: the CPU time of a hit over real connections, with metrics and the access log and without both.
//!
//! Two servers answer the same requests in turns, each on a thread of its own on the first core, with the load on the last; what
//! counts is the time that the kernel says these threads (and the one that writes the log) have run. Only the ratios of rounds that
//! follow each other are compared.
//!
//! The log goes into a pipe at first, as it does wherever a container runtime or a service manager takes it up, and then into a file,
//! where the file system's work for each line counts too.

#![allow(clippy::print_stdout, reason = "it is there to show figures")]

mod support;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use clap::Parser;
use merge_sync_proxy::app::App;
use merge_sync_proxy::cache::{flight, follow, lookup};
use merge_sync_proxy::domain::delivery::{Delivered, Delivery};
use merge_sync_proxy::domain::exchange::{Fetch, Given, Landing, Outcome};
use merge_sync_proxy::domain::heads::Heads;
use merge_sync_proxy::domain::problem::Problem;
use merge_sync_proxy::domain::relay::{Relay, Relayed};
use merge_sync_proxy::domain::reply::Reply;
use merge_sync_proxy::domain::tally::Connections;
use merge_sync_proxy::door::admit;
use merge_sync_proxy::door::fork::Fork;
use merge_sync_proxy::listen::accept::{self, Limits, Listener};
use merge_sync_proxy::listen::converse::Asked;
use merge_sync_proxy::listen::pulse::Patience;
use merge_sync_proxy::reply::render;
use merge_sync_proxy::stack;
use merge_sync_proxy::telemetry::log;
use support::ground::Ground;
use support::say;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

const CONNECTIONS: usize = 32;

/// Requests of one round on each connection: few, so that the machine is the same for both servers of a round.
const REQUESTS: usize = 200;

/// Marks the process that measures, and whose log goes where it is told.
const CHILD: &str = "--with-its-log-elsewhere";

/// Compares the CPU time of a hit with metrics and the access log to that without both, the log into a pipe and then into a file.
#[derive(Parser)]
#[command(name = "watched")]
struct Options {
    /// Rounds for each, of which the first warms up. Of few, the figures mean little.
    #[arg(long, default_value_t = 401, value_parser = clap::value_parser!(u16).range(10..))]
    rounds: u16,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != CHILD).skip(1);
    if let Some(rounds) = arguments.next() {
        return measure(rounds.parse().expect("a number"));
    }
    let Some(Options { rounds, .. }) = say::options() else { return };
    let program = std::env::current_exe().expect("it has a path");
    let measure = |sink: &str, log: Stdio| {
        println!("log into a {sink}, {rounds} rounds:");
        Command::new(&program).args([CHILD, &rounds.to_string()]).stderr(log).spawn().expect("it starts")
    };
    let mut child = measure("pipe", Stdio::piped());
    let mut log = child.stderr.take().expect("it is piped");
    std::io::copy(&mut log, &mut std::io::sink()).expect("it can be read");
    assert!(child.wait().expect("it is ours").success());
    let folder = tempfile::tempdir().expect("a folder");
    let log = File::create(folder.path().join("log")).expect("a file");
    assert!(measure("file", log.into()).wait().expect("it is ours").success());
}

fn measure(count: usize) {
    log::start(false, "info", true).expect("a thread");
    let ground = Ground::new(1_000, 1_000);
    let client = runtime();
    let shared = ground.app.ground();
    let heads = || shared.heads.clone();
    let (watched, unwatched) =
        (serve("watched", stack::proxy(shared), heads()), serve("unwatched", unwatched(&ground.app), heads()));
    // A thread begins on the cores of the one that has made it: this one moves when the servers have begun.
    support::child::load_on_the_last_core();
    let request = text(&ground);
    let mut rounds = Vec::new();
    for round in 0..count {
        let cost = |server: &Server| {
            let before = [time_of(server.name), time_of("log")];
            client.block_on(load(server.address, &request));
            let writing = time_of("log") - before[1];
            Cost { all: time_of(server.name) - before[0] + writing, writing }
        };
        // Which comes first alternates, so that a machine that gets slower or faster favours neither.
        let (with, without) = if round % 2 == 0 {
            let with = cost(&watched);
            (with, cost(&unwatched))
        } else {
            let without = cost(&unwatched);
            (cost(&watched), without)
        };
        rounds.push((with, without));
    }
    // The first round warms up.
    let rounds = &rounds[1..];
    let sorted = |value: &dyn Fn(&(Cost, Cost)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let each = |time: Duration| time.as_secs_f64() * 1e6 / (CONNECTIONS * REQUESTS) as f64;
    let half = rounds.len() / 2;
    println!(
        "a hit: {:.2} µs of CPU watched (of which {:.2} write the log), {:.2} µs unwatched",
        sorted(&|(with, _)| each(with.all))[half],
        sorted(&|(with, _)| each(with.writing))[half],
        sorted(&|(_, without)| each(without.all))[half],
    );
    let ratios = sorted(&|(with, without)| with.all.as_secs_f64() / without.all.as_secs_f64());
    // So many places on either side of the middle one lie the bounds of what the median is with 95 % (by the binomial law).
    let (quarter, sure) = (rounds.len() / 4, rounds.len().isqrt());
    println!(
        "ratio: {:.3} (95 % sure: {:.3} to {:.3}; quartiles {:.3} to {:.3})",
        ratios[half],
        ratios[half - sure],
        ratios[half + sure],
        ratios[quarter],
        ratios[rounds.len() - 1 - quarter],
    );
}

/// What a round has cost.
struct Cost {
    all: Duration,
    /// Of that, what the thread has used that writes the log.
    writing: Duration,
}

/// The stack as it is, without the layers that watch.
fn unwatched(
    app: &App,
) -> impl Service<
    Asked,
    Response = http::Response<merge_sync_proxy::domain::body::ReplyBody>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let ground = app.ground();
    let no_fetch = service_fn(|_: Fetch| async { Err::<Landing, _>(Problem::NotCached) });
    let answer = ServiceBuilder::new()
        .layer(follow::layer(ground.follows.clone()))
        .layer(lookup::layer(ground.store.clone()))
        .layer(flight::layer(ground.flights.clone()))
        .service(no_fetch);
    let no_relay = service_fn(|_: Relay| async { Err::<Relayed, _>(Problem::NotCached) });
    let relay: BoxCloneSyncService<Relay, Relayed, Problem> = BoxCloneSyncService::new(no_relay);
    let no_webhook = service_fn(|_: Delivery| async { Err::<Delivered, _>(Problem::NotCached) });
    let stack = ServiceBuilder::new()
        .layer(render::layer())
        .layer(admit::layer(ground.house.clone()))
        .service(Fork::new(answer, relay, no_webhook));
    ServiceExt::<Asked>::map_response(stack, |Reply { response, outcome, .. }| {
        let Outcome { result, .. } = &outcome;
        debug_assert!(matches!(result, Ok(Given::Page(_))));
        response
    })
}

struct Server {
    name: &'static str,
    address: SocketAddr,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Serves on a thread of this name until the process ends.
fn serve<S>(name: &'static str, service: S, heads: Heads) -> Server
where
    S: Service<
            Asked,
            Response = http::Response<merge_sync_proxy::domain::body::ReplyBody>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("it can wait");
    let address = listener.local_addr().expect("it is bound");
    let serving = move || {
        support::child::serve_on_the_first_core();
        runtime().block_on(async {
            let listener = Listener::Tcp(TcpListener::from_std(listener).expect("a runtime has it"));
            let hour = Duration::from_secs(3600);
            let patience = Patience { header: hour, body: hour, idle: hour };
            let limits = Limits { max_connections: 10_000, max_connections_per_peer: 10_000, patience, drain: hour };
            let limits = Arc::new(ArcSwap::from_pointee(limits));
            let never = std::future::pending::<()>;
            accept::serve(vec![listener], service, limits, &Connections::default(), Some(heads), never(), never())
                .await;
        });
    };
    std::thread::Builder::new().name(name.into()).spawn(serving).expect("a thread");
    Server { name, address }
}

/// A consumer's request as it goes over the wire.
fn text(ground: &Ground) -> Vec<u8> {
    let request = ground.request(7, 7, "");
    // The page is there before anything is measured.
    let Ok(answer) = runtime().block_on(ground.app.service().oneshot(request.clone()));
    assert_eq!(answer.status(), 200);
    let mut text = format!("GET {} HTTP/1.1\r\n", request.uri());
    for (name, value) in request.headers() {
        write!(text, "{name}: {}\r\n", value.to_str().expect("ASCII")).expect("memory");
    }
    // A request without a name is given one, watched or not.
    (text + "x-request-id: a-name-of-its-own\r\n\r\n").into_bytes()
}

/// Asks on all connections at a time, on each for one after the other.
async fn load(address: SocketAddr, request: &[u8]) {
    let asking = (0..CONNECTIONS).map(|_| async move {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let mut answer = vec![0; 64 << 10];
        for _ in 0..REQUESTS {
            stream.write_all(request).await.expect("it reads");
            let mut read = 0;
            while length(&answer[..read]).is_none_or(|length| read < length) {
                read += stream.read(&mut answer[read..]).await.expect("it answers");
            }
        }
    });
    futures_util::future::join_all(asking).await;
}

/// The length of an answer, once its head is there.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("; hit;"), "{text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    Some(head + length.parse::<usize>().ok()?)
}

/// How long the threads of this name have run, in the kernel and outside; Linux counts it in nanoseconds.
fn time_of(name: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux").map(|thread| thread.expect("a thread").path());
    let named = threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name));
    let time = |thread: std::path::PathBuf| {
        let text = fs::read_to_string(thread.join("schedstat")).expect("Linux");
        text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).expect("a number")
    };
    Duration::from_nanos(named.map(time).sum())
}
