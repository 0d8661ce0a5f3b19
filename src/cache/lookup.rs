//! The first look at the cache: a fresh page ends the request here, without a task and without a lock held.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either};
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use super::flight::{Join, Joined};
use super::freshness::{self, Decision};
use super::renew::Renewal;
use super::store::Store;
use crate::domain::ask::Ask;
use crate::domain::cache_control::Wants;
use crate::domain::exchange::{Answer, Forward, Landing, Reason, Served, Why};
use crate::domain::page::{Kind, Page};
use crate::domain::problem::Problem;

/// The layer: `Ask` in, `Answer` out; what the store cannot answer goes on as a [`Join`].
pub fn layer<S>(store: Store) -> impl Layer<S, Service = Lookup<S>> + Clone {
    layer_fn(move |inner| Lookup { inner, store: store.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Lookup<S> {
    inner: S,
    store: Store,
}

impl<S> Lookup<S> {
    /// What to do for `ask`, as of the moment when it came.
    fn decide(&self, ask: &mut Ask) -> Decision {
        let recalled = ask.recalled.take();
        let (again, now) = (ask.again.as_ref(), ask.at);
        if let Some(recalled) = recalled {
            self.store.touch(&ask.key, again, now);
            let (page, ttl) = recalled.into_parts();
            return Decision::Hit(page, ttl);
        }
        freshness::decide(self.store.find(&ask.key, again, now), &ask.wants, now)
    }
}

impl<S> Service<Ask> for Lookup<S>
where
    S: Service<Join, Response = Joined, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Answer;
    type Error = Problem;
    type Future = Either<Ready<Result<Answer, Problem>>, BoxFuture<'static, Result<Answer, Problem>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut ask: Ask) -> Self::Future {
        let now = ask.at;
        let looking = ask.trace.step("lookup");
        let mut decision = self.decide(&mut ask);
        let refresh_limited = forces(&decision, &ask.wants) && !may_force(&ask, now);
        if refresh_limited {
            ask.wants = ask.wants.unforced();
            decision = self.decide(&mut ask);
        }
        looking.note("proxy.decision", decision.label());
        drop(looking);
        let from_store = |page, served| Ok(Answer::new(page, served, now, refresh_limited));
        Either::Left(ready(match decision {
            Decision::Hit(page, ttl) => {
                if ask.has_codings {
                    self.store.encode(&ask.key, &page);
                }
                let served = hit(&page);
                Ok(Answer::fresh(page, served, now, ttl, refresh_limited))
            }
            Decision::Stale(page, why) => {
                if why == Why::Revalidating {
                    // The flight goes on by itself; the caller has its page already.
                    drop(self.inner.call(Join { ask, seen: Some(page.clone()), reason: Reason::Refresh }));
                }
                from_store(page, Served::Stale(why))
            }
            Decision::NotCached => Err(Problem::NotCached),
            Decision::Fetch(forward, seen) => {
                let Self { inner, store } = self.clone();
                let miss = Miss { ask, seen, forward, refresh_limited };
                return Either::Right(Box::pin(miss.fetch(inner, store)));
            }
        }))
    }
}

impl<S> Service<Renewal> for Lookup<S>
where
    S: Service<Join, Response = Joined, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = bool;
    type Error = Problem;
    type Future = Either<Ready<Result<bool, Problem>>, BoxFuture<'static, Result<bool, Problem>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Renewal(ask): Renewal) -> Self::Future {
        let seen = match freshness::decide(self.store.get(&ask.key), &ask.wants, ask.at) {
            Decision::Fetch(_, seen) => seen,
            Decision::Stale(page, Why::Revalidating) => Some(page),
            // It is fresh, or the upstream is to be left alone.
            _ => return Either::Left(ready(Ok(true))),
        };
        // Those who follow wait for it: if they all leave before it has gone out, it is given up.
        let policy = ask.policy.clone();
        let join = Join { ask, seen, reason: Reason::Miss };
        let inner = self.inner.clone();
        Either::Right(Box::pin(async move {
            let Ok(Joined { outcome, .. }) = inner.oneshot(join).await;
            // What only passes says nothing of the next page.
            outcome.map(|Landing { page, .. }| page.kind == Kind::Passing || policy.fits(&page))
        }))
    }
}

/// As what this page is served while it is fresh: a hit, or a remembered refusal.
fn hit(page: &Page) -> Served {
    if page.kind == Kind::Negative { Served::Negative } else { Served::Hit }
}

/// Whether a fetch is made only because the client insists: such fetches have a quota of their own.
fn forces(decision: &Decision, wants: &Wants) -> bool {
    match decision {
        Decision::Fetch(Forward::Request, _) => true,
        Decision::Fetch(..) => wants.no_store,
        _ => false,
    }
}

/// Takes one of the consumer's forced refreshes.
fn may_force(ask: &Ask, now: Instant) -> bool {
    ask.caller.forced_refreshes.as_ref().is_none_or(|bucket| bucket.reserve(now).is_ok())
}

/// A request that the store could not answer.
struct Miss {
    ask: Ask,
    seen: Option<Arc<Page>>,
    forward: Forward,
    refresh_limited: bool,
}

impl Miss {
    async fn fetch<S>(self, inner: S, store: Store) -> Result<Answer, Problem>
    where
        S: Service<Join, Response = Joined, Error = Infallible>,
    {
        let Self { ask, mut seen, forward, refresh_limited } = self;
        let answer = |page, served| Ok(Answer::new(page, served, Instant::now(), refresh_limited).after_waiting());
        let (_place, waited) = ask.caller.place(ask.deadline()).await?;
        if waited {
            // Those who had the places before may have brought the page, or may have failed to.
            match freshness::decide(store.get(&ask.key), &ask.wants, Instant::now()) {
                Decision::Hit(page, _) => return answer(page.clone(), hit(&page)),
                Decision::Stale(page, Why::Revalidating) => seen = Some(page),
                Decision::Stale(page, why) => return answer(page, Served::Stale(why)),
                Decision::Fetch(_, newer) => seen = newer,
                Decision::NotCached => {}
            }
        }
        let join = Join { ask, seen: seen.clone(), reason: Reason::Miss };
        let (has_codings, key) = (join.ask.has_codings, join.ask.key.clone());
        let Ok(Joined { outcome, collapsed }) = inner.oneshot(join).await;
        if let Ok(landing) = &outcome
            && has_codings
            && landing.stored
        {
            store.encode(&key, &landing.page);
        }
        let stand_in = seen.filter(|page| freshness::stands_in(page, Instant::now()));
        match (outcome, stand_in) {
            (Ok(landing), Some(page)) if landing.is_failure() => answer(page, Served::Stale(Why::UpstreamError)),
            (Err(problem), Some(page)) if problem.is_upstream() => answer(page, Served::Stale(Why::UpstreamError)),
            (Err(problem), _) => Err(problem),
            (Ok(landing), _) if landing.remembered => answer(landing.page, Served::Negative),
            (Ok(landing), _) if collapsed => answer(landing.page, Served::Collapsed { forward }),
            (Ok(Landing { page, status, stored, .. }), _) => answer(page, Served::Fetched { forward, status, stored }),
        }
    }
}
