//! A new connection to an upstream: to its address or its forward proxy, and TLS; each step has its own time.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service, ServiceExt};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// No address, or nothing that answers at it; or the forward proxy refused.
    #[error("no connection")]
    Refused(#[source] BoxError),
    /// It took too long.
    #[error("no connection within {0:?}")]
    Late(Duration),
    /// The address answered, and TLS failed.
    #[error("no secure connection")]
    Insecure(#[source] io::Error),
    /// The address answered, and TLS took too long.
    #[error("no secure connection within {0:?}")]
    LateTls(Duration),
}

/// A name has no address, as far as the resolver knows.
#[derive(Debug, thiserror::Error)]
#[error("the name does not resolve")]
pub struct Unresolved(#[source] pub BoxError);

impl Unreached {
    /// Whether it is the peer's identity or protocol that is wrong, which no second try mends.
    pub fn is_distrust(&self) -> bool {
        let Self::Insecure(error) = self else { return false };
        error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).is_some()
    }
}

/// Bounds how long the inner connector may take.
#[derive(Clone)]
pub struct Within<C> {
    inner: C,
    patience: Duration,
}

impl<C> Within<C> {
    /// At most `patience` for one connection.
    pub fn new(patience: Duration, inner: C) -> Self {
        Self { inner, patience }
    }
}

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
{
    type Response = C::Response;
    type Error = Unreached;
    type Future = BoxFuture<'static, Result<C::Response, Unreached>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreached>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let Self { inner, patience } = self.clone();
        Box::pin(async move {
            let connection = timeout(patience, inner.oneshot(with_port(destination))).await;
            connection.map_err(|_elapsed| Unreached::Late(patience))?.map_err(|error| Unreached::Refused(error.into()))
        })
    }
}

/// The same with its port written out: a tunnel would take 443 for plain HTTP as well.
fn with_port(destination: Uri) -> Uri {
    let (Some(scheme), Some(host), None) = (destination.scheme(), destination.host(), destination.port()) else {
        return destination;
    };
    let port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let same = Uri::builder().scheme(scheme.clone()).authority(format!("{host}:{port}"));
    let path = destination.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    same.path_and_query(path).build().unwrap_or(destination)
}

/// Speaks TLS where the destination is `https`.
#[derive(Clone)]
pub struct Secure<C> {
    inner: C,
    tls: TlsConnector,
    patience: Duration,
}

impl<C> Secure<C> {
    /// TLS over the connections of `inner`, with at most `patience` for the handshake.
    pub fn new(inner: C, tls: TlsConnector, patience: Duration) -> Self {
        Self { inner, tls, patience }
    }
}

impl<C> Service<Uri> for Secure<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    type Response = MaybeHttpsStream<C::Response>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let Self { inner, tls, patience } = self.clone();
        Box::pin(async move {
            let name = (destination.scheme() == Some(&Scheme::HTTPS)).then(|| server_name(&destination)).transpose()?;
            let connection = inner.oneshot(destination).await.map_err(Into::into)?;
            let Some(name) = name else { return Ok(MaybeHttpsStream::Http(connection)) };
            let handshake = timeout(patience, tls.connect(name, TokioIo::new(connection))).await;
            let secured = handshake.map_err(|_elapsed| Unreached::LateTls(patience))?.map_err(Unreached::Insecure)?;
            Ok(MaybeHttpsStream::from(secured))
        })
    }
}

/// The name that the certificate has to be for.
fn server_name(destination: &Uri) -> Result<ServerName<'static>, BoxError> {
    let host = destination.host().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(ServerName::try_from(bare.to_owned())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_not_written_is_that_of_the_scheme() {
        for (written, full) in [
            ("https://host/path", "https://host:443/path"),
            ("http://host", "http://host:80/"),
            ("http://[::1]/", "http://[::1]:80/"),
            ("https://host:8443/", "https://host:8443/"),
        ] {
            assert_eq!(with_port(written.parse().expect("a URL")), full);
        }
    }
}
