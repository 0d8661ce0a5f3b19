//! Pages of which there is news are fetched again, if somebody asks for them: one after the other for each account, for a few
//! accounts at a time, and not for every word that Merge says. By then they are stale, so whoever cannot wait for that fetches
//! them as ever, and both share a flight.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::cache::demand::Demand;
use crate::cache::flight::{Flights, Join, Joined};
use crate::cache::store::Store;
use crate::domain::access::AccountHash;
use crate::domain::ask::Ask;
use crate::domain::exchange::Reason;
use crate::domain::lifetime::Freshness;
use crate::domain::page::Page;

/// The pause between two rounds for one account. When a sync ends, Merge says so for each of its models, one soon after the other.
const PAUSE: Duration = Duration::from_secs(2);

/// How many accounts have their pages fetched at a time: few beside the calls in flight that an upstream is usually allowed.
const MOST: usize = 8;

/// Whose pages are being fetched again. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Refresher(Arc<Rounds>);

struct Rounds {
    /// By account, whether there has been news since its round began.
    running: Mutex<HashMap<AccountHash, bool>>,
    places: Semaphore,
}

impl Default for Refresher {
    fn default() -> Self {
        Self(Arc::new(Rounds { running: Mutex::default(), places: Semaphore::new(MOST) }))
    }
}

impl Refresher {
    /// Has the pages of `account` fetched through `inner`, by a task of its own: one for each account, however much news there is.
    pub(super) fn begin<S>(&self, account: AccountHash, pages: &Pages, inner: &S)
    where
        S: Service<Join, Response = Joined, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    {
        let Some(mut turn) = self.take_turn(account) else { return };
        let (refresher, pages, inner) = (self.clone(), pages.clone(), inner.clone());
        tokio::spawn(async move {
            loop {
                refresher.round(account, &pages, &inner).await;
                sleep(PAUSE).await;
                if turn.is_over() {
                    return;
                }
            }
        });
    }

    /// The turn of `account`, unless it has one already: then that one hears that there is news.
    fn take_turn(&self, account: AccountHash) -> Option<Turn> {
        match self.0.running.lock().entry(account) {
            Entry::Occupied(mut news) => {
                *news.get_mut() = true;
                return None;
            }
            Entry::Vacant(none) => none.insert(false),
        };
        Some(Turn { refresher: self.clone(), account, is_over: false })
    }

    async fn round<S>(&self, account: AccountHash, pages: &Pages, inner: &S)
    where
        S: Service<Join, Response = Joined, Error = Infallible> + Clone,
    {
        let _place = self.0.places.acquire().await;
        for ask in pages.demand.of(account, Instant::now()) {
            // The rules may have changed while the one before was fetched.
            if !pages.demand.is_in_force(&ask) {
                return;
            }
            let now = Instant::now();
            // Asked first, as a page is stored before its flight ends.
            let is_coming = pages.flights.is_under_way(&ask.key);
            let seen = pages.store.get(&ask.key);
            // What is coming was asked for before the news, and may not show them. What has been pushed out is not missed, and what is
            // fresh has been fetched meanwhile.
            let is_outdated = |page: &Arc<Page>| !matches!(page.freshness(now), Freshness::Fresh { .. });
            if !seen.as_ref().map_or(is_coming, is_outdated) {
                continue;
            }
            let join = Join { ask: Ask { at: now, ..ask }, seen, reason: Reason::Webhook };
            // Whether it succeeds or not, the page or its failure is kept by the flight.
            let Ok(_) = inner.clone().oneshot(join).await;
        }
    }
}

/// That the pages of an account are being fetched. If its task breaks off, the next news begins another all the same.
struct Turn {
    refresher: Refresher,
    account: AccountHash,
    /// Another may have a turn by now.
    is_over: bool,
}

impl Turn {
    /// Whether there is no news; then the next begins a task again.
    fn is_over(&mut self) -> bool {
        let mut running = self.refresher.0.running.lock();
        let news = running.get_mut(&self.account).is_some_and(std::mem::take);
        if !news {
            running.remove(&self.account);
            self.is_over = true;
        }
        !news
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            self.refresher.0.running.lock().remove(&self.account);
        }
    }
}

/// Which pages are asked for, where they are, and which are on their way.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) demand: Demand,
    pub(super) store: Store,
    pub(super) flights: Flights,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_turn_at_a_time_and_another_after_one_that_broke_off() {
        let refresher = Refresher::default();
        let take = || refresher.take_turn(AccountHash([1; 16]));
        let turn = take().expect("nobody has it");
        assert!(take().is_none() && refresher.take_turn(AccountHash([2; 16])).is_some());
        drop(turn);
        let mut turn = take().expect("the one before broke off");
        assert!(take().is_none());
        assert!(!turn.is_over(), "there was news");
        assert!(turn.is_over());
        let _next = take().expect("it is over");
        drop(turn);
        assert!(take().is_none(), "what is over ends no other");
    }
}
