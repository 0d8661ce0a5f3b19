//! Request lines: methods, targets, versions.

use super::{After, Answer, Case, bare, case, get, line, page, play, primed, refused, smuggled, untrusted};
use crate::support::SYNC_STATUS;

const OTHER_METHODS: [&str; 9] = ["TRACE", "OPTIONS", "PATCH", "PURGE", "PRI", "get", "Get", "G-E.T", "CONNECT"];

/// Paths that only resemble a route.
const PATHS: [&str; 22] = [
    "/",
    "*",
    "//proxy/api/ats/v1/sync-status",
    "/api//ats/v1/sync-status",
    "/api/ats/v1/sync-status/",
    "/api/./ats/v1/sync-status",
    "/api/hris/../ats/v1/sync-status",
    "/../api/ats/v1/sync-status",
    "/api/hris/%2e%2e/ats/v1/sync-status",
    "/api/hris/%2E./ats/v1/sync-status",
    "/api%2Fats/v1/sync-status",
    "/api%2fats/v1/sync-status",
    "/api/ats%252Fv1/sync-status",
    "/api/ats/v1/sync-status%00",
    "/api/ats/v1/sync-status%0d%0a",
    "/api/ats/v1/sync%2Dstatus",
    "/api/ats/v1/sync-status;a=b",
    "/api\\ats\\v1\\sync-status",
    "/api/ats/v1/sync-status%3Fcursor=a",
    "/API/ats/v1/sync-status",
    "/api/ats/v1/sync-status%",
    "/%61pi/ats/v1/sync-status",
];

/// First lines that are not a method, a target and a version that we speak.
const NO_REQUEST_LINES: [(&str, &str); 26] = [
    ("no method", " /api/ats/v1/sync-status HTTP/1.1"),
    ("a control character in the method", "G\u{1}T /api/ats/v1/sync-status HTTP/1.1"),
    ("a separator in the method", "GE(T /api/ats/v1/sync-status HTTP/1.1"),
    ("a method that is not ASCII", "G\u{c9}T /api/ats/v1/sync-status HTTP/1.1"),
    ("no target", "GET HTTP/1.1"),
    ("an empty target", "GET  HTTP/1.1"),
    ("two blanks before the target", "GET  /api/ats/v1/sync-status HTTP/1.1"),
    ("two blanks behind the target", "GET /api/ats/v1/sync-status  HTTP/1.1"),
    ("tabs between the parts", "GET\t/api/ats/v1/sync-status\tHTTP/1.1"),
    ("a blank in the target", "GET /api/ats/v1/sync-status x HTTP/1.1"),
    ("a tab in the target", "GET /api/ats/v1/sync-status\t HTTP/1.1"),
    ("a NUL in the target", "GET /api/ats/v1/sync-status\0 HTTP/1.1"),
    ("a DEL in the target", "GET /api/ats/v1/sync-status\u{7f} HTTP/1.1"),
    ("a relative target", "GET api/ats/v1/sync-status HTTP/1.1"),
    ("a target that is a query", "GET ?cursor=a HTTP/1.1"),
    ("an absolute target without a host", "GET http:///api/ats/v1/sync-status HTTP/1.1"),
    ("HTTP/0.9", "GET /api/ats/v1/sync-status"),
    ("HTTP/1.2", "GET /api/ats/v1/sync-status HTTP/1.2"),
    ("HTTP/2.0 as text", "GET /api/ats/v1/sync-status HTTP/2.0"),
    ("HTTP/3", "GET /api/ats/v1/sync-status HTTP/3"),
    ("HTTP/11", "GET /api/ats/v1/sync-status HTTP/11"),
    ("HTTP/1.1.1", "GET /api/ats/v1/sync-status HTTP/1.1.1"),
    ("a version in lower case", "GET /api/ats/v1/sync-status http/1.1"),
    ("another protocol", "GET /api/ats/v1/sync-status ICAP/1.0"),
    ("a blank behind the version", "GET /api/ats/v1/sync-status HTTP/1.1 "),
    ("a colon for a version", "GET /api/ats/v1/sync-status: HTTP"),
];

