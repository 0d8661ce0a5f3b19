//! One connection: its requests, what it hears beside them, and its end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::Parts;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{BoxError, Service};

use super::accept::Limits;
use super::answered::Answered;
use super::attend::{Attendant, Attended, Phase};
use super::awaited::Awaited;
use super::begun::Begun;
use super::by_heart::ByHeart;
use super::felt::Felt;
use super::first::{Opening, Spoken};
use super::followed::Followed;
use super::places::Place;
use super::pulse::{Patience, Pulse};
use super::strict::{Examined, Strict};
use super::tls::{self, Tls};
use super::waiting::Waiting;
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
        let mut attendant = Attendant { pulse: pulse.clone(), patience, phase };
        let (spoken, stream) = match chosen {
            Some(spoken) => (spoken, Begun::new(Bytes::new(), stream)),
            None => match attendant.attend(Pin::new(&mut Opening::new(stream)), false).await {
                Attended::Carried(begun) => begun,
                Attended::Still | Attended::Lost => return,
            },
        };
        let strict = Arc::new(Strict::default());
        let conversation = Arc::new(Conversation::new(peer, heads));
        let by_heart = ByHeart::new(service.clone(), conversation.clone(), pulse.clone());
        let stream = Followed::new(stream, strict.clone(), conversation.clone(), by_heart);
        let io = Felt::new(stream, pulse.clone());
        let mut service = service_fn(move |mut request: Request<Incoming>| {
            let (version, at) = (request.version(), Instant::now());
            let busy = pulse.busy(version, at);
            let Examined { is_last, said } = strict.examine(&mut request, &conversation);
            let awaited = |body| Awaited::new(body, &pulse);
            let request = request.map(|body| Arrived::over(conversation.clone(), at, said, awaited(body)));
            Answered::new(service.lock().call(request), busy, is_last, version < Version::HTTP_2)
        });
        if spoken == Spoken::Http2 {
            let mut connection = Box::pin(http2().serve_connection(TokioIo::new(io), service));
            attendant.attend(connection.as_mut(), false).await;
            return;
        }
        let mut waiting = Waiting::new(Begun::new(Bytes::new(), io));
        while let Attended::Carried(true) = attendant.attend(Pin::new(&mut waiting), false).await {
            let io = TokioIo::new(waiting.into_inner());
            let mut connection = Box::new(http1().serve_connection(io, service));
            let Attended::Still = attendant.attend(Pin::new(&mut *connection), true).await else { return };
            let Parts { io, read_buf, service: same, .. } = connection.into_parts();
            service = same;
            let begun = io.into_inner().after(read_buf);
            if begun.is_ahead() {
                // The next request began while the last was being answered.
                attendant.pulse.bytes_came();
            }
            waiting = Waiting::new(begun);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::places::Places;
    use super::*;
    use http_body_util::{BodyExt, Full};
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::runtime::Builder;
    use tokio::time::sleep;

    /// Longer than a connection has to be idle to be still.
    const REST: Duration = Duration::from_secs(2);

    /// Says what it was asked.
    async fn echo(asked: Asked) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = asked.into_parts();
        let body = body.collect().await.expect("all of it comes").to_bytes();
        Ok(Response::new(Full::from(format!("{} {} {}\n", parts.method, parts.uri.path(), body.len()))))
    }

    async fn talk(
        phase: watch::Receiver<Phase>,
    ) -> Talk<impl Service<Asked, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>> {
        let places = Places::new(1, 1, Connections::default().limited);
        let hour = Duration::from_secs(3_600);
        Talk {
            service: Arc::new(Mutex::new(tower::service_fn(echo))),
            patience: Patience { header: hour, body: hour, idle: hour },
            phase,
            connections: Connections::default(),
            heads: None,
            place: places.take(places.free().await, None).expect("one is free"),
        }
    }

    /// All that is answered to what is said with a rest after each piece.
    async fn answers(pieces: Vec<Vec<u8>>) -> Vec<String> {
        let (near, mut far) = duplex(1 << 20);
        let (_sender, phase) = watch::channel(Phase::Serve);
        let talking = tokio::spawn(talk(phase).await.converse(near, Peer::Local { uid: None }, None));
        for piece in pieces {
            far.write_all(&piece).await.expect("it is open");
            sleep(REST).await;
        }
        let mut said = String::new();
        far.read_to_string(&mut said).await.expect("it can be read");
        talking.await.expect("it ends by itself");
        let bodies = said.split_terminator('\n').filter(|line| !line.ends_with('\r'));
        bodies.map(str::to_owned).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn wherever_a_peer_rests_it_gets_the_same_answers(
            bodies in prop::collection::vec(prop::option::of(0..20_000_usize), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            between in prop::collection::vec(any::<bool>(), 6),
        ) {
            let (mut sent, mut expected, mut rests) = (Vec::new(), Vec::new(), Vec::new());
            for (number, (body, rests_then)) in bodies.into_iter().zip(between).enumerate() {
                let (method, length) = (if body.is_some() { "POST" } else { "GET" }, body.unwrap_or(0));
                let head = format!("{method} /{number} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
                sent.extend_from_slice(head.as_bytes());
                sent.extend(vec![b'a'; length]);
                expected.push(format!("{method} /{number} {length}"));
                rests.extend(rests_then.then_some(sent.len()));
            }
            sent.extend_from_slice(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            expected.push("GET /last 0".to_owned());
            rests.extend(cuts.iter().map(|cut| cut.index(sent.len())));
            rests.sort_unstable();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for to in rests.into_iter().chain([sent.len()]) {
                pieces.push(sent[from..to].to_vec());
                from = to;
            }
            let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
            prop_assert_eq!(runtime.block_on(answers(pieces)), expected);
        }
    }
}
