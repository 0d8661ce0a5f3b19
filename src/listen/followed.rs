//! A connection's bytes, read along on their way to hyper to see what is wrong with a head, and what has been said before. What can be
//! answered by heart is answered here and not handed on.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

use super::by_heart::ByHeart;
use super::converse::Asked;
use super::plain::SHORT;
use super::scan::Scan;
use super::strict::Strict;
use crate::domain::arrival::Conversation;
use crate::domain::heads::{Row, Said};

/// See the module.
pub(super) struct Followed<I, S> {
    io: I,
    scan: Scan,
    strict: Arc<Strict>,
    conversation: Arc<Conversation>,
    row: Row,
    by_heart: ByHeart<S>,
    /// Whether everything that hyper has written has been sent.
    is_flushed: bool,
}

impl<I, S> Followed<I, S> {
    /// `io`; `strict` is told what is found in it.
    pub(super) fn new(io: I, strict: Arc<Strict>, conversation: Arc<Conversation>, by_heart: ByHeart<S>) -> Self {
        let (scan, row) = (Scan::default(), Row::default());
        Self { io, scan, strict, conversation, row, by_heart, is_flushed: true }
    }
}

impl<I, S, B> Followed<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Asked, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    /// Reads what has come; returns how many bytes are left of it, from the front.
    fn read(&mut self, came: &mut [u8], cx: &mut Context<'_>) -> io::Result<usize> {
        let may_be_known = self.scan.is_between() && came.len() <= SHORT && came.ends_with(b"\r\n\r\n");
        let said = if may_be_known { self.conversation.hear(&mut self.row, came) } else { Said::Once };
        if let Said::Known(question) = &said {
            if self.is_flushed
                && self.strict.has_seen(self.scan.heads())
                && self.by_heart.answer(&mut self.io, cx, question)?
            {
                return Ok(0);
            }
            self.strict.hear(self.scan.pass(), said);
            return Ok(came.len());
        }
        let kept = self.scan.read(came);
        if let (Said::Twice(_), Some(number)) = (&said, self.scan.alone()) {
            self.strict.hear(number, said);
        }
        if let Some((number, fault)) = self.scan.fault() {
            self.strict.doubt(number, fault);
        }
        Ok(kept)
    }
}

impl<I, S, B> AsyncRead for Followed<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Asked, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            // Nothing is read before, so that answers are sent in the order of their requests.
            ready!(this.by_heart.poll_sent(&mut this.io, cx))?;
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let came = &mut buf.filled_mut()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let kept = this.read(came, cx)?;
            buf.set_filled(before + kept);
            // To hand on nothing would say that the connection has ended.
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite + Unpin, S> AsyncWrite for Followed<I, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.is_flushed |= flushed.is_ready();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.by_heart.poll_sent(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}
