//! Reloads and restarts under load: nobody notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::process::{Folder, Running};
use crate::support::{ACME_TOKEN, API_KEY, SYNC_STATUS, merge};

const CLIENTS: usize = 200;
const OF_HTTP2: usize = 20;
/// How many requests each of these has open at a time.
const STREAMS: usize = 3;
const RELOADS: usize = 20;
const RESTARTS: usize = 5;

/// For how long a connection of HTTP/1 may be quiet before it counts as idle, and is closed at once when the proxy stops.
const QUIET: Duration = Duration::from_secs(1);

/// What all clients have met.
#[derive(Default)]
struct Met {
    stop: AtomicBool,
    answers: AtomicU64,
    /// Connections that were begun beside the first of each client.
    again: AtomicU64,
    /// Requests on a connection in use that was closed before a byte of the answer: what HTTP lets any client send again, and what no
    /// client should have to.
    resent: AtomicU64,
    /// The same on connections that had been quiet for longer than the proxy waits for one more request.
    resent_after_quiet: AtomicU64,
    /// Streams that a goodbye says were not looked at: likewise.
    unseen: AtomicU64,
    failures: parking_lot::Mutex<Vec<String>>,
}

/// How one request ended.
enum End {
    Answered {
        last: bool,
    },
    /// Closed before a byte of the answer.
    Closed,
    Broken(String),
}

/// One client with one connection that it keeps for as long as it may.
async fn client(proxy: SocketAddr, met: Arc<Met>) {
    let mut connection: Option<TcpStream> = None;
    let mut asked = Instant::now();
    while !met.stop.load(Ordering::Relaxed) {
        let used = connection.is_some();
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(proxy).await {
                Ok(stream) => stream,
                Err(error) => return met.failures.lock().push(format!("connect: {error}")),
            },
        };
        let asked_before = std::mem::replace(&mut asked, Instant::now());
        match request(&mut stream).await {
            End::Answered { last } => {
                met.answers.fetch_add(1, Ordering::Relaxed);
                if last {
                    met.again.fetch_add(1, Ordering::Relaxed);
                } else {
                    connection = Some(stream);
                }
            }
            End::Closed if used => {
                // From the request before, which is earlier than its answer: on a machine that stands still a client may be quiet
                // for long without knowing it.
                let counter = if asked_before.elapsed() > QUIET { &met.resent_after_quiet } else { &met.resent };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            End::Closed => met.failures.lock().push("a fresh connection was closed without an answer".into()),
            End::Broken(why) => met.failures.lock().push(why),
        }
        // A client that works between its requests, each at another pace.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
    }
}

async fn request(stream: &mut TcpStream) -> End {
    let request = format!("GET {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return End::Closed;
    }
    let mut read = Vec::new();
    loop {
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) if read.is_empty() => return End::Closed,
            Ok(0) => return End::Broken(format!("cut short: {}", String::from_utf8_lossy(&read))),
            Err(error) => return End::Broken(format!("{error} within an answer")),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return End::Broken(format!("{head}\n{body}"));
        }
        let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        if length.is_some_and(|length: usize| body.len() >= length) {
            return End::Answered { last: head.contains("connection: close") };
        }
    }
}

