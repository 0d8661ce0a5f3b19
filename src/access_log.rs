//! The log: the way that all its lines take, and those of requests as JSON, for those who answer thousands of them a second.
//!
//! Whoever serves never waits for whoever reads the log. Lines come together in a bounded buffer, and a thread of its own writes them.
//! What finds no room there, or cannot be written, is left out, and a later line says how many were. At the end of the process
//! [`Log::flush`](access_log::Log::flush) has the rest written.
//!
//! A line of a request looks like every other line, and takes a fraction of the time: whoever serves notes only what no other line
//! says, and the thread makes a line of that.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use self::line::{Entry, Moment};
pub use self::out::Clean;
use self::out::Out;
use self::pending::{Line, Pending};
use crate::domain::ask::Logged;

/// What a line looks like.
pub mod line;

mod out;
mod pending;

/// Takes lines. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    has_come: Condvar,
    is_hurried: Condvar,
    has_gone: Condvar,
    /// Lines that were left out, in all.
    left_out: AtomicU64,
}

/// What waits for the thread that writes.
#[derive(Default)]
struct Waiting {
    /// The lines that are to be written.
    lines: Pending,
    /// Whether somebody waits for the last of them.
    is_hurried: bool,
    /// Whether lines have been taken out and are not written yet.
    is_writing: bool,
}

/// How long lines come together before they are written: long enough that a busy proxy writes hundreds at once, and too short for
/// anybody who reads along to notice.
const GATHER: Duration = Duration::from_millis(20);

/// The most that the lines of requests may fill, in bytes: some thousand lines. A log that stands still must not fill the memory.
const MOST: usize = 1 << 20;

/// Likewise for all other lines. There are fewer, and each tells more: so many of them still find room when the lines of requests do
/// not any more.
const MOST_OF_ALL: usize = MOST + MOST / 4;

/// The target of the lines of requests.
const REQUESTS: &str = "access";

impl Log {
    /// A log that is written to `out`, whole lines at a time, without what `clean` cuts out.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn start(out: impl Write + Send + 'static, clean: Clean) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            has_come: Condvar::new(),
            is_hurried: Condvar::new(),
            has_gone: Condvar::new(),
            left_out: AtomicU64::new(0),
        });
        let writing = Arc::downgrade(&shared);
        let (mut out, mut taken, mut told) = (Out::new(out, clean), Vec::new(), Told::default());
        thread::Builder::new().name("log".into()).spawn(move || {
            while let Some(shared) = writing.upgrade() {
                shared.wait();
                shared.write(&mut out, &mut taken, &mut told);
            }
        })?;
        Ok(Self(shared))
    }

    /// Adds the line of a request. The entries of one `same` are all the same, so only the first of them is asked for.
    pub fn log<'a>(&self, moment: &Moment<'_>, same: Option<&Logged>, entry: impl FnOnce() -> Entry<'a>) {
        self.add(|lines| lines.add(moment, same, entry));
    }

    /// Adds a line as it is, with its end.
    pub fn tell(&self, line: &[u8]) {
        self.add(|lines| lines.add_whole(line, MOST_OF_ALL));
    }

    fn add(&self, add: impl FnOnce(&mut Pending) -> bool) {
        let mut waiting = self.0.waiting.lock();
        let was_empty = waiting.lines.is_empty();
        if !add(&mut waiting.lines) {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        drop(waiting);
        if was_empty {
            self.0.has_come.notify_one();
        }
    }

    /// How many lines have been left out, in all.
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, for no longer than `patience`: nobody may ever read them.
    pub fn flush(&self, patience: Duration) {
        let mut waiting = self.0.waiting.lock();
        waiting.is_hurried = true;
        self.0.is_hurried.notify_one();
        let is_left = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        self.0.has_gone.wait_while_for(&mut waiting, is_left, patience);
        waiting.is_hurried = false;
    }
}

/// What has been said of lines that were left out.
#[derive(Default)]
struct Told {
    /// How many, in all.
    lines: u64,
    /// How many of these are known to have been written: the line that says so may be lost itself.
    surely: u64,
}

impl Shared {
    /// Waits for a line, for no longer than a second, so that a log that nobody has any more ends; and for others to come.
    fn wait(&self) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() {
            self.has_come.wait_for(&mut waiting, Duration::from_secs(1));
        }
        if !waiting.lines.is_empty() {
            self.is_hurried.wait_while_for(&mut waiting, |waiting| !waiting.is_hurried, GATHER);
        }
    }

    fn write(&self, out: &mut Out, taken: &mut Vec<u8>, told: &mut Told) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() {
            return;
        }
        // What is taken and what comes next take turns at the same memory, so that it is there and in the caches.
        waiting.lines.take(taken);
        waiting.is_writing = true;
        drop(waiting);
        for line in pending::lines(taken) {
            out.line(|text| match line {
                Line::Request(moment, entry) => moment.write(entry, text),
                Line::Whole(whole) => text.extend_from_slice(whole),
            });
        }
        taken.clear();
        let lost = out.end();
        let left_out = self.left_out.fetch_add(lost, Ordering::Relaxed) + lost;
        if lost > 0 {
            // Nothing can be written now, not even that. The next lines that can be are followed by it.
            told.lines = told.surely;
        } else {
            told.surely = told.lines;
            if left_out > told.lines {
                let left_out = left_out - std::mem::replace(&mut told.lines, left_out);
                tracing::warn!(
                    left_out,
                    "lines of the log were left out, since they could not be written as fast as they came"
                );
            }
        }
        self.waiting.lock().is_writing = false;
        self.has_gone.notify_all();
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines { log: self, most: MOST_OF_ALL }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Lines<'a> {
        Lines { log: self, most: if about.target() == REQUESTS { MOST } else { MOST_OF_ALL } }
    }
}

/// Takes one line with each write, and never fails.
pub struct Lines<'a> {
    log: &'a Log,
    most: usize,
}

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log.add(|lines| lines.add_whole(line, self.most));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        let log = Log::start(taken.clone(), |_| None).expect("a thread");
        let same = Logged::default();
        for microseconds in 0..5_000 {
            if microseconds % 7 == 0 {
                let line = format!("{{\"microseconds\":{microseconds}}}\n");
                log.make_writer().write_all(line.as_bytes()).expect("it never fails");
                continue;
            }
            let same = (microseconds % 3 > 0).then_some(&same);
            log.log(&Moment { microseconds, ..MOMENT }, same, || ENTRY);
        }
        log.flush(Duration::from_secs(60));
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
        let log = Log::start(taken.clone(), |_| None).expect("a thread");
        let stuck = taken.0.lock();
        for _ in 0..20_000 {
            log.log(&MOMENT, None, || ENTRY);
        }
        let left_out = log.left_out();
        assert!((1_000..20_000).contains(&left_out), "{left_out}");
        log.tell(b"{\"target\":\"audit\"}\n");
        assert_eq!(log.left_out(), left_out, "what is not about requests still finds room");
        let began = std::time::Instant::now();
        log.flush(Duration::from_millis(10));
        assert!(began.elapsed() < Duration::from_secs(10), "whoever ends does not wait for whoever does not read");
        drop(stuck);
        log.flush(Duration::from_secs(60));
        let written = std::str::from_utf8(&taken.0.lock()).expect("text").lines().count() as u64;
        assert_eq!(written + left_out, 20_001);
    }
}
