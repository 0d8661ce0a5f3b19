//! What a call and its budgets say to each other: it bids for them, gets a ticket, and tells how it ended.

use std::sync::Arc;

use tokio::time::Instant;

use super::failures::{AccountKey, Suspect};
use super::ways::Ways;
use crate::domain::bucket::Rate;
use crate::domain::caller::Payer;
use crate::domain::exchange::Target;
use crate::domain::received::Received;
use crate::domain::rules::BudgetRules;

/// A call that asks for its budgets.
#[derive(Clone, Debug)]
pub struct Bid {
    /// Whom the call is for.
    pub account: AccountKey,
    /// What the account may be asked; `None` is without limit.
    pub rate: Option<Rate>,
    /// Whom it is charged to.
    pub payer: Payer,
    /// The rules of the upstream.
    pub rules: BudgetRules,
    /// Whether the upstream is in force, or stays only for those who were admitted to it.
    pub in_force: bool,
}

impl Bid {
    /// The bid for a call to `target` on behalf of `payer`, by the rules in `ways`, or those of `before` if they have none.
    pub fn new(target: &Target, payer: &Payer, before: BudgetRules, ways: &Ways) -> Self {
        let (upstream, account) = (&target.upstream.name, target.account.hash);
        Self {
            account: (upstream.clone(), account),
            rate: ways.rate(upstream, account),
            payer: payer.clone(),
            rules: ways.to(upstream).map_or(before, |way| way.rules),
            in_force: ways.has(upstream),
        }
    }
}

/// What a call that went out gives back when it ends.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Whose call it is.
    pub suspect: Suspect,
    /// Whether the breaker waits for it.
    pub probe: bool,
    /// Its number, if it is the first of its account after a pause.
    pub first_after_pause: Option<u64>,
}

/// How a call ended, as far as its budgets learn from that.
#[derive(Debug)]
pub enum Ending {
    /// With an answer of this status.
    Answered(u16),
    /// With a refusal that concerns the account's token, whatever was asked for.
    Refused(Arc<Received>),
    /// With "not now" (429), until then if it said so.
    Limited(Option<Instant>),
    /// Without an answer.
    Silent,
    /// Not in time: it may yet fail upstream, where nobody will tell.
    TooLate,
    /// By the caller's own fault, which says nothing about the upstream.
    Broken,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::access::AccountHash;
    use std::num::NonZeroU32;

    /// A bid of `payer` with `weight` for the account of that number.
    pub(crate) fn bid(payer: &str, account: u8, weight: u32) -> Bid {
        Bid {
            account: ("us".into(), AccountHash([account; 16])),
            rate: None,
            payer: Payer { name: payer.into(), weight: NonZeroU32::new(weight).expect("a weight") },
            rules: BudgetRules { concurrency: Some(8), ..BudgetRules::default() },
            in_force: true,
        }
    }
}
