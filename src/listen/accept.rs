//! From sockets to connections: accepting, and ending well.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::Response;
use http_body::Body;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Service};

use super::attend::Phase;
use super::bind::turn_away;
use super::converse::{Asked, Guide};
use super::places::Places;
use super::pulse::Patience;
use super::tls::Tls;
use crate::domain::heads::Heads;
use crate::domain::peer::Peer;
use crate::domain::tally::Connections;

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A TCP socket on which TLS is spoken.
    Tls(TcpListener, Tls),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Its TCP address, if it has one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The same with TLS, if it is a TCP socket: what comes over a Unix socket has not left this machine.
    #[must_use]
    pub fn secured(self, tls: &Tls) -> Self {
        match self {
            Self::Tcp(listener) => Self::Tls(listener, tls.clone()),
            other => other,
        }
    }

    fn turn_away(&self) {
        if let Self::Tcp(listener) | Self::Tls(listener, _) = self {
            turn_away(listener);
        }
    }
}

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many may be open at a time; the next wait in the kernel's queue.
    pub max_connections: usize,
    /// How many of them may come from one address; the next are closed at once.
    pub max_connections_per_peer: u32,
    /// How long they may take.
    pub patience: Patience,
    /// How long a shutdown waits for what still runs.
    pub drain: Duration,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How many connections were still busy at the end of the drain and were cut.
    pub cut: usize,
}

/// How long to wait before accepting again when the process is out of file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How often that is told.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// How long a listener stays open after it has begun to turn newcomers away: connections that have begun are still accepted.
const LAST_IN: Duration = Duration::from_millis(100);

/// How long a connection of HTTP/1 is kept for one more request when the proxy stops, at most, if it was in use a moment ago.
/// Whoever asks again and again has that request on its way already, and reads in the answer that it was the last; it must not find
/// the connection closed instead.
const LAST_REQUEST: Duration = Duration::from_secs(3);

/// Serves `service` on `listeners` until `stop`, then drains, but no longer than until `cut`. All of `limits` but the numbers of
/// connections may change meanwhile. `heads` is where `service` remembers what has been asked, if it does.
pub async fn serve<S, B>(
    listeners: Vec<Listener>,
    service: S,
    limits: Arc<ArcSwap<Limits>>,
    connections: &Connections,
    heads: Option<Heads>,
    stop: impl Future,
    cut: impl Future,
) -> Drained
where
    S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (most, most_per_peer) = {
        let limits = limits.load();
        (limits.max_connections, limits.max_connections_per_peer)
    };
    let places = Places::new(most, most_per_peer, connections.limited.clone());
    let (phase, watched) = watch::channel(Phase::Serve);
    {
        let accepting = join_all(listeners.iter().map(|listener| {
            let guide = Guide {
                service: service.clone(),
                limits: limits.clone(),
                phase: watched.clone(),
                connections: connections.clone(),
                heads: heads.clone(),
            };
            accept(listener, guide, places.clone())
        }));
        let mut accepting = pin!(accepting.fuse());
        tokio::select! {
            _ = accepting.as_mut() => {}
            _ = stop => {}
        }
        listeners.iter().for_each(Listener::turn_away);
        let _ = timeout(LAST_IN, accepting).await;
    }
    // From here on nobody comes in, so that who is told to leave finds another listener or none.
    drop(listeners);
    phase.send_replace(Phase::Leave);
    let drain = limits.load().drain;
    let gone = async {
        if timeout(LAST_REQUEST.min(drain / 2), places.all_free()).await.is_err() {
            phase.send_replace(Phase::Drain);
            places.all_free().await;
        }
    };
    let finished = tokio::select! {
        gone = timeout(drain, gone) => gone.is_ok(),
        _ = cut => false,
    };
    let cut = if finished { 0 } else { places.taken() };
    phase.send_replace(Phase::Cut);
    Drained { cut }
}

async fn accept<S, B>(listener: &Listener, guide: Guide<S>, places: Arc<Places>)
where
    S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut told = None;
    loop {
        let free = places.free().await;
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                let peer = network(address);
                if let Some(place) = places.take(free, peer.origin()) {
                    guide.begin(prompt(stream), peer, place);
                }
            }),
            Listener::Tls(listener, tls) => listener.accept().await.map(|(stream, address)| {
                let peer = network(address);
                if let Some(place) = places.take(free, peer.origin()) {
                    guide.begin_secured(prompt(stream), peer, tls.clone(), place);
                }
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                // Whoever may open the socket is trusted with its share of it.
                if let Some(place) = places.take(free, None) {
                    guide.begin(stream, Peer::Local { uid }, place);
                }
            }),
        };
        if let Err(error) = accepted
            && !is_of_one_connection(&error)
        {
            // It fails many times a second for as long as that lasts.
            if told.is_none_or(|at: Instant| at.elapsed() >= TOLD_AGAIN) {
                told = Some(Instant::now());
                let cure =
                    "if too many files are open: raise `ulimit -n` (LimitNOFILE) or lower server.max_connections";
                tracing::warn!(%error, cure, "cannot accept connections");
            }
            sleep(EXHAUSTED_PAUSE).await;
        }
    }
}

/// Who comes from this address, before anything has been shown.
fn network(address: SocketAddr) -> Peer {
    Peer::Network { address: address.ip(), certificate: Box::default() }
}

/// An answer is one write; nothing is gained by holding it back.
fn prompt(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}

/// Whether the error says that one peer has gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
