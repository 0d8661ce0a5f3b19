//! However many connections are opened, file descriptors are left for calls to Merge and for operators.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::process::{Folder, Running, run, told};
use crate::support::{ACME_TOKEN, API_KEY, SYNC_STATUS, Wire, soon};

const FILES: u32 = 128;

/// A connection to `to` from the address with this last number.
async fn connect(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("an address of this machine");
    soon(socket.connect(to)).await.expect("it listens")
}

/// The status of the answer to a request for `target`.
async fn ask(stream: &mut TcpStream, target: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-Account-Token: acme\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is open");
    let mut read = Vec::new();
    let end = |read: &[u8]| read.ends_with(b"}") || read.ends_with(b"}\n");
    while !end(&read) {
        assert!(soon(stream.read_buf(&mut read)).await.expect("it is open") > 0, "{}", String::from_utf8_lossy(&read));
    }
    let head = String::from_utf8_lossy(&read).into_owned();
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_idle_connections_leaves_descriptors_for_calls_and_operators() {
    let wire = Wire::new().await;
    let base_url = wire.app.config().default_upstream.authority.to_string();
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n[telemetry]\nlog = 'json'\n\
         [upstreams.us]\nbase_url = 'http://{base_url}'\napi_key = '{API_KEY}'\n\
         [[accounts]]\nname = 'acme'\ntoken = '{ACME_TOKEN}'\n"
    ));
    let (running, proxy, admin) = Running::serve_with_files(&folder, FILES);
    let mut established = connect(1, proxy).await;
    assert_eq!(ask(&mut established, SYNC_STATUS).await, 200);
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(connect(1, proxy).await);
    }
    let usable = async |stream: &mut TcpStream, number: u32| {
        assert_eq!(ask(stream, &format!("{SYNC_STATUS}?page_size={number}")).await, 200, "a miss");
        for health in ["/livez", "/readyz"] {
            assert_eq!(ask(&mut connect(1, admin).await, health).await, 200);
        }
    };
    usable(&mut established, 1).await;
    assert_eq!(ask(&mut connect(2, proxy).await, SYNC_STATUS).await, 200, "one address does not take all places");
    for last in 3..8 {
        for _ in 0..40 {
            flood.push(connect(last, proxy).await);
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    usable(&mut established, 2).await;
    drop(flood);
    running.terminate();
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!said.contains("cannot accept connections"), "{said}");
    let warning = said.lines().find(|line| line.contains("server.max_connections")).expect("a warning");
    assert!(warning.contains("10000") && warning.contains("128") && warning.contains("ulimit -n"), "{warning}");
}

#[test]
fn check_says_that_more_connections_are_configured_than_files_may_be_open() {
    let folder = Folder::new(
        "[server]\nmax_connections = 1000000\n[upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = 'some-key'\n",
    );
    let (code, _, err) = told(&run(&["check", "--config", folder.file().to_str().expect("UTF-8")], &[]));
    let hard = rlimit::Resource::NOFILE.get_hard().expect("a limit");
    assert_eq!((code, err.contains("raise `ulimit -n`")), (0, hard < 1_000_256), "{err}");
}
