//! All that is known of the calls to one address: what each account and upstream has spent, and so what may go now.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::account_budget::AccountBudget;
use super::bid::{Bid, Ending, Ticket};
use super::breaker::{Breaker, Sign, State};
use super::failures::{AccountKey, Failures, Suspect};
use super::obstacle::{Kind, Obstacle};
use super::rate_limit_fields::Left;
use crate::domain::access::{AccountHash, Name};
use crate::domain::bucket::Rate;
use crate::domain::hindrance::Share;
use crate::domain::received::Received;
use crate::domain::rules::BudgetRules;

/// The state of one address. Its time is given to it.
#[derive(Debug, Default)]
pub struct Ledger {
    upstreams: HashMap<Name, Standing, RandomState>,
    accounts: HashMap<AccountKey, AccountBudget, RandomState>,
    payers: HashSet<Name, RandomState>,
    /// How many accounts are proven.
    proven: usize,
    failures: Failures,
    /// The number of accounts at which those that are unspent are dropped next.
    sweep_at: usize,
}

/// How one upstream stands.
#[derive(Debug, Default)]
pub struct Standing {
    /// Its rules, as of the last call or reload.
    pub rules: BudgetRules,
    /// The calls in flight.
    pub in_flight: u32,
    /// Its breaker.
    pub breaker: Breaker,
    /// How many calls were refused.
    pub refused: u64,
    /// How many calls went only because of `dry_run`.
    pub would_have_waited: u64,
    /// Whether it is in force here no more, and stays for the calls in flight.
    gone: bool,
}

/// Below this many accounts nothing is ever swept.
const FEW_ACCOUNTS: usize = 1024;

impl Ledger {
    /// Makes room for what `bid` is about, by its rules. Accounts that somebody `waits` for keep theirs.
    pub fn fit(&mut self, bid: &Bid, waits: impl Fn(&AccountKey) -> bool, now: Instant) {
        let upstream = self.upstreams.entry(bid.account.0.clone()).or_default();
        if upstream.rules != bid.rules {
            upstream.rules = bid.rules;
        }
        upstream.gone = false;
        self.failures.allow(bid.rules.errors);
        self.failures.forget(now);
        if !self.payers.contains(&bid.payer.name) {
            self.payers.insert(bid.payer.name.clone());
        }
        if self.accounts.len() >= self.sweep_at.max(FEW_ACCOUNTS) {
            self.accounts.retain(|key, account| !account.is_unspent(now) || waits(key));
            self.sweep_at = self.accounts.len() * 2;
        }
        let account = self.accounts.entry(bid.account.clone());
        account.or_insert_with(|| AccountBudget::new(bid.rate, now)).allow(bid.rate, now);
    }

    /// What stands in the way of the call that goes after `ahead` others of its account: of several things the one that lasts.
    pub fn obstacle(&self, bid: &Bid, ahead: u32, now: Instant) -> Option<Obstacle> {
        self.before(&self.suspect(&bid.account, &bid.payer.name), ahead, now)
    }

    /// What would stand in the way of a call for `account` by a consumer whose calls have not failed.
    pub fn obstacle_for(&self, account: &AccountKey, now: Instant) -> Option<Obstacle> {
        // No consumer has this name.
        self.before(&self.suspect(account, &"".into()), 0, now)
    }

    /// Which shares of the failure budget failures alone have used up: that of all accounts that are not proven, or else those of
    /// consumers, by name.
    pub fn held_back(&self, upstream: &Name, now: Instant) -> Vec<(Option<Name>, Share)> {
        let nobody = (upstream.clone(), AccountHash([0; 16]));
        let share = |payer: &Name| match self.before(&self.suspect(&nobody, payer), 0, now)? {
            Obstacle { kind: Kind::Failures(share), until: Some(_) } => Some(share),
            _ => None,
        };
        if let Some(share) = share(&"".into()) {
            return vec![(None, share)];
        }
        let mut consumers: Vec<_> =
            self.failures.payers().filter_map(|payer| Some((Some(payer.clone()), share(payer)?))).collect();
        consumers.sort_by(|(one, _), (other, _)| one.cmp(other));
        consumers
    }

    fn before(&self, suspect: &Suspect, ahead: u32, now: Instant) -> Option<Obstacle> {
        let upstream = self.upstreams.get(&suspect.account.0);
        let is_full = |of: &Standing| of.rules.concurrency.is_some_and(|places| of.in_flight >= places);
        let full = upstream.is_some_and(is_full);
        // The call that shows whether the upstream is well again is for everybody, and may take a place that is kept for others.
        let probe = upstream.is_some_and(|upstream| upstream.breaker.state(now) == State::HalfOpen);
        let others = !probe && (self.payers.len() > 1 || self.proven > 0);
        let all = [
            upstream.and_then(|upstream| upstream.breaker.obstacle(now)),
            self.accounts.get(&suspect.account).and_then(|account| account.obstacle(now, ahead)),
            self.failures.obstacle(suspect, others),
            full.then_some(Obstacle::busy(Kind::Concurrency)),
        ];
        all.into_iter().flatten().reduce(|one, other| if other.until > one.until { other } else { one })
    }

