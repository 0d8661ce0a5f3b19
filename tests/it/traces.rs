//! A request's trace: taken up from the caller, handed on to Merge, and sent to a collector.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use merge_sync_proxy::demo::fault::Fault;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;

use crate::support::{ACME_TOKEN, SYNC_STATUS, Wire, ask, merge, soon, with};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that keeps the spans that it is sent.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    /// Everything as it came.
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let collector = Self { address, spans: Arc::default(), bytes: Arc::default() };
        let taking = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taking = taking.clone();
                let service = service_fn(move |request| taking.clone().take(request));
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        collector
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let body = request.into_body().collect().await?.to_bytes();
        let batch = ExportTraceServiceRequest::decode(body.clone()).expect("a batch of spans");
        self.bytes.lock().extend_from_slice(&body);
        let scopes = batch.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(Full::default()))
    }

    /// The proxy that sends its traces here.
    async fn proxy(&self, sample: f64) -> Wire {
        Wire::with(merge(), &format!("[telemetry]\notlp = 'http://{}'\nsample = {sample}", self.address)).await
    }

    /// All spans that the proxy has recorded, once they have come.
    async fn spans(&self, wire: &Wire) -> Vec<Span> {
        let traces = wire.app.ground().traces.clone();
        soon(tokio::task::spawn_blocking(move || traces.flush())).await.expect("no panic");
        self.spans.lock().clone()
    }
}

fn text(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} of {} is {other:?}", span.name),
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let [span] = named(spans, name)[..] else { panic!("not one {name}: {spans:#?}") };
    span
}

fn traced(target: &str, flags: &str) -> Request<Full<Bytes>> {
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    with(target, &[("x-account-token", "acme"), ("traceparent", &parent), ("tracestate", "team=7")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_shows_its_steps_in_the_trace_of_its_caller() {
    let collector = Collector::new().await;
    let wire = collector.proxy(0.0).await;
    soon(wire.send(traced(SYNC_STATUS, "01"))).await;
    let spans = collector.spans(&wire).await;
    assert!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE), "{spans:#?}");
    let parents = [
        ("request", PARENT.to_owned()),
        ("lookup", hex::encode(&only(&spans, "request").span_id)),
        ("fetch", hex::encode(&only(&spans, "request").span_id)),
        ("wait for budget", hex::encode(&only(&spans, "fetch").span_id)),
        ("upstream attempt", hex::encode(&only(&spans, "fetch").span_id)),
    ];
    for (name, parent) in parents {
        let span = only(&spans, name);
        assert_eq!(hex::encode(&span.parent_span_id), parent, "{name}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    assert_eq!(spans.len(), 5);
    let request = only(&spans, "request");
    for (key, value) in [
        ("proxy.result", "miss"),
        ("proxy.reason", "absent"),
        ("proxy.account", "acme"),
        ("proxy.consumer", "open"),
        ("http.route", "/api/{category}/v1/sync-status"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(text(request, key), value, "{key}");
    }
    let attempt = only(&spans, "upstream attempt");
    assert_eq!((text(attempt, "proxy.reason"), text(attempt, "proxy.upstream")), ("miss".into(), "us".into()));
    let seen = wire.merge.log().pop().expect("a call");
    assert_eq!(seen.headers["traceparent"], format!("00-{TRACE}-{}-01", hex::encode(&attempt.span_id)));
    assert_eq!(seen.headers["tracestate"], "team=7");
    let bytes = collector.bytes.lock().clone();
    assert!(!String::from_utf8_lossy(&bytes).contains(ACME_TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_linked_to_the_fetch_of_the_first_caller() {
    let collector = Collector::new().await;
    let wire = collector.proxy(1.0).await;
    let held = wire.merge.hold();
    let others = async {
        soon(wire.merge.arrived(1)).await;
        let waiting = wire.send(ask(SYNC_STATUS));
        let release = async {
            while wire.app.ground().flights.count().1 < 2 {
                tokio::task::yield_now().await;
            }
            held.release();
        };
        futures_util::future::join(waiting, release).await
    };
    soon(futures_util::future::join(wire.get(SYNC_STATUS), others)).await;
    let spans = collector.spans(&wire).await;
    let (fetch, waiting) = (only(&spans, "fetch"), only(&spans, "wait for flight"));
    let [link] = &waiting.links[..] else { panic!("one link: {waiting:#?}") };
    assert_eq!((&link.trace_id, &link.span_id), (&fetch.trace_id, &fetch.span_id));
    assert_ne!(waiting.trace_id, fetch.trace_id, "it is in its own caller's trace");
    let mut results: Vec<String> =
        named(&spans, "request").into_iter().map(|span| text(span, "proxy.result")).collect();
    results.sort_unstable();
    assert_eq!(results, ["collapsed", "miss"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_s_decision_counts_before_the_share_that_is_sampled() {
    let collector = Collector::new().await;
    let wire = collector.proxy(1.0).await;
    soon(wire.send(traced(SYNC_STATUS, "00"))).await;
    assert_eq!(collector.spans(&wire).await, []);
    let seen = wire.merge.log().pop().expect("a call");
    assert_eq!(seen.headers["traceparent"], format!("00-{TRACE}-{PARENT}-00"), "it is passed on all the same");
    soon(wire.send(with(SYNC_STATUS, &[("x-account-token", "acme"), ("traceparent", "00-nonsense")]))).await;
    let spans = collector.spans(&wire).await;
    let trace = only(&spans, "request").trace_id.clone();
    assert!(trace.len() == 16 && hex::encode(&trace) != TRACE);
    assert_eq!(only(&spans, "lookup").trace_id, trace);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_try_has_a_span_and_says_how_it_failed() {
    let collector = Collector::new().await;
    let wire = collector.proxy(1.0).await;
    wire.merge.script(Fault::Status(503)).once();
    soon(wire.get(SYNC_STATUS)).await;
    let spans = collector.spans(&wire).await;
    let tries: HashMap<String, String> = named(&spans, "upstream attempt")
        .into_iter()
        .map(|span| (text(span, "proxy.reason"), text(span, "http.response.status_code")))
        .collect();
    assert_eq!(tries, [("miss".into(), "503".into()), ("retry".into(), "200".into())].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_nothing_is_added_to_what_goes_upstream() {
    let wire = Wire::new().await;
    soon(wire.send(traced(SYNC_STATUS, "01"))).await;
    let seen = wire.merge.log().pop().expect("a call");
    assert!(!seen.headers.contains_key("traceparent") && !seen.headers.contains_key("tracestate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_changes_no_answer() {
    let wire = Wire::with(merge(), "[telemetry]\notlp = 'http://127.0.0.1:9'\nsample = 1").await;
    assert_eq!(soon(wire.get(SYNC_STATUS)).await.status, 200);
    assert!(soon(wire.get(SYNC_STATUS)).await.cache().starts_with("hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_up_the_end_for_a_moment_only() {
    // The system accepts for it.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    let server = "[server]\nlisten = ['127.0.0.1:0']\ndrain = '1s'\n";
    let traced = format!("{server}[telemetry]\notlp = 'http://{address}'\nsample = 1");
    let mut wire = Wire::with(merge(), &traced).await;
    soon(wire.get(SYNC_STATUS)).await;
    let began = Instant::now();
    assert_eq!(soon(wire.drained()).await.cut, 0);
    drop(wire);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
