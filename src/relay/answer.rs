//! From what is stored, or has just come, to what the caller gets.

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::range::{self, Part};
use super::stored::Stored;
use crate::domain::body::ReplyBody;
use crate::domain::condition;
use crate::domain::exchange::Served;
use crate::domain::relay::Relayed;

/// What a purged response says that stands in for a failure: a client's own cache must not take it for fresh.
const OUTDATED: HeaderValue = HeaderValue::from_static("max-age=0");

/// The answer that a stored response makes to a request with the fields `asked`.
pub fn from_store(stored: &Stored, asked: &HeaderMap, served: Served, now: Instant) -> Relayed {
    let mut headers = stored.headers.clone();
    if stored.is_purged() {
        headers.insert(CACHE_CONTROL, OUTDATED);
    }
    headers.insert(AGE, stored.age(now).as_secs().into());
    // Conditions come before ranges (RFC 9110 §13.2.2).
    let part = if has_it(&headers, asked) { Part::Whole } else { range::part(asked, &headers, stored.body.len()) };
    let (status, body) = match (stored.status, part) {
        (StatusCode::OK, Part::Bytes(first, last)) => {
            headers.insert(CONTENT_RANGE, content_range(Some((first, last)), stored.body.len()));
            (StatusCode::PARTIAL_CONTENT, stored.body.slice(first..=last))
        }
        (StatusCode::OK, Part::Nowhere) => {
            headers.insert(CONTENT_RANGE, content_range(None, stored.body.len()));
            (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new())
        }
        (status, _) => (status, stored.body.clone()),
    };
    let ttl = stored.ttl(now);
    unless_known(Relayed { status, headers, body: ReplyBody::whole(body), served, ttl, refresh_limited: false }, asked)
}

/// The same answer, or 304 if the caller has it already (RFC 9110 §13.2.2).
pub fn unless_known(mut answer: Relayed, asked: &HeaderMap) -> Relayed {
    if answer.status.is_success() && has_it(&answer.headers, asked) {
        for name in [CONTENT_LENGTH, CONTENT_RANGE] {
            answer.headers.remove(name);
        }
        answer.status = StatusCode::NOT_MODIFIED;
        answer.body = ReplyBody::whole(Bytes::new());
    }
    answer
}

/// Whether the conditions in `asked` say that the caller has the response with `headers`.
fn has_it(headers: &HeaderMap, asked: &HeaderMap) -> bool {
    if asked.contains_key(IF_NONE_MATCH) {
        let lines: Vec<HeaderValue> = asked.get_all(IF_NONE_MATCH).iter().cloned().collect();
        let star = lines.iter().any(|line| line.as_bytes().trim_ascii() == b"*");
        return headers.get(ETAG).map_or(star, |tag| condition::names(&lines, tag));
    }
    let time = |headers: &HeaderMap, name: HeaderName| {
        headers.get(name).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
    };
    // Without a date of change, the time when it was made bounds it (RFC 9111 §4.3.2).
    let changed = || {
        time(headers, LAST_MODIFIED).or_else(|| time(headers, DATE).filter(|_| !headers.contains_key(LAST_MODIFIED)))
    };
    time(asked, IF_MODIFIED_SINCE).is_some_and(|since| changed().is_some_and(|changed| changed <= since))
}

fn content_range(part: Option<(usize, usize)>, length: usize) -> HeaderValue {
    let text = match part {
        Some((first, last)) => format!("bytes {first}-{last}/{length}"),
        None => format!("bytes */{length}"),
    };
    HeaderValue::try_from(text).expect("digits and punctuation are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn a_tag_says_more_than_a_date() {
        let response = headers(&[
            ("etag", "\"a\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("date", "Mon, 07 Nov 1994 08:49:37 GMT"),
        ]);
        let dateless = headers(&[("date", "Mon, 07 Nov 1994 08:49:37 GMT")]);
        let later = ("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT");
        for (response, asked, known) in [
            (&response, &[("if-none-match", "W/\"a\", \"b\"")][..], true),
            (&response, &[("if-none-match", "\"b\""), later], false),
            (&response, &[("if-none-match", "*")], true),
            (&response, &[later], true),
            (&response, &[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], false),
            (&response, &[("if-modified-since", "yesterday")], false),
            (&response, &[], false),
            (&dateless, &[("if-none-match", "\"a\"")], false),
            (&dateless, &[later], false),
            (&dateless, &[("if-modified-since", "Monday, 07-Nov-94 08:49:37 GMT")], true),
        ] {
            assert_eq!(has_it(response, &headers(asked)), known, "{asked:?}");
        }
    }
}
