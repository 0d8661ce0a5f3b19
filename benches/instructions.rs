//! Instructions per hit in user space, and per miss, counted by valgrind's callgrind: the figure that other load on the machine cannot move.
//!
//! `cargo bench --bench instructions` runs the whole proxy (sockets, hyper, every layer; 1,000 consumers with keys, 1,000 accounts) and
//! hyper alone, each in a process of its own under callgrind, which counts only while warm servers answer. Requests come over 64 connections
//! that are always busy.
//!
//! `-- --keep DIR` leaves callgrind's files there, for `callgrind_annotate`; `-- --only proxy,miss` counts these.

#![allow(clippy::print_stdout, reason = "what a bench finds goes to the terminal")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use support::child::{Server, is_installed, this_program};
use support::drive::{Driver, End, Lines, Pace, Turns};
use support::ground::{self, key};
use support::role::{self, Layout, Role};
use support::say;
use support::upstream;
use support::wire::{self, Speech};

/// How many requests are counted, and how many times as many are made: two runs warm a server up.
const REQUESTS: usize = 4_096;
const RUNS: usize = 3;

const CONNECTIONS: usize = 64;
const KEYS: usize = 1_000;

/// One kind of requests to one kind of server.
struct Subject {
    name: &'static str,
    title: &'static str,
    role: Role,
    speech: Speech,
    /// How many different heads there are, of up to [`KEYS`] keys.
    heads: usize,
}

const fn subject(name: &'static str, title: &'static str, role: Role, speech: Speech, heads: usize) -> Subject {
    Subject { name, title, role, speech, heads }
}

/// The subject whose pages nobody has asked for before.
const MISS: &str = "miss";

/// The subject whose pages are fetched each time, and are as they were.
const AGAIN: &str = "again";

/// So many that each is said once.
const NEW: usize = RUNS * REQUESTS;

const SUBJECTS: [Subject; 9] = [
    subject("bare", "bare hyper", Role::Bare, Speech::Http1, 1),
    subject("proxy", "merge-sync-proxy, one key", Role::Proxy, Speech::Http1, 1),
    subject("logged", "one key, access log on", Role::Logged, Speech::Http1, 1),
    subject("keys", "merge-sync-proxy, 1,000 keys", Role::Proxy, Speech::Http1, KEYS),
    subject("new", "1,000 keys, no head said twice", Role::Proxy, Speech::Http1, NEW),
    subject(MISS, "each a miss, upstream of its own", Role::Proxy, Speech::Http1, NEW),
    subject(AGAIN, "fetched anew, and unchanged", Role::Proxy, Speech::Http1, KEYS),
    subject("bare2", "bare hyper, HTTP/2", Role::Bare, Speech::Http2, 1),
    subject("http2", "merge-sync-proxy, HTTP/2", Role::Proxy, Speech::Http2, 1),
];

/// Counts the instructions of hits and misses, whole servers under valgrind's callgrind, beside bare hyper.
#[derive(Parser)]
#[command(name = "instructions")]
struct Options {
    /// Only these, with commas between them.
    #[arg(long, value_delimiter = ',', value_parser = SUBJECTS.map(|subject| subject.name))]
    only: Vec<String>,
    /// Leave callgrind's files in this folder.
    #[arg(long, value_name = "DIR", value_parser = folder)]
    keep: Option<PathBuf>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if Path::new(text).is_dir() { Ok(text.into()) } else { Err("there is no such folder".into()) }
}

