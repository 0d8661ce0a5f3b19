//! Accounts and consumers: who may ask for what. Every name, key and token in them means one thing only.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::findings::Findings;
use super::item::{Item, Place};
use super::schema::{self, File};
use super::source::closest;
use super::upstreams::expect_upstream;
use crate::domain::access::{Account, AccountHash, Consumer, Credential, KeyHash, Name, Upstream};
use crate::domain::key::TokenHasher;

/// The accounts that are sound.
pub(super) fn accounts(
    file: &File,
    upstreams: &[Arc<Upstream>],
    hasher: &TokenHasher,
    findings: &mut Findings<'_>,
) -> Vec<Arc<Account>> {
    let mut accounts = Vec::new();
    let mut names = HashSet::new();
    let mut tokens = HashSet::new();
    let mut owned = HashSet::new();
    for table in &file.accounts {
        let place = table.place();
        let name = named(place, table.name.as_ref(), &mut names, findings);
        let upstream = account_upstream(place, table, file, upstreams, findings);
        let token = token(place, table, hasher, findings);
        tokens.extend(token.as_ref().map(|&(hash, _)| hash));
        let (Some(upstream), Some((hash, token))) = (upstream, token) else { continue };
        if let Some(source) = table.token.as_ref().filter(|_| !owned.insert((Arc::clone(&upstream.name), hash))) {
            findings.fault_unquoted(source.place(), "another account of the same upstream has this token");
        }
        accounts.extend(name.map(|name| {
            let per_account = table.per_account.as_deref().copied();
            let linked_account_id = table.linked_account_id.as_ref().map(|id| id.as_str().into());
            Arc::new(Account { name: Some(name), hash, token, upstream, per_account, linked_account_id })
        }));
    }
    // Otherwise a request with that text could mean either account, and every log would show a token.
    for name in file.accounts.iter().filter_map(|table| table.name.as_ref()) {
        if tokens.contains(&hasher.hash(name)) {
            findings.fault_unquoted(name.place(), "is the token of an account; a name must not be one");
        }
    }
    accounts
}

/// The name of the table at `place`, which no other of its kind may have.
fn named(
    place: &Place,
    name: Option<&Item<Name>>,
    names: &mut HashSet<Name>,
    findings: &mut Findings<'_>,
) -> Option<Name> {
    match name {
        None => findings.missing(place, "name", "1 to 64 letters, digits, dots, dashes or underscores"),
        Some(name) if !names.insert(Name::clone(name)) => findings.fault(name.place(), "this name is given twice"),
        Some(name) => return Some(Name::clone(name)),
    }
    None
}

/// The upstream that the account names, or the only one.
fn account_upstream(
    place: &Place,
    table: &schema::Account,
    file: &File,
    upstreams: &[Arc<Upstream>],
    findings: &mut Findings<'_>,
) -> Option<Arc<Upstream>> {
    let mut names = file.upstreams.keys().map(|name| name.get_ref().as_str());
    match (&table.upstream, names.next(), names.next()) {
        (Some(name), ..) => {
            expect_upstream(name, file, findings);
            upstreams.iter().find(|upstream| upstream.name == **name).cloned()
        }
        (None, Some(first), Some(second)) => {
            let all: Vec<&str> = [first, second].into_iter().chain(names).collect();
            findings.missing(place, "upstream", &format!("there are several, so name one of {}", all.join(", ")));
            None
        }
        (None, ..) => upstreams.first().cloned(),
    }
}

/// The account's token: what stands for it, and what is sent.
fn token(
    place: &Place,
    table: &schema::Account,
    hasher: &TokenHasher,
    findings: &mut Findings<'_>,
) -> Option<(AccountHash, Credential)> {
    let Some(source) = &table.token else {
        findings.missing(place, "token", "{ env = \"…\" } or { file = \"…\" }");
        return None;
    };
    let secret = findings.secret(source)?;
    let text = secret.expose();
    let fits = text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    let credential = Credential::new(text).filter(|_| fits);
    if credential.is_none() {
        let allowed = "must be 1 to 512 visible ASCII characters without comma or blank";
        findings.fault(source.place(), format!("the token ({}) {allowed}", **source));
    }
    Some((hasher.hash(text), credential?))
}

/// The consumers that are sound; none if the proxy is open to everybody who can reach it.
pub(super) fn consumers(file: &File, findings: &mut Findings<'_>) -> Vec<Consumer> {
    if file.consumers.is_empty() && !findings.touch("consumers") {
        for exposed in file.server.listen.iter().filter(|address| !address.is_local()) {
            let message = "others can reach this address: add a [[consumers]] entry, or listen on 127.0.0.1";
            findings.fault(exposed.place(), message);
        }
    }
    let mut names = HashSet::new();
    let mut keys = HashSet::new();
    let tables = file.consumers.iter().filter_map(|table| {
        let place = table.place();
        let name = named(place, table.name.as_ref(), &mut names, findings);
        let keys = consumer_keys(place, table, &mut keys, findings);
        grants(place, table, file, findings);
        let max_in_flight_misses = findings.within(&table.max_in_flight_misses, 1..=100_000);
        let weight = findings.within(&table.weight, 1..=1_000);
        Some(Consumer {
            name: name?,
            keys,
            accounts: table.accounts.iter().map(|pattern| (**pattern).clone()).collect(),
            raw_tokens: *table.raw_tokens,
            default_account: table.default_account.as_deref().cloned(),
            quota: *table.quota,
            forced_refreshes: *table.forced_refreshes,
            resync: *table.resync,
            max_in_flight_misses,
            weight,
        })
    });
    tables.collect()
}

fn consumer_keys(
    place: &Place,
    table: &schema::Consumer,
    known: &mut HashSet<[u8; 32]>,
    findings: &mut Findings<'_>,
) -> Vec<KeyHash> {
    let keys = table.key_sha256.as_deref().unwrap_or_default();
    if keys.is_empty() {
        findings.missing(place, "key_sha256", "`merge-sync-proxy key new NAME` makes a key and prints its hash");
    }
    for key in keys {
        if !known.insert(key.sha256) {
            findings.fault(key.place(), "this key is given twice");
        }
        if key.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            findings.warn(key.place(), "this key has expired");
        }
    }
    keys.iter().map(|key| (**key).clone()).collect()
}

/// Checks what a consumer may ask for against the accounts that there are.
fn grants(place: &Place, table: &schema::Consumer, file: &File, findings: &mut Findings<'_>) {
    let place = table.name.as_ref().map_or(place, Item::place);
    if table.accounts.is_empty() && !*table.raw_tokens && !findings.touch("consumers") {
        findings.warn(place, "may ask for no account; grant some with accounts, or set raw_tokens = true");
    }
    // A name or a grant that was cut out as faulty would make its users look wrong as well.
    if findings.touch("accounts") || findings.touch("consumers") {
        return;
    }
    let names = || file.accounts.iter().filter_map(|account| account.name.as_deref()).map(|name| &**name);
    for pattern in table.accounts.iter().filter(|pattern| pattern.as_str() != "*") {
        if !names().any(|name| pattern.matches(name)) {
            let near =
                closest(pattern.as_str(), names()).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
            findings.warn(pattern.place(), format!("no account has such a name{near}"));
        }
    }
    let Some(default) = &table.default_account else { return };
    if !names().any(|name| name == &***default) {
        let near = closest(default, names()).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        findings.fault(default.place(), format!("there is no account of this name{near}"));
    } else if !table.accounts.iter().any(|pattern| pattern.matches(default)) {
        findings.fault(default.place(), "is not granted to this consumer by its accounts");
    }
}
