//! What differs between two configurations, told by the names of the keys and never by a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::effective::{Admin, Cache, Config, Server, Telemetry, Webhook};
use super::fault::Warning;
use super::secret::Secret;
use super::tls::Tls;
use crate::domain::access::{Account, AccountHash, Consumer, Credential, Upstream};
use crate::domain::key::TokenHasher;
use crate::domain::rules::{BudgetRules, ClientOptions, Lifetimes};

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The keys and tables that are now as the file says.
    pub changed: Vec<String>,
    /// Those that stay as they were until the next start.
    pub needs_restart: Vec<String>,
    /// What is allowed and not wise.
    pub warnings: Vec<Warning>,
}

/// What one key says. Of a secret only what stands for it.
#[derive(PartialEq)]
enum Fact {
    Plain(String),
    Secret(Option<AccountHash>),
}

fn plain(value: impl Debug) -> Fact {
    Fact::Plain(format!("{value:?}"))
}

type Table = BTreeMap<&'static str, Fact>;

/// The keys in which `new` differs from `old`, sorted; a table that is only in one of them stands for all its keys.
pub fn between(old: &Config, new: &Config) -> Vec<String> {
    // One key for one comparison: nothing that could be tried against a list of secrets outlives it.
    let hasher = TokenHasher::new();
    let (old, new) = (facts(old, &hasher), facts(new, &hasher));
    let mut changed = Vec::new();
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => {
                let keys = old.keys().filter(|key| old.get(*key) != new.get(*key));
                changed.extend(keys.map(|key| format!("{name}.{key}").trim_start_matches('.').to_owned()));
            }
            (None, _) => changed.push(format!("{name} (new)")),
            (_, None) => changed.push(format!("{name} (gone)")),
        }
    }
    changed
}

fn facts(config: &Config, hasher: &TokenHasher) -> BTreeMap<String, Table> {
    let mut tables = BTreeMap::new();
    let default_upstream = ("upstreams", plain(&config.default_upstream.name));
    tables.insert(String::new(), Table::from([("routes", plain(&config.routes)), default_upstream]));
    tables.insert("server".into(), server(&config.server));
    tables.insert("admin".into(), admin(&config.admin, hasher));
    cache(&config.cache, &mut tables);
    tables.insert("telemetry".into(), telemetry(&config.telemetry));
    if let Some(one) = &config.webhook {
        tables.insert("webhook".into(), webhook(one, hasher));
    }
    for one in &config.upstreams {
        upstream(one, hasher, &mut tables);
    }
    for one in &config.accounts {
        tables.insert(format!("accounts.{}", one.label()), account(one));
    }
    for one in &config.consumers {
        tables.insert(format!("consumers.{}", one.name), consumer(one));
    }
    tables
}

// Every function below takes its struct apart, so that a field that is added and forgotten here does not compile.

fn server(server: &Server) -> Table {
    let Server {
        listen,
        workers,
        drain,
        max_connections,
        max_connections_per_peer,
        header_timeout,
        body_timeout,
        idle_timeout,
        max_header_bytes,
        failed_keys,
        tls,
        unix,
    } = server;
    // What the files hold is looked after by itself.
    let tls = tls.as_ref().map(|Tls { files, handshake_timeout, loaded: _ }| (files, handshake_timeout));
    Table::from([
        ("listen", plain(listen)),
        ("workers", plain(workers)),
        ("drain", plain(drain)),
        ("max_connections", plain(max_connections)),
        ("header_timeout", plain(header_timeout)),
        ("idle_timeout", plain(idle_timeout)),
        ("max_header_bytes", plain(max_header_bytes)),
        ("max_connections_per_peer", plain(max_connections_per_peer)),
        ("body_timeout", plain(body_timeout)),
        ("failed_keys", plain(failed_keys)),
        ("tls", plain(tls)),
        ("unix", plain(unix)),
    ])
}

fn admin(admin: &Admin, hasher: &TokenHasher) -> Table {
    let Admin { listen, token } = admin;
    let token = token.as_ref().map(Secret::expose).map(|token| hasher.hash(token));
    Table::from([("listen", plain(listen)), ("token", Fact::Secret(token))])
}

fn cache(cache: &Cache, tables: &mut BTreeMap<String, Table>) {
    let Cache { max_bytes, max_page_bytes, lifetimes } = cache;
    let Lifetimes { syncing, settled, min, negative, while_revalidate, if_error } = lifetimes;
    let sizes = [("max_bytes", plain(max_bytes)), ("max_page_bytes", plain(max_page_bytes))];
    tables.insert("cache".into(), Table::from(sizes));
    let fresh = [("syncing", syncing), ("settled", settled), ("min", min), ("negative", negative)];
    tables.insert("cache.ttl".into(), fresh.map(|(key, value)| (key, plain(value))).into());
    let stale = [("while_revalidate", while_revalidate), ("if_error", if_error)];
    tables.insert("cache.stale".into(), stale.map(|(key, value)| (key, plain(value))).into());
}

fn webhook(webhook: &Webhook, hasher: &TokenHasher) -> Table {
    let Webhook { secrets } = webhook;
    let stand_ins: Vec<_> = secrets.iter().map(|secret| hasher.hash(secret.expose()).0).collect();
    Table::from([("secret", plain(stand_ins))])
}

fn telemetry(telemetry: &Telemetry) -> Table {
    let Telemetry { log, filter, access_log, otlp, sample } = telemetry;
    Table::from([
        ("log", plain(log)),
        ("filter", plain(filter)),
        ("access_log", plain(access_log)),
        ("otlp", plain(otlp)),
        ("sample", plain(sample)),
    ])
}

