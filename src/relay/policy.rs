//! What a shared cache may do with a response, by RFC 9111 and from the upstream's own headers alone, as pure functions.
//!
//! Every upstream request carries an `Authorization`, which RFC 9111 §3.5 allows a shared cache to store only where the response
//! says so. That rule keeps one user's answer from another. Here the credentials are the proxy's own and the key holds the
//! upstream and the account, so all who share an entry have been granted the very data that it was fetched with.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, ETAG, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::Directives;
use crate::domain::cache_control::seconds;

/// How long a response may be used, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How old it was when it came (RFC 9111 §4.2.3).
    pub initial_age: Duration,
    /// Fresh up to this age.
    pub lifetime: Duration,
    /// Never to be used without asking.
    pub always_ask: bool,
    /// Whether it may be used at all once it is stale.
    pub may_be_stale: bool,
    /// How long it is used while it is fetched anew.
    pub while_revalidate: Duration,
    /// How long it is used if the upstream fails.
    pub if_error: Duration,
}

/// The clocks of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// How long the answer took.
    pub delay: Duration,
    /// What time it was when it came.
    pub wall: SystemTime,
}

/// What `headers` allow.
pub fn terms(headers: &HeaderMap, directives: &Directives, clocks: Clocks) -> Terms {
    let date = date(headers, &DATE);
    let (age, readable) = age(headers);
    let apparent = date.and_then(|date| clocks.wall.duration_since(date).ok()).unwrap_or_default();
    // A date has whole seconds: what lies below says nothing.
    let apparent = Duration::from_secs(apparent.as_secs());
    let expires = headers.contains_key(EXPIRES).then(|| expires(headers, date.unwrap_or(clocks.wall)));
    let lifetime = directives.s_maxage.or(directives.max_age).or(expires).unwrap_or_default();
    let forbidden = directives.no_cache || directives.must_revalidate || directives.proxy_revalidate;
    Terms {
        initial_age: apparent.max(age + clocks.delay),
        // An age that cannot be read may be any.
        lifetime: if readable { lifetime } else { Duration::ZERO },
        always_ask: directives.no_cache,
        // `s-maxage` means `proxy-revalidate` as well (RFC 9111 §5.2.2.10).
        may_be_stale: !forbidden && directives.s_maxage.is_none(),
        while_revalidate: directives.stale_while_revalidate.unwrap_or_default(),
        if_error: directives.stale_if_error.unwrap_or_default(),
    }
}

/// The time in a field; `None` if there is not exactly one that can be read.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    httpdate::parse_http_date(line.to_str().ok()?).ok()
}

/// How long after `date` the response expires; a time that cannot be read is in the past (RFC 9111 §5.3).
fn expires(headers: &HeaderMap, from: SystemTime) -> Duration {
    date(headers, &EXPIRES).and_then(|expires| expires.duration_since(from).ok()).unwrap_or_default()
}

/// What `Age` says, and whether that can be read.
fn age(headers: &HeaderMap) -> (Duration, bool) {
    let mut lines = headers.get_all(AGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => (Duration::ZERO, true),
        (Some(line), None) => line
            .to_str()
            .ok()
            .and_then(|line| seconds(Some(line.trim())))
            .map_or((Duration::ZERO, false), |age| (age, true)),
        _ => (Duration::ZERO, false),
    }
}

/// Whether a response to a GET may be stored and would be of use (RFC 9111 §3). That it does not vary by everything is not
/// asked here.
pub fn may_store(status: StatusCode, headers: &HeaderMap, directives: &Directives, terms: &Terms) -> bool {
    let understood = status.canonical_reason().is_some();
    // What a range or a condition has caused is for the one who sent it.
    let for_one = matches!(status.as_u16(), 206 | 304 | 416);
    if status.is_informational() || for_one {
        return false;
    }
    if directives.must_understand && !understood || directives.no_store && !directives.must_understand {
        return false;
    }
    let lives = terms.lifetime > terms.initial_age || terms.may_be_stale && terms.longest() > terms.initial_age;
    let may_ask = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    let explicit = directives.public
        || directives.max_age.is_some()
        || directives.s_maxage.is_some()
        || headers.contains_key(EXPIRES)
        || is_cacheable_by_default(status);
    !directives.private && explicit && (lives || may_ask)
}