fn main() -> ExitCode {
    if role::play() {
        return ExitCode::SUCCESS;
    }
    let Some(options) = say::options::<Options>() else { return ExitCode::SUCCESS };
    if !is_installed("valgrind") {
        println!("valgrind is not installed, so there is nothing to count with");
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().expect("a place for files");
    let keep = options.keep.as_deref().unwrap_or(folder.path());
    let is_wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut yardsticks = Vec::new();
    println!("{:<32} {:>18} {:>10}", "", "instructions/hit", "× bare");
    for subject in SUBJECTS.iter().filter(|subject| is_wanted(subject.name)) {
        say::progress(format_args!("{} …", subject.title));
        let each = count(subject, keep);
        if subject.role == Role::Bare {
            yardsticks.push((subject.speech, each));
        }
        let bare = yardsticks.iter().find(|(speech, _)| *speech == subject.speech);
        let ratio = bare.map_or_else(String::new, |(_, bare)| format!("{:.2}", each / bare));
        say::no_progress();
        println!("{:<32} {each:>18.0} {ratio:>10}", subject.title);
    }
    ExitCode::SUCCESS
}

/// The instructions of a hit.
fn count(subject: &Subject, keep: &Path) -> f64 {
    let file = keep.join(format!("callgrind.{}", subject.name));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "-q", "--instr-atstart=no", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    let accounts = if subject.role == Role::Bare { subject.heads } else { KEYS };
    let upstream = [MISS, AGAIN].contains(&subject.name).then(|| upstream::serve(ground::merge(accounts)));
    let layout = Layout { accounts, upstream, ..Layout::default() };
    command.arg(this_program()).args(role::arguments(subject.role, &layout));
    if subject.role == Role::Logged {
        command.stderr(Stdio::null());
    }
    let server = Server::start(command);
    let streams = if subject.speech == Speech::Http2 { 32 } else { 1 };
    let connections = if subject.speech == Speech::Http2 { CONNECTIONS / streams } else { CONNECTIONS };
    let lines = Lines { target: server.address, speech: subject.speech, connections, streams, tls: None };
    let mut driver = Driver::connect(lines).expect("the server listens");
    let mut mix = Turns::new((0..subject.heads).map(|number| request(subject, number)).collect());
    let all = REQUESTS as u64;
    let mut run = || {
        let report = driver.run(Pace::Closed, End::Requests(all), &mut mix, &mut |_| ()).expect("sockets that work");
        assert_eq!((report.statuses.get(&200), report.lost), (Some(&all), 0), "{:?}", report.statuses);
    };
    run();
    tell(&server, &["-i", "on"]);
    run();
    tell(&server, &["-z"]);
    run();
    tell(&server, &["-d"]);
    drop(driver);
    server.end();
    // The first thread is the one that serves. What others do once a second would count for more the slower valgrind is.
    let dump = keep.join(format!("callgrind.{}.1-01", subject.name));
    let text = std::fs::read_to_string(&dump).expect("callgrind has written it");
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    totals.and_then(|totals| totals.trim().parse::<f64>().ok()).expect("a total") / REQUESTS as f64
}

fn request(subject: &Subject, number: usize) -> Vec<u8> {
    let cursor = if subject.name == MISS { format!("?cursor={number}") } else { String::new() };
    let (round, number) = (number / KEYS, number % KEYS);
    let (authorization, account) = (format!("Bearer {}", key(number)), format!("account-{number}"));
    let agent = if round == 0 { "merge-python/1.0".into() } else { format!("merge-python/1.{round}") };
    let mut fields = vec![
        ("user-agent", &*agent),
        ("accept", "application/json"),
        ("authorization", &authorization),
        ("x-account-token", &account),
    ];
    if subject.name == AGAIN {
        fields.push(("cache-control", "no-cache"));
    }
    wire::get(subject.speech, "proxy.internal:8080", &format!("/api/ats/v1/sync-status{cursor}"), &fields)
}

/// Tells callgrind something.
fn tell(server: &Server, what: &[&str]) {
    let mut command = Command::new("callgrind_control");
    // It says what it does to both outputs.
    let done = command.args(what).arg(server.id().to_string()).output().expect("it comes with valgrind");
    assert!(done.status.success(), "callgrind_control {what:?}: {}", String::from_utf8_lossy(&done.stderr));
}
