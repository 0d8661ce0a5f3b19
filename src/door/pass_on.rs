//! Which of a caller's fields go upstream where a request passes through as itself.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST,
    USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName};

use crate::domain::access::X_ACCOUNT_TOKEN;
use crate::domain::end_to_end;
use crate::domain::rules::RequestHeaders;

/// What never goes upstream: credentials, what the proxy says itself, and what the body says by itself.
const NEVER: [HeaderName; 8] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("cookie2"),
    X_ACCOUNT_TOKEN,
    HeaderName::from_static("x-request-id"),
    HOST,
    CONTENT_LENGTH,
    EXPECT,
];

/// What goes upstream of `asked`: what describes the body, the codings that the caller can read, since the answer is not decoded
/// for it, and what the route allows.
pub fn choose(asked: &HeaderMap, allowed: &RequestHeaders) -> HeaderMap {
    let mut all = asked.clone();
    end_to_end::strip(&mut all);
    for name in NEVER {
        all.remove(name);
    }
    let these: &[HeaderName] = match allowed {
        RequestHeaders::All => return all,
        RequestHeaders::None => &[],
        RequestHeaders::These(these) => these,
    };
    let always = [ACCEPT_ENCODING, CONTENT_TYPE, CONTENT_ENCODING];
    let own = [ACCEPT, USER_AGENT, VIA];
    let mut chosen = HeaderMap::new();
    for name in always.iter().chain(these).filter(|name| !own.contains(name)) {
        if !chosen.contains_key(name) {
            chosen.extend(all.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn chosen(allowed: &RequestHeaders) -> Vec<String> {
        let fields = [
            ("authorization", "Bearer consumer"),
            ("cookie", "a=b"),
            ("x-account-token", "acme"),
            ("x-request-id", "7"),
            ("host", "proxy"),
            ("content-length", "5"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("content-type", "text/plain"),
            ("accept", "text/html"),
            ("accept-encoding", "br"),
            ("x-team", "a"),
            ("x-team", "b"),
        ];
        let asked: HeaderMap = fields
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let chosen = choose(&asked, allowed);
        let mut lines: Vec<String> =
            chosen.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("ASCII"))).collect();
        lines.sort();
        lines
    }

    #[test]
    fn nothing_goes_that_is_not_allowed() {
        let plain = ["accept-encoding: br", "content-type: text/plain"];
        assert_eq!(chosen(&RequestHeaders::None), plain);
        let these = ["x-team", "content-type", "cookie"].map(HeaderName::from_static);
        assert_eq!(
            chosen(&RequestHeaders::These(these.into())),
            [&plain[..], &["x-team: a", "x-team: b"]].concat(),
            "a cookie goes nowhere"
        );
        assert_eq!(
            chosen(&RequestHeaders::All),
            ["accept-encoding: br", "accept: text/html", "content-type: text/plain", "x-team: a", "x-team: b"]
        );
    }
}
