//! What benches understand alike on the command line, and how they say how far they are.

#![allow(dead_code, reason = "no bench needs all of it")]

use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Parser;

/// The options, if `cargo bench` has started this or somebody asks for help. `cargo test --benches` only wants to know that it runs.
pub(crate) fn options<O: Parser>() -> Option<O> {
    let is_meant = std::env::args().any(|argument| matches!(&*argument, "--bench" | "--help" | "-h"));
    is_meant.then(O::parse)
}

/// A time in seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    within(text, f64::MIN_POSITIVE, 86_400.0, "a number of seconds above 0, of a day at most")
}

/// A time in seconds, which may be none.
pub(crate) fn seconds_or_none(text: &str) -> Result<f64, String> {
    within(text, 0.0, 86_400.0, "a number of seconds, of a day at most")
}

/// Something a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.001, 1e7, "a number of requests a second, from 0.001 to 10000000")
}

/// A part of all.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    within(text, 0.0, 1.0, "a number from 0 to 1")
}

fn within(text: &str, least: f64, most: f64, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| format!("must be {what}"))
}

/// At least one of something.
pub(crate) fn some(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a whole number of at least 1".into())
}

/// The program of a bench.
pub(crate) fn program(text: &str) -> Result<String, String> {
    if Path::new(text).is_file() { Ok(text.into()) } else { Err("there is no such file".into()) }
}

/// A line that is written over and over, where somebody looks.
pub(crate) fn progress(line: fmt::Arguments<'_>) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r{line}\x1b[K");
        let _ = err.flush();
    }
}

/// Wipes it away again.
pub(crate) fn no_progress() {
    progress(format_args!(""));
}
