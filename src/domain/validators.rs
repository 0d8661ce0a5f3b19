//! How the upstream names a page, to ask whether it has changed (RFC 9110 §8.8).

use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue};

use super::detached;

/// The upstream's `ETag` and `Last-Modified`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// For `If-None-Match`.
    pub etag: Option<HeaderValue>,
    /// For `If-Modified-Since`.
    pub last_modified: Option<HeaderValue>,
}

impl Validators {
    /// The validators of an answer, in memory of their own.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let read = |name| headers.get(name).map(detached::value);
        Self { etag: read(ETAG), last_modified: read(LAST_MODIFIED) }
    }

    /// The bytes that they take.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + [&self.etag, &self.last_modified].into_iter().flatten().map(HeaderValue::len).sum::<usize>()
    }

    /// These, if there are any.
    pub(super) fn kept(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}
