//! Budgets held against what Merge allows: above it they hold nothing back that Merge would not refuse.
//!
//! Only at Merge's own hosts, since whatever else stands there may have other rules.

use std::time::Duration;

use http::uri::Authority;

use super::findings::Findings;
use super::item::Item;
use crate::domain::bucket::Rate;

/// What the highest plan allows each linked account in a minute.
const CALLS: u64 = 600;
const MINUTE: Duration = Duration::from_secs(60);

/// How many calls of one address may fail in ten seconds before Merge blocks it.
const FAILURES: u64 = 20;
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Warns of a budget for each account that Merge, if it stands at `host`, grants none.
pub(super) fn per_account(rate: &Item<Option<Rate>>, host: &Authority, findings: &mut Findings<'_>) {
    if let Some(beyond) = beyond(rate.map(|rate| rate.most_at_a_pace_in(MINUTE)), CALLS, host) {
        let told =
            format!("allows {beyond} calls a minute; Merge's highest plan has {CALLS}, more are refused with 429");
        findings.warn(rate.place(), told);
    }
}

/// Warns of a budget for failures that would not keep Merge, if it stands at `host`, from blocking the address.
pub(super) fn errors(rate: &Item<Option<Rate>>, host: &Authority, findings: &mut Findings<'_>) {
    if let Some(beyond) = beyond(rate.map(|rate| rate.most_in(TEN_SECONDS)), FAILURES, host) {
        let told = format!(
            "allows {beyond} failing calls in 10s; after more than {FAILURES} Merge blocks the address, for all accounts"
        );
        findings.warn(rate.place(), told);
    }
}

/// How `most` is told, if it is more than `allowed` and `host` is Merge's.
fn beyond(most: Option<u64>, allowed: u64, host: &Authority) -> Option<String> {
    let told = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    (is_merge(host) && most.is_none_or(|most| most > allowed)).then_some(told)
}

fn is_merge(authority: &Authority) -> bool {
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    host.strip_suffix("merge.dev").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::super::sample::parse;

    /// What is said about this `budget`, and that of an account, at `url`.
    fn told(url: &str, budget: &str, account: &str) -> Vec<String> {
        let text = format!(
            "[upstreams.us]\nbase_url = '{url}'\napi_key = {{ env = 'OTHER' }}\nbudget.{budget}\n\
             [[accounts]]\nname = 'acme'\ntoken = {{ env = 'TOKEN' }}\nper_account = '{account}'\n"
        );
        parse(&text).expect("sound").warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_budget_above_what_merge_allows_is_told_with_what_merge_does() {
        let calls = |place: &str, key: &str, written: &str, many: &str| {
            let does = "Merge's highest plan has 600, more are refused with 429";
            format!("proxy.toml:{place}  {key}.per_account  '{written}': allows {many} calls a minute; {does}")
        };
        let failures = |written: &str, many: &str| {
            let does = "after more than 20 Merge blocks the address, for all accounts";
            let key = "upstreams.us.budget.errors";
            format!("proxy.toml:4:17  {key}  '{written}': allows {many} failing calls in 10s; {does}")
        };
        let of_upstream = |written, many| calls("4:22", "upstreams.us.budget", written, many);
        for (url, budget, account, expected) in [
            ("https://api.merge.dev", "per_account = '600/min'", "600/min", vec![]),
            ("https://api.merge.dev", "per_account = '601/min'", "400/min", vec![of_upstream("601/min", "601")]),
            (
                "https://api.merge.dev",
                "per_account = 'unlimited'",
                "400/min",
                vec![of_upstream("unlimited", "unlimited")],
            ),
            ("https://api.merge.dev", "per_account = '10/s'", "10/s", vec![]),
            ("https://api.merge.dev", "per_account = '900/2min'", "2800/h", vec![]),
            ("https://api.merge.dev", "per_account = '20/s'", "400/min", vec![of_upstream("20/s", "1023")]),
            ("https://API-EU.merge.dev.:443", "errors = '21/10s'", "400/min", vec![failures("21/10s", "21")]),
            ("https://merge.dev", "errors = '60/min'", "400/min", vec![failures("60/min", "60")]),
            ("https://api.merge.dev", "errors = '5/s'", "400/min", vec![failures("5/s", "50")]),
            ("https://api.merge.dev", "errors = 'unlimited'", "400/min", vec![failures("unlimited", "unlimited")]),
            (
                "https://api.merge.dev",
                "errors = '20/10s'",
                "1000/min",
                vec![calls("8:15", "accounts[0]", "1000/min", "1000")],
            ),
            ("https://notmerge.dev", "errors = 'unlimited'", "unlimited", vec![]),
            ("https://merge.dev.example", "per_account = '601/min'", "unlimited", vec![]),
        ] {
            assert_eq!(told(url, budget, account), expected, "{url} {budget} {account}");
        }
    }
}