/// The statuses of RFC 9110 §15.1 that we use whole.
fn is_cacheable_by_default(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

impl Terms {
    /// The age at which it is of no use but to ask whether it has changed.
    fn longest(&self) -> Duration {
        self.lifetime + self.while_revalidate.max(self.if_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"))
        };
        fields.iter().map(field).collect()
    }

    fn terms_of(fields: &[(&'static str, &str)]) -> Terms {
        let headers = headers(fields);
        let wall = httpdate::parse_http_date(NOW).expect("a date");
        terms(&headers, &Directives::read(&headers), Clocks { delay: Duration::ZERO, wall })
    }

    fn lives(fields: &[(&'static str, &str)]) -> (u64, u64) {
        let terms = terms_of(fields);
        (terms.lifetime.as_secs(), terms.initial_age.as_secs())
    }

    #[test]
    fn lifetimes_come_from_what_is_said_and_from_nothing_else() {
        let later = "Sun, 06 Nov 1994 08:50:37 GMT";
        let earlier = "Sun, 06 Nov 1994 08:48:37 GMT";
        for (fields, expected) in [
            (&[][..], (0, 0)),
            (&[("last-modified", "Sun, 06 Nov 1993 08:49:37 GMT")], (0, 0)),
            (&[("cache-control", "max-age=5")], (5, 0)),
            (&[("cache-control", "max-age=5, s-maxage=7"), ("expires", later)], (7, 0)),
            (&[("expires", later), ("date", NOW)], (60, 0)),
            (&[("expires", later)], (60, 0)),
            (&[("expires", later), ("date", earlier)], (120, 60)),
            (&[("expires", earlier), ("date", NOW)], (0, 0)),
            (&[("expires", "0")], (0, 0)),
            (&[("expires", later), ("expires", later)], (0, 0)),
            (&[("cache-control", "max-age=100"), ("age", "30")], (100, 30)),
            (&[("cache-control", "max-age=100"), ("age", "30"), ("date", earlier)], (100, 60)),
            (&[("cache-control", "max-age=100"), ("age", "-1")], (0, 0)),
            (&[("cache-control", "max-age=100"), ("age", "1"), ("age", "1")], (0, 0)),
            (&[("cache-control", "max-age=100"), ("date", later)], (100, 0)),
        ] {
            assert_eq!(lives(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_what_may_be_and_is_of_use_is_stored() {
        let stored = |status: u16, fields: &[(&'static str, &str)]| {
            let headers = headers(fields);
            let status = StatusCode::from_u16(status).expect("a status");
            may_store(status, &headers, &Directives::read(&headers), &terms_of(fields))
        };
        let fresh = ("cache-control", "max-age=5");
        for status in [200, 203, 204, 301, 302, 307, 404, 410, 500, 503, 599] {
            assert!(stored(status, &[fresh]), "{status}");
        }
        for status in [206, 304, 416] {
            assert!(!stored(status, &[fresh]), "{status}");
        }
        assert!(stored(200, &[("etag", "\"a\"")]) && !stored(201, &[("etag", "\"a\"")]));
        assert!(stored(201, &[("etag", "\"a\""), ("cache-control", "public")]));
        assert!(!stored(200, &[]) && !stored(200, &[("cache-control", "public")]));
        for line in ["no-store, max-age=5", "private, max-age=5", "max-age=0"] {
            assert!(!stored(200, &[("cache-control", line)]), "{line}");
        }
        assert!(stored(200, &[("cache-control", "max-age=0, stale-if-error=60")]));
        assert!(!stored(200, &[("cache-control", "max-age=0, must-revalidate, stale-if-error=60")]));
        assert!(stored(200, &[("cache-control", "max-age=5, must-understand, no-store")]));
        assert!(!stored(599, &[("cache-control", "max-age=5, must-understand")]));
    }
}
