//! Following: requests that are held until the page changes, and streams of pages that change.
//!
//! Whoever follows is demand, so the page is [kept fresh](super::renew) for as long as somebody does, once for all of them. So any
//! number of followers cost what one busy client costs, and a follower that is held holds no place among those who wait for the
//! upstream.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http::HeaderValue;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use super::changes::Listening;
use super::renew::{LONGEST_PAUSE, Renewal, keep_fresh};
use super::store::Store;
use crate::domain::ask::Ask;
use crate::domain::cache_control::{FOREVER, Wants};
use crate::domain::condition;
use crate::domain::detached;
use crate::domain::exchange::{Answer, Given};
use crate::domain::follow::{Follow, Followed, How, Updates};
use crate::domain::key::PageKey;
use crate::domain::page::{Kind, Page};
use crate::domain::problem::Problem;

/// How long a stream lasts. Then the client comes again, past the door: so nobody is told for longer of what is no longer
/// granted.
const LONGEST_STREAM: Duration = Duration::from_secs(600);

/// All who follow. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Follows {
    store: Store,
    everybody: Arc<Mutex<Everybody>>,
    /// Whether the proxy drains; touched whenever those who are held are to be held no longer.
    draining: Arc<watch::Sender<bool>>,
}

/// Those who follow, by page.
#[derive(Default)]
struct Everybody {
    by_key: HashMap<PageKey, Followers, RandomState>,
    /// The number of the next one to come. None is given twice, so that one who leaves takes nobody else along.
    next: u64,
}

/// Those who follow one page.
struct Followers {
    /// The number of the one who was the first: others may follow the same page later.
    first: u64,
    /// What each would ask for, by the order in which they came.
    asks: BTreeMap<u64, Ask>,
    keeping_fresh: AbortHandle,
}

/// Hears when those who have come by now are to be held no longer.
struct Ending(watch::Receiver<bool>);

impl Ending {
    fn has_come(&self) -> bool {
        // The sender lives as long as somebody follows.
        *self.0.borrow() || self.0.has_changed().unwrap_or(true)
    }

    async fn come(&mut self) {
        if !self.has_come() {
            let _ = self.0.changed().await;
        }
    }
}

/// The same once more, now. What the client wants of the cache was for the first time.
fn again(ask: &Ask) -> Ask {
    Ask { wants: Wants::default(), follow: None, at: Instant::now(), ..ask.clone() }
}

/// One who follows, until it is dropped.
struct Follower {
    follows: Follows,
    key: PageKey,
    number: u64,
    changes: Listening,
    _place: OwnedSemaphorePermit,
}

impl Follows {
    /// Nobody follows the pages of `store` yet.
    pub fn new(store: Store) -> Self {
        Self { store, everybody: Arc::default(), draining: Arc::new(watch::Sender::new(false)) }
    }

    /// From now on nobody is held: whoever waits is answered, and streams end.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Who is held now is answered, and streams end, once: they were admitted by rules that are in force no longer. Who comes later
    /// is held as ever.
    pub fn release(&self) {
        let mut everybody = self.everybody.lock();
        // A stream ends only when its client reads on, and what it asks for must not be asked until then.
        for (_, followers) in everybody.by_key.drain() {
            followers.keeping_fresh.abort();
        }
        self.draining.send_modify(|_| ());
    }

    /// How many follow.
    pub fn count(&self) -> usize {
        self.everybody.lock().by_key.values().map(|followers| followers.asks.len()).sum()
    }

    fn ending(&self) -> Ending {
        Ending(self.draining.subscribe())
    }

