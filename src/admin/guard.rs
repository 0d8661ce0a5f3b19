//! Who may use the admin listener from a browser: the page itself, and no other site.
//!
//! The listener is often open to everything on the machine, and a browser is on the machine: a page of another site could send it a
//! `DELETE`, or make its own name point to 127.0.0.1 and read the answers (DNS rebinding). Programs that are no browsers send none of
//! the headers that are looked at here.

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, Request};

/// Why a request is refused.
pub const OTHER_SITE: &str = "another site has asked for this in your browser; open the status page itself";

/// Why a host name is refused.
pub const OTHER_NAME: &str = "without admin.token this is answered for IP addresses and localhost only, since any web page can give \
                              itself a name that leads here; ask for http://127.0.0.1:PORT, or set admin.token";

/// Whether the request was made by the page itself, or by no page at all.
pub fn is_same_site<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match text("sec-fetch-site") {
        Some("same-origin" | "none") => true,
        Some(_) => false,
        // Browsers that do not say where a request is from say it with all that may change something.
        None => match text(ORIGIN.as_str()) {
            None => true,
            Some(origin) => {
                let host = origin.split_once("://").map_or("", |(_, host)| host);
                *request.method() == Method::GET || host_of(request).is_some_and(|mine| mine.as_str() == host)
            }
        },
    }
}

/// Whether the name that the request was sent to is one that no other site can take: an IP address, `localhost`, or none.
pub fn is_own_name<B>(request: &Request<B>) -> bool {
    let Some(host) = host_of(request) else { return !has_host(request.headers()) };
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    host.parse::<std::net::IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
}

fn host_of<B>(request: &Request<B>) -> Option<Authority> {
    let from_target = request.uri().authority().cloned();
    from_target.or_else(|| request.headers().get(HOST)?.to_str().ok()?.parse().ok())
}

fn has_host(headers: &HeaderMap) -> bool {
    headers.get(HOST).is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/api/cache");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn the_page_and_programs_may_and_other_sites_may_not() {
        let host = ("host", "127.0.0.1:8081");
        for (headers, may) in [
            (&[host][..], true),
            (&[host, ("sec-fetch-site", "same-origin")], true),
            (&[host, ("sec-fetch-site", "none")], true),
            (&[host, ("sec-fetch-site", "same-site")], false),
            (&[host, ("sec-fetch-site", "cross-site")], false),
            (&[host, ("origin", "http://127.0.0.1:8081")], true),
            (&[host, ("origin", "http://127.0.0.1:3000")], false),
            (&[host, ("origin", "https://evil.example")], false),
            (&[host, ("origin", "null")], false),
        ] {
            assert_eq!(is_same_site(&request(Method::DELETE, headers)), may, "{headers:?}");
        }
    }

    #[test]
    fn names_that_anybody_can_take_are_not_ours() {
        for (host, own) in [
            ("127.0.0.1:8081", true),
            ("[::1]:8081", true),
            ("10.0.0.7", true),
            ("localhost:8081", true),
            ("LOCALHOST.", true),
            ("admin.localhost:8081", true),
            ("", true),
            ("evil.example:8081", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("not a host", false),
        ] {
            assert_eq!(is_own_name(&request(Method::GET, &[("host", host)])), own, "{host}");
        }
        assert!(is_own_name(&request(Method::GET, &[])));
    }
}
