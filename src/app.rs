//! What one configuration becomes: the state that all requests share, the sockets, the tasks, and their end.

/// Another configuration while it runs.
pub mod reload;

/// When to look for one.
pub mod watch;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::sync::watch::Sender;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tower::{Service, ServiceExt};

use self::reload::{Cause, Reloads};
use crate::admin::explain;
use crate::admin::observer::{Observer, Snapshot, Sources};
use crate::admin::readings::Reading;
use crate::admin::routes::{Admin, Operations};
use crate::admin::rows::Lookup;
use crate::admin::scrape::Scene;
use crate::admin::state;
use crate::cache::demand::Demand;
use crate::cache::flight::Flights;
use crate::cache::follow::Follows;
use crate::cache::store::Store;
use crate::config::address::ListenAddress;
use crate::config::changes::Changes;
use crate::config::effective::Config;
use crate::config::fault::Faults;
use crate::config::secret::Secret;
use crate::config::tls::Watch;
use crate::domain::access::Name;
use crate::domain::arrival::Arrived;
use crate::domain::body::ReplyBody;
use crate::domain::delivery::WEBHOOK_PATH;
use crate::domain::event::{Events, Kind};
use crate::domain::key::{CanonicalQuery, PageKey, TokenHasher};
use crate::domain::peer::{Asker, Peer};
use crate::domain::rules::{CacheRule, Route, SocketAccess};
use crate::domain::signature::SigningKey;
use crate::domain::tally::Connections;
use crate::door::admit::House;
use crate::door::audit::{Audit, Event, KeyRefusal};
use crate::door::identify::Consumers;
use crate::door::query;
use crate::door::resolve::Accounts;
use crate::door::route::Routes;
use crate::door::strangers::Strangers;
use crate::listen::accept::{self, Drained, Limits, Listener};
use crate::listen::bind::{self, Presence};
use crate::listen::pulse::Patience;
use crate::listen::tls::Tls;
use crate::listen::unix;
use crate::metrics::gauges::StoreGauges;
use crate::metrics::registry::Metrics;
use crate::relay::service::Http;
use crate::stack::{self, Ground};
use crate::trace::export::{ExportError, Traces};
use crate::upstream::breaker;
use crate::upstream::budget::Budgets;
use crate::upstream::client::{Client, Transport};
use crate::upstream::retry::Retries;
use crate::upstream::standing::UpstreamStanding;
use crate::upstream::transport::{self, TransportError};
use crate::webhook::receive::Webhooks;

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}{}", advice(reason))]
    Listen {
        /// The address as configured.
        address: String,
        /// The operating system's reason.
        reason: io::Error,
    },
    /// An upstream cannot be reached at all.
    #[error("upstream {upstream}: {reason}")]
    Upstream {
        /// Its name.
        upstream: Name,
        /// What is wrong.
        reason: TransportError,
    },
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] ExportError),
}

/// What to do about an address that cannot be had.
fn advice(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::AddrInUse => "; to take over from a proxy that runs there, start with --replace",
        _ => "",
    }
}

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

/// Bound sockets, ready to be served.
#[derive(Debug)]
pub struct Listeners {
    /// Where consumers come in.
    pub proxy: Vec<Listener>,
    /// Where operators come in.
    pub admin: Listener,
    /// What the first of these speak TLS with.
    pub tls: Option<Tls>,
}

/// How often the store does what it has put off.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// How often the files of certificates are looked at: they are small, and a renewal is seen in two looks.
const LOOK: Duration = Duration::from_secs(1);

/// How many operators may be connected at a time.
const MOST_OPERATORS: usize = 256;

