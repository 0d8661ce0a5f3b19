//! Counts the webhooks by what became of them.

use tower::util::MapResultLayer;

use super::registry::Metrics;
use crate::domain::delivery::Delivered;
use crate::domain::problem::Problem;

/// What can become of a webhook, as its label says. Where Merge has not signed it, that is `invalid-signature`; `refused` are those
/// that were never looked at, since they are too large or too slow, or too many.
pub const OUTCOMES: [&str; 6] = [
    Delivered::Stale.label(),
    Delivered::Duplicate.label(),
    Delivered::UnknownAccount.label(),
    Delivered::Ignored.label(),
    "invalid-signature",
    "refused",
];

/// The place of what has become of one in [`OUTCOMES`].
pub(super) fn place(outcome: &Result<Delivered, Problem>) -> usize {
    match outcome {
        Ok(Delivered::Stale) => 0,
        Ok(Delivered::Duplicate) => 1,
        Ok(Delivered::UnknownAccount) => 2,
        Ok(Delivered::Ignored) => 3,
        Err(Problem::InvalidSignature | Problem::TooManyStrangers { .. }) => 4,
        Err(_) => 5,
    }
}

/// The layer: sees what becomes of each.
pub fn layer(
    metrics: Metrics,
) -> MapResultLayer<impl Fn(Result<Delivered, Problem>) -> Result<Delivered, Problem> + Clone> {
    MapResultLayer::new(move |outcome| {
        metrics.webhook(&outcome);
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_under_its_own_name() {
        for delivered in [Delivered::Stale, Delivered::Duplicate, Delivered::UnknownAccount, Delivered::Ignored] {
            assert_eq!(OUTCOMES[place(&Ok(delivered))], delivered.label());
        }
        assert_eq!(OUTCOMES[place(&Err(Problem::InvalidSignature))], Problem::InvalidSignature.row().slug);
        assert_eq!(OUTCOMES[place(&Err(Problem::BodyTooLarge))], "refused");
    }
}
