//! `Retry-After` as Merge and others write it (RFC 9110 §10.2.3), made safe to act on.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use tokio::time::Instant;

/// No pause is shorter.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// No pause is longer: an upstream's slip must not silence an account for days.
const LONGEST: Duration = Duration::from_secs(600);

/// When the upstream takes the next request, where `headers` say so.
pub(super) fn retry_at(headers: &HeaderMap) -> Option<Instant> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Instant::now() + pause(value, clock(headers))?)
}

/// The clock of whoever has sent `headers`; ours if theirs cannot be read.
pub(super) fn clock(headers: &HeaderMap) -> SystemTime {
    let date = headers.get(DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    date.unwrap_or_else(SystemTime::now)
}

/// How long to pause, between 1 s and 10 min; `None` if `value` says nothing that can be understood.
///
/// Takes seconds, also with decimals, and the three date forms of RFC 9110 §5.6.7, which are measured against `date`, the
/// upstream's own clock, since ours may differ.
pub fn pause(value: &str, date: SystemTime) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    let pause = if value.starts_with(|first: char| first.is_ascii_digit()) && !value.contains([':', '-']) {
        decimal_seconds(value)?
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(date).unwrap_or_default()
    };
    Some(pause.clamp(SHORTEST, LONGEST))
}

/// `12` or `12.5`: digits, and at most one point with digits behind it.
fn decimal_seconds(value: &str) -> Option<Duration> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.parse().unwrap_or(LONGEST.as_secs()).min(LONGEST.as_secs());
    let fraction = format!("0.{fraction}").parse().unwrap_or(0.0);
    Some(Duration::from_secs(whole) + Duration::from_secs_f64(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn date() -> SystemTime {
        httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date")
    }

    #[test]
    fn every_form_is_read_and_nothing_else() {
        let milliseconds = |n| Some(Duration::from_millis(n));
        for (value, expected) in [
            ("30", milliseconds(30_000)),
            (" 30 ", milliseconds(30_000)),
            ("0", milliseconds(1_000)),
            ("2.5", milliseconds(2_500)),
            ("99999999999999999999", milliseconds(600_000)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", milliseconds(30_000)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", milliseconds(30_000)),
            ("Sun Nov  6 08:50:07 1994", milliseconds(30_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", milliseconds(1_000)),
            ("-1", None),
            ("", None),
            ("1e3", None),
            ("0x10", None),
            ("12.", None),
            (".5", None),
            ("1.2.3", None),
            ("soon", None),
            ("NaN", None),
        ] {
            assert_eq!(pause(value, date()), expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_the_pause_is_bounded(value in "[0-9.: a-zA-Z,-]{0,30}") {
            if let Some(pause) = pause(&value, date()) {
                prop_assert!((SHORTEST..=LONGEST).contains(&pause));
            }
        }
    }
}
