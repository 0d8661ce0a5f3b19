//! From sockets to requests: accepting, serving, and ending well.

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
use futures_util::future::{Either, join_all, select};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower::{BoxError, Service};

use super::aside::Aside;
use super::awaited::Awaited;
use super::bind::turn_away;
use super::places::{Place, Places};
use super::pulse::{Felt, Lost, Patience, Pulse};
use super::strict::{Examined, Strict};
use super::tls::{self, Tls};
use crate::domain::arrival::{Arrived, Conversation};
use crate::domain::body::Holding;
use crate::domain::peer::Peer;
use crate::domain::tally::Connections;

/// A request as it has come in.
pub type Asked = Request<Arrived<Awaited<Incoming>>>;

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

/// Above what the door lets pass, so that a head that is too large gets an answer that says so, up to this size in bytes.
const LARGEST_HEAD: usize = 96 << 10;

/// How many requests an HTTP/2 connection may have open.
const MOST_STREAMS: u32 = 256;

/// How many streams a peer may take back before they have been looked at, and how many of ours may fail: with more it plays
/// the game of rapid resets (CVE-2023-44487), and its connection ends.
const MOST_RESETS: usize = 64;

/// How long an idle peer has to take its leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long to wait before accepting again when the process is out of file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How long a listener stays open after it has begun to turn away who is new: the connections that have begun are accepted.
const LAST_IN: Duration = Duration::from_millis(100);

/// How long a connection of HTTP/1 is kept for one more request when the proxy stops, at most, if it was in use a moment ago.
/// Whoever asks again and again has that request on its way already, and reads in the answer that it was the last; it must not find
/// the connection closed instead.
const LAST_REQUEST: Duration = Duration::from_secs(3);

/// What has been quiet for this long is idle, and closed at once.
const QUIET: Duration = Duration::from_secs(1);

/// What connections are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serve,
    /// The next answer on each is its last; where that can be said without an answer, it is said now.
    Leave,
    /// Idle ones end, busy ones finish.
    Drain,
    /// All end now.
    Cut,
}