    fn suspect(&self, account: &AccountKey, payer: &Name) -> Suspect {
        let proven = self.accounts.get(account).is_some_and(AccountBudget::is_proven);
        Suspect { account: account.clone(), payer: payer.clone(), proven }
    }

    /// The refusal that answers `bid` without a call: it was the last word on its account's token.
    pub fn remembered(&self, bid: &Bid) -> Option<Arc<Received>> {
        self.accounts.get(&bid.account)?.refusal().cloned()
    }

    /// The call goes out.
    pub fn send(&mut self, bid: &Bid, now: Instant) -> Ticket {
        let suspect = self.suspect(&bid.account, &bid.payer.name);
        self.failures.risk(&suspect);
        // What was swept while the call was in line was as it is when it is made anew.
        let upstream = self.upstreams.entry(bid.account.0.clone()).or_default();
        upstream.in_flight += 1;
        let probe = upstream.breaker.sent(now);
        let account = self.accounts.entry(bid.account.clone());
        let first_after_pause = account.or_insert_with(|| AccountBudget::new(bid.rate, now)).spend(now);
        Ticket { suspect, probe, first_after_pause }
    }

    /// How a call has ended, as soon as that is known; says until when the account is paused. `jitter` is from 0 to 1.
    pub fn ended(&mut self, ticket: &Ticket, ending: Ending, now: Instant, jitter: f32) -> Option<Instant> {
        let account_key = &ticket.suspect.account;
        let sign = match &ending {
            Ending::Silent | Ending::TooLate => Some(Sign::Silent),
            Ending::Broken => None,
            Ending::Answered(500..) => Some(Sign::Broken(account_key.1)),
            Ending::Answered(_) | Ending::Refused(_) | Ending::Limited(_) => Some(Sign::Alive),
        };
        let failed = matches!(ending, Ending::Refused(_) | Ending::Answered(400..) | Ending::TooLate);
        self.failures.ended(&ticket.suspect, failed, now);
        match sign {
            Some(sign) => self.breaker(ticket, sign, now, jitter),
            None if ticket.probe => self.given_up(&account_key.0),
            None => {}
        }
        let account = self.accounts.get_mut(account_key)?;
        let (well, refusal) = match ending {
            Ending::Limited(until) => return Some(account.refused(until, now, jitter)),
            Ending::TooLate => {
                self.proven -= usize::from(account.was_too_late());
                return None;
            }
            Ending::Silent | Ending::Broken => return None,
            Ending::Answered(status) => (status < 400, None),
            Ending::Refused(refusal) => (false, Some(refusal)),
        };
        if account.answered(well, refusal) {
            self.proven = if well { self.proven + 1 } else { self.proven - 1 };
        }
        None
    }

    fn breaker(&mut self, ticket: &Ticket, sign: Sign, now: Instant, jitter: f32) {
        let upstream = &ticket.suspect.account.0;
        let Some(standing) = self.upstreams.get_mut(upstream) else { return };
        // While it waits for a probe, a failure of a call that went out before it opened says nothing new.
        if standing.breaker.state(now) == State::HalfOpen && !ticket.probe && sign != Sign::Alive {
            return;
        }
        if !standing.breaker.learn(sign, standing.rules.breaker, now, jitter) {
            return;
        }
        let State::Open { until } = standing.breaker.state(now) else {
            tracing::warn!(target: "budget", %upstream, state = "closed", "calls to {upstream} may go again");
            return;
        };
        let seconds = (until.saturating_duration_since(now).as_secs_f64() * 10.0).round() / 10.0;
        let failures = standing.breaker.streak();
        tracing::warn!(target: "budget", %upstream, state = "open", seconds, failures,
            "calls to {upstream} are stopped for {seconds} s: {failures} failures in a row");
    }

    fn given_up(&mut self, upstream: &Name) {
        if let Some(standing) = self.upstreams.get_mut(upstream) {
            standing.breaker.given_up();
        }
    }

    /// What the upstream says is left for the account.
    pub fn learn(&mut self, account: &AccountKey, left: Left, now: Instant) {
        if let Some(account) = self.accounts.get_mut(account) {
            account.learn(left, now);
        }
    }

