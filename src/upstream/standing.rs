//! How the budgets stand: what metrics, the status page and tests read. Nothing here is on a request's path.

use tokio::time::Instant;

use super::address::Waiting;
use super::breaker;
use super::budget::Budgets;
use super::ledger::{Ledger, Standing};
use super::obstacle::Obstacle;
use crate::domain::access::{AccountHash, Name, Upstream};
use crate::domain::bucket::Rate;
use crate::domain::hindrance::Share;

/// How one upstream stands.
#[derive(Clone, Debug)]
pub struct UpstreamStanding {
    /// Its name.
    pub name: Name,
    /// The calls in flight.
    pub in_flight: usize,
    /// The calls in line.
    pub waiting: usize,
    /// The calls that went only because of `dry_run`.
    pub would_have_waited: u64,
    /// Whether calls go through.
    pub breaker: breaker::State,
    /// The failures of its address in the present window.
    pub failed: usize,
    /// How many there may be, with the calls that may yet fail; `None` is unlimited.
    pub failures_allowed: Option<usize>,
    /// The shares of the failure budget that are used up, each with the consumer that it is for, if it is for one.
    pub held_back: Vec<(Option<Name>, Share)>,
}

impl UpstreamStanding {
    /// Whether no call goes to it, since too many have failed.
    pub fn is_blocked(&self) -> bool {
        self.breaker != breaker::State::Closed || self.failures_allowed.is_some_and(|allowed| self.failed >= allowed)
    }
}

/// How one account stands at its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountStanding {
    /// What may be sent; `None` is unlimited.
    pub rate: Option<Rate>,
    /// How many calls could go at this moment; `None` is unlimited.
    pub remaining: Option<u32>,
    /// The calls in line for it.
    pub waiting: usize,
    /// Until when Merge wants no call for it.
    pub paused_until: Option<Instant>,
    /// What stands in the way of a call, for a consumer whose calls have not failed.
    pub obstacle: Option<Obstacle>,
}

impl Budgets {
    /// All upstreams that have been called.
    pub fn upstreams(&self) -> Vec<UpstreamStanding> {
        let now = Instant::now();
        let of_address = |ledger: &Ledger, line: &Waiting| {
            let (failed, _, failures_allowed) = ledger.failures().standing();
            let standing = |(name, upstream): (&Name, &Standing)| {
                // A dry run lets all go, whatever has failed.
                let binds = !upstream.rules.dry_run;
                UpstreamStanding {
                    name: name.clone(),
                    in_flight: usize::try_from(upstream.in_flight).unwrap_or(usize::MAX),
                    waiting: line.count(|bid| bid.account.0 == *name),
                    would_have_waited: upstream.would_have_waited,
                    breaker: if binds { upstream.breaker.state(now) } else { breaker::State::Closed },
                    failed,
                    failures_allowed: failures_allowed.filter(|_| binds),
                    held_back: if binds { ledger.held_back(name, now) } else { Vec::new() },
                }
            };
            ledger.upstreams().map(standing).collect::<Vec<_>>()
        };
        let (ways, places) = self.places();
        let mut all = Vec::new();
        for (endpoint, address) in places {
            let mut standings = address.read(of_address);
            // One that is in force elsewhere, or no more, may still have calls here that wait or are in flight.
            standings.retain(|standing| ways.rules_at(&endpoint, &standing.name).is_some());
            all.append(&mut standings);
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// One account, if it has been called.
    pub fn account(&self, upstream: &Upstream, account: AccountHash) -> Option<AccountStanding> {
        let key = (upstream.name.clone(), account);
        let now = Instant::now();
        self.address(upstream).read(|ledger, line| {
            let account = ledger.account(key.1)?;
            let (rate, remaining) = account.standing(now);
            let waiting = line.count(|bid| bid.account == key);
            let (paused_until, obstacle) = (account.paused_until(now), ledger.obstacle_for(&key, now));
            Some(AccountStanding { rate, remaining, waiting, paused_until, obstacle })
        })
    }

    /// What stands in the way of a call for one account, for a consumer whose calls have not failed.
    pub fn obstacle(&self, upstream: &Upstream, account: AccountHash) -> Option<Obstacle> {
        let key = (upstream.name.clone(), account);
        self.address(upstream).read(|ledger, _| ledger.obstacle_for(&key, Instant::now()))
    }

    /// How many calls are in line.
    pub fn waiting(&self) -> usize {
        self.addresses().iter().map(|address| address.read(|_, line| line.len())).sum()
    }

    /// The calls in flight to `upstream`.
    pub fn in_flight(&self, upstream: &str) -> usize {
        self.upstreams().iter().find(|standing| *standing.name == *upstream).map_or(0, |standing| standing.in_flight)
    }
}
