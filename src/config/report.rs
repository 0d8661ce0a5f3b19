//! What `check` prints when nothing is wrong: the configuration as it was understood, without any secret.

use std::io::{Result, Write};

use anstyle::Style;

use super::address::ListenAddress;
use super::effective::{Config, Sources};
use super::filter;
use super::secret::SecretSource;
use super::units::{duration_text, size_text};
use crate::domain::access::{Account, Consumer, Pattern, Upstream};
use crate::domain::bucket::Rate;
use crate::domain::delivery::WEBHOOK_PATH;
use crate::domain::rules::{CacheRule, RequestHeaders, Route, SocketAccess};

/// Writes `config` to `out`, with colours if `coloured`.
pub fn report(config: &Config, coloured: bool, out: &mut impl Write) -> Result<()> {
    let paint = |style: Style| if coloured { style } else { Style::new() };
    let heading = paint(Style::new().bold());
    for (title, rows) in sections(config) {
        writeln!(out, "{heading}{title}{heading:#}")?;
        write_rows(&rows, out)?;
    }
    Ok(())
}

/// The cells of one line.
type Row = Vec<String>;

fn sections(config: &Config) -> [(&'static str, Vec<Row>); 8] {
    [
        ("listeners", listeners(config)),
        ("upstreams", config.upstreams.iter().map(|upstream| upstream_row(upstream, &config.sources)).collect()),
        (
            "accounts",
            or_note(config.accounts.iter().map(|account| account_row(account, &config.sources)), "none have names"),
        ),
        (
            "consumers",
            or_note(config.consumers.iter().map(consumer_row), "none: open to everybody who can reach the listeners"),
        ),
        ("routes", config.routes.iter().map(route_row).collect()),
        ("cache", cache(config)),
        ("webhook", webhook(config)),
        ("telemetry", telemetry(config)),
    ]
}

/// The rows, or one that says why there are none.
fn or_note(rows: impl Iterator<Item = Row>, note: &str) -> Vec<Row> {
    let rows: Vec<Row> = rows.collect();
    if rows.is_empty() { vec![vec![note.into()]] } else { rows }
}

/// Writes the rows such that each column starts at the same place.
fn write_rows(rows: &[Row], out: &mut impl Write) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:width$}"));
        writeln!(out, "{}", cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

fn row<const N: usize>(cells: [&str; N]) -> Row {
    cells.map(Into::into).into()
}

fn listeners(config: &Config) -> Vec<Row> {
    let server = &config.server;
    let limits = format!("{} workers, {} connections", server.workers, server.max_connections);
    let mut rows: Vec<Row> = server.listen.iter().map(|address| listener_row(address, &limits, server.unix)).collect();
    if let Some(tls) = &server.tls {
        let clients = tls.files.client_ca.as_ref().map(|path| format!("clients known by {}", path.display()));
        let clients = clients.unwrap_or_else(|| "no certificates of clients".into());
        rows.push(row(["TLS", &tls.files.cert.display().to_string(), &clients]));
    }
    let guard = if config.admin.token.is_some() { "with a token" } else { "no token" };
    rows.push(row(["admin", &config.admin.listen.to_string(), guard]));
    rows
}

fn listener_row(address: &ListenAddress, limits: &str, unix: SocketAccess) -> Row {
    let mut row = row(["proxy", &address.to_string(), limits]);
    if let ListenAddress::Unix(_) = address {
        let group = unix.group.map_or_else(String::new, |group| format!(", group {group}"));
        row.push(format!("mode {:04o}{group}", unix.mode));
    }
    row
}

fn upstream_row(upstream: &Upstream, sources: &Sources) -> Row {
    let Upstream { name, scheme, authority, prefix, budget, client, .. } = upstream;
    let mut row = row([
        name,
        &format!("{scheme}://{authority}{prefix}"),
        &format!("key from {}", source(sources.api_keys.get(name))),
        &format!("{} per account", limit(budget.per_account)),
        &format!("{} in flight", budget.concurrency.map_or("unlimited".into(), |count| count.to_string())),
        &format!("{} errors", limit(budget.errors)),
        &format!("waits up to {}", duration_text(budget.max_wait)),
    ]);
    row.extend(client.proxy.as_ref().and_then(|proxy| proxy.url.authority()).map(|place| {
        let from =
            sources.proxies.get(name).map_or_else(|| "this file".to_owned(), |variable| format!("env {variable}"));
        format!("through {place}, from {from}")
    }));
    row.extend(client.ca_file.as_ref().map(|path| format!("trusts {} as well", path.display())));
    row
}

fn account_row(account: &Account, sources: &Sources) -> Row {
    let source = source(account.name.as_ref().and_then(|name| sources.tokens.get(name)));
    let mut row = row([account.label(), &account.upstream.name, &format!("token from {source}")]);
    row.extend(account.per_account.map(limit));
    row
}

fn consumer_row(consumer: &Consumer) -> Row {
    let keys = consumer.keys.len();
    let mut known = Vec::new();
    if keys > 0 {
        known.push(format!("{keys} {}", if keys == 1 { "key" } else { "keys" }));
    }
    known.extend(consumer.unix_uids.iter().map(|uid| format!("user {uid}")));
    known.extend(consumer.client_certs.iter().map(|name| format!("certificate {name}")));
    let mut grants: Vec<&str> = consumer.accounts.iter().map(Pattern::as_str).collect();
    if consumer.raw_tokens {
        grants.push("raw tokens");
    }
    let disabled = if consumer.disabled { ", disabled" } else { "" };
    row([
        &consumer.name,
        &format!("{}{disabled}", known.join(", ")),
        &format!("may ask for {}", if grants.is_empty() { "nothing".into() } else { grants.join(", ") }),
        &format!("quota {}", limit(consumer.quota)),
    ])
}

fn route_row(route: &Route) -> Row {
    let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
    let cache = match route.cache {
        CacheRule::SyncStatus => "sync-status".into(),
        CacheRule::Http => "http".into(),
        CacheRule::Off => "off".into(),
        CacheRule::Fixed(lifetime) => duration_text(lifetime),
    };
    let mut row = row([&methods.join(" "), &route.path, &format!("cache {cache}")]);
    row.extend(route.upstream.as_ref().map(|name| format!("upstream {name}")));
    row.extend(route.upstream_path.as_ref().map(|path| format!("as {path}")));
    row.extend(match &route.request_headers {
        RequestHeaders::None => None,
        RequestHeaders::These(names) => Some(format!("{} request headers", names.len())),
        RequestHeaders::All => Some("all request headers".into()),
    });
    row
}

fn cache(config: &Config) -> Vec<Row> {
    let lifetimes = &config.cache.lifetimes;
    let fresh = format!(
        "{} while syncing, {} once settled, {} at least, {} for refusals",
        duration_text(lifetimes.syncing),
        duration_text(lifetimes.settled),
        duration_text(lifetimes.min),
        duration_text(lifetimes.negative),
    );
    let stale = format!(
        "{} while it is fetched anew, {} when the upstream fails",
        duration_text(lifetimes.while_revalidate),
        duration_text(lifetimes.if_error),
    );
    let page = size_text(config.cache.max_page_bytes as u64);
    let size = format!("{}, pages up to {page}", size_text(config.cache.max_bytes));
    vec![row(["size", &size]), row(["fresh", &fresh]), row(["stale", &stale])]
}

fn webhook(config: &Config) -> Vec<Row> {
    let linked = config.accounts.iter().filter(|account| account.linked_account_id.is_some()).count();
    let accounts = format!("for {linked} of {} accounts", config.accounts.len());
    let keys = config.sources.webhook.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let on = config.webhook.iter().map(|_| row(["POST", WEBHOOK_PATH, &format!("key from {keys}"), &accounts]));
    or_note(on, "off")
}

fn telemetry(config: &Config) -> Vec<Row> {
    let log =
        config.telemetry.log.map_or("pretty on a terminal, else json".into(), |log| format!("{log:?}").to_lowercase());
    let is_logged = config.telemetry.access_log && filter::passes_requests(&config.telemetry.filter);
    let access = if is_logged { "a line per request" } else { "no line per request" };
    let mut rows = vec![row(["log", &log, &format!("filter {}", config.telemetry.filter), access])];
    rows.extend(config.telemetry.otlp.as_ref().map(|collector| {
        row(["traces", &collector.to_string(), &format!("{} of the requests", config.telemetry.sample)])
    }));
    rows
}

fn limit(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "unlimited".into(), |rate| rate.to_string())
}

