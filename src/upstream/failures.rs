//! The failure budget: Merge blocks an address whose calls fail too often, whoever caused it.
//!
//! A call takes its place in the budget before it goes, since nobody knows how it will end. If it succeeds the place is free again
//! at once, if it fails a window later, and so if it took too long or was given up, as it may yet fail upstream. So even if all calls
//! in flight fail together, there are never more failures than allowed.
//!
//! The places are not for everybody alike. An account whose last call went well is proven and may take any; the others may
//! together take seven tenths of them, those of one consumer of several four tenths, and one account two tenths. So whoever asks with a wrong
//! token uses up a share, and who has a right one goes on.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::obstacle::{Kind, Obstacle};
use crate::domain::access::{AccountHash, Name};
use crate::domain::bucket::Rate;
use crate::domain::hindrance::{Share, Sharers};

/// An account at an upstream.
pub type AccountKey = (Name, AccountHash);

/// Whose call it is that may fail.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The account that it is for.
    pub account: AccountKey,
    /// The consumer that it is charged to.
    pub payer: Name,
    /// Whether the account's last call went well.
    pub proven: bool,
}

/// Those for whom places are kept that a suspect may not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// There are none.
    Nobody,
    /// Accounts that are proven.
    Accounts,
    /// Consumers besides the one that asks.
    Consumers,
}

/// The failure budget of one address. It is told the time.
#[derive(Debug, Default)]
pub struct Failures {
    allowed: Option<Rate>,
    /// For how long a failure counts, by the last rule that there was.
    window: Duration,
    /// When each failure was, oldest first, and whose it was.
    failed: VecDeque<(Instant, Suspect)>,
    spent: Counts,
    in_flight: Counts,
}

/// How many, in all and by whose they are.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Those for accounts that are not proven, and these by consumer: what has gone well takes nothing of a share.
    unproven: usize,
    payers: HashMap<Name, usize, RandomState>,
    accounts: HashMap<AccountKey, usize, RandomState>,
}

/// The share of the places that one group of calls may take, in tenths.
const UNPROVEN: usize = 7;
const ONE_PAYER: usize = 4;
const ONE_ACCOUNT: usize = 2;

impl Failures {
    /// Changes how many failures there may be; `None` is without limit. No failure is forgotten by that.
    pub fn allow(&mut self, allowed: Option<Rate>) {
        self.allowed = allowed;
        self.window = allowed.map_or(self.window, |allowed| allowed.with_slack().window);
    }

    /// How many failures are remembered, how many calls may yet fail, and how many there may be of both.
    pub fn standing(&self) -> (usize, usize, Option<usize>) {
        (self.spent.all, self.in_flight.all, self.allowed.map(count))
    }

    /// Forgets what is older than the window.
    pub fn forget(&mut self, now: Instant) {
        let window = self.window;
        while let Some((_, suspect)) = self.failed.pop_front_if(|(at, _)| *at + window <= now) {
            self.spent.remove(&suspect);
        }
    }

    /// When the oldest failure is forgotten.
    pub fn due(&self) -> Option<Instant> {
        self.failed.front().map(|(at, _)| *at + self.window)
    }

    /// The consumers whose calls for accounts that were not proven have failed.
    pub fn payers(&self) -> impl Iterator<Item = &Name> {
        self.spent.payers.keys()
    }

    /// What stands in the way of a call. Shares are kept only for those `others` that there are.
    pub fn obstacle(&self, suspect: &Suspect, others: Others) -> Option<Obstacle> {
        let rate = self.allowed?;
        let allowed = count(rate);
        let share = |tenths: usize| (allowed * tenths / 10).max(1);
        let full = |of, group: fn(&Counts, &Suspect) -> usize, places: usize, is_of: fn(&Suspect, &Suspect) -> bool| {
            let (spent, risked) = (group(&self.spent, suspect), group(&self.in_flight, suspect));
            if spent + risked < places {
                return None;
            }
            // If the failures alone fill the places, the one that is forgotten as the last of those that are too many makes room.
            let mine = self.failed.iter().filter(|(_, other)| is_of(other, suspect)).map(|(at, _)| *at + self.window);
            let until = spent.checked_sub(places).and_then(|beyond| mine.into_iter().nth(beyond));
            let share = Share { of, failed: spent, risked, places, window: rate.window };
            Some(Obstacle { kind: Kind::Failures(share), until })
        };
        let all = || full(Sharers::All, |counts, _| counts.all, allowed, |_, _| true);
        if suspect.proven || others == Others::Nobody {
            return all();
        }
        let of_payer = || {
            full(Sharers::Consumer, Counts::of_payer, share(ONE_PAYER), |other, one| {
                !other.proven && other.payer == one.payer
            })
        };
        full(Sharers::Unproven, |counts, _| counts.unproven, share(UNPROVEN), |other, _| !other.proven)
            .or_else(|| if others == Others::Consumers { of_payer() } else { None })
            .or_else(|| {
                full(Sharers::Account, Counts::of_account, share(ONE_ACCOUNT), |other, one| {
                    other.account == one.account
                })
            })
            .or_else(all)
    }