pub(super) fn cases() -> Vec<Case> {
    let target = |target: &str| line(&format!("GET {target} HTTP/1.1"), "");
    let mut cases: Vec<Case> =
        OTHER_METHODS.map(|method| refused(method, line(&format!("{method} {SYNC_STATUS} HTTP/1.1"), ""), 405)).into();
    cases.extend(PATHS.map(|path| refused(path, target(path), 404)));
    cases.extend(NO_REQUEST_LINES.map(|(name, text)| bare(name, line(text, ""))));
    let long = |length: usize| target(&format!("{SYNC_STATUS}?cursor={}", "x".repeat(length)));
    cases.extend([
        refused("CONNECT as it should be", line("CONNECT proxy HTTP/1.1", ""), 404),
        refused("OPTIONS for the whole server", line("OPTIONS * HTTP/1.1", ""), 404),
        page("an absolute target of this host", target(&format!("http://proxy{SYNC_STATUS}"))),
        page("an absolute target in capitals", target(&format!("HTTP://PROXY{SYNC_STATUS}"))),
        page("an empty query", target(&format!("{SYNC_STATUS}?"))),
        untrusted("an absolute target of another host", target(&format!("http://merge.dev{SYNC_STATUS}")), 400),
        untrusted("an absolute target with another port", target(&format!("http://proxy:1{SYNC_STATUS}")), 400),
        untrusted("an absolute target with a user", target(&format!("http://user:word@proxy{SYNC_STATUS}")), 400),
        untrusted("an absolute target of another scheme", target(&format!("ftp://proxy{SYNC_STATUS}")), 400),
        untrusted("a bare host as target", target("proxy"), 400),
        untrusted("host and port as target", target("proxy:80"), 400),
        untrusted("a fragment", target(&format!("{SYNC_STATUS}#top")), 400),
        untrusted("a fragment behind a query", target(&format!("{SYNC_STATUS}?cursor=a#top")), 400),
        untrusted("a path that is not ASCII", target("/api/ats/v1/sync-status\u{e9}"), 400),
        untrusted("a query that is not ASCII", target(&format!("{SYNC_STATUS}?cursor=\u{e9}")), 400),
        bare("a target that is no text", [b"GET /\xff\xfe HTTP/1.1\r\n", &b"Host: proxy\r\n\r\n"[..]].concat()),
        refused("a target of 9 KB", long(9_000), 414),
        refused("a target of 60 KB", long(60_000), 414),
        case("a target of 66 KB", long(66_000), &[Answer::Bare(414)], After::Closes),
        refused("a path of 9 KB", target(&format!("/{}", "x/".repeat(4_500))), 414),
        refused("page_size=0", target(&format!("{SYNC_STATUS}?page_size=0")), 400),
        refused("two cursors", target(&format!("{SYNC_STATUS}?cursor=a&%63ursor=b")), 400),
        page("empty lines first", format!("\r\n\r\n{}", get(""))),
        untrusted("an empty line that is a bare line feed first", format!("\n{}", get("")), 400),
        bare("a carriage return first", format!("\r{}", get(""))),
    ]);
    cases.extend(foreign());
    cases
}

/// Other protocols, and what is none.
fn foreign() -> Vec<Case> {
    let hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\r\n\r\n";
    vec![
        bare("a TLS hello", *hello),
        bare("an SSH banner", "SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        bare("a line of the PROXY protocol", format!("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n{}", get(""))),
        bare("the PROXY protocol in binary", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\r\n\r\n".to_vec()),
        bare("a Redis command", "*1\r\n$4\r\nPING\r\n\r\n"),
        bare("JSON", "{\"method\": \"GET\"}\r\n\r\n"),
        bare("the preface of HTTP/2 with another end", format!("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n{}", smuggled())),
        bare("the preface of HTTP/2 with a header", format!("PRI * HTTP/2.0\r\nHost: proxy\r\n\r\n{}", smuggled())),
    ]
}

#[tokio::test]
async fn a_request_line_that_is_none_gets_no_further() {
    play(&primed().await, cases()).await;
}
