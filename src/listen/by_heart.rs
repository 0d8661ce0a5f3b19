//! Answers by heart: a head that is known word for word, and whose page is at hand, is answered before hyper has seen it. Nothing is
//! parsed then, and no state machine moves; the answer takes the same way through the same service as any other.
//!
//! It speaks only where hyper is silent: between two requests, with everything sent that hyper had to send. What is not answered here
//! goes on to hyper as it came, so this need not be able to do more than what nearly all requests need.

use std::convert::Infallible;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use http::{Response, Version};
use http_body::Body;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tower::Service;

use super::awaited::Awaited;
use super::converse::Asked;
use super::pulse::{Busy, Pulse};
use super::written;
use crate::domain::arrival::{Arrived, Conversation};
use crate::domain::ask::Question;
use crate::domain::heads::Said;

/// What one connection needs to answer by heart.
pub(super) struct ByHeart<S> {
    /// The one that answers what hyper has parsed.
    service: Arc<Mutex<S>>,
    conversation: Arc<Conversation>,
    pulse: Arc<Pulse>,
    /// What the peer has not taken yet.
    unsent: Option<Box<Unsent>>,
}

/// The rest of an answer, whose request is not answered before it has been sent.
struct Unsent {
    answer: Chain<Bytes, Bytes>,
    _busy: Busy,
}

impl<S> ByHeart<S> {
    pub(super) fn new(service: Arc<Mutex<S>>, conversation: Arc<Conversation>, pulse: Arc<Pulse>) -> Self {
        Self { service, conversation, pulse, unsent: None }
    }

    /// Completes when everything has been sent.
    pub(super) fn poll_sent<I: AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(unsent) = &mut self.unsent {
            ready!(send(io, cx, &self.pulse, &mut unsent.answer))?;
            self.unsent = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Answers `question` now if it can; says whether it has. Nothing must be unsent.
    ///
    /// # Errors
    /// Those of `io`.
    pub(super) fn answer<I, B>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        question: &Arc<Question>,
    ) -> io::Result<bool>
    where
        I: AsyncWrite + Unpin,
        S: Service<Asked, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes>,
    {
        let at = Instant::now();
        // The last answer of a connection says so, which is hyper's to see to.
        let may_speak = self.pulse.is_free() && !self.pulse.is_leaving();
        let recalled = if may_speak { self.conversation.recall(question, at) } else { None };
        let Some((gist, page)) = recalled else { return Ok(false) };
        let mut busy = self.pulse.busy(Version::HTTP_11, at);
        let said = Said::Recalled(question.clone(), page);
        let request = gist.request(Arrived::over(self.conversation.clone(), at, said, Awaited::none()));
        let answering = self.service.lock().call(request);
        // The page goes along, so nothing is waited for: what becomes of it in the store meanwhile came later than the request.
        let Poll::Ready(Ok(response)) = pin!(answering).poll(cx) else { return Ok(false) };
        let (head, body) = response.into_parts();
        let Some(body) = whole(body, cx) else { return Ok(false) };
        let head = written::head(&head, body.len(), at);
        let mut answer = (&head[..]).chain(body);
        match send(io, cx, &self.pulse, &mut answer) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => {
                busy.takes_time();
                let (rest, body) = answer.into_inner();
                let answer = Bytes::copy_from_slice(rest).chain(body);
                self.unsent = Some(Box::new(Unsent { answer, _busy: busy }));
            }
        }
        Ok(true)
    }
}

/// All of a body that is there at once.
fn whole<B: Body<Data = Bytes>>(body: B, cx: &mut Context<'_>) -> Option<Bytes> {
    let length = body.size_hint().exact()?;
    if length == 0 {
        return Some(Bytes::new());
    }
    match pin!(body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok().filter(|data| data.len() as u64 == length),
        _ => None,
    }
}

/// Sends what is left of `answer`.
fn send<I: AsyncWrite + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    pulse: &Pulse,
    answer: &mut impl Buf,
) -> Poll<io::Result<()>> {
    while answer.has_remaining() {
        let mut pieces = [IoSlice::new(&[]); 2];
        let count = answer.chunks_vectored(&mut pieces);
        let written = ready!(pulse.wrote(Pin::new(&mut *io).poll_write_vectored(cx, &pieces[..count])))?;
        if written == 0 {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
        answer.advance(written);
    }
    pulse.wrote(Pin::new(io).poll_flush(cx))
}
