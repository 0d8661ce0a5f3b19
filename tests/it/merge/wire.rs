//! The simulation behind a socket, asked by a real client.

use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::page::escape;

use super::*;

fn client(http2: bool) -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

#[tokio::test]
async fn a_walk_over_a_real_socket_sees_every_model_once_on_one_connection() {
    for http2 in [false, true] {
        let merge = builder().build();
        let wire = Wire::new(&merge).await;
        let client = client(http2);
        let mut models = 0;
        let mut query = "page_size=4".to_owned();
        loop {
            let target = format!("http://127.0.0.1:{}{SYNC_STATUS}?{query}", wire.port);
            let answer = client.request(request("token-acme", &target)).await.expect("an answer");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            let page: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            models += page["results"].as_array().expect("results").len();
            let Some(next) = page["next"].as_str() else { break };
            query = format!("page_size=4&cursor={}", escape(next));
        }
        assert_eq!((models, merge.calls(), merge.connections()), (17, 5, 1));
        let version = if http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        assert!(merge.log().iter().all(|seen| seen.version == version && seen.path == SYNC_STATUS));
        merge.idle().await;
    }
}

#[tokio::test]
async fn broken_answers_are_errors_to_a_client_and_the_next_call_is_fine() {
    for http2 in [false, true] {
        let merge = builder().build();
        let wire = Wire::new(&merge).await;
        let client = client(http2);
        let target = format!("http://127.0.0.1:{}{SYNC_STATUS}", wire.port);
        let ask = || client.request(request("token-acme", &target));
        merge.script(Fault::ResetBeforeHeaders).once();
        ask().await.expect_err("a reset");
        for fault in [Fault::TruncateLength, Fault::TruncateChunked] {
            merge.script(fault).once();
            let cut = ask().await.expect("a head");
            cut.into_body().collect().await.expect_err("cut");
        }
        let whole = ask().await.expect("an answer").into_body().collect().await.expect("a body");
        assert!(whole.to_bytes().ends_with(b"]}"));
    }
}

#[tokio::test]
async fn a_shutdown_drops_what_hangs() {
    let merge = builder().build();
    let wire = Wire::new(&merge).await;
    merge.set(Fault::Hang);
    let target = format!("http://127.0.0.1:{}{SYNC_STATUS}", wire.port);
    let call = tokio::spawn(client(false).request(request("token-acme", &target)));
    merge.arrived(1).await;
    drop(wire);
    call.await.expect("no panic").expect_err("the connection is gone");
    merge.idle().await;
}
