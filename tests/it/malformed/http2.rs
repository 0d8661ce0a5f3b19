//! Frames that RFC 9113 does not allow, header blocks that RFC 7541 does not, and floods.

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, Peer, RST_STREAM, SETTINGS, Sequence, WHOLE, WINDOW_UPDATE, WITH_PRIORITY, ask, frame, play,
    sequence,
};
use super::primed;
use crate::support::{SYNC_STATUS, soon};

// Reasons (RFC 9113 §7). Where the RFC has a more exact one, PROTOCOL_ERROR is as good: it ends the connection too.
const PROTOCOL: &[u32] = &[1];
const FLOW_CONTROL: &[u32] = &[3, 1];
const CLOSED: &[u32] = &[5, 1];
const SIZE: &[u32] = &[6, 1];
const REFUSED: &[u32] = &[7];
const COMPRESSION: &[u32] = &[9, 1];
const CALM: &[u32] = &[11];

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn update(stream: u32, size: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &size.to_be_bytes())
}

fn page(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &ask(&[]))
}

/// A request whose body is still to come: its stream is open, and the door waits for nothing.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &ask(&[]))
}

fn of_connections() -> Vec<Sequence> {
    let gone = |name, bad: Vec<u8>, reasons| sequence(name, &[bad], End::Gone(reasons));
    let kept = |name, odd: Vec<u8>| sequence(name, &[odd, page(1)], End::Answers(vec![(1, 200)]));
    vec![
        gone("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        gone("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
        gone("SETTINGS that acknowledge and set", frame(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        gone("push neither on nor off", setting(2, 2), PROTOCOL),
        gone("a window of 2^31", setting(4, 1 << 31), FLOW_CONTROL),
        gone("frames of less than 2^14", setting(5, (1 << 14) - 1), PROTOCOL),
        gone("frames of 2^24", setting(5, 1 << 24), PROTOCOL),
        kept("a setting that nobody knows", setting(99, 7)),
        kept("a frame that nobody knows", frame(99, 255, 0, b"what?")),
        kept("a frame that nobody knows, on a stream", frame(99, 255, 7, b"what?")),
        gone("a PING of seven bytes", frame(PING, 0, 0, &[0; 7]), SIZE),
        gone("a PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        kept("an answer to no PING", frame(PING, ACK, 0, &[0; 8])),
        gone("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        gone("GOAWAY of four bytes", frame(GOAWAY, 0, 0, &[0; 4]), SIZE),
        gone("a window that grows by nothing", update(0, 0), PROTOCOL),
        gone("a window that grows beyond 2^31", update(0, (1 << 31) - 1), FLOW_CONTROL),
        gone("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        gone("a frame above 2^14", frame(DATA, 0, 1, &[0; (1 << 14) + 1]), SIZE),
        gone("a frame of 2^24", vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1], SIZE),
        gone("PUSH_PROMISE from a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        gone("a request of HTTP/1.1", format!("GET {SYNC_STATUS} HTTP/1.1\r\n\r\n").into_bytes(), SIZE),
        gone("a second preface", PREFACE.to_vec(), SIZE),
    ]
}

fn of_streams() -> Vec<Sequence> {
    let gone = |name, bad: &[Vec<u8>], reasons| sequence(name, bad, End::Gone(reasons));
    let reset = |name, bad: &[Vec<u8>], reasons| sequence(name, bad, End::Reset(1, reasons));
    let itself = [0, 0, 0, 1, 16];
    let unfinished = || frame(HEADERS, END_STREAM, 1, &ask(&[]));
    vec![
        gone("DATA on the connection", &[frame(DATA, 0, 0, b"x")], PROTOCOL),
        gone("HEADERS on the connection", &[frame(HEADERS, WHOLE, 0, &ask(&[]))], PROTOCOL),
        gone("HEADERS on an even stream", &[page(2)], PROTOCOL),
        gone("streams in the wrong order", &[page(5), page(3)], CLOSED),
        gone("a stream used again", &[page(1), page(1)], CLOSED),
        gone("DATA on an idle stream", &[frame(DATA, END_STREAM, 1, b"x")], PROTOCOL),
        gone("DATA on an even stream", &[frame(DATA, END_STREAM, 2, b"x")], PROTOCOL),
        gone("RST_STREAM on an idle stream", &[frame(RST_STREAM, 0, 1, &[0; 4])], PROTOCOL),
        gone("RST_STREAM on the connection", &[frame(RST_STREAM, 0, 0, &[0; 4])], PROTOCOL),
        gone("RST_STREAM of three bytes", &[page(1), frame(RST_STREAM, 0, 1, &[0; 3])], SIZE),
        gone("WINDOW_UPDATE on an idle stream", &[update(1, 1)], PROTOCOL),
        gone("a stream's window that grows by nothing", &[open(1), update(1, 0)], PROTOCOL),
        reset("a stream's window beyond 2^31", &[open(1), update(1, (1 << 31) - 1)], FLOW_CONTROL),
        gone("PRIORITY on the connection", &[frame(PRIORITY, 0, 0, &itself)], PROTOCOL),
        gone("PRIORITY of four bytes", &[frame(PRIORITY, 0, 1, &[0; 4])], SIZE),
        reset("PRIORITY of a stream above itself", &[frame(PRIORITY, 0, 1, &itself)], PROTOCOL),
        reset(
            "HEADERS of a stream above itself",
            &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[&itself[..], &ask(&[])].concat())],
            PROTOCOL,
        ),
        gone("padding longer than the frame", &[frame(HEADERS, WHOLE | PADDED, 1, &[200, 0, 0])], PROTOCOL),
        gone("padding without its length", &[frame(HEADERS, WHOLE | PADDED, 1, &[])], SIZE),
        gone("DATA with padding longer than it", &[open(1), frame(DATA, END_STREAM | PADDED, 1, &[9, 0])], PROTOCOL),
        gone("CONTINUATION of nothing", &[frame(CONTINUATION, END_HEADERS, 1, &ask(&[]))], PROTOCOL),
        gone("CONTINUATION of a whole block", &[page(1), frame(CONTINUATION, END_HEADERS, 1, &[])], PROTOCOL),
        gone("PING inside a header block", &[unfinished(), frame(PING, 0, 0, &[0; 8])], PROTOCOL),
        gone("another stream inside a header block", &[unfinished(), page(3)], PROTOCOL),
        gone("DATA inside a header block", &[unfinished(), frame(DATA, END_STREAM, 1, b"x")], PROTOCOL),
        gone("an unknown frame inside a header block", &[unfinished(), frame(99, 0, 1, b"")], PROTOCOL),
        gone("another stream's CONTINUATION", &[unfinished(), frame(CONTINUATION, END_HEADERS, 3, &[])], PROTOCOL),
    ]
}

fn of_blocks() -> Vec<Sequence> {
    let gone = |name, bad: &[u8]| {
        sequence(name, &[frame(HEADERS, WHOLE, 1, &[&ask(&[])[..], bad].concat())], End::Gone(COMPRESSION))
    };
    // An entry of 4,000 bytes in the table, and then one byte for each time that it is said again.
    let entry = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4_000]].concat();
    let bomb = [&ask(&[])[..], &entry, &[0xbe; 6_000]].concat();
    vec![
        gone("an index of nothing", &[0x80]),
        gone("an index beyond the tables", &[0xff, 0x7f]),
        gone("a name's index beyond the tables", &[0x7f, 0x7f, 1, b'a']),
        gone("a table larger than allowed", &[0x3f, 0xff, 0xff, 0x7f]),
        gone("a size of the table behind a field", &[0x20]),
        gone("a name that ends early", &[0, 9, b'x']),
        gone("a value that ends early", &[0, 1, b'x', 9, b'y']),
        gone("a length without an end", &[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        gone("a Huffman code that is none", &[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        gone("a Huffman code padded with zeros", &[0, 1, b'x', 0x81, 0]),
        sequence("a block that grows a thousandfold", &[frame(HEADERS, WHOLE, 1, &bomb)], End::Gone(CALM)),
    ]
}

pub(super) fn cases() -> Vec<Sequence> {
    [of_connections(), of_streams(), of_blocks()].into_iter().flatten().collect()
}

#[tokio::test]
async fn frames_that_must_not_be_end_their_stream_or_their_connection() {
    play(&primed().await, cases()).await;
}

/// A client that sends the same thing over and over.
fn floods() -> Vec<Sequence> {
    let many = |count: u32, one: &dyn Fn(u32) -> Vec<u8>| (0..count).map(one).collect::<Vec<_>>();
    let reset = |at: u32| [page(2 * at + 1), frame(RST_STREAM, 0, 2 * at + 1, &8_u32.to_be_bytes())].concat();
    let continued = |at: u32| match at {
        0 => frame(HEADERS, END_STREAM, 1, &ask(&[])),
        _ => frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']),
    };
    let huge = |at: u32| match at {
        0 => frame(HEADERS, END_STREAM, 1, &ask(&[])),
        _ => frame(CONTINUATION, 0, 1, &[0; 1 << 14]),
    };
    let stays =
        |name, frames: &[Vec<u8>]| sequence(name, &[frames, &[page(9_001)]].concat(), End::Answers(vec![(9_001, 200)]));
    vec![
        sequence("streams that are reset at once", &many(4_000, &reset), End::Gone(CALM)),
        sequence("CONTINUATION without an end", &many(100_000, &continued), End::Gone(CALM)),
        sequence("CONTINUATION of large frames without an end", &many(2_000, &huge), End::Gone(&[11, 9, 1])),
        stays("SETTINGS", &many(5_000, &|at| setting(4, 65_535 + at % 2))),
        stays("PINGs", &many(5_000, &|at| frame(PING, 0, 0, &u64::from(at).to_be_bytes()))),
        stays("PRIORITY", &many(5_000, &|at| frame(PRIORITY, 0, 2 * at + 1, &[0, 0, 0, 0, 1]))),
        stays("empty unknown frames", &many(5_000, &|_| frame(99, 0, 0, &[]))),
    ]
}

#[tokio::test]
async fn floods_are_stopped_or_change_nothing() {
    play(&primed().await, floods()).await;
}

#[tokio::test]
async fn streams_above_the_limit_are_refused_and_can_come_again() {
    let wire = primed().await;
    let held = wire.merge.hold();
    let ask = |at: u32| {
        let path = format!("{SYNC_STATUS}?cursor={at}");
        frame(HEADERS, WHOLE, 2 * at + 1, &super::frames::ask_with(":path", &path))
    };
    let mut peer = Peer::new(&wire).await;
    peer.say(&(0..300).flat_map(ask).collect::<Vec<_>>()).await;
    let refused = |peer: &Peer| peer.streams.values().filter(|one| one.reset.is_some()).count();
    while refused(&peer) < 44 && soon(peer.read()).await {}
    assert_eq!(refused(&peer), 44, "{:?}", peer.goaway);
    assert!(peer.streams.values().all(|one| one.reset.is_none_or(|reason| REFUSED.contains(&reason))));
    held.release();
    let ended = |peer: &Peer| peer.streams.values().filter(|one| one.ended).count();
    while ended(&peer) < 256 && soon(peer.read()).await {}
    assert_eq!(ended(&peer), 256);
    assert_eq!(soon(wire.get(SYNC_STATUS)).await.status, 200);
}
