//! Where a `Location` or `Content-Location` points, if it is something of the same upstream.

use http::HeaderValue;
use http::uri::Uri;

use crate::domain::access::Upstream;
use crate::domain::key::CanonicalQuery;

/// The upstream path, without the upstream's prefix, and the query that `value` means in an answer to a request for `base`; `None`
/// if it is on another origin, so that nothing may follow from it (RFC 9111 §4.4).
pub(super) fn of(value: &HeaderValue, upstream: &Upstream, base: &str) -> Option<(String, CanonicalQuery)> {
    let text = value.to_str().ok()?;
    let text = text.split('#').next().unwrap_or_default();
    let (path, query) = if text.contains("://") || text.starts_with("//") {
        let absolute = if text.starts_with("//") { format!("{}:{text}", upstream.scheme) } else { text.to_owned() };
        let uri: Uri = absolute.parse().ok()?;
        let same = uri.scheme() == Some(&upstream.scheme) && uri.authority() == Some(&upstream.authority);
        same.then(|| (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned()))?
    } else {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let path = match path {
            "" => format!("{}{base}", upstream.prefix),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{}{}/{path}", upstream.prefix, base.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        (path, query.to_owned())
    };
    let path = path.strip_prefix(&*upstream.prefix)?.to_owned();
    Some((path, CanonicalQuery::new(&query)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::Credential;
    use crate::domain::rules::{BudgetRules, ClientOptions};
    use http::uri::{Authority, Scheme};

    #[test]
    fn only_what_is_of_the_same_upstream_is_found() {
        let upstream = Upstream {
            name: "us".into(),
            scheme: Scheme::HTTPS,
            authority: Authority::from_static("api.test"),
            prefix: "/base".into(),
            api_key: Credential::new("Bearer key").expect("ASCII"),
            client: ClientOptions::default(),
            budget: BudgetRules::default(),
        };
        for (text, expected) in [
            ("/base/b?c=1#d", Some("/b?c=1")),
            ("https://api.test/base/b", Some("/b?")),
            ("//api.test/base/b", Some("/b?")),
            ("sibling", Some("/x/sibling?")),
            ("?c=1", Some("/x/a?c=1")),
            ("", Some("/x/a?")),
            ("http://api.test/base/b", None),
            ("https://other.test/base/b", None),
            ("//other.test/base/b", None),
            ("/elsewhere", None),
        ] {
            let found = of(&HeaderValue::from_static(text), &upstream, "/x/a");
            let found = found.map(|(path, query)| format!("{path}?{}", query.as_str()));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
