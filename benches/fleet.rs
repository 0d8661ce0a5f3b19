//! What a lifetime policy costs and what it misses: a day of a thousand linked accounts, in virtual time.
//!
//! Each account syncs on a schedule of its own (hourly to daily), for 1 to 40 minutes give or take a tenth, and is resynced by hand
//! about once a day. Forty consumers poll it every 10 s. Shown is, for each policy, what goes to Merge, and how long after the end
//! of a sync the first consumer is answered with it. The policy of the proxy is the real one, fed with what pages say.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of a few days and shares of a list, all within bounds"
)]

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use clap::Parser;
use fastrand::Rng;
use merge_sync_proxy::cache::freshness;
use merge_sync_proxy::domain::exchange::Policy;
use merge_sync_proxy::domain::history::History;
use merge_sync_proxy::domain::received::{Run, SyncDigest};
use merge_sync_proxy::domain::rules::{CacheRule, Lifetimes};

#[path = "support/say.rs"]
mod say;

/// Simulates a day of linked accounts and those who poll them, in virtual time: what each policy of lifetimes costs and what it misses.
#[derive(Parser)]
#[command(name = "fleet")]
struct Options {
    /// How many accounts; the figures are for a thousand.
    #[arg(long, default_value_t = ACCOUNTS, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    accounts: u64,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

const ACCOUNTS: u64 = 1000;
const CONSUMERS: usize = 40;
const POLL: f64 = 10.0;
const DAY: f64 = 24.0 * 3600.0;
const HOURS: f64 = 24.0;
/// From a call to its answer, in seconds.
const LATENCY: f64 = 0.1;
/// What Merge allows in any minute.
const LIMIT: usize = 100;
/// Direct polling makes 350 million requests a day; all accounts fare alike, so a few of them tell.
const SAMPLE: u64 = 20;

/// One linked account and one day of its syncs.
struct Account {
    /// Start and end of each sync, in seconds, in order.
    syncs: Vec<(f64, f64)>,
    period: f64,
    first: f64,
    /// When in each ten seconds which consumer asks, in order.
    phases: Vec<f64>,
}

impl Account {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let period = 3600.0 * rng.choice([1.0, 2.0, 4.0, 6.0, 12.0, 24.0]).expect("there are six");
        let usual = 60.0 * (1.0 + 39.0 * rng.f64());
        let first = period * (rng.f64() - 1.0);
        // Two days of history before the day that counts, as a proxy that has run for a while has seen.
        let mut starts: Vec<f64> = Vec::new();
        let mut start = first - 2.0 * DAY.max(period);
        while start < DAY {
            starts.push(start);
            start += period;
        }
        let mut by_hand = -2.0 * DAY;
        loop {
            by_hand += -DAY * (1.0 - rng.f64()).ln();
            if by_hand >= DAY {
                break;
            }
            starts.push(by_hand);
        }
        starts.sort_by(f64::total_cmp);
        let mut syncs: Vec<(f64, f64)> = Vec::new();
        for start in starts {
            // What is asked for while a sync runs does not start another.
            if syncs.last().is_none_or(|(_, end)| *end < start) {
                syncs.push((start, start + usual * (0.9 + 0.2 * rng.f64())));
            }
        }
        let mut phases: Vec<f64> = std::iter::repeat_with(|| rng.f64() * POLL).take(CONSUMERS).collect();
        phases.sort_by(f64::total_cmp);
        Self { syncs, period, first, phases }
    }

    /// The first request at or after `time`.
    fn request(&self, time: f64) -> f64 {
        let round = (time / POLL).floor();
        let phase = time - round * POLL;
        match self.phases.iter().find(|known| **known >= phase) {
            Some(known) => round * POLL + known,
            None => (round + 1.0) * POLL + self.phases[0],
        }
    }

    /// What a page says at `time`.
    fn page(&self, time: f64) -> SyncDigest {
        let begun = self.syncs.partition_point(|(start, _)| *start <= time);
        let last = begun.checked_sub(1).map(|place| self.syncs[place]);
        let under_way = last.filter(|(_, end)| *end > time).map(|(start, _)| seconds(time - start));
        let whole = if under_way.is_some() { None } else { last };
        let next = self.first + self.period * ((time - self.first) / self.period).floor() + self.period;
        SyncDigest {
            json: true,
            results: true,
            changing: false,
            next_start: under_way.is_none().then(|| seconds(next - time)),
            runs: vec![Run {
                model: 0,
                under_way,
                finished: whole.map(|(start, end)| (stamp(start), seconds(end - start))),
            }],
        }
    }