/// One client that speaks HTTP/2, three requests at a time.
async fn client_of_http2(proxy: SocketAddr, met: Arc<Met>) {
    while !met.stop.load(Ordering::Relaxed) {
        let connected = async {
            let stream = TokioIo::new(TcpStream::connect(proxy).await?);
            http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)
        };
        let mut sender = match connected.await {
            Ok((sender, connection)) => {
                tokio::spawn(connection);
                sender
            }
            Err(error) => return met.failures.lock().push(format!("connect: {error}")),
        };
        while sender.ready().await.is_ok() && !met.stop.load(Ordering::Relaxed) {
            let ask = |_| {
                let request = Request::get(format!("http://{proxy}{SYNC_STATUS}")).header("x-account-token", "acme");
                sender.send_request(request.body(Empty::new()).expect("a valid request"))
            };
            let asked: Vec<_> = (0..STREAMS).map(ask).collect();
            for answer in futures_util::future::join_all(asked).await {
                let whole = match answer {
                    Ok(answer) if answer.status() == 200 => answer.into_body().collect().await.map(drop),
                    Ok(answer) => return met.failures.lock().push(format!("HTTP/2: {}", answer.status())),
                    // It was never sent, or the goodbye names a stream before it as the last (RFC 9113 §8.7).
                    Err(error) if error.is_canceled() || format!("{error:?}").contains("GoAway(b\"\", NO_ERROR") => {
                        met.unseen.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Err(error) => Err(error),
                };
                match whole {
                    Ok(()) => drop(met.answers.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => met.failures.lock().push(format!("HTTP/2: {error:?}")),
                }
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
        }
        met.again.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until every client has had some more answers, so that each step meets all of them at work.
async fn everyone_asks(met: &Met) {
    let until = met.answers.load(Ordering::Relaxed) + CLIENTS as u64;
    let waited = async {
        while met.answers.load(Ordering::Relaxed) < until && met.failures.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.expect("the clients are answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_over_reloads_and_overlapping_restarts() {
    let merge = merge().build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = listener.local_addr().expect("it is bound");
    let simulation = tokio::spawn(merge.clone().serve(listener, std::future::pending::<()>()));
    // A port that the system has just called free, for processes that come one after the other.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let config = |round: usize| {
        format!(
            "[server]\nlisten = ['{free}']\n[admin]\nlisten = '127.0.0.1:0'\n\
             [upstreams.us]\nbase_url = 'http://{upstream}'\napi_key = '{API_KEY}'\n\
             [[accounts]]\nname = 'acme'\ntoken = '{ACME_TOKEN}'\n\
             [telemetry]\nlog = 'json'\naccess_log = false\n[cache.ttl]\nnegative = '{}s'\n",
            round + 1
        )
    };
    let folder = Folder::new(&config(0));
    let (mut running, proxy, _) = Running::serve(&folder, &[]);
    let met = Arc::new(Met::default());
    let mut clients: Vec<JoinHandle<()>> = (0..CLIENTS).map(|_| tokio::spawn(client(proxy, met.clone()))).collect();
    clients.extend((0..OF_HTTP2).map(|_| tokio::spawn(client_of_http2(proxy, met.clone()))));
    everyone_asks(&met).await;

    for round in 1..=RELOADS {
        std::fs::write(folder.file(), config(round)).expect("written");
        running.signal("-HUP");
        tokio::task::block_in_place(|| running.line_with("\"configuration reloaded\""));
        everyone_asks(&met).await;
    }
    for _ in 0..RESTARTS {
        let (next, ..) = tokio::task::block_in_place(|| Running::serve_with(&folder, &[], &["--replace"]));
        let old = std::mem::replace(&mut running, next);
        old.terminate();
        everyone_asks(&met).await;
        let (status, said) = tokio::task::block_in_place(|| old.end());
        assert_eq!(status.code(), Some(0), "{said}");
        everyone_asks(&met).await;
    }
    met.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no panic");
    }
    running.terminate();
    simulation.abort();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let failures = met.failures.lock();
    println!(
        "{CLIENTS} clients and {OF_HTTP2} of HTTP/2, {RELOADS} reloads, {RESTARTS} restarts: {} answers, {} failures; {} connections \
         ended after an answer that was their last; sent again, as HTTP lets any client: {} requests on a connection in use that \
         was closed before a byte, {} on one that had been quiet, {} streams that were not looked at",
        count(&met.answers),
        failures.len(),
        count(&met.again),
        count(&met.resent),
        count(&met.resent_after_quiet),
        count(&met.unseen)
    );
    assert!(failures.is_empty(), "{:?}", &failures[..failures.len().min(5)]);
    // Who has asked within the last second is told in the answer that it was the last, and never finds the connection closed.
    assert_eq!(count(&met.resent), 0, "connections in use were closed without a word");
    // A goodbye of HTTP/2 crosses what its peer has just sent: those streams are named as not looked at. At most what each client
    // has open at a time can be that unlucky, once for each restart, and few are: a client is at work for far longer than a
    // goodbye is under way.
    assert!(count(&met.unseen) <= (OF_HTTP2 * STREAMS * RESTARTS) as u64 / 4, "{}", count(&met.unseen));
    assert!(count(&met.again) >= CLIENTS as u64, "the restarts met connections at work");
}

#[test]
fn a_second_start_by_mistake_is_noticed_and_the_first_goes_on() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['{free}']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = 'a-key'\n[telemetry]\nlog = 'json'\n"
    ));
    let (first, ..) = Running::serve(&folder, &[]);
    let file = folder.file();
    let output = crate::process::run(&["--config", file.to_str().expect("UTF-8")], &[]);
    let (code, _, err) = crate::process::told(&output);
    assert_eq!(code, 1);
    assert!(
        err.contains(&format!("cannot listen on {free} (server.listen): Address already in use"))
            && err.contains("--replace"),
        "{err}"
    );
    first.terminate();
    assert_eq!(first.end().0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_changes_hands_and_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("proxy.sock");
    let config = Folder::new(&format!(
        "[server]\nlisten = ['unix:{}', '127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = 'a-key'\n[telemetry]\nlog = 'json'\n",
        path.display()
    ));
    let (first, ..) = Running::serve(&config, &[]);
    let ask = async || {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("somebody listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").await.expect("written");
        let mut answer = String::new();
        crate::support::soon(stream.read_to_string(&mut answer)).await.expect("an answer");
        answer.starts_with("HTTP/1.1 404 ")
    };
    assert!(ask().await);
    let (second, ..) = Running::serve_with(&config, &[], &["--replace"]);
    assert!(ask().await);
    first.terminate();
    let (status, said) = first.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(ask().await, "the first has not taken the socket of the second with it");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    second.terminate();
    assert_eq!(second.end().0.code(), Some(0));
    assert!(!path.exists(), "a clean stop leaves nothing behind");
}