impl App {
    /// The proxy of `config`, with real connections to its upstreams.
    ///
    /// # Errors
    /// If an upstream's certificates cannot be used.
    pub fn new(config: Config, hasher: &TokenHasher) -> Result<Self, StartError> {
        let connect = |upstream: &Arc<crate::domain::access::Upstream>| {
            let name = upstream.name.clone();
            match transport::connect(upstream) {
                Ok(transport) => Ok((name, transport)),
                Err(reason) => Err(StartError::Upstream { upstream: name, reason }),
            }
        };
        let transports = config.upstreams.iter().map(connect).collect::<Result<_, _>>()?;
        let traces = match &config.telemetry.otlp {
            Some(endpoint) => Traces::start(endpoint, config.telemetry.sample)?,
            None => Traces::default(),
        };
        let mut app = Self::with_transports(config, hasher, transports);
        app.ground.traces = traces;
        Ok(app)
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
        let ground = Ground {
            house: Arc::new(ArcSwap::from_pointee(house)),
            flights: Flights::new(store.clone()),
            follows: Follows::new(store.clone()),
            store,
            http: Http::new(responses),
            retries: Retries::default(),
            budgets: Budgets::default(),
            demand: Demand::default(),
            webhooks: Webhooks::new(events.clone()),
            client: Client::new(transports),
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
            max_connections: MOST_OPERATORS,
            max_connections_per_peer: u32::MAX,
            patience,
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
            let drained =
                accept::serve(listeners.proxy, stack::proxy(&self.ground), limits, connections, stop, self.cut()).await;
            self.observer.close();
            drop(done);
            drained
        };
        self.events.note(Kind::Lifecycle, None, "serving");
        let operator = Connections::default();
        let admin = Admin::new(self.clone());
        let admin = accept::serve(vec![listeners.admin], admin, operators, &operator, proxy_is_done, self.cut());
        let upkeep = async {
            tokio::select! {
                () = self.maintain() => unreachable!("maintenance has no end"),
                () = self.renew(listeners.tls) => unreachable!("certificates are looked after until the end"),
                both = futures_util::future::join(consumers, admin) => both.0,
            }
        };
        let drained = upkeep.await;
        let traces = self.ground.traces.clone();
        let _ = tokio::task::spawn_blocking(move || traces.flush()).await;
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
        let is_blocked = |standing: &UpstreamStanding| {
            standing.failures_allowed.is_some_and(|allowed| standing.failed >= allowed)
                || !matches!(standing.breaker, breaker::State::Closed)
        };
        let standings = self.ground.budgets.upstreams().into_iter();
        let blocked: Vec<Name> = standings.filter(is_blocked).map(|standing| standing.name).collect();
        self.observer.count(now, Reading::of(&self.ground.metrics, now), &blocked, &self.events);
        if self.observer.is_watched() {
            self.look();
        }
    }
}

/// Loads `watch`'s certificates for `tls` whenever they change; the last good ones stay until there are others.
async fn renew(tls: &Tls, mut watch: Watch) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = spawn_blocking(move || {
            let found = watch.look();
            (watch, found)
        });
        // Only a panic or the end of the runtime makes this fail; either way there is nothing left to look after.
        let Ok((again, found)) = looked.await else { return };
        watch = again;
        match found {
            None => {}
            Some(Ok(loaded)) => {
                if let Some(warning) = loaded.warning {
                    tracing::warn!(warning, "the renewed certificate is in use, and yet");
                }
                tls.replace(loaded.server);
                tracing::info!(target: "audit", "certificates renewed");
            }
            Some(Err(faults)) => {
                for fault in faults {
                    tracing::warn!(%fault, "the certificates have changed and cannot be used; the last good ones stay");
                }
            }
        }
    }
}

