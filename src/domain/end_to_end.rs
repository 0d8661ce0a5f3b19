//! Which fields go from end to end, and which belong to one connection (RFC 9110 §7.6.1).

use http::header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};

use super::cache_control::list;

/// The fields that belong to one connection even if `Connection` does not name them.
const OF_ONE_CONNECTION: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out what belongs to one connection, with all that `Connection` names.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = list(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in named.iter().chain(&OF_ONE_CONNECTION) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_connection_names_goes_with_it() {
        let fields = [("connection", "close, X-One"), ("connection", "x-two,, é"), ("x-one", "1"), ("x-two", "2")];
        let fields = fields.into_iter().chain([("upgrade", "h2c"), ("keep-alive", "timeout=5"), ("x-three", "3")]);
        let mut headers: HeaderMap = fields
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a header value"))
            })
            .collect();
        strip(&mut headers);
        // A line that is not ASCII names nothing that could be a field.
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-two", "x-three"]);
    }
}
