//! Consumers: who may ask, for what, how often. Every name and every key means one of them only.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::SystemTime;

use super::address::ListenAddress;
use super::findings::Findings;
use super::item::{Item, Place};
use super::schema::{self, File};
use super::source::closest;
use crate::domain::access::Consumer;

/// The consumers that are sound; none if the proxy is open to everybody who can reach it.
pub(super) fn consumers(file: &File, findings: &mut Findings<'_>) -> Vec<Consumer> {
    if file.consumers.is_empty() && !findings.touch("consumers") {
        for exposed in file.server.listen.iter().filter(|address| !address.is_local()) {
            let message = "others can reach this address: add a [[consumers]] entry, or listen on 127.0.0.1";
            findings.fault(exposed.place(), message);
        }
    }
    let mut names = HashSet::new();
    let mut known = Known::default();
    let tables = file.consumers.iter().enumerate().filter_map(|(index, table)| {
        let place = table.place();
        let name = findings.name(place, table.name.as_ref(), &mut names);
        // What was refused is not there any more, and still it is no lack.
        let refused = |key| findings.touch(&format!("consumers[{index}].{key}"));
        if ways(table) == 0 && !["unix_uid", "client_cert"].into_iter().any(refused) {
            let advice =
                "`merge-sync-proxy key new NAME` makes a key and prints its hash; or set unix_uid or client_cert";
            findings.missing(place, "key_sha256", advice);
        }
        known.check(place, table, file, findings);
        grants(place, table, file, findings);
        Some(Consumer {
            name: name?,
            keys: table.key_sha256.as_deref().unwrap_or_default().iter().map(|key| (**key).clone()).collect(),
            unix_uids: table.unix_uid.iter().map(|uid| uid.0).collect(),
            client_certs: table.client_cert.iter().map(|name| name.0.clone()).collect(),
            disabled: *table.disabled,
            accounts: table.accounts.iter().map(|pattern| (**pattern).clone()).collect(),
            raw_tokens: *table.raw_tokens,
            default_account: table.default_account.as_deref().cloned(),
            quota: *table.quota,
            forced_refreshes: *table.forced_refreshes,
            resync: *table.resync,
            max_in_flight_misses: table.max_in_flight_misses.0,
            max_followers: table.max_followers.0,
            weight: NonZeroU32::new(table.weight.0).unwrap_or(NonZeroU32::MIN),
        })
    });
    tables.collect()
}

/// In how many ways a consumer can be known.
fn ways(table: &schema::Consumer) -> usize {
    table.key_sha256.as_deref().unwrap_or_default().len() + table.unix_uid.len() + table.client_cert.len()
}

/// By what consumers are known so far: each of these means one of them only.
#[derive(Default)]
struct Known {
    keys: HashSet<[u8; 32]>,
    uids: HashSet<u32>,
    names: HashSet<Box<str>>,
}

impl Known {
    /// Checks that what the consumer is known by is its own, and can be seen.
    fn check(&mut self, place: &Place, table: &schema::Consumer, file: &File, findings: &mut Findings<'_>) {
        let keys = table.key_sha256.as_deref().unwrap_or_default();
        let (uids, names) = (&table.unix_uid, &table.client_cert);
        for key in keys {
            if !self.keys.insert(key.sha256) {
                findings.fault(key.place(), "this key is given twice");
            }
            if !key.disabled && key.expires.is_some_and(|expires| expires <= SystemTime::now()) {
                findings.warn(key.place(), "this key has expired");
            }
        }
        if !keys.is_empty() && ways(table) == keys.len() && keys.iter().all(|key| key.disabled) && !*table.disabled {
            findings.warn(place, "all its keys are disabled, so it cannot ask; disabled = true says the same");
        }
        for uid in uids.iter().filter(|uid| !self.uids.insert(uid.0)) {
            findings.fault(uid.place(), "this user is given twice");
        }
        for name in names.iter().filter(|name| !self.names.insert(name.0.clone())) {
            findings.fault(name.place(), "this name is given twice");
        }
        // An address that was not understood, or a key that was meant to be `listen`, may have been the socket.
        let listens = !findings.lost("server") && !findings.lost("");
        let has_socket = file.server.listen.iter().any(|address| matches!(**address, ListenAddress::Unix(_)));
        if !uids.is_empty() && !has_socket && listens {
            findings.fault(uids.place(), "only a Unix socket tells the user: add unix:/path to server.listen");
        }
        let asks_for_certificates = file.server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !names.is_empty() && !asks_for_certificates && !findings.touch("server.tls") {
            findings.fault(names.place(), "no certificate is asked for: set server.tls.client_ca");
        }
    }
}

