//! A local caching reverse proxy for Merge's unified API: many services poll `GET /api/{category}/v1/sync-status`, and Merge sees a
//! handful of calls.
//!
//! The proxy is three short stacks, joined by three small types. HTTP exists only outside the first and inside the last.
//!
//! ```text
//! Request ──admit──▶ Ask ──follow, lookup──▶ Join ──flight──▶ Fetch ──retry, budget──▶ Fetch ──client──▶ Merge
//! Response ◀─render── Outcome ◀───────── Answer ◀──────────── Landing ◀──keep────────── Received ◀────────┘
//! ```
//!
//! What passes through as itself takes a way of its own, with bodies that stream:
//!
//! ```text
//! Request ──admit──▶ Relay ──relay──▶ Call ──retry, budget──▶ Call ──client──▶ Merge
//! Response ◀─render── Outcome ◀── Relayed ◀── Called ◀────────────────────────────┘
//! ```
//!
//! And Merge may say that there is something new, which makes pages stale and has them fetched through the same flights:
//!
//! ```text
//! Request ──admit──▶ Delivery ──receive──▶ Join ──flight──▶ …
//! Response ◀─render── Outcome ◀── Delivered
//! ```
//!
//! Clients that poll say the same words again and again. A head that was admitted before is known by its bytes and not parsed or
//! admitted anew; if its page is fresh, the listener has it answered before hyper sees it. The service is the same, and the way through
//! it: what is left out is what would come to the same.
//!
//! An [`Ask`](domain::ask::Ask) has a consumer, an account and a key: without permission there is none. A
//! [`Problem`](domain::problem::Problem) climbs back the same way and becomes a response in [`reply::render`], nowhere else.
//! [`stack::proxy`] is the one place to read the whole path; the modules below stand in its order.

/// For the proxy and for what tests and measures it. Beside the system's allocator it makes misses and hits cheaper, and those among many
/// pages most, as it asks for large pages of memory by itself (`BENCHMARKS.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What one configuration becomes: shared state, sockets, tasks, and their end. Beside it `app/reload.rs`, another configuration while
/// it runs, and `app/watch.rs`, when to look for one.
pub mod app;

/// The path of a request.
pub mod stack;

/// Sockets to `Request`.
pub mod listen {
    pub mod bind;

    pub mod accept;

    pub mod converse;

    pub mod unix;

    pub mod places;

    pub mod tls;

    pub mod pulse;

    pub mod strict;

    mod scan;

    mod plain;

    mod begun;

    mod first;

    mod waiting;

    mod attend;

    mod framed;

    mod answered;

    mod outgoing;

    mod offers;

    mod felt;

    mod followed;

    mod by_heart;

    mod written;

    mod aside;

    pub mod awaited;
}

/// A log line for every request.
pub mod telemetry;

/// The way of all lines of the log, and those of requests for whoever answers many.
pub mod access_log;

/// Which requests are recorded, and where that goes.
pub mod trace {
    pub mod requests;

    pub mod attempts;

    pub mod export;
}

/// What is counted, and how it is told to Prometheus.
pub mod metrics {
    pub mod requests;

    pub mod calls;

    pub mod last;

    pub mod webhooks;

    pub mod registry;

    pub mod numbers;

    pub mod histogram;

    pub mod gauges;

    pub mod exposition;

    mod rows;

    mod process;
}

/// `Outcome` to `Response`.
pub mod reply {
    pub mod render;

    pub mod events;

    pub mod cache_status;

    mod prepared;

    pub mod accept_encoding;
}

/// `Request` to `Ask` or `Relay`: plain functions and one layer.
pub mod door {
    pub mod admit;

    pub mod route;

    pub mod identify;

    pub mod audit;

    mod recognised;

    pub mod consumer_key;

    pub mod strangers;

    pub mod query;

    pub mod resolve;

    pub mod quota;

    mod found;

    pub mod pass_on;

    pub mod fields;

    pub mod fork;
}

/// `Ask` to `Answer`: what is held, or one fetch that everybody shares.
pub mod cache {
    pub mod follow;

    pub mod followers;

    pub mod renew;

    pub mod lookup;

    pub mod flight;

    pub mod keep;

    mod purges;

    pub mod store;

    mod find;

    pub mod changes;

    pub mod demand;

