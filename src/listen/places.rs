//! How many connections may be open: all together, and of one origin.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::domain::peer::Origin;
use crate::domain::tally::Limited;

/// The places for connections.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    total: usize,
    most_per_origin: u32,
    taken: Mutex<Taken>,
    limited: Limited,
}

#[derive(Debug, Default)]
struct Taken {
    /// Only origins that have a connection open: never more than there are places.
    by_origin: HashMap<Origin, u32, foldhash::fast::RandomState>,
    /// When it was last logged that one was turned away.
    told: Option<Instant>,
}

/// A place that is free for whoever comes next.
#[derive(Debug)]
pub struct Free(OwnedSemaphorePermit);

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _one_of_all: OwnedSemaphorePermit,
    one_of_origin: Option<(Arc<Places>, Origin)>,
}

/// Who is turned away may come a thousand times a second; the log is told this often at most.
const TELL: Duration = Duration::from_secs(10);

impl Places {
    /// `total` places, of which one origin gets at most `most_per_origin`; whom that keeps out is counted in `limited`.
    pub fn new(total: usize, most_per_origin: u32, limited: Limited) -> Arc<Self> {
        let total = total.min(Semaphore::MAX_PERMITS);
        let all = Arc::new(Semaphore::new(total));
        Arc::new(Self { all, total, most_per_origin, taken: Mutex::default(), limited })
    }

    /// Waits until a place is free: until then the next connection waits in the kernel's queue.
    pub async fn free(&self) -> Free {
        if let Ok(free) = self.all.clone().try_acquire_owned() {
            return Free(free);
        }
        self.limited.total.add();
        Free(self.all.clone().acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// Waits until every place is free.
    pub async fn all_free(&self) {
        let everyone = u32::try_from(self.total).unwrap_or(u32::MAX);
        let _all = self.all.acquire_many(everyone).await;
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.total - self.all.available_permits()
    }

    /// The free place for one of `origin`, or `None` if it has as many as it may. Connections whose origin nobody can tell
    /// share only what there is for all.
    pub fn take(self: &Arc<Self>, free: Free, origin: Option<Origin>) -> Option<Place> {
        if let Some(origin) = origin {
            let mut taken = self.taken.lock();
            match taken.by_origin.entry(origin) {
                Entry::Occupied(count) if *count.get() >= self.most_per_origin => {
                    self.limited.per_peer.add();
                    taken.tell(origin, self.limited.per_peer.get());
                    return None;
                }
                count => *count.or_default() += 1,
            }
        }
        Some(Place { _one_of_all: free.0, one_of_origin: origin.map(|origin| (self.clone(), origin)) })
    }

    fn give_back(&self, origin: Origin) {
        if let Entry::Occupied(mut count) = self.taken.lock().by_origin.entry(origin) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Taken {
    fn tell(&mut self, origin: Origin, turned_away: u64) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now >= told + TELL) {
            self.told = Some(now);
            tracing::warn!(%origin, turned_away, "too many connections of one address; closed at once");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((places, origin)) = &self.one_of_origin {
            places.give_back(*origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<Origin> = Some(Origin::V6([1; 8]));
    const OTHER: Option<Origin> = Some(Origin::V6([2; 8]));

    #[tokio::test]
    async fn an_origin_has_its_share_and_gets_back_what_it_leaves() {
        let places = Places::new(10, 2, Limited::default());
        let take = async |origin| places.take(places.free().await, origin);
        let (first, second) = (take(ONE).await, take(ONE).await);
        assert!(first.is_some() && second.is_some());
        assert!(take(ONE).await.is_none());
        assert_eq!((places.taken(), places.limited.per_peer.get()), (2, 1), "who is turned away holds nothing");
        let others = [take(OTHER).await, take(None).await, take(None).await, take(None).await];
        assert!(others.iter().all(Option::is_some));
        drop(first);
        assert!(take(ONE).await.is_some());
        drop((second, others));
        assert_eq!((places.taken(), places.taken.lock().by_origin.len()), (0, 0));
        places.all_free().await;
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_next_waits() {
        let places = Places::new(1, 1, Limited::default());
        let only = places.take(places.free().await, None);
        assert_eq!(places.limited.total.get(), 0);
        assert!(tokio::time::timeout(TELL, places.free()).await.is_err());
        drop(only);
        places.free().await;
        assert_eq!((places.limited.total.get(), places.limited.per_peer.get()), (1, 0));
    }
}
