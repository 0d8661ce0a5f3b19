//! The file as it is written, table by table. The `Default` implementations are the only place with defaults.
//!
//! A key that has no default is an `Option` here; that it must be there is said where it is used.
#![expect(missing_docs, reason = "proxy.toml explains each key, and a test holds it to that")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use toml::Spanned;

use super::address::{BaseUrl, ListenAddress};
use super::item::{Item, List, Table};
use super::route_words::{Category, HeaderEntry, PathTemplate};
use super::secret::SecretSource;
use super::units::ByteSize;
use super::whole::{AtLeastOne, Whole, Workers};
use super::words::{CertificateName, FileMode, LogFormat, Share};
use crate::domain::access::{KeyHash, Name, Pattern};
use crate::domain::bucket::Rate;
use crate::domain::rules::{BudgetRules, CacheRule, ClientOptions, ForwardProxy, Http2, Lifetimes, SocketAccess};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub server: Table<Server>,
    pub admin: Table<Admin>,
    pub upstreams: BTreeMap<Spanned<String>, Table<Upstream>>,
    pub cache: Table<Cache>,
    pub accounts: Vec<Table<Account>>,
    pub consumers: Vec<Table<Consumer>>,
    /// `None`: sync-status of every category.
    pub routes: Option<Vec<Table<Route>>>,
    pub webhook: Option<Table<Webhook>>,
    pub shared: Option<Table<Shared>>,
    pub telemetry: Table<Telemetry>,
}

/// `[server]`: where consumers come in.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    pub listen: List<ListenAddress>,
    pub workers: Item<Workers>,
    pub drain: Item<Duration>,
    pub max_connections: Item<Whole<1, 1_000_000>>,
    pub max_connections_per_peer: Item<Whole<1, 1_000_000>>,
    pub header_timeout: Item<Duration>,
    pub body_timeout: Item<Duration>,
    pub idle_timeout: Item<Duration>,
    pub max_header_bytes: Item<ByteSize>,
    pub failed_keys: Item<Option<Rate>>,
    pub unix: Table<Unix>,
    pub tls: Option<Table<Tls>>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: List::of([ListenAddress::Tcp { host: "127.0.0.1".into(), port: 8080 }]),
            workers: Workers::Auto.into(),
            drain: Duration::from_secs(20).into(),
            max_connections: Whole(10_000).into(),
            max_connections_per_peer: Whole(5_000).into(),
            header_timeout: Duration::from_secs(10).into(),
            body_timeout: Duration::from_secs(20).into(),
            // A little longer than the 60 s that load balancers keep a connection, so that they close first and no request
            // meets a connection that is just going away.
            idle_timeout: Duration::from_secs(75).into(),
            max_header_bytes: ByteSize(64 * 1024).into(),
            failed_keys: Rate::new(60, Duration::from_secs(60)).into(),
            unix: Table::default(),
            tls: None,
        }
    }
}

/// `[server.unix]`: who may open its Unix sockets.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Unix {
    pub mode: Item<FileMode>,
    pub group: Option<Item<String>>,
}

impl Default for Unix {
    fn default() -> Self {
        Self { mode: FileMode(SocketAccess::OWNER.mode).into(), group: None }
    }
}

/// `[server.tls]`: TLS towards consumers.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub cert: Option<Item<PathBuf>>,
    pub key: Option<Item<PathBuf>>,
    pub client_ca: Option<Item<PathBuf>>,
    pub handshake_timeout: Item<Duration>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { cert: None, key: None, client_ca: None, handshake_timeout: Duration::from_secs(10).into() }
    }
}

/// `[admin]`: where operators come in.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    pub listen: Item<ListenAddress>,
    pub token: Option<Item<SecretSource>>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: ListenAddress::Tcp { host: "127.0.0.1".into(), port: 8081 }.into(), token: None }
    }
}

/// `[upstreams.NAME]`: a base URL, an API key, and how to reach it.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    pub base_url: Option<Item<BaseUrl>>,
    pub api_key: Option<Item<SecretSource>>,
    pub ca_file: Option<Item<PathBuf>>,
    pub proxy: Option<Item<ForwardProxy>>,
    pub connect_timeout: Item<Duration>,
    pub tls_timeout: Item<Duration>,
    pub headers_timeout: Item<Duration>,
    pub progress_timeout: Item<Duration>,
    pub timeout: Item<Duration>,
    pub http2: Item<Http2>,
    pub retries: Item<Whole<0, 10>>,
    pub max_connection_age: Item<Duration>,
    pub budget: Table<Budget>,
}

impl Default for Upstream {
    fn default() -> Self {
        let client = ClientOptions::default();
        Self {
            base_url: None,
            api_key: None,
            ca_file: None,
            proxy: None,
            connect_timeout: client.connect_timeout.into(),
            tls_timeout: client.tls_timeout.into(),
            headers_timeout: client.headers_timeout.into(),
            progress_timeout: client.progress_timeout.into(),
            timeout: client.timeout.into(),
            http2: client.http2.into(),
            retries: Whole(client.retries).into(),
            max_connection_age: client.max_connection_age.into(),
            budget: Table::default(),
        }
    }
}

