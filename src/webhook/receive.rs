//! From a [`Delivery`] to what became of it: read, checked, understood, and then the account's pages are stale.
//!
//! A webhook can only take freshness away: no page is made from what it says, so one that is lost, late or sent twice does no harm
//! but a call. Until its signature has been checked nothing is remembered of it and nothing done for it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Mutex as Queue;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tower::Service;

use super::body::Reader;
use super::envelope::{Envelope, News};
use super::refresh::{Pages, Refresher};
use super::replays::Replays;
use crate::cache::demand::Demand;
use crate::cache::flight::{Flights, Join, Joined};
use crate::cache::store::Store;
use crate::domain::access::{Account, AccountHash};
use crate::domain::delivery::{Delivered, Delivery};
use crate::domain::event::{Events, Kind};
use crate::domain::peer::Peer;
use crate::domain::problem::Problem;
use crate::domain::signature::{Signature, Unsigned, is_signed};
use crate::door::admit::House;

/// What webhooks share. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Webhooks(Arc<State>);

struct State {
    reader: Reader,
    replays: Mutex<Replays>,
    /// Whose pages are to be made stale by the next walk.
    outdated: Mutex<HashSet<AccountHash>>,
    /// One walk over all pages at a time.
    walk: Queue<()>,
    refresher: Refresher,
    events: Events,
}

impl Webhooks {
    /// None have come yet; what happens is told to `events`.
    pub fn new(events: Events) -> Self {
        Self(Arc::new(State {
            reader: Reader::default(),
            replays: Mutex::default(),
            outdated: Mutex::default(),
            walk: Queue::default(),
            refresher: Refresher::default(),
            events,
        }))
    }

    /// Has `make_stale` make the pages of `accounts` stale, and of all others that have come meanwhile: a walk over all pages takes
    /// its time, and a sync of many accounts must not cost a walk for each.
    async fn outdate(&self, accounts: impl Iterator<Item = AccountHash>, make_stale: &MakeStale) {
        self.0.outdated.lock().extend(accounts);
        let _turn = self.0.walk.lock().await;
        // Empty if the walk before has taken them along.
        let outdated = std::mem::take(&mut *self.0.outdated.lock());
        if !outdated.is_empty() {
            let make_stale = make_stale.clone();
            // It fails only when the process ends.
            let _ = spawn_blocking(move || make_stale(&outdated)).await;
        }
    }
}

/// Makes the pages of accounts stale; takes as long as a walk over all pages.
pub type MakeStale = Arc<dyn Fn(&HashSet<AccountHash>) + Send + Sync>;

/// Takes deliveries in.
#[derive(Clone)]
pub struct Receiver<S> {
    house: Arc<ArcSwap<House>>,
    webhooks: Webhooks,
    pages: Pages,
    make_stale: MakeStale,
    fetch: S,
}

impl<S> Receiver<S>
where
    S: Service<Join, Response = Joined, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
{
    /// One that checks by the keys of `house`. Of the pages that are stale then, or that `flights` are yet to bring, it has those
    /// fetched that `demand` remembers, through `fetch`.
    pub fn new(
        house: Arc<ArcSwap<House>>,
        webhooks: Webhooks,
        make_stale: MakeStale,
        (demand, store, flights): (Demand, Store, Flights),
        fetch: S,
    ) -> Self {
        Self { house, webhooks, pages: Pages { demand, store, flights }, make_stale, fetch }
    }

    async fn receive(self, delivery: Delivery) -> Result<Delivered, Problem> {
        let house = self.house.load_full();
        let events = &self.webhooks.0.events;
        let refuse = |reason: Unsigned| {
            events.note(Kind::Webhook, None, "refused, since Merge has not signed it");
            house.refuse_delivery(reason, delivery.asker.clone(), Instant::now())
        };
        let signature = Signature::read(&delivery.headers).map_err(refuse)?;
        let origin = delivery.asker.peer.as_ref().and_then(Peer::origin);
        let body = self.webhooks.0.reader.read(origin, delivery.body).await?;
        if !is_signed(&house.signing_keys, &body, &signature) {
            return Err(refuse(Unsigned::Wrong));
        }
        let Some(Envelope { news, linked_account_id }) = Envelope::read(&body).filter(|it| it.news != News::Other)
        else {
            return Ok(Delivered::Ignored);
        };
        let accounts = house.accounts.linked(&linked_account_id);
        if accounts.is_empty() {
            return Ok(Delivered::UnknownAccount);
        }
        if !self.webhooks.0.replays.lock().is_first(signature, Instant::now()) {
            return Ok(Delivered::Duplicate);
        }
        // A task of its own: from here on it counts as done, whether or not Merge waits for the answer.
        let done = tokio::spawn(self.clone().take_in(accounts.to_vec(), news));
        let _ = done.await;
        Ok(Delivered::Stale)
    }

    async fn take_in(self, accounts: Vec<Arc<Account>>, news: News) {
        let hashes = || accounts.iter().map(|account| account.hash);
        self.webhooks.outdate(hashes(), &self.make_stale).await;
        let told = match news {
            News::SyncEnded => "a sync has ended, so its pages are stale",
            News::Relinked | News::Other => "it was linked anew or deleted, so its pages are stale",
        };
        for account in &accounts {
            self.webhooks.0.events.note(Kind::Webhook, account.name.clone(), told);
        }
        if news == News::SyncEnded {
            hashes().for_each(|account| self.webhooks.0.refresher.begin(account, &self.pages, &self.fetch));
        }
    }
}

impl<S> Service<Delivery> for Receiver<S>
where
    S: Service<Join, Response = Joined, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
{
    type Response = Delivered;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Delivered, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        Box::pin(self.clone().receive(delivery))
    }
}
