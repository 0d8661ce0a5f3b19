//! What Prometheus is told: all that is counted, and how things are at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::flight::Flights;
use crate::cache::store::Store;
use crate::domain::access::{Name, Upstream};
use crate::domain::bucket::Rate;
use crate::door::admit::House;
use crate::metrics::gauges::{BudgetGauges, Gauges, StoreGauges, UpstreamGauges};
use crate::metrics::registry::{Metrics, RAW};
use crate::upstream::budget::Budgets;
use crate::upstream::standing::UpstreamStanding;

/// The parts that are looked at.
pub struct Scene<'a> {
    /// Who may come in.
    pub house: &'a House,
    /// The pages.
    pub store: &'a Store,
    /// The fetches under way.
    pub flights: &'a Flights,
    /// The responses of `http` routes.
    pub responses: StoreGauges,
    /// What may be sent upstream.
    pub budgets: &'a Budgets,
    /// What is counted.
    pub metrics: &'a Metrics,
    /// Lines of the log that were left out.
    pub lost_lines: u64,
}

impl Scene<'_> {
    /// The text.
    pub fn scrape(self) -> String {
        let (flights, flight_waiters) = self.flights.count();
        let (entries, bytes) = self.store.size();
        let pages = StoreGauges {
            holds: "pages",
            entries,
            bytes,
            capacity: self.store.capacity(),
            flights,
            keeping: self.store.keeping().clone(),
        };
        let (budgets, upstreams) = (self.budgets(), self.upstreams());
        let (stores, lost_lines) = (vec![pages, self.responses], self.lost_lines);
        let gauges = Gauges { budgets, upstreams, stores, flight_waiters, lost_lines };
        gauges.expose(self.metrics)
    }

    /// The budgets of all accounts that have names, called or not; of those that have none only how many calls wait.
    fn budgets(&self) -> Vec<BudgetGauges> {
        let now = Instant::now();
        let waiting = |standing: UpstreamStanding| (standing.name, standing.waiting);
        let mut nameless: BTreeMap<Name, usize> = self.budgets.upstreams().into_iter().map(waiting).collect();
        let mut gauges = Vec::new();
        for (upstream, name) in self.metrics.calls_by_account().into_keys() {
            // One that a route has sent elsewhere has a budget of its own there.
            let of_key = |one: &&Arc<Upstream>| one.name == upstream;
            let at = self.house.accounts.upstreams().find(of_key);
            let Some((account, at)) = self.house.accounts.named(&name).zip(at) else { continue };
            let standing = self.budgets.account(at, account.hash);
            let waiting = standing.map_or(0, |standing| standing.waiting);
            if let Some(all) = nameless.get_mut(&upstream) {
                *all = all.saturating_sub(waiting);
            }
            let limit = account.rate_at(at);
            let untouched = || limit.map(Rate::burst);
            gauges.push(BudgetGauges {
                remaining: standing.map_or_else(untouched, |standing| standing.remaining),
                paused: standing
                    .and_then(|standing| standing.paused_until)
                    .map(|until| until.saturating_duration_since(now))
                    .unwrap_or_default(),
                upstream,
                account: name,
                limit,
                waiting,
            });
        }
        let raw: Name = RAW.into();
        gauges.extend(nameless.into_iter().map(|(upstream, waiting)| BudgetGauges {
            upstream,
            account: raw.clone(),
            limit: None,
            remaining: None,
            waiting,
            paused: Duration::ZERO,
        }));
        gauges
    }

    fn upstreams(&self) -> Vec<UpstreamGauges> {
        let standings = self.budgets.upstreams();
        let mut upstreams: Vec<_> = self.house.accounts.upstreams().collect();
        upstreams.sort_by(|one, other| one.name.cmp(&other.name));
        let gauges = upstreams.into_iter().map(|upstream| {
            let standing = standings.iter().find(|standing| standing.name == upstream.name);
            UpstreamGauges {
                name: upstream.name.clone(),
                in_flight: standing.map_or(0, |standing| standing.in_flight),
                in_flight_limit: upstream.budget.concurrency,
                failures_limit: upstream.budget.errors,
                failures: standing.map_or(0, |standing| standing.failed),
                is_blocked: standing.is_some_and(UpstreamStanding::is_blocked),
                let_go: standing.map_or(0, |standing| standing.would_have_waited),
            }
        });
        gauges.collect()
    }
}