fn limits(config: &Config) -> Limits {
    let server = &config.server;
    let patience = Patience { header: server.header_timeout, body: server.body_timeout, idle: server.idle_timeout };
    Limits {
        max_connections: server.max_connections,
        max_connections_per_peer: server.max_connections_per_peer,
        patience,
        drain: server.drain,
    }
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

impl Operations for App {
    fn not_ready(&self) -> Vec<&'static str> {
        self.draining.load(Ordering::Relaxed).then_some("draining").into_iter().collect()
    }

    fn token(&self) -> Option<Secret> {
        self.config.load().admin.token.clone()
    }

    fn reload(&self, operator: &Asker) -> Result<Changes, Faults> {
        self.reload_for(Cause::Operator, operator)
    }

    fn refused(&self, reason: KeyRefusal, asker: Asker) {
        self.ground.house.load().audit.tell(Event::OperatorRefused { reason }, asker, Instant::now());
    }

    fn purge(&self, account: Option<&str>, hard: bool, operator: &Asker) -> Option<usize> {
        let (store, responses, now) = (&self.ground.store, &self.ground.http.responses, Instant::now());
        let purged = match account {
            Some(name) => {
                let house = self.ground.house.load();
                let account = house.accounts.named(name)?;
                store.purge_account(account.hash, hard, now) + responses.purge_account(account.hash, hard, now)
            }
            None => store.purge_all(hard, now) + responses.purge_all(hard, now),
        };
        let (peer, id) = (operator.peer(), operator.id());
        tracing::info!(target: "audit", account = account.unwrap_or("all"), hard, pages = purged, peer, id, "purged");
        let how = if hard { "dropped" } else { "made stale" };
        let subject = account.map_or_else(|| "all accounts".into(), Into::into);
        let plural = if purged == 1 { "page" } else { "pages" };
        self.events.note(Kind::Purge, Some(subject), format!("{purged} {plural} {how}"));
        Some(purged)
    }

    fn explain(&self, account: &str, category: &str, asked: &str) -> Option<Value> {
        let house = self.ground.house.load();
        let account = house.accounts.named(account)?;
        let stop = house.routes.find(&Method::GET, &format!("/api/{category}/v1/sync-status")).ok()?;
        let upstream = match stop.upstream {
            Some(name) => house.accounts.upstreams().find(|upstream| upstream.name == name)?,
            None => &account.upstream,
        };
        let key = PageKey {
            upstream: upstream.name.clone(),
            account: account.hash,
            place: stop.place,
            query: CanonicalQuery::new(asked),
        };
        let now = Instant::now();
        let refusal = query::check(&key.query).err();
        let obstacle = explain::obstacle(&self.ground.budgets, upstream, account.hash, now);
        Some(explain::explain(&key, self.ground.store.get(&key), refusal.as_ref(), obstacle.as_deref(), now))
    }

    fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    fn look(&self) -> Arc<Snapshot> {
        let ground = &self.ground;
        let house = ground.house.load();
        let responses = &ground.http.responses;
        let (entries, bytes) = responses.size();
        let reasons = self.not_ready();
        self.observer.look(&Sources {
            lookup: Lookup {
                house: &house,
                store: &ground.store,
                budgets: &ground.budgets,
                nameless: ground.metrics.nameless(),
            },
            flights: &ground.flights,
            responses: (entries, bytes, responses.capacity()),
            events: &self.events,
            condition: if reasons.is_empty() { "ready".to_owned() } else { reasons.join(", ") },
            reloadable: self.is_reloadable(),
            last_reload: self.last_reload().map(|reload| state::Reload {
                at: state::millis(reload.at),
                succeeded: reload.result.is_ok(),
                text: reload.told(),
            }),
        })
    }

    fn metrics(&self) -> String {
        let Ground { house, store, flights, http, budgets, metrics, .. } = &self.ground;
        let (entries, bytes) = http.responses.size();
        let responses = StoreGauges {
            holds: "responses",
            entries,
            bytes,
            capacity: http.responses.capacity(),
            flights: http.meetings.count(),
            keeping: http.responses.keeping().clone(),
        };
        Scene { house: &house.load(), store, flights, responses, budgets, metrics }.scrape()
    }
}

impl Listeners {
    /// Binds all that `config` names; nobody else may listen there.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        Self::bind_with(config, Presence::Alone).await
    }

    /// Binds all that `config` names.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub async fn bind_with(config: &Config, presence: Presence) -> Result<Self, StartError> {
        let tls = config.server.tls.as_ref().map(|tls| Tls::new(tls.loaded.server.clone(), tls.handshake_timeout));
        let mut proxy = Vec::new();
        for address in &config.server.listen {
            let listener = bind(address, config.server.unix, presence).await?;
            proxy.push(match &tls {
                Some(tls) => listener.secured(tls),
                None => listener,
            });
        }
        // Who may ask is not thereby an operator.
        let admin = bind(&config.admin.listen, SocketAccess::OWNER, presence).await?;
        Ok(Self { proxy, admin, tls })
    }
}

async fn bind(address: &ListenAddress, access: SocketAccess, presence: Presence) -> Result<Listener, StartError> {
    let bound = match address {
        ListenAddress::Tcp { host, port } => bind::tcp(host, *port, presence).await.map(Listener::Tcp),
        ListenAddress::Unix(path) => unix::bind(path, access, presence).map(Listener::Unix),
    };
    bound.map_err(|reason| StartError::Listen { address: address.to_string(), reason })
}
