//! The operators' side: is it alive, is it ready, what is in the cache and out with it.

use std::convert::Infallible;
use std::future::ready;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tower::Service;

use super::reloaded;
use crate::config::changes::Changes;
use crate::config::{Faults, Secret};
use crate::domain::problem::Objection;

/// What operators can see and do.
pub trait Operations: Clone + Send + Sync + 'static {
    /// Why no consumer should be sent here now; empty when all is well.
    fn not_ready(&self) -> Vec<&'static str>;

    /// What an operator must show as `Authorization: Bearer TOKEN`, except for health.
    fn token(&self) -> Option<Secret>;

    /// Reads the configuration again; waits for files.
    fn reload(&self) -> Result<Changes, Faults>;

    /// Purges the pages of one account, or all if none is named; says how many there were, or `None` if nobody has that name.
    fn purge(&self, account: Option<&str>, hard: bool) -> Option<usize>;

    /// What the cache holds for a question; `None` if there is no such account or category.
    fn explain(&self, account: &str, category: &str, query: &str) -> Option<Value>;
}

/// The service of the admin listener.
#[derive(Clone)]
pub struct Admin<O> {
    operations: O,
}

/// What is asked, once its path and method have been understood.
enum Question<'a> {
    Live,
    Ready,
    Purge { account: Option<String> },
    Reload,
    Explain { query: &'a str },
}

const RELOAD: &str = "/api/reload";

const PAGES: &str = "there are GET /livez, GET /readyz, GET /api/explain?account=NAME&category=NAME&query=QUERY, \
                     POST /api/reload, DELETE /api/cache and DELETE /api/cache/accounts/NAME";

impl<O: Operations> Admin<O> {
    /// Answers for `operations`, to those who have its token if there is one.
    pub fn new(operations: O) -> Self {
        Self { operations }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if let Some(Objection(problem)) = request.extensions().get() {
            let row = problem.row();
            return reply(row.status, &json!({ "error": row.detail }));
        }
        let uri = request.uri();
        let question = match ask(request.method(), uri.path(), uri.query().unwrap_or_default()) {
            Ok(question) => question,
            Err(refusal) => return *refusal,
        };
        // Health is for load balancers, which hold no secrets.
        let is_open = matches!(question, Question::Live | Question::Ready);
        if !is_open && !self.may_operate(request.headers()) {
            let mut refused = reply(StatusCode::UNAUTHORIZED, &json!({"error": "send 'Authorization: Bearer TOKEN'"}));
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refused;
        }
        match question {
            Question::Live => reply(StatusCode::OK, &json!({"alive": true})),
            Question::Ready => {
                let reasons = self.operations.not_ready();
                let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                reply(status, &json!({"ready": reasons.is_empty(), "reasons": reasons}))
            }
            Question::Purge { account } => {
                let hard = parameter(uri.query().unwrap_or_default(), "hard").is_some_and(|hard| hard == "true");
                match self.operations.purge(account.as_deref(), hard) {
                    Some(pages) => reply(StatusCode::OK, &json!({"purged": pages, "hard": hard})),
                    None => reply(StatusCode::NOT_FOUND, &json!({"error": "no account has this name"})),
                }
            }
            Question::Explain { query } => self.explain(query),
            Question::Reload => reloaded::reply(&self.operations.reload()),
        }
    }

    fn explain(&self, query: &str) -> Response<Full<Bytes>> {
        let [account, category, asked] = ["account", "category", "query"].map(|name| parameter(query, name));
        let (Some(account), Some(category)) = (account, category) else {
            return reply(StatusCode::BAD_REQUEST, &json!({"error": "say account=NAME and category=NAME"}));
        };
        let explained = self.operations.explain(&account, &category, asked.as_deref().unwrap_or_default());
        explained.map_or_else(
            || reply(StatusCode::NOT_FOUND, &json!({"error": "no account has this name, or no route this category"})),
            |explanation| reply(StatusCode::OK, &explanation),
        )
    }

    fn may_operate(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.operations.token() else { return true };
        let shown = headers.get(AUTHORIZATION).and_then(|line| line.as_bytes().strip_prefix(b"Bearer "));
        shown.is_some_and(|shown| shown.ct_eq(token.expose().as_bytes()).into())
    }
}

/// Path and method to question.
fn ask<'a>(method: &Method, path: &str, query: &'a str) -> Result<Question<'a>, Box<Response<Full<Bytes>>>> {
    const READ: &[Method] = &[Method::GET, Method::HEAD];
    let (methods, question) = match path {
        "/livez" => (READ, Question::Live),
        "/readyz" => (READ, Question::Ready),
        "/api/explain" => (READ, Question::Explain { query }),
        RELOAD => (&[Method::POST][..], Question::Reload),
        "/api/cache" => (&[Method::DELETE][..], Question::Purge { account: None }),
        _ => match path.strip_prefix("/api/cache/accounts/").filter(|name| !name.is_empty() && !name.contains('/')) {
            Some(name) => {
                let account = Some(percent_decode_str(name).decode_utf8_lossy().into_owned());
                (&[Method::DELETE][..], Question::Purge { account })
            }
            None => return Err(Box::new(reply(StatusCode::NOT_FOUND, &json!({ "error": PAGES })))),
        },
    };
    if methods.contains(method) {
        return Ok(question);
    }
    let allow = match methods {
        [Method::POST] => "POST",
        [Method::DELETE] => "DELETE",
        _ => "GET, HEAD",
    };
    let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": format!("use {allow}")}));
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    Err(Box::new(refused))
}

/// The value of a parameter, decoded as forms are.
fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

pub(super) fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl<O: Operations, B: Send + 'static> Service<Request<B>> for Admin<O> {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.uri().path() != RELOAD {
            return Box::pin(ready(Ok(self.answer(&request))));
        }
        let admin = self.clone();
        let request = request.map(drop);
        Box::pin(async move {
            // It reads files; whoever serves must not wait for them.
            let answer = tokio::task::spawn_blocking(move || admin.answer(&request)).await;
            Ok(answer.unwrap_or_else(|_panic| {
                reply(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": "this failed; the log says more"}))
            }))
        })
    }
}
