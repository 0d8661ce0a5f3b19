//! What the contract promises, promise by promise, tested from outside.
#![allow(clippy::print_stdout, reason = "figures that a test measures are shown with --nocapture")]
#![allow(unreachable_pub, reason = "the modules of one test binary")]

mod access_lines;
mod admin;

mod audit;
mod authority;
mod breaker;

mod budget;

mod changes;

mod by_heart;

mod causes;

mod chromium;

mod cli;

mod conformance;

mod consumers;

mod credentials;

mod descriptors;
mod door;

mod drain;

mod encodings;

mod exposition;

mod failed_start;

mod fairness;

mod faults;

mod flights;

mod follow;

mod forward;

mod freshness;

mod held_back;

mod http_cache;

mod http_failures;

mod http_purges;
mod http_shared;

mod in_force;

mod interleavings;
mod keys;

mod layers;

mod limits;
mod log;
mod malformed;

mod merge;

mod metrics;

mod ops;

mod origin;

mod packages;
mod page;
mod peers;

mod problems;

mod process;

mod raw;

mod refusals;

mod reload;

mod renamed;

mod repeated;

mod reply;

mod restart;
mod sdk;

mod secrets;

mod shares;

mod soak;

mod stale;

mod status;

mod status_command;

mod stop_signals;
mod streams;

mod support;

mod tenants;
mod tls;
mod traces;

mod two_upstreams;
mod two_ways;

mod wants;

mod webhook;

mod wire_faults;
