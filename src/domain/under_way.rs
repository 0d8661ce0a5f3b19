//! Requests that end before they are answered: their client has gone, or their connection was cut. They have been made all the same,
//! so they are told of and counted like all others.

use std::pin::Pin;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::ask::Whose;

/// The future of an answer, which may be dropped before there is one.
pub trait UnderWay {
    /// What it knows of the request.
    type Known;

    /// It will not be polled any more: what it knows, unless there has been an answer.
    fn abandon(self: Pin<&mut Self>) -> Option<Self::Known>;
}

/// A request that has ended without an answer.
#[derive(Debug)]
pub struct Abandoned {
    /// Whose it was.
    pub whose: Whose,
    /// Its name, which nobody has been told.
    pub request_id: HeaderValue,
    /// When it ended.
    pub ended: Instant,
    /// How long it had been under way.
    pub took: Duration,
}

impl Abandoned {
    /// What stands for the status that nobody has been told: 499, as in the logs of other proxies.
    pub fn status() -> StatusCode {
        StatusCode::from_u16(499).expect("three digits are a status")
    }
}
