//! The operator's rules as plain values: how long a page lives, what may be sent, how to connect.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::access::{Credential, Name};
use super::bucket::Rate;

/// How a route's answers are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheRule {
    /// The lifetime follows from what the page says about syncs.
    SyncStatus,
    /// The upstream's own headers alone (RFC 9111).
    Http,
    /// The same lifetime for every page.
    Fixed(Duration),
    /// Forward only.
    Off,
}

/// How long pages live: `[cache.ttl]` and `[cache.stale]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// At most this long while something is syncing.
    pub syncing: Duration,
    /// At most this long while nothing is.
    pub settled: Duration,
    /// At least this long.
    pub min: Duration,
    /// How long a 401, 403 or 404 is remembered.
    pub negative: Duration,
    /// How long after its lifetime a page is served while it is fetched anew.
    pub while_revalidate: Duration,
    /// How long after its lifetime a page is served when the upstream fails.
    pub if_error: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            syncing: Duration::from_secs(5),
            settled: Duration::from_secs(60),
            min: Duration::from_secs(2),
            negative: Duration::from_secs(5),
            while_revalidate: Duration::from_secs(30),
            if_error: Duration::from_secs(3600),
        }
    }
}

/// What may be sent to one upstream: `[upstreams.NAME.budget]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRules {
    /// Calls per linked account; `None` is unlimited.
    pub per_account: Option<Rate>,
    /// Calls in flight at a time; `None` is unlimited.
    pub concurrency: Option<u32>,
    /// Failing calls of all accounts together; `None` is unlimited.
    pub errors: Option<Rate>,
    /// How long a request may wait for its turn.
    pub max_wait: Duration,
    /// How many requests may wait for their turn.
    pub max_waiting: u32,
    /// After how many failures in a row the upstream is left alone for a while; `None` is never.
    pub breaker: Option<NonZeroU32>,
    /// Whether nothing is held back, and only the log tells what would have been.
    pub dry_run: bool,
}

impl Default for BudgetRules {
    fn default() -> Self {
        Self {
            per_account: Rate::new(100, Duration::from_secs(60)),
            concurrency: Some(32),
            errors: Rate::new(10, Duration::from_secs(10)),
            max_wait: Duration::from_secs(1),
            max_waiting: 1024,
            breaker: NonZeroU32::new(5),
            dry_run: false,
        }
    }
}

/// Whether HTTP/2 is offered to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Http2 {
    /// By ALPN where TLS is spoken.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// How to reach one upstream: the rest of `[upstreams.NAME]`.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Certificates to trust beside the platform's, as a PEM file.
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 of that file, by which one that was replaced is told.
    pub ca_digest: Option<[u8; 32]>,
    /// A forward proxy to reach it through; otherwise the environment's.
    pub proxy: Option<ForwardProxy>,
    /// How long one attempt to connect may take: name, addresses, forward proxy.
    pub connect_timeout: Duration,
    /// How long TLS may take on a new connection.
    pub tls_timeout: Duration,
    /// How long the head of the answer may take once the request is out.
    pub headers_timeout: Duration,
    /// How long the body of the answer may pause.
    pub progress_timeout: Duration,
    /// How long one whole call may take, retries included.
    pub timeout: Duration,
    /// Whether HTTP/2 is offered.
    pub http2: Http2,
    /// How often a call that failed on the way is tried again.
    pub retries: u32,
    /// How old a connection may be when a call begins on it.
    pub max_connection_age: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            ca_file: None,
            ca_digest: None,
            proxy: None,
            // Two lost packets: they are sent again after 1 s and after 2 s more (RFC 6298 §2).
            connect_timeout: Duration::from_secs(3),
            tls_timeout: Duration::from_secs(3),
            // With the two before it less than the whole call, so that what is slow is told by its name.
            headers_timeout: Duration::from_secs(10),
            // Time for an answer that is made as it is sent.
            progress_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
            http2: Http2::Auto,
            retries: 2,
            // The address records of an API live for a minute or a few.
            max_connection_age: Duration::from_secs(300),
        }
    }
}

impl ClientOptions {
    /// Whether connections are made and kept as with `other`; how long calls last and how often they are tried does not matter.
    pub fn connects_like(&self, other: &Self) -> bool {
        let certificates = (&self.ca_file, self.ca_digest) == (&other.ca_file, other.ca_digest);
        let proxy = match (&self.proxy, &other.proxy) {
            (Some(one), Some(other)) => one.is_same(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let times = |of: &Self| (of.connect_timeout, of.tls_timeout, of.headers_timeout, of.max_connection_age);
        certificates && proxy && times(self) == times(other) && self.http2 == other.http2
    }
}

/// A forward proxy that is asked with CONNECT.
#[derive(Clone, Debug)]
pub struct ForwardProxy {
    /// Where it is, without credentials.
    pub url: http::Uri,
    /// `Proxy-Authorization`, if its URL had user and password.
    pub authorization: Option<Credential>,
}

impl ForwardProxy {
    /// Whether both are the same, asked with the same credentials.
    pub fn is_same(&self, other: &Self) -> bool {
        let authorization = match (&self.authorization, &other.authorization) {
            (Some(one), Some(other)) => one.is_same(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.url == other.url && authorization
    }
}

/// Which request headers of the caller go upstream besides those that the proxy sets itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum RequestHeaders {
    /// None: a fetch may serve many consumers, so it carries nobody's headers.
    #[default]
    None,
    /// These.
    These(Vec<HeaderName>),
    /// All end-to-end headers but credentials and cookies.
    All,
}

/// The placeholder in a route's paths: it stands for one of the route's categories.
pub const CATEGORY: &str = "{category}";

/// The prefix that Merge's paths have, and that the path of a request may lack.
pub const API_PREFIX: &str = "/api";

/// One `[[routes]]` entry: which requests it takes and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path as configured: `{category}` stands for one segment, a final `/*` for everything below.
    pub path: Arc<str>,
    /// What `{category}` may be.
    pub categories: Vec<Arc<str>>,
    /// The methods that it takes; GET brings HEAD.
    pub methods: Vec<Method>,
    /// How its answers are cached.
    pub cache: CacheRule,
    /// The upstream that serves it, where it is not the account's own.
    pub upstream: Option<Name>,
    /// The caller's headers that it passes on.
    pub request_headers: RequestHeaders,
    /// The upstream's path, where it differs from the caller's.
    pub upstream_path: Option<Arc<str>>,
}

/// The categories of Merge's unified API that have a sync-status.
pub const CATEGORIES: [&str; 10] =
    ["ats", "hris", "accounting", "crm", "ticketing", "filestorage", "knowledgebase", "chat", "calendar", "email"];

impl Route {
    /// The routes when none are configured: sync-status of every category.
    pub fn defaults() -> Vec<Self> {
        vec![Self {
            path: "/api/{category}/v1/sync-status".into(),
            categories: CATEGORIES.iter().map(|&category| category.into()).collect(),
            methods: vec![Method::GET],
            cache: CacheRule::SyncStatus,
            upstream: None,
            request_headers: RequestHeaders::None,
            upstream_path: None,
        }]
    }
}

/// Who may open a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    /// The permissions of the socket's file.
    pub mode: u32,
    /// The group of the socket's file; `None` leaves it the one of the process.
    pub group: Option<u32>,
}

impl SocketAccess {
    /// Nobody but the user that the proxy runs as.
    pub const OWNER: Self = Self { mode: 0o600, group: None };
}
