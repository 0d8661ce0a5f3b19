//! Accounts: every name and every token means one of them only.

use std::collections::HashSet;
use std::sync::Arc;

use super::findings::Findings;
use super::item::Place;
use super::merge_limits;
use super::schema::{self, File};
use super::upstreams::expect_upstream;
use crate::domain::access::{Account, AccountHash, Credential, Upstream, can_be_account_token};
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
        let name = findings.name(place, table.name.as_ref(), &mut names);
        let upstream = account_upstream(place, table, file, upstreams, findings);
        let token = token(place, table, hasher, findings);
        if let (Some(rate), Some(upstream)) = (&table.per_account, &upstream) {
            merge_limits::per_account(rate, &upstream.authority, findings);
        }
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
    let credential = Credential::new(text).filter(|_| can_be_account_token(text.as_bytes()));
    if credential.is_none() {
        let allowed = "must be 1 to 512 visible ASCII characters without comma or blank";
        findings.fault(source.place(), format!("the token ({}) {allowed}", **source));
    }
    Some((hasher.hash(text), credential?))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{config, expect_faults, faults_of, parse};
    use super::*;

    const ACME: &str = "[[accounts]]\nname = 'acme'\ntoken = { env = 'TOKEN' }\n";

    #[test]
    fn an_account_knows_its_upstream_and_its_token() {
        let config = config(
            "[[accounts]]\nname = 'acme'\ntoken = { env = 'TOKEN' }\nper_account = 'unlimited'\nlinked_account_id = 'x'",
        );
        let account = &config.accounts[0];
        assert_eq!((account.label(), &*account.upstream.name, account.per_account), ("acme", "us", Some(None)));
        assert_eq!(account.hash, TokenHasher::from_key([7; 32]).hash("canary-token"));
        assert_eq!(account.token.expose(), "canary-token");
    }

    #[test]
    fn a_bad_account_is_told_what_is_allowed() {
        let told = "1 to 64 letters, digits, dots, dashes or underscores";
        expect_faults(&[
            ("[[accounts]]\ntoken = { env = 'TOKEN' }", &format!("1:1  accounts[0].name: is missing: {told}")),
            ("[[accounts]]\nname = 'a'", "1:1  accounts[0].token: is missing: { env = \"…\" } or { file = \"…\" }"),
            (
                &format!("{ACME}upstream = 'uss'"),
                "4:12  accounts[0].upstream  'uss': no such upstream, did you mean `us`?",
            ),
            (
                "[[accounts]]\nname = 'a'\ntoken = { env = 'BROKEN' }",
                "3:9  accounts[0].token: the token (env BROKEN) must be 1 to 512 visible ASCII characters without comma or blank",
            ),
            (
                &format!("{ACME}[[accounts]]\nname = 'acme'\ntoken = {{ env = 'OTHER' }}"),
                "5:8  accounts[1].name  'acme': this name is given twice",
            ),
            (
                &format!("{ACME}[[accounts]]\nname = 'twin'\ntoken = {{ env = 'TOKEN' }}"),
                "6:9  accounts[1].token: another account of the same upstream has this token",
            ),
            (
                &format!("{ACME}[[accounts]]\nname = 'canary-token'\ntoken = {{ env = 'OTHER' }}"),
                "5:8  accounts[1].name: is the token of an account; a name must not be one",
            ),
        ]);
    }

    #[test]
    fn with_several_upstreams_an_account_names_its_own() {
        let upstreams = "[upstreams.us]\nbase_url = 'https://us'\napi_key = { env = 'OTHER' }\n\
                         [upstreams.eu]\nbase_url = 'https://eu'\napi_key = { env = 'OTHER' }\n";
        assert_eq!(
            faults_of(&format!("{ACME}{upstreams}")),
            "proxy.toml:1:1  accounts[0].upstream: is missing: there are several, so name one of eu, us"
        );
        let twin = "[[accounts]]\nname = 'twin'\ntoken = { env = 'TOKEN' }\nupstream = 'eu'\n";
        let config = parse(&format!("{ACME}upstream = 'us'\n{twin}{upstreams}")).expect("one token, two upstreams");
        assert_eq!(&*config.accounts[1].upstream.name, "eu");
    }
}
