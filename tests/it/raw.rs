//! An upstream whose every byte a test decides: it reads requests as a server does and answers by a script, over TCP, TLS or HTTP/2.

pub mod certificates;

pub mod front;

pub mod http1;

pub mod http2;

pub mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// The page of an upstream that is well.
pub(crate) const PAGE: &str = "{\"next\":null,\"previous\":null,\"results\":[]}";

/// One thing that an upstream does when it is asked.
#[derive(Clone)]
pub(crate) enum Step {
    /// Sends these bytes; HTTP/2 has to know on which stream.
    Say(Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>),
    /// Sends these bytes a few at a time.
    Drip(Vec<u8>, Duration),
    /// Waits, so that what was sent before is read before the next step is noticed.
    Pause(Duration),
    /// Ends the connection.
    Close,
    /// Breaks the connection.
    Reset,
    /// Answers nothing more to this request; the connection stays.
    Hold,
    /// The connection stays and is dead.
    Freeze,
}

pub(crate) fn say(bytes: impl Into<Vec<u8>>) -> Step {
    let bytes = bytes.into();
    Step::Say(Arc::new(move |_| bytes.clone()))
}

pub(crate) fn pause() -> Step {
    Step::Pause(Duration::from_millis(50))
}

/// What becomes of a connection after the steps.
#[derive(PartialEq)]
enum After {
    Goes,
    Ends,
}

/// How a raw upstream speaks.
#[derive(Clone)]
pub(crate) enum Speech {
    /// HTTP/1.1 over TCP.
    Plain,
    /// TLS with this certificate; HTTP/2 if the client offers it and `http2` is set.
    Tls { acceptor: TlsAcceptor, http2: bool },
    /// What a connection gets at once, before any request.
    Greeting(Vec<Step>),
}

/// A raw upstream on a port of its own.
pub(crate) struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

pub(crate) struct State {
    speech: parking_lot::Mutex<Speech>,
    steps: parking_lot::Mutex<Vec<Step>>,
    /// How many of the next calls get the steps.
    ill: AtomicUsize,
    calls: AtomicUsize,
    connections: AtomicUsize,
}

impl Upstream {
    /// Gives the next `times` calls these steps, and then the page.
    pub async fn new(speech: Speech, steps: Vec<Step>, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::on(listener, speech, steps, times)
    }

    pub fn on(listener: TcpListener, speech: Speech, steps: Vec<Step>, times: usize) -> Self {
        let state = Arc::new(State {
            speech: speech.into(),
            steps: steps.into(),
            ill: times.into(),
            calls: 0.into(),
            connections: 0.into(),
        });
        let address = listener.local_addr().expect("it is bound");
        Self { address, serving: tokio::spawn(accept(listener, state.clone())), state }
    }

    /// All calls are answered with the page from now on.
    pub fn heal(&self, speech: Speech) {
        self.state.ill.store(0, Ordering::SeqCst);
        *self.state.speech.lock() = speech;
    }

    /// The next calls get these steps.
    pub fn ail(&self, steps: Vec<Step>, times: usize) {
        *self.state.steps.lock() = steps;
        self.state.ill.store(times, Ordering::SeqCst);
    }

    /// How many requests have come.
    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl State {
    /// Counts a request; its answer is the steps, or the page if there are none.
    fn arrive(&self) -> Option<Vec<Step>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let fewer = |left: usize| left.checked_sub(1);
        self.ill.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).ok().map(|_| self.steps.lock().clone())
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("it is bound");
        state.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(socket, state.clone()));
    }
}

async fn serve(socket: TcpStream, state: Arc<State>) {
    socket.set_nodelay(true).expect("it is a socket");
    let broken = Linger::of(&socket);
    let speech = state.speech.lock().clone();
    match speech {
        Speech::Plain => http1::serve(socket, &state, &broken).await,
        Speech::Greeting(steps) => {
            let mut socket = socket;
            if play(&mut socket, &steps, 0, &broken).await == After::Goes {
                std::future::pending::<()>().await;
            }
        }
        Speech::Tls { acceptor, http2 } => {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            if http2 && stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                http2::serve(stream, &state, &broken).await;
            } else {
                http1::serve(stream, &state, &broken).await;
            }
        }
    }
}

/// A handle of a socket, to have it reset when it is closed.
struct Linger(Socket);

impl Linger {
    fn of(socket: &TcpStream) -> Self {
        Self(SockRef::from(socket).try_clone().expect("a file descriptor is free"))
    }

    fn reset_at_the_end(&self) {
        self.0.set_linger(Some(Duration::ZERO)).expect("it is a socket");
    }
}

/// Does the steps of one request.
async fn play(stream: &mut impl Stream, steps: &[Step], id: u32, socket: &Linger) -> After {
    for step in steps {
        match step {
            Step::Say(bytes) => {
                if stream.write_all(&bytes(id)).await.is_err() || stream.flush().await.is_err() {
                    return After::Ends;
                }
            }
            Step::Drip(bytes, every) => {
                for few in bytes.chunks(7) {
                    if stream.write_all(few).await.is_err() || stream.flush().await.is_err() {
                        return After::Ends;
                    }
                    sleep(*every).await;
                }
            }
            Step::Pause(pause) => sleep(*pause).await,
            Step::Close => {
                let _ = stream.shutdown().await;
                return After::Ends;
            }
            Step::Reset => {
                socket.reset_at_the_end();
                return After::Ends;
            }
            Step::Hold => return After::Goes,
            Step::Freeze => std::future::pending().await,
        }
    }
    After::Goes
}
