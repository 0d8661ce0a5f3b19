//! The answer to one request on its way out: what its connection has to add, and when its request counts as answered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::outgoing::Outgoing;
use super::pulse::Busy;

pin_project! {
    /// The future of a request's answer.
    pub(super) struct Answered<F> {
        #[pin]
        answer: F,
        busy: Option<Busy>,
        // Whether its connection ends with it, whatever happens.
        is_last: bool,
        // Whether its connection can be told to end by a field.
        is_told_by_field: bool,
    }
}

impl<F> Answered<F> {
    pub(super) fn new(answer: F, busy: Busy, is_last: bool, is_told_by_field: bool) -> Self {
        Self { answer, busy: Some(busy), is_last, is_told_by_field }
    }
}

impl<F, B> Future for Answered<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Outgoing<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let busy = this.busy.as_mut().expect("a future is not polled after its end");
        let answer = this.answer.poll(cx);
        if answer.is_pending() {
            busy.takes_time();
        }
        let Ok(mut response) = ready!(answer);
        if response.body().size_hint().exact().is_none() {
            busy.takes_time();
        }
        if *this.is_last || (busy.is_last() && *this.is_told_by_field) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let busy = this.busy.take().expect("it was there when this poll began");
        // A request is being answered until the last byte of its answer.
        Poll::Ready(Ok(response.map(|body| Outgoing::new(body, busy))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::pulse::{Patience, Pulse};
    use super::*;
    use http::Version;
    use http_body_util::{BodyExt, Full};
    use std::future::ready;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    const IDLE: Duration = Duration::from_secs(75);

    /// How long after a request came its connection has been idle for too long.
    async fn idle_after(answer: impl Future<Output = Result<Response<Full<Bytes>>, Infallible>>) -> Duration {
        let (pulse, came) = (Pulse::new(IDLE), Instant::now());
        let busy = pulse.busy(Version::HTTP_11, came);
        let Ok(response) = Answered::new(answer, busy, false, true).await;
        assert!(!response.headers().contains_key(CONNECTION));
        let Ok(_) = response.into_body().collect().await;
        pulse.lost(Patience { header: IDLE, body: IDLE, idle: IDLE }).await;
        came.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_time_begins_with_the_end_of_the_answer() {
        let answer = || Response::new(Full::from("body"));
        assert_eq!(idle_after(ready(Ok(answer()))).await, IDLE);
        let late = async {
            sleep(IDLE / 2).await;
            Ok(answer())
        };
        assert_eq!(idle_after(late).await.as_secs(), (IDLE + IDLE / 2).as_secs());
    }

    #[tokio::test]
    async fn the_last_answer_says_so_where_it_can() {
        let pulse = Pulse::new(IDLE);
        for (is_last, is_leaving, is_told_by_field, says_so) in [
            (false, false, true, false),
            (true, false, true, true),
            (true, false, false, true),
            (false, true, true, true),
            (false, true, false, false),
        ] {
            if is_leaving {
                pulse.leave();
            }
            let answer = ready(Ok(Response::new(Full::<Bytes>::default())));
            let busy = pulse.busy(Version::HTTP_11, Instant::now());
            let Ok(response) = Answered::new(answer, busy, is_last, is_told_by_field).await;
            assert_eq!(response.headers().contains_key(CONNECTION), says_so, "{is_last} {is_leaving}");
        }
    }
}
