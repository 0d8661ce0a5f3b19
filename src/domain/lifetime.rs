//! For how long a page may be used, and what it is good for at each age.

use std::time::Duration;

/// For how long a page may be used, counted from the moment that its request went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Fresh for this long.
    pub fresh: Duration,
    /// Then served while it is fetched anew, for this long.
    pub while_revalidate: Duration,
    /// Served when the upstream fails, for this long after it was fresh.
    pub if_error: Duration,
}

/// What a page is good for at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Fresh for `ttl` more.
    Fresh {
        /// What is left of the lifetime.
        ttl: Duration,
    },
    /// No longer fresh, but it may be served while it is fetched anew.
    Revalidate {
        /// For how long it has been stale.
        since: Duration,
    },
    /// No longer fresh; it may be served only if the upstream fails.
    IfError {
        /// For how long it has been stale.
        since: Duration,
    },
    /// It may only be used to ask whether it has changed.
    Unusable,
}

impl Lifetime {
    /// The lifetime of what is not stored.
    pub const NONE: Self = Self { fresh: Duration::ZERO, while_revalidate: Duration::ZERO, if_error: Duration::ZERO };

    /// What a page of `age` is good for. One that `is_purged` only stands in for failures.
    pub fn freshness(&self, age: Duration, is_purged: bool) -> Freshness {
        let Self { fresh, while_revalidate, if_error } = *self;
        if age < fresh && !is_purged {
            return Freshness::Fresh { ttl: fresh - age };
        }
        let since = age.saturating_sub(fresh);
        if since < while_revalidate && !is_purged {
            Freshness::Revalidate { since }
        } else if since < if_error {
            Freshness::IfError { since }
        } else {
            Freshness::Unusable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lifetime(seconds: [u64; 3]) -> Lifetime {
        let [fresh, while_revalidate, if_error] = seconds.map(Duration::from_secs);
        Lifetime { fresh, while_revalidate, if_error }
    }

    #[test]
    fn a_page_runs_through_its_clocks() {
        let second = Duration::from_secs;
        let at = |seconds| lifetime([5, 30, 3600]).freshness(second(seconds), false);
        assert_eq!(at(0), Freshness::Fresh { ttl: second(5) });
        assert_eq!(at(4), Freshness::Fresh { ttl: second(1) });
        assert_eq!(at(5), Freshness::Revalidate { since: second(0) });
        assert_eq!(at(34), Freshness::Revalidate { since: second(29) });
        assert_eq!(at(35), Freshness::IfError { since: second(30) });
        assert_eq!(at(3604), Freshness::IfError { since: second(3599) });
        assert_eq!(at(3605), Freshness::Unusable);
    }

    proptest! {
        #[test]
        fn a_page_never_gets_better_with_age(
            clocks in [0_u64..100, 0_u64..100, 0_u64..100], ages in [0_u64..400, 0_u64..400], purged: bool,
        ) {
            let rank = |age| match lifetime(clocks).freshness(Duration::from_secs(age), purged) {
                Freshness::Fresh { .. } => 0,
                Freshness::Revalidate { .. } => 1,
                Freshness::IfError { .. } => 2,
                Freshness::Unusable => 3,
            };
            prop_assert!(rank(ages[0].min(ages[1])) <= rank(ages[0].max(ages[1])));
        }
    }
}
