//! The body of a webhook, whole and small and soon, or not at all: nobody knows yet who sends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::domain::body::StreamBody;
use crate::domain::problem::Problem;

/// The largest body, in bytes. What says that a sync has ended has a few hundred for each model.
pub(super) const LARGEST: usize = 64 << 10;

/// How long a body may take. Merge sends it at once, and waits 10 s for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many bodies may be on their way: with their size, the memory that strangers can take.
const MOST: usize = 64;

/// Reads bodies, so many at a time.
#[derive(Clone, Debug)]
pub(super) struct Reader(Arc<Semaphore>);

impl Default for Reader {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Reader {
    pub(super) async fn read(&self, body: StreamBody) -> Result<Bytes, Problem> {
        let Ok(_place) = self.0.try_acquire() else {
            return Err(Problem::Overloaded { retry_after: Duration::from_secs(1) });
        };
        if body.size_hint().lower() > LARGEST as u64 {
            return Err(Problem::BodyTooLarge);
        }
        let late = |_| Problem::InvalidRequest("Send the whole body within 5 seconds.".into());
        timeout(PATIENCE, collect(body)).await.map_err(late)?
    }
}

async fn collect(mut body: StreamBody) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Problem::InvalidRequest("Send the whole body.".into())) };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > LARGEST {
            return Err(Problem::BodyTooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::body::stream;
    use futures_util::stream::{pending, unfold};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody as Frames};

    fn whole(length: usize) -> StreamBody {
        stream(Full::new(Bytes::from(vec![b' '; length])))
    }

    /// A body that does not say how long it is, in pieces of 1 KiB.
    fn pieces(count: usize) -> StreamBody {
        let piece = |left: usize| async move {
            let frame = Frame::data(Bytes::from(vec![b' '; 1024]));
            (left > 0).then(|| (Ok::<_, std::io::Error>(frame), left - 1))
        };
        stream(Frames::new(Box::pin(unfold(count, piece))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_small_and_comes_soon() {
        let reader = Reader::default();
        assert_eq!(reader.read(whole(LARGEST)).await.map(|body| body.len()), Ok(LARGEST));
        assert_eq!(reader.read(pieces(64)).await.map(|body| body.len()), Ok(LARGEST));
        for body in [whole(LARGEST + 1), pieces(65)] {
            assert_eq!(reader.read(body).await, Err(Problem::BodyTooLarge));
        }
        let never = stream(Frames::new(pending::<Result<Frame<Bytes>, std::io::Error>>()));
        let began = tokio::time::Instant::now();
        assert!(matches!(reader.read(never).await, Err(Problem::InvalidRequest(_))));
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_read_at_a_time() {
        let reader = Reader::default();
        let reading: Vec<_> = (0..MOST)
            .map(|_| {
                let reader = reader.clone();
                let never = stream(Frames::new(pending::<Result<Frame<Bytes>, std::io::Error>>()));
                tokio::spawn(async move { reader.read(never).await })
            })
            .collect();
        while reader.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(reader.read(whole(1)).await, Err(Problem::Overloaded { .. })));
        for one in reading {
            assert!(matches!(one.await.expect("no panic"), Err(Problem::InvalidRequest(_))));
        }
        assert_eq!(reader.read(whole(1)).await.map(|body| body.len()), Ok(1));
    }
}
