//! How Prometheus is told: every metric there is, with its name, its help and its labels. Labels are names from the
//! configuration and words of this program, and nothing else.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::gauges::{BudgetGauges, Gauges, StoreGauges, UpstreamGauges};
use super::numbers::AccountNumbers;
use super::process::Process;
use super::registry::{Kind, Metrics};
use super::rows::{Encoder, Row, count};
use crate::domain::access::Name;

/// The media type of the text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What stands before the name of every metric but those that all processes have.
pub const PREFIX: &str = "merge_sync_proxy";

/// What stands for the consumer or the route of a request that had none.
const NONE: &str = "-";

/// The whole text.
pub(super) fn expose(metrics: &Metrics, gauges: Gauges) -> String {
    let mut registry = Registry::default();
    let ours = Ours { metrics: metrics.clone(), gauges, now: Instant::now() };
    registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(ours));
    registry.register_collector(Box::new(Process::look(metrics.began())));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).expect("memory takes every text");
    text
}

#[derive(Debug)]
struct Ours {
    metrics: Metrics,
    gauges: Gauges,
    now: Instant,
}

impl Collector for Ours {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Encoder(encoder);
        self.requests(&mut out)?;
        self.calls(&mut out)?;
        self.budgets(&mut out)?;
        self.upstreams(&mut out)?;
        self.stores(&mut out)?;
        self.process(&mut out)
    }
}

impl Ours {
    fn requests(&self, out: &mut Encoder<'_>) -> fmt::Result {
        let tallies = self.metrics.tallies();
        let counts: Vec<_> = tallies.iter().map(|(name, tally)| (name, tally.counts())).collect();
        let rows = counts.iter().flat_map(|(name, counts)| {
            let text = |name: &'_ Option<Name>| name.as_deref().unwrap_or(NONE).to_owned();
            let consumer = text(name);
            counts.iter().map(move |count| {
                let (result, reason) = count.ending.labels();
                let labels = [
                    ("consumer", consumer.clone()),
                    ("route", text(&count.route)),
                    ("result", result.into()),
                    ("reason", reason.into()),
                    ("status", count.class.into()),
                ];
                Row::of(labels, count.requests as f64)
            })
        });
        out.write(
            "requests",
            "Requests by how they ended; abandoned: their client had gone by then",
            MetricType::Counter,
            rows,
        )?;
        let charged = tallies.iter().filter_map(|(name, tally)| {
            let consumer = name.as_deref()?.to_owned();
            Some(Row::of([("consumer", consumer)], tally.calls.get() as f64))
        });
        out.write("consumer_calls", "Tries of calls to Merge by who began them", MetricType::Counter, charged)?;
        let saved = count(self.metrics.totals().calls_saved);
        out.write("calls_saved", "Requests for Merge less the calls that were made", MetricType::Counter, [saved])?;
        let durations = [(Kind::Hit, "hit"), (Kind::Miss, "miss")];
        let durations = durations.map(|(kind, result)| ([("result", result)], self.metrics.durations(kind)));
        out.histograms("request_duration_seconds", "Time until an answer could be sent", &durations)?;
        let ages = [([], self.metrics.ages())];
        out.histograms::<0, 12>("page_age_seconds", "Age of stored pages when they were served", &ages)
    }

