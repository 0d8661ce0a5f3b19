//! Counts every answer as it leaves, refusals too.

use super::registry::Metrics;
use crate::reply::render::Reply;

/// What counts the answers that it is shown.
pub fn counter(metrics: Metrics) -> impl Fn(&Reply) + Clone + Send + Sync + 'static {
    move |reply| metrics.count(&reply.outcome, reply.response.status(), reply.took)
}
