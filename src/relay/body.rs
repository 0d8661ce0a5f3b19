//! Bodies that are read whole unless they are longer than is stored; then they pass as they come, with what has been read before.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tower::BoxError;

use crate::domain::body::{StreamBody, stream};
use crate::domain::problem::{Cause, Problem};

/// What a body turned out to be.
pub enum Read {
    /// All of it.
    Whole(Bytes),
    /// Longer than is stored.
    Longer(StreamBody),
}

/// Reads a body up to its verified end, unless it is longer than `most`.
pub async fn read(mut body: StreamBody, most: usize) -> Result<Read, Problem> {
    if body.size_hint().lower() > most as u64 {
        return Ok(Read::Longer(body));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::UpstreamFailed(Cause::Incomplete))?;
        let Ok(data) = frame.into_data() else { continue };
        whole.extend_from_slice(&data);
        if whole.len() > most {
            return Ok(Read::Longer(stream(Resumed { begun: Some(whole.freeze()), rest: body })));
        }
    }
    Ok(Read::Whole(whole.freeze()))
}

/// A body of which some has been read already.
struct Resumed {
    begun: Option<Bytes>,
    rest: StreamBody,
}

impl Body for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.begun.take() {
            Some(begun) => Poll::Ready(Some(Ok(Frame::data(begun)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + begun);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + begun);
        }
        hint
    }
}