    fn calls(&self, out: &mut Encoder<'_>) -> fmt::Result {
        let calls = self.metrics.calls_by_account();
        let rows = calls.iter().flat_map(|((upstream, account), calls)| {
            calls.counts().into_iter().map(move |(reason, class, calls)| {
                let labels = [
                    ("upstream", upstream.to_string()),
                    ("account", account.to_string()),
                    ("reason", reason.into()),
                    ("status", class.into()),
                ];
                Row::of(labels, calls as f64)
            })
        });
        out.write("upstream_calls", "Tries of calls to Merge", MetricType::Counter, rows)?;
        let durations = [([], self.metrics.durations(Kind::Upstream))];
        out.histograms::<0, 20>("upstream_duration_seconds", "Time that tries of calls took", &durations)?;

        let accounts = self.metrics.accounts(self.now);
        let rows = |value: fn(&AccountNumbers) -> Option<f64>| {
            let row = move |account: &AccountNumbers| {
                let labels = [("upstream", account.upstream.to_string()), ("account", account.name.to_string())];
                value(account).map(|value| Row::of(labels, value))
            };
            accounts.iter().filter_map(row).collect::<Vec<_>>()
        };
        let limited = rows(|account| Some(account.rate_limited as f64));
        out.write("upstream_rate_limited", "Calls that Merge answered with 429", MetricType::Counter, limited)?;
        let refused = calls.iter().flat_map(|((upstream, account), calls)| {
            calls.refusals().into_iter().map(move |(reason, refused)| {
                let labels =
                    [("upstream", upstream.to_string()), ("account", account.to_string()), ("reason", reason.into())];
                Row::of(labels, refused as f64)
            })
        });
        out.write("budget_refused", "Calls not made for want of budget", MetricType::Counter, refused)?;
        let failing = rows(|account| Some(f64::from(u8::from(account.last.is_failing))));
        out.write("account_failing", "Whether the last call for the account failed", MetricType::Gauge, failing)?;
        let help = "Seconds since a call for the account last succeeded";
        let ages = rows(|account| account.last.success.map(|(ago, _)| ago.as_secs_f64()));
        out.write("account_last_success_age_seconds", help, MetricType::Gauge, ages)
    }

    fn budgets(&self, out: &mut Encoder<'_>) -> fmt::Result {
        let rows = |value: fn(&BudgetGauges) -> Option<f64>| {
            let row = move |budget: &BudgetGauges| {
                let labels = [("upstream", budget.upstream.to_string()), ("account", budget.account.to_string())];
                value(budget).map(|value| Row::of(labels, value))
            };
            self.gauges.budgets.iter().filter_map(row).collect::<Vec<_>>()
        };
        let limits = rows(|budget| budget.limit.map(|limit| f64::from(limit.count.get())));
        out.write("budget_limit", "Calls for the account in a window", MetricType::Gauge, limits)?;
        let windows = rows(|budget| budget.limit.map(|limit| limit.window.as_secs_f64()));
        out.write("budget_window_seconds", "Length of that window", MetricType::Gauge, windows)?;
        let bursts = rows(|budget| budget.limit.map(|limit| f64::from(limit.burst())));
        out.write("budget_burst", "Calls that could go at once if none had gone", MetricType::Gauge, bursts)?;
        let remaining = rows(|budget| budget.remaining.map(f64::from));
        out.write("budget_remaining", "Calls that could go at once now", MetricType::Gauge, remaining)?;
        let waiting = rows(|budget| Some(budget.waiting as f64));
        out.write("budget_waiting", "Calls that wait for their turn", MetricType::Gauge, waiting)?;
        let paused = rows(|budget| Some(budget.paused.as_secs_f64()));
        out.write("budget_paused_seconds", "Rest of the pause that Merge asked for", MetricType::Gauge, paused)
    }

    fn upstreams(&self, out: &mut Encoder<'_>) -> fmt::Result {
        let rows = |value: fn(&UpstreamGauges) -> Option<f64>| {
            let upstreams = self.gauges.upstreams.iter();
            let row = |upstream: &UpstreamGauges| {
                value(upstream).map(|value| Row::of([("upstream", upstream.name.to_string())], value))
            };
            upstreams.filter_map(row).collect::<Vec<_>>()
        };
        let in_flight = rows(|upstream| Some(upstream.in_flight as f64));
        out.write("upstream_in_flight", "Calls in flight", MetricType::Gauge, in_flight)?;
        let limit = rows(|upstream| upstream.in_flight_limit.map(f64::from));
        out.write("upstream_in_flight_limit", "How many there may be", MetricType::Gauge, limit)?;
        let failures = rows(|upstream| Some(upstream.failures as f64));
        out.write("failure_budget_used", "Calls that failed within the window", MetricType::Gauge, failures)?;
        let limit = rows(|upstream| upstream.failures_limit.map(|limit| f64::from(limit.count.get())));
        out.write("failure_budget_limit", "How many may fail within it", MetricType::Gauge, limit)?;
        let window = rows(|upstream| upstream.failures_limit.map(|limit| limit.window.as_secs_f64()));
        out.write("failure_budget_window_seconds", "Length of that window", MetricType::Gauge, window)?;
        let blocked = rows(|upstream| Some(f64::from(u8::from(upstream.is_blocked))));
        out.write("breaker_open", "Whether no call goes, since too many have failed", MetricType::Gauge, blocked)?;
        let let_go = rows(|upstream| Some(upstream.let_go as f64));
        out.write("budget_dry_run", "Calls that went only because of a dry run", MetricType::Counter, let_go)
    }

