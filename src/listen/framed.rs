//! The words of a request of HTTP/2, where no head is read along: what stands in its frames, as one text.

use http::Request;
use http_body::Body;
use smallvec::SmallVec;

use super::plain::SHORT;

/// What a request without a body says, if that is short: two requests have the same words only if they say the same.
pub(super) fn words<B: Body>(request: &Request<B>) -> Option<SmallVec<[u8; SHORT]>> {
    if !request.body().is_end_stream() {
        return None;
    }
    let uri = request.uri();
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    // No head of HTTP/1 begins like this. No piece has a line feed in it, and no name a colon.
    let mut words = SmallVec::from_slice(b"\n");
    for piece in [request.method().as_str(), scheme, authority, target] {
        add(&mut words, piece.as_bytes(), b'\n')?;
    }
    for (name, value) in request.headers() {
        add(&mut words, name.as_str().as_bytes(), b':')?;
        add(&mut words, value.as_bytes(), b'\n')?;
    }
    Some(words)
}

/// Adds a piece and what ends it, if there is room.
fn add(words: &mut SmallVec<[u8; SHORT]>, piece: &[u8], end: u8) -> Option<()> {
    if words.len() + piece.len() >= SHORT {
        return None;
    }
    words.extend_from_slice(piece);
    words.push(end);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue, Method};
    use http_body_util::{Empty, Full};
    use proptest::prelude::*;

    fn request(method: &str, target: &str, fields: &[(String, Vec<u8>)]) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a method");
        *request.uri_mut() = target.parse().expect("a target");
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        request
    }

    #[test]
    fn what_has_a_body_or_is_long_has_no_words() {
        assert!(words(&Request::new(Full::new(Bytes::from_static(b"body")))).is_none());
        let long = |length| words(&request("GET", "/", &[("a".into(), vec![b'a'; length])])).map(|words| words.len());
        let most = SHORT - long(0).expect("a short one");
        assert_eq!(long(most), Some(SHORT));
        assert_eq!(long(most + 1), None);
    }

    fn field() -> impl Strategy<Value = (String, Vec<u8>)> {
        ("[ab]{1,2}", "[ab: ]{0,3}").prop_map(|(name, value)| (name, value.into_bytes()))
    }

    proptest! {
        #[test]
        fn the_same_words_are_the_same_request(
            one in ("G|GE", "http://a/|/|/a|http://a/\\?a|/\\?a", prop::collection::vec(field(), 0..3)),
            other in ("G|GE", "http://a/|/|/a|http://a/\\?a|/\\?a", prop::collection::vec(field(), 0..3)),
        ) {
            let [one, other] = [one, other].map(|(method, target, fields)| request(&method, &target, &fields));
            let is_same = (one.method(), one.uri(), one.headers()) == (other.method(), other.uri(), other.headers());
            // Their order among different names says nothing, but may differ.
            let fields = |request: &Request<_>| request.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>();
            let is_same_in_order = is_same && fields(&one) == fields(&other);
            prop_assert_eq!(words(&one) == words(&other), is_same_in_order);
        }
    }
}
