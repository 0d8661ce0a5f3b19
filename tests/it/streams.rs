//! What one peer can take from the others by means of HTTP/2.

use std::time::Duration;

use merge_sync_proxy::demo::fault::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::limits::{connect, hit, rest, wire};
use crate::support::{SYNC_STATUS, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// One frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /`, whole and without a body.
fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, 0x5, stream, b"\x82\x84\x86\x41\x05proxy")
}

/// The same for acme's page, with these fields.
fn page(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    // Literals without indexing (RFC 7541 §6.2.2): a name of the static table, or one of their own.
    let mut head = [b"\x82\x86\x41\x05proxy\x04", &*text(SYNC_STATUS)].concat();
    for (name, value) in [&[("x-account-token", "acme")], fields].concat() {
        head.extend([&[0], &*text(name), &*text(value)].concat());
    }
    frame(HEADERS, 0x5, stream, &head)
}

/// More room for a stream, or for all together.
fn room(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// How a connection begins whose streams have room for so much.
fn hello(room: u32) -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    [PREFACE, &frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE[..], &room.to_be_bytes()].concat())].concat()
}

/// The error codes of all GOAWAY frames in `bytes`.
fn farewells(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if head[3] == GOAWAY {
            codes.push(u32::from_be_bytes(*payload[4..].first_chunk().expect("an error code")));
        }
        bytes = rest;
    }
    codes
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_before_it_ends() {
    let wire = wire("idle_timeout = '300ms'", "").await;
    let mut idle = connect(wire.proxy).await;
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &request(1)].concat();
    idle.write_all(&hello).await.expect("it is open");
    let said = rest(&mut idle).await;
    assert!(!farewells(&said).is_empty() && farewells(&said).iter().all(|code| *code == 0), "{:?}", farewells(&said));
}

#[tokio::test]
async fn rapid_resets_end_their_connection_and_no_other() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let wire = wire("", "").await;
    let mut neighbour = connect(wire.proxy).await;
    soon(hit(&mut neighbour)).await;
    let mut abuser = connect(wire.proxy).await;
    let mut burst = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (1..2_001).step_by(2) {
        burst.extend([request(stream), frame(RST_STREAM, 0, stream, &CANCEL)].concat());
    }
    // It may be cut while this is still being written.
    let _ = abuser.write_all(&burst).await;
    assert_eq!(farewells(&rest(&mut abuser).await), [ENHANCE_YOUR_CALM]);
    soon(hit(&mut neighbour)).await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_its_answer_ends_like_any_other_that_does_not_read() {
    let wire = wire("idle_timeout = '300ms'", "").await;
    for asked in [request(1), page(1, &[])] {
        let mut deaf = connect(wire.proxy).await;
        deaf.write_all(&[hello(0), asked].concat()).await.expect("it is open");
        rest(&mut deaf).await;
    }
}

#[tokio::test]
async fn an_event_stream_that_is_not_read_ends_and_lets_go_of_what_it_follows() {
    let wire = wire("idle_timeout = '300ms'", "").await;
    let mut deaf = connect(wire.proxy).await;
    let asked = page(1, &[("accept", "text/event-stream")]);
    deaf.write_all(&[hello(0), asked].concat()).await.expect("it is open");
    let followed = async {
        while wire.app.ground().follows.count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(followed).await;
    rest(&mut deaf).await;
    let let_go = async {
        while wire.app.ground().follows.count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(let_go).await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_its_connection_although_others_of_it_go_on() {
    let wire = wire("idle_timeout = '300ms'", "").await;
    let (mut reads, mut writes) = connect(wire.proxy).await.into_split();
    writes.write_all(&[hello(0), request(1)].concat()).await.expect("it is open");
    let others = async {
        for stream in (3..).step_by(2) {
            let asked = [request(stream), room(stream, 1 << 10), room(0, 1 << 10)].concat();
            if writes.write_all(&asked).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let mut said = Vec::new();
    let ended = reads.read_to_end(&mut said);
    let ((), _) = soon(futures_util::future::join(others, ended)).await;
    assert!(farewells(&said).is_empty(), "it was never idle");
}

#[tokio::test]
async fn who_reads_an_event_stream_keeps_it_however_seldom_there_is_an_event() {
    let wire = wire("idle_timeout = '300ms'", "").await;
    let mut reader = connect(wire.proxy).await;
    let asked = page(1, &[("accept", "text/event-stream")]);
    reader.write_all(&[hello(1 << 14), asked].concat()).await.expect("it is open");
    let mut said = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(1), reader.read_to_end(&mut said));
    assert!(reading.await.is_err(), "it goes on");
    assert_eq!(wire.app.ground().follows.count(), 1);
}

#[tokio::test]
async fn who_reads_a_large_answer_slowly_gets_all_of_it() {
    const ROOM: u32 = 64 << 10;
    let wire = wire("idle_timeout = '300ms'", "").await;
    wire.merge.set(Fault::HugeBody(1 << 20));
    let (mut reads, mut writes) = connect(wire.proxy).await.into_split();
    writes.write_all(&[hello(0), page(1, &[])].concat()).await.expect("it is open");
    let makes_room = async {
        loop {
            sleep(Duration::from_millis(200)).await;
            writes.write_all(&[room(1, ROOM), room(0, ROOM)].concat()).await.expect("it is open");
        }
    };
    let mut said = Vec::new();
    let takes = async {
        while !said.ends_with(b"x\"}") {
            assert!(reads.read_buf(&mut said).await.expect("it is open") > 0, "cut after {} bytes", said.len());
        }
    };
    let both = async {
        tokio::select! {
            () = makes_room => {}
            () = takes => {}
        }
    };
    soon(both).await;
    assert!(said.len() > 1 << 20);
}
