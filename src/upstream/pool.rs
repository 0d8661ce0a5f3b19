//! The connections to one upstream that are kept for the next call, and when they are given up.
//!
//! They are given up all together, by beginning a new pool; a call under way ends on the connection that it has. That is done when
//! the pool has reached its age, since a connection knows nothing of a change in DNS, and when one that had served before turned
//! out to be dead: what cut it, a restart or a middlebox that forgets, has most often cut its neighbours as well. So the next try
//! is sure to go out on a connection that is younger than the failure. An HTTP/2 connection on which an answer is overdue may be
//! dead too, and would fail everybody who shares it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connect, Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::domain::body::StreamBody;

/// Makes the client of a new pool.
type Make<C> = dyn Fn() -> Client<C, StreamBody> + Send + Sync;

/// Sends requests over connections that are kept. Cheap to clone; all clones share the connections.
pub struct Pool<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<C> {
    make: Box<Make<C>>,
    max_age: Duration,
    patience: Duration,
    generation: ArcSwap<Generation<C>>,
}

/// Connections that begin and end together.
struct Generation<C> {
    client: Client<C, StreamBody>,
    retire_at: Instant,
}

impl<C: 'static> Generation<C> {
    /// Begins now. Its age is up to a fifth below `max_age`, so that replicas do not all connect anew at once.
    fn new(make: &Make<C>, max_age: Duration) -> Arc<Self> {
        let age = max_age.mul_f32(1.0 - fastrand::f32() / 5.0);
        Arc::new(Self { client: make(), retire_at: Instant::now() + age })
    }
}

impl<C: 'static> Pool<C> {
    /// Connections that are at most `max_age` old when a call begins on them, and that answer within `patience`; `make` makes
    /// their client, more than once.
    pub fn new(
        max_age: Duration,
        patience: Duration,
        make: impl Fn() -> Client<C, StreamBody> + Send + Sync + 'static,
    ) -> Self {
        let generation = ArcSwap::new(Generation::new(&make, max_age));
        Self { shared: Arc::new(Shared { make: Box::new(make), max_age, patience, generation }) }
    }

    fn current(&self) -> Arc<Generation<C>> {
        let generation = self.shared.generation.load_full();
        if Instant::now() < generation.retire_at {
            return generation;
        }
        self.renew(&generation);
        self.shared.generation.load_full()
    }

    /// Begins a new generation, unless somebody has done so already.
    fn renew(&self, old: &Arc<Generation<C>>) {
        let Shared { make, max_age, generation, .. } = &*self.shared;
        generation.compare_and_swap(old, Generation::new(make, *max_age));
    }
}

impl<C> Service<Request<StreamBody>> for Pool<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<StreamBody>) -> Self::Future {
        let pool = self.clone();
        Box::pin(async move {
            let generation = pool.current();
            let waiting = Waiting { pool: &pool, generation: &generation, began: Instant::now(), answered: false };
            let outcome = generation.client.request(request).await;
            waiting.answered();
            match &outcome {
                Ok(response) => response.extensions().get::<Served>().into_iter().for_each(Served::note),
                Err(error) if died_in_service(error) => pool.renew(&generation),
                Err(_) => {}
            }
            outcome
        })
    }
}

/// A call without an answer; dropping it says that it has been given up.
struct Waiting<'a, C: 'static> {
    pool: &'a Pool<C>,
    generation: &'a Arc<Generation<C>>,
    began: Instant,
    answered: bool,
}

impl<C> Waiting<'_, C> {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl<C> Drop for Waiting<'_, C> {
    fn drop(&mut self) {
        // Who has left early says nothing of the upstream.
        if !self.answered && self.began.elapsed() >= self.pool.shared.patience {
            self.pool.renew(self.generation);
        }
    }
}

/// Whether a connection has died that had answered a call before.
fn died_in_service(error: &Error) -> bool {
    let mut extensions = Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extensions);
    }
    extensions.get::<Served>().is_some_and(Served::is_noted)
}

/// Whether a connection has answered a call.
#[derive(Clone, Default)]
struct Served(Arc<AtomicBool>);

impl Served {
    fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pin_project! {
    /// A connection that remembers whether it has answered a call.
    pub struct Kept<T> {
        #[pin]
        io: T,
        served: Served,
    }
}

impl<T> Kept<T> {
    /// A new connection.
    pub fn new(io: T) -> Self {
        Self { io, served: Served::default() }
    }
}

impl<T: Connection> Connection for Kept<T> {
    fn connected(&self) -> Connected {
        self.io.connected().extra(self.served.clone())
    }
}

impl<T: Read> Read for Kept<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_read(cx, buffer)
    }
}

impl<T: Write> Write for Kept<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(cx, slices)
    }
}
