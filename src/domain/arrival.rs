//! How a request has come in: over which connection, when, and whether the connection has said the same before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::ask::Question;
use super::peer::Peer;

/// A connection as its requests know it.
#[derive(Debug)]
pub struct Conversation {
    peer: Peer,
    /// What the present [row](Arrived::row) of requests asks, once the first of them has been admitted.
    asked: Mutex<Option<(u64, Arc<Question>)>>,
}

impl Conversation {
    /// A connection of `peer` that has said nothing yet.
    pub fn new(peer: Peer) -> Self {
        Self { peer, asked: Mutex::default() }
    }
}

pin_project! {
    /// A request's body together with how the request has come. It is the body that has it, since extensions would have to be made
    /// for each request.
    #[derive(Debug)]
    pub struct Arrived<B> {
        #[pin]
        body: B,
        over: Option<Arc<Conversation>>,
        at: Instant,
        row: Option<u64>,
    }
}

impl<B> Arrived<B> {
    /// Over a connection, now; for `row` see [`Arrived::row`].
    pub fn over(conversation: Arc<Conversation>, row: Option<u64>, body: B) -> Self {
        Self { body, over: Some(conversation), at: Instant::now(), row }
    }

    /// From within this process, now; on behalf of `peer`, if there is one.
    pub fn within(peer: Option<Peer>, body: B) -> Self {
        Self { body, over: peer.map(|peer| Arc::new(Conversation::new(peer))), at: Instant::now(), row: None }
    }

    /// Who sent it; `None` if it came over no connection.
    pub fn peer(&self) -> Option<&Peer> {
        Some(&self.over.as_deref()?.peer)
    }

    /// When its head was there: the moment as of which it is answered.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// The row of requests that it belongs to whose heads are the same, byte for byte; `None` if it is the first of a row.
    pub fn row(&self) -> Option<u64> {
        self.row
    }

    /// What its row asks, if that has been remembered and was admitted by this edition of the rules.
    pub fn question(&self, edition: u64) -> Option<Arc<Question>> {
        let row = self.row?;
        let asked = self.over.as_deref()?.asked.lock();
        let (_, question) = asked.as_ref().filter(|(of, question)| *of == row && question.edition == edition)?;
        Some(question.clone())
    }

    /// Remembers what its row asks.
    pub fn remember(&self, question: &Arc<Question>) {
        if let (Some(over), Some(row)) = (&self.over, self.row) {
            *over.asked.lock() = Some((row, question.clone()));
        }
    }
}

/// The same value in memory of its own. hyper reads on while an answer is made, and as long as somebody holds a part of a head it has
/// to take new memory for the next.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("a value is one")
}

impl<B: Body> Body for Arrived<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
