//! Everything that can go wrong between a request and its page, one row each: the contract's table of errors.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::bucket::Rate;
use super::hindrance::{Kind, Share, Sharers};

/// A failure that the proxy answers with itself, as `application/problem+json` (RFC 9457).
///
/// It is cloned to every caller that waited for the same flight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Refused at the door; the text says what is wrong and what would be right.
    #[error("invalid request: {0}")]
    InvalidRequest(Cow<'static, str>),
    /// No consumer key, or one that nobody has.
    #[error("unknown consumer")]
    UnknownConsumer,
    /// The account is not known or not granted; callers cannot tell which.
    #[error("account not allowed")]
    AccountNotAllowed,
    /// The consumer may not spend sync credits.
    #[error("resync not allowed")]
    ResyncNotAllowed,
    /// No route has this path.
    #[error("no such route")]
    NoSuchRoute,
    /// The route has other methods.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: HeaderValue,
    },
    /// The consumer's quota is used up.
    #[error("quota exceeded")]
    QuotaExceeded {
        /// The quota.
        rate: Rate,
        /// When the next request is free.
        retry_after: Duration,
    },
    /// Too many requests without a known key came from the same origin.
    #[error("too many requests without a known key")]
    TooManyStrangers {
        /// When the next one is looked at.
        retry_after: Duration,
    },
    /// The upstream's budget is used up and nothing stale could be served.
    #[error("budget exhausted")]
    BudgetExhausted {
        /// What of it.
        kind: Kind,
        /// When the next call can go.
        retry_after: Duration,
    },
    /// The request target is longer than 8 KiB.
    #[error("request target too long")]
    TargetTooLong,
    /// The header section is larger than allowed.
    #[error("header section too large")]
    HeadersTooLarge,
    /// The body of a webhook is larger than any that matters.
    #[error("body too large")]
    BodyTooLarge,
    /// Merge has not signed this webhook.
    #[error("invalid signature")]
    InvalidSignature,
    /// The upstream did not give a usable answer.
    #[error("upstream failed: {0}")]
    UpstreamFailed(Cause),
    /// A local limit is reached, or the upstream is left alone since it fails.
    #[error("overloaded")]
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
    /// The upstream did not answer in time.
    #[error("upstream timeout")]
    UpstreamTimeout,
    /// `only-if-cached`, and nothing fresh is here.
    #[error("not cached")]
    NotCached,
}

/// Why a request must be refused, found before the door has seen it; it travels among the request's extensions.
#[derive(Clone, Debug)]
pub struct Objection(pub Problem);

/// Why an upstream's answer could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No connection.
    #[error("no connection")]
    Connect,
    /// Somebody answered at the address who cannot prove to be the upstream, or speaks no TLS.
    #[error("no secure connection")]
    Tls,
    /// The connection ended before the answer began.
    #[error("closed before an answer")]
    Closed,
    /// The upstream has not begun with the call (HTTP/2: `REFUSED_STREAM`, or a GOAWAY that leaves it out).
    #[error("not begun with")]
    Refused,
    /// What came is no HTTP.
    #[error("not HTTP")]
    Invalid,
    /// The answer ended before it was whole.
    #[error("cut short")]
    Incomplete,
    /// The body is larger than 64 MiB.
    #[error("too large")]
    TooLarge,
    /// A 200 whose body is no JSON.
    #[error("not JSON")]
    NotJson,
    /// A status that makes no sense here, such as a 204, a redirect or an unasked 304; or an error whose body broke off.
    #[error("unexpected status {0}")]
    Unexpected(u16),
    /// The fetch itself broke down.
    #[error("internal fault")]
    Died,
}

