//! Which version of HTTP a connection speaks. Where no handshake has said it, its first bytes do: HTTP/2 begins with a preface that
//! no request can begin with (RFC 9113 §3.4).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncRead;

use super::attend::Carrier;
use super::begun::{Begun, poll_piece};

/// The first bytes of HTTP/2 when both know that it is spoken.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A version of HTTP, as far as it matters to whoever reads a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1.1 or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A connection of which nothing is known yet. Completes when its first bytes have said which version it speaks; one that ends before
/// that counts as HTTP/1. It must not be polled after that.
#[derive(Debug)]
pub(super) struct Opening<I> {
    first: Vec<u8>,
    /// Until it completes.
    io: Option<I>,
}

impl<I> Opening<I> {
    /// Listens to `io`.
    pub(super) fn new(io: I) -> Self {
        Self { first: Vec::new(), io: Some(io) }
    }
}

impl<I: AsyncRead + Unpin> Future for Opening<I> {
    type Output = io::Result<(Spoken, Begun<I>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { first, io } = &mut *self;
        loop {
            let listening = io.as_mut().expect("it has not completed");
            let take = |came: &[u8]| {
                first.extend_from_slice(came);
                came.is_empty()
            };
            let has_ended = ready!(poll_piece(listening, cx, take))?;
            let known = first.len().min(PREFACE.len());
            let spoken = match first[..known] == PREFACE[..known] {
                true if known == PREFACE.len() => Spoken::Http2,
                true if !has_ended => continue,
                _ => Spoken::Http1,
            };
            let io = io.take().expect("it has not completed");
            return Poll::Ready(Ok((spoken, Begun::new(std::mem::take(first), io))));
        }
    }
}

impl<I> Carrier for Opening<I> {
    /// Who is asked to leave has said nothing yet, and what it says next is its last word.
    fn leave(self: Pin<&mut Self>) {}
}

#[cfg(test)]
mod tests {
    use super::super::begun::PIECE;
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
        let (spoken, mut begun) = Opening::new(near).await.expect("it can be read");
        let mut read = Vec::new();
        begun.read_to_end(&mut read).await.expect("it can be read");
        sent.await.expect("everything was sent");
        (spoken, read)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_only_a_whole_preface_is_http2(
            shown in 0..=PREFACE.len(),
            rest in prop::collection::vec(any::<u8>(), 0..3 * PIECE),
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
