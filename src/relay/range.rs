//! `Range` (RFC 9110 §14), answered from a whole response: one range of bytes. What is more complicated gets the whole, as any
//! server may answer.

use http::header::{DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderValue};

/// What a request wants of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// From the first up to and with the last of these bytes.
    Bytes(usize, usize),
    /// What lies outside.
    Nowhere,
}

/// The part of a body of `length` bytes that `asked` wants, if the response is as `headers` say.
pub fn part(asked: &HeaderMap, headers: &HeaderMap, length: usize) -> Part {
    let mut lines = asked.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Part::Whole };
    if !is_same(asked, headers) {
        return Part::Whole;
    }
    line.to_str().ok().and_then(|line| bytes(line, length)).unwrap_or(Part::Whole)
}

/// Whether `If-Range`, if there is one, names this very response: by a strong tag, or by a date that is strong enough.
fn is_same(asked: &HeaderMap, headers: &HeaderMap) -> bool {
    let Some(wanted) = asked.get(IF_RANGE) else { return true };
    let is = |value: Option<&HeaderValue>| value == Some(wanted);
    if wanted.as_bytes().contains(&b'"') {
        return !wanted.as_bytes().starts_with(b"W/") && is(headers.get(ETAG));
    }
    // A date is strong if the response came at least a second after it (RFC 9110 §8.8.2.2).
    is(headers.get(LAST_MODIFIED)) && headers.get(DATE).is_some_and(|date| date != wanted)
}

fn bytes(line: &str, length: usize) -> Option<Part> {
    let (unit, range) = line.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let end = length.checked_sub(1);
    Some(match (first.trim(), last.trim()) {
        ("", last) => match (number(last)?, end) {
            (0, _) | (_, None) => Part::Nowhere,
            (count, Some(end)) => Part::Bytes(length.saturating_sub(count), end),
        },
        (first, "") => match (number(first)?, end) {
            (first, Some(end)) if first <= end => Part::Bytes(first, end),
            _ => Part::Nowhere,
        },
        (first, last) => match (number(first)?, number(last)?, end) {
            (first, last, _) if first > last => return None,
            (first, last, Some(end)) if first <= end => Part::Bytes(first, last.min(end)),
            _ => Part::Nowhere,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_range_is_understood_and_all_else_is_the_whole() {
        for (line, expected) in [
            ("bytes=0-1", Some(Part::Bytes(0, 1))),
            ("Bytes = 3-", Some(Part::Bytes(3, 9))),
            ("bytes=-4", Some(Part::Bytes(6, 9))),
            ("bytes=-99", Some(Part::Bytes(0, 9))),
            ("bytes=9-99999999999999999999999", Some(Part::Bytes(9, 9))),
            ("bytes=10-", Some(Part::Nowhere)),
            ("bytes=-0", Some(Part::Nowhere)),
            ("bytes=2-1", None),
            ("bytes=0-1,3-4", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(bytes(line, 10), expected, "{line}");
        }
        assert_eq!(bytes("bytes=0-", 0), Some(Part::Nowhere));
    }

    #[test]
    fn if_range_must_name_the_same_strongly() {
        let tag = HeaderValue::from_static("\"a\"");
        let weak = HeaderValue::from_static("W/\"a\"");
        let ask = |condition: &HeaderValue, tag: &HeaderValue| {
            let asked = [(RANGE, HeaderValue::from_static("bytes=0-0")), (IF_RANGE, condition.clone())];
            part(&asked.into_iter().collect(), &[(ETAG, tag.clone())].into_iter().collect(), 5)
        };
        assert_eq!(ask(&tag, &tag), Part::Bytes(0, 0));
        assert_eq!(ask(&weak, &weak), Part::Whole);
        assert_eq!(ask(&HeaderValue::from_static("\"b\""), &tag), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within(line in "bytes=[0-9]{0,3}-[0-9]{0,3}", length in 0_usize..300) {
            if let Some(Part::Bytes(first, last)) = bytes(&line, length) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}
