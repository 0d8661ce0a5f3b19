//! What a line of the access log looks like.

use std::cell::Cell;
use std::time::Duration;

use memchr::memchr2;

use crate::domain::problem::Cause;

/// What a line tells of a request.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "they are the fields of the line")]
pub struct Entry<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub result: &'a str,
    pub reason: Option<&'a str>,
    pub cause: Option<Cause>,
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
    /// The name of the request, which is ASCII; empty: it has none.
    pub id: &'a [u8],
}

impl Moment<'_> {
    /// Appends the line of this moment and of an entry that has been [formatted](Entry::format).
    pub(super) fn write(&self, entry: &[u8], line: &mut Vec<u8>) {
        timestamp(self.at, line);
        line.extend_from_slice(entry);
        if !self.id.is_empty() {
            line.extend_from_slice(b",\"id\":\"");
            escape(self.id, line);
            line.push(b'"');
        }
        line.extend_from_slice(b",\"microseconds\":");
        number(self.microseconds, line);
        line.extend_from_slice(b",\"target\":\"access\"}\n");
    }
}

impl Entry<'_> {
    /// Appends what was asked for, by whom, and what came of it.
    pub(super) fn format(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"\",\"level\":\"INFO\",\"method\":\"");
        // Methods, what is from the configuration, and the proxy's own words need no escape.
        line.extend_from_slice(self.method.as_bytes());
        line.extend_from_slice(b"\",\"path\":\"");
        escape(self.path.as_bytes(), line);
        line.extend_from_slice(b"\",\"status\":");
        number(u64::from(self.status), line);
        let cause = self.cause.map(|cause| cause.to_string());
        let words = [
            (&b",\"result\":\""[..], Some(self.result)),
            (b",\"reason\":\"", self.reason),
            (b",\"cause\":\"", cause.as_deref()),
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
fn escape(text: &[u8], line: &mut Vec<u8>) {
    let mut rest = text;
    debug_assert!(!rest.iter().any(|byte| *byte < 0x20), "{text:?}");
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        line.extend_from_slice(&rest[..at]);
        line.extend_from_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    line.extend_from_slice(rest);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const ENTRY: Entry<'static> = Entry {
        method: "GET",
        path: "/api/ats/v1/sync-status",
        status: 200,
        result: "hit",
        reason: None,
        cause: None,
        route: Some("/api/{category}/v1/sync-status"),
        consumer: Some("team"),
        account: Some("acme"),
    };

    const AT: Duration = Duration::from_micros(1_776_247_200_000_042);

    pub(crate) const MOMENT: Moment<'static> = Moment { at: AT, microseconds: 7, id: b"an-id" };

    fn line(entry: Entry<'_>, moment: &Moment<'_>) -> serde_json::Value {
        let (mut text, mut line) = (Vec::new(), Vec::new());
        entry.format(&mut text);
        moment.write(&text, &mut line);
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
        let failed = line(Entry { cause: Some(Cause::Unexpected(204)), ..ENTRY }, &MOMENT);
        assert_eq!(failed["cause"], "unexpected status 204");
    }

    proptest! {
        #[test]
        fn whatever_a_path_holds_the_line_is_json(path in "/([!-~é]|\\PC){0,40}", id in "[!-~]{1,40}") {
            let Ok(target) = http::Uri::try_from(path) else { return Ok(()) };
            let told = line(Entry { path: target.path(), ..ENTRY }, &Moment { id: id.as_bytes(), ..MOMENT });
            prop_assert_eq!(&told["path"], &serde_json::Value::from(target.path()));
            prop_assert_eq!(&told["id"], &serde_json::Value::from(id));
        }
    }
}
