//! `[webhook]`: whether Merge may say when a sync ends, and how it proves that it is Merge.

use std::sync::Arc;

use super::effective::Webhook;
use super::findings::Findings;
use super::schema::File;
use crate::domain::access::Account;
use crate::domain::delivery::WEBHOOK_PATH;
use crate::domain::rules::API_PREFIX;

/// So many keys at most: each is tried for each webhook.
const MOST_SECRETS: usize = 8;

/// The keys, if there is a webhook at all.
pub(super) fn webhook(file: &File, accounts: &[Arc<Account>], findings: &mut Findings<'_>) -> Option<Webhook> {
    let table = file.webhook.as_ref()?;
    let Some(written) = &table.secret else {
        findings.missing(table.place(), "secret", "{ env = \"…\" } or { file = \"…\" }, the key that Merge signs with");
        return None;
    };
    if written.is_empty() {
        findings.fault(written.place(), "must name at least one key");
    } else if written.len() > MOST_SECRETS {
        findings.fault_unquoted(written.place(), format!("must name at most {MOST_SECRETS} keys"));
    }
    for route in file.routes.iter().flatten() {
        let Some(path) = &route.path else { continue };
        if *path.0 == *WEBHOOK_PATH || path.0.strip_prefix(API_PREFIX) == Some(WEBHOOK_PATH) {
            findings.fault(path.place(), "is where Merge's webhooks come in");
        }
    }
    let secrets = written.iter().filter_map(|source| findings.secret(source)).collect();
    if accounts.iter().all(|account| account.linked_account_id.is_none()) && !findings.touch("accounts") {
        findings.warn(table.place(), "is of no use: no account has a linked_account_id, by which webhooks name it");
    }
    Some(Webhook { secrets })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{config, expect_faults, warnings};
    use super::super::secret::Secret;

    const ACME: &str = "[[accounts]]\nname = 'acme'\ntoken = { env = 'TOKEN' }\nlinked_account_id = 'x'\n";

    #[test]
    fn one_key_is_enough_and_several_may_be_tried() {
        assert!(config("").webhook.is_none());
        for (secret, keys) in [
            ("{ env = 'OTHER' }", &["canary-other"][..]),
            ("[{ env = 'OTHER' }, { env = 'TOKEN' }]", &["canary-other", "canary-token"]),
        ] {
            let config = config(&format!("{ACME}[webhook]\nsecret = {secret}\n"));
            let webhook = config.webhook.as_ref().expect("it is on");
            assert_eq!(webhook.secrets.iter().map(Secret::expose).collect::<Vec<_>>(), keys);
            assert_eq!(config.sources.webhook.len(), keys.len());
            assert_eq!(config.warnings, []);
            assert!(!format!("{config:?}").contains("canary"));
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        let route =
            |path: &str| format!("[webhook]\nsecret = {{ env = 'TOKEN' }}\n[[routes]]\npath = '{path}'\ncache = 'off'");
        let many = format!("[webhook]\nsecret = [{}]", "{ env = 'TOKEN' }, ".repeat(9));
        expect_faults(&[
            (
                "[webhook]",
                "1:1  webhook.secret: is missing: { env = \"…\" } or { file = \"…\" }, the key that Merge signs with",
            ),
            ("[webhook]\nsecret = []", "2:10  webhook.secret: must name at least one key"),
            ("[webhook]\nsecret = { env = 'NONE' }", "2:10  webhook.secret: environment variable NONE is not set"),
            (&many, "2:10  webhook.secret: must name at most 8 keys"),
            (&route("/webhooks/merge"), "4:8  routes[0].path  '/webhooks/merge': is where Merge's webhooks come in"),
            (
                &route("/api/webhooks/merge"),
                "4:8  routes[0].path  '/api/webhooks/merge': is where Merge's webhooks come in",
            ),
        ]);
        let told = warnings("[webhook]\nsecret = { env = 'TOKEN' }");
        let useless = "is of no use: no account has a linked_account_id, by which webhooks name it";
        assert_eq!(told, [format!("proxy.toml:1:1  webhook: {useless}")]);
    }
}