    fn stores(&self, out: &mut Encoder<'_>) -> fmt::Result {
        let rows = |value: fn(&StoreGauges) -> f64| {
            let stores = self.gauges.stores.iter();
            stores.map(|store| Row::of([("store", store.holds.into())], value(store))).collect::<Vec<_>>()
        };
        out.write("cache_entries", "Entries", MetricType::Gauge, rows(|store| store.entries as f64))?;
        out.write("cache_bytes", "Bytes that they weigh", MetricType::Gauge, rows(|store| store.bytes as f64))?;
        let capacity = rows(|store| store.capacity as f64);
        out.write("cache_bytes_limit", "Bytes that there is room for", MetricType::Gauge, capacity)?;
        let evicted = rows(|store| store.keeping.evicted.get() as f64);
        out.write("cache_evictions", "Entries that others left no room for", MetricType::Counter, evicted)?;
        let rejected = self.gauges.stores.iter().flat_map(|store| {
            let reasons = [("too-large", &store.keeping.too_large), ("outdated", &store.keeping.outdated)];
            reasons.map(|(reason, counter)| {
                Row::of([("store", store.holds.into()), ("reason", reason.into())], counter.get() as f64)
            })
        });
        out.write("cache_rejections", "Answers that were not stored", MetricType::Counter, rejected)?;
        out.write("flights", "Shared fetches under way", MetricType::Gauge, rows(|store| store.flights as f64))?;
        let waiters = [Row::of([], self.gauges.flight_waiters as f64)];
        out.write("flight_waiters", "Requests that wait for one for a page", MetricType::Gauge, waiters)
    }

    fn process(&self, out: &mut Encoder<'_>) -> fmt::Result {
        let totals = self.metrics.totals();
        let connections = self.metrics.connections();
        let open = [count(totals.connections_open)];
        out.write("connections_open", "Connections of consumers", MetricType::Gauge, open)?;
        let opened = [count(totals.connections_opened)];
        out.write("connections", "Connections of consumers that were accepted", MetricType::Counter, opened)?;
        let limited = [("total", &connections.limited.total), ("per-peer", &connections.limited.per_peer)]
            .map(|(reason, counter)| Row::of([("reason", reason.into())], counter.get() as f64));
        let help = "Times that a limit kept a connection out";
        out.write("connections_limited", help, MetricType::Counter, limited)?;
        let by_result = |done: u64, failed: u64| {
            [("success", done), ("failure", failed)]
                .map(|(result, count)| Row::of([("result", result.into())], count as f64))
        };
        let handshakes = by_result(connections.handshakes.get(), connections.failed_handshakes.get());
        out.write("tls_handshakes", "TLS handshakes with consumers", MetricType::Counter, handshakes)?;
        let webhooks = self.metrics.webhooks();
        let webhooks = webhooks.map(|(outcome, count)| Row::of([("outcome", outcome.into())], count as f64));
        out.write("webhooks", "Webhooks by what became of them", MetricType::Counter, webhooks)?;
        let missing = [count(self.gauges.lost_lines)];
        out.write("log_lines_lost", "Lines that are missing in the log", MetricType::Counter, missing)?;
        let reloads = by_result(totals.reloads, totals.failed_reloads);
        out.write("config_reloads", "Configurations that were read anew", MetricType::Counter, reloads)?;
        let last = [Row::of([], f64::from(u8::from(self.metrics.last_reload_succeeded())))];
        out.write("config_last_reload_successful", "Whether the last one was taken in", MetricType::Gauge, last)?;
        let build = [Row::of([("version", env!("CARGO_PKG_VERSION").into())], 1.0)];
        out.write("build_info", "The version that runs", MetricType::Gauge, build)
    }
}
