//! What the upstream sent, and what it says about syncs.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::detached;
use super::problem::Cause;

/// A whole answer of the upstream, read to its verified end.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its status.
    pub status: StatusCode,
    /// Its headers as sent.
    pub headers: HeaderMap,
    /// Its body, decoded.
    pub body: Bytes,
    /// When the request for it went out.
    pub began: Instant,
    /// What the body says about syncs.
    pub digest: SyncDigest,
    /// When the upstream takes the next request, where it has said so.
    pub retry_at: Option<Instant>,
    /// Whether it is an earlier answer for the same account, given again because a call would bring no other.
    pub remembered: bool,
}

impl Received {
    /// Why it is no answer at all: neither a page nor a word on why there is none. `asked` says whether the request named a page by the
    /// upstream's own validators: only then may the answer be that nothing has changed.
    pub fn fault(&self, asked: bool) -> Option<Cause> {
        match self.status {
            StatusCode::OK => (!self.digest.json).then_some(Cause::NotJson),
            StatusCode::NOT_MODIFIED if asked => None,
            status if status.is_client_error() || status.is_server_error() => None,
            status => Some(Cause::Unexpected(status.as_u16())),
        }
    }

    /// The same answer in memory of its own, to be kept.
    pub fn detached(&self) -> Self {
        Self { headers: detached::fields(&self.headers), body: Bytes::copy_from_slice(&self.body), ..self.clone() }
    }
}

/// What freshness needs to know of a sync-status body. All times are relative to the upstream's clock when it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncDigest {
    /// Whether the body is JSON at all.
    pub json: bool,
    /// Whether it has a list of results.
    pub results: bool,
    /// Whether some model is in a state that cannot be read, or is syncing, perhaps for the first time, without a known start.
    pub changing: bool,
    /// How long until the earliest next sync of the models that count; zero if it is overdue.
    pub next_start: Option<Duration>,
    /// The runs of the models that count.
    pub runs: Vec<Run>,
}

/// The present or last run of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What stands for the model's id.
    pub model: u32,
    /// How long it has been syncing, if it is.
    pub under_way: Option<Duration>,
    /// When its last whole run began, in seconds of the Unix epoch, and how long that took.
    pub finished: Option<(u32, Duration)>,
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};

    use super::super::detached::tests::head;
    use super::*;

    #[test]
    fn an_answer_that_is_kept_is_the_same_in_other_memory() {
        let (headers, buffer) = head(&[(CONTENT_TYPE, "application/json"), (WWW_AUTHENTICATE, "Bearer")]);
        let received = Received {
            status: StatusCode::UNAUTHORIZED,
            headers,
            body: Bytes::from_static(b"{}"),
            began: Instant::now(),
            digest: SyncDigest::default(),
            retry_at: None,
            remembered: false,
        };
        let kept = received.detached();
        assert_eq!((&kept.headers, &kept.body), (&received.headers, &received.body));
        drop(received);
        assert!(buffer.is_unique());
    }
}
