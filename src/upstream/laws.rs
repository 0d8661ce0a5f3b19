//! What holds of one address whatever happens to it in whatever order: calls that come, go, wait, leave and end, and rules that
//! change meanwhile. Beside it runs the simplest thing that could count: a list of all that went out.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};

use super::address::{Address, Permit, Refused};
use super::bid::{Bid, Ending, tests::bid};
use super::failures::AccountKey;
use crate::domain::bucket::Rate;
use crate::domain::problem::Problem;
use crate::domain::rules::BudgetRules;

const MINUTE: Duration = Duration::from_secs(60);
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// The rules of a configuration.
#[derive(Clone, Copy, Debug)]
struct Config {
    rate: Option<Rate>,
    rules: BudgetRules,
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A call for that account, by that consumer, that waits for so many milliseconds.
    Ask(u8, usize, u64),
    /// One of the calls in flight ends like that.
    End(usize, u8),
    /// One of the calls in flight is given up.
    GiveUp(usize),
    /// One of those in line leaves.
    Leave(usize),
    /// Time passes, in milliseconds.
    Pass(u64),
    /// The rules are others.
    Reload(Config),
}

fn configs() -> impl Strategy<Value = Config> {
    let rate = prop::sample::select(vec![Some(5), Some(20), Some(100)]);
    let concurrency = prop::sample::select(vec![Some(1), Some(4), None]);
    let errors = prop::sample::select(vec![2, 10]);
    let breaker = prop::sample::select(vec![None, Some(3)]);
    (rate, concurrency, errors, breaker, 1_u32..6).prop_map(|(rate, concurrency, errors, breaker, max_waiting)| {
        Config {
            rate: rate.and_then(|count| Rate::new(count, MINUTE)),
            rules: BudgetRules {
                concurrency,
                errors: Rate::new(errors, TEN_SECONDS),
                breaker: breaker.and_then(NonZeroU32::new),
                max_waiting,
                ..BudgetRules::default()
            },
        }
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => (0_u8..3, 0_usize..3, 0_u64..30_000).prop_map(|(account, payer, wait)| Event::Ask(account, payer, wait)),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(which, how)| Event::End(which, how)),
        1 => any::<usize>().prop_map(Event::GiveUp),
        2 => any::<usize>().prop_map(Event::Leave),
        6 => (0_u64..4_000).prop_map(Event::Pass),
        1 => configs().prop_map(Event::Reload),
    ];
    prop::collection::vec(event, 1..200)
}

/// Until when somebody waits, and for whom.
type Waiter = (Instant, JoinHandle<Result<Permit, Refused>>, AccountKey);

/// What has gone out, and what has become of it.
struct World {
    address: Arc<Address>,
    config: Arc<Mutex<Config>>,
    /// The most that was allowed at any time.
    most: Config,
    waiting: Vec<Waiter>,
    flying: Vec<(Permit, AccountKey)>,
    sent: Vec<(AccountKey, Instant)>,
    failed: Vec<Instant>,
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            address: Arc::default(),
            config: Arc::new(Mutex::new(config)),
            most: config,
            waiting: Vec::new(),
            flying: Vec::new(),
            sent: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn ask(&mut self, account: u8, payer: usize, wait: u64) {
        let bid = bid(["a", "b", "c"][payer], account, 1);
        let (address, until) = (self.address.clone(), Instant::now() + Duration::from_millis(wait));
        let (key, config) = (bid.account.clone(), self.config.clone());
        let bid = move || {
            let Config { rate, rules } = *config.lock();
            Bid { rate, rules, ..bid }
        };
        self.waiting.push((until, tokio::spawn(async move { address.reserve(bid, until).await }), key));
    }

    fn end(&mut self, which: usize, how: u8) {
        if self.flying.is_empty() {
            return;
        }
        let (mut permit, _) = self.flying.swap_remove(which % self.flying.len());
        let (ending, failed) = match how % 8 {
            0 => (Ending::Answered(500), true),
            1 => (Ending::Answered(404), true),
            2 => (Ending::TooLate, true),
            3 => (Ending::Silent, false),
            4 => (Ending::Limited(None), false),
            5 => (Ending::Broken, false),
            _ => (Ending::Answered(200), false),
        };
        permit.ended(ending, None);
        self.failed.extend(failed.then(Instant::now));
    }

    fn reload(&mut self, config: Config) {
        *self.config.lock() = config;
        self.most.rate = larger(self.most.rate, config.rate);
        self.most.rules.errors = larger(self.most.rules.errors, config.rules.errors);
        self.address.take_over(|_| Some(config.rules), |_, _| config.rate, |_| false);
    }

    /// Lets every task do what it can do now, and sees what came of it.
    async fn settle(&mut self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let now = Instant::now();
        let mut still = Vec::new();
        for (until, task, key) in std::mem::take(&mut self.waiting) {
            if !task.is_finished() {
                assert!(now <= until, "nobody waits for longer than it has time");
                still.push((until, task, key));
                continue;
            }
            match task.await {
                Ok(Ok(permit)) => {
                    self.sent.push((key.clone(), now));
                    self.flying.push((permit, key));
                }
                Ok(Err(Refused::Problem(Problem::BudgetExhausted { .. } | Problem::Overloaded { .. }))) => {}
                Ok(Err(refused)) => panic!("{refused:?}"),
                Err(left) => assert!(left.is_cancelled()),
            }
        }
        self.waiting = still;
        self.check(now);
    }

