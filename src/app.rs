//! What one configuration becomes: the state that all requests share, the sockets, the tasks, and their end.

/// Another configuration while it runs.
pub mod reload;

/// When to look for one.
pub mod watch;

/// The sockets.
mod sockets;

/// What operators may ask.
mod operate;

/// Renewed certificates.
mod certificates;

/// How many connections fit into the open files that the process may have.
pub mod descriptors;

pub(crate) use self::sockets::ADMIN;
pub use self::sockets::{Listeners, StartError};

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::sync::watch::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tower::{Service, ServiceExt};

use self::certificates::renew;
use self::reload::Reloads;
use crate::admin::observer::Observer;
use crate::admin::readings::Reading;
use crate::admin::routes::{Admin, Operations};
use crate::cache::demand::Demand;
use crate::cache::flight::Flights;
use crate::cache::followers::Follows;
use crate::cache::store::Store;
use crate::config::effective::Config;
use crate::config::tls::Watch;
use crate::domain::access::{Name, Upstream};
use crate::domain::arrival::Arrived;
use crate::domain::body::ReplyBody;
use crate::domain::delivery::WEBHOOK_PATH;
use crate::domain::event::{Events, Kind};
use crate::domain::heads::Heads;
use crate::domain::key::TokenHasher;
use crate::domain::peer::Peer;
use crate::domain::rules::{CacheRule, Route};
use crate::domain::signature::SigningKey;
use crate::domain::tally::Connections;
use crate::door::admit::House;
use crate::door::audit::Audit;
use crate::door::identify::Consumers;
use crate::door::resolve::Accounts;
use crate::door::route::Routes;
use crate::door::strangers::Strangers;
use crate::listen::accept::{self, Drained, Limits};
use crate::listen::pulse::Patience;
use crate::listen::tls::Tls;
use crate::metrics::registry::Metrics;
use crate::relay::service::Http;
use crate::stack::{self, Ground};
use crate::trace::export::Traces;
use crate::upstream::budget::Budgets;
use crate::upstream::client::Client;
use crate::upstream::retry::Retries;
use crate::upstream::standing::UpstreamStanding;
use crate::upstream::transport;
use crate::upstream::ways::{InForce, Transport, Ways};
use crate::webhook::receive::Webhooks;

/// The running proxy. Cheap to clone; all clones are the same proxy.
#[derive(Clone)]
pub struct App {
    pub(crate) ground: Ground,
    config: Arc<ArcSwap<Config>>,
    /// What a reload may change of how connections are treated.
    limits: Arc<ArcSwap<Limits>>,
    pub(crate) reloads: Arc<Reloads>,
    draining: Arc<AtomicBool>,
    events: Events,
    observer: Arc<Observer>,
    /// Whether a drain is to end at once.
    cut: Arc<Sender<bool>>,
}

/// How often the store does what it has put off.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// How many operators may be connected at a time.
const MOST_OPERATORS: usize = 256;

/// How many of them may come from one address: nobody who has no token is to keep the others from looking.
const MOST_OPERATORS_PER_PEER: u32 = 64;

/// How long one of their connections may be idle, at most; fewer have to share than of consumers.
const OPERATORS_IDLE: Duration = Duration::from_secs(30);

impl App {
    /// The proxy of `config`, with real connections to its upstreams.
    ///
    /// # Errors
    /// If an upstream's certificates cannot be used.
    pub fn new(config: Config, hasher: &TokenHasher) -> Result<Self, StartError> {
        let transports = Self::ways(&config)?;
        let traces = match &config.telemetry.otlp {
            Some(endpoint) => Traces::start(endpoint, config.telemetry.sample)?,
            None => Traces::default(),
        };
        let mut app = Self::with_transports(config, hasher, transports);
        app.ground.traces = traces;
        Ok(app)
    }

    /// The ways to the upstreams of `config`.
    fn ways(config: &Config) -> Result<HashMap<Name, Transport>, StartError> {
        let connect = |upstream: &Arc<Upstream>| {
            let name = upstream.name.clone();
            match transport::connect(upstream) {
                Ok(transport) => Ok((name, transport)),
                Err(reason) => Err(StartError::Upstream { upstream: name, reason }),
            }
        };
        config.upstreams.iter().map(connect).collect()
    }

