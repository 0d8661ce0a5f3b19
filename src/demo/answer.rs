//! An answer on its way out: made right first, then bent by the faults that a test asks for.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;

use super::body::{End, SimBody};
use super::limits::{Standing, whole_seconds};
use super::record::InFlight;

/// What will be sent, and how.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) framing: Framing,
    /// Bytes in a piece, and the pause before the next one.
    pub(crate) drops: Option<(usize, Duration)>,
    pub(crate) delay: Duration,
    pub(crate) fate: Fate,
    /// What `Date` says; `None` leaves it out.
    pub(crate) date: Option<SystemTime>,
}

/// How the end of the body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By `Content-Length`.
    Length,
    /// By the last chunk.
    Chunked,
    /// By a `Content-Length` that is not reached.
    ShortLength,
    /// By a last chunk that does not come.
    ShortChunked,
    /// There is no body, and nothing says so: 204 and 304.
    Bodiless,
}

/// What becomes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Send,
    Hang,
    Reset,
}

impl Answer {
    /// A plain answer of this type.
    pub(crate) fn new(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Bytes>,
        date: SystemTime,
    ) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status,
            headers,
            body: body.into(),
            framing: Framing::Length,
            drops: None,
            delay: Duration::ZERO,
            fate: Fate::Send,
            date: Some(date),
        }
    }

    /// 200, with the header fields of a Django application.
    pub(crate) fn good(body: impl Into<Bytes>, date: SystemTime) -> Self {
        let mut answer = Self::new(StatusCode::OK, "application/json", body, date);
        answer.headers.insert(VARY, HeaderValue::from_static("Accept"));
        answer
    }

    /// A status without a body.
    pub(crate) fn bodiless(status: StatusCode, date: SystemTime) -> Self {
        let mut answer = Self::new(status, "application/json", "", date);
        answer.headers.clear();
        answer.framing = Framing::Bodiless;
        answer
    }

    /// A refusal as Django REST Framework words it.
    pub(crate) fn refusal(status: StatusCode, detail: &str, date: SystemTime) -> Self {
        let mut answer = Self::new(status, "application/json", json!({ "detail": detail }).to_string(), date);
        if status == StatusCode::UNAUTHORIZED {
            answer.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"api\""));
        }
        answer
    }

    /// 400, for a parameter that makes no sense.
    pub(crate) fn invalid(why: &str, date: SystemTime) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "application/json", json!({ "non_field_errors": [why] }).to_string(), date)
    }

    /// 405.
    pub(crate) fn method_not_allowed(method: &http::Method, allow: &'static str, date: SystemTime) -> Self {
        let detail = format!("Method \"{method}\" not allowed.");
        Self::refusal(StatusCode::METHOD_NOT_ALLOWED, &detail, date).with(ALLOW, allow)
    }

    /// 429, until `wait` has passed.
    pub(crate) fn throttled(wait: Duration, date: SystemTime) -> Self {
        let seconds = whole_seconds(wait);
        let detail = format!("Request was throttled. Expected available in {seconds} seconds.");
        Self::refusal(StatusCode::TOO_MANY_REQUESTS, &detail, date).with(RETRY_AFTER, seconds)
    }

    /// The fields by which a caller can pace itself. `Reset` is a Unix time on the clock that `Date` shows, so the difference
    /// of the two is in real seconds, whatever the simulation's speed.
    pub(crate) fn quote(&mut self, standing: Standing) {
        let date = self.date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        let fields = [
            ("x-ratelimit-limit", standing.limit as u64),
            ("x-ratelimit-remaining", standing.remaining as u64),
            ("x-ratelimit-reset", date.as_secs() + whole_seconds(standing.reset)),
        ];
        for (name, value) in fields {
            self.headers.insert(HeaderName::from_static(name), value.into());
        }
    }

    /// One more header field.
    pub(crate) fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.insert(name, value);
        }
        self
    }

    /// The response; `head_only` says all of it but the body.
    pub(crate) fn into_response(mut self, head_only: bool, call: InFlight) -> Response<SimBody> {
        let short = matches!(self.framing, Framing::ShortLength | Framing::ShortChunked);
        if matches!(self.framing, Framing::Length | Framing::ShortLength) {
            // A body too short to be cut is announced a byte longer than it is.
            let length = if short { self.body.len().max(1) } else { self.body.len() };
            self.headers.insert(CONTENT_LENGTH, length.into());
        }
        if let Some(date) = self.date {
            let date = HeaderValue::from_str(&httpdate::fmt_http_date(date)).expect("a date is visible ASCII");
            self.headers.insert(DATE, date);
        }
        if head_only || self.framing == Framing::Bodiless {
            self.body = Bytes::new();
        } else if short {
            self.body.truncate(self.body.len() / 2);
        }
        let end = if short && !head_only { End::Cut } else { End::Whole };
        let sized = matches!(self.framing, Framing::Length | Framing::Bodiless) && !head_only;
        let (piece, every) = self.drops.unwrap_or((usize::MAX, Duration::ZERO));
        let mut response = Response::new(SimBody::new(&self.body, piece, every, end, sized, call));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
