//! What has been counted, read once a second, and rates out of two such readings.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::numbers::{AccountNumbers, ConsumerNumbers, Counts};
use crate::metrics::registry::{Kind, Metrics};

/// Everything that has been counted since the start, as read at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// What all consumers together did.
    pub total: Counts,
    /// Calls that went upstream.
    pub calls: u64,
    /// Calls that were saved.
    pub calls_saved: u64,
    /// The time that 99 of 100 hits of the last minute took at most.
    pub hit_p99: Option<Duration>,
    /// The same of requests that had to wait for a call.
    pub miss_p99: Option<Duration>,
    /// What each consumer did.
    pub consumers: Vec<ConsumerNumbers>,
    /// What became of the calls for each account.
    pub accounts: Vec<AccountNumbers>,
}

impl Reading {
    /// What `metrics` show now.
    pub fn of(metrics: &Metrics, now: Instant) -> Self {
        let consumers = metrics.consumers();
        let accounts = metrics.accounts(now);
        let mut total = Counts::default();
        for consumer in &consumers {
            total.add(&consumer.counts);
        }
        let calls = accounts.iter().map(|account| account.calls).sum();
        Self {
            calls_saved: metrics.calls_saved(&total, calls),
            total,
            calls,
            hit_p99: metrics.quantile(Kind::Hit, 0.99),
            miss_p99: metrics.quantile(Kind::Miss, 0.99),
            consumers,
            accounts,
        }
    }

    /// The numbers of the consumer of this name; `None` stands for those who are none.
    pub fn consumer(&self, name: Option<&str>) -> Option<&ConsumerNumbers> {
        // They are in the order of their names, and who is none comes last.
        let found = self.consumers.binary_search_by(|consumer| {
            let known = consumer.name.as_deref();
            (known.is_none(), known).cmp(&(name.is_none(), name))
        });
        found.ok().map(|at| &self.consumers[at])
    }
}

/// The share of requests between two counts that waited for no call of their own, among those that were for a page; `None` if there
/// were none.
pub fn hit_ratio(before: &Counts, after: &Counts) -> Option<f64> {
    let since = |count: fn(&Counts) -> u64| count(after).saturating_sub(count(before));
    let ready = since(|counts| counts.ready);
    let pages = ready + since(|counts| counts.misses + counts.revalidated + counts.failed);
    (pages > 0).then(|| ready as f64 / pages as f64)
}

/// What is read by people needs no more than one decimal; what is rounded changes less often.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Likewise a share of one.
pub(super) fn thousandths(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The readings of the last seconds. Cheap to clone: whoever walks over all pages with them must keep nobody from reading on.
#[derive(Clone, Debug, Default)]
pub struct Readings(VecDeque<(Instant, Arc<Reading>)>);

/// Rates are told over this time: long enough to be calm, short enough to show what happens now.
const WINDOW: Duration = Duration::from_secs(10);

/// Two readings, one later than the other.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The earlier.
    pub before: &'a Reading,
    /// The later.
    pub after: &'a Reading,
    /// The seconds between them.
    pub seconds: f64,
}

impl Readings {
    /// Adds what was read at `now`.
    pub fn push(&mut self, now: Instant, reading: Reading) {
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, Arc::new(reading)));
    }

    /// The last seconds; `None` while there are not two readings.
    pub fn span(&self) -> Option<Span<'_>> {
        let ((earlier, before), (later, after)) = (self.0.front()?, self.0.back()?);
        let seconds = later.saturating_duration_since(*earlier).as_secs_f64();
        (seconds > 0.0).then_some(Span { before, after, seconds })
    }

    /// The newest reading.
    pub fn latest(&self) -> Option<&Reading> {
        self.0.back().map(|(_, reading)| &**reading)
    }
}

/// What a consumer does at present.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Requests a second.
    pub requests: f64,
    /// The share of them that needed no call.
    pub hit_ratio: Option<f64>,
    /// Calls a second.
    pub calls: f64,
}

impl Span<'_> {
    /// How often a second something that is counted happened.
    pub fn rate(&self, count: impl Fn(&Reading) -> u64) -> f64 {
        count(self.after).saturating_sub(count(self.before)) as f64 / self.seconds
    }

    /// The share of all requests that needed no call; `None` if nothing was asked.
    pub fn hit_ratio(&self) -> Option<f64> {
        hit_ratio(&self.before.total, &self.after.total)
    }

    /// What the consumer of this name did between the readings.
    pub fn pace(&self, name: Option<&str>) -> Pace {
        let Some(after) = self.after.consumer(name) else { return Pace::default() };
        let none = ConsumerNumbers { name: None, counts: Counts::default(), calls: 0 };
        let before = self.before.consumer(name).unwrap_or(&none);
        let rate =
            |count: fn(&ConsumerNumbers) -> u64| count(after).saturating_sub(count(before)) as f64 / self.seconds;
        Pace {
            requests: rate(|consumer| consumer.counts.requests),
            hit_ratio: hit_ratio(&before.counts, &after.counts),
            calls: rate(|consumer| consumer.calls),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn reading(requests: u64, saved: u64) -> Reading {
        let counts = Counts { requests, hits: saved, ready: saved, misses: requests - saved, ..Counts::default() };
        let team = ConsumerNumbers { name: Some("team".into()), counts: counts.clone(), calls: requests - saved };
        Reading {
            total: counts,
            calls: requests - saved,
            calls_saved: saved,
            consumers: vec![team],
            ..Reading::default()
        }
    }

    #[test]
    fn rates_are_of_the_last_seconds_only() {
        let start = Instant::now();
        let mut readings = Readings::default();
        assert!(readings.span().is_none());
        for second in 0..=30 {
            // A hundred misses a second at first, then ten requests, of which nine are hits.
            let (requests, saved) = match second {
                0..=15 => (second * 100, 0),
                _ => (1_500 + (second - 15) * 10, (second - 15) * 9),
            };
            readings.push(start + Duration::from_secs(second), reading(requests, saved));
        }
        let span = readings.span().expect("two readings");
        assert!((span.rate(|reading| reading.total.requests) - 10.0).abs() < 0.001, "{span:?}");
        assert_eq!(span.hit_ratio(), Some(0.9));
        assert_eq!(span.pace(Some("team")), Pace { requests: 10.0, hit_ratio: Some(0.9), calls: 1.0 });
        assert_eq!(span.pace(Some("nobody")), Pace::default());
    }

    #[test]
    fn nothing_asked_is_no_ratio() {
        let start = Instant::now();
        let mut readings = Readings::default();
        readings.push(start, reading(5, 5));
        readings.push(start + Duration::from_secs(1), reading(5, 5));
        assert_eq!(readings.span().expect("two readings").hit_ratio(), None);
    }
}