    /// Whether the surroundings have the certificates that the upstreams of `config` need.
    ///
    /// # Errors
    /// If a start would fail for that.
    pub fn could_connect(config: &Config) -> Result<(), StartError> {
        Self::ways(config).map(drop)
    }

    /// The proxy of `config`, reaching its upstreams through `transports`.
    pub fn with_transports(config: Config, hasher: &TokenHasher, transports: HashMap<Name, Transport>) -> Self {
        let (pages, responses) = shares(&config.routes, config.cache.max_bytes);
        let store = Store::new(pages);
        let house = Self::house(&config, hasher, None, Instant::now());
        let metrics = Metrics::default();
        metrics.expect(
            config.consumers.iter().map(|consumer| &consumer.name),
            config.accounts.iter().map(|account| &**account),
        );
        let events = Events::default();
        let in_force = InForce::new(Ways::new(&config.upstreams, &config.accounts, transports));
        let ground = Ground {
            house: Arc::new(ArcSwap::from_pointee(house)),
            heads: Heads::new(pages),
            flights: Flights::new(store.clone()),
            follows: Follows::new(store.clone()),
            store,
            http: Http::new(responses),
            retries: Retries::default(),
            budgets: Budgets::new(in_force.clone()),
            demand: Demand::default(),
            webhooks: Webhooks::new(events.clone()),
            client: Client::new(in_force.clone()),
            in_force,
            metrics,
            traces: Traces::default(),
        };
        Self {
            ground,
            limits: Arc::new(ArcSwap::from_pointee(limits(&config))),
            reloads: Arc::new(Reloads::new(&config, hasher.clone())),
            config: Arc::new(ArcSwap::from_pointee(config)),
            draining: Arc::default(),
            events,
            observer: Arc::default(),
            cut: Arc::new(Sender::new(false)),
        }
    }

    /// Ends a drain at once: what still runs is cut.
    pub fn cut_short(&self) {
        self.cut.send_replace(true);
    }

    async fn cut(&self) {
        let mut cut = self.cut.subscribe();
        // The sender is this app's own.
        let _ = cut.wait_for(|cut| *cut).await;
    }

    /// The door of `config`; what consumers have spent `before`, they have spent.
    pub(crate) fn house(config: &Config, hasher: &TokenHasher, before: Option<&House>, now: Instant) -> House {
        let upstreams = (&config.upstreams, config.default_upstream.clone());
        let routes = Routes::new(&config.routes, config.cache.lifetimes, config.cache.max_page_bytes);
        let secrets = config.webhook.as_ref().map_or(&[][..], |webhook| &webhook.secrets);
        let signing_keys: Vec<_> = secrets.iter().map(|secret| SigningKey::new(secret.expose())).collect();
        let routes = if signing_keys.is_empty() { routes } else { routes.without(WEBHOOK_PATH) };
        House {
            edition: before.map_or(0, |before| before.edition + 1),
            routes,
            signing_keys,
            consumers: Consumers::new(&config.consumers, before.map(|before| &before.consumers), now),
            strangers: Strangers::new(config.server.failed_keys, before.map(|before| &before.strangers), now),
            accounts: Accounts::new(&config.accounts, upstreams.0, upstreams.1, hasher.clone()),
            max_header_bytes: config.server.max_header_bytes,
            audit: before.map_or_else(|| Arc::new(Audit::new(now)), |before| before.audit.clone()),
        }
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub(crate) fn set_config(&self, config: Config) {
        self.limits.store(Arc::new(limits(&config)));
        self.config.store(Arc::new(config));
    }

    /// What the stack stands on: the pages, the flights, the budgets.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// What operators should hear of.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The whole stack as one service, for requests from within this process; one that has an `Arc<Peer>` among its extensions is
    /// answered as if it had come from there.
    pub fn service<B>(
        &self,
    ) -> impl Service<Request<B>, Response = Response<ReplyBody>, Error = Infallible, Future: Send> + Clone + use<B>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        stack::proxy(&self.ground).map_request(|mut request: Request<B>| {
            let peer = request.extensions_mut().remove::<Arc<Peer>>();
            request.map(|body| Arrived::within(peer.map(Arc::unwrap_or_clone), body))
        })
    }