fn source(source: Option<&SecretSource>) -> String {
    source.map_or_else(|| "nowhere".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::sample::{HASH, config};
    use super::*;
    use crate::domain::key::TokenHasher;

    fn text(config: &Config, coloured: bool) -> String {
        let mut out = Vec::new();
        report(config, coloured, &mut out).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_report_shows_what_was_understood_and_no_secret() {
        let config = config(&format!(
            "[server]\nworkers = 2\nlisten = ['127.0.0.1:8080', 'unix:/run/proxy.sock']\n\
             [admin]\ntoken = {{ env = 'OTHER' }}\n\
             [[accounts]]\nname = 'acme'\ntoken = {{ env = 'TOKEN' }}\nper_account = '400/min'\nlinked_account_id = 'x'\n\
             [[accounts]]\nname = 'globex'\ntoken = 'canary-plain'\n\
             [[consumers]]\nname = 'one'\nkey_sha256 = '{HASH}'\naccounts = ['acme', 'glob*']\nquota = '600/min'\n\
             [[consumers]]\nname = 'another'\nkey_sha256 = ['{zeros}', '{ones}']\nraw_tokens = true\n\
             [webhook]\nsecret = [{{ env = 'OTHER' }}, {{ env = 'TOKEN' }}]\n",
            zeros = "0".repeat(64),
            ones = "1".repeat(64),
        ));
        let told = "\
listeners
  proxy  127.0.0.1:8080        2 workers, 10000 connections
  proxy  unix:/run/proxy.sock  2 workers, 10000 connections  mode 0600
  admin  127.0.0.1:8081        with a token
upstreams
  us  https://api.merge.dev  key from env MERGE_API_KEY  100/min per account  32 in flight  10/10s errors  waits up to 1s
accounts
  acme    us  token from env TOKEN                  400/min
  globex  us  token from this file, in plain sight
consumers
  one      1 key   may ask for acme, glob*  quota 600/min
  another  2 keys  may ask for raw tokens   quota unlimited
routes
  GET  /api/{category}/v1/sync-status  cache sync-status
cache
  size   256MiB, pages up to 4MiB
  fresh  5s while syncing, 1min once settled, 2s at least, 5s for refusals
  stale  30s while it is fetched anew, 1h when the upstream fails
webhook
  POST  /webhooks/merge  key from env OTHER, env TOKEN  for 1 of 2 accounts
telemetry
  log  pretty on a terminal, else json  filter info  a line per request
";
        assert_eq!(text(&config, false), told);
        assert!(!text(&config, true).contains("canary"));
    }

    #[test]
    fn the_way_to_an_upstream_is_shown_without_its_password() {
        let ca = tempfile::NamedTempFile::new().expect("a file");
        let pem = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).expect("a certificate").cert.pem();
        std::fs::write(&ca, pem).expect("written");
        let file = format!(
            "[upstreams.us]\nbase_url = 'https://us'\napi_key = {{ env = 'KEY' }}\n\
             [upstreams.eu]\nbase_url = 'https://eu'\napi_key = {{ env = 'KEY' }}\n\
             proxy = 'http://me:canary@own:3128'\nca_file = '{path}'\n\
             [upstreams.ap]\nbase_url = 'https://ap'\napi_key = {{ env = 'KEY' }}\n",
            path = ca.path().display(),
        );
        let env = |name: &str| match name {
            "KEY" => Some("canary-key".into()),
            "HTTPS_PROXY" => Some("http://me:canary@proxy:3128".into()),
            "NO_PROXY" => Some("ap".into()),
            _ => None,
        };
        let config = Config::parse(&file, Path::new("proxy.toml"), &env, &TokenHasher::new()).expect("sound");
        let told = text(&config, false);
        let line = |upstream: &str| told.lines().find(|line| line.contains(upstream)).expect("a line").trim_end();
        assert!(line("https://us").ends_with("waits up to 1s  through proxy:3128, from env HTTPS_PROXY"), "{told}");
        let trusted = format!("  trusts {} as well", ca.path().display());
        let own = line("https://eu").strip_suffix(&*trusted).expect(&told);
        assert!(own.trim_end().ends_with("waits up to 1s  through own:3128, from this file"), "{told}");
        assert!(line("https://ap").ends_with("waits up to 1s"), "{told}");
        assert!(!told.contains("canary"), "{told}");
        assert!(config.secrets().iter().any(|secret| secret.as_str() == "canary"), "nor does the log tell it");
    }

    #[test]
    fn the_open_mode_and_missing_names_are_said() {
        let told = text(&config(""), false);
        assert!(told.contains("accounts\n  none have names"), "{told}");
        assert!(told.contains("consumers\n  none: open to everybody who can reach the listeners"), "{told}");
        assert!(text(&config(""), true).contains("\u{1b}[1mlisteners\u{1b}[0m"));
    }
}