    /// A call goes out.
    pub fn risk(&mut self, suspect: &Suspect) {
        // Without a limit as well: there may be one by the time that it ends.
        self.in_flight.add(suspect);
    }

    /// A call that was [risked](Self::risk) has ended, well or not.
    pub fn ended(&mut self, suspect: &Suspect, failed: bool, now: Instant) {
        self.in_flight.remove(suspect);
        if failed && self.allowed.is_some() {
            self.spent.add(suspect);
            self.failed.push_back((now, suspect.clone()));
        }
    }
}

fn count(rate: Rate) -> usize {
    usize::try_from(rate.count.get()).unwrap_or(usize::MAX / 16)
}

impl Counts {
    fn of_payer(&self, suspect: &Suspect) -> usize {
        self.payers.get(&suspect.payer).copied().unwrap_or_default()
    }

    fn of_account(&self, suspect: &Suspect) -> usize {
        self.accounts.get(&suspect.account).copied().unwrap_or_default()
    }

    fn add(&mut self, suspect: &Suspect) {
        self.all += 1;
        if !suspect.proven {
            self.unproven += 1;
            *self.payers.entry(suspect.payer.clone()).or_default() += 1;
        }
        *self.accounts.entry(suspect.account.clone()).or_default() += 1;
    }

    /// Takes away one that was added.
    fn remove(&mut self, suspect: &Suspect) {
        self.all -= 1;
        if !suspect.proven {
            self.unproven -= 1;
            less(&mut self.payers, &suspect.payer);
        }
        less(&mut self.accounts, &suspect.account);
    }
}