    /// Serves on `listeners` until `stop`, then drains: consumers first, so that operators can watch.
    pub async fn serve(&self, listeners: Listeners, stop: impl Future) -> Drained {
        let patience = self.limits.load().patience;
        let operators = Limits {
            max_connections: connections(&self.config.load()).operators,
            max_connections_per_peer: MOST_OPERATORS_PER_PEER,
            patience: Patience { idle: patience.idle.min(OPERATORS_IDLE), ..patience },
            drain: Duration::from_secs(1),
        };
        let operators = Arc::new(ArcSwap::from_pointee(operators));
        let (done, proxy_is_done) = oneshot::channel::<()>();
        let stop = async {
            stop.await;
            self.draining.store(true, Ordering::Relaxed);
            self.ground.follows.drain();
            self.events.note(Kind::Lifecycle, None, "stopping: what runs is finished");
        };
        let consumers = async {
            let (limits, connections) = (self.limits.clone(), self.ground.metrics.connections());
            let (service, heads) = (stack::proxy(&self.ground), Some(self.ground.heads.clone()));
            let drained = accept::serve(listeners.proxy, service, limits, connections, heads, stop, self.cut()).await;
            self.observer.close();
            drop(done);
            drained
        };
        self.events.note(Kind::Lifecycle, None, "serving");
        let operator = Connections::default();
        let admin = Admin::new(self.clone());
        let admin = accept::serve(vec![listeners.admin], admin, operators, &operator, None, proxy_is_done, self.cut());
        let upkeep = async {
            tokio::select! {
                () = self.maintain() => unreachable!("maintenance has no end"),
                () = self.renew(listeners.tls) => unreachable!("certificates are looked after until the end"),
                both = futures_util::future::join(consumers, admin) => both.0,
            }
        };
        let drained = upkeep.await;
        drop(listeners.files);
        let traces = self.ground.traces.clone();
        let _ = tokio::task::spawn_blocking(move || traces.finish()).await;
        drained
    }

    async fn renew(&self, tls: Option<Tls>) {
        let configured = self.config.load().server.tls.clone();
        if let (Some(tls), Some(configured)) = (tls, configured) {
            renew(&tls, Watch::new(&configured)).await;
        }
        std::future::pending::<()>().await;
    }

    async fn maintain(&self) {
        let mut ticks = interval(MAINTENANCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.ground.metrics.tick();
            self.ground.store.maintain();
            self.ground.http.responses.maintain();
            self.ground.house.load().audit.settle(Instant::now());
            // Reading all counters takes longer the more consumers and accounts there are: not on a thread that serves.
            let app = self.clone();
            let _ = tokio::task::spawn_blocking(move || app.watch()).await;
        }
    }

    /// Takes note of what has been counted, and looks again if anybody watches.
    fn watch(&self) {
        let now = Instant::now();
        let standings = self.ground.budgets.upstreams().into_iter();
        let blocked: Vec<Name> = standings.filter(UpstreamStanding::is_blocked).map(|standing| standing.name).collect();
        self.observer.count(now, Reading::of(&self.ground.metrics, now), &blocked, &self.events);
        if self.observer.is_watched() {
            self.look();
        }
    }
}

fn limits(config: &Config) -> Limits {
    let server = &config.server;
    let patience = Patience { header: server.header_timeout, body: server.body_timeout, idle: server.idle_timeout };
    let descriptors::Connections { consumers, per_peer, .. } = connections(config);
    Limits { max_connections: consumers, max_connections_per_peer: per_peer, patience, drain: server.drain }
}

/// How many connections may be open of those that are configured.
fn connections(config: &Config) -> descriptors::Connections {
    let (consumers, per_peer) = (config.server.max_connections, config.server.max_connections_per_peer);
    descriptors::Connections { consumers, per_peer, operators: MOST_OPERATORS }.within(descriptors::limit())
}

/// How `max_bytes` are shared between pages and the responses of `http` routes: all to the one kind that there is, else half each.
pub(crate) fn shares(routes: &[Route], max_bytes: u64) -> (u64, u64) {
    let any = |wanted: fn(CacheRule) -> bool| routes.iter().any(|route| wanted(route.cache));
    match (any(|rule| matches!(rule, CacheRule::SyncStatus | CacheRule::Fixed(_))), any(|rule| rule == CacheRule::Http))
    {
        (true, true) => (max_bytes - max_bytes / 2, max_bytes / 2),
        (false, true) => (0, max_bytes),
        (_, false) => (max_bytes, 0),
    }
}
