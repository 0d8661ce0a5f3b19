//! The name of a request: the caller's own, or one that is made for it.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::clock::since_epoch;
use super::detached;

/// The header that names a request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of a request that came `at` this moment: its `own`, if it has one that will do, else a new one.
pub fn name(own: Option<&HeaderValue>, at: Instant) -> HeaderValue {
    own.filter(|own| may_name(own)).map_or_else(|| new(at), detached::value)
}

/// Whether a caller's `X-Request-Id` is kept: 1 to 128 visible ASCII characters.
fn may_name(value: &HeaderValue) -> bool {
    (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// A `UUIDv7` (RFC 9562 §5.7).
fn new(at: Instant) -> HeaderValue {
    let time = since_epoch(at);
    let milliseconds = time.as_secs() * 1_000 + u64::from(time.subsec_millis());
    let random = fastrand::u128(..).to_ne_bytes();
    let random = random.first_chunk().expect("sixteen bytes hold ten");
    let id = uuid::Builder::from_unix_timestamp_millis(milliseconds, random).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_maybe_shared(Bytes::from_owner(text)).expect("hex digits and hyphens are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fresh_and_only_visible_ones_are_kept() {
        let (one, other) = (new(Instant::now()), new(Instant::now()));
        assert_ne!(one, other);
        let id = uuid::Uuid::parse_str(one.to_str().expect("ASCII")).expect("a UUID");
        assert_eq!(id.get_version_num(), 7);
        assert!(may_name(&one));
        let own = HeaderValue::from_static("mine");
        let kept = name(Some(&own), Instant::now());
        assert_eq!(kept, own);
        assert_ne!(kept.as_bytes().as_ptr(), own.as_bytes().as_ptr(), "it holds no part of the head");
        for bad in ["", "a b", "a\tb", "é", &"x".repeat(129)] {
            assert!(!may_name(&HeaderValue::from_str(bad).expect("a header value")), "{bad:?}");
        }
    }
}
