//! Header values in memory of their own.
//!
//! hyper reads a head into one buffer, of 8 KiB or more, and each value of the head is a part of it. Whoever holds a single one holds all
//! of the buffer: one that is kept for as long as a page takes more memory than the page, and hyper needs new memory for the next head.
//! So whatever outlives its request or its answer is detached.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

const VALID: &str = "a header value is one, wherever it is";

/// The same value.
pub fn value(value: &HeaderValue) -> HeaderValue {
    let mut own = HeaderValue::from_bytes(value.as_bytes()).expect(VALID);
    own.set_sensitive(value.is_sensitive());
    own
}

/// The same fields, with all their values in one piece of memory of exactly their size.
pub fn fields(headers: &HeaderMap) -> HeaderMap {
    let mut values = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| values.extend_from_slice(value.as_bytes()));
    let mut values = Bytes::from(values);
    let own = headers.iter().map(|(name, value)| {
        let mut own = HeaderValue::from_maybe_shared(values.split_to(value.len())).expect(VALID);
        own.set_sensitive(value.is_sensitive());
        (name.clone(), own)
    });
    own.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;

    /// Fields whose values are parts of one buffer, as hyper reads them, and that buffer: it is unique again once nobody holds a part.
    pub(crate) fn head(fields: &[(HeaderName, &str)]) -> (HeaderMap, Bytes) {
        let text: String = fields.iter().map(|(_, value)| *value).collect();
        let buffer = Bytes::from(text.into_bytes());
        let mut rest = buffer.clone();
        let part = |(name, value): &(HeaderName, &str)| {
            let part = HeaderValue::from_maybe_shared(rest.split_to(value.len())).expect("a header value");
            (name.clone(), part)
        };
        (fields.iter().map(part).collect(), buffer)
    }

    proptest! {
        #[test]
        fn fields_are_the_same_in_other_memory(lines in prop::collection::vec(("[a-c]{1,3}", "[ -~]{0,20}", any::<bool>()), 0..8)) {
            let names: Vec<HeaderName> = lines.iter().map(|(name, ..)| name.parse().expect("a name")).collect();
            let texts = lines.iter().map(|(_, text, _)| &**text);
            let (mut headers, buffer) = head(&names.into_iter().zip(texts).collect::<Vec<_>>());
            headers.values_mut().zip(&lines).for_each(|(value, (.., sensitive))| value.set_sensitive(*sensitive));
            let own = fields(&headers);
            prop_assert_eq!(&own, &headers);
            let sensitive = |headers: &HeaderMap| headers.values().map(HeaderValue::is_sensitive).collect::<Vec<_>>();
            prop_assert_eq!(sensitive(&own), sensitive(&headers));
            let singly: HeaderMap = headers.iter().map(|(name, one)| (name.clone(), value(one))).collect();
            prop_assert_eq!(&singly, &headers);
            drop(headers);
            prop_assert!(buffer.is_empty() || buffer.is_unique());
        }
    }
}
