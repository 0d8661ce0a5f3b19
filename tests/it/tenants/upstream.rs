//! An upstream whose every page says whose it is and what was asked. Its validators are the same for all accounts, so that one that
//! goes astray would be taken for good.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::future::{Ready, ready};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use merge_sync_proxy::domain::body::StreamBody;
use parking_lot::Mutex;
use tower::Service;

use super::model::{ACCOUNTS, RAW};

/// What was asked upstream: token, path and raw query.
pub(super) type Call = (String, String, String);

pub(super) const INVALID: &str = "{\"detail\":\"Invalid account token.\"}";

#[derive(Debug)]
pub(super) struct Upstream {
    padding: usize,
    versions: Mutex<HashMap<&'static str, u64>>,
    calls: Mutex<Vec<Call>>,
}

/// The body of one version of a page.
pub(super) fn body(account: &str, path: &str, query: &str, version: u64, padding: usize) -> String {
    let mut body = String::from("{\"next\":null,\"previous\":null,\"results\":[{\"status\":\"SYNCING\"}],");
    write!(body, "\"whose\":\"{account}\",\"asked\":\"{path}?{query}\",\"version\":{version},\"padding\":\"")
        .expect("memory");
    body.extend((0..padding).map(|at| char::from(b'a' + u8::try_from(at % 7).expect("small"))));
    body + "\"}"
}

impl Upstream {
    pub fn new(padding: usize) -> Self {
        Self { padding, versions: Mutex::default(), calls: Mutex::default() }
    }

    /// All pages of the account are new.
    pub fn change(&self, account: &'static str) {
        *self.versions.lock().entry(account).or_default() += 1;
    }

    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock())
    }

    pub fn service(
        this: &Arc<Self>,
    ) -> impl Service<Request<StreamBody>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + use<>
    {
        let this = this.clone();
        tower::service_fn(move |request: Request<StreamBody>| this.answer(&request))
    }

    fn answer(&self, request: &Request<StreamBody>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
        let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().expect("ASCII"));
        let (token, path) = (header("x-account-token"), request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        self.calls.lock().push((token.to_owned(), path.to_owned(), query.to_owned()));
        let known = ACCOUNTS.iter().chain([&RAW]).find(|(_, known)| *known == token);
        let response = Response::builder().header("content-type", "application/json");
        let Some((account, _)) = known else {
            return ready(Ok(response.status(401).body(Full::from(INVALID)).expect("a response")));
        };
        let version = self.versions.lock().get(account).copied().unwrap_or_default();
        let tag = format!("\"version-{version}\"");
        let (status, body) = if header("if-none-match") == tag {
            (304, String::new())
        } else {
            (200, body(account, path, query, version, self.padding))
        };
        ready(Ok(response.status(status).header("etag", tag).body(Full::from(body)).expect("a response")))
    }
}
