//! Connections end well: when the proxy stops, and when a peer has nothing more to say.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use merge_sync_proxy::listen::accept::Drained;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::process::{Folder, Running};
use crate::support::{SYNC_STATUS, Wire, merge, soon};

/// A proxy with these lines in its `[server]`.
async fn wire(server: &str) -> Wire {
    Wire::with(merge(), &format!("[server]\nlisten = ['127.0.0.1:0']\n{server}")).await
}

/// A drain so long that only what ends by itself ends within a test.
const LONG_DRAIN: &str = "drain = '10min'";

/// A request for acme's page.
const ASK: &str = "GET /api/ats/v1/sync-status HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n\r\n";

/// A bare HTTP/1.1 connection.
struct Bare(TcpStream);

impl Bare {
    async fn new(wire: &Wire) -> Self {
        Self(TcpStream::connect(wire.proxy).await.expect("the proxy listens"))
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("it is open");
    }

    async fn ask(&mut self) {
        self.say(ASK).await;
    }

    /// One whole answer with a `Content-Length`, lower-cased head first.
    async fn answer(&mut self) -> String {
        let mut read = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head.split_once("content-length: ").expect("a length").1;
                let length: usize = length.lines().next().expect("a line").parse().expect("a number");
                if body.len() >= length {
                    return head;
                }
            }
            assert!(self.0.read_buf(&mut read).await.expect("it is open") > 0, "it ended early: {text}");
        }
    }

    /// What still comes until the other side closes, politely or not.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        String::from_utf8_lossy(&rest).to_lowercase()
    }
}

#[tokio::test]
async fn idle_connections_close_at_once_when_the_proxy_stops() {
    let mut wire = wire(LONG_DRAIN).await;
    let (mut used, mut fresh) = (Bare::new(&wire).await, Bare::new(&wire).await);
    used.ask().await;
    assert!(!soon(used.answer()).await.contains("connection: close"));
    // The second is known to be served once an answer has come on a connection that was accepted after it.
    assert_eq!(wire.get(SYNC_STATUS).await.status, 200);
    assert_eq!(soon(wire.drained()).await, Drained { cut: 0 });
    assert_eq!((used.rest().await, fresh.rest().await), (String::new(), String::new()));
}

#[tokio::test]
async fn who_asks_once_more_on_a_kept_connection_is_answered_and_told_that_it_was_the_last() {
    let mut wire = wire(LONG_DRAIN).await;
    let mut kept = [Bare::new(&wire).await, Bare::new(&wire).await, Bare::new(&wire).await];
    for connection in &mut kept[..2] {
        connection.ask().await;
        assert!(!soon(connection.answer()).await.contains("connection: close"));
    }
    assert_eq!(wire.get(SYNC_STATUS).await.status, 200);
    wire.stop();
    // From here on nobody comes in, and everybody has been told.
    while TcpStream::connect(wire.proxy).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for connection in &mut kept {
        // Where this machine is so busy that the last moment is over, HTTP lets the client send its request again elsewhere.
        let _ = connection.0.write_all(ASK.as_bytes()).await;
        let rest = connection.rest().await;
        assert!(rest.is_empty() || rest.contains("\r\nconnection: close\r\n") && rest.ends_with("]}"), "{rest}");
    }
    assert_eq!(soon(wire.drained()).await, Drained { cut: 0 });
}

