//! The body of a webhook, whole and small and soon, or not at all: nobody knows yet who sends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::timeout;

use crate::domain::body::StreamBody;
use crate::domain::peer::Origin;
use crate::domain::problem::Problem;

/// The largest body, in bytes. What says that a sync has ended has a few hundred for each model.
pub(super) const LARGEST: usize = 64 << 10;

/// How long a body may take. Merge sends it at once, and waits 10 s for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many bodies may be on their way: with their size, the memory that strangers can take.
const MOST: usize = 64;

/// Reads bodies, so many at a time. Whoever comes when there are so many takes the place of one whose origin has more of them than its
/// own would have, the oldest first; so nobody keeps out others by being slow.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    /// The oldest first.
    taken: Vec<Taken>,
    /// The number of the next one to come.
    next: u64,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    origin: Option<Origin>,
    /// Dropped when the place is another's.
    _tells: Sender<()>,
}

/// A place, until it is dropped.
struct Place {
    reader: Reader,
    number: u64,
    /// Completes when the place is another's.
    is_lost: Receiver<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reader.0.lock().taken.retain(|taken| taken.number != self.number);
    }
}

const OVERLOADED: Problem = Problem::Overloaded { retry_after: Duration::from_secs(1) };

impl Reader {
    /// Reads a body that comes from `origin`.
    pub(super) async fn read(&self, origin: Option<Origin>, body: StreamBody) -> Result<Bytes, Problem> {
        let mut place = self.place(origin).ok_or(OVERLOADED)?;
        if body.size_hint().lower() > LARGEST as u64 {
            return Err(Problem::BodyTooLarge);
        }
        let late = |_| Problem::InvalidRequest("Send the whole body within 5 seconds.".into());
        tokio::select! {
            body = timeout(PATIENCE, collect(body)) => body.map_err(late)?,
            _ = &mut place.is_lost => Err(OVERLOADED),
        }
    }

    fn place(&self, origin: Option<Origin>) -> Option<Place> {
        let mut places = self.0.lock();
        if places.taken.len() >= MOST {
            let goes = places.in_the_way_of(origin)?;
            places.taken.remove(goes);
        }
        let number = places.next;
        places.next += 1;
        let (tells, is_lost) = oneshot::channel();
        places.taken.push(Taken { number, origin, _tells: tells });
        Some(Place { reader: self.clone(), number, is_lost })
    }
}

impl Places {
    /// The oldest of those of which there are most, if there would be fewer of `origin`.
    fn in_the_way_of(&self, origin: Option<Origin>) -> Option<usize> {
        let count = |of| self.taken.iter().filter(|taken| taken.origin == of).count();
        let most = self.taken.iter().map(|taken| count(taken.origin)).max()?;
        if count(origin) + 1 >= most {
            return None;
        }
        self.taken.iter().position(|taken| count(taken.origin) == most)
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
    use futures_util::future::join_all;
    use futures_util::stream::{pending, unfold};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody as Frames};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

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
        assert_eq!(reader.read(None, whole(LARGEST)).await.map(|body| body.len()), Ok(LARGEST));
        assert_eq!(reader.read(None, pieces(64)).await.map(|body| body.len()), Ok(LARGEST));
        for body in [whole(LARGEST + 1), pieces(65)] {
            assert_eq!(reader.read(None, body).await, Err(Problem::BodyTooLarge));
        }
        let never = stream(Frames::new(pending::<Result<Frame<Bytes>, std::io::Error>>()));
        let began = tokio::time::Instant::now();
        assert!(matches!(reader.read(None, never).await, Err(Problem::InvalidRequest(_))));
        assert_eq!(began.elapsed(), PATIENCE);
    }

    /// Begins to read a body that never comes, from this origin.
    fn begin(reader: &Reader, origin: Option<Origin>) -> JoinHandle<Result<Bytes, Problem>> {
        let reader = reader.clone();
        let never = stream(Frames::new(pending::<Result<Frame<Bytes>, std::io::Error>>()));
        tokio::spawn(async move { reader.read(origin, never).await })
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_read_at_a_time_and_each_origin_has_its_share() {
        let (reader, origin) = (Reader::default(), |uid| Some(Origin::Uid(uid)));
        let mut ends = Vec::new();
        for of in [origin(1), None, origin(2)] {
            let begun: Vec<_> = (0..MOST).map(|_| begin(&reader, of)).collect();
            sleep(PATIENCE / 10).await;
            assert!(matches!(reader.read(of, whole(1)).await, Err(Problem::Overloaded { .. })));
            assert!(reader.read(origin(3), whole(1)).await.is_ok(), "who has none gets a place");
            ends.push(begun);
        }
        let mut late = Vec::new();
        for begun in ends {
            let ends = join_all(begun).await.into_iter().map(|end| end.expect("no panic"));
            late.push(ends.filter(|end| matches!(end, Err(Problem::InvalidRequest(_)))).count());
        }
        assert!(late.iter().all(|late| (20..=22).contains(late)), "{late:?}");
        assert_eq!(reader.0.lock().taken.len(), 0);
        assert!(reader.read(origin(1), whole(1)).await.is_ok());
    }
}
