//! How the last calls for an account went, and for a bounded number of those that have no name.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::numbers::{CallEnd, LastCalls, LastError, NamelessNumbers};
use crate::domain::access::{AccountHash, Name};

/// When a call succeeded last, and when and how one failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Last {
    success: Option<(Instant, SystemTime)>,
    error: Option<(Instant, SystemTime, CallEnd)>,
}

impl Last {
    /// A call has ended.
    pub fn note(&mut self, ended: CallEnd, now: Instant, clock: SystemTime) {
        if ended.is_success() {
            self.success = Some((now, clock));
        } else if ended != CallEnd::Abandoned {
            self.error = Some((now, clock, ended));
        }
    }

    /// The same as plain values.
    pub fn told(&self, now: Instant) -> LastCalls {
        let ago = |at: Instant| now.saturating_duration_since(at);
        LastCalls {
            success: self.success.map(|(at, clock)| (ago(at), clock)),
            error: self.error.map(|(instant, at, ended)| LastError { ended, at, ago: ago(instant) }),
            is_failing: self.is_failing(),
        }
    }

    fn is_recent(&self, now: Instant) -> bool {
        let latest = self.error.map(|(at, ..)| at).max(self.success.map(|(at, _)| at));
        latest.is_some_and(|at| now.saturating_duration_since(at) < RECENT)
    }

    fn is_failing(&self) -> bool {
        let failed_at = self.error.map(|(at, ..)| at);
        failed_at.is_some() && failed_at >= self.success.map(|(at, _)| at)
    }
}

/// Tokens that callers send themselves could be without number: the errors of so many are remembered.
pub const MOST_NAMELESS: usize = 100;

/// A token that nobody has sent for so long is no trouble any more.
const RECENT: Duration = Duration::from_secs(3_600);

/// The accounts without a name for which a call has failed: those that still fail, and of the others the latest.
#[derive(Debug, Default)]
pub struct Nameless(Mutex<HashMap<(Name, AccountHash), Last>>);

impl Nameless {
    /// A call for `account` has ended.
    pub fn note(&self, account: (Name, AccountHash), ended: CallEnd, now: Instant, clock: SystemTime) {
        let mut known = self.0.lock();
        if let Some(last) = known.get_mut(&account) {
            last.note(ended, now, clock);
            return;
        }
        let mut last = Last::default();
        last.note(ended, now, clock);
        if last.error.is_none() {
            return;
        }
        if known.len() >= MOST_NAMELESS {
            let goes = known.iter().min_by_key(|(_, last)| (last.is_failing(), last.error.map(|(at, ..)| at)));
            if let Some(goes) = goes.map(|(account, _)| account.clone()) {
                known.remove(&goes);
            }
        }
        known.insert(account, last);
    }

    /// All of the last hour, in no order.
    pub fn numbers(&self, now: Instant) -> Vec<NamelessNumbers> {
        let mut known = self.0.lock();
        known.retain(|_, last| last.is_recent(now));
        let numbers = known.iter().map(|((upstream, hash), last)| NamelessNumbers {
            upstream: upstream.clone(),
            hash: *hash,
            last: last.told(now),
        });
        numbers.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use std::time::Duration;

    const FAILED: CallEnd = CallEnd::Answered(StatusCode::BAD_GATEWAY);
    const WELL: CallEnd = CallEnd::Answered(StatusCode::OK);

    fn account(number: u16) -> (Name, AccountHash) {
        let [high, low] = number.to_be_bytes();
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&[high, low]);
        ("us".into(), AccountHash(hash))
    }

    #[test]
    fn however_many_fail_so_many_are_remembered_and_those_that_are_well_again_go_first() {
        let (nameless, start) = (Nameless::default(), Instant::now());
        let mut now = start;
        let mut note = |number, ended| {
            now += Duration::from_secs(1);
            nameless.note(account(number), ended, now, SystemTime::now());
        };
        note(9_999, WELL);
        note(9_999, CallEnd::Abandoned);
        for number in 0..100 {
            note(number, FAILED);
        }
        note(50, WELL);
        note(1_000, FAILED);
        let known = |number: u16| nameless.numbers(start).iter().any(|known| known.hash == account(number).1);
        assert!(!known(9_999), "it has not failed");
        assert!(!known(50) && known(0) && known(1_000), "the one that is well again made room");
        note(1_001, FAILED);
        assert!(!known(0) && known(1), "then the one whose failure is longest ago");
        for number in 2_000..3_000 {
            note(number, FAILED);
        }
        assert_eq!(nameless.numbers(start).len(), MOST_NAMELESS);
        note(2_999, WELL);
        let numbers = nameless.numbers(now);
        let last = &numbers.iter().find(|known| known.hash == account(2_999).1).expect("the latest").last;
        assert!(!last.is_failing && last.error.as_ref().is_some_and(|error| error.ended == FAILED), "{last:?}");
        assert_eq!(nameless.numbers(now + RECENT).len(), 0, "an hour later it is forgotten");
    }
}
