//! From an [`Outcome`] to a response. From here outwards nothing fails.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AGE, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::prepared::Prepared;
use super::{accept_encoding, cache_status, events};
use crate::domain::arrival::Arrived;
use crate::domain::ask::Whose;
use crate::domain::body::ReplyBody;
use crate::domain::condition::Conditions;
use crate::domain::delivery::Delivered;
use crate::domain::encoding::Coding;
use crate::domain::exchange::{Answer, Given, Outcome, Served};
use crate::domain::follow::{Followed, How};
use crate::domain::page::Kind;
use crate::domain::problem::{Problem, whole_seconds};
use crate::domain::relay::Relayed;
use crate::domain::reply::Reply;
use crate::domain::request_id::{self, X_REQUEST_ID};
use crate::domain::under_way::{Abandoned, UnderWay};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const VARY_VALUE: HeaderValue = HeaderValue::from_static("accept-encoding");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// What a purged page that stands in for a failure says: a client's own cache must not take it for fresh.
const OUTDATED: HeaderValue = HeaderValue::from_static("private, max-age=0");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// `Age`, by seconds up to five minutes.
static AGES: Prepared<301> = Prepared::new(|seconds| seconds.to_string());

/// `Cache-Control` of a good page, by the seconds of its lifetime up to an hour.
static MAX_AGES: Prepared<3601> = Prepared::new(|seconds| format!("private, max-age={seconds}"));

/// The fields of a good page: a copy of it costs less than to insert each. First those that differ from answer to answer, in the
/// order in which [`Reading::good`] gives them values.
static GOOD: LazyLock<HeaderMap> = LazyLock::new(|| {
    let differing =
        [CACHE_CONTROL, CACHE_STATUS, AGE, ETAG, X_REQUEST_ID].map(|name| (name, HeaderValue::from_static("")));
    differing.into_iter().chain([(VARY, VARY_VALUE), (CONTENT_TYPE, JSON)]).collect()
});

/// What matters of a request for the form of its answer.
struct Reading {
    head_only: bool,
    /// `None`: there are none, as in most requests.
    conditions: Option<Box<Conditions>>,
    coding: Coding,
    request_id: HeaderValue,
}

impl Reading {
    fn new<B>(request: &Request<Arrived<B>>) -> Self {
        let headers = request.headers();
        // One look at all fields costs less than a search for each that is mostly not there.
        let (mut has_conditions, mut has_codings, mut request_id) = (false, false, None);
        for (name, value) in headers {
            has_conditions |= *name == IF_NONE_MATCH || *name == IF_MODIFIED_SINCE;
            has_codings |= *name == ACCEPT_ENCODING;
            if *name == X_REQUEST_ID {
                request_id = Some(value);
            }
        }
        Self {
            head_only: *request.method() == Method::HEAD,
            conditions: has_conditions.then(|| Box::new(Conditions::read(headers))),
            coding: if has_codings { accept_encoding::choose(headers) } else { Coding::Identity },
            request_id: request_id::name(request_id, request.body().at()),
        }
    }

