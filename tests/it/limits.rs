//! What one peer can take from the others: connections, and the time of those who wait for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::admin::routes::Operations;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::exposition::count;
use crate::support::{SYNC_STATUS, Wire, merge, soon};

/// A proxy with these lines in its `[server]`, and `more` at the end.
pub(crate) async fn wire(server: &str, more: &str) -> Wire {
    Wire::with(merge(), &format!("[server]\nlisten = ['127.0.0.1:0']\n{server}\n{more}")).await
}

pub(crate) async fn connect(proxy: SocketAddr) -> TcpStream {
    TcpStream::connect(proxy).await.expect("the proxy listens")
}

/// Asks for acme's page and reads the whole answer, which must be one.
pub(crate) async fn hit(stream: &mut TcpStream) {
    let request = format!("GET {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is open");
    let mut read = Vec::new();
    while !read.ends_with(b"]}") {
        assert!(stream.read_buf(&mut read).await.expect("it is open") > 0, "{}", String::from_utf8_lossy(&read));
    }
    assert!(read.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&read));
}

/// What still comes until the other side closes, politely or not.
pub(crate) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn one_address_gets_its_share_of_connections_and_no_more() {
    let wire = wire("max_connections_per_peer = 3", "").await;
    let mut open = [connect(wire.proxy).await, connect(wire.proxy).await, connect(wire.proxy).await];
    for stream in &mut open {
        soon(hit(stream)).await;
    }
    assert!(rest(&mut connect(wire.proxy).await).await.is_empty(), "closed at once");
    let [first, mut second, _third] = open;
    drop(first);
    // The place is free as soon as the proxy has seen it go.
    let comes_in = async || {
        let mut next = connect(wire.proxy).await;
        let asked = next.write_all(b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n").await;
        asked.is_ok() && next.read_u8().await.is_ok_and(|byte| byte == b'H')
    };
    let back = async { while !comes_in().await {} };
    soon(back).await;
    soon(hit(&mut second)).await;
    assert_eq!(wire.admin("/livez").await.status, 200, "operators are not counted");
    let told = wire.app.metrics();
    assert!(count(&told, r#"merge_sync_proxy_connections_limited_total{reason="per-peer"}"#) >= 1, "{told}");
    assert!(count(&told, r#"merge_sync_proxy_connections_limited_total{reason="total"}"#) == 0, "{told}");
}

#[tokio::test]
async fn when_all_places_are_taken_the_next_waits_and_metrics_say_so() {
    let wire = wire("max_connections = 2", "").await;
    let mut open = [connect(wire.proxy).await, connect(wire.proxy).await];
    for stream in &mut open {
        soon(hit(stream)).await;
    }
    let mut next = connect(wire.proxy).await;
    let limited = || count(&wire.app.metrics(), r#"merge_sync_proxy_connections_limited_total{reason="total"}"#);
    let noticed = async {
        while limited() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(noticed).await;
    drop(open);
    soon(hit(&mut next)).await;
}

#[tokio::test]
async fn a_body_that_dribbles_ends_its_connection_and_the_call_that_waits_for_it() {
    let routes = "[[routes]]\npath = '/api/{category}/v1/sync-status'\n\
                  [[routes]]\npath = '/api/ats/*'\nmethods = ['POST']\ncache = 'off'\n\
                  [upstreams.us.budget]\nconcurrency = 5\n";
    let wire = wire("body_timeout = '500ms'", routes).await;
    // Merge could answer before it has the whole body; here it does not.
    let held = wire.merge.hold();
    let mut slow = connect(wire.proxy).await;
    let opening =
        "POST /api/ats/v1/candidates HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\nContent-Length: 100\r\n\r\n{";
    slow.write_all(opening.as_bytes()).await.expect("it is open");
    let in_flight = || wire.app.ground().budgets.in_flight("us");
    let begun = async {
        while in_flight() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(begun).await;
    assert!(rest(&mut slow).await.is_empty());
    let given_up = async {
        while in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(given_up).await;
    held.release();
    assert_eq!(wire.get(SYNC_STATUS).await.status, 200);
}

/// Each connection has two ends here, and a page to be read.
const FILES_PER_CONNECTION: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_slow_and_idle_connections_do_not_stop_a_normal_client() {
    const HEADER_TIMEOUT: Duration = Duration::from_secs(4);
    let files = rlimit::increase_nofile_limit(20_000).expect("a limit");
    let each = usize::try_from((files - 500) / FILES_PER_CONNECTION / 2).expect("a number").min(2_000);
    let wire = wire("header_timeout = '4s'\nidle_timeout = '10min'", "").await;
    let proxy = wire.proxy;

    let mut idle = Vec::new();
    while idle.len() < each {
        let some = (0..50).map(|_| async move {
            let mut stream = connect(proxy).await;
            hit(&mut stream).await;
            stream
        });
        idle.extend(soon(join_all(some)).await);
    }
    let slow_since = Instant::now();
    let mut slow = Vec::new();
    while slow.len() < each {
        let mut stream = connect(proxy).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.expect("it is open");
        slow.push(stream);
    }
    let all_closed = Arc::new(AtomicBool::new(false));
    let normal = tokio::spawn({
        let all_closed = all_closed.clone();
        async move {
            let mut stream = connect(proxy).await;
            let mut latencies = Vec::new();
            while !all_closed.load(Ordering::Relaxed) || latencies.len() < 100 {
                let asked = Instant::now();
                hit(&mut stream).await;
                latencies.push(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            latencies.sort_unstable();
            latencies
        }
    });
    let closed = async {
        join_all(slow.iter_mut().map(|stream| async move {
            // An end of the stream, or a reset where the half head had not been read: closed either way.
            assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "there is nothing to answer");
        }))
        .await
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the slow ones are closed");
    assert!(slow_since.elapsed() >= HEADER_TIMEOUT);
    all_closed.store(true, Ordering::Relaxed);
    let latencies = soon(normal).await.expect("all its hits are answered");
    let at = |hundredth: usize| latencies[latencies.len() * hundredth / 100];
    println!(
        "{each} slow and {each} idle connections beside {} hits: median {:?}, 99 % {:?}; the slow ones were closed within {:?}",
        latencies.len(),
        at(50),
        at(99),
        slow_since.elapsed(),
    );
    for stream in idle.iter_mut().step_by(100) {
        soon(hit(stream)).await;
    }
}
