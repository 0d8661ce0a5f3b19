//! What an error of the transport means, found by its kind and not by its text.

use std::error::Error;
use std::iter;

use h2::Reason;

use super::connect::Unreached;
use super::patience::Stalled;
use crate::domain::problem::{Cause, Problem};

/// Why no answer began.
pub fn before_the_answer(error: &(dyn Error + 'static)) -> Problem {
    tracing::debug!(%error, reason = chain(error).last().map(tracing::field::display), "a call to the upstream failed");
    chain(error).find_map(known).unwrap_or(Problem::UpstreamFailed(Cause::Closed))
}

/// Why an answer that had begun did not come to its end.
pub fn within_the_answer(error: &(dyn Error + 'static)) -> Problem {
    tracing::debug!(%error, reason = chain(error).last().map(tracing::field::display), "an answer of the upstream broke off");
    match chain(error).find_map(|error| error.downcast_ref()) {
        Some(Stalled::Head | Stalled::Body) => Problem::UpstreamTimeout,
        None => Problem::UpstreamFailed(Cause::Incomplete),
    }
}

/// What one error of the chain means, if it decides.
fn known(error: &(dyn Error + 'static)) -> Option<Problem> {
    let cause = if let Some(Stalled::Head | Stalled::Body) = error.downcast_ref() {
        return Some(Problem::UpstreamTimeout);
    } else if let Some(unreached) = error.downcast_ref::<Unreached>() {
        if unreached.is_distrust() { Cause::Tls } else { Cause::Connect }
    } else if let Some(error) = error.downcast_ref::<h2::Error>() {
        http2(error)?
    } else if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        Cause::Invalid
    } else if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user) {
        // The only body that goes up is the caller's own.
        return Some(Problem::InvalidRequest("The body broke off or is malformed; send it whole.".into()));
    } else {
        return None;
    };
    Some(Problem::UpstreamFailed(cause))
}

/// An error of HTTP/2 before an answer began.
fn http2(error: &h2::Error) -> Option<Cause> {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        // A stream that a GOAWAY ends is one beyond the last that the peer has begun (RFC 9113 §6.8); the others go on.
        Some(Cause::Refused)
    } else if error.is_library() {
        // What came made no sense, so this side has ended it.
        Some(Cause::Invalid)
    } else {
        None
    }
}

/// The error and what it came from.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| (*error).source())
}
