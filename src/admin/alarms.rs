//! Turns what changes between two readings into events: refusals of Merge, calls that fail and then succeed again, and upstreams that
//! are left alone since too many calls failed.

use std::collections::{HashMap, HashSet};

use super::readings::Reading;
use crate::domain::access::Name;
use crate::domain::event::{Events, Kind};
use crate::metrics::numbers::{AccountNumbers, CallEnd};

/// What was last known.
#[derive(Debug, Default)]
pub struct Alarms {
    accounts: HashMap<(Name, Name), Known>,
    blocked: HashSet<Name>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    rate_limited: u64,
    failures: u64,
    is_failing: bool,
}

impl Alarms {
    /// Notes in `events` what is new in `reading`; `blocked` are the upstreams whose failure budget is spent.
    pub fn compare(&mut self, reading: &Reading, blocked: &[Name], events: &Events) {
        for account in &reading.accounts {
            let known = self.accounts.entry((account.upstream.clone(), account.name.clone())).or_default();
            known.compare(account, events);
        }
        for upstream in blocked {
            if self.blocked.insert(upstream.clone()) {
                let text = "calls are stopped, since too many have failed";
                events.note(Kind::Breaker, Some(upstream.clone()), text);
            }
        }
        self.blocked.retain(|upstream| {
            let stays = blocked.contains(upstream);
            if !stays {
                events.note(Kind::Breaker, Some(upstream.clone()), "calls may go again");
            }
            stays
        });
    }
}

impl Known {
    fn compare(&mut self, account: &AccountNumbers, events: &Events) {
        let subject = || Some(account.name.clone());
        let refused = account.rate_limited > self.rate_limited;
        if refused {
            events.note(Kind::RateLimited, subject(), "Merge refused: too many calls (429)");
        }
        // A 429 is a failure as well, and has been told.
        let failed = account.failures.saturating_sub(self.failures);
        if failed > account.rate_limited.saturating_sub(self.rate_limited)
            && let Some(error) = &account.last.error
        {
            events.note(Kind::UpstreamFailed, subject(), failure(error.ended));
        }
        if self.is_failing && !account.last.is_failing {
            events.note(Kind::Recovered, subject(), "Merge answers again");
        }
        let AccountNumbers { rate_limited, failures, ref last, .. } = *account;
        *self = Self { rate_limited, failures, is_failing: last.is_failing };
    }
}

/// How a call failed, in the words of operators.
pub fn failure(ended: CallEnd) -> String {
    match ended {
        CallEnd::Answered(status) => match status.as_u16() {
            429 => "Merge refused: too many calls (429)".to_owned(),
            401 => "Merge does not know the token (401)".to_owned(),
            _ => format!("Merge answered {status}"),
        },
        CallEnd::TimedOut => "Merge did not answer in time".to_owned(),
        CallEnd::Failed(cause) => format!("no usable answer: {cause}"),
        CallEnd::Abandoned => ended.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::numbers::{LastCalls, LastError};
    use http::StatusCode;
    use std::time::{Duration, SystemTime};

    fn account(failures: u64, rate_limited: u64, is_failing: bool) -> Reading {
        let ended = CallEnd::Answered(StatusCode::BAD_GATEWAY);
        let account = AccountNumbers {
            upstream: "us".into(),
            name: "acme".into(),
            calls: failures,
            failures,
            rate_limited,
            refused: 0,
            last: LastCalls {
                success: None,
                error: Some(LastError { ended, at: SystemTime::now(), ago: Duration::ZERO }),
                is_failing,
            },
        };
        Reading { accounts: vec![account], ..Reading::default() }
    }

    #[test]
    fn each_change_is_told_once() {
        let (mut alarms, events) = (Alarms::default(), Events::default());
        let mut told = |reading: &Reading, blocked: &[Name]| {
            let newest = events.latest(1).first().map_or(0, |event| event.id);
            alarms.compare(reading, blocked, &events);
            let mut new: Vec<_> = events.latest(9).into_iter().filter(|event| event.id > newest).collect();
            new.reverse();
            new.into_iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        assert_eq!(told(&account(0, 0, false), &[]), []);
        assert_eq!(told(&account(1, 1, true), &[]), [Kind::RateLimited]);
        assert_eq!(told(&account(1, 1, true), &[]), []);
        assert_eq!(
            told(&account(3, 2, true), &["us".into()]),
            [Kind::RateLimited, Kind::UpstreamFailed, Kind::Breaker]
        );
        assert_eq!(told(&account(3, 2, true), &["us".into()]), []);
        assert_eq!(told(&account(3, 2, false), &[]), [Kind::Recovered, Kind::Breaker]);
    }
}
