//! The path of a request.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder};

use crate::cache::{flight, lookup, store};
use crate::domain::exchange::{Answer, Ask, Fetch};
use crate::domain::page::Received;
use crate::domain::problem::Problem;
use crate::door::admit;
use crate::reply::render;
use crate::telemetry;
use crate::upstream::{budget, retry};

/// What the stack is built on: state that all requests share, and that outlives a reload.
#[derive(Clone)]
pub struct Ground {
    /// Who may come in.
    pub house: Arc<ArcSwap<admit::House>>,
    /// The pages.
    pub store: store::Store,
    /// The fetches under way.
    pub flights: flight::Flights,
    /// What may be sent upstream.
    pub budgets: budget::Budgets,
    /// The way to Merge.
    pub client: crate::upstream::client::Client,
}

/// Requests travel down this page, answers travel back up.
pub fn proxy<B>(
    ground: &Ground,
) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + use<B>
where
    B: Body + Send + 'static,
{
    // Fetch -> Received: one page from Merge, what it may cost, how often it may be tried.
    let fetch: BoxCloneSyncService<Fetch, Received, Problem> = ServiceBuilder::new()
        .layer(BoxCloneSyncService::layer())
        .layer(retry::layer()) // above the budget: every try pays
        .layer(budget::layer(ground.budgets.clone())) // sees every try's status: learns, counts failures
        .service(ground.client.clone()); // signs, sends, reads whole, parses

    // Ask -> Answer: what is held, or one fetch that everybody shares.
    let answer: BoxCloneSyncService<Ask, Answer, Problem> = ServiceBuilder::new()
        .layer(BoxCloneSyncService::layer())
        .layer(lookup::layer(ground.store.clone())) // a fresh page ends here, without a task or a lock held
        .layer(flight::layer(ground.flights.clone())) // a task of its own, so no caller can kill it
        .layer(store::keep(ground.store.clone())) // inside the flight: stored once, before anyone is told
        .service(fetch);

    // Request -> Response: who asks, for what, and how it is said.
    ServiceBuilder::new()
        .layer(telemetry::layer()) // a name and a log line for everything
        .layer(render::layer()) // from here up nothing fails
        .layer(admit::layer(ground.house.clone())) // Request -> Ask; all refusals happen here
        .service(answer)
}
