//! All that is known of the calls to one address: what each account and upstream has spent, and so what may go now.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::account_budget::{AccountBudget, Last};
use super::bid::{Bid, Ending, Ticket};
use super::breaker::{Breaker, Sign, State};
use super::failures::{AccountKey, Failures, Others, Suspect};
use super::obstacle::{Kind, Obstacle, Obstacles};
use super::rate_limit_fields::Left;
use crate::domain::access::{AccountHash, Name};
use crate::domain::bucket::Rate;
use crate::domain::hindrance::Share;
use crate::domain::received::Received;
use crate::domain::rules::BudgetRules;

/// The state of one address. It is told the time.
#[derive(Debug, Default)]
pub struct Ledger {
    upstreams: HashMap<Name, Standing, RandomState>,
    accounts: HashMap<AccountHash, AccountBudget, RandomState>,
    payers: HashSet<Name, RandomState>,
    /// How many accounts are proven, each counted for every upstream at which it is.
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
    /// How many calls went only because of `dry_run`.
    pub would_have_waited: u64,
}

impl Standing {
    fn keep(&mut self, rules: BudgetRules) {
        // Whoever lifts the breaker does not wait for it to close.
        if rules.breaker.is_none() {
            self.breaker = Breaker::default();
        }
        self.rules = rules;
    }
}

/// Below this many accounts nothing is ever swept.
const FEW_ACCOUNTS: usize = 1024;

