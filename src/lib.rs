//! A caching reverse proxy for Merge's unified API.

/// The configuration file: what it may say, and what it means.
pub mod config {
    pub mod schema;

    pub mod item;

    pub mod units;

    pub mod address;

    pub mod words;

    pub mod route_words;

    pub mod secret;

    pub mod fault;

    mod source;

    mod findings;

    pub mod load;

    mod sections;

    mod upstreams;

    mod access;

    pub mod effective;

    pub mod report;

    #[cfg(test)]
    mod sample;

    pub use effective::Config;
    pub use fault::{Fault, Faults, Warning};
    pub use secret::Secret;
}

/// Words that all parts share.
pub mod domain {
    pub mod access;

    pub mod exchange;

    pub mod key;

    pub mod page;

    pub mod cache_control;

    pub mod problem;

    pub mod bucket;

    pub mod rules;

    pub mod key;
}

/// `Ask` to `Answer`: what is held, or one fetch that everybody shares.
pub mod cache {
    pub mod lookup;

    pub mod flight;

    pub mod store;

    pub mod freshness;
}

/// `Fetch` to `Received`.
pub mod upstream {
    pub mod retry;

    pub mod budget;

    pub mod account_budget;

    pub mod failures;

    pub mod client;

    pub mod transport;

    pub mod retry_after;

    pub mod sync_status;
}

/// `Request` to `Ask`.
pub mod door {
    pub mod admit;

    pub mod route;

    pub mod identify;

    pub mod query;

    pub mod resolve;

    pub mod quota;
}

/// `Outcome` to `Response`.
pub mod reply {
    pub mod render;

    pub mod cache_status;

    pub mod condition;
}

pub mod stack;

pub mod telemetry;

/// A simulated Merge, for the demo, tests and benches.
pub mod demo {
    pub mod merge;

    pub mod builder;

    pub mod control;

    pub mod serve;

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