/// `[upstreams.NAME.budget]`: what may be sent.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    pub per_account: Item<Option<Rate>>,
    pub concurrency: Item<Option<AtLeastOne>>,
    pub errors: Item<Option<Rate>>,
    pub max_wait: Item<Duration>,
    pub max_waiting: Item<Whole<1, 100_000>>,
    pub breaker: Item<Option<AtLeastOne>>,
    pub dry_run: Item<bool>,
}

impl Default for Budget {
    fn default() -> Self {
        let rules = BudgetRules::default();
        Self {
            per_account: rules.per_account.into(),
            concurrency: rules.concurrency.map(Whole).into(),
            errors: rules.errors.into(),
            max_wait: rules.max_wait.into(),
            max_waiting: Whole(rules.max_waiting).into(),
            breaker: rules.breaker.map(|failures| Whole(failures.get())).into(),
            dry_run: rules.dry_run.into(),
        }
    }
}

/// `[cache]`: how much is kept, and how long.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    pub max_bytes: Item<ByteSize>,
    pub max_page_bytes: Item<ByteSize>,
    pub ttl: Table<Ttl>,
    pub stale: Table<Stale>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_bytes: ByteSize(256 << 20).into(),
            max_page_bytes: ByteSize(4 << 20).into(),
            ttl: Table::default(),
            stale: Table::default(),
        }
    }
}

/// `[cache.ttl]`: how long a page is fresh.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Ttl {
    pub syncing: Item<Duration>,
    pub settled: Item<Duration>,
    pub min: Item<Duration>,
    pub negative: Item<Duration>,
}

impl Default for Ttl {
    fn default() -> Self {
        let Lifetimes { syncing, settled, min, negative, .. } = Lifetimes::default();
        Self { syncing: syncing.into(), settled: settled.into(), min: min.into(), negative: negative.into() }
    }
}

/// `[cache.stale]`: how long a page serves beyond that.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Stale {
    pub while_revalidate: Item<Duration>,
    pub if_error: Item<Duration>,
}

impl Default for Stale {
    fn default() -> Self {
        let Lifetimes { while_revalidate, if_error, .. } = Lifetimes::default();
        Self { while_revalidate: while_revalidate.into(), if_error: if_error.into() }
    }
}

/// `[[accounts]]`: a linked account and its name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    pub name: Option<Item<Name>>,
    pub token: Option<Item<SecretSource>>,
    pub upstream: Option<Item<Name>>,
    pub per_account: Option<Item<Option<Rate>>>,
    pub linked_account_id: Option<Item<String>>,
}

/// `[[consumers]]`: who may ask, for what, how often.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consumer {
    pub name: Option<Item<Name>>,
    pub key_sha256: Option<List<KeyHash>>,
    pub unix_uid: List<Whole<0, { u32::MAX }>>,
    pub client_cert: List<CertificateName>,
    pub disabled: Item<bool>,
    pub accounts: List<Pattern>,
    pub raw_tokens: Item<bool>,
    pub default_account: Option<Item<Name>>,
    pub quota: Item<Option<Rate>>,
    pub forced_refreshes: Item<Option<Rate>>,
    pub resync: Item<bool>,
    pub max_in_flight_misses: Item<Whole<1, 100_000>>,
    pub max_followers: Item<Whole<0, 100_000>>,
    pub weight: Item<Whole<1, 1_000>>,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            name: None,
            key_sha256: None,
            unix_uid: List::of([]),
            client_cert: List::of([]),
            disabled: false.into(),
            accounts: List::of([]),
            raw_tokens: false.into(),
            default_account: None,
            quota: None.into(),
            forced_refreshes: Rate::new(10, Duration::from_secs(60)).into(),
            resync: false.into(),
            max_in_flight_misses: Whole(8).into(),
            max_followers: Whole(64).into(),
            weight: Whole(1).into(),
        }
    }
}

/// `[[routes]]`: which requests are taken, and what is done with them.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    pub path: Option<Item<PathTemplate>>,
    pub methods: List<Method>,
    pub cache: Item<CacheRule>,
    pub categories: Option<List<Category>>,
    pub upstream: Option<Item<Name>>,
    pub upstream_path: Option<Item<PathTemplate>>,
    pub request_headers: List<HeaderEntry>,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            path: None,
            methods: List::of([Method::GET]),
            cache: CacheRule::SyncStatus.into(),
            categories: None,
            upstream: None,
            upstream_path: None,
            request_headers: List::of([]),
        }
    }
}

/// `[webhook]`: Merge says when a sync ends.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// A list while the key is changed, or where several of Merge's webhooks have keys of their own.
    pub secret: Option<List<SecretSource>>,
}

/// `[shared]`: several replicas share one budget and one cache.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shared {
    pub url: Option<Item<SecretSource>>,
}

/// `[telemetry]`: what is told to the outside.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// `None`: pretty on a terminal, JSON otherwise.
    pub log: Option<Item<LogFormat>>,
    pub filter: Item<String>,
    pub access_log: Item<bool>,
    pub otlp: Option<Item<BaseUrl>>,
    pub sample: Item<Share>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: None,
            filter: "info".to_owned().into(),
            access_log: true.into(),
            otlp: None,
            sample: Share(0.01).into(),
        }
    }
}
