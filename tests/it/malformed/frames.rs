//! HTTP/2 by hand: frames as bytes, header blocks without Huffman codes or tables, and a reader of what comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{aftermath, slug};
use crate::support::{SYNC_STATUS, Wire, soon};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 32;
/// A request without a body.
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// One frame (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals that enter no table (RFC 7541 §6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.extend(integer(7, text.len()));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer behind so many bits of prefix (RFC 7541 §5.1).
fn integer(prefix: u32, value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![u8::try_from(value).expect("below the prefix")];
    }
    let mut bytes = vec![u8::try_from(most).expect("a prefix of at most eight bits")];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).expect("eight bits"));
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
    bytes
}

/// What asks for acme's page.
pub(super) const ASK: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "proxy"),
    (":path", SYNC_STATUS),
    ("x-account-token", "acme"),
];

/// The same with more fields behind.
pub(super) fn ask(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&ASK[..], more].concat())
}

/// The same without one field.
pub(super) fn ask_without(name: &str) -> Vec<u8> {
    block(&ASK.iter().filter(|field| field.0 != name).copied().collect::<Vec<_>>())
}

/// The same with another value for one field.
pub(super) fn ask_with(name: &str, value: &str) -> Vec<u8> {
    block(&ASK.map(|field| if field.0 == name { (name, value) } else { field }))
}

