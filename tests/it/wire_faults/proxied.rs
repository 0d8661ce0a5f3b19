//! Between the proxy and its upstream stands another proxy.

use std::time::{Duration, Instant};

use super::{DEADLINE, Fault, Told, examine, recover};
use crate::process::{Folder, Running};
use crate::raw::front::Front;
use crate::raw::tunnel::{Manner, Tunnel};
use crate::raw::{PAGE, Speech, Upstream, certificates};
use crate::support::{API_KEY, SYNC_STATUS};

/// `user:pass word` in Base64.
const CREDENTIAL: &str = "Basic dXNlcjpwYXNzIHdvcmQ=";

pub(crate) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("TLS through a forward proxy", secure(Speech::Plain)),
        refusal("a forward proxy that wants another password", Manner::Opens(Some("Basic b3RoZXI=")), ""),
        refusal(
            "a forward proxy that forbids",
            Manner::Says("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
            "",
        ),
        refusal("a forward proxy that cannot connect", Manner::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n"), ""),
        refusal("a forward proxy that speaks something else", Manner::Says("SSH-2.0-OpenSSH_9.6\r\n"), ""),
        refusal("a forward proxy that closes", Manner::Says(""), ""),
        refusal("a forward proxy that says nothing", Manner::Silent, "connect_timeout = '1s'"),
    ]
}

async fn front(upstream: &Upstream, tunnel: &Tunnel, scheme: &str, more: &str) -> Front {
    let ca = certificates::file().display();
    let settings = format!("ca_file = '{ca}'\nproxy = 'http://user:pass%20word@{}'\n{more}", tunnel.address);
    Front::new(&format!("{scheme}://{}", upstream.address), &settings).await
}

/// TLS goes through from end to end, over HTTP/2 as well; so does plain HTTP, and both ask for the upstream's own port.
async fn secure(plain: Speech) {
    for (speech, scheme) in [(certificates::tls(false), "https"), (certificates::tls(true), "https"), (plain, "http")] {
        let upstream = Upstream::new(speech, vec![], 0).await;
        let tunnel = Tunnel::new(Manner::Opens(Some(CREDENTIAL))).await;
        let front = front(&upstream, &tunnel, scheme, "").await;
        examine(&front, Told::Page).await;
        let asked = tunnel.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(asked[0].starts_with(&format!("CONNECT {} HTTP/1.1\r\n", upstream.address)), "{asked:?}");
        assert!(!asked[0].contains(API_KEY), "what is meant for the upstream is not told to the proxy before it");
        recover(&front, Told::Page).await;
    }
}

/// The call never reaches the upstream, and nothing is sent past the proxy.
fn refusal(name: &'static str, manner: Manner, more: &'static str) -> Fault {
    Fault::new(name, async move {
        let upstream = Upstream::new(certificates::tls(false), vec![], 0).await;
        let tunnel = Tunnel::new(manner).await;
        let front = front(&upstream, &tunnel, "https", &format!("retries = 1\n{more}")).await;
        let start = Instant::now();
        examine(&front, Told::Failed).await;
        assert!(start.elapsed() < DEADLINE);
        assert_eq!((upstream.connections(), tunnel.asked().len()), (0, 2));
        tunnel.becomes(Manner::Opens(Some(CREDENTIAL)));
        recover(&front, Told::Failed).await;
    })
}

/// The binary as an operator starts it, with a forward proxy in its environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_forward_proxy_of_the_environment_is_heeded_and_so_are_its_exceptions() {
    let upstream = Upstream::new(certificates::tls(true), vec![], 0).await;
    let tunnel = Tunnel::new(Manner::Opens(Some(CREDENTIAL))).await;
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n[telemetry]\nlog = 'json'\n\
         [upstreams.us]\nbase_url = 'https://{}'\napi_key = {{ env = 'KEY' }}\nca_file = '{}'\n",
        upstream.address,
        certificates::file().display()
    ));
    let proxy = format!("http://user:pass%20word@{}", tunnel.address);
    for (exceptions, tunnels) in [("elsewhere.example", 1), ("127.0.0.1", 1)] {
        let env = [("KEY", API_KEY), ("HTTPS_PROXY", &*proxy), ("NO_PROXY", exceptions)];
        let (running, address, _) = tokio::task::block_in_place(|| Running::serve(&folder, &env));
        let page = get(address).await;
        assert!(page.ends_with(PAGE), "{page}");
        assert_eq!(tunnel.asked().len(), tunnels, "with exceptions for {exceptions}");
        tokio::task::block_in_place(|| drop(running));
    }
    assert_eq!(upstream.calls(), 2);
}

/// The page of a raw token, by hand.
async fn get(address: std::net::SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut socket = tokio::net::TcpStream::connect(address).await?;
        let head =
            format!("GET {SYNC_STATUS} HTTP/1.1\r\nhost: a\r\nx-account-token: raw\r\nconnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(30), exchange).await.expect("in time").expect("an answer")
}
