//! A request that has been said before over HTTP/1 may be answered without being parsed again. Whoever gives an answer, it must be the
//! same on the wire, and come in its turn.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Empty;
use merge_sync_proxy::domain::arrival::{Arrived, Conversation};
use merge_sync_proxy::domain::heads::{Row, Said};
use merge_sync_proxy::domain::peer::Peer;
use merge_sync_proxy::stack;
use rustls::ALL_VERSIONS;
use socket2::SockRef;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, pause, resume, sleep};
use tower::ServiceExt;

use crate::authority::{Authority, Files, client, connect};
use crate::support::{Got, SYNC_STATUS, Wire, World, ask, merge, soon};

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Both ends of one connection.
struct Line<S> {
    read: BufReader<ReadHalf<S>>,
    write: WriteHalf<S>,
}

/// An answer as it came: the lines of its head, and its body.
#[derive(Debug, PartialEq)]
struct Answer {
    head: Vec<String>,
    body: Vec<u8>,
}

fn head(account: &str, more: &str) -> String {
    format!("GET {SYNC_STATUS} HTTP/1.1\r\nhost: proxy.test\r\nx-account-token: {account}\r\n{more}\r\n")
}

/// A proxy that speaks TLS.
struct Secured {
    authority: Authority,
    _files: Files,
    wire: Wire,
}

impl Secured {
    async fn new() -> Self {
        let authority = Authority::new("operators");
        let files = Files::new(&authority.host());
        let wire = Wire::with(merge(), &files.config("", "")).await;
        Self { authority, _files: files, wire }
    }

    /// A connection over which this version is chosen.
    async fn open(&self, version: &str) -> Line<impl Stream> {
        let client = client(&self.authority, &[version], None, ALL_VERSIONS);
        Line::new(soon(connect(&client, self.wire.proxy)).await.expect("a handshake"))
    }
}

async fn plain(wire: &Wire) -> TcpStream {
    TcpStream::connect(wire.proxy).await.expect("the proxy listens")
}

impl<S: Stream> Line<S> {
    fn new(stream: S) -> Self {
        let (read, write) = split(stream);
        Self { read: BufReader::new(read), write }
    }

    async fn say(&mut self, text: &str) {
        self.write.write_all(text.as_bytes()).await.expect("it is open");
        self.write.flush().await.expect("it is open");
    }

    async fn ask(&mut self, account: &str, more: &str) -> Answer {
        self.say(&head(account, more)).await;
        soon(next(&mut self.read)).await.expect("an answer")
    }

    async fn ends(&mut self) -> bool {
        soon(self.read.read(&mut [0])).await.is_ok_and(|read| read == 0)
    }
}

/// The head of the next answer, if there is one, and the length of its body.
async fn next_head(read: &mut (impl AsyncBufReadExt + Unpin)) -> Option<(Vec<String>, usize)> {
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        let came = read.read_line(&mut line).await.ok()?;
        let line = line.strip_suffix("\r\n").filter(|_| came > 0)?;
        if line.is_empty() {
            return Some((head, length));
        }
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().expect("a number"));
        head.push(line.to_owned());
    }
}

