//! Upstreams: where requests can go, with which key, and how many of them.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use toml::Spanned;

use super::findings::Findings;
use super::forward_proxy::of_environment;
use super::item::{Item, Place};
use super::merge_limits;
use super::schema::{self, File};
use super::source::closest;
use super::tls;
use super::words::parse_name;
use crate::domain::access::{Credential, Name, Upstream};
use crate::domain::rules::{BudgetRules, ClientOptions};

/// The upstreams that are sound, in the order of the file; `variables` are those of the environment that name a forward proxy, by the
/// upstream that is reached through it.
pub(super) fn upstreams(
    file: &File,
    variables: &mut BTreeMap<Name, &'static str>,
    findings: &mut Findings<'_>,
) -> Vec<Arc<Upstream>> {
    let mut written: Vec<_> = file.upstreams.iter().collect();
    // Serde hands a table over in the order of its keys, and the first of the file has a meaning.
    written.sort_by_key(|(name, _)| name.span().start);
    if written.is_empty() && !findings.lost("upstreams") {
        let advice =
            "add [upstreams.us] with base_url = \"https://api.merge.dev\" and api_key = { env = \"MERGE_API_KEY\" }";
        findings.missing_table("upstreams", advice);
    }
    let upstreams = written.into_iter().filter_map(|(name, table)| upstream(name, table, variables, findings));
    upstreams.map(Arc::new).collect()
}

fn upstream(
    name: &Spanned<String>,
    table: &schema::Upstream,
    variables: &mut BTreeMap<Name, &'static str>,
    findings: &mut Findings<'_>,
) -> Option<Upstream> {
    let place = name.span();
    let name = parse_name(name.get_ref()).map_err(|message| findings.fault(&place, message)).ok();
    if table.base_url.is_none() {
        findings.missing(&place, "base_url", "\"https://api.merge.dev\", or the host of Merge's EU or AP region");
    }
    if let Some(exposed) = table.base_url.as_ref().filter(|url| url.is_exposed()) {
        findings.warn(exposed.place(), "the API key and all tokens will cross the network unencrypted; use https://");
    }
    let api_key = api_key(table, &place, findings);
    if let Some(proxy) = table.proxy.as_ref().filter(|proxy| proxy.authorization.is_some()) {
        findings.warn(proxy.place(), "a password stands in the file; HTTPS_PROXY in the environment can hold it");
    }
    let named = match (&table.proxy, table.base_url.as_deref()) {
        (None, Some(url)) => of_environment(url, findings.env()),
        _ => Ok(None),
    };
    let (proxy, variable) = named
        .unwrap_or_else(|message| {
            findings.instead(&place, "proxy", format!("is not given, and {message}"));
            None
        })
        .unzip();
    let (ca_file, ca_digest) = table.ca_file.as_ref().and_then(|path| ca_file(path, findings)).unzip();
    let client = ClientOptions {
        ca_file,
        ca_digest,
        proxy: table.proxy.as_deref().cloned().or(proxy),
        connect_timeout: findings.positive(&table.connect_timeout),
        tls_timeout: findings.positive(&table.tls_timeout),
        headers_timeout: findings.positive(&table.headers_timeout),
        progress_timeout: findings.positive(&table.progress_timeout),
        timeout: findings.positive(&table.timeout),
        http2: *table.http2,
        retries: table.retries.0,
        max_connection_age: findings.positive(&table.max_connection_age),
    };
    let budget = budget(table, findings);
    let (name, api_key, url) = (name?, api_key?, table.base_url.as_deref()?.clone());
    variables.extend(variable.map(|variable| (name.clone(), variable)));
    Some(Upstream { name, scheme: url.scheme, authority: url.authority, prefix: url.prefix, api_key, client, budget })
}

fn api_key(table: &schema::Upstream, place: &Place, findings: &mut Findings<'_>) -> Option<Credential> {
    let Some(source) = &table.api_key else {
        findings.missing(place, "api_key", "{ env = \"MERGE_API_KEY\" } or { file = \"…\" }");
        return None;
    };
    let secret = findings.secret(source)?;
    let fits = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    let credential = Credential::in_scheme("Bearer", secret.expose()).filter(|_| fits);
    if credential.is_none() {
        findings.fault_unquoted(source.place(), format!("the key ({}) must be visible ASCII without blanks", **source));
    }
    credential
}

fn budget(table: &schema::Upstream, findings: &mut Findings<'_>) -> BudgetRules {
    let budget = &table.budget;
    if let Some(url) = table.base_url.as_deref() {
        merge_limits::per_account(&budget.per_account, &url.authority, findings);
        merge_limits::errors(&budget.errors, &url.authority, findings);
    }
    BudgetRules {
        per_account: *budget.per_account,
        concurrency: budget.concurrency.map(|calls| calls.0),
        errors: *budget.errors,
        max_wait: *budget.max_wait,
        max_waiting: budget.max_waiting.0,
        breaker: budget.breaker.and_then(|failures| NonZeroU32::new(failures.0)),
        dry_run: *budget.dry_run,
    }
}

/// The path of a file with certificates, from the folder of the configuration file, and what stands for its content.
fn ca_file(path: &Item<PathBuf>, findings: &mut Findings<'_>) -> Option<(PathBuf, [u8; 32])> {
    let full = findings.file(path);
    let read = fs::read(&full).map_err(|error| format!("cannot be read: {error}"));
    // Held to what a start needs, so that what passes here does not fail there.
    match read.and_then(|text| tls::authorities(&text).map(|_| Sha256::digest(&text).into())) {
        Ok(digest) => Some((full, digest)),
        Err(message) => {
            findings.fault(path.place(), message);
            None
        }
    }
}

