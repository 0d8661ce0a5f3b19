//! How a request has come in: over which connection, and when.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::peer::Peer;

pin_project! {
    /// A request's body together with how the request has come. It is the body that has it, since extensions would have to be made
    /// for each request.
    #[derive(Debug)]
    pub struct Arrived<B> {
        #[pin]
        body: B,
        peer: Option<Arc<Peer>>,
        at: Instant,
    }
}

impl<B> Arrived<B> {
    /// Over a connection of `peer`, now.
    pub fn over(peer: Arc<Peer>, body: B) -> Self {
        Self { body, peer: Some(peer), at: Instant::now() }
    }

    /// From within this process, now; on behalf of `peer`, if there is one.
    pub fn within(body: B, peer: Option<Arc<Peer>>) -> Self {
        Self { body, peer, at: Instant::now() }
    }

    /// Who sent it; `None` if it came over no connection.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_deref()
    }

    /// When its head was there: the moment as of which it is answered.
    pub fn at(&self) -> Instant {
        self.at
    }
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
