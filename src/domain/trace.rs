//! A request's place in a distributed trace (W3C Trace Context). Where nothing is traced it is nothing, and costs nothing.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, Value};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How much of a `tracestate` is passed on, in bytes: as much as should be (§3.3.1.5). It goes to Merge, where a request whose head is
/// too large would fail for all who wait for its answer.
const LONGEST_STATE: usize = 512;

/// A span that is recorded, or the place of somebody else's that is only passed on, or neither. Cheap to clone; a span ends with
/// its last clone, or when it is told to.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Node>>);

#[derive(Debug)]
struct Node {
    context: Context,
    /// `None`: this trace is not recorded here.
    tracer: Option<Arc<BoxedTracer>>,
}

impl Trace {
    /// Begins to record a request, as a part of the caller's trace if there is one.
    pub fn begin(tracer: &Arc<BoxedTracer>, name: &'static str, parent: Option<SpanContext>) -> Self {
        let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        Self::span(tracer, name, SpanKind::Server, &context, None)
    }

    /// Records nothing and passes the caller's trace on.
    pub fn passing(parent: SpanContext) -> Self {
        let context = Context::new().with_remote_span_context(parent);
        Self(Some(Arc::new(Node { context, tracer: None })))
    }

    /// A part of this one; an internal step of the proxy.
    #[must_use]
    pub fn step(&self, name: &'static str) -> Self {
        self.child(name, SpanKind::Internal, None)
    }

    /// A part of this one: a call to somebody else.
    #[must_use]
    pub fn call(&self, name: &'static str) -> Self {
        self.child(name, SpanKind::Client, None)
    }

    /// A part of this one that waits for what another trace does.
    #[must_use]
    pub fn wait(&self, name: &'static str, other: Option<&SpanContext>) -> Self {
        self.child(name, SpanKind::Internal, other)
    }

    fn child(&self, name: &'static str, kind: SpanKind, other: Option<&SpanContext>) -> Self {
        match self.0.as_deref() {
            Some(Node { context, tracer: Some(tracer) }) => Self::span(tracer, name, kind, context, other),
            _ => self.clone(),
        }
    }

    fn span(
        tracer: &Arc<BoxedTracer>,
        name: &'static str,
        kind: SpanKind,
        parent: &Context,
        other: Option<&SpanContext>,
    ) -> Self {
        let links = other.cloned().map(Link::with_context).into_iter().collect();
        let builder = tracer.span_builder(name).with_kind(kind).with_links(links);
        let context = Context::new().with_span(tracer.build_with_context(builder, parent));
        Self(Some(Arc::new(Node { context, tracer: Some(tracer.clone()) })))
    }

    /// Where others can find it.
    pub fn place(&self) -> Option<SpanContext> {
        Some(self.recorded()?.context.span().span_context().clone())
    }

    /// Whether there is neither a span nor a place.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it is recorded: only then is it worth while to find out what could be noted.
    pub fn is_recorded(&self) -> bool {
        self.recorded().is_some()
    }

    fn recorded(&self) -> Option<&Node> {
        self.0.as_deref().filter(|node| node.tracer.is_some())
    }

    /// Notes something about it.
    pub fn note(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(node) = self.recorded() {
            node.context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// It has failed.
    pub fn fail(&self, why: &'static str) {
        if let Some(node) = self.recorded() {
            node.context.span().set_status(Status::error(why));
            self.note("error.type", why);
        }
    }

    /// It is over, whoever still holds it.
    pub fn end(&self) {
        if let Some(node) = self.recorded() {
            node.context.span().end();
        }
    }

    /// The fields that make what is called a part of it.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let place = self.0.as_deref().map(|node| node.context.span().span_context().clone());
        place.into_iter().flat_map(|place| {
            let flags = place.trace_flags().to_u8();
            let parent = format!("00-{}-{}-{flags:02x}", place.trace_id(), place.span_id());
            let parent = HeaderValue::try_from(parent).ok().map(|value| (TRACEPARENT, value));
            let state = place.trace_state().header();
            let state = HeaderValue::try_from(state).ok().filter(|value| !value.is_empty());
            parent.into_iter().chain(state.map(|value| (TRACESTATE, value)))
        })
    }
}

/// The trace that a request says it is a part of; `None` if it says nothing that can be understood.
pub fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (trace_id, span_id, flags) = read(line.to_str().ok()?.trim())?;
    // Its lines are one list (Trace Context §3.3.1); a list that is broken says nothing, and the rest still counts.
    let lines = headers.get_all(TRACESTATE).iter().filter_map(|line| line.to_str().ok());
    let mut left = LONGEST_STATE;
    let members = lines.flat_map(|line| line.split(',')).take_while(|member| {
        let fits = member.len() < left;
        left = left.saturating_sub(member.len() + 1);
        fits
    });
    let state = members.collect::<Vec<_>>().join(",").parse::<TraceState>().unwrap_or_default();
    Some(SpanContext::new(trace_id, span_id, flags & TraceFlags::SAMPLED, true, state))
}

/// `version-trace_id-parent_id-flags` (§3.2): of later versions as much as this one knows.
fn read(line: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = line.splitn(5, '-');
    let mut part = |length: usize| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
    let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let (trace_id, span_id) = (TraceId::from_hex(trace_id).ok()?, SpanId::from_hex(span_id).ok()?);
    let is_valid = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
    is_valid.then_some((trace_id, span_id, TraceFlags::new(u8::from_str_radix(flags, 16).ok()?)))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn what_is_understood_goes_on_as_it_came() {
        let came = headers(&[("traceparent", GOOD), ("tracestate", "a=1,b=2")]);
        let place = parent(&came).expect("a good one");
        assert!(place.is_sampled() && place.is_remote());
        assert_eq!(Trace::passing(place).headers().collect::<HeaderMap>(), came);
        assert_eq!(Trace::default().headers().count(), 0);
        let broken_state = headers(&[("traceparent", GOOD), ("tracestate", "nonsense")]);
        assert_eq!(parent(&broken_state).expect("the rest counts").trace_state().header(), "");
    }

    #[test]
    fn of_a_list_without_end_as_much_is_passed_on_as_should_be() {
        let mut came = headers(&[("traceparent", GOOD)]);
        for number in 0..1_000 {
            let member = format!("a{number}={}", "b".repeat(20));
            came.append(TRACESTATE, HeaderValue::try_from(member).expect("ASCII"));
        }
        let state = parent(&came).expect("a good one").trace_state().header();
        assert!(state.len() <= LONGEST_STATE && state.starts_with("a0=bbb") && state.contains(",a10=bbb"), "{state}");
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for (line, sampled) in [
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what-comes", true),
        ] {
            assert_eq!(parent(&headers(&[("traceparent", line)])).expect(line).is_sampled(), sampled);
        }
    }

    #[test]
    fn what_cannot_be_understood_is_no_parent() {
        for line in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parent(&headers(&[("traceparent", line)])).is_none(), "{line}");
        }
        let mut twice = headers(&[("traceparent", GOOD)]);
        twice.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(parent(&twice).is_none());
    }
}
