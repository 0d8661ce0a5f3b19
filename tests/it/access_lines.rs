//! Each request has a line in the access log, which says the same however it was answered: read field by field, or by heart.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::merge::Merge;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::process::{Folder, Running};
use crate::support::soon;

const KEY: &str = "msp_of_a_team";

/// As a Merge SDK has it whose base URL does not end in "/api", so that it is not the upstream's.
const PATH: &str = "/ats/v1/sync-status";

/// A proxy in front of `merge` with one consumer that has one account.
async fn serve(merge: Merge, more: &str) -> (JoinHandle<()>, (Running, SocketAddr, SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = listener.local_addr().expect("it is bound");
    let simulation = tokio::spawn(merge.serve(listener, std::future::pending::<()>()));
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://{upstream}'\napi_key = 'test-api-key'\n\
         [[accounts]]\nname = 'acme'\ntoken = 'token'\n\
         [[consumers]]\nname = 'team'\nkey_sha256 = '{}'\naccounts = ['acme']\n{more}\
         [telemetry]\nlog = 'json'\n",
        hex::encode(Sha256::digest(KEY))
    ));
    (simulation, Running::serve(&folder, &[]))
}

/// The lines of requests in a log.
fn lines(said: &str) -> Vec<Value> {
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "access").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_gives_up_has_a_line_and_a_count_like_any_other() {
    let merge = Merge::builder().unlimited().account(SimAccount::new("acme", "token").by_hand()).build();
    let held = merge.hold();
    let off = "[[routes]]\npath = '/api/{category}/v1/sync-status'\n\
               [[routes]]\npath = '/api/ats/v1/jobs'\nmethods = ['GET']\ncache = 'off'\n";
    let (simulation, (proxy, address, admin)) = serve(merge.clone(), off).await;
    let targets = ["/ats/v1/sync-status", "/ats/v1/sync-status", "/api/ats/v1/jobs"];
    for target in targets {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {KEY}\r\nX-Account-Token: acme\r\nX-Request-Id: mine\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("it reads");
        // Long enough for the request to wait for Merge.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let counted = [("/api/{category}/v1/sync-status", 2), ("/api/ats/v1/jobs", 1)].map(|(route, times)| {
        let labels = format!("consumer=\"team\",route=\"{route}\",result=\"abandoned\",status=\"4xx\"");
        format!("merge_sync_proxy_requests_total{{{labels}}} {times}.0\n")
    });
    soon(async {
        loop {
            let mut stream = TcpStream::connect(admin).await.expect("it listens");
            let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("it reads");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("UTF-8");
            if counted.iter().all(|row| text.contains(row)) {
                assert!(!text.contains("result=\"failed\""), "it is no failure: {text}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    held.release();
    proxy.terminate();
    let (_, said) = proxy.end();
    let lines = lines(&said);
    assert_eq!(lines.len(), targets.len(), "{said}");
    for (line, target) in lines.iter().zip(targets) {
        let expected = ["GET", target, "team", "acme", "abandoned", "mine"].map(Value::from);
        let told = ["method", "path", "consumer", "account", "result", "id"].map(|field| line[field].clone());
        assert_eq!((told, &line["status"]), (expected, &Value::from(499)), "{line}");
        assert!(line["microseconds"].as_u64().is_some_and(|took| took > 100_000), "{line}");
    }
    simulation.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_has_the_same_line_as_before() {
    let merge = Merge::builder().unlimited().account(SimAccount::new("acme", "token").by_hand()).build();
    let (simulation, (proxy, address, _)) = serve(merge, "quota = '30/h'\n").await;
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a fresh connection");
    tokio::spawn(connection);
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let request = http::Request::get(format!("{PATH}?page_size=1"))
            .header("host", "proxy.test")
            .header("authorization", format!("Bearer {KEY}"))
            .header("x-account-token", "acme")
            .body(Empty::<Bytes>::new())
            .expect("a valid request");
        soon(sender.ready()).await.expect("the connection stays");
        let answer = soon(sender.send_request(request)).await.expect("an answer");
        statuses.push(answer.status().as_u16());
        soon(answer.into_body().collect()).await.expect("a whole body");
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429]);
    drop(sender);
    proxy.terminate();
    let (_, said) = proxy.end();
    let lines = lines(&said);
    for (at, line) in lines.iter().enumerate() {
        let result =
            [(0, "miss"), (1, "hit"), (6, "refused")].iter().rev().find(|(from, _)| at >= *from).map(|of| of.1);
        let expected = ["GET", PATH, "team", "acme", result.unwrap_or_default()].map(Value::from);
        let told = ["method", "path", "consumer", "account", "result"].map(|field| line[field].clone());
        assert_eq!(told, expected, "{line}");
        assert_eq!(line["status"], statuses[at], "{line}");
    }
    assert_eq!(lines.len(), statuses.len(), "{said}");
    simulation.abort();
}
