//! How an upstream is reached: addresses, TLS, forward proxies, and the connections that are kept.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use hyper_rustls::ConfigBuilderExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;
use tower::{BoxError, ServiceExt};

use super::connect::{Secure, Unresolved, Within};
use super::pool::{Kept, Pool};
use super::ways::{Transport, transport};
use crate::domain::access::Upstream;
use crate::domain::body::StreamBody;
use crate::domain::rules::{ClientOptions, ForwardProxy, Http2};

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

/// How long an HTTP/2 connection with calls on it may be silent before it is asked for a sign of life, and how long that may take.
/// All calls share it, so a dead one would fail them all until the kernel gives it up.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What an address of the preferred family may take before the other family is tried as well: as RFC 8305 §8 recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// The transport for `upstream`.
///
/// # Errors
/// If its certificates cannot be used.
pub fn connect(upstream: &Upstream) -> Result<Transport, TransportError> {
    connect_by(upstream, GaiResolver::new())
}

/// The same, with addresses from `resolver`.
///
/// # Errors
/// Likewise.
pub fn connect_by<R>(upstream: &Upstream, resolver: R) -> Result<Transport, TransportError>
where
    R: tower::Service<Name, Response: Iterator<Item = SocketAddr> + Send, Error: Into<BoxError>, Future: Send>,
    R: Clone + Send + Sync + 'static,
{
    let options = &upstream.client;
    let resolver = resolver.map_err(|error| Unresolved(error.into()));
    let tcp = addresses(resolver, options.connect_timeout);
    let tls = TlsConnector::from(Arc::new(tls(upstream)?));
    Ok(match options.proxy.clone() {
        Some(ForwardProxy { url, authorization }) => {
            let mut tunnel = Tunnel::new(url, tcp);
            if let Some(authorization) = authorization {
                tunnel = tunnel.with_auth(authorization.expose().clone());
            }
            over(tunnel, tls, options)
        }
        None => over(tcp, tls, options),
    })
}

/// Tries the addresses of a name one after the other, both families side by side (RFC 8305), such that the last of each has its
/// share of `patience` although the first may not answer.
fn addresses<R>(resolver: R, patience: Duration) -> HttpConnector<R> {
    let head_start = HEAD_START.min(patience / 4);
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_happy_eyeballs_timeout(Some(head_start));
    tcp.set_connect_timeout(Some(patience - head_start));
    tcp
}

fn over<C>(connector: C, tls: TlsConnector, options: &ClientOptions) -> Transport
where
    C: tower::Service<http::Uri, Future: Send, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let reach = Within::new(options.connect_timeout, connector);
    let reach = Secure::new(reach, tls, options.tls_timeout).map_response(Kept::new);
    let client = move || {
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(HEARTBEAT)
            .http2_keep_alive_timeout(HEARTBEAT)
            .build::<_, StreamBody>(reach.clone())
    };
    transport(Pool::new(options.max_connection_age, options.headers_timeout, client))
}

fn tls(upstream: &Upstream) -> Result<ClientConfig, TransportError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let options = &upstream.client;
    let mut config = match &options.ca_file {
        // Nobody's certificate will be asked for, and to read the platform's takes a while.
        _ if upstream.scheme == Scheme::HTTP => {
            builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        }
        None => builder.try_with_platform_verifier()?.with_no_client_auth(),
        Some(path) => {
            let extra = certificates(path)?;
            let verifier = Verifier::new_with_extra_roots(extra, builder.crypto_provider().clone())?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    };
    config.alpn_protocols = match options.http2 {
        Http2::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Http2::Off => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let unreadable = |reason: String| TransportError::CertificateFile { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("it holds no certificate".into()));
    }
    // Otherwise it would seem to be the platform's that cannot be used.
    let mut trusted = RootCertStore::empty();
    certificates.iter().try_for_each(|one| trusted.add(one.clone())).map_err(|error| unreadable(error.to_string()))?;
    Ok(certificates)
}
