//! One connection: its requests, what it hears beside them, and its end.

use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{BoxError, Service};

use super::accept::Limits;
use super::answered::Answered;
use super::aside::Aside;
use super::awaited::Awaited;
use super::by_heart::ByHeart;
use super::felt::Felt;
use super::first::{self, Begun, Spoken};
use super::followed::Followed;
use super::places::Place;
use super::pulse::{Lost, Patience, Pulse};
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
    pub(super) fn begin(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer, place: Place) {
        tokio::spawn(self.talk(place).converse(stream, peer, None));
    }

    pub(super) fn begin_secured(&self, stream: TcpStream, peer: Peer, tls: Tls, place: Place) {
        let mut talk = self.talk(place);
        tokio::spawn(async move {
            let handshake = tokio::select! {
                handshake = tls.accept(stream) => handshake,
                // Nothing has been asked yet, so nothing is lost.
                _ = talk.phase.wait_for(|phase| *phase != Phase::Serve) => return,
            };
            match handshake {
                Ok(stream) => {
                    talk.connections.handshakes.add();
                    let chosen = if tls::chose_http2(&stream) { Spoken::Http2 } else { Spoken::Http1 };
                    let peer = peer.showing(tls::names(&stream));
                    talk.converse(stream, peer, Some(chosen)).await;
                }
                Err(error) => {
                    talk.connections.failed_handshakes.add();
                    tracing::debug!(%error, "a TLS handshake failed");
                }
            }
        });
    }

    fn talk(&self, place: Place) -> Talk<S> {
        Talk {
            service: Arc::new(Mutex::new(self.service.clone())),
            patience: self.limits.load().patience,
            phase: self.phase.clone(),
            connections: self.connections.clone(),
            heads: self.heads.clone(),
            place,
        }
    }
}

/// What one connection has of its own.
struct Talk<S> {
    /// One for the whole connection, not a copy for each request: services here are always ready, and wait inside their calls. What is
    /// large is apart, since each step of a future keeps room for what is handed to it. Nobody else ever holds the lock.
    service: Arc<Mutex<S>>,
    patience: Patience,
    phase: watch::Receiver<Phase>,
    connections: Connections,
    heads: Option<Heads>,
    place: Place,
}

impl<S, B> Talk<S>
where
    S: Service<Asked, Response = Response<B>, Error = Infallible, Future: Send> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// `chosen` is what the peer has chosen in a handshake.
    async fn converse(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        chosen: Option<Spoken>,
    ) {
        let Self { service, patience, phase, connections, heads, place: _place } = self;
        let _open = connections.open();
        let pulse = Pulse::new(patience.body);
        let (spoken, stream) = match chosen {
            Some(spoken) => (spoken, Begun::untouched(stream)),
            None => match await_first(stream, &pulse, patience, phase.clone()).await {
                Some(begun) => begun,
                None => return,
            },
        };
        let strict = Arc::new(Strict::default());
        let conversation = Arc::new(Conversation::new(peer, heads));
        let by_heart = ByHeart::new(service.clone(), conversation.clone(), pulse.clone());
        let stream = Followed::new(stream, strict.clone(), conversation.clone(), by_heart);
        let io = Felt::new(TokioIo::new(stream), pulse.clone());
        let answering = pulse.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (version, at) = (request.version(), Instant::now());
            let busy = answering.busy(version, at);
            let Examined { is_last, said } = strict.examine(&mut request, &conversation);
            let awaited = |body| Awaited::new(body, &answering);
            let request = request.map(|body| Arrived::over(conversation.clone(), at, said, awaited(body)));
            Answered::new(service.lock().call(request), busy, is_last, version < Version::HTTP_2)
        });
        match spoken {
            Spoken::Http1 => {
                let connection = pin!(http1().serve_connection(io, service));
                attend(connection, pulse, patience, phase).await;
            }
            Spoken::Http2 => {
                // There are few of them, and each of the others would have room for it.
                let mut connection = Box::pin(http2().serve_connection(io, service));
                attend(connection.as_mut(), pulse, patience, phase).await;
            }
        }
    }
}

/// Waits for a connection's first bytes; `None` if it ends before.
async fn await_first<I: AsyncRead + Unpin>(
    stream: I,
    pulse: &Arc<Pulse>,
    patience: Patience,
    mut phase: watch::Receiver<Phase>,
) -> Option<(Spoken, Begun<I>)> {
    let mut listening = pin!(first::listen(stream));
    loop {
        let (word, changed) = tokio::select! {
            begun = &mut listening => return begun.inspect_err(ended_early).ok(),
            heard = hear(pulse.clone(), patience, phase.clone()) => heard,
        };
        match word {
            Word::Phase(Phase::Serve) => {}
            Word::Phase(Phase::Leave) => pulse.leave(),
            // Nothing has been asked yet, so nothing is lost.
            Word::Phase(Phase::Drain | Phase::Cut) | Word::Lost(_) => return None,
        }
        phase = changed;
    }
}

/// Lets a connection talk until it ends, and tells it what it hears meanwhile.
async fn attend<C: GracefulConnection<Error = hyper::Error>>(
    mut connection: Pin<&mut C>,
    pulse: Arc<Pulse>,
    mut patience: Patience,
    phase: watch::Receiver<Phase>,
) {
    let mut aside = Aside::new(hear(pulse.clone(), patience, phase));
    let mut leaving = false;
    loop {
        let (word, phase) = match select(connection.as_mut(), &mut aside).await {
            Either::Left((ended, _)) => return drop(ended.inspect_err(ended_early)),
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

fn ended_early(error: &impl fmt::Display) {
    tracing::debug!(%error, "a connection ended early");
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

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The pulse keeps hyper's header timeout; see there. The number of header lines stays at hyper's own 100: for any other, hyper
    // gets and fills memory for each request, which costs more than the rest of its parser.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(LARGEST_HEAD);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let largest = u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(largest)
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_RESETS);
    builder
}