/// The next answer, if there is one.
async fn next(read: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Answer> {
    let (head, length) = next_head(read).await?;
    let mut body = vec![0; length];
    read.read_exact(&mut body).await.ok()?;
    Some(Answer { head, body })
}

impl Answer {
    fn says(&self, line: &str) -> bool {
        self.head.iter().any(|said| said == line)
    }

    /// Without what is different each time.
    fn lasting(mut self) -> Self {
        for line in &mut self.head {
            for name in ["date: ", "age: ", "x-request-id: 0"] {
                if line.starts_with(name) {
                    line.truncate(name.len());
                }
            }
            let end = line.find("; ttl=").unwrap_or(line.len());
            line.truncate(end);
        }
        self
    }
}

async fn repeat_with_all_kinds_of_fields(mut line: Line<impl Stream>) {
    let tag = line.ask("acme", "x-nonce: first\r\n").await;
    let tag = tag.head.iter().find_map(|line| line.strip_prefix("etag: ")).expect("an entity tag").to_owned();
    // Twins are made after the first who would read them.
    for number in 0.. {
        let got = line.ask("acme", &format!("x-nonce: {number}\r\naccept-encoding: br, gzip;q=0.5\r\n")).await;
        if got.says("content-encoding: br") {
            break;
        }
        yield_now().await;
    }
    for (number, (more, expected)) in [
        ("", "200 OK"),
        ("accept: */*\r\nuser-agent: team/1.0\r\nconnection: keep-alive\r\n", "200 OK"),
        ("accept-encoding: br\r\n", "200 OK"),
        ("accept-encoding: gzip\r\n", "200 OK"),
        ("accept-encoding: br;q=0, gzip;q=0\r\n", "200 OK"),
        (&*format!("if-none-match: {tag}\r\n"), "304 Not Modified"),
        (&*format!("if-none-match: \"a\"\r\nif-none-match: W/{tag}\r\n"), "304 Not Modified"),
        ("if-none-match: \"other\"\r\naccept-encoding: gzip\r\n", "200 OK"),
        ("x-request-id: mine\r\n", "200 OK"),
        ("x-request-id: \r\n", "200 OK"),
        ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n", "200 OK"),
    ]
    .into_iter()
    .enumerate()
    {
        let parsed = line.ask("acme", &format!("x-nonce: {number} of all\r\n{more}")).await.lasting();
        assert!(parsed.says(&format!("HTTP/1.1 {expected}")), "{more:?}: {:?}", parsed.head);
        for turn in 0..6 {
            assert_eq!(line.ask("acme", more).await.lasting(), parsed, "{more:?}, turn {turn}");
        }
    }
    let goodbye = line.ask("acme", "connection: close\r\n").await;
    assert!(goodbye.says("connection: close") && line.ends().await);
}

#[tokio::test]
async fn a_repetition_is_answered_with_what_was_said_the_first_time() {
    let wire = Wire::new().await;
    repeat_with_all_kinds_of_fields(Line::new(plain(&wire).await)).await;
    let secured = Secured::new().await;
    repeat_with_all_kinds_of_fields(secured.open("http/1.1").await).await;
}

/// Lets so much time pass that a connection is idle.
async fn rest() {
    pause();
    advance(Duration::from_secs(2)).await;
    resume();
    yield_now().await;
}

async fn repeat_with_rests(mut line: Line<impl Stream>) {
    let first = [line.ask("acme", "").await.body, line.ask("globex", "").await.body];
    for turn in 0..60 {
        if turn % 2 == 0 || turn % 3 == 0 {
            rest().await;
        }
        // Some are known and some new, and now and then a page has expired.
        let more = if turn % 5 == 0 { format!("x-nonce: {turn}\r\n") } else { String::new() };
        for (account, body) in ["acme", "globex"].into_iter().zip(&first) {
            let answer = line.ask(account, &more).await;
            assert!(answer.says("HTTP/1.1 200 OK"), "turn {turn}: {:?}", answer.head);
            assert_eq!(&answer.body, body, "turn {turn}");
        }
    }
    let goodbye = line.ask("acme", "connection: close\r\n").await;
    assert!(goodbye.says("connection: close") && line.ends().await);
}

#[tokio::test]
async fn a_connection_that_rests_between_its_requests_is_answered_as_before() {
    let wire = Wire::new().await;
    repeat_with_rests(Line::new(plain(&wire).await)).await;
    let secured = Secured::new().await;
    repeat_with_rests(secured.open("http/1.1").await).await;
}

#[tokio::test]
async fn what_says_goodbye_ends_the_connection_however_often_it_is_said() {
    let wire = Wire::new().await;
    for (turn, more) in ["connection: close\r\n", "connection: keep-alive, close\r\n"].repeat(4).into_iter().enumerate()
    {
        let mut line = Line::new(plain(&wire).await);
        assert!(line.ask("acme", more).await.says("connection: close"), "{more:?}, turn {turn}");
        assert!(line.ends().await);
    }
}

#[tokio::test]
async fn who_has_chosen_http2_is_not_answered_in_another_version() {
    let secured = Secured::new().await;
    let mut known = secured.open("http/1.1").await;
    for _ in 0..6 {
        known.ask("acme", "").await;
    }
    let mut line = secured.open("h2").await;
    line.say(&head("acme", "")).await;
    let mut heard = Vec::new();
    let _ = soon(line.read.read_to_end(&mut heard)).await;
    assert!(!heard.windows(8).any(|said| said == b"HTTP/1.1"), "{}", String::from_utf8_lossy(&heard));
}

/// Sends what is there when it is there: mostly the same again, and sometimes something that has to be parsed.
async fn send(mut write: WriteHalf<TcpStream>, asked: Vec<(&'static str, bool)>) {
    for (number, (account, is_new)) in asked.into_iter().enumerate() {
        let mut more = String::new();
        if is_new {
            write!(more, "x-nonce: {number}\r\n").expect("memory");
        }
        write.write_all(head(account, &more).as_bytes()).await.expect("it is open");
        yield_now().await;
    }
}

#[tokio::test]
async fn answers_come_in_their_turn_however_slowly_they_are_read() {
    let mut random = fastrand::Rng::with_seed(11);
    for size in [100, 300_000] {
        let wire = Wire::new().await;
        for account in ["acme", "globex"] {
            let padding = account.repeat(size / account.len());
            let page = format!("{{\"next\":null,\"previous\":null,\"results\":[],\"padding\":\"{padding}\"}}");
            wire.merge.page(account, "ats", page);
        }
        let pages = {
            let mut line = Line::new(plain(&wire).await);
            [line.ask("acme", "").await.body, line.ask("globex", "").await.body]
        };
        let stream = plain(&wire).await;
        SockRef::from(&stream).set_recv_buffer_size(32_768).expect("it is a socket");
        let mut line = Line::new(stream);
        let mut choose = |count| -> Vec<(&'static str, bool)> {
            let one = |_| (if random.bool() { "acme" } else { "globex" }, random.u32(0..4) == 0);
            (0..count).map(one).collect()
        };
        let check = |(account, _): (&str, bool), answer: Answer, number: usize| {
            let expected = &pages[usize::from(account == "globex")];
            assert!(answer.says("HTTP/1.1 200 OK") && answer.body == *expected, "{size}: answer {number}");
        };
        // One after the other: each answer is larger than what the sockets hold.
        for (number, (account, is_new)) in choose(30).into_iter().enumerate() {
            let more = if is_new { format!("x-nonce: {number} before\r\n") } else { String::new() };
            check((account, is_new), line.ask(account, &more).await, number);
        }
        // And without waiting for any.
        let asked = choose(100);
        let Line { mut read, write } = line;
        let sending = tokio::spawn(send(write, asked.clone()));
        for (number, asked) in asked.into_iter().enumerate() {
            check(asked, soon(next(&mut read)).await.expect("an answer"), number);
        }
        sending.await.expect("everything was sent");
    }
}

#[tokio::test]
async fn who_has_said_everything_still_gets_the_answer() {
    let wire = Wire::new().await;
    Line::new(plain(&wire).await).ask("acme", "").await;
    for turn in 0..6 {
        let mut line = Line::new(plain(&wire).await);
        line.say(&head("acme", "")).await;
        line.write.shutdown().await.expect("it is open");
        let answer = soon(next(&mut line.read)).await;
        assert!(answer.is_some_and(|answer| answer.says("HTTP/1.1 200 OK")), "turn {turn}");
        assert!(line.ends().await);
    }
}

#[tokio::test]
async fn a_proxy_that_stops_says_so_in_an_answer() {
    let mut wire = Wire::new().await;
    let (mut line, mut known) = (Line::new(plain(&wire).await), Line::new(plain(&wire).await));
    for _ in 0..6 {
        line.ask("acme", "").await;
        known.ask("acme", "").await;
    }
    wire.stop();
    for mut line in [line, known] {
        while !line.ask("acme", "").await.says("connection: close") {}
        assert!(line.ends().await);
    }
    assert_eq!(wire.drained().await.cut, 0);
}

#[tokio::test]
async fn a_connection_whose_requests_were_all_known_is_given_up_like_any_other() {
    let server = "[server]\nlisten = ['127.0.0.1:0']\n";
    for (times, part) in [("idle_timeout = '1s'", ""), ("header_timeout = '1s'", "GET /api")] {
        let wire = Wire::with(merge(), &format!("{server}{times}\n")).await;
        let mut first = Line::new(plain(&wire).await);
        for _ in 0..4 {
            first.ask("acme", "").await;
        }
        let mut line = Line::new(plain(&wire).await);
        assert!(line.ask("acme", "").await.says("HTTP/1.1 200 OK"));
        line.say(part).await;
        assert!(line.ends().await, "{times}");
    }
}

#[tokio::test]
async fn who_reads_slowly_but_steadily_gets_all_of_the_answer() {
    // What waits in a socket of this kind is little, and told of often.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("proxy.sock");
    let listen = format!("listen = ['127.0.0.1:0', 'unix:{}']", path.display());
    let wire = Wire::with(merge(), &format!("[server]\n{listen}\nidle_timeout = '1s'\n")).await;
    let padding = "a".repeat(3_900_000);
    wire.merge.page("acme", "ats", format!(r#"{{"next":null,"previous":null,"results":[],"padding":"{padding}"}}"#));
    let open = async || Line::new(UnixStream::connect(&path).await.expect("the proxy listens"));
    for _ in 0..3 {
        assert!(open().await.ask("acme", "").await.says("HTTP/1.1 200 OK"));
    }
    let read = async |more: &str| {
        let mut line = open().await;
        line.say(&head("acme", more)).await;
        let (_, length) = soon(next_head(&mut line.read)).await.expect("an answer");
        for piece in vec![0; length].chunks_mut(50_000) {
            sleep(Duration::from_millis(50)).await;
            let came = soon(line.read.read_exact(piece)).await;
            assert!(came.is_ok(), "{more:?}: {came:?}");
        }
        // And may ask for more.
        assert!(line.ask("globex", "").await.says("HTTP/1.1 200 OK"), "{more:?}");
    };
    tokio::join!(read(""), read("x-nonce: new\r\n"));
}

#[tokio::test(start_paused = true)]
async fn what_goes_while_it_is_answered_with_was_there_when_it_was_asked_for() {
    for hard in [false, true] {
        let world = World::new();
        let stack = stack::proxy::<Empty<Bytes>>(world.app.ground());
        let peer = Peer::Local { uid: None };
        let conversation = Arc::new(Conversation::new(peer, Some(world.app.ground().heads.clone())));
        let (mut row, head) = (Row::default(), head("acme", ""));
        let question = loop {
            let said = conversation.hear(&mut row, head.as_bytes());
            if let Said::Known(question) = &said
                && conversation.recall(question, Instant::now()).is_some()
            {
                break question.clone();
            }
            let arrived = Arrived::over(conversation.clone(), Instant::now(), said, Empty::new());
            let Ok(response) = stack.clone().oneshot(ask(SYNC_STATUS).map(|_| arrived)).await;
            assert_eq!(response.status(), 200);
        };
        let now = Instant::now();
        let (gist, page) = conversation.recall(&question, now).expect("it is there");
        world.app.ground().store.purge_all(hard, now);
        assert!(conversation.recall(&question, now).is_none(), "who comes now does not get it");
        let arrived = Arrived::over(conversation.clone(), now, Said::Recalled(question.clone(), page), Empty::new());
        let Ok(response) = stack.clone().oneshot(gist.request(arrived)).now_or_never().expect("nothing to wait for");
        let got = Got::whole(response).await;
        assert!(got.cache().starts_with("hit; ttl="), "{got:?}");
        assert_eq!(world.merge.calls(), 1);
    }
}
