//! The self-driving tour of the demo: many consumers ask for many accounts, and a tally says where the answers came from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, interval};

use super::merge::Merge;

/// How many consumers ask at a time.
const CONSUMERS: u64 = 32;

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);

/// The requests to be made.
pub struct Tour {
    targets: Vec<(String, String)>,
    requests: u64,
    sent: AtomicU64,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Tally {
    by_status: BTreeMap<String, u64>,
    failed: u64,
    bytes: u64,
    took: Duration,
}

impl Tour {
    /// A tour of all accounts of `merge`, through the proxy at `proxy`.
    pub fn new(merge: &Merge, proxy: SocketAddr, requests: u64) -> Self {
        let target = |account: &super::account::SimAccount| {
            let url = |query: &str| format!("http://{proxy}/api/{}/v1/sync-status{query}", account.category);
            ["", "?page_size=100", "?page_size=5"].map(|query| (account.name.clone(), url(query)))
        };
        Self { targets: merge.accounts().flat_map(target).collect(), requests, sent: AtomicU64::new(0) }
    }

    /// Makes all requests; shows on standard error how far it is, if `visible`.
    pub async fn run(&self, visible: bool) -> Tally {
        let start = Instant::now();
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let consumers = join_all((0..CONSUMERS).map(|_| self.consume(&client)));
        let tallies = tokio::select! {
            tallies = consumers => tallies,
            () = self.show(), if visible => unreachable!("progress has no end"),
        };
        if visible {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        let mut whole = Tally { took: start.elapsed(), ..Tally::default() };
        for tally in tallies {
            whole.add(tally);
        }
        whole
    }

    async fn show(&self) {
        let mut ticks = interval(PROGRESS);
        loop {
            ticks.tick().await;
            let sent = self.sent.load(Ordering::Relaxed).min(self.requests);
            let _ = write!(std::io::stderr(), "\r{sent} of {} requests", self.requests);
        }
    }

    async fn consume(&self, client: &Client<HttpConnector, Empty<Bytes>>) -> Tally {
        let mut tally = Tally::default();
        loop {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return tally;
            }
            // A stride that shares no factor with the number of targets visits all of them, never in blocks.
            let which = usize::try_from(number.wrapping_mul(7)).unwrap_or_default() % self.targets.len();
            let (account, url) = &self.targets[which];
            let request = Request::get(url).header("x-account-token", account).body(Empty::new());
            match client.request(request.expect("a URL and a name that are plain ASCII")).await {
                Ok(response) => tally.count(response).await,
                Err(_) => tally.failed += 1,
            }
        }
    }
}

impl Tally {
    async fn count(&mut self, response: Response<hyper::body::Incoming>) {
        let (head, body) = response.into_parts();
        let cache_status = head.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or("none");
        let kind: Vec<&str> =
            cache_status.split("; ").skip(1).filter(|parameter| !parameter.starts_with("ttl=")).collect();
        *self.by_status.entry(format!("{} {}", head.status.as_u16(), kind.join("; "))).or_default() += 1;
        match body.collect().await {
            Ok(body) => self.bytes += body.to_bytes().len() as u64,
            Err(_) => self.failed += 1,
        }
    }

    fn add(&mut self, other: Self) {
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        self.failed += other.failed;
        self.bytes += other.bytes;
    }

    /// How many requests got no whole answer.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The tally as a table, the most frequent first.
    pub fn table(&self, upstream_calls: usize) -> String {
        let answered: u64 = self.by_status.values().sum();
        let seconds = self.took.as_secs_f64();
        let mut rows: Vec<_> = self.by_status.iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut text = format!(
            "{answered} answers in {seconds:.2} s ({:.0} a second), {} KiB\n\n{:>9}  {:>6}  {}\n",
            answered as f64 / seconds.max(f64::EPSILON),
            self.bytes / 1024,
            "count",
            "share",
            "status and Cache-Status",
        );
        for (status, count) in rows {
            let share = *count as f64 * 100.0 / answered.max(1) as f64;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{count:>9}  {share:>5.1}%  {status}");
        }
        let saved = answered.saturating_sub(upstream_calls as u64);
        let _ = writeln!(text, "\n{upstream_calls:>9}  calls to Merge; {saved} saved");
        if self.failed > 0 {
            let _ = writeln!(text, "{:>9}  requests without an answer", self.failed);
        }
        text
    }
}
