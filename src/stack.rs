//! The path of a request.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::cache::{demand, flight, follow, followers, keep, lookup, store};
use crate::domain::arrival::Arrived;
use crate::domain::body::ReplyBody;
use crate::domain::delivery::{Delivered, Delivery};
use crate::domain::exchange::Fetch;
use crate::domain::heads::Heads;
use crate::domain::problem::Problem;
use crate::domain::received::Received;
use crate::domain::relay::{Call, Called, Relay, Relayed};
use crate::door::admit;
use crate::door::fork::Fork;
use crate::metrics::registry::Metrics;
use crate::metrics::{calls, requests, webhooks};
use crate::relay::change::{Forget, Known};
use crate::relay::service as relay;
use crate::reply::render;
use crate::telemetry;
use crate::trace::attempts;
use crate::trace::export::Traces;
use crate::upstream::ways::InForce;
use crate::upstream::{budget, retry};
use crate::webhook::receive::{MakeStale, Receiver, Webhooks};

/// What the stack is built on: state that all requests share, and that outlives a reload.
#[derive(Clone)]
pub struct Ground {
    /// Who may come in.
    pub house: Arc<ArcSwap<admit::House>>,
    /// What has been asked in which words: remembered by the door, found by whoever reads the words again.
    pub heads: Heads,
    /// The pages.
    pub store: store::Store,
    /// Who follows which page.
    pub follows: followers::Follows,
    /// The fetches under way.
    pub flights: flight::Flights,
    /// The responses of routes that are cached by the upstream's own headers.
    pub http: relay::Http,
    /// How many second tries there may be.
    pub retries: retry::Retries,
    /// What may be sent upstream.
    pub budgets: budget::Budgets,
    /// Which pages were asked for lately.
    pub demand: demand::Demand,
    /// What webhooks share.
    pub webhooks: Webhooks,
    /// The upstreams that are in force, and the ways to them.
    pub in_force: InForce,
    /// The way to Merge.
    pub client: crate::upstream::client::Client,
    /// What is counted.
    pub metrics: Metrics,
    /// Which requests are recorded.
    pub traces: Traces,
}

/// Requests travel down this page, answers travel back up.
pub fn proxy<B>(
    ground: &Ground,
) -> impl Service<Request<Arrived<B>>, Response = Response<ReplyBody>, Error = Infallible, Future: Send> + Clone + use<B>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    // Fetch -> Received: one page from Merge, what it may cost, how often it may be tried.
    let fetch = ServiceBuilder::new()
        .layer(layer_fn(common::<Fetch, Received>))
        .layer(BoxCloneSyncService::layer())
        .layer(retry::layer(ground.retries.clone())) // above the budget: every try pays
        .layer(calls::refusals(ground.metrics.clone())) // what the budget refuses
        .layer(budget::layer(ground.budgets.clone())) // sees every try's status: learns, counts failures
        .layer(calls::tries(ground.metrics.clone())) // what goes out
        .layer(attempts::layer()) // as a part of the caller's trace
        .service(ground.client.clone()); // signs, sends, reads whole, parses

    // Ask -> Given: what is held, or one fetch that everybody shares.
    // Not boxed, as a hit ends in its first layers.
    let shared = ServiceBuilder::new()
        .layer(flight::layer(ground.flights.clone())) // a task of its own, so no caller can kill it
        .layer(keep::layer(ground.store.clone())) // inside the flight: stored once, before anyone is told
        .service(fetch);
    let answer = ServiceBuilder::new()
        .layer(follow::layer(ground.follows.clone())) // Prefer: wait, and event streams; everybody else passes
        .layer(lookup::layer(ground.store.clone())) // a fresh page ends here, without a task or a lock held
        .layer(demand::layer(ground.demand.clone())) // remembers what webhooks are to fetch again
        .service(shared.clone());

    // Call -> Called: one request that passes through as itself, and pays like any other.
    let call = ServiceBuilder::new()
        .layer(layer_fn(common::<Call, Called>))
        .layer(BoxCloneSyncService::layer())
        .layer(retry::layer(ground.retries.clone())) // only what never got an answer and can do no harm
        .layer(calls::refusals(ground.metrics.clone()))
        .layer(budget::layer(ground.budgets.clone())) // until the last byte of the answer
        .layer(calls::tries(ground.metrics.clone()))
        .layer(attempts::layer())
        .service(ground.client.clone()); // signs, sends, streams both ways

    // Relay -> Relayed: routes with cache = "off" or "http".
    let known = (ground.store.clone(), ground.http.responses.clone());
    let forget: Forget = Arc::new(move |what: Known<'_>| {
        let ((pages, responses), now) = (&known, Instant::now());
        match what {
            Known::Account(account) => {
                pages.purge_account(account, false, now);
                responses.purge_account(account, false, now);
            }
            Known::Place(key, path, query) => {
                pages.change(key, path, query, now);
                responses.invalidate(key, path, query, now);
            }
        }
    });
    let relay = ServiceBuilder::new()
        .layer(layer_fn(common::<Relay, Relayed>))
        .layer(BoxCloneSyncService::layer())
        // "off" passes; "http" is answered from the store if RFC 9111 allows; what a change or a resync puts out of date is dropped.
        .layer(relay::layer(ground.http.clone(), forget))
        .service(call);

    // Delivery -> Delivered: Merge says that an account has something new.
    let outdated = (ground.store.clone(), ground.http.responses.clone());
    let make_stale: MakeStale = Arc::new(move |accounts| {
        let now = Instant::now();
        outdated.0.purge_accounts(accounts, false, now);
        outdated.1.purge_accounts(accounts, false, now);
    });
    let house = ground.house.clone();
    let pages = (ground.demand.clone(), ground.store.clone(), ground.flights.clone());
    let receive = ServiceBuilder::new()
        .layer(layer_fn(common::<Delivery, Delivered>))
        .layer(BoxCloneSyncService::layer())
        .layer(webhooks::layer(ground.metrics.clone())) // what becomes of each
        .service(Receiver::new(house, ground.webhooks.clone(), make_stale, pages, shared));

    // Request -> Response: who asks, for what, and how it is said.
    ServiceBuilder::new()
        // A log line and a count for everything, refusals too, and a span if it is to be recorded.
        .layer(telemetry::layer(ground.traces.clone(), requests::counter(ground.metrics.clone())))
        .layer(render::layer()) // gives it a name; from here up nothing fails
        .layer(admit::layer(ground.house.clone())) // Request -> Ask or Relay; all refusals happen here
        .service(Fork::new(answer, relay, receive)) // by the route's cache rule; webhooks are on no route
}

/// One service that all connections have in common: each takes a copy of it for a request, and has none lying about while it is idle.
fn common<R, T>(
    service: BoxCloneSyncService<R, T, Problem>,
) -> impl Service<R, Response = T, Error = Problem, Future: Send> + Clone + Send + Sync
where
    R: Send + 'static,
    T: 'static,
{
    let service = Arc::new(service);
    service_fn(move |request| BoxCloneSyncService::clone(&service).oneshot(request).boxed())
}
