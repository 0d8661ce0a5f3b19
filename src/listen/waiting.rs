//! An HTTP/1 connection between two requests, without hyper: what is known by heart is answered [on the way](super::followed), and needs
//! nobody else. hyper's buffers are most of what a connection takes, and it is there only while there is something to parse.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::attend::Carrier;
use super::begun::Begun;

/// See the module. Completes with `true` when something has come that is not answered on the way, or the end, and with `false` when it
/// has taken its leave.
#[derive(Debug)]
pub(super) struct Waiting<I> {
    io: Begun<I>,
    leaving: bool,
}

impl<I> Waiting<I> {
    /// `io` between two requests.
    pub(super) fn new(io: Begun<I>) -> Self {
        Self { io, leaving: false }
    }

    /// The connection, whose next bytes are those that have come.
    pub(super) fn into_inner(self) -> Begun<I> {
        self.io
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Future for Waiting<I> {
    type Output = io::Result<bool>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.leaving {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        } else {
            ready!(self.io.poll_come(cx))?;
        }
        Poll::Ready(Ok(!self.leaving))
    }
}

impl<I: Unpin> Carrier for Waiting<I> {
    /// Sends what is unsent, and ends.
    fn leave(mut self: Pin<&mut Self>) {
        self.leaving = true;
    }
}
