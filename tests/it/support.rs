//! Two ways to test: a [`World`] is the real stack in front of the simulated Merge, in one process and on a clock that tests drive;
//! a [`Wire`] is the real proxy behind real sockets, on the real clock.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::app::{App, Listeners};
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::builder::Builder;
use merge_sync_proxy::demo::merge::Merge;
use merge_sync_proxy::domain::body::ReplyBody;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::listen::accept::Drained;
use merge_sync_proxy::upstream::ways::transport;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

pub(crate) const API_KEY: &str = "test-api-key";
pub(crate) const ACME_TOKEN: &str = "token-of-acme";
pub(crate) const GLOBEX_TOKEN: &str = "token-of-globex";
pub(crate) const SYNC_STATUS: &str = "/api/ats/v1/sync-status";

/// A simulated Merge with the accounts `acme` and `globex`, whose syncs tests start and end by hand, and no limits.
pub(crate) fn merge() -> Builder {
    Merge::builder()
        .api_key(API_KEY)
        .unlimited()
        .account(SimAccount::new("acme", ACME_TOKEN).by_hand())
        .account(SimAccount::new("globex", GLOBEX_TOKEN).by_hand())
}

/// A configuration with the accounts of [`merge`], and `more` at its end. Budgets are unlimited unless `more` sets them; its own
/// `[server]` replaces the one here.
pub(crate) fn config(base_url: &str, more: &str, hasher: &TokenHasher) -> Config {
    configure(base_url, "", more, hasher)
}

