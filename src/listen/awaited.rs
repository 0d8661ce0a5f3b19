//! A request's body, and how long its sender may keep the proxy waiting for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pulse::Pulse;

/// What a second of waiting costs a slow sender, in bytes: whoever sends faster never runs out of time.
const BYTES_PER_SECOND: u32 = 1 << 10;

/// A body whose sender has so much time in all, and earns more by sending. Only waiting counts: while whoever takes the bytes is
/// slow, no time is lost. When the time is up the connection ends, and with it whatever was done for the request.
#[derive(Debug)]
pub struct Awaited<B> {
    /// `None`: there never was one.
    body: Option<B>,
    /// `None`: there is no body.
    pulse: Option<Arc<Pulse>>,
    /// Made with the first wait, so that a request without a body needs none.
    clock: Option<Box<Clock>>,
}

/// The time that is left.
#[derive(Debug)]
struct Clock {
    left: Duration,
    /// Since when nothing has come although it was waited for, and the end of that.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B: Body> Awaited<B> {
    /// `body`, which may keep us waiting for as long as `pulse` has patience with bodies.
    pub fn new(body: B, pulse: &Arc<Pulse>) -> Self {
        let pulse = (!body.is_end_stream()).then(|| pulse.clone());
        Self { body: Some(body), pulse, clock: None }
    }

    /// No body.
    pub fn none() -> Self {
        Self { body: None, pulse: None, clock: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Awaited<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Some(pulse) = &this.pulse else { return Pin::new(body).poll_frame(cx) };
        let most = pulse.patience_with_bodies();
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            let clock = this.clock.get_or_insert_with(|| Box::new(Clock { left: most, waiting: None }));
            let left = clock.left;
            let (_, end) = clock.waiting.get_or_insert_with(|| {
                let now = Instant::now();
                (now, Box::pin(sleep_until(now + left)))
            });
            if end.as_mut().poll(cx).is_ready() {
                pulse.give_up();
            }
            return Poll::Pending;
        };
        // Without a wait nothing has been lost that could be earned back.
        let Some(clock) = &mut this.clock else { return Poll::Ready(frame) };
        if let Some((since, _)) = clock.waiting.take() {
            clock.left = clock.left.saturating_sub(since.elapsed());
        }
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let earned = Duration::from_secs(data.len() as u64) / BYTES_PER_SECOND;
            clock.left = most.min(clock.left + earned);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pulse::{Lost, Patience};
    use super::*;
    use futures_util::StreamExt;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;
    use tokio::time::sleep;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Sends `pieces` of `size` bytes, one every second; how many arrive before the connection is given up.
    async fn arrived(pieces: usize, size: usize, pause: Duration) -> usize {
        let pulse = Pulse::new(PATIENCE);
        let _busy = pulse.busy(http::Version::HTTP_11, Instant::now());
        let stream = futures_util::stream::iter(0..pieces).then(move |_| async move {
            sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; size])))
        });
        let mut body = Awaited::new(StreamBody::new(Box::pin(stream)), &pulse);
        let long = Duration::from_secs(10_000);
        let mut lost = std::pin::pin!(pulse.lost(Patience { header: long, body: PATIENCE, idle: long }));
        let mut count = 0;
        loop {
            tokio::select! {
                piece = body.frame() => match piece {
                    Some(piece) => {
                        piece.expect("it cannot fail");
                        count += 1;
                        sleep(pause).await;
                    }
                    None => return count,
                },
                why = &mut lost => {
                    assert_eq!(why, Lost::Overdue);
                    return count;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribble_is_given_up_and_a_steady_sender_is_not() {
        assert_eq!(arrived(1_000, 1, Duration::ZERO).await, 20, "twenty seconds of waiting, and hardly more");
        assert_eq!(arrived(100, 1 << 10, Duration::ZERO).await, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_takes_nothing_from_the_senders_time() {
        assert_eq!(arrived(15, 1, Duration::from_secs(60)).await, 15);
    }
}