#[tokio::test]
async fn http2_is_told_goodbye_in_a_frame_that_blames_nobody() {
    let mut wire = wire(LONG_DRAIN).await;
    let mut bare = Bare::new(&wire).await;
    // The preface and empty SETTINGS (RFC 9113 §3.4), and then nothing.
    bare.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut settings = [0; 9];
    soon(bare.0.read_exact(&mut settings)).await.expect("its settings");
    wire.stop();
    let mut read = settings.to_vec();
    let _ = soon(bare.0.read_to_end(&mut read)).await;
    let mut rest = &read[..];
    let mut codes = Vec::new();
    while let [a, b, c, kind, ..] = *rest {
        let (frame, next) = rest.split_at(9 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c));
        if kind == 7 {
            codes.push(frame[13..17].to_vec());
        }
        rest = next;
    }
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == [0; 4]), "{codes:?}");
    assert_eq!(soon(wire.drained()).await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_request_in_flight_finishes_and_nobody_else_comes_in() {
    let mut wire = wire(LONG_DRAIN).await;
    let held = wire.merge.hold();
    let mut busy = Bare::new(&wire).await;
    busy.ask().await;
    soon(wire.merge.arrived(1)).await;
    assert_eq!(wire.admin("/readyz").await.status, 200);
    wire.stop();
    let refused = async {
        while TcpStream::connect(wire.proxy).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    let ready = wire.admin("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.body[..]), (503, &b"{\"ready\":false,\"reasons\":[\"draining\"]}\n"[..]));
    assert_eq!(wire.admin("/livez").await.status, 200);
    held.release();
    let answer = busy.rest().await;
    assert!(answer.starts_with("http/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("]}"), "{answer}");
    assert_eq!(soon(wire.drained()).await, Drained { cut: 0 });
}

#[tokio::test]
async fn what_is_still_busy_after_the_drain_is_cut_and_counted() {
    let mut wire = wire("drain = '100ms'").await;
    let _held = wire.merge.hold();
    let mut busy = [Bare::new(&wire).await, Bare::new(&wire).await];
    for connection in &mut busy {
        connection.ask().await;
    }
    while wire.app.ground().flights.count().1 < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(soon(wire.drained()).await, Drained { cut: 2 });
    for mut connection in busy {
        assert_eq!(connection.rest().await, "");
    }
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_its_connection() {
    let wire = wire("header_timeout = '300ms'\nidle_timeout = '10min'").await;
    let start = Instant::now();
    let (mut silent, mut slow, mut second) = (Bare::new(&wire).await, Bare::new(&wire).await, Bare::new(&wire).await);
    slow.say("GET / HTTP/1.1\r\nHost:").await;
    second.ask().await;
    soon(second.answer()).await;
    second.say("GET / HT").await;
    assert_eq!((silent.rest().await, slow.rest().await, second.rest().await), Default::default());
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_busy_connection_outlives_both_timeouts() {
    let wire = wire("header_timeout = '50ms'\nidle_timeout = '50ms'").await;
    let mut busy = Bare::new(&wire).await;
    wire.merge.set(merge_sync_proxy::demo::fault::Fault::Delay(Duration::from_millis(400)));
    busy.ask().await;
    assert!(soon(busy.answer()).await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn an_idle_connection_ends_at_its_timeout() {
    let wire = wire("header_timeout = '10min'\nidle_timeout = '300ms'").await;
    let mut idle = Bare::new(&wire).await;
    idle.ask().await;
    soon(idle.answer()).await;
    let start = Instant::now();
    assert_eq!(idle.rest().await, "");
    assert!(start.elapsed() >= Duration::from_millis(290));
}

/// An HTTP/2 connection with prior knowledge.
async fn http2(wire: &Wire) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

fn request(wire: &Wire) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("http://{}{SYNC_STATUS}", wire.proxy)).header("x-account-token", "acme");
    request.body(Empty::new()).expect("a valid request")
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken_on_the_plain_listener() {
    let wire = Wire::new().await;
    let mut client = http2(&wire).await;
    let many = (0..50).map(|_| client.send_request(request(&wire))).collect::<Vec<_>>();
    for answer in soon(futures_util::future::join_all(many)).await {
        let answer = answer.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        assert!(answer.into_body().collect().await.expect("a whole body").to_bytes().ends_with(b"]}"));
    }
    assert_eq!(wire.merge.calls(), 1);
}

#[tokio::test]
async fn http2_finishes_what_runs_and_then_says_goodbye() {
    let mut wire = wire(LONG_DRAIN).await;
    let held = wire.merge.hold();
    let mut client = http2(&wire).await;
    let running = tokio::spawn(client.send_request(request(&wire)));
    soon(wire.merge.arrived(1)).await;
    wire.stop();
    let closed = async {
        while client.ready().await.is_ok() {
            let _ = client.send_request(request(&wire)).await;
        }
    };
    let finish = async {
        held.release();
        running.await.expect("no panic").expect("an answer")
    };
    let (answer, ()) = soon(futures_util::future::join(finish, closed)).await;
    assert!(answer.into_body().collect().await.expect("a whole body").to_bytes().ends_with(b"]}"));
    assert_eq!(soon(wire.drained()).await, Drained { cut: 0 });
}

#[tokio::test]
async fn an_idle_http2_connection_has_the_idle_timeout_and_not_that_for_heads() {
    let wire = wire("header_timeout = '200ms'\nidle_timeout = '10min'").await;
    let mut client = http2(&wire).await;
    for _ in 0..2 {
        let answer = client.send_request(request(&wire)).await.expect("an answer");
        answer.into_body().collect().await.expect("a whole body");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(!client.is_closed(), "frames that belong to no request begin no head");
}

#[test]
fn a_file_that_is_never_read_to_its_end_holds_up_no_end() {
    let folder = Folder::new("");
    let key = folder.path().join("key");
    assert!(Command::new("mkfifo").arg(&key).status().expect("there is a mkfifo").success());
    let config = format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n[upstreams.us]\n\
         base_url = 'https://merge.test'\napi_key = {{ file = '{}' }}\n[telemetry]\nlog = 'json'\n",
        key.display()
    );
    std::fs::write(folder.file(), config).expect("written");
    let writing = std::thread::spawn(move || std::fs::write(key, "a-key\n"));
    let (running, ..) = Running::serve(&folder, &[]);
    writing.join().expect("no panic").expect("it was read once");
    // It is looked at again once a second, and then nobody writes.
    std::thread::sleep(Duration::from_millis(1_500));
    running.terminate();
    assert_eq!(running.end().0.code(), Some(0));
}