    fn render(&self, result: &mut Result<Given, Problem>) -> Response<ReplyBody> {
        let mut response = match result {
            Ok(Given::Page(answer)) => self.page(answer),
            Ok(Given::Followed(followed)) => self.named(self.followed(followed)),
            Ok(Given::Relayed(relayed)) => self.named(relay(relayed)),
            Ok(Given::Delivered(delivered)) => self.named(acknowledge(*delivered)),
            Err(problem) => self.named(self.problem(problem)),
        };
        if self.head_only {
            // What passes through says its own length.
            if let ReplyBody::Whole(body) = response.body()
                && !matches!(response.status(), StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT)
            {
                let length = http_body::Body::size_hint(body).exact().unwrap_or_default();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            *response.body_mut() = ReplyBody::whole(Bytes::new());
        }
        response
    }

    fn named(&self, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
        response.headers_mut().insert(X_REQUEST_ID, self.request_id.clone());
        response
    }

    fn page(&self, answer: &Answer) -> Response<ReplyBody> {
        if answer.page.kind == Kind::Good { self.good(answer) } else { self.named(refusal(answer)) }
    }

    fn good(&self, answer: &Answer) -> Response<ReplyBody> {
        let page = &*answer.page;
        let encoded = self.coding.name().and_then(|name| Some((name, page.encoded(self.coding)?)));
        let mut response = Response::new(ReplyBody::whole(Bytes::new()));
        *response.status_mut() = page.status;
        *response.headers_mut() = GOOD.clone();
        let headers = response.headers_mut();
        let values = [
            cache_control(answer),
            cache_status::value(answer),
            age(answer),
            encoded.map_or(&page.etag, |(_, (_, etag))| etag).clone(),
            self.request_id.clone(),
        ];
        for (place, value) in headers.values_mut().zip(values) {
            *place = value;
        }
        let modified = page.validators.as_ref().and_then(|known| known.last_modified.as_ref());
        if let Some(date) = modified {
            headers.insert(LAST_MODIFIED, date.clone());
        }
        if self.conditions.as_ref().is_some_and(|conditions| conditions.met(&page.etag, modified)) {
            headers.remove(CONTENT_TYPE);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        let body = encoded.map_or(&page.body, |(name, (body, _))| {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
            body
        });
        *response.body_mut() = ReplyBody::whole(body.clone());
        response
    }

    fn followed(&self, Followed { answer, how }: &mut Followed) -> Response<ReplyBody> {
        match how {
            How::Waited(at_most) => {
                let mut response = self.page(answer);
                let applied = HeaderValue::try_from(format!("wait={}", at_most.as_secs()));
                response.headers_mut().insert(PREFERENCE_APPLIED, applied.expect("digits are a header value"));
                response
            }
            How::Stream(updates) => {
                let body = updates.take().map_or_else(|| ReplyBody::whole(Bytes::new()), events::body);
                let mut response = Response::new(body);
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, EVENT_STREAM);
                headers.insert(CACHE_CONTROL, NO_STORE);
                headers.insert(CACHE_STATUS, cache_status::value(answer));
                response
            }
        }
    }

    fn problem(&self, problem: &Problem) -> Response<ReplyBody> {
        let row = problem.row();
        let body = Details {
            kind: format!("urn:merge-sync-proxy:error:{}", row.slug),
            title: row.title,
            status: row.status.as_u16(),
            detail: &row.detail,
            request_id: &String::from_utf8_lossy(self.request_id.as_bytes()),
        };
        let body = serde_json::to_vec(&body).expect("text and numbers are JSON");
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, NO_STORE);
        headers.insert(CACHE_STATUS, cache_status::of_problem(&row));
        headers.extend(row.retry_after.map(|pause| (RETRY_AFTER, whole_seconds(pause).into())));
        match problem {
            Problem::UnknownConsumer => headers.extend([(WWW_AUTHENTICATE, BEARER)]),
            Problem::MethodNotAllowed { allow } => headers.extend([(ALLOW, allow.clone())]),
            _ => {}
        }
        assemble(row.status, headers, Bytes::from(body))
    }
}

/// What the upstream has refused, or an error of its own.
fn refusal(answer: &Answer) -> Response<ReplyBody> {
    let page = &*answer.page;
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CACHE_STATUS, cache_status::value(answer));
    if answer.served == Served::Negative {
        headers.insert(AGE, age(answer));
    }
    if let Some(refusal) = &page.refusal {
        headers.insert(CONTENT_TYPE, refusal.content_type.clone());
        headers.extend(refusal.www_authenticate.iter().map(|value| (WWW_AUTHENTICATE, value.clone())));
    }
    if matches!(page.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let pause = page.retry_at().map(|at| at.saturating_duration_since(answer.now)).unwrap_or_default();
        headers.insert(RETRY_AFTER, whole_seconds(pause).into());
    }
    assemble(page.status, headers, page.body.clone())
}

/// `Cache-Control` of a good page: its whole lifetime, of which `Age` says what is over.
fn cache_control(answer: &Answer) -> HeaderValue {
    if answer.page.is_purged(answer.now) { OUTDATED } else { MAX_AGES.get(answer.page.lifetime.fresh.as_secs()) }
}

