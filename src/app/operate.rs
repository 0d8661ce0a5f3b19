//! What operators may ask of the running proxy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::App;
use super::reload::Cause;
use crate::admin::explain::{self, Known};
use crate::admin::observer::{Observer, Snapshot, Sources};
use crate::admin::routes::Operations;
use crate::admin::rows::Lookup;
use crate::admin::scrape::Scene;
use crate::admin::state;
use crate::config::changes::Changes;
use crate::config::fault::Faults;
use crate::config::secret::Secret;
use crate::domain::access::{AccountHash, Name};
use crate::domain::event::Kind;
use crate::domain::key::{CanonicalQuery, KeyParts, PageKey};
use crate::domain::peer::Asker;
use crate::door::admit::House;
use crate::door::audit::{Event, KeyRefusal};
use crate::door::query;
use crate::metrics::gauges::StoreGauges;
use crate::stack::Ground;
use crate::telemetry::log;

impl App {
    /// The account that an operator calls so, and its upstream: by its name, or by what the status page calls one without a name of
    /// which something is known.
    fn meant(&self, house: &House, account: &str) -> Option<(AccountHash, Name)> {
        if let Some(account) = house.accounts.named(account) {
            return Some((account.hash, account.upstream.name.clone()));
        }
        let mut digits = [0; 4];
        hex::decode_to_slice(account.strip_prefix("raw:")?, &mut digits).ok()?;
        let is_it = |hash: &AccountHash| hash.0.starts_with(&digits);
        let page = self.ground.store.pages().find(|(key, _)| is_it(&key.account));
        let of_page = page.map(|(key, _)| (key.account, key.upstream.clone()));
        of_page.or_else(|| {
            let called = self.ground.metrics.nameless().numbers(Instant::now());
            called.into_iter().find(|one| is_it(&one.hash)).map(|one| (one.hash, one.upstream))
        })
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
                let (hash, _) = self.meant(&self.ground.house.load(), name)?;
                store.purge_account(hash, hard, now) + responses.purge_account(hash, hard, now)
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
        let name = house.accounts.named(account).and_then(|account| account.name.clone());
        let (account, own) = self.meant(&house, account)?;
        let stop = house.routes.find(&Method::GET, &format!("/api/{category}/v1/sync-status")).ok()?;
        let at = stop.upstream.unwrap_or(own);
        let upstream = house.accounts.upstreams().find(|upstream| upstream.name == at)?;
        let key = PageKey::new(KeyParts {
            upstream: upstream.name.clone(),
            account,
            place: stop.place,
            query: CanonicalQuery::new(asked),
        });
        let now = Instant::now();
        let refusal = query::check(&key.query).err();
        let obstacle = self.ground.budgets.obstacle(upstream, account);
        let metrics = &self.ground.metrics;
        let last = match &name {
            Some(name) => metrics.last_calls(&upstream.name, name, now),
            None => metrics.nameless().numbers(now).into_iter().find(|one| one.hash == account).map(|one| one.last),
        };
        let (page, rule) = (self.ground.store.get(&key), stop.policy.rule);
        let known = Known { page, refusal: refusal.as_ref(), rule, obstacle, last };
        Some(explain::explain(&key, known, now))
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
            needs_restart: self.needs_restart(),
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
        let lost_lines = log::lost_lines();
        Scene { house: &house.load(), store, flights, responses, budgets, metrics, lost_lines }.scrape()
    }
}
