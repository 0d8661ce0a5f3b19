//! Header fields: names, values, line ends; Host, account, Authorization, Connection.

use super::{After, Answer, Case, Peer, bare, case, get, page, play, primed, refused, untrusted};
use crate::support::{SYNC_STATUS, Wire, consumer, merge, soon, with};

/// Lines that are no header fields.
const NO_FIELDS: [(&str, &[u8]); 24] = [
    ("a blank before the colon", b"X-A : b\r\n"),
    ("a tab before the colon", b"X-A\t: b\r\n"),
    ("a blank before the colon of Host", b"Host : proxy\r\n"),
    ("a blank before the colon of Transfer-Encoding", b"Transfer-Encoding : chunked\r\n"),
    ("a blank in a name", b"X A: b\r\n"),
    ("no name", b": b\r\n"),
    ("no colon", b"X-A\r\n"),
    ("a parenthesis in a name", b"X(A: b\r\n"),
    ("a slash in a name", b"X/A: b\r\n"),
    ("a quote in a name", b"\"X\": b\r\n"),
    ("a NUL in a name", b"X\0A: b\r\n"),
    ("a name that is not ASCII", b"X\xc3\xa9: b\r\n"),
    ("a carriage return in a name", b"X\rA: b\r\n"),
    ("a folded line", b"X-A: b\r\n c\r\n"),
    ("a line folded with a tab", b"X-A: b\r\n\tc\r\n"),
    ("a folded Transfer-Encoding", b"Transfer-Encoding:\r\n chunked\r\n"),
    ("a line of blanks", b"X-A: b\r\n  \r\n"),
    ("a NUL in a value", b"X-A: b\0c\r\n"),
    ("a control character in a value", b"X-A: b\x01c\r\n"),
    ("a vertical tab in a value", b"X-A: \x0bb\r\n"),
    ("an escape in a value", b"X-A: \x1b[2J\r\n"),
    ("a DEL in a value", b"X-A: b\x7fc\r\n"),
    ("a carriage return in a value", b"X-A: b\rX-Account-Token: globex\r\n"),
    ("a carriage return at the end of a value", b"X-A: b\r\r\n"),
];

/// Values of Host that are no host.
const NO_HOSTS: [&str; 13] = [
    "",
    "a b",
    "proxy, proxy",
    "proxy,proxy",
    "user@proxy",
    "proxy/path",
    "http://proxy",
    "proxy:port",
    "proxy:80:80",
    ":80",
    "[::1",
    "pr\u{f6}xy",
    "proxy?x#y",
];

/// Account headers that are not one name.
const NO_ACCOUNTS: [(&str, &str); 10] = [
    ("two accounts", "X-Account-Token: globex\r\nX-Account-Token: acme\r\n"),
    ("the same account twice", "X-Account-Token: acme\r\nX-Account-Token: acme\r\n"),
    ("two accounts in differing case", "x-account-token: acme\r\nX-ACCOUNT-TOKEN: globex\r\n"),
    ("an empty account and one", "X-Account-Token:\r\nX-Account-Token: acme\r\n"),
    ("two accounts in one line", "X-Account-Token: acme,globex\r\n"),
    ("a comma behind the account", "X-Account-Token: acme,\r\n"),
    ("a blank in the account", "X-Account-Token: acme globex\r\n"),
    ("a tab in the account", "X-Account-Token: acme\tglobex\r\n"),
    ("an account that is not ASCII", "X-Account-Token: acm\u{e9}\r\n"),
    ("no account", ""),
];

/// What `Connection` may say without changing whose page it is.
const CONNECTIONS: [&str; 9] = [
    "X-Account-Token",
    "keep-alive, X-Account-Token",
    "x-account-token, authorization, host",
    "Authorization",
    "Host",
    "If-None-Match, Cache-Control",
    "content-length, transfer-encoding",
    "keep-alive, keep-alive, ,,",
    "upgrade, http2-settings",
];

