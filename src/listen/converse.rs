//! One connection: its requests, what it hears beside them, and its end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{BoxError, Service};

use super::accept::Limits;
use super::answered::Answered;
use super::aside::Aside;
use super::awaited::Awaited;
use super::places::Place;
use super::pulse::{Felt, Lost, Patience, Pulse};
use super::strict::{Examined, Strict};
use super::tls::{self, Tls};
use crate::domain::arrival::{Arrived, Conversation};
use crate::domain::heads::Heads;
use crate::domain::peer::Peer;
use crate::domain::tally::Connections;

/// A request as it has come in.
pub type Asked = Request<Arrived<Awaited<Incoming>>>;

/// Above what the door lets pass, so that a head that is too large gets an answer that says so, up to this size in bytes.
const LARGEST_HEAD: usize = 96 << 10;

/// How many requests an HTTP/2 connection may have open.
const MOST_STREAMS: u32 = 256;

/// How many streams a peer may take back before they have been looked at, and how many of ours may fail: with more it plays
/// the game of rapid resets (CVE-2023-44487), and its connection ends.
const MOST_RESETS: usize = 64;

/// How long an idle peer has to take its leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// What has been quiet for this long is idle, and closed at once.
const QUIET: Duration = Duration::from_secs(1);

/// What connections are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serve,
    /// The next answer on each is its last; where that can be said without an answer, it is said now.
    Leave,
    /// Idle ones end, busy ones finish.
    Drain,
    /// All end now.
    Cut,
}

/// What every connection is given.
#[derive(Clone)]
pub(super) struct Guide<S> {
    pub(super) service: S,
    pub(super) limits: Arc<ArcSwap<Limits>>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) connections: Connections,
    /// What has been said before; `None` where nothing is remembered.
    pub(super) heads: Option<Heads>,
}

impl<S, B> Guide<S>
where
    S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    pub(super) fn begin(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer, place: Place) {
        tokio::spawn(async move {
            self.converse(stream, peer, builder()).await;
            drop(place);
        });
    }

    pub(super) fn begin_secured(mut self, stream: TcpStream, peer: Peer, tls: Tls, place: Place) {
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
        let service = RefCell::new(self.service);
        let strict = Arc::new(Strict::default());
        let conversation = Arc::new(Conversation::new(peer, self.heads));
        let stream = strict.follow(stream, conversation.clone());
        let answering = pulse.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (version, at) = (request.version(), Instant::now());
            let busy = answering.busy(version, at);
            let Examined { is_last, said } = strict.examine(&mut request, &conversation);
            let awaited = |body| Awaited::new(body, &answering);
            let request = request.map(|body| Arrived::over(conversation.clone(), at, said, awaited(body)));
            Answered::new(service.borrow_mut().call(request), busy, is_last, version < Version::HTTP_2)
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
