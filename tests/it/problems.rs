//! Every failure of our own has its row in the contract's table.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use http::HeaderValue;
use merge_sync_proxy::domain::bucket::Rate;
use merge_sync_proxy::domain::hindrance::Kind;
use merge_sync_proxy::domain::problem::{Cause, Problem, Row};

use crate::layers::files;

/// The table of the contract, and types of their own for resync, since it is not the account that is refused, and for webhooks. There is
/// none for a proxy that stops, since whoever still reaches it is answered.
const TABLE: &str = "
| 400 | `invalid-request` | refused at the door |
| 401 | `unknown-consumer` | no or unknown consumer key (`WWW-Authenticate: Bearer`) |
| 403 | `account-not-allowed` | account not known or not granted |
| 403 | `resync-not-allowed` | `resync` not granted to the consumer |
| 403 | `invalid-signature` | a webhook that Merge has not signed |
| 404 / 405 | `no-such-route` / `method-not-allowed` | |
| 429 | `quota-exceeded` / `budget-exhausted` | the consumer's quota / the upstream's budget, with nothing stale to serve |
| 431 / 414 / 413 | `request-too-large` | |
| 502 | `upstream-failed` | connection failed, truncated or invalid answer |
| 503 | `overloaded` | local limits; circuit open |
| 504 | `upstream-timeout` / `not-cached` | deadline; `only-if-cached` with nothing fresh |
";

const PAUSE: Duration = Duration::from_millis(1_500);

/// One of each kind.
fn all() -> Vec<Problem> {
    vec![
        Problem::InvalidRequest(Cow::Borrowed("Say it otherwise.")),
        Problem::UnknownConsumer,
        Problem::AccountNotAllowed,
        Problem::NoSuchRoute,
        Problem::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD") },
        Problem::QuotaExceeded { rate: Rate::new(30, PAUSE).expect("a rate"), retry_after: PAUSE },
        Problem::BudgetExhausted { kind: Kind::Line, retry_after: PAUSE },
        Problem::TargetTooLong,
        Problem::HeadersTooLarge,
        Problem::UpstreamFailed(Cause::Connect),
        Problem::Overloaded { retry_after: PAUSE },
        Problem::UpstreamTimeout,
        Problem::NotCached,
        Problem::ResyncNotAllowed,
        Problem::TooManyStrangers { retry_after: PAUSE },
        Problem::BodyTooLarge,
        Problem::InvalidSignature,
    ]
}

/// The place in [`all`]; without a catch-all arm, so that a new problem cannot be forgotten there.
fn place(problem: &Problem) -> usize {
    match problem {
        Problem::InvalidRequest(_) => 0,
        Problem::UnknownConsumer => 1,
        Problem::AccountNotAllowed => 2,
        Problem::NoSuchRoute => 3,
        Problem::MethodNotAllowed { .. } => 4,
        Problem::QuotaExceeded { .. } => 5,
        Problem::BudgetExhausted { .. } => 6,
        Problem::TargetTooLong => 7,
        Problem::HeadersTooLarge => 8,
        Problem::UpstreamFailed(_) => 9,
        Problem::Overloaded { .. } => 10,
        Problem::UpstreamTimeout => 11,
        Problem::NotCached => 12,
        Problem::ResyncNotAllowed => 13,
        Problem::TooManyStrangers { .. } => 14,
        Problem::BodyTooLarge => 15,
        Problem::InvalidSignature => 16,
    }
}

/// The pairs of status and slug in [`TABLE`]. Where a row has two of one and one of the other, the one goes with both.
fn promised() -> BTreeSet<(u16, String)> {
    let mut pairs = BTreeSet::new();
    for line in TABLE.trim().lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let statuses: Vec<u16> = cells[1].split(" / ").map(|status| status.parse().expect("a status")).collect();
        let slugs: Vec<&str> = cells[2].split(" / ").map(|slug| slug.trim_matches('`')).collect();
        for at in 0..statuses.len().max(slugs.len()) {
            let status = statuses.get(at).unwrap_or(&statuses[0]);
            let slug = slugs.get(at).unwrap_or(&slugs[0]);
            pairs.insert((*status, (*slug).to_owned()));
        }
    }
    pairs
}

#[test]
fn the_problems_are_those_of_the_contract() {
    let all = all();
    assert!(all.iter().enumerate().all(|(at, problem)| place(problem) == at));
    let made = all.iter().map(|problem| (problem.row().status.as_u16(), problem.row().slug.to_owned())).collect();
    assert_eq!(promised(), made);
}

#[test]
fn every_problem_is_one_that_something_has() {
    let sources = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let makers =
        sources.iter().filter(|file| !file.ends_with("domain/problem.rs") && !file.ends_with("domain/ending.rs"));
    let text: String = makers.map(|file| fs::read_to_string(file).expect("readable")).collect();
    for problem in all() {
        let shown = format!("{problem:?}");
        let name = shown.split(|c: char| !c.is_ascii_alphanumeric()).next().expect("a name");
        assert!(text.contains(&format!("Problem::{name}")), "{name} is promised and never told");
    }
}

/// The same pairs as the README tells them: commas where the contract has slashes.
fn documented() -> BTreeSet<(u16, String)> {
    let readme = include_str!("../../README.md");
    let section = readme.split_once("### Errors").expect("a section on errors").1;
    let section = section.split("\n#").next().expect("its text");
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| status"));
    let mut pairs = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for status in cells[1].split(", ") {
            let status = status.parse().expect("a status");
            pairs.extend(cells[2].split(", ").map(|slug| (status, slug.trim_matches('`').to_owned())));
        }
    }
    pairs
}

#[test]
fn the_readme_lists_the_same_problems() {
    assert_eq!(documented(), promised());
}

#[test]
fn every_problem_says_what_it_is_and_what_to_do() {
    for problem in all() {
        let Row { status, slug, title, detail, retry_after } = problem.row();
        assert!(!title.is_empty() && !title.ends_with('.'), "{slug}: {title}");
        assert!(detail.len() > 10 && detail.ends_with(['.', ';', ')']), "{slug}: {detail}");
        let promises_a_pause = matches!(status.as_u16(), 429 | 503);
        assert_eq!(retry_after.is_some_and(|pause| !pause.is_zero()), promises_a_pause, "{slug}");
    }
}
