//! Requests in well-formed frames that are no requests: pseudo-header fields, connection-specific ones, bodies, trailers.

use super::frames::{
    DATA, END_HEADERS, END_STREAM, End, HEADERS, Sequence, WHOLE, ask, ask_with, ask_without, block, frame, play,
    sequence,
};
use super::primed;
use crate::support::SYNC_STATUS;

/// What a stream is reset for, or a connection ends for: `PROTOCOL_ERROR`.
const MALFORMED: &[u32] = &[1];

/// Fields that no request of HTTP/2 may have.
const FORBIDDEN: [(&str, &str); 7] = [
    ("connection", "close"),
    ("connection", "x-account-token"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("te", "gzip"),
];

/// What cannot be a field at all: the connection ends with it.
const NO_FIELDS: [(&str, &str); 8] = [
    ("X-Upper-Case", "a"),
    ("X-ACCOUNT-TOKEN", "globex"),
    ("", "a name of nothing"),
    ("x a", "a blank in a name"),
    ("x-a", "a NUL in a value\0"),
    ("x-a", "lines in a value\r\nx-b: c"),
    ("x-account-token:", "globex"),
    (":unknown", "a"),
];

/// Pseudo-header fields that are too many, or are none.
const PSEUDO: [(&str, &str); 6] = [
    (":path", SYNC_STATUS),
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "proxy"),
    (":status", "200"),
    (":protocol", "websocket"),
];

pub(super) fn cases() -> Vec<Sequence> {
    let reset = |name: &str, frames: &[Vec<u8>]| sequence(name, frames, End::Reset(1, MALFORMED));
    let one = |name: &str, block: &[u8], end: End| sequence(name, &[frame(HEADERS, WHOLE, 1, block)], end);
    let malformed = |name: &str, block: &[u8]| one(name, block, End::Reset(1, MALFORMED));
    let answered = |name: &str, block: &[u8], status: u16| one(name, block, End::Answers(vec![(1, status)]));
    let mut cases: Vec<Sequence> = Vec::new();
    for (name, value) in FORBIDDEN {
        cases.push(malformed(&format!("the field {name:?}: {value:?}"), &ask(&[(name, value)])));
    }
    let gone = |name: &str, block: &[u8]| one(name, block, End::Gone(MALFORMED));
    for (name, value) in NO_FIELDS {
        cases.push(gone(&format!("the field {name:?}: {value:?}"), &ask(&[(name, value)])));
    }
    for (name, value) in PSEUDO {
        cases.push(malformed(&format!("{name} behind other fields"), &ask(&[(name, value)])));
        let twice = [&block(&[(name, value)])[..], &ask(&[])].concat();
        cases.push(malformed(&format!("{name} that is there already, or may not be"), &twice));
    }
    for name in [":method", ":scheme", ":path"] {
        cases.push(malformed(&format!("no {name}"), &ask_without(name)));
    }
    cases.extend([
        malformed("an empty :path", &ask_with(":path", "")),
        gone("an empty :method", &ask_with(":method", "")),
        answered("an empty :scheme", &ask_with(":scheme", ""), 400),
        malformed("a path without a slash", &ask_with(":path", "api/ats/v1/sync-status")),
        malformed("a path with a blank", &ask_with(":path", "/api/ats/v1/sync status")),
        malformed("an authority that is none", &ask_with(":authority", "a b")),
        gone("a method that is none", &ask_with(":method", "G T")),
        malformed("a length and no body", &ask(&[("content-length", "5")])),
        malformed("a length that is no number", &ask(&[("content-length", "five")])),
        malformed("a CONNECT that says where", &ask_with(":method", "CONNECT")),
        answered("CONNECT", &block(&[(":method", "CONNECT"), (":authority", "proxy:80")]), 404),
        answered("TRACE", &ask_with(":method", "TRACE"), 405),
        answered("a method in lower case", &ask_with(":method", "get"), 405),
        answered("another host", &ask(&[("host", "other")]), 400),
        answered("the same host", &ask(&[("host", "proxy")]), 200),
        answered("two hosts", &ask(&[("host", "proxy"), ("host", "proxy")]), 400),
        answered("no host at all", &ask_without(":authority"), 400),
        answered("a user in the authority", &ask_with(":authority", "user@proxy"), 400),
        answered("another scheme", &ask_with(":scheme", "ftp"), 400),
        answered("two accounts", &ask(&[("x-account-token", "globex")]), 400),
        answered("two keys", &ask(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), 400),
        answered("a comma in the account", &ask_with("x-account-token", "acme,globex"), 400),
        answered("dot segments", &ask_with(":path", "/api/hris/../ats/v1/sync-status"), 404),
        answered("an encoded slash", &ask_with(":path", "/api%2Fats/v1/sync-status"), 404),
        answered("two slashes", &ask_with(":path", "//api/ats/v1/sync-status"), 404),
        answered("an asterisk", &ask_with(":path", "*"), 404),
        answered("a path of 9 KB", &ask_with(":path", &format!("/{}", "x".repeat(9_000))), 414),
        answered("a query that is not ASCII", &ask_with(":path", &format!("{SYNC_STATUS}?cursor=\u{e9}")), 400),
        answered("a hundred and one fields", &ask(&[("x-a", "b"); 101]), 431),
        answered("an empty length", &ask(&[("content-length", "0")]), 200),
        answered("trailers are welcome", &ask(&[("te", "trailers")]), 200),
    ]);
    let open = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS, 1, &ask(fields));
    let data = |end: u8, body: &[u8]| frame(DATA, end, 1, body);
    let refused = |name: &str, frames: &[Vec<u8>]| sequence(name, frames, End::Answers(vec![(1, 400)]));
    cases.extend([
        refused("a body with GET", &[open(&[]), data(END_STREAM, b"{}")]),
        refused("an empty body with GET in two frames", &[open(&[]), data(END_STREAM, b"")]),
        refused("a body with GET that does not come", &[open(&[])]),
        refused("trailers with GET", &[open(&[]), frame(HEADERS, WHOLE, 1, &block(&[("x-a", "b")]))]),
        reset(
            "DATA that is more than was said",
            &[[open(&[("content-length", "1")]), data(END_STREAM, b"hello")].concat()],
        ),
    ]);
    cases
}

#[tokio::test]
async fn requests_that_are_none_are_reset_or_refused() {
    play(&primed().await, cases()).await;
}
