//! Bodies: those that are whole, those that pass through as they come, and what is held until one has ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use pin_project_lite::pin_project;
use tower::BoxError;

/// A body that passes through as it comes.
pub type StreamBody = UnsyncBoxBody<Bytes, BoxError>;

/// The body of a response.
#[derive(Debug)]
pub enum ReplyBody {
    /// Whole and in memory, as nearly all are.
    Whole(Full<Bytes>),
    /// Passing through.
    Stream(StreamBody),
}

impl ReplyBody {
    /// A body that is whole.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }

    /// A body that passes through.
    pub fn stream(body: StreamBody) -> Self {
        Self::Stream(body)
    }

    /// Takes the body and leaves none.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::whole(Bytes::new()))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// A body that passes through, whatever its error is.
pub fn stream<B>(body: B) -> StreamBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// No body.
pub fn empty() -> StreamBody {
    stream(Empty::new())
}

pin_project! {
    /// A body that holds something until it has ended or is given up.
    pub struct Holding<B, T> {
        #[pin]
        body: B,
        held: Option<T>,
    }
}

impl<B, T> Holding<B, T> {
    /// `body`, holding `held`.
    pub fn new(body: B, held: T) -> Self {
        Self { body, held: Some(held) }
    }
}

impl<B: Body, T> Body for Holding<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            *this.held = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body without what comes after it: trailers are dropped.
#[derive(Debug)]
pub struct Untrailed<B>(pub B);

impl<B: Body + Unpin> Body for Untrailed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let body = &mut self.get_mut().0;
        loop {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) if !frame.is_data() => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_held_is_let_go_at_the_end() {
        let held = Arc::new(());
        let body = Holding::new(Full::new(Bytes::from_static(b"page")), held.clone());
        let mut body = Box::pin(body);
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(body.frame().await.is_some());
        assert_eq!(Arc::strong_count(&held), 2);
        assert!(body.frame().await.is_none());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
