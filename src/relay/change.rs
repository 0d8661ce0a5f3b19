//! A method that may change something: what it is about is dropped once it has gone through (RFC 9111 §4.4), or may have.

use std::sync::Arc;

use http::header::{CONTENT_LOCATION, LOCATION};
use tower::Service;

use super::fetch::pass;
use super::place;
use super::resync;
use crate::domain::access::AccountHash;
use crate::domain::exchange::{Forward, Target};
use crate::domain::key::{CanonicalQuery, PageKey};
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called, Relay, Relayed};
use crate::domain::rules::CacheRule;

/// Something that is known, and may be out of date.
pub enum Known<'a> {
    /// All that is known of an account.
    Account(AccountHash),
    /// What is at an upstream path and query for the account of a key.
    Place(&'a PageKey, &'a str, &'a CanonicalQuery),
}

/// Makes it stale, or drops it.
pub type Forget = Arc<dyn Fn(Known<'_>) + Send + Sync>;

/// Passes it on, in a task of its own: a caller who leaves does not undo what it has sent, so what follows from that must follow.
pub async fn change<S>(inner: S, forget: Forget, relay: Relay) -> Result<Relayed, Problem>
where
    S: Service<Call, Response = Called, Error = Problem, Future: Send> + Send + 'static,
{
    let (place, _) = relay.caller.place(relay.call.deadline).await?;
    let task = tokio::spawn(async move {
        let Relay { caller, call, policy, resync, .. } = relay;
        let (target, key) = (call.target.clone(), call.key.clone());
        let forward = if policy.rule == CacheRule::Http { Forward::Method } else { Forward::Bypass };
        let passed = pass(inner, call, place, forward).await;
        if let Some(asker) = resync.filter(|_| was_sent(&passed)) {
            resync::tell(&asker, &caller, &target, &passed);
            if has_changed(&passed) {
                forget(Known::Account(target.account.hash));
            }
        }
        if has_changed(&passed) {
            invalidate(&forget, &target, &key, &passed);
        }
        passed
    });
    task.await.unwrap_or(Err(Problem::UpstreamFailed(Cause::Died)))
}

/// Forgets what is stored under the same path and query, and where the answer says that something is.
fn invalidate(forget: &Forget, target: &Target, key: &PageKey, passed: &Result<Relayed, Problem>) {
    forget(Known::Place(key, &key.place.path, &key.query));
    for field in passed.iter().flat_map(|relayed| [LOCATION, CONTENT_LOCATION].map(|name| relayed.headers.get(name))) {
        let also = field.and_then(|value| place::of(value, &target.upstream, &key.place.path));
        if let Some((path, query)) = also {
            forget(Known::Place(key, &path, &query));
        }
    }
}

/// Whether it has gone through, or may have: an answer that was lost may have been a good one.
fn has_changed(passed: &Result<Relayed, Problem>) -> bool {
    match passed {
        Ok(relayed) => relayed.status.is_success() || relayed.status.is_redirection(),
        Err(_) => was_sent(passed),
    }
}

/// Whether any of it may have reached the upstream.
fn was_sent(passed: &Result<Relayed, Problem>) -> bool {
    match passed {
        // A body that broke off has begun.
        Ok(_) | Err(Problem::UpstreamTimeout | Problem::InvalidRequest(_)) => true,
        Err(Problem::UpstreamFailed(cause)) => !matches!(cause, Cause::Connect | Cause::Tls | Cause::Refused),
        // What is left is said before a call goes out.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::hindrance::Kind;

    #[test]
    fn only_what_certainly_was_not_sent_has_changed_nothing() {
        let failed = |cause| Err(Problem::UpstreamFailed(cause));
        let retry_after = Duration::from_secs(1);
        for unsent in [
            failed(Cause::Connect),
            failed(Cause::Tls),
            failed(Cause::Refused),
            Err(Problem::BudgetExhausted { kind: Kind::Rate, retry_after }),
            Err(Problem::Overloaded { retry_after }),
        ] {
            assert!(!was_sent(&unsent) && !has_changed(&unsent), "{unsent:?}");
        }
        for lost in [
            failed(Cause::Closed),
            failed(Cause::Invalid),
            failed(Cause::Incomplete),
            failed(Cause::Died),
            Err(Problem::UpstreamTimeout),
            Err(Problem::InvalidRequest("The body broke off.".into())),
        ] {
            assert!(was_sent(&lost) && has_changed(&lost), "{lost:?}");
        }
    }
}
