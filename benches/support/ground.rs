//! What benches stand on: the proxy as configured for many teams, in front of a simulated Merge.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use merge_sync_proxy::app::App;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::builder::Builder;
use merge_sync_proxy::demo::merge::Merge;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::upstream::ways::transport;
use sha2::{Digest, Sha256};

use super::identity;

/// A proxy, and the Merge behind it.
pub(crate) struct Ground {
    pub(crate) app: App,
    pub(crate) config: Config,
    pub(crate) merge: Merge,
}

/// What a [`Ground`] is like.
pub(crate) struct Terms<'a> {
    /// How many consumers there are, each with a key and a glob of its own.
    pub(crate) consumers: usize,
    /// How many accounts, each with a page of about 4 KB.
    pub(crate) accounts: usize,
    /// How long a page is fresh, in seconds.
    pub(crate) lifetime: u64,
    /// A Merge behind a socket; none is one in this process.
    pub(crate) upstream: Option<SocketAddr>,
    /// The folder with a certificate, if it speaks TLS.
    pub(crate) tls: Option<&'a Path>,
    /// How much room there is for pages, in MiB.
    pub(crate) room: usize,
}

/// As much room as the proxy has where nothing else is said, in MiB.
pub(crate) const USUAL: usize = 256;

/// Room for some millions of pages, in MiB.
pub(crate) const AMPLE: usize = 16 << 10;

impl Terms<'_> {
    /// So many consumers and accounts, and pages that stay fresh for an hour.
    pub(crate) fn new(consumers: usize, accounts: usize) -> Self {
        Self { consumers, accounts, lifetime: 3_600, upstream: None, tls: None, room: USUAL }
    }
}

/// The key of the consumer with this number, as long as a real one.
pub(crate) fn key(consumer: usize) -> String {
    format!("msp_{consumer:047}")
}

/// A simulated Merge without limits that has so many accounts.
pub(crate) fn merge(accounts: usize) -> Merge {
    let merge = Merge::builder().unlimited().log_limit(1);
    let account = |number| SimAccount::new(format!("account-{number}"), format!("token-{number}")).by_hand();
    let merge = (0..accounts).map(account).fold(merge, Builder::account).build();
    let page = page();
    for number in 0..accounts {
        merge.page(&format!("account-{number}"), "ats", page.clone());
    }
    merge
}

impl Ground {
    /// So many consumers and accounts.
    pub(crate) fn new(consumers: usize, accounts: usize) -> Self {
        Self::with(&Terms::new(consumers, accounts))
    }

    /// On these terms.
    pub(crate) fn with(terms: &Terms<'_>) -> Self {
        let &Terms { consumers, accounts, lifetime, upstream, tls, room } = terms;
        let host = upstream.map_or_else(|| "merge.test".to_owned(), |upstream| upstream.to_string());
        let mut text = format!(
            "
            [server]
            listen = ['127.0.0.1:0']
            max_connections = 100000
            max_connections_per_peer = 100000
            [admin]
            listen = '127.0.0.1:0'
            [upstreams.us]
            base_url = 'http://{host}'
            api_key = 'test-api-key'
            [upstreams.us.budget]
            per_account = 'unlimited'
            concurrency = 'unlimited'
            errors = 'unlimited'
            [cache]
            max_bytes = '{room}MiB'
            [cache.ttl]
            min = '1s'
            syncing = '{lifetime}s'
            settled = '{lifetime}s'\n"
        );
        if let Some(folder) = tls {
            let [certificate, key] = [identity::CERTIFICATE, identity::KEY].map(|file| folder.join(file));
            writeln!(text, "[server.tls]\ncert = '{}'\nkey = '{}'", certificate.display(), key.display())
                .expect("memory");
        }
        for number in 0..accounts {
            writeln!(text, "[[accounts]]\nname = 'account-{number}'\ntoken = 'token-{number}'").expect("memory");
        }
        for number in 0..consumers {
            let hash = hex::encode(Sha256::digest(key(number)));
            writeln!(text, "[[consumers]]\nname = 'team-{number}'\nkey_sha256 = '{hash}'").expect("memory");
            text.push_str("accounts = ['account-*']\nmax_in_flight_misses = 100000\nforced_refreshes = 'unlimited'\n");
        }
        let merge = merge(if upstream.is_some() { 0 } else { accounts });
        let hasher = TokenHasher::new();
        let config = Config::parse(&text, Path::new("bench.toml"), &|_| None, &hasher);
        let config = config.unwrap_or_else(|faults| panic!("{faults}"));
        let app = if upstream.is_some() {
            App::new(config.clone(), &hasher).expect("no certificates are needed")
        } else {
            let transports = [("us".into(), transport(merge.clone()))].into();
            App::with_transports(config.clone(), &hasher, transports)
        };
        Self { app, config, merge }
    }

    /// A consumer's request for an account's page, with the header fields that an SDK sends.
    #[allow(clippy::unused_self, reason = "consumers and accounts are those of this ground")]
    pub(crate) fn request(&self, consumer: usize, account: usize, query: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("/api/ats/v1/sync-status{query}"))
            .header("host", "proxy.internal:8080")
            .header("user-agent", "merge-python/1.0")
            .header("accept", "application/json")
            .header("authorization", format!("Bearer {}", key(consumer)))
            .header("x-account-token", format!("account-{account}"))
            .body(Empty::new())
            .expect("a valid request")
    }
}

/// Twelve models at rest: 4 KB.
pub(crate) fn page() -> Bytes {
    let model = |number: usize| {
        serde_json::json!({
            "model_name": format!("Model{number}"),
            "model_id": format!("ats.Model{number}"),
            "last_sync_start": "2026-04-15T10:00:00Z",
            "next_sync_start": "2099-04-15T11:00:00Z",
            "last_sync_result": "DONE",
            "last_sync_finished": "2026-04-15T10:01:00Z",
            "status": "DONE",
            "is_initial_sync": false,
            "selective_sync_configurations_usage": "IN_LAST_SYNC",
            "note": "x".repeat(30),
        })
    };
    let models: Vec<_> = (0..12).map(model).collect();
    serde_json::json!({"next": null, "previous": null, "results": models}).to_string().into()
}
