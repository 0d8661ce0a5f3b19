//! A span around every request that is recorded.

use http::{HeaderValue, Request, StatusCode};

use super::export::Traces;
use crate::domain::ask::Whose;
use crate::domain::ending::Ending;
use crate::domain::reply::Reply;
use crate::domain::trace::Trace;
use crate::domain::under_way::Abandoned;

/// Takes up the trace of who sent `request`, or begins one, and hands it on among the request's extensions.
pub fn begin<B>(traces: &Traces, request: &mut Request<B>) -> Trace {
    let trace = traces.of(request.headers());
    if !trace.is_off() {
        trace.note("http.request.method", request.method().to_string());
        request.extensions_mut().insert(trace.clone());
    }
    trace
}

/// Says in the trace how it has ended. What goes on without the caller, such as a refresh, may still hold the trace.
pub fn end(trace: &Trace, reply: &Reply, ending: Ending) {
    if trace.is_recorded() {
        describe(trace, &reply.outcome.whose, reply.response.status(), &reply.request_id, ending);
        trace.end();
    }
}

/// Says in the trace that it has ended without an answer.
pub fn abandon(trace: &Trace, abandoned: &Abandoned) {
    if trace.is_recorded() {
        describe(trace, &abandoned.whose, Abandoned::status(), &abandoned.request_id, Ending::Abandoned);
        trace.end();
    }
}

fn describe(trace: &Trace, whose: &Whose, status: StatusCode, request_id: &HeaderValue, ending: Ending) {
    trace.note("http.response.status_code", i64::from(status.as_u16()));
    trace.note("proxy.result", ending.result());
    if !ending.reason().is_empty() {
        trace.note("proxy.reason", ending.reason());
    }
    for (key, name) in [
        ("proxy.consumer", whose.caller().map(|caller| &*caller.consumer.name)),
        ("proxy.account", whose.account().map(|account| account.label())),
        ("http.route", whose.route().map(|route| &**route)),
        ("proxy.request_id", request_id.to_str().ok()),
    ] {
        if let Some(name) = name {
            trace.note(key, name.to_owned());
        }
    }
    if status.is_server_error() {
        trace.fail(if ending.reason().is_empty() { "upstream-error" } else { ending.reason() });
    }
}