/// Serves `service` on `listeners` until `stop`, then drains, but no longer than until `cut`. All of `limits` but the numbers of
/// connections may change meanwhile.
pub async fn serve<S, B>(
    listeners: Vec<Listener>,
    service: S,
    limits: Arc<ArcSwap<Limits>>,
    connections: &Connections,
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

/// What every connection is given.
#[derive(Clone)]
struct Guide<S> {
    service: S,
    limits: Arc<ArcSwap<Limits>>,
    phase: watch::Receiver<Phase>,
    connections: Connections,
}

async fn accept<S, B>(listener: &Listener, guide: Guide<S>, places: Arc<Places>)
where
    S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    loop {
        let free = places.free().await;
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                let peer = network(address);
                if let Some(place) = places.take(free, peer.origin()) {
                    guide.clone().begin(prompt(stream), peer, place);
                }
            }),
            Listener::Tls(listener, tls) => listener.accept().await.map(|(stream, address)| {
                let peer = network(address);
                if let Some(place) = places.take(free, peer.origin()) {
                    guide.clone().begin_secured(prompt(stream), peer, tls.clone(), place);
                }
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                // Whoever may open the socket is trusted with its share of it.
                if let Some(place) = places.take(free, None) {
                    guide.clone().begin(stream, Peer::Local { uid }, place);
                }
            }),
        };
        if let Err(error) = accepted
            && !is_of_one_connection(&error)
        {
            tracing::warn!(%error, "cannot accept connections");
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

impl<S, B> Guide<S>
where
    S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn begin(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer, place: Place) {
        tokio::spawn(async move {
            self.converse(stream, peer, builder()).await;
            drop(place);
        });
    }

    fn begin_secured(mut self, stream: TcpStream, peer: Peer, tls: Tls, place: Place) {
        tokio::spawn(async move {
            let handshake = tokio::select! {
                handshake = tls.accept(stream) => handshake,
                // Nothing has been asked yet, so nothing is lost.
                _ = self.phase.wait_for(|phase| *phase != Phase::Serve) => return,
            };
            match handshake {
                Ok(stream) => {
                    self.connections.handshakes.add();
                    let chosen = builder();
                    let chosen = if tls::chose_http2(&stream) { chosen.http2_only() } else { chosen.http1_only() };
                    let peer = peer.showing(tls::names(&stream));
                    self.converse(stream, peer, chosen).await;
                }
                Err(error) => {
                    self.connections.failed_handshakes.add();
                    tracing::debug!(%error, "a TLS handshake failed");
                }
            }
            drop(place);
        });
    }

    async fn converse(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        builder: Builder<TokioExecutor>,
    ) {
        let _open = self.connections.open();
        let mut patience = self.limits.load().patience;
        let pulse = Pulse::new(patience.body);
        // One for the whole connection, not a copy for each request: services here are always ready, and wait inside their calls.
        let service = Mutex::new(self.service);
        let strict = Arc::new(Strict::default());
        let stream = strict.follow(stream);
        let answering = pulse.clone();
        let conversation = Arc::new(Conversation::new(peer));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let version = request.version();
            let busy = answering.busy(version);
            let Examined { is_last, row } = strict.examine(&mut request);
            let awaited = |body| Awaited::new(body, answering.clone());
            let request = request.map(|body| Arrived::over(conversation.clone(), row, awaited(body)));
            let answer = service.lock().call(request);
            let pulse = answering.clone();
            async move {
                let Ok(mut response) = answer.await;
                if is_last || (pulse.is_leaving() && version < Version::HTTP_2) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                // A request is being answered until the last byte of its answer.
                Ok::<_, Infallible>(response.map(|body| Holding::new(body, busy)))
            }
        });
        let io = Felt::new(TokioIo::new(stream), pulse.clone());
        let mut connection = pin!(builder.serve_connection(io, service));
        let mut aside = Aside::new(hear(pulse.clone(), patience, self.phase));
        let mut leaving = false;
        loop {
            let (word, phase) = match select(connection.as_mut(), &mut aside).await {
                Either::Left((ended, _)) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    return;
                }
                Either::Right((heard, _)) => heard,
            };
            match word {
                Word::Lost(why) if why == Lost::Overdue || leaving => return,
                Word::Lost(_) => {
                    // With HTTP/2 the peer is told, so that it sends nothing that would be lost; it is waited for a little.
                    leaving = true;
                    pulse.rest();
                    connection.as_mut().graceful_shutdown();
                    patience.idle = FAREWELL;
                }
                Word::Phase(Phase::Leave) => {
                    pulse.leave();
                    // HTTP/2 can say goodbye without an answer, and still answers what is on its way.
                    if pulse.is_framed() || pulse.is_quiet(QUIET) {
                        connection.as_mut().graceful_shutdown();
                    }
                }
                // One that has chosen HTTP/2 in its handshake and says nothing more would be waited for.
                Word::Phase(Phase::Drain) if pulse.is_silent() => return,
                Word::Phase(Phase::Drain) => connection.as_mut().graceful_shutdown(),
                Word::Phase(Phase::Serve) => {}
                Word::Phase(Phase::Cut) => return,
            }
            aside = Aside::new(hear(pulse.clone(), patience, phase));
        }
    }
}

/// What a connection hears beside its requests.
enum Word {
    /// There is no patience left with it.
    Lost(Lost),
    /// What all connections are to do from now on.
    Phase(Phase),
}

/// The next word.
async fn hear(
    pulse: Arc<Pulse>,
    patience: Patience,
    mut phase: watch::Receiver<Phase>,
) -> (Word, watch::Receiver<Phase>) {
    let word = tokio::select! {
        why = pulse.lost(patience) => Word::Lost(why),
        // Nobody is left who could say what to do.
        changed = phase.changed() => Word::Phase(changed.map_or(Phase::Cut, |()| *phase.borrow_and_update())),
    };
    (word, phase)
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The pulse keeps hyper's header timeout; see there. The number of header lines stays at hyper's own 100: for any other, hyper
    // gets and fills memory for each request, which costs more than the rest of its parser.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(LARGEST_HEAD);
    let largest = u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(largest)
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_RESETS);
    builder
}