fn age(answer: &Answer) -> HeaderValue {
    AGES.get(answer.age.as_secs())
}

/// What passed through, with all its fields; the body goes along.
fn relay(relayed: &mut Relayed) -> Response<ReplyBody> {
    let mut response = Response::new(relayed.body.take());
    let mut headers = std::mem::take(&mut relayed.headers);
    headers.append(CACHE_STATUS, cache_status::of(relayed.served, relayed.ttl, relayed.refresh_limited));
    *response.status_mut() = relayed.status;
    *response.headers_mut() = headers;
    response
}

/// What Merge is told of a webhook that it has signed.
fn acknowledge(delivered: Delivered) -> Response<ReplyBody> {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CACHE_STATUS, cache_status::of_delivery());
    assemble(StatusCode::OK, headers, format!("{{\"outcome\":\"{}\"}}", delivered.label()).into())
}

/// The body of a problem (RFC 9457 §3.1).
#[derive(serde::Serialize)]
struct Details<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
}

fn assemble(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The layer: [`Outcome`]s of the door become [`Reply`]s.
pub fn layer<S>() -> impl Layer<S, Service = Render<S>> + Clone {
    layer_fn(|inner| Render { inner })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Render<S> {
    inner: S,
}

impl<S, B> Service<Request<Arrived<B>>> for Render<S>
where
    S: Service<Request<Arrived<B>>, Response = Outcome, Error = Infallible>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Rendering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Arrived<B>>) -> Self::Future {
        let (began, reading) = (request.body().at(), Reading::new(&request));
        Rendering { began, reading, outcome: self.inner.call(request) }
    }
}

pin_project! {
    /// The future of [`Render`].
    pub struct Rendering<F> {
        began: Instant,
        reading: Reading,
        #[pin]
        outcome: F,
    }
}

impl<F: UnderWay<Known = (Whose, Option<Box<HeaderValue>>)>> UnderWay for Rendering<F> {
    type Known = Abandoned;

    fn abandon(self: Pin<&mut Self>) -> Option<Abandoned> {
        let this = self.project();
        let (whose, told) = this.outcome.abandon()?;
        let ended = Instant::now();
        let request_id = told.map_or_else(|| this.reading.request_id.clone(), |told| *told);
        Some(Abandoned { whose, request_id, ended, took: ended.saturating_duration_since(*this.began) })
    }
}

impl<F: Future<Output = Result<Outcome, Infallible>>> Future for Rendering<F> {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut outcome) = ready!(this.outcome.poll(cx));
        if let Some(name) = outcome.id.take() {
            this.reading.request_id = *name;
        }
        let mut response = this.reading.render(&mut outcome.result);
        let ended = Instant::now();
        if let Some(quota) = outcome.whose.quota() {
            response.headers_mut().insert(RATE_LIMIT_POLICY, quota.policy.clone());
            response.headers_mut().insert(RATE_LIMIT, quota.left(ended));
        }
        let request_id = std::mem::replace(&mut this.reading.request_id, HeaderValue::from_static(""));
        let took = ended.saturating_duration_since(*this.began);
        Poll::Ready(Ok(Reply { response, outcome, request_id, ended, took }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::page::tests::page;
    use std::sync::Arc;

    #[test]
    fn every_value_of_a_good_page_stands_in_its_own_field() {
        let now = Instant::now();
        let answer = Answer::new(Arc::new(page("{}", now, [30, 0, 0])), Served::Hit, now, false);
        let reading = Reading {
            head_only: false,
            conditions: None,
            coding: Coding::Identity,
            request_id: HeaderValue::from_static("id"),
        };
        let response = reading.good(&answer);
        for (name, value) in [
            (CACHE_CONTROL, "private, max-age=30"),
            (CACHE_STATUS, "merge-sync-proxy; hit; ttl=30"),
            (AGE, "0"),
            (ETAG, answer.page.etag.to_str().expect("ASCII")),
            (VARY, "accept-encoding"),
            (CONTENT_TYPE, "application/json"),
            (X_REQUEST_ID, "id"),
        ] {
            assert_eq!(response.headers()[&name], value, "{name}");
        }
        assert_eq!(response.headers().len(), 7);
    }
}