    /// A call is over. If nobody knows how it `ended`, it counts as failed: it may yet fail on its way.
    pub fn release(&mut self, ticket: &Ticket, ended: bool, now: Instant) {
        let account = &ticket.suspect.account;
        if !ended {
            self.failures.ended(&ticket.suspect, true, now);
        }
        if let Some(upstream) = self.upstreams.get_mut(&account.0) {
            upstream.in_flight -= 1;
            if upstream.gone && upstream.in_flight == 0 {
                self.upstreams.remove(&account.0);
            }
        }
        if ticket.probe && !ended {
            self.given_up(&account.0);
        }
        if let Some(account) = self.accounts.get_mut(account) {
            account.release(ticket.first_after_pause);
        }
    }

    /// A call did not go after all.
    pub fn unsent(&mut self, ticket: &Ticket, now: Instant) {
        self.failures.ended(&ticket.suspect, false, now);
        self.release(ticket, true, now);
        if ticket.probe {
            self.given_up(&ticket.suspect.account.0);
        }
    }

    /// Forgets what is older than its window.
    pub fn forget(&mut self, now: Instant) {
        self.failures.forget(now);
    }

    /// A call was refused, or went only because of `dry_run`.
    pub fn note(&mut self, bid: &Bid, went_anyway: bool) {
        if let Some(upstream) = self.upstreams.get_mut(&bid.account.0) {
            *if went_anyway { &mut upstream.would_have_waited } else { &mut upstream.refused } += 1;
        }
    }

    /// Takes over the rules that are in force now; upstreams that have none are not at this address any more.
    pub fn take_over(&mut self, rules: impl Fn(&Name) -> Option<BudgetRules>) {
        self.upstreams.retain(|name, standing| {
            let Some(rules) = rules(name) else {
                standing.gone = true;
                return standing.in_flight > 0;
            };
            standing.rules = rules;
            self.failures.allow(rules.errors);
            true
        });
    }

    /// Takes the limit over that is in force for an account, if it has been asked for.
    pub fn limit(&mut self, account: &AccountKey, rate: Option<Rate>, now: Instant) {
        if let Some(account) = self.accounts.get_mut(account) {
            account.allow(rate, now);
        }
    }

    /// Forgets what an upstream has refused: it was asked with another key.
    pub fn forget_refusals(&mut self, upstream: &Name) {
        let all = self.accounts.iter_mut().filter(|((name, _), _)| name == upstream);
        all.for_each(|(_, account)| account.forget_refusal());
    }

    /// All upstreams that are at the address.
    pub fn upstreams(&self) -> impl Iterator<Item = (&Name, &Standing)> {
        self.upstreams.iter().filter(|(_, standing)| !standing.gone)
    }

    /// The budget of one account, if it has been used.
    pub fn account(&self, account: &AccountKey) -> Option<&AccountBudget> {
        self.accounts.get(account)
    }

