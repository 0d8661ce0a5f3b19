//! An answer's body on its way to its peer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::pulse::Busy;

/// How much of an answer over HTTP/2, in bytes, a peer has to take before the patience with it begins anew; as much again may be on its
/// way already. Nearly all pages are smaller.
const PIECE: usize = 64 << 10;

pin_project! {
    /// A body whose request is being answered until its last byte. What it gives to HTTP/2 is an offer until it is asked for more: hyper
    /// does that only when all that it has been given has found room in the peer's window.
    pub struct Outgoing<B> {
        #[pin]
        body: B,
        busy: Option<Busy>,
        // What has been cut off from the last frame and is to be given next.
        rest: Bytes,
    }
}

impl<B> Outgoing<B> {
    /// The body of the answer that `busy` is about.
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, busy: Some(busy), rest: Bytes::new() }
    }
}

impl<B: Body<Data = Bytes>> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let framed = this.busy.as_mut().filter(|busy| busy.is_framed());
        let Some(busy) = framed else {
            let frame = this.body.poll_frame(cx);
            if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
                *this.busy = None;
            }
            return frame;
        };
        busy.taken();
        let mut data = std::mem::take(this.rest);
        if data.is_empty() {
            match this.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(next) => data = next,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(end) => {
                    *this.busy = None;
                    return Poll::Ready(end);
                }
                Poll::Pending => {
                    busy.takes_time();
                    return Poll::Pending;
                }
            }
        }
        if data.len() > PIECE {
            *this.rest = data.split_off(PIECE);
        }
        busy.offer();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut both = SizeHint::new();
        both.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            both.set_upper(upper + rest);
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::super::pulse::{Patience, Pulse};
    use super::*;
    use futures_util::{StreamExt, stream};
    use http::Version;
    use http_body_util::{BodyExt, Full, StreamBody};
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::{Instant, sleep, timeout};

    const IDLE: Duration = Duration::from_secs(75);
    const PATIENCE: Patience = Patience { header: Duration::from_secs(10), body: IDLE, idle: IDLE };

    fn answer<B>(pulse: &Arc<Pulse>, version: Version, body: B) -> Outgoing<B> {
        Outgoing::new(body, pulse.busy(version, Instant::now()))
    }

    /// An event an hour.
    fn events() -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(Box::pin(stream::iter(0..9).then(async |_| {
            sleep(Duration::from_secs(3_600)).await;
            Ok(Frame::data(Bytes::from_static(b"data: new\n\n")))
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_is_not_taken_ends_the_patience_whatever_other_streams_do() {
        let pulse = Pulse::new(IDLE);
        let mut stuck = answer(&pulse, Version::HTTP_2, Full::from("page"));
        assert!(stuck.frame().await.is_some());
        let began = Instant::now();
        let others = async {
            loop {
                let other = answer(&pulse, Version::HTTP_2, Full::from("page"));
                let Ok(_) = other.collect().await;
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            _ = pulse.lost(PATIENCE) => {}
            () = others => {}
        }
        assert_eq!(began.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_next_event_has_taken_the_last() {
        let pulse = Pulse::new(IDLE);
        let mut events = answer(&pulse, Version::HTTP_2, events());
        let read = async { while events.frame().await.is_some() {} };
        tokio::select! {
            _ = pulse.lost(PATIENCE) => panic!("all that there was has been taken"),
            () = read => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_not_taken_ends_the_patience() {
        let pulse = Pulse::new(IDLE);
        let mut events = answer(&pulse, Version::HTTP_2, events());
        assert!(events.frame().await.is_some());
        let offered = Instant::now();
        pulse.lost(PATIENCE).await;
        // Notes are kept in milliseconds.
        assert!(offered.elapsed().abs_diff(IDLE) < Duration::from_millis(10), "{:?}", offered.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_large_answer_slowly_has_the_patience_anew_with_each_piece_and_at_the_end() {
        let (pulse, most) = (Pulse::new(IDLE), IDLE - Duration::from_secs(1));
        let page: Bytes = (0..=5 * PIECE).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
        let mut body = answer(&pulse, Version::HTTP_2, Full::new(page.clone()));
        let mut read = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((page.len() - read.len()) as u64));
            let Ok(frame) = body.frame().await.expect("it goes on");
            assert!(timeout(most, pulse.lost(PATIENCE)).await.is_err());
            read.extend(frame.into_data().expect("no trailers"));
        }
        drop(body);
        assert_eq!(read, page);
        let ended = Instant::now();
        pulse.lost(PATIENCE).await;
        assert!(ended.elapsed().abs_diff(IDLE) < Duration::from_millis(10), "{:?}", ended.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn over_http1_the_socket_tells_who_does_not_read() {
        let pulse = Pulse::new(IDLE);
        let mut body = answer(&pulse, Version::HTTP_11, Full::from(vec![0; 2 * PIECE]));
        let Ok(frame) = body.frame().await.expect("a frame");
        assert_eq!(frame.into_data().expect("no trailers").len(), 2 * PIECE);
        assert!(timeout(10 * IDLE, pulse.lost(PATIENCE)).await.is_err());
        assert!(body.frame().await.is_none());
        pulse.lost(PATIENCE).await;
    }
}
