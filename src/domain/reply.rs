//! The value that leaves the stack: a response, with what logs, metrics and traces take from it.

use std::time::Duration;

use http::{HeaderValue, Response};
use tokio::time::Instant;

use super::body::ReplyBody;
use super::ending::Ending;
use super::exchange::Outcome;
use super::under_way::Abandoned;

/// A response, and what the log wants to know of how it came about.
pub struct Reply {
    /// What the client gets.
    pub response: Response<ReplyBody>,
    /// Whose request it was, and how it ended.
    pub outcome: Outcome,
    /// The request's name, as the response says it.
    pub request_id: HeaderValue,
    /// When the response was there. Whoever wants to know looks here, since another look at the clock would cost every hit.
    pub ended: Instant,
    /// How long it has taken.
    pub took: Duration,
}

/// How a request came to its end.
pub enum End<'a> {
    /// With an answer.
    Answered(&'a Reply, Ending),
    /// Without one.
    Abandoned(&'a Abandoned),
}
