//! Counts every answer as it leaves, refusals too.

use super::registry::Metrics;
use crate::domain::ending::Ending;
use crate::reply::render::Reply;

/// What counts the answers that it is shown.
pub fn counter(metrics: Metrics) -> impl Fn(&Reply, Ending) + Clone + Send + Sync + 'static {
    move |reply, ending| metrics.count(&reply.outcome, ending, reply.response.status(), reply.took)
}
