//! What a consumer may still ask.

use tokio::time::Instant;

use crate::domain::exchange::Caller;
use crate::domain::problem::Problem;

/// Spends one request of the caller's quota.
pub fn take(caller: &Caller, now: Instant) -> Result<(), Problem> {
    let Some(quota) = &caller.quota else { return Ok(()) };
    quota.bucket.reserve(now).map_err(|at| Problem::QuotaExceeded { retry_after: at.saturating_duration_since(now) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::Consumer;
    use crate::domain::bucket::Rate;
    use std::time::Duration;

    #[test]
    fn a_spent_quota_says_when_to_come_back() {
        let now = Instant::now();
        let quota = Rate::new(1, Duration::from_secs(60));
        let caller = Caller::new(Consumer { quota, ..Consumer::open() }, now);
        assert_eq!(take(&caller, now), Ok(()));
        let Err(Problem::QuotaExceeded { retry_after }) = take(&caller, now) else { panic!("it was spent") };
        assert_eq!(take(&caller, now + retry_after), Ok(()));
    }
}