    /// Takes part, unless its end has come; the first of a key has it kept fresh through `inner`.
    fn join<S>(&self, ask: &Ask, place: OwnedSemaphorePermit, ending: &Ending, inner: &S) -> Option<Follower>
    where
        S: Service<Renewal, Response = bool, Error = Problem, Future: Send> + Clone + Send + 'static,
    {
        let key = &ask.key;
        let changes = self.store.changes().listen(key);
        let mut everybody = self.everybody.lock();
        // Under the lock, so that whoever is released is either known by then or not let in.
        if ending.has_come() {
            return None;
        }
        let number = everybody.next;
        everybody.next += 1;
        let followers = everybody.by_key.entry(key.clone()).or_insert_with(|| {
            let (follows, key, inner) = (self.clone(), key.clone(), inner.clone());
            let task = tokio::spawn(async move {
                keep_fresh(follows.store.clone(), key.clone(), |turn| follows.ask(&key, turn), inner).await;
                follows.let_go(&key, number);
            });
            Followers { first: number, asks: BTreeMap::new(), keeping_fresh: task.abort_handle() }
        });
        followers.asks.insert(number, ask.clone());
        Some(Follower { follows: self.clone(), key: key.clone(), number, changes, _place: place })
    }

    /// There is nothing more to be told of the page of `key` to those of whom this was the first: whoever waits asks for it once more,
    /// and streams end.
    fn let_go(&self, key: &PageKey, first: u64) {
        let mut everybody = self.everybody.lock();
        if everybody.by_key.get(key).is_some_and(|followers| followers.first == first) {
            everybody.by_key.remove(key);
            self.store.changes().tell(key);
        }
    }

    /// What one of those who follow `key` would ask, each in its `turn`.
    fn ask(&self, key: &PageKey, turn: u32) -> Option<Ask> {
        let everybody = self.everybody.lock();
        let asks = &everybody.by_key.get(key)?.asks;
        let number = usize::try_from(turn).unwrap_or_default().checked_rem(asks.len())?;
        asks.values().nth(number).map(again)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut everybody = self.follows.everybody.lock();
        let Some(followers) = everybody.by_key.get_mut(&self.key) else { return };
        followers.asks.remove(&self.number);
        if followers.asks.is_empty() {
            followers.keeping_fresh.abort();
            everybody.by_key.remove(&self.key);
        }
    }
}

impl Follower {
    /// Completes when there is a page that `known` does not name; with none when it has been let go.
    async fn other_than(&mut self, known: &[HeaderValue]) -> Option<Arc<Page>> {
        loop {
            // What has been dropped is about to be fetched.
            match self.follows.store.get(&self.key) {
                Some(page) if is_news(&page, known) => return Some(page),
                _ if self.has_been_let_go() => return None,
                _ => self.changes.changed().await,
            }
        }
    }

    fn has_been_let_go(&self) -> bool {
        let everybody = self.follows.everybody.lock();
        !everybody.by_key.get(&self.key).is_some_and(|followers| followers.asks.contains_key(&self.number))
    }
}

/// Whether `page` is something that `known` does not name.
fn is_news(page: &Page, known: &[HeaderValue]) -> bool {
    page.kind != Kind::Good || !condition::names(known, &page.etag)
}

