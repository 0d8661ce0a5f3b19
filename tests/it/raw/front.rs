//! The real proxy on a port of its own in front of whatever upstream.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::app::{App, Listeners};
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::domain::access::{Name, Upstream};
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::listen::accept::Drained;
use merge_sync_proxy::upstream::transport;
use merge_sync_proxy::upstream::ways::Transport;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{ACME_TOKEN, API_KEY, GLOBEX_TOKEN, Got, SYNC_STATUS, ask, with};

/// The proxy, and a client of it.
pub(crate) struct Front {
    pub app: App,
    proxy: std::net::SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    _stop: oneshot::Sender<()>,
    serving: JoinHandle<Drained>,
}

impl Front {
    /// In front of `base_url`, with `more` in the table of the upstream.
    pub async fn new(base_url: &str, more: &str) -> Self {
        Self::reaching(base_url, more, |upstream| transport::connect(upstream).expect("its certificates are readable"))
            .await
    }

    /// The same, over another transport.
    pub async fn reaching(base_url: &str, more: &str, connect: impl Fn(&Upstream) -> Transport) -> Self {
        let hasher = TokenHasher::new();
        let config = config(base_url, more, &hasher);
        let listeners = Listeners::bind(&config).await.expect("free ports");
        let proxy = listeners.proxy[0].tcp_address().expect("a TCP listener");
        let transports = [(Name::from("us"), connect(&config.upstreams[0]))].into();
        let app = App::with_transports(config, &hasher, transports);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn({
            let app = app.clone();
            async move { app.serve(listeners, stopped).await }
        });
        Self { app, proxy, client: Client::builder(TokioExecutor::new()).build_http(), _stop: stop, serving }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        Got::whole(self.begin(request).await).await
    }

    /// The head of an answer, whose body is yet to come.
    pub async fn begin(&self, mut request: Request<Full<Bytes>>) -> Response<Incoming> {
        *request.uri_mut() = format!("http://{}{}", self.proxy, request.uri()).parse().expect("a path");
        self.client.request(request).await.expect("an answer")
    }

    /// Asks for the page of an account.
    pub async fn page(&self, account: &str) -> Got {
        self.send(with(SYNC_STATUS, &[("x-account-token", account)])).await
    }

    /// Asks for one of many pages.
    pub async fn get(&self, number: usize) -> Got {
        self.send(ask(&format!("{SYNC_STATUS}?cursor={number}"))).await
    }

    /// Returns once nothing is held by anyone: no flight, no waiter, no call in flight. Who waits for ever has found a leak.
    pub async fn idle(&self) {
        let ground = self.app.ground();
        let held = || (ground.flights.count(), ground.budgets.waiting(), ground.budgets.in_flight("us"));
        while held() != ((0, 0), 0, 0) {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn config(base_url: &str, more: &str, hasher: &TokenHasher) -> Config {
    let text = format!(
        "
        [server]
        listen = ['127.0.0.1:0']
        [admin]
        listen = '127.0.0.1:0'
        [upstreams.us]
        base_url = '{base_url}'
        api_key = '{API_KEY}'
        {more}
        [upstreams.us.budget]
        per_account = 'unlimited'
        concurrency = 4
        [[accounts]]
        name = 'acme'
        token = '{ACME_TOKEN}'
        [[accounts]]
        name = 'globex'
        token = '{GLOBEX_TOKEN}'
        [[routes]]
        path = '/api/ats/v1/sync-status'
        [[routes]]
        path = '/through/*'
        methods = ['GET', 'POST']
        cache = 'off'
        "
    );
    Config::parse(&text, Path::new("test.toml"), &|_| None, hasher).unwrap_or_else(|faults| panic!("{faults}"))
}
