//! What an upstream says of its own limit: how much is left, and until when.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use super::retry_after::clock;

/// What is left of the upstream's limit for one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// How many requests.
    pub remaining: u32,
    /// How long until there are more, where it says so.
    pub reset: Option<Duration>,
}

/// Fields that say together what is left: how much, and until when.
struct Family {
    remaining: HeaderName,
    reset: HeaderName,
}

/// The families in use: the names of Merge's own clients, a spelling that others use, and those of the IETF's drafts up to -06. What
/// later drafts put into one field is read first.
static FAMILIES: [Family; 3] = [
    Family {
        remaining: HeaderName::from_static("x-ratelimit-remaining"),
        reset: HeaderName::from_static("x-ratelimit-reset"),
    },
    Family {
        remaining: HeaderName::from_static("x-rate-limit-remaining"),
        reset: HeaderName::from_static("x-rate-limit-reset"),
    },
    Family {
        remaining: HeaderName::from_static("ratelimit-remaining"),
        reset: HeaderName::from_static("ratelimit-reset"),
    },
];

/// From here on a number of seconds is a point in time (since 1970), and not a duration.
const EPOCH_SECONDS: u64 = 1_000_000_000;

/// No reset is taken to be further away: a slip of the upstream must not silence an account for days.
const LONGEST: Duration = Duration::from_secs(600);

/// Reads the fields of an answer; times are measured against its `Date`, the upstream's own clock.
///
/// `None` if there are none, or none that can be understood.
pub fn left(headers: &HeaderMap) -> Option<Left> {
    structured(headers).or_else(|| FAMILIES.iter().find_map(|family| separate(headers, family)))
}

/// When the limit is reset, where that alone is said (as on a 429 without `Retry-After`).
pub fn reset(headers: &HeaderMap) -> Option<Duration> {
    let structured = structured(headers).and_then(|left| left.reset);
    structured.or_else(|| FAMILIES.iter().find_map(|family| until(text(headers, &family.reset)?, headers)))
}

/// `RateLimit: "name";r=REMAINING;t=SECONDS` (draft-ietf-httpapi-ratelimit-headers-10 §4); of several limits the tightest counts.
fn structured(headers: &HeaderMap) -> Option<Left> {
    let lines = headers.get_all("ratelimit").iter().filter_map(|line| line.to_str().ok());
    let items = lines.flat_map(|line| line.split(','));
    let read = |item: &str| {
        let parameter = |wanted: &str| {
            let mut parameters = item.split(';').skip(1).filter_map(|parameter| parameter.trim().split_once('='));
            parameters.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse::<u32>().ok())
        };
        let reset = parameter("t").map(|seconds| Duration::from_secs(seconds.into()).min(LONGEST));
        Some(Left { remaining: parameter("r")?, reset })
    };
    items.filter_map(read).min_by_key(|left| left.remaining)
}

fn separate(headers: &HeaderMap, family: &Family) -> Option<Left> {
    let remaining = text(headers, &family.remaining)?;
    // Some upstreams count below zero once the limit is passed.
    let remaining = if remaining.starts_with('-') { 0 } else { remaining.parse().ok()? };
    let reset = text(headers, &family.reset).and_then(|value| until(value, headers));
    Some(Left { remaining, reset })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Seconds from now, or a point in time in seconds since 1970; either may have decimals.
fn until(value: &str, headers: &HeaderMap) -> Option<Duration> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = whole.parse().ok()?;
    let reset = if seconds < EPOCH_SECONDS {
        // Rounded up: too late by a moment costs nothing.
        Duration::from_secs(seconds + u64::from(!fraction.is_empty()))
    } else {
        // A time that no clock can show is far away.
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        at.map_or(LONGEST, |at| at.duration_since(clock(headers)).unwrap_or_default())
    };
    Some(reset.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::DATE;
    use proptest::prelude::*;

    fn date() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn read(fields: &[(&'static str, &str)]) -> Option<Left> {
        left(&headers(fields))
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a value");
        let fields = fields.iter().map(|(name, text)| (HeaderName::from_static(name), value(text)));
        fields.chain([(DATE, value(&httpdate::fmt_http_date(date())))]).collect()
    }

    fn says(remaining: u32, reset: Option<u64>) -> Left {
        Left { remaining, reset: reset.map(Duration::from_secs) }
    }

    #[test]
    fn every_family_of_fields_is_read() {
        for prefix in ["x-ratelimit", "x-rate-limit", "ratelimit"] {
            let names = [format!("{prefix}-remaining"), format!("{prefix}-reset")].map(|name| &*name.leak());
            let [remaining, reset] = names;
            assert_eq!(read(&[(remaining, "7"), (reset, "30")]), Some(says(7, Some(30))));
            assert_eq!(read(&[(remaining, " 7 "), (reset, "1800000042")]), Some(says(7, Some(42))));
            assert_eq!(read(&[(remaining, "0"), (reset, "1799999999")]), Some(says(0, Some(0))), "it is over");
            assert_eq!(read(&[(remaining, "-3"), (reset, "0.5")]), Some(says(0, Some(1))));
            assert_eq!(read(&[(remaining, "7"), (reset, "soon")]), Some(says(7, None)));
            assert_eq!(read(&[(remaining, "many")]), None);
        }
        assert_eq!(read(&[("ratelimit", "\"default\";r=50;t=30")]), Some(says(50, Some(30))));
        assert_eq!(read(&[("ratelimit", "\"day\";r=900;t=300, \"minute\";r=3;t=9")]), Some(says(3, Some(9))));
        assert_eq!(read(&[("ratelimit", "\"a\";r=4"), ("x-ratelimit-remaining", "9")]), Some(says(4, None)));
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_reset_is_read_without_the_rest_and_never_far_away() {
        assert_eq!(reset(&headers(&[("x-ratelimit-reset", "1800000007")])), Some(Duration::from_secs(7)));
        assert_eq!(reset(&headers(&[("ratelimit-reset", "86400")])), Some(LONGEST));
        assert_eq!(reset(&headers(&[("x-ratelimit-remaining", "4")])), None);
    }

    #[test]
    fn no_number_is_too_large_to_be_read() {
        for digits in 1..=25 {
            let value = "9".repeat(digits);
            read(&[("x-ratelimit-remaining", &value), ("x-ratelimit-reset", &value)]);
        }
        assert_eq!(reset(&headers(&[("x-ratelimit-reset", "9999999999999999999")])), Some(LONGEST));
    }

    proptest! {
        #[test]
        fn whatever_they_say_is_read_to_an_end(one in "[ -~]{0,30}", other in "[ -~]{0,30}") {
            read(&[("ratelimit", &one), ("x-ratelimit-remaining", &other), ("x-ratelimit-reset", &one)]);
        }
    }
}
