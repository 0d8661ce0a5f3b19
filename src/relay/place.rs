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
