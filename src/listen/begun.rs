//! A connection of which some bytes have been read already: whoever reads on gets these first.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at a time, in bytes: as much as hyper does, so that it finds a request in one piece. One that came in two would make
/// it take twice the memory, and keep it for as long as it is there.
pub(super) const PIECE: usize = 8 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Begun<I> {
    first: Bytes,
    io: I,
}

impl<I> Begun<I> {
    /// `io`, of which `first` has been read already.
    pub(super) fn new(first: impl Into<Bytes>, io: I) -> Self {
        Self { first: first.into(), io }
    }

    /// Whether something is left that was read before.
    pub(super) fn is_ahead(&self) -> bool {
        !self.first.is_empty()
    }

    /// The same, where `read` comes before all that is still to come.
    pub(super) fn after(self, read: Bytes) -> Self {
        let first = if self.first.is_empty() { read } else { [read, self.first].concat().into() };
        Self { first, io: self.io }
    }
}

impl<I: AsyncRead + Unpin> Begun<I> {
    /// Reads what comes next, unless something is left that was read before.
    pub(super) fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            self.first = ready!(poll_piece(&mut self.io, cx, Bytes::copy_from_slice))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// What `take` makes of the bytes that come next: of none at the end of the connection.
pub(super) fn poll_piece<I: AsyncRead + Unpin, T>(
    io: &mut I,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    // Not a part of a future, which lasts as long as the connection.
    let mut room = [MaybeUninit::uninit(); PIECE];
    let mut came = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut came))?;
    Poll::Ready(Ok(take(came.filled())))
}

impl<I: AsyncRead + Unpin> AsyncRead for Begun<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let taken = this.first.len().min(buf.remaining());
        buf.put_slice(&this.first[..taken]);
        this.first.advance(taken);
        if this.first.is_empty() {
            this.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Begun<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}