/// The layer: requests that follow a page are held here; all others pass.
pub fn layer<S>(follows: Follows) -> impl Layer<S, Service = Following<S>> + Clone {
    layer_fn(move |inner| Following { inner, follows: follows.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Following<S> {
    inner: S,
    follows: Follows,
}

impl<S> Service<Ask> for Following<S>
where
    S: Service<Ask, Response = Answer, Error = Problem, Future: Send> + Clone + Send + Sync + 'static,
    S: Service<Renewal, Response = bool, Error = Problem, Future: Send>,
{
    type Response = Given;
    type Error = Problem;
    type Future = Held<<S as Service<Ask>>::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut ask: Ask) -> Self::Future {
        let Some(follow) = ask.follow.take() else { return Held::Not { answer: self.inner.call(ask) } };
        // From now on, and not from the first page on: the rules may change before that has come.
        let ending = self.follows.ending();
        let given = match *follow {
            Follow::Wait { at_most, known } => self.clone().wait(ask, ending, at_most, known).boxed(),
            Follow::Stream { known } => self.clone().stream(ask, ending, known).boxed(),
        };
        Held::Long { given }
    }
}

pin_project! {
    /// The future of [`Following`].
    #[project = HeldProjection]
    #[expect(missing_docs, reason = "the variants say it")]
    pub enum Held<F> {
        /// A request that follows nothing.
        Not { #[pin] answer: F },
        /// One that does.
        Long { given: BoxFuture<'static, Result<Given, Problem>> },
    }
}

impl<F: Future<Output = Result<Answer, Problem>>> Future for Held<F> {
    type Output = Result<Given, Problem>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            HeldProjection::Not { answer } => answer.poll(cx).map_ok(Given::Page),
            HeldProjection::Long { given } => given.as_mut().poll(cx),
        }
    }
}

impl<S> Following<S>
where
    S: Service<Ask, Response = Answer, Error = Problem, Future: Send> + Clone + Send + Sync + 'static,
    S: Service<Renewal, Response = bool, Error = Problem, Future: Send>,
{
    async fn wait(
        self,
        ask: Ask,
        mut ending: Ending,
        at_most: Duration,
        known: Vec<HeaderValue>,
    ) -> Result<Given, Problem> {
        let until = Instant::now() + at_most;
        let first = self.inner.clone().oneshot(ask.clone()).await?;
        // One too many is answered at once: a preference is not a demand (RFC 7240 §2).
        let place = ask.caller.follows.clone().try_acquire_owned();
        let (Ok(place), true) = (place, self.may_follow(&ask.key, &first) && !is_news(&first.page, &known)) else {
            return Ok(Given::Page(first));
        };
        let Some(mut follower) = self.follows.join(&ask, place, &ending, &self.inner) else {
            return Ok(Given::Page(first));
        };
        let has_ended = tokio::select! {
            biased;
            () = ending.come() => true,
            _ = follower.other_than(&known) => false,
            () = sleep_until(until) => false,
        };
        drop(follower);
        // Whoever is released is let go as well.
        let answer = if has_ended || ending.has_come() {
            self.what_there_is(&ask, first).await
        } else {
            self.inner.oneshot(again(&ask)).await?
        };
        Ok(Given::Followed(Box::new(Followed { answer, how: How::Waited(at_most) })))
    }

    /// What is stored, and otherwise what there was at `first`: nothing is fetched by rules that are in force no longer.
    async fn what_there_is(self, ask: &Ask, first: Answer) -> Answer {
        let wants = Wants { only_if_cached: true, max_stale: Some(FOREVER), ..Wants::default() };
        let stored = self.inner.oneshot(Ask { wants, ..again(ask) }).await;
        let Answer { page, served, refresh_limited, .. } = first;
        stored.unwrap_or_else(|_| Answer::new(page, served, Instant::now(), refresh_limited))
    }

    /// Whether there is a page to follow: a good one, and not one that is too large to be stored.
    fn may_follow(&self, key: &PageKey, answer: &Answer) -> bool {
        answer.page.kind == Kind::Good && self.follows.store.get(key).is_some()
    }

    async fn stream(self, ask: Ask, ending: Ending, known: Vec<HeaderValue>) -> Result<Given, Problem> {
        let answer = self.inner.clone().oneshot(ask.clone()).await?;
        if !self.may_follow(&ask.key, &answer) {
            return Ok(Given::Page(answer));
        }
        let place = ask.caller.follows.clone().try_acquire_owned();
        let place = place.map_err(|_| Problem::Overloaded { retry_after: LONGEST_PAUSE })?;
        let follower = self.follows.join(&ask, place, &ending, &self.inner);
        let until = Instant::now() + LONGEST_STREAM;
        let pages = stream::unfold((follower, ending, known), move |(follower, mut ending, known)| async move {
            let mut follower = follower?;
            let page = tokio::select! {
                biased;
                () = ending.come() => None,
                page = follower.other_than(&known) => page,
                () = sleep_until(until) => None,
            };
            // A stream has no way to tell of a refusal: the client asks again, and hears it.
            let page = page.filter(|page| page.kind == Kind::Good)?;
            // Not the page's own: it would hold the body as well for as long as the stream lasts.
            let known = vec![detached::value(&page.etag)];
            Some((page, (Some(follower), ending, known)))
        });
        Ok(Given::Followed(Box::new(Followed { answer, how: How::Stream(Some(Updates::new(pages))) })))
    }
}