/// Says that there is no upstream `name`, unless there is.
pub(super) fn expect_upstream(name: &Item<Arc<str>>, file: &File, findings: &mut Findings<'_>) {
    if file.upstreams.contains_key(&***name) || findings.lost("upstreams") {
        return;
    }
    let known = || file.upstreams.keys().map(|key| key.get_ref().as_str());
    let advice = match closest(name, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    };
    findings.fault(name.place(), format!("no such upstream, {advice}"));
}

#[cfg(test)]
mod tests {
    use super::super::sample::{config, faults_of, parse};

    #[test]
    fn upstreams_keep_the_order_of_the_file_and_the_first_is_the_default() {
        let us = "[upstreams.us]\nbase_url = 'https://us.host/merge/api/'\napi_key = { env = 'MERGE_API_KEY' }\n";
        let eu = "[upstreams.eu]\nbase_url = 'https://eu.host'\napi_key = { env = 'OTHER' }\n";
        let config = parse(&format!("{us}{eu}")).expect("sound");
        let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
        assert_eq!((names, &*config.default_upstream.name), (vec!["us", "eu"], "us"));
        let upstream = &config.upstreams[0];
        assert_eq!((upstream.authority.as_str(), &*upstream.prefix), ("us.host", "/merge"));
        assert_eq!(upstream.api_key.expose(), "Bearer canary-key");
    }

    #[test]
    fn a_budget_alone_still_needs_its_upstream() {
        let told = faults_of("[upstreams.us.budget]\nconcurrency = 0");
        assert!(told.contains("proxy.toml:1:12  upstreams.us.api_key: is missing: "), "{told}");
        let allowed = "must be a whole number from 1 to 4294967295; or \"unlimited\"";
        assert!(told.ends_with(&format!("2:15  upstreams.us.budget.concurrency  0: {allowed}")), "{told}");
        let told = faults_of("[upstreams.us.budget]\nbreaker = '5'");
        assert!(
            told.ends_with(&format!("2:11  upstreams.us.budget.breaker  '5': leave the quotes out: {allowed}")),
            "{told}"
        );
    }

    #[test]
    fn a_bad_upstream_is_told_what_is_allowed() {
        let base = "[upstreams.us]\nbase_url = 'https://host'\napi_key = { env = 'MERGE_API_KEY' }\n";
        for (line, told) in [
            ("timeout = '0s'", "4:11  upstreams.us.timeout  '0s': must be longer than zero"),
            ("retries = 11", "4:11  upstreams.us.retries  11: must be a whole number from 0 to 10"),
            (
                "ca_file = 'no/such/file'",
                "4:11  upstreams.us.ca_file  'no/such/file': cannot be read: No such file or directory (os error 2)",
            ),
            ("ca_file = 'Cargo.toml'", "4:11  upstreams.us.ca_file  'Cargo.toml': holds no certificate in PEM form"),
        ] {
            assert_eq!(faults_of(&format!("{base}{line}")), format!("proxy.toml:{told}"));
        }
        let broken = "[upstreams.us]\nbase_url = 'https://host'\napi_key = { env = 'BROKEN' }";
        assert_eq!(
            faults_of(broken),
            "proxy.toml:3:11  upstreams.us.api_key: the key (env BROKEN) must be visible ASCII without blanks"
        );
        let name = "[upstreams.'a b']\nbase_url = 'https://host'\napi_key = { env = 'OTHER' }";
        let told = "proxy.toml:1:12  upstreams.a b: must be 1 to 64 letters, digits, dots, dashes or underscores";
        assert_eq!(faults_of(name), told);
    }

    #[test]
    fn certificates_that_cannot_be_trusted_are_told_with_their_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let sound = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).expect("a certificate").cert.pem();
        let text = format!(
            "[upstreams.us]\nbase_url = 'https://host'\napi_key = {{ env = 'MERGE_API_KEY' }}\nca_file = '{}'\n",
            file.display()
        );
        for (content, told) in [
            (pem("AAAA"), "holds an authority that cannot be used: "),
            (format!("{sound}{}", pem("AAAA")), "holds an authority that cannot be used: "),
            (pem("no base64!"), "is broken: "),
            (format!("{sound}-----BEGIN CERTIFICATE-----\nAAAA\n"), "is broken: "),
            (pem("AAAA").replace("CERTIFICATE", "PUBLIC KEY"), "holds no certificate in PEM form"),
        ] {
            std::fs::write(&file, &content).expect("written");
            let fault = faults_of(&text);
            let expected = format!("proxy.toml:4:11  upstreams.us.ca_file  '{}': {told}", file.display());
            assert!(fault.starts_with(&expected), "{fault}\n{content}");
        }
        std::fs::write(&file, sound.repeat(2)).expect("written");
        assert!(parse(&text).expect("sound").upstreams[0].client.ca_digest.is_some());
    }

    #[test]
    fn what_is_not_wise_is_a_warning() {
        let plain =
            "[upstreams.us]\nbase_url = 'http://merge.internal'\napi_key = 'canary'\nproxy = 'http://u:canary@proxy'";
        let warnings: Vec<String> = parse(plain).expect("sound").warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "proxy.toml:2:12  upstreams.us.base_url: the API key and all tokens will cross the network unencrypted; use https://",
                "proxy.toml:3:11  upstreams.us.api_key: a secret stands in the file; use { env } or { file }",
                "proxy.toml:4:9  upstreams.us.proxy: a password stands in the file; HTTPS_PROXY in the environment can hold it",
            ]
        );
        assert_eq!(config("").warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    }
}