/// Checks what a consumer may ask for against the accounts that there are.
fn grants(place: &Place, table: &schema::Consumer, file: &File, findings: &mut Findings<'_>) {
    let place = table.name.as_ref().map_or(place, Item::place);
    if table.accounts.is_empty() && !*table.raw_tokens {
        findings.warn(place, "may ask for no account; grant some with accounts, or set raw_tokens = true");
    }
    // Whoever refers to an account whose name was refused would look wrong as well.
    if findings.lost("accounts") || file.accounts.iter().any(|account| account.name.is_none()) {
        return;
    }
    let names = || file.accounts.iter().filter_map(|account| account.name.as_deref()).map(|name| &**name);
    let meant =
        |word: &str| closest(word, names()).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    for pattern in table.accounts.iter().filter(|pattern| pattern.as_str() != "*") {
        if !names().any(|name| pattern.matches(name)) {
            findings.warn(pattern.place(), format!("no account has such a name{}", meant(pattern.as_str())));
        }
    }
    let Some(default) = &table.default_account else { return };
    if !names().any(|name| name == &***default) {
        findings.fault(default.place(), format!("there is no account of this name{}", meant(default)));
    } else if !table.accounts.iter().any(|pattern| pattern.matches(default)) && !findings.touch("consumers") {
        findings.fault(default.place(), "is not granted to this consumer by its accounts");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample::{HASH, config, expect_faults, faults, warnings};
    use crate::domain::bucket::Rate;

    const ACME: &str = "[[accounts]]\nname = 'acme'\ntoken = { env = 'TOKEN' }\n";

    #[test]
    fn a_consumer_has_what_the_file_says_and_else_the_defaults() {
        let text = format!(
            "{ACME}[[consumers]]\nname = 'one'\nkey_sha256 = '{HASH}'\naccounts = ['a*']\ndefault_account = 'acme'"
        );
        let config = config(&text);
        let consumer = &config.consumers[0];
        assert!(consumer.may_use("acme"));
        assert_eq!(consumer.default_account.as_deref(), Some("acme"));
        assert_eq!((consumer.raw_tokens, consumer.resync, consumer.quota), (false, false, None));
        assert_eq!(consumer.forced_refreshes, Rate::new(10, Duration::from_secs(60)));
        assert_eq!((consumer.max_in_flight_misses, consumer.weight.get(), consumer.keys.len()), (8, 1, 1));
        assert_eq!(consumer.max_followers, 64);
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn a_bad_consumer_is_told_what_is_allowed() {
        let one = format!("{ACME}[[consumers]]\nname = 'one'\naccounts = ['acme']\nkey_sha256 = '{HASH}'\n");
        for (line, told) in [
            (
                "default_account = 'acmee'",
                "8:19  consumers[0].default_account  'acmee': there is no account of this name, did you mean `acme`?",
            ),
            ("weight = 0", "8:10  consumers[0].weight  0: must be a whole number from 1 to 1000"),
            (
                "max_in_flight_misses = 0",
                "8:24  consumers[0].max_in_flight_misses  0: must be a whole number from 1 to 100000",
            ),
            (
                "quota = '600'",
                "8:9  consumers[0].quota  '600': must be a number per time, as in 100/min or 10/10s; or \"unlimited\"",
            ),
            (
                &format!("[[consumers]]\nname = 'one'\nraw_tokens = true\nkey_sha256 = '{}'", "0".repeat(64)),
                "9:8  consumers[1].name  'one': this name is given twice",
            ),
            (
                &format!("[[consumers]]\nname = 'two'\nraw_tokens = true\nkey_sha256 = '{HASH}'"),
                "11:14  consumers[1].key_sha256: this key is given twice",
            ),
        ] {
            assert_eq!(faults(&format!("{one}{line}")), format!("proxy.toml:{told}"));
        }
        let other = format!(
            "{ACME}[[consumers]]\nname = 'one'\naccounts = ['b*']\nkey_sha256 = '{HASH}'\ndefault_account = 'acme'"
        );
        let told =
            "proxy.toml:8:19  consumers[0].default_account  'acme': is not granted to this consumer by its accounts";
        assert_eq!(faults(&other), told);
        let keyless = "1:1  consumers[0].key_sha256: is missing: `merge-sync-proxy key new NAME` makes a key and prints its hash; \
             or set unix_uid or client_cert";
        expect_faults(&[
            ("[[consumers]]\nname = 'one'\nraw_tokens = true", keyless),
            ("[[consumers]]\nname = 'one'\nraw_tokens = true\nkey_sha256 = []", keyless),
        ]);
    }

    #[test]
    fn a_consumer_may_be_known_by_its_connection() {
        let unix = "[server]\nlisten = ['unix:/run/proxy.sock']\n";
        let known = config(&format!(
            "{unix}[[consumers]]\nname = 'one'\nraw_tokens = true\nunix_uid = 1000\n\
             [[consumers]]\nname = 'two'\nraw_tokens = true\nunix_uid = [0, 33]\nkey_sha256 = '{HASH}'"
        ));
        let uids: Vec<&[u32]> = known.consumers.iter().map(|consumer| &*consumer.unix_uids).collect();
        assert_eq!(uids, [&[1000][..], &[0, 33]]);
        let one = "[[consumers]]\nname = 'one'\nraw_tokens = true\n";
        expect_faults(&[
            (&format!("{unix}{one}unix_uid = [7, 7]"), "6:16  consumers[0].unix_uid[1]  7: this user is given twice"),
            (
                &format!("{one}unix_uid = 7"),
                "4:12  consumers[0].unix_uid  7: only a Unix socket tells the user: add unix:/path to server.listen",
            ),
            (
                &format!("[server]\nlsten = ['unix:/run/proxy.sock']\n{one}unix_uid = 7"),
                "2:1  server.lsten: unknown key, did you mean `listen`?",
            ),
            (
                &format!("[server]\nlisten = ['unix:proxy.sock']\n{one}unix_uid = 7"),
                "2:11  server.listen[0]  'unix:proxy.sock': a Unix socket is written as unix:/absolute/path",
            ),
            (
                &format!("[sever]\nlisten = ['unix:/run/proxy.sock']\n{one}unix_uid = 7"),
                "1:2  sever: unknown key, did you mean `server`?",
            ),
            (
                &format!("{one}client_cert = 'team'"),
                "4:15  consumers[0].client_cert  'team': no certificate is asked for: set server.tls.client_ca",
            ),
            (
                &format!("{one}client_cert = '*.team'"),
                "4:15  consumers[0].client_cert  '*.team': must be the whole common name or DNS name in a certificate, \
                 without a *",
            ),
        ]);
    }

    #[test]
    fn a_consumer_or_one_of_its_keys_can_be_disabled() {
        let keys = format!("key_sha256 = ['{}', {{ sha256 = '{HASH}', disabled = true }}]", "0".repeat(64));
        let one = format!("{ACME}[[consumers]]\nname = 'one'\naccounts = ['acme']\n");
        let consumer = config(&format!("{one}{keys}")).consumers.remove(0);
        assert_eq!((consumer.disabled, consumer.keys[0].disabled, consumer.keys[1].disabled), (false, false, true));
        let consumer = config(&format!("{one}{keys}\ndisabled = true")).consumers.remove(0);
        assert!(consumer.disabled);
        let quoted = format!("{one}{keys}\ndisabled = 'true'");
        let told = "proxy.toml:8:12  consumers[0].disabled  'true': must be true or false, without quotes";
        assert_eq!(faults(&quoted), told);
        let none = format!("{one}key_sha256 = {{ sha256 = '{HASH}', disabled = true }}");
        assert_eq!(
            warnings(&none),
            [
                "proxy.toml:4:1  consumers[0]: all its keys are disabled, so it cannot ask; disabled = true says the same"
            ]
        );
    }

    #[test]
    fn the_open_mode_stays_on_this_machine() {
        assert!(config("[server]\nlisten = ['unix:/run/proxy.sock', '[::1]:8080']").consumers.is_empty());
        expect_faults(&[(
            "[server]\nlisten = ['127.0.0.1:1', '0.0.0.0:8080']",
            "2:26  server.listen[1]  '0.0.0.0:8080': others can reach this address: add a [[consumers]] entry, or listen on 127.0.0.1",
        )]);
    }

    #[test]
    fn what_leads_nowhere_is_a_warning() {
        let expired = format!("{{ sha256 = '{HASH}', expires = '2020-01-31T00:00:00Z' }}");
        let text = format!("{ACME}[[consumers]]\nname = 'one'\naccounts = ['acne', 'b*']\nkey_sha256 = [{expired}]\n");
        let idle = format!("[[consumers]]\nname = 'two'\nkey_sha256 = '{}'", "0".repeat(64));
        assert_eq!(
            warnings(&format!("{text}{idle}")),
            [
                "proxy.toml:6:13  consumers[0].accounts[0]  'acne': no account has such a name, did you mean `acme`?",
                "proxy.toml:6:21  consumers[0].accounts[1]  'b*': no account has such a name",
                "proxy.toml:7:15  consumers[0].key_sha256[0]: this key has expired",
                "proxy.toml:9:8  consumers[1].name  'two': may ask for no account; grant some with accounts, or set raw_tokens = true",
            ]
        );
    }

    #[test]
    fn one_mistake_does_not_make_others() {
        let reference = format!(
            "[[consumers]]\nname = 'one'\naccounts = ['acme']\nkey_sha256 = '{HASH}'\ndefault_account = 'acme'\n"
        );
        for (text, told) in [
            (
                "[[accounts]]\nname = 'ac me'\ntoken = { env = 'TOKEN' }\n",
                "2:8  accounts[0].name  'ac me': must be 1 to 64",
            ),
            ("accounts = 5\n", "1:12  accounts: must be tables"),
        ] {
            let told_all = faults(&format!("{text}{reference}"));
            assert!(told_all.starts_with(&format!("proxy.toml:{told}")) && !told_all.contains('\n'), "{told_all}");
        }
        let two = faults(&format!("{}{reference}", ACME.replace("TOKEN", "NONE").replace("acme", "other")));
        assert_eq!(two.lines().count(), 2, "{two}");
    }
}
