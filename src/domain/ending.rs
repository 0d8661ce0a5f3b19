//! How a request ended, as logs and metrics name it: a closed list, taken from nothing but the result itself.

use http::StatusCode;

use super::exchange::{Forward, Given, Served, Why};
use super::problem::Problem;

/// How a request ended: the short name of an [`Outcome`](super::exchange::Outcome).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`labels` says what each is called, and that is what it is")]
pub enum Ending {
    Hit,
    Negative,
    StaleRevalidating,
    StaleUpstreamError,
    StaleAccepted,
    Collapsed,
    Revalidated,
    MissAbsent,
    MissExpired,
    MissForced,
    MissVaried,
    Bypassed,
    Webhook,
    InvalidRequest,
    UnknownConsumer,
    InvalidSignature,
    AccountNotAllowed,
    ResyncNotAllowed,
    NoSuchRoute,
    MethodNotAllowed,
    RequestTooLarge,
    QuotaExceeded,
    BudgetExhausted,
    Overloaded,
    NotCached,
    UpstreamFailed,
    UpstreamTimeout,
    Abandoned,
}

/// Where the page of an answer was from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was stored.
    Store,
    /// It had to be waited for.
    Upstream,
    /// There was none, or it passed through.
    Neither,
}

impl Ending {
    /// All of them, each at the place that its number says.
    pub const ALL: [Self; 28] = [
        Self::Hit,
        Self::Negative,
        Self::StaleRevalidating,
        Self::StaleUpstreamError,
        Self::StaleAccepted,
        Self::Collapsed,
        Self::Revalidated,
        Self::MissAbsent,
        Self::MissExpired,
        Self::MissForced,
        Self::MissVaried,
        Self::Bypassed,
        Self::Webhook,
        Self::InvalidRequest,
        Self::UnknownConsumer,
        Self::InvalidSignature,
        Self::AccountNotAllowed,
        Self::ResyncNotAllowed,
        Self::NoSuchRoute,
        Self::MethodNotAllowed,
        Self::RequestTooLarge,
        Self::QuotaExceeded,
        Self::BudgetExhausted,
        Self::Overloaded,
        Self::NotCached,
        Self::UpstreamFailed,
        Self::UpstreamTimeout,
        Self::Abandoned,
    ];

    /// How a request with this result ended.
    pub fn of(result: &Result<Given, Problem>) -> Self {
        match result {
            Ok(given) => given.served().map_or(Self::Webhook, Self::served),
            Err(problem) => Self::without(problem),
        }
    }

    fn served(served: Served) -> Self {
        match served {
            Served::Hit => Self::Hit,
            Served::Negative => Self::Negative,
            Served::Stale(Why::Revalidating) => Self::StaleRevalidating,
            Served::Stale(Why::UpstreamError) => Self::StaleUpstreamError,
            Served::Stale(Why::Accepted) => Self::StaleAccepted,
            Served::Collapsed { .. } => Self::Collapsed,
            Served::Fetched { forward: Forward::Method | Forward::Bypass, .. } => Self::Bypassed,
            Served::Fetched { status: StatusCode::NOT_MODIFIED, .. } => Self::Revalidated,
            Served::Fetched { forward: Forward::UriMiss, .. } => Self::MissAbsent,
            Served::Fetched { forward: Forward::Stale, .. } => Self::MissExpired,
            Served::Fetched { forward: Forward::Request, .. } => Self::MissForced,
            Served::Fetched { forward: Forward::VaryMiss, .. } => Self::MissVaried,
        }
    }

    fn without(problem: &Problem) -> Self {
        match problem {
            Problem::InvalidRequest(_) => Self::InvalidRequest,
            Problem::UnknownConsumer => Self::UnknownConsumer,
            Problem::InvalidSignature => Self::InvalidSignature,
            Problem::AccountNotAllowed => Self::AccountNotAllowed,
            Problem::ResyncNotAllowed => Self::ResyncNotAllowed,
            Problem::NoSuchRoute => Self::NoSuchRoute,
            Problem::MethodNotAllowed { .. } => Self::MethodNotAllowed,
            Problem::TargetTooLong | Problem::HeadersTooLarge | Problem::BodyTooLarge => Self::RequestTooLarge,
            Problem::QuotaExceeded { .. } | Problem::TooManyStrangers { .. } => Self::QuotaExceeded,
            Problem::BudgetExhausted { .. } => Self::BudgetExhausted,
            Problem::Overloaded { .. } => Self::Overloaded,
            Problem::NotCached => Self::NotCached,
            Problem::UpstreamFailed(_) => Self::UpstreamFailed,
            Problem::UpstreamTimeout => Self::UpstreamTimeout,
        }
    }