    /// The failures of the address.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::bid::tests::bid;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn send(ledger: &mut Ledger, bid: &Bid, now: Instant) -> Ticket {
        ledger.fit(bid, |_| false, now);
        assert_eq!(ledger.obstacle(bid, 0, now), None);
        ledger.send(bid, now)
    }

    fn end(ledger: &mut Ledger, ticket: &Ticket, status: u16, now: Instant) {
        ledger.ended(ticket, Ending::Answered(status), now, 0.0);
        ledger.release(ticket, true, now);
    }

    #[test]
    fn of_several_obstacles_the_one_that_lasts_is_told() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let mut one = bid("a", 1, 1);
        one.rules.concurrency = Some(1);
        let ticket = send(&mut ledger, &one, now);
        assert_eq!(ledger.obstacle(&one, 0, now), Some(Obstacle::busy(Kind::Concurrency)));
        let until = now + Duration::from_secs(30);
        ledger.ended(&ticket, Ending::Limited(Some(until)), now, 0.0);
        assert_eq!(ledger.obstacle(&one, 0, now), Some(Obstacle::until(Kind::Pause, until)));
    }

    #[test]
    fn a_call_that_was_given_up_may_have_failed() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let one = bid("a", 1, 1);
        let ticket = send(&mut ledger, &one, now);
        ledger.release(&ticket, false, now);
        assert_eq!(ledger.failures().standing(), (1, 0, Some(10)));
        assert!(ledger.upstreams().all(|(_, upstream)| upstream.in_flight == 0));
    }

    #[test]
    fn proven_accounts_are_counted_and_one_failure_ends_it() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for (account, status, proven) in [(1, 200, 1), (2, 304, 2), (1, 200, 2), (1, 500, 1), (3, 404, 1), (1, 200, 2)]
        {
            let ticket = send(&mut ledger, &bid("a", account, 1), now);
            end(&mut ledger, &ticket, status, now);
            assert_eq!(ledger.proven, proven, "account {account}, {status}");
        }
    }

    #[test]
    fn upstreams_of_one_address_share_its_failures() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let mut other = bid("a", 2, 1);
        other.account.0 = "eu".into();
        other.rules.errors = Rate::new(2, Duration::from_secs(10));
        for _ in 0..2 {
            let ticket = send(&mut ledger, &bid("a", 1, 1), now);
            end(&mut ledger, &ticket, 500, now);
        }
        ledger.fit(&other, |_| false, now);
        let obstacle = ledger.obstacle(&other, 0, now).map(|obstacle| obstacle.kind.label());
        assert_eq!(obstacle, Some("failures"));
    }

    #[test]
    fn an_account_that_is_swept_while_somebody_waits_for_it_is_charged_all_the_same() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let waiting = bid("a", 0, 1);
        let fill = |ledger: &mut Ledger, waits: bool| {
            ledger.fit(&waiting, |_| false, now);
            for account in 0..2_000_u32 {
                let mut other = bid("a", 1, 1);
                other.account.1.0[..4].copy_from_slice(&account.to_be_bytes());
                ledger.fit(&other, |key| waits && *key == waiting.account, now);
            }
        };
        fill(&mut ledger, true);
        assert!(ledger.account(&waiting.account).is_some(), "somebody waits for it");
        fill(&mut ledger, false);
        assert!(ledger.account(&waiting.account).is_none());
        let ticket = ledger.send(&waiting, now);
        ledger.fit(&waiting, |_| false, now);
        end(&mut ledger, &ticket, 200, now);
        let account = ledger.account(&waiting.account).expect("it was charged");
        assert!(account.is_proven() && ledger.proven == 1);
    }

    #[test]
    fn rules_that_are_taken_over_count_at_once_and_who_has_none_is_forgotten_when_its_calls_are_over() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let (us, mut eu) = (bid("a", 1, 1), bid("a", 2, 1));
        eu.account.0 = "eu".into();
        let tickets = [send(&mut ledger, &us, now), send(&mut ledger, &eu, now)];
        let errors = Rate::new(1, Duration::from_secs(1));
        let rules = BudgetRules { concurrency: Some(1), errors, ..us.rules };
        ledger.take_over(|name| (**name == *"us").then_some(rules));
        let told = |ledger: &Ledger| ledger.upstreams().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!((told(&ledger), ledger.failures().standing().2), (vec!["us".to_owned()], Some(1)));
        assert!(ledger.obstacle(&us, 0, now).is_some(), "its only place is taken");
        assert_eq!(ledger.upstreams.len(), 2, "a call is in flight");
        for ticket in &tickets {
            end(&mut ledger, ticket, 200, now);
        }
        assert_eq!((ledger.upstreams.len(), ledger.failures().standing()), (1, (0, 0, Some(1))));
    }

    #[test]
    fn a_probe_of_the_breaker_may_take_a_place_that_is_kept_for_others() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let of = |account| Bid {
            rules: BudgetRules { breaker: NonZeroU32::new(5), ..bid("a", 0, 1).rules },
            ..bid("a", account, 1)
        };
        let well = send(&mut ledger, &of(9), now);
        end(&mut ledger, &well, 200, now);
        for account in 0..4 {
            let ticket = send(&mut ledger, &of(account), now);
            end(&mut ledger, &ticket, 500, now);
        }
        let kind = |ledger: &Ledger, at| ledger.obstacle(&of(7), 0, at).map(|obstacle| obstacle.kind.label());
        assert_eq!(kind(&ledger, now), Some("failures"), "the share of one consumer is spent");
        let last = send(&mut ledger, &of(9), now);
        end(&mut ledger, &last, 500, now);
        assert_eq!(kind(&ledger, now + Duration::from_secs(2)), None);
    }

    #[test]
    fn while_the_breaker_waits_for_a_probe_stragglers_say_nothing_new() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let mut one = bid("a", 1, 1);
        one.rules.breaker = NonZeroU32::new(1);
        let (first, straggler) = (send(&mut ledger, &one, now), send(&mut ledger, &one, now));
        ledger.ended(&first, Ending::Silent, now, 0.0);
        let later = now + Duration::from_secs(2);
        let probe = send(&mut ledger, &one, later);
        assert!(probe.probe);
        ledger.ended(&straggler, Ending::Silent, later, 0.0);
        let state = |ledger: &Ledger| ledger.upstreams().map(|(_, standing)| standing.breaker.state(later)).next();
        assert_eq!(state(&ledger), Some(State::HalfOpen));
        ledger.ended(&probe, Ending::Silent, later, 0.0);
        assert!(matches!(state(&ledger), Some(State::Open { .. })));
    }
}
