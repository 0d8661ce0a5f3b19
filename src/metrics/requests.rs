//! Counts every request as it ends, refusals too, and those that nobody waits for any more.

use super::registry::Metrics;
use crate::domain::reply::End;

/// What counts the requests whose end it is shown.
pub fn counter(metrics: Metrics) -> impl Fn(End<'_>) + Clone + Send + Sync + 'static {
    move |end| match end {
        End::Answered(reply, ending) => {
            metrics.count(&reply.outcome, ending, reply.response.status(), reply.took);
        }
        End::Abandoned(abandoned) => metrics.abandoned(abandoned),
    }
}
