//! The access log as JSON, one line a request, for those who answer thousands of requests a second.
//!
//! A line looks like every other line of the log, and takes a fraction of the time: it is put together without anything that
//! could be formatted otherwise, and a thread of its own writes what has come together. At the end of the process
//! [`AccessLog::flush`] writes the rest.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use memchr::memchr2;
use parking_lot::{Condvar, Mutex};

/// Takes lines. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

struct Shared {
    /// The lines that are to be written.
    pending: Mutex<Vec<u8>>,
    has_come: Condvar,
    /// Lines that were left out, since nobody takes what is written.
    left_out: AtomicU64,
    out: Mutex<Out>,
}

struct Out {
    to: Box<dyn Write + Send>,
    /// What the last lines were in. The two buffers take turns, so that the memory for the next ones is there and in the caches.
    spare: Vec<u8>,
}

/// What a line tells of a request.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "they are the fields of the line")]
pub struct Entry<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub result: &'a str,
    pub reason: Option<&'a str>,
    pub route: Option<&'a str>,
    pub consumer: Option<&'a str>,
    pub account: Option<&'a str>,
}

/// What no other line tells.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// When the request had been answered, since the Unix epoch.
    pub at: Duration,
    /// How long that has taken.
    pub microseconds: u64,
    /// The name of the request.
    pub id: Option<&'a str>,
}

/// How long lines come together before they are written: long enough that a busy proxy writes hundreds at once, and short enough
/// that they do not push everything else out of the processor's caches.
const GATHER: Duration = Duration::from_millis(5);

/// The most that waits to be written, in bytes: some thousand lines. A log that stands still must not fill the memory.
const MOST: usize = 1 << 20;

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
            out: Mutex::new(Out { to: Box::new(out), spare: Vec::new() }),
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
    pub fn log<'a>(
        &self,
        moment: &Moment<'_>,
        same: Option<&OnceLock<Box<[u8]>>>,
        entry: impl FnOnce() -> Entry<'a>,
    ) {
        self.0.add(|line| moment.format(same, entry, line));
    }

    /// Writes all lines that there are.
    pub fn flush(&self) {
        self.0.write();
    }
}

impl Shared {
    fn add(&self, format: impl FnOnce(&mut Vec<u8>)) {
        let mut pending = self.pending.lock();
        let before = pending.len();
        format(&mut pending);
        if pending.len() > MOST {
            pending.truncate(before);
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        drop(pending);
        if before == 0 {
            self.has_come.notify_one();
        }
    }

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
        let Out { to, spare } = &mut *out;
        std::mem::swap(&mut *self.pending.lock(), spare);
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        // A log that cannot be written cannot say so either.
        let _ = to.write_all(spare);
        spare.clear();
        if left_out > 0 {
            tracing::warn!(left_out, "lines of the access log were left out, since it was not read fast enough");
        }
    }
}

impl Moment<'_> {
    /// Appends the line.
    fn format<'a>(
        &self,
        same: Option<&OnceLock<Box<[u8]>>>,
        entry: impl FnOnce() -> Entry<'a>,
        line: &mut Vec<u8>,
    ) {
        timestamp(self.at, line);
        match same {
            Some(same) => line.extend_from_slice(same.get_or_init(|| {
                let mut text = Vec::with_capacity(256);
                entry().format(&mut text);
                text.into()
            })),
            None => entry().format(line),
        }
        if let Some(id) = self.id {
            line.extend_from_slice(b",\"id\":\"");
            escape(id, line);
            line.push(b'"');
        }
        line.extend_from_slice(b",\"microseconds\":");
        number(self.microseconds, line);
        line.extend_from_slice(b",\"target\":\"access\"}\n");
    }
}

impl Entry<'_> {
    /// Appends what was asked for, by whom, and what came of it.
    fn format(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"\",\"level\":\"INFO\",\"method\":\"");
        // Methods, what is from the configuration, and the proxy's own words need no escape.
        line.extend_from_slice(self.method.as_bytes());
        line.extend_from_slice(b"\",\"path\":\"");
        escape(self.path, line);
        line.extend_from_slice(b"\",\"status\":");
        number(u64::from(self.status), line);
        let words = [
            (&b",\"result\":\""[..], Some(self.result)),
            (b",\"reason\":\"", self.reason),
            (b",\"consumer\":\"", self.consumer),
            (b",\"account\":\"", self.account),
            (b",\"route\":\"", self.route),
        ];
        for (name, word) in words {
            if let Some(word) = word {
                line.extend_from_slice(name);
                line.extend_from_slice(word.as_bytes());
                line.push(b'"');
            }
        }
    }
}

