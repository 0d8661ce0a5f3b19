//! Where the three kinds of admitted requests part.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower::Service;

use crate::domain::ask::Ask;
use crate::domain::delivery::{Delivered, Delivery};
use crate::domain::exchange::{Admitted, Given};
use crate::domain::problem::Problem;
use crate::domain::relay::{Relay, Relayed};

/// Asks `ask` for pages that all share and `relay` for what passes through; `receive` takes webhooks.
#[derive(Clone, Debug)]
pub struct Fork<A, R, W> {
    ask: A,
    relay: R,
    receive: W,
}

impl<A, R, W> Fork<A, R, W> {
    /// A fork of three ways.
    pub fn new(ask: A, relay: R, receive: W) -> Self {
        Self { ask, relay, receive }
    }
}

impl<A, R, W> Service<Admitted> for Fork<A, R, W>
where
    A: Service<Ask, Response = Given, Error = Problem>,
    R: Service<Relay, Response = Relayed, Error = Problem>,
    W: Service<Delivery, Response = Delivered, Error = Problem>,
{
    type Response = Given;
    type Error = Problem;
    type Future = Way<A::Future, R::Future, W::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, admitted: Admitted) -> Self::Future {
        let taken = match admitted {
            Admitted::Ask(ask) => Taken::Ask { answer: self.ask.call(ask) },
            Admitted::Relay(relay) => Taken::Relay { relayed: self.relay.call(*relay) },
            Admitted::Delivery(delivery) => Taken::Delivery { delivered: self.receive.call(*delivery) },
        };
        Way { taken }
    }
}

pin_project! {
    /// The future of [`Fork`].
    pub struct Way<A, R, W> {
        #[pin]
        taken: Taken<A, R, W>,
    }
}

pin_project! {
    #[project = TakenProjection]
    enum Taken<A, R, W> {
        Ask { #[pin] answer: A },
        Relay { #[pin] relayed: R },
        Delivery { #[pin] delivered: W },
    }
}

impl<A, R, W> Future for Way<A, R, W>
where
    A: Future<Output = Result<Given, Problem>>,
    R: Future<Output = Result<Relayed, Problem>>,
    W: Future<Output = Result<Delivered, Problem>>,
{
    type Output = Result<Given, Problem>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().taken.project() {
            TakenProjection::Ask { answer } => answer.poll(cx),
            TakenProjection::Relay { relayed } => relayed.poll(cx).map_ok(|relayed| Given::Relayed(Box::new(relayed))),
            TakenProjection::Delivery { delivered } => delivered.poll(cx).map_ok(Given::Delivered),
        }
    }
}
