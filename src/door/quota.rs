//! What a consumer may still ask.

use tokio::time::Instant;

use crate::domain::caller::Quota;
use crate::domain::problem::Problem;

/// Spends one request of a consumer's quota, if it has one.
pub fn take(quota: Option<&Quota>, now: Instant) -> Result<(), Problem> {
    let Some(quota) = quota else { return Ok(()) };
    quota.bucket.reserve(now).map_err(|at| {
        let retry_after = at.saturating_duration_since(now);
        Problem::QuotaExceeded { rate: quota.rate, retry_after }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::Consumer;
    use crate::domain::bucket::Rate;
    use crate::domain::caller::Caller;
    use std::time::Duration;

    #[test]
    fn a_spent_quota_says_when_to_come_back() {
        let now = Instant::now();
        let quota = Rate::new(1, Duration::from_secs(60));
        let caller = Caller::new(Consumer { quota, ..Consumer::open() }, now);
        let take = |now| take(caller.quota.as_deref(), now);
        assert_eq!(take(now), Ok(()));
        let Err(Problem::QuotaExceeded { retry_after, .. }) = take(now) else { panic!("it was spent") };
        assert_eq!(take(now + retry_after), Ok(()));
    }
}