fn configure(base_url: &str, admin: &str, more: &str, hasher: &TokenHasher) -> Config {
    let text = text(base_url, admin, more);
    Config::parse(&text, Path::new("test.toml"), &|_| None, hasher).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The text of a configuration, with `admin` in its section.
pub(crate) fn text(base_url: &str, admin: &str, more: &str) -> String {
    let server = if more.contains("[server]") { "" } else { "[server]\nlisten = ['127.0.0.1:0']\n" };
    let budget = if more.contains("[upstreams.us.budget]") {
        ""
    } else {
        "[upstreams.us.budget]\nper_account = 'unlimited'\nerrors = 'unlimited'\nconcurrency = 'unlimited'\n"
    };
    format!(
        "
        {server}
        [admin]
        listen = '127.0.0.1:0'
        {admin}
        [upstreams.us]
        base_url = '{base_url}'
        api_key = '{API_KEY}'
        {budget}
        [[accounts]]
        name = 'acme'
        token = '{ACME_TOKEN}'
        [[accounts]]
        name = 'globex'
        token = '{GLOBEX_TOKEN}'
        {more}
        "
    )
}

/// Routes to read the state of syncs and to begin one.
pub(crate) const RESYNC: &str = "
[[routes]]
path = '/api/{category}/v1/sync-status'
[[routes]]
path = '/api/{category}/v1/sync-status/resync'
methods = ['POST']
cache = 'off'
";

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub async fn whole<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
    {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the whole body").to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    /// A header that is there at most once; empty if it is not.
    pub fn header(&self, name: &str) -> &str {
        assert!(self.headers.get_all(name).iter().count() <= 1, "{name} is there more than once");
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// `Cache-Status` without the name of the cache.
    pub fn cache(&self) -> &str {
        self.header("cache-status").strip_prefix("merge-sync-proxy; ").expect("the name of the cache")
    }

    /// The names of all headers, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// A header that is a whole number.
    pub fn number(&self, name: &str) -> u64 {
        self.header(name).parse().unwrap_or_else(|_| panic!("{name} is no number: {:?}", self.headers))
    }

    /// The last part of a problem's type; empty if it is none.
    pub fn problem(&self) -> String {
        if self.header("content-type") != "application/problem+json" {
            return String::new();
        }
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert!(body["title"].is_string() && body["detail"].is_string());
        let kind = body["type"].as_str().expect("a type");
        kind.strip_prefix("urn:merge-sync-proxy:error:").expect("one of our types").to_owned()
    }
}

/// A request under construction: `GET` with `X-Account-Token: acme` unless told otherwise.
pub(crate) fn ask(target: &str) -> Request<Full<Bytes>> {
    with(target, &[("x-account-token", "acme")])
}

/// The target of one page of many.
pub(crate) fn page(number: usize) -> String {
    format!("{SYNC_STATUS}?cursor={number}")
}

/// A `GET` with exactly these headers.
pub(crate) fn with(target: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).expect("a valid request")
}

/// A consumer, as in `[[consumers]]`, whose key is its name; `more` is the rest of its table.
pub(crate) fn consumer(name: &str, more: &str) -> String {
    let hash = merge_sync_proxy::door::consumer_key::hash(name);
    format!("[[consumers]]\nname = '{name}'\nkey_sha256 = '{hash}'\n{more}\n")
}

/// The same with another method.
pub(crate) fn method(method: Method, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    *request.method_mut() = method;
    request
}

/// The real stack in front of a simulated Merge, without sockets: time may be paused.
#[derive(Clone)]
pub(crate) struct World {
    pub merge: Merge,
    pub app: App,
    service: BoxCloneSyncService<Request<Full<Bytes>>, Response<ReplyBody>, Infallible>,
}

impl World {
    /// The accounts `acme` and `globex`, everybody may come in.
    pub fn new() -> Self {
        Self::with(merge(), "")
    }

    /// In front of another Merge, with `more` in the configuration.
    pub fn with(merge: Builder, more: &str) -> Self {
        let merge = merge.build();
        let hasher = TokenHasher::new();
        let config = config("http://merge.test", more, &hasher);
        let transports = [("us".into(), transport(merge.clone()))].into();
        let app = App::with_transports(config, &hasher, transports);
        Self { service: BoxCloneSyncService::new(app.service()), app, merge }
    }

    /// Sends a request and waits for its whole answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        let Ok(response) = self.service.clone().oneshot(request).await;
        Got::whole(response).await
    }

    /// Asks for acme's page.
    pub async fn get(&self, target: &str) -> Got {
        self.send(ask(target)).await
    }

    /// Asks with these headers beside the account's.
    pub async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Got {
        self.send(with(target, &[&[("x-account-token", "acme")], headers].concat())).await
    }

    /// Begins to ask for acme's page, in a task that can be aborted.
    pub fn begin(&self, target: &str) -> JoinHandle<Got> {
        let (world, request) = (self.clone(), ask(target));
        tokio::spawn(async move { world.send(request).await })
    }

    /// Waits until every fetch has ended, also those that nobody waits for.
    pub async fn settle(&self) {
        while self.app.ground().flights.count().0 > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Asserts that nothing is held by anyone: no flight, no waiter, no call in flight.
    pub fn assert_idle(&self) {
        assert_eq!(self.app.ground().flights.count(), (0, 0), "flights and waiters");
        assert_eq!(self.app.ground().budgets.waiting(), 0, "waiting for budget");
        assert_eq!(self.app.ground().budgets.in_flight("us"), 0, "calls in flight");
    }
}

/// The real proxy behind real sockets in front of a simulated Merge behind a real socket.
pub(crate) struct Wire {
    pub merge: Merge,
    pub app: App,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Drained>,
    simulation: JoinHandle<()>,
}

impl Wire {
    pub async fn new() -> Self {
        Self::with(merge(), "").await
    }

    pub async fn with(merge: Builder, more: &str) -> Self {
        Self::start(merge, "", more).await
    }

    /// With `admin` in its section of the configuration.
    pub async fn with_admin(merge: Builder, admin: &str) -> Self {
        Self::start(merge, admin, "").await
    }

    async fn start(merge: Builder, admin: &str, more: &str) -> Self {
        let merge = merge.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let simulation = tokio::spawn(merge.clone().serve(listener, std::future::pending::<()>()));
        let hasher = TokenHasher::new();
        let config = configure(&base_url, admin, more, &hasher);
        let listeners = Listeners::bind(&config).await.expect("free ports");
        let proxy = listeners.proxy[0].tcp_address().expect("a TCP listener");
        let admin = listeners.admin.tcp_address().expect("a TCP listener");
        let app = App::new(config, &hasher).expect("no certificates are needed");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn({
            let app = app.clone();
            async move { app.serve(listeners, stopped).await }
        });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { merge, app, proxy, admin, client, stop: Some(stop), serving, simulation }
    }

    /// Sends a request whose target is a path.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Got {
        let url = format!("http://{}{}", self.proxy, request.uri());
        *request.uri_mut() = url.parse().expect("a path");
        Got::whole(self.client.request(request).await.expect("an answer")).await
    }

    /// Asks for acme's page.
    pub async fn get(&self, target: &str) -> Got {
        self.send(ask(target)).await
    }

    /// Asks the admin listener.
    pub async fn admin(&self, path: &str) -> Got {
        self.operate(with(path, &[])).await
    }

    /// Sends a request whose target is a path to the admin listener.
    pub async fn operate(&self, mut request: Request<Full<Bytes>>) -> Got {
        let url = format!("http://{}{}", self.admin, request.uri());
        *request.uri_mut() = url.parse().expect("a path");
        Got::whole(self.client.request(request).await.expect("an answer")).await
    }

    /// Tells the proxy to stop; its drain goes on in [`Wire::drained`].
    pub fn stop(&mut self) {
        self.stop = None;
    }

    /// How the drain ended.
    pub async fn drained(&mut self) -> Drained {
        self.stop();
        (&mut self.serving).await.expect("no panic")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.serving.abort();
        self.simulation.abort();
    }
}

/// Bounds a test on the real clock: what hangs fails, and says so.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it took more than 20 seconds")
}
