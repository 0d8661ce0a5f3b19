//! The dashboard and the alerts speak of metrics that there are, and in labels that they have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::domain::ending::Ending;
use merge_sync_proxy::domain::hindrance::Kind;

use crate::exposition::{exercised, labels, names, promtool};

const ALERTS: &str = include_str!("../../ops/alerts.yml");
const DASHBOARD: &str = include_str!("../../ops/grafana.json");

/// The expressions of a dashboard, wherever they stand.
fn expressions(json: &serde_json::Value, found: &mut Vec<String>) {
    match json {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().filter(|_| matches!(name.as_str(), "expr" | "definition")) {
                    Some(expression) => found.push(expression.to_owned()),
                    None => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

fn dashboard() -> Vec<String> {
    let mut found = Vec::new();
    expressions(&serde_json::from_str(DASHBOARD).expect("JSON"), &mut found);
    found
}

/// All that follows `start` in `text` and is made of letters and underscores, with it.
fn words<'t>(text: &'t str, start: &str) -> BTreeSet<&'t str> {
    let word = |(at, _): (usize, &'t str)| {
        let rest = &text[at..];
        let end = rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    };
    text.match_indices(start).map(word).collect()
}

#[tokio::test(start_paused = true)]
async fn every_metric_that_is_asked_for_exists() {
    let text = exercised().await.app.metrics();
    let known = names(&text);
    let panels = dashboard();
    assert!(panels.len() > 30, "{panels:#?}");
    for expression in panels.iter().map(String::as_str).chain([ALERTS]) {
        for name in words(expression, "merge_sync_proxy_") {
            let family = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
            let exists = known.contains(name) || family.is_some_and(|family| known.contains(family));
            assert!(exists, "{name} in {expression}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_label_that_is_asked_for_exists() {
    let text = exercised().await.app.metrics();
    let known = labels(&text);
    let panels = dashboard();
    let alerts = ALERTS.split("- alert: ").skip(1).map(|alert| alert.split("annotations:").next().unwrap_or_default());
    let mut met = BTreeSet::new();
    for expression in panels.iter().map(String::as_str).chain(alerts) {
        let of_metrics = words(expression, "merge_sync_proxy_").into_iter().filter_map(|name| {
            let family = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
            known.get(name).or_else(|| known.get(family?))
        });
        // What Prometheus adds to each.
        let known: BTreeSet<&str> = of_metrics.flatten().copied().chain(["job", "instance", "le"]).collect();
        let grouped = ["by (", "on ("].into_iter().flat_map(|opening| expression.split(opening).skip(1));
        let grouped = grouped.filter_map(|rest| rest.split(')').next()).flat_map(|labels| labels.split(','));
        let matched = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let matched = matched.flat_map(|matchers| matchers.split(',')).filter_map(|one| one.split(['=', '!']).next());
        for label in grouped.chain(matched).map(str::trim).filter(|label| !label.is_empty()) {
            assert!(known.contains(label), "{label} in {expression}");
            met.insert(label);
        }
    }
    assert!(met.contains("account") && met.contains("reason") && met.contains("outcome"), "{met:?}");
}

#[test]
fn every_result_and_reason_that_is_asked_for_exists() {
    let of_requests = Ending::ALL.iter().flat_map(|ending| [ending.result(), ending.reason()]);
    let known: BTreeSet<&str> = of_requests.chain(Kind::LABELS).collect();
    let panels = dashboard();
    let mut met = BTreeSet::new();
    for expression in panels.iter().map(String::as_str).chain([ALERTS]) {
        for part in expression.split(['{', ',', '}']) {
            let matcher = ["result", "reason"].into_iter().find_map(|label| part.trim().strip_prefix(label));
            let Some(matcher) = matcher.filter(|matcher| matcher.starts_with(['=', '!'])) else { continue };
            for word in matcher.trim_start_matches(['=', '!', '~']).trim_matches('"').split('|') {
                assert!(known.contains(word), "{word} in {expression}");
                met.insert(word);
            }
        }
    }
    assert!(met.contains("stale") && met.contains("upstream-error") && met.contains("refused"), "{met:?}");
}

#[tokio::test(start_paused = true)]
async fn every_outcome_of_a_webhook_that_is_asked_for_exists() {
    let text = exercised().await.app.metrics();
    let matchers = ALERTS.split("outcome").skip(1).filter(|rest| rest.starts_with(['=', '!']));
    let words = matchers.flat_map(|rest| rest.split('"').nth(1).expect("a value").split('|')).collect::<BTreeSet<_>>();
    assert!(!words.is_empty());
    for word in words {
        assert!(text.contains(&format!("outcome=\"{word}\"")), "{word}");
    }
}

#[test]
fn there_is_an_alert_for_whatever_should_wake_somebody() {
    let alerts: BTreeSet<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    for alert in [
        "MergeBudgetNearlySpent",
        "MergeFailureBudgetNearlySpent",
        "MergeFailuresHoldCallsBack",
        "MergeBreakerOpen",
        "MergeAccountFailing",
        "MergeSyncProxyServesStale",
        "MergeSyncProxyReloadFailed",
        "MergeSyncProxyLosesLogLines",
        "MergeWebhooksNotAccepted",
    ] {
        assert!(alerts.contains(alert), "{alert}");
    }
}

#[test]
fn the_alerts_do_what_their_tests_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops");
    let path = |name: &str| folder.join(name).to_str().expect("a path of text").to_owned();
    assert!(fs::exists(path("alerts.test.yml")).expect("a folder"));
    promtool(&["check", "rules", &path("alerts.yml")], "");
    promtool(&["test", "rules", &path("alerts.test.yml")], "");
}
