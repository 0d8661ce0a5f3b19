//! How an upstream is reached: connections, TLS, forward proxies.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::client::{Transport, transport};
use crate::domain::access::Upstream;
use crate::domain::body::StreamBody;
use crate::domain::rules::{ClientOptions, Http2};

/// Why an upstream cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The extra certificates cannot be read.
    #[error("cannot read the certificates in {path}: {reason}")]
    CertificateFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The platform's certificates cannot be used.
    #[error("cannot use the platform's certificates: {0}")]
    Platform(#[from] rustls::Error),
}

/// Shorter than what servers usually grant, so that a connection is given up here before it is closed under a request.
const IDLE: Duration = Duration::from_secs(20);

/// The transport for `upstream`.
///
/// # Errors
/// If its certificates cannot be used.
pub fn connect(upstream: &Upstream) -> Result<Transport, TransportError> {
    let options = &upstream.client;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(options.connect_timeout));
    let tls = tls(options)?;
    Ok(match proxy(upstream) {
        Some((url, authorization)) => {
            let mut tunnel = Tunnel::new(url, tcp);
            if let Some(authorization) = authorization {
                tunnel = tunnel.with_auth(authorization);
            }
            over(tunnel, tls, options)
        }
        None => over(tcp, tls, options),
    })
}

/// The forward proxy to go through: the configured one, else the environment's.
fn proxy(upstream: &Upstream) -> Option<(http::Uri, Option<http::HeaderValue>)> {
    if let Some(proxy) = &upstream.client.proxy {
        return Some((proxy.url.clone(), proxy.authorization.as_ref().map(|value| value.expose().clone())));
    }
    let target = http::Uri::builder()
        .scheme(upstream.scheme.clone())
        .authority(upstream.authority.clone())
        .path_and_query("/")
        .build()
        .ok()?;
    let found = Matcher::from_env().intercept(&target)?;
    Some((found.uri().clone(), found.basic_auth().cloned()))
}

fn over<C>(connector: C, tls: ClientConfig, options: &ClientOptions) -> Transport
where
    C: tower::Service<http::Uri, Future: Send + Unpin, Error: Into<tower::BoxError>> + Clone + Send + Sync + 'static,
    C::Response:
        hyper_util::client::legacy::connect::Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let https = match options.http2 {
        Http2::Auto => https.enable_all_versions().wrap_connector(connector),
        Http2::Off => https.enable_http1().wrap_connector(connector),
    };
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build::<_, StreamBody>(https);
    transport(client)
}

fn tls(options: &ClientOptions) -> Result<ClientConfig, TransportError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let Some(path) = &options.ca_file else {
        return Ok(builder.try_with_platform_verifier()?.with_no_client_auth());
    };
    let unreadable = |reason: String| TransportError::CertificateFile { path: path.clone(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("it holds no certificate".into()));
    }
    let verifier =
        rustls_platform_verifier::Verifier::new_with_extra_roots(certificates, builder.crypto_provider().clone())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}
