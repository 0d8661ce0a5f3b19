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

/// Whether the peer has chosen HTTP/2 in the handshake.
pub fn chose_http2<I>(stream: &TlsStream<I>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
