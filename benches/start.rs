//! How long the program takes from its start to its first answer, with one account and one consumer and with a thousand of each; and how
//! large it is.
//!
//! `cargo bench --bench start` starts the release binary as an operator would, again and again, and asks it over a socket.

#![allow(clippy::print_stdout, reason = "what a bench finds goes to the terminal")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;

#[path = "support/say.rs"]
mod say;

const PROGRAM: &str = env!("CARGO_BIN_EXE_merge-sync-proxy");

/// Starts the release binary with one account and one consumer and with a thousand of each, and tells when it has answered first.
#[derive(Parser)]
#[command(name = "start")]
struct Options {
    /// How often, for each.
    #[arg(long, default_value_t = 21, value_parser = say::some)]
    starts: usize,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How often it is tried whether the program listens already.
const LOOK: Duration = Duration::from_micros(200);

fn main() {
    let Some(Options { starts, .. }) = say::options() else { return };
    let size = std::fs::metadata(PROGRAM).expect("it has been built").len();
    println!("the binary: {:.1} MiB", size as f64 / f64::from(1 << 20));
    let folder = tempfile::tempdir().expect("a folder");
    for count in [1, 1_000] {
        let mut times: Vec<Duration> = (0..starts).map(|_| start(folder.path(), count)).collect();
        times.sort_unstable();
        println!(
            "{count:>5} accounts and consumers: first answer after {:.1} ms (min {:.1}, max {:.1})",
            times[starts / 2].as_secs_f64() * 1e3,
            times[0].as_secs_f64() * 1e3,
            times[starts - 1].as_secs_f64() * 1e3,
        );
    }
}

/// From the start of the program to the first answer.
fn start(folder: &Path, count: usize) -> Duration {
    let [proxy, admin] = [free(), free()];
    let path = folder.join("proxy.toml");
    std::fs::write(&path, config(proxy, admin, count)).expect("a folder that can be written to");
    let log = File::create(folder.join("log")).expect("a folder that can be written to");
    let began = Instant::now();
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().expect("it starts");
    let mut stream = loop {
        match TcpStream::connect(proxy) {
            Ok(stream) => break stream,
            Err(_) if child.try_wait().expect("it is ours").is_none() => sleep(LOOK),
            Err(error) => panic!("it has ended: {error}"),
        }
    };
    stream.write_all(b"GET /api/ats/v1/sync-status HTTP/1.1\r\nhost: proxy\r\n\r\n").expect("it reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    let took = began.elapsed();
    assert_eq!(&answer, b"HTTP/1.1 401", "who shows no key is told so");
    child.kill().and_then(|()| child.wait()).expect("it ends");
    took
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A file with so many accounts and consumers. Its tokens stand in it, so there is a warning about each.
fn config(proxy: SocketAddr, admin: SocketAddr, count: usize) -> String {
    let mut text = format!(
        "[server]\nlisten = ['{proxy}']\n[admin]\nlisten = '{admin}'\n\
         [upstreams.us]\nbase_url = 'http://127.0.0.1:1'\napi_key = 'a-key-of-the-bench'\n"
    );
    for number in 0..count {
        write!(
            text,
            "[[accounts]]\nname = 'account-{number}'\ntoken = 'token-{number:032}'\n\
             [[consumers]]\nname = 'team-{number}'\nkey_sha256 = ['{number:064x}']\naccounts = ['*']\n"
        )
        .expect("memory");
    }
    text
}
