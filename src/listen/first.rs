//! Which version of HTTP a connection speaks. Where no handshake has said it, its first bytes do: HTTP/2 begins with a preface that
//! no request can begin with (RFC 9113 §3.4).

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first bytes of HTTP/2 when both know that it is spoken.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is taken up to find that out, in bytes: what hyper reads at a time. It finds the first request in one piece then. One that
/// came in two would make it take twice the memory, and keep it for as long as the connection is open.
const FIRST: usize = 8 << 10;

/// A version of HTTP, as far as it matters to who reads a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1.1 or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A connection of which some bytes have been taken up; they come first again.
#[derive(Debug)]
pub(super) struct Begun<I> {
    first: Bytes,
    io: I,
}

impl<I> Begun<I> {
    /// A connection of which nothing has been taken up.
    pub(super) fn untouched(io: I) -> Self {
        Self { first: Bytes::new(), io }
    }
}

/// Waits for the first bytes of `io`, and says what they speak. Whoever ends before that has been said speaks HTTP/1.
///
/// # Errors
/// Those of `io`.
pub(super) async fn listen<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Spoken, Begun<I>)> {
    let mut first = Vec::new();
    let spoken = poll_fn(|cx| {
        loop {
            // Not a part of the future, which lasts as long as the connection.
            let mut room = [MaybeUninit::uninit(); FIRST];
            let mut came = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut io).poll_read(cx, &mut came))?;
            let has_ended = came.filled().is_empty();
            first.extend_from_slice(came.filled());
            let known = first.len().min(PREFACE.len());
            if has_ended || first[..known] != PREFACE[..known] {
                return Poll::Ready(Ok::<_, io::Error>(Spoken::Http1));
            }
            if known == PREFACE.len() {
                return Poll::Ready(Ok(Spoken::Http2));
            }
        }
    });
    let spoken = spoken.await?;
    Ok((spoken, Begun { first: first.into(), io }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::runtime::Builder;

    /// What is said of `pieces` that come one by one, and all that can be read afterwards.
    async fn said(pieces: Vec<Vec<u8>>) -> (Spoken, Vec<u8>) {
        let (near, mut far) = duplex(1 << 20);
        let sent = tokio::spawn(async move {
            for piece in pieces {
                far.write_all(&piece).await.expect("there is room");
                tokio::task::yield_now().await;
            }
        });
        let (spoken, mut begun) = listen(near).await.expect("it can be read");
        let mut read = Vec::new();
        begun.read_to_end(&mut read).await.expect("it can be read");
        sent.await.expect("everything was sent");
        (spoken, read)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_only_a_whole_preface_is_http2(
            shown in 0..=PREFACE.len(),
            rest in prop::collection::vec(any::<u8>(), 0..3 * FIRST),
            cuts in prop::collection::vec(1..64_usize, 0..8),
        ) {
            let mut sent = PREFACE[..shown].to_vec();
            sent.extend(rest);
            let (mut pieces, mut left) = (Vec::new(), &sent[..]);
            for cut in cuts {
                let (piece, after) = left.split_at(cut.min(left.len()));
                pieces.push(piece.to_vec());
                left = after;
            }
            pieces.push(left.to_vec());
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            let (spoken, read) = runtime.block_on(said(pieces));
            prop_assert_eq!(spoken == Spoken::Http2, sent.starts_with(PREFACE));
            prop_assert_eq!(read, sent);
        }
    }
}
