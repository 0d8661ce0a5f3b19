//! Signals that tell the process to stop: the first drains, a second cuts.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, block_in_place};

use crate::process::{Folder, Running};
use crate::support::{ACME_TOKEN, API_KEY, SYNC_STATUS, merge, soon};

/// The proxy with a long drain and one request that Merge lets wait; what that has for an answer in the end.
async fn busy(merge: &merge_sync_proxy::demo::merge::Merge) -> (Running, SocketAddr, JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = listener.local_addr().expect("it is bound");
    tokio::spawn(merge.clone().serve(listener, std::future::pending::<()>()));
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\ndrain = '10min'\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://{upstream}'\napi_key = '{API_KEY}'\n\
         [[accounts]]\nname = 'acme'\ntoken = '{ACME_TOKEN}'\n[telemetry]\nlog = 'json'\n"
    ));
    let (running, proxy, _) = block_in_place(|| Running::serve(&folder, &[]));
    let mut connection = TcpStream::connect(proxy).await.expect("it listens");
    let head = format!("GET {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n\r\n");
    connection.write_all(head.as_bytes()).await.expect("it is open");
    let asked = tokio::spawn(async move {
        let mut answer = Vec::new();
        // However it ends: with what runs cut, it may be with a reset.
        let _ = connection.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("UTF-8")
    });
    soon(merge.arrived(1)).await;
    (running, proxy, asked)
}

/// Returns once nobody can connect any more: the first signal has been heard.
async fn heard(proxy: SocketAddr) {
    while TcpStream::connect(proxy).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_come_together_are_one_wish_and_cut_nothing() {
    let merge = merge().build();
    let held = merge.hold();
    let (running, proxy, asked) = busy(&merge).await;
    // As `timeout` does, and with two kinds, of which neither hides the other from the process.
    let together = ["-c", "kill -TERM $0; kill -INT $0; kill -TERM $0", &running.id().to_string()];
    assert!(Command::new("/bin/sh").args(together).status().expect("there is a shell").success());
    heard(proxy).await;
    held.release();
    let answer = soon(asked).await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("]}"), "{answer}");
    let (status, said) = block_in_place(|| running.end());
    assert_eq!((status.code(), said.contains("told to stop again")), (Some(0), false), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_what_still_runs() {
    let merge = merge().build();
    let _held = merge.hold();
    let (running, proxy, asked) = busy(&merge).await;
    running.terminate();
    heard(proxy).await;
    // What comes so soon is not another wish yet.
    while !asked.is_finished() {
        running.signal("-INT");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(asked.await.expect("no panic"), "", "it got no answer");
    let (status, said) = block_in_place(|| running.end());
    assert_eq!(status.code(), Some(1), "{said}");
    let told = ["told to stop: what runs may finish", "\"seconds\":600.0", "told to stop again", "\"cut\":1"];
    assert!(told.iter().all(|part| said.contains(part)), "{said}");
}
