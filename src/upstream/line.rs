//! The line of calls that wait for budget: bounded, and fair between consumers by their weights.
//!
//! Each consumer has a clock that moves on by 1 / weight with each of its calls that goes; the call of the consumer whose clock is
//! behind goes next (start-time fair queueing). So it does not matter how many one consumer has waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use super::bid::Bid;
use super::failures::AccountKey;
use crate::domain::access::Name;

/// Calls in line, each with what is needed to call it up.
#[derive(Debug)]
pub struct Line<T> {
    waiting: BTreeMap<u64, (Bid, T)>,
    next: u64,
    /// The clock of the consumer whose call went last.
    clock: f64,
    payers: HashMap<Name, Payer, RandomState>,
    /// Who waits for each account, by consumer, oldest first: all of these face the same obstacles.
    accounts: HashMap<AccountKey, HashMap<Name, BTreeSet<u64>, RandomState>, RandomState>,
}

#[derive(Debug, Default)]
struct Payer {
    clock: f64,
    waiting: u32,
    weight: f64,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: 0, clock: 0.0, payers: HashMap::default(), accounts: HashMap::default() }
    }
}

impl<T> Line<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The accounts that somebody waits for.
    pub fn accounts(&self) -> impl Iterator<Item = &AccountKey> {
        self.accounts.keys()
    }

    /// How many wait with what is true of their bids.
    pub fn count(&self, of: impl Fn(&Bid) -> bool) -> usize {
        self.waiting.values().filter(|(bid, _)| of(bid)).count()
    }

    /// Joins the line; gives the number under which to leave it.
    pub fn join(&mut self, bid: Bid, waker: T) -> u64 {
        let number = self.next;
        self.next += 1;
        let payer = self.payers.entry(bid.payer.name.clone()).or_default();
        if payer.waiting == 0 {
            // Who had nothing to send has saved up nothing by that.
            payer.clock = payer.clock.max(self.clock);
        }
        payer.waiting += 1;
        payer.weight = f64::from(bid.payer.weight.get());
        let of_account = self.accounts.entry(bid.account.clone()).or_default();
        of_account.entry(bid.payer.name.clone()).or_default().insert(number);
        self.waiting.insert(number, (bid, waker));
        number
    }

    /// Leaves the line; `None` if it was called up already.
    pub fn leave(&mut self, number: u64) -> Option<(Bid, T)> {
        let left = self.waiting.remove(&number)?;
        let (account, name) = (&left.0.account, &left.0.payer.name);
        if let Some(of_account) = self.accounts.get_mut(account)
            && let Some(numbers) = of_account.get_mut(name)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                of_account.remove(name);
            }
            if of_account.is_empty() {
                self.accounts.remove(account);
            }
        }
        if let Some(payer) = self.payers.get_mut(name) {
            payer.waiting -= 1;
            // A clock that is ahead is kept until the others have caught up, or else leaving would be a way to set it back.
            if payer.waiting == 0 && payer.clock <= self.clock {
                self.payers.remove(name);
            }
        }
        Some(left)
    }

    /// Sends away all of whom `who` is true, without a word.
    pub fn send_away(&mut self, who: impl Fn(&Bid) -> bool) {
        let away: Vec<_> = self.waiting.iter().filter(|(_, (bid, _))| who(bid)).map(|(number, _)| *number).collect();
        for number in away {
            self.leave(number);
        }
    }

    /// Calls up the one who goes next among those who `may`.
    pub fn call_up(&mut self, mut may: impl FnMut(&Bid) -> bool) -> Option<(Bid, T)> {
        let mut best: Option<(f64, u64)> = None;
        let groups = self.accounts.values().flatten();
        for (name, first) in groups.filter_map(|(name, numbers)| Some((name, *numbers.first()?))) {
            let here = (self.payers.get(name).map_or(0.0, |payer| payer.clock), first);
            let Some((bid, _)) = self.waiting.get(&first).filter(|_| best.is_none_or(|best| here < best)) else {
                continue;
            };
            if may(bid) {
                best = Some(here);
            }
        }
        let (clock, number) = best?;
        self.clock = self.clock.max(clock);
        let name = self.waiting.get(&number).map(|(bid, _)| bid.payer.name.clone())?;
        if let Some(payer) = self.payers.get_mut(&name) {
            payer.clock += 1.0 / payer.weight;
        }
        self.leave(number)
    }

    /// Makes room in a line that is full: the newest call of the consumer that has the most in line for its weight, counting that
    /// of `newcomer`, has to go. `None` if that is the newcomer's own.
    pub fn make_room(&mut self, newcomer: &Bid) -> Option<(Bid, T)> {
        let load = |name: &Name, payer: &Payer| {
            let own = u32::from(*name == newcomer.payer.name);
            f64::from(payer.waiting + own) / payer.weight
        };
        let (name, _) = self
            .payers
            .iter()
            .filter(|(_, payer)| payer.waiting > 0)
            .max_by(|(a, first), (b, second)| load(a, first).total_cmp(&load(b, second)).then_with(|| b.cmp(a)))?;
        if *name == newcomer.payer.name {
            return None;
        }
        let newest =
            self.waiting.iter().rev().find(|(_, (bid, _))| bid.payer.name == *name).map(|(number, _)| *number)?;
        self.leave(newest)
    }

    /// How many calls for the account of `bid` will go before it if it joins now and all have the same budget to wait for.
    pub fn ahead(&self, bid: &Bid) -> u32 {
        let Some(of_account) = self.accounts.get(&bid.account) else { return 0 };
        let weight = f64::from(bid.payer.weight.get());
        let own = of_account.get(&bid.payer.name).map_or(0.0, |numbers| numbers.len() as f64);
        let before = of_account.iter().map(|(name, numbers)| {
            let theirs = self.payers.get(name).map_or(1.0, |payer| payer.weight);
            if *name == bid.payer.name {
                own
            } else {
                (numbers.len() as f64).min(((own + 1.0) * theirs / weight).ceil())
            }
        });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the length of the line")]
        let before = before.sum::<f64>() as u32;
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::bid::tests::bid;

    fn served(line: &mut Line<()>, count: usize) -> Vec<String> {
        std::iter::from_fn(|| line.call_up(|_| true)).take(count).map(|(bid, ())| bid.payer.name.to_string()).collect()
    }

    #[test]
    fn who_has_one_call_waits_for_at_most_one_of_who_has_many() {
        let mut line = Line::default();
        for _ in 0..100 {
            line.join(bid("many", 1, 1), ());
        }
        served(&mut line, 10);
        line.join(bid("one", 1, 1), ());
        assert_eq!(line.ahead(&bid("other", 1, 1)), 2);
        assert!(served(&mut line, 2).contains(&"one".to_owned()));
    }

    #[test]
    fn weights_share_out_what_goes() {
        let mut line = Line::default();
        for _ in 0..100 {
            line.join(bid("light", 1, 1), ());
            line.join(bid("heavy", 2, 3), ());
        }
        let heavy = served(&mut line, 40).iter().filter(|name| *name == "heavy").count();
        assert!(heavy.abs_diff(30) <= 1, "{heavy} of 40");
    }

    #[test]
    fn who_may_not_go_is_passed_over_and_keeps_the_place() {
        let mut line = Line::default();
        line.join(bid("a", 1, 1), ());
        line.join(bid("b", 2, 1), ());
        let account = bid("b", 2, 1).account;
        let (called, ()) = line.call_up(|bid| bid.account == account).expect("b may go");
        assert_eq!((&*called.payer.name, line.len()), ("b", 1));
        assert!(line.call_up(|_| false).is_none());
    }

    #[test]
    fn coming_back_does_not_set_a_clock_back() {
        let mut line = Line::default();
        for _ in 0..10 {
            line.join(bid("a", 1, 1), ());
        }
        line.join(bid("b", 1, 1), ());
        served(&mut line, 11);
        line.join(bid("a", 1, 1), ());
        line.join(bid("b", 1, 1), ());
        assert_eq!(served(&mut line, 2), ["b", "a"], "b has sent less");
    }

    #[test]
    fn a_full_line_makes_room_at_the_cost_of_who_has_most() {
        let mut line = Line::default();
        for number in 0..3 {
            line.join(bid("many", number, 1), ());
        }
        line.join(bid("few", 9, 1), ());
        let (gone, ()) = line.make_room(&bid("new", 1, 1)).expect("somebody has more");
        assert_eq!((&*gone.payer.name, gone.account.1), ("many", bid("many", 2, 1).account.1), "the newest");
        assert!(line.make_room(&bid("many", 1, 1)).is_none(), "the newcomer itself has most");
        assert_eq!(line.len(), 3);
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let mut line = Line::default();
        let number = line.join(bid("a", 1, 1), ());
        assert!(line.leave(number).is_some() && line.leave(number).is_none());
        assert_eq!((line.len(), line.ahead(&bid("b", 1, 1))), (0, 0));
    }
}
