//! How the process logs: where lines go, what they look like, and which there are.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::redact;
use crate::access_log::Log;

/// Begins logging to standard error what `filter` lets through: lines for people if `pretty`, else one JSON object a line.
/// What is [concealed](super::redact::conceal) is in none of them. A second call changes nothing.
///
/// # Errors
/// If there can be no thread that writes.
pub fn start(pretty: bool, filter: &str, access_log: bool) -> io::Result<()> {
    if LOG.get().is_some() {
        return Ok(());
    }
    let log = Log::start(io::stderr(), redact::clean)?;
    // What cannot be written is lost and counted. To say so on standard error, where it could not be written, would be a panic.
    let lines = tracing_subscriber::fmt().with_writer(log.clone()).log_internal_errors(false);
    let lines = lines.with_env_filter(parse(filter, access_log)).with_ansi(io::stderr().is_terminal());
    if !pretty {
        let _ = REQUEST_LOG.set(log.clone());
    }
    let _ = LOG.set(log);
    // What a panic quotes may be anything; and a line for people among lines of JSON would not be read by what reads those.
    std::panic::set_hook(Box::new(tell_panic));
    // The two formats are two types, and so are their handles.
    if pretty {
        let lines = lines.compact().with_filter_reloading();
        let handle = lines.reload_handle();
        install(lines, move |filter| handle.reload(filter).is_ok());
    } else {
        let lines = lines.json().flatten_event(true).with_filter_reloading();
        let handle = lines.reload_handle();
        install(lines, move |filter| handle.reload(filter).is_ok());
    }
    Ok(())
}

/// A panic, as one line of the log, or on its own where the filter lets no error through.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let at = panic.location().map(ToString::to_string);
    if tracing::enabled!(target: "panic", tracing::Level::ERROR) {
        tracing::error!(target: "panic", at, "{message}");
    } else {
        tell(&format!("panic at {}: {message}", at.unwrap_or_default()));
    }
    // It is the last that the process says.
    if thread::current().name() == Some("main") {
        finish();
    }
}

/// Writes a line that no filter may keep back, after all that has been logged.
pub fn tell(line: &str) {
    let line = format!("{line}\n");
    match LOG.get() {
        Some(log) => log.tell(line.as_bytes()),
        // Whoever cannot be told cannot be told that either.
        None => drop(io::stderr().write_all(redact::redacted(&line).as_bytes())),
    }
}

type Refilter = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Whether the lines of requests pass the filter of the process's log: to ask the filter for each would cost more than to write them.
static IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// Whether a request gets a line.
pub(super) fn is_logged() -> bool {
    match REQUEST_LOG.get() {
        Some(_) => IS_LOGGED.load(Ordering::Relaxed),
        None => passes_filter(),
    }
}

fn passes_filter() -> bool {
    tracing::enabled!(target: "access", tracing::Level::INFO)
}

/// Changes the filter of the process's log, once there is one.
static REFILTER: OnceLock<Refilter> = OnceLock::new();

fn install(lines: impl SubscriberInitExt, refilter: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    if lines.try_init().is_ok() {
        let _ = REFILTER.set(Box::new(refilter));
    }
    IS_LOGGED.store(passes_filter(), Ordering::Relaxed);
}

/// Lets another filter decide from now on which lines are logged.
pub fn refilter(filter: &str, access_log: bool) {
    let changed = REFILTER.get().is_none_or(|refilter| refilter(parse(filter, access_log)));
    IS_LOGGED.store(passes_filter(), Ordering::Relaxed);
    if !changed {
        tracing::error!("the log filter could not be changed");
    }
}

/// The filter; audit lines pass it unless it speaks of them itself. Warnings of the HTTP/2 library do so only if it speaks of those: each
/// is about what a peer has sent and says neither which nor more than the metrics do, and strangers could cause one with every frame.
fn parse(text: &str, access_log: bool) -> EnvFilter {
    let directive = |text: &str| text.parse().expect("a target and a level are a directive");
    let mut filter = EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new("info"));
    if !access_log {
        filter = filter.add_directive(directive("access=off"));
    }
    let speaks_of = |target| text.split(',').any(|part| part.trim().starts_with(target));
    if !speaks_of("audit") {
        filter = filter.add_directive(directive("audit=info"));
    }
    if !speaks_of("h2") {
        filter = filter.add_directive(directive("h2=error"));
    }
    filter
}

/// Where all lines go.
static LOG: OnceLock<Log> = OnceLock::new();

/// The same, if it makes the lines of requests itself.
pub(super) static REQUEST_LOG: OnceLock<Log> = OnceLock::new();

/// How many lines could not be written as fast as they came, or at all.
pub fn lost_lines() -> u64 {
    LOG.get().map_or(0, Log::left_out)
}

/// How long the end of the process waits for whoever reads the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes what has been logged and not written yet, unless that takes too long. Nothing that is logged later is sure to be written.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.flush(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use secrecy::zeroize::Zeroizing;
    use std::panic;
    use std::sync::Arc;

    #[test]
    fn audit_lines_pass_a_filter_that_does_not_speak_of_them() {
        let parsed = |text, access_log| parse(text, access_log).to_string();
        assert!(parsed("warn", true).contains("audit=info") && !parsed("warn", true).contains("access"));
        assert!(parsed("warn", false).contains("access=off"));
        assert_eq!(parsed("audit=off,h2=error", true), "audit=off,h2=error");
        assert_eq!(parsed("audit=warn,h2=error", true), "audit=warn,h2=error");
    }

    #[test]
    fn warnings_of_http2_pass_a_filter_that_speaks_of_them() {
        let parsed = |text| parse(text, true).to_string();
        assert!(parsed("info").contains("h2=error") && parsed("debug").contains("h2=error"));
        assert!(parsed("info,h2=warn").contains("h2=warn") && !parsed("info,h2::proto=debug").contains("h2=error"));
    }

    #[test]
    fn a_panic_is_a_line_of_the_log_and_holds_no_secret() {
        #[derive(Clone, Default)]
        struct Taken(Arc<Mutex<Vec<u8>>>);
        impl Write for Taken {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let taken = Taken::default();
        let log = Log::start(taken.clone(), redact::clean).expect("a thread");
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(log.clone());
        let _guard = tracing::subscriber::set_default(lines.finish());
        redact::conceal([Zeroizing::new("sk-canary-of-a-panic".to_owned())]);
        // Panics of other tests go where they always go.
        let (here, before) = (thread::current().id(), panic::take_hook());
        panic::set_hook(Box::new(
            move |panic| if thread::current().id() == here { tell_panic(panic) } else { before(panic) },
        ));
        let panicked = panic::catch_unwind(|| panic!("a \"quote\" of sk-canary-of-a-panic"));
        drop(panic::take_hook());
        assert!(panicked.is_err());
        log.flush(Duration::from_secs(60));
        let line: serde_json::Value = serde_json::from_slice(&taken.0.lock()).expect("one JSON line");
        assert_eq!((&line["message"], &line["target"]), (&"a \"quote\" of [redacted]".into(), &"panic".into()));
        assert!(line["at"].as_str().is_some_and(|at| at.starts_with("src/telemetry/log.rs:")), "{line}");
    }
}
