//! Where recorded traces go: to a collector, as OTLP over HTTP, in batches and from a thread of their own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use rustls::ClientConfig;
use rustls::crypto::ring;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tower::BoxError;

use crate::domain::trace::{self, Trace};

const NAME: &str = env!("CARGO_PKG_NAME");

/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the end of the process waits for it: no collector is worth a process that is killed since it does not end.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// The longest answer of a collector that is read, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// Decides which requests are recorded, and sends what was. Cheap to clone; the default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    tracer: Arc<BoxedTracer>,
    provider: SdkTracerProvider,
    sample: f64,
}

/// Why traces cannot be sent at all.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent: {0}")]
pub struct ExportError(String);

impl ExportError {
    fn of(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl Traces {
    /// Records a share of `sample` of the requests that are no part of a trace, and all that are part of one that is recorded;
    /// sends them to the collector at `endpoint`.
    ///
    /// # Errors
    /// If the platform has no certificates, or no thread for it.
    pub fn start(endpoint: &Uri, sample: f64) -> Result<Self, ExportError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.to_string())
            .with_timeout(PATIENCE)
            .with_http_client(Post::new(endpoint)?)
            .build()
            .map_err(ExportError::of)?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name(NAME).with_attribute(version).build())
            // Whether a request is recorded has been decided before it gets a span.
            .with_sampler(Sampler::AlwaysOn)
            .with_batch_exporter(exporter)
            .build();
        let tracer = Arc::new(BoxedTracer::new(Box::new(provider.tracer(NAME))));
        Ok(Self(Some(Arc::new(Recorder { tracer, provider, sample }))))
    }

    /// The trace of a request with these headers.
    pub(super) fn of(&self, headers: &HeaderMap) -> Trace {
        let Some(Recorder { tracer, sample, .. }) = self.0.as_deref() else { return Trace::default() };
        let parent = trace::parent(headers);
        match parent {
            Some(parent) if !parent.is_sampled() => Trace::passing(parent),
            None if fastrand::f64() >= *sample => Trace::default(),
            parent => Trace::begin(tracer, "request", parent),
        }
    }

    /// Sends what has been recorded and not sent yet, unless that takes too long, and records no more. Never call it where requests are
    /// served.
    pub fn finish(&self) {
        if let Some(recorder) = &self.0 {
            let _ = recorder.provider.shutdown_with_timeout(LAST_SPANS);
        }
    }

    /// Sends what has been recorded. It takes its time; never call it where requests are served.
    pub fn flush(&self) {
        if let Some(recorder) = &self.0 {
            let _ = recorder.provider.force_flush();
        }
    }
}

/// Sends one batch.
struct Post {
    /// What exports has a thread of its own and no runtime there.
    runtime: Runtime,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    is_failing: AtomicBool,
}

impl Post {
    fn new(endpoint: &Uri) -> Result<Self, ExportError> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(ConfigBuilderExt::try_with_platform_verifier)
            .map_err(ExportError::of)?
            .with_no_client_auth();
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build().map_err(ExportError::of)?,
            // Batches are seconds apart, and between them nobody would notice that a connection has been closed.
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https),
            endpoint: endpoint.clone(),
            is_failing: AtomicBool::new(false),
        })
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        let response = self.client.request(request.map(Full::new)).await?;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes()))
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.runtime.block_on(async { timeout(PATIENCE, self.post(request)).await });
        let sent = sent.map_err(BoxError::from).flatten();
        let is_failing = !matches!(&sent, Ok(response) if response.status().is_success());
        // Told once when it begins and once when it ends, not with every batch.
        if self.is_failing.swap(is_failing, Ordering::Relaxed) != is_failing {
            let endpoint = &self.endpoint;
            match &sent {
                Ok(response) if is_failing => {
                    tracing::warn!(%endpoint, status = response.status().as_u16(), "the collector refuses traces");
                }
                Ok(_) => tracing::info!(%endpoint, "traces are being sent again"),
                Err(error) => tracing::warn!(%endpoint, %error, "traces cannot be sent"),
            }
        }
        sent
    }
}
