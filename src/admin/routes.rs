//! The operators' side: is it alive, is it ready.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;

/// What the admin listener can see.
pub trait Health: Clone + Send + Sync + 'static {
    /// Why no consumer should be sent here now; empty when all is well.
    fn not_ready(&self) -> Vec<&'static str>;
}

/// The service of the admin listener.
#[derive(Clone)]
pub struct Admin<H> {
    health: H,
}

impl<H: Health> Admin<H> {
    /// Answers for `health`.
    pub fn new(health: H) -> Self {
        Self { health }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let body = match path {
            "/livez" => serde_json::json!({"alive": true}),
            "/readyz" => {
                let reasons = self.health.not_ready();
                serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons})
            }
            _ => {
                return json(
                    StatusCode::NOT_FOUND,
                    &serde_json::json!({"error": "no such page; there are /livez and /readyz"}),
                );
            }
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refused = json(StatusCode::METHOD_NOT_ALLOWED, &serde_json::json!({"error": "use GET"}));
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let well = body.get("ready").is_none_or(|ready| ready == true);
        json(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl<H: Health, B> Service<Request<B>> for Admin<H> {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(request.method(), request.uri().path())))
    }
}
