//! Following: requests that are held until the page changes, and streams of pages that change.
//!
//! Whoever does is one of the [followers](super::followers) of a page, which is kept fresh for all of them together. One that is held
//! holds no place among those who wait for the upstream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http::HeaderValue;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep_until};
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use super::followers::{Follows, Release, again, is_news};
use super::renew::{LONGEST_PAUSE, Renewal};
use crate::domain::ask::Ask;
use crate::domain::cache_control::{FOREVER, Wants};
use crate::domain::detached;
use crate::domain::exchange::{Answer, Given};
use crate::domain::follow::{Follow, Followed, How, Updates};
use crate::domain::key::PageKey;
use crate::domain::page::Kind;
use crate::domain::problem::Problem;

/// How long a stream lasts. Then the client comes again, past the door: so nobody is told for longer of what is no longer
/// granted.
const LONGEST_STREAM: Duration = Duration::from_secs(600);

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
        let release = self.follows.next_release();
        let given = match *follow {
            Follow::Wait { at_most, known } => self.clone().wait(ask, release, at_most, known).boxed(),
            Follow::Stream { known } => self.clone().stream(ask, release, known).boxed(),
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
        mut release: Release,
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
        let Some(mut follower) = self.follows.join(&ask, place, &release, &self.inner) else {
            return Ok(Given::Page(first));
        };
        let has_ended = tokio::select! {
            biased;
            () = release.come() => true,
            _ = follower.other_than(&known) => false,
            () = sleep_until(until) => false,
        };
        drop(follower);
        // Whoever is released is let go as well.
        let answer = if has_ended || release.has_come() {
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
        answer.page.kind == Kind::Good && self.follows.store().get(key).is_some()
    }

    async fn stream(self, ask: Ask, release: Release, known: Vec<HeaderValue>) -> Result<Given, Problem> {
        let answer = self.inner.clone().oneshot(ask.clone()).await?;
        if !self.may_follow(&ask.key, &answer) {
            return Ok(Given::Page(answer));
        }
        let place = ask.caller.follows.clone().try_acquire_owned();
        let place = place.map_err(|_| Problem::Overloaded { retry_after: LONGEST_PAUSE })?;
        let follower = self.follows.join(&ask, place, &release, &self.inner);
        let until = Instant::now() + LONGEST_STREAM;
        let pages = stream::unfold((follower, release, known), move |(follower, mut release, known)| async move {
            let mut follower = follower?;
            let page = tokio::select! {
                biased;
                () = release.come() => None,
                page = follower.other_than(&known) => page,
                () = sleep_until(until) => None,
            };
            // A stream has no way to tell of a refusal: the client asks again, and hears it.
            let page = page.filter(|page| page.kind == Kind::Good)?;
            // Not the page's own: it would hold the body as well for as long as the stream lasts.
            let known = vec![detached::value(&page.etag)];
            Some((page, (Some(follower), release, known)))
        });
        Ok(Given::Followed(Box::new(Followed { answer, how: How::Stream(Some(Updates::new(pages))) })))
    }
}
