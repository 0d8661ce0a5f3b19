//! The access log as JSON, one line a request, for those who answer thousands of requests a second.
//!
//! A line looks like every other line of the log, and takes a fraction of the time: whoever serves notes only what no other line says,
//! and a thread of its own makes lines of that and writes them. At the end of the process [`AccessLog::flush`] writes the rest.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::line::{Entry, Moment};
use self::pending::Pending;
use crate::domain::ask::Logged;

/// What a line looks like.
pub mod line;

mod pending;

/// Takes lines. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

struct Shared {
    /// The lines that are to be written.
    pending: Mutex<Pending>,
    has_come: Condvar,
    /// Lines that were left out, since nobody takes what is written.
    left_out: AtomicU64,
    out: Mutex<Out>,
}

struct Out {
    to: Box<dyn Write + Send>,
    /// What the last lines were kept in. It and that of the next take turns, so that the memory is there and in the caches.
    spare: Vec<u8>,
    /// Lines on their way out.
    text: Vec<u8>,
}

/// How long lines come together before they are written: long enough that a busy proxy writes hundreds at once, and too short for
/// anybody who reads along to notice.
const GATHER: Duration = Duration::from_millis(20);

/// The most that waits to be written, in bytes: some thousand lines. A log that stands still must not fill the memory.
const MOST: usize = 1 << 20;

/// How many bytes of lines are written at a time, if there are so many: half of what a pipe holds, so that its reader need not be waited
/// for with each.
const AT_ONCE: usize = 32 << 10;

impl AccessLog {
    /// A log that is written to `out`.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            has_come: Condvar::new(),
            left_out: AtomicU64::new(0),
            out: Mutex::new(Out { to: Box::new(out), spare: Vec::new(), text: Vec::new() }),
        });
        let writing = Arc::downgrade(&shared);
        thread::Builder::new().name("access-log".into()).spawn(move || {
            while let Some(shared) = writing.upgrade() {
                shared.wait();
                thread::sleep(GATHER);
                shared.write();
            }
        })?;
        Ok(Self(shared))
    }

    /// Adds a line. The entries of one `same` are all the same, so only the first of them is asked for.
    pub fn log<'a>(&self, moment: &Moment<'_>, same: Option<&Logged>, entry: impl FnOnce() -> Entry<'a>) {
        let mut pending = self.0.pending.lock();
        let was_empty = pending.is_empty();
        if !pending.add(moment, same, entry) {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        drop(pending);
        if was_empty {
            self.0.has_come.notify_one();
        }
    }

    /// Writes all lines that there are.
    pub fn flush(&self) {
        self.0.write();
    }
}

impl Shared {
    /// Waits for a line, for no longer than a second, so that a log that nobody has any more ends.
    fn wait(&self) {
        let mut pending = self.pending.lock();
        if pending.is_empty() {
            self.has_come.wait_for(&mut pending, Duration::from_secs(1));
        }
    }

    fn write(&self) {
        // Whoever has the way out takes what is there now, so lines stay in order.
        let mut out = self.out.lock();
        let Out { to, spare, text } = &mut *out;
        self.pending.lock().take(spare);
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        for (moment, entry) in pending::lines(spare) {
            moment.write(entry, text);
            if text.len() >= AT_ONCE {
                // A log that cannot be written cannot say so either.
                let _ = to.write_all(text);
                text.clear();
            }
        }
        let _ = to.write_all(text);
        text.clear();
        spare.clear();
        if left_out > 0 {
            tracing::warn!(left_out, "lines of the access log were left out, since it was not read fast enough");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::line::tests::{ENTRY, MOMENT};
    use super::*;

    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Vec<u8>>>);

    impl Write for Taken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_stay_whole_and_in_order_and_the_rest_is_written_at_the_end() {
        let taken = Taken::default();
        let log = AccessLog::start(taken.clone()).expect("a thread");
        let same = Logged::default();
        for microseconds in 0..5_000 {
            let same = (microseconds % 3 > 0).then_some(&same);
            log.log(&Moment { microseconds, ..MOMENT }, same, || ENTRY);
        }
        log.flush();
        let bytes = taken.0.lock().clone();
        let lines: Vec<u64> = std::str::from_utf8(&bytes)
            .expect("text")
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["microseconds"].as_u64())
            .map(|number| number.expect("a number"))
            .collect();
        assert_eq!(lines, (0..5_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_that_nobody_reads_is_bounded() {
        let taken = Taken::default();
        let log = AccessLog::start(taken.clone()).expect("a thread");
        let stuck = log.0.out.lock();
        for _ in 0..10_000 {
            log.log(&MOMENT, None, || ENTRY);
        }
        let left_out = log.0.left_out.load(Ordering::Relaxed);
        assert!((1_000..10_000).contains(&left_out), "{left_out}");
        drop(stuck);
        log.flush();
        let written = std::str::from_utf8(&taken.0.lock()).expect("text").lines().count() as u64;
        assert_eq!(written + left_out, 10_000);
    }
}