/// How a sequence of frames ends.
pub(super) enum End {
    /// Each of these streams is answered so, and the connection stays.
    Answers(Vec<(u32, u16)>),
    /// The stream is reset for one of these reasons, and the connection stays.
    Reset(u32, &'static [u32]),
    /// The connection ends, for one of these reasons.
    Gone(&'static [u32]),
}

/// Frames that a client sends behind preface and settings, and how that must end.
pub(super) struct Sequence {
    pub name: String,
    pub frames: Vec<u8>,
    pub end: End,
}

pub(super) fn sequence(name: &str, frames: &[Vec<u8>], end: End) -> Sequence {
    Sequence { name: name.to_owned(), frames: frames.concat(), end }
}

/// Plays the sequences one by one, and fails with all that went wrong. Whatever stays open is asked for a page at last; Merge never
/// hears of anything.
pub(super) async fn play(wire: &Wire, sequences: Vec<Sequence>) {
    let mut wrong = Vec::new();
    for sequence in sequences {
        let played = timeout(Duration::from_secs(20), sequence.play(wire)).await;
        if let Err(why) = played.unwrap_or_else(|_| Err("no end of it".into())) {
            wrong.push(format!("{}: {why}", sequence.name));
        }
        wrong.extend(aftermath(wire).await.map(|why| format!("{}: {why}", sequence.name)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

impl Sequence {
    async fn play(&self, wire: &Wire) -> Result<(), String> {
        const LAST: u32 = 9_999;
        let mut peer = Peer::new(wire).await;
        peer.say(&self.frames).await;
        match &self.end {
            End::Answers(answers) => {
                for (stream, status) in answers {
                    peer.is_answered(*stream, *status).await?;
                }
            }
            End::Reset(stream, reasons) => {
                while peer.stream(*stream).reset.is_none() && !peer.stream(*stream).ended && peer.read().await {}
                let goaway = peer.goaway;
                let one = peer.stream(*stream);
                if !one.reset.is_some_and(|reason| reasons.contains(&reason)) || one.status.is_some() {
                    return Err(format!("{one:?} {goaway:?}"));
                }
            }
            End::Gone(reasons) => {
                while peer.read().await {}
                let is_gone = peer.goaway.is_some_and(|reason| reasons.contains(&reason));
                return if is_gone { Ok(()) } else { Err(format!("{:?} {:?}", peer.goaway, peer.streams)) };
            }
        }
        peer.say(&frame(HEADERS, WHOLE, LAST, &ask(&[]))).await;
        peer.is_answered(LAST, 200).await
    }
}

/// What came on one stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    pub ended: bool,
    pub reset: Option<u32>,
}

/// A client that sends whatever frames it is told to.
pub(super) struct Peer {
    socket: TcpStream,
    came: BytesMut,
    pub streams: BTreeMap<u32, Stream>,
    /// The reason of the last GOAWAY.
    pub goaway: Option<u32>,
}

impl Peer {
    pub async fn new(wire: &Wire) -> Self {
        let socket = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
        socket.set_nodelay(true).expect("a TCP socket");
        let mut peer = Self { socket, came: BytesMut::new(), streams: BTreeMap::new(), goaway: None };
        peer.say(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        peer
    }

    /// Sends, and reads meanwhile, so that neither side waits for the other; a peer that has closed by now does not hear it all.
    pub async fn say(&mut self, bytes: &[u8]) {
        let (mut reader, mut writer) = self.socket.split();
        let writing = async {
            let _ = writer.write_all(bytes).await;
        };
        let came = &mut self.came;
        let reading = async { while matches!(reader.read_buf(came).await, Ok(1..)) {} };
        soon(async {
            tokio::select! {
                () = writing => {}
                () = async { reading.await; std::future::pending::<()>().await } => {}
            }
        })
        .await;
    }

    /// Reads on; `false` when the connection has ended.
    pub async fn read(&mut self) -> bool {
        let open = self.next_frame() || matches!(self.socket.read_buf(&mut self.came).await, Ok(1..));
        while self.next_frame() {}
        open
    }

    fn next_frame(&mut self) -> bool {
        let Some(head) = self.came.first_chunk::<9>() else { return false };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        if self.came.len() < 9 + length {
            return false;
        }
        self.came.advance(9);
        let payload = self.came.split_to(length);
        match kind {
            GOAWAY => {
                self.goaway = Some(payload.iter().skip(4).take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
            }
            RST_STREAM => self.streams.entry(stream).or_default().reset = Some((&payload[..]).get_u32()),
            HEADERS => {
                let one = self.streams.entry(stream).or_default();
                one.status = one.status.or_else(|| Some(status(&payload)));
                one.ended |= flags & END_STREAM != 0;
            }
            DATA => {
                let one = self.streams.entry(stream).or_default();
                one.body.extend_from_slice(&payload);
                one.ended |= flags & END_STREAM != 0;
            }
            _ => {}
        }
        true
    }

    pub fn stream(&mut self, stream: u32) -> &mut Stream {
        self.streams.entry(stream).or_default()
    }

    /// Waits for the end of a stream, and looks whether it has brought a page or a problem with this status.
    async fn is_answered(&mut self, stream: u32, status: u16) -> Result<(), String> {
        while !self.stream(stream).ended && self.read().await {}
        let goaway = self.goaway;
        let one = self.stream(stream);
        let wrong = |what: &str| Err(format!("{what}: stream {stream} {one:?} {goaway:?}"));
        if (one.status, one.ended) != (Some(status), true) {
            return wrong("not answered as it should be");
        }
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(&one.body) else { return wrong("no JSON") };
        let kind = if status == 200 { String::new() } else { format!("urn:merge-sync-proxy:error:{}", slug(status)) };
        let is_it = if status == 200 { body["results"].is_array() } else { body["type"] == *kind };
        if is_it { Ok(()) } else { wrong("another body") }
    }
}

/// `:status`, which comes first: an entry of the static table, or a literal of Huffman-coded digits (RFC 7541 appendices A and B).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come before.
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20).expect("a field");
    let [indexed, length, code @ ..] = &block[at..] else { return listed(block[at]) };
    if indexed & 0x80 != 0 {
        return listed(*indexed);
    }
    assert_eq!(length & 0x80, 0x80, "digits are shorter in Huffman's code");
    let bits = code.iter().take(usize::from(length & 0x7f)).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut left = u32::from(length & 0x7f) * 8;
    let mut take = |count: u32| {
        left -= count;
        bits >> left & ((1 << count) - 1)
    };
    let mut number = 0;
    for _ in 0..3 {
        let five = take(5);
        // 0, 1 and 2 have five bits; 3 to 9 have six, from 011001 on.
        let digit = if five < 3 { five } else { (five << 1 | take(1)) - 0b01_1001 + 3 };
        number = number * 10 + digit;
    }
    u16::try_from(number).expect("three digits")
}

/// An entry of the static table; what has entered the other one is not looked up, and is 0.
fn listed(field: u8) -> u16 {
    [200, 204, 206, 304, 400, 404, 500].get(usize::from(field & 0x7f) - 8).copied().unwrap_or_default()
}
