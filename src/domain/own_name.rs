//! Names that lead to this machine, and that no web page can have: an IP address, or `localhost`.
//!
//! A page can make any other name its own and then lead it to 127.0.0.1 (DNS rebinding); the browser lets it read what it gets from there.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Uri};

/// Whether a request was sent to such a name, or to none.
pub fn is_asked(target: &Uri, headers: &HeaderMap) -> bool {
    match (target.authority().map(Authority::as_str), headers.get(HOST)) {
        (Some(authority), _) => is_own(authority),
        (None, Some(host)) => host.is_empty() || host.to_str().is_ok_and(is_own),
        (None, None) => true,
    }
}

fn is_own(authority: &str) -> bool {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let host = authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    address.parse::<IpAddr>().is_ok() || last.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_take_are_not_ours() {
        for (host, own) in [
            ("127.0.0.1:8081", true),
            ("[::1]:8081", true),
            ("[::1]", true),
            ("10.0.0.7", true),
            ("localhost:8081", true),
            ("LOCALHOST.", true),
            ("admin.localhost:8081", true),
            ("", true),
            ("evil.example:8081", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("evil-localhost", false),
            ("proxy", false),
            ("not a host", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a header value"));
            assert_eq!(is_asked(&Uri::from_static("/"), &headers), own, "{host}");
        }
        assert!(is_asked(&Uri::from_static("/"), &HeaderMap::new()));
        for (target, own) in [("http://[::1]:8080/", true), ("http://evil.example/", false)] {
            assert_eq!(is_asked(&Uri::from_static(target), &HeaderMap::new()), own, "{target}");
        }
    }
}