    fn check(&self, now: Instant) {
        let (free, line, in_flight, risked) = self.address.read(|ledger, line| {
            let free = line.count(|bid| ledger.obstacle(bid, 0, now).is_none());
            let in_flight = ledger.upstreams().map(|(_, standing)| standing.in_flight).sum::<u32>();
            (free, line.len(), in_flight as usize, ledger.failures().standing().1)
        });
        assert_eq!(free, 0, "nobody waits who may go");
        assert_eq!((line, in_flight, risked), (self.waiting.len(), self.flying.len(), self.flying.len()));
    }
}

/// The one that allows more.
fn larger(one: Option<Rate>, other: Option<Rate>) -> Option<Rate> {
    one.zip(other).map(|(one, other)| if one.count > other.count { one } else { other })
}

/// No window holds more than the rate.
fn assert_window(times: &[Instant], rate: Rate, what: &str) {
    let beyond = times.iter().zip(times.iter().skip(rate.count.get() as usize));
    for (first, beyond) in beyond {
        assert!(*beyond - *first > rate.window, "more than {rate} {what}");
    }
}

async fn play(first: Config, events: Vec<Event>) {
    let mut world = World::new(first);
    for event in events {
        match event {
            Event::Ask(account, payer, wait) => world.ask(account, payer, wait),
            Event::End(which, how) => world.end(which, how),
            Event::GiveUp(which) => {
                if !world.flying.is_empty() {
                    let at = which % world.flying.len();
                    drop(world.flying.swap_remove(at));
                    world.failed.push(Instant::now());
                }
            }
            Event::Leave(which) => {
                if !world.waiting.is_empty() {
                    let at = which % world.waiting.len();
                    world.waiting[at].1.abort();
                }
            }
            Event::Pass(milliseconds) => advance(Duration::from_millis(milliseconds)).await,
            Event::Reload(config) => world.reload(config),
        }
        world.settle().await;
    }
    if let Some(rate) = world.most.rate {
        for account in 0..3 {
            let key = bid("a", account, 1).account;
            let times: Vec<_> = world.sent.iter().filter(|(of, _)| *of == key).map(|(_, at)| *at).collect();
            assert_window(&times, rate, "calls of an account");
        }
    }
    if let Some(errors) = world.most.rules.errors {
        assert_window(&world.failed, errors, "failures");
    }
    world.flying.clear();
    world.waiting.iter().for_each(|(_, task, _)| task.abort());
    world.waiting.clear();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    let (line, in_flight) = world
        .address
        .read(|ledger, line| (line.len(), ledger.upstreams().map(|(_, standing)| standing.in_flight).sum::<u32>()));
    assert_eq!((line, in_flight), (0, 0));
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0, "the watch has ended");
}

proptest! {
    #[test]
    fn no_limit_is_crossed_nobody_is_forgotten_and_nothing_is_left_behind(first in configs(), events in events()) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(play(first, events));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_among_failures_goes_when_one_is_forgotten_although_a_call_still_hangs() {
    let (address, began) = (Arc::new(Address::default()), Instant::now());
    let mut one = bid("a", 1, 1);
    one.rules.errors = Rate::new(2, TEN_SECONDS);
    one.rules.breaker = None;
    let mut failed = address.reserve(|| one.clone(), began).await.expect("it may go");
    failed.ended(Ending::Answered(500), None);
    drop(failed);
    let _hangs = address.reserve(|| one.clone(), began).await.expect("it may go");
    let permit = address.reserve(|| one, began + MINUTE).await;
    assert!(permit.is_ok());
    assert!(began.elapsed() < TEN_SECONDS * 11 / 10, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_may_go_in_the_very_moment_in_which_time_is_up_goes() {
    for _ in 0..20 {
        let (address, began) = (Arc::new(Address::default()), Instant::now());
        let one = Bid { rate: Rate::new(60, MINUTE), ..bid("a", 1, 1) };
        for _ in 0..12 {
            address.reserve(|| one.clone(), began).await.expect("it may go").ended(Ending::Answered(200), None);
        }
        let due = address.read(|ledger, _| ledger.obstacle(&one, 0, began)).and_then(|of| of.until).expect("a rate");
        assert!(address.reserve(|| one, due).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_share_of_the_failures_goes_as_the_probe_of_a_breaker_that_has_opened_meanwhile() {
    let (address, began) = (Arc::new(Address::default()), Instant::now());
    let of = |payer, account| Bid {
        rules: BudgetRules { breaker: NonZeroU32::new(4), ..bid("a", 0, 1).rules },
        ..bid(payer, account, 1)
    };
    address.reserve(|| of("b", 9), began).await.expect("it may go").ended(Ending::Answered(200), None);
    for account in 0..4 {
        address.reserve(|| of("a", account), began).await.expect("it may go").ended(Ending::Answered(500), None);
    }
    let probe = address.reserve(|| of("a", 4), began + MINUTE).await.expect("in time");
    assert!(probe.is_probe() && began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
}
