//! Whether a stored response may answer a request, now (RFC 9111 §4), as a pure function.

use std::time::Duration;

use super::policy::Terms;
use crate::domain::cache_control::Wants;
use crate::domain::exchange::{Forward, Why};

/// What to do with a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it.
    Fresh,
    /// Serve it although it is stale.
    Stale(Why),
    /// Ask the upstream.
    Ask(Forward),
    /// The client wants nothing but what is stored, and that will not do.
    NotCached,
}

impl Terms {
    /// Whether it may answer a request that `wants` something at an age. `purged`: an operator wants it to be fetched anew;
    /// `set_back`: the upstream has failed and is to be left alone for now.
    pub fn judge(&self, age: Duration, wants: &Wants, purged: bool, set_back: bool) -> Verdict {
        let too_old = wants.max_age.is_some_and(|limit| age > limit);
        let refused = wants.no_cache || wants.no_store || too_old;
        let fresh = !self.always_ask && !purged && age < self.lifetime;
        let lasts = wants.min_fresh.is_none_or(|wanted| age + wanted <= self.lifetime);
        if fresh && lasts && !refused {
            return Verdict::Fresh;
        }
        let since = age.saturating_sub(self.lifetime);
        let accepted = wants.max_stale.is_some_and(|limit| since <= limit);
        if accepted && self.may_be_stale && !fresh && !refused && !purged {
            return Verdict::Stale(Why::Accepted);
        }
        if wants.only_if_cached {
            return Verdict::NotCached;
        }
        if fresh {
            return Verdict::Ask(Forward::Request);
        }
        let revalidating = self.may_be_stale && since < self.while_revalidate && wants.min_fresh.is_none() && !purged;
        let served = if set_back && self.covers_error(age) {
            Some(Why::UpstreamError)
        } else {
            revalidating.then_some(Why::Revalidating)
        };
        match served {
            // Who insists has it tried all the same, and pays for that as for any other try that nobody else would have made.
            Some(_) if refused => Verdict::Ask(Forward::Request),
            Some(why) => Verdict::Stale(why),
            None => Verdict::Ask(Forward::Stale),
        }
    }

    /// Whether it may stand in at this age for an upstream that fails (RFC 5861 §4).
    pub fn covers_error(&self, age: Duration) -> bool {
        self.may_be_stale && age.saturating_sub(self.lifetime) < self.if_error
    }
}

#[cfg(test)]
mod tests {
    use super::super::directives::Directives;
    use super::super::policy::{Clocks, terms};
    use super::*;
    use http::header::{AGE, CACHE_CONTROL};
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;
    use std::time::SystemTime;

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn aged(line: &str, age: u64) -> Terms {
        let line = HeaderValue::from_str(line).expect("a header value");
        let headers: HeaderMap = [(CACHE_CONTROL, line), (AGE, age.into())].into_iter().collect();
        terms(&headers, &Directives::read(&headers), Clocks { delay: Duration::ZERO, wall: SystemTime::now() })
    }

    fn told(line: &str) -> Terms {
        aged(line, 0)
    }

    #[test]
    fn each_clock_ends_where_the_next_begins() {
        let terms = told("max-age=5, stale-while-revalidate=10, stale-if-error=60");
        let judge = |age, set_back| terms.judge(Duration::from_millis(age), &Wants::default(), false, set_back);
        assert_eq!(judge(4_999, false), Verdict::Fresh);
        assert_eq!(judge(5_000, false), Verdict::Stale(Why::Revalidating));
        assert_eq!(judge(14_999, false), Verdict::Stale(Why::Revalidating));
        assert_eq!(judge(15_000, false), Verdict::Ask(Forward::Stale));
        assert_eq!(judge(15_000, true), Verdict::Stale(Why::UpstreamError));
        assert!(terms.covers_error(Duration::from_millis(64_999)) && !terms.covers_error(second(65)));
        assert_eq!(judge(65_000, true), Verdict::Ask(Forward::Stale));
        let purged = terms.judge(second(1), &Wants { max_stale: Some(second(99)), ..Wants::default() }, true, false);
        assert_eq!(purged, Verdict::Ask(Forward::Stale));
    }

    #[test]
    fn the_client_has_its_say() {
        let plain = Wants::default();
        let terms = told("max-age=5");
        let request = Verdict::Ask(Forward::Request);
        for (wants, age, expected) in [
            (Wants { no_cache: true, ..plain }, 1, request),
            (Wants { max_age: Some(second(1)), ..plain }, 1, Verdict::Fresh),
            (Wants { max_age: Some(second(1)), ..plain }, 2, request),
            (Wants { min_fresh: Some(second(3)), ..plain }, 2, Verdict::Fresh),
            (Wants { min_fresh: Some(second(3)), ..plain }, 3, request),
            (Wants { max_stale: Some(second(3)), ..plain }, 8, Verdict::Stale(Why::Accepted)),
            (Wants { max_stale: Some(second(3)), ..plain }, 9, Verdict::Ask(Forward::Stale)),
            (Wants { only_if_cached: true, ..plain }, 1, Verdict::Fresh),
            (Wants { only_if_cached: true, ..plain }, 5, Verdict::NotCached),
            (Wants { only_if_cached: true, no_cache: true, ..plain }, 1, Verdict::NotCached),
        ] {
            assert_eq!(terms.judge(second(age), &wants, false, false), expected, "{wants:?} at {age}");
        }
    }

    proptest! {
        #[test]
        fn what_forbids_stale_use_is_never_used_stale(
            word in prop_oneof![Just("no-cache"), Just("must-revalidate"), Just("proxy-revalidate"), Just("s-maxage=5")],
            age in 5_u64..200, max_stale: bool, set_back: bool,
        ) {
            let line = format!("{word}, max-age=5, stale-while-revalidate=99, stale-if-error=99");
            let terms = told(&line);
            let wants = Wants { max_stale: max_stale.then_some(second(999)), ..Wants::default() };
            prop_assert_eq!(terms.judge(second(age), &wants, false, set_back), Verdict::Ask(Forward::Stale));
            prop_assert!(!terms.covers_error(second(age)));
        }

        #[test]
        fn nothing_is_fresh_beyond_its_lifetime(max_age in 0_u64..100, age in 0_u64..200, had in 0_u64..50) {
            let terms = aged(&format!("max-age={max_age}"), had);
            let fresh = terms.judge(terms.initial_age + second(age), &Wants::default(), false, false) == Verdict::Fresh;
            prop_assert_eq!(fresh, had + age < max_age);
        }
    }
}
