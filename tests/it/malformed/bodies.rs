//! Where a request ends: lengths, chunks, and what comes behind.

use super::{After, Answer, Case, Peer, bare, case, get, line, play, primed, smuggled, untrusted};
use crate::support::soon;

/// Fields that say two things, or nothing that is understood, about where the body ends. All of them are sent with a body that would
/// be another request to whoever reads on.
const FRAMINGS: [(&str, &str, u16); 27] = [
    ("a length and chunks", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", 400),
    ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", 400),
    ("chunks and no length to speak of", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
    ("one length twice", "Content-Length: 0\r\nContent-Length: 0\r\n", 400),
    ("two lengths", "Content-Length: 0\r\nContent-Length: 6\r\n", 0),
    ("two lengths in one line", "Content-Length: 0, 6\r\n", 0),
    ("one length twice in one line", "Content-Length: 6, 6\r\n", 0),
    ("a length with a plus", "Content-Length: +6\r\n", 0),
    ("a negative length", "Content-Length: -1\r\n", 0),
    ("a hexadecimal length", "Content-Length: 0x6\r\n", 0),
    ("a length with a blank", "Content-Length: 0 6\r\n", 0),
    ("a length that is a word", "Content-Length: six\r\n", 0),
    ("an empty length", "Content-Length:\r\n", 0),
    ("a length of many zeros", "Content-Length: 000000000000000000000000000000000000000000000000000000000\r\n", 400),
    ("a length above 64 bits", "Content-Length: 18446744073709551622\r\n", 0),
    ("chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
    ("chunks and identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 0),
    ("identity", "Transfer-Encoding: identity\r\n", 0),
    ("gzip only", "Transfer-Encoding: gzip\r\n", 0),
    ("gzip in chunks", "Transfer-Encoding: gzip, chunked\r\n", 400),
    ("chunks last but one", "Transfer-Encoding: chunked, gzip\r\n", 0),
    ("chunks with a letter too many", "Transfer-Encoding: xchunked\r\n", 0),
    ("chunks in quotes", "Transfer-Encoding: \"chunked\"\r\n", 0),
    ("chunks with a parameter", "Transfer-Encoding: chunked;a=b\r\n", 0),
    ("chunks and a comma", "Transfer-Encoding: chunked,\r\n", 0),
    ("chunks behind a control character", "Transfer-Encoding: \x0bchunked\r\n", 0),
    ("an empty coding", "Transfer-Encoding:\r\n", 0),
];

/// What is not chunks, or would not be to everybody.
const CHUNKS: [(&str, &str); 10] = [
    ("no size", "\r\n\r\n"),
    ("a size that is no number", "xyz\r\n\r\n"),
    ("a negative size", "-1\r\n\r\n"),
    ("a size above 64 bits", "10000000000000000\r\n\r\n"),
    ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
    ("a bare line feed behind a size", "5\nhello\r\n0\r\n\r\n"),
    ("a bare line feed in an extension", "5;a=b\nx\r\nhello\r\n0\r\n\r\n"),
    ("no end of line behind a chunk", "5\r\nhello0\r\n\r\n"),
    ("a trailer without a colon", "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (name, fields, status) in FRAMINGS {
        // What a reader of the chunks takes for the last of them, a reader of the length takes for a body of six bytes.
        let text = get(fields) + "0\r\n\r\nG" + &smuggled();
        cases.push(if status == 0 { bare(name, text) } else { untrusted(name, text, status) });
    }
    let invalid = Answer::Problem(400, "invalid-request");
    for (name, chunks) in CHUNKS {
        let name = format!("{name}, with GET");
        cases.push(untrusted(&name, get("Transfer-Encoding: chunked\r\n") + chunks + &smuggled(), 400));
    }
    let counted = |body: &str| get(&format!("Content-Length: {}\r\n", body.len())) + body;
    cases.extend([
        case("a body with GET", counted("{}"), &[invalid], After::EndsWithTheClient),
        case("a body with GET that is a request", counted(&smuggled()), &[invalid], After::EndsWithTheClient),
        case(
            "less of a body than was said",
            get("Content-Length: 999\r\n") + &smuggled(),
            &[invalid],
            After::EndsWithTheClient,
        ),
        case(
            "a body that waits to be asked for",
            get("Content-Length: 5\r\nExpect: 100-continue\r\n"),
            &[invalid],
            After::EndsWithTheClient,
        ),
        untrusted("whole chunks with GET", get("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
        untrusted(
            "trailers with GET",
            get("Transfer-Encoding: chunked\r\n") + "0\r\nX-Account-Token: globex\r\n\r\n",
            400,
        ),
        bare(
            "chunks with HTTP/1.0",
            line("GET /api/ats/v1/sync-status HTTP/1.0", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        ),
        case("one good request behind another", get("") + &get(""), &[Answer::Page; 2], After::Stays),
        case(
            "a refused request and a good one",
            line("GET / HTTP/1.1", "") + &get(""),
            &[Answer::Problem(404, "no-such-route"), Answer::Page],
            After::Stays,
        ),
        case(
            "an empty body and a good request",
            get("Content-Length: 0\r\n") + &get(""),
            &[Answer::Page; 2],
            After::Stays,
        ),
        case(
            "a good request and rubbish",
            get("") + "rubbish\r\n\r\n" + &smuggled(),
            &[Answer::Page, Answer::Bare(400)],
            After::Closes,
        ),
        case(
            "a good request and NULs",
            get("") + "\0\0\0\0\r\n\r\n" + &smuggled(),
            &[Answer::Page, Answer::Bare(400)],
            After::Closes,
        ),
        case(
            "a good request and one without a host",
            get("") + "GET / HTTP/1.1\r\n\r\n" + &smuggled(),
            &[Answer::Page, invalid],
            After::Closes,
        ),
        case(
            "a good request and one with bare line feeds",
            get("") + &get("X-A: b\n") + &smuggled(),
            &[Answer::Page, invalid],
            After::Closes,
        ),
        case(
            "a good request and one with two framings",
            get("") + &get("Content-Length: 0\r\nContent-Length: 0\r\n") + &smuggled(),
            &[Answer::Page, invalid],
            After::Closes,
        ),
        case(
            "a request behind the last one",
            get("Connection: close\r\n") + &smuggled(),
            &[Answer::Page],
            After::Closes,
        ),
    ]);
    cases
}

#[tokio::test]
async fn a_body_never_becomes_a_request() {
    play(&primed().await, cases()).await;
}

#[tokio::test]
async fn chunks_that_are_none_end_the_request_and_its_connection() {
    let wire = primed().await;
    for (name, chunks) in CHUNKS {
        let mut peer = Peer::new(&wire).await;
        let head = line("POST /api/ats/v1/things HTTP/1.1", "Transfer-Encoding: chunked\r\n");
        peer.say((head + chunks + &smuggled()).as_bytes()).await;
        if let Some(answer) = soon(peer.answer()).await {
            assert!([400, 404, 502].contains(&answer.status.as_u16()), "{name}: {answer:?}");
            assert_eq!(answer.header("connection"), "close", "{name}");
        }
        assert!(soon(peer.answer()).await.is_none(), "{name}");
        soon(wire.merge.idle()).await;
    }
    let calls = wire.merge.log();
    assert!(
        calls[1..].iter().all(|call| &*call.path == "/api/ats/v1/things" && call.account.as_deref() == Some("acme"))
    );
    assert_eq!(wire.merge.calls_for("globex"), 0);
}

#[tokio::test]
async fn whole_chunks_pass_and_their_connection_ends_with_them() {
    let wire = primed().await;
    let mut peer = Peer::new(&wire).await;
    let head =
        line("POST /api/ats/v1/things HTTP/1.1", "Transfer-Encoding: chunked\r\nConnection: X-Account-Token\r\n");
    peer.say((head + "5;a=b\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n" + &smuggled()).as_bytes()).await;
    let answer = soon(peer.answer()).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (404, "close"), "Merge has no such path");
    assert!(soon(peer.answer()).await.is_none());
    assert_eq!((wire.merge.calls(), wire.merge.calls_for("acme")), (2, 2), "the account is not lost on the way");
}
