//! A span around every call that goes upstream, which makes what Merge does with it a part of the trace.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use tower::layer::layer_fn;
use tower::{Layer, Service};

use crate::domain::exchange::{Fetch, Reason, Target};
use crate::domain::problem::Problem;
use crate::domain::received::Received;
use crate::domain::relay::{Call, Called};
use crate::domain::trace::Trace;

/// The layer: right above the client.
pub fn layer<S>() -> impl Layer<S, Service = Attempts<S>> + Clone {
    layer_fn(|inner| Attempts { inner })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Attempts<S> {
    inner: S,
}

impl<S> Service<Fetch> for Attempts<S>
where
    S: Service<Fetch, Response = Received, Error = Problem, Future: Send + 'static>,
{
    type Response = Received;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Received, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, fetch: Fetch) -> Self::Future {
        let trace = fetch.trace.call("upstream attempt");
        describe(&trace, &fetch.target, &Method::GET, fetch.reason);
        let call = self.inner.call(Fetch { trace: trace.clone(), ..fetch });
        Box::pin(async move {
            let outcome = call.await;
            conclude(&trace, outcome.as_ref().map(|received| received.status));
            outcome
        })
    }
}

impl<S> Service<Call> for Attempts<S>
where
    S: Service<Call, Response = Called, Error = Problem, Future: Send + 'static>,
{
    type Response = Called;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Called, Problem>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let trace = call.trace.call("upstream attempt");
        describe(&trace, &call.target, &call.method, call.reason);
        for (name, value) in trace.headers() {
            call.headers.insert(name, value);
        }
        let call = self.inner.call(call);
        Box::pin(async move {
            let outcome = call.await;
            conclude(&trace, outcome.as_ref().map(|called| called.response.status()));
            outcome
        })
    }
}

fn describe(trace: &Trace, target: &Target, method: &Method, reason: Reason) {
    if trace.is_recorded() {
        trace.note("http.request.method", method.to_string());
        trace.note("server.address", target.upstream.authority.host().to_owned());
        trace.note("proxy.upstream", target.upstream.name.to_string());
        trace.note("proxy.account", target.account.label().to_owned());
        trace.note("proxy.reason", reason.label());
    }
}

fn conclude(trace: &Trace, ended: Result<StatusCode, &Problem>) {
    match ended {
        Ok(status) => {
            trace.note("http.response.status_code", i64::from(status.as_u16()));
            if status.as_u16() >= 400 {
                trace.fail("upstream-error");
            }
        }
        Err(problem) => trace.fail(problem.row().slug),
    }
    trace.end();
}