/// Counts one less under `key`.
fn less<K: Eq + Hash>(counts: &mut HashMap<K, usize, RandomState>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failures(count: u32) -> Failures {
        let mut failures = Failures::default();
        failures.allow(Rate::new(count, SECOND * 10));
        failures
    }

    fn suspect(account: u8, payer: &str, proven: bool) -> Suspect {
        Suspect { account: ("us".into(), AccountHash([account; 16])), payer: payer.into(), proven }
    }

    fn fail(failures: &mut Failures, suspect: &Suspect, now: Instant) {
        failures.risk(suspect);
        failures.ended(suspect, true, now);
    }

    #[test]
    fn the_budget_is_spent_by_failures_and_comes_back_one_by_one() {
        let (mut failures, one, now) = (failures(2), suspect(1, "a", false), Instant::now());
        fail(&mut failures, &one, now);
        fail(&mut failures, &one, now + SECOND);
        let until = |failures: &Failures| failures.obstacle(&one, Others::Nobody).and_then(|obstacle| obstacle.until);
        assert_eq!(until(&failures), Some(now + SECOND * 21 / 2));
        failures.forget(now + SECOND * 10);
        assert!(
            failures.obstacle(&one, Others::Nobody).is_some(),
            "who counts both ends of a window in still counts it"
        );
        failures.forget(now + SECOND * 21 / 2);
        assert_eq!(failures.obstacle(&one, Others::Nobody), None);
        fail(&mut failures, &one, now + SECOND * 21 / 2);
        assert_eq!(until(&failures), Some(now + SECOND * 23 / 2));
    }

    #[test]
    fn what_is_in_flight_may_fail_and_what_succeeds_is_free_at_once() {
        let (mut failures, one, now) = (failures(2), suspect(1, "a", true), Instant::now());
        failures.risk(&one);
        failures.risk(&one);
        assert!(failures.obstacle(&one, Others::Consumers).is_some_and(|obstacle| obstacle.until.is_none()));
        failures.ended(&one, false, now);
        assert_eq!(failures.obstacle(&one, Others::Consumers), None);
    }

    #[test]
    fn who_causes_failures_is_cut_off_before_the_others() {
        let (mut failures, now) = (failures(10), Instant::now());
        let culprit = |account| suspect(account, "wrong", false);
        let share = |failures: &Failures, suspect: &Suspect| match failures.obstacle(suspect, Others::Consumers)?.kind {
            Kind::Failures(Share { of, failed, risked, places, .. }) => Some((of, failed, risked, places)),
            _ => None,
        };
        fail(&mut failures, &culprit(1), now);
        fail(&mut failures, &culprit(1), now);
        assert_eq!(share(&failures, &culprit(1)), Some((Sharers::Account, 2, 0, 2)));
        assert!(failures.obstacle(&culprit(1), Others::Nobody).is_none(), "there is nobody to spare the rest for");
        fail(&mut failures, &culprit(2), now);
        fail(&mut failures, &culprit(3), now);
        assert_eq!(share(&failures, &culprit(4)), Some((Sharers::Consumer, 4, 0, 4)));
        assert_eq!(
            failures.obstacle(&culprit(4), Others::Accounts),
            None,
            "there is no other consumer to spare the rest for"
        );
        for account in 5..8 {
            assert!(failures.obstacle(&suspect(account, "other", false), Others::Consumers).is_none());
            fail(&mut failures, &suspect(account, "other", false), now);
        }
        assert_eq!(share(&failures, &suspect(9, "third", false)), Some((Sharers::Unproven, 7, 0, 7)));
        for _ in 0..3 {
            assert!(failures.obstacle(&suspect(10, "wrong", true), Others::Consumers).is_none());
            failures.risk(&suspect(10, "wrong", true));
        }
        assert_eq!(share(&failures, &suspect(10, "wrong", true)), Some((Sharers::All, 7, 3, 10)));
    }

    #[test]
    fn calls_for_proven_accounts_take_nothing_of_the_shares_of_others() {
        let (mut failures, now) = (failures(10), Instant::now());
        let [known, new] = [suspect(1, "busy", true), suspect(2, "busy", false)];
        (0..9).for_each(|_| failures.risk(&known));
        assert_eq!(failures.obstacle(&new, Others::Consumers), None);
        (0..9).for_each(|_| failures.ended(&known, true, now));
        assert_eq!((failures.obstacle(&new, Others::Consumers), failures.payers().count()), (None, 0));
        fail(&mut failures, &new, now);
        assert!(failures.obstacle(&new, Others::Consumers).is_some(), "there is no place left for anybody");
    }

    #[test]
    fn a_change_of_the_rule_forgets_no_failure() {
        let (mut failures, one, now) = (failures(2), suspect(1, "a", false), Instant::now());
        fail(&mut failures, &one, now);
        failures.allow(Rate::new(1, SECOND * 10));
        assert!(failures.obstacle(&one, Others::Nobody).is_some());
        failures.allow(None);
        assert!(failures.obstacle(&one, Others::Nobody).is_none());
        failures.risk(&one);
        failures.allow(Rate::new(1, SECOND * 10));
        failures.ended(&one, true, now);
        assert_eq!(failures.standing(), (2, 0, Some(1)));
    }

    #[test]
    fn a_limit_that_comes_while_calls_are_in_flight_counts_them_once_and_as_what_they_are() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..4 {
            failures.allow(None);
            let before = suspect(1, "a", false);
            failures.risk(&before);
            failures.allow(Rate::new(10, SECOND * 10));
            let after = suspect(1, "b", true);
            failures.risk(&after);
            assert_eq!(failures.standing(), (0, 2, Some(10)));
            failures.ended(&before, false, now);
            failures.ended(&after, false, now);
        }
        assert_eq!(failures.standing(), (0, 0, Some(10)));
        assert_eq!(failures.obstacle(&suspect(2, "b", false), Others::Consumers), None, "nothing is in flight");
    }

    #[test]
    fn with_a_shorter_window_what_is_older_is_forgotten_and_no_obstacle_lies_in_the_past() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        failures.allow(Rate::new(10, SECOND * 60));
        let (one, other) = (suspect(1, "a", false), suspect(2, "b", false));
        fail(&mut failures, &one, now);
        failures.allow(Rate::new(5, SECOND));
        fail(&mut failures, &other, now + SECOND);
        let later = now + SECOND * 5 / 2;
        failures.forget(later);
        assert_eq!((failures.standing(), failures.obstacle(&other, Others::Consumers)), ((0, 0, Some(5)), None));
        fail(&mut failures, &other, later);
        let until = failures.obstacle(&other, Others::Consumers).and_then(|obstacle| obstacle.until);
        assert!(until.is_some_and(|until| until > later), "{until:?}");
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_failures_than_allowed(
            allowed in 1_u32..12,
            calls in proptest::collection::vec((0_u8..6, 0_u8..3, any::<bool>(), 0_u64..1_500, 0_usize..4), 1..300),
        ) {
            let mut failures = failures(allowed);
            let mut now = Instant::now();
            let (mut flying, mut failed) = (VecDeque::new(), Vec::new());
            for (account, payer, proven, gap, land) in calls {
                now += Duration::from_millis(gap);
                failures.forget(now);
                let one = suspect(account, ["a", "b", "c"][usize::from(payer)], proven);
                if failures.obstacle(&one, Others::Consumers).is_none() {
                    failures.risk(&one);
                    flying.push_back(one);
                }
                for _ in 0..land {
                    if let Some(one) = flying.pop_front() {
                        failures.ended(&one, true, now);
                        failed.push(now);
                    }
                }
            }
            let beyond = failed.iter().zip(failed.iter().skip(allowed as usize));
            for (first, beyond) in beyond {
                prop_assert!(*beyond - *first > SECOND * 10);
            }
        }
    }
}
