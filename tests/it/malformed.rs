//! What comes in over a socket and is not as the RFCs have it: each case gets its documented answer or a clean close, nothing of it
//! reaches Merge, and the next client is served.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Got, SYNC_STATUS, Wire, merge, soon};

mod bodies;

mod fields;

mod frames;

mod http2;

mod http2_requests;

mod slow;

mod targets;

/// A request with these bytes, what they must be answered, and what becomes of the connection.
struct Case {
    name: String,
    bytes: Vec<u8>,
    answers: Vec<Answer>,
    after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Acme's page.
    Page,
    /// A problem of ours.
    Problem(u16, &'static str),
    /// An answer without a body: what came is no HTTP at all.
    Bare(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next request on the same connection is answered.
    Stays,
    /// The proxy ends it.
    Closes,
    /// It depends on how much of a body has come; nothing more is answered.
    EndsWithTheClient,
}

/// The page, and the connection stays.
fn page(name: &str, bytes: impl Into<Vec<u8>>) -> Case {
    case(name, bytes, &[Answer::Page], After::Stays)
}

/// The door refuses, and the connection stays.
fn refused(name: &str, bytes: impl Into<Vec<u8>>, status: u16) -> Case {
    case(name, bytes, &[Answer::Problem(status, slug(status))], After::Stays)
}

/// A problem says what is wrong, and the connection ends.
fn untrusted(name: &str, bytes: impl Into<Vec<u8>>, status: u16) -> Case {
    case(name, bytes, &[Answer::Problem(status, slug(status))], After::Closes)
}

/// No HTTP at all.
fn bare(name: &str, bytes: impl Into<Vec<u8>>) -> Case {
    case(name, bytes, &[Answer::Bare(400)], After::Closes)
}

fn case(name: &str, bytes: impl Into<Vec<u8>>, answers: &[Answer], after: After) -> Case {
    Case { name: name.to_owned(), bytes: bytes.into(), answers: answers.to_vec(), after }
}

fn slug(status: u16) -> &'static str {
    match status {
        400 => "invalid-request",
        404 => "no-such-route",
        405 => "method-not-allowed",
        414 | 431 => "request-too-large",
        _ => panic!("no case expects {status}"),
    }
}

/// A request line for acme's page, with these lines behind Host and account.
fn get(lines: &str) -> String {
    line(&format!("GET {SYNC_STATUS} HTTP/1.1"), lines)
}

/// Any request line, with Host and account.
fn line(request_line: &str, lines: &str) -> String {
    format!("{request_line}\r\nHost: proxy\r\nX-Account-Token: acme\r\n{lines}\r\n")
}

/// What must never be taken for a request: it asks for another account, so that it would be seen.
fn smuggled() -> String {
    format!("GET {SYNC_STATUS}?cursor=smuggled HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: globex\r\n\r\n")
}

/// A proxy that has acme's page for as long as any test runs, and one route with bodies. Merge has been asked once.
async fn primed() -> Wire {
    let more = "
        [[routes]]
        path = '/api/{category}/v1/sync-status'
        cache = '1h'
        [[routes]]
        path = '/api/ats/v1/things'
        methods = ['POST']
        cache = 'off'
    ";
    let wire = Wire::with(merge(), more).await;
    assert_eq!(soon(wire.get(SYNC_STATUS)).await.status, 200);
    assert_eq!(wire.merge.calls(), 1);
    wire
}

/// Plays the cases one by one, and fails with all that went wrong. No refused request reaches Merge; a page comes from the store.
async fn play(wire: &Wire, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        let played = timeout(Duration::from_secs(20), case.play(wire)).await;
        if let Err(why) = played.unwrap_or_else(|_| Err("no end of it".into())) {
            wrong.push(format!("{}: {why}", case.name));
        }
        wrong.extend(aftermath(wire).await.map(|why| format!("{}: {why}", case.name)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is wrong with the world after a case.
async fn aftermath(wire: &Wire) -> Option<String> {
    let (calls, next) = (wire.merge.calls(), soon(wire.get(SYNC_STATUS)).await.status.as_u16());
    ((calls, next) != (1, 200)).then(|| format!("Merge has had {calls} calls, the next client gets {next}"))
}

impl Case {
    async fn play(&self, wire: &Wire) -> Result<(), String> {
        let mut peer = Peer::new(wire).await;
        peer.say(&self.bytes).await;
        let mut last = String::new();
        for expected in &self.answers {
            let got = peer.answer().await.ok_or("closed without an answer")?;
            expected.compare(&got)?;
            got.header("connection").clone_into(&mut last);
        }
        match self.after {
            After::Stays => {
                peer.say(get("").as_bytes()).await;
                return Answer::Page.compare(&peer.answer().await.ok_or("it has not stayed open")?);
            }
            After::Closes if last != "close" && !self.bytes.windows(8).any(|part| part == b"HTTP/1.0") => {
                return Err(format!("it does not say that it closes: {last:?}"));
            }
            After::Closes => {}
            After::EndsWithTheClient => peer.socket.shutdown().await.map_err(|error| error.to_string())?,
        }
        peer.answer().await.map_or(Ok(()), |more| Err(format!("one answer too many: {more:?}")))
    }
}

impl Answer {
    fn compare(self, got: &Got) -> Result<(), String> {
        let (status, slug) = (got.status.as_u16(), got.problem());
        let is_it = match self {
            Self::Page => (status, &*slug) == (200, "") && got.cache().starts_with("hit; "),
            Self::Problem(code, kind) => (status, &*slug) == (code, kind),
            Self::Bare(code) => (status, got.body.len()) == (code, 0),
        };
        if is_it { Ok(()) } else { Err(format!("{status} {slug} {got:?}")) }
    }
}

/// A client that says whatever it is told to.
struct Peer {
    socket: TcpStream,
    came: BytesMut,
}

impl Peer {
    async fn new(wire: &Wire) -> Self {
        Self::at(wire.proxy).await
    }

    async fn at(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("the proxy listens");
        socket.set_nodelay(true).expect("a TCP socket");
        Self { socket, came: BytesMut::new() }
    }

    /// Sends; a peer that has closed by now does not hear it.
    async fn say(&mut self, bytes: &[u8]) {
        let _ = timeout(Duration::from_secs(20), self.socket.write_all(bytes)).await;
    }

    /// The next whole answer; `None` when the connection has ended.
    async fn answer(&mut self) -> Option<Got> {
        loop {
            if let Some(got) = self.parsed() {
                return Some(got);
            }
            if !matches!(self.socket.read_buf(&mut self.came).await, Ok(1..)) {
                assert!(self.came.is_empty(), "cut short: {:?}", self.came);
                return None;
            }
        }
    }

    fn parsed(&mut self) -> Option<Got> {
        let end = self.came.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.came[..end]).expect("a head is ASCII here");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let status: StatusCode = status.parse().expect("a status");
        let fields = lines.filter_map(|line| line.split_once(": "));
        let headers: HeaderMap = fields
            .map(|(name, value)| {
                (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        let length = headers.get("content-length").expect("a length").to_str().expect("ASCII");
        let length: usize = length.parse().expect("a number");
        if self.came.len() < end + length {
            return None;
        }
        self.came.advance(end);
        let body: Bytes = self.came.split_to(length).freeze();
        Some(Got { status, headers, body })
    }
}

#[test]
fn there_are_as_many_cases_as_promised() {
    let heads = targets::cases().len() + fields::cases().len() + bodies::cases().len();
    assert!(heads >= 100, "{heads} requests of HTTP/1.1");
    let frames = http2::cases().len() + http2_requests::cases().len();
    assert!(frames >= 50, "{frames} sequences of HTTP/2 frames");
}
