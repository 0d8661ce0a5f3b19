//! Clients that cost little: requests are bytes made beforehand, and of an answer only what has to be known is read.
//!
//! HTTP/2 is spoken with prior knowledge and an empty compression table, so that a header block can be read without the ones
//! before it.

use std::io::{self, Read, Write};
use std::time::Instant;

use memchr::memmem;

use super::socket::Socket;

/// The version of HTTP that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http1,
    Http2,
}

/// What begins an HTTP/2 connection: the preface, SETTINGS (no compression table, windows as large as they can be), and a
/// `WINDOW_UPDATE` that makes the connection's window as large.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff\
    \x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\x00\x00";

/// How much of the connection's window may be used before it is widened again, in bytes.
const WIDEN_AFTER: u32 = 1 << 30;

const FRAME_HEAD: usize = 9;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The bytes of a GET for `target` with these fields; in HTTP/2 a HEADERS frame whose stream is yet to be written into it.
pub(crate) fn get(speech: Speech, host: &str, target: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    match speech {
        Speech::Http1 => {
            let mut head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n");
            for (name, value) in fields {
                head.extend([name, ": ", value, "\r\n"]);
            }
            (head + "\r\n").into_bytes()
        }
        Speech::Http2 => {
            // `:method: GET` and `:scheme: http` stand in the static table; the rest are literals, never indexed.
            let mut block = vec![0x82, 0x86];
            for (name, value) in [(":path", target), (":authority", host)].iter().chain(fields) {
                block.push(0x10);
                push_text(&mut block, name);
                push_text(&mut block, value);
            }
            let length = u32::try_from(block.len()).expect("a short block").to_be_bytes();
            let mut frame = vec![length[1], length[2], length[3], 0x1, 0x4 | END_STREAM, 0, 0, 0, 0];
            frame.extend(block);
            frame
        }
    }
}

/// A string of HPACK (RFC 7541 §5.2), not compressed.
fn push_text(block: &mut Vec<u8>, text: &str) {
    const INLINE: usize = 0x7f;
    if text.len() < INLINE {
        block.push(u8::try_from(text.len()).expect("below 127"));
    } else {
        let mut rest = text.len() - INLINE;
        block.push(0x7f);
        while rest >= 0x80 {
            block.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
            rest >>= 7;
        }
        block.push(u8::try_from(rest).expect("seven bits"));
    }
    block.extend_from_slice(text.as_bytes());
}

/// An answer that has come in whole.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    /// When its request was, or should have been, sent.
    pub(crate) began: Instant,
    pub(crate) status: u16,
    /// The value of `Cache-Status` as sent; compressed by Huffman's code if `is_compressed`.
    pub(crate) cache: &'a [u8],
    pub(crate) is_compressed: bool,
}

/// A request that has been sent.
struct Open {
    stream: u32,
    began: Instant,
    status: u16,
    cache: Vec<u8>,
    is_compressed: bool,
}

/// A connection.
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    speech: Speech,
    open: Vec<Open>,
    next_stream: u32,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    received: u32,
    names: Names,
}

/// `cache-status` as HPACK may write it.
#[derive(Clone)]
pub(crate) struct Names {
    compressed: Vec<u8>,
}

impl Names {
    pub(crate) fn new() -> Self {
        let mut compressed = Vec::new();
        httlib_huffman::encode(b"cache-status", &mut compressed).expect("ASCII");
        Self { compressed }
    }
}

impl Connection {
    /// Speaks over `socket`.
    pub(crate) fn new(socket: Socket, speech: Speech, names: Names) -> io::Result<Self> {
        let mut connection = Self {
            socket,
            speech,
            open: Vec::new(),
            next_stream: 1,
            unsent: Vec::new(),
            unread: Vec::new(),
            received: 0,
            names,
        };
        if speech == Speech::Http2 {
            connection.unsent.extend_from_slice(GREETING);
            connection.flush()?;
        }
        Ok(connection)
    }

    /// How many requests have no answer yet.
    pub(crate) fn waiting(&self) -> usize {
        self.open.len()
    }