impl Ledger {
    /// Takes the rules of `bid` over, and sees to it that all that it needs is there. Accounts that are `waited_for` are not swept
    /// meanwhile.
    pub fn fit<'a>(&mut self, bid: &Bid, waited_for: impl Iterator<Item = &'a AccountKey>, now: Instant) {
        let (upstream, account) = &bid.account;
        let standing = self.upstreams.entry(upstream.clone()).or_default();
        if standing.rules != bid.rules {
            standing.keep(bid.rules);
        }
        self.failures.allow(bid.rules.errors);
        self.failures.forget(now);
        if !self.payers.contains(&bid.payer.name) {
            self.payers.insert(bid.payer.name.clone());
        }
        if self.accounts.len() >= self.sweep_at.max(FEW_ACCOUNTS) {
            let waited_for: HashSet<_, RandomState> = waited_for.map(|(_, account)| *account).collect();
            self.accounts.retain(|account, budget| !budget.is_unspent(now) || waited_for.contains(account));
            self.sweep_at = self.accounts.len() * 2;
        }
        let budget = self.accounts.entry(*account).or_insert_with(|| AccountBudget::new(bid.rate, now));
        if bid.in_force {
            budget.allow(upstream, bid.rate, now);
        }
    }

    /// What stands in the way of the call that goes after `ahead` others of its account: of several things the one that lasts.
    pub fn obstacle(&self, bid: &Bid, ahead: u32, now: Instant) -> Option<Obstacle> {
        self.before(&self.suspect(&bid.account, &bid.payer.name), ahead, now).lasting()
    }

    /// All that stands in the way of the call of `bid`.
    pub fn obstacles(&self, bid: &Bid, now: Instant) -> Obstacles {
        self.before(&self.suspect(&bid.account, &bid.payer.name), 0, now)
    }

    /// What would stand in the way of a call for `account` by a consumer whose calls have not failed.
    pub fn obstacle_for(&self, account: &AccountKey, now: Instant) -> Option<Obstacle> {
        if self.upstreams.get(&account.0).is_some_and(|standing| standing.rules.dry_run) {
            return None;
        }
        // No consumer has this name.
        self.before(&self.suspect(account, &"".into()), 0, now).lasting()
    }

    /// Which shares of the failure budget failures alone have used up: that of all accounts that are not proven, or else those of
    /// consumers, by name.
    pub fn held_back(&self, upstream: &Name, now: Instant) -> Vec<(Option<Name>, Share)> {
        let nobody = (upstream.clone(), AccountHash([0; 16]));
        let share = |payer: &Name| match self.before(&self.suspect(&nobody, payer), 0, now).lasting()? {
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

    fn before(&self, suspect: &Suspect, ahead: u32, now: Instant) -> Obstacles {
        let upstream = self.upstreams.get(&suspect.account.0);
        let is_full = |of: &Standing| of.rules.concurrency.is_some_and(|places| of.in_flight >= places);
        let full = upstream.is_some_and(is_full);
        // The call that shows whether the upstream is well again is for everybody, and may take a place that is kept for others.
        let probe = upstream.is_some_and(|upstream| upstream.breaker.state(now) == State::HalfOpen);
        let others = if probe { Others::Nobody } else { self.others() };
        let all = [
            upstream.and_then(|upstream| upstream.breaker.obstacle(now)),
            self.accounts.get(&suspect.account.1).and_then(|account| account.obstacle(now, ahead)),
            self.failures.obstacle(suspect, others),
            full.then_some(Obstacle::busy(Kind::Concurrency)),
        ];
        Obstacles { all, failure_forgotten: self.failures.due() }
    }

    fn others(&self) -> Others {
        if self.payers.len() > 1 {
            Others::Consumers
        } else if self.proven > 0 {
            Others::Accounts
        } else {
            Others::Nobody
        }
    }

    fn suspect(&self, account: &AccountKey, payer: &Name) -> Suspect {
        let proven = self.accounts.get(&account.1).is_some_and(|of| of.is_proven(&account.0));
        Suspect { account: account.clone(), payer: payer.clone(), proven }
    }

    /// The refusal that answers `bid` without a call: it was the last word on its account's token.
    pub fn remembered(&self, bid: &Bid) -> Option<Arc<Received>> {
        self.accounts.get(&bid.account.1)?.refusal(&bid.account.0).cloned()
    }

    /// The call goes out.
    pub fn send(&mut self, bid: &Bid, now: Instant) -> Ticket {
        let suspect = self.suspect(&bid.account, &bid.payer.name);
        self.failures.risk(&suspect);
        // What was swept while the call was in line was as it is when it is made anew.
        let upstream = self.upstreams.entry(bid.account.0.clone()).or_default();
        upstream.in_flight += 1;
        let probe = upstream.breaker.sent(now);
        let budget = self.accounts.entry(bid.account.1).or_insert_with(|| AccountBudget::new(bid.rate, now));
        let first_after_pause = budget.spend(now);
        Ticket { suspect, probe, first_after_pause }
    }

    /// How a call has ended, as soon as that is known; says until when the account is paused. `jitter` is from 0 to 1.
    pub fn ended(&mut self, ticket: &Ticket, ending: Ending, now: Instant, jitter: f32) -> Option<Instant> {
        let (upstream, account) = &ticket.suspect.account;
        let sign = match &ending {
            Ending::Silent | Ending::TooLate => Some(Sign::Silent),
            Ending::Broken => None,
            Ending::Answered(500..) => Some(Sign::Broken(*account)),
            Ending::Answered(_) | Ending::Refused(_) | Ending::Limited(_) => Some(Sign::Alive),
        };
        let failed = matches!(ending, Ending::Refused(_) | Ending::Answered(400..) | Ending::TooLate);
        self.failures.ended(&ticket.suspect, failed, now);
        match sign {
            Some(sign) => self.breaker(ticket, sign, now, jitter),
            None if ticket.probe => self.given_up(upstream),
            None => {}
        }
        let account = self.accounts.get_mut(account)?;
        let others = self.proven - account.proofs();
        match ending {
            Ending::Limited(until) => return Some(account.refused(until, now, jitter)),
            Ending::TooLate => account.was_too_late(upstream),
            Ending::Silent | Ending::Broken => {}
            Ending::Answered(status) => account.answered(upstream, (status < 400).then_some(Last::Well)),
            Ending::Refused(refusal) => account.answered(upstream, Some(Last::Refused(refusal))),
        }
        self.proven = others + account.proofs();
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
        if let Some(account) = self.accounts.get_mut(&account.1) {
            account.learn(left, now);
        }
    }

    /// A call is over. If nobody knows how it `ended`, it counts as failed: it may yet fail on its way.
    pub fn release(&mut self, ticket: &Ticket, ended: bool, now: Instant) {
        let (upstream, account) = &ticket.suspect.account;
        if !ended {
            self.failures.ended(&ticket.suspect, true, now);
        }
        if let Some(standing) = self.upstreams.get_mut(upstream) {
            standing.in_flight -= 1;
        }
        if ticket.probe && !ended {
            self.given_up(upstream);
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

    /// A call goes only because of `dry_run`.
    pub fn would_have_waited(&mut self, bid: &Bid) {
        if let Some(upstream) = self.upstreams.get_mut(&bid.account.0) {
            upstream.would_have_waited += 1;
        }
    }

    /// Takes over the rules that are in force now, and the rates of accounts. Upstreams that have no rules are not at this address any
    /// more, and keep theirs while a call of theirs is in flight or `waited_for`.
    pub fn take_over<'a>(
        &mut self,
        rules: impl Fn(&Name) -> Option<BudgetRules>,
        rate: impl Fn(&Name, AccountHash) -> Option<Rate>,
        waited_for: impl Iterator<Item = &'a Name>,
        now: Instant,
    ) {
        let waited_for: HashSet<_, RandomState> = waited_for.collect();
        self.upstreams.retain(|name, standing| {
            let Some(rules) = rules(name) else { return standing.in_flight > 0 || waited_for.contains(name) };
            standing.keep(rules);
            self.failures.allow(rules.errors);
            true
        });
        for (account, budget) in &mut self.accounts {
            budget.take_over(|upstream| rules(upstream).is_some(), |upstream| rate(upstream, *account), now);
        }
        self.proven = self.accounts.values().map(AccountBudget::proofs).sum();
    }

    /// Forgets what an upstream has refused: it was asked with another key.
    pub fn forget_refusals(&mut self, upstream: &Name) {
        self.accounts.values_mut().for_each(|account| account.forget_refusal(upstream));
    }

    /// All upstreams that have been called at the address.
    pub fn upstreams(&self) -> impl Iterator<Item = (&Name, &Standing)> {
        self.upstreams.iter()
    }

    /// The budget of one account, if it has been used.
    pub fn account(&self, account: AccountHash) -> Option<&AccountBudget> {
        self.accounts.get(&account)
    }

    /// The failures of the address.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::received::SyncDigest;
    use crate::upstream::bid::tests::bid;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn send(ledger: &mut Ledger, bid: &Bid, now: Instant) -> Ticket {
        ledger.fit(bid, std::iter::empty(), now);
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
        ledger.fit(&other, std::iter::empty(), now);
        let obstacle = ledger.obstacle(&other, 0, now).map(|obstacle| obstacle.kind.label());
        assert_eq!(obstacle, Some("failures"));
    }

    #[test]
    fn what_fails_through_one_upstream_is_not_proven_by_what_goes_well_through_another() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let us = bid("a", 1, 1);
        let other = Bid { account: ("other".into(), us.account.1), ..us.clone() };
        let refusal = Arc::new(Received {
            status: http::StatusCode::UNAUTHORIZED,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            began: now,
            digest: SyncDigest::default(),
            retry_at: None,
            remembered: false,
        });
        for _ in 0..10 {
            let well = send(&mut ledger, &us, now);
            end(&mut ledger, &well, 200, now);
            ledger.fit(&other, std::iter::empty(), now);
            if ledger.obstacle(&other, 0, now).is_none() {
                let ticket = ledger.send(&other, now);
                ledger.ended(&ticket, Ending::Refused(refusal.clone()), now, 0.0);
                ledger.release(&ticket, true, now);
            }
        }
        assert_eq!(ledger.failures().standing().0, 2, "the share of an account that is not proven");
        assert!(ledger.remembered(&other).is_some() && ledger.remembered(&us).is_none());
        ledger.take_over(|name| (**name == *"other").then_some(us.rules), |_, _| None, std::iter::empty(), now);
        assert_eq!(ledger.proven, 0, "it was so of one that is gone");
    }

    #[test]
    fn an_account_that_is_swept_while_somebody_waits_for_it_is_charged_all_the_same() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let waiting = bid("a", 0, 1);
        let fill = |ledger: &mut Ledger, waits: bool| {
            ledger.fit(&waiting, std::iter::empty(), now);
            for account in 0..2_000_u32 {
                let mut other = bid("a", 1, 1);
                other.account.1.0[..4].copy_from_slice(&account.to_be_bytes());
                ledger.fit(&other, waits.then_some(&waiting.account).into_iter(), now);
            }
        };
        fill(&mut ledger, true);
        assert!(ledger.account(waiting.account.1).is_some(), "somebody waits for it");
        fill(&mut ledger, false);
        assert!(ledger.account(waiting.account.1).is_none());
        let ticket = ledger.send(&waiting, now);
        ledger.fit(&waiting, std::iter::empty(), now);
        end(&mut ledger, &ticket, 200, now);
        let account = ledger.account(waiting.account.1).expect("it was charged");
        assert!(account.is_proven(&waiting.account.0) && ledger.proven == 1);
    }

    #[test]
    fn rules_that_are_taken_over_count_at_once_and_who_has_none_keeps_its_own_while_there_are_calls() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let (us, mut eu) = (bid("a", 1, 1), bid("a", 2, 1));
        eu.account.0 = "eu".into();
        let tickets = [send(&mut ledger, &us, now), send(&mut ledger, &eu, now)];
        let errors = Rate::new(1, Duration::from_secs(1));
        let rules = BudgetRules { concurrency: Some(1), errors, ..us.rules };
        let take_over = |ledger: &mut Ledger, waited_for: &[Name]| {
            ledger.take_over(|name| (**name == *"us").then_some(rules), |_, _| None, waited_for.iter(), now);
            ledger.upstreams.len()
        };
        assert_eq!(take_over(&mut ledger, &[]), 2, "a call is in flight");
        assert_eq!(ledger.failures().standing().2, Some(1));
        assert!(ledger.obstacle(&us, 0, now).is_some(), "its only place is taken");
        for ticket in &tickets {
            end(&mut ledger, ticket, 200, now);
        }
        assert_eq!(take_over(&mut ledger, &["eu".into()]), 2, "a call waits");
        assert_eq!(ledger.upstreams["eu"].rules, eu.rules);
        assert_eq!((take_over(&mut ledger, &[]), ledger.failures().standing()), (1, (0, 0, Some(1))));
    }

    #[test]
    fn a_probe_of_the_breaker_may_take_a_place_that_is_kept_for_others() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let of = |account| Bid {
            rules: BudgetRules { breaker: NonZeroU32::new(5), ..bid("a", 0, 1).rules },
            ..bid("a", account, 1)
        };
        let others = Bid { payer: bid("b", 9, 1).payer, ..of(9) };
        let well = send(&mut ledger, &others, now);
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
