//! Who spends what may be sent to Merge: a row for each upstream and one for each consumer.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::readings::{Readings, tenths, thousandths};
use super::rows::Lookup;
use super::state::{ConsumerRow, Refused, UpstreamRow, WallClock};
use crate::domain::access::Upstream;
use crate::domain::bucket::Rate;
use crate::domain::caller::Caller;
use crate::domain::hindrance::Sharers;
use crate::door::admit::House;
use crate::metrics::numbers::{ConsumerNumbers, Counts};
use crate::upstream::breaker::State;
use crate::upstream::standing::UpstreamStanding;

/// A row for each upstream.
pub fn upstreams(from: Lookup<'_>, clock: WallClock) -> Vec<UpstreamRow> {
    let standings = from.budgets.upstreams();
    let row = |upstream: &Arc<Upstream>| {
        let rules = &upstream.budget;
        let errors = rules.errors.filter(|_| !rules.dry_run);
        let standing = standings.iter().find(|standing| standing.name == upstream.name);
        let number = |number: fn(&UpstreamStanding) -> usize| standing.map_or(0, number);
        let breaker = standing.map_or(State::Closed, |standing| standing.breaker);
        UpstreamRow {
            name: upstream.name.to_string(),
            per_account: rules.per_account.map(|rate| rate.to_string()),
            in_flight: number(|standing| standing.in_flight),
            concurrency: rules.concurrency,
            waiting: number(|standing| standing.waiting),
            failures: errors.map(|_| number(|standing| standing.failed)),
            failures_allowed: errors.map(|rate| rate.count.get()),
            failure_budget: errors.map(|rate| rate.to_string()),
            blocked_until: match breaker {
                State::Open { until } => Some(clock.millis(until)),
                State::Closed | State::HalfOpen => None,
            },
            held_back: standing.and_then(held_back),
            breaker: Some(breaker_word(breaker).to_owned()),
        }
    };
    let mut rows: Vec<UpstreamRow> = from.house.accounts.upstreams().map(row).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Whose calls are held back while those for accounts whose last call succeeded may go.
fn held_back(standing: &UpstreamStanding) -> Option<String> {
    let shares = standing.held_back.iter().filter(|(_, share)| share.of != Sharers::All);
    let texts: Vec<String> = shares
        .map(|(consumer, share)| match consumer {
            Some(name) => format!("consumer {name}: {share}"),
            None => share.to_string(),
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn breaker_word(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open { .. } => "open",
        State::HalfOpen => "half-open",
    }
}

/// So many consumers are shown, those who make most calls first.
const MOST_CONSUMERS: usize = 100;

/// What those are called whose requests were refused before it was known who they are.
const NOBODY: &str = "(no consumer)";

/// A row for each consumer, those who spend most first, and how many there are.
pub fn consumers(house: &House, readings: &Readings, now: Instant) -> (Vec<ConsumerRow>, usize) {
    let numbers: HashMap<Option<&str>, &ConsumerNumbers> = readings
        .latest()
        .map(|reading| reading.consumers.iter().map(|consumer| (consumer.name.as_deref(), consumer)).collect())
        .unwrap_or_default();
    let row = |name: Option<&str>, caller: Option<&Caller>| {
        let none = ConsumerNumbers { name: None, counts: Counts::default(), calls: 0 };
        let ConsumerNumbers { counts: whole, calls, .. } = numbers.get(&name).copied().unwrap_or(&none);
        let pace = readings.span().map(|span| span.pace(name)).unwrap_or_default();
        let refused = |(reason, count): (&&str, &u64)| Refused { reason: (*reason).to_owned(), count: *count };
        let mut refused: Vec<Refused> = whole.refused_by.iter().map(refused).collect();
        refused.sort_by_key(|refused| std::cmp::Reverse(refused.count));
        ConsumerRow {
            name: name.unwrap_or(NOBODY).to_owned(),
            requests_per_second: tenths(pace.requests),
            hit_ratio: pace.hit_ratio.map(thousandths),
            calls_per_second: tenths(pace.calls),
            requests_total: whole.requests,
            calls_total: *calls,
            quota_left: caller.and_then(|caller| caller.quota.as_ref()).map(|quota| quota.bucket.remaining(now)),
            quota_burst: caller.and_then(|caller| caller.consumer.quota).map(Rate::burst),
            quota: caller.and_then(|caller| caller.consumer.quota).map(|rate| rate.to_string()),
            waiting: caller.map_or(0, Caller::waiting),
            refused,
        }
    };
    let all = house.consumers.all();
    let total = all.len();
    let mut rows: Vec<ConsumerRow> =
        all.into_iter().map(|caller| row(Some(&caller.consumer.name), Some(caller))).collect();
    rows.extend(numbers.get(&None).filter(|numbers| numbers.counts.requests > 0).map(|_| row(None, None)));
    rows.sort_by(|a, b| {
        let spend = |row: &ConsumerRow| (row.calls_per_second, row.requests_per_second);
        let by_rate = spend(b).partial_cmp(&spend(a)).unwrap_or(std::cmp::Ordering::Equal);
        by_rate.then(b.calls_total.cmp(&a.calls_total)).then_with(|| a.name.cmp(&b.name))
    });
    rows.truncate(MOST_CONSUMERS);
    (rows, total)
}