    /// Takes back the requests that have no answer: when they began.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Instant> {
        self.open.drain(..).map(|open| open.began)
    }

    /// Sends a request; `began` is when it should have been sent.
    pub(crate) fn send(&mut self, request: &[u8], began: Instant) -> io::Result<()> {
        let at = self.unsent.len();
        self.unsent.extend_from_slice(request);
        if self.speech == Speech::Http2 {
            self.unsent[at + 5..at + FRAME_HEAD].copy_from_slice(&self.next_stream.to_be_bytes());
        }
        self.open.push(Open { stream: self.next_stream, began, status: 0, cache: Vec::new(), is_compressed: false });
        self.next_stream += 2;
        if self.speech == Speech::Http1 { self.flush() } else { Ok(()) }
    }

    /// Sends what has not gone out.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come in; the end of the connection is an error.
    pub(crate) fn receive(&mut self, scratch: &mut [u8], each: &mut impl FnMut(Answer<'_>)) -> io::Result<()> {
        loop {
            let count = match self.socket.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if self.unread.is_empty() {
                let used = self.take(&scratch[..count], each)?;
                self.unread.extend_from_slice(&scratch[used..count]);
            } else {
                self.unread.extend_from_slice(&scratch[..count]);
                let unread = std::mem::take(&mut self.unread);
                let used = self.take(&unread, each)?;
                self.unread = unread;
                self.unread.drain(..used);
            }
            // Then epoll will say when there is more.
            if count < scratch.len() && self.socket.reads_all_at_once() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(Answer<'_>)) -> io::Result<usize> {
        match self.speech {
            Speech::Http1 => self.take_answers(bytes, each),
            Speech::Http2 => self.take_frames(bytes, each),
        }
    }

    fn take_answers(&mut self, bytes: &[u8], each: &mut impl FnMut(Answer<'_>)) -> io::Result<usize> {
        let mut used = 0;
        while let Some(end) = memmem::find(&bytes[used..], b"\r\n\r\n") {
            let head = &bytes[used..used + end + 2];
            let rest = &bytes[used + end + 4..];
            let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let status: u16 = status.ok_or(io::ErrorKind::InvalidData)?;
            let length = match value(head, b"ontent-", b"ength: ") {
                _ if status == 304 || status == 204 => Some(0),
                Some(length) => std::str::from_utf8(length).ok().and_then(|length| length.parse().ok()),
                None => memmem::find(rest, b"0\r\n\r\n").map(|end| end + 5),
            };
            let Some(length) = length.filter(|length| *length <= rest.len()) else { break };
            if self.open.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let open = self.open.remove(0);
            let cache = value(head, b"ache-", b"tatus: ").unwrap_or_default();
            each(Answer { began: open.began, status, cache, is_compressed: false });
            used += end + 4 + length;
        }
        Ok(used)
    }

    fn take_frames(&mut self, bytes: &[u8], each: &mut impl FnMut(Answer<'_>)) -> io::Result<usize> {
        let mut used = 0;
        while let Some(head) = bytes[used..].first_chunk::<FRAME_HEAD>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
            let Some(payload) = bytes[used..].get(FRAME_HEAD..FRAME_HEAD + length) else { break };
            used += FRAME_HEAD + length;
            let flags = head[4];
            match head[3] {
                // DATA, HEADERS
                kind @ (0x0 | 0x1) => {
                    let Some(at) = self.open.iter().position(|open| open.stream == stream) else { continue };
                    if kind == 0x1 {
                        read_block(fragment(payload, flags), &mut self.open[at], &self.names)?;
                    } else {
                        self.received += u32::try_from(length).unwrap_or(u32::MAX);
                    }
                    if flags & END_STREAM != 0 {
                        let Open { began, status, cache, is_compressed, .. } = self.open.swap_remove(at);
                        each(Answer { began, status, cache: &cache, is_compressed });
                    }
                }
                // RST_STREAM, GOAWAY
                0x3 | 0x7 => return Err(io::ErrorKind::ConnectionReset.into()),
                // SETTINGS, PING
                kind @ (0x4 | 0x6) if flags & ACK == 0 => {
                    // A ping is answered with its own eight bytes, settings with none.
                    let echo = if kind == 0x6 { payload } else { &[] };
                    self.unsent.extend([0, 0, u8::try_from(echo.len()).unwrap_or(0), kind, ACK, 0, 0, 0, 0]);
                    self.unsent.extend_from_slice(echo);
                }
                _ => {}
            }
        }
        if self.received > WIDEN_AFTER {
            self.unsent.extend([0, 0, 4, 0x8, 0, 0, 0, 0, 0]);
            self.unsent.extend(self.received.to_be_bytes());
            self.received = 0;
        }
        Ok(used)
    }
}

/// The value of the field whose name is something, `name`, one byte of either case, and `rest`.
fn value<'a>(head: &'a [u8], name: &[u8], rest: &[u8]) -> Option<&'a [u8]> {
    let mut from = 0;
    while let Some(at) = memmem::find(&head[from..], name) {
        from += at + name.len() + 1;
        if let Some(value) = head.get(from..)?.strip_prefix(rest) {
            return value.split(|byte| *byte == b'\r').next();
        }
    }
    None
}

/// The header block of a HEADERS frame.
fn fragment(payload: &[u8], flags: u8) -> &[u8] {
    let (mut start, mut end) = (0, payload.len());
    if flags & PADDED != 0 {
        start = 1;
        end -= usize::from(payload.first().copied().unwrap_or(0));
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    payload.get(start..end).unwrap_or_default()
}

/// Reads status and `Cache-Status` out of a header block.
fn read_block(block: &[u8], open: &mut Open, names: &Names) -> io::Result<()> {
    /// The values of `:status` that have a place of their own in the static table, from 8 on.
    const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let mut rest = block;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    while let Some(&first) = rest.first() {
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(&mut rest, prefix).ok_or_else(bad)?;
        if prefix == 7 {
            if let Some(status) = index.checked_sub(8).and_then(|place| STATUSES.get(place)) {
                open.status = *status;
            }
            continue;
        }
        if prefix == 5 {
            continue;
        }
        let is_cache_status = if index == 0 {
            let (name, is_compressed) = text(&mut rest).ok_or_else(bad)?;
            name == if is_compressed { &names.compressed[..] } else { b"cache-status" }
        } else {
            false
        };
        let (value, is_compressed) = text(&mut rest).ok_or_else(bad)?;
        if is_cache_status {
            open.cache = value.to_vec();
            open.is_compressed = is_compressed;
        } else if (8..=14).contains(&index) {
            let status = if is_compressed { decompress(value) } else { value.to_vec() };
            open.status = std::str::from_utf8(&status).ok().and_then(|status| status.parse().ok()).ok_or_else(bad)?;
        }
    }
    Ok(())
}

/// An integer of HPACK (RFC 7541 §5.1).
fn integer(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let mask = (1_usize << prefix) - 1;
    let (first, mut after) = rest.split_first()?;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, next) = after.split_first()?;
            after = next;
            value += usize::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = after;
    Some(value)
}

/// A string of HPACK, and whether it is compressed.
fn text<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], bool)> {
    let is_compressed = rest.first()? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((text, is_compressed))
}

/// What Huffman's code of HPACK says.
pub(crate) fn decompress(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let _ = httlib_huffman::decode(bytes, &mut plain, httlib_huffman::DecoderSpeed::FourBits);
    plain
}
