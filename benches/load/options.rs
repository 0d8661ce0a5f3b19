//! What `cargo bench --bench load -- …` understands.

#![allow(clippy::doc_markdown, reason = "these comments are what --help prints")]

use std::path::PathBuf;

use clap::Parser;

use super::support::say;

/// Loads a proxy over real sockets and tells how it bears it.
///
/// Without `--target` it starts the proxy in a process of its own and a simulated Merge in this one. As fast as answers come, or with
/// `--rate` at a rate of its own; then latencies count from when a request was due, so that a stall is not hidden.
#[derive(Clone, Debug, Parser)]
#[command(name = "load")]
pub(crate) struct Options {
    /// A proxy that runs already, without TLS, as in http://127.0.0.1:8080; needs --account, and --key unless it is open to all.
    #[arg(long, requires = "account")]
    pub(crate) target: Option<String>,
    /// A consumer key for --target; several are used in turn.
    #[arg(long)]
    pub(crate) key: Vec<String>,
    /// An account name (or token) for --target; several are used in turn.
    #[arg(long)]
    pub(crate) account: Vec<String>,
    /// The path that is asked for.
    #[arg(long, default_value = "/api/ats/v1/sync-status")]
    pub(crate) path: String,

    /// Connections, over all threads.
    #[arg(long, default_value_t = 64, value_parser = say::some)]
    pub(crate) connections: usize,
    /// One run for each of these numbers of connections instead, as in 1,8,64,512.
    #[arg(long, value_delimiter = ',', conflicts_with = "connections", value_parser = say::some)]
    pub(crate) sweep: Vec<usize>,
    /// Requests a second, whatever comes back (open loop); without it each connection asks as soon as it is answered.
    #[arg(long, value_parser = say::rate)]
    pub(crate) rate: Option<f64>,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = say::seconds)]
    pub(crate) duration: f64,
    /// How long to load before that, in seconds.
    #[arg(long, default_value_t = 1.0, value_parser = say::seconds_or_none)]
    pub(crate) warm_up: f64,
    /// Speak HTTP/2 with prior knowledge.
    #[arg(long)]
    pub(crate) http2: bool,
    /// Requests that an HTTP/2 connection has open at a time.
    #[arg(long, default_value_t = 32, value_parser = say::some)]
    pub(crate) streams: usize,
    /// Threads that load.
    #[arg(long, default_value_t = 1, value_parser = say::some)]
    pub(crate) threads: usize,

    /// Consumers, each with a key (own proxy only).
    #[arg(long, default_value_t = 100, value_parser = say::some)]
    pub(crate) consumers: usize,
    /// Accounts (own proxy only).
    #[arg(long, default_value_t = 100, value_parser = say::some)]
    pub(crate) accounts: usize,
    /// Pages that are asked for of each account, told apart by page_size.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) pages: u16,
    /// The share of requests that insist on a fresh answer (Cache-Control: no-cache), from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = say::share)]
    pub(crate) no_cache: f64,
    /// The share of requests that have the page already (If-None-Match: *), from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = say::share)]
    pub(crate) known: f64,
    /// The share of requests that accept gzip and br, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = say::share)]
    pub(crate) encoded: f64,
    /// How long a page is fresh, in seconds (own proxy only).
    #[arg(long, default_value_t = 60)]
    pub(crate) lifetime: u64,
    /// How long the simulated Merge takes for an answer, in milliseconds (own proxy only).
    #[arg(long, default_value_t = 0)]
    pub(crate) upstream: u64,
    /// Threads of the proxy (own proxy only).
    #[arg(long, default_value_t = 1, value_parser = say::some)]
    pub(crate) workers: usize,
    /// Let the system choose the cores, instead of the first for the proxy and the last for the load.
    #[arg(long)]
    pub(crate) unpinned: bool,

    /// Write the results there as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Draw latency, and with --sweep throughput, there as SVG.
    #[arg(long)]
    pub(crate) plot: Option<PathBuf>,

    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}
