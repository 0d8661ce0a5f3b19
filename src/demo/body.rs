//! The body of a simulated answer: whole or cut, at once or in drops.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tower::BoxError;

use super::record::InFlight;

/// A body that may arrive slowly, or not to its end.
#[derive(Debug)]
pub struct SimBody {
    pieces: VecDeque<Bytes>,
    every: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    end: End,
    sized: bool,
    /// The call is in flight until its body is gone.
    _call: InFlight,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Whole,
    /// The connection breaks.
    Cut,
    /// The same, now that the pieces had their time to go out.
    CutNow,
}

impl SimBody {
    /// `bytes` in pieces of `piece`, with a pause of `every` before each but the first. `sized` says the length beforehand.
    pub(crate) fn new(bytes: &Bytes, piece: usize, every: Duration, end: End, sized: bool, call: InFlight) -> Self {
        let starts = (0..bytes.len()).step_by(piece.max(1));
        let pieces =
            starts.map(|start| bytes.slice(start..bytes.len().min(start.saturating_add(piece.max(1))))).collect();
        Self { pieces, every, pause: None, end, sized, _call: call }
    }
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if let Some(piece) = this.pieces.pop_front() {
            if !this.every.is_zero() && !this.pieces.is_empty() {
                this.pause = Some(Box::pin(tokio::time::sleep(this.every)));
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match this.end {
            End::Whole => Poll::Ready(None),
            End::Cut => {
                // hyper drops what it has buffered when a body fails; one turn without news makes it flush first.
                this.end = End::CutNow;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            End::CutNow => {
                this.end = End::Whole;
                Poll::Ready(Some(Err("the simulated connection broke within the body".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end == End::Whole && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized {
            SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::merge::Merge;

    #[test]
    fn bodies_and_handles_go_wherever_a_server_sends_them() {
        fn anywhere<T: Send + Sync + Unpin + 'static>() {}
        anywhere::<SimBody>();
        anywhere::<Merge>();
    }
}
