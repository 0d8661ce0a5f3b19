//! TLS on a listener: handshakes, with certificates that may be replaced while it runs.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a listener needs to speak TLS. All clones are the same, so that a replacement is for every listener.
#[derive(Clone)]
pub struct Tls {
    current: Arc<ArcSwap<ServerConfig>>,
    patience: Duration,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Tls {
    /// Shakes hands by `config`, for at most `patience` each.
    pub fn new(config: Arc<ServerConfig>, patience: Duration) -> Self {
        Self { current: Arc::new(ArcSwap::new(config)), patience }
    }

    /// From now on new connections are shown other certificates; those that are open stay. Sessions cannot be resumed across
    /// this, so whoever an authority no longer vouches for does not come back by an old one.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.current.store(config);
    }

    /// Shakes hands over `stream`.
    ///
    /// # Errors
    /// If the peer does not speak TLS, shows no certificate that is accepted, or takes too long.
    pub async fn accept<I: AsyncRead + AsyncWrite + Unpin>(&self, stream: I) -> io::Result<TlsStream<I>> {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        timeout(self.patience, acceptor.accept(stream)).await?
    }
}

/// The names in the certificate that the peer has shown, its common names before its DNS names; none if it has shown none.
pub fn names<I>(stream: &TlsStream<I>) -> Box<[Box<str>]> {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some((_, certificate)) = shown.and_then(|shown| X509Certificate::from_der(shown).ok()) else {
        return Box::default();
    };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let others = certificate.subject_alternative_name().ok().flatten();
    let others = others.iter().flat_map(|others| &others.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    common.chain(others).map(Into::into).collect()
}

/// Whether the peer has chosen HTTP/2 in the handshake.
pub fn chose_http2<I>(stream: &TlsStream<I>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
