//! What a response's `Cache-Control` says (RFC 9111 §5.2.2, RFC 5861).

use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName};

use crate::domain::cache_control::{directives, seconds};

/// The directives that matter to a shared cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a directive that is there or not")]
pub struct Directives {
    /// Fresh for this long.
    pub max_age: Option<Duration>,
    /// The same for shared caches; it wins.
    pub s_maxage: Option<Duration>,
    /// Not to be stored.
    pub no_store: bool,
    /// Not to be used without asking.
    pub no_cache: bool,
    /// Not to be stored by a cache that several share.
    pub private: bool,
    /// May be stored whatever its status is.
    pub public: bool,
    /// Never to be used once it is stale.
    pub must_revalidate: bool,
    /// The same for shared caches.
    pub proxy_revalidate: bool,
    /// Only to be stored if its status is understood; `no_store` does not count then.
    pub must_understand: bool,
    /// Usable this long after it was fresh, while it is fetched anew.
    pub stale_while_revalidate: Option<Duration>,
    /// Usable this long after it was fresh, if the upstream fails.
    pub stale_if_error: Option<Duration>,
    /// The fields that `no-cache` and `private` name: they go to the one who asked and are not stored.
    pub withheld: Vec<HeaderName>,
}

impl Directives {
    /// Reads all `Cache-Control` lines. What cannot be understood is taken to mean the stricter thing.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            // Something is said that cannot be read; it may be this.
            read.no_store |= line.to_str().is_err();
            for (name, argument) in directives(line) {
                read.take(&name.to_ascii_lowercase(), argument);
            }
        }
        read
    }

    fn take(&mut self, name: &str, argument: Option<&str>) {
        match name {
            "max-age" => lifetime(&mut self.max_age, argument),
            "s-maxage" => lifetime(&mut self.s_maxage, argument),
            "stale-while-revalidate" => lifetime(&mut self.stale_while_revalidate, argument),
            "stale-if-error" => lifetime(&mut self.stale_if_error, argument),
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache |= !self.withhold(argument),
            "private" => self.private |= !self.withhold(argument),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            _ => {}
        }
    }

    /// Takes in the fields that a directive names; whether it names any, so that it is about them alone.
    fn withhold(&mut self, argument: Option<&str>) -> bool {
        let names = argument.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        let Ok(names) = names.map(str::parse).collect::<Result<Vec<HeaderName>, _>>() else { return false };
        let some = !names.is_empty();
        self.withheld.extend(names);
        some
    }
}

/// Takes in a lifetime. One that cannot be read is none, and so are two that contradict each other (RFC 9111 §4.2.1).
fn lifetime(known: &mut Option<Duration>, argument: Option<&str>) {
    let told = seconds(argument).unwrap_or_default();
    *known = Some(match *known {
        Some(known) if known != told => Duration::ZERO,
        _ => told,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cache_control::FOREVER;
    use http::HeaderValue;
    use proptest::prelude::*;

    pub(crate) fn read(lines: &[&str]) -> Directives {
        let line = |line: &&str| (CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).expect("a header value"));
        Directives::read(&lines.iter().map(line).collect())
    }

    #[test]
    fn every_directive_is_read() {
        let told = read(&["Public, MAX-AGE=5, s-maxage=\"7\"", "must-revalidate,proxy-revalidate ,must-understand"]);
        assert_eq!((told.max_age, told.s_maxage), (Some(Duration::from_secs(5)), Some(Duration::from_secs(7))));
        assert!(told.public && told.must_revalidate && told.proxy_revalidate && told.must_understand);
        assert!(!told.no_store && !told.no_cache && !told.private);
        let told = read(&["no-store, no-cache, private, stale-while-revalidate=1, stale-if-error=99999999999"]);
        assert!(told.no_store && told.no_cache && told.private);
        assert_eq!(told.stale_while_revalidate, Some(Duration::from_secs(1)));
        assert_eq!(told.stale_if_error, Some(FOREVER));
    }

    #[test]
    fn a_directive_with_fields_is_about_these_alone() {
        let told = read(&["no-cache=\"Set-Cookie, x-one\", private=X-Two"]);
        assert!(!told.no_cache && !told.private);
        assert_eq!(told.withheld, ["set-cookie", "x-one", "x-two"].map(HeaderName::from_static));
        for line in ["no-cache=\"\"", "no-cache=\"a b\"", "no-cache=", "no-cache, no-cache=x"] {
            assert!(read(&[line]).no_cache, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_taken_strictly() {
        for line in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age='5'", "max-age=5, max-age=6"] {
            assert_eq!(read(&[line]).max_age, Some(Duration::ZERO), "{line}");
        }
        assert_eq!(read(&["max-age=5", "max-age=5"]).max_age, Some(Duration::from_secs(5)));
        assert_eq!(read(&["x=\"max-age=9\", max-age=5"]).max_age, Some(Duration::from_secs(5)));
        assert!(read(&["max-age=5, x=é"]).no_store);
    }

    proptest! {
        #[test]
        fn order_does_not_matter(mut words in proptest::collection::vec(
            prop_oneof![Just("max-age=5"), Just("no-cache"), Just("no-store"), Just("private"), Just("s-maxage=1"), Just("x")], 0..6,
        ), split in 0_usize..6) {
            let lines = |words: &[&str]| {
                let (one, two) = words.split_at(split.min(words.len()));
                read(&[&one.join(","), &two.join(", ")])
            };
            let told = lines(&words);
            words.reverse();
            prop_assert_eq!(lines(&words), told);
        }
    }
}
