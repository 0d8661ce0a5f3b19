//! Heads that do not come, or not to their end.

use std::time::Duration;

use tokio::time::sleep;

use super::{Peer, get};
use crate::support::{SYNC_STATUS, Wire, merge, soon};

const PARTS: [&str; 10] = [
    "",
    "\r\n",
    "G",
    "GET ",
    "GET /api/ats/v1/sync-status",
    "GET /api/ats/v1/sync-status HTTP/1.1\r\n",
    "GET /api/ats/v1/sync-status HTTP/1.1\r\nHost: pro",
    "GET /api/ats/v1/sync-status HTTP/1.1\r\nHost: proxy\r\nX-Account-Token: acme\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n",
    "\u{16}\u{3}\u{1}",
];

#[tokio::test]
async fn heads_that_do_not_end_are_given_up_and_keep_nobody_out() {
    let wire = Wire::with(merge(), "[server]\nlisten = ['127.0.0.1:0']\nheader_timeout = '300ms'").await;
    let mut peers = Vec::new();
    for part in PARTS {
        for before in [String::new(), get("")] {
            let mut peer = Peer::new(&wire).await;
            if !before.is_empty() {
                peer.say(before.as_bytes()).await;
                assert_eq!(soon(peer.answer()).await.expect("an answer").status, 200);
            }
            // A connection that has been used may stay idle for longer than a head may take.
            if before.is_empty() || !part.trim().is_empty() {
                peer.say(part.as_bytes()).await;
                peers.push(peer);
            }
        }
    }
    for mut peer in peers {
        if let Some(last) = soon(peer.answer()).await {
            assert_eq!((last.status.as_u16(), last.header("connection")), (400, "close"), "no HTTP at all");
            assert!(soon(peer.answer()).await.is_none());
        }
    }
    assert_eq!(soon(wire.get(SYNC_STATUS)).await.status, 200);
    assert_eq!(wire.merge.calls(), 1);
}

#[tokio::test]
async fn a_head_that_drips_in_buys_no_time_with_its_bytes() {
    let wire = Wire::with(merge(), "[server]\nlisten = ['127.0.0.1:0']\nheader_timeout = '300ms'").await;
    let mut peer = Peer::new(&wire).await;
    let dripping = async {
        loop {
            peer.say(b"X").await;
            sleep(Duration::from_millis(20)).await;
            let mut byte = [0];
            match peer.socket.try_read(&mut byte) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                ended => break ended,
            }
        }
    };
    assert!(matches!(soon(dripping).await, Ok(0) | Err(_)), "it is closed without an answer");
    assert_eq!(wire.merge.calls(), 0);
}
