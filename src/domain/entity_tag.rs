//! What names the bytes of a page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest, Sha256};

/// The length of an entity tag: sixteen bytes as base64url between quotes.
const TAG: usize = 24;

/// A copy of `body` and its strong validator, equal exactly when the bytes are (RFC 9110 §8.8.1). Both are in one piece of memory, of
/// exactly their size and side by side, since both are needed for each hit.
pub(super) fn with_entity_tag(body: &[u8]) -> (Bytes, HeaderValue) {
    let mut tag = *b"\"----------------------\"";
    let written = URL_SAFE_NO_PAD.encode_slice(&Sha256::digest(body)[..16], &mut tag[1..TAG - 1]);
    debug_assert_eq!(written, Ok(TAG - 2), "sixteen bytes are 22 digits");
    let mut both = Vec::with_capacity(TAG + body.len());
    both.extend_from_slice(&tag);
    both.extend_from_slice(body);
    let mut copy = Bytes::from(both);
    let tag = copy.split_to(TAG);
    (copy, HeaderValue::from_maybe_shared(tag).expect("base64url between quotes is a header value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tags_are_equal_exactly_when_bodies_are(one in "[a-b]{0,3}", other in "[a-b]{0,3}") {
            let ((copy, tag), (_, other_tag)) = (with_entity_tag(one.as_bytes()), with_entity_tag(other.as_bytes()));
            prop_assert_eq!(tag == other_tag, one == other);
            prop_assert_eq!(copy, one);
            prop_assert_eq!((tag.len(), tag.as_bytes()[0], tag.as_bytes()[TAG - 1]), (TAG, b'"', b'"'));
        }
    }
}