    pub mod freshness;
}

/// `Delivery` to `Delivered`: Merge says that there is something new.
pub mod webhook {
    pub mod receive;

    mod body;

    pub mod envelope;

    mod replays;

    mod refresh;
}

/// `Relay` to `Relayed`: what passes through as itself, or is stored by the upstream's own headers (RFC 9111).
pub mod relay {
    pub mod service;

    pub mod cached;

    pub mod change;

    pub mod resync;

    pub mod answer;

    pub mod range;

    pub mod meeting;

    pub mod fetch;

    pub mod body;

    pub mod store;

    pub mod stored;

    pub mod verdict;

    pub mod policy;

    pub mod directives;

    pub mod vary;

    mod place;
}

/// `Fetch` to `Received`, `Call` to `Called`: what it may cost, how often it may be tried, and the call itself.
pub mod upstream {
    pub mod retry;

    pub mod budget;

    pub mod address;

    pub mod line;

    pub mod bid;

    pub mod ledger;

    pub mod account_budget;

    pub mod rate_limit_fields;

    pub mod failures;

    pub mod breaker;

    pub mod obstacle;

    pub mod standing;

    pub mod ways;

    pub mod client;

    pub mod forward;

    pub mod sign;

    pub mod patience;

    pub mod cause;

    pub mod trouble;

    pub mod transport;

    pub mod pool;

    pub mod connect;

    pub mod retry_after;

    pub mod sync_status;

    #[cfg(test)]
    mod laws;
}

/// Words that all parts share; imports nothing of ours.
pub mod domain {
    pub mod access;

    pub mod arrival;

    pub mod detached;

    pub mod peer;

    pub mod clock;

    pub mod request_id;

    pub mod caller;

    pub mod exchange;

    pub mod ask;

    pub mod heads;

    pub mod marks;

    pub mod by_route;

    pub mod gist;

    pub mod constant_time;

    pub mod follow;

    pub mod relay;

    pub mod delivery;

    pub mod signature;

    pub mod reply;

    pub mod ending;

    pub mod tally;

    pub mod trace;

    pub mod under_way;

    pub mod body;

    pub mod end_to_end;

    pub mod key;

    pub mod received;

    pub mod page;

    pub mod lifetime;

    mod entity_tag;

    pub mod validators;

    pub mod refusal;

    pub mod setback;

    pub mod event;

    pub mod history;

    pub mod encoding;

    pub mod cache_control;

    pub mod condition;

    pub mod problem;

    pub mod hindrance;

    pub mod bucket;

    pub mod rules;
}

/// The file, and what the program makes of it.
pub mod config {
    pub mod schema;

    pub mod item;

    pub mod units;

    pub mod whole;

    pub mod address;

    pub mod words;

    pub mod route_words;

    pub mod secret;

    pub mod fault;

    mod places;

    mod source;

    mod findings;

    pub mod load;

    mod filter;

    mod sections;

    mod socket_folder;

    pub mod tls;

    mod upstreams;

    mod forward_proxy;

    mod merge_limits;

    mod accounts;

    mod consumers;

    mod routes;

    mod webhook;

    pub mod effective;

    pub mod changes;

    pub mod report;

    #[cfg(test)]
    mod sample;
}

/// The operators' side.
pub mod admin {
    pub mod routes;

    pub mod guard;

    pub mod page;

    pub mod reloaded;

    pub mod explain;

    pub mod scrape;

    pub mod state;

    pub mod rows;

    pub mod spenders;

    pub mod readings;

    pub mod alarms;

    pub mod history;

    pub mod observer;

    mod parameters;

    pub mod view;

    pub mod events;

    mod columns;

    pub mod table;

    mod words;

    pub mod ask;
}

/// The command line.
pub mod cli;

/// A simulated Merge for the demo, tests and benches, and the demo itself.
pub mod demo {
    pub mod run;

    pub mod tour;

    pub mod merge;

    pub mod builder;

    pub mod control;

    pub mod serve;

    pub mod webhook;

    pub mod account;

    pub mod models;

    pub mod schedule;

    mod part;

    pub mod clock;

    mod dice;

    mod api;

    mod limits;

    pub mod page;

    mod answer;

    pub mod fault;

    pub mod script;

    pub mod gate;

    pub mod record;

    pub mod body;
}
