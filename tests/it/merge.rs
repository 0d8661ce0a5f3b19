//! The simulated Merge itself: what it refuses, how it pages, and that each fault is what its name says.

mod faults;

mod limits;

mod pages;

mod wire;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::builder::Builder;
use merge_sync_proxy::demo::merge::Merge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;

const SYNC_STATUS: &str = "/api/ats/v1/sync-status";

fn builder() -> Builder {
    Merge::builder()
        .api_key("key")
        .start(SystemTime::UNIX_EPOCH + Duration::from_secs(1_776_000_000))
        .account(SimAccount::new("acme", "token-acme").by_hand())
        .account(SimAccount::new("globex", "token-globex").category("hris"))
}

/// A call as the proxy makes it, for the account with this token.
fn request(token: &str, target: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(target).header("authorization", "Bearer key").header("x-account-token", token);
    request.body(Empty::new()).expect("a plain request")
}

/// Calls in the same process and reads the whole answer.
async fn ask(merge: &Merge, request: Request<Empty<Bytes>>) -> Response<Bytes> {
    let (head, body) = merge.clone().oneshot(request).await.expect("an answer").into_parts();
    Response::from_parts(head, body.collect().await.expect("a whole body").to_bytes())
}

async fn get(merge: &Merge, target: &str) -> Response<Bytes> {
    ask(merge, request("token-acme", target)).await
}

/// The status and the body of an answer.
fn told(answer: &Response<Bytes>) -> (u16, &str) {
    (answer.status().as_u16(), std::str::from_utf8(answer.body()).expect("text"))
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().expect("visible ASCII"))
}

/// A Merge behind a real socket; it stops when this is dropped.
struct Wire {
    port: u16,
    _stop: oneshot::Sender<()>,
}

impl Wire {
    async fn new(merge: &Merge) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(merge.clone().serve(listener, stopped));
        Self { port, _stop: stop }
    }

    /// Sends a bare HTTP/1.1 request and reads until the other side closes, or `None` if it resets the connection.
    async fn raw(&self, fields: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        let head = format!("GET {SYNC_STATUS} HTTP/1.1\r\nhost: merge\r\nauthorization: Bearer key\r\n");
        let head = format!("{head}x-account-token: token-acme\r\nconnection: close\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            Ok(_) => Some(String::from_utf8_lossy(&answer).into_owned()),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                None
            }
        }
    }
}
