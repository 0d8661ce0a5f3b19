//! The configuration as the program uses it: checked, with every default filled in and every secret read.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use secrecy::zeroize::Zeroizing;

use super::address::ListenAddress;
use super::fault::Warning;
use super::secret::{Secret, SecretSource};
use super::tls::Tls;
use super::words::LogFormat;
use crate::domain::access::{Account, Consumer, Credential, Name, Upstream};
use crate::domain::bucket::Rate;
use crate::domain::rules::{Lifetimes, Route, SocketAccess};

/// Everything that a start needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where consumers come in.
    pub server: Server,
    /// Where operators come in.
    pub admin: Admin,
    /// The upstreams in the order of the file; at least one.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The accounts that have names.
    pub accounts: Vec<Arc<Account>>,
    /// The first upstream of the file; a raw token goes there.
    pub default_upstream: Arc<Upstream>,
    /// Who may ask; none: open to everybody who can reach it.
    pub consumers: Vec<Consumer>,
    /// Which requests are taken.
    pub routes: Vec<Route>,
    /// How much is kept, and how long.
    pub cache: Cache,
    /// What Merge signs webhooks with; `None`: there are none.
    pub webhook: Option<Webhook>,
    /// What is told to the outside.
    pub telemetry: Telemetry,
    /// Where the secrets are from.
    pub sources: Sources,
    /// What is allowed and not wise.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Every secret that it holds, as it was given, so that it can be kept out of what is written.
    pub fn secrets(&self) -> Vec<Zeroizing<String>> {
        let text = |credential: &Credential| Zeroizing::new(credential.secret().to_owned());
        let mut secrets: Vec<_> = self.accounts.iter().map(|account| text(&account.token)).collect();
        for upstream in &self.upstreams {
            secrets.push(text(&upstream.api_key));
            let authorization = upstream.client.proxy.as_ref().and_then(|proxy| proxy.authorization.as_ref());
            secrets.extend(authorization.into_iter().flat_map(|authorization| {
                let encoded = text(authorization);
                let plain =
                    BASE64_STANDARD.decode(encoded.as_bytes()).ok().and_then(|plain| String::from_utf8(plain).ok());
                let plain = Zeroizing::new(plain.unwrap_or_default());
                let password = plain.split_once(':').map_or("", |(_, password)| password).to_owned();
                [encoded, Zeroizing::new(password)]
            }));
        }
        let signing = self.webhook.iter().flat_map(|webhook| &webhook.secrets);
        let written = self.admin.token.iter().chain(signing);
        secrets.extend(written.map(|secret| Zeroizing::new(secret.expose().to_owned())));
        secrets
    }
}

/// Where consumers come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The addresses; at least one.
    pub listen: Vec<ListenAddress>,
    /// How many threads serve.
    pub workers: NonZeroUsize,
    /// How long a shutdown waits for what still runs.
    pub drain: Duration,
    /// How many connections may be open at a time.
    pub max_connections: usize,
    /// How many of them may come from one address.
    pub max_connections_per_peer: u32,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// How long the body of a request may keep the proxy waiting.
    pub body_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// How large the head of a request may be.
    pub max_header_bytes: usize,
    /// How many requests without a known key each address may send; `None` is unlimited.
    pub failed_keys: Option<Rate>,
    /// Who may open its Unix sockets.
    pub unix: SocketAccess,
    /// TLS on the TCP listeners; `None`: they are plain.
    pub tls: Option<Tls>,
}

/// Where operators come in.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address.
    pub listen: ListenAddress,
    /// What an operator has to show; always there when others can reach the address.
    pub token: Option<Secret>,
}

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The size of all pages together.
    pub max_bytes: u64,
    /// The largest page that is kept.
    pub max_page_bytes: usize,
    /// How long pages live.
    pub lifetimes: Lifetimes,
}

/// That Merge says when a sync ends.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Any of these may have signed; at least one.
    pub secrets: Vec<Secret>,
}

/// What is told to the outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// How log lines look; `None`: pretty on a terminal, JSON otherwise.
    pub log: Option<LogFormat>,
    /// Which log lines there are, in the syntax of `tracing`.
    pub filter: String,
    /// Whether each request makes a log line.
    pub access_log: bool,
    /// Where traces go; `None`: nowhere.
    pub otlp: Option<Uri>,
    /// The share of requests that are recorded.
    pub sample: f64,
}

/// Where each secret is from, by the name of its owner, and what else the file does not say.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The API keys of upstreams.
    pub api_keys: BTreeMap<Name, SecretSource>,
    /// The tokens of accounts.
    pub tokens: BTreeMap<Name, SecretSource>,
    /// The variables that name the forward proxies of upstreams, where the file does not.
    pub proxies: BTreeMap<Name, &'static str>,
    /// What webhooks are signed with.
    pub webhook: Vec<SecretSource>,
    /// The files that were read beside the configuration file: secrets and certificates.
    pub files: Vec<PathBuf>,
}