fn number(number: u64, line: &mut Vec<u8>) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends the beginning of a line: the time as RFC 3339 has it, in microseconds. Its first part changes once a second.
fn timestamp(since_epoch: Duration, line: &mut Vec<u8>) {
    const PART: usize = "{\"timestamp\":\"2026-01-01T00:00:00".len();
    thread_local!(static SECOND: Cell<(u64, [u8; PART])> = const { Cell::new((u64::MAX, [b'0'; PART])) });
    let (mut second, mut text) = SECOND.get();
    if second != since_epoch.as_secs() {
        second = since_epoch.as_secs();
        let whole = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
        let whole = format!("{{\"timestamp\":\"{}", whole.unwrap_or_default());
        text.copy_from_slice(whole.as_bytes().get(..PART).unwrap_or(&[b'0'; PART]));
        SECOND.set((second, text));
    }
    line.extend_from_slice(&text);
    let mut fraction = *b".000000Z";
    let mut rest = since_epoch.subsec_micros();
    for digit in fraction[1..7].iter_mut().rev() {
        *digit += u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
    }
    line.extend_from_slice(&fraction);
}

/// A text without control characters as it stands in JSON. Neither a target nor the name of a request can have any.
fn escape(text: &str, line: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    debug_assert!(!rest.iter().any(|byte| *byte < 0x20), "{text:?}");
    while has_to_be_escaped(rest)
        && let Some(at) = memchr2(b'"', b'\\', rest)
    {
        line.extend_from_slice(&rest[..at]);
        line.extend_from_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    line.extend_from_slice(rest);
}

/// Whether there is a byte to escape, which is seldom: it looks at all, since many at a time cost less than to stop at the first.
fn has_to_be_escaped(text: &[u8]) -> bool {
    let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | u8::from(matches!(byte, b'"' | b'\\')));
    let (chunks, rest) = text.as_chunks::<16>();
    chunks.iter().fold(any(rest), |found, chunk| found | any(chunk)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENTRY: Entry<'static> = Entry {
        method: "GET",
        path: "/api/ats/v1/sync-status",
        status: 200,
        result: "hit",
        reason: None,
        route: Some("/api/{category}/v1/sync-status"),
        consumer: Some("team"),
        account: Some("acme"),
    };

    const AT: Duration = Duration::from_micros(1_776_247_200_000_042);

    const MOMENT: Moment<'static> = Moment { at: AT, microseconds: 7, id: Some("an-id") };

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

    fn line(entry: Entry<'_>, moment: &Moment<'_>) -> serde_json::Value {
        let mut line = Vec::new();
        moment.format(None, || entry, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        serde_json::from_slice(&line).expect("JSON")
    }

    #[test]
    fn a_line_has_the_fields_that_people_grep_for() {
        let expected = serde_json::json!({
            "timestamp": "2026-04-15T10:00:00.000042Z", "level": "INFO", "target": "access", "method": "GET",
            "path": "/api/ats/v1/sync-status", "status": 200, "result": "hit",
            "route": "/api/{category}/v1/sync-status", "consumer": "team", "account": "acme", "microseconds": 7,
            "id": "an-id",
        });
        assert_eq!(line(ENTRY, &MOMENT), expected);
        let at = AT + Duration::from_micros(999_958);
        let later = line(Entry { reason: Some("expired"), ..ENTRY }, &Moment { at, ..MOMENT });
        assert_eq!((&later["timestamp"], &later["reason"]), (&"2026-04-15T10:00:01.000000Z".into(), &"expired".into()));
    }

    #[test]
    fn what_is_the_same_is_said_the_same() {
        let (same, mut text) = (OnceLock::new(), Vec::new());
        for microseconds in [7, 8] {
            text.clear();
            let moment = Moment { microseconds, ..MOMENT };
            moment.format(Some(&same), || ENTRY, &mut text);
            let told: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(told, line(ENTRY, &moment));
        }
    }

    #[test]
    fn lines_stay_whole_and_in_order_and_the_rest_is_written_at_the_end() {
        let taken = Taken::default();
        let log = AccessLog::start(taken.clone()).expect("a thread");
        for microseconds in 0..1_000 {
            log.log(&Moment { microseconds, ..MOMENT }, None, || ENTRY);
        }
        log.flush();
        let bytes = taken.0.lock().clone();
        let lines: Vec<u64> = std::str::from_utf8(&bytes)
            .expect("text")
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["microseconds"].as_u64())
            .map(|number| number.expect("a number"))
            .collect();
        assert_eq!(lines, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_that_nobody_reads_is_bounded() {
        let taken = Taken::default();
        let log = AccessLog::start(taken.clone()).expect("a thread");
        let stuck = log.0.out.lock();
        for _ in 0..10_000 {
            log.log(&MOMENT, None, || ENTRY);
        }
        assert!(log.0.pending.lock().len() <= MOST);
        assert!(log.0.left_out.load(Ordering::Relaxed) > 1_000);
        drop(stuck);
        log.flush();
        assert!(taken.0.lock().len() <= MOST);
    }

    proptest! {
        #[test]
        fn whatever_a_path_holds_the_line_is_json(path in "/([!-~é]|\\PC){0,40}", id in "[!-~]{0,40}") {
            let Ok(target) = http::Uri::try_from(path) else { return Ok(()) };
            let told = line(Entry { path: target.path(), ..ENTRY }, &Moment { id: Some(&id), ..MOMENT });
            prop_assert_eq!(&told["path"], &serde_json::Value::from(target.path()));
            prop_assert_eq!(&told["id"], &serde_json::Value::from(id));
        }
    }
}
