//! What is left of a request once it has been admitted: only what whoever answers it looks at.

use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HOST, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Version};

use super::access::X_ACCOUNT_TOKEN;
use super::detached;

/// Fields that only the door reads, or nobody. Any other is kept, so that an answer may depend on it.
const READ_BEFORE: [HeaderName; 8] =
    [HOST, USER_AGENT, ACCEPT, AUTHORIZATION, PROXY_AUTHORIZATION, X_ACCOUNT_TOKEN, CONNECTION, COOKIE];

/// Fields that say something to the connection and not only to whoever answers.
const OF_THE_CONNECTION: [HeaderName; 5] = [EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// A `GET` of HTTP/1.1 that changes nothing about its connection, without the fields that nobody reads again. There is no secret in it.
#[derive(Debug)]
pub struct Gist {
    path: Box<str>,
    /// `None`: none is left, as of most requests. Boxed, since there are many gists.
    headers: Option<Box<HeaderMap>>,
}

impl Gist {
    /// The gist of this request, in memory of its own; `None` if it also says something to its connection.
    pub fn of(head: &Parts) -> Option<Self> {
        let is_plain = head.version == Version::HTTP_11 && head.method == Method::GET;
        let mut connection = head.headers.get_all(CONNECTION).iter();
        let stays = connection.all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
        if !is_plain || !stays || OF_THE_CONNECTION.iter().any(|name| head.headers.contains_key(name)) {
            return None;
        }
        let kept = head.headers.iter().filter(|(name, _)| !READ_BEFORE.contains(name));
        let headers: HeaderMap = kept.map(|(name, value)| (name.clone(), detached::value(value))).collect();
        Some(Self { path: head.uri.path().into(), headers: (!headers.is_empty()).then(|| Box::new(headers)) })
    }

    /// The path of its target.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The request once more, for whoever answers it. It has no target: what is asked is known, and to share a target would cost each hit
    /// a reference count in a place of memory that it needs for nothing else.
    pub fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        if let Some(headers) = &self.headers {
            request.headers_mut().clone_from(headers);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gist(request: http::request::Builder) -> Option<Gist> {
        let (head, ()) = request.body(()).expect("a request").into_parts();
        Gist::of(&head)
    }

    #[test]
    fn what_an_answer_may_depend_on_is_kept_and_no_secret_is() {
        let asked =
            Request::get("/a?b=c").header("host", "a").header("authorization", "Bearer a").header("cookie", "a");
        let asked = asked.header("accept", "*/*").header("proxy-authorization", "a").header("x-account-token", "a");
        let asked = asked.header("connection", "Keep-Alive").header("user-agent", "a");
        let asked = asked.header("x-request-id", "1").header("if-none-match", "\"a\"").header("if-none-match", "\"b\"");
        let gist = gist(asked).expect("a plain one");
        let request = gist.request(());
        let fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let kept: [(&str, &[u8]); 3] =
            [("x-request-id", b"1"), ("if-none-match", b"\"a\""), ("if-none-match", b"\"b\"")];
        assert_eq!((gist.path(), &fields[..]), ("/a", &kept[..]));
    }

    #[test]
    fn what_matters_to_the_connection_has_none() {
        assert!(gist(Request::get("/")).is_some());
        assert!(gist(Request::head("/")).is_none());
        assert!(gist(Request::get("/").version(Version::HTTP_10)).is_none());
        assert!(gist(Request::get("/").version(Version::HTTP_2)).is_none());
        for (name, value) in
            [("connection", "close"), ("connection", "keep-alive, upgrade"), ("upgrade", "h2c"), ("te", "a")]
        {
            assert!(gist(Request::get("/").header(name, value)).is_none(), "{name}: {value}");
        }
    }
}