pub(super) fn cases() -> Vec<Case> {
    let lines = |lines: &[u8]| {
        let head = get("");
        [&head.as_bytes()[..head.len() - 2], lines, b"\r\n"].concat()
    };
    let only = |fields: &str| format!("GET {SYNC_STATUS} HTTP/1.1\r\n{fields}\r\n");
    let account = "X-Account-Token: acme\r\n";
    let mut cases: Vec<Case> = NO_FIELDS.map(|(name, text)| bare(name, lines(text))).into();
    cases.extend(NO_HOSTS.map(|host| {
        let name = format!("the host {host:?}");
        untrusted(&name, only(&format!("Host: {host}\r\n{account}")), 400)
    }));
    cases.extend(NO_ACCOUNTS.map(|(name, text)| refused(name, only(&format!("Host: proxy\r\n{text}")), 400)));
    cases.extend(CONNECTIONS.map(|value| page(value, get(&format!("Connection: {value}\r\n")))));
    cases.extend([
        untrusted("no host", only(account), 400),
        untrusted("two hosts", only(&format!("Host: proxy\r\nHost: other\r\n{account}")), 400),
        untrusted("the same host twice", only(&format!("Host: proxy\r\n{account}host: proxy\r\n")), 400),
        bare("a folded first line", format!("GET {SYNC_STATUS} HTTP/1.1\r\n Host: proxy\r\n{account}\r\n")),
        untrusted("a bare line feed behind the request line", get("").replacen("\r\n", "\n", 1), 400),
        untrusted("a bare line feed behind a field", get("X-A: b\n"), 400),
        untrusted("a bare line feed at the end", get("").replace("\r\n\r\n", "\r\n\n"), 400),
        untrusted("bare line feeds only", get("").replace('\r', ""), 400),
        bare("carriage returns only", get("").replace('\n', "") + "\r\n\r\n"),
        refused(
            "an account of 513 characters",
            only(&format!("Host: a\r\nX-Account-Token: {}\r\n", "x".repeat(513))),
            400,
        ),
        refused("two keys", get("Authorization: Bearer a\r\nauthorization: Bearer a\r\n"), 400),
        page("a tab in a value", get("X-A: b\tc\r\n")),
        page("a value that is not ASCII", get("X-A: \u{e9}\r\n")),
        page("an empty value", get("X-A:\r\n")),
        page("a host with a port", only(&format!("Host: [::1]:8080\r\n{account}"))),
        page("a hundred fields", get(&"X-A: b\r\n".repeat(98))),
        untrusted("a hundred and one fields", get(&"X-A: b\r\n".repeat(99)), 431),
        untrusted("ten thousand fields", get(&"a:b\r\n".repeat(10_000)), 431),
        refused("a value of 66 KB", get(&format!("X-A: {}\r\n", "x".repeat(66_000))), 431),
        refused("a name of 60 KB", get(&format!("{}: {}\r\n", "x".repeat(60_000), "y".repeat(6_000))), 431),
        page("an expectation without a body", get("Expect: 100-continue\r\n")),
        page("an expectation that nobody knows", get("Expect: wonders\r\n")),
        page(
            "an upgrade to h2c",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
        ),
        page(
            "an upgrade to a web socket",
            get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"),
        ),
        page("trailers are welcome", get("TE: trailers\r\nTrailer: X-A\r\n")),
        case("Connection: close", get("Connection: X-Account-Token, close\r\n"), &[Answer::Page], After::Closes),
        case(
            "close, then keep-alive",
            get("Connection: close\r\nConnection: keep-alive\r\n"),
            &[Answer::Page],
            After::Closes,
        ),
        case("HTTP/1.0", format!("GET {SYNC_STATUS} HTTP/1.0\r\n{account}\r\n"), &[Answer::Page], After::Closes),
        page("HTTP/1.0 that stays", format!("GET {SYNC_STATUS} HTTP/1.0\r\nConnection: keep-alive\r\n{account}\r\n")),
        untrusted(
            "HTTP/1.0 with two hosts",
            format!("GET {SYNC_STATUS} HTTP/1.0\r\nHost: a\r\nHost: b\r\n{account}\r\n"),
            400,
        ),
    ]);
    cases
}

#[tokio::test]
async fn fields_that_can_be_read_in_two_ways_are_refused() {
    play(&primed().await, cases()).await;
}

#[tokio::test]
async fn no_consumer_loses_its_key_or_account_by_naming_them_in_connection() {
    let consumers = ["one", "two"]
        .map(|name| consumer(name, &format!("accounts = ['{}']", if name == "one" { "acme" } else { "globex" })));
    let wire = Wire::with(merge(), &consumers.concat()).await;
    for connection in ["authorization", "x-account-token", "Authorization, X-Account-Token, close"] {
        for (key, account, status) in
            [("one", "acme", 200), ("one", "globex", 403), ("two", "globex", 200), ("no", "acme", 401)]
        {
            let bearer = format!("Bearer {key}");
            let headers = [("authorization", &*bearer), ("x-account-token", account), ("connection", connection)];
            let answer = soon(wire.send(with(SYNC_STATUS, &headers))).await;
            assert_eq!(answer.status, status, "{key} {account} {connection}");
        }
    }
    assert_eq!(wire.merge.calls(), 2, "each page once");
}

#[tokio::test]
async fn operators_are_held_to_the_same() {
    let wire = primed().await;
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host: a\n", "Host: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n"] {
        let mut peer = Peer::at(wire.admin).await;
        peer.say(format!("DELETE /api/cache?hard=true HTTP/1.1\r\n{fields}\r\n").as_bytes()).await;
        let refused = soon(peer.answer()).await.expect("an answer");
        assert_eq!((refused.status.as_u16(), refused.header("connection")), (400, "close"), "{fields:?}");
        let said: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
        assert!(said["error"].is_string(), "{said}");
    }
    assert!(soon(wire.get(SYNC_STATUS)).await.cache().starts_with("hit"), "nothing has been purged");
}
