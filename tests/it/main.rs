//! What the contract promises, promise by promise, tested from outside.
#![allow(clippy::print_stdout, reason = "figures that a test measures are shown with --nocapture")]
#![allow(unreachable_pub, reason = "the modules of one test binary")]

mod support;

mod origin;

mod flights;

mod merge;

mod forward;

mod http_cache;
