//! A request to an upstream: its credentials, the account's token, and of the caller only what it is given.

use http::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT, VIA};
use http::uri::{Parts, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};

use crate::domain::access::{Account, Upstream, X_ACCOUNT_TOKEN};
use crate::domain::body::StreamBody;
use crate::domain::problem::Problem;

const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(concat!("merge-sync-proxy/", env!("CARGO_PKG_VERSION")));
const VIA_VALUE: HeaderValue = HeaderValue::from_static("1.1 merge-sync-proxy");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The request to `upstream` for `path` and `query` on behalf of `account`. `headers` go with it; where they say nothing, JSON is asked for.
pub fn request(
    (upstream, account): (&Upstream, &Account),
    (path, query): (&str, Option<&str>),
    method: Method,
    mut headers: HeaderMap,
    body: StreamBody,
) -> Result<Request<StreamBody>, Problem> {
    if let Ok(host) = HeaderValue::from_str(upstream.authority.as_str()) {
        headers.insert(HOST, host);
    }
    headers.insert(AUTHORIZATION, upstream.api_key.expose().clone());
    headers.insert(X_ACCOUNT_TOKEN, account.token.expose().clone());
    headers.entry(ACCEPT).or_insert(JSON);
    headers.entry(USER_AGENT).or_insert(USER_AGENT_VALUE);
    headers.append(VIA, VIA_VALUE);
    let mut request = Request::new(body);
    *request.uri_mut() = uri(upstream, path, query)
        .ok_or(Problem::InvalidRequest("The path and query cannot be sent on; shorten them.".into()))?;
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    Ok(request)
}

fn uri(upstream: &Upstream, path: &str, query: Option<&str>) -> Option<Uri> {
    let prefix = &upstream.prefix;
    let path = match query {
        Some(query) => [prefix, path, "?", query].concat(),
        None => [prefix, path].concat(),
    };
    let mut parts = Parts::default();
    parts.scheme = Some(upstream.scheme.clone());
    parts.authority = Some(upstream.authority.clone());
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}