fn upstream(upstream: &Upstream, hasher: &TokenHasher, tables: &mut BTreeMap<String, Table>) {
    let Upstream { name, scheme, authority, prefix, api_key, client, budget } = upstream;
    let ClientOptions {
        ca_file,
        ca_digest,
        proxy,
        connect_timeout,
        tls_timeout,
        headers_timeout,
        progress_timeout,
        timeout,
        http2,
        retries,
        max_connection_age,
    } = client;
    let secret = |credential: &Credential| hasher.hash(&String::from_utf8_lossy(credential.expose().as_bytes()));
    let proxy = proxy.as_ref().map(|proxy| (&proxy.url, proxy.authorization.as_ref().map(secret).map(|hash| hash.0)));
    let keys = [
        ("base_url", plain((scheme, authority, prefix))),
        ("api_key", Fact::Secret(Some(secret(api_key)))),
        ("ca_file", plain((ca_file, ca_digest))),
        ("proxy", plain(proxy)),
        ("connect_timeout", plain(connect_timeout)),
        ("timeout", plain(timeout)),
        ("http2", plain(http2)),
        ("retries", plain(retries)),
        ("tls_timeout", plain(tls_timeout)),
        ("headers_timeout", plain(headers_timeout)),
        ("progress_timeout", plain(progress_timeout)),
        ("max_connection_age", plain(max_connection_age)),
    ];
    tables.insert(format!("upstreams.{name}"), Table::from(keys));
    let BudgetRules { per_account, concurrency, errors, max_wait, max_waiting, breaker, dry_run } = budget;
    let keys = [
        ("per_account", plain(per_account)),
        ("concurrency", plain(concurrency)),
        ("errors", plain(errors)),
        ("max_wait", plain(max_wait)),
        ("max_waiting", plain(max_waiting)),
        ("breaker", plain(breaker)),
        ("dry_run", plain(dry_run)),
    ];
    tables.insert(format!("upstreams.{name}.budget"), Table::from(keys));
}

fn account(account: &Account) -> Table {
    // The hash stands for the token.
    let Account { name: _, hash, token: _, upstream, per_account, linked_account_id } = account;
    Table::from([
        ("token", Fact::Secret(Some(*hash))),
        ("upstream", plain(&upstream.name)),
        ("per_account", plain(per_account)),
        ("linked_account_id", plain(linked_account_id)),
    ])
}

fn consumer(consumer: &Consumer) -> Table {
    let Consumer {
        name: _,
        keys,
        unix_uids,
        client_certs,
        disabled,
        accounts,
        raw_tokens,
        default_account,
        quota,
        forced_refreshes,
        resync,
        max_in_flight_misses,
        max_followers,
        weight,
    } = consumer;
    Table::from([
        ("key_sha256", plain(keys)),
        ("unix_uid", plain(unix_uids)),
        ("client_cert", plain(client_certs)),
        ("disabled", plain(disabled)),
        ("accounts", plain(accounts)),
        ("raw_tokens", plain(raw_tokens)),
        ("default_account", plain(default_account)),
        ("quota", plain(quota)),
        ("forced_refreshes", plain(forced_refreshes)),
        ("resync", plain(resync)),
        ("max_in_flight_misses", plain(max_in_flight_misses)),
        ("max_followers", plain(max_followers)),
        ("weight", plain(weight)),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::sample::{HASH, config};
    use super::*;

    const ACME: &str = "[[accounts]]\nname = 'acme'\ntoken = { env = 'TOKEN' }\n";

    #[test]
    fn the_same_file_differs_in_nothing() {
        assert_eq!(between(&config(ACME), &config(ACME)), [""; 0]);
    }

    #[test]
    fn what_differs_is_named_and_what_is_secret_is_not_shown() {
        let team = format!("[[consumers]]\nname = 'team'\nkey_sha256 = '{HASH}'\naccounts = ['acme']\n");
        let old = format!("{ACME}{team}");
        let rotated = old.replace("TOKEN", "OTHER");
        for (new, told) in [
            (format!("[server]\ndrain = '1s'\n{old}"), "server.drain"),
            (format!("[admin]\ntoken = {{ env = 'OTHER' }}\n{old}"), "admin.token"),
            (format!("[cache.ttl]\nnegative = '1s'\n{old}"), "cache.ttl.negative"),
            (format!("[cache.stale]\nif_error = '1s'\n{old}"), "cache.stale.if_error"),
            (format!("[telemetry]\nfilter = 'debug'\n{old}"), "telemetry.filter"),
            (format!("[webhook]\nsecret = {{ env = 'OTHER' }}\n{old}"), "webhook (new)"),
            (format!("{old}disabled = true\n"), "consumers.team.disabled"),
            (format!("{old}quota = '1/min'\n"), "consumers.team.quota"),
            (format!("{old}[[routes]]\npath = '/a'\ncache = 'off'\n"), "routes"),
            (format!("{old}[upstreams.us.budget]\nconcurrency = 1\n"), "upstreams.us.budget.concurrency"),
            (rotated, "accounts.acme.token"),
            (ACME.to_owned(), "consumers.team (gone)"),
            (format!("{old}{}", ACME.replace("acme", "new").replace("TOKEN", "OTHER")), "accounts.new (new)"),
        ] {
            assert_eq!(between(&config(&old), &config(&new)), [told]);
        }
        let other = format!("{old}[upstreams.eu]\nbase_url = 'https://eu'\napi_key = 'canary'\n");
        let other = other.replace("accounts = ['acme']\n", "").replace("TOKEN' }\n", "TOKEN' }\nupstream = 'us'\n");
        assert_eq!(
            between(&config(&old), &config(&other)),
            ["upstreams", "consumers.team.accounts", "upstreams.eu (new)", "upstreams.eu.budget (new)"]
        );
    }
}
