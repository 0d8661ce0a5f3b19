//! Where the two kinds of admitted requests part.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower::Service;

use crate::domain::exchange::{Admitted, Ask, Given};
use crate::domain::problem::Problem;
use crate::domain::relay::{Relay, Relayed};

/// Asks `ask` for pages that all share and `relay` for what passes through.
#[derive(Clone, Debug)]
pub struct Fork<A, R> {
    ask: A,
    relay: R,
}

impl<A, R> Fork<A, R> {
    /// A fork of two ways.
    pub fn new(ask: A, relay: R) -> Self {
        Self { ask, relay }
    }
}

impl<A, R> Service<Admitted> for Fork<A, R>
where
    A: Service<Ask, Response = Given, Error = Problem>,
    R: Service<Relay, Response = Relayed, Error = Problem>,
{
    type Response = Given;
    type Error = Problem;
    type Future = Way<A::Future, R::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, admitted: Admitted) -> Self::Future {
        let taken = match admitted {
            Admitted::Ask(ask) => Taken::Ask { answer: self.ask.call(ask) },
            Admitted::Relay(relay) => Taken::Relay { relayed: self.relay.call(*relay) },
        };
        Way { taken }
    }
}

pin_project! {
    /// The future of [`Fork`].
    pub struct Way<A, R> {
        #[pin]
        taken: Taken<A, R>,
    }
}

pin_project! {
    #[project = TakenProjection]
    enum Taken<A, R> {
        Ask { #[pin] answer: A },
        Relay { #[pin] relayed: R },
    }
}

impl<A, R> Future for Way<A, R>
where
    A: Future<Output = Result<Given, Problem>>,
    R: Future<Output = Result<Relayed, Problem>>,
{
    type Output = Result<Given, Problem>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().taken.project() {
            TakenProjection::Ask { answer } => answer.poll(cx),
            TakenProjection::Relay { relayed } => relayed.poll(cx).map_ok(|relayed| Given::Relayed(Box::new(relayed))),
        }
    }
}