/// One row of the table of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The status code.
    pub status: StatusCode,
    /// The last part of `urn:merge-sync-proxy:error:…`.
    pub slug: &'static str,
    /// A short text that is the same for every occurrence.
    pub title: &'static str,
    /// What to do about it.
    pub detail: Cow<'static, str>,
    /// How long to wait before another try.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Whether it is for want of the upstream: then a stale page may stand in (RFC 5861 §4).
    pub fn is_upstream(&self) -> bool {
        matches!(
            self,
            Self::UpstreamFailed(_) | Self::UpstreamTimeout | Self::BudgetExhausted { .. } | Self::Overloaded { .. }
        )
    }

    /// Whether it holds back only the consumer that the call is charged to: the same call might go for another.
    pub fn is_of_the_payer(&self) -> bool {
        let Self::BudgetExhausted { kind, .. } = self else { return false };
        matches!(kind, Kind::Line | Kind::Failures(Share { of: Sharers::Consumer, .. }))
    }

    /// The problem's row; there is no catch-all arm, so a new problem needs a row.
    #[allow(clippy::too_many_lines, reason = "it is a table")]
    pub fn row(&self) -> Row {
        let row = |status, slug, title, detail| Row { status, slug, title, detail, retry_after: None };
        match self {
            Self::InvalidRequest(detail) => {
                row(StatusCode::BAD_REQUEST, "invalid-request", "The request is not valid", detail.clone())
            }
            Self::UnknownConsumer => row(
                StatusCode::UNAUTHORIZED,
                "unknown-consumer",
                "No known consumer key",
                "Send 'Authorization: Bearer CONSUMER_KEY' with a key that the operator of this proxy has given you."
                    .into(),
            ),
            Self::AccountNotAllowed => row(
                StatusCode::FORBIDDEN,
                "account-not-allowed",
                "The account is not known or not granted",
                "Check the name in X-Account-Token, or ask the operator of this proxy to grant it to you.".into(),
            ),
            Self::ResyncNotAllowed => row(
                StatusCode::FORBIDDEN,
                "resync-not-allowed",
                "Resyncs are not granted",
                "A resync spends a sync credit; ask the operator of this proxy to grant you 'resync'.".into(),
            ),
            Self::NoSuchRoute => row(
                StatusCode::NOT_FOUND,
                "no-such-route",
                "No route has this path",
                "The path must match a route exactly, for example /api/ats/v1/sync-status.".into(),
            ),
            Self::MethodNotAllowed { .. } => row(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The route does not take this method",
                "Use one of the methods in the Allow header.".into(),
            ),
            Self::QuotaExceeded { rate, retry_after } => Row {
                retry_after: Some(*retry_after),
                ..row(
                    StatusCode::TOO_MANY_REQUESTS,
                    "quota-exceeded",
                    "Your quota is used up for the moment",
                    format!(
                        "Too many at once for your quota of {rate}: a fifth of it, which is {}, may come at once, and then one after \
                         the other; come back after Retry-After, or ask the operator of this proxy for a larger quota.",
                        rate.burst()
                    )
                    .into(),
                )
            },
            Self::TooManyStrangers { retry_after } => Row {
                retry_after: Some(*retry_after),
                ..row(
                    StatusCode::TOO_MANY_REQUESTS,
                    "quota-exceeded",
                    "Too many requests without a known consumer key",
                    "Your address has sent too many requests without a key that is known here; correct the key, and come back \
                     after Retry-After."
                        .into(),
                )
            },
            Self::BudgetExhausted { kind, retry_after } => Row {
                retry_after: Some(*retry_after),
                ..row(
                    StatusCode::TOO_MANY_REQUESTS,
                    "budget-exhausted",
                    "No call to Merge is left for now",
                    format!(
                        "No call can go now: {kind}. Come back after Retry-After; pages that are in the cache are served \
                         meanwhile."
                    )
                    .into(),
                )
            },
            Self::TargetTooLong => row(
                StatusCode::URI_TOO_LONG,
                "request-too-large",
                "The request target is too long",
                "Keep path and query below 8 KiB.".into(),
            ),
            Self::HeadersTooLarge => row(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "request-too-large",
                "The header section is too large",
                "Send fewer or shorter headers.".into(),
            ),
            Self::BodyTooLarge => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request-too-large",
                "The body is too large",
                "Send webhooks of at most 64 KiB.".into(),
            ),
            Self::InvalidSignature => row(
                StatusCode::FORBIDDEN,
                "invalid-signature",
                "The signature does not fit",
                "Sign the body with the key that stands in [webhook] secret, as Merge does: X-Merge-Webhook-Signature.".into(),
            ),
            Self::UpstreamFailed(cause) => row(
                StatusCode::BAD_GATEWAY,
                "upstream-failed",
                "Merge gave no usable answer",
                format!("The call to Merge failed ({cause}); trying again is safe where the method is.").into(),
            ),
            Self::Overloaded { retry_after } => Row {
                retry_after: Some(*retry_after),
                ..row(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "The request cannot be served now",
                    "Merge fails and is left alone for a moment, or too many requests wait at a time; come back after Retry-After."
                        .into(),
                )
            },
            Self::UpstreamTimeout => row(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream-timeout",
                "Merge did not answer in time",
                "Trying again is safe where the method is.".into(),
            ),
            Self::NotCached => row(
                StatusCode::GATEWAY_TIMEOUT,
                "not-cached",
                "Nothing fresh is in the cache",
                "Leave out 'only-if-cached' to have the page fetched.".into(),
            ),
        }
    }
}

/// A duration as whole seconds for `Retry-After`: rounded up, never 0.
pub fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds);
        }
    }
}