    fn ends(&self) -> impl Iterator<Item = f64> {
        self.syncs.iter().map(|(_, end)| *end).filter(|end| (0.0..DAY).contains(end))
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

/// Seconds of an epoch before all syncs.
fn stamp(time: f64) -> u32 {
    // Within ten days of the start of the day, so neither negative nor large.
    (time + 10.0 * DAY) as u32
}

/// What came of a policy.
#[derive(Default)]
struct Outcome {
    calls: u64,
    refused: u64,
    accounts: u64,
    delays: Vec<f64>,
}

impl Outcome {
    fn row(&mut self, name: &str) -> String {
        self.delays.sort_by(f64::total_cmp);
        let delay = |share: f64| self.delays[((self.delays.len() - 1) as f64 * share) as usize];
        let scale = ACCOUNTS as f64 / self.accounts as f64;
        format!(
            "{name:<42} {:>12.0} {:>10.1} {:>12.0} {:>8.1} {:>8.1}",
            self.calls as f64 * scale,
            self.calls as f64 / self.accounts as f64 / HOURS,
            self.refused as f64 * scale,
            delay(0.5),
            delay(0.99),
        )
    }
}

/// Every request goes to Merge, which refuses what is above its limit.
fn directly(outcome: &mut Outcome, account: &Account) {
    let mut window: VecDeque<f64> = VecDeque::new();
    let mut ends = account.ends().peekable();
    let mut time = account.request(-60.0);
    while time < DAY + 60.0 {
        while window.front().is_some_and(|first| *first <= time - 60.0) {
            window.pop_front();
        }
        let counts = (0.0..DAY).contains(&time);
        outcome.calls += u64::from(counts);
        if window.len() < LIMIT {
            window.push_back(time);
            while let Some(end) = ends.next_if(|end| *end <= time) {
                outcome.delays.push(time + LATENCY - end);
            }
        } else {
            outcome.refused += u64::from(counts);
        }
        time = account.request(time + 1e-6);
    }
}

/// A cache asks again at the first request after the page's lifetime. If it serves the stale page meanwhile, the news is seen by
/// the first request after the answer.
fn cached(outcome: &mut Outcome, account: &Account, serves_stale: bool, mut lifetime: impl FnMut(&SyncDigest) -> f64) {
    let mut ends = account.ends().peekable();
    let mut time = account.request(-DAY);
    while ends.peek().is_some() || time < DAY {
        outcome.calls += u64::from((0.0..DAY).contains(&time));
        let answered = time + LATENCY;
        let seen = if serves_stale { account.request(answered) } else { answered };
        // Merge looks half-way between call and answer.
        let looked = time + LATENCY / 2.0;
        while let Some(end) = ends.next_if(|end| *end <= looked) {
            outcome.delays.push(seen - end);
        }
        let fresh = lifetime(&account.page(looked));
        time = account.request(time + fresh.max(LATENCY));
    }
}

fn policy(lifetimes: Lifetimes) -> impl Fn(&mut Outcome, &Account) {
    move |outcome, account| {
        let policy = Policy { rule: CacheRule::SyncStatus, lifetimes, max_page_bytes: usize::MAX };
        let mut history = History::default();
        let mut rng = Rng::with_seed(7);
        cached(outcome, account, true, |page| {
            history = history.learn(&page.runs);
            freshness::lifetime(&policy, page, &history, rng.f32()).fresh.as_secs_f64()
        });
    }
}

fn run(name: &str, accounts: u64, play: impl Fn(&mut Outcome, &Account)) -> std::io::Result<()> {
    let mut outcome = Outcome { accounts, ..Outcome::default() };
    for seed in 0..accounts {
        play(&mut outcome, &Account::new(seed));
    }
    writeln!(std::io::stdout(), "{}", outcome.row(name))
}

fn main() -> std::io::Result<()> {
    // `cargo test --benches` only wants to know that it runs.
    let accounts = say::options().map_or(10, |options: Options| options.accounts);
    writeln!(
        std::io::stdout(),
        "{ACCOUNTS} linked accounts, {CONSUMERS} consumers polling each every {POLL} s, 24 hours\n\n{:<42} {:>12} {:>10} {:>12} {:>8} {:>8}",
        "",
        "calls",
        "per hour",
        "429s",
        "p50 s",
        "p99 s"
    )?;
    run("direct polling (sampled)", SAMPLE.min(accounts), directly)?;
    for ttl in [5.0, 30.0, 60.0] {
        run(&format!("fixed lifetime of {ttl} s"), accounts, |outcome, account| {
            cached(outcome, account, false, |_| ttl);
        })?;
    }
    let defaults = Lifetimes::default();
    run("this policy, defaults", accounts, policy(defaults))?;
    let wide = Lifetimes { syncing: Duration::from_secs(60), settled: Duration::from_secs(180), ..defaults };
    run("this policy, syncing = 60s, settled = 3min", accounts, policy(wide))?;
    Ok(())
}
