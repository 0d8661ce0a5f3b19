//! What is kept of an answer that is not good.

use http::HeaderValue;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use tokio::time::Instant;

use super::detached;
use super::received::Received;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What an answer that is not good has beside a page. It is kept apart, since there are few of these, and each good page would need room
/// for it.
#[derive(Debug)]
pub struct Refusal {
    /// The media type.
    pub content_type: HeaderValue,
    /// The challenge of a 401.
    pub www_authenticate: Option<HeaderValue>,
    /// When the upstream takes the next request, where it has said so.
    pub retry_at: Option<Instant>,
}

impl Refusal {
    /// That of `received`, in memory of its own.
    pub(super) fn of(received: &Received) -> Self {
        let headers = &received.headers;
        Self {
            content_type: headers.get(CONTENT_TYPE).filter(|it| *it != JSON).map_or(JSON, detached::value),
            www_authenticate: headers.get(WWW_AUTHENTICATE).map(detached::value),
            retry_at: received.retry_at,
        }
    }

    /// The bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let challenge = self.www_authenticate.as_ref().map_or(0, HeaderValue::len);
        size_of::<Self>() + self.content_type.len() + challenge
    }
}
