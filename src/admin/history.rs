//! The last hour in numbers, in a ring of fixed size: nothing on disk, and no more memory after a year than after an hour.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::readings::{self, Reading, thousandths};

/// How often a sample is taken.
pub const EVERY: Duration = Duration::from_secs(5);

/// An hour of them.
const MOST: usize = 720;

/// What happened in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Requests a second.
    pub requests: f32,
    /// The share of answers from the cache.
    pub hit_ratio: Option<f32>,
    /// Upstream calls a second.
    pub calls: f32,
    /// Calls saved a second.
    pub saved: f32,
    /// The time of 99 of 100 hits, in microseconds.
    pub hit_p99: Option<f32>,
    /// The same of misses.
    pub miss_p99: Option<f32>,
}

/// The ring.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    /// How many there have been.
    taken: u64,
    last: Option<(Instant, Reading)>,
    day: Day,
}

/// What had been saved when the present day began (UTC).
#[derive(Debug, Default)]
struct Day {
    number: u64,
    saved: u64,
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Columns of the ring as they are sent: oldest first, one number a sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Columns {
    /// Seconds between samples.
    pub every_seconds: u64,
    /// How many there have been, also those that are forgotten.
    pub taken: u64,
    /// See [`Sample::requests`].
    pub requests: Vec<f32>,
    /// See [`Sample::hit_ratio`].
    pub hit_ratio: Vec<Option<f32>>,
    /// See [`Sample::calls`].
    pub calls: Vec<f32>,
    /// See [`Sample::saved`].
    pub saved: Vec<f32>,
    /// See [`Sample::hit_p99`].
    pub hit_p99: Vec<Option<f32>>,
    /// See [`Sample::miss_p99`].
    pub miss_p99: Vec<Option<f32>>,
}

impl History {
    /// Takes a sample if one is due; `unix_seconds` is the time of day.
    pub fn observe(&mut self, now: Instant, unix_seconds: u64, reading: &Reading) {
        let today = unix_seconds / DAY;
        if today != self.day.number {
            // What was saved before the first look belongs to the day that the proxy was started on.
            let saved = if self.day.number == 0 { 0 } else { reading.calls_saved };
            self.day = Day { number: today, saved };
        }
        let Some((at, before)) = &self.last else {
            self.last = Some((now, reading.clone()));
            return;
        };
        let passed = now.saturating_duration_since(*at);
        // Ticks come a little late and sometimes a little early.
        if passed + Duration::from_millis(500) < EVERY {
            return;
        }
        let seconds = passed.as_secs_f64();
        let rate = |count: fn(&Reading) -> u64| rounded(count(reading).saturating_sub(count(before)) as f64 / seconds);
        let microseconds = |time: Option<Duration>| time.map(|time| rounded(time.as_secs_f64() * 1e6));
        let sample = Sample {
            requests: rate(|reading| reading.total.requests),
            hit_ratio: readings::hit_ratio(&before.total, &reading.total).map(rounded),
            calls: rate(|reading| reading.calls),
            saved: rate(|reading| reading.calls_saved),
            hit_p99: microseconds(reading.hit_p99),
            miss_p99: microseconds(reading.miss_p99),
        };
        self.last = Some((now, reading.clone()));
        self.taken += 1;
        self.samples.push_back(sample);
        if self.samples.len() > MOST {
            self.samples.pop_front();
        }
    }

    /// What has been saved today, when `saved` is all that ever was.
    pub fn saved_today(&self, saved: u64) -> u64 {
        saved.saturating_sub(self.day.saved)
    }

    /// How many samples have been taken, and the newest.
    pub fn newest(&self) -> (u64, Option<Sample>) {
        (self.taken, self.samples.back().copied())
    }

    /// The whole ring.
    pub fn columns(&self) -> Columns {
        fn column<T>(samples: &VecDeque<Sample>, field: impl Fn(&Sample) -> T) -> Vec<T> {
            samples.iter().map(field).collect()
        }
        let samples = &self.samples;
        Columns {
            every_seconds: EVERY.as_secs(),
            taken: self.taken,
            requests: column(samples, |sample| sample.requests),
            hit_ratio: column(samples, |sample| sample.hit_ratio),
            calls: column(samples, |sample| sample.calls),
            saved: column(samples, |sample| sample.saved),
            hit_p99: column(samples, |sample| sample.hit_p99),
            miss_p99: column(samples, |sample| sample.miss_p99),
        }
    }
}

/// Three decimals are more than a line of 40 pixels shows, and shorter on the way.
#[allow(clippy::cast_possible_truncation, reason = "what a sparkline shows needs no more")]
fn rounded(value: f64) -> f32 {
    thousandths(value) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::readings::tests::reading;

    fn counts(requests: u64) -> Reading {
        Reading { hit_p99: Some(Duration::from_micros(80)), ..reading(requests, requests / 2) }
    }

    #[test]
    fn an_hour_is_kept_and_not_more() {
        let (start, mut history) = (Instant::now(), History::default());
        for second in 0..=7_200 {
            history.observe(start + Duration::from_secs(second), second, &counts(second * 10));
        }
        let columns = history.columns();
        assert_eq!((columns.requests.len(), columns.taken), (720, 1_440));
        assert_eq!(
            history.newest().1,
            Some(Sample {
                requests: 10.0,
                hit_ratio: Some(0.5),
                calls: 5.0,
                saved: 5.0,
                hit_p99: Some(80.0),
                miss_p99: None,
            })
        );
    }

    #[test]
    fn a_quiet_time_has_no_ratio() {
        let (start, mut history) = (Instant::now(), History::default());
        history.observe(start, 0, &counts(8));
        history.observe(start + EVERY, 5, &counts(8));
        assert_eq!(history.columns().hit_ratio, [None]);
    }

    #[test]
    fn today_begins_at_midnight() {
        let (start, mut history) = (Instant::now(), History::default());
        let evening = 20_000 * DAY - 10;
        history.observe(start, evening, &counts(100));
        assert_eq!(history.saved_today(50), 50);
        history.observe(start + Duration::from_secs(10), evening + 10, &counts(140));
        assert_eq!(history.saved_today(70), 0);
        history.observe(start + Duration::from_secs(20), evening + 20, &counts(200));
        assert_eq!(history.saved_today(100), 30);
    }
}
