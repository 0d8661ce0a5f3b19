//! Each request has a line in the access log, which says the same however it was answered: read field by field, or by heart.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::merge::Merge;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};

use crate::process::{Folder, Running};
use crate::support::soon;

const KEY: &str = "msp_of_a_team";

/// As a Merge SDK has it whose base URL does not end in "/api", so that it is not the upstream's.
const PATH: &str = "/ats/v1/sync-status";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_has_the_same_line_as_before() {
    let merge = Merge::builder().unlimited().account(SimAccount::new("acme", "token").by_hand()).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = listener.local_addr().expect("it is bound");
    let simulation = tokio::spawn(merge.serve(listener, std::future::pending::<()>()));
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://{upstream}'\napi_key = 'test-api-key'\n\
         [[accounts]]\nname = 'acme'\ntoken = 'token'\n\
         [[consumers]]\nname = 'team'\nkey_sha256 = '{}'\naccounts = ['acme']\nquota = '30/h'\n\
         [telemetry]\nlog = 'json'\n",
        hex::encode(Sha256::digest(KEY))
    ));
    let (proxy, address, _) = Running::serve(&folder, &[]);
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
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<Value> = lines.filter(|line| line["target"] == "access").collect();
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