    /// Its result and its reason, which may be empty. The reason of a problem is the last part of its type.
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Hit => ("hit", ""),
            Self::Negative => ("negative", ""),
            Self::StaleRevalidating => ("stale", "revalidating"),
            Self::StaleUpstreamError => ("stale", "upstream-error"),
            Self::StaleAccepted => ("stale", "accepted"),
            Self::Collapsed => ("collapsed", ""),
            Self::Revalidated => ("revalidated", ""),
            Self::MissAbsent => ("miss", "absent"),
            Self::MissExpired => ("miss", "expired"),
            Self::MissForced => ("miss", "forced"),
            Self::MissVaried => ("miss", "varied"),
            Self::Bypassed => ("bypass", ""),
            Self::Webhook => ("webhook", ""),
            Self::InvalidRequest => ("refused", "invalid-request"),
            Self::UnknownConsumer => ("refused", "unknown-consumer"),
            Self::InvalidSignature => ("refused", "invalid-signature"),
            Self::AccountNotAllowed => ("refused", "account-not-allowed"),
            Self::ResyncNotAllowed => ("refused", "resync-not-allowed"),
            Self::NoSuchRoute => ("refused", "no-such-route"),
            Self::MethodNotAllowed => ("refused", "method-not-allowed"),
            Self::RequestTooLarge => ("refused", "request-too-large"),
            Self::QuotaExceeded => ("refused", "quota-exceeded"),
            Self::BudgetExhausted => ("refused", "budget-exhausted"),
            Self::Overloaded => ("refused", "overloaded"),
            Self::NotCached => ("refused", "not-cached"),
            Self::UpstreamFailed => ("failed", "upstream-failed"),
            Self::UpstreamTimeout => ("failed", "upstream-timeout"),
            Self::Abandoned => ("abandoned", ""),
        }
    }

    /// The first of its labels.
    pub const fn result(self) -> &'static str {
        self.labels().0
    }

    /// The second of its labels; empty where the first says all.
    pub const fn reason(self) -> &'static str {
        self.labels().1
    }

    /// Where the page was from.
    pub const fn source(self) -> Source {
        match self {
            Self::Hit | Self::Negative | Self::StaleRevalidating | Self::StaleUpstreamError | Self::StaleAccepted => {
                Source::Store
            }
            Self::Collapsed
            | Self::Revalidated
            | Self::MissAbsent
            | Self::MissExpired
            | Self::MissForced
            | Self::MissVaried => Source::Upstream,
            _ => Source::Neither,
        }
    }

    /// Whether the answer was there already or on its way, so that the request waited for no call of its own.
    pub fn was_ready(self) -> bool {
        self.source() == Source::Store || self == Self::Collapsed
    }

    /// Whether it would have been a call to Merge if there were no proxy.
    pub fn is_for_merge(self) -> bool {
        self.source() != Source::Neither
            || matches!(self, Self::Bypassed | Self::UpstreamFailed | Self::UpstreamTimeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bucket::Rate;
    use crate::domain::hindrance::Kind;
    use std::borrow::Cow;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn each_has_its_number_and_labels_of_its_own() {
        let labels: BTreeSet<_> = Ending::ALL.iter().map(|ending| ending.labels()).collect();
        assert_eq!(labels.len(), Ending::ALL.len());
        for (number, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, number, "{ending:?}");
        }
    }

    #[test]
    fn a_problem_is_called_by_its_type() {
        let retry_after = Duration::ZERO;
        for problem in [
            Problem::InvalidRequest(Cow::Borrowed("")),
            Problem::UnknownConsumer,
            Problem::InvalidSignature,
            Problem::BodyTooLarge,
            Problem::TargetTooLong,
            Problem::HeadersTooLarge,
            Problem::QuotaExceeded { rate: Rate::new(30, Duration::from_secs(60)).expect("a rate"), retry_after },
            Problem::BudgetExhausted { kind: Kind::Rate, retry_after },
            Problem::Overloaded { retry_after },
            Problem::NotCached,
            Problem::UpstreamTimeout,
        ] {
            assert_eq!(Ending::of(&Err(problem.clone())).reason(), problem.row().slug);
        }
    }

    #[test]
    fn a_page_that_merge_confirms_is_no_miss() {
        let fetched = |status| Served::Fetched { forward: Forward::Stale, status, stored: true };
        assert_eq!(Ending::served(fetched(StatusCode::NOT_MODIFIED)), Ending::Revalidated);
        assert_eq!(Ending::served(fetched(StatusCode::OK)), Ending::MissExpired);
    }
}
